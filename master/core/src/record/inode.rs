//! The record of an inode: attributes in about 30 bytes for a file made in one go.
//!
//! ```text
//! version 1 | kind (bits 0-2) xattrs (3) acl (4) mtime=atime (5) ctime=mtime (6) | mode | nlink | uid |
//! gid | goal | parent | atime [mtime] [ctime] | body of the kind
//! file: size, chunks, truncate generation, map generation    directory: entries, version
//! symbolic link: target                                      device: number
//! ```

use super::codec::{Reader, Writer};
use gfs_proto::attr::{Attr, FileKind, Mode};
use gfs_proto::ids::{InodeId, MapGeneration, TruncateGeneration};
use gfs_proto::time::Timestamp;

const FORMAT: u8 = 1;
const XATTRS: u8 = 1 << 3;
const ACL: u8 = 1 << 4;
const MTIME_IS_ATIME: u8 = 1 << 5;
const CTIME_IS_MTIME: u8 = 1 << 6;

/// An inode as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inode {
    pub(crate) id: InodeId,
    pub(crate) mode: Mode,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) goal: u8,
    pub(crate) has_xattrs: bool,
    pub(crate) has_acl: bool,
    /// Of a directory: exactly its parent (the root's is itself). Else: where it was named last.
    pub(crate) parent: InodeId,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) body: Body,
}

/// What depends on the kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    File(FileBody),
    Directory { entries: u64, version: u64 },
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u32),
    BlockDevice(u32),
}

/// Of a regular file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FileBody {
    pub(crate) size: u64,
    /// Chunks that it has: holes do not count.
    pub(crate) chunks: u32,
    pub(crate) truncate_generation: TruncateGeneration,
    pub(crate) map_generation: MapGeneration,
}

impl Body {
    const fn tag(&self) -> u8 {
        match self {
            Self::File(_) => 0,
            Self::Directory { .. } => 1,
            Self::Symlink(_) => 2,
            Self::Fifo => 3,
            Self::Socket => 4,
            Self::CharDevice(_) => 5,
            Self::BlockDevice(_) => 6,
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::File(file) => {
                out.number(file.size);
                out.number(file.chunks);
                out.number(file.truncate_generation.get());
                out.number(file.map_generation.get());
            }
            Self::Directory { entries, version } => {
                out.number(*entries);
                out.number(*version);
            }
            Self::Symlink(target) => out.bytes(target),
            Self::CharDevice(number) | Self::BlockDevice(number) => out.number(*number),
            Self::Fifo | Self::Socket => {}
        }
    }

    fn read(tag: u8, from: &mut Reader<'_>) -> Option<Self> {
        Some(match tag {
            0 => Self::File(FileBody {
                size: from.number()?,
                chunks: from.narrow()?,
                truncate_generation: TruncateGeneration::new(from.number()?),
                map_generation: MapGeneration::new(from.number()?),
            }),
            1 => Self::Directory { entries: from.number()?, version: from.number()? },
            2 => Self::Symlink(from.bytes()?.to_vec()),
            3 => Self::Fifo,
            4 => Self::Socket,
            5 => Self::CharDevice(from.narrow()?),
            6 => Self::BlockDevice(from.narrow()?),
            _ => return None,
        })
    }
}

