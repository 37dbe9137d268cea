//! Questions about the state, with the permission checks that POSIX wants; the same for views and for
//! the reading operations inside a logged batch.

use crate::access::{READ, SEARCH, may, may_open, may_search};
use crate::outcome::{CoreResult, FileChunks};
use crate::record::{Body, Inode};
use crate::state::{Read, table};
use crate::xattrs;
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ChunkIndex, DirCookie, InodeId};
use gfs_proto::limits::{CHUNKS_PER_REQUEST_MAX, REPLY_PAGE_BYTES_MAX};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, DirEntry, DirPage, InodeRef, Op};
use std::ops::ControlFlow;

/// Bytes of an entry on the wire beside its name: cookie, inode, mode, tags and lengths.
const ENTRY_BYTES: usize = 32;
/// Bytes of attributes on the wire, with three times.
const ATTR_BYTES: usize = 96;
/// Entries that the search for the name of an inode looks at in one directory.
const PATH_ENTRIES_MAX: usize = 100_000;
/// Directories above an inode that a path is made of.
const PATH_DEPTH_MAX: usize = 4096;

/// Answers an operation that changes nothing; `Protocol` for one that does.
pub(crate) fn answer(
    read: &impl Read,
    caller: &Caller,
    op: &Op,
    inode_of: impl Fn(InodeRef) -> Result<InodeId, FsError>,
) -> Result<CoreResult, FsError> {
    Ok(match op {
        Op::Lookup { parent, name } => CoreResult::Attr(lookup(read, caller, inode_of(*parent)?, name)?),
        Op::GetAttr { inode } => CoreResult::Attr(read.inode(inode_of(*inode)?)?.attr()),
        Op::ReadLink { inode } => CoreResult::Bytes(read_link(read, inode_of(*inode)?)?),
        Op::ReadDir { inode, after, bytes_max, with_attributes } => {
            let page = PageSpec { after: *after, bytes_max: *bytes_max, with_attributes: *with_attributes };
            CoreResult::Page(read_dir(read, caller, inode_of(*inode)?, page)?)
        }
        Op::StatFs => CoreResult::Stats(read.stats()),
        Op::GetXattr { inode, name } => CoreResult::Bytes(get_xattr(read, caller, inode_of(*inode)?, name)?),
        Op::ListXattr { inode } => CoreResult::Names(list_xattr(read, caller, inode_of(*inode)?)?),
        Op::ReadChunks { inode, first, count } => CoreResult::Chunks(chunks(read, inode_of(*inode)?, *first, *count)?),
        _ => return Err(FsError::Protocol),
    })
}

pub(crate) fn lookup(read: &impl Read, caller: &Caller, parent: InodeId, name: &Name) -> Result<Attr, FsError> {
    may_search(caller, &read.dir(parent)?)?;
    read.child(parent, name)?.map(|inode| inode.attr()).ok_or(FsError::NotFound)
}

pub(crate) fn open(read: &impl Read, caller: &Caller, id: InodeId, access: Access) -> Result<Attr, FsError> {
    let inode = read.inode(id)?;
    match inode.kind() {
        FileKind::Symlink => return Err(FsError::Loop),
        FileKind::Directory if access.writes() => return Err(FsError::IsDirectory),
        _ => {}
    }
    may_open(caller, &inode, access)?;
    Ok(inode.attr())
}

pub(crate) fn read_link(read: &impl Read, id: InodeId) -> Result<Vec<u8>, FsError> {
    match read.inode(id)?.body {
        Body::Symlink(target) => Ok(target),
        _ => Err(FsError::InvalidArgument),
    }
}

/// Which part of a directory.
#[derive(Clone, Copy)]
pub(crate) struct PageSpec {
    pub(crate) after: DirCookie,
    pub(crate) bytes_max: u32,
    pub(crate) with_attributes: bool,
}

