//! SetGoal: how many copies a file's chunks have, or what is created in a directory gets.

use super::Request;
use crate::access::must_own;
use crate::record::Body;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkIndex, InodeId};
use gfs_proto::limits::GOAL_MAX;

/// The owner sets the goal of a file (and of the chunks it has) or a directory.
pub(crate) fn apply(tx: &mut Tables<'_>, request: Request<'_>, id: InodeId, goal: u8) -> Result<(), FsError> {
    let mut inode = tx.inode(id)?;
    must_own(request.caller, &inode)?;
    if !(1..=GOAL_MAX).contains(&goal) || !matches!(inode.body, Body::File(_) | Body::Directory { .. }) {
        return Err(FsError::InvalidArgument);
    }
    // nothing above this line has changed anything
    for (index, handle) in tx.handles(id, ChunkIndex::new(0), u64::MAX)? {
        let mut record = tx.file_chunk(index, handle)?.record;
        record.goal = goal;
        tx.put_chunk(handle, &record);
    }
    inode.goal = goal;
    inode.ctime = request.now;
    tx.put_inode(&inode);
    Ok(())
}