impl Inode {
    pub(crate) const fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory { .. } => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Fifo => FileKind::Fifo,
            Body::Socket => FileKind::Socket,
            Body::CharDevice(_) => FileKind::CharDevice,
            Body::BlockDevice(_) => FileKind::BlockDevice,
        }
    }

    pub(crate) const fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    /// Adds permission bits, or takes them off.
    pub(crate) fn set_mode_bits(&mut self, bits: u16, on: bool) {
        let mode = self.mode.get();
        self.mode = Mode::new(u32::from(if on { mode | bits } else { mode & !bits }));
    }

    /// `st_size`.
    pub(crate) fn size(&self) -> u64 {
        match &self.body {
            Body::File(file) => file.size,
            Body::Directory { entries, .. } => *entries,
            Body::Symlink(target) => target.len() as u64,
            Body::Fifo | Body::Socket | Body::CharDevice(_) | Body::BlockDevice(_) => 0,
        }
    }

    pub(crate) fn attr(&self) -> Attr {
        let file = if let Body::File(file) = self.body { file } else { FileBody::default() };
        Attr {
            inode: self.id,
            kind: self.kind(),
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: if let Body::CharDevice(rdev) | Body::BlockDevice(rdev) = self.body { rdev } else { 0 },
            size: self.size(),
            chunks: file.chunks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            goal: self.goal,
            has_xattrs: self.has_xattrs,
            has_acl: self.has_acl,
            truncate_generation: file.truncate_generation,
            map_generation: file.map_generation,
        }
    }

    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 64);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.byte(
            self.body.tag()
                | flag(self.has_xattrs, XATTRS)
                | flag(self.has_acl, ACL)
                | flag(self.mtime == self.atime, MTIME_IS_ATIME)
                | flag(self.ctime == self.mtime, CTIME_IS_MTIME),
        );
        out.number(self.mode.get());
        out.number(self.nlink);
        out.number(self.uid);
        out.number(self.gid);
        out.byte(self.goal);
        out.number(self.parent.get());
        out.time(self.atime);
        if self.mtime != self.atime {
            out.time(self.mtime);
        }
        if self.ctime != self.mtime {
            out.time(self.ctime);
        }
        self.body.write(&mut out);
        out.finish()
    }

    pub(crate) fn decode(id: InodeId, bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let flags = from.byte()?;
        let mode = Mode::new(from.narrow()?);
        let (nlink, uid, gid) = (from.narrow()?, from.narrow()?, from.narrow()?);
        let goal = from.byte()?;
        let parent = InodeId::new(from.number()?);
        let atime = from.time()?;
        let mtime = if flags & MTIME_IS_ATIME != 0 { atime } else { from.time()? };
        let ctime = if flags & CTIME_IS_MTIME != 0 { mtime } else { from.time()? };
        let body = Body::read(flags & 7, &mut from)?;
        from.end()?;
        let (has_xattrs, has_acl) = (flags & XATTRS != 0, flags & ACL != 0);
        Some(Self { id, mode, nlink, uid, gid, goal, has_xattrs, has_acl, parent, atime, mtime, ctime, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Timestamp {
        Timestamp::new(secs, nanos).expect("below a second")
    }

    #[test]
    fn every_kind_and_time_round_trips() {
        let far = [at(i64::MIN, 1), at(-1, 999_999_999), at(0, 0), at(4_294_967_296 * 2, 5), at(i64::MAX, 0)];
        let file = FileBody {
            size: 1 << 44,
            chunks: u32::MAX,
            truncate_generation: TruncateGeneration::new(u64::MAX),
            map_generation: MapGeneration::new(3),
        };
        let bodies = [
            Body::File(file),
            Body::Directory { entries: 5, version: u64::MAX },
            Body::Symlink(b"\xff../a".to_vec()),
            Body::Fifo,
            Body::Socket,
            Body::CharDevice(u32::MAX),
            Body::BlockDevice(0),
        ];
        for (i, body) in bodies.into_iter().enumerate() {
            for (atime, mtime, ctime) in [(far[0], far[0], far[0]), (far[1], far[3], far[4]), (far[2], far[1], far[1])]
            {
                let inode = Inode {
                    id: InodeId::new(9),
                    mode: Mode::new(0o7755),
                    nlink: 3,
                    uid: u32::MAX - 1,
                    gid: 7,
                    goal: 9,
                    has_xattrs: i % 2 == 0,
                    has_acl: i % 3 == 0,
                    parent: InodeId::new(u64::MAX),
                    atime,
                    mtime,
                    ctime,
                    body: body.clone(),
                };
                let bytes = inode.encode();
                assert_eq!(Inode::decode(inode.id, &bytes), Some(inode.clone()));
                for cut in 0..bytes.len() {
                    assert_eq!(Inode::decode(inode.id, &bytes[..cut]), None, "a prefix is no record");
                }
            }
        }
    }

    #[test]
    fn a_new_file_is_small() {
        let now = at(1_800_000_000, 123_456_789);
        let file = FileBody { size: 4096, chunks: 1, ..FileBody::default() };
        let inode = Inode {
            id: InodeId::new(1_000_000),
            mode: Mode::new(0o644),
            nlink: 1,
            uid: 1000,
            gid: 1000,
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            parent: InodeId::new(70_000),
            atime: now,
            mtime: now,
            ctime: now,
            body: Body::File(file),
        };
        assert!(inode.encode().len() <= 32, "{} bytes", inode.encode().len());
    }
}
