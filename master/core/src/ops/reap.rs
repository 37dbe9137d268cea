//! Reap: nobody has an unlinked inode open any more, so it goes; its chunks become garbage.
//! Keeps `orphans_have_no_links`, `chunks_are_referenced`.

use crate::record::Inode;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkIndex, InodeId};

/// Removes those of `inodes` that are orphans; returns them.
pub(crate) fn apply(tx: &mut Tables<'_>, inodes: &[InodeId]) -> Result<Vec<InodeId>, FsError> {
    let mut reaped = Vec::new();
    for &id in inodes {
        if tx.orphan(id)?.is_some() {
            let inode = tx.inode(id)?;
            tx.remove_orphan(id);
            purge(tx, &inode)?;
            reaped.push(id);
        }
    }
    Ok(reaped)
}

/// Removes an inode without names: attributes, chunks, itself.
pub(super) fn purge(tx: &mut Tables<'_>, inode: &Inode) -> Result<(), FsError> {
    if inode.has_xattrs {
        for name in tx.xattr_names(inode.id)? {
            tx.remove_xattr(inode.id, &name);
        }
    }
    for (index, handle) in tx.handles(inode.id, ChunkIndex::new(0), u64::MAX)? {
        tx.drop_chunk(inode.id, index, handle)?;
    }
    tx.remove_inode(inode);
    Ok(())
}
