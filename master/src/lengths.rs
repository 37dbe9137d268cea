//! How far files reach whose writers are gone without having told: the replicas say it. Otherwise those
//! bytes would be lost to readers, or come up again later, under a hole.
//!
//! Whose writer died is known from its opens and leases. If the master died with it nothing durable says
//! who wrote what; then a full report that reaches beyond the recorded size is the only trace:
//! ```text
//!   full report reaches further --> noted here --everybody is back, nobody has it open for writing-->
//!       --> told meanwhile: forgotten | else the replicas are measured, after an epoch install
//! ```

use crate::grants::Generations;
use crate::grants::install::{Agreement, Wanted};
use crate::master::{Master, now};
use crate::sizes::SizeReport;
use gfs_master_core::{ChunkRecord, FileChunk, View};
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::control::ReplicaRow;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId};
use gfs_proto::limits::CHUNKS_PER_REQUEST_MAX;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, info};

/// Files that are measured at one time.
const MEASURED_MAX: usize = 32;

/// Files that replicas say are longer than is known, with how far they reach.
#[derive(Default)]
pub struct Lengths(Mutex<HashMap<InodeId, u64>>);

impl Lengths {
    /// Replicas of the file reach so far.
    pub fn note(&self, inode: InodeId, reach: u64) {
        let mut files = self.0.lock();
        let known = files.entry(inode).or_default();
        *known = reach.max(*known);
    }

    /// Takes out some of the files that nobody is writing.
    fn take_idle(&self, written: impl Fn(InodeId) -> bool) -> Vec<(InodeId, u64)> {
        let mut files = self.0.lock();
        let idle = files.iter().filter(|(inode, _)| !written(**inode)).map(|(inode, reach)| (*inode, *reach));
        let idle: Vec<_> = idle.take(MEASURED_MAX).collect();
        files.retain(|inode, _| idle.iter().all(|(taken, _)| taken != inode));
        idle
    }
}

impl Master {
    /// A replica from a full report, with the record of its chunk: if it reaches further than the file,
    /// that is noted.
    pub fn compare_length(&self, view: &View<'_>, record: &ChunkRecord, row: &ReplicaRow) {
        let reach = self.store.genesis().chunk_size.start_of(record.index) + u64::from(row.length);
        let counts = row.version == record.version && !row.state.is_suspect() && row.length > 0;
        if counts && view.attr(record.inode).is_ok_and(|attr| self.sizes.overlay(attr).size < reach) {
            self.lengths.note(record.inode, reach);
        }
    }

    fn known_size(&self, inode: InodeId) -> Result<u64, FsError> {
        Ok(self.sizes.overlay(self.store.view().attr(inode)?).size)
    }

    /// Begins to measure files that were noted, once everybody is back who may still tell their sizes.
    pub fn recover_noted(self: &Arc<Self>) {
        if !self.everybody_is_back() {
            return;
        }
        for (inode, reach) in self.lengths.take_idle(|inode| self.opens.is_written(inode)) {
            if self.known_size(inode).is_ok_and(|size| size < reach) {
                let master = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = master.recover_size(inode, &HashSet::new()).await {
                        debug!(%inode, %error, "how far a file reaches is found out later");
                        master.lengths.note(inode, reach);
                    }
                });
            }
        }
    }

    /// Nobody writes the file any more: finds out whether it reaches further than is known. Chunks of
    /// `measured` were looked at already.
    pub async fn recover_size(&self, inode: InodeId, measured: &HashSet<ChunkHandle>) -> Result<(), FsError> {
        for chunk in self.chunks_beyond(inode)?.into_iter().rev() {
            if !measured.contains(&chunk.handle) {
                self.recover_length(inode, chunk.index, chunk.handle).await?;
            }
            if self.known_size(inode)? > self.store.genesis().chunk_size.start_of(chunk.index) {
                break;
            }
        }
        Ok(())
    }

    /// Chunks that do not end before the file does, in order.
    fn chunks_beyond(&self, inode: InodeId) -> Result<Vec<FileChunk>, FsError> {
        let (mut next, _) = self.store.genesis().chunk_size.locate(self.known_size(inode)?);
        let mut beyond = Vec::new();
        loop {
            let page = self.store.view().chunks(inode, next, CHUNKS_PER_REQUEST_MAX)?.chunks;
            let Some(last) = page.last() else { return Ok(beyond) };
            next = last.index.next();
            beyond.extend(page);
        }
    }

    /// Notes how far the replicas of a chunk reach, if that is further than is known. Not if somebody
    /// may write it: that one tells. Not before a cut: what lies beyond it is void.
    pub async fn recover_length(&self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle) -> Result<(), FsError> {
        let _turn = self.chunk_locks.lock((inode, index)).await;
        let file = self.store.view().chunks(inode, index, 1)?;
        let generations = Generations::from(&file);
        let idle = |chunk: &&FileChunk| {
            chunk.handle == handle && chunk.cut.is_none() && !self.leases.is_leased(handle, Instant::now())
        };
        let Some(chunk) = file.chunks.first().filter(idle) else { return Ok(()) };
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        // Where no replica was ever made there is nothing to be recovered.
        let Agreement::Reached(agreed) = Box::pin(self.agree(&wanted)).await? else { return Ok(()) };
        let length = agreed.reports.iter().map(|report| report.length).max().unwrap_or_default();
        let size = self.store.genesis().chunk_size.start_of(index) + u64::from(length);
        if length > 0 && size > self.known_size(inode)? {
            info!(%inode, size, "the size of a file was recovered from its replicas");
            let generation = generations.truncate;
            let report = SizeReport { size, mtime: None, atime: None, ctime: None, generation };
            self.sizes.note(self.store.view().attr(inode)?, &report, now());
        }
        self.sizes.want(inode);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_wait_here_while_somebody_writes_them() {
        let lengths = Lengths::default();
        let (written, idle) = (InodeId::new(2), InodeId::new(3));
        [(written, 5), (idle, 9), (idle, 7)].into_iter().for_each(|(inode, reach)| lengths.note(inode, reach));
        assert_eq!(lengths.take_idle(|inode| inode == written), [(idle, 9)]);
        assert_eq!(lengths.take_idle(|inode| inode == written), []);
        assert_eq!(lengths.take_idle(|_| false), [(written, 5)]);
    }
}
