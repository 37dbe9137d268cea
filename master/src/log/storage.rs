//! What raft reads: terms and entries of the log, its term, vote and members.

use raft::eraftpb::{Entry, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use super::disk::Disk;
use super::store::SegmentedLog;

impl<D: Disk> Storage for SegmentedLog<D> {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.contents.hard_state.clone(), self.contents.members.state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        if low <= self.contents.base.index.get() {
            return Err(Error::Store(StorageError::Compacted));
        }
        let limit = max.into().unwrap_or(u64::MAX);
        let (mut entries, mut bytes) = (Vec::new(), 0u64);
        let mut take = |entry: Entry| {
            bytes += raft::util::entry_approximate_size(&entry) as u64;
            let fits = entries.is_empty() || bytes <= limit;
            if fits {
                entries.push(entry);
            }
            fits
        };
        let recent = self.contents.recent.front().map_or(high, |entry| entry.index).max(low);
        let all_taken = self.each_from_disk(low, high.min(recent), &mut take)?;
        if all_taken && recent < high {
            let skip = (recent - self.contents.recent[0].index) as usize;
            let wanted = self.contents.recent.iter().skip(skip).take((high - recent) as usize);
            let _ = wanted.cloned().all(take);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        let missing =
            if index < self.contents.base.index.get() { StorageError::Compacted } else { StorageError::Unavailable };
        self.contents.term(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.contents.base.index.get() + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.contents.last().index.get())
    }

    fn snapshot(&self, _: u64, _: u64) -> Result<Snapshot> {
        // Asked for only by a leader with a follower that needs entries which were dropped.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

impl<D: Disk> SegmentedLog<D> {
    /// Hands entries of the segments to `take` until it has enough; says whether it took them all.
    fn each_from_disk(&self, low: u64, high: u64, take: &mut impl FnMut(Entry) -> bool) -> Result<bool> {
        let mut index = low;
        while index < high {
            let slot = *self.contents.slot(index).ok_or(Error::Store(StorageError::Unavailable))?;
            let frame = self.read_frame(&slot).map_err(|fault| Error::Store(StorageError::Other(Box::new(fault))))?;
            let before = index;
            // Entries of a frame that were replaced later lie behind those that were not.
            let here = |entry: &Entry| {
                entry.index < high && self.contents.slot(entry.index).is_some_and(|found| found.is_same_frame(&slot))
            };
            for entry in frame.into_iter().skip_while(|entry| entry.index < before).take_while(here) {
                if !take(entry) {
                    return Ok(false);
                }
                index += 1;
            }
            assert!(index > before, "a slot points to the frame with its entry");
        }
        Ok(true)
    }
}
