//! Make: an inode under a new name; a file can be opened and get its first chunk in the same command.
//! Without `exclusive` an existing file is found instead (`open` with O_CREAT).
//! Keeps `nlink_equals_dentries`, `chunks_are_referenced`.

use super::{DirChange, Request, change_dir, chunks, open_truncate};
use crate::access::{may_add, may_search};
use crate::outcome::CoreMade;
use crate::record::{Body, FileBody, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::ids::{ChunkIndex, InodeId, ServerId};
use gfs_proto::limits::SYMLINK_MAX;
use gfs_proto::ops::{Make, MakeKind};

/// `parent` is the directory that `make.parent` means.
pub(crate) fn apply(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    parent: InodeId,
    make: &Make,
    placement: &[ServerId],
) -> Result<CoreMade, FsError> {
    let dir = tx.dir(parent)?;
    may_search(request.caller, &dir)?;
    if let Some(existing) = tx.child(parent, &make.name)? {
        return find(tx, request, existing, make);
    }
    check(request, &dir, make)?;
    // nothing above this line has changed anything
    let inode = new_inode(request, tx.new_inode_id(), &dir, make);
    tx.insert_inode(&inode);
    tx.insert_dentry(parent, &make.name, &inode);
    change_dir(tx, parent, DirChange::entry(1, &inode), request.now)?;
    let wanted = make.first_chunk && matches!(make.kind, MakeKind::File) && !placement.is_empty();
    let first = ChunkIndex::new(0);
    let chunk = if wanted { Some(chunks::insert(tx, inode.id, first, placement)?) } else { None };
    Ok(CoreMade { attr: tx.inode(inode.id)?.attr(), existed: false, chunk })
}

/// The name is taken: fine if it is a file and that is wanted.
fn find(tx: &mut Tables<'_>, request: Request<'_>, existing: Inode, make: &Make) -> Result<CoreMade, FsError> {
    if make.exclusive || !matches!(make.kind, MakeKind::File) {
        return Err(FsError::Exists);
    }
    match existing.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(FsError::IsDirectory),
        _ => return Err(FsError::Exists),
    }
    let attr = match make.open {
        Some(spec) => open_truncate::apply(tx, request, existing.id, spec)?,
        None => existing.attr(),
    };
    Ok(CoreMade { attr, existed: true, chunk: None })
}

fn check(request: Request<'_>, dir: &Inode, make: &Make) -> Result<(), FsError> {
    may_add(request.caller, dir)?;
    if dir.nlink == 0 {
        return Err(FsError::NotFound);
    }
    if make.ids.is_some() {
        // ids come from ranges that nobody was granted
        return Err(FsError::NotSupported);
    }
    match &make.kind {
        MakeKind::Symlink(target) if target.is_empty() => Err(FsError::NotFound),
        MakeKind::Symlink(target) if target.len() > SYMLINK_MAX => Err(FsError::NameTooLong),
        MakeKind::CharDevice(_) | MakeKind::BlockDevice(_) if !request.caller.is_root() => Err(FsError::NotPermitted),
        _ => Ok(()),
    }
}

fn new_inode(request: Request<'_>, id: InodeId, dir: &Inode, make: &Make) -> Inode {
    let (caller, now) = (request.caller, request.now);
    let inherits = dir.mode.has(Mode::SETGID);
    let mut inode = Inode {
        id,
        mode: make.mode,
        nlink: 1,
        uid: caller.uid,
        gid: if inherits { dir.gid } else { caller.gid },
        goal: dir.goal,
        has_xattrs: false,
        has_acl: false,
        parent: dir.id,
        atime: now,
        mtime: now,
        ctime: now,
        body: body(&make.kind),
    };
    match make.kind {
        MakeKind::Symlink(_) => inode.mode = Mode::new(0o777),
        MakeKind::Directory => {
            inode.nlink = 2;
            if inherits {
                inode.set_mode_bits(Mode::SETGID, true);
            }
        }
        // a program cannot be made setgid to a group that its maker is not in
        _ if inode.mode.has(0o010) && !caller.is_root() && !caller.in_group(inode.gid) => {
            inode.set_mode_bits(Mode::SETGID, false);
        }
        _ => {}
    }
    inode
}

