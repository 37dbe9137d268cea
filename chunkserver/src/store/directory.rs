//! One storage directory in use: its paths, room, mark journal, and whether it is in service.
//!
//! ```text
//! lock         locked while a server uses the directory; holds its process number
//! format       whose directory it is, how the last run ended
//! marks        mark journal
//! failed       there after a failed flush: nothing may be written until a person removes it
//! chunks/00 .. chunks/ff
//! packs        small replicas, many to a file
//! ```

use super::disk::{Disk, DiskFile, OpenMode};
use super::format_file::FormatFile;
use super::index::Entry;
use super::layout::{BLOCK, ChunkName};
use super::marks::MarkJournal;
use super::pack::{PACKS, PackError, Packs, Place, Record, units_for};
use crate::loans::LoanGroup;
use gfs_proto::control::DirectorySpace;
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use gfs_proto::mutant;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) const LOCK: &str = "lock";
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_NEW: &str = "format.new";
pub(super) const FAILED: &str = "failed";
pub(super) const CHUNKS: &str = "chunks";

/// Up to this many packs are flushed one by one, beyond it the whole file system is.
const PACK_FLUSHES_MAX: usize = 16;

/// How much of a directory may be used for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Thresholds {
    /// Below it nothing is written.
    pub reserve: u64,
    /// Below it no chunk is placed.
    pub watermark: u64,
}

/// A storage directory that is locked and read.
pub(super) struct Directory<D: Disk> {
    pub path: PathBuf,
    pub marks: MarkJournal<D>,
    pub format: Mutex<FormatFile>,
    pub chunks: AtomicU64,
    pub packs: Packs<D>,
    /// Of its replicas.
    pub loans: LoanGroup,
    disk: Arc<D>,
    /// Open, and so locked, as long as the directory is in use.
    lock: D::File,
    thresholds: Thresholds,
    /// Free bytes when last asked for, less what was written since.
    free: AtomicU64,
    total: AtomicU64,
    file_system: AtomicU64,
    out_of_service: AtomicBool,
    reason: Mutex<String>,
}

/// What a directory is put together from when it has been read.
pub(super) struct Parts<D: Disk> {
    pub disk: Arc<D>,
    pub path: PathBuf,
    pub lock: D::File,
    pub marks: MarkJournal<D>,
    pub format: FormatFile,
    pub thresholds: Thresholds,
    pub chunks: u64,
    pub packs: Packs<D>,
    pub loans: LoanGroup,
}

impl<D: Disk> Directory<D> {
    pub(super) fn new(parts: Parts<D>) -> Self {
        let directory = Self {
            path: parts.path,
            marks: parts.marks,
            format: Mutex::new(parts.format),
            chunks: AtomicU64::new(parts.chunks),
            packs: parts.packs,
            loans: parts.loans,
            disk: parts.disk,
            lock: parts.lock,
            thresholds: parts.thresholds,
            free: AtomicU64::new(0),
            total: AtomicU64::new(0),
            file_system: AtomicU64::new(0),
            out_of_service: AtomicBool::new(false),
            reason: Mutex::new(String::new()),
        };
        directory.look_at_room();
        directory
    }

    pub(super) fn subdir(&self, handle: ChunkHandle) -> PathBuf {
        subdir(&self.path, ChunkName::subdir(handle))
    }

    pub(super) fn chunk_path(&self, name: ChunkName) -> PathBuf {
        self.subdir(name.handle).join(name.file_name())
    }

    pub(super) fn import_path(&self, name: ChunkName) -> PathBuf {
        self.subdir(name.handle).join(name.import_name())
    }

    /// The file that a replica is in: its own, or a pack.
    pub(super) fn file_path(&self, handle: ChunkHandle, entry: Entry) -> PathBuf {
        entry.place.map_or_else(|| self.chunk_path(entry.name(handle)), |place| self.packs.path(place.pack))
    }

    /// Makes the names of a chunk's subdirectory durable.
    pub(super) fn sync_names(&self, handle: ChunkHandle) -> Result<(), DataError> {
        if mutant!(NoDirectorySync) {
            return Ok(());
        }
        let dir = self.subdir(handle);
        self.disk.sync_dir(&dir).map_err(|error| self.flush_failed(&error, &dir))
    }

    /// Makes everything in the directory's file system durable.
    pub(super) fn sync_all(&self) -> Result<(), DataError> {
        self.lock.sync_file_system().map_err(|error| self.flush_failed(&error, &self.path))
    }

    /// Replaces the format file durably.
    pub(super) fn write_format(&self, change: impl FnOnce(&mut FormatFile)) -> io::Result<()> {
        let mut format = self.format.lock();
        let mut new = format.clone();
        change(&mut new);
        if new != *format {
            super::marks::replace_file(&*self.disk, &self.path, (FORMAT, FORMAT_NEW), new.encode().as_bytes())?;
            *format = new;
        }
        Ok(())
    }

    /// Makes a pack durable, with its records.
    pub(super) fn sync_pack(&self, pack: u32) -> Result<(), DataError> {
        self.packs.flush(pack).map_err(|error| self.pack_failed(&error, &self.packs.path(pack)))
    }

