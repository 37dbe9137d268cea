//! Finding damage: what does not match its checksums though no write was interrupted. A replica in which some is
//! found is called *damaged*, durably, until that is mended ([`mend`](super::mend)) or the replica is replaced: a
//! power cut must not make it look like an unfinished write, to which adoption gives new sums.
//!
//! Damage is looked for under the replica's lock, so a write that is half done is never taken for it, and past the
//! page cache, which may have what the device has lost. It decides nothing about deleting: it marks and tells.

use super::ChunkStore;
use super::disk::Disk;
use super::image::{Comparison, Image, STEP};
use super::index::{Entry, Live, Open};
use super::layout::FIELDS_LEN;
use super::pack::{Place, Record};
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of damage in this run.
#[derive(Default)]
pub(super) struct Harm {
    /// Replicas that the master has not been told of.
    news: Mutex<BTreeSet<ChunkHandle>>,
    found: AtomicU64,
    mended: AtomicU64,
}

/// What of a replica is damaged, as far as it was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// The header cannot be believed, and what it said is not known: nothing else was looked at.
    pub headless: bool,
    /// The header is damaged; what it said is known.
    pub header: bool,
    /// Blocks that do not match their sums.
    pub blocks: BTreeSet<u32>,
    /// There are bytes beyond the length.
    pub beyond: bool,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Findings {
    /// Nothing is damaged.
    pub fn is_whole(&self) -> bool {
        !self.headless && !self.header && !self.beyond && self.blocks.is_empty()
    }
}

/// Where bytes are read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    /// As readers get them.
    Cache,
    Medium,
}

