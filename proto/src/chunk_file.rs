//! Where the parts of a chunk file are: what a chunkserver that writes it and a client that reads it by a
//! passed descriptor must agree on. `docs/format.md`, "Chunk files", has the same as a table.

use crate::layout::ChunkSize;
use crate::limits::BLOCK_SIZE;

/// Version of the layout: in each file's header, and in each LENT frame.
pub const FORMAT: u32 = 1;
/// Bytes before the data.
pub const HEADER_LEN: usize = 4096;
/// Bytes of the header before the sums.
pub const FIELDS_LEN: usize = 512;
/// Bytes of one block sum.
pub const SUM_LEN: usize = 4;
/// Sums in the header; those of the other blocks are behind the data.
pub const HEADER_SUMS: u32 = ((HEADER_LEN - FIELDS_LEN) / SUM_LEN) as u32;

const _: () = assert!(HEADER_SUMS == 896 && HEADER_LEN.is_multiple_of(BLOCK_SIZE as usize));

/// Consecutive sums that are together in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumSpan {
    /// Offset in the file.
    pub at: u64,
    /// Blocks.
    pub count: u32,
}

impl SumSpan {
    /// Bytes in the file.
    pub const fn bytes(self) -> usize {
        self.count as usize * SUM_LEN
    }
}

/// Offset in the file of a byte of the chunk.
pub const fn data_at(offset: u32) -> u64 {
    HEADER_LEN as u64 + offset as u64
}

/// Where the sums of `count` blocks from `first` are: in the header, after the data, or both.
pub fn sum_spans(chunk_size: ChunkSize, first: u32, count: u32) -> impl Iterator<Item = SumSpan> {
    let in_header = HEADER_SUMS.saturating_sub(first).min(count);
    let tail_first = (first + in_header).saturating_sub(HEADER_SUMS);
    let header = SumSpan { at: (FIELDS_LEN + first as usize * SUM_LEN) as u64, count: in_header };
    let tail_at = HEADER_LEN as u64 + u64::from(chunk_size.get()) + u64::from(tail_first) * SUM_LEN as u64;
    let tail = SumSpan { at: tail_at, count: count - in_header };
    [header, tail].into_iter().filter(|span| span.count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_split_between_header_and_tail() {
        let size = ChunkSize::new(64 << 20).expect("chunk size");
        let spans = |first, count| sum_spans(size, first, count).map(|s| (s.at, s.count)).collect::<Vec<_>>();
        let tail = 4096 + (64 << 20);
        assert_eq!(spans(0, 1), [(512, 1)]);
        assert_eq!(spans(895, 1), [(4092, 1)]);
        assert_eq!(spans(896, 2), [(tail, 2)]);
        assert_eq!(spans(895, 3), [(4092, 1), (tail, 2)]);
        assert_eq!(spans(1000, 1), [(tail + 104 * 4, 1)]);
        assert_eq!(spans(7, 0), []);
    }
}
