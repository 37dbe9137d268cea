//! What applying a command gives: results of operations as far as durable state alone can say.
//!
//! Leases, replicas' addresses and opens are volatile: the shell adds them to make a reply of these.

use gfs_proto::attr::Attr;
use gfs_proto::error::FsError;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, InodeId, LogIndex, MapGeneration, ServerId, SessionId, Term,
    TruncateGeneration,
};
use gfs_proto::ops::DirPage;

/// Last log entry whose effects the state shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Applied {
    /// Its position.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// Effects of one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The batch had been applied before: these are its first results, nothing was changed.
    pub replayed: bool,
    /// One for each operation of a batch, up to and including the first failure; else exactly one.
    pub results: Vec<Result<CoreResult, FsError>>,
    /// Chunks that this command gave up (they are in the garbage table now): leases and locations of
    /// them may be forgotten. Empty in a replay.
    pub dropped: Vec<ChunkHandle>,
}

/// Result of one operation, see [`gfs_proto::ops::OpResult`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CoreResult {
    /// Nothing to say.
    Done,
    /// Attributes as recorded.
    Attr(Attr),
    /// A link's target, an attribute's value.
    Bytes(Vec<u8>),
    /// Part of a directory.
    Page(DirPage),
    /// Names of extended attributes.
    Names(Vec<Vec<u8>>),
    /// Counts; the shell adds the room on the chunkservers.
    Stats(Stats),
    /// Part of a file's chunk map.
    Chunks(FileChunks),
    /// Of `Make`. If an open was asked for, the permission was checked and O_TRUNC carried out; to
    /// register the open is the shell's part.
    Made(CoreMade),
    /// Of `Open`: as above, attributes after O_TRUNC.
    Opened(Attr),
    /// Of `Unlink` and `Rmdir`.
    Removed(Removed),
    /// Of `Rename`.
    Renamed {
        /// What was moved.
        inode: InodeId,
        /// What it replaced (not in an exchange).
        replaced: Option<Removed>,
    },
    /// The operation concerns volatile state (Release, GrantChunk, BreakChunk, ReturnChunks, AwaitCopies): the shell
    /// carries it out, on the inode that the reference meant.
    Deferred {
        /// Absent for operations that name none.
        inode: Option<InodeId>,
    },
    /// Of [`crate::Action::AllocateChunk`].
    Allocated {
        /// The chunk.
        chunk: FileChunk,
        /// False if the index had one already.
        created: bool,
        /// Of the file, after the allocation.
        generation: MapGeneration,
    },
    /// Number of a chunkserver.
    Server(ServerId),
    /// Orphans that were removed.
    Reaped(Vec<InodeId>),
}

impl CoreResult {
    /// The inode that a later operation of the batch means by this result's number.
    pub fn inode(&self) -> Option<InodeId> {
        match self {
            Self::Attr(attr) | Self::Opened(attr) => Some(attr.inode),
            Self::Made(made) => Some(made.attr.inode),
            Self::Deferred { inode } => *inode,
            _ => None,
        }
    }
}

/// Result of `Make`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreMade {
    /// Of the inode made or found.
    pub attr: Attr,
    /// True if the name existed.
    pub existed: bool,
    /// If the first chunk was asked for, the file is new and servers were stamped.
    pub chunk: Option<FileChunk>,
}

/// What became of the inode whose name was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The inode.
    pub inode: InodeId,
    /// See [`Afterlife`].
    pub afterlife: Afterlife,
}

/// See [`Removed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Afterlife {
    /// It has other names.
    Linked,
    /// Somebody has it open, or may have: it lives until it is reaped.
    Orphaned,
    /// It is gone, its chunks are garbage.
    Gone,
}

/// A chunk as it is logged. Where live replicas are is volatile and no part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkRecord {
    /// Replicas of another version are stale.
    pub version: ChunkVersion,
    /// Copies wanted.
    pub goal: u8,
    /// Files that it is part of.
    pub references: u32,
    /// Servers entitled to this version; a replica elsewhere is suspect, whatever its version.
    pub entitled: Vec<ServerId>,
    /// The file (one of them, if there are several)
    pub inode: InodeId,
    /// and the place in it.
    pub index: ChunkIndex,
}

