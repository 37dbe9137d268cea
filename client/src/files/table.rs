//! Open files: handles of this client, and under them one [`OpenInode`] for each inode.
//!
//! Keeps: an inode has at most one [`InodeData`] in use, whoever opens it; an open that follows a close
//! of the same inode is told to the master after it; a recall that overtakes the answer to an open is
//! not lost.

use super::overlay::{Noted, Overlay, Report, Written};
use crate::FileHandle;
use crate::data::{InodeData, SizeChange};
use crate::session::Reclaim;
use crate::types::OpenFlags;
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::ids::{InodeId, MapGeneration, OpenId, TruncateGeneration};
use gfs_proto::time::Timestamp;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// Closed files whose blocks and unsynced writes are remembered.
const PARKED_MAX: NonZeroUsize = NonZeroUsize::new(2048).expect("not zero");

/// What an inode's content looked like: equal stamps, equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContentStamp {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
    truncate_generation: TruncateGeneration,
    map_generation: MapGeneration,
}

impl ContentStamp {
    pub(crate) const fn of(attr: &Attr) -> Self {
        Self {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
            truncate_generation: attr.truncate_generation,
            map_generation: attr.map_generation,
        }
    }
}

/// An inode that is open here.
pub(crate) struct OpenInode {
    pub(crate) id: InodeId,
    pub(crate) data: Arc<InodeData>,
    /// Writers pass together, a cut of the size alone.
    pub(crate) gate: tokio::sync::RwLock<()>,
    /// One append at a time, where others write the file too.
    pub(crate) append: tokio::sync::Mutex<()>,
    /// One size report at a time.
    pub(crate) reporting: tokio::sync::Mutex<()>,
    /// One change between exclusive and shared at a time.
    pub(crate) mode: tokio::sync::Mutex<()>,
    overlay: Mutex<Overlay>,
    exclusive: AtomicBool,
    /// The session that it was written in expired: dirty data is gone.
    failed: AtomicBool,
    /// Content at the open, or at the last report.
    stamp: Mutex<ContentStamp>,
    /// How many reports the master has noted.
    reports: AtomicU64,
    /// One is to be made soon, or is being made.
    report_due: AtomicBool,
    /// When a master was last told what the overlay has from before the open; `None` once there is a report of this
    /// open.
    inherited: Mutex<Option<Instant>>,
}

/// What the master is to be told, and what to confirm to the data plane then.
pub(crate) type UnsentReport = (Report, Option<SizeChange>);

impl OpenInode {
    /// `logged`: see [`Overlay::new`].
    pub(crate) fn new(attr: &Attr, data: Arc<InodeData>, exclusive: bool, logged: bool) -> Arc<Self> {
        Arc::new(Self {
            id: attr.inode,
            data,
            gate: tokio::sync::RwLock::new(()),
            append: tokio::sync::Mutex::new(()),
            reporting: tokio::sync::Mutex::new(()),
            mode: tokio::sync::Mutex::new(()),
            overlay: Mutex::new(Overlay::new(attr, logged)),
            exclusive: AtomicBool::new(exclusive),
            failed: AtomicBool::new(false),
            stamp: Mutex::new(ContentStamp::of(attr)),
            reports: AtomicU64::new(0),
            report_due: AtomicBool::new(false),
            inherited: Mutex::new(None),
        })
    }

    /// It was written here and closed, and the master may still lose what it was told then.
    pub(crate) fn inherit(&self, (noted, told): (Noted, Instant)) {
        *self.inherited.lock() = Some(told);
        self.overlay.lock().inherit(noted);
    }

    /// What the master may lose. `None` also if it was told before `since`, and had the time to log it since the
    /// close. Whoever asks tells it to the next one, who needs that time again.
    fn noted(&self, since: Instant) -> Option<Noted> {
        if let Some(told) = &mut *self.inherited.lock() {
            if *told < since {
                return None;
            }
            *told = Instant::now();
        }
        self.overlay.lock().noted()
    }

