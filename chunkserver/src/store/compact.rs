//! Compaction: moving the last replicas out of packs that are nearly empty, so that these can be removed,
//! and giving back room that packs hold when it is short. Otherwise a replica that lives long would keep a
//! pack, and so a file open, for itself.

use super::ChunkStore;
use super::directory::Directory;
use super::disk::Disk;
use super::index::Entry;
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Replicas moved in one call: each waits for three flushes.
const MOVED_TOGETHER: usize = 64;

impl<D: Disk> ChunkStore<D> {
    /// Moves clean replicas out of nearly empty packs, a bounded number; returns how many. One pack that is
    /// nearly empty in each directory is left alone: after a restart there is nothing to move it to but
    /// another such. Where room is short, one pack in each directory gives back what it does not need.
    pub fn compact(&self) -> usize {
        let directories = self.directories.iter().filter(|directory| directory.in_service());
        directories.clone().for_each(Directory::release_room);
        let mut moved = 0;
        for (handle, pack) in self.clean_in_sparse() {
            if self.stopped.load(Ordering::Acquire) {
                break;
            }
            match self.move_out(handle, pack) {
                Ok(true) => moved += 1,
                // the others of its pack are moved all the same, and nobody tries this one again
                Err(DataError::Corrupt) => drop(self.unmovable.lock().insert(handle)),
                Ok(false) | Err(_) => {}
            }
        }
        directories.for_each(|directory| directory.packs.remove_empty());
        moved
    }

    /// Makes packs before they are needed, so that creating a chunk seldom waits for one.
    pub fn prepare_places(&self) {
        for directory in &self.directories {
            // one that fails is out of service; one without room has files made
            let _ = directory.prepare_places();
        }
    }

    /// Clean replicas in nearly empty packs, with these, no more than are moved together.
    fn clean_in_sparse(&self) -> Vec<(ChunkHandle, u32)> {
        let sparse =
            |directory: &Directory<D>| if directory.accepts_chunks() { directory.packs.sparse() } else { vec![] };
        let sparse: Vec<BTreeSet<u32>> =
            self.directories.iter().map(|directory| sparse(directory).into_iter().collect()).collect();
        let mut clean = Vec::new();
        if sparse.iter().all(BTreeSet::is_empty) {
            return clean;
        }
        let unmovable = self.unmovable.lock();
        self.index.for_each(|handle, entry, _| {
            let pack = clean_place(entry).filter(|pack| sparse[usize::from(entry.dir)].contains(pack));
            let pack = pack.filter(|_| clean.len() < MOVED_TOGETHER && !unmovable.contains(&handle));
            clean.extend(pack.map(|pack| (handle, pack)));
        });
        clean
    }

    /// False if there is no room to move it to, or if it is not there any more.
    fn move_out(&self, handle: ChunkHandle, pack: u32) -> Result<bool, DataError> {
        let open = self.open_replica(handle)?;
        let mut live = open.live.write();
        let is_there = !live.gone && clean_place(live.entry) == Some(pack);
        let Some(place) = live.entry.place.filter(|_| is_there) else { return Ok(false) };
        match self.directory(live.entry).take_place(place.capacity())? {
            Some(place) => self.move_to_place(&open, &mut live, place).map(|()| true),
            None => Ok(false),
        }
    }
}

/// The pack that a replica is in, if it is clean and whole.
fn clean_place(entry: Entry) -> Option<u32> {
    entry.place.filter(|_| entry.state == ReplicaState::Clean && !entry.damaged).map(|place| place.pack)
}
