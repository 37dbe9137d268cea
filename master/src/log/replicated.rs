//! The log as the rest of the master sees it: propose, wait, get the state machine's answer.
//!
//! Group commit without a thread of its own: whoever finds the node free commits everything queued in
//! the calling thread, after it has let the other tasks queue theirs; whoever finds it busy is answered
//! by the one that is there. So a lone proposer pays for one fsync and no thread is woken.
//!
//! Invariant: whenever the node is released, the one who held it looks at the queue afterwards, and
//! whoever queues tries the node afterwards; so nothing stays queued while the node is free. If it went
//! away in between, the next proposer or the ticker sees to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gfs_proto::ids::LogIndex;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::config::{LogConfig, Position};
use super::disk::{AnyDisk, Disk};
use super::error::{LogError, LogFault};
use super::node::Node;
use super::real_disk::RealDisk;
use super::recovery;
use super::round::{Answers, Applier, Core, LogStatus, Proposal, Role, State, StateMachine, status_of};
use super::store;

/// Bytes of one command: whatever a request may carry.
const PAYLOAD_MAX: usize = MESSAGE_BYTES_MAX;
/// Rounds that take less are run by a worker of the runtime as they are: giving its other tasks to another
/// thread takes two wake-ups, which cost as much.
const SHORT_ROUND: Duration = Duration::from_micros(500);
/// Queued commands that one fsync takes along, in number and bytes.
const BATCH_COUNT_MAX: usize = 1024;
/// See [`BATCH_COUNT_MAX`].
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What happens when the disk fails under the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    /// End the process: what it has in memory is ahead of what the disk has.
    Abort,
    /// Refuse everything from then on, so that a test or a simulation lives to see it.
    Refuse,
}

