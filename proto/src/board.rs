//! The board: memory that a chunkserver shares with the clients on its machine, to which it alone can write. It
//! says of each replica whose descriptor was passed ([`Lent`](crate::frame::Lent)) whether its file may be
//! read at this moment.
//!
//! ```text
//! word 0   magic      word 2   the read lease is held until, in nanoseconds of CLOCK_BOOTTIME; 0: not held
//! word 1   format u32, slots u32           word 8 ..   one word for each slot
//!
//! slot = sequence u32 (odd: the file may be changing), tenancy u32 (changes when the slot is revoked)
//! ```
//! A reader loads its slot, reads the file, loads the slot again: the bytes are of one moment, and of a replica
//! that counts, if both loads gave the same word of its own tenancy with an even sequence (a seqlock), and if
//! the lease was held before and after. `docs/format.md` has the same as a table.

/// Word 0.
pub const MAGIC: u64 = u64::from_le_bytes(*b"GFSboard");
/// Version of the layout.
pub const FORMAT: u32 = 1;
/// Where [`MAGIC`] is, in words of 8 bytes.
pub const MAGIC_AT: usize = 0;
/// Where [`shape`] is.
pub const SHAPE_AT: usize = 1;
/// Where the end of the read lease is.
pub const LEASE_AT: usize = 2;
/// Where the first slot is: in another cache line than the lease.
pub const SLOTS_AT: usize = 8;
/// Slots that a client believes in at most.
pub const SLOTS_MAX: u32 = 1 << 20;

/// Words of a board.
pub const fn words(slots: u32) -> usize {
    SLOTS_AT + slots as usize
}

/// Word 1.
pub const fn shape(slots: u32) -> u64 {
    FORMAT as u64 | (slots as u64) << 32
}

/// State of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Counts the replicas that the slot has served. It would have to wrap while one client sleeps.
    pub tenancy: u32,
    /// Odd while the file may be changing. It would have to wrap within one read.
    pub sequence: u32,
}

impl Slot {
    /// As on the board.
    pub const fn encode(self) -> u64 {
        self.sequence as u64 | (self.tenancy as u64) << 32
    }

    /// From the board.
    pub const fn decode(word: u64) -> Self {
        Self { tenancy: (word >> 32) as u32, sequence: word as u32 }
    }

    /// Nothing is being changed.
    pub const fn is_settled(self) -> bool {
        self.sequence.is_multiple_of(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_in_one_word() {
        for slot in [Slot::default(), Slot { tenancy: 7, sequence: u32::MAX }, Slot { tenancy: u32::MAX, sequence: 2 }]
        {
            assert_eq!(Slot::decode(slot.encode()), slot);
        }
        assert!(Slot { tenancy: 3, sequence: 4 }.is_settled() && !Slot { tenancy: 4, sequence: 3 }.is_settled());
        assert_eq!(shape(9).to_le_bytes(), [1, 0, 0, 0, 9, 0, 0, 0]);
    }
}
