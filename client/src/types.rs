//! What the calls of [`crate::Client`] take and return beyond the types of the protocol.

use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::ids::{ClusterId, DirCookie, InodeId, SessionId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::name::Name;
use gfs_proto::ops::Access;
use std::time::Duration;

/// Of the cluster and of this client's session with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// Its chunk size.
    pub chunk_size: ChunkSize,
    /// Copies of a chunk when nobody said otherwise.
    pub goal_default: u8,
    /// This client's session at the moment.
    pub session: SessionId,
    /// Address of the master that it talks to.
    pub master: String,
}

/// An inode with how long the kernel may believe in what is said of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its attributes, with this client's own unreported writes in them.
    pub attr: Attr,
    /// Life of name and attributes, from now.
    pub ttl: Duration,
}

/// Answer to a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The name exists.
    Found(Entry),
    /// It does not; that may be remembered.
    Missing {
        /// For so long.
        ttl: Duration,
    },
}

/// An open file of this client. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileHandle(u64);

impl FileHandle {
    /// Wraps a number that [`FileHandle::get`] gave to the kernel.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// For the kernel.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// An open directory of this client. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DirHandle(u64);

impl DirHandle {
    /// Wraps a number that [`DirHandle::get`] gave to the kernel.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// For the kernel.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The flags of `open(2)` that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// O_RDONLY, O_WRONLY, O_RDWR.
    pub access: Access,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_APPEND.
    pub append: bool,
    /// O_SYNC or O_DSYNC: each write is on stable storage when it returns.
    pub sync: bool,
    /// O_EXCL; only [`crate::Client::create`] looks at it.
    pub exclusive: bool,
}

impl OpenFlags {
    /// Plain access without further flags.
    pub const fn new(access: Access) -> Self {
        Self { access, truncate: false, append: false, sync: false, exclusive: false }
    }
    /// From the flags of `open(2)` on Linux.
    pub const fn from_linux(flags: i32) -> Self {
        Self {
            access: match flags & 0o3 {
                0 => Access::Read,
                1 => Access::Write,
                _ => Access::ReadWrite,
            },
            truncate: flags & 0o1000 != 0,
            append: flags & 0o2000 != 0,
            sync: flags & 0o10_000 != 0, // O_DSYNC; O_SYNC has this bit and one more
            exclusive: flags & 0o200 != 0,
        }
    }
}

/// Answer to an open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// For all further calls.
    pub handle: FileHandle,
    /// The kernel's pages of this inode are still true (FOPEN_KEEP_CACHE).
    pub keep_cache: bool,
    /// The kernel must not cache pages (FOPEN_DIRECT_IO): others write the file, or have written it
    /// since the kernel was last told its size.
    pub direct: bool,
}

/// What the kernel says beside the bytes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteFlags {
    /// FUSE_WRITE_CACHE: pages of a mapping. They never extend the file and never append.
    pub from_cache: bool,
    /// FUSE_WRITE_KILL_SUIDGID: the writer may not keep setuid and setgid.
    pub kill_suid: bool,
}

/// What `fallocate(2)` is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// The file reaches at least the end of the range.
    Extend,
    /// Space may be set aside; the size stays (FALLOC_FL_KEEP_SIZE).
    KeepSize,
    /// The range reads as zeroes (FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE with KEEP_SIZE).
    Zero {
        /// Bytes beyond the end are left alone.
        keep_size: bool,
    },
}

/// What `lseek(2)` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// A name in a directory, as [`crate::Client::readdir`] gives it. `.` and `..` are not among them:
/// cookies below [`DirCookie::FIRST`] are free for whoever wants to add those two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirItem {
    /// The name.
    pub name: Name,
    /// Its position: pass it to go on after it.
    pub cookie: DirCookie,
    /// What it names.
    pub inode: InodeId,
    /// Type of that.
    pub kind: FileKind,
    /// Attributes, if they were asked for.
    pub entry: Option<Entry>,
}

/// Some entries of a directory, in cookie order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirItems {
    /// The entries; empty only at the end.
    pub items: Vec<DirItem>,
    /// Nothing follows these.
    pub end: bool,
}