/// The operation log in front of a state machine.
pub struct ReplicatedLog<M: StateMachine, D: Disk = AnyDisk> {
    shared: Arc<Shared<M, D>>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<M: StateMachine, D: Disk> {
    core: Mutex<Core<M::Output, D>>,
    queue: Mutex<VecDeque<Proposal<M::Output>>>,
    status: Mutex<LogStatus>,
    machine: Arc<M>,
    disk: Arc<D>,
    on_failure: OnFailure,
    /// How long rounds take.
    pace: Pace,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl<M: StateMachine> ReplicatedLog<M> {
    /// Opens the log, or makes it, behind a state that ends at `applied`. A sole voter leads, and has
    /// applied everything in the log, when this returns.
    ///
    /// # Errors
    /// A setting out of range; a log on disk that cannot be used, which is left as it is.
    pub fn open(config: &LogConfig, applied: Position, machine: Arc<M>) -> Result<Self, LogError> {
        config.check()?;
        let name = config.directory.display().to_string();
        let disk = RealDisk::open(&config.directory).map_err(LogFault::disk("open the directory", &name))?;
        Self::open_on(Arc::new(AnyDisk::new(disk)), config, applied, machine, OnFailure::Abort)
    }
}

impl<M: StateMachine, D: Disk> ReplicatedLog<M, D> {
    /// As [`ReplicatedLog::open`], on a given disk.
    ///
    /// # Errors
    /// A log on disk that cannot be used.
    pub fn open_on(
        disk: Arc<D>,
        config: &LogConfig,
        applied: Position,
        machine: Arc<M>,
        on_failure: OnFailure,
    ) -> Result<Self, LogError> {
        let log = recovery::open(disk.clone(), config, applied)?;
        let mut node = Node::new(config, log, applied);
        if !node.is_sole_voter() {
            return Err(LogError::Config(
                "several voters need a transport between masters, which this version lacks".into(),
            ));
        }
        let (mut waiting, mut answers) = (VecDeque::new(), Answers::new());
        node.campaign();
        node.advance(&mut Applier { machine: &*machine, waiting: &mut waiting, answers: &mut answers })?;
        assert!(node.is_leader(), "a sole voter elects itself");
        let status = Mutex::new(status_of(&node));
        let core = Mutex::new(Core { state: State::Running(Box::new(node)), waiting });
        let (queue, pace, stopping, stopped) = (Mutex::default(), Pace::default(), Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { core, queue, status, machine, disk, on_failure, pace, stopping, stopped });
        let ticker = spawn_ticker(shared.clone(), config.tick)?;
        Ok(Self { shared, ticker: Mutex::new(Some(ticker)) })
    }

    /// Logs a command and applies it; answers when it is durable on a majority and applied. The
    /// future may commit other callers' commands on its thread, which takes one fsync.
    ///
    /// # Errors
    /// See [`LogError`]: only `OutcomeUnknown` and `Failed` leave open whether it was carried out.
    pub async fn propose(&self, payload: Vec<u8>) -> Result<(LogIndex, M::Output), LogError> {
        assert!(!payload.is_empty(), "empty entries are the log's own");
        if payload.len() > PAYLOAD_MAX {
            return Err(LogError::TooLarge { bytes: payload.len(), max: PAYLOAD_MAX });
        }
        let (reply, answer) = oneshot::channel();
        self.shared.queue.lock().push_back(Proposal { payload, reply });
        // What else has come in by now shares the fsync.
        tokio::task::yield_now().await;
        self.shared.drain_once();
        // The sender goes away unanswered only with the log itself.
        answer.await.unwrap_or(Err(LogError::Stopped))
    }

    /// What the log was like after the last commit.
    pub fn status(&self) -> LogStatus {
        *self.shared.status.lock()
    }

    /// A checkpoint of the state up to `index` is durable: segments that are wholly below may go.
    /// Waits for a running commit and for the removal of files.
    pub fn checkpointed(&self, index: LogIndex) {
        let names = self.shared.drop_through(index.get());
        self.shared.pass_on();
        if let Err(error) = recovery::remove(&*self.shared.disk, names.iter().map(String::as_str)) {
            tracing::warn!(%error, "segments that a checkpoint made superfluous stay until the next start");
        }
    }

    /// Commands that wait for somebody to commit them.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.shared.queue.lock().len()
    }

    /// Finishes the running commit, answers what is queued with [`LogError::Stopped`], closes the
    /// files. Idempotent.
    pub fn stop(&self) {
        *self.shared.stopping.lock() = true;
        self.shared.stopped.notify_all();
        {
            let mut core = self.shared.core.lock();
            core.state = match std::mem::replace(&mut core.state, State::Stopped) {
                State::Running(_) | State::Stopped => State::Stopped,
                failed => failed,
            };
            self.shared.status.lock().role = Role::Stopped;
            core.waiting.clear();
        }
        self.shared.drain();
        if let Some(ticker) = self.ticker.lock().take() {
            // It ends by itself; a panic in it was reported by its own failure.
            let _ = ticker.join();
        }
    }
}

impl<M: StateMachine, D: Disk> Drop for ReplicatedLog<M, D> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<M: StateMachine, D: Disk> Shared<M, D> {
    /// Sees to what was queued meanwhile, not in the caller's time: it has its answer.
    fn pass_on(self: &Arc<Self>) {
        if self.queue.lock().is_empty() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let shared = self.clone();
                drop(runtime.spawn(async move { shared.drain() }));
            }
            Err(_) => self.drain(),
        }
    }

    /// Commits what is queued until nothing is, or somebody else does it.
    fn drain(self: &Arc<Self>) {
        while !self.queue.lock().is_empty() {
            let Some(core) = self.core.try_lock() else { return };
            self.commit_queued(core);
        }
    }

    /// One round for somebody whose own command was queued, unless another one has seen to it.
    fn drain_once(self: &Arc<Self>) {
        if self.queue.lock().is_empty() {
            return;
        }
        let Some(core) = self.core.try_lock() else { return };
        self.commit_queued(core);
        self.pass_on();
    }

    fn commit_queued(&self, mut core: MutexGuard<'_, Core<M::Output, D>>) {
        let answers = self.pace.run(|| self.round(&mut core));
        drop(core);
        answers.deliver();
    }

    /// One round with a batch from the queue.
    fn round(&self, core: &mut Core<M::Output, D>) -> Answers<M::Output> {
        let batch = self.take_batch();
        let guard = AbortOnPanic(self.on_failure);
        let (answers, fault) = core.round(&*self.machine, batch);
        drop(guard);
        if let Some(fault) = fault {
            self.fail(&fault);
        } else if let State::Running(node) = &core.state {
            *self.status.lock() = status_of(node);
        }
        answers
    }

    fn take_batch(&self) -> Vec<Proposal<M::Output>> {
        let mut queue = self.queue.lock();
        let mut batch = Vec::with_capacity(queue.len().min(BATCH_COUNT_MAX));
        let mut bytes = 0;
        while batch.len() < BATCH_COUNT_MAX && bytes < BATCH_BYTES_MAX {
            let Some(proposal) = queue.pop_front() else { break };
            bytes += proposal.payload.len();
            batch.push(proposal);
        }
        batch
    }

    /// What was promised can no longer be kept: the flag, the last word, the end.
    fn fail(&self, fault: &LogFault) {
        store::flag_failure(&*self.disk);
        tracing::error!(error = %fault, cause = ?std::error::Error::source(fault), "the operation log failed");
        if self.on_failure == OnFailure::Abort {
            std::process::abort();
        }
        self.status.lock().role = Role::Stopped;
    }

    /// Forgets what a checkpoint made superfluous; names the files.
    fn drop_through(&self, index: u64) -> Vec<String> {
        let mut core = self.core.lock();
        let State::Running(node) = &mut core.state else { return Vec::new() };
        assert!(index <= node.applied(), "a checkpoint holds nothing that was not applied");
        let names = node.log_mut().drop_through(index);
        *self.status.lock() = status_of(node);
        names
    }

    /// One step of raft's clock, and what follows from it.
    fn tick(self: &Arc<Self>) {
        let mut core = self.core.lock();
        if let State::Running(node) = &mut core.state {
            node.tick();
        }
        self.commit_queued(core);
        self.drain();
    }
}

