//! Link: a further name of an inode (POSIX link). Never of a directory, or the tree would be none.
//! Keeps `nlink_equals_dentries`.

use super::{DirChange, Request, change_dir};
use crate::access::{may_add, may_search};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::LINKS_MAX;
use gfs_proto::name::Name;

/// Names `id` also `name` in `parent`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    id: InodeId,
    parent: InodeId,
    name: &Name,
) -> Result<Attr, FsError> {
    let mut inode = tx.inode(id)?;
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    if tx.dentry(parent, name)?.is_some() {
        return Err(FsError::Exists);
    }
    may_add(request.caller, &dir)?;
    if inode.is_dir() {
        return Err(FsError::NotPermitted);
    }
    match inode.nlink {
        0 => return Err(FsError::NotFound),
        LINKS_MAX.. => return Err(FsError::TooManyLinks),
        _ => {}
    }
    // nothing above this line has changed anything
    inode.nlink += 1;
    inode.ctime = request.now;
    inode.parent = parent;
    tx.put_inode(&inode);
    tx.insert_dentry(parent, name, &inode);
    change_dir(tx, parent, DirChange::entry(1, &inode), request.now)?;
    Ok(inode.attr())
}