    /// This session alone has the file open, for writing.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive.load(Ordering::Acquire)
    }

    pub(crate) fn set_exclusive(&self, exclusive: bool) {
        self.exclusive.store(exclusive, Ordering::Release);
    }

    /// Fails once dirty data was lost with a session.
    pub(crate) fn check(&self) -> Result<(), FsError> {
        if self.failed.load(Ordering::Acquire) { Err(FsError::Io) } else { Ok(()) }
    }

    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    fn stamp(&self) -> ContentStamp {
        *self.stamp.lock()
    }

    /// True if the content is still that of `attr`.
    pub(crate) fn has_content_of(&self, attr: &Attr) -> bool {
        self.stamp() == ContentStamp::of(attr)
    }

    fn set_stamp(&self, attr: &Attr) {
        *self.stamp.lock() = ContentStamp::of(attr);
    }

    fn written(&self) -> (Written, Option<SizeChange>) {
        let change = self.data.unreported();
        (Written { size: self.data.size(), mtime: change.map(|change| change.mtime) }, change)
    }

    /// See [`Overlay::unreported`]; the change is to be confirmed to the data plane.
    pub(crate) fn unreported(&self) -> Option<UnsentReport> {
        let (written, change) = self.written();
        Some((self.overlay.lock().unreported(written)?, change))
    }

    /// Nothing is left to be written or reported, or nothing can be.
    pub(crate) fn is_settled(&self) -> bool {
        self.check().is_err() || !(self.data.is_dirty() || self.unreported().is_some())
    }

    /// See [`Overlay::unlogged`].
    pub(crate) fn unlogged(&self, data_only: bool) -> Option<UnsentReport> {
        let (written, change) = self.written();
        Some((self.overlay.lock().unlogged(written, data_only)?, change))
    }

    /// The master has noted a report.
    pub(crate) fn reported(&self, (report, change): &UnsentReport, attr: &Attr, durable: bool) {
        if let Some(change) = change {
            self.data.reported(change);
        }
        *self.inherited.lock() = None;
        self.overlay.lock().reported(report, attr, durable);
        self.set_stamp(attr);
        self.reports.fetch_add(1, Ordering::AcqRel);
    }

    /// How many reports the master has noted.
    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Ordering::Acquire)
    }

    /// False if the file was cut since the report was put together.
    pub(crate) fn is_of_this_generation(&self, (report, _): &UnsentReport) -> bool {
        self.overlay.lock().generation() == report.generation
    }

    /// Marks that a report is to be made soon. False if that was known.
    pub(crate) fn set_report_due(&self) -> bool {
        !self.report_due.swap(true, Ordering::AcqRel)
    }

    /// The report that was due was made, or could not be: what comes from now on needs another.
    pub(crate) fn clear_report_due(&self) {
        self.report_due.store(false, Ordering::Release);
    }

    /// Changes the overlay, which is told what is written.
    pub(crate) fn with_overlay<T>(&self, change: impl FnOnce(&mut Overlay, Written) -> T) -> T {
        let (written, _) = self.written();
        change(&mut self.overlay.lock(), written)
    }

    /// The master's attributes with what is known here laid over them.
    pub(crate) fn lay_over(&self, attr: &mut Attr) {
        self.with_overlay(|overlay, written| overlay.apply(attr, written, self.is_exclusive()));
    }

    /// Attributes came in: what other sessions did to size and content is taken over.
    pub(crate) fn learn(&self, attr: &Attr) {
        let cut = self.with_overlay(|overlay, _| {
            let cut = attr.truncate_generation > overlay.generation();
            overlay.truncated(attr);
            cut
        });
        if cut {
            self.data.truncated(attr.size, attr.truncate_generation);
        } else if !self.is_exclusive() {
            self.data.learn_size(attr.size, attr.truncate_generation);
            if !self.has_content_of(attr) {
                self.data.invalidate();
            }
        }
        self.set_stamp(attr);
    }
}

/// A handle.
pub(crate) struct OpenFile {
    pub(crate) flags: OpenFlags,
    pub(crate) inode: Arc<OpenInode>,
    /// Opened with O_TRUNC: what is written then replaces what was there, so close makes it durable.
    pub(crate) replaces: bool,
    /// As registered at the master; `None`: another handle's registration covers it.
    registered: Option<OpenId>,
}

impl OpenFile {
    pub(crate) fn new(inode: Arc<OpenInode>, flags: OpenFlags, registered: Option<OpenId>, replaces: bool) -> Self {
        Self { flags, inode, replaces, registered }
    }
}

struct Entry {
    inode: Arc<OpenInode>,
    handles: usize,
    /// Registrations of closed handles that others still rely on.
    inherited: Vec<Reclaim>,
    covered: usize,
}

