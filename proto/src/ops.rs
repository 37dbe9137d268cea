//! What a client asks of the master: batches of operations and their results.
//!
//! A request is an ordered *batch*: operations run in order, a result for each, and the batch ends at
//! the first failure. A batch that changes state carries a sequence number; the outcome is kept, so a
//! batch sent again after a lost reply or a failover gets the first answer (exactly once).

use crate::attr::{Attr, FileKind, Mode, SetAttr, SetTime};
use crate::caller::Caller;
use crate::chunk::{ChunkGrant, ChunkMap};
use crate::error::FsError;
use crate::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, DirCookie, Epoch, InodeId, LogIndex, OpenId, Sequence, ServerId,
    TruncateGeneration,
};
use crate::name::Name;
use crate::time::Timestamp;
use std::time::Duration;

/// A sign of life of a client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeepAlive {
    /// All chunkservers that it finds slow now.
    pub slow: Vec<SlowServer>,
}

/// A chunkserver that answers reads much later than the others, as a client has measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowServer {
    /// Which.
    pub server: ServerId,
    /// How long its answers take on average; whole microseconds on the wire.
    pub latency: Duration,
    /// Median of the others' averages.
    pub median: Duration,
}

/// Bits of the handshakes. A side uses a feature only if the other has said its bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The client may name inodes and chunks from ranges granted to it. Nobody grants any yet.
    pub const LOT_GRANTS: Self = Self(1);
    /// The master answers when applied, before durable. Not offered yet.
    pub const EARLY_REPLIES: Self = Self(1 << 1);
    /// Delegations on inodes and directories. Not offered yet.
    pub const DELEGATIONS: Self = Self(1 << 2);
    /// PUT_MANY and GET_MANY frames. Not offered yet.
    pub const MANY_FRAMES: Self = Self(1 << 3);

    /// From the wire; unknown bits are kept, nobody looks at them.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }
    /// For the wire.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// True if all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// An inode, or the one that an earlier operation of the same batch made or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InodeRef {
    /// A known inode.
    Id(InodeId),
    /// The inode in the result of operation number `n` of this batch.
    ResultOf(u8),
}

impl From<InodeId> for InodeRef {
    fn from(inode: InodeId) -> Self {
        Self::Id(inode)
    }
}

/// The batch is refused as a whole unless the directory is still at this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Precondition {
    /// A directory.
    pub inode: InodeId,
    /// Its version as a listing showed it.
    pub version: u64,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Who asks.
    pub caller: Caller,
    /// Number of this mutation in the session; `None` if nothing in the batch changes state.
    pub sequence: Option<Sequence>,
    /// Every lower sequence has been answered: the master may forget those outcomes.
    pub acknowledged: Sequence,
    /// The client's clock, clamped by the master.
    pub client_time: Option<Timestamp>,
    /// See [`Precondition`].
    pub precondition: Option<Precondition>,
    /// 1 to [`crate::limits::BATCH_OPS_MAX`] operations.
    pub ops: Vec<Op>,
}

/// Answer to a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchReply {
    /// One for each operation, up to and including the first failure.
    pub results: Vec<Result<OpResult, FsError>>,
    /// State that the results show.
    pub log_index: LogIndex,
    /// State that is on stable storage on a majority. Today never below `log_index`.
    pub durable_index: LogIndex,
    /// How long names and attributes in this reply may be cached.
    pub ttl: Duration,
}

/// What an open file is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// O_RDONLY.
    Read,
    /// O_WRONLY.
    Write,
    /// O_RDWR.
    ReadWrite,
}

impl Access {
    /// True unless the file was opened only for writing.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }
    /// True unless the file was opened only for reading.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// Registers an open file with the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSpec {
    /// Chosen by the client, unique in its session.
    pub open: OpenId,
    /// What for.
    pub access: Access,
    /// O_TRUNC: cut to nothing in the same command.
    pub truncate: bool,
}

/// What to make under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MakeKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link to a target of 1 to 4095 bytes.
    Symlink(Vec<u8>),
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device of that number.
    CharDevice(u32),
    /// Block device of that number.
    BlockDevice(u32),
}

impl MakeKind {
    /// The kind of inode that results.
    pub const fn file_kind(&self) -> FileKind {
        match self {
            Self::File => FileKind::File,
            Self::Directory => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
            Self::CharDevice(_) => FileKind::CharDevice,
            Self::BlockDevice(_) => FileKind::BlockDevice,
        }
    }
}

/// Make an inode under a name; for files also open it and allocate its first chunk, as one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Make {
    /// Directory to make it in.
    pub parent: InodeRef,
    /// Its name.
    pub name: Name,
    /// What to make.
    pub kind: MakeKind,
    /// Permission bits, umask applied.
    pub mode: Mode,
    /// Fail with `Exists` if the name is taken; otherwise an existing *file* is returned (and opened).
    pub exclusive: bool,
    /// Files: register an open.
    pub open: Option<OpenSpec>,
    /// Files: allocate and grant chunk 0.
    pub first_chunk: bool,
    /// From ranges granted to the client; `None`: the master chooses.
    pub ids: Option<(InodeId, ChunkHandle)>,
}

