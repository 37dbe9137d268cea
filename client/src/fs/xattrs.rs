//! Extended attributes. Most inodes have none, which their attributes say: no request for those.

use super::Client;
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::{XATTR_NAME_MAX, XATTR_VALUE_MAX};
use gfs_proto::ops::{Op, OpResult, XattrMode};
use std::time::Instant;

/// Namespaces that the kernel knows and this file system stores.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Asked for by `ls -l` for each file; labels are not stored.
const SELINUX: &[u8] = b"security.selinux";

/// What can be said of an attribute without asking.
fn known(attr: Option<&Attr>, name: &[u8]) -> Option<FsError> {
    if let Some(error) = check_name(name) {
        return Some(error);
    }
    attr.filter(|attr| !attr.has_xattrs).map(|_| FsError::NoAttribute)
}

/// Why a name can belong to no attribute here.
fn check_name(name: &[u8]) -> Option<FsError> {
    let namespace = NAMESPACES.iter().find(|namespace| name.starts_with(namespace));
    match namespace {
        _ if name == SELINUX => Some(FsError::NotSupported),
        None => Some(FsError::NotSupported),
        Some(_) if name.len() > XATTR_NAME_MAX => Some(FsError::Range),
        Some(namespace) if name.len() == namespace.len() => Some(FsError::InvalidArgument),
        Some(_) => None,
    }
}

impl Client {
    fn cached_attr(&self, inode: InodeId) -> Option<Attr> {
        self.cache.attr(inode, Instant::now()).map(|(attr, _)| attr)
    }

    /// Value of an extended attribute; `name` has its namespace (`user.…`).
    pub async fn getxattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(known) = self.try_getxattr(inode, name) {
            return known;
        }
        // The attributes come along, so that the next question needs no request if there are none.
        let ops = vec![Op::GetAttr { inode: inode.into() }, Op::GetXattr { inode: inode.into(), name: name.to_vec() }];
        let mut answer = self.ask(caller, ops).await?;
        let attr = answer.attr()?;
        self.take(&attr, answer.seen);
        match answer.next()? {
            OpResult::Bytes(value) => Ok(value),
            _ => Err(FsError::Protocol),
        }
    }

    /// [`Client::getxattr`] without waiting: mostly "there is none", known from the attributes.
    pub fn try_getxattr(&self, inode: InodeId, name: &[u8]) -> Option<Result<Vec<u8>, FsError>> {
        known(self.cached_attr(inode).as_ref(), name).map(Err)
    }

    /// Names of all extended attributes.
    pub async fn listxattr(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        if let Some(known) = self.try_listxattr(inode) {
            return Ok(known);
        }
        let mut answer = self.ask(caller, vec![Op::ListXattr { inode: inode.into() }]).await?;
        match answer.next()? {
            OpResult::Names(names) => Ok(names),
            _ => Err(FsError::Protocol),
        }
    }

    /// [`Client::listxattr`] without waiting.
    pub fn try_listxattr(&self, inode: InodeId) -> Option<Vec<Vec<u8>>> {
        self.cached_attr(inode).filter(|attr| !attr.has_xattrs).map(|_| Vec::new())
    }

    /// Creates or replaces an extended attribute.
    pub async fn setxattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        (name, value): (&[u8], &[u8]),
        mode: XattrMode,
    ) -> Result<(), FsError> {
        if let Some(error) = check_name(name) {
            return Err(error);
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(FsError::NoSpace); // as ext4 and xfs have it for what is too large to store
        }
        let op = Op::SetXattr { inode: inode.into(), name: name.to_vec(), value: value.to_vec(), mode };
        self.change_xattr(caller, inode, op).await
    }

    /// Removes an extended attribute.
    pub async fn removexattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<(), FsError> {
        if let Some(error) = check_name(name) {
            return Err(error);
        }
        self.change_xattr(caller, inode, Op::RemoveXattr { inode: inode.into(), name: name.to_vec() }).await
    }

    async fn change_xattr(&self, caller: &Caller, inode: InodeId, op: Op) -> Result<(), FsError> {
        let mut answer = self.ask(caller, vec![op]).await?;
        let outcome = answer.done();
        self.cache.forget_attr(inode, answer.seen.index);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anybody_is_asked() {
        let long = [b"user.".as_slice(), &[b'x'; XATTR_NAME_MAX]].concat();
        for (name, error) in [
            (&b"user.a"[..], None),
            (b"security.capability", None),
            (b"security.selinux", Some(FsError::NotSupported)),
            (b"system.posix_acl_access", Some(FsError::NotSupported)),
            (b"a", Some(FsError::NotSupported)),
            (b"user.", Some(FsError::InvalidArgument)),
            (&long, Some(FsError::Range)),
        ] {
            assert_eq!(check_name(name), error, "{}", name.escape_ascii());
        }
    }
}
