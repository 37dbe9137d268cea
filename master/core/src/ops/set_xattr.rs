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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Fixture, ROOT, make, set_mode, user};
    use gfs_proto::caller::Caller;
    use gfs_proto::ops::{MakeKind, Op};

    fn set(inode: InodeId, name: &[u8], mode: XattrMode) -> Op {
        Op::SetXattr { inode: inode.into(), name: name.to_vec(), value: b"value".to_vec(), mode }
    }

    #[test]
    fn attributes_come_and_go() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let (acl, remove) = (ACL_ACCESS, |name: &[u8]| Op::RemoveXattr { inode: file.into(), name: name.to_vec() });
        for (op, verdict) in [
            (set(file, b"user.a", XattrMode::Replace), Err(FsError::NoAttribute)),
            (set(file, b"user.a", XattrMode::Create), Ok(())),
            (set(file, b"user.a", XattrMode::Create), Err(FsError::Exists)),
            (set(file, b"user.a", XattrMode::Replace), Ok(())),
            (set(file, acl, XattrMode::Either), Ok(())),
            (remove(b"user.b"), Err(FsError::NoAttribute)),
            (remove(b"user.a"), Ok(())),
        ] {
            assert_eq!(fixture.root(op.clone()).map(|_| ()), verdict, "{op:?}");
        }
        assert_eq!((fixture.attr(file).has_xattrs, fixture.attr(file).has_acl), (true, true));
        fixture.root(remove(acl)).expect("root may");
        assert_eq!((fixture.attr(file).has_xattrs, fixture.attr(file).has_acl), (false, false));
    }

    #[test]
    fn namespaces_have_rules_of_their_own() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let link = make(ROOT, "l", MakeKind::Symlink(b"t".to_vec()), 0o777);
        let link = fixture.make(&user(1), link).expect("everybody may").attr.inode;
        let sticky = fixture.dir(ROOT, "tmp");
        fixture.root(set_mode(sticky, 0o1777)).expect("root may");
        for (caller, inode, name, verdict) in [
            (user(1), file, &b"user.a"[..], Err(FsError::AccessDenied)),
            (user(1), link, b"user.a", Err(FsError::NotPermitted)),
            (user(1), sticky, b"user.a", Err(FsError::NotPermitted)),
            (Caller::root(), sticky, b"user.a", Ok(())),
            (user(1), file, b"trusted.a", Err(FsError::NotPermitted)),
            (Caller::root(), link, b"trusted.a", Ok(())),
            (user(1), file, b"security.a", Err(FsError::NotPermitted)),
            (user(1), file, ACL_ACCESS, Err(FsError::NotPermitted)),
            (Caller::root(), link, ACL_ACCESS, Err(FsError::NotSupported)),
            (Caller::root(), file, ACL_DEFAULT, Err(FsError::AccessDenied)),
            (Caller::root(), sticky, ACL_DEFAULT, Ok(())),
            (Caller::root(), file, b"system.other", Err(FsError::NotSupported)),
            (Caller::root(), file, b"other.a", Err(FsError::NotSupported)),
            (Caller::root(), file, b"user.", Err(FsError::InvalidArgument)),
        ] {
            let result = fixture.run(&caller, set(inode, name, XattrMode::Either));
            assert_eq!(result.map(|_| ()), verdict, "{caller:?} {}", name.escape_ascii());
        }
        let view = fixture.store.view();
        assert_eq!(view.list_xattr(&user(1), link), Ok(vec![]), "trusted. is root's");
        assert_eq!(view.get_xattr(&user(1), link, b"trusted.a"), Err(FsError::NoAttribute));
        assert_eq!(view.get_xattr(&Caller::root(), link, b"trusted.a"), Ok(b"value".to_vec()));
    }

    #[test]
    fn the_list_of_names_is_bounded() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let ops = |from: usize, to: usize| -> Vec<crate::StampedOp> {
            let long = |n: usize| format!("user.{n:0>250}").into_bytes();
            (from..to).map(|n| set(file, &long(n), XattrMode::Create).into()).collect()
        };
        let fits = XATTR_LIST_MAX / 256;
        assert!(fixture.batch(&Caller::root(), ops(0, fits)).iter().all(Result::is_ok));
        assert_eq!(fixture.batch(&Caller::root(), ops(fits, fits + 1)), [Err(FsError::NoSpace)]);
    }
}
