//! What the data plane needs from the session with the master: locations and leases of chunks.
//!
//! The session layer implements it; tests implement it over fake servers. Nothing here knows how the
//! master is reached or how a request is retried there.

use futures_util::future::BoxFuture;
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap};
use gfs_proto::ids::{ChunkIndex, ClusterId, InodeId, ServerId, SessionId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::ops::FlushedChunk;

/// Locations and leases, from the master.
///
/// Each call is bounded by the implementation; an error is final for this call, and the data plane
/// decides by [`FsError::is_retryable`] whether it asks again.
pub trait ChunkAuthority: Send + Sync + 'static {
    /// Locations of `count` chunks from `first`. Indices without an entry in the answer are holes.
    fn locate(&self, inode: InodeId, first: ChunkIndex, count: u32) -> BoxFuture<'_, Result<ChunkMap, FsError>>;

    /// The right to write a chunk, which is allocated if it is a hole. A lease that this session
    /// holds already is extended and returned with the same epoch.
    fn grant(&self, inode: InodeId, index: ChunkIndex) -> BoxFuture<'_, Result<ChunkGrant, FsError>>;

    /// Members of `grant` failed: the version is raised on the live ones, and a grant of another
    /// epoch comes back.
    fn broken(&self, grant: &ChunkGrant, suspects: Vec<ServerId>) -> BoxFuture<'_, Result<ChunkGrant, FsError>>;

    /// Returns when an fsync that flushed this may be confirmed; `StaleGrant`: flush it again, elsewhere.
    fn await_copies(&self, chunks: Vec<FlushedChunk>) -> BoxFuture<'_, Result<(), FsError>>;

    /// Members that have to confirm a flush, or copies are awaited.
    fn copies_min(&self) -> usize;

    /// The session that writes are numbered in.
    fn session(&self) -> SessionId;

    /// The cluster that chunkservers must belong to.
    fn cluster(&self) -> ClusterId;

    /// Chunk size of the cluster.
    fn chunk_size(&self) -> ChunkSize;

    /// A replica's data does not match its checksums, read twice. For a report to the master; the
    /// reader has gone on to another replica.
    fn corrupt(&self, _location: &ChunkLocation, _server: ServerId) {}
}
