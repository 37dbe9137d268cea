//! The data plane: reads and writes the bytes of open files at the chunkservers.
//!
//! [`DataPlane`] is one per client and owns what all files share: connections, the block cache, the
//! bound on dirty memory. [`InodeData`] is one per open inode and owns what is known of its bytes:
//! locations, leases, dirty extents, frames in flight, readahead. Of the master it knows only
//! [`ChunkAuthority`]; of FUSE and of names nothing.
//! GFS paper, sections 2.7, 3.1 and 3.2.

mod authority;
mod inode;
mod plane;

pub use authority::ChunkAuthority;
pub use inode::{InodeData, OpenData, SizeChange};
pub use plane::{DataConfig, DataPlane};
