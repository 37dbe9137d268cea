//! What the master said of names and attributes, for as long as it may be believed.
//!
//! Keeps: what is remembered never goes back. Every entry carries the log index of the state it shows;
//! a reply that was overtaken by a later one (an own mutation above all) changes nothing. What was
//! evicted leaves its index behind as a floor under which nothing is taken in any more.
//!
//! A directory listed as a whole is *complete* for the life of the listing: names not in the cache do
//! not exist. Own changes keep it complete, an eviction of one of its names ends it.
//! Time is passed in. Attributes here are the master's: what this client has written and not reported
//! is laid over them elsewhere, on their way out.

mod key;
#[cfg(test)]
mod tests;

use gfs_proto::attr::Attr;
use gfs_proto::ids::{InodeId, LogIndex};
use gfs_proto::name::Name;
use gfs_proto::ops::DirEntry;
use gfs_proto::time::Timestamp;
use key::{NameKey, Pair};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lookups that had to ask, in one directory within the life of a listing, before all of it is fetched.
const MISSES_BEFORE_LISTING: u32 = 3;
/// A directory with more entries than this is not fetched for lookups.
pub(crate) const LISTING_ENTRIES_MAX: u64 = 20_000;
/// Directories of which misses and completeness are remembered.
const DIRECTORIES_MAX: usize = 4096;
/// Targets of symbolic links that are remembered; they never change.
const LINKS_MAX: usize = 4096;

/// Where knowledge comes from: the state that it shows and the end of its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) index: LogIndex,
    pub(crate) expires: Instant,
}

/// Answer to a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// The name is there; both it and the attributes live so long.
    Present(Attr, Duration),
    /// The name is not there, for so long.
    Absent(Duration),
}

struct Slot<T> {
    value: T,
    seen: Seen,
}

