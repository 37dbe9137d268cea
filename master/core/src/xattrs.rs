//! Rules of extended attributes by namespace, as Linux has them (xattr(7)).

use crate::access::{READ, WRITE, may, must_own, owns};
use crate::record::Inode;
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::caller::Caller;
use gfs_proto::limits::XATTR_NAME_MAX;

pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

enum Namespace {
    User,
    Trusted,
    Security,
    Acl,
}

fn namespace(name: &[u8]) -> Result<Namespace, FsError> {
    if name.len() > XATTR_NAME_MAX {
        return Err(FsError::Range);
    }
    if name == ACL_ACCESS || name == ACL_DEFAULT {
        return Ok(Namespace::Acl);
    }
    let prefixes =
        [(&b"user."[..], Namespace::User), (b"trusted.", Namespace::Trusted), (b"security.", Namespace::Security)];
    for (prefix, namespace) in prefixes {
        match name.strip_prefix(prefix) {
            Some([]) => return Err(FsError::InvalidArgument),
            Some(_) => return Ok(namespace),
            None => {}
        }
    }
    Err(FsError::NotSupported)
}

/// `NoAttribute` where the caller may not even know.
pub(crate) fn may_get(caller: &Caller, inode: &Inode, name: &[u8]) -> Result<(), FsError> {
    match namespace(name)? {
        Namespace::User if !takes_user(inode) => Err(FsError::NoAttribute),
        Namespace::User => may(caller, inode, READ),
        Namespace::Trusted if !caller.is_root() => Err(FsError::NoAttribute),
        Namespace::Trusted | Namespace::Security | Namespace::Acl => Ok(()),
    }
}

/// Set or remove.
pub(crate) fn may_set(caller: &Caller, inode: &Inode, name: &[u8]) -> Result<(), FsError> {
    match namespace(name)? {
        Namespace::User if !takes_user(inode) => Err(FsError::NotPermitted),
        Namespace::User => {
            let sticky = inode.is_dir() && inode.mode.has(Mode::STICKY);
            if sticky && !owns(caller, inode) { Err(FsError::NotPermitted) } else { may(caller, inode, WRITE) }
        }
        Namespace::Trusted | Namespace::Security if !caller.is_root() => Err(FsError::NotPermitted),
        Namespace::Trusted | Namespace::Security => Ok(()),
        Namespace::Acl if inode.kind() == FileKind::Symlink => Err(FsError::NotSupported),
        Namespace::Acl if name == ACL_DEFAULT && !inode.is_dir() => Err(FsError::AccessDenied),
        Namespace::Acl => must_own(caller, inode),
    }
}

/// What a listing shows.
pub(crate) fn is_visible(caller: &Caller, name: &[u8]) -> bool {
    caller.is_root() || !name.starts_with(b"trusted.")
}

/// Only what has content of its users has their attributes: elsewhere permission bits mean other things.
fn takes_user(inode: &Inode) -> bool {
    matches!(inode.kind(), FileKind::File | FileKind::Directory)
}
