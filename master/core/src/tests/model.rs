//! The namespace against a simple model in memory: the same operations, the same errors, the same tree.
//!
//! The model is written from POSIX and shares no code with the operations: links are counted by looking at
//! the whole tree, nothing is kept incrementally.

use super::steps::{Step, Stepper, steps};
use super::{batch, database, genesis};
use crate::command::{Action, Command, Openers, StampedOp};
use crate::outcome::CoreResult;
use crate::store::Store;
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, SetAttr, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId, LogIndex, Term};
use gfs_proto::ops::{InodeRef, Make, MakeKind, Op, RenameMode};
use gfs_proto::time::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Children = BTreeMap<Vec<u8>, InodeId>;

#[derive(Clone, Debug)]
struct Node {
    kind: FileKind,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    goal: u8,
    times: [Timestamp; 3],
    children: Children,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Default)]
struct Model {
    nodes: BTreeMap<InodeId, Node>,
    next: u64,
}

/// What an operation is asked with.
struct Ask<'a> {
    caller: &'a Caller,
    now: Timestamp,
}

type Verdict = Result<Option<InodeId>, FsError>;

fn id(reference: InodeRef) -> InodeId {
    match reference {
        InodeRef::Id(inode) => inode,
        InodeRef::ResultOf(_) => panic!("the model has no batches"),
    }
}

impl Model {
    fn new() -> Self {
        let root = Node {
            kind: FileKind::Directory,
            mode: 0o777,
            uid: 0,
            gid: 0,
            size: 0,
            goal: 3,
            times: [Timestamp::from_nanos(0); 3],
            children: Children::new(),
            xattrs: BTreeMap::new(),
        };
        Self { nodes: BTreeMap::from([(InodeId::ROOT, root)]), next: 2 }
    }

    fn node(&self, inode: InodeId) -> Result<&Node, FsError> {
        self.nodes.get(&inode).ok_or(FsError::Stale)
    }

    fn dir(&self, inode: InodeId) -> Result<&Node, FsError> {
        self.node(inode).and_then(|n| if n.kind == FileKind::Directory { Ok(n) } else { Err(FsError::NotDirectory) })
    }

    fn edit(&mut self, inode: InodeId) -> &mut Node {
        self.nodes.get_mut(&inode).expect("looked at before")
    }

    fn links(&self, inode: InodeId) -> u32 {
        let all = self.nodes.values().flat_map(|node| node.children.values());
        if self.nodes[&inode].kind == FileKind::Directory {
            let children = self.nodes[&inode].children.values();
            2 + children.filter(|child| self.nodes[child].kind == FileKind::Directory).count() as u32
        } else {
            all.filter(|child| **child == inode).count() as u32
        }
    }

    fn touch(&mut self, dir: InodeId, now: Timestamp) {
        let times = &mut self.edit(dir).times;
        (times[1], times[2]) = (now, now);
    }

    fn drop_if_unlinked(&mut self, inode: InodeId, now: Timestamp) {
        if self.nodes[&inode].kind == FileKind::Directory || self.links(inode) == 0 {
            self.nodes.remove(&inode);
        } else {
            self.edit(inode).times[2] = now;
        }
    }

    fn may(&self, ask: &Ask<'_>, inode: InodeId, bits: u16) -> Result<(), FsError> {
        let node = self.node(inode)?;
        let class = match () {
            () if ask.caller.uid == node.uid => node.mode >> 6,
            () if ask.caller.gid == node.gid => node.mode >> 3,
            () => node.mode,
        };
        if ask.caller.uid == 0 || class & bits == bits { Ok(()) } else { Err(FsError::AccessDenied) }
    }

    fn owner(&self, ask: &Ask<'_>, inode: InodeId) -> Result<(), FsError> {
        let owns = self.node(inode)?.uid == ask.caller.uid || ask.caller.uid == 0;
        if owns { Ok(()) } else { Err(FsError::NotPermitted) }
    }

    fn may_remove(&self, ask: &Ask<'_>, dir: InodeId, child: InodeId) -> Result<(), FsError> {
        self.may(ask, dir, 3)?;
        let sticky = self.node(dir)?.mode & 0o1000 != 0;
        if sticky { self.owner(ask, child).or_else(|_| self.owner(ask, dir)) } else { Ok(()) }
    }

    fn find(&self, ask: &Ask<'_>, dir: InodeId, name: &[u8]) -> Result<Option<InodeId>, FsError> {
        self.dir(dir)?;
        self.may(ask, dir, 1)?;
        Ok(self.nodes[&dir].children.get(name).copied())
    }

