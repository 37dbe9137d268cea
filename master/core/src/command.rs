//! Commands of the operation log: everything that changes the durable state, with all choices made.
//!
//! Whatever apply must not choose itself (the time, servers for new chunks, who has a file open) is
//! stamped in by the leader before the command is logged, so that live, restart and follower run the
//! same code with the same result. Ids (inodes, handles, servers) are counted in the state itself.

use crate::outcome::{Duty, Unclaimed};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, InodeId, Sequence, ServerId, ServerUuid, SessionId, TruncateGeneration,
};
use gfs_proto::name::Name;
use gfs_proto::ops::{Op, Precondition};
use gfs_proto::time::Timestamp;

/// One entry of the operation log. See [`Command::encode`] for its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Chosen by the leader, the same for the whole command.
    pub stamp: Stamp,
    /// What to do.
    pub action: Action,
}

/// What the leader adds to every command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// The time that the command takes place: the client's clock, clamped, or the leader's.
    pub now: Timestamp,
}

/// What a command does. Each says which [`crate::CoreResult`] it gives; all but batches give exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A client's batch: one result for each operation, up to and including the first failure.
    Batch(CoreBatch),
    /// A client arrives. `Done`; `Exists` if the id is taken.
    OpenSession {
        /// Chosen by the leader at random; not 0.
        session: SessionId,
        /// Names the session on its streams.
        secret: [u8; 16],
        /// Host and purpose, for people.
        name: String,
    },
    /// A client has left or expired: its outcomes are forgotten, it keeps no orphan any more. `Done`;
    /// `SessionExpired` if it is unknown.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// A chunkserver registers. `Server` with its number: the one it has, or the next one.
    RegisterServer {
        /// Kept in its storage directories.
        uuid: ServerUuid,
        /// Label of its failure domain; a known server's is replaced.
        rack: String,
    },
    /// An operator wants something of a chunkserver from now on, instead of what was wanted before. `Done`;
    /// `NotFound` if it is unknown.
    SetDuty {
        /// Which.
        server: ServerId,
        /// What.
        duty: Duty,
    },
    /// A chunkserver is no part of the cluster any more. `Done`; `NotFound` if it is unknown.
    RemoveServer {
        /// Which; the number is not given out again.
        server: ServerId,
    },
    /// Give a hole a chunk (version 1, entitled = placement, unwritten). `Allocated`; if the index has a chunk
    /// already, that one with `created` false.
    AllocateChunk {
        /// A file.
        inode: InodeId,
        /// Position in it.
        index: ChunkIndex,
        /// Chosen servers; not empty (`NoSpace`).
        placement: Vec<ServerId>,
    },
    /// A new version of a chunk is installed at these servers and no others. `Done`; `NotFound` if the
    /// chunk is gone; `StaleGrant` unless the version is higher than the recorded one.
    RaiseVersion {
        /// The chunk.
        handle: ChunkHandle,
        /// Its new version.
        version: ChunkVersion,
        /// Who is entitled to it; not empty.
        entitled: Vec<ServerId>,
        /// None of them has a replica: the chunk begins anew with its first frame.
        unwritten: bool,
    },
    /// The current version of a chunk is now at the servers `to`: a copy was made, or one is about to be
    /// removed. `Done`; `NotFound` if the chunk is gone; `StaleGrant` if version or entitled servers are
    /// not those named here any more.
    Entitle {
        /// The chunk.
        handle: ChunkHandle,
        /// Its version, which stays.
        version: ChunkVersion,
        /// Who is entitled so far, in this order.
        from: Vec<ServerId>,
        /// Who is entitled from now on; not empty.
        to: Vec<ServerId>,
    },
    /// Sizes and times that were volatile while files were open for writing. `Done`; what is out of
    /// date (unknown inode, older generation) is left out silently.
    RecordSizes(Vec<SizeRecord>),
    /// All members confirmed these cuts. `Done`. A pending cut that was replaced by a later one stays.
    CutApplied {
        /// Chunk and generation of the pending cut that was carried out.
        cuts: Vec<(ChunkHandle, TruncateGeneration)>,
    },
    /// Servers confirmed that these garbage replicas are gone. `Done`.
    Collected {
        /// Chunk and server.
        rows: Vec<(ChunkHandle, ServerId)>,
    },
    /// These chunks, in these versions, were allocated and never written: holes again. `Done`.
    Abandon {
        /// Chunk and recorded version; another version is left alone.
        chunks: Vec<(ChunkHandle, ChunkVersion)>,
    },
    /// Replicas of these chunks were seen: they are not unwritten any more. `Done`.
    Written {
        /// What has no mark is left out.
        handles: Vec<ChunkHandle>,
        /// Of each one that survives a power cut; otherwise they may all be gone after one.
        flushed: bool,
    },
    /// These replicas are known to nobody: they are kept aside from the time of the command on. `Done`; what is aside
    /// already, or belongs to a chunk at that server, is left as it is.
    Quarantine {
        /// Which.
        unclaimed: Vec<Unclaimed>,
    },
    /// These replicas are aside no more: they are gone, or their chunk knows of them. `Done`.
    Release {
        /// Chunk and server.
        rows: Vec<(ChunkHandle, ServerId)>,
    },
    /// These replicas are of chunks that were removed in this history: garbage. `Done`; what may be of another history,
    /// or is of a chunk that is there, is left as it is.
    Discard {
        /// Which.
        unclaimed: Vec<Unclaimed>,
    },
    /// What a check found wrong is put right. `Done`; what is not as it was found any more is left as it is.
    Mend {
        /// In order.
        mends: Vec<Mend>,
    },
    /// The state came from a backup: further ids are of the next restore generation. `Done`.
    Restored,
    /// Nobody has these orphans open any more. `Reaped` with those that were orphans.
    Reap {
        /// Unlinked inodes.
        inodes: Vec<InodeId>,
    },
    /// Nothing: a new leader's first entry. `Done`.
    Noop,
}

