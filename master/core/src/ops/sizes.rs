//! Sizes and times that were volatile while files were open for writing. They only grow here, and count
//! for the generation they were measured in alone. Keeps `sizes_are_within_limits`.

use crate::command::SizeRecord;
use crate::record::Body;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::limits::FILE_SIZE_MAX;

/// Records what is still true; leaves the rest out.
pub(crate) fn apply(tx: &mut Tables<'_>, sizes: &[SizeRecord]) -> Result<(), FsError> {
    for size in sizes {
        let known = tx.find_inode(size.inode)?.is_some_and(|inode| matches!(inode.body, Body::File(_)));
        if known && size.size <= FILE_SIZE_MAX {
            record(tx, size)?;
        }
    }
    Ok(())
}

/// Records one; the attributes afterwards, whether it counted or not.
pub(super) fn record(tx: &mut Tables<'_>, record: &SizeRecord) -> Result<Attr, FsError> {
    let file = tx.file(record.inode)?;
    let (mut inode, mut body) = (file.inode, file.body);
    if record.truncate_generation != body.truncate_generation {
        return Ok(inode.attr());
    }
    if record.size > FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge);
    }
    // nothing above this line has changed anything
    let old_size = body.size;
    body.size = body.size.max(record.size);
    inode.body = Body::File(body);
    inode.atime = record.atime.unwrap_or(inode.atime);
    inode.mtime = record.mtime.unwrap_or(inode.mtime);
    if let Some(ctime) = record.ctime.or(record.mtime) {
        inode.ctime = inode.ctime.max(ctime);
    }
    tx.put_resized(&inode, old_size);
    Ok(inode.attr())
}