impl<D: Disk> ChunkStore<D> {
    /// Compares a replica with its sums, both as readers get it and as the device has it, and calls it damaged, or
    /// damaged no more. [`DataError::Suspect`] if it is one that has to be replaced anyway.
    pub fn examine(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<Findings, DataError> {
        let mut found = Findings::default();
        for from in [From::Cache, From::Medium] {
            let mut offset = Some(0);
            while let Some(at) = offset {
                offset = self.look_at(handle, version, (from, at), &mut found)?;
            }
        }
        self.conclude(handle, version, &found)?;
        Ok(found)
    }

    /// Reads a part of a replica from the device and compares it; where to go on, if it is not the end. `found` is
    /// carried from part to part; the last part concludes.
    pub fn scrub_part(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        offset: u32,
        found: &mut Findings,
    ) -> Result<Option<u32>, DataError> {
        let next = self.look_at(handle, version, (From::Medium, offset), found)?;
        if next.is_none() && (!found.is_whole() || self.is_called_damaged(handle)) {
            // it may have been mended as the device has it, and not as readers get it
            self.examine(handle, version)?;
        }
        Ok(next)
    }

    fn is_called_damaged(&self, handle: ChunkHandle) -> bool {
        self.index.get(handle).is_some_and(|entry| entry.damaged)
    }

    /// Looks at one step; where the next one begins.
    fn look_at(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        (from, offset): (From, u32),
        found: &mut Findings,
    ) -> Result<Option<u32>, DataError> {
        let open = match self.open_replica(handle) {
            // called damaged by that
            Err(DataError::Corrupt) => self.open_replica(handle)?,
            open => open?,
        };
        let live = open.live.read();
        live.check_to_mend(version)?;
        if live.headless {
            found.headless = true;
            return Ok(None);
        }
        let mut chunk = self.image(&open, &live)?;
        if from == From::Medium {
            chunk.bytes = chunk.bytes.on_medium();
        }
        look(&chunk, &live, offset, found).map_err(|error| self.failed(&open, &live, &error))
    }

    /// Calls a replica what was found of it.
    fn conclude(&self, handle: ChunkHandle, version: ChunkVersion, found: &Findings) -> Result<(), DataError> {
        self.with_damaged(handle, version, |open, live| {
            match (found.is_whole(), live.entry.damaged) {
                (false, false) => {
                    tracing::error!(chunk = %handle, blocks = ?found.blocks, header = found.header, "found damage");
                    self.call_damaged(open, live);
                }
                (true, true) => self.call_whole(open, live),
                _ => {}
            }
            Ok(())
        })
    }

    /// Runs `act` on a replica of this version, damaged or not, with everybody else excluded.
    pub(super) fn with_damaged<T>(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        act: impl FnOnce(&Open<D::File>, &mut Live<D::File>) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        let open = self.open_replica(handle)?;
        let mut live = open.live.write();
        live.check_to_mend(version)?;
        act(&open, &mut live)
    }

    /// Something in a replica does not match. Durable, unless its directory is out of service; it is lent no more.
    pub(super) fn call_damaged(&self, open: &Open<D::File>, live: &mut Live<D::File>) {
        if live.entry.damaged {
            return;
        }
        self.note_harm(open.handle, live.entry);
        self.publish(open, live, |entry| entry.damaged = true);
    }

    /// As [`ChunkStore::call_damaged`] for one that cannot even be opened.
    pub(super) fn harm_closed(&self, handle: ChunkHandle, entry: Entry) {
        if self.index.update_closed(handle, entry, Entry { damaged: true, ..entry }) {
            self.note_harm(handle, entry);
        }
    }

    fn note_harm(&self, handle: ChunkHandle, entry: Entry) {
        let directory = self.directory(entry);
        tracing::error!(chunk = %handle, version = %entry.version, directory = %directory.path.display(),
            "a replica does not match its checksums");
        if let Err(error) = directory.marks.harm(handle) {
            tracing::warn!(chunk = %handle, %error, "that it is damaged is not noted down");
        }
        self.harm.found.fetch_add(1, Ordering::Relaxed);
        self.harm.news.lock().insert(handle);
    }

    /// Everything in a replica matches again, durably.
    fn call_whole(&self, open: &Open<D::File>, live: &mut Live<D::File>) {
        let marks = &self.directory(live.entry).marks;
        marks.mended(open.handle);
        marks.write_queued();
        self.publish(open, live, |entry| entry.damaged = false);
        self.harm.news.lock().insert(open.handle);
        tracing::info!(chunk = %open.handle, version = %live.entry.version, "a replica matches its checksums again");
    }

    /// Replicas that were called damaged, or damaged no more, since the last call.
    pub fn take_harm_news(&self) -> BTreeSet<ChunkHandle> {
        std::mem::take(&mut *self.harm.news.lock())
    }

    /// So many blocks, headers or records were written anew.
    pub(super) fn count_mended(&self, count: u64) {
        self.harm.mended.fetch_add(count, Ordering::Relaxed);
    }

    /// A record or a header of a pack is found damaged.
    pub(super) fn count_found(&self) {
        self.harm.found.fetch_add(1, Ordering::Relaxed);
    }

    /// Replicas found damaged in this run, and what was written anew.
    pub fn harm_counts(&self) -> (u64, u64) {
        (self.harm.found.load(Ordering::Relaxed), self.harm.mended.load(Ordering::Relaxed))
    }

    /// Compares the records of all packs with what is known of their replicas, and writes anew what differs, headers
    /// too; how many.
    pub fn scrub_packs(&self) -> u64 {
        let mut mended = 0;
        for (dir, directory) in self.directories.iter().enumerate().filter(|(_, directory)| directory.in_service()) {
            for pack in directory.packs.sound() {
                mended += self.scrub_pack(dir as u8, pack).unwrap_or_else(|error| {
                    tracing::warn!(pack = %directory.packs.path(pack).display(), %error, "a pack was not looked at");
                    0
                });
            }
        }
        self.count_mended(mended);
        mended
    }

    fn scrub_pack(&self, dir: u8, pack: u32) -> Result<u64, DataError> {
        let directory = &self.directories[usize::from(dir)];
        let path = directory.packs.path(pack);
        let seen = directory.packs.table_on_medium(pack).map_err(|error| directory.failed(&error, &path))?;
        let mut differ = Vec::new();
        self.index.for_each(|handle, entry, _| {
            let place = entry.place.filter(|place| entry.dir == dir && place.pack == pack);
            if place.is_some_and(|place| !is_record_of(seen.record(place.first), handle, entry)) {
                differ.push(handle);
            }
        });
        let mut mended = 0;
        for handle in differ {
            mended += u64::from(self.mend_record(handle, (dir, pack))?);
        }
        let table = directory.packs.mend_table(pack, &seen).map_err(|error| directory.pack_failed(&error, &path))?;
        (0..table + mended).for_each(|_| self.count_found());
        Ok(mended + table)
    }

    /// The record of a replica may be damaged: looks again, with everybody else excluded. True if it was.
    fn mend_record(&self, handle: ChunkHandle, (dir, pack): (u8, u32)) -> Result<bool, DataError> {
        let Ok(open) = self.open_replica(handle) else { return Ok(false) };
        let live = open.live.write();
        let here = |place: &Place| live.entry.dir == dir && place.pack == pack && !live.gone;
        let Some(place) = live.entry.place.filter(here) else { return Ok(false) };
        let directory = self.directory(live.entry);
        let path = directory.packs.path(pack);
        let stored = directory.packs.record_on_medium(place).map_err(|error| directory.failed(&error, &path))?;
        if is_record_of(stored, handle, live.entry) {
            return Ok(false);
        }
        tracing::error!(chunk = %handle, pack, slot = place.first, "the record of a replica is damaged; written anew");
        directory.write_record(handle, live.entry, None)?;
        directory.sync_pack(pack)?;
        Ok(true)
    }

    /// The version of a replica that is to be looked at: `None` of one that is suspect, which is replaced anyway.
    pub fn scrubbed_version(&self, handle: ChunkHandle) -> Option<ChunkVersion> {
        let entry = self.index.get(handle)?;
        let is_read = entry.state != ReplicaState::Suspect && self.directory(entry).in_service();
        is_read.then_some(entry.version)
    }
}

impl<F> Live<F> {
    /// As [`Live::check`], for one whose header may be damaged. One that is gone is looked up again by nobody.
    fn check_to_mend(&self, version: ChunkVersion) -> Result<(), DataError> {
        match self.check(version) {
            _ if self.gone => Err(DataError::NoChunk),
            Err(DataError::Corrupt) => Ok(()),
            checked => checked,
        }
    }
}

/// True if the record of a pack says of a replica what is known of it.
fn is_record_of(record: Option<Record>, handle: ChunkHandle, entry: Entry) -> bool {
    record.is_some_and(|record| {
        let Record { version, unclean, units, .. } = record;
        let said = (record.handle, version, unclean, Some(units));
        said == (handle, entry.version, entry.unclean_name, entry.place.map(|place| place.units))
    })
}

/// Compares one step of an image with its sums; with the first its header, with the last what lies behind it.
fn look<F: super::disk::DiskFile>(
    chunk: &Image<F>,
    live: &Live<F>,
    offset: u32,
    found: &mut Findings,
) -> io::Result<Option<u32>> {
    if offset == 0 && live.header {
        let mut fields = Vec::with_capacity(FIELDS_LEN);
        chunk.bytes.read(0, FIELDS_LEN, &mut fields)?;
        found.header |= fields != chunk.layout.header(chunk.handle, live.length)[..FIELDS_LEN];
    }
    let length = STEP.min(live.length.saturating_sub(offset));
    if length > 0 {
        let mut compared = Comparison::default();
        chunk.compare(offset, length, &mut compared)?;
        found.blocks.extend(compared.bad);
        found.bytes += u64::from(length);
    }
    if live.length > offset + length {
        return Ok(Some(offset + length));
    }
    found.beyond |= live.header && !chunk.is_empty_beyond(live.length)?;
    found.bytes += FIELDS_LEN as u64;
    Ok(None)
}
