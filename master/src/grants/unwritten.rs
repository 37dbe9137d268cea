//! Chunks that were allocated in this master's time, or shortly before it, and that no server has
//! reported yet: maybe nothing was ever written into them. Once nobody may write such a chunk any more the servers are asked; if
//! none has a replica the chunk becomes a hole again, and reads see zeroes instead of missing replicas.
//!
//! ```text
//!   allocated --report--> forgotten here
//!       '--- lease ends --> asked after a while, or when somebody reads --> abandoned, or reported
//! ```
//!
//! After a start the log says what was allocated last: the answer to that, with the grant, may never
//! have reached the client. A client that did get its grant may write under it for as long as a lease
//! lasts; before that nothing is abandoned.

use super::Generations;
use super::install::{Agreement, Wanted};
use crate::master::Master;
use gfs_master_core::Action;
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::ChunkHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::debug;

/// A report comes within this many ticks of the write; then asking is worth its while.
const TICKS_TO_REPORT: u32 = 2;

/// The chunks, each with the time at which it was first seen without a lease.
#[derive(Default)]
pub struct Unwritten {
    chunks: Mutex<HashMap<ChunkHandle, Option<Instant>>>,
    /// To spare the lock while reports come in.
    count: AtomicUsize,
}

impl Unwritten {
    /// With chunks of which it is not known whether they were written.
    pub fn of(handles: impl IntoIterator<Item = ChunkHandle>) -> Self {
        let chunks: HashMap<_, _> = handles.into_iter().map(|handle| (handle, None)).collect();
        Self { count: chunks.len().into(), chunks: chunks.into() }
    }

    /// The chunk was allocated.
    pub fn add(&self, handle: ChunkHandle) {
        let mut chunks = self.chunks.lock();
        chunks.insert(handle, None);
        self.count.store(chunks.len(), Ordering::Release);
    }

    /// The chunk has a replica, or is gone.
    pub fn remove(&self, handle: ChunkHandle) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut chunks = self.chunks.lock();
            chunks.remove(&handle);
            self.count.store(chunks.len(), Ordering::Release);
        }
    }

    /// True if no server is known to have a replica.
    pub fn contains(&self, handle: ChunkHandle) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.chunks.lock().contains_key(&handle)
    }

    /// Those that have had no lease for a while.
    fn due(&self, leased: impl Fn(ChunkHandle) -> bool, now: Instant, patience: Duration) -> Vec<ChunkHandle> {
        let mut chunks = self.chunks.lock();
        let mut due = Vec::new();
        for (handle, since) in chunks.iter_mut() {
            if leased(*handle) {
                *since = None;
            } else if now.saturating_duration_since(*since.get_or_insert(now)) >= patience {
                due.push(*handle);
            }
        }
        due
    }
}

impl Master {
    /// True if somebody may be writing the chunk, under a grant of this master or of the one before.
    pub fn may_be_leased(&self, handle: ChunkHandle, now: Instant) -> bool {
        self.leases.is_leased(handle, now) || self.inherits_leases(now)
    }

    /// Asks about the chunks that nobody may write any more.
    pub async fn settle_unwritten(&self, now: Instant) {
        let leased = |handle| self.may_be_leased(handle, now);
        for handle in self.unwritten.due(leased, now, self.timings.tick * TICKS_TO_REPORT) {
            if let Err(error) = self.settle(handle).await {
                debug!(chunk = %handle, %error, "whether it was written is found out later");
            }
        }
    }

    /// Finds out whether the chunk was written. Afterwards it has replicas or is a hole, unless servers
    /// that may have one are away.
    pub async fn settle(&self, handle: ChunkHandle) -> Result<(), FsError> {
        let Some(record) = self.store.view().chunk(handle)? else {
            self.unwritten.remove(handle);
            return Ok(());
        };
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        if !self.unwritten.contains(handle) || self.may_be_leased(handle, Instant::now()) {
            return Ok(());
        }
        let file = self.store.view().chunks(record.inode, record.index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.first().filter(|chunk| chunk.handle == handle) else { return Ok(()) };
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        match Box::pin(self.agree(&wanted)).await? {
            Agreement::Reached(_) => self.unwritten.remove(handle),
            Agreement::Nowhere { away } if away.is_empty() => {
                let chunks = vec![(handle, chunk.record.version)];
                self.commit_one(Action::Abandon { chunks }).await?;
                self.locations.forget_assumed(handle);
                self.unwritten.remove(handle);
            }
            Agreement::Nowhere { .. } | Agreement::Changed => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_only_after_a_while_without_a_lease() {
        let (unwritten, now, patience) = (Unwritten::default(), Instant::now(), Duration::from_secs(2));
        let (leased, free) = (ChunkHandle::new(1), ChunkHandle::new(2));
        [leased, free].into_iter().for_each(|handle| unwritten.add(handle));
        let due = |now| unwritten.due(|handle| handle == leased, now, patience);
        assert_eq!(due(now), []);
        assert_eq!(due(now + patience), [free]);
        unwritten.remove(free);
        assert_eq!(due(now + patience), []);
        assert!(unwritten.contains(leased) && !unwritten.contains(free));
    }
}
