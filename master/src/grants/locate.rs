//! Where chunks can be read: the servers that the record entitles, that are up, and that reported a
//! replica of exactly the recorded version. Those that are damaged are named only where there is no other: of them
//! some blocks can be read.

use super::Generations;
use super::install::Wanted;
use crate::master::Master;
use crate::servers::locations::Located;
use gfs_master_core::{ChunkRecord, FileChunk, FileChunks};
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkLocation, ChunkMap, Numbering, Replica};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId};
use std::time::Instant;
use tracing::warn;

/// Chunks whose locations come with an open.
pub const CHUNKS_AT_OPEN: u32 = 16;

impl Master {
    /// Locations as they are known at this moment.
    pub fn chunk_map(&self, file: &FileChunks) -> ChunkMap {
        let now = Instant::now();
        let chunks = file.chunks.iter().map(|chunk| self.location(chunk, now)).collect();
        ChunkMap { generation: file.generation, chunks }
    }

    fn location(&self, chunk: &FileChunk, now: Instant) -> ChunkLocation {
        let record = &chunk.record;
        let located = self.locations.of(chunk.handle);
        let current = located
            .iter()
            .filter(|l| l.version == record.version && l.known.usable() && record.entitled.contains(&l.server));
        let (damaged, whole): (Vec<_>, Vec<_>) = current.partition(|l| l.known.is_damaged());
        let up = |rows: Vec<&Located>| -> Vec<_> {
            rows.into_iter().filter_map(|l| self.servers.replica_up(l.server, now)).collect()
        };
        let whole = up(whole);
        ChunkLocation {
            index: chunk.index,
            handle: chunk.handle,
            version: record.version,
            clip: chunk.cut.map(|cut| cut.length),
            leased: self.may_be_leased(chunk.handle, now),
            replicas: if self.is_unsettled(chunk.handle, now) {
                Vec::new()
            } else if located.is_empty() && self.unwritten.contains(chunk.handle) {
                self.perhaps_begun(record, now)
            } else {
                if whole.is_empty() { up(damaged) } else { whole }
            },
        }
    }

    /// Where a chunk is, if it is anywhere, under a lease of the master before this one: all that it was granted to
    /// say for themselves whether they have it. None if one is away, for then it may be there alone.
    fn perhaps_begun(&self, record: &ChunkRecord, now: Instant) -> Vec<Replica> {
        let all: Option<Vec<_>> = record.entitled.iter().map(|server| self.servers.replica_up(*server, now)).collect();
        all.unwrap_or_default()
    }

    /// Locations; where no replica can be named, first does what can be done about it.
    pub async fn locate(&self, inode: InodeId, first: ChunkIndex, count: u32) -> Result<ChunkMap, FsError> {
        let file = self.store.view().chunks(inode, first, count)?;
        let map = self.chunk_map(&file);
        let missing = map.chunks.iter().filter(|chunk| chunk.replicas.is_empty());
        let now = Instant::now();
        let fixable = |c: &&ChunkLocation| self.is_unsettled(c.handle, now) || self.is_ahead(c);
        let fixable: Vec<_> = missing.filter(fixable).map(|c| (c.index, c.handle)).collect();
        if fixable.is_empty() {
            return Ok(map);
        }
        for (index, handle) in fixable {
            let fixed = match self.unwritten.contains(handle) {
                true => self.settle(handle).await,
                false => self.heal(inode, index).await,
            };
            if let Err(error) = fixed {
                warn!(%inode, %index, %error, "a chunk has no replica that can be named");
            }
        }
        Ok(self.chunk_map(&self.store.view().chunks(inode, first, count)?))
    }

    /// The chunk may never have been written, and nobody is about to: the servers have to be asked.
    fn is_unsettled(&self, handle: ChunkHandle, now: Instant) -> bool {
        self.unwritten.contains(handle) && !self.may_be_leased(handle, now)
    }

    /// Replicas of an entitled server are above the recorded version: a raise was not logged.
    fn is_ahead(&self, chunk: &ChunkLocation) -> bool {
        self.locations.of(chunk.handle).iter().any(|l| l.version > chunk.version && l.known.usable())
    }

    /// Brings the replicas of a chunk to one version, for nobody in particular, if none can be named.
    pub(crate) async fn heal(&self, inode: InodeId, index: ChunkIndex) -> Result<(), FsError> {
        let _turn = self.chunk_locks.lock((inode, index)).await;
        let file = self.store.view().chunks(inode, index, 1)?;
        let generations = Generations::from(&file);
        if let Some(chunk) = file.chunks.first()
            && self.location(chunk, Instant::now()).replicas.is_empty()
        {
            self.leases.remove(chunk.handle);
            let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: true };
            self.agree(&wanted).await?;
        }
        Ok(())
    }

    /// Number of replicas of the chunk that can be read now.
    pub fn live_replicas(&self, handle: ChunkHandle, record: &gfs_master_core::ChunkRecord, now: Instant) -> usize {
        let located = self.locations.of(handle);
        let current = located
            .iter()
            .filter(|l| l.version == record.version && l.known.usable() && record.entitled.contains(&l.server));
        current.filter(|l| self.servers.replica_up(l.server, now).is_some()).count()
    }
}
