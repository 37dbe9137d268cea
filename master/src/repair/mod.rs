//! Re-replication, removal of surplus copies, rebalancing (GFS paper, 4.3): finds what is to be done and
//! does it, as the planners in `gfs_master_core::plan` say.
//!
//! ```text
//!   chunk noted (a grant left a server out, a replica went)  --.
//!   all chunks walked over (a server was lost, came, changed) --+--> queue --> planner --> copy | mend | removal | adoption
//!   one walk after the other, slowly                          --'      ^                     |
//!                                                                      '---- looked at again '
//! ```
//! One task owns queue and throttle ([`planner`]); each step is a task of its own (`copy`, `mend`, `removal`, `adopt`).
//! Nothing of this is logged but the result of each step: after a restart the first walk finds what was
//! left.
//!
//! Invariant: at most one step of a chunk is under way ([`Work`]), and no replica is deleted on a server
//! that a step is copying to.

mod adopt;
mod await_copies;
mod census;
mod copy;
mod mend;
mod planner;
mod removal;
mod status;
mod survey;

pub use census::{Census, Dependent};
pub use planner::run;
pub use status::RepairStatus;

use crate::master::Master;
use gfs_master_core::plan::Limits;
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ServerId};
use mend::Incurable;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use thiserror::Error;
use tokio::sync::Notify;

/// Copies that an fsync needs unless something else is set: with one, the next failure would lose what it confirmed.
const COPIES_MIN: u8 = 2;
/// Chunks that wait to be looked at; if there are more, all chunks are.
const NOTES_MAX: usize = 64 << 10;

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct RepairSettings {
    /// Bounds on copies, whatever they are made for.
    pub limits: Limits,
    /// An fsync is confirmed with no fewer copies, if the goal and the number of servers allow for it.
    pub copies_min: u8,
    /// None: copies are never moved for the sake of even filling.
    pub rebalance: Option<Rebalance>,
}

/// When copies are moved from fuller to emptier servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebalance {
    /// If two servers differ by more, in 1/10,000 of their room.
    pub threshold: u64,
    /// Bytes per second.
    pub rate: u64,
}

impl Default for RepairSettings {
    fn default() -> Self {
        let limits = Limits { rate: None, rate_per_server: Some(64 << 20), copies_per_server: 4 };
        Self { limits, copies_min: COPIES_MIN, rebalance: Some(Rebalance { threshold: 1000, rate: 16 << 20 }) }
    }
}

/// Why a step did not succeed.
#[derive(Debug, Error)]
enum StepError {
    /// Somebody may be writing the chunk.
    #[error("the chunk is being written")]
    Leased,
    /// The chunk is not what it was when the step was planned.
    #[error("the chunk has changed meanwhile")]
    Changed,
    /// The source did not confirm that nobody writes it any more.
    #[error("the source did not answer")]
    Source,
    /// The chunkserver did not do it.
    #[error(transparent)]
    Command(#[from] crate::servers::link::CommandError),
    /// The master could not.
    #[error("{0}")]
    State(#[from] FsError),
}

/// A step under way.
#[derive(Clone, Copy)]
struct Work {
    target: Option<ServerId>,
    /// Replicas agreed on something since the source was fenced: what was copied may be of before.
    disturbed: bool,
}

/// What requests and reports tell the planner, and it them.
pub struct Repair {
    settings: RepairSettings,
    /// True: a client was failed by a copy of the chunk.
    notes: Mutex<HashMap<ChunkHandle, bool>>,
    everywhere: AtomicBool,
    news: Notify,
    work: Mutex<HashMap<ChunkHandle, Work>>,
    /// Chunks whose copies clients wait for, and how many do.
    awaited: Mutex<HashMap<ChunkHandle, u32>>,
    /// A step has ended.
    steps: Notify,
    incurable: Mutex<HashMap<ChunkHandle, Incurable>>,
    /// Replicas that somebody said are damaged, and when.
    doubts: Mutex<HashMap<(ChunkHandle, ServerId), Instant>>,
    status: Mutex<RepairStatus>,
}

/// Keeps other steps off a chunk until dropped.
struct WorkGuard {
    master: Arc<Master>,
    handle: ChunkHandle,
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.master.repair.work.lock().remove(&self.handle);
    }
}

impl WorkGuard {
    /// From here on the source does not change without [`Repair::disturb`].
    fn fenced(&self) {
        if let Some(work) = self.master.repair.work.lock().get_mut(&self.handle) {
            work.disturbed = false;
        }
    }

    fn is_disturbed(&self) -> bool {
        self.master.repair.work.lock().get(&self.handle).is_none_or(|work| work.disturbed)
    }
}

impl Repair {
    /// With nothing known: the first walk finds it.
    pub fn new(settings: RepairSettings) -> Self {
        Self {
            settings,
            notes: Mutex::default(),
            everywhere: AtomicBool::new(true),
            news: Notify::new(),
            work: Mutex::default(),
            awaited: Mutex::default(),
            steps: Notify::new(),
            incurable: Mutex::default(),
            doubts: Mutex::default(),
            status: Mutex::default(),
        }
    }

    /// A chunk may have lost a copy, or have one too many. `blocking`: a client has noticed.
    pub fn note(&self, handle: ChunkHandle, blocking: bool) {
        let mut notes = self.notes.lock();
        *notes.entry(handle).or_default() |= blocking;
        if notes.len() > NOTES_MAX {
            notes.clear();
            self.everywhere.store(true, Ordering::Release);
        }
        drop(notes);
        self.news.notify_one();
    }

    /// Any number of chunks may have too few or too many copies.
    pub fn look_everywhere(&self) {
        self.everywhere.store(true, Ordering::Release);
        self.news.notify_one();
    }

    /// The replicas of the chunk are about to agree on something: whoever copies one now may get neither
    /// what was before nor what comes after.
    pub fn disturb(&self, handle: ChunkHandle) {
        if let Some(work) = self.work.lock().get_mut(&handle) {
            work.disturbed = true;
        }
    }

    /// The server that a copy of the chunk is being made on. To be asked before the chunk record is read:
    /// a copy that is complete is recorded first and forgotten here then.
    pub fn target(&self, handle: ChunkHandle) -> Option<ServerId> {
        self.work.lock().get(&handle).and_then(|work| work.target)
    }

    /// What is waiting and under way.
    pub fn status(&self) -> RepairStatus {
        self.status.lock().clone()
    }

    /// `master`: whose repair this is. None if a step of the chunk is under way.
    fn begin(&self, master: &Arc<Master>, handle: ChunkHandle, target: Option<ServerId>) -> Option<WorkGuard> {
        let mut work = self.work.lock();
        if work.contains_key(&handle) {
            return None;
        }
        work.insert(handle, Work { target, disturbed: true });
        Some(WorkGuard { master: master.clone(), handle })
    }

    fn is_at_work(&self, handle: ChunkHandle) -> bool {
        self.work.lock().contains_key(&handle)
    }

    fn take_notes(&self) -> HashMap<ChunkHandle, bool> {
        std::mem::take(&mut *self.notes.lock())
    }
}
