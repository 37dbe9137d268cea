//! Rename: moves a name, replacing, not replacing, or exchanging (Linux `renameat2`).
//! Keeps `directories_form_a_tree`, `nlink_equals_dentries`.

use super::rmdir::must_be_empty;
use super::unlink::drop_link;
use super::{DirChange, Request, change_dir, reap};
use crate::access::{WRITE, may, may_add, may_remove, may_search};
use crate::command::Openers;
use crate::outcome::{Afterlife, CoreResult, Removed};
use crate::record::Inode;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::ops::RenameMode;
use gfs_proto::time::Timestamp;

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) parent: InodeId,
    pub(crate) name: &'a Name,
}

/// Moves `from` to `to`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    from: Place<'_>,
    to: Place<'_>,
    mode: RenameMode,
    openers: Option<&Openers>,
) -> Result<CoreResult, FsError> {
    let (from_dir, to_dir) = (tx.dir(from.parent)?, tx.dir(to.parent)?);
    may_search(request.caller, &from_dir)?;
    may_search(request.caller, &to_dir)?;
    let source = tx.child(from.parent, from.name)?.ok_or(FsError::NotFound)?;
    let target = tx.child(to.parent, to.name)?;
    match (mode, &target) {
        (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
        (RenameMode::Exchange, None) => return Err(FsError::NotFound),
        _ => {}
    }
    check_loops(tx, from, to, &source, target.as_ref(), mode)?;
    let inode = source.id;
    let Some(target) = target else {
        may_remove(request.caller, &from_dir, &source)?;
        may_add(request.caller, &to_dir)?;
        may_move(request, from, to, &source)?;
        // nothing above this line has changed anything
        move_to(tx, from, to, source, request.now)?;
        return Ok(CoreResult::Renamed { inode, replaced: None });
    };
    if target.id == source.id {
        // two names of one inode: POSIX wants nothing to happen
        return Ok(CoreResult::Renamed { inode, replaced: None });
    }
    may_remove(request.caller, &from_dir, &source)?;
    may_remove(request.caller, &to_dir, &target)?;
    if matches!(mode, RenameMode::Exchange) {
        may_move(request, from, to, &source)?;
        may_move(request, from, to, &target)?;
        exchange(tx, from, to, source, target, request.now)?;
        return Ok(CoreResult::Renamed { inode, replaced: None });
    }
    match (source.is_dir(), target.is_dir()) {
        (true, false) => return Err(FsError::NotDirectory),
        (false, true) => return Err(FsError::IsDirectory),
        _ => {}
    }
    may_move(request, from, to, &source)?;
    if target.is_dir() {
        must_be_empty(&target)?;
    }
    let replaced = replace(tx, from, to, source, target, openers, request.now)?;
    Ok(CoreResult::Renamed { inode, replaced: Some(replaced) })
}

/// A directory cannot become its own descendant, nor be replaced by one of its descendants.
fn check_loops(
    tx: &Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: &Inode,
    target: Option<&Inode>,
    mode: RenameMode,
) -> Result<(), FsError> {
    if from.parent == to.parent {
        return Ok(());
    }
    if source.is_dir() && contains(tx, source.id, to.parent)? {
        return Err(FsError::InvalidArgument);
    }
    if let Some(target) = target
        && target.is_dir()
        && contains(tx, target.id, from.parent)?
    {
        let exchange = matches!(mode, RenameMode::Exchange);
        return Err(if exchange { FsError::InvalidArgument } else { FsError::NotEmpty });
    }
    Ok(())
}

/// True if `inner` is `outer` or below it.
fn contains(tx: &Tables<'_>, outer: InodeId, inner: InodeId) -> Result<bool, FsError> {
    let mut at = inner;
    loop {
        if at == outer {
            return Ok(true);
        }
        let parent = tx.dir(at)?.parent;
        if parent == at {
            return Ok(false);
        }
        at = parent;
    }
}

/// To get another parent a directory is written: its `..` changes.
fn may_move(request: Request<'_>, from: Place<'_>, to: Place<'_>, inode: &Inode) -> Result<(), FsError> {
    if inode.is_dir() && from.parent != to.parent { may(request.caller, inode, WRITE) } else { Ok(()) }
}

fn move_to(tx: &mut Tables<'_>, from: Place<'_>, to: Place<'_>, source: Inode, now: Timestamp) -> Result<(), FsError> {
    tx.remove_dentry(from.parent, from.name);
    tx.insert_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::entry(-1, &source), now)?;
    change_dir(tx, to.parent, DirChange::entry(1, &source), now)?;
    settle(tx, source, to.parent, now);
    Ok(())
}

fn replace(
    tx: &mut Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: Inode,
    target: Inode,
    openers: Option<&Openers>,
    now: Timestamp,
) -> Result<Removed, FsError> {
    tx.remove_dentry(from.parent, from.name);
    tx.replace_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::entry(-1, &source), now)?;
    change_dir(tx, to.parent, DirChange::swap(&target, &source), now)?;
    settle(tx, source, to.parent, now);
    if target.is_dir() {
        reap::purge(tx, &target)?;
        return Ok(Removed { inode: target.id, afterlife: Afterlife::Gone });
    }
    drop_link(tx, target, openers, now)
}

fn exchange(
    tx: &mut Tables<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: Inode,
    target: Inode,
    now: Timestamp,
) -> Result<(), FsError> {
    tx.replace_dentry(from.parent, from.name, &target);
    tx.replace_dentry(to.parent, to.name, &source);
    change_dir(tx, from.parent, DirChange::swap(&source, &target), now)?;
    change_dir(tx, to.parent, DirChange::swap(&target, &source), now)?;
    settle(tx, source, to.parent, now);
    settle(tx, target, from.parent, now);
    Ok(())
}