/// Time that rounds take, judged by the slow ones: after one slow round many quick ones are needed before
/// the next is expected to be quick.
#[derive(Debug)]
struct Pace(AtomicU64);

impl Default for Pace {
    /// Nothing is known of the disk yet.
    fn default() -> Self {
        Self(AtomicU64::new(2 * SHORT_ROUND.as_nanos() as u64))
    }
}

impl Pace {
    /// Runs a round, which waits for the disk. If that may take long, the other tasks of this worker are
    /// not held up.
    fn run<T>(&self, round: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let short = self.is_short();
        let done = match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) if !short => tokio::task::block_in_place(round),
            _ => round(),
        };
        self.took(start.elapsed());
        done
    }

    fn is_short(&self) -> bool {
        self.0.load(Ordering::Relaxed) < SHORT_ROUND.as_nanos() as u64
    }

    fn took(&self, time: Duration) {
        let (took, expected) = (time.as_nanos() as u64, self.0.load(Ordering::Relaxed));
        // rounds exclude each other but for the last steps; a lost update does no harm
        self.0.store(took.max(expected - expected / 16 + took / 16), Ordering::Relaxed);
    }
}

fn spawn_ticker<M: StateMachine, D: Disk>(
    shared: Arc<Shared<M, D>>,
    tick: Duration,
) -> Result<JoinHandle<()>, LogError> {
    let run = move || {
        let mut stopping = shared.stopping.lock();
        while !*stopping {
            shared.stopped.wait_for(&mut stopping, tick);
            if !*stopping {
                MutexGuard::unlocked(&mut stopping, || shared.tick());
            }
        }
    };
    let thread = std::thread::Builder::new().name("log-tick".into()).spawn(run);
    Ok(thread.map_err(LogFault::disk("start a thread for", "raft's clock"))?)
}

/// Ends the process when a panic passes by: the state is in the middle of something.
struct AbortOnPanic(OnFailure);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0 == OnFailure::Abort {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_round_makes_many_expected_to_be_slow() {
        let pace = Pace::default();
        assert!(!pace.is_short(), "nothing is known yet");
        let mut rounds = 0;
        let mut quick = || {
            pace.took(Duration::from_micros(100));
            rounds += 1;
            pace.is_short()
        };
        while !quick() {}
        assert!((5..40).contains(&rounds), "{rounds}");
        pace.took(Duration::from_millis(10));
        assert!((0..40).all(|_| {
            pace.took(Duration::from_micros(100));
            !pace.is_short()
        }));
    }
}
