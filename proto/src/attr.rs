//! Attributes of inodes (POSIX `struct stat`) and changes to them.

use crate::ids::{InodeId, MapGeneration, TruncateGeneration};
use crate::time::Timestamp;

/// Type of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl FileKind {
    /// The `S_IF*` bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
    /// The kind in the `S_IF*` bits of `st_mode`; `None` if they name none.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::File,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }
}

/// Permission bits with setuid, setgid and sticky: the lower 12 bits of `st_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mode(u16);

impl Mode {
    /// setuid.
    pub const SETUID: u16 = 0o4000;
    /// setgid.
    pub const SETGID: u16 = 0o2000;
    /// sticky.
    pub const STICKY: u16 = 0o1000;

    /// Keeps the lower 12 bits.
    pub const fn new(bits: u32) -> Self {
        Self((bits & 0o7777) as u16)
    }
    /// The 12 bits.
    pub const fn get(self) -> u16 {
        self.0
    }
    /// True if all of `bits` are set.
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}

/// What `stat` shows, and what a client must know of an inode to cache it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Inode number.
    pub inode: InodeId,
    /// Type.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: Mode,
    /// Number of names (of subdirectories + 2 for a directory).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes, in the kernel's encoding.
    pub rdev: u32,
    /// Bytes; for a directory the number of entries.
    pub size: u64,
    /// Chunks that the file has, for `st_blocks` of sparse files.
    pub chunks: u32,
    /// Last access, last change of content, last change of attributes.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Copies wanted of each chunk; inherited by what is created in a directory.
    pub goal: u8,
    /// True if the inode has extended attributes: spares a request for each that it has not.
    pub has_xattrs: bool,
    /// True if the inode has a POSIX ACL.
    pub has_acl: bool,
    /// See [`TruncateGeneration`].
    pub truncate_generation: TruncateGeneration,
    /// See [`MapGeneration`].
    pub map_generation: MapGeneration,
}

/// Where a time comes from (POSIX `utimensat`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// `UTIME_NOW`: the time at which the master takes the command.
    Now,
    /// A given time.
    At(Timestamp),
}

/// Changes of attributes; absent fields stay (`UTIME_OMIT`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (`chmod`).
    pub mode: Option<Mode>,
    /// New owner (`chown`).
    pub uid: Option<u32>,
    /// New group (`chown`).
    pub gid: Option<u32>,
    /// New size (`truncate`).
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// New change time: only from a client that holds the file and reports what it kept back.
    pub ctime: Option<Timestamp>,
    /// True if the caller opened the file for writing before its mode forbade that (`ftruncate`).
    pub by_open_handle: bool,
}