/// What happens to an existing target of a rename (Linux `renameat2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replaced atomically.
    Replace,
    /// `RENAME_NOREPLACE`: the rename fails.
    NoReplace,
    /// `RENAME_EXCHANGE`: source and target change places.
    Exchange,
}

/// What happens to an existing extended attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Created or replaced.
    Either,
    /// `XATTR_CREATE`: it must not exist.
    Create,
    /// `XATTR_REPLACE`: it must exist.
    Replace,
}

/// A chunk lease that the client holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldChunk {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Of the grant.
    pub epoch: Epoch,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Find a name; `Attr`. `.` and `..` are the client's own business.
    Lookup {
        /// Directory.
        parent: InodeRef,
        /// Name in it.
        name: Name,
    },
    /// `Attr`.
    GetAttr {
        /// Any inode.
        inode: InodeRef,
    },
    /// Target of a symbolic link; `Bytes`.
    ReadLink {
        /// A symbolic link.
        inode: InodeRef,
    },
    /// A page of a directory in cookie order; `Page`.
    ReadDir {
        /// Directory.
        inode: InodeRef,
        /// Cookie of the last entry that the client has.
        after: DirCookie,
        /// About how many bytes the page may have; capped at `REPLY_PAGE_BYTES_MAX`.
        bytes_max: u32,
        /// Attributes with each entry.
        with_attributes: bool,
    },
    /// `Stats`.
    StatFs,
    /// Value of an extended attribute; `Bytes`.
    GetXattr {
        /// Any inode.
        inode: InodeRef,
        /// Name with its namespace (`user.`, `trusted.`, `security.`, `system.`).
        name: Vec<u8>,
    },
    /// Names of all extended attributes; `Names`.
    ListXattr {
        /// Any inode.
        inode: InodeRef,
    },
    /// Locations of `count` chunks from `first`; `Chunks`.
    ReadChunks {
        /// A file.
        inode: InodeRef,
        /// First index.
        first: ChunkIndex,
        /// At most `CHUNKS_PER_REQUEST_MAX`.
        count: u32,
    },
    /// `Made`.
    Make(Make),
    /// A further name of an inode; `Attr`.
    Link {
        /// Anything but a directory.
        inode: InodeRef,
        /// Directory of the new name.
        parent: InodeRef,
        /// The new name.
        name: Name,
    },
    /// Remove a name of anything but a directory; `Done`.
    Unlink {
        /// Directory.
        parent: InodeRef,
        /// Name in it.
        name: Name,
    },
    /// Remove an empty directory; `Done`.
    Rmdir {
        /// Parent directory.
        parent: InodeRef,
        /// Name in it.
        name: Name,
    },
    /// `Done`.
    Rename {
        /// Directory of the old name.
        from_parent: InodeRef,
        /// Old name.
        from_name: Name,
        /// Directory of the new name.
        to_parent: InodeRef,
        /// New name.
        to_name: Name,
        /// See [`RenameMode`].
        mode: RenameMode,
    },
    /// `Attr`.
    SetAttr {
        /// Any inode.
        inode: InodeRef,
        /// What to change.
        changes: SetAttr,
    },
    /// `Done`.
    SetXattr {
        /// Any inode.
        inode: InodeRef,
        /// Name with its namespace.
        name: Vec<u8>,
        /// New value.
        value: Vec<u8>,
        /// See [`XattrMode`].
        mode: XattrMode,
    },
    /// `Done`.
    RemoveXattr {
        /// Any inode.
        inode: InodeRef,
        /// Name with its namespace.
        name: Vec<u8>,
    },
    /// Copies wanted: of a file's chunks, or of what will be created in a directory; `Done`.
    SetGoal {
        /// A file or directory.
        inode: InodeRef,
        /// 1 to `GOAL_MAX`.
        goal: u8,
    },
    /// Register an open file; `Opened`.
    Open {
        /// A file.
        inode: InodeRef,
        /// How.
        spec: OpenSpec,
    },
    /// Forget an open file, and the file itself if this was what kept it; `Done`.
    Release {
        /// The file.
        inode: InodeRef,
        /// As registered.
        open: OpenId,
    },
    /// The right to write a chunk, allocated if it is a hole; `Grant`.
    GrantChunk {
        /// A file that this session has open for writing.
        inode: InodeRef,
        /// Which chunk.
        index: ChunkIndex,
    },
    /// A replica did not answer or refused: raise the version on the live ones; `Grant`.
    BreakChunk {
        /// The file.
        inode: InodeRef,
        /// Which chunk.
        index: ChunkIndex,
        /// The grant that broke: its chunk,
        handle: ChunkHandle,
        /// version
        version: ChunkVersion,
        /// and epoch.
        epoch: Epoch,
        /// Servers that failed.
        suspects: Vec<ServerId>,
    },
    /// Give leases back; `Done`. The replicas may then be marked clean.
    ReturnChunks {
        /// Which.
        chunks: Vec<HeldChunk>,
    },
    /// May an fsync be confirmed? `Done` if no copy that counts, or may count again, lacks what was flushed, and there
    /// are as many as an fsync needs, which are made at once if need be; at once for chunks that are gone.
    /// `StaleGrant`: flush again, the chunk has another version now. `Unavailable` after a while: ask again.
    AwaitCopies {
        /// What was flushed.
        chunks: Vec<FlushedChunk>,
    },
    /// What a writer knows of its file after flushing; `Attr`.
    ReportSize {
        /// The file.
        inode: InodeRef,
        /// It reaches at least this far; never cuts.
        size: u64,
        /// Last change, if any.
        mtime: Option<SetTime>,
        /// Last access, if it was set.
        atime: Option<SetTime>,
        /// Last change of attributes that the writer kept back.
        ctime: Option<Timestamp>,
        /// A report of an older generation is void.
        truncate_generation: TruncateGeneration,
        /// Log it before answering (fsync).
        durable: bool,
    },
    /// What a server sent of a replica did not match its checksums: the server is to look at it; `Done`. May be
    /// wrong or forged, and forgotten.
    ReportDamage {
        /// The chunk.
        handle: ChunkHandle,
        /// Version that was read.
        version: ChunkVersion,
        /// Whose replica.
        server: ServerId,
    },
}

