//! Compaction: moving the last replicas out of packs that are nearly empty, so that these can be removed.
//! Otherwise a replica that lives long would keep a pack, and so a file open, for itself.

use super::ChunkStore;
use super::disk::Disk;
use super::index::Entry;
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use std::sync::atomic::Ordering;

/// Replicas moved in one call: each waits for three flushes.
const MOVED_TOGETHER: usize = 64;

impl<D: Disk> ChunkStore<D> {
    /// Moves clean replicas out of nearly empty packs, a bounded number; returns how many. One pack that is
    /// nearly empty in each directory is left alone: after a restart there is nothing to move it to but
    /// another such.
    pub fn compact(&self) -> usize {
        let mut moved = 0;
        for (number, directory) in self.directories.iter().enumerate() {
            if self.stopped.load(Ordering::Acquire) || !directory.accepts_chunks() {
                continue;
            }
            for pack in directory.packs.sparse() {
                for handle in self.clean_in(number as u8, pack) {
                    if moved == MOVED_TOGETHER || !self.move_out(handle, pack).unwrap_or(false) {
                        break;
                    }
                    moved += 1;
                }
            }
            directory.packs.remove_empty();
        }
        moved
    }

    fn clean_in(&self, dir: u8, pack: u32) -> Vec<ChunkHandle> {
        let mut clean = Vec::new();
        self.index.for_each(|handle, entry, _| {
            if entry.dir == dir && is_clean_in(entry, pack) {
                clean.push(handle);
            }
        });
        clean
    }

    /// False if there is no room to move it to, or if it is not there any more.
    fn move_out(&self, handle: ChunkHandle, pack: u32) -> Result<bool, DataError> {
        let open = self.open_replica(handle)?;
        let mut live = open.live.write();
        let Some(place) = live.entry.place.filter(|_| !live.gone && is_clean_in(live.entry, pack)) else {
            return Ok(false);
        };
        match self.directory(live.entry).take_place(place.capacity())? {
            Some(place) => self.move_to_place(&open, &mut live, place).map(|()| true),
            None => Ok(false),
        }
    }
}

fn is_clean_in(entry: Entry, pack: u32) -> bool {
    entry.state == ReplicaState::Clean && entry.place.is_some_and(|place| place.pack == pack)
}
