//! An fsync waits for copies: what fewer servers than that have on stable storage could be lost with the next
//! failure, so it is not confirmed before another one has it (`copies_min`, INTERLEAVINGS E).
//!
//! Nor is it while a server that is entitled to the chunk may lack what was flushed: one that was down then, or is
//! arriving. The version is raised without it, and the others are flushed again under that one.
//!
//! The chunk is repaired as one that a client waits for: whoever is expected back does not count, and a lease on it
//! ends as soon as it is its turn.

use super::Repair;
use crate::grants::Generations;
use crate::grants::install::Wanted;
use crate::master::Master;
use crate::servers::locations::Known;
use gfs_master_core::ChunkRecord;
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, ServerId};
use gfs_proto::ops::FlushedChunk;
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

    /// Returns when an fsync that flushed this may be confirmed. `StaleGrant`: it has to be flushed again.
    /// `Unavailable` after a while.
    pub async fn await_copies(&self, chunks: &[FlushedChunk]) -> Result<(), FsError> {
        let deadline = Instant::now() + ANSWER_AFTER;
        let mut waiting: Vec<Waiter<'_>> = Vec::new();
        for chunk in chunks.iter().filter(|chunk| !matches!(self.confirmed(chunk), Ok(Confirmed::Enough))) {
            waiting.push(Waiter::of(&self.repair, chunk.handle));
        }
        for chunk in chunks {
            loop {
                let ended = self.repair.steps.notified();
                match self.confirmed(chunk)? {
                    Confirmed::Enough => break,
                    Confirmed::Changed => return Err(FsError::StaleGrant),
                    Confirmed::Lacking(inode, index) => {
                        self.leave_out_absent(inode, index).await?;
                        return Err(FsError::StaleGrant);
                    }
                    Confirmed::Few if Instant::now() >= deadline => return Err(FsError::Unavailable),
                    // Copies may also come with a server that is back.
                    Confirmed::Few => drop(tokio::time::timeout(self.timings.tick, ended).await),
                }
            }
        }
        Ok(())
    }

    /// A copy that is clean has what was written before the flush, wherever it was; that of a server that is down was
    /// clean if it said so last, since a chunk is not written without it under the same version.
    fn confirmed(&self, chunk: &FlushedChunk) -> Result<Confirmed, FsError> {
        let Some(record) = self.store.view().chunk(chunk.handle)? else { return Ok(Confirmed::Enough) };
        if record.version != chunk.version {
            return Ok(Confirmed::Changed);
        }
        let (now, located) = (Instant::now(), self.locations.of(chunk.handle));
        let is_clean = |server: &ServerId| {
            let clean = Known::Reported(ReplicaState::Clean);
            located.iter().any(|l| l.server == *server && l.version == record.version && l.known == clean)
        };
        let is_stable = |server: &&ServerId| chunk.servers.contains(server) || is_clean(server);
        if !record.entitled.iter().all(|server| is_stable(&server)) {
            return Ok(Confirmed::Lacking(record.inode, record.index));
        }
        let stable = record.entitled.iter().filter(is_stable);
        let count = stable.filter(|server| self.servers.replica_up(**server, now).is_some()).count();
        let enough = count >= self.copies_min_of(&record).into();
        Ok(if enough { Confirmed::Enough } else { Confirmed::Few })
    }

    /// An entitled server that did not flush must not count any more: after a power cut everywhere its copy would be
    /// as good as those that did.
    async fn leave_out_absent(&self, inode: InodeId, index: ChunkIndex) -> Result<(), FsError> {
        let _turn = self.chunk_locks.lock((inode, index)).await;
        let file = self.store.view().chunks(inode, index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.first() else { return Ok(()) };
        if self.live_replicas(chunk.handle, &chunk.record, Instant::now()) == chunk.record.entitled.len() {
            return Ok(()); // all can be asked: those that have not flushed are asked next
        }
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        self.leases.remove(chunk.handle);
        self.agree(&wanted).await.map(drop)
    }
}

/// How it stands with what was flushed.
enum Confirmed {
    /// No copy lacks it, and they are as many as an fsync needs.
    Enough,
    /// They are fewer.
    Few,
    /// A server that is entitled to this version may not have it on stable storage.
    Lacking(InodeId, ChunkIndex),
    /// The chunk has another version.
    Changed,
}
