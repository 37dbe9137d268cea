//! The shell around the state machine: the durable store behind the log, and every volatile table.
//!
//! Owns no policy; the modules beside it (requests, grants, sessions, garbage) each add their part as
//! methods. [`Master::commit`] is the only way to change durable state.

use crate::checkpoint::DeltaRoom;
use crate::config::Timings;
use crate::garbage::Garbage;
use crate::gate::Gate;
use crate::grants::leases::{Lease, Leases};
use crate::grants::uneven::Uneven;
use crate::grants::unwritten::Unwritten;
use crate::keyed_lock::KeyedLocks;
use crate::lengths::Lengths;
use crate::log::{LogError, ReplicatedLog, StateMachine};
use crate::opens::Opens;
use crate::reach::Reach;
use crate::repair::{Repair, RepairSettings};
use crate::servers::Servers;
use crate::servers::locations::Locations;
use crate::sessions::Sessions;
use crate::sizes::Sizes;
use gfs_master_core::{Action, Command, CoreResult, Outcome, Stamp, Store};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, LogIndex, Term};
use gfs_proto::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::error;

/// A client's clock is believed if it is behind ours by no more than this, and not ahead.
const CLOCK_LAG_MAX: Duration = Duration::from_secs(10);

/// The state machine as the log drives it.
pub struct Machine(Arc<Store>);

impl Machine {
    /// Over the store that requests read.
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }

    fn run(&self, index: LogIndex, term: Term, payload: &[u8]) -> anyhow::Result<Outcome> {
        let own = Command { stamp: Stamp::default(), action: Action::Noop };
        // An empty payload is an entry of the log's own: only the position moves on.
        let command = if payload.is_empty() { own } else { Command::decode(payload)? };
        Ok(self.0.apply(index, term, &command)?)
    }
}

impl StateMachine for Machine {
    type Output = Outcome;

    /// A record that was acknowledged and cannot be applied leaves no state to go on with.
    fn apply(&self, index: LogIndex, term: Term, payload: &[u8]) -> Outcome {
        match self.run(index, term, payload) {
            Ok(outcome) => outcome,
            Err(cause) => {
                error!(%index, "cannot apply the operation log, the master ends: {cause:#}");
                std::process::abort();
            }
        }
    }
}

/// Tells the bytes of the metadata file.
pub type FileBytes = Box<dyn Fn() -> u64 + Send + Sync>;

/// What a master is made of.
pub struct Parts {
    /// Durable state.
    pub store: Arc<Store>,
    /// The log behind it.
    pub log: ReplicatedLog<Machine>,
    /// Intervals.
    pub timings: Timings,
    /// Bounds on copies.
    pub repair: RepairSettings,
    /// Finds out whether a server is gone.
    pub reach: Arc<dyn Reach>,
    /// See [`FileBytes`].
    pub file_bytes: FileBytes,
}

/// Everything that a running master consists of.
pub struct Master {
    /// Durable state.
    pub store: Arc<Store>,
    /// The way to change it.
    pub log: ReplicatedLog<Machine>,
    /// Intervals.
    pub timings: Timings,
    /// When this process took over.
    pub started: Instant,
    /// Clients.
    pub sessions: Sessions,
    /// Their open files.
    pub opens: Opens,
    /// What they wrote and nobody logged yet.
    pub sizes: Sizes,
    /// What nobody told and replicas know.
    pub lengths: Lengths,
    /// Chunkservers.
    pub servers: Servers,
    /// Their replicas.
    pub locations: Locations,
    /// Who may write what.
    pub leases: Leases,
    /// Chunks that maybe nothing was written into.
    pub unwritten: Unwritten,
    /// Chunks whose replicas may differ.
    pub uneven: Uneven,
    /// What goes into the garbage table.
    pub garbage: Garbage,
    /// Copies that are to be made or removed.
    pub repair: Repair,
    /// Grants of one chunk come one after another.
    pub chunk_locks: KeyedLocks<(InodeId, ChunkIndex)>,
    /// Push-back while checkpoints lag behind.
    pub room: DeltaRoom,
    /// Opens when the master stops.
    pub stopping: Gate,
    /// Every session of before the start has come back or ended.
    pub complete: AtomicBool,
    /// There were sessions at the start: clients may write under grants that nobody here knows.
    pub inherited: bool,
    pub(crate) placements: AtomicU64,
    pub(crate) reach: Arc<dyn Reach>,
    pub(crate) file_bytes: FileBytes,
}

/// A command that was logged and applied.
#[derive(Debug)]
pub struct Committed {
    /// Its place in the log.
    pub index: LogIndex,
    /// What it did.
    pub outcome: Outcome,
    /// Leases of chunks that it gave up, ended here and not yet at the replicas.
    pub void: Vec<Lease>,
}

/// The time, as the system has it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

