//! Listing directories: pages of the master, fetched ahead of the reader.
//!
//! Keeps: attributes and names handed out come from the cache, which knows what was changed since the
//! page was fetched. A page shows names, the cache says whether they are still true.

use super::Client;
use crate::cache::{Known, Seen};
use crate::{DirHandle, DirItem, DirItems};
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::limits::REPLY_PAGE_BYTES_MAX;
use gfs_proto::ops::{DirEntry, DirPage, Op, OpResult};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Entries of one answer: a buffer of the kernel holds fewer, so copying more of a page is waste.
const ITEMS_MAX: usize = 256;
/// Pages kept for a handle: the one being read and the one after it.
const PAGES_MAX: usize = 2;

/// A page with what it was asked for.
struct Page {
    after: DirCookie,
    with_attributes: bool,
    entries: Vec<DirEntry>,
    end: bool,
}

impl Page {
    /// The entries after a cookie, if this page has them all.
    fn rest(&self, after: DirCookie, with_attributes: bool) -> Option<&[DirEntry]> {
        let last = self.entries.last().map_or(self.after, |entry| entry.cookie);
        let covers = self.after <= after && (after < last || (self.end && after == last));
        let at = self.entries.partition_point(|entry| entry.cookie <= after);
        (covers && (self.with_attributes || !with_attributes)).then(|| &self.entries[at..])
    }
}

/// A listing from the beginning: if it gets to the end under one version, all names are known.
#[derive(Clone, Copy)]
struct Whole {
    version: u64,
    seen: Seen,
    next: DirCookie,
}

#[derive(Default)]
struct Listing {
    pages: Vec<Page>,
    whole: Option<Whole>,
    fetching: Option<DirCookie>,
}

struct Directory {
    inode: InodeId,
    caller: Caller,
    listing: Mutex<Listing>,
    /// One fetch at a time, so that a page that is on its way is not asked for twice.
    fetch: tokio::sync::Mutex<()>,
}

/// Open directories.
#[derive(Default)]
pub(super) struct Directories {
    open: Mutex<HashMap<DirHandle, Arc<Directory>>>,
    next: AtomicU64,
}

impl Directories {
    fn get(&self, handle: DirHandle) -> Result<Arc<Directory>, FsError> {
        self.open.lock().get(&handle).cloned().ok_or(FsError::BadHandle)
    }
}

impl Client {
    /// Opens a directory for listing. Costs no request.
    pub fn opendir(&self, caller: &Caller, inode: InodeId) -> Result<DirHandle, FsError> {
        let handle = DirHandle::new(self.directories.next.fetch_add(1, Ordering::Relaxed) + 1);
        let directory = Directory {
            inode,
            caller: caller.clone(),
            listing: Mutex::new(Listing::default()),
            fetch: tokio::sync::Mutex::new(()),
        };
        self.directories.open.lock().insert(handle, Arc::new(directory));
        Ok(handle)
    }

    /// The entries after a cookie (0: from the beginning), as many as are at hand. The caller takes as
    /// many as it has room for and asks again with the cookie of the last it took.
    pub async fn readdir(
        &self,
        handle: DirHandle,
        after: DirCookie,
        with_attributes: bool,
    ) -> Result<DirItems, FsError> {
        let directory = self.directories.get(handle)?;
        if after == DirCookie::default() {
            // `rewinddir`: what is fetched from now on shows the directory as it is now.
            *directory.listing.lock() = Listing::default();
        }
        loop {
            if let Some(items) = self.items(&directory, after, with_attributes) {
                return Ok(items);
            }
            let _fetch = directory.fetch.lock().await;
            if directory.listing.lock().pages.iter().any(|page| page.rest(after, with_attributes).is_some()) {
                continue;
            }
            self.fetch_page(&directory, after, with_attributes).await?;
        }
    }

    /// [`Client::readdir`] without waiting, if the page is there already.
    pub fn try_readdir(&self, handle: DirHandle, after: DirCookie, with_attributes: bool) -> Option<DirItems> {
        if after == DirCookie::default() {
            return None;
        }
        self.items(&self.directories.get(handle).ok()?, after, with_attributes)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: DirHandle) {
        self.directories.open.lock().remove(&handle);
    }

