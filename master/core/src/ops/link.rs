//! Link: a further name of an inode (POSIX link). Never of a directory, or the tree would be none.
//! Keeps `nlink_equals_dentries`.

use super::{DirChange, Request, change_dir};
use crate::access::{may_add, may_search};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::LINKS_MAX;
use gfs_proto::name::Name;

/// Names `id` also `name` in `parent`.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    id: InodeId,
    parent: InodeId,
    name: &Name,
) -> Result<Attr, FsError> {
    let mut inode = tx.inode(id)?;
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    if tx.dentry(parent, name)?.is_some() {
        return Err(FsError::Exists);
    }
    may_add(request.caller, &dir)?;
    if inode.is_dir() {
        return Err(FsError::NotPermitted);
    }
    match inode.nlink {
        0 => return Err(FsError::NotFound),
        LINKS_MAX.. => return Err(FsError::TooManyLinks),
        _ => {}
    }
    // nothing above this line has changed anything
    inode.nlink += 1;
    inode.ctime = request.now;
    inode.parent = parent;
    tx.put_inode(&inode);
    tx.insert_dentry(parent, name, &inode);
    change_dir(tx, parent, DirChange::entry(1, &inode), request.now)?;
    Ok(inode.attr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Fixture, ROOT, name, unlink};
    use gfs_proto::ops::Op;

    fn link(inode: InodeId, text: &str) -> Op {
        Op::Link { inode: inode.into(), parent: ROOT.into(), name: name(text) }
    }

    #[test]
    fn names_of_one_inode_are_equal() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "a");
        fixture.root(link(file, "b")).expect("root may");
        assert_eq!(fixture.lookup(ROOT, "b"), fixture.lookup(ROOT, "a"));
        assert_eq!(fixture.attr(file).nlink, 2);
        fixture.root(unlink(ROOT, "a", file, &[])).expect("root may");
        assert_eq!((fixture.attr(file).nlink, fixture.attr(file).ctime.secs()), (1, fixture.now().secs() - 1));
    }

    #[test]
    fn what_cannot_be_linked() {
        let mut fixture = Fixture::new();
        let (dir, file) = (fixture.dir(ROOT, "d"), fixture.file(ROOT, "f"));
        assert_eq!(fixture.root(link(dir, "e")), Err(FsError::NotPermitted));
        assert_eq!(fixture.root(link(file, "d")), Err(FsError::Exists));
        assert_eq!(fixture.root(link(InodeId::new(99), "e")), Err(FsError::Stale));
        fixture.root(unlink(ROOT, "f", file, &[1])).expect("root may");
        assert_eq!(fixture.root(link(file, "e")), Err(FsError::NotFound), "an orphan gets no name again");
    }

    #[test]
    fn links_are_limited() {
        let fixture = Fixture::new();
        let fault = crate::state::layers::Fault::default();
        fixture.store.with_tables(&fault, |tx| {
            let caller = gfs_proto::caller::Caller::root();
            let request = Request { caller: &caller, now: Default::default() };
            let make = crate::tests::make(ROOT, "f", gfs_proto::ops::MakeKind::File, 0o644);
            let id = super::super::make::apply(tx, request, ROOT, &make, &[]).expect("root may").attr.inode;
            let mut inode = tx.inode(id).expect("just made");
            inode.nlink = LINKS_MAX - 1;
            tx.put_inode(&inode);
            assert_eq!(apply(tx, request, id, ROOT, &name("b")).map(|attr| attr.nlink), Ok(LINKS_MAX));
            assert_eq!(apply(tx, request, id, ROOT, &name("c")), Err(FsError::TooManyLinks));
        });
    }
}