pub(crate) fn read_dir(read: &impl Read, caller: &Caller, id: InodeId, page: PageSpec) -> Result<DirPage, FsError> {
    let dir = read.dir(id)?;
    may(caller, &dir, READ)?;
    let with_attributes = page.with_attributes && may(caller, &dir, SEARCH).is_ok();
    let entry_bytes = ENTRY_BYTES + if with_attributes { ATTR_BYTES } else { 0 };
    let room = page.bytes_max.min(REPLY_PAGE_BYTES_MAX) as usize;
    let (mut entries, mut used, mut end) = (Vec::<DirEntry>::new(), 0, true);
    read.scan_dentries(id, page.after.next(), &mut |cookie, name, dentry| {
        let bytes = entry_bytes + name.as_bytes().len();
        // one entry always, and whoever shares its cookie: the next page begins after the cookie
        let full = entries.last().is_some_and(|last| used + bytes > room && last.cookie != cookie);
        if full {
            end = false;
            return Ok(ControlFlow::Break(()));
        }
        used += bytes;
        let attr = if with_attributes { Some(read.inode(dentry.inode)?.attr()) } else { None };
        entries.push(DirEntry { name, cookie, inode: dentry.inode, kind: dentry.kind, attr });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(DirPage { entries, end, version: version(&dir) })
}

pub(crate) fn dir_version(read: &impl Read, id: InodeId) -> Result<u64, FsError> {
    read.dir(id).map(|dir| version(&dir))
}

fn version(dir: &Inode) -> u64 {
    if let Body::Directory { version, .. } = dir.body { version } else { 0 }
}

pub(crate) fn get_xattr(read: &impl Read, caller: &Caller, id: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
    let inode = read.inode(id)?;
    xattrs::may_get(caller, &inode, name)?;
    let value = if inode.has_xattrs { read.xattr(id, name)? } else { None };
    value.ok_or(FsError::NoAttribute)
}

pub(crate) fn list_xattr(read: &impl Read, caller: &Caller, id: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
    if !read.inode(id)?.has_xattrs {
        return Ok(Vec::new());
    }
    let mut names = read.xattr_names(id)?;
    names.retain(|name| xattrs::is_visible(caller, name));
    Ok(names)
}

pub(crate) fn chunks(read: &impl Read, id: InodeId, first: ChunkIndex, count: u32) -> Result<FileChunks, FsError> {
    let body = read.file(id)?.body;
    let handles = read.handles(id, first, count.min(CHUNKS_PER_REQUEST_MAX).into())?;
    let chunks = handles.into_iter().map(|(index, handle)| read.file_chunk(index, handle)).collect::<Result<_, _>>()?;
    Ok(FileChunks { generation: body.map_generation, truncate_generation: body.truncate_generation, chunks })
}

pub(crate) fn path_of(read: &impl Read, id: InodeId) -> Result<Option<Vec<u8>>, FsError> {
    let mut names: Vec<Name> = Vec::new();
    let mut at = id;
    while at != InodeId::ROOT {
        let Some(inode) = read.find_inode(at)? else { return Ok(None) };
        match name_in(read, inode.parent, at)? {
            Some(name) if names.len() < PATH_DEPTH_MAX => names.push(name),
            _ => return Ok(None),
        }
        at = inode.parent;
    }
    let path = names.iter().rev().flat_map(|name| [&b"/"[..], name.as_bytes()].concat()).collect::<Vec<u8>>();
    Ok(Some(if path.is_empty() { b"/".to_vec() } else { path }))
}

fn name_in(read: &impl Read, parent: InodeId, inode: InodeId) -> Result<Option<Name>, FsError> {
    let (mut found, mut looked_at) = (None, 0);
    read.scan_dentries(parent, DirCookie::new(0), &mut |_, name, dentry| {
        looked_at += 1;
        if dentry.inode == inode {
            found = Some(name);
        }
        let go_on = found.is_none() && looked_at < PATH_ENTRIES_MAX;
        Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// Rows of a table are paged by the key after which the next page begins.
pub(crate) fn after(handle: Option<gfs_proto::ids::ChunkHandle>) -> Vec<u8> {
    handle.map_or(Vec::new(), |handle| table::handle_key(handle.next()).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Fixture, ROOT, make, set_mode, user};
    use gfs_proto::ops::MakeKind;
    use std::collections::BTreeSet;

    #[test]
    fn pages_show_every_entry_once() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        let names: BTreeSet<String> = (0..100).map(|n| format!("name-{n}")).collect();
        for name in &names {
            fixture.file(dir, name);
        }
        for (bytes_max, with_attributes) in [(0, false), (500, false), (500, true), (u32::MAX, true)] {
            let (mut after, mut seen) = (DirCookie::new(0), Vec::new());
            loop {
                let page = fixture.store.view().read_dir(&Caller::root(), dir, after, bytes_max, with_attributes);
                let page = page.expect("root may");
                assert!(page.entries.iter().all(|entry| entry.attr.is_some() == with_attributes));
                assert!(page.entries.is_sorted_by_key(|entry| entry.cookie));
                seen.extend(page.entries.iter().map(|entry| entry.name.to_string()));
                if page.end {
                    break;
                }
                after = page.entries.last().expect("never an empty page before the end").cookie;
                assert!(after >= DirCookie::FIRST);
                assert!(bytes_max < 1000, "one page was enough");
            }
            assert_eq!(seen.len(), names.len());
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), names);
        }
    }

    #[test]
    fn names_of_one_cookie_are_never_parted() {
        let fixture = Fixture::new();
        let fault = crate::state::layers::Fault::default();
        fixture.store.with_tables(&fault, |tx| {
            let root = tx.inode(ROOT).expect("the root");
            let names = ["a", "b", "c", "d"];
            for (name, cookie) in names.iter().zip([20u64, 30, 30, 40]) {
                tx.insert_dentry_at(ROOT, DirCookie::new(cookie), &crate::tests::name(name), &root);
            }
            let page = |after| {
                let spec = PageSpec { after: DirCookie::new(after), bytes_max: 1, with_attributes: false };
                let page = read_dir(tx, &Caller::root(), ROOT, spec).expect("root may");
                let names: String = page.entries.iter().map(|entry| entry.name.to_string()).collect();
                (names, page.end)
            };
            assert_eq!(page(0), ("a".into(), false));
            assert_eq!(page(20), ("bc".into(), false));
            assert_eq!(page(30), ("d".into(), true));
        });
    }

    #[test]
    fn reading_needs_permission() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        let file = fixture.file(dir, "f");
        let (caller, name) = (user(5), crate::tests::name("f"));
        for (mode, finds, lists, with_attributes) in [
            (0o777, Ok(()), Ok(1), true),
            (0o774, Err(FsError::AccessDenied), Ok(1), false),
            (0o771, Ok(()), Err(FsError::AccessDenied), false),
        ] {
            fixture.root(set_mode(dir, mode)).expect("root may");
            let view = fixture.store.view();
            assert_eq!(view.lookup(&caller, dir, &name).map(|_| ()), finds, "{mode:o}");
            let page = view.read_dir(&caller, dir, DirCookie::new(0), 999, true);
            assert_eq!(page.as_ref().map(|page| page.entries.len()).map_err(|e| *e), lists, "{mode:o}");
            let attr = page.is_ok_and(|page| page.entries[0].attr.is_some());
            assert_eq!(attr, with_attributes, "{mode:o}");
        }
        let link = make(ROOT, "l", MakeKind::Symlink(b"to".to_vec()), 0);
        let link = fixture.make(&caller, link).expect("everybody may").attr.inode;
        let view = fixture.store.view();
        assert_eq!(view.read_link(link), Ok(b"to".to_vec()));
        for (inode, access, verdict) in [
            (file, Access::Read, Ok(())),
            (file, Access::ReadWrite, Err(FsError::AccessDenied)),
            (link, Access::Read, Err(FsError::Loop)),
            (dir, Access::Write, Err(FsError::IsDirectory)),
            (InodeId::new(99), Access::Read, Err(FsError::Stale)),
        ] {
            assert_eq!(view.may_open(&caller, inode, access).map(|_| ()), verdict, "{inode} {access:?}");
        }
        assert_eq!(view.read_link(file), Err(FsError::InvalidArgument));
        assert_eq!(view.read_dir(&caller, file, DirCookie::new(0), 9, false), Err(FsError::NotDirectory));
    }

    #[test]
    fn paths_lead_back() {
        let mut fixture = Fixture::new();
        let a = fixture.dir(ROOT, "a");
        let b = fixture.dir(a, "b");
        let file = fixture.file(b, "c");
        let view = fixture.store.view();
        for (inode, path) in [(ROOT, &b"/"[..]), (a, b"/a"), (file, b"/a/b/c")] {
            assert_eq!(view.path_of(inode), Ok(Some(path.to_vec())));
        }
        assert_eq!(view.path_of(InodeId::new(99)), Ok(None));
    }
}