/// A batch as it is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreBatch {
    /// Who sent it; 0 for the master itself, which keeps no outcomes.
    pub session: SessionId,
    /// Number of the mutation in the session. A number that was applied gets the stored outcome.
    pub sequence: Sequence,
    /// Outcomes of lower numbers are forgotten; such a number coming late is refused (`Protocol`).
    pub acknowledged: Sequence,
    /// Whose permissions count.
    pub caller: Caller,
    /// If it does not hold, the only result is `Precondition` and nothing is changed.
    pub precondition: Option<Precondition>,
    /// In order.
    pub ops: Vec<StampedOp>,
}

/// An operation with the leader's choices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StampedOp {
    /// As the client sent it.
    pub op: Op,
    /// Servers for the chunk that the operation may allocate; empty: allocate none.
    pub placement: Vec<ServerId>,
    /// For operations that may remove a file's last name (Unlink, Rename over a file), and for a
    /// ReportSize: then the session that sends it, if it has the file open for writing.
    pub openers: Option<Openers>,
}

impl From<Op> for StampedOp {
    /// With nothing chosen: no chunk is allocated, a file that loses its last name becomes an orphan.
    fn from(op: Op) -> Self {
        Self { op, placement: Vec::new(), openers: None }
    }
}

/// One repair of the state. Counts are changed by a difference, which stays right whatever happens between the check and
/// the repair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mend {
    /// A name that means no inode goes.
    RemoveName {
        /// Its directory.
        parent: InodeId,
        /// The name.
        name: Name,
    },
    /// Links of an inode that has names.
    AddLinks {
        /// Which.
        inode: InodeId,
        /// How many too few.
        by: i64,
    },
    /// Entries of a directory.
    AddEntries {
        /// Which.
        inode: InodeId,
        /// How many too few.
        by: i64,
    },
    /// An inode that nothing names gets a name in `/lost+found`.
    Rescue {
        /// Which.
        inode: InodeId,
    },
    /// A chunk that is in no file is garbage.
    DropChunk {
        /// Which.
        handle: ChunkHandle,
    },
    /// A place in a file whose chunk does not exist is a hole.
    ClearPlace {
        /// The file.
        inode: InodeId,
        /// The place.
        index: ChunkIndex,
    },
    /// Chunks of a file.
    AddChunks {
        /// Which.
        inode: InodeId,
        /// How many too few.
        by: i64,
    },
    /// The counts that are kept along the way, in the order of [`Stats::counts`](crate::Stats::counts).
    AddCounts {
        /// How many too few.
        by: [i64; 11],
    },
}

/// Who has the file open that an operation is about to remove.
///
/// If the inode that loses its last name is this one, it becomes an orphan of these sessions, or is
/// removed at once if there are none. If it is another one, or nothing was stamped, nobody knows: it
/// becomes an orphan of no session, which lives until a [`Action::Reap`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Openers {
    /// The inode that the leader found under the name.
    pub inode: InodeId,
    /// Sessions that have it open.
    pub sessions: Vec<SessionId>,
}

/// Size and times of a file to be recorded.
///
/// The leader drops times from what it still has to record when a `SetAttr` has set them meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeRecord {
    /// The file.
    pub inode: InodeId,
    /// It reaches at least this far; never cuts.
    pub size: u64,
    /// New modification time.
    pub mtime: Option<Timestamp>,
    /// New access time.
    pub atime: Option<Timestamp>,
    /// New change time; absent: not before the new modification time.
    pub ctime: Option<Timestamp>,
    /// Void if the file was cut since.
    pub truncate_generation: TruncateGeneration,
}
