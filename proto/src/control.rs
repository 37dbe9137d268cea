//! What a chunkserver and the master say to each other.

use crate::chunk::{Numbering, Replica, ServerAddress};
use crate::error::FsError;
use crate::frame::SyncChunk;
use crate::ids::{
    ChunkHandle, ChunkVersion, ClusterId, Epoch, Incarnation, RunId, Sequence, Serial, ServerId, ServerUuid, SessionId,
    Term, TruncateGeneration,
};
use crate::layout::ChunkSize;
use crate::ops::{Capabilities, HeldChunk};
use crate::time::Timestamp;
use std::time::Duration;

/// From a chunkserver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromChunkserver {
    /// The first message.
    Register(Register),
    /// Every heartbeat interval.
    Heartbeat(Heartbeat),
    /// After registration in full, then changes.
    Report(ChunkReport),
    /// Answer to a command.
    Result(CommandResult),
    /// A member of a chain lost its successor.
    ChainBreak(ChainBreak),
    /// A clean stop: no repair is wanted yet.
    Leaving,
}

/// Who a chunkserver is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// `None` before the first registration.
    pub cluster: Option<ClusterId>,
    /// Kept in its storage directories.
    pub uuid: ServerUuid,
    /// Raised durably at each start.
    pub incarnation: Incarnation,
    /// Of this start.
    pub run: RunId,
    /// Data ports.
    pub address: ServerAddress,
    /// Label of its failure domain; may be empty.
    pub rack: String,
    /// Version of the program.
    pub software: String,
    /// Room per directory.
    pub space: Vec<DirectorySpace>,
    /// Features.
    pub capabilities: Capabilities,
    /// Highest term it obeyed; a master of a lower one is refused.
    pub highest_term: Term,
}

/// Room in one storage directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectorySpace {
    /// Its path, for people.
    pub path: String,
    /// Size of its file system.
    pub bytes_total: u64,
    /// Free for chunks, the reserve taken off.
    pub bytes_free: u64,
    /// Chunk files in it.
    pub chunks: u64,
    /// False at the watermark or after I/O errors.
    pub accepts_chunks: bool,
    /// Why it is out of service; empty if it is not.
    pub error: String,
}

/// Sign of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The server's own clock, opaque to the master, returned in the answer.
    pub sent: u64,
    /// Room per directory.
    pub space: Vec<DirectorySpace>,
    /// Leases to extend: chunks written since the last heartbeat.
    pub writing: Vec<HeldChunk>,
    /// Load, for placement.
    pub requests_in_flight: u32,
    /// How far the scrubber is; `None` from a server that has none.
    pub scrub: Option<ScrubProgress>,
}

/// How far a chunkserver has read its replicas to find damage. One round reads every one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubProgress {
    /// The round under way, or the last one; 0: there was none.
    pub round: u64,
    /// The last one that came to its end.
    pub finished: u64,
    /// When [`round`](Self::round) did begin.
    pub began: Timestamp,
    /// Replicas to be read, about.
    pub replicas_total: u64,
    /// Replicas read.
    pub replicas_done: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Somebody asked for this round: it goes at full speed.
    pub hurried: bool,
    /// Replicas found damaged since the server started, by whomever.
    pub damaged: u64,
    /// Blocks, headers and records of packs that were written anew since then.
    pub mended: u64,
}

/// State of a replica as its server knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaState {
    /// Flushed, unmodified since.
    Clean,
    /// Under modification.
    Dirty,
    /// Was dirty when its server stopped uncleanly: not to be served before it was compared.
    Suspect,
    /// Its storage directory is out of service: it can be read as long as the disk can, it is no copy to count on.
    Failing,
    /// Something in it does not match its checksums, and no write was interrupted. Its other blocks are as they should
    /// be: it may be read block by block, it is no copy to count on.
    Damaged,
    /// Damaged before its server stopped uncleanly while it was dirty: as [`Suspect`](Self::Suspect), and what does
    /// not match may be more than unfinished writes.
    DamagedSuspect,
}

impl ReplicaState {
    /// May have lost writes: not to be served.
    pub const fn is_suspect(self) -> bool {
        matches!(self, Self::Suspect | Self::DamagedSuspect)
    }

    /// Some of it does not match its checksums.
    pub const fn is_damaged(self) -> bool {
        matches!(self, Self::Damaged | Self::DamagedSuspect)
    }
}

/// A replica on a chunkserver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaRow {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version of the copy.
    pub version: ChunkVersion,
    /// Bytes; 0 if it was not looked at.
    pub length: u32,
    /// See [`ReplicaState`].
    pub state: ReplicaState,
}

/// A page of the full report, or changes since the last report.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkReport {
    /// A page of the full report.
    pub full: bool,
    /// The last page.
    pub last: bool,
    /// Replicas that are there.
    pub present: Vec<ReplicaRow>,
    /// Replicas that are gone.
    pub removed: Vec<ReplicaRow>,
}

/// A chain broke at its successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainBreak {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Of the grant.
    pub epoch: Epoch,
    /// Who did not answer.
    pub suspect: ServerId,
}

/// To a chunkserver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToChunkserver {
    /// The first message.
    Registered(Registered),
    /// Reads are allowed until `sent` + the read lease.
    HeartbeatAck {
        /// From the heartbeat.
        sent: u64,
        /// Of the master.
        term: Term,
    },
    /// Something to do; obeyed only from the highest term seen.
    Command {
        /// Answered with the same number.
        id: u64,
        /// Of the master.
        term: Term,
        /// What.
        command: ChunkCommand,
    },
}

