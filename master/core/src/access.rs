//! POSIX permission checks: who may read, write, search, own, remove.
//!
//! Answers `AccessDenied` (EACCES) where permission bits refuse and `NotPermitted` (EPERM) where only the
//! owner or the superuser may, as Linux does. ACLs are stored, not yet looked at.

use crate::record::Inode;
use gfs_proto::FsError;
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::ops::Access;

/// Permission bits of one class: read, write, execute or search.
pub(crate) const READ: u16 = 4;
pub(crate) const WRITE: u16 = 2;
pub(crate) const SEARCH: u16 = 1;

/// All of `wanted` by the class that the caller belongs to.
pub(crate) fn may(caller: &Caller, inode: &Inode, wanted: u16) -> Result<(), FsError> {
    let mode = inode.mode.get();
    let granted = if caller.is_root() {
        // executing needs at least one x bit; searching a directory does not
        let executable = inode.is_dir() || mode & 0o111 != 0;
        READ | WRITE | if executable { SEARCH } else { 0 }
    } else if caller.uid == inode.uid {
        mode >> 6
    } else if caller.in_group(inode.gid) {
        mode >> 3
    } else {
        mode
    };
    if granted & wanted == wanted { Ok(()) } else { Err(FsError::AccessDenied) }
}

/// Look names up in a directory.
pub(crate) fn may_search(caller: &Caller, dir: &Inode) -> Result<(), FsError> {
    may(caller, dir, SEARCH)
}

/// Add names to a directory.
pub(crate) fn may_add(caller: &Caller, dir: &Inode) -> Result<(), FsError> {
    may(caller, dir, WRITE | SEARCH)
}

/// Remove the name of `child` from a directory: in a sticky one only its own and its owner's.
pub(crate) fn may_remove(caller: &Caller, dir: &Inode, child: &Inode) -> Result<(), FsError> {
    may(caller, dir, WRITE | SEARCH)?;
    let sticky = dir.mode.has(Mode::STICKY);
    if sticky && !owns(caller, child) && !owns(caller, dir) { Err(FsError::NotPermitted) } else { Ok(()) }
}

/// Open for reading, writing or both.
pub(crate) fn may_open(caller: &Caller, inode: &Inode, access: Access) -> Result<(), FsError> {
    let read = if access.reads() { READ } else { 0 };
    let write = if access.writes() { WRITE } else { 0 };
    may(caller, inode, read | write)
}

/// The owner, or the superuser.
pub(crate) fn owns(caller: &Caller, inode: &Inode) -> bool {
    caller.is_root() || caller.uid == inode.uid
}

/// Do what only the owner may.
pub(crate) fn must_own(caller: &Caller, inode: &Inode) -> Result<(), FsError> {
    if owns(caller, inode) { Ok(()) } else { Err(FsError::NotPermitted) }
}

/// What a change of content or owner does to setuid and setgid: both go; setgid without group execute
/// (which is no privilege) only if the caller is not of that group.
pub(crate) fn drop_privileges(caller: &Caller, inode: &mut Inode) {
    let group_execute = inode.mode.has(0o010);
    inode.set_mode_bits(Mode::SETUID, false);
    if group_execute || !(caller.is_root() || caller.in_group(inode.gid)) {
        inode.set_mode_bits(Mode::SETGID, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Body;
    use gfs_proto::ids::InodeId;
    use gfs_proto::time::Timestamp;

    fn inode(mode: u32, uid: u32, gid: u32, body: Body) -> Inode {
        let time = Timestamp::default();
        Inode {
            id: InodeId::new(5),
            mode: Mode::new(mode),
            nlink: 1,
            uid,
            gid,
            goal: 1,
            has_xattrs: false,
            has_acl: false,
            parent: InodeId::ROOT,
            atime: time,
            mtime: time,
            ctime: time,
            body,
        }
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec() }
    }

    const DIR: Body = Body::Directory { entries: 0, version: 0 };

    #[test]
    fn the_first_class_that_fits_decides() {
        // the owner is refused what others are granted
        for (mode, caller, wanted, granted) in [
            (0o077, user(1, 9, &[]), READ, false),
            (0o700, user(1, 9, &[]), READ | WRITE | SEARCH, true),
            (0o707, user(2, 2, &[]), READ, false),
            (0o070, user(3, 9, &[2]), READ | WRITE, true),
            (0o774, user(3, 9, &[]), READ, true),
            (0o774, user(3, 9, &[]), WRITE, false),
            (0o000, Caller::root(), READ | WRITE, true),
            (0o000, Caller::root(), SEARCH, false),
            (0o001, Caller::root(), SEARCH, true),
        ] {
            let verdict = may(&caller, &inode(mode, 1, 2, Body::Fifo), wanted);
            assert_eq!(verdict.is_ok(), granted, "{mode:o} {caller:?} {wanted}");
        }
        assert_eq!(may(&Caller::root(), &inode(0, 1, 2, DIR), SEARCH), Ok(()));
    }

    #[test]
    fn sticky_directories_protect_names_of_others() {
        let (dir, child) = (inode(0o1777, 1, 1, DIR), inode(0o666, 2, 2, Body::Fifo));
        for (caller, verdict) in [
            (user(3, 3, &[]), Err(FsError::NotPermitted)),
            (user(2, 3, &[]), Ok(())),
            (user(1, 3, &[]), Ok(())),
            (Caller::root(), Ok(())),
        ] {
            assert_eq!(may_remove(&caller, &dir, &child), verdict, "{caller:?}");
        }
        let closed = inode(0o1755, 1, 1, DIR);
        assert_eq!(may_remove(&user(2, 2, &[]), &closed, &child), Err(FsError::AccessDenied));
    }

    #[test]
    fn setgid_without_group_execute_is_kept_by_members() {
        for (mode, caller, left) in [
            (0o6755, user(1, 2, &[]), 0o755),
            (0o6755, Caller::root(), 0o755),
            (0o6745, user(1, 2, &[]), 0o2745),
            (0o6745, user(1, 3, &[]), 0o745),
        ] {
            let mut file = inode(mode, 1, 2, Body::Fifo);
            drop_privileges(&caller, &mut file);
            assert_eq!(file.mode.get(), left, "{mode:o} {caller:?}");
        }
    }
}