    /// From the pages that are there. Fetches the next page behind the caller's back when a page that
    /// is not the last is begun.
    fn items(&self, directory: &Arc<Directory>, after: DirCookie, with_attributes: bool) -> Option<DirItems> {
        let mut listing = directory.listing.lock();
        let page = listing.pages.iter().find(|page| page.rest(after, with_attributes).is_some())?;
        let rest = page.rest(after, with_attributes)?;
        let taken = &rest[..rest.len().min(ITEMS_MAX)];
        let end = page.end && taken.len() == rest.len();
        let now = Instant::now();
        let items: Vec<DirItem> =
            taken.iter().filter_map(|entry| self.item(directory.inode, entry, with_attributes, now)).collect();
        let ahead = page.entries.last().map(|entry| entry.cookie).filter(|_| !page.end);
        let last_taken = taken.last().map(|entry| entry.cookie);
        if let Some(cookie) = ahead.filter(|cookie| listing.fetching < Some(*cookie)) {
            listing.fetching = Some(cookie);
            drop(listing);
            self.fetch_ahead(directory.clone(), cookie, with_attributes);
        } else {
            drop(listing);
        }
        match (items.is_empty(), end, last_taken) {
            // All of them have been removed since: go on behind them.
            (true, false, Some(last)) => self.items(directory, last, with_attributes),
            _ => Some(DirItems { items, end }),
        }
    }

    /// An entry as the cache knows it; `None` if it was removed since the page was fetched.
    fn item(&self, parent: InodeId, entry: &DirEntry, with_attributes: bool, now: Instant) -> Option<DirItem> {
        let item = |inode, kind, entry_now| DirItem {
            name: entry.name.clone(),
            cookie: entry.cookie,
            inode,
            kind,
            entry: entry_now,
        };
        match self.cache.lookup(parent, &entry.name, now) {
            Some(Known::Absent(_)) => None,
            Some(Known::Present(attr, ttl)) => {
                let (inode, kind) = (attr.inode, attr.kind);
                Some(item(inode, kind, with_attributes.then(|| self.show(attr, ttl))))
            }
            // What the page said has outlived its time: still true enough to list, not to be kept.
            None => {
                let attr = entry.attr.clone().filter(|_| with_attributes);
                Some(item(entry.inode, entry.kind, attr.map(|attr| self.show(attr, Duration::ZERO))))
            }
        }
    }

    async fn fetch_page(&self, directory: &Directory, after: DirCookie, with_attributes: bool) -> Result<(), FsError> {
        let op = Op::ReadDir { inode: directory.inode.into(), after, bytes_max: REPLY_PAGE_BYTES_MAX, with_attributes };
        let mut answer = self.ask(&directory.caller, vec![op]).await?;
        let OpResult::Page(page) = answer.next()? else { return Err(FsError::Protocol) };
        let in_cache = self.cache.put_page(directory.inode, &page.entries, answer.seen);
        let mut listing = directory.listing.lock();
        self.follow(directory.inode, &mut listing, (after, &page), in_cache.then_some(answer.seen));
        if listing.pages.len() == PAGES_MAX {
            listing.pages.remove(0);
        }
        listing.pages.push(Page { after, with_attributes, entries: page.entries, end: page.end });
        Ok(())
    }

    /// Notes how far a listing from the beginning has got.
    fn follow(&self, inode: InodeId, listing: &mut Listing, (after, page): (DirCookie, &DirPage), seen: Option<Seen>) {
        let next = page.entries.last().map_or(after, |entry| entry.cookie);
        listing.whole = match (listing.whole, seen) {
            (_, Some(seen)) if after == DirCookie::default() => Some(Whole { version: page.version, seen, next }),
            (Some(whole), Some(_)) if whole.next == after && whole.version == page.version => {
                Some(Whole { next, ..whole })
            }
            _ => None,
        };
        if let Some(whole) = listing.whole.filter(|_| page.end) {
            self.cache.complete(inode, whole.seen);
        }
    }

    fn fetch_ahead(&self, directory: Arc<Directory>, after: DirCookie, with_attributes: bool) {
        let Some(me) = self.me.upgrade() else { return };
        // the one who reads may be a thread of the kernel's requests, which is outside of every runtime
        self.plane.runtime.spawn(async move {
            let _fetch = directory.fetch.lock().await;
            let there = directory.listing.lock().pages.iter().any(|page| page.rest(after, with_attributes).is_some());
            if !there {
                // Whoever reads on asks again, and is told.
                let _ = me.fetch_page(&directory, after, with_attributes).await;
            }
        });
    }
}
