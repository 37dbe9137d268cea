//! One storage directory in use: its paths, room, mark journal, and whether it is in service.
//!
//! ```text
//! lock         locked while a server uses the directory; holds its process number
//! format       whose directory it is, how the last run ended
//! marks        mark journal
//! failed       there after a failed flush: nothing may be written until a person removes it
//! chunks/00 .. chunks/ff
//! spare        files of deleted chunks, to become those of new ones
//! ```

use super::disk::{Disk, DiskFile, OpenMode};
use super::format_file::FormatFile;
use super::layout::ChunkName;
use super::marks::MarkJournal;
use super::spares::Spares;
use crate::loans::LoanGroup;
use gfs_proto::control::DirectorySpace;
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) const LOCK: &str = "lock";
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_NEW: &str = "format.new";
pub(super) const FAILED: &str = "failed";
pub(super) const CHUNKS: &str = "chunks";

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
    pub spares: Spares<D>,
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
    pub spares: Spares<D>,
    pub loans: LoanGroup,
}

impl<D: Disk> Directory<D> {
    pub(super) fn new(parts: Parts<D>) -> Self {
        let directory = Self {
            path: parts.path,
            marks: parts.marks,
            format: Mutex::new(parts.format),
            chunks: AtomicU64::new(parts.chunks),
            spares: parts.spares,
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

    /// Makes the names of a chunk's subdirectory durable.
    pub(super) fn sync_names(&self, handle: ChunkHandle) -> Result<(), DataError> {
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

    /// Bytes for chunks as last seen; the placement compares them.
    pub(super) fn free_estimate(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// True if a new chunk may be placed here.
    pub(super) fn accepts_chunks(&self) -> bool {
        self.in_service() && self.has_room(0, self.thresholds.watermark)
    }

    /// Takes `bytes` off the room, or refuses to write.
    pub(super) fn take_room(&self, bytes: u64) -> Result<(), DataError> {
        if !self.in_service() {
            return Err(DataError::Io);
        }
        if !self.has_room(bytes, self.thresholds.reserve) {
            return Err(DataError::NoSpace);
        }
        let take = |free: u64| Some(free.saturating_sub(bytes));
        // the closure always gives a value
        let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Ok(())
    }

    /// Asks the file system again before it says no, and gives back what it can: the estimate only shrinks.
    fn has_room(&self, bytes: u64, kept: u64) -> bool {
        let wanted = bytes.saturating_add(kept);
        let has = || self.free_estimate() >= wanted;
        if !has() {
            self.look_at_room();
        }
        while !has() && self.spares.release() {
            self.look_at_room();
        }
        has()
    }

    /// The file of a new chunk that will hold about `bytes`, from the spares if one fits.
    pub(super) fn new_file(&self, name: ChunkName, bytes: u32) -> Result<D::File, DataError> {
        let path = self.chunk_path(name);
        let file = match self.spares.take(&path, bytes) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => self.disk.open(&path, OpenMode::CreateNew),
            Err(error) => Err(error),
        };
        file.map_err(|error| self.failed(&error, &path))
    }

    /// Removes the file of a chunk, which may become a spare. `file` is it, if it is open and nobody else
    /// reads from it.
    pub(super) fn remove_file(&self, name: ChunkName, file: Option<&D::File>, spare: bool) -> Result<(), DataError> {
        let path = self.chunk_path(name);
        // what cannot become a spare is removed as well as it can be
        if spare && matches!(self.spares.put(&path, file), Ok(true)) {
            return Ok(());
        }
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(&error, &path)),
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
        let free = self.free_estimate() / sharers + self.spares.bytes();
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
        let reason = format!("flush of {} failed: {error}", path.display());
        self.fail(&reason);
        let note = || {
            let file = self.disk.open(&self.path.join(FAILED), OpenMode::OpenOrCreate)?;
            file.write(0, &[reason.as_bytes()])?;
            file.sync()?;
            self.disk.sync_dir(&self.path)
        };
        if let Err(error) = note() {
            tracing::error!(directory = %self.path.display(), %error, "the failed flush cannot be noted down");
        }
        DataError::Io
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
