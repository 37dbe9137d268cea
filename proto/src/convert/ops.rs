//! The operations of a batch.
//!
//! What a user can get wrong (a name, a link's target, a size, a goal) is refused with the error that the
//! user is to see; what only a faulty client sends is a protocol error. Knows no rule that needs an inode.

use super::{CHUNKS_RETURNED_MAX, Field, REPLICAS_MAX, WireError, at, each_copy};
use crate::attr::{FileKind, Mode, SetAttr};
use crate::error::FsError;
use crate::ids::{ChunkHandle, ChunkVersion, DirCookie, InodeId, OpenId, ServerId, TruncateGeneration};
use crate::limits::{
    BATCH_OPS_MAX, CHUNKS_PER_REQUEST_MAX, REPLY_PAGE_BYTES_MAX, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX,
};
use crate::name::Name;
use crate::ops::{Access, FlushedChunk, InodeRef, Make, MakeKind, Op, OpenSpec, RenameMode, XattrMode};
use crate::wire::{self, op::Kind};
use bytes::Bytes;

impl From<&Op> for wire::Op {
    fn from(op: &Op) -> Self {
        Self { kind: Some(op.into()) }
    }
}

impl From<&Op> for Kind {
    fn from(op: &Op) -> Self {
        match op {
            Op::Lookup { parent, name } => Self::Lookup(wire::Lookup { parent: inode(*parent), name: bytes(name) }),
            Op::GetAttr { inode: i } => Self::GetAttr(wire::GetAttr { inode: inode(*i) }),
            Op::ReadLink { inode: i } => Self::ReadLink(wire::ReadLink { inode: inode(*i) }),
            Op::ReadDir { inode: i, after, bytes_max, with_attributes } => Self::ReadDir(wire::ReadDir {
                inode: inode(*i),
                after: after.get(),
                bytes_max: *bytes_max,
                with_attributes: *with_attributes,
            }),
            Op::StatFs => Self::StatFs(wire::StatFs {}),
            Op::GetXattr { inode: i, name } => Self::GetXattr(wire::GetXattr { inode: inode(*i), name: copy(name) }),
            Op::ListXattr { inode: i } => Self::ListXattr(wire::ListXattr { inode: inode(*i) }),
            Op::ReadChunks { inode: i, first, count } => {
                Self::ReadChunks(wire::ReadChunks { inode: inode(*i), first: first.get(), count: *count })
            }
            Op::Make(make) => Self::Make(make.into()),
            Op::Link { inode: i, parent, name } => {
                Self::Link(wire::Link { inode: inode(*i), parent: inode(*parent), name: bytes(name) })
            }
            Op::Unlink { parent, name } => Self::Unlink(wire::Unlink { parent: inode(*parent), name: bytes(name) }),
            Op::Rmdir { parent, name } => Self::Rmdir(wire::Rmdir { parent: inode(*parent), name: bytes(name) }),
            Op::Rename { from_parent, from_name, to_parent, to_name, mode } => Self::Rename(wire::Rename {
                from_parent: inode(*from_parent),
                from_name: bytes(from_name),
                to_parent: inode(*to_parent),
                to_name: bytes(to_name),
                mode: rename_mode(*mode),
            }),
            Op::SetAttr { inode, changes } => Self::SetAttr(set_attr(*inode, changes)),
            Op::SetXattr { inode: i, name, value, mode } => Self::SetXattr(wire::SetXattr {
                inode: inode(*i),
                name: copy(name),
                value: copy(value),
                mode: xattr_mode(*mode),
            }),
            Op::RemoveXattr { inode: i, name } => {
                Self::RemoveXattr(wire::RemoveXattr { inode: inode(*i), name: copy(name) })
            }
            Op::SetGoal { inode: i, goal } => Self::SetGoal(wire::SetGoal { inode: inode(*i), goal: (*goal).into() }),
            Op::Open { inode: i, spec } => Self::Open(wire::Open { inode: inode(*i), open: Some((*spec).into()) }),
            Op::Release { inode: i, open } => Self::Release(wire::Release { inode: inode(*i), open_id: open.get() }),
            Op::GrantChunk { inode: i, index } => {
                Self::GrantChunk(wire::GrantChunk { inode: inode(*i), index: index.get() })
            }
            Op::BreakChunk { inode: i, index, handle, version, epoch, suspects } => {
                Self::BreakChunk(wire::BreakChunk {
                    inode: inode(*i),
                    index: index.get(),
                    handle: handle.get(),
                    version: version.get(),
                    epoch: Some((*epoch).into()),
                    suspects: suspects.iter().map(|server| server.get()).collect(),
                })
            }
            Op::ReturnChunks { chunks } => Self::ReturnChunks(wire::ReturnChunks { chunks: each_copy(chunks) }),
            Op::AwaitCopies { chunks } => {
                Self::AwaitCopies(wire::AwaitCopies { chunks: chunks.iter().map(Into::into).collect() })
            }
            Op::ReportSize { inode: i, size, mtime, atime, ctime, truncate_generation, durable } => {
                Self::ReportSize(wire::ReportSize {
                    inode: inode(*i),
                    size: *size,
                    mtime: mtime.map(Into::into),
                    atime: atime.map(Into::into),
                    ctime: ctime.map(Into::into),
                    truncate_generation: truncate_generation.get(),
                    durable: *durable,
                })
            }
            Op::ReportDamage { handle, version, server } => Self::ReportDamage(wire::ReportDamage {
                handle: handle.get(),
                version: version.get(),
                server: server.get(),
            }),
        }
    }
}

