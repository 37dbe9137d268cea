//! The packs of one storage directory: files that hold many small replicas each, because a file for
//! each costs ten times as much to make and to flush (ADR 5).
//!
//! ```text
//!               take           extend, erase                  no replica is left
//!   (made) ---> filling ---> full, or older than this run ---> removed
//!                  \__ room is short, clean stop __^      (the last few are moved away)
//! ```
//! Invariants:
//! - A unit is given out once in the life of a pack. So what a new replica has not written reads as
//!   zeroes, after any crash, as in a new file; nothing of an earlier one is ever seen.
//! - After a start no pack is filled further: what was given out last may not be in its table.
//! - The record of a replica is erased before its units count as free; these become room again when the
//!   pack is removed, or holes if room is short before that.

mod check;
mod file;
mod format;
mod room;
mod scan;
mod units;

pub(super) use format::{PACK_BYTES_MAX, PACKED_MAX, Place, Record, units_for};
pub(super) use scan::Scanned;

use super::directory::judge;
use super::disk::{Disk, DiskFile, OpenMode};
use super::slice::Slice;
use file::Pack;
use format::{Geometry, UNIT};
use gfs_proto::frame::DataError;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use units::Units;

/// Subdirectory of a storage directory.
pub(super) const PACKS: &str = "packs";
/// What a pack is called while it is made.
const NEW: &str = ".new";
/// A new pack takes at most this part of the room that may be used.
const SHARE: u64 = 16;
/// A pack is nearly full if no more than this part of it is left.
const NEARLY_FULL: u64 = 4;
/// Smaller packs are not made, unless the store is told to make no larger ones.
const PACK_MIN: u64 = 1 << 20;

/// Why an operation on a pack failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    /// An operation on its file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A flush, this one or one before it. What was not durable may be lost and seem to be there.
    #[error("the pack could not be flushed")]
    Flush,
}

/// The packs of one storage directory.
pub(super) struct Packs<D: Disk> {
    disk: Arc<D>,
    dir: PathBuf,
    /// Bytes of the units of a new pack; 0: none is made.
    pack_bytes: u64,
    members: Mutex<Members<D::File>>,
    /// Held by the one who makes a pack, which takes a flush.
    making: Mutex<()>,
    sequence: AtomicU64,
    /// Bytes that packs hold and no replica needs.
    idle: AtomicU64,
}

struct Members<F> {
    packs: BTreeMap<u32, Member<F>>,
    /// The one that is being filled.
    filling: Option<u32>,
    /// The one to be filled next: nothing of it was given out.
    ready: Option<u32>,
    number_next: u32,
}

impl<F: DiskFile> Members<F> {
    fn has(&self, pack: Option<u32>, units: u32) -> bool {
        pack.and_then(|pack| self.packs.get(&pack)).is_some_and(|member| member.has(units))
    }

    /// Units can be given out without making a pack.
    fn can_take(&self, units: u32) -> bool {
        self.has(self.filling, units) || self.has(self.ready, units)
    }

    /// The pack to take units from; the one that is ready takes the place of one that is full.
    fn turn_to(&mut self, units: u32) -> Option<&mut Member<F>> {
        if !self.has(self.filling, units) && self.has(self.ready, units) {
            self.filling = self.ready.take();
        }
        self.packs.get_mut(&self.filling?)
    }

    /// No replicas are put into it any more.
    fn close(&mut self, pack: u32) {
        self.filling = self.filling.filter(|filling| *filling != pack);
        self.ready = self.ready.filter(|ready| *ready != pack);
    }

    /// Replicas may still be put into it.
    fn is_open(&self, pack: u32) -> bool {
        self.filling == Some(pack) || self.ready == Some(pack)
    }
}

/// A pack, and what its units are used for.
struct Member<F> {
    pack: Arc<Pack<F>>,
    /// The first unit that was never given out; of no meaning in a pack that is not filled any more.
    next: u32,
    used: Units,
    /// Units that have room on the disk without being used.
    idle: u64,
    /// The file system keeps room for all units.
    allocated: bool,
    /// Its table cannot be read as a whole: units may be used that seem free.
    damaged: bool,
}

impl<F: DiskFile> Member<F> {
    fn is_nearly_full(&self) -> bool {
        u64::from(self.pack.geometry.units - self.next) * NEARLY_FULL <= u64::from(self.pack.geometry.units)
    }

