//! Where scrubbing is, kept in a file of the first storage directory in service, replaced as a whole. It is a hint: one
//! that is lost or damaged costs a round that begins anew.

use super::disk::Disk;
use super::layout::ChunkName;
use super::marks::replace_file;
use super::open::read_file;
use super::{ChunkStore, StoreError};
use gfs_proto::ids::ChunkHandle;
use std::path::Path;

/// Name of the file, and of its successor while that is written.
const FILE: &str = "scrub";
const FILE_NEW: &str = "scrub.new";
const MAGIC: [u8; 8] = *b"GFSscrub";
const FORMAT: u32 = 1;
/// Magic, format, slice, hurried, then the numbers, then the sum.
const NUMBERS: usize = 6;
const LEN: usize = 8 + 3 * 4 + NUMBERS * 8 + 4;

/// See the file's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubNote {
    /// The round under way, or the last; 0: there was none.
    pub round: u64,
    /// The last one that came to its end.
    pub finished: u64,
    /// When `round` began, in seconds since 1970.
    pub began: i64,
    /// It was asked for.
    pub hurried: bool,
    /// The slice of handles that it is at.
    pub slice: u32,
    /// The last handle of that slice that was read.
    pub after: u64,
    /// Replicas read in it.
    pub replicas: u64,
    /// Bytes read in it.
    pub bytes: u64,
}

impl ScrubNote {
    /// A round has begun and is not through.
    pub const fn is_under_way(&self) -> bool {
        self.finished < self.round
    }

    fn encode(&self) -> [u8; LEN] {
        let mut raw = [0; LEN];
        raw[..8].copy_from_slice(&MAGIC);
        for (at, word) in (8..).step_by(4).zip([FORMAT, self.slice, self.hurried.into()]) {
            raw[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let numbers = [self.round, self.finished, self.began.cast_unsigned(), self.after, self.replicas, self.bytes];
        for (at, number) in (20..).step_by(8).zip(numbers) {
            raw[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&raw[..LEN - 4]);
        raw[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    fn decode(raw: &[u8]) -> Option<Self> {
        let raw: &[u8; LEN] = raw.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let number = |n: usize| raw[20 + 8 * n..][..8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let good = raw[..8] == MAGIC && word(8) == FORMAT && word(LEN - 4) == crc32c::crc32c(&raw[..LEN - 4]);
        good.then(|| Self {
            round: number(0),
            finished: number(1),
            began: number(2).cast_signed(),
            hurried: word(16) != 0,
            slice: word(12),
            after: number(3),
            replicas: number(4),
            bytes: number(5),
        })
    }
}

impl<D: Disk> ChunkStore<D> {
    /// What was noted last; nothing if that is not there or cannot be read.
    pub fn scrub_note(&self) -> ScrubNote {
        let read = |path: &Path| read_file(&*self.disk, path).ok().flatten();
        let found =
            self.directories.iter().filter_map(|directory| ScrubNote::decode(&read(&directory.path.join(FILE))?));
        found.max_by_key(|note| (note.round, note.finished, note.slice, note.after)).unwrap_or_default()
    }

    /// Notes down where scrubbing is, durably.
    pub fn note_scrub(&self, note: &ScrubNote) -> Result<(), StoreError> {
        let Some(directory) = self.directories.iter().find(|directory| directory.in_service()) else { return Ok(()) };
        let path = &directory.path;
        replace_file(&*self.disk, path, (FILE, FILE_NEW), &note.encode()).map(drop).map_err(|source| StoreError::Io {
            action: "write the scrub note of",
            path: path.clone(),
            source,
        })
    }

    /// Replicas of a slice of all handles, in order, from behind `after`.
    pub fn handles_of_slice(&self, slice: u32, after: u64) -> Vec<ChunkHandle> {
        let mut handles = Vec::new();
        self.index.for_each(|handle, _, _| {
            if ChunkName::subdir(handle) == slice && handle.get() > after {
                handles.push(handle);
            }
        });
        handles.sort_unstable();
        handles
    }

    /// Number of replicas.
    pub fn replica_count(&self) -> u64 {
        let mut count = 0;
        self.index.for_each(|_, _, _| count += 1);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_round_trip_and_damaged_ones_are_nothing() {
        let note = ScrubNote {
            round: 7,
            finished: 6,
            began: -5,
            hurried: true,
            slice: 200,
            after: u64::MAX,
            replicas: 9,
            bytes: 1 << 50,
        };
        let raw = note.encode();
        assert_eq!(ScrubNote::decode(&raw), Some(note));
        assert!(note.is_under_way() && !ScrubNote::default().is_under_way());
        for bit in 0..LEN * 8 {
            let mut bad = raw;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ScrubNote::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(ScrubNote::decode(&raw[1..]), None);
    }
}
