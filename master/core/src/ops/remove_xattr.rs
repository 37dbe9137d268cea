//! RemoveXattr: removes an extended attribute. Keeps `xattrs_belong_to_inodes`.

use super::Request;
use crate::state::{Read, Tables};
use crate::xattrs::{ACL_ACCESS, ACL_DEFAULT, may_set};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;

/// Takes the attribute off `id`; `NoAttribute` if it has none of that name.
pub(crate) fn apply(tx: &mut Tables<'_>, request: Request<'_>, id: InodeId, name: &[u8]) -> Result<(), FsError> {
    let mut inode = tx.inode(id)?;
    may_set(request.caller, &inode, name)?;
    if !inode.has_xattrs || tx.xattr(id, name)?.is_none() {
        return Err(FsError::NoAttribute);
    }
    // nothing above this line has changed anything
    tx.remove_xattr(id, name);
    let left = tx.xattr_names(id)?;
    inode.has_xattrs = !left.is_empty();
    inode.has_acl = left.iter().any(|name| name == ACL_ACCESS || name == ACL_DEFAULT);
    inode.ctime = request.now;
    tx.put_inode(&inode);
    Ok(())
}