/// An inode has a new place.
fn settle(tx: &mut Tables<'_>, mut inode: Inode, parent: InodeId, now: Timestamp) {
    inode.parent = parent;
    inode.ctime = now;
    tx.put_inode(&inode);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::StampedOp;
    use crate::tests::{CHUNK, Fixture, ROOT, make, name, set_mode, user};
    use gfs_proto::ops::{MakeKind, Op};

    fn rename(from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> Op {
        Op::Rename {
            from_parent: from.0.into(),
            from_name: name(from.1),
            to_parent: to.0.into(),
            to_name: name(to.1),
            mode,
        }
    }

    #[test]
    fn directories_take_their_links_along() {
        let mut fixture = Fixture::new();
        let (a, b) = (fixture.dir(ROOT, "a"), fixture.dir(ROOT, "b"));
        let sub = fixture.dir(a, "sub");
        let versions = |f: &Fixture| [a, b].map(|dir| f.store.view().dir_version(dir).expect("a directory"));
        let before = versions(&fixture);
        fixture.root(rename((a, "sub"), (b, "moved"), RenameMode::NoReplace)).expect("root may");
        assert_eq!([fixture.attr(a).nlink, fixture.attr(b).nlink], [2, 3]);
        assert_eq!(versions(&fixture), before.map(|version| version + 1));
        assert_eq!(fixture.store.view().path_of(sub), Ok(Some(b"/b/moved".to_vec())));
    }

    #[test]
    fn loops_are_refused() {
        let mut fixture = Fixture::new();
        let a = fixture.dir(ROOT, "a");
        let b = fixture.dir(a, "b");
        let c = fixture.dir(b, "c");
        use RenameMode::{Exchange, Replace};
        for (from, to, mode, error) in [
            ((ROOT, "a"), (a, "x"), Replace, FsError::InvalidArgument),
            ((ROOT, "a"), (c, "x"), Replace, FsError::InvalidArgument),
            ((b, "c"), (ROOT, "a"), Replace, FsError::NotEmpty),
            ((b, "c"), (ROOT, "a"), Exchange, FsError::InvalidArgument),
            ((ROOT, "a"), (b, "c"), Exchange, FsError::InvalidArgument),
        ] {
            assert_eq!(fixture.root(rename(from, to, mode)), Err(error), "{from:?} {to:?} {mode:?}");
        }
    }

    #[test]
    fn what_is_replaced_ends_as_if_unlinked() {
        let mut fixture = Fixture::new();
        let (new, old) = (fixture.file_of("new", &[0], 1), fixture.file_of("old", &[0, 1], 2 * CHUNK));
        let op = rename((ROOT, "new"), (ROOT, "old"), RenameMode::Replace);
        let openers = Some(Openers { inode: old, sessions: vec![] });
        let result = fixture.root(StampedOp { openers, ..op.into() });
        let gone = Removed { inode: old, afterlife: Afterlife::Gone };
        assert_eq!(result, Ok(CoreResult::Renamed { inode: new, replaced: Some(gone) }));
        assert_eq!(fixture.lookup(ROOT, "old").map(|attr| attr.inode), Ok(new));
        assert_eq!(fixture.lookup(ROOT, "new"), Err(FsError::NotFound));
        assert_eq!(fixture.store.view().stats().garbage, 2);
    }

    #[test]
    fn kinds_must_fit() {
        let mut fixture = Fixture::new();
        let full = fixture.dir(ROOT, "full");
        fixture.file(full, "x");
        fixture.dir(ROOT, "empty");
        fixture.file(ROOT, "f");
        use RenameMode::{Exchange, NoReplace, Replace};
        for (from, to, mode, verdict) in [
            ("f", "empty", Replace, Err(FsError::IsDirectory)),
            ("empty", "f", Replace, Err(FsError::NotDirectory)),
            ("empty", "full", Replace, Err(FsError::NotEmpty)),
            ("f", "empty", NoReplace, Err(FsError::Exists)),
            ("f", "none", Exchange, Err(FsError::NotFound)),
            ("none", "f", Replace, Err(FsError::NotFound)),
            ("f", "f", Replace, Ok(())),
            ("f", "empty", Exchange, Ok(())),
            ("full", "f", Replace, Ok(())),
        ] {
            let result = fixture.root(rename((ROOT, from), (ROOT, to), mode));
            assert_eq!(result.map(|_| ()), verdict, "{from} {to} {mode:?}");
        }
        assert_eq!(fixture.lookup(ROOT, "f").map(|attr| attr.inode), Ok(full));
    }

    #[test]
    fn a_directory_that_moves_is_written() {
        let mut fixture = Fixture::new();
        let there = fixture.dir(ROOT, "there");
        let theirs = fixture.make(&user(1), make(ROOT, "d", MakeKind::Directory, 0o555)).expect("everybody may");
        let op = rename((ROOT, "d"), (there, "d"), RenameMode::Replace);
        assert_eq!(fixture.run(&user(1), op.clone()), Err(FsError::AccessDenied), "its .. would change");
        let stays = rename((ROOT, "d"), (ROOT, "e"), RenameMode::Replace);
        fixture.run(&user(1), stays).expect("its parent does not change");
        fixture.root(set_mode(theirs.attr.inode, 0o755)).expect("root may");
        let op = rename((ROOT, "e"), (there, "d"), RenameMode::Replace);
        fixture.run(&user(1), op).expect("it may be written");
    }
}
