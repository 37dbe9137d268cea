//! Counts of links as the kernel can count along with them.
//!
//! When a name has been removed the kernel takes one off its own count of the inode's links, whatever it was told
//! meanwhile. Had it been told what the master counted after the removal, it would arrive at zero for an inode that has
//! names, and refuse to link(2) them until it asks for the attributes anew.
//!
//! Keeps: while a name of an inode is being removed here, no answer shows fewer links than were shown before that
//! began. Whoever asks then asks before the removal has returned, so that is a true answer; the kernel ignores it if it
//! comes after its own count. What this cannot reach is a question asked and answered between the answer to the removal
//! and that count. Directories are left out: the kernel does not count theirs.

use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::ids::InodeId;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

/// Inodes of several names that are remembered.
const INODES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

#[derive(Clone, Copy)]
struct Shown {
    links: u32,
    /// Removals of its names that are under way here.
    removals: u32,
}

/// Of the inodes that were shown with several links.
pub(super) struct Links {
    shown: Mutex<LruCache<InodeId, Shown>>,
}

/// A name of an inode is being removed, until this is dropped.
pub(super) struct Removal<'a> {
    links: &'a Links,
    inode: InodeId,
    done: bool,
}

impl Removal<'_> {
    /// The kernel will be told that the name is gone.
    pub(super) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        if let Some(shown) = self.links.shown.lock().peek_mut(&self.inode) {
            shown.removals = shown.removals.saturating_sub(1);
            shown.links = shown.links.saturating_sub(u32::from(self.done));
        }
    }
}

impl Links {
    pub(super) fn new() -> Self {
        Self { shown: Mutex::new(LruCache::new(INODES_MAX)) }
    }

    /// The removal of a name of this inode begins. `None` if it has no other that is known.
    pub(super) fn remove(&self, inode: InodeId) -> Option<Removal<'_>> {
        self.shown.lock().get_mut(&inode)?.removals += 1;
        Some(Removal { links: self, inode, done: false })
    }

    /// Attributes are on their way out.
    pub(super) fn show(&self, attr: &mut Attr) {
        if attr.kind == FileKind::Directory {
            return;
        }
        let mut all = self.shown.lock();
        match all.get_mut(&attr.inode) {
            Some(shown) if shown.removals > 0 => {
                shown.links = shown.links.max(attr.nlink);
                attr.nlink = shown.links;
            }
            _ if attr.nlink > 1 => drop(all.put(attr.inode, Shown { links: attr.nlink, removals: 0 })),
            Some(_) => drop(all.pop(&attr.inode)),
            None => {}
        }
    }
}
