//! The data plane: reads and writes the bytes of open files at the chunkservers.
//!
//! [`DataPlane`] is one per client and owns what all files share: connections, the block cache, the
//! bound on dirty memory. [`InodeData`] is one per open inode and owns what is known of its bytes:
//! locations, leases, dirty extents, frames in flight, readahead. Of the master it knows only
//! [`ChunkAuthority`]; of FUSE and of names nothing.
//! GFS paper, sections 2.7, 3.1 and 3.2.
//!
//! ```text
//!   inode ── try_read ─────────────────────────────────────────┐
//!     ├── reader ── readahead, cache, fetch ── replicas ──┐─ local
//!     └── sync, writer ── dirty, outbox, frame ───── members ───┴─ servers ── connection ── stream
//! ```
//! `readahead`, `dirty`, `outbox`, `frame`, `latency` and `locations` are pure. `pulse` tells servers that hang from
//! busy ones.

mod authority;
mod cache;
mod connection;
mod dirty;
mod fetch;
mod frame;
mod inode;
mod inspect;
mod latency;
mod local;
mod locations;
mod members;
mod memory;
mod outbox;
mod plane;
mod pulse;
mod readahead;
mod reader;
mod replicas;
mod servers;
mod stream;
mod sync;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod try_read;
mod writer;

pub use authority::ChunkAuthority;
pub(crate) use connection::LinkError;
pub use inode::{Cut, InodeData, OpenData, SizeChange};
pub use inspect::{ReplicaError, ReplicaPart, ReplicaRange};
pub use plane::{DataConfig, DataPlane};
pub use try_read::{ColdRead, Tried};