/// Always present on the wire.
fn inode(inode: InodeRef) -> Option<wire::InodeRef> {
    Some(inode.into())
}

fn bytes(name: &Name) -> Bytes {
    copy(name.as_bytes())
}

fn copy(raw: &[u8]) -> Bytes {
    Bytes::copy_from_slice(raw)
}

const fn rename_mode(mode: RenameMode) -> u32 {
    match mode {
        RenameMode::Replace => 0,
        RenameMode::NoReplace => 1,
        RenameMode::Exchange => 2,
    }
}

const fn xattr_mode(mode: XattrMode) -> u32 {
    match mode {
        XattrMode::Either => 0,
        XattrMode::Create => 1,
        XattrMode::Replace => 2,
    }
}

fn set_attr(target: InodeRef, changes: &SetAttr) -> wire::SetAttr {
    wire::SetAttr {
        inode: inode(target),
        mode: changes.mode.map(|mode| mode.get().into()),
        uid: changes.uid,
        gid: changes.gid,
        size: changes.size,
        atime: changes.atime.map(Into::into),
        mtime: changes.mtime.map(Into::into),
        ctime: changes.ctime.map(Into::into),
        by_open_handle: changes.by_open_handle,
    }
}

impl From<&Make> for wire::Make {
    fn from(make: &Make) -> Self {
        let (target, rdev) = match &make.kind {
            MakeKind::Symlink(target) => (copy(target), 0),
            MakeKind::CharDevice(rdev) | MakeKind::BlockDevice(rdev) => (Bytes::new(), *rdev),
            MakeKind::File | MakeKind::Directory | MakeKind::Fifo | MakeKind::Socket => (Bytes::new(), 0),
        };
        Self {
            parent: inode(make.parent),
            name: bytes(&make.name),
            mode: super::common::full_mode(make.kind.file_kind(), make.mode),
            rdev,
            target,
            exclusive: make.exclusive,
            open: make.open.map(Into::into),
            first_chunk: make.first_chunk,
            inode: make.ids.map_or(0, |(inode, _)| inode.get()),
            chunk: make.ids.map_or(0, |(_, chunk)| chunk.get()),
        }
    }
}

