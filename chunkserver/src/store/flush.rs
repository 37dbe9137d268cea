//! Flushing: what was written is durable afterwards. Replicas in one pack share a flush; many files, or many packs,
//! share one of the file system.
//!
//! Invariant: what a failed flush may have lost is never served from the page cache, and the failure is noted down
//! durably.

use super::ChunkStore;
use super::disk::{Disk, DiskFile};
use super::index::{Entry, Live, Open};
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::{DataError, SyncChunk};
use gfs_proto::ids::ChunkHandle;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Up to this many files are flushed one by one, beyond it the whole file system is.
const FILE_FLUSHES_MAX: usize = 32;

pub(super) type Opened<D> = Arc<Open<<D as Disk>::File>>;

/// A replica with changes that may not be durable.
struct Unflushed<'o, D: Disk> {
    open: &'o Opened<D>,
    /// Changes and entry when it was looked at.
    writes: u64,
    entry: Entry,
}

impl<D: Disk> ChunkStore<D> {
    /// Makes everything written to these chunks before the call durable, with their names.
    pub fn sync(&self, chunks: &[SyncChunk]) -> Result<(), DataError> {
        let mut open = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let entry = self.index.get(chunk.handle).ok_or(DataError::NoChunk)?;
            if entry.version != chunk.version {
                return Err(DataError::Version);
            } else if entry.state != ReplicaState::Clean {
                open.push(self.with_shared_open(*chunk)?);
            }
        }
        self.flush_all(&open)?;
        let names: Vec<(ChunkHandle, Entry)> = open
            .iter()
            .filter_map(|open| {
                let live = open.live.read();
                (!live.name_synced && !live.gone).then_some((open.handle, live.entry))
            })
            .collect();
        let failed = self.sync_names_of(&names);
        names.iter().filter(|(_, entry)| !failed.contains(&entry.dir)).for_each(|(handle, entry)| {
            self.name_is_durable(*handle, *entry);
        });
        if failed.is_empty() { Ok(()) } else { Err(DataError::Io) }
    }

    fn with_shared_open(&self, chunk: SyncChunk) -> Result<Opened<D>, DataError> {
        loop {
            let open = self.open_replica(chunk.handle)?;
            let live = open.live.read();
            if !live.gone {
                live.check(chunk.version)?;
                drop(live);
                return Ok(open);
            }
        }
    }

    /// Flushes the content of replicas that need it. One whose flush fails is suspect from then on, and all
    /// that are dirty in its pack.
    pub(super) fn flush_all(&self, replicas: &[Opened<D>]) -> Result<(), DataError> {
        let unflushed = replicas.iter().filter_map(|open| {
            let live = open.live.read();
            let (writes, entry) = (live.writes, live.entry);
            (writes != live.writes_synced && !live.gone).then_some(Unflushed { open, writes, entry })
        });
        let (packed, files): (Vec<_>, Vec<_>) = unflushed.partition(|one| one.entry.place.is_some());
        self.flush_packed(&packed)?;
        if files.len() > FILE_FLUSHES_MAX {
            let all: BTreeSet<u8> = files.iter().map(|one| one.entry.dir).collect();
            all.into_iter().try_for_each(|dir| self.directories[usize::from(dir)].sync_all())?;
            files.iter().for_each(|one| one.open.live.write().flushed(one.writes));
            return Ok(());
        }
        files.iter().try_for_each(|one| self.flush_file(one))
    }

    /// Flushes each pack once, records included.
    fn flush_packed(&self, packed: &[Unflushed<'_, D>]) -> Result<(), DataError> {
        for (dir, packs) in packs_of(packed.iter().map(|one| one.entry)) {
            let directory = &self.directories[usize::from(dir)];
            directory.sync_packs(&packs).inspect_err(|_| {
                let failed = packs.iter().filter(|pack| directory.packs.has_failed(**pack));
                failed.for_each(|pack| self.poison_pack(dir, *pack));
            })?;
        }
        for Unflushed { open, writes, entry } in packed {
            let mut live = open.live.write();
            live.flushed(*writes);
            live.name_synced |= live.entry.is_named_as(*entry, open.handle);
        }
        Ok(())
    }

    /// A flush covers all of a pack: what it lost may be anything that was not durable.
    fn poison_pack(&self, dir: u8, pack: u32) {
        let is_hit = |entry: Entry| {
            let here = entry.dir == dir && entry.place.is_some_and(|place| place.pack == pack);
            here && entry.state == ReplicaState::Dirty
        };
        let mut hit = Vec::new();
        self.index.for_each(|handle, entry, _| {
            if is_hit(entry) {
                hit.push(handle)
            }
        });
        for handle in hit {
            let Ok(open) = self.open_replica(handle) else { continue };
            let mut live = open.live.write();
            if !live.gone && is_hit(live.entry) {
                self.poison(&open, &mut live, "a flush of its pack failed");
            }
        }
    }

    fn flush_file(&self, one: &Unflushed<'_, D>) -> Result<(), DataError> {
        let bytes = one.open.live.read().bytes.clone();
        let done = bytes.file.sync();
        let mut live = one.open.live.write();
        let Err(error) = done else {
            live.flushed(one.writes);
            return Ok(());
        };
        let directory = self.directory(live.entry);
        self.poison(one.open, &mut live, "its flush failed");
        Err(directory.flush_failed(&error, &directory.file_path(one.open.handle, live.entry)))
    }

    /// Flushes the content of a replica that the caller has exclusively.
    pub(super) fn flush_bytes(&self, handle: ChunkHandle, live: &Live<D::File>) -> Result<(), DataError> {
        let directory = self.directory(live.entry);
        match live.entry.place {
            Some(place) => directory.sync_pack(place.pack),
            None => {
                let done = live.bytes.file.sync();
                done.map_err(|error| directory.flush_failed(&error, &directory.file_path(handle, live.entry)))
            }
        }
    }
}

/// The packs that replicas are in, by directory.
pub(super) fn packs_of(entries: impl Iterator<Item = Entry>) -> BTreeMap<u8, BTreeSet<u32>> {
    let mut packs: BTreeMap<u8, BTreeSet<u32>> = BTreeMap::new();
    for (dir, place) in entries.filter_map(|entry| Some((entry.dir, entry.place?))) {
        packs.entry(dir).or_default().insert(place.pack);
    }
    packs
}

impl<F> Live<F> {
    /// The first `writes` changes are durable.
    fn flushed(&mut self, writes: u64) {
        self.writes_synced = self.writes_synced.max(writes);
    }
}