    fn apply(&mut self, ask: &Ask<'_>, op: &Op) -> Verdict {
        match op {
            Op::Make(make) => self.make(ask, make),
            Op::Link { inode, parent, name } => self.link(ask, id(*inode), id(*parent), name.as_bytes()),
            Op::Unlink { parent, name } => self.remove(ask, id(*parent), name.as_bytes(), false),
            Op::Rmdir { parent, name } => self.remove(ask, id(*parent), name.as_bytes(), true),
            Op::Rename { from_parent, from_name, to_parent, to_name, mode } => {
                let (from, to) = ((id(*from_parent), from_name.as_bytes()), (id(*to_parent), to_name.as_bytes()));
                self.rename(ask, from, to, *mode)
            }
            Op::SetAttr { inode, changes } => self.set_attr(ask, id(*inode), changes),
            Op::SetXattr { inode, name, value, .. } => self.set_xattr(ask, id(*inode), name, Some(value)),
            Op::RemoveXattr { inode, name } => self.set_xattr(ask, id(*inode), name, None),
            Op::SetGoal { inode, goal } => {
                self.owner(ask, id(*inode))?;
                let node = self.edit(id(*inode));
                if !matches!(node.kind, FileKind::File | FileKind::Directory) {
                    return Err(FsError::InvalidArgument);
                }
                (node.goal, node.times[2]) = (*goal, ask.now);
                Ok(None)
            }
            Op::Lookup { parent, name } => {
                self.find(ask, id(*parent), name.as_bytes())?.map(Some).ok_or(FsError::NotFound)
            }
            other => panic!("the model does not know {other:?}"),
        }
    }

    fn make(&mut self, ask: &Ask<'_>, make: &Make) -> Verdict {
        let dir = id(make.parent);
        if let Some(existing) = self.find(ask, dir, make.name.as_bytes())? {
            return match (make.exclusive, &make.kind, self.nodes[&existing].kind) {
                (false, MakeKind::File, FileKind::File) => Ok(Some(existing)),
                (false, MakeKind::File, FileKind::Directory) => Err(FsError::IsDirectory),
                _ => Err(FsError::Exists),
            };
        }
        self.may(ask, dir, 3)?;
        let (setgid, gid, goal) = (self.nodes[&dir].mode & 0o2000 != 0, self.nodes[&dir].gid, self.nodes[&dir].goal);
        let gid = if setgid { gid } else { ask.caller.gid };
        let outsider = ask.caller.uid != 0 && ask.caller.gid != gid;
        let mode = match make.kind {
            MakeKind::Symlink(_) => 0o777,
            MakeKind::Directory => make.mode.get() | if setgid { 0o2000 } else { 0 },
            _ if make.mode.get() & 0o010 != 0 && outsider => make.mode.get() & !0o2000,
            _ => make.mode.get(),
        };
        let size = if let MakeKind::Symlink(target) = &make.kind { target.len() as u64 } else { 0 };
        let (kind, times, inode) = (make.kind.file_kind(), [ask.now; 3], InodeId::new(self.next));
        let (children, xattrs) = Default::default();
        self.next += 1;
        self.nodes.insert(inode, Node { kind, mode, uid: ask.caller.uid, gid, size, goal, times, children, xattrs });
        self.edit(dir).children.insert(make.name.as_bytes().to_vec(), inode);
        self.touch(dir, ask.now);
        Ok(Some(inode))
    }

