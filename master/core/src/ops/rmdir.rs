//! Rmdir: removes an empty directory (POSIX rmdir). Keeps `directories_form_a_tree`.

use super::{DirChange, Request, change_dir, reap};
use crate::access::{may_remove, may_search};
use crate::outcome::{Afterlife, Removed};
use crate::record::{Body, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;

/// Removes the directory `name` from `parent`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    parent: InodeId,
    name: &Name,
) -> Result<Removed, FsError> {
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    let child = tx.child(parent, name)?.ok_or(FsError::NotFound)?;
    may_remove(request.caller, &dir, &child)?;
    must_be_empty(&child)?;
    // nothing above this line has changed anything
    tx.remove_dentry(parent, name);
    change_dir(tx, parent, DirChange::entry(-1, &child), request.now)?;
    reap::purge(tx, &child)?;
    Ok(Removed { inode: child.id, afterlife: Afterlife::Gone })
}

/// `NotDirectory` if it is something else, `NotEmpty` if it has entries.
pub(super) fn must_be_empty(inode: &Inode) -> Result<(), FsError> {
    match inode.body {
        Body::Directory { entries: 0, .. } => Ok(()),
        Body::Directory { .. } => Err(FsError::NotEmpty),
        _ => Err(FsError::NotDirectory),
    }
}
