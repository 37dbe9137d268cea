//! Attributes, goals, and the numbers of `statfs`.

use super::Client;
use crate::files::OpenInode;
use crate::session::now;
use crate::{Entry, FileHandle};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, Mode, SetAttr, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::FILE_SIZE_MAX;
use gfs_proto::ops::{FsStats, Op, OpResult};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Client {
    /// Attributes, this client's own writes in them.
    pub async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<Entry, FsError> {
        match self.try_getattr(inode) {
            Some(entry) => Ok(entry),
            None => self.fresh_attr(caller, inode).await,
        }
    }

    /// Attributes as the master has them now.
    pub(super) async fn fresh_attr(&self, caller: &Caller, inode: InodeId) -> Result<Entry, FsError> {
        let mut answer = self.ask(caller, vec![Op::GetAttr { inode: inode.into() }]).await?;
        let attr = answer.attr()?;
        Ok(self.taken(attr, answer.seen))
    }

    /// [`Client::getattr`] from the caches.
    pub fn try_getattr(&self, inode: InodeId) -> Option<Entry> {
        let (attr, ttl) = self.cache.attr(inode, Instant::now())?;
        Some(self.show(attr, ttl))
    }

    /// `chmod`, `chown`, `utimensat`, `truncate`; with an open file also `ftruncate`. setuid and setgid
    /// bits go as POSIX wants when the owner or the size changes.
    pub async fn setattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        mut changes: SetAttr,
        open: Option<FileHandle>,
    ) -> Result<Entry, FsError> {
        let file = open.map(|handle| self.files.get(handle)).transpose()?;
        changes.by_open_handle |= file.as_ref().is_some_and(|file| file.flags.access.writes());
        if let Some((attr, ttl)) = self.files.while_open(inode, |open| self.keep_back(caller, open, &changes)) {
            return Ok(self.show(attr, ttl));
        }
        match self.files.inode(inode) {
            Some(open) => self.setattr_open(caller, &open, changes).await,
            None => self.setattr_at_master(caller, inode, changes).await,
        }
    }

    /// Times, or changes to what is so already, of a file that only we have open: reported with its
    /// size at the next flush. Spares `tar -x` and `cp -p` a logged mutation for each file.
    fn keep_back(&self, caller: &Caller, open: &OpenInode, changes: &SetAttr) -> Option<(Attr, Duration)> {
        if !open.is_exclusive() || open.check().is_err() {
            return None;
        }
        let (attr, ttl) = self.cache.attr(open.id, Instant::now())?;
        if !changes_only_times(caller, &attr, changes) {
            return None;
        }
        open.with_overlay(|overlay, written| overlay.keep((changes.mtime, changes.atime), now(), written));
        Some((attr, ttl))
    }

    async fn setattr_open(
        &self,
        caller: &Caller,
        open: &Arc<OpenInode>,
        mut changes: SetAttr,
    ) -> Result<Entry, FsError> {
        // What was kept back is older than this and must not be reported after it.
        let cut = match changes.size {
            Some(size) => {
                let gate = open.gate.write().await;
                Some((open.data.truncate_prepare(size).await?, gate))
            }
            None => None,
        };
        if open.unreported().is_some() {
            self.report(open, None).await?;
        }
        if changes.mtime == Some(SetTime::Now) {
            // The clock that stamps this client's writes, so that times do not go back.
            changes.mtime = Some(SetTime::At(now()));
        }
        let entry = self.setattr_at_master(caller, open.id, changes).await;
        drop(cut);
        entry
    }

    async fn setattr_at_master(&self, caller: &Caller, inode: InodeId, changes: SetAttr) -> Result<Entry, FsError> {
        if changes.size.is_some_and(|size| size > FILE_SIZE_MAX) {
            return Err(FsError::FileTooLarge);
        }
        let mut answer = self.ask(caller, vec![Op::SetAttr { inode: inode.into(), changes }]).await?;
        let attr = answer.attr()?;
        self.confirm(&attr);
        Ok(self.taken(attr, answer.seen))
    }

    /// The master has changed attributes because we asked for it.
    pub(super) fn confirm(&self, attr: &Attr) {
        match self.files.inode(attr.inode) {
            Some(open) => open.with_overlay(|overlay, _| overlay.confirmed(attr)),
            None => self.files.parked_is_set(attr),
        }
    }

    /// The writer may not keep setuid and setgid.
    pub(super) async fn kill_suid(&self, inode: InodeId) -> Result<(), FsError> {
        let root = Caller::root();
        let mode = self.getattr(&root, inode).await?.attr.mode;
        let killed = without_suid(mode);
        if killed != mode {
            let changes = SetAttr { mode: Some(killed), ..SetAttr::default() };
            self.setattr_at_master(&root, inode, changes).await?;
        }
        Ok(())
    }

    /// Room and numbers. Bytes are raw: divide by the goal for what a user can store.
    pub async fn statfs(&self) -> Result<FsStats, FsError> {
        let mut answer = self.ask(&Caller::root(), vec![Op::StatFs]).await?;
        match answer.next()? {
            OpResult::Stats(stats) => Ok(stats),
            _ => Err(FsError::Protocol),
        }
    }

    /// Copies wanted of a file's chunks, or of what will be created in a directory.
    pub async fn set_goal(&self, caller: &Caller, inode: InodeId, goal: u8) -> Result<(), FsError> {
        let mut answer = self.ask(caller, vec![Op::SetGoal { inode: inode.into(), goal }]).await?;
        answer.done()?;
        self.cache.forget_attr(inode, answer.seen.index);
        Ok(())
    }
}