    fn link(&mut self, ask: &Ask<'_>, inode: InodeId, dir: InodeId, name: &[u8]) -> Verdict {
        self.node(inode)?;
        if self.find(ask, dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        self.may(ask, dir, 3)?;
        if self.nodes[&inode].kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        self.edit(dir).children.insert(name.to_vec(), inode);
        self.touch(dir, ask.now);
        self.edit(inode).times[2] = ask.now;
        Ok(Some(inode))
    }

    fn remove(&mut self, ask: &Ask<'_>, dir: InodeId, name: &[u8], directory: bool) -> Verdict {
        let child = self.find(ask, dir, name)?.ok_or(FsError::NotFound)?;
        self.may_remove(ask, dir, child)?;
        match (directory, self.nodes[&child].kind == FileKind::Directory) {
            (true, false) => return Err(FsError::NotDirectory),
            (false, true) => return Err(FsError::IsDirectory),
            (true, true) if !self.nodes[&child].children.is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.edit(dir).children.remove(name);
        self.touch(dir, ask.now);
        self.drop_if_unlinked(child, ask.now);
        Ok(None)
    }

    fn is_below(&self, inner: InodeId, outer: InodeId) -> bool {
        inner == outer || self.nodes[&outer].children.values().any(|child| self.is_below(inner, *child))
    }

    fn rename(&mut self, ask: &Ask<'_>, from: (InodeId, &[u8]), to: (InodeId, &[u8]), mode: RenameMode) -> Verdict {
        self.dir(from.0)?;
        self.dir(to.0)?;
        self.may(ask, from.0, 1)?;
        self.may(ask, to.0, 1)?;
        let source = self.find(ask, from.0, from.1)?.ok_or(FsError::NotFound)?;
        let target = self.find(ask, to.0, to.1)?;
        let exchange = mode == RenameMode::Exchange;
        match target {
            Some(_) if mode == RenameMode::NoReplace => return Err(FsError::Exists),
            None if exchange => return Err(FsError::NotFound),
            _ => {}
        }
        let moves = from.0 != to.0;
        if moves && self.is_below(to.0, source) {
            return Err(FsError::InvalidArgument);
        }
        if moves && target.is_some_and(|target| self.is_below(from.0, target)) {
            return Err(if exchange { FsError::InvalidArgument } else { FsError::NotEmpty });
        }
        if target == Some(source) {
            return Ok(None);
        }
        self.may_remove(ask, from.0, source)?;
        match target {
            None => self.may(ask, to.0, 3)?,
            Some(target) => self.may_remove(ask, to.0, target)?,
        }
        let is_dir = |model: &Self, inode: InodeId| model.nodes[&inode].kind == FileKind::Directory;
        if let (Some(target), false) = (target, exchange) {
            match (is_dir(self, source), is_dir(self, target)) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                _ => {}
            }
        }
        for moved in [Some(source), target.filter(|_| exchange)].into_iter().flatten() {
            if moves && is_dir(self, moved) {
                self.may(ask, moved, 2)?;
            }
        }
        if target.is_some_and(|target| !exchange && !self.nodes[&target].children.is_empty()) {
            return Err(FsError::NotEmpty);
        }
        self.edit(from.0).children.remove(from.1);
        self.edit(to.0).children.insert(to.1.to_vec(), source);
        if let (Some(target), true) = (target, exchange) {
            self.edit(from.0).children.insert(from.1.to_vec(), target);
            self.edit(target).times[2] = ask.now;
        }
        self.touch(from.0, ask.now);
        self.touch(to.0, ask.now);
        self.edit(source).times[2] = ask.now;
        if let (Some(target), false) = (target, exchange) {
            self.drop_if_unlinked(target, ask.now);
        }
        Ok(None)
    }

    fn set_attr(&mut self, ask: &Ask<'_>, inode: InodeId, changes: &SetAttr) -> Verdict {
        let node = self.node(inode)?.clone();
        let (root, owner) = (ask.caller.uid == 0, self.owner(ask, inode).is_ok());
        let mine = ask.caller.uid == node.uid;
        let refuses_uid = changes.uid.is_some_and(|uid| !(root || mine && uid == node.uid));
        let refuses_gid = changes.gid.is_some_and(|gid| !(root || mine && (gid == ask.caller.gid || gid == node.gid)));
        if refuses_uid || refuses_gid || (changes.mode.is_some() && !owner) {
            return Err(FsError::NotPermitted);
        }
        if changes.mode.is_some() && node.kind == FileKind::Symlink {
            return Err(FsError::NotSupported);
        }
        if changes.size.is_some() {
            match node.kind {
                FileKind::File => self.may(ask, inode, 2)?,
                FileKind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::InvalidArgument),
            }
        }
        if (changes.atime.is_some() || changes.mtime.is_some()) && !owner {
            // steps never set both to now
            return Err(FsError::NotPermitted);
        }
        if *changes != SetAttr::default() {
            self.set_checked(ask, inode, changes);
        }
        Ok(Some(inode))
    }

    fn set_checked(&mut self, ask: &Ask<'_>, inode: InodeId, changes: &SetAttr) {
        let root = ask.caller.uid == 0;
        let node = self.edit(inode);
        let chown = changes.uid.is_some() || changes.gid.is_some();
        let truncate = changes.size.is_some() && !root;
        if (chown || truncate) && node.kind != FileKind::Directory {
            let member = root || ask.caller.gid == node.gid;
            let keeps_setgid = member && node.mode & 0o010 == 0;
            node.mode &= if keeps_setgid { !0o4000 } else { !0o6000 };
        }
        node.uid = changes.uid.unwrap_or(node.uid);
        node.gid = changes.gid.unwrap_or(node.gid);
        if let Some(mode) = changes.mode {
            let outsider = !root && ask.caller.gid != node.gid;
            node.mode = mode.get() & if outsider { !0o2000 } else { !0 };
        }
        if let Some(size) = changes.size {
            (node.size, node.times[1]) = (size, ask.now);
        }
        let time = |set: SetTime| if let SetTime::At(time) = set { time } else { ask.now };
        node.times[0] = changes.atime.map_or(node.times[0], time);
        node.times[1] = changes.mtime.map_or(node.times[1], time);
        node.times[2] = ask.now;
    }

