//! Names: looking up, making, removing, renaming.

use super::{Answer, Client};
use crate::cache::{Known, LISTING_ENTRIES_MAX, Seen};
use crate::{Entry, Lookup};
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::limits::{ATTRIBUTE_TTL, REPLY_PAGE_BYTES_MAX};
use gfs_proto::name::Name;
use gfs_proto::ops::{DirPage, Make, MakeKind, Op, OpResult, RenameMode};
use std::time::Instant;

impl Client {
    /// The inode under a name. `.` and `..` are no names.
    pub async fn lookup(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<Lookup, FsError> {
        if let Some(known) = self.try_lookup(parent, name) {
            return Ok(known);
        }
        if self.cache.note_miss(parent, Instant::now(), ATTRIBUTE_TTL)
            && let Some(found) = self.lookup_with_listing(caller, parent, name).await?
        {
            return Ok(found);
        }
        let mut answer = self.ask(caller, vec![Op::Lookup { parent: parent.into(), name: name.clone() }]).await?;
        let result = answer.attr();
        self.looked_up(parent, name, result, answer.seen)
    }

    /// [`Client::lookup`] from the caches. The caller's right to search the directory is the kernel's
    /// business here (`default_permissions`).
    pub fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup> {
        Some(match self.cache.lookup(parent, name, Instant::now())? {
            Known::Present(attr, ttl) => Lookup::Found(self.show(attr, ttl)),
            Known::Absent(ttl) => Lookup::Missing { ttl },
        })
    }

    fn looked_up(
        &self,
        parent: InodeId,
        name: &Name,
        result: Result<gfs_proto::attr::Attr, FsError>,
        seen: Seen,
    ) -> Result<Lookup, FsError> {
        match result {
            Ok(attr) => {
                self.cache.put_name(parent, name, Some(attr.inode), seen);
                Ok(Lookup::Found(self.taken(attr, seen)))
            }
            Err(FsError::NotFound) => {
                self.cache.put_name(parent, name, None, seen);
                Ok(Lookup::Missing { ttl: seen.expires.saturating_duration_since(Instant::now()) })
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches the directory's first page in the same batch. `None`: it may not be listed by this
    /// caller, who may still look names up.
    async fn lookup_with_listing(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
    ) -> Result<Option<Lookup>, FsError> {
        let ops =
            vec![read_dir(parent, DirCookie::default()), Op::Lookup { parent: parent.into(), name: name.clone() }];
        let mut answer = self.ask(caller, ops).await?;
        let page = match answer.next() {
            Ok(OpResult::Page(page)) => page,
            Ok(_) => return Err(FsError::Protocol),
            Err(_) => return Ok(None),
        };
        let whole = self.cache.put_page(parent, &page.entries, answer.seen);
        if whole && page.end {
            self.cache.complete(parent, answer.seen);
        } else if whole {
            self.fetch_rest(caller.clone(), parent, page, answer.seen);
        }
        let result = answer.attr();
        self.looked_up(parent, name, result, answer.seen).map(Some)
    }

    /// Fetches the other pages behind the caller's back.
    fn fetch_rest(&self, caller: Caller, parent: InodeId, first: DirPage, seen: Seen) {
        let Some(me) = self.me.upgrade() else { return };
        self.plane.runtime.spawn(async move {
            let mut fetched = first.entries.len() as u64;
            let mut after = first.entries.last().map(|entry| entry.cookie);
            while let Some(cookie) = after.filter(|_| fetched <= LISTING_ENTRIES_MAX && Instant::now() < seen.expires) {
                let Ok(mut answer) = me.ask(&caller, vec![read_dir(parent, cookie)]).await else { return };
                let Ok(OpResult::Page(page)) = answer.next() else { return };
                let whole = me.cache.put_page(parent, &page.entries, answer.seen);
                if !whole || page.version != first.version {
                    return;
                }
                if page.end {
                    me.cache.complete(parent, seen);
                    return;
                }
                fetched += page.entries.len() as u64;
                after = page.entries.last().map(|entry| entry.cookie);
            }
        });
    }

    /// Makes anything but an open file (`mkdir`, `mknod`, `symlink`); fails if the name exists. `mode`
    /// has the umask applied.
    #[expect(
        clippy::too_many_arguments,
        reason = "who, where, under what name, what, with which mode: as mknod has it"
    )]
    pub async fn make(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        kind: MakeKind,
        mode: Mode,
    ) -> Result<Entry, FsError> {
        let target = if let MakeKind::Symlink(target) = &kind { Some(target.clone()) } else { None };
        let make = Make {
            parent: parent.into(),
            name: name.clone(),
            kind,
            mode,
            exclusive: true,
            open: None,
            first_chunk: false,
            ids: None,
        };
        let mut answer = self.ask(caller, vec![Op::Make(make), get_attr(parent)]).await?;
        let OpResult::Made(made) = self.noted(answer.next(), parent, name, answer.seen)? else {
            return Err(FsError::Protocol);
        };
        let (attr, seen) = (made.attr, answer.seen);
        if let Some(target) = target {
            self.cache.put_link(attr.inode, &target);
        }
        if attr.kind == FileKind::Directory {
            self.cache.complete(attr.inode, seen);
        }
        self.entry_made(parent, name, &attr, seen);
        self.parent_changed(parent, &mut answer);
        Ok(self.taken(attr, seen))
    }

    /// The directory of a name that was changed, as the same batch saw it afterwards. The kernel asks
    /// for its attributes next, and is answered without another request.
    pub(super) fn parent_changed(&self, parent: InodeId, answer: &mut Answer) {
        match answer.attr() {
            Ok(attr) => self.cache.put_attr(&attr, answer.seen),
            Err(_) => self.cache.forget_attr(parent, answer.seen.index),
        }
    }

    /// An entry was made by us.
    pub(super) fn entry_made(&self, parent: InodeId, name: &Name, attr: &gfs_proto::attr::Attr, seen: Seen) {
        self.cache.put_entry(parent, name, attr, seen);
        self.cache.entry_made(parent, attr.ctime, attr.kind == FileKind::Directory, seen.index);
    }

    /// What a failure says of a name.
    pub(super) fn noted<T>(
        &self,
        result: Result<T, FsError>,
        parent: InodeId,
        name: &Name,
        seen: Seen,
    ) -> Result<T, FsError> {
        if let Err(FsError::Exists | FsError::NotFound) = result {
            // The cache was wrong, or the parent is gone: believe neither any longer.
            self.cache.forget_name(parent, name, seen.index);
        }
        result
    }

    /// A further name of an inode.
    pub async fn link(&self, caller: &Caller, inode: InodeId, parent: InodeId, name: &Name) -> Result<Entry, FsError> {
        let op = Op::Link { inode: inode.into(), parent: parent.into(), name: name.clone() };
        let mut answer = self.ask(caller, vec![op, get_attr(parent)]).await?;
        let attr = self.noted(answer.attr(), parent, name, answer.seen)?;
        self.entry_made(parent, name, &attr, answer.seen);
        self.parent_changed(parent, &mut answer);
        self.confirm(&attr);
        Ok(self.taken(attr, answer.seen))
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<(), FsError> {
        self.remove(caller, Op::Unlink { parent: parent.into(), name: name.clone() }, parent, name).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<(), FsError> {
        self.remove(caller, Op::Rmdir { parent: parent.into(), name: name.clone() }, parent, name).await
    }

    async fn remove(&self, caller: &Caller, op: Op, parent: InodeId, name: &Name) -> Result<(), FsError> {
        let child = self.cache.name_hint(parent, name).flatten();
        let removal = child.and_then(|child| self.links.remove(child));
        let mut answer = self.ask(caller, vec![op, get_attr(parent)]).await?;
        self.noted(answer.done(), parent, name, answer.seen)?;
        self.cache.put_name(parent, name, None, answer.seen);
        self.parent_changed(parent, &mut answer);
        if let Some(child) = child {
            self.cache.forget_attr(child, answer.seen.index);
        }
        if let Some(removal) = removal {
            removal.done();
        }
        Ok(())
    }

    /// Renames; `from` and `to` are a directory and a name in it.
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let mut replaced = self.cache.name_hint(to.0, to.1);
        let mut moved = self.cache.name_hint(from.0, from.1);
        if mode == RenameMode::Replace {
            // The kernel has just looked up both: mostly the answers are still here.
            let target = self.inode_behind(caller, to, replaced).await?;
            replaced = Some(target);
            if target.is_some() {
                let source = self.inode_behind(caller, from, moved).await?;
                moved = Some(source);
                if let Some(inode) = source {
                    self.make_durable(inode).await?;
                }
            }
        }
        let removal = match mode {
            RenameMode::Replace => replaced.flatten().and_then(|replaced| self.links.remove(replaced)),
            RenameMode::NoReplace | RenameMode::Exchange => None,
        };
        let op = Op::Rename {
            from_parent: from.0.into(),
            from_name: from.1.clone(),
            to_parent: to.0.into(),
            to_name: to.1.clone(),
            mode,
        };
        let mut answer = self.ask(caller, vec![op, get_attr(from.0), get_attr(to.0)]).await?;
        let seen = answer.seen;
        self.noted(answer.done(), from.0, from.1, seen).inspect_err(|_| {
            self.cache.forget_name(to.0, to.1, seen.index);
        })?;
        self.renamed((from, to), (moved, replaced), mode, seen);
        self.parent_changed(from.0, &mut answer);
        self.parent_changed(to.0, &mut answer);
        if let Some(removal) = removal {
            removal.done();
        }
        Ok(())
    }

    async fn inode_behind(
        &self,
        caller: &Caller,
        (parent, name): (InodeId, &Name),
        hint: Option<Option<InodeId>>,
    ) -> Result<Option<InodeId>, FsError> {
        match hint {
            Some(known) => Ok(known),
            None => Ok(match self.lookup(caller, parent, name).await? {
                Lookup::Found(entry) => Some(entry.attr.inode),
                Lookup::Missing { .. } => None,
            }),
        }
    }

    /// The caches after a rename, from what they held before.
    fn renamed(
        &self,
        (from, to): ((InodeId, &Name), (InodeId, &Name)),
        (moved, replaced): (Option<Option<InodeId>>, Option<Option<InodeId>>),
        mode: RenameMode,
        seen: Seen,
    ) {
        let same = moved.is_some() && moved == replaced;
        let put = |(parent, name): (InodeId, &Name), inode: Option<Option<InodeId>>| match inode {
            Some(Some(inode)) => self.cache.put_name(parent, name, Some(inode), seen),
            _ => self.cache.forget_name(parent, name, seen.index),
        };
        put(to, moved);
        match mode {
            RenameMode::Exchange => put(from, replaced),
            // Two names of one inode: POSIX wants nothing done.
            RenameMode::Replace | RenameMode::NoReplace if same => put(from, moved),
            RenameMode::Replace | RenameMode::NoReplace => self.cache.put_name(from.0, from.1, None, seen),
        }
        let touched = [Some(from.0), Some(to.0), moved.flatten(), replaced.flatten()];
        for inode in touched.into_iter().flatten() {
            self.cache.forget_attr(inode, seen.index);
        }
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, caller: &Caller, inode: InodeId) -> Result<Vec<u8>, FsError> {
        if let Some(target) = self.try_readlink(inode) {
            return Ok(target);
        }
        let mut answer = self.ask(caller, vec![Op::ReadLink { inode: inode.into() }]).await?;
        let OpResult::Bytes(target) = answer.next()? else { return Err(FsError::Protocol) };
        self.cache.put_link(inode, &target);
        Ok(target)
    }

    /// [`Client::readlink`] from the cache.
    pub fn try_readlink(&self, inode: InodeId) -> Option<Vec<u8>> {
        self.cache.link(inode).map(|target| target.to_vec())
    }
}

/// A page for the caches.
fn read_dir(inode: InodeId, after: DirCookie) -> Op {
    Op::ReadDir { inode: inode.into(), after, bytes_max: REPLY_PAGE_BYTES_MAX, with_attributes: true }
}

/// Behind a mutation in the same batch: what it made of a directory.
pub(super) fn get_attr(inode: InodeId) -> Op {
    Op::GetAttr { inode: inode.into() }
}