/// A chunk in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChunk {
    /// Position in the file.
    pub index: ChunkIndex,
    /// The chunk.
    pub handle: ChunkHandle,
    /// As logged.
    pub record: ChunkRecord,
    /// A cut that the replicas have yet to make: bytes from there on read as zeroes.
    pub cut: Option<PendingCut>,
}

/// A cut inside a chunk that its replicas have yet to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingCut {
    /// Bytes of the chunk that stay.
    pub length: u32,
    /// Of the file, when the cut was logged; names the cut in [`crate::Action::CutApplied`].
    pub generation: TruncateGeneration,
}

/// Part of a file's chunk map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileChunks {
    /// Of the map.
    pub generation: MapGeneration,
    /// Of the size.
    pub truncate_generation: TruncateGeneration,
    /// In order of index; holes have no entry.
    pub chunks: Vec<FileChunk>,
}

/// Counts of the whole state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Pipes, sockets, devices.
    pub specials: u64,
    /// Names in directories.
    pub dentries: u64,
    /// Sum of the files' recorded sizes.
    pub bytes: u64,
    /// Chunks of files.
    pub chunks: u64,
    /// Chunks whose replicas are still to be deleted.
    pub garbage: u64,
    /// Unlinked inodes that are kept.
    pub orphans: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Chunkservers that ever registered.
    pub servers: u64,
    /// Default goal.
    pub goal: u8,
}

impl Stats {
    /// All counts but the default goal.
    pub const fn counts(&self) -> [u64; 11] {
        let Self {
            files,
            directories,
            symlinks,
            specials,
            dentries,
            bytes,
            chunks,
            garbage,
            orphans,
            sessions,
            servers,
            goal: _,
        } = *self;
        [files, directories, symlinks, specials, dentries, bytes, chunks, garbage, orphans, sessions, servers]
    }

    /// With these counts.
    #[must_use]
    pub const fn with_counts(self, counts: [u64; 11]) -> Self {
        let [files, directories, symlinks, specials, dentries, bytes, chunks, garbage, orphans, sessions, servers] =
            counts;
        Self {
            files,
            directories,
            symlinks,
            specials,
            dentries,
            bytes,
            chunks,
            garbage,
            orphans,
            sessions,
            servers,
            goal: self.goal,
        }
    }

    /// Inodes of all kinds.
    pub const fn inodes(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.specials
    }
}

/// A client's session as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// Its id.
    pub session: SessionId,
    /// Names it on its streams.
    pub secret: [u8; 16],
    /// Host and purpose.
    pub name: String,
    /// When it was opened.
    pub opened: gfs_proto::time::Timestamp,
}

/// A chunkserver as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerRecord {
    /// Its number.
    pub server: ServerId,
    /// Its own name.
    pub uuid: gfs_proto::ids::ServerUuid,
    /// Label of its failure domain.
    pub rack: String,
    /// What an operator wants of it.
    pub duty: Duty,
}

/// What an operator wants of a chunkserver, and whether it said that it would be away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Duty {
    /// Its copies are to go elsewhere; it gets no new ones.
    pub draining: bool,
    /// Until then its copies are not missed while it is away.
    pub maintenance_until: Option<gfs_proto::time::Timestamp>,
    /// It was stopped in order then, and has not been back.
    pub left: Option<gfs_proto::time::Timestamp>,
}

/// An unlinked inode that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// The inode.
    pub inode: InodeId,
    /// Live sessions that had it open when it lost its name; empty: nobody knows who has.
    pub sessions: Vec<SessionId>,
}

/// Why a replica is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnclaimedCause {
    /// There is no such chunk, and this history did not remove it.
    NoChunk,
    /// Its version is above the recorded one, and its server is not entitled.
    Ahead,
}

/// A replica that nobody is known to need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unclaimed {
    /// Of which chunk.
    pub handle: ChunkHandle,
    /// Where.
    pub server: ServerId,
    /// As it was reported.
    pub version: ChunkVersion,
    /// Bytes; 0 if its server did not look.
    pub length: u32,
    /// See there.
    pub cause: UnclaimedCause,
}

/// A [`Unclaimed`] that is kept aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The replica.
    pub replica: Unclaimed,
    /// From then on.
    pub since: gfs_proto::time::Timestamp,
}

/// A chunk whose replicas are to be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GarbageChunk {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Replicas of this and any lower version.
    pub version: ChunkVersion,
    /// Who has yet to confirm.
    pub servers: Vec<ServerId>,
}
