//! Where the copies of a new chunk go (GFS paper, 4.2): free space, recent creations, racks.

use gfs_proto::ids::ServerId;
use thiserror::Error;

/// A chunkserver as placement sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacementServer {
    /// Which.
    pub server: ServerId,
    /// Failure domain; equal labels fail together. Empty: of its own.
    pub rack: String,
    /// Room for chunks, reserve taken off, over directories that accept chunks.
    pub bytes_free: u64,
    /// False at the watermark, while draining, or if it is not up.
    pub accepts_chunks: bool,
    /// Chunks placed there lately: new chunks are written at once, so they mean load to come.
    pub recent: u32,
}

/// What placement looks at. Cheap to keep up to date between calls.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlacementView {
    /// All servers that are registered and up, in any order.
    pub servers: Vec<PlacementServer>,
}

/// No server can take a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no chunkserver has room for a chunk")]
pub struct NoRoom;

/// Chooses up to `goal` different servers for a new chunk, the primary first; fewer if fewer accept
/// chunks. `seed` differs from call to call (a counter), so that load spreads over equal servers.
pub fn place(_view: &PlacementView, _goal: u8, _chunk_bytes: u32, _seed: u64) -> Result<Vec<ServerId>, NoRoom> {
    unimplemented!()
}