/// True if nothing but times would change, and this caller may do it without asking.
fn changes_only_times(caller: &Caller, attr: &Attr, changes: &SetAttr) -> bool {
    let changes_owner = changes.uid.is_some() || changes.gid.is_some();
    let same = changes.mode.is_none_or(|mode| mode == attr.mode)
        && changes.uid.is_none_or(|uid| uid == attr.uid)
        && changes.gid.is_none_or(|gid| gid == attr.gid);
    let keeps_suid = without_suid(attr.mode) == attr.mode || !(changes_owner || changes.mode.is_some());
    let allowed = caller.is_root() || caller.uid == attr.uid;
    changes.size.is_none() && changes.ctime.is_none() && same && keeps_suid && allowed
}

/// setuid goes always, setgid where the group may execute (otherwise it meant mandatory locking).
fn without_suid(mode: Mode) -> Mode {
    let mut bits = u32::from(mode.get()) & !u32::from(Mode::SETUID);
    if bits & 0o010 != 0 {
        bits &= !u32::from(Mode::SETGID);
    }
    Mode::new(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::attr::FileKind;
    use gfs_proto::ids::{MapGeneration, TruncateGeneration};
    use gfs_proto::time::Timestamp;

    fn attr(mode: u32) -> Attr {
        Attr {
            inode: InodeId::new(2),
            kind: FileKind::File,
            mode: Mode::new(mode),
            nlink: 1,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            size: 0,
            chunks: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            truncate_generation: TruncateGeneration::default(),
            map_generation: MapGeneration::default(),
        }
    }

    #[test]
    fn only_what_changes_nothing_but_times_is_kept_back() {
        let owner = Caller { uid: 1000, gid: 1000, groups: vec![] };
        let other = Caller { uid: 1001, ..owner.clone() };
        let times = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        let chmod = |mode| SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() };
        let chown = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        for (caller, mode, changes, kept) in [
            (&owner, 0o644, &times, true),
            (&other, 0o644, &times, false),
            (&Caller::root(), 0o644, &times, true),
            (&owner, 0o644, &chmod(0o644), true),
            (&owner, 0o644, &chmod(0o600), false),
            (&owner, 0o644, &chown(1000), true),
            (&owner, 0o644, &chown(7), false),
            (&owner, 0o4755, &chown(1000), false),
            (&owner, 0o4755, &times, true),
            (&owner, 0o644, &cut, false),
        ] {
            assert_eq!(changes_only_times(caller, &attr(mode), changes), kept, "{mode:o} {changes:?}");
        }
    }

    #[test]
    fn suid_goes_and_sgid_where_it_means_that() {
        for (mode, killed) in [(0o4755, 0o755), (0o2755, 0o755), (0o2745, 0o2745), (0o6777, 0o777), (0o644, 0o644)] {
            assert_eq!(without_suid(Mode::new(mode)), Mode::new(killed), "{mode:o}");
        }
    }
}