    fn set_xattr(&mut self, ask: &Ask<'_>, inode: InodeId, name: &[u8], value: Option<&Vec<u8>>) -> Verdict {
        let node = self.node(inode)?;
        let kind = node.kind;
        match name[0] {
            b'u' if !matches!(kind, FileKind::File | FileKind::Directory) => return Err(FsError::NotPermitted),
            b'u' => {
                if kind == FileKind::Directory && node.mode & 0o1000 != 0 {
                    self.owner(ask, inode)?;
                }
                self.may(ask, inode, 2)?;
            }
            b't' if ask.caller.uid != 0 => return Err(FsError::NotPermitted),
            b't' => {}
            _ if kind == FileKind::Symlink => return Err(FsError::NotSupported),
            _ => self.owner(ask, inode)?,
        }
        let node = self.edit(inode);
        match value {
            Some(value) => drop(node.xattrs.insert(name.to_vec(), value.clone())),
            None if node.xattrs.remove(name).is_none() => return Err(FsError::NoAttribute),
            None => {}
        }
        node.times[2] = ask.now;
        Ok(None)
    }

    /// The store shows exactly this tree.
    fn compare(&self, store: &Store) {
        let (view, root) = (store.view(), Caller::root());
        assert_eq!(view.stats().inodes(), self.nodes.len() as u64);
        for (inode, node) in &self.nodes {
            let attr = view.attr(*inode).expect("the model has it");
            let size = if node.kind == FileKind::Directory { node.children.len() as u64 } else { node.size };
            let seen = (attr.kind, attr.mode.get(), attr.uid, attr.gid, attr.size, attr.nlink, attr.goal);
            assert_eq!(seen, (node.kind, node.mode, node.uid, node.gid, size, self.links(*inode), node.goal));
            assert_eq!([attr.atime, attr.mtime, attr.ctime], node.times, "{inode} {node:?}");
            for name in view.list_xattr(&root, *inode).expect("root may") {
                let value = view.get_xattr(&root, *inode, &name);
                assert_eq!(value.ok().as_ref(), node.xattrs.get(&name));
            }
            assert_eq!(view.list_xattr(&root, *inode).expect("root may").len(), node.xattrs.len());
            if node.kind == FileKind::Directory {
                // pages as small as they come
                let (mut after, mut listed) = (DirCookie::new(0), Children::new());
                loop {
                    let page = view.read_dir(&root, *inode, after, 1, false).expect("root may");
                    listed.extend(page.entries.iter().map(|e| (e.name.as_bytes().to_vec(), e.inode)));
                    if page.end {
                        break;
                    }
                    after = page.entries.last().expect("a page has an entry or is the last").cookie;
                }
                assert_eq!(listed, node.children);
            }
        }
    }
}

/// What the store says, in the model's words.
fn verdict(result: &Result<CoreResult, FsError>) -> Verdict {
    match result {
        Ok(result) => Ok(result.inode()),
        Err(error) => Err(*error),
    }
}

/// True if the model knows the operation.
fn is_namespace(step: &Step) -> bool {
    (10..=25).contains(&step.what) || step.what == 27
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_namespace_is_the_models(steps in steps(60)) {
        let store = Store::format(database(), &genesis()).expect("an empty database");
        let (mut model, mut stepper) = (Model::new(), Stepper::default());
        let open_root = stepper.preamble().pop().expect("the last one");
        store.apply(LogIndex::new(1), Term::new(1), &open_root).expect("memory");
        for (index, step) in steps.iter().filter(|step| is_namespace(step)).enumerate() {
            let uid = u32::from(step.who.is_multiple_of(2)) * 7;
            let caller = Caller { uid, gid: uid, groups: vec![] };
            let op = stepper.op(step);
            let mut command = stepper.command(step);
            let ask = Ask { caller: &caller, now: command.stamp.now };
            let openers = removed(&model, &op).map(|inode| Openers { inode, sessions: Vec::new() });
            let stamped = StampedOp { op: op.clone(), placement: Vec::new(), openers };
            command = Command { action: Action::Batch(batch(&caller, vec![stamped])), ..command };
            let outcome = store.apply(LogIndex::new(index as u64 + 2), Term::new(1), &command).expect("memory");
            stepper.learn(&outcome);
            prop_assert_eq!(verdict(&outcome.results[0]), model.apply(&ask, &op), "{:?}", op);
            prop_assert_eq!(store.check().expect("readable"), []);
            model.compare(&store);
        }
    }
}

/// The inode that the operation may take the last name of.
fn removed(model: &Model, op: &Op) -> Option<InodeId> {
    let (parent, name) = match op {
        Op::Unlink { parent, name } => (parent, name),
        Op::Rename { to_parent, to_name, .. } => (to_parent, to_name),
        _ => return None,
    };
    model.nodes.get(&id(*parent))?.children.get(name.as_bytes()).copied()
}
