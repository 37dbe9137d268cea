//! What goes into the store and comes out of it, besides the types of the protocol.

use gfs_proto::control::ReplicaRow;
use gfs_proto::frame::Extent;
use gfs_proto::ids::{ClusterId, Incarnation, ServerUuid, Term};
use gfs_proto::layout::ChunkSize;
use std::path::PathBuf;
use std::sync::Arc;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Storage directories; an empty one is formatted, one that does not exist is made.
    pub directories: Vec<PathBuf>,
    /// Below this much free room in a directory nothing is written to it; deletes always work.
    pub reserve_bytes: u64,
    /// Below this much free room in a directory no chunk is placed in it. At least the reserve.
    pub watermark_bytes: u64,
    /// Boot id of the machine: tells the death of a process from a loss of power.
    pub boot_id: String,
    /// Random; the name of the server if no directory has one yet.
    pub uuid_if_new: ServerUuid,
    /// Replicas kept open, at least 64; a pack is open besides.
    pub open_files_max: usize,
    /// Bytes in a pack of small chunks, a power of two, at most 256 MiB; 0: every chunk has a file of its
    /// own.
    pub pack_bytes: u64,
}

/// What the storage directories say of their server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `None` before the first registration.
    pub cluster: Option<ClusterId>,
    /// As for the cluster.
    pub chunk_size: Option<ChunkSize>,
    /// Name of the server for itself.
    pub uuid: ServerUuid,
    /// This run.
    pub incarnation: Incarnation,
    /// Highest term obeyed.
    pub highest_term: Term,
}

/// Bytes to write to one chunk.
#[derive(Clone, Copy, Debug)]
pub struct WriteData<'a> {
    /// Ranges, at least one, not overlapping.
    pub extents: &'a [Extent],
    /// Their bytes, one after the other.
    pub payload: &'a [u8],
    /// Their piece sums ([`gfs_proto::checksum::piece_sums`]), one after the other, four bytes each.
    pub sums: &'a [u8],
}

/// What a read found besides the bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadOut {
    /// Stored sums of the blocks that the bytes touch, four bytes each. Not compared with the bytes.
    pub sums: Vec<u8>,
    /// Length of the chunk.
    pub chunk_length: u32,
    /// Bytes read: fewer than asked for where the chunk ends.
    pub data_len: u32,
}

/// Where to send bytes from without looking at them. Only for chunks without a live lease: the file
/// may change under the sender.
#[derive(Debug)]
pub struct SendPlan<F> {
    /// The file that the chunk is in.
    pub file: Arc<F>,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes to send; 0 beyond the end of the chunk.
    pub length: u32,
    /// As in [`ReadOut`].
    pub sums: Vec<u8>,
    /// Length of the chunk.
    pub chunk_length: u32,
}

/// How an adoption went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// The replica as it is now.
    pub row: ReplicaRow,
    /// Blocks whose checksum did not match and was made anew.
    pub blocks_resummed: u32,
}