#[derive(Default)]
struct Inner {
    handles: HashMap<FileHandle, Arc<OpenFile>>,
    inodes: HashMap<InodeId, Entry>,
    /// Closes that the master has not confirmed.
    releasing: HashMap<InodeId, watch::Receiver<bool>>,
    /// Opens that the master has not answered.
    opening: usize,
    /// Recalls while opens were under way, by when they came.
    recalled: HashMap<InodeId, u64>,
    recalls: u64,
}

/// What is left to do when a handle is closed.
pub(crate) enum Closed {
    /// There was no such handle.
    Unknown,
    /// Other handles remain: these registrations end.
    Handle(Vec<(InodeId, OpenId)>),
    /// It was the last handle of the inode. The inode stays in the table until
    /// [`Files::remove_unused`].
    Inode(Arc<OpenInode>),
}

/// A size that may not be in the log yet, and its generation.
pub(crate) type Unlogged = Option<(u64, TruncateGeneration)>;

/// What is kept of a closed inode.
struct Parked {
    stamp: ContentStamp,
    data: Arc<InodeData>,
    unlogged: Unlogged,
    noted: Option<Noted>,
    /// When a master was last told of it.
    since: Instant,
}

/// What was kept of a closed inode that is opened again.
#[derive(Default)]
pub(crate) struct Unparked {
    /// What was known of the content, and whether it is still that. If not, what was not flushed to stable
    /// storage is worth keeping.
    pub(crate) data: Option<(Arc<InodeData>, bool)>,
    /// What the master may still lose, and when it was told.
    pub(crate) noted: Option<(Noted, Instant)>,
}

/// See the file's text.
pub(crate) struct Files {
    inner: Mutex<Inner>,
    parked: Mutex<LruCache<InodeId, Parked>>,
    next: AtomicU64,
}

/// While it lives, recalls of inodes that are not in the table are noted.
pub(crate) struct Opening<'a> {
    files: &'a Files,
    /// Recalls that came before it.
    recalls: u64,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut inner = self.files.inner.lock();
        inner.opening -= 1;
        if inner.opening == 0 {
            inner.recalled.clear();
        }
    }
}

