//! [`Disk`] on a directory of the file system, by plain system calls.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, pread, pwrite};

use super::disk::{Disk, DiskFile};

/// Granularity that satisfies every device for O_DIRECT.
const ALIGNMENT: usize = 4096;
/// Bytes of one O_DIRECT read.
const UNCACHED_READ: usize = 1 << 20;

/// A directory, locked for this process while the value lives.
pub(super) struct RealDisk {
    directory: OwnedFd,
}

impl RealDisk {
    /// Opens the directory, or makes it, and locks it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match fs::mkdir(path, Mode::RWXU) {
            Ok(()) => sync_parent(path)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty())?;
        fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::new(io::ErrorKind::ResourceBusy, "another master uses this directory"),
            error => error.into(),
        })?;
        Ok(Self { directory })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<RealFile> {
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(RealFile(fs::openat(&self.directory, name, flags | OFlags::RDWR | OFlags::CLOEXEC, mode)?))
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(parent)?)
}

impl Disk for RealDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::Dir::read_from(&self.directory)?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, capacity: u64) -> io::Result<RealFile> {
        let file = self.open_file(name, OFlags::CREATE | OFlags::TRUNC)?;
        match fs::fallocate(&file.0, FallocateFlags::empty(), 0, capacity) {
            Ok(()) => {}
            // No preallocation here: a sparse file works too, only slower.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fs::ftruncate(&file.0, capacity)?,
            Err(error) => return Err(error.into()),
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        self.open_file(name, OFlags::empty())
    }

    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>> {
        let unsupported = |error: Errno| match error {
            Errno::INVAL | Errno::OPNOTSUPP => io::Error::new(io::ErrorKind::Unsupported, error),
            error => error.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = fs::openat(&self.directory, name, flags, Mode::empty()).map_err(unsupported)?;
        let mut raw = vec![0; UNCACHED_READ + ALIGNMENT];
        let start = raw.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut raw[start..start + UNCACHED_READ];
        let mut contents = Vec::new();
        loop {
            let count = pread(&file, &mut *buffer, contents.len() as u64).map_err(unsupported)?;
            contents.extend_from_slice(&buffer[..count]);
            // Only the end of the file makes a read of regular files short.
            if count < UNCACHED_READ {
                return Ok(contents);
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.directory)?)
    }
}

/// An open file.
pub(super) struct RealFile(OwnedFd);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(fs::fstat(&self.0)?.st_size as u64)
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match pread(&self.0, &mut *buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    offset += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match pwrite(&self.0, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    bytes = &bytes[count..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fs::fdatasync(&self.0)?)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        fs::ftruncate(&self.0, length)?;
        // The new length is not data that fdatasync must keep, so ask for all of it.
        Ok(fs::fsync(&self.0)?)
    }
}
