//! Blocks of files that were read: least recently used first out, within a byte budget.
//!
//! The unit is the piece as it was fetched (4 KiB of a random read, up to 1 MiB of a stream), so a
//! read that asks for what one fetch brought is answered without a copy, and a random read costs no
//! more than its blocks. Pieces of one file never overlap. Knows nothing of validity: who puts a
//! piece in says when it was fetched, who takes it out judges.

use bytes::Bytes;
use gfs_proto::ids::InodeId;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Instant;

/// What an entry costs beside its bytes: a node in the list, one in the index, the buffer's header.
const ENTRY_BYTES: usize = 256;

/// Part of a file.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Offset in the file.
    pub start: u64,
    /// Its bytes.
    pub data: Bytes,
    /// When it was asked for.
    pub fetched: Instant,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// Pieces of all files.
pub(super) struct BlockCache {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

struct Inner {
    pieces: LruCache<(InodeId, u64), Piece>,
    /// Starts of the pieces of each file, with their ends.
    index: HashMap<InodeId, BTreeMap<u64, u64>>,
    bytes: usize,
}

impl BlockCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        let inner = Inner { pieces: LruCache::unbounded(), index: HashMap::new(), bytes: 0 };
        Self { inner: Mutex::new(inner), bytes_max }
    }

    /// Collects pieces that overlap `range`, in order, and marks them as used.
    pub(super) fn get(&self, inode: InodeId, range: Range<u64>) -> Vec<Piece> {
        let inner = &mut *self.inner.lock();
        let starts = inner.overlapping(inode, range);
        starts.into_iter().filter_map(|start| inner.pieces.get(&(inode, start)).cloned()).collect()
    }

    /// Puts a piece in; older ones that it overlaps go.
    pub(super) fn put(&self, inode: InodeId, piece: Piece) {
        if piece.data.is_empty() {
            return;
        }
        let inner = &mut *self.inner.lock();
        inner.remove(inode, piece.start..piece.end());
        inner.bytes += piece.data.len() + ENTRY_BYTES;
        inner.index.entry(inode).or_default().insert(piece.start, piece.end());
        inner.pieces.put((inode, piece.start), piece);
        while inner.bytes > self.bytes_max
            && let Some(((inode, start), _)) = inner.pieces.peek_lru()
        {
            let (inode, start) = (*inode, *start);
            inner.remove(inode, start..start + 1);
        }
    }

    /// A stream has read a piece to its end: it is the next to go.
    pub(super) fn demote(&self, inode: InodeId, start: u64) {
        self.inner.lock().pieces.demote(&(inode, start));
    }

    /// Drops what overlaps `range`.
    pub(super) fn remove(&self, inode: InodeId, range: Range<u64>) {
        self.inner.lock().remove(inode, range);
    }

    /// Bytes held, overhead included.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn overlapping(&self, inode: InodeId, range: Range<u64>) -> Vec<u64> {
        let Some(index) = self.index.get(&inode) else { return Vec::new() };
        let before = index.range(..range.start).next_back().filter(|(_, end)| **end > range.start);
        before.into_iter().chain(index.range(range)).map(|(start, _)| *start).collect()
    }

    fn remove(&mut self, inode: InodeId, range: Range<u64>) {
        for start in self.overlapping(inode, range) {
            let piece = self.pieces.pop(&(inode, start)).expect("index and pieces agree");
            self.bytes -= piece.data.len() + ENTRY_BYTES;
            let index = self.index.get_mut(&inode).expect("index and pieces agree");
            index.remove(&start);
            if index.is_empty() {
                self.index.remove(&inode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: InodeId = InodeId::new(5);

    fn piece(start: u64, length: usize) -> Piece {
        Piece { start, data: Bytes::from(vec![start as u8; length]), fetched: Instant::now() }
    }

    fn starts(cache: &BlockCache, range: Range<u64>) -> Vec<u64> {
        cache.get(FILE, range).iter().map(|piece| piece.start).collect()
    }

    #[test]
    fn pieces_are_found_by_any_byte_of_theirs() {
        let cache = BlockCache::new(1 << 20);
        cache.put(FILE, piece(4096, 8192));
        cache.put(FILE, piece(16384, 4096));
        for (range, expected) in [
            (0..4096, vec![]),
            (4095..4097, vec![4096]),
            (12287..12288, vec![4096]),
            (12288..16384, vec![]),
            (0..u64::MAX, vec![4096, 16384]),
        ] {
            assert_eq!(starts(&cache, range.clone()), expected, "{range:?}");
        }
        assert!(cache.get(InodeId::new(6), 0..u64::MAX).is_empty());
    }

    #[test]
    fn the_least_recently_used_piece_goes_first() {
        let cache = BlockCache::new(3 * (1000 + ENTRY_BYTES));
        (0..3).for_each(|i| cache.put(FILE, piece(i * 1000, 1000)));
        assert_eq!(starts(&cache, 0..1), [0]);
        cache.put(FILE, piece(3000, 1000));
        assert_eq!(starts(&cache, 0..4000), [0, 2000, 3000]);
        cache.demote(FILE, 2000);
        cache.put(FILE, piece(9000, 1000));
        assert_eq!(starts(&cache, 0..10_000), [0, 3000, 9000]);
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_the_budget_holds(
            steps in prop::collection::vec((0u64..3, 0u64..64, 1usize..16, any::<bool>()), 1..100)
        ) {
            let budget = 20 * (512 + ENTRY_BYTES);
            let cache = BlockCache::new(budget);
            for (inode, start, length, put) in steps {
                let (inode, start, length) = (InodeId::new(inode), start * 512, length * 512);
                if put {
                    cache.put(inode, piece(start, length));
                    prop_assert_eq!(cache.get(inode, start..start + 1).len(), 1, "what was just put is there");
                } else {
                    cache.remove(inode, start..start + length as u64);
                    prop_assert!(cache.get(inode, start..start + length as u64).is_empty());
                }
                prop_assert!(cache.bytes() <= budget);
                let pieces = cache.get(inode, 0..u64::MAX);
                prop_assert!(pieces.is_sorted_by(|a, b| a.end() <= b.start));
            }
            (0..3).for_each(|inode| cache.remove(InodeId::new(inode), 0..u64::MAX));
            prop_assert_eq!(cache.bytes(), 0);
        }
    }
}
