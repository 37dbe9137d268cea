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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{CHUNK, Fixture, ROOT, chown, make, set_attr, set_mode, set_size, user};
    use gfs_proto::ops::{MakeKind, Op, XattrMode};

    fn at(secs: i64) -> Timestamp {
        Timestamp::new(secs, 7).expect("below a second")
    }

    fn times(atime: Option<SetTime>, mtime: Option<SetTime>) -> SetAttr {
        SetAttr { atime, mtime, ..SetAttr::default() }
    }

    #[test]
    fn cuts_drop_chunks_and_remember_the_rest() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0, 2, 3], 4 * CHUNK);
        let before = fixture.attr(file);
        fixture.root(set_size(file, 2 * CHUNK + 100)).expect("root may");
        let attr = fixture.attr(file);
        assert_eq!(fixture.chunk_indices(file), [0, 2]);
        assert_eq!((attr.size, attr.chunks), (2 * CHUNK + 100, 2));
        assert_eq!(attr.truncate_generation, before.truncate_generation.next());
        assert_eq!(attr.map_generation, before.map_generation.next());
        assert_eq!((attr.mtime, attr.ctime), (fixture.attr(file).mtime, attr.mtime));
        let cut = |f: &Fixture| f.store.view().chunks(file, Default::default(), 9).expect("a file").chunks[1].cut;
        let first = cut(&fixture).expect("inside chunk 2");
        assert_eq!((first.length, first.generation), (100, attr.truncate_generation));
        // growing again leaves the cut, a deeper one replaces it, a shallower one does not
        for (size, length) in [(4 * CHUNK, 100), (2 * CHUNK + 200, 100), (2 * CHUNK + 50, 50)] {
            fixture.root(set_size(file, size)).expect("root may");
            assert_eq!(cut(&fixture).map(|cut| cut.length), Some(length));
        }
        fixture.root(set_size(file, 2 * CHUNK)).expect("root may");
        assert_eq!(fixture.chunk_indices(file), [0]);
        assert_eq!(fixture.store.view().pending_cuts(None, 9), Ok(vec![]), "garbage is not cut");
    }

    #[test]
    fn sizes_are_checked() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[], 0);
        let dir = fixture.dir(ROOT, "d");
        let fifo = fixture.make(&user(1), make(ROOT, "p", MakeKind::Fifo, 0o666)).expect("may").attr.inode;
        for (caller, inode, size, by_open_handle, verdict) in [
            (user(1), file, 5, false, Err(FsError::AccessDenied)),
            (user(1), file, 5, true, Ok(())),
            (user(0), file, FILE_SIZE_MAX, false, Ok(())),
            (user(1), dir, 5, false, Err(FsError::IsDirectory)),
            (user(1), fifo, 5, false, Err(FsError::InvalidArgument)),
        ] {
            let changes = SetAttr { size: Some(size), by_open_handle, ..SetAttr::default() };
            let result = fixture.run(&caller, set_attr(inode, changes));
            assert_eq!(result.map(|_| ()), verdict, "{caller:?} {inode} {size}");
        }
        let inode = crate::state::Read::inode(&fixture.store.view(), file).expect("there");
        let changes = SetAttr { size: Some(FILE_SIZE_MAX + 1), ..SetAttr::default() };
        assert_eq!(check(&Caller::root(), &inode, &changes), Err(FsError::FileTooLarge));
    }

    #[test]
    fn changed_programs_lose_their_privileges() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let capability = b"security.capability".to_vec();
        for (op, caller, left) in [
            (chown(file, 1, 1), user(0), 0o777),
            (set_size(file, 3), user(1), 0o777),
            (set_size(file, 3), user(0), 0o6777),
            (chown(file, 1, 1), user(1), 0o777),
        ] {
            fixture.root(chown(file, 1, 1)).expect("root may");
            fixture.root(set_mode(file, 0o6777)).expect("root may");
            let (name, value) = (capability.clone(), vec![1]);
            let mode = XattrMode::Either;
            fixture.root(Op::SetXattr { inode: file.into(), name, value, mode }).expect("root may");
            fixture.run(&caller, op.clone()).expect("allowed");
            let attr = fixture.attr(file);
            assert_eq!((attr.mode.get(), attr.has_xattrs), (left, false), "{op:?} {caller:?}");
        }
    }

    #[test]
    fn who_may_change_owner_and_mode() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        fixture.root(chown(file, 1, 1)).expect("root may");
        let member = Caller { uid: 1, gid: 1, groups: vec![8] };
        let owner = |uid, gid| SetAttr { uid, gid, ..SetAttr::default() };
        let mode = |bits| SetAttr { mode: Some(Mode::new(bits)), ..SetAttr::default() };
        for (caller, changes, verdict) in [
            (user(2), mode(0o777), Err(FsError::NotPermitted)),
            (user(1), owner(Some(2), None), Err(FsError::NotPermitted)),
            (user(1), owner(Some(1), Some(1)), Ok(())),
            (user(2), owner(Some(1), None), Err(FsError::NotPermitted)),
            (user(1), owner(None, Some(8)), Err(FsError::NotPermitted)),
            (member, owner(None, Some(8)), Ok(())),
            (user(1), mode(0o2770), Ok(())),
            (user(2), SetAttr::default(), Ok(())),
        ] {
            let result = fixture.run(&caller, set_attr(file, changes.clone()));
            assert_eq!(result.map(|_| ()), verdict, "{caller:?} {changes:?}");
        }
        assert_eq!(fixture.attr(file).mode.get(), 0o770, "setgid is not for a group one is not in");
        let link = make(ROOT, "l", MakeKind::Symlink(b"t".to_vec()), 0o777);
        let link = fixture.make(&user(1), link).expect("everybody may").attr.inode;
        assert_eq!(fixture.run(&user(1), set_mode(link, 0o600)), Err(FsError::NotSupported));
    }

    #[test]
    fn who_may_set_times() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        fixture.root(chown(file, 1, 1)).expect("root may");
        let (now, old) = (Some(SetTime::Now), Some(SetTime::At(at(-1_000_000_000_000))));
        for (mode, caller, changes, verdict) in [
            (0o644, user(1), times(old, old), Ok(())),
            (0o666, user(2), times(old, None), Err(FsError::NotPermitted)),
            (0o644, user(2), times(now, now), Err(FsError::AccessDenied)),
            (0o666, user(2), times(now, now), Ok(())),
            (0o666, user(2), times(now, None), Err(FsError::NotPermitted)),
            (0o666, user(2), SetAttr { size: Some(1), ..times(None, now) }, Ok(())),
        ] {
            fixture.root(set_mode(file, mode)).expect("root may");
            let result = fixture.run(&caller, set_attr(file, changes.clone()));
            assert_eq!(result.map(|_| ()), verdict, "{mode:o} {caller:?} {changes:?}");
        }
        fixture.root(set_attr(file, times(old, Some(SetTime::At(at(i64::MAX)))))).expect("root may");
        let attr = fixture.attr(file);
        assert_eq!((attr.atime, attr.mtime), (at(-1_000_000_000_000), at(i64::MAX)));
        assert_eq!(attr.ctime.secs(), fixture.now().secs() - 1);
    }
}
