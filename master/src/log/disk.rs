//! The few file operations that the log needs, so that tests can put a disk with crashes and errors
//! below it. One `Disk` is one directory; names have no slashes.

use std::io;

/// A directory of segment files.
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Names of the files there are.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `capacity` zero bytes whose blocks are allocated. Neither it nor its name is
    /// durable before [`DiskFile::sync`] and [`Disk::sync_directory`].
    fn create(&self, name: &str, capacity: u64) -> io::Result<Self::File>;
    /// Opens a file for reading, writing, truncating.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// The whole file as the device has it, whatever the page cache says.
    /// `ErrorKind::Unsupported` where the page cache cannot be bypassed.
    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Gives a file another name, replacing whatever had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Bytes up to the end of the file.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer from an offset; a file that ends before is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes at an offset, into the page cache.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes contents and length durable. After an error nothing is known about either.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, durably.
    fn truncate(&self, length: u64) -> io::Result<()>;
}
