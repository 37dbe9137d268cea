//! What is known of a chunk's copies, put together for the planners.

use crate::master::Master;
use crate::servers::locations::Known;
use gfs_master_core::ChunkRecord;
use gfs_master_core::plan::{ChunkCopies, Need, Urgency};
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, ServerId};
use gfs_proto::limits::CHUNKS_PER_REQUEST_MAX;

impl Master {
    /// The copies of a chunk as recorded and reported; what a copy would move is left open.
    pub fn copies_of(&self, handle: ChunkHandle, record: &ChunkRecord) -> ChunkCopies {
        let located = self.locations.of(handle);
        let (entitled, others): (Vec<_>, Vec<_>) =
            located.into_iter().partition(|row| record.entitled.contains(&row.server));
        // One that is ahead has the content of the recorded version: a raise was not logged.
        let current = entitled.iter().filter(|row| row.version >= record.version && row.known.usable());
        let ahead = current.clone().filter(|row| row.version > record.version);
        let suspect = entitled.iter().filter(|row| row.version >= record.version && !row.known.usable());
        let damaged = entitled.iter().filter(|row| row.version >= record.version && row.known.is_damaged());
        let failing = entitled.iter().filter(|row| row.known == Known::Reported(ReplicaState::Failing));
        ChunkCopies {
            goal: record.goal,
            entitled: record.entitled.clone(),
            current: current.map(|row| row.server).collect(),
            ahead: ahead.map(|row| row.server).collect(),
            failing: failing.map(|row| row.server).collect(),
            incurable: self.is_incurable(handle, record),
            damaged: damaged.map(|row| row.server).collect(),
            suspect: suspect.map(|row| row.server).collect(),
            occupied: others.iter().map(|row| row.server).collect(),
            awaited: if self.repair.is_awaited(handle) { self.copies_min_of(record) } else { 0 },
            bytes: 0,
            failures: 0,
        }
    }

    /// About how many bytes of the chunk its file has; replicas may hold less.
    pub(super) fn bytes_of(&self, record: &ChunkRecord) -> u64 {
        let Ok(attr) = self.store.view().attr(record.inode) else { return 0 };
        let chunk_size = self.store.genesis().chunk_size;
        let size = self.sizes.overlay(attr).size;
        size.saturating_sub(chunk_size.start_of(record.index)).min(chunk_size.get().into())
    }

    /// The chunks of a file may have too few copies or too many. A file with very many is left to a walk over
    /// everything.
    pub fn note_file(&self, inode: InodeId) {
        let first = self.store.view().chunks(inode, ChunkIndex::new(0), CHUNKS_PER_REQUEST_MAX);
        let chunks = first.map(|file| file.chunks).unwrap_or_default();
        if chunks.len() >= CHUNKS_PER_REQUEST_MAX as usize {
            return self.repair.look_everywhere();
        }
        chunks.iter().for_each(|chunk| self.repair.note(chunk.handle, false));
    }

    /// How soon.
    pub(super) fn urgency(&self, record: &ChunkRecord, need: Need, blocking: bool) -> Urgency {
        let live_file = self.store.view().attr(record.inode).is_ok_and(|attr| attr.nlink > 0);
        Urgency { need, live_file, blocking }
    }

    /// Servers with a replica that the record does not entitle, and that is not being made just now. Not if nobody who
    /// is entitled has one that can be read. One above the current version only if this history gave out the
    /// chunk: it is of a raise that was not logged. Otherwise it may be of a future that was lost with a restore.
    pub fn strays(&self, handle: ChunkHandle) -> Vec<(ServerId, SyncChunk)> {
        let being_made = self.repair.target(handle);
        let (record, is_ours) = {
            let view = self.store.view();
            let Ok(Some(record)) = view.chunk(handle) else { return Vec::new() };
            (record, view.was_given_out(handle))
        };
        if self.live_replicas(handle, &record, std::time::Instant::now()) == 0 {
            return Vec::new();
        }
        let located = self.locations.of(handle);
        let stray = located.iter().filter(|row| {
            (is_ours || row.version <= record.version)
                && !record.entitled.contains(&row.server)
                && Some(row.server) != being_made
                && !self.is_aside(handle, row.server)
        });
        stray.map(|row| (row.server, SyncChunk { handle, version: row.version })).collect()
    }
}