fn body(kind: &MakeKind) -> Body {
    match kind {
        MakeKind::File => Body::File(FileBody::default()),
        MakeKind::Directory => Body::Directory { entries: 0, version: 1 },
        MakeKind::Symlink(target) => Body::Symlink(target.clone()),
        MakeKind::Fifo => Body::Fifo,
        MakeKind::Socket => Body::Socket,
        MakeKind::CharDevice(number) => Body::CharDevice(*number),
        MakeKind::BlockDevice(number) => Body::BlockDevice(*number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{CHUNK, Fixture, ROOT, make, open_spec, servers, set_mode, user};
    use crate::{CoreResult, StampedOp};
    use gfs_proto::attr::Attr;
    use gfs_proto::caller::Caller;
    use gfs_proto::ops::{Access, Op};

    #[test]
    fn a_file_comes_with_its_first_chunk() {
        let mut fixture = Fixture::new();
        let op = Make { first_chunk: true, ..make(ROOT, "f", MakeKind::File, 0o644) };
        let stamped = StampedOp { placement: servers(&[4, 2]), ..Op::Make(op).into() };
        let Ok(CoreResult::Made(made)) = fixture.root(stamped) else { panic!("root may") };
        let chunk = made.chunk.expect("servers were stamped");
        assert_eq!((chunk.record.version.get(), chunk.record.references, chunk.record.goal), (1, 1, 3));
        assert_eq!(chunk.record.entitled, servers(&[4, 2]));
        assert_eq!((made.attr.chunks, made.attr.size, made.existed), (1, 0, false));
        assert_eq!(fixture.chunk_indices(made.attr.inode), [0]);
        assert_eq!(fixture.store.view().chunk(chunk.handle), Ok(Some(chunk.record)));
        // without room the file is made all the same
        let op = Make { first_chunk: true, ..make(ROOT, "g", MakeKind::File, 0o644) };
        let Ok(CoreResult::Made(made)) = fixture.root(Op::Make(op)) else { panic!("root may") };
        assert_eq!(made.chunk, None);
    }

    #[test]
    fn directories_hand_down_group_and_goal() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        fixture.root(crate::tests::chown(dir, 5, 50)).expect("root may");
        fixture.root(set_mode(dir, 0o2777)).expect("root may");
        fixture.root(Op::SetGoal { inode: dir.into(), goal: 2 }).expect("root may");
        let attr = |made: Result<CoreMade, FsError>| made.expect("everybody may").attr;
        let sub: Attr = attr(fixture.make(&user(9), make(dir, "sub", MakeKind::Directory, 0o755)));
        assert_eq!((sub.gid, sub.uid, sub.goal, sub.mode.get(), sub.nlink), (50, 9, 2, 0o2755, 2));
        let tool = attr(fixture.make(&user(9), make(dir, "tool", MakeKind::File, 0o6755)));
        assert_eq!((tool.gid, tool.mode.get()), (50, 0o4755), "not setgid for a group it is not in");
        assert_eq!(fixture.attr(dir).nlink, 3);
    }

    #[test]
    fn who_may_make_what() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        fixture.file(dir, "there");
        let long = vec![b'x'; SYMLINK_MAX + 1];
        for (mode, caller, name, kind, verdict) in [
            (0o777, user(1), "new", MakeKind::File, Ok(())),
            (0o777, user(1), "fifo", MakeKind::Fifo, Ok(())),
            (0o777, user(1), "dev", MakeKind::CharDevice(5), Err(FsError::NotPermitted)),
            (0o000, Caller::root(), "dev", MakeKind::BlockDevice(5), Ok(())),
            (0o755, user(1), "new2", MakeKind::File, Err(FsError::AccessDenied)),
            (0o755, user(1), "there", MakeKind::File, Err(FsError::Exists)),
            (0o766, user(1), "there", MakeKind::File, Err(FsError::AccessDenied)),
            (0o777, user(1), "link", MakeKind::Symlink(vec![]), Err(FsError::NotFound)),
            (0o777, user(1), "link", MakeKind::Symlink(long.clone()), Err(FsError::NameTooLong)),
        ] {
            fixture.root(set_mode(dir, mode)).expect("root may");
            if matches!(&kind, MakeKind::Symlink(target) if target.is_empty() || target.len() > SYMLINK_MAX) {
                // such a command does not get past the wire; the rule holds all the same
                let dir = fixture.store.view();
                let dir = crate::state::Read::inode(&dir, ROOT).expect("the root");
                let request = Request { caller: &caller, now: Default::default() };
                assert_eq!(check(request, &dir, &make(ROOT, name, kind, 0o644)), verdict);
                continue;
            }
            let made = fixture.make(&caller, make(dir, name, kind.clone(), 0o644));
            assert_eq!(made.map(|_| ()), verdict, "{mode:o} {caller:?} {name} {kind:?}");
        }
        let file = fixture.file(ROOT, "plain");
        let made = fixture.make(&Caller::root(), make(file, "x", MakeKind::File, 0o644));
        assert_eq!(made.map(|_| ()), Err(FsError::NotDirectory));
    }

    #[test]
    fn opening_finds_existing_files() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], CHUNK);
        fixture.dir(ROOT, "d");
        let open = |name: &str, access, truncate| Make {
            exclusive: false,
            open: Some(open_spec(access, truncate)),
            ..make(ROOT, name, MakeKind::File, 0o600)
        };
        let found = fixture.make(&user(1), open("f", Access::Read, false)).expect("mode 0644");
        assert!(found.existed);
        assert_eq!((found.attr.inode, found.attr.size, found.attr.mode.get()), (file, CHUNK, 0o644));
        let refused = |made: Result<CoreMade, FsError>| made.map(|_| ()).expect_err("refused");
        assert_eq!(refused(fixture.make(&user(1), open("f", Access::Write, false))), FsError::AccessDenied);
        assert_eq!(refused(fixture.make(&user(1), open("f", Access::Read, true))), FsError::AccessDenied);
        assert_eq!(refused(fixture.make(&user(1), open("d", Access::Read, false))), FsError::IsDirectory);
        let cut = fixture.make(&Caller::root(), open("f", Access::Write, true)).expect("root may");
        assert_eq!((cut.attr.size, cut.attr.chunks), (0, 0));
    }
}
