//! CRC32C per 4 KiB block, end to end: made by the writing client, stored by every replica, checked
//! by the reading client.

use crate::limits::BLOCK_SIZE;

/// CRC32C of 4096 zero bytes.
const ZERO_BLOCK_CRC: u32 = 0x98f9_4189;
const BLOCK: usize = BLOCK_SIZE as usize;
static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Checksum of one block of a chunk as it stands on disk and on the wire.
///
/// It is the CRC32C of the block, padded with zeroes to 4096 bytes, xor that of a zero block. So the
/// sum of a hole is 0, a sparse checksum area describes a sparse chunk, and extending a chunk with
/// zeroes changes no sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockSum(u32);

impl BlockSum {
    /// Sum of a block that was never written.
    pub const HOLE: Self = Self(0);

    /// Sum of one block; at most 4096 bytes, fewer at the end of a chunk.
    pub fn of(block: &[u8]) -> Self {
        debug_assert!(block.len() <= BLOCK, "a block has at most 4096 bytes");
        let crc = crc32c::crc32c(block);
        let crc = if block.len() < BLOCK { crc32c::crc32c_append(crc, &ZEROES[block.len()..]) } else { crc };
        Self(crc ^ ZERO_BLOCK_CRC)
    }
    /// As stored and sent.
    pub const fn to_le_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
    /// From disk or wire.
    pub const fn from_le_bytes(raw: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(raw))
    }
}

/// Sums of consecutive blocks of `data`, which begins at a block border; the last may be short.
pub fn block_sums(data: &[u8]) -> impl Iterator<Item = BlockSum> {
    data.chunks(BLOCK).map(BlockSum::of)
}

/// Sums of consecutive blocks as one byte string, as frames carry them.
pub fn encode_sums(sums: impl Iterator<Item = BlockSum>) -> Vec<u8> {
    sums.flat_map(BlockSum::to_le_bytes).collect()
}

/// The sums in a byte string of a frame; a length that is no multiple of four loses its tail, so
/// check the count.
pub fn decode_sums(raw: &[u8]) -> impl ExactSizeIterator<Item = BlockSum> {
    raw.chunks_exact(4).map(|sum| BlockSum(u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])))
}

/// Tells replicas of a chunk apart by its length and the sums of its blocks as they are stored, all of them.
/// Replicas that differ in one block differ in this for certain, others with all but one chance in 2^64.
pub fn content_digest(length: u32, sums: &[u8]) -> u64 {
    /// Odd, so that to multiply by it loses nothing: 2^64 by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    decode_sums(sums).fold(u64::from(length).wrapping_mul(FACTOR), |digest, BlockSum(sum)| {
        (digest.rotate_left(23) ^ u64::from(sum)).wrapping_mul(FACTOR)
    })
}

/// Number of blocks that `length` bytes from `offset` touch.
pub const fn blocks_touched(offset: u32, length: u32) -> u32 {
    if length == 0 { 0 } else { (offset + length).div_ceil(BLOCK_SIZE) - offset / BLOCK_SIZE }
}

/// The pieces of an extent as WRITE frames check them: cut at block borders. A whole block's sum is
/// its [`BlockSum`], that of a part of a block the [`BlockSum::of`] of the part padded with zeroes.
pub fn piece_sums(offset: u32, data: &[u8]) -> impl Iterator<Item = BlockSum> {
    let head = ((BLOCK_SIZE - offset % BLOCK_SIZE) % BLOCK_SIZE) as usize;
    let (head, rest) = data.split_at(head.min(data.len()));
    (!head.is_empty()).then(|| BlockSum::of(head)).into_iter().chain(block_sums(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_of_any_length_have_the_sum_of_a_hole() {
        for length in [0, 1, 100, BLOCK] {
            assert_eq!(BlockSum::of(&ZEROES[..length]), BlockSum::HOLE, "{length}");
        }
        assert_ne!(BlockSum::of(b"x"), BlockSum::HOLE);
    }

    #[test]
    fn padding_with_zeroes_changes_no_sum() {
        let mut block = [0; BLOCK];
        block[..5].copy_from_slice(b"hello");
        assert_eq!(BlockSum::of(b"hello"), BlockSum::of(&block));
    }

    #[test]
    fn pieces_are_cut_at_block_borders() {
        let data = [7u8; 3 * BLOCK];
        for (offset, length) in [(0, 1), (0, BLOCK), (1, BLOCK), (4095, 2), (100, 10), (4096, 2 * BLOCK), (0, 0)] {
            let count = piece_sums(offset as u32, &data[..length]).count();
            assert_eq!(count, blocks_touched(offset as u32, length as u32) as usize, "{offset}+{length}");
        }
        let pieces: Vec<_> = piece_sums(4000, &data[..BLOCK]).collect();
        assert_eq!(pieces, [BlockSum::of(&data[..96]), BlockSum::of(&data[..4000])]);
    }

    #[test]
    fn a_digest_differs_by_length_and_by_any_one_sum() {
        let sums: Vec<u8> = (0..16_384u32).flat_map(u32::to_le_bytes).collect();
        let digest = content_digest(64 << 20, &sums);
        assert_ne!(digest, content_digest((64 << 20) - 1, &sums));
        for block in [0, 1, 7, 16_383] {
            for change in [1, 0x80, 0xff] {
                let mut other = sums.clone();
                other[block * 4] ^= change;
                assert_ne!(digest, content_digest(64 << 20, &other), "block {block}");
            }
        }
        let mut swapped = sums.clone();
        swapped.swap(0, 4);
        assert_ne!(digest, content_digest(64 << 20, &swapped), "order counts");
    }

    #[test]
    fn sums_round_trip_as_bytes() {
        let sums: Vec<_> = block_sums(b"some data").collect();
        let raw = encode_sums(sums.iter().copied());
        assert_eq!(decode_sums(&raw).collect::<Vec<_>>(), sums);
    }
}
