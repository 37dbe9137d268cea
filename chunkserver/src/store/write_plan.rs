//! What a write does to a chunk, before any of it is done: which sums change and what must be known of
//! the blocks that are overwritten in part. Reads from the image, writes nothing.

use super::WriteData;
use super::directory::judge;
use super::disk::DiskFile;
use super::image::Image;
use super::layout::BLOCK;
use gfs_proto::checksum::{BlockSum, blocks_touched, decode_sums, piece_sums};
use gfs_proto::frame::DataError;
use gfs_proto::limits::BLOCK_SIZE;
use gfs_proto::mutant;

/// One extent with its bytes and sums, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub offset: u32,
    pub data: &'a [u8],
    sums: &'a [u8],
}

impl Piece<'_> {
    pub(super) const fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }
}

/// The extents of a write in order of offset, within the chunk and not overlapping, the bytes as sent.
pub(super) fn check<'a>(write: &WriteData<'a>, chunk_bytes: u32) -> Result<Vec<Piece<'a>>, DataError> {
    let (mut payload, mut sums) = (write.payload, write.sums);
    let mut pieces = Vec::with_capacity(write.extents.len());
    for extent in write.extents {
        let end = extent.offset.checked_add(extent.length).filter(|end| *end <= chunk_bytes && extent.length > 0);
        end.ok_or(DataError::Protocol)?;
        let sum_bytes = 4 * blocks_touched(extent.offset, extent.length) as usize;
        let data = payload.split_off(..extent.length as usize).ok_or(DataError::Protocol)?;
        let sums = sums.split_off(..sum_bytes).ok_or(DataError::Protocol)?;
        pieces.push(Piece { offset: extent.offset, data, sums });
    }
    pieces.sort_by_key(|piece| piece.offset);
    let overlap = pieces.windows(2).any(|pair| pair[0].end() > pair[1].offset);
    if overlap || pieces.is_empty() || !payload.is_empty() || !sums.is_empty() {
        return Err(DataError::Protocol);
    }
    let intact = |piece: &Piece<'_>| piece_sums(piece.offset, piece.data).eq(decode_sums(piece.sums));
    if mutant!(SkippedChecksum) || pieces.iter().all(intact) { Ok(pieces) } else { Err(DataError::Transfer) }
}

/// New sums of consecutive blocks, as they are stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SumRun {
    pub first: u32,
    pub sums: Vec<u8>,
}

/// A block that is overwritten in part, as it was.
#[derive(Debug)]
pub(super) struct OldBlock {
    pub block: u32,
    pub image: Box<[u8; BLOCK]>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub runs: Vec<SumRun>,
    pub old: Vec<OldBlock>,
    /// Blocks within the old length are overwritten as a whole: what was in them is not kept.
    pub replaces: bool,
    pub length: u32,
    /// The last block so far as it will be, if the next piece begins in it.
    shared: Option<OldBlock>,
}

/// Plans a write to a chunk of `old_length` bytes. Blocks overwritten in part are compared with their
/// sums first ([`DataError::Corrupt`]).
pub(super) fn plan<F: DiskFile>(chunk: &Image<F>, pieces: &[Piece<'_>], old_length: u32) -> Result<Plan, DataError> {
    let mut plan = Plan { length: old_length, ..Plan::default() };
    for (index, piece) in pieces.iter().enumerate() {
        let last_block = (piece.end() - 1) / BLOCK_SIZE;
        let next_shares = pieces.get(index + 1).is_some_and(|next| next.offset / BLOCK_SIZE == last_block);
        for block in piece.offset / BLOCK_SIZE..=last_block {
            let part = Part::of(piece, block, old_length);
            let keep = next_shares && block == last_block;
            plan.add(chunk, &part, keep)?;
        }
        plan.length = plan.length.max(piece.end());
    }
    Ok(plan)
}

/// The part of a piece that lies in one block.
struct Part<'a> {
    block: u32,
    /// Where in the block it begins.
    start: usize,
    data: &'a [u8],
    sum: [u8; 4],
    /// Bytes of the block before the write.
    old_valid: u32,
}

impl<'a> Part<'a> {
    fn of(piece: &Piece<'a>, block: u32, old_length: u32) -> Self {
        let block_start = block * BLOCK_SIZE;
        let from = block_start.max(piece.offset);
        let to = (block_start + BLOCK_SIZE).min(piece.end());
        let number = (block - piece.offset / BLOCK_SIZE) as usize;
        let mut sum = [0; 4];
        sum.copy_from_slice(&piece.sums[number * 4..][..4]);
        Self {
            block,
            start: (from - block_start) as usize,
            data: &piece.data[(from - piece.offset) as usize..(to - piece.offset) as usize],
            sum,
            old_valid: old_length.saturating_sub(block_start).min(BLOCK_SIZE),
        }
    }

    /// True if nothing of the block's old content stays.
    fn covers(&self) -> bool {
        self.start == 0 && self.data.len() >= self.old_valid as usize
    }

    fn put_into(&self, image: &mut [u8; BLOCK]) {
        image[self.start..self.start + self.data.len()].copy_from_slice(self.data);
    }
}

