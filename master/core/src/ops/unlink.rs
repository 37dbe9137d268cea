//! Unlink: removes one dentry; the inode lives on while links or open handles remain (POSIX unlink).
//! Keeps `nlink_equals_dentries`, `orphans_have_no_links`.

use super::{DirChange, Request, change_dir, reap};
use crate::access::{may_remove, may_search};
use crate::command::Openers;
use crate::outcome::{Afterlife, Removed};
use crate::record::{Body, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::time::Timestamp;

/// Removes `name` from `parent`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    parent: InodeId,
    name: &Name,
    openers: Option<&Openers>,
) -> Result<Removed, FsError> {
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    let child = tx.child(parent, name)?.ok_or(FsError::NotFound)?;
    may_remove(request.caller, &dir, &child)?;
    if child.is_dir() {
        return Err(FsError::IsDirectory);
    }
    // nothing above this line has changed anything
    tx.remove_dentry(parent, name);
    change_dir(tx, parent, DirChange::entry(-1, &child), request.now)?;
    drop_link(tx, child, openers, request.now)
}

/// An inode that is no directory has lost a name.
pub(super) fn drop_link(
    tx: &mut Tables<'_>,
    mut inode: Inode,
    openers: Option<&Openers>,
    now: Timestamp,
) -> Result<Removed, FsError> {
    inode.nlink = inode.nlink.checked_sub(1).expect("as many links as names");
    inode.ctime = now;
    let id = inode.id;
    let removed = |afterlife| Ok(Removed { inode: id, afterlife });
    if inode.nlink > 0 {
        tx.put_inode(&inode);
        return removed(Afterlife::Linked);
    }
    match keepers(&inode, openers) {
        Some(sessions) => {
            tx.put_inode(&inode);
            tx.insert_orphan(id, sessions);
            removed(Afterlife::Orphaned)
        }
        None => {
            reap::purge(tx, &inode)?;
            removed(Afterlife::Gone)
        }
    }
}

/// The sessions that keep an inode without names; `Some` of none: nobody knows.
fn keepers<'o>(inode: &Inode, openers: Option<&'o Openers>) -> Option<&'o [gfs_proto::ids::SessionId]> {
    match openers.filter(|openers| openers.inode == inode.id) {
        Some(openers) if openers.sessions.is_empty() => None,
        Some(openers) => Some(&openers.sessions),
        // opens of other kinds are the kernel's own business
        None => matches!(inode.body, Body::File(_)).then_some(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::outcome::CoreResult;
    use crate::tests::{CHUNK, Fixture, ROOT, make, name, set_mode, unlink, user};
    use gfs_proto::ids::SessionId;
    use gfs_proto::ops::{MakeKind, Op};

    fn afterlife(result: Result<CoreResult, FsError>) -> Afterlife {
        match result {
            Ok(CoreResult::Removed(removed)) => removed.afterlife,
            other => panic!("{other:?} of an unlink"),
        }
    }

    #[test]
    fn a_file_nobody_has_open_goes_at_once() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0, 3], 4 * CHUNK);
        let handle = fixture.store.view().chunks(file, Default::default(), 1).expect("a file").chunks[0].handle;
        let outcome = fixture.apply(Action::Batch(crate::tests::batch(
            &gfs_proto::caller::Caller::root(),
            vec![unlink(ROOT, "f", file, &[])],
        )));
        assert_eq!(afterlife(outcome.results[0].clone()), Afterlife::Gone);
        assert_eq!(outcome.dropped.len(), 2);
        assert_eq!(fixture.store.view().attr(file), Err(FsError::Stale));
        let garbage = fixture.store.view().garbage_chunk(handle).expect("readable").expect("garbage now");
        assert_eq!(garbage.servers.len(), 3);
        assert_eq!(fixture.store.view().stats().bytes, 0);
    }

    #[test]
    fn an_open_file_lives_until_it_is_reaped() {
        let mut fixture = Fixture::new();
        for id in [1, 2] {
            let session = SessionId::new(id);
            fixture.one(Action::OpenSession { session, secret: [0; 16], name: String::new() }).expect("new");
        }
        let file = fixture.file_of("f", &[0], CHUNK);
        assert_eq!(afterlife(fixture.root(unlink(ROOT, "f", file, &[1, 2]))), Afterlife::Orphaned);
        assert_eq!((fixture.attr(file).nlink, fixture.attr(file).size), (0, CHUNK));
        for (ends, left) in [(1, vec![SessionId::new(2)]), (2, vec![])] {
            assert_eq!(fixture.one(Action::EndSession { session: SessionId::new(ends) }), Ok(CoreResult::Done));
            let orphan = fixture.store.view().orphan(file).expect("readable").expect("somebody may have opened it");
            assert_eq!(orphan.sessions, left);
        }
        assert_eq!(fixture.one(Action::Reap { inodes: vec![file] }), Ok(CoreResult::Reaped(vec![file])));
        assert_eq!(fixture.store.view().attr(file), Err(FsError::Stale));
    }

    #[test]
    fn openers_of_another_file_say_nothing() {
        let mut fixture = Fixture::new();
        let (file, other) = (fixture.file(ROOT, "f"), fixture.file(ROOT, "g"));
        assert_eq!(afterlife(fixture.root(unlink(ROOT, "f", other, &[]))), Afterlife::Orphaned);
        assert_eq!(fixture.store.view().orphan(file).map(|o| o.map(|o| o.sessions)), Ok(Some(vec![])));
        assert_eq!(fixture.one(Action::Reap { inodes: vec![file, other] }), Ok(CoreResult::Reaped(vec![file])));
    }

    #[test]
    fn what_no_chunk_belongs_to_is_not_kept() {
        let mut fixture = Fixture::new();
        fixture.make(&user(1), make(ROOT, "fifo", MakeKind::Fifo, 0o644)).expect("everybody may");
        let op = Op::Unlink { parent: ROOT.into(), name: name("fifo") };
        assert_eq!(afterlife(fixture.root(op)), Afterlife::Gone);
    }

    #[test]
    fn who_may_unlink_what() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        fixture.make(&user(1), make(dir, "f", MakeKind::File, 0o777)).expect("everybody may");
        fixture.dir(dir, "sub");
        for (mode, caller, what, error) in [
            (0o755, user(1), "f", FsError::AccessDenied),
            (0o776, user(1), "f", FsError::AccessDenied),
            (0o1777, user(2), "f", FsError::NotPermitted),
            (0o777, user(1), "sub", FsError::IsDirectory),
            (0o755, user(1), "none", FsError::NotFound),
        ] {
            fixture.root(set_mode(dir, mode)).expect("root may");
            let op = Op::Unlink { parent: dir.into(), name: name(what) };
            assert_eq!(fixture.run(&caller, op), Err(error), "{mode:o} {what}");
        }
    }
}
