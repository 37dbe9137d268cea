//! The file operations that the store needs, and nothing else of an operating system.
//!
//! Two implementations: [`RealDisk`](super::real::RealDisk) and the crash-testable
//! [`MemDisk`](super::mem::MemDisk). Errors are `io::Error`s with an OS error number.

use std::ffi::OsString;
use std::io;
use std::path::Path;

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Existing, for reading and writing.
    Existing,
    /// Fails if the name is taken.
    CreateNew,
    /// Opened, made if it is not there; nothing is cut.
    OpenOrCreate,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name.
    pub name: OsString,
    /// True for a directory.
    pub is_dir: bool,
}

/// Room in the file system of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Tells file systems apart: two directories with one number share this room.
    pub file_system: u64,
    /// Its size.
    pub bytes_total: u64,
    /// What this process may still use.
    pub bytes_free: u64,
}

/// A file system, or a model of one.
pub trait Disk: Send + Sync + 'static {
    /// An open file; closed when dropped.
    type File: DiskFile;

    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File>;
    /// Names in a directory, without `.` and `..`, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// Makes a directory, one level.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file within the file system, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// False for a disk whose operations take no time: nothing is won by several threads, whose order would
    /// be another one each time.
    fn waits(&self) -> bool {
        true
    }
    /// Room in the file system that `dir` is in.
    fn room(&self, dir: &Path) -> io::Result<Room>;
}

/// An open file. All I/O is positional, so a file is shared between threads.
pub trait DiskFile: Send + Sync + 'static {
    /// Appends up to `length` bytes from `offset` to `out`; fewer only at the end of the file.
    fn read(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()>;
    /// Like [`DiskFile::read`] if that needs no wait for the device, otherwise `false` and `out` unchanged.
    fn read_cached(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<bool>;
    /// Like [`DiskFile::read`], from the device even where the page cache has the bytes, which it keeps. As good as
    /// the file system lets: one that knows no direct I/O gives what it has.
    fn read_medium(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()>;
    /// Writes all of `parts`, one after the other, from `offset`. After an error any of it may be written.
    fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    /// Makes a range read as zeroes, releasing its room; the file keeps its size.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Gives a new file its size, all zeroes, and keeps room for it; false where the file system cannot keep
    /// room.
    fn allocate(&self, length: u64) -> io::Result<bool>;
    /// Bytes that the file takes on the disk.
    fn allocated(&self) -> io::Result<u64>;
    /// Sets the size of the file.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Size of the file.
    fn length(&self) -> io::Result<u64>;
    /// `fdatasync`: content and size are durable afterwards.
    fn sync(&self) -> io::Result<()>;
    /// `syncfs`: everything in the file system of this file is durable afterwards.
    fn sync_file_system(&self) -> io::Result<()>;
    /// Takes the advisory lock of this open file, until it is closed; false if somebody has it.
    fn try_lock(&self) -> io::Result<bool>;
}
