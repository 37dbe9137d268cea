//! Rename: moves a name, replacing, not replacing, or exchanging (Linux `renameat2`).
//! Keeps `directories_form_a_tree`, `nlink_equals_dentries`.

use super::rmdir::must_be_empty;
use super::unlink::drop_link;
use super::{DirChange, Request, change_dir, reap};
use crate::access::{WRITE, may, may_add, may_remove, may_search};
use crate::command::Openers;
use crate::outcome::{Afterlife, CoreResult, Removed};
use crate::record::Inode;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::ops::RenameMode;
use gfs_proto::time::Timestamp;

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) parent: InodeId,
    pub(crate) name: &'a Name,
}

/// Moves `from` to `to`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    from: Place<'_>,
    to: Place<'_>,
    mode: RenameMode,
    openers: Option<&Openers>,
) -> Result<CoreResult, FsError> {
    let (from_dir, to_dir) = (tx.dir(from.parent)?, tx.dir(to.parent)?);
    may_search(request.caller, &from_dir)?;
    may_search(request.caller, &to_dir)?;
    let source = tx.child(from.parent, from.name)?.ok_or(FsError::NotFound)?;
    let target = tx.child(to.parent, to.name)?;
    match (mode, &target) {
        (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
        (RenameMode::Exchange, None) => return Err(FsError::NotFound),
        _ => {}
    }
    check_loops(tx, from, to, &source, target.as_ref(), mode)?;
    let inode = source.id;
    let Some(target) = target else {
        may_remove(request.caller, &from_dir, &source)?;
        may_add(request.caller, &to_dir)?;
        may_move(request, from, to, &source)?;
        // nothing above this line has changed anything
        move_to(tx, from, to, source, request.now)?;
        return Ok(CoreResult::Renamed { inode, replaced: None });
    };
    if target.id == source.id {
        // two names of one inode: POSIX wants nothing to happen
        return Ok(CoreResult::Renamed { inode, replaced: None });
    }
    may_remove(request.caller, &from_dir, &source)?;
    may_remove(request.caller, &to_dir, &target)?;
    if matches!(mode, RenameMode::Exchange) {
        may_move(request, from, to, &source)?;
        may_move(request, from, to, &target)?;
        exchange(tx, from, to, source, target, request.now)?;
        return Ok(CoreResult::Renamed { inode, replaced: None });
    }
    match (source.is_dir(), target.is_dir()) {
        (true, false) => return Err(FsError::NotDirectory),
        (false, true) => return Err(FsError::IsDirectory),
        _ => {}
    }
    may_move(request, from, to, &source)?;
    if target.is_dir() {
        must_be_empty(&target)?;
    }
    let replaced = replace(tx, from, to, source, target, openers, request.now)?;
    Ok(CoreResult::Renamed { inode, replaced: Some(replaced) })
}

/// A directory cannot become its own descendant, nor be replaced by one of its descendants.
fn check_loops(
    tx: &Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: &Inode,
    target: Option<&Inode>,
    mode: RenameMode,
) -> Result<(), FsError> {
    if from.parent == to.parent {
        return Ok(());
    }
    if source.is_dir() && contains(tx, source.id, to.parent)? {
        return Err(FsError::InvalidArgument);
    }
    if let Some(target) = target
        && target.is_dir()
        && contains(tx, target.id, from.parent)?
    {
        let exchange = matches!(mode, RenameMode::Exchange);
        return Err(if exchange { FsError::InvalidArgument } else { FsError::NotEmpty });
    }
    Ok(())
}

/// True if `inner` is `outer` or below it.
fn contains(tx: &Tables<'_>, outer: InodeId, inner: InodeId) -> Result<bool, FsError> {
    let mut at = inner;
    loop {
        if at == outer {
            return Ok(true);
        }
        let parent = tx.dir(at)?.parent;
        if parent == at {
            return Ok(false);
        }
        at = parent;
    }
}

/// To get another parent a directory is written: its `..` changes.
fn may_move(request: Request<'_>, from: Place<'_>, to: Place<'_>, inode: &Inode) -> Result<(), FsError> {
    if inode.is_dir() && from.parent != to.parent { may(request.caller, inode, WRITE) } else { Ok(()) }
}

fn move_to(tx: &mut Tables<'_>, from: Place<'_>, to: Place<'_>, source: Inode, now: Timestamp) -> Result<(), FsError> {
    tx.remove_dentry(from.parent, from.name);
    tx.insert_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::entry(-1, &source), now)?;
    change_dir(tx, to.parent, DirChange::entry(1, &source), now)?;
    settle(tx, source, to.parent, now);
    Ok(())
}

fn replace(
    tx: &mut Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: Inode,
    target: Inode,
    openers: Option<&Openers>,
    now: Timestamp,
) -> Result<Removed, FsError> {
    tx.remove_dentry(from.parent, from.name);
    tx.replace_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::entry(-1, &source), now)?;
    change_dir(tx, to.parent, DirChange::swap(&target, &source), now)?;
    settle(tx, source, to.parent, now);
    if target.is_dir() {
        reap::purge(tx, &target)?;
        return Ok(Removed { inode: target.id, afterlife: Afterlife::Gone });
    }
    drop_link(tx, target, openers, now)
}

fn exchange(
    tx: &mut Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: Inode,
    target: Inode,
    now: Timestamp,
) -> Result<(), FsError> {
    tx.replace_dentry(from.parent, from.name, &target);
    tx.replace_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::swap(&source, &target), now)?;
    change_dir(tx, to.parent, DirChange::swap(&target, &source), now)?;
    settle(tx, source, to.parent, now);
    settle(tx, target, from.parent, now);
    Ok(())
}

/// An inode has a new place.
fn settle(tx: &mut Tables<'_>, mut inode: Inode, parent: InodeId, now: Timestamp) {
    inode.parent = parent;
    inode.ctime = now;
    tx.put_inode(&inode);
}
