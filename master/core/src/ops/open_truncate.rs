//! Open: checks permission and, with O_TRUNC, cuts the file to nothing. That it is open is volatile.

use super::{Request, truncate};
use crate::access::may_open;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::ids::InodeId;
use gfs_proto::ops::{Access, OpenSpec};

/// O_TRUNC needs write permission, whatever the file is opened for.
pub(crate) fn apply(tx: &mut Tables<'_>, request: Request<'_>, id: InodeId, spec: OpenSpec) -> Result<Attr, FsError> {
    let inode = tx.inode(id)?;
    if inode.kind() == FileKind::Symlink {
        return Err(FsError::Loop);
    }
    if inode.is_dir() && (spec.access.writes() || spec.truncate) {
        return Err(FsError::IsDirectory);
    }
    may_open(request.caller, &inode, spec.access)?;
    if !spec.truncate {
        return Ok(inode.attr());
    }
    may_open(request.caller, &inode, Access::Write)?;
    let mut file = tx.file(id)?;
    // nothing above this line has changed anything
    truncate::drop_privileges(tx, request.caller, &mut file.inode, true)?;
    truncate::resize(tx, file, 0, request.now)
}