impl<T> Slot<T> {
    fn left(&self, now: Instant) -> Option<Duration> {
        Some(self.seen.expires.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

#[derive(Clone, Copy)]
struct Directory {
    misses: u32,
    misses_until: Instant,
    /// Names that are not in the cache do not exist until then.
    complete_until: Option<Instant>,
}

struct Inner {
    /// `None`: known to have changed, to what is not known.
    attrs: LruCache<InodeId, Slot<Option<Attr>>>,
    /// `None`: no such name.
    names: LruCache<NameKey, Slot<Option<InodeId>>>,
    directories: LruCache<InodeId, Directory>,
    links: LruCache<InodeId, Arc<[u8]>>,
    /// Highest index of what was evicted.
    attrs_floor: LogIndex,
    names_floor: LogIndex,
}

/// See the module's text.
pub(crate) struct Cache {
    inner: Mutex<Inner>,
    /// Whatever expires then has expired.
    born: Instant,
}

fn capacity(wanted: usize) -> NonZeroUsize {
    NonZeroUsize::new(wanted).unwrap_or(NonZeroUsize::MIN)
}

impl Cache {
    /// An empty cache of at most so many attributes and names.
    pub(crate) fn new(attributes_max: usize, names_max: usize) -> Self {
        Self {
            born: Instant::now(),
            inner: Mutex::new(Inner {
                attrs: LruCache::new(capacity(attributes_max)),
                names: LruCache::new(capacity(names_max)),
                directories: LruCache::new(capacity(DIRECTORIES_MAX)),
                links: LruCache::new(capacity(LINKS_MAX)),
                attrs_floor: LogIndex::default(),
                names_floor: LogIndex::default(),
            }),
        }
    }

    /// The inode under a name.
    pub(crate) fn lookup(&self, parent: InodeId, name: &Name, now: Instant) -> Option<Known> {
        let mut inner = self.inner.lock();
        let pair: &dyn Pair = &(parent, name);
        let known = inner.names.get(pair).map(|slot| (slot.value, slot.left(now)));
        match known {
            Some((Some(inode), Some(left))) => {
                let (attr, attr_left) = inner.attr(inode, now)?;
                Some(Known::Present(attr, left.min(attr_left)))
            }
            Some((None, Some(left))) => Some(Known::Absent(left)),
            Some((_, None)) => None,
            None => inner.complete_left(parent, now).map(Known::Absent),
        }
    }

    /// Attributes of an inode.
    pub(crate) fn attr(&self, inode: InodeId, now: Instant) -> Option<(Attr, Duration)> {
        self.inner.lock().attr(inode, now)
    }

    /// The inode that a name was last known for, however long ago.
    pub(crate) fn name_hint(&self, parent: InodeId, name: &Name) -> Option<Option<InodeId>> {
        let pair: &dyn Pair = &(parent, name);
        let inner = self.inner.lock();
        inner.names.peek(pair).filter(|slot| slot.seen.expires > self.born).map(|slot| slot.value)
    }

    /// Attributes came in.
    pub(crate) fn put_attr(&self, attr: &Attr, seen: Seen) {
        self.inner.lock().put_attr(attr.inode, Some(attr.clone()), seen);
    }

    /// A name was found, or not.
    pub(crate) fn put_name(&self, parent: InodeId, name: &Name, inode: Option<InodeId>, seen: Seen) {
        self.inner.lock().put_name(parent, name, inode, seen);
    }

    /// A name and what it names came in.
    pub(crate) fn put_entry(&self, parent: InodeId, name: &Name, attr: &Attr, seen: Seen) {
        let mut inner = self.inner.lock();
        inner.put_attr(attr.inode, Some(attr.clone()), seen);
        inner.put_name(parent, name, Some(attr.inode), seen);
    }

    /// What a name leads to changed at `index`, to what is not known here.
    pub(crate) fn forget_name(&self, parent: InodeId, name: &Name, index: LogIndex) {
        let dead = Seen { index, expires: self.born };
        self.inner.lock().put_name(parent, name, None, dead);
    }

    /// Attributes changed at `index`, to what is not known here.
    pub(crate) fn forget_attr(&self, inode: InodeId, index: LogIndex) {
        let mut inner = self.inner.lock();
        let expires = inner.attrs.peek(&inode).map(|slot| slot.seen.expires);
        if let Some(expires) = expires {
            inner.put_attr(inode, None, Seen { index, expires });
        } else {
            inner.attrs_floor = inner.attrs_floor.max(index);
        }
    }

    /// An entry of a directory was made by us at `index`: its times are those of what was made.
    /// The listing's life is not prolonged by that.
    pub(crate) fn entry_made(&self, parent: InodeId, at: Timestamp, is_directory: bool, index: LogIndex) {
        let mut inner = self.inner.lock();
        let Some(slot) = inner.attrs.peek_mut(&parent) else { return };
        if slot.seen.index > index {
            return;
        }
        slot.seen.index = index;
        if let Some(attr) = &mut slot.value {
            attr.size += 1;
            attr.nlink += u32::from(is_directory);
            attr.mtime = at;
            attr.ctime = at;
        }
    }

    /// Notes that a lookup has to ask. True if the whole directory should be fetched with it.
    pub(crate) fn note_miss(&self, parent: InodeId, now: Instant, life: Duration) -> bool {
        let mut inner = self.inner.lock();
        let small = inner.attrs.peek(&parent).and_then(|slot| slot.value.as_ref()).map(|attr| attr.size);
        if small.is_some_and(|entries| entries > LISTING_ENTRIES_MAX) {
            return false;
        }
        let fresh = Directory { misses: 0, misses_until: now + life, complete_until: None };
        let directory = inner.directories.get_or_insert_mut(parent, || fresh);
        if directory.misses_until <= now {
            *directory = Directory { complete_until: directory.complete_until, ..fresh };
        }
        directory.misses += 1;
        directory.misses == MISSES_BEFORE_LISTING
    }

    /// Entries of a listing came in. False if some could not be taken in for certain: then the listing
    /// does not make the directory complete.
    pub(crate) fn put_page(&self, parent: InodeId, entries: &[DirEntry], seen: Seen) -> bool {
        let mut inner = self.inner.lock();
        let mut all = true;
        for entry in entries {
            if let Some(attr) = &entry.attr {
                inner.put_attr(entry.inode, Some(attr.clone()), seen);
            }
            all &= inner.put_name(parent, &entry.name, Some(entry.inode), seen);
        }
        all
    }

    /// Everything in the directory has been put in, under one version of it.
    pub(crate) fn complete(&self, parent: InodeId, seen: Seen) {
        let mut inner = self.inner.lock();
        if seen.index < inner.names_floor {
            return;
        }
        let complete = Directory { misses: 0, misses_until: seen.expires, complete_until: Some(seen.expires) };
        inner.directories.put(parent, complete);
    }

    /// Target of a symbolic link.
    pub(crate) fn link(&self, inode: InodeId) -> Option<Arc<[u8]>> {
        self.inner.lock().links.get(&inode).cloned()
    }

    /// Remembers the target of a symbolic link.
    pub(crate) fn put_link(&self, inode: InodeId, target: &[u8]) {
        self.inner.lock().links.put(inode, target.into());
    }

    /// The master says that something changed: drops attributes, completeness and the names given.
    pub(crate) fn invalidate(&self, inode: InodeId, names: &[Name]) {
        let mut inner = self.inner.lock();
        inner.attrs.pop(&inode);
        inner.directories.pop(&inode);
        for name in names {
            let pair: &dyn Pair = &(inode, name);
            inner.names.pop(pair);
        }
    }

    /// Forgets everything: another session begins.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.attrs.clear();
        inner.names.clear();
        inner.directories.clear();
    }
}

impl Inner {
    fn attr(&mut self, inode: InodeId, now: Instant) -> Option<(Attr, Duration)> {
        let slot = self.attrs.get(&inode)?;
        Some((slot.value.clone()?, slot.left(now)?))
    }

    fn complete_left(&mut self, directory: InodeId, now: Instant) -> Option<Duration> {
        let until = self.directories.get(&directory)?.complete_until?;
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn put_attr(&mut self, inode: InodeId, value: Option<Attr>, seen: Seen) {
        let newest = self.attrs.peek(&inode).map_or(self.attrs_floor, |slot| slot.seen.index);
        if seen.index < newest {
            return;
        }
        if let Some((evicted, slot)) = self.attrs.push(inode, Slot { value, seen })
            && evicted != inode
        {
            self.attrs_floor = self.attrs_floor.max(slot.seen.index);
        }
    }

    /// False if it cannot be said whether this is still so.
    fn put_name(&mut self, parent: InodeId, name: &Name, value: Option<InodeId>, seen: Seen) -> bool {
        let pair: &dyn Pair = &(parent, name);
        match self.names.peek(pair) {
            Some(slot) if seen.index < slot.seen.index => return true,
            None if seen.index < self.names_floor => return false,
            _ => {}
        }
        let key = NameKey { parent, name: name.clone() };
        if let Some((evicted, slot)) = self.names.push(key, Slot { value, seen })
            && (evicted.parent, &evicted.name) != (parent, name)
        {
            self.names_floor = self.names_floor.max(slot.seen.index);
            self.directories.pop(&evicted.parent);
        }
        true
    }
}