    /// So many units were never given out.
    fn has(&self, units: u32) -> bool {
        self.next + units <= self.pack.geometry.units
    }

    /// The next units of the pack, which is being filled; `None` if it is full.
    fn take(&mut self, units: u32) -> Option<Place> {
        if !self.has(units) {
            return None;
        }
        let number = self.pack.geometry.number;
        let place = Place { pack: number, first: self.next as u16, units: units as u8 };
        self.next += units;
        self.used.set(place, true);
        Some(place)
    }
}

impl<D: Disk> Packs<D> {
    /// Path of a pack.
    pub(super) fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(format!("{pack:08x}"))
    }

    fn get(&self, pack: u32) -> io::Result<Arc<Pack<D::File>>> {
        let found = self.members.lock().packs.get(&pack).map(|member| member.pack.clone());
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The bytes of a replica. [`io::ErrorKind::NotFound`] if it is gone, and its pack with it.
    pub(super) fn slice(&self, place: Place) -> io::Result<Slice<D::File>> {
        self.get(place.pack).map(|pack| pack.slice(place))
    }

    /// Number for a record that counts instead of all before it.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// True if [`Packs::take`] would give so many units, or no packs are made.
    pub(super) fn can_take(&self, units: u32) -> bool {
        let members = self.members.lock();
        self.pack_bytes == 0 || members.can_take(units)
    }

    /// Units for a new replica in the pack that is being filled, and whether their room has yet to be
    /// taken from the directory's. `None` if the pack is full or there is none.
    pub(super) fn take(&self, units: u32) -> Option<(Place, bool)> {
        let mut members = self.members.lock();
        let member = members.turn_to(units)?;
        let place = member.take(units)?;
        if member.allocated {
            self.take_idle(member, units);
        }
        Some((place, !member.allocated))
    }

    /// More units for a replica, if those behind it were never given out. Otherwise as [`Packs::take`].
    pub(super) fn extend(&self, place: Place, units: u32) -> Option<(Place, bool)> {
        let mut members = self.members.lock();
        let filling = members.filling.filter(|filling| *filling == place.pack)?;
        let member = members.packs.get_mut(&filling).filter(|member| member.next == place.end())?;
        let more = units - u32::from(place.units);
        member.take(more)?;
        if member.allocated {
            self.take_idle(member, more);
        }
        Some((Place { units: units as u8, ..place }, !member.allocated))
    }

    fn take_idle(&self, member: &mut Member<D::File>, units: u32) {
        member.idle -= u64::from(units);
        self.idle.fetch_sub(u64::from(units) * UNIT, Ordering::Relaxed);
    }

    /// Bytes that a pack should have where so many may be used; `None` if none should be made.
    fn size_for(&self, usable: u64) -> Option<u64> {
        let size = self.pack_bytes.min(usable / SHARE);
        let size = size.checked_ilog2().map(|log| 1 << log)?;
        (size >= PACK_MIN.min(self.pack_bytes)).then_some(size)
    }

    /// Makes a pack and begins to fill it, unless another thread did so meanwhile or room is short.
    /// `usable`: bytes that it may take some of. Returns what it took of the file system's room; `None`
    /// if none was made.
    pub(super) fn make(&self, units: u32, usable: u64) -> io::Result<Option<u64>> {
        let _making = self.making.lock();
        if self.members.lock().can_take(units) {
            return Ok(Some(0));
        }
        self.make_as(units, usable, |members, number| members.filling = Some(number))
    }

    /// As [`Packs::make`], before it is needed: if little is left of the one that is being filled. `None` if none
    /// was made.
    pub(super) fn prepare(&self, usable: u64) -> io::Result<Option<u64>> {
        let _making = self.making.lock();
        let is_wanted = {
            let members = self.members.lock();
            let filling = members.filling.and_then(|filling| members.packs.get(&filling));
            members.ready.is_none() && filling.is_some_and(Member::is_nearly_full)
        };
        if !is_wanted {
            return Ok(None);
        }
        self.make_as(1, usable, |members, number| members.ready = Some(number))
    }

    /// The caller holds `making`.
    fn make_as(
        &self,
        units: u32,
        usable: u64,
        enter: impl FnOnce(&mut Members<D::File>, u32),
    ) -> io::Result<Option<u64>> {
        let number = self.members.lock().number_next;
        let Some(bytes) = self.size_for(usable) else { return Ok(None) };
        let geometry = Geometry { number, units: (bytes / UNIT) as u32 };
        if geometry.units < units {
            return Ok(None);
        }
        let (pack, allocated) = match self.write_new(geometry) {
            Err(error) if judge(&error) == DataError::NoSpace => return Ok(None),
            made => made?,
        };
        let idle = if allocated { u64::from(geometry.units) } else { 0 };
        self.idle.fetch_add(idle * UNIT, Ordering::Relaxed);
        let used = Units::new(geometry.units);
        let member = Member { pack: Arc::new(pack), next: 0, used, idle, allocated, damaged: false };
        let mut members = self.members.lock();
        members.packs.insert(number, member);
        enter(&mut members, number);
        members.number_next += 1;
        Ok(Some(if allocated { geometry.length() } else { geometry.unit_at(0) }))
    }

    /// A pack without replicas, durable with its name.
    fn write_new(&self, geometry: Geometry) -> io::Result<(Pack<D::File>, bool)> {
        let path = self.path(geometry.number);
        let new = path.with_extension(&NEW[1..]);
        // what an earlier try has left that failed
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.open(&new, OpenMode::CreateNew)?;
        let made = || {
            let allocated = file.allocate(geometry.length())?;
            // so that no write to the table needs room
            file.write(0, &[&geometry.header(), &vec![0; geometry.table_len() as usize]])?;
            file.sync()?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(allocated)
        };
        let allocated = made().inspect_err(|_: &io::Error| {
            // as good as it goes: the next start removes it otherwise
            let _ = self.disk.remove(&new);
        })?;
        Ok((Pack::new(geometry, file), allocated))
    }

    /// Writes the record of a replica, not durable yet. `old` is the one that is there, put back durably if
    /// that fails.
    pub(super) fn write_record(&self, place: Place, record: &Record, old: Option<&Record>) -> Result<(), PackError> {
        let pack = self.get(place.pack)?;
        let Err(error) = pack.write_record(place.first, record) else { return Ok(()) };
        let undone = match old {
            Some(old) => pack.write_record(place.first, old),
            None => pack.erase_record(place.first),
        };
        // never as if the disk were full only: the next start may find either record
        Err(match undone {
            Ok(()) => pack.flush().map_or_else(|failed| failed, |()| error.into()),
            Err(worse) => io::Error::other(format!("a record is not certain: {error}, {worse}")).into(),
        })
    }

    /// Erases the record of a replica, not durable yet, and frees its units.
    pub(super) fn erase(&self, place: Place) -> io::Result<()> {
        self.get(place.pack)?.erase_record(place.first)?;
        self.free(place);
        Ok(())
    }

    /// Frees units for which there is no record.
    pub(super) fn free(&self, place: Place) {
        let mut members = self.members.lock();
        if let Some(member) = members.packs.get_mut(&place.pack) {
            member.used.set(place, false);
            member.idle += u64::from(place.units);
            self.idle.fetch_add(u64::from(place.units) * UNIT, Ordering::Relaxed);
        }
    }

    /// Makes everything durable that was written to this pack before the call, records included. Of one that
    /// was removed meanwhile it is durable that it has no replicas.
    pub(super) fn flush(&self, pack: u32) -> Result<(), PackError> {
        self.get(pack).map_or(Ok(()), |pack| pack.flush())
    }

    /// As [`Packs::flush`] for many packs at once, by `sync`, which flushes the file system.
    pub(super) fn flush_together(
        &self,
        packs: &BTreeSet<u32>,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), PackError> {
        let packs: Vec<_> = packs.iter().filter_map(|pack| self.get(*pack).ok()).collect();
        Pack::flush_together(&packs, sync)
    }

    /// A flush of this pack failed.
    pub(super) fn has_failed(&self, pack: u32) -> bool {
        self.get(pack).is_ok_and(|pack| pack.has_failed())
    }
}

/// Number of a pack by its name.
fn parse(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (format!("{number:08x}") == name).then_some(number)
}

/// Where the packs of a storage directory are.
fn folder(path: &Path) -> PathBuf {
    path.join(PACKS)
}
