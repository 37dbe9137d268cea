//! The log as the rest of the master sees it: propose, wait, get the state machine's answer.
//!
//! Group commit without a thread of its own: whoever finds the node free commits its own command,
//! and everything queued, in the calling thread; whoever finds it busy queues and is answered by
//! the one that is there. So a lone proposer pays for one fsync and no thread is woken.
//!
//! Invariant: whenever the node is released, the one who held it looks at the queue afterwards, and
//! whoever queues tries the node afterwards; so nothing stays queued while the node is free.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gfs_proto::ids::LogIndex;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::config::{LogConfig, Position};
use super::disk::Disk;
use super::error::{LogError, LogFault};
use super::node::Node;
use super::real_disk::RealDisk;
use super::recovery;
use super::round::{Answer, Answers, Applier, Core, LogStatus, Proposal, Reply, Role, State, StateMachine, status_of};
use super::store;

/// Bytes of one command: whatever a request may carry.
const PAYLOAD_MAX: usize = MESSAGE_BYTES_MAX;
/// Queued commands that one fsync takes along, in number and bytes.
const BATCH_COUNT_MAX: usize = 1024;
/// See [`BATCH_COUNT_MAX`].
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What happens when the disk fails under the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnFailure {
    /// End the process: what it has in memory is ahead of what the disk has.
    Abort,
    /// Refuse everything from then on, so that a test lives to see it.
    #[cfg(test)]
    Refuse,
}

/// The operation log in front of a state machine.
pub struct ReplicatedLog<M: StateMachine, D: Disk = RealDisk> {
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
        Self::open_on(Arc::new(disk), config, applied, machine, OnFailure::Abort)
    }
}

impl<M: StateMachine, D: Disk> ReplicatedLog<M, D> {
    pub(super) fn open_on(
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
        let (queue, stopping, stopped) = (Mutex::default(), Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { core, queue, status, machine, disk, on_failure, stopping, stopped });
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
        let payload = match self.shared.try_lead(payload) {
            Ok(answer) => return answer,
            Err(payload) => payload,
        };
        let (reply, answer) = oneshot::channel();
        self.shared.queue.lock().push_back(Proposal { payload, reply: Reply::Task(reply) });
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
    /// Commits the caller's command, and what is queued, if nobody else is committing.
    fn try_lead(self: &Arc<Self>, payload: Vec<u8>) -> Result<Answer<M::Output>, Vec<u8>> {
        let Some(mut core) = self.core.try_lock() else { return Err(payload) };
        // With other voters the answer comes in a later round, so there must be somewhere to put it.
        if matches!(&core.state, State::Running(node) if !node.is_sole_voter()) {
            return Err(payload);
        }
        let own = Proposal { payload, reply: Reply::Caller };
        let answers = may_block(|| self.round(&mut core, Some(own)));
        drop(core);
        let answer = answers.deliver();
        self.pass_on();
        Ok(answer.expect("a sole voter applies in the round in which it proposes"))
    }

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

    /// One round for somebody whose own command is queued.
    fn drain_once(self: &Arc<Self>) {
        let Some(core) = self.core.try_lock() else { return };
        self.commit_queued(core);
        self.pass_on();
    }

    fn commit_queued(&self, mut core: MutexGuard<'_, Core<M::Output, D>>) {
        let answers = may_block(|| self.round(&mut core, None));
        drop(core);
        answers.deliver();
    }

    /// One round with a batch from the queue and the caller's own command at its end.
    fn round(&self, core: &mut Core<M::Output, D>, own: Option<Proposal<M::Output>>) -> Answers<M::Output> {
        let mut batch = self.take_batch();
        batch.extend(own);
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
        let mut batch = Vec::with_capacity(queue.len().min(BATCH_COUNT_MAX) + 1);
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

/// Runs something that waits for the disk without holding up the other tasks of this worker.
fn may_block<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
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