/// A chunk that was flushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlushedChunk {
    /// The chunk.
    pub handle: ChunkHandle,
    /// In this version.
    pub version: ChunkVersion,
    /// At these servers.
    pub servers: Vec<ServerId>,
}

impl Op {
    /// True if it changes nothing, not even what is volatile, and means the same in any session.
    pub const fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Lookup { .. }
                | Self::GetAttr { .. }
                | Self::ReadLink { .. }
                | Self::ReadDir { .. }
                | Self::StatFs
                | Self::GetXattr { .. }
                | Self::ListXattr { .. }
                | Self::ReadChunks { .. }
                | Self::AwaitCopies { .. }
        )
    }

    /// True if the operation goes through the operation log whenever it succeeds.
    pub const fn is_mutation(&self) -> bool {
        match self {
            Self::Make(_)
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::Rmdir { .. }
            | Self::Rename { .. }
            | Self::SetAttr { .. }
            | Self::SetXattr { .. }
            | Self::RemoveXattr { .. }
            | Self::SetGoal { .. } => true,
            Self::Open { spec, .. } => spec.truncate,
            Self::Lookup { .. }
            | Self::GetAttr { .. }
            | Self::ReadLink { .. }
            | Self::ReadDir { .. }
            | Self::StatFs
            | Self::GetXattr { .. }
            | Self::ListXattr { .. }
            | Self::ReadChunks { .. }
            | Self::Release { .. }
            | Self::GrantChunk { .. }
            | Self::BreakChunk { .. }
            | Self::ReturnChunks { .. }
            | Self::AwaitCopies { .. }
            | Self::ReportSize { .. }
            | Self::ReportDamage { .. } => false,
        }
    }
}

/// Result of an operation; which variant belongs to which operation is said there.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "at most 64 in a reply, which lives as long as one request")]
pub enum OpResult {
    /// Nothing to say.
    Done,
    /// Attributes.
    Attr(Attr),
    /// A link's target, an attribute's value.
    Bytes(Vec<u8>),
    /// Part of a directory.
    Page(DirPage),
    /// Of the file system.
    Stats(FsStats),
    /// Names of extended attributes.
    Names(Vec<Vec<u8>>),
    /// Locations.
    Chunks(ChunkMap),
    /// Of [`Op::Make`].
    Made(Made),
    /// Of [`Op::Open`].
    Opened(Opened),
    /// A lease.
    Grant(ChunkGrant),
}

/// Result of [`Op::Make`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Of the inode made or found.
    pub attr: Attr,
    /// True if the name existed and was not made.
    pub existed: bool,
    /// If an open was asked for.
    pub opened: Option<Opened>,
    /// If the first chunk was asked for and the file is new. Absent also when no chunkserver can take
    /// a chunk: the file exists, the first write will say why.
    pub grant: Option<ChunkGrant>,
}

/// Result of [`Op::Open`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Attributes at the open.
    pub attr: Attr,
    /// This session alone has the file open, for writing: it may buffer writes and pick append
    /// offsets until it is recalled.
    pub exclusive: bool,
    /// Locations of the first chunks.
    pub chunks: ChunkMap,
}

/// Part of a directory, in cookie order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirPage {
    /// The entries.
    pub entries: Vec<DirEntry>,
    /// True if nothing follows.
    pub end: bool,
    /// Raised by every change of the directory.
    pub version: u64,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// Its position, to go on after it.
    pub cookie: DirCookie,
    /// What it names.
    pub inode: InodeId,
    /// Type of that.
    pub kind: FileKind,
    /// Attributes, if asked for.
    pub attr: Option<Attr>,
}

/// What `statfs` shows. Bytes are raw: divide by the goal for what a user can store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsStats {
    /// Of all chunkservers that are up.
    pub bytes_total: u64,
    /// For new chunks, reserves taken off.
    pub bytes_free: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Chunks in use.
    pub chunks: u64,
    /// Default goal.
    pub goal: u8,
}