    /// Makes packs durable, with their records.
    pub(super) fn sync_packs(&self, packs: &BTreeSet<u32>) -> Result<(), DataError> {
        if packs.len() <= PACK_FLUSHES_MAX {
            return packs.iter().try_for_each(|pack| self.sync_pack(*pack));
        }
        let done = self.packs.flush_together(packs, || self.lock.sync_file_system());
        done.map_err(|error| self.pack_failed(&error, &self.path.join(PACKS)))
    }

    /// Bytes for chunks as last seen; the placement compares them.
    pub(super) fn free_estimate(&self) -> u64 {
        self.free_in_file_system().saturating_add(self.packs.idle())
    }

    fn free_in_file_system(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// True if a new chunk may be placed here. Only looks: room that packs hold is given back by whoever takes
    /// some, or before that by [`Directory::release_room`].
    pub(super) fn accepts_chunks(&self) -> bool {
        let accepts = || self.free_estimate() >= self.thresholds.watermark;
        if !accepts() {
            self.look_at_room();
        }
        accepts() && self.in_service()
    }

    /// Takes `bytes` off the room, or refuses to write.
    pub(super) fn take_room(&self, bytes: u64) -> Result<(), DataError> {
        if !self.in_service() {
            return Err(DataError::Io);
        }
        if !self.has_room(bytes, self.thresholds.reserve) {
            return Err(if self.in_service() { DataError::NoSpace } else { DataError::Io });
        }
        let take = |free: u64| Some(free.saturating_sub(bytes));
        // the closure always gives a value
        let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Ok(())
    }

    /// Asks the file system again before it says no, and gives back what one pack holds: the estimate only
    /// shrinks.
    fn has_room(&self, bytes: u64, kept: u64) -> bool {
        let wanted = bytes.saturating_add(kept);
        let has = || self.free_in_file_system() >= wanted;
        if !has() {
            self.look_at_room();
        }
        has() || self.release() && has()
    }

    /// If chunks with files of their own find no room, gives back what one pack holds and no replica needs. May
    /// wait for the device.
    pub(super) fn release_room(&self) {
        if self.in_service() && self.packs.idle() > 0 && self.free_in_file_system() < self.thresholds.watermark {
            self.release();
        }
    }

    fn release(&self) -> bool {
        let released = self.packs.release();
        self.look_at_room();
        released.unwrap_or_else(|error| {
            self.pack_failed(&error, &self.path.join(PACKS));
            false
        })
    }

    /// True if there is a place in a pack for a replica of so many bytes, or none will be made for it.
    pub(super) fn has_place(&self, bytes: u32) -> bool {
        self.packs.can_take(units_for(bytes))
    }

    /// Room in a pack for a replica of so many bytes; `None` if it should have a file of its own.
    pub(super) fn take_place(&self, bytes: u32) -> Result<Option<Place>, DataError> {
        let units = units_for(bytes);
        loop {
            if let Some((place, needs_room)) = self.packs.take(units) {
                let taken = if needs_room { self.take_room(u64::from(place.units) * BLOCK as u64) } else { Ok(()) };
                return taken.map(|()| Some(place)).inspect_err(|_| self.packs.free(place));
            }
            let made = self.packs.make(units, self.usable_for_packs());
            match made.map_err(|error| self.failed(&error, &self.path.join(PACKS)))? {
                Some(bytes) => self.take_room(bytes)?,
                None => return Ok(None),
            }
        }
    }

    /// Makes the pack that will be filled next, if little is left of the present one. May wait for the device.
    pub(super) fn prepare_places(&self) -> Result<(), DataError> {
        if !self.in_service() {
            return Ok(());
        }
        let made = self.packs.prepare(self.usable_for_packs());
        let bytes = made.map_err(|error| self.failed(&error, &self.path.join(PACKS)))?;
        bytes.map_or(Ok(()), |bytes| self.take_room(bytes))
    }

    fn usable_for_packs(&self) -> u64 {
        self.free_in_file_system().saturating_sub(self.thresholds.watermark)
    }

    /// More room for a replica in a pack, where it is; `None` if there is none behind it.
    pub(super) fn extend_place(&self, place: Place, bytes: u32) -> Result<Option<Place>, DataError> {
        let Some((longer, needs_room)) = self.packs.extend(place, units_for(bytes)) else { return Ok(None) };
        let more = u64::from(longer.units - place.units) * BLOCK as u64;
        let taken = if needs_room { self.take_room(more) } else { Ok(()) };
        taken.map(|()| Some(longer)).inspect_err(|_| self.packs.free(longer.behind(place)))
    }

    /// Writes the record of a packed replica as `entry` says, not durable yet; `old` is what it said before.
    pub(super) fn write_record(&self, handle: ChunkHandle, entry: Entry, old: Option<Entry>) -> Result<(), DataError> {
        let Some(place) = entry.place else { return Ok(()) };
        let sequence = self.packs.next_sequence();
        let record = |entry: Entry, units| {
            let Entry { version, unclean_name, .. } = entry;
            Record { handle, version, unclean: unclean_name, units, sequence }
        };
        let old = old.and_then(|old| Some(record(old, old.place?.units)));
        self.packs
            .write_record(place, &record(entry, place.units), old.as_ref())
            .map_err(|error| self.pack_failed(&error, &self.packs.path(place.pack)))
    }

    /// Makes the file of a new chunk.
    pub(super) fn new_file(&self, path: &Path) -> Result<D::File, DataError> {
        self.disk.open(path, OpenMode::CreateNew).map_err(|error| self.failed(&error, path))
    }

    /// Removes a replica: its file, or its record. Not durable yet.
    pub(super) fn remove(&self, handle: ChunkHandle, entry: Entry) -> Result<(), DataError> {
        let removed = match entry.place {
            Some(place) => self.packs.erase(place),
            None => self.disk.remove(&self.chunk_path(entry.name(handle))),
        };
        match removed {
            Err(error) if entry.place.is_some() || error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed(&error, &self.file_path(handle, entry)))
            }
            _ => Ok(()),
        }
    }

    fn look_at_room(&self) {
        match self.disk.room(&self.path) {
            Ok(room) => {
                self.free.store(room.bytes_free, Ordering::Relaxed);
                self.total.store(room.bytes_total, Ordering::Relaxed);
                self.file_system.store(room.file_system, Ordering::Relaxed);
            }
            Err(error) => self.fail(&format!("the room in it cannot be found out: {error}")),
        }
    }

    /// Number of the file system that it is in, as last seen.
    pub(super) fn file_system(&self) -> u64 {
        self.file_system.load(Ordering::Relaxed)
    }

    /// Its part of the room in a file system that so many directories share: whoever adds them up must not
    /// count it more than once.
    pub(super) fn space(&self, sharers: u64) -> DirectorySpace {
        self.look_at_room();
        let free = self.free_in_file_system() / sharers + self.packs.idle();
        DirectorySpace {
            path: self.path.display().to_string(),
            bytes_total: self.total.load(Ordering::Relaxed) / sharers,
            bytes_free: free.saturating_sub(self.thresholds.reserve / sharers),
            chunks: self.chunks.load(Ordering::Relaxed),
            accepts_chunks: self.accepts_chunks(),
            error: self.reason.lock().clone(),
        }
    }

    pub(super) fn in_service(&self) -> bool {
        !self.out_of_service.load(Ordering::Acquire)
    }

    /// Takes the directory out of service until the next start: nothing is written or lent, reads are tried.
    pub(super) fn fail(&self, reason: &str) {
        let mut first = self.reason.lock();
        if !self.out_of_service.swap(true, Ordering::AcqRel) {
            tracing::error!(
                directory = %self.path.display(), reason,
                "storage directory is out of service: replace the disk; its chunks have a copy less"
            );
            self.loans.revoke();
            reason.clone_into(&mut first);
        }
    }

    /// Judges an error of a file operation.
    pub(super) fn failed(&self, error: &io::Error, path: &Path) -> DataError {
        match judge(error) {
            DataError::Io => {
                self.fail(&format!("{}: {error}", path.display()));
                DataError::Io
            }
            other => other,
        }
    }

    /// Judges an error of a flush: what it lost is not known and would be forgotten by a restart, so
    /// the directory stays out of service until a person looks at it.
    pub(super) fn flush_failed(&self, error: &io::Error, path: &Path) -> DataError {
        self.lost(&format!("flush of {} failed: {error}", path.display()))
    }

    /// Judges an error of an operation on a pack.
    pub(super) fn pack_failed(&self, error: &PackError, path: &Path) -> DataError {
        match error {
            PackError::Io(error) => self.failed(error, path),
            PackError::Flush => self.lost(&format!("flush of {} failed", path.display())),
        }
    }

    fn lost(&self, reason: &str) -> DataError {
        self.fail(reason);
        note_failed_flush(&*self.disk, &self.path, reason);
        DataError::Io
    }
}

/// Notes down, durably, that a flush failed in a storage directory.
pub(super) fn note_failed_flush<D: Disk>(disk: &D, path: &Path, reason: &str) {
    let note = || {
        let file = disk.open(&path.join(FAILED), OpenMode::OpenOrCreate)?;
        file.write(0, &[reason.as_bytes()])?;
        file.sync()?;
        disk.sync_dir(path)
    };
    if let Err(error) = note() {
        tracing::error!(directory = %path.display(), %error, "the failed flush cannot be noted down");
    }
}

/// Path of a subdirectory for chunks.
pub(super) fn subdir(path: &Path, number: u32) -> PathBuf {
    path.join(CHUNKS).join(format!("{number:02x}"))
}

/// What an error of a file operation means for the one who asked.
pub(super) fn judge(error: &io::Error) -> DataError {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOMEM: i32 = 12;
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DataError::NoSpace,
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM)) => DataError::Busy,
        _ => DataError::Io,
    }
}
