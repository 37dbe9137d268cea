//! SetXattr: creates or replaces an extended attribute. Keeps `xattrs_belong_to_inodes`.

use super::Request;
use crate::state::{Read, Tables};
use crate::xattrs::{ACL_ACCESS, ACL_DEFAULT, may_set};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::{XATTR_LIST_MAX, XATTR_VALUE_MAX};
use gfs_proto::ops::XattrMode;

/// Gives `id` the attribute.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    id: InodeId,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<(), FsError> {
    let mut inode = tx.inode(id)?;
    may_set(request.caller, &inode, name)?;
    if value.len() > XATTR_VALUE_MAX {
        return Err(FsError::Range);
    }
    let exists = inode.has_xattrs && tx.xattr(id, name)?.is_some();
    match (mode, exists) {
        (XattrMode::Create, true) => return Err(FsError::Exists),
        (XattrMode::Replace, false) => return Err(FsError::NoAttribute),
        _ => {}
    }
    if !exists && inode.has_xattrs {
        let listed: usize = tx.xattr_names(id)?.iter().map(|name| name.len() + 1).sum();
        if listed + name.len() + 1 > XATTR_LIST_MAX {
            return Err(FsError::NoSpace);
        }
    }
    // nothing above this line has changed anything
    tx.put_xattr(id, name, value, !exists);
    inode.has_xattrs = true;
    inode.has_acl |= name == ACL_ACCESS || name == ACL_DEFAULT;
    inode.ctime = request.now;
    tx.put_inode(&inode);
    Ok(())
}
