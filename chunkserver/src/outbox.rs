//! What the master is to hear and has not been told: replicas that changed, chains that broke.
//! Changes of one chunk are told once, as they are when they are told.

use gfs_proto::control::{ChainBreak, ReplicaRow, ReplicaState};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::sync::Notify;

/// Chunks noted at most; beyond, everything is reported anew.
pub const CHANGES_MAX: usize = 64 << 10;
/// Broken chains noted at most; the client that saw the break tells the master too.
pub const BREAKS_MAX: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// False while no master listens: the full report will tell.
    recording: bool,
    overflown: bool,
    changes: HashMap<ChunkHandle, Change>,
    breaks: Vec<ChainBreak>,
}

/// How a chunk changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Look it up.
    Touched,
    /// The replica of this version is gone.
    Removed(ChunkVersion),
}

/// What was in the outbox.
#[derive(Debug, Default)]
pub struct Letters {
    /// By chunk.
    pub changes: Vec<(ChunkHandle, Change)>,
    /// Chains that broke.
    pub breaks: Vec<ChainBreak>,
    /// Too much has changed: report everything.
    pub report_all: bool,
}

impl Outbox {
    /// A replica was made, got another version or state.
    pub fn touched(&self, handle: ChunkHandle) {
        self.change(handle, Change::Touched);
    }

    /// A replica was deleted.
    pub fn removed(&self, handle: ChunkHandle, version: ChunkVersion) {
        self.change(handle, Change::Removed(version));
    }

    fn change(&self, handle: ChunkHandle, change: Change) {
        let mut state = self.state.lock();
        if !state.recording || state.overflown {
            return;
        }
        state.changes.insert(handle, change);
        if state.changes.len() > CHANGES_MAX {
            state.overflown = true;
            state.changes = HashMap::new();
        }
        drop(state);
        self.filled.notify_one();
    }

    /// A chain broke.
    pub fn broke(&self, chain: ChainBreak) {
        let mut state = self.state.lock();
        if state.recording && state.breaks.len() < BREAKS_MAX && !state.breaks.contains(&chain) {
            state.breaks.push(chain);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// A master listens from now on; the replicas are listed after this call.
    pub fn start(&self) {
        *self.state.lock() = State { recording: true, ..State::default() };
    }

    /// Nobody listens any more.
    pub fn stop(&self) {
        *self.state.lock() = State::default();
    }

    /// Waits until there is something.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes everything.
    pub fn take(&self) -> Letters {
        let mut state = self.state.lock();
        Letters {
            changes: state.changes.drain().collect(),
            breaks: std::mem::take(&mut state.breaks),
            report_all: std::mem::take(&mut state.overflown),
        }
    }
}

/// How a deleted replica is reported.
pub fn removed_row(handle: ChunkHandle, version: ChunkVersion) -> ReplicaRow {
    ReplicaRow { handle, version, length: 0, state: ReplicaState::Clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(n: usize) -> ChunkHandle {
        ChunkHandle::new(n as u64)
    }

    #[tokio::test]
    async fn the_last_change_of_a_chunk_is_told_once() {
        let outbox = Outbox::default();
        outbox.touched(handle(1));
        outbox.start();
        assert!(outbox.take().changes.is_empty(), "nobody listened: the full report tells");
        outbox.touched(handle(1));
        outbox.touched(handle(1));
        outbox.removed(handle(1), ChunkVersion::new(2));
        outbox.filled().await;
        assert_eq!(outbox.take().changes, [(handle(1), Change::Removed(ChunkVersion::new(2)))]);
        assert!(outbox.take().changes.is_empty());
    }

    #[test]
    fn too_many_changes_become_a_full_report() {
        let outbox = Outbox::default();
        outbox.start();
        (0..=CHANGES_MAX).for_each(|n| outbox.touched(handle(n)));
        let letters = outbox.take();
        assert!(letters.report_all && letters.changes.is_empty());
        outbox.touched(handle(1));
        assert_eq!(outbox.take().changes.len(), 1);
    }
}
