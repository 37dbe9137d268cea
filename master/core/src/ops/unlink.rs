//! Unlink: removes one dentry; the inode lives on while links or open handles remain (POSIX unlink).
//! Keeps `nlink_equals_dentries`, `orphans_have_no_links`.

use super::{DirChange, Request, change_dir, reap};
use crate::access::{may_remove, may_search};
use crate::command::Openers;
use crate::outcome::{Afterlife, Removed};
use crate::record::{Body, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::time::Timestamp;

/// Removes `name` from `parent`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    parent: InodeId,
    name: &Name,
    openers: Option<&Openers>,
) -> Result<Removed, FsError> {
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    let child = tx.child(parent, name)?.ok_or(FsError::NotFound)?;
    may_remove(request.caller, &dir, &child)?;
    if child.is_dir() {
        return Err(FsError::IsDirectory);
    }
    // nothing above this line has changed anything
    tx.remove_dentry(parent, name);
    change_dir(tx, parent, DirChange::entry(-1, &child), request.now)?;
    drop_link(tx, child, openers, request.now)
}

/// An inode that is no directory has lost a name.
pub(super) fn drop_link(
    tx: &mut Tables<'_>,
    mut inode: Inode,
    openers: Option<&Openers>,
    now: Timestamp,
) -> Result<Removed, FsError> {
    inode.nlink = inode.nlink.checked_sub(1).expect("as many links as names");
    inode.ctime = now;
    let id = inode.id;
    let removed = |afterlife| Ok(Removed { inode: id, afterlife });
    if inode.nlink > 0 {
        tx.put_inode(&inode);
        return removed(Afterlife::Linked);
    }
    match keepers(&inode, openers) {
        Some(sessions) => {
            tx.put_inode(&inode);
            tx.insert_orphan(id, sessions);
            removed(Afterlife::Orphaned)
        }
        None => {
            reap::purge(tx, &inode)?;
            removed(Afterlife::Gone)
        }
    }
}

/// The sessions that keep an inode without names; `Some` of none: nobody knows.
fn keepers<'o>(inode: &Inode, openers: Option<&'o Openers>) -> Option<&'o [gfs_proto::ids::SessionId]> {
    match openers.filter(|openers| openers.inode == inode.id) {
        Some(openers) if openers.sessions.is_empty() => None,
        Some(openers) => Some(&openers.sessions),
        // opens of other kinds are the kernel's own business
        None => matches!(inode.body, Body::File(_)).then_some(&[]),
    }
}
