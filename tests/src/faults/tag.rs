//! Blocks that say who wrote them: every 4 KiB that a workload writes can be recognised, or is wrong.
//!
//! Invariant: the bytes of a block are a function of (file, block, sequence); two different triples give
//! different blocks, and any change of any bit is seen.

use crate::data::Stream;
use serde::{Deserialize, Serialize};

/// Bytes of a block: what the checksums of the file system cover, so a block is old or new as a whole.
pub const BLOCK: usize = 4096;
const MAGIC: u64 = 0x6b63_6f6c_4273_6667; // "gfsBlock"
/// Magic, file and block, sequence.
const HEAD: usize = 24;

/// What a reader found in one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Zeroes, or behind the end of the file.
    Zero,
    /// What was written to this block under this sequence.
    Tag(u64),
    /// Bytes that nobody wrote there; what they look like.
    Wrong(String),
}

/// The block that write `sequence` puts at `block` of `file`.
pub fn block(file: u32, block: u32, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(file.to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    let seed = sequence ^ (u64::from(file) << 52) ^ (u64::from(block) << 40);
    bytes.extend(Stream::new(seed).bytes(BLOCK - HEAD));
    bytes
}

/// Recognises what was read at `number` of `file`. Fewer than 4096 bytes were cut off by the end of the file.
pub fn recognise(file: u32, number: u32, bytes: &[u8]) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let word = |at: usize| bytes.get(at..at + 8).and_then(|it| it.try_into().ok()).map_or(0, u64::from_le_bytes);
    let sequence = word(16);
    if bytes == block(file, number, sequence) {
        return Found::Tag(sequence);
    }
    let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
    let place = word(8);
    Found::Wrong(format!(
        "{} bytes, {zeroes} of them zero, magic {}, it says file {} block {} sequence {sequence:#x}",
        bytes.len(),
        word(0) == MAGIC,
        place & 0xffff_ffff,
        place >> 32,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_recognised_where_it_was_written_and_nowhere_else() {
        let bytes = block(3, 7, 99);
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(recognise(3, 7, &bytes), Found::Tag(99));
        assert!(matches!(recognise(3, 8, &bytes), Found::Wrong(_)));
        assert!(matches!(recognise(4, 7, &bytes), Found::Wrong(_)));
        assert!(matches!(recognise(3, 7, &bytes[..4000]), Found::Wrong(_)));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for bit in (0..BLOCK * 8).step_by(37) {
            let mut bytes = block(1, 2, 3);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(recognise(1, 2, &bytes), Found::Wrong(_)), "bit {bit}");
        }
    }

    #[test]
    fn zeroes_are_a_hole_and_half_a_block_is_not() {
        assert_eq!(recognise(1, 2, &[0; BLOCK]), Found::Zero);
        assert_eq!(recognise(1, 2, &[]), Found::Zero);
        let mut torn = block(1, 2, 3);
        torn[2048..].fill(0);
        assert!(matches!(recognise(1, 2, &torn), Found::Wrong(_)));
    }
}
