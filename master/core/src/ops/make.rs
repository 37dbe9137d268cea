//! Make: an inode under a new name; a file can be opened and get its first chunk in the same command.
//! Without `exclusive` an existing file is found instead (`open` with O_CREAT).
//! Keeps `nlink_equals_dentries`, `chunks_are_referenced`.

use super::{DirChange, Request, change_dir, chunks, open_truncate};
use crate::access::{may_add, may_search};
use crate::outcome::CoreMade;
use crate::record::{Body, FileBody, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::ids::{ChunkIndex, InodeId, ServerId};
use gfs_proto::limits::SYMLINK_MAX;
use gfs_proto::ops::{Make, MakeKind};

/// `parent` is the directory that `make.parent` means.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    parent: InodeId,
    make: &Make,
    placement: &[ServerId],
) -> Result<CoreMade, FsError> {
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    if let Some(existing) = tx.child(parent, &make.name)? {
        return find(tx, request, existing, make);
    }
    check(request, &dir, make)?;
    // nothing above this line has changed anything
    let inode = new_inode(request, tx.new_inode_id(), &dir, make);
    tx.insert_inode(&inode);
    tx.insert_dentry(parent, &make.name, &inode);
    change_dir(tx, parent, DirChange::entry(1, &inode), request.now)?;
    let wanted = make.first_chunk && matches!(make.kind, MakeKind::File) && !placement.is_empty();
    let first = ChunkIndex::new(0);
    let chunk = if wanted { Some(chunks::insert(tx, inode.id, first, placement)?) } else { None };
    Ok(CoreMade { attr: tx.inode(inode.id)?.attr(), existed: false, chunk })
}

/// The name is taken: fine if it is a file and that is wanted.
fn find(tx: &mut Tables<'_>, request: Request<'_>, existing: Inode, make: &Make) -> Result<CoreMade, FsError> {
    if make.exclusive || !matches!(make.kind, MakeKind::File) {
        return Err(FsError::Exists);
    }
    match existing.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(FsError::IsDirectory),
        _ => return Err(FsError::Exists),
    }
    let attr = match make.open {
        Some(spec) => open_truncate::apply(tx, request, existing.id, spec)?,
        None => existing.attr(),
    };
    Ok(CoreMade { attr, existed: true, chunk: None })
}

fn check(request: Request<'_>, dir: &Inode, make: &Make) -> Result<(), FsError> {
    may_add(request.caller, dir)?;
    if dir.nlink == 0 {
        return Err(FsError::NotFound);
    }
    if make.ids.is_some() {
        // ids come from ranges that nobody was granted
        return Err(FsError::NotSupported);
    }
    match &make.kind {
        MakeKind::Symlink(target) if target.is_empty() => Err(FsError::NotFound),
        MakeKind::Symlink(target) if target.len() > SYMLINK_MAX => Err(FsError::NameTooLong),
        MakeKind::CharDevice(_) | MakeKind::BlockDevice(_) if !request.caller.is_root() => Err(FsError::NotPermitted),
        _ => Ok(()),
    }
}

fn new_inode(request: Request<'_>, id: InodeId, dir: &Inode, make: &Make) -> Inode {
    let (caller, now) = (request.caller, request.now);
    let inherits = dir.mode.has(Mode::SETGID);
    let mut inode = Inode {
        id,
        mode: make.mode,
        nlink: 1,
        uid: caller.uid,
        gid: if inherits { dir.gid } else { caller.gid },
        goal: dir.goal,
        has_xattrs: false,
        has_acl: false,
        parent: dir.id,
        atime: now,
        mtime: now,
        ctime: now,
        body: body(&make.kind),
    };
    match make.kind {
        MakeKind::Symlink(_) => inode.mode = Mode::new(0o777),
        MakeKind::Directory => {
            inode.nlink = 2;
            if inherits {
                inode.set_mode_bits(Mode::SETGID, true);
            }
        }
        // a program cannot be made setgid to a group that its maker is not in
        _ if inode.mode.has(0o010) && !caller.is_root() && !caller.in_group(inode.gid) => {
            inode.set_mode_bits(Mode::SETGID, false);
        }
        _ => {}
    }
    inode
}

fn body(kind: &MakeKind) -> Body {
    match kind {
        MakeKind::File => Body::File(FileBody::default()),
        MakeKind::Directory => Body::Directory { entries: 0, version: 1 },
        MakeKind::Symlink(target) => Body::Symlink(target.clone()),
        MakeKind::Fifo => Body::Fifo,
        MakeKind::Socket => Body::Socket,
        MakeKind::CharDevice(number) => Body::CharDevice(*number),
        MakeKind::BlockDevice(number) => Body::BlockDevice(*number),
    }
}