/// Answer to [`Register`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The server's number in the cluster.
    pub server: ServerId,
    /// To be kept in its storage directories.
    pub cluster: ClusterId,
    /// Of the master.
    pub term: Term,
    /// Of the cluster.
    pub chunk_size: ChunkSize,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Reads stop this long after the send time of the last acknowledged heartbeat.
    pub read_lease: Duration,
    /// Features.
    pub capabilities: Capabilities,
}

/// What the master wants done with a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkCommand {
    /// See [`Install`].
    Install(Install),
    /// The lease has ended: forget the epoch, flush, mark clean.
    Revoke {
        /// The chunk.
        handle: ChunkHandle,
        /// Only if it is still this one.
        epoch: Epoch,
    },
    /// Delete these replicas, those that are exactly as named; durable together.
    Delete {
        /// At most [`DELETIONS_MAX`](crate::limits::DELETIONS_MAX).
        chunks: Vec<SyncChunk>,
        /// The server's run that reported them.
        incarnation: Incarnation,
    },
    /// Fetch a whole replica from a peer, verify it, make it durable.
    Copy {
        /// The chunk.
        handle: ChunkHandle,
        /// Its version, at the source and here.
        version: ChunkVersion,
        /// The peer.
        source: Replica,
    },
    /// See [`Align`].
    Align(Align),
    /// Every copy is suspect: this one counts, under version `raise_to`.
    Adopt {
        /// The chunk.
        handle: ChunkHandle,
        /// Version it has.
        version: ChunkVersion,
        /// Version it gets.
        raise_to: ChunkVersion,
    },
    /// Compare this replica with its checksums; if some differ it is marked damaged, and reported so.
    Verify(SyncChunk),
    /// Replace what does not match its checksums by what peers have, block by block.
    Mend {
        /// The chunk.
        handle: ChunkHandle,
        /// Its version, at the peers and here.
        version: ChunkVersion,
        /// Who has a replica of it; may be damaged, too.
        peers: Vec<Replica>,
    },
    /// Begin to read all replicas now, at full speed.
    Scrub,
}

/// Install a chunk grant: raise the version and cut if asked, fence older epochs, report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version that the replica has.
    pub version: ChunkVersion,
    /// New version, durable before the answer.
    pub raise_to: Option<ChunkVersion>,
    /// Frames of older epochs are refused from now on.
    pub epoch: Epoch,
    /// Truncate to this length first.
    pub cut: Option<u32>,
    /// Frames of older generations are refused from now on.
    pub truncate_generation: TruncateGeneration,
    /// Who gives the serial numbers.
    pub numbering: Numbering,
    /// The primary first.
    pub members: Vec<Replica>,
    /// Life of the lease.
    pub lease: Duration,
}

/// Members of an install differ: this replica becomes as the source is, before the epoch is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Align {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version of both replicas.
    pub version: ChunkVersion,
    /// As installed at both, and not used yet.
    pub epoch: Epoch,
    /// Whose bytes count.
    pub source: Replica,
    /// The last write that it has.
    pub position: Position,
    /// Writes that it knows, oldest first.
    pub outcomes: Vec<WriteOutcome>,
}

/// The last write that a replica has. Replicas with a greater one have every write of those with a lesser one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    /// Under which it was written; zero if that is not known.
    pub epoch: Epoch,
    /// Its number in it.
    pub serial: Serial,
}

/// Answer to a [`ChunkCommand`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandResult {
    /// Of the command.
    pub id: u64,
    /// How it went.
    pub outcome: Result<CommandOutcome, FsError>,
    /// Why it failed, for the log.
    pub detail: String,
}

/// What a command that succeeded has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandOutcome {
    /// Nothing.
    Done,
    /// Of an install.
    Installed(InstallReport),
    /// Of a copy or an adoption.
    Replica(ReplicaRow),
    /// Of a deletion: all are gone but these.
    Deleted(Vec<NotDeleted>),
    /// Of mending.
    Mended(Mended),
}

/// What was mended of a replica, and what was not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mended {
    /// As it is now.
    pub row: ReplicaRow,
    /// Blocks written anew.
    pub blocks_mended: u32,
    /// Blocks that no peer had either.
    pub blocks_lost: u32,
    /// Numbers of the first of these, at most [`LOST_BLOCKS_MAX`](crate::limits::LOST_BLOCKS_MAX).
    pub lost: Vec<u32>,
}

/// A replica that was to be deleted and is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotDeleted {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Why.
    pub error: FsError,
}

/// What a replica knows of the writes before an install.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InstallReport {
    /// Bytes of the chunk.
    pub length: u32,
    /// Of length and block sums, see [`content_digest`](crate::checksum::content_digest).
    pub digest: u64,
    /// The last write.
    pub position: Position,
    /// Ranges applied here and not known to be applied everywhere.
    pub in_doubt: Vec<DoubtRange>,
    /// Recent outcomes, for deduplication of resent writes.
    pub outcomes: Vec<WriteOutcome>,
    /// Of the server.
    pub incarnation: Incarnation,
}

/// A range that may differ between replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DoubtRange {
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Of the mutation.
    pub serial: Serial,
}

/// A write that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteOutcome {
    /// Who wrote.
    pub session: SessionId,
    /// Its number.
    pub sequence: Sequence,
    /// The serial that it got.
    pub serial: Serial,
}
