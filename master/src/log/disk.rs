//! The few file operations that the log needs, so that tests can put a disk with crashes and errors
//! below it. One `Disk` is one directory; names have no slashes.

use std::io;
use std::sync::Arc;

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

/// A disk of either kind, so that those who own a log need not know which.
#[derive(Clone)]
pub struct AnyDisk(Arc<dyn Erased>);

/// [`Disk`] without its type of files.
trait Erased: Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    fn create(&self, name: &str, capacity: u64) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_directory(&self) -> io::Result<()>;
}

impl<D: Disk<File: 'static>> Erased for D {
    fn list(&self) -> io::Result<Vec<String>> {
        Disk::list(self)
    }
    fn create(&self, name: &str, capacity: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Disk::create(self, name, capacity)?))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Disk::open(self, name)?))
    }
    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>> {
        Disk::read_uncached(self, name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Disk::rename(self, from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        Disk::remove(self, name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        Disk::sync_directory(self)
    }
}

impl AnyDisk {
    /// This one.
    pub fn new<D: Disk<File: 'static>>(disk: D) -> Self {
        Self(Arc::new(disk))
    }
}

impl Disk for AnyDisk {
    type File = Box<dyn DiskFile>;

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str, capacity: u64) -> io::Result<Self::File> {
        self.0.create(name, capacity)
    }
    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.0.open(name)
    }
    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read_uncached(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }
}

impl DiskFile for Box<dyn DiskFile> {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        (**self).truncate(length)
    }
}
