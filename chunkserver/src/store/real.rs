//! The operating system's file system through `rustix`: plain positional I/O on sparse files.

use super::disk::{Disk, DiskFile, Listed, OpenMode, Room};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Most parts of one `pwritev` (Linux `UIO_MAXIOV` is 1024).
const PARTS_MAX: usize = 64;

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// An open file of this machine; [`AsFd`] for `sendfile`.
#[derive(Debug)]
pub struct RealFile(File);

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl RealFile {
    /// The same file opened once more, for reading only, whatever its name is now.
    pub fn reopen_for_reading(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(retry(|| rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?)
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<RealFile> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let flags = match mode {
            OpenMode::Existing => flags,
            OpenMode::CreateNew => flags | OFlags::CREATE | OFlags::EXCL,
            OpenMode::OpenOrCreate => flags | OFlags::CREATE,
        };
        let fd = retry(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(RealFile(fd.into()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        std::fs::read_dir(dir)?
            .map(|entry| entry.and_then(|e| Ok(Listed { name: e.file_name(), is_dir: e.file_type()?.is_dir() })))
            .collect()
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry(|| rustix::fs::open(dir, flags, Mode::empty()))?;
        Ok(retry(|| rustix::fs::fsync(&fd))?)
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let room = retry(|| rustix::fs::statvfs(dir))?;
        Ok(Room {
            file_system: retry(|| rustix::fs::stat(dir))?.st_dev,
            bytes_total: room.f_blocks * room.f_frsize,
            bytes_free: room.f_bavail * room.f_frsize,
        })
    }
}

impl DiskFile for RealFile {
    fn read(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.reserve(length);
        while out.len() - start < length {
            let had = out.len();
            let at = offset + (had - start) as u64;
            // the vector may have more room than was asked for: read no further than wanted
            let wanted = length - (had - start);
            let got = if out.capacity() - had <= wanted + READ_SLACK {
                retry(|| rustix::io::pread(&self.0, rustix::buffer::spare_capacity(out), at))?
            } else {
                out.resize(had + wanted, 0);
                let got = retry(|| rustix::io::pread(&self.0, &mut out[had..], at));
                out.truncate(had + got.unwrap_or(0));
                got?
            };
            if got == 0 {
                break;
            }
        }
        out.truncate(start + length);
        Ok(())
    }

    fn read_cached(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        let start = out.len();
        out.resize(start + length, 0);
        let read = retry(|| {
            let parts = &mut [IoSliceMut::new(&mut out[start..])];
            rustix::io::preadv2(&self.0, parts, offset, ReadWriteFlags::NOWAIT)
        });
        match read {
            Ok(got) if got == length => Ok(true),
            Ok(got) if offset + got as u64 == self.length()? => {
                out.truncate(start + got);
                Ok(true)
            }
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP) => {
                out.truncate(start);
                Ok(false)
            }
            Err(error) => {
                out.truncate(start);
                Err(error.into())
            }
        }
    }

    fn read_medium(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
        match retry(|| rustix::fs::open(&path, flags, Mode::empty())) {
            // the bytes are in memory anyway, or the file system has no other way
            Err(Errno::INVAL | Errno::OPNOTSUPP) => self.read(offset, length, out),
            direct => read_direct(&direct?, offset, length, out),
        }
    }

    fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for group in parts.chunks(PARTS_MAX) {
            let total = group.iter().map(|part| part.len()).sum::<usize>();
            let slices: Vec<_> = group.iter().map(|part| IoSlice::new(part)).collect();
            let done = match slices.as_slice() {
                [one] => retry(|| rustix::io::pwrite(&self.0, one, at))?,
                _ => retry(|| rustix::io::pwritev(&self.0, &slices, at))?,
            };
            at += done as u64;
            if done < total {
                at = self.write_rest(at, group, done)?;
            }
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry(|| rustix::fs::fallocate(&self.0, flags, offset, length)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(offset, length),
            done => Ok(done?),
        }
    }

    fn allocate(&self, length: u64) -> io::Result<bool> {
        match retry(|| rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, length)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.set_len(length).map(|()| false),
            done => Ok(done.map(|()| true)?),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        /// Of `st_blocks`, whatever the file system's own blocks are.
        const STAT_BLOCK: u64 = 512;
        Ok(retry(|| rustix::fs::fstat(&self.0))?.st_blocks as u64 * STAT_BLOCK)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(retry(|| rustix::fs::fstat(&self.0))?.st_size as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fdatasync(&self.0))?)
    }

    fn sync_file_system(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::syncfs(&self.0))?)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match retry(|| rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Borders of direct I/O: of offset, length and memory. No device asks for more.
const DIRECT_ALIGN: usize = 4096;

/// Reads whole aligned blocks, of which the wanted bytes are a part.
fn read_direct(file: &OwnedFd, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let before = (offset % DIRECT_ALIGN as u64) as usize;
    let whole = (before + length).next_multiple_of(DIRECT_ALIGN);
    let mut memory = vec![0; whole + DIRECT_ALIGN];
    let start = memory.as_ptr().align_offset(DIRECT_ALIGN);
    let buffer = &mut memory[start..start + whole];
    let mut filled = 0;
    while filled < whole {
        let at = offset - before as u64 + filled as u64;
        let got = retry(|| rustix::io::pread(file, &mut buffer[filled..], at))?;
        filled += got;
        // no whole block: the end of the file
        if got == 0 || !got.is_multiple_of(DIRECT_ALIGN) {
            break;
        }
    }
    out.extend_from_slice(&buffer[before.min(filled)..filled.min(before + length)]);
    Ok(())
}

/// Spare room beyond the bytes wanted up to which a read may fill the vector and be cut afterwards.
const READ_SLACK: usize = 4096;

impl RealFile {
    /// The rest of `parts` after a short write of `done` bytes; returns where they end.
    fn write_rest(&self, mut at: u64, parts: &[&[u8]], mut done: usize) -> io::Result<u64> {
        for part in parts {
            let mut left = &part[done.min(part.len())..];
            done = done.saturating_sub(part.len());
            while !left.is_empty() {
                let wrote = retry(|| rustix::io::pwrite(&self.0, left, at))?;
                if wrote == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += wrote as u64;
                left = &left[wrote..];
            }
        }
        Ok(at)
    }

    /// For file systems that cannot punch holes.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroes = [0; 64 << 10];
        let end = (offset + length).min(self.length()?);
        let mut at = offset;
        while at < end {
            let part = &zeroes[..(end - at).min(zeroes.len() as u64) as usize];
            self.write(at, &[part])?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
