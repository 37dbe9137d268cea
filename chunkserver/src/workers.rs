//! Background work: one trait for all of it, each worker on a task of its own, a bounded step at a time.

use crate::node::Node;
use crate::server::may_block;
use crate::store::disk::Disk;
use crate::store::real::RealDisk;
use gfs_proto::ids::ChunkHandle;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Something that goes on in the background.
pub trait Worker: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &'static str;
    /// Does a bounded piece of work; may wait for disks. Returns when to go on.
    fn step(&self) -> Rest;
    /// For people.
    fn status(&self) -> String;
}

/// When a worker wants to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// At once: there is more to do.
    None,
    /// After this pause.
    For(Duration),
}

/// Runs a worker until told to stop.
pub async fn run(worker: Arc<dyn Worker>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        match may_block(|| worker.step()) {
            Rest::None => tokio::task::yield_now().await,
            Rest::For(pause) => {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.changed() => {}
                }
            }
        }
    }
    tracing::debug!(worker = worker.name(), status = worker.status(), "stopped");
}

/// A chunk without writes for this long is flushed and marked clean.
pub const IDLE: Duration = Duration::from_secs(5);
/// Chunks flushed in one step.
const FLUSH_MAX: usize = 128;
/// Pause between looks.
const LOOK: Duration = Duration::from_secs(1);

/// Ends leases that have run out, flushes chunks that are written no longer, forgets old outcomes.
pub struct Flusher<D: Disk = RealDisk>(pub Arc<Node<D>>);

impl<D: Disk> Worker for Flusher<D> {
    fn name(&self) -> &'static str {
        "flusher"
    }

    fn step(&self) -> Rest {
        let node = &*self.0;
        let now = node.clock.now();
        for lease in node.grants.expire(now) {
            tracing::debug!(chunk = %lease.handle, epoch = %lease.epoch, "a lease has run out");
        }
        let mut idle = node.store.dirty();
        // What others may lack, or have more of, stays marked until the master has looked: after a death of this process
        // nothing else would tell.
        let is_doubtful = |handle| node.grants.get(handle).is_some_and(|gate| gate.is_doubtful());
        idle.retain(|handle| node.grants.is_idle(*handle, now, IDLE) && !is_doubtful(*handle));
        let more = idle.len() > FLUSH_MAX;
        idle.truncate(FLUSH_MAX);
        let cleaned = clean(node, &idle);
        node.grants.forget(now);
        // what could not be cleaned is not tried again at once
        if more && cleaned > 0 { Rest::None } else { Rest::For(LOOK) }
    }

    fn status(&self) -> String {
        format!("{} chunks dirty, {} with a lease or remembered", self.0.store.dirty().len(), self.0.grants.count())
    }
}

/// Pause between looks at the packs.
const COMPACT: Duration = Duration::from_secs(10);

/// Empties packs of small chunks in which few are left.
pub struct Compactor<D: Disk = RealDisk>(pub Arc<Node<D>>);

impl<D: Disk> Worker for Compactor<D> {
    fn name(&self) -> &'static str {
        "compactor"
    }

    fn step(&self) -> Rest {
        if self.0.store.compact() > 0 { Rest::For(LOOK) } else { Rest::For(COMPACT) }
    }

    fn status(&self) -> String {
        "packs with few chunks are emptied".to_owned()
    }
}

/// Makes the packs that will be filled next.
pub struct PackMaker<D: Disk = RealDisk>(pub Arc<Node<D>>);

impl<D: Disk> Worker for PackMaker<D> {
    fn name(&self) -> &'static str {
        "pack maker"
    }

    fn step(&self) -> Rest {
        self.0.store.prepare_places();
        Rest::For(LOOK)
    }

    fn status(&self) -> String {
        "packs for small chunks are made before they are needed".to_owned()
    }
}

fn clean<D: Disk>(node: &Node<D>, handles: &[ChunkHandle]) -> usize {
    if handles.is_empty() {
        return 0;
    }
    let cleaned = node.store.mark_clean(handles);
    for handle in &cleaned {
        if let Some(gate) = node.grants.get(*handle) {
            gate.cleaned();
        }
        node.outbox.touched(*handle);
    }
    cleaned.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::node::Patience;
    use crate::store::mem::MemDisk;
    use crate::store::{ChunkStore, StoreConfig};
    use gfs_proto::control::ReplicaState;
    use gfs_proto::ids::{ChunkVersion, ClusterId, ServerUuid};
    use gfs_proto::layout::ChunkSize;

    const HANDLE: ChunkHandle = ChunkHandle::new(1);

    #[test]
    fn what_is_in_doubt_stays_marked_until_the_master_has_looked() {
        let config = StoreConfig {
            directories: vec!["/chunks".into()],
            reserve_bytes: 1 << 20,
            watermark_bytes: 2 << 20,
            boot_id: "boot".to_owned(),
            uuid_if_new: ServerUuid::new([1; 16]),
            open_files_max: 16,
            pack_bytes: 0,
        };
        let store = ChunkStore::open(config, MemDisk::default()).expect("a new store");
        store.join(ClusterId::new([7; 16]), ChunkSize::new(64 << 10).expect("within limits")).expect("joined");
        let patience = Patience { turn: Duration::ZERO, hop: Duration::ZERO, idle: Duration::ZERO };
        let clock = Arc::new(ManualClock::default());
        let node = Arc::new(Node::new(store, clock.clone(), "boot".to_owned(), patience));
        node.store.create(HANDLE, ChunkVersion::new(1), 1).expect("there is room");
        node.grants.recovered(HANDLE);
        let flusher = Flusher(node.clone());
        let state = || node.store.row(HANDLE).map(|row| row.state);
        clock.advance(IDLE * 2);
        flusher.step();
        assert_eq!(state(), Some(ReplicaState::Dirty), "a run that was killed now would know nothing of it otherwise");
        node.grants.remove(HANDLE);
        flusher.step();
        assert_eq!(state(), Some(ReplicaState::Clean));
    }
}
