//! Conversions between what the kernel says through fuser and the types of the file system.
//! No decision is made here.

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, Request, TimeOrNow};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::BLOCK_SIZE;
use gfs_proto::name::Name;
use gfs_proto::ops::{MakeKind, RenameMode};
use gfs_proto::time::Timestamp;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Inode numbers are never reused, so one generation serves for ever.
pub(crate) const GENERATION: Generation = Generation(0);

pub(crate) fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno())
}

pub(crate) const fn inode(number: INodeNo) -> InodeId {
    InodeId::new(number.0)
}

pub(crate) fn name(raw: &OsStr) -> Result<Name, FsError> {
    Name::new(raw.as_bytes())
}

/// Who calls. The kernel names no supplementary groups, so for anybody but root they are looked up.
pub(crate) fn caller(request: &Request) -> Caller {
    let groups = if request.uid() == 0 { Vec::new() } else { groups_of(request.pid()) };
    Caller { uid: request.uid(), gid: request.gid(), groups }
}

/// Supplementary groups of a process, from `/proc`; none if it is gone or in another pid namespace.
fn groups_of(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/status")).map(|status| parse_groups(&status)).unwrap_or_default()
}

fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

pub(crate) const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod(2)` makes for a mode and device number; directories and links have calls of their own.
pub(crate) fn node_kind(mode: u32, rdev: u32) -> Result<MakeKind, FsError> {
    match FileKind::from_mode(mode) {
        Some(FileKind::File) => Ok(MakeKind::File),
        Some(FileKind::Fifo) => Ok(MakeKind::Fifo),
        Some(FileKind::Socket) => Ok(MakeKind::Socket),
        Some(FileKind::CharDevice) => Ok(MakeKind::CharDevice(rdev)),
        Some(FileKind::BlockDevice) => Ok(MakeKind::BlockDevice(rdev)),
        Some(FileKind::Directory | FileKind::Symlink) | None => Err(FsError::InvalidArgument),
    }
}

pub(crate) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::InvalidArgument)
    }
}

/// Attributes for the kernel. `st_blocks` counts the chunks that exist, so sparse files look sparse.
pub(crate) fn file_attr(attr: &Attr, chunk_size: ChunkSize) -> FileAttr {
    let bytes = match attr.kind {
        FileKind::File => attr.size.min(u64::from(attr.chunks) * u64::from(chunk_size.get())),
        FileKind::Directory => u64::from(BLOCK_SIZE),
        _ => 0,
    };
    FileAttr {
        ino: INodeNo(attr.inode.get()),
        size: attr.size,
        blocks: bytes.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode.get(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The answer to a lookup of a name that does not exist: inode 0, which the kernel may remember.
pub(crate) fn no_such_file() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = time.as_nanos();
    let magnitude =
        Duration::new((nanos.unsigned_abs() / 1_000_000_000) as u64, (nanos.unsigned_abs() % 1_000_000_000) as u32);
    let shifted = if nanos < 0 { UNIX_EPOCH.checked_sub(magnitude) } else { UNIX_EPOCH.checked_add(magnitude) };
    shifted.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(timestamp(at)),
    }
}

/// The time that the kernel sent. fuser 0.18 turns (-2 s, 800 ms) into 2.8 s *before* 1970 instead of
/// 1.2 s; seconds and nanoseconds are still apart in that, so what the kernel meant is recovered.
fn timestamp(at: SystemTime) -> Timestamp {
    let (secs, nanos) = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => (-(before.duration().as_secs() as i64), before.duration().subsec_nanos()),
    };
    Timestamp::new(secs, nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::attr::Mode;
    use gfs_proto::ids::{MapGeneration, TruncateGeneration};

    fn attr(kind: FileKind, size: u64, chunks: u32) -> Attr {
        Attr {
            inode: InodeId::new(7),
            kind,
            mode: Mode::new(0o4755),
            nlink: 2,
            uid: 1,
            gid: 2,
            rdev: 3,
            size,
            chunks,
            atime: Timestamp::default(),
            mtime: Timestamp::from_nanos(-1_200_000_000),
            ctime: Timestamp::from_nanos(5_000_000_000_000_000_001),
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            truncate_generation: TruncateGeneration::new(0),
            map_generation: MapGeneration::new(0),
        }
    }

    #[test]
    fn blocks_count_what_is_there() {
        let chunk = ChunkSize::new(64 << 10).expect("valid");
        for (kind, size, chunks, blocks) in [
            (FileKind::File, 0, 0, 0),
            (FileKind::File, 1, 1, 1),
            (FileKind::File, 1 << 40, 0, 0),
            (FileKind::File, 1 << 40, 1, 128),
            (FileKind::File, 100_000, 2, 196),
            (FileKind::Directory, 5, 0, 8),
            (FileKind::Symlink, 9, 0, 0),
        ] {
            assert_eq!(file_attr(&attr(kind, size, chunks), chunk).blocks, blocks, "{kind:?} {size} {chunks}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let chunk = ChunkSize::new(64 << 10).expect("valid");
        let converted = file_attr(&attr(FileKind::File, 0, 0), chunk);
        assert_eq!(converted.mtime, UNIX_EPOCH - Duration::from_millis(1200));
        // As fuser 0.18 hands over (-2 s, 800 ms).
        let from_kernel = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(set_time(TimeOrNow::SpecificTime(from_kernel)), SetTime::At(Timestamp::from_nanos(-1_200_000_000)));
        let later = UNIX_EPOCH + Duration::new(5_000_000_000, 1);
        assert_eq!(
            set_time(TimeOrNow::SpecificTime(later)),
            SetTime::At(Timestamp::from_nanos(5_000_000_000_000_000_001))
        );
    }

    #[test]
    fn groups_are_found_in_a_status_file() {
        assert_eq!(parse_groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1\n"), [4, 24, 1000]);
        assert_eq!(parse_groups("Groups:\t\n"), [0u32; 0]);
        assert_eq!(parse_groups(""), [0u32; 0]);
    }

    #[test]
    fn rename_flags_that_exist() {
        assert_eq!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace));
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        for bad in [both, RenameFlags::RENAME_WHITEOUT] {
            assert_eq!(rename_mode(bad), Err(FsError::InvalidArgument));
        }
    }
}