/// The client's time if it is plausible, else ours.
pub fn clamped(client: Option<Timestamp>) -> Timestamp {
    let now = now();
    let lag = i128::try_from(CLOCK_LAG_MAX.as_nanos()).unwrap_or(i128::MAX);
    client.filter(|time| *time <= now && now.as_nanos() - time.as_nanos() <= lag).unwrap_or(now)
}

/// What a client is told when the log does not take its command.
fn refusal(error: &LogError) -> FsError {
    match error {
        LogError::NotLeader { .. } => FsError::NotLeader,
        LogError::OutcomeUnknown | LogError::Stopped => FsError::Unavailable,
        LogError::NoSpace => FsError::NoSpace,
        LogError::TooLarge { .. } => FsError::InvalidArgument,
        other => {
            error!("the operation log failed: {other}");
            FsError::Io
        }
    }
}

/// The new chunk that a command has made.
fn allocated(result: &CoreResult) -> Option<ChunkHandle> {
    match result {
        CoreResult::Made(made) => made.chunk.as_ref().map(|chunk| chunk.handle),
        CoreResult::Allocated { chunk, created: true, .. } => Some(chunk.handle),
        _ => None,
    }
}

impl Master {
    /// Builds the tables from what the store knows, which has applied everything in the log.
    pub fn new(parts: Parts) -> Result<Self, FsError> {
        let Parts { store, log, timings, repair, reach, file_bytes } = parts;
        let started = Instant::now();
        let (servers, sessions, unwritten, unflushed, checkpoint) = {
            let view = store.view();
            (view.servers()?, view.sessions()?, view.unwritten()?, view.unflushed()?, store.durable().index)
        };
        Ok(Self {
            log,
            timings,
            started,
            inherited: !sessions.is_empty(),
            sessions: Sessions::new(sessions, started),
            opens: Default::default(),
            sizes: Default::default(),
            lengths: Default::default(),
            servers: Servers::new(servers, timings, started),
            locations: Default::default(),
            leases: Default::default(),
            garbage: Garbage::default(),
            repair: Repair::new(repair),
            unwritten: Unwritten::of(unwritten, unflushed),
            uneven: Uneven::default(),
            chunk_locks: Default::default(),
            room: DeltaRoom::new(checkpoint),
            stopping: Default::default(),
            complete: Default::default(),
            placements: Default::default(),
            reach,
            file_bytes,
            store,
        })
    }

    /// Logs a command and applies it, now.
    pub async fn commit(&self, action: Action) -> Result<Committed, FsError> {
        self.commit_at(action, now()).await
    }

    /// Logs a command and applies it, at a given time.
    pub async fn commit_at(&self, action: Action, now: Timestamp) -> Result<Committed, FsError> {
        self.room.admission(&self.store).await;
        let command = Command { stamp: Stamp { now }, action };
        let (index, outcome) = self.log.propose(command.encode()).await.map_err(|e| refusal(&e))?;
        let void = self.note(&outcome);
        Ok(Committed { index, outcome, void })
    }

    /// As [`Master::commit`], for commands that have one result.
    pub async fn commit_one(&self, action: Action) -> Result<CoreResult, FsError> {
        let committed = self.commit(action).await?;
        committed.outcome.results.into_iter().next().unwrap_or(Err(FsError::Io))
    }

    /// Chunks that a command allocated: nobody has a replica. Chunks that it gave up: nobody may write
    /// them, their replicas are garbage; their leases are returned.
    fn note(&self, outcome: &Outcome) -> Vec<Lease> {
        if outcome.replayed {
            return Vec::new();
        }
        outcome.results.iter().flatten().filter_map(allocated).for_each(|handle| self.unwritten.add(handle));
        let ended = outcome.dropped.iter().filter_map(|handle| {
            self.unwritten.forget(*handle);
            self.leases.remove(*handle)
        });
        let ended = ended.collect();
        self.garbage.add(outcome.dropped.len());
        ended
    }

    /// Bytes of the metadata file.
    pub fn metadata_bytes(&self) -> u64 {
        (self.file_bytes)()
    }

    /// Of the present leader.
    pub fn term(&self) -> Term {
        self.log.status().term
    }

    /// True once nobody is expected back who may have files open that we do not know of.
    pub fn everybody_is_back(&self) -> bool {
        if !self.complete.load(Ordering::Acquire) && self.sessions.expected().is_empty() {
            self.complete.store(true, Ordering::Release);
        }
        self.complete.load(Ordering::Acquire)
    }

    /// True while clients may hold leases granted before this master started.
    pub fn inherits_leases(&self, now: Instant) -> bool {
        self.inherited && now < self.started + self.timings.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plausible_clocks_are_believed() {
        let now = now();
        let shifted = |secs: i128| Timestamp::from_nanos(now.as_nanos() + secs * 1_000_000_000);
        assert_eq!(clamped(Some(shifted(-5))), shifted(-5));
        for wrong in [-60, 60, 1 << 40] {
            let used = clamped(Some(shifted(wrong)));
            assert!(used >= now && used.as_nanos() - now.as_nanos() < 1_000_000_000, "{wrong}");
        }
    }
}
