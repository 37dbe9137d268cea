//! SYNC: makes chunks durable that were written in this run. Another run may have lost bytes that it
//! acknowledged, so it refuses.

use super::connection::Done;
use super::{Failure, may_block};
use crate::node::Node;
use crate::store::disk::Disk;
use gfs_proto::frame::{DataError, Sync};

/// Flushes the chunks that the frame names.
pub(super) fn sync<D: Disk>(node: &Node<D>, sync: &Sync) -> Result<Done, Failure> {
    if sync.incarnation != node.incarnation {
        return Err(DataError::Incarnation.into());
    }
    may_block(|| node.store.sync(&sync.chunks))?;
    Ok(Done::default())
}
