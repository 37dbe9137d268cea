//! SetAttr: mode, owner, size, times (POSIX chmod, chown, truncate, utimensat).
//!
//! Who may do what, and what becomes of setuid and setgid, is as in Linux `setattr_prepare`.

use super::{Request, truncate};
use crate::access::{WRITE, may, must_own, owns};
use crate::record::{Body, Inode};
use crate::state::{File, Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind, Mode, SetAttr, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::FILE_SIZE_MAX;
use gfs_proto::time::Timestamp;

/// Changes attributes of `id`; all of them or none.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    id: InodeId,
    changes: &SetAttr,
) -> Result<Attr, FsError> {
    let mut inode = tx.inode(id)?;
    check(request.caller, &inode, changes)?;
    if *changes == (SetAttr { by_open_handle: changes.by_open_handle, ..SetAttr::default() }) {
        return Ok(inode.attr());
    }
    // nothing above this line has changed anything
    set_owner_and_mode(tx, request.caller, &mut inode, changes)?;
    if let Some(size) = changes.size {
        truncate::drop_privileges(tx, request.caller, &mut inode, true)?;
        let Body::File(body) = inode.body else { return Err(FsError::InvalidArgument) };
        truncate::resize(tx, File { inode, body }, size, request.now)?;
        inode = tx.inode(id)?;
    }
    set_times(&mut inode, changes, request.now);
    tx.put_inode(&inode);
    Ok(inode.attr())
}

fn check(caller: &Caller, inode: &Inode, changes: &SetAttr) -> Result<(), FsError> {
    if let Some(uid) = changes.uid
        && !(caller.is_root() || caller.uid == inode.uid && uid == inode.uid)
    {
        return Err(FsError::NotPermitted);
    }
    if let Some(gid) = changes.gid
        && !(caller.is_root() || caller.uid == inode.uid && (caller.in_group(gid) || gid == inode.gid))
    {
        return Err(FsError::NotPermitted);
    }
    if changes.mode.is_some() {
        must_own(caller, inode)?;
        if inode.kind() == FileKind::Symlink {
            return Err(FsError::NotSupported);
        }
    }
    check_size(caller, inode, changes)?;
    check_times(caller, inode, changes)
}

fn check_size(caller: &Caller, inode: &Inode, changes: &SetAttr) -> Result<(), FsError> {
    let Some(size) = changes.size else { return Ok(()) };
    match inode.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(FsError::IsDirectory),
        _ => return Err(FsError::InvalidArgument),
    }
    if !changes.by_open_handle {
        may(caller, inode, WRITE)?;
    }
    if size > FILE_SIZE_MAX { Err(FsError::FileTooLarge) } else { Ok(()) }
}

/// Only the owner sets times at will; who may write may set both to now.
fn check_times(caller: &Caller, inode: &Inode, changes: &SetAttr) -> Result<(), FsError> {
    let given = |time: Option<SetTime>| matches!(time, Some(SetTime::At(_)));
    let now = |time: Option<SetTime>| matches!(time, Some(SetTime::Now));
    let (atime, mtime) = (changes.atime, changes.mtime);
    if owns(caller, inode) || (atime.is_none() && mtime.is_none()) {
        return Ok(());
    }
    if given(atime) || given(mtime) {
        return Err(FsError::NotPermitted);
    }
    if changes.size.is_some() {
        // truncate brings its own times along and has been checked
        return Ok(());
    }
    if now(atime) && now(mtime) { may(caller, inode, WRITE) } else { Err(FsError::NotPermitted) }
}

fn set_owner_and_mode(
    tx: &mut Tables<'_>,
    caller: &Caller,
    inode: &mut Inode,
    changes: &SetAttr,
) -> Result<(), FsError> {
    if changes.uid.is_some() || changes.gid.is_some() {
        truncate::drop_privileges(tx, caller, inode, false)?;
        inode.uid = changes.uid.unwrap_or(inode.uid);
        inode.gid = changes.gid.unwrap_or(inode.gid);
    }
    if let Some(mode) = changes.mode {
        inode.mode = mode;
        if !caller.is_root() && !caller.in_group(inode.gid) {
            inode.set_mode_bits(Mode::SETGID, false);
        }
    }
    Ok(())
}

fn set_times(inode: &mut Inode, changes: &SetAttr, now: Timestamp) {
    let time = |set: SetTime| match set {
        SetTime::Now => now,
        SetTime::At(time) => time,
    };
    inode.atime = changes.atime.map_or(inode.atime, time);
    inode.mtime = changes.mtime.map_or(inode.mtime, time);
    inode.ctime = changes.ctime.unwrap_or(now);
}
