//! The life of a replica but for its content: created, raised to a higher version, deleted.

use super::ChunkStore;
use super::disk::Disk;
use super::flush::packs_of;
use super::index::{Entry, Live, Open, Seen};
use super::layout::{HEADER_LEN, VERSION_MAX};
use super::pack::PACKED_MAX;
use super::slice::Slice;
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::{DataError, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Up to this many directories are flushed one by one, beyond it the whole file system is.
const DIRECTORY_FLUSHES_MAX: usize = 16;

impl<D: Disk> ChunkStore<D> {
    /// Makes an empty replica, dirty, in the directory with most room. `bytes`: it will hold about as many. Costs
    /// no flush unless a pack has to be made, or it takes the place of one of a lower version: a chunk begins again
    /// only where nothing that it held counts.
    /// [`DataError::Epoch`] if the chunk has a replica of this version or a higher one here already.
    pub fn create(&self, handle: ChunkHandle, version: ChunkVersion, bytes: u32) -> Result<(), DataError> {
        self.layout()?;
        check_version(version)?;
        if self.stopped.load(Ordering::Acquire) {
            return Err(DataError::Busy);
        }
        if self.index.get(handle).is_some_and(|present| present.version >= version) {
            return Err(DataError::Epoch);
        }
        let dir = self.place()?;
        // Gone for good first, or it would come back when the new one is deleted.
        let old = self.index.get(handle).filter(|old| old.version < version);
        if let Some(old) = old {
            let removed = self.unlink(SyncChunk { handle, version: old.version }).map_err(|_| DataError::Epoch)?;
            self.sync_name(handle, removed)?;
            self.directory(removed).marks.mended(handle);
        }
        let marked = old.is_some_and(|old| old.marked);
        let directory = &self.directories[usize::from(dir)];
        let place = if bytes <= PACKED_MAX { directory.take_place(bytes)? } else { None };
        let entry =
            Entry { version, dir, place, unclean_name: true, marked, damaged: false, state: ReplicaState::Dirty };
        let free = || place.into_iter().for_each(|place| directory.packs.free(place));
        directory.take_room(if place.is_some() { 0 } else { HEADER_LEN as u64 }).inspect_err(|_| free())?;
        let seen = self.index.insert(handle, entry).ok_or(DataError::Epoch).inspect_err(|_| free())?;
        let bytes = self.new_image(handle, entry).inspect_err(|_| {
            self.index.remove(handle);
            free();
        })?;
        directory.chunks.fetch_add(1, Ordering::Relaxed);
        let live = Live {
            entry,
            bytes,
            gone: false,
            header: false,
            headless: false,
            length: 0,
            writes: 1,
            writes_synced: 0,
            name_synced: false,
        };
        self.index.enter(Open::new(handle, live), seen);
        self.close_idle(handle);
        Ok(())
    }

    /// True if a new replica for so many bytes needs no flush. Another request may change that.
    pub fn creates_at_once(&self, handle: ChunkHandle, bytes: u32) -> bool {
        let has_place = |dir: u8| bytes > PACKED_MAX || self.directories[usize::from(dir)].has_place(bytes);
        self.index.get(handle).is_none() && self.place().is_ok_and(has_place)
    }

    /// The bytes of a replica that is made, all zeroes.
    fn new_image(&self, handle: ChunkHandle, entry: Entry) -> Result<Slice<D::File>, DataError> {
        let directory = self.directory(entry);
        let Some(place) = entry.place else {
            return directory.new_file(&directory.chunk_path(entry.name(handle))).map(Slice::whole);
        };
        directory.write_record(handle, entry, None)?;
        directory.packs.slice(place).map_err(|error| directory.failed(&error, &directory.path))
    }

    /// Number of the directory for a new chunk: the one with most room.
    pub(super) fn place(&self) -> Result<u8, DataError> {
        let open = self.directories.iter().enumerate().filter(|(_, directory)| directory.accepts_chunks());
        let best = open.max_by_key(|(_, directory)| directory.free_estimate());
        let none = if self.directories.iter().any(|d| d.in_service()) { DataError::NoSpace } else { DataError::Io };
        best.map(|(number, _)| number as u8).ok_or(none)
    }

    /// Gives a replica a higher version, durably. Idempotent: if it has version `to` already, that is made durable,
    /// which a run before this one may not have come to.
    pub fn raise(&self, handle: ChunkHandle, from: ChunkVersion, to: ChunkVersion) -> Result<(), DataError> {
        check_version(to)?;
        if to < from {
            return Err(DataError::Protocol);
        }
        let has = self.index.get(handle).ok_or(DataError::NoChunk)?.version;
        let name = self.with_exclusive(handle, if has == to { to } else { from }, |open, live| {
            self.rename(open, live, |entry| entry.version = to)?;
            Ok(live.entry)
        })?;
        self.sync_name(handle, name)?;
        self.name_is_durable(handle, name);
        Ok(())
    }

    /// Renames a replica to what its entry says after `change`: its file, or its record in a pack. Not
    /// durable yet.
    pub(super) fn rename(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        change: impl FnOnce(&mut Entry),
    ) -> Result<(), DataError> {
        let directory = self.directory(live.entry);
        if !directory.in_service() {
            return Err(DataError::Io);
        }
        let mut entry = live.entry;
        change(&mut entry);
        let (from, to) = (live.entry.name(open.handle), entry.name(open.handle));
        if from != to {
            if entry.place.is_some() {
                directory.write_record(open.handle, entry, Some(live.entry))?;
            } else {
                let (from, to) = (directory.chunk_path(from), directory.chunk_path(to));
                self.disk.rename(&from, &to).map_err(|error| directory.failed(&error, &from))?;
            }
            live.name_synced = false;
        }
        self.publish(open, live, |published| *published = entry);
        Ok(())
    }

    /// Notes that a replica's name was flushed, if it still is the name it had then.
    pub(super) fn name_is_durable(&self, handle: ChunkHandle, then: Entry) {
        if let Some((_, Some(open))) = self.index.get_open(handle) {
            let mut live = open.live.write();
            if live.entry.is_named_as(then, handle) {
                live.name_synced = true;
            }
        }
    }

    /// Deletes replicas of exactly these versions, durably; one result for each.
    /// [`DataError::NoChunk`] if there is none, [`DataError::Version`] if it has another. In a directory out
    /// of service nothing is durable: the replica is not served again, but may be found at the next start.
    pub fn delete(&self, chunks: &[SyncChunk]) -> Vec<Result<(), DataError>> {
        let mut results: Vec<_> = chunks.iter().map(|chunk| self.unlink(*chunk)).collect();
        let removed: Vec<(ChunkHandle, Entry)> = chunks
            .iter()
            .zip(&results)
            .filter_map(|(chunk, done)| Some((chunk.handle, *done.as_ref().ok()?)))
            .filter(|(_, entry)| self.directory(*entry).in_service())
            .collect();
        let failed = self.sync_names_of(&removed);
        self.directories.iter().for_each(|directory| directory.packs.remove_empty());
        for (handle, entry) in &removed {
            if !failed.contains(&entry.dir) {
                self.directory(*entry).marks.forget(*handle);
            }
        }
        for result in &mut results {
            if matches!(result, Ok(entry) if failed.contains(&entry.dir)) {
                *result = Err(DataError::Io);
            }
        }
        results.into_iter().map(|result| result.map(|_| ())).collect()
    }

    fn unlink(&self, chunk: SyncChunk) -> Result<Entry, DataError> {
        let SyncChunk { handle, version } = chunk;
        let (entry, _held) =
            self.take_out(handle, |entry| if entry.version == version { Ok(()) } else { Err(DataError::Version) })?;
        let directory = self.directory(entry);
        if let Err(error) = directory.remove(handle, entry)
            && directory.in_service()
        {
            // it is still there, and must not be forgotten; if its record cannot be put back, the directory
            // is out of service
            let _ = directory.write_record(handle, entry, None).and_then(|()| self.sync_name(handle, entry));
            self.index.insert(handle, entry);
            return Err(error);
        }
        directory.chunks.fetch_sub(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// Removes a replica from the index, when nobody is at it, if `allowed`.
    #[expect(clippy::type_complexity, reason = "what it was, and the file that keeps its room until dropped")]
    pub(super) fn take_out(
        &self,
        handle: ChunkHandle,
        allowed: impl Fn(Entry) -> Result<(), DataError>,
    ) -> Result<(Entry, Option<Arc<Open<D::File>>>), DataError> {
        loop {
            let (Seen { entry, .. }, open) = self.index.get_open(handle).ok_or(DataError::NoChunk)?;
            let Some(open) = open else {
                allowed(entry)?;
                if self.index.remove_closed(handle, entry) {
                    return Ok((entry, None));
                }
                continue;
            };
            let mut live = open.live.write();
            if !live.gone {
                allowed(live.entry)?;
                live.gone = true;
                self.index.remove(handle);
                let entry = live.entry;
                drop(live);
                return Ok((entry, Some(open)));
            }
        }
    }

    /// Makes the name of a replica durable.
    pub(super) fn sync_name(&self, handle: ChunkHandle, entry: Entry) -> Result<(), DataError> {
        if self.sync_names_of(&[(handle, entry)]).is_empty() { Ok(()) } else { Err(DataError::Io) }
    }

    /// Makes the names in the subdirectories of these replicas durable, and the records of those in packs;
    /// the directories that failed.
    pub(super) fn sync_names_of(&self, replicas: &[(ChunkHandle, Entry)]) -> BTreeSet<u8> {
        let packs = packs_of(replicas.iter().map(|(_, entry)| *entry)).into_iter();
        let unsynced = packs.filter(|(dir, packs)| self.directories[usize::from(*dir)].sync_packs(packs).is_err());
        let mut failed: BTreeSet<u8> = unsynced.map(|(dir, _)| dir).collect();
        failed.append(&mut self.sync_file_names_of(replicas));
        failed
    }

    fn sync_file_names_of(&self, replicas: &[(ChunkHandle, Entry)]) -> BTreeSet<u8> {
        let mut seen = BTreeSet::new();
        let mut each = Vec::new();
        for (handle, entry) in replicas.iter().filter(|(_, entry)| entry.place.is_none()) {
            let subdir = super::layout::ChunkName::subdir(*handle);
            if seen.insert((entry.dir, subdir)) {
                each.push((*handle, *entry));
            }
        }
        if each.len() > DIRECTORY_FLUSHES_MAX {
            let all: BTreeSet<u8> = seen.into_iter().map(|(dir, _)| dir).collect();
            return all.into_iter().filter(|dir| self.directories[usize::from(*dir)].sync_all().is_err()).collect();
        }
        let failed = each.iter().filter(|(handle, entry)| self.directory(*entry).sync_names(*handle).is_err());
        failed.map(|(_, entry)| entry.dir).collect()
    }
}

pub(super) fn check_version(version: ChunkVersion) -> Result<(), DataError> {
    if (1..=VERSION_MAX).contains(&version.get()) { Ok(()) } else { Err(DataError::Protocol) }
}