impl Files {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            parked: Mutex::new(LruCache::new(PARKED_MAX)),
            next: AtomicU64::new(1),
        }
    }

    /// A number for an open at the master.
    pub(crate) fn next_open(&self) -> OpenId {
        OpenId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// An open file.
    pub(crate) fn get(&self, handle: FileHandle) -> Result<Arc<OpenFile>, FsError> {
        self.inner.lock().handles.get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    /// An inode that is open here.
    pub(crate) fn inode(&self, inode: InodeId) -> Option<Arc<OpenInode>> {
        self.inner.lock().inodes.get(&inode).map(|entry| entry.inode.clone())
    }

    /// Calls `keep` for an inode that has a handle here. The close of the last handle waits for it: what
    /// it leaves to be reported is reported.
    pub(crate) fn while_open<T>(&self, inode: InodeId, keep: impl FnOnce(&OpenInode) -> Option<T>) -> Option<T> {
        let inner = self.inner.lock();
        inner.inodes.get(&inode).filter(|entry| entry.handles > 0).and_then(|entry| keep(&entry.inode))
    }

    /// Every inode that is open here.
    pub(crate) fn inodes(&self) -> Vec<Arc<OpenInode>> {
        self.inner.lock().inodes.values().map(|entry| entry.inode.clone()).collect()
    }

    /// Begins to ask the master for an open.
    pub(crate) fn begin_open(&self) -> Opening<'_> {
        let mut inner = self.inner.lock();
        inner.opening += 1;
        Opening { files: self, recalls: inner.recalls }
    }

    /// A recall came for an inode. Returns it if it is open here; if not, and an open is under way, the
    /// recall is kept for its answer.
    pub(crate) fn recall(&self, inode: InodeId) -> Option<Arc<OpenInode>> {
        let mut inner = self.inner.lock();
        inner.recalls += 1;
        if inner.opening > 0 {
            let number = inner.recalls;
            inner.recalled.insert(inode, number);
        }
        inner.inodes.get(&inode).map(|entry| entry.inode.clone())
    }

    /// True if a recall of the inode came while `opening` was under way.
    pub(crate) fn was_recalled(&self, inode: InodeId, opening: &Opening<'_>) -> bool {
        self.inner.lock().recalled.get(&inode).is_some_and(|number| *number > opening.recalls)
    }

    /// Adds a handle. `make` is called if the inode is not open here yet; true is returned then.
    pub(crate) fn insert(
        &self,
        inode: InodeId,
        (flags, registered, replaces): (OpenFlags, Option<OpenId>, bool),
        make: impl FnOnce() -> Arc<OpenInode>,
    ) -> (FileHandle, Arc<OpenInode>, bool) {
        let handle = FileHandle::new(self.next.fetch_add(1, Ordering::Relaxed));
        let mut inner = self.inner.lock();
        let usable = inner.inodes.get(&inode).is_some_and(|entry| entry.inode.check().is_ok());
        if !usable {
            // Handles of an inode that failed keep it; from now on there is another one under its number.
            let entry = Entry { inode: make(), handles: 0, inherited: Vec::new(), covered: 0 };
            inner.inodes.insert(inode, entry);
        }
        let entry = inner.inodes.get_mut(&inode).expect("it was there or was just made");
        entry.handles += 1;
        entry.covered += usize::from(registered.is_none());
        let open = entry.inode.clone();
        inner.handles.insert(handle, Arc::new(OpenFile::new(open.clone(), flags, registered, replaces)));
        (handle, open, !usable)
    }

    /// Adds a handle to an inode that this session alone has open, without asking the master.
    pub(crate) fn insert_covered(&self, inode: InodeId, flags: OpenFlags) -> Option<FileHandle> {
        let mut inner = self.inner.lock();
        let entry = inner.inodes.get_mut(&inode)?;
        if !entry.inode.is_exclusive() || entry.handles == 0 || entry.inode.check().is_err() {
            return None;
        }
        entry.handles += 1;
        entry.covered += 1;
        let file = Arc::new(OpenFile::new(entry.inode.clone(), flags, None, false));
        let handle = FileHandle::new(self.next.fetch_add(1, Ordering::Relaxed));
        inner.handles.insert(handle, file);
        Some(handle)
    }

    /// Closes a handle.
    pub(crate) fn remove(&self, handle: FileHandle) -> Closed {
        let mut inner = self.inner.lock();
        let Some(file) = inner.handles.remove(&handle) else { return Closed::Unknown };
        let id = file.inode.id;
        let Some(entry) = inner.inodes.get_mut(&id).filter(|entry| Arc::ptr_eq(&entry.inode, &file.inode)) else {
            return Closed::Handle(file.registered.map(|open| (id, open)).into_iter().collect());
        };
        entry.handles -= 1;
        entry.covered -= usize::from(file.registered.is_none());
        let registered = file.registered.map(|open| Reclaim { inode: id, open, access: file.flags.access });
        entry.inherited.extend(registered);
        if entry.handles == 0 {
            return Closed::Inode(entry.inode.clone());
        }
        // Who writes alone does so by a registration for writing, be it that of a closed handle: the next open for
        // writing relies on it and asks nobody.
        if entry.covered > 0 || entry.inode.is_exclusive() {
            return Closed::Handle(Vec::new());
        }
        Closed::Handle(entry.inherited.drain(..).map(|reclaim| (id, reclaim.open)).collect())
    }

    /// Takes an inode without handles out of the table, unless it was opened again. Returns the
    /// registrations that end, and what to set when the master has confirmed that. `settled`: all that
    /// could be told of it was; without, an inode with something left stays for the close that tells it.
    pub(crate) fn remove_unused(
        &self,
        inode: &Arc<OpenInode>,
        settled: bool,
    ) -> Option<(Vec<OpenId>, watch::Sender<bool>)> {
        let mut inner = self.inner.lock();
        let entry = inner.inodes.get(&inode.id)?;
        if entry.handles > 0 || !Arc::ptr_eq(&entry.inode, inode) || !(settled || inode.is_settled()) {
            return None;
        }
        let entry = inner.inodes.remove(&inode.id)?;
        let (done, waiting) = watch::channel(false);
        inner.releasing.insert(inode.id, waiting);
        Some((entry.inherited.iter().map(|reclaim| reclaim.open).collect(), done))
    }

    /// The master has confirmed a close.
    pub(crate) fn released(&self, inode: InodeId, done: &watch::Sender<bool>) {
        done.send_replace(true);
        let mut inner = self.inner.lock();
        if inner.releasing.get(&inode).is_some_and(|waiting| *waiting.borrow()) {
            inner.releasing.remove(&inode);
        }
    }

    /// What to wait for before the inode is opened again.
    pub(crate) fn releasing(&self, inode: InodeId) -> Option<watch::Receiver<bool>> {
        self.inner.lock().releasing.get(&inode).cloned()
    }

    /// All that is registered at the master.
    pub(crate) fn registered(&self) -> Vec<Reclaim> {
        let inner = self.inner.lock();
        let of_handles = inner.handles.values().filter_map(|file| {
            Some(Reclaim { inode: file.inode.id, open: file.registered?, access: file.flags.access })
        });
        of_handles.chain(inner.inodes.values().flat_map(|entry| entry.inherited.iter().copied())).collect()
    }

    /// Keeps what is known of the content of a closed inode.
    pub(crate) fn park(&self, inode: &OpenInode) {
        if inode.check().is_ok() {
            let (unlogged, noted) =
                inode.with_overlay(|overlay, written| (overlay.unlogged_writes(written), overlay.noted()));
            let (stamp, since) = (inode.stamp(), inode.inherited.lock().unwrap_or_else(Instant::now));
            let parked = Parked { stamp, data: inode.data.clone(), unlogged, noted, since };
            self.parked.lock().push(inode.id, parked);
        }
    }

    /// Attributes came in that may be from before what the master has confirmed to a writer here, or from a master that
    /// has yet to be told of it: within a generation a file only grows.
    pub(crate) fn outgrow(&self, attr: &mut Attr) {
        if let Some(parked) = self.parked.lock().peek(&attr.inode)
            && parked.stamp.truncate_generation == attr.truncate_generation
        {
            attr.size = attr.size.max(parked.stamp.size);
        }
    }

    /// The inode is opened again.
    pub(crate) fn unpark(&self, attr: &Attr) -> Unparked {
        let Some(parked) = self.parked.lock().pop(&attr.inode) else { return Unparked::default() };
        let same = parked.stamp == ContentStamp::of(attr);
        let noted = parked.noted.filter(|noted| noted.generation == attr.truncate_generation);
        let noted = noted.map(|noted| (noted, parked.since));
        let data = (same || !parked.data.is_dirty()).then_some((parked.data, same));
        Unparked { data, noted }
    }

    /// The data of a closed inode, to make its writes durable.
    pub(crate) fn parked(&self, inode: InodeId) -> Option<(Arc<InodeData>, Unlogged)> {
        self.parked.lock().peek(&inode).map(|parked| (parked.data.clone(), parked.unlogged))
    }

    /// The size of a closed inode is in the log.
    pub(crate) fn parked_is_logged(&self, inode: InodeId) {
        if let Some(parked) = self.parked.lock().peek_mut(&inode) {
            parked.unlogged = None;
            parked.noted = None;
        }
    }

    /// Attributes of a closed inode were set, in the log: what its writer left must not come after them.
    pub(crate) fn parked_is_set(&self, attr: &Attr) {
        if let Some(noted) = self.parked.lock().peek_mut(&attr.inode).and_then(|parked| parked.noted.as_mut()) {
            noted.set(attr);
        }
    }

    /// What the master has noted, of files that are open or were closed or asked for here after `since`, and may have
    /// lost. Whoever asks tells it to the next one, who needs time of its own to log it.
    pub(crate) fn noted(&self, since: Instant) -> Vec<(InodeId, Noted)> {
        let open = self.inodes();
        let of_open = open.iter().filter_map(|inode| Some((inode.id, inode.noted(since)?)));
        let mut parked = self.parked.lock();
        let of_parked = parked.iter_mut().filter(|(_, parked)| parked.since >= since).filter_map(|(inode, parked)| {
            parked.since = Instant::now();
            Some((*inode, parked.noted?))
        });
        of_open.chain(of_parked).collect()
    }

    /// Forgets all closed inodes.
    pub(crate) fn forget_parked(&self) {
        self.parked.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_that_overtakes_the_answer_to_an_open_is_kept_for_it() {
        let (files, inode) = (Files::new(), InodeId::new(7));
        assert!(files.recall(inode).is_none());
        let early = files.begin_open();
        assert!(!files.was_recalled(inode, &early), "that was before");
        assert!(files.recall(inode).is_none());
        let late = files.begin_open();
        assert!(files.was_recalled(inode, &early));
        assert!(!files.was_recalled(inode, &late), "it asked after the recall");
        assert!(!files.was_recalled(InodeId::new(8), &early));
        drop((early, late));
        assert!(files.inner.lock().recalled.is_empty(), "nothing is kept when nobody asks");
    }
}
