//! Reading on the thread that asks: what is in memory here, and what lies in files that were lent to us. Nothing
//! is handed to another thread unless it waits for the device, and then once.
//!
//! As in `reader`, patches are collected before anything is read. What is read from a lent file is neither kept
//! nor shared with others: the machine's page cache keeps it. So nothing can be stale afterwards, and no
//! fetch has to be tainted.

use super::inode::{InodeData, State};
use super::local::{Loan, Miss, Wait};
use super::locations::Place;
use super::reader::{BLOCK, BYPASS, assemble, uncovered};
use super::replicas::{Blocks, pad};
use bytes::Bytes;
use gfs_proto::chunk::ChunkLocation;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// How far a read got without waiting.
pub enum Tried {
    /// To its end.
    Done(Bytes),
    /// All of it is on this machine, but not in memory: to be waited for on a thread that may.
    Cold(ColdRead),
    /// Others have to be asked: [`InodeData::read`].
    Elsewhere,
}

/// A read that waits for the device of this machine and for nothing else.
pub struct ColdRead(LentRead);

/// A read that was thought out under the lock, all of it here.
struct LentRead {
    inode: Arc<InodeData>,
    asked: (u64, u32),
    range: Range<u64>,
    patches: Vec<(u64, Bytes)>,
    pieces: Vec<(u64, Bytes)>,
    lent: Vec<Part>,
}

/// Blocks of one chunk in a file that was lent to us.
struct Part {
    /// In the file system's file.
    start: u64,
    blocks: Blocks,
    loan: Arc<Loan>,
    location: Arc<ChunkLocation>,
}

impl InodeData {
    /// As [`read`](Self::read), waiting for nothing.
    pub fn try_read(self: &Arc<Self>, offset: u64, length: u32) -> Tried {
        let mut state = self.state.lock();
        let range = offset..(offset + u64::from(length)).min(state.size).max(offset);
        let patches = state.patches(&range, self.plane.authority.chunk_size());
        let (mut pieces, mut missing) = (Vec::new(), Vec::new());
        for gap in uncovered(&range, &patches) {
            let mut at = gap.start;
            for piece in self.cached(&state, gap.clone()) {
                if piece.start > at {
                    missing.push(at..piece.start);
                }
                at = piece.end();
                self.used(&piece, gap.end);
                pieces.push((piece.start, piece.data));
            }
            if at < gap.end {
                missing.push(at..gap.end);
            }
        }
        if missing.is_empty() {
            let ahead = self.plan_ahead(&mut state, offset, u64::from(length));
            drop(state);
            self.prefetch(&ahead);
            return Tried::Done(assemble(&range, &patches, &pieces));
        }
        let Some(lent) = self.plan_lent(&state, &missing) else { return Tried::Elsewhere };
        drop(state);
        let mut read = LentRead { inode: self.clone(), asked: (offset, length), range, patches, pieces, lent };
        match read.run(Wait::Never) {
            Ok(data) => Tried::Done(data),
            Err(Miss::Cold) => Tried::Cold(ColdRead(read)),
            Err(Miss::NotNow | Miss::Gone | Miss::Bad) => Tried::Elsewhere,
        }
    }

    /// Where ranges that are not in memory can be read on this machine; `None` if that is not so for all of them, if
    /// they are much, or on their way already.
    fn plan_lent(&self, state: &State, missing: &[Range<u64>]) -> Option<Vec<Part>> {
        let chunk = self.plane.authority.chunk_size();
        let mut parts = Vec::new();
        for range in missing {
            let (start, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK));
            let coming = state.fetches.iter().any(|fetch| !fetch.is_tainted() && fetch.overlaps(range));
            if coming || end - start > BYPASS {
                return None;
            }
            for part in chunk.split(start, end - start) {
                if state.lanes.get(&part.index).is_some_and(|lane| lane.outbox.is_creating()) {
                    return None;
                }
                let place = state.locations.get(part.index, Instant::now(), state.validity())?;
                let Place::Chunk(location) = place else { return None };
                let loan = self.plane.servers.local.loan(&location)?;
                let blocks = Blocks { offset: part.offset, length: part.length };
                let start = chunk.start_of(part.index) + u64::from(part.offset);
                parts.push(Part { start, blocks, loan, location });
            }
        }
        Some(parts)
    }
}

impl ColdRead {
    /// Waits for the device, so not for a thread that others need. `None`: others have to be asked, after all.
    pub fn wait(mut self) -> Option<Bytes> {
        self.0.run(Wait::IfCold).ok()
    }
}

impl LentRead {
    /// What was read before a miss is not read again.
    fn run(&mut self, wait: Wait) -> Result<Bytes, Miss> {
        let inode = &self.inode;
        while let Some(Part { start, blocks, loan, location }) = self.lent.last() {
            let data = inode.plane.servers.local.read_now(location.handle, loan, *blocks, wait)?;
            self.pieces.push((*start, pad(data, *blocks, location.clip)));
            self.lent.pop();
        }
        let (offset, length) = self.asked;
        let ahead = inode.plan_ahead(&mut inode.state.lock(), offset, u64::from(length));
        inode.prefetch(&ahead);
        Ok(assemble(&self.range, &self.patches, &self.pieces))
    }
}
