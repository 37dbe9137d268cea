//! One write on its way: what a WRITE frame carries, kept until all replicas have acknowledged it.

use super::dirty::Batch;
use bytes::Bytes;
use gfs_proto::checksum::{BlockSum, piece_sums};
use gfs_proto::frame::Extent;
use gfs_proto::ids::{ChunkIndex, Sequence};
use gfs_proto::limits::BLOCK_SIZE;
use std::ops::Range;
use std::sync::OnceLock;

const BLOCK: usize = BLOCK_SIZE as usize;

/// Contents and number of one write. The number stays when it is sent again under another lease.
#[derive(Debug)]
pub(super) struct Frame {
    /// Extents and their bytes.
    pub batch: Batch,
    /// Deduplicates it at the replicas.
    pub sequence: Sequence,
    /// To stable storage before it is acknowledged.
    pub sync: bool,
    sums: OnceLock<Vec<u8>>,
}

impl Frame {
    pub(super) const fn new(batch: Batch, sequence: Sequence, sync: bool) -> Self {
        Self { batch, sequence, sync, sums: OnceLock::new() }
    }

    pub(super) const fn index(&self) -> ChunkIndex {
        self.batch.index
    }

    /// Sums of its pieces, as the frame carries them. Made once, by whoever sends it first.
    pub(super) fn sums(&self) -> &[u8] {
        self.sums.get_or_init(|| {
            let mut sums = Vec::with_capacity(4 * (self.batch.bytes as usize / BLOCK + 2 * self.batch.extents.len()));
            let mut segments = Segments { data: &self.batch.data, within: 0 };
            for extent in &self.batch.extents {
                segments.sums_of(*extent, |sum| sums.extend_from_slice(&sum.to_le_bytes()));
            }
            sums
        })
    }

    /// True if both write some byte of the chunk.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &Extent, b: &Extent| a.offset < b.offset + b.length && b.offset < a.offset + a.length;
        self.batch.extents.iter().any(|ours| other.batch.extents.iter().any(|theirs| meet(ours, theirs)))
    }

    /// Calls `visit` with offset in the chunk and bytes of what lies in `range` of it.
    pub(super) fn visit(&self, range: Range<u32>, mut visit: impl FnMut(u32, Bytes)) {
        let mut data = self.batch.data.iter();
        for extent in &self.batch.extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while at < end {
                let segment = data.next().expect("segments make up the extents");
                let (from, to) = (range.start.max(at), range.end.min(at + segment.len() as u32));
                if from < to {
                    visit(from, segment.slice((from - at) as usize..(to - at) as usize));
                }
                at += segment.len() as u32;
            }
        }
    }
}

/// A cursor over the segments of a frame; extents are made of whole segments.
struct Segments<'a> {
    data: &'a [Bytes],
    within: usize,
}

impl Segments<'_> {
    fn sums_of(&mut self, extent: Extent, mut put: impl FnMut(BlockSum)) {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let segment = &self.data[0][self.within..];
            let last = segment.len() == (end - at) as usize;
            // up to the last block border of this segment, or its end if nothing follows
            let whole =
                if last { segment.len() } else { segment.len().saturating_sub((at as usize + segment.len()) % BLOCK) };
            piece_sums(at, &segment[..whole]).for_each(&mut put);
            self.skip(whole);
            at += whole as u32;
            if at < end && !last {
                at += self.straddling(at, end, &mut put);
            }
        }
    }

    /// Sum of one piece that lies in several segments; returns its length.
    fn straddling(&mut self, at: u32, end: u32, put: &mut impl FnMut(BlockSum)) -> u32 {
        let length = (BLOCK_SIZE - at % BLOCK_SIZE).min(end - at) as usize;
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < length {
            let segment = &self.data[0][self.within..];
            let step = segment.len().min(length - filled);
            block[filled..filled + step].copy_from_slice(&segment[..step]);
            filled += step;
            self.skip(step);
        }
        put(BlockSum::of(&block[..length]));
        length as u32
    }

    fn skip(&mut self, length: usize) {
        self.within += length;
        if self.within == self.data[0].len() {
            self.data = &self.data[1..];
            self.within = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::encode_sums;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the segments, the sums are those of the extents' bytes.
        #[test]
        fn sums_do_not_depend_on_the_segments(
            extents in prop::collection::vec((0u32..9000, prop::collection::vec(1usize..9000, 1..5)), 1..4)
        ) {
            let (mut offset, mut data, mut list, mut expected) = (0, Vec::new(), Vec::new(), Vec::new());
            for (gap, lengths) in extents {
                offset += gap + 1;
                let bytes: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|i| (i * 7 + gap as usize) as u8).collect();
                let mut rest = Bytes::from(bytes.clone());
                data.extend(lengths.iter().map(|length| rest.split_to(*length)));
                list.push(Extent { offset, length: bytes.len() as u32 });
                expected.extend(encode_sums(piece_sums(offset, &bytes)));
                offset += bytes.len() as u32;
            }
            let bytes = list.iter().map(|extent| extent.length).sum();
            let frame = Frame::new(Batch { index: ChunkIndex::new(0), extents: list.clone(), data: data.clone(), bytes }, Sequence::new(1), false);
            prop_assert_eq!(frame.sums(), &expected[..]);
            let mut seen = Vec::new();
            frame.visit(0..u32::MAX, |_, bytes| seen.extend_from_slice(&bytes));
            prop_assert_eq!(seen, data.concat());
        }
    }
}