impl Plan {
    fn add<F: DiskFile>(&mut self, chunk: &Image<F>, part: &Part<'_>, keep: bool) -> Result<(), DataError> {
        let shared = self.shared.take().filter(|shared| shared.block == part.block);
        if part.covers() && shared.is_none() {
            self.replaces |= part.old_valid > 0;
            if keep {
                let mut image = Box::new([0; BLOCK]);
                part.put_into(&mut image);
                self.shared = Some(OldBlock { block: part.block, image });
            }
            self.push(part.block, part.sum);
            return Ok(());
        }
        let mut image = match shared {
            Some(shared) => shared.image,
            None => self.old_image(chunk, part)?,
        };
        part.put_into(&mut image);
        self.push(part.block, BlockSum::of(&image[..]).to_le_bytes());
        self.shared = keep.then_some(OldBlock { block: part.block, image });
        Ok(())
    }

    fn old_image<F: DiskFile>(&mut self, chunk: &Image<F>, part: &Part<'_>) -> Result<Box<[u8; BLOCK]>, DataError> {
        if part.old_valid == 0 {
            return Ok(Box::new([0; BLOCK]));
        }
        let (image, good) = chunk.read_block(part.block, part.old_valid).map_err(|error| judge(&error))?;
        if !good {
            return Err(DataError::Corrupt);
        }
        self.old.push(OldBlock { block: part.block, image: image.clone() });
        Ok(image)
    }

    /// Blocks come in order; one that two pieces share comes twice, the later sum counts.
    fn push(&mut self, block: u32, sum: [u8; 4]) {
        if let Some(run) = self.runs.last_mut() {
            let next = run.first + (run.sums.len() / 4) as u32;
            if block + 1 == next {
                let at = run.sums.len() - 4;
                run.sums.truncate(at);
            }
            if block <= next && block + 1 >= next {
                run.sums.extend_from_slice(&sum);
                return;
            }
        }
        self.runs.push(SumRun { first: block, sums: sum.to_vec() });
    }
}

/// Bytes that go to consecutive places.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub offset: u32,
    pub parts: Vec<&'a [u8]>,
    pub length: u32,
}

/// Pieces joined where they meet. With `first_from`, a block border, what lies from there on comes first.
pub(super) fn segments<'a>(pieces: &[Piece<'a>], first_from: Option<u32>) -> Vec<Segment<'a>> {
    let border = first_from.unwrap_or(0);
    let mut out: Vec<Segment<'a>> = Vec::with_capacity(pieces.len());
    let mut later: Vec<Segment<'a>> = Vec::new();
    let join = |list: &mut Vec<Segment<'a>>, offset: u32, data: &'a [u8]| match list.last_mut() {
        _ if data.is_empty() => {}
        Some(last) if last.offset + last.length == offset => {
            last.parts.push(data);
            last.length += data.len() as u32;
        }
        _ => list.push(Segment { offset, parts: vec![data], length: data.len() as u32 }),
    };
    for piece in pieces {
        let before = (border.saturating_sub(piece.offset) as usize).min(piece.data.len());
        let (old, new) = piece.data.split_at(before);
        join(&mut later, piece.offset, old);
        join(&mut out, piece.offset + before as u32, new);
    }
    out.append(&mut later);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::encode_sums;
    use gfs_proto::frame::Extent;

    fn sums(extents: &[Extent], payload: &[u8]) -> Vec<u8> {
        let mut at = 0;
        extents
            .iter()
            .flat_map(|e| {
                let data = &payload[at..at + e.length as usize];
                at += e.length as usize;
                encode_sums(piece_sums(e.offset, data))
            })
            .collect()
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let extent = |offset, length| Extent { offset, length };
        let payload = vec![1; 10_000];
        let table: [(&[Extent], usize, Result<usize, DataError>); 8] = [
            (&[extent(0, 10)], 10, Ok(1)),
            (&[extent(5000, 10), extent(0, 10)], 20, Ok(2)),
            (&[extent(0, 10)], 11, Err(DataError::Protocol)),
            (&[extent(0, 10)], 9, Err(DataError::Protocol)),
            (&[extent(0, 10), extent(9, 10)], 20, Err(DataError::Protocol)),
            (&[extent(65_530, 10)], 10, Err(DataError::Protocol)),
            (&[extent(u32::MAX, 10)], 10, Err(DataError::Protocol)),
            (&[], 0, Err(DataError::Protocol)),
        ];
        for (extents, bytes, expected) in table {
            let fits = extents.iter().map(|e| e.length as usize).sum::<usize>() == bytes;
            let sums = if fits { sums(extents, &payload) } else { sums(&[extent(0, 10)], &payload) };
            let write = WriteData { extents, payload: &payload[..bytes], sums: &sums };
            assert_eq!(check(&write, 65_536).map(|pieces| pieces.len()), expected, "{extents:?}");
        }
        let mut bad = sums(&[extent(0, 10)], &payload);
        bad[0] ^= 1;
        let write = WriteData { extents: &[extent(0, 10)], payload: &payload[..10], sums: &bad };
        assert_eq!(check(&write, 65_536).map(|pieces| pieces.len()), Err(DataError::Transfer));
    }

    #[test]
    fn segments_join_neighbours_and_put_the_new_part_first() {
        let data = [7u8; 30];
        let piece = |offset: u32, from: usize, to: usize| Piece { offset, data: &data[from..to], sums: &[] };
        let shape = |list: Vec<Segment<'_>>| list.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>();
        let pieces = [piece(0, 0, 10), piece(10, 10, 20), piece(25, 20, 30)];
        assert_eq!(shape(segments(&pieces, None)), [(0, 20), (25, 10)]);
        assert_eq!(shape(segments(&pieces, Some(15))), [(15, 5), (25, 10), (0, 15)]);
        assert_eq!(shape(segments(&pieces, Some(30))), [(30, 5), (0, 20), (25, 5)]);
    }
}
