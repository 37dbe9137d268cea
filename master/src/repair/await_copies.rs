//! An fsync waits for copies: what fewer servers than that have on stable storage could be lost with the next
//! failure, so it is not confirmed before another one has it (`copies_min`, INTERLEAVINGS E).
//!
//! The chunk is repaired as one that a client waits for: whoever is expected back does not count, and a lease on it
//! ends as soon as it is its turn.

use super::Repair;
use crate::master::Master;
use gfs_master_core::ChunkRecord;
use gfs_proto::FsError;
use gfs_proto::ids::ChunkHandle;
use std::time::{Duration, Instant};

/// A client is answered after this, and asks again for as long as it will.
const ANSWER_AFTER: Duration = Duration::from_secs(5);

/// Somebody waits for copies of a chunk, until dropped.
struct Waiter<'a> {
    repair: &'a Repair,
    handle: ChunkHandle,
}

impl<'a> Waiter<'a> {
    fn of(repair: &'a Repair, handle: ChunkHandle) -> Self {
        *repair.awaited.lock().entry(handle).or_default() += 1;
        repair.note(handle, true);
        Self { repair, handle }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut awaited = self.repair.awaited.lock();
        if let Some(waiters) = awaited.get_mut(&self.handle) {
            *waiters -= 1;
            if *waiters == 0 {
                awaited.remove(&self.handle);
            }
        }
    }
}

impl Repair {
    /// As set.
    pub fn copies_min(&self) -> u8 {
        self.settings.copies_min
    }

    /// A client waits for copies of the chunk.
    pub fn is_awaited(&self, handle: ChunkHandle) -> bool {
        self.awaited.lock().contains_key(&handle)
    }
}

impl Master {
    /// Copies that an fsync of the chunk needs.
    pub fn copies_min_of(&self, record: &ChunkRecord) -> u8 {
        let servers = u8::try_from(self.servers.count()).unwrap_or(u8::MAX);
        self.repair.copies_min().min(record.goal).min(servers)
    }

    /// Returns when each of these chunks has the copies that an fsync needs. `Unavailable` after a while.
    pub async fn await_copies(&self, chunks: &[ChunkHandle]) -> Result<(), FsError> {
        let deadline = Instant::now() + ANSWER_AFTER;
        let mut waiting: Vec<Waiter<'_>> = Vec::new();
        for handle in chunks.iter().filter(|handle| !matches!(self.has_copies(**handle), Ok(true))) {
            waiting.push(Waiter::of(&self.repair, *handle));
        }
        for waiter in waiting {
            loop {
                let ended = self.repair.steps.notified();
                if self.has_copies(waiter.handle)? {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(FsError::Unavailable);
                }
                // Copies may also come with a server that is back.
                let _ = tokio::time::timeout(self.timings.tick, ended).await;
            }
        }
        Ok(())
    }

    /// As many as an fsync needs; a chunk that is gone needs none.
    fn has_copies(&self, handle: ChunkHandle) -> Result<bool, FsError> {
        let Some(record) = self.store.view().chunk(handle)? else { return Ok(true) };
        Ok(self.live_replicas(handle, &record, Instant::now()) >= self.copies_min_of(&record).into())
    }
}
