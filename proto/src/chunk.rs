//! Where chunks are and who may write them.

use crate::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, Epoch, Incarnation, InodeId, MapGeneration, ServerId, TruncateGeneration,
};
use std::net::SocketAddr;
use std::time::Duration;

/// How to reach a chunkserver's data port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ServerAddress {
    /// Address of the TCP listener.
    pub tcp: SocketAddr,
    /// Path of the Unix socket, for clients on the same machine.
    pub unix: Option<String>,
    /// Boot id of the server's machine: equal to one's own means the Unix socket may be used.
    pub host: String,
}

/// One copy of a chunk: on which server, and in which of its runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    /// The server.
    pub server: ServerId,
    /// Its run when it last registered.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub address: ServerAddress,
}

/// Where a chunk of a file can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkLocation {
    /// Position in the file.
    pub index: ChunkIndex,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version that a replica must have to be read.
    pub version: ChunkVersion,
    /// Bytes of the chunk from here on read as zeroes (a cut that the replicas have yet to make).
    pub clip: Option<u32>,
    /// True if a write lease lives: the bytes may change.
    pub leased: bool,
    /// Up-to-date replicas, in no particular order; empty if none is reachable.
    pub replicas: Vec<Replica>,
}

/// Part of a file's chunk map. Indices without an entry are holes and read as zeroes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkMap {
    /// Void when the inode's generation is another.
    pub generation: MapGeneration,
    /// In order of index.
    pub chunks: Vec<ChunkLocation>,
}

/// Who gives the serial numbers under a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbering {
    /// The client: it is the only writer of the file, so it may also send to every replica itself.
    Client,
    /// The primary: several clients write.
    Primary,
}

/// The right to write one chunk: a lease, installed at every member before the client hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkGrant {
    /// The file.
    pub inode: InodeId,
    /// Position in the file.
    pub index: ChunkIndex,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version of all members.
    pub version: ChunkVersion,
    /// Fences every earlier grant.
    pub epoch: Epoch,
    /// Who gives the serial numbers; they begin at 1 in each epoch.
    pub numbering: Numbering,
    /// True if the chunk is new: no member has a file yet, the first frame creates it.
    pub created: bool,
    /// The members, the primary first; frames go along them in this order.
    pub replicas: Vec<Replica>,
    /// Frames and size reports carry it.
    pub truncate_generation: TruncateGeneration,
    /// The map that this chunk is part of.
    pub map_generation: MapGeneration,
    /// How long the lease lives without extension.
    pub lease: Duration,
}