impl From<InodeRef> for wire::InodeRef {
    fn from(inode: InodeRef) -> Self {
        use wire::inode_ref::Kind;
        let kind = match inode {
            InodeRef::Id(inode) => Kind::Inode(inode.get()),
            InodeRef::ResultOf(position) => Kind::ResultOf(position.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::InodeRef> for InodeRef {
    type Error = WireError;
    /// That the operation named comes earlier and has an inode is for the master to see, as it runs.
    fn try_from(raw: wire::InodeRef) -> Result<Self, WireError> {
        use wire::inode_ref::Kind;
        match at("InodeRef", "kind").present(raw.kind)? {
            Kind::Inode(inode) => Ok(Self::Id(at("InodeRef", "inode").inode(inode)?)),
            Kind::ResultOf(position) => {
                let position = u8::try_from(position).ok().filter(|position| usize::from(*position) < BATCH_OPS_MAX);
                position.map(Self::ResultOf).ok_or(at("InodeRef", "result_of").invalid("is beyond any batch"))
            }
        }
    }
}

impl From<Access> for u32 {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => 1,
            Access::Write => 2,
            Access::ReadWrite => 3,
        }
    }
}

impl Field {
    /// The numbers that `OpenSpec` and `Reclaim` have for an access.
    ///
    /// # Errors
    /// Any number but 1, 2, 3.
    pub fn access(self, raw: u32) -> Result<Access, WireError> {
        match raw {
            1 => Ok(Access::Read),
            2 => Ok(Access::Write),
            3 => Ok(Access::ReadWrite),
            _ => Err(self.invalid("is no access mode")),
        }
    }
}

impl From<OpenSpec> for wire::OpenSpec {
    fn from(spec: OpenSpec) -> Self {
        Self { open_id: spec.open.get(), access: spec.access.into(), truncate: spec.truncate }
    }
}

impl TryFrom<wire::OpenSpec> for OpenSpec {
    type Error = WireError;
    fn try_from(raw: wire::OpenSpec) -> Result<Self, WireError> {
        let access = at("OpenSpec", "access").access(raw.access)?;
        Ok(Self { open: OpenId::new(raw.open_id), access, truncate: raw.truncate })
    }
}

impl TryFrom<wire::Op> for Op {
    type Error = WireError;
    fn try_from(raw: wire::Op) -> Result<Self, WireError> {
        match at("Op", "kind").present(raw.kind)? {
            Kind::Lookup(raw) => raw.try_into(),
            Kind::GetAttr(raw) => Ok(Self::GetAttr { inode: at("GetAttr", "inode").required(raw.inode)? }),
            Kind::ReadLink(raw) => Ok(Self::ReadLink { inode: at("ReadLink", "inode").required(raw.inode)? }),
            Kind::ReadDir(raw) => raw.try_into(),
            Kind::StatFs(wire::StatFs {}) => Ok(Self::StatFs),
            Kind::GetXattr(raw) => raw.try_into(),
            Kind::ListXattr(raw) => Ok(Self::ListXattr { inode: at("ListXattr", "inode").required(raw.inode)? }),
            Kind::ReadChunks(raw) => raw.try_into(),
            Kind::Make(raw) => Ok(Self::Make(raw.try_into()?)),
            Kind::Link(raw) => raw.try_into(),
            Kind::Unlink(raw) => raw.try_into(),
            Kind::Rmdir(raw) => raw.try_into(),
            Kind::Rename(raw) => raw.try_into(),
            Kind::SetAttr(raw) => raw.try_into(),
            Kind::SetXattr(raw) => raw.try_into(),
            Kind::RemoveXattr(raw) => raw.try_into(),
            Kind::SetGoal(raw) => raw.try_into(),
            Kind::Open(raw) => raw.try_into(),
            Kind::Release(raw) => raw.try_into(),
            Kind::GrantChunk(raw) => raw.try_into(),
            Kind::BreakChunk(raw) => raw.try_into(),
            Kind::ReturnChunks(raw) => raw.try_into(),
            Kind::AwaitCopies(raw) => raw.try_into(),
            Kind::ReportSize(raw) => raw.try_into(),
            Kind::ReportDamage(raw) => raw.try_into(),
        }
    }
}

/// The decoding of one operation's message; `$field` names a field of it.
macro_rules! decode {
    ($message:ident, |$raw:ident, $field:ident| $op:expr) => {
        impl TryFrom<wire::$message> for Op {
            type Error = WireError;
            fn try_from($raw: wire::$message) -> Result<Self, WireError> {
                let $field = |name| at(stringify!($message), name);
                Ok($op)
            }
        }
    };
}

decode!(Lookup, |raw, field| Self::Lookup {
    parent: field("parent").required(raw.parent)?,
    name: field("name").name(&raw.name)?,
});
decode!(ReadDir, |raw, field| Self::ReadDir {
    inode: field("inode").required(raw.inode)?,
    after: DirCookie::new(raw.after),
    bytes_max: raw.bytes_max.min(REPLY_PAGE_BYTES_MAX),
    with_attributes: raw.with_attributes,
});
decode!(GetXattr, |raw, field| Self::GetXattr {
    inode: field("inode").required(raw.inode)?,
    name: field("name").xattr_name(raw.name)?,
});
decode!(ReadChunks, |raw, field| Self::ReadChunks {
    inode: field("inode").required(raw.inode)?,
    first: field("first").index(raw.first)?,
    count: field("count").chunk_count(raw.count)?,
});
decode!(Link, |raw, field| Self::Link {
    inode: field("inode").required(raw.inode)?,
    parent: field("parent").required(raw.parent)?,
    name: field("name").name(&raw.name)?,
});
decode!(Unlink, |raw, field| Self::Unlink {
    parent: field("parent").required(raw.parent)?,
    name: field("name").name(&raw.name)?,
});
decode!(Rmdir, |raw, field| Self::Rmdir {
    parent: field("parent").required(raw.parent)?,
    name: field("name").name(&raw.name)?,
});
decode!(Rename, |raw, field| Self::Rename {
    from_parent: field("from_parent").required(raw.from_parent)?,
    from_name: field("from_name").name(&raw.from_name)?,
    to_parent: field("to_parent").required(raw.to_parent)?,
    to_name: field("to_name").name(&raw.to_name)?,
    mode: match raw.mode {
        0 => RenameMode::Replace,
        1 => RenameMode::NoReplace,
        2 => RenameMode::Exchange,
        _ => return Err(field("mode").invalid("is no rename mode")),
    },
});
decode!(SetAttr, |raw, field| Self::SetAttr {
    inode: field("inode").required(raw.inode)?,
    changes: SetAttr {
        mode: raw.mode.map(|mode| field("mode").permissions(mode)).transpose()?,
        uid: raw.uid,
        gid: raw.gid,
        size: raw.size.map(|size| field("size").file_size(size)).transpose()?,
        atime: raw.atime.map(TryInto::try_into).transpose()?,
        mtime: raw.mtime.map(TryInto::try_into).transpose()?,
        ctime: raw.ctime.map(TryInto::try_into).transpose()?,
        by_open_handle: raw.by_open_handle,
    },
});
decode!(SetXattr, |raw, field| Self::SetXattr {
    inode: field("inode").required(raw.inode)?,
    name: field("name").xattr_name(raw.name)?,
    value: field("value").xattr_value(raw.value)?,
    mode: match raw.mode {
        0 => XattrMode::Either,
        1 => XattrMode::Create,
        2 => XattrMode::Replace,
        _ => return Err(field("mode").invalid("is no mode of setting")),
    },
});
decode!(RemoveXattr, |raw, field| Self::RemoveXattr {
    inode: field("inode").required(raw.inode)?,
    name: field("name").xattr_name(raw.name)?,
});
decode!(SetGoal, |raw, field| Self::SetGoal {
    inode: field("inode").required(raw.inode)?,
    goal: field("goal").wanted_goal(raw.goal)?,
});
decode!(Open, |raw, field| Self::Open {
    inode: field("inode").required(raw.inode)?,
    spec: field("open").required(raw.open)?,
});
decode!(Release, |raw, field| Self::Release {
    inode: field("inode").required(raw.inode)?,
    open: OpenId::new(raw.open_id),
});
decode!(GrantChunk, |raw, field| Self::GrantChunk {
    inode: field("inode").required(raw.inode)?,
    index: field("index").index(raw.index)?,
});
decode!(BreakChunk, |raw, field| Self::BreakChunk {
    inode: field("inode").required(raw.inode)?,
    index: field("index").index(raw.index)?,
    handle: field("handle").handle(raw.handle)?,
    version: ChunkVersion::new(raw.version),
    epoch: field("epoch").required(raw.epoch)?,
    suspects: field("suspects").suspects(&raw.suspects)?,
});
decode!(ReturnChunks, |raw, field| Self::ReturnChunks {
    chunks: field("chunks").list(raw.chunks, CHUNKS_RETURNED_MAX)?
});
decode!(AwaitCopies, |raw, field| Self::AwaitCopies { chunks: field("chunks").list(raw.chunks, CHUNKS_RETURNED_MAX)? });
decode!(ReportSize, |raw, field| Self::ReportSize {
    inode: field("inode").required(raw.inode)?,
    size: field("size").file_size(raw.size)?,
    mtime: raw.mtime.map(TryInto::try_into).transpose()?,
    atime: raw.atime.map(TryInto::try_into).transpose()?,
    ctime: raw.ctime.map(TryInto::try_into).transpose()?,
    truncate_generation: TruncateGeneration::new(raw.truncate_generation),
    durable: raw.durable,
});
decode!(ReportDamage, |raw, field| Self::ReportDamage {
    handle: field("handle").handle(raw.handle)?,
    version: ChunkVersion::new(raw.version),
    server: field("server").server(raw.server)?,
});

impl From<&FlushedChunk> for wire::FlushedChunk {
    fn from(chunk: &FlushedChunk) -> Self {
        Self {
            handle: chunk.handle.get(),
            version: chunk.version.get(),
            servers: chunk.servers.iter().map(|server| server.get()).collect(),
        }
    }
}

impl TryFrom<wire::FlushedChunk> for FlushedChunk {
    type Error = WireError;

    fn try_from(raw: wire::FlushedChunk) -> Result<Self, WireError> {
        let field = |name| at("FlushedChunk", name);
        Ok(Self {
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            servers: field("servers").suspects(&raw.servers)?,
        })
    }
}

impl TryFrom<wire::Make> for Make {
    type Error = WireError;
    fn try_from(raw: wire::Make) -> Result<Self, WireError> {
        let field = |name| at("Make", name);
        let (kind, mode) = field("mode").full_mode(raw.mode)?;
        field("open").check(kind == FileKind::File || raw.open.is_none(), "is given for what is no file")?;
        field("first_chunk").check(kind == FileKind::File || !raw.first_chunk, "is given for what is no file")?;
        let ids = granted_ids(&raw)?;
        Ok(Self {
            parent: field("parent").required(raw.parent)?,
            name: field("name").name(&raw.name)?,
            kind: make_kind(kind, raw.rdev, raw.target)?,
            mode,
            exclusive: raw.exclusive,
            open: raw.open.map(TryInto::try_into).transpose()?,
            first_chunk: raw.first_chunk,
            ids,
        })
    }
}

fn make_kind(kind: FileKind, rdev: u32, target: Bytes) -> Result<MakeKind, WireError> {
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    at("Make", "rdev").check(is_device || rdev == 0, "is given for what is no device")?;
    at("Make", "target").check(kind == FileKind::Symlink || target.is_empty(), "is given for what is no link")?;
    Ok(match kind {
        FileKind::File => MakeKind::File,
        FileKind::Directory => MakeKind::Directory,
        FileKind::Symlink => MakeKind::Symlink(at("Make", "target").symlink_target(target)?),
        FileKind::Fifo => MakeKind::Fifo,
        FileKind::Socket => MakeKind::Socket,
        FileKind::CharDevice => MakeKind::CharDevice(rdev),
        FileKind::BlockDevice => MakeKind::BlockDevice(rdev),
    })
}

/// Ids from ranges granted to the client: both or none, except that what gets no chunk needs no handle.
fn granted_ids(raw: &wire::Make) -> Result<Option<(InodeId, ChunkHandle)>, WireError> {
    if raw.inode == 0 {
        at("Make", "chunk").check(raw.chunk == 0, "is given without an inode")?;
        return Ok(None);
    }
    at("Make", "chunk").check(raw.chunk != 0 || !raw.first_chunk, "is missing beside an inode")?;
    Ok(Some((InodeId::new(raw.inode), ChunkHandle::new(raw.chunk))))
}

impl Field {
    fn permissions(self, raw: u32) -> Result<Mode, WireError> {
        self.check(raw <= 0o7777, "has more than permission bits")?;
        Ok(Mode::new(raw))
    }
    /// As symlink(2): ENOENT if empty, ENAMETOOLONG; a NUL cannot come from a system call.
    fn symlink_target(self, raw: Bytes) -> Result<Vec<u8>, WireError> {
        match raw.len() {
            0 => Err(self.refused(FsError::NotFound)),
            length if length > SYMLINK_MAX => Err(self.refused(FsError::NameTooLong)),
            _ if raw.contains(&0) => Err(self.refused(FsError::InvalidArgument)),
            _ => Ok(raw.into()),
        }
    }
    /// As xattr(7): ERANGE if empty or too long; a NUL cannot come from a system call.
    fn xattr_name(self, raw: Bytes) -> Result<Vec<u8>, WireError> {
        match raw.len() {
            1..=XATTR_NAME_MAX if raw.contains(&0) => Err(self.refused(FsError::InvalidArgument)),
            1..=XATTR_NAME_MAX => Ok(raw.into()),
            _ => Err(self.refused(FsError::Range)),
        }
    }
    fn xattr_value(self, raw: Bytes) -> Result<Vec<u8>, WireError> {
        if raw.len() <= XATTR_VALUE_MAX { Ok(raw.into()) } else { Err(self.refused(FsError::Range)) }
    }
    fn wanted_goal(self, raw: u32) -> Result<u8, WireError> {
        self.goal(raw).ok().filter(|goal| *goal > 0).ok_or(self.refused(FsError::InvalidArgument))
    }
    fn chunk_count(self, raw: u32) -> Result<u32, WireError> {
        self.check((1..=CHUNKS_PER_REQUEST_MAX).contains(&raw), "is no number of chunks for one request")?;
        Ok(raw)
    }
    fn suspects(self, raw: &[u32]) -> Result<Vec<ServerId>, WireError> {
        self.check_length(raw.len(), REPLICAS_MAX)?;
        raw.iter().map(|server| self.server(*server)).collect()
    }
}
