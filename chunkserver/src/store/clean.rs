//! Marking replicas clean, and the clean stop, which does that with all of them.
//!
//! A replica becomes clean in this order: its bytes are durable; its name says so (for one that was
//! never clean); that name is durable; no write has begun since the first step. Only then the mark is
//! taken away.

use super::disk::Disk;
use super::flush::Opened;
use super::index::{Entry, Live, Open};
use super::{ChunkStore, StoreError};
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Replicas marked clean together; they stay open meanwhile.
const CLEAN_BATCH: usize = 1024;
/// Rounds that a clean stop takes to flush what is written meanwhile.
const STOP_ROUNDS: usize = 3;

impl<D: Disk> ChunkStore<D> {
    /// Flushes replicas and marks them clean, unless a write began after their flush did: those stay
    /// dirty, as do those that cannot be flushed. Returns the handles that are clean now.
    pub fn mark_clean(&self, handles: &[ChunkHandle]) -> Vec<ChunkHandle> {
        let clean = handles.chunks(CLEAN_BATCH).flat_map(|batch| self.mark_batch_clean(batch)).collect();
        self.directories.iter().for_each(|directory| directory.marks.write_queued());
        clean
    }

    fn mark_batch_clean(&self, handles: &[ChunkHandle]) -> Vec<ChunkHandle> {
        let mut clean = Vec::new();
        let mut dirty = Vec::new();
        for handle in handles {
            match self.index.get(*handle) {
                Some(entry) if entry.state == ReplicaState::Clean => clean.push(*handle),
                Some(entry) if entry.state == ReplicaState::Dirty && self.directory(entry).in_service() => {
                    dirty.extend(self.open_replica(*handle));
                }
                _ => {}
            }
        }
        dirty.retain(|open| self.write_missing_header(open).is_ok());
        let begun: Vec<u64> = dirty.iter().map(|open| open.live.read().writes).collect();
        if self.flush_all(&dirty).is_err() {
            return clean;
        }
        let mut named: Vec<(&Opened<D>, u64, Entry)> = Vec::new();
        for (open, begun) in dirty.iter().zip(&begun) {
            let mut live = open.live.write();
            if live.is_flushed(*begun) && self.rename(open, &mut live, |entry| entry.unclean_name = false).is_ok() {
                named.push((open, *begun, live.entry));
            }
        }
        let unnamed = named.iter().filter(|(open, ..)| !open.live.read().name_synced);
        let names: Vec<_> = unnamed.map(|(open, _, entry)| (open.handle, *entry)).collect();
        let failed = self.sync_names_of(&names);
        named.retain(|(.., entry)| !failed.contains(&entry.dir));
        clean.extend(named.into_iter().filter_map(|(open, begun, entry)| self.call_clean(open, begun, entry)));
        clean
    }

    /// The last step: nothing was written since `begun`, bytes and name are durable.
    fn call_clean(&self, open: &Open<D::File>, begun: u64, named: Entry) -> Option<ChunkHandle> {
        let mut live = open.live.write();
        let same_name = live.entry.is_named_as(named, open.handle);
        live.name_synced |= same_name;
        if !live.is_flushed(begun) || !same_name {
            return None;
        }
        self.directory(live.entry).marks.clear(open.handle);
        self.publish(open, &mut live, |entry| {
            entry.state = ReplicaState::Clean;
            entry.marked = false;
        });
        Some(open.handle)
    }

    /// A clean file has a header, so that an empty one is known to be damaged.
    fn write_missing_header(&self, open: &Open<D::File>) -> Result<(), DataError> {
        let mut live = open.live.write();
        if live.header || live.gone {
            return Ok(());
        }
        if live.headless {
            return Err(DataError::Corrupt);
        }
        let written = self.image(open, &live)?.write_header(0);
        written.map_err(|error| self.failed(open, &live, &error))?;
        live.header = true;
        live.writes += 1;
        Ok(())
    }

    /// Clean stop: flushes, marks everything clean, writes the clean marker. Nothing can be changed
    /// afterwards. Without it the next start takes this one for a crash; so it does for directories of
    /// which [`StoreError::Unclean`] tells, the others are stopped cleanly even then.
    pub fn stop(&self) -> Result<(), StoreError> {
        self.stopped.store(true, Ordering::Release);
        for _ in 0..STOP_ROUNDS {
            self.mark_clean(&self.dirty());
        }
        let dirty = self.dirty_directories();
        let mut outcome = Ok(());
        for (number, directory) in self.directories.iter().enumerate() {
            let flushed = directory.in_service() && !dirty.contains(&(number as u8)) && directory.marks.flush().is_ok();
            if flushed {
                directory.packs.seal();
            }
            if !flushed || directory.write_format(|format| format.stopped = true).is_err() {
                outcome = Err(StoreError::Unclean { path: directory.path.clone() });
            }
        }
        outcome
    }

    fn dirty_directories(&self) -> BTreeSet<u8> {
        let mut unclean = BTreeSet::new();
        self.index.for_each(|_, entry, _| {
            if entry.state == ReplicaState::Dirty {
                unclean.insert(entry.dir);
            }
        });
        unclean
    }
}

impl<F> Live<F> {
    /// Everything is durable, and nothing was written since change number `begun`.
    fn is_flushed(&self, begun: u64) -> bool {
        let dirty = self.entry.state == ReplicaState::Dirty && !self.gone;
        dirty && self.writes == begun && self.writes_synced == begun
    }
}
