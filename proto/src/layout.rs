//! The one place that divides a byte offset in a file into chunk index and offset in the chunk.

use crate::ids::ChunkIndex;
use crate::limits::{BLOCK_SIZE, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};

/// Chunk size of a cluster: a power of two from 64 KiB to 256 MiB, chosen when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSize(u32);

/// A range of bytes inside one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRange {
    /// Which chunk of the file.
    pub index: ChunkIndex,
    /// First byte, counted from the beginning of the chunk.
    pub offset: u32,
    /// Number of bytes, at least 1; never crosses the end of the chunk.
    pub length: u32,
}

impl ChunkSize {
    /// `None` unless `bytes` is a power of two within the limits.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= CHUNK_SIZE_MIN && bytes <= CHUNK_SIZE_MAX {
            Some(Self(bytes))
        } else {
            None
        }
    }
    /// Bytes of a chunk.
    pub const fn get(self) -> u32 {
        self.0
    }
    /// Blocks (checksums) of a chunk.
    pub const fn blocks(self) -> u32 {
        self.0 / BLOCK_SIZE
    }
    /// Chunk index and offset in the chunk of a byte of a file.
    pub const fn locate(self, offset: u64) -> (ChunkIndex, u32) {
        (ChunkIndex::new((offset / self.0 as u64) as u32), (offset % self.0 as u64) as u32)
    }
    /// Offset in the file at which a chunk begins.
    pub const fn start_of(self, index: ChunkIndex) -> u64 {
        index.get() as u64 * self.0 as u64
    }
    /// Number of chunks of a file of `size` bytes.
    pub const fn chunks_of(self, size: u64) -> u32 {
        size.div_ceil(self.0 as u64) as u32
    }
    /// Cuts `length` bytes from `offset` of a file at chunk borders, in order.
    pub fn split(self, offset: u64, length: u64) -> impl Iterator<Item = ChunkRange> {
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (index, within) = self.locate(at);
            let length = u64::from(self.0 - within).min(end - at) as u32;
            at += u64::from(length);
            Some(ChunkRange { index, offset: within, length })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_two_within_limits() {
        assert!(ChunkSize::new(64 << 10).is_some() && ChunkSize::new(256 << 20).is_some());
        for bad in [0, 32 << 10, 65 << 10, 512 << 20] {
            assert!(ChunkSize::new(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn split_covers_the_range_exactly(offset in 0u64..1 << 24, length in 0u64..1 << 20) {
            let size = ChunkSize::new(64 << 10).expect("valid");
            let mut at = offset;
            for part in size.split(offset, length) {
                prop_assert_eq!(size.start_of(part.index) + u64::from(part.offset), at);
                prop_assert!(part.length > 0 && part.offset + part.length <= size.get());
                at += u64::from(part.length);
            }
            prop_assert_eq!(at, offset + length);
        }
    }
}
