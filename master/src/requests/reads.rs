//! Operations that are answered from a view of the store, without waiting.

use super::{Request, resolve};
use gfs_master_core::{Stats, View};
use gfs_proto::FsError;
use gfs_proto::ops::{DirPage, FsStats, Op, OpResult};
use std::time::Instant;

type Earlier<'a> = &'a [Result<OpResult, FsError>];

impl Request {
    /// The answer to an operation that only looks; `None` if it is another kind.
    pub(super) fn at_once(&self, op: &Op, earlier: Earlier<'_>) -> Option<Result<OpResult, FsError>> {
        let view = || self.master.store.view();
        let result = match op {
            Op::Lookup { parent, name } => {
                let found = |view: &View<'_>| view.lookup(&self.caller, resolve(*parent, earlier)?, name);
                found(&view()).map(|attr| OpResult::Attr(self.master.sizes.overlay(attr)))
            }
            Op::GetAttr { inode } => {
                let found = |view: &View<'_>| view.attr(resolve(*inode, earlier)?);
                found(&view()).map(|attr| OpResult::Attr(self.master.sizes.overlay(attr)))
            }
            Op::ReadLink { inode } => {
                resolve(*inode, earlier).and_then(|inode| view().read_link(inode)).map(OpResult::Bytes)
            }
            Op::ReadDir { inode, after, bytes_max, with_attributes } => resolve(*inode, earlier)
                .and_then(|inode| view().read_dir(&self.caller, inode, *after, *bytes_max, *with_attributes))
                .map(|page| OpResult::Page(self.page(page))),
            Op::StatFs => Ok(OpResult::Stats(self.stats(view().stats()))),
            Op::GetXattr { inode, name } => resolve(*inode, earlier)
                .and_then(|inode| view().get_xattr(&self.caller, inode, name))
                .map(OpResult::Bytes),
            Op::ListXattr { inode } => {
                resolve(*inode, earlier).and_then(|inode| view().list_xattr(&self.caller, inode)).map(OpResult::Names)
            }
            _ => return None,
        };
        Some(result)
    }

    /// A directory's page, with what is known beyond the recorded attributes.
    pub(super) fn page(&self, mut page: DirPage) -> DirPage {
        for entry in &mut page.entries {
            entry.attr = entry.attr.take().map(|attr| self.master.sizes.overlay(attr));
        }
        page
    }

    /// Counts of the store and room on the chunkservers.
    pub(super) fn stats(&self, stats: Stats) -> FsStats {
        let (bytes_total, bytes_free) = self.master.servers.room(Instant::now());
        FsStats { bytes_total, bytes_free, inodes: stats.inodes(), chunks: stats.chunks, goal: stats.goal }
    }
}
