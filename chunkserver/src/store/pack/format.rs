//! Bytes of a pack. Pure; `docs/format.md` has the same as tables.
//!
//! ```text
//! 0      header, with a CRC32C
//! 4096   table: slot n, of 32 bytes, is the record of the replica that begins at unit n, or zeroes
//! ...    units of 4096 bytes, from a multiple of 4096 on
//! ```
//! A slot never crosses a sector, so a crash leaves it old or new: one that is neither zero nor valid is
//! damage. Its CRC covers where it is, so that a record at another place is none.

use super::super::layout::{BLOCK, HEADER_LEN, VERSION_MAX};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};

/// Bytes of a unit: a block, so that blocks of a chunk are those of the file system.
pub(in crate::store) const UNIT: u64 = BLOCK as u64;
/// Largest data of a packed replica. What is larger gains little: its bytes cost more than its file.
pub(in crate::store) const PACKED_MAX: u32 = 64 << 10;
/// Units of the largest packed replica.
pub(in crate::store) const UNITS_MAX: u32 = units_for(PACKED_MAX);
/// Largest pack: a place has 16 bits for a unit.
const PACK_UNITS_MAX: u32 = 1 << 16;
/// The same in bytes.
pub(in crate::store) const PACK_BYTES_MAX: u64 = PACK_UNITS_MAX as u64 * UNIT;

const MAGIC: [u8; 8] = *b"GFSpacks";
const FORMAT: u32 = 1;
const RECORD_FORMAT: u8 = 1;
const UNCLEAN: u8 = 1;
/// Bytes of a slot.
pub(super) const SLOT: usize = 32;
const HEADER_FIELDS: usize = 24;

const _: () = assert!(HEADER_LEN == BLOCK && UNITS_MAX < 1 << 8);

/// Units of a packed replica that holds `bytes` of data: its header, and at least one block.
pub(in crate::store) const fn units_for(bytes: u32) -> u32 {
    let blocks = bytes.div_ceil(BLOCK as u32);
    1 + if blocks == 0 { 1 } else { blocks }
}

/// Where a packed replica is in its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Place {
    pub pack: u32,
    /// First unit, and number of its slot.
    pub first: u16,
    pub units: u8,
}

impl Place {
    /// Bytes of data that fit.
    pub(in crate::store) const fn capacity(self) -> u32 {
        (self.units as u32 - 1) * BLOCK as u32
    }

    /// The first unit behind it.
    pub(in crate::store) const fn end(self) -> u32 {
        self.first as u32 + self.units as u32
    }

    /// What it has beyond a shorter one that begins where it does.
    pub(in crate::store) const fn behind(self, shorter: Self) -> Self {
        Self { first: self.first + shorter.units as u16, units: self.units - shorter.units, ..self }
    }

    /// The same in eight bytes, which are never zero.
    pub(in crate::store) const fn to_bits(self) -> u64 {
        1 << 63 | (self.pack as u64) << 24 | (self.first as u64) << 8 | self.units as u64
    }

    pub(in crate::store) const fn from_bits(raw: u64) -> Option<Self> {
        if raw == 0 {
            return None;
        }
        Some(Self { pack: (raw >> 24) as u32, first: (raw >> 8) as u16, units: raw as u8 })
    }
}

/// What a slot says of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Record {
    pub handle: ChunkHandle,
    pub version: ChunkVersion,
    /// Never clean since it was created.
    pub unclean: bool,
    pub units: u8,
    /// Of two records of one version the higher sequence number counts.
    pub sequence: u64,
}

/// Number and size of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Geometry {
    pub number: u32,
    pub units: u32,
}

/// What a table has in one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Empty,
    Record(Record),
    Damaged,
}

impl Geometry {
    /// Bytes of the table, up to the first unit.
    pub(super) const fn table_len(self) -> u64 {
        (self.units as u64 * SLOT as u64).next_multiple_of(UNIT)
    }

    pub(super) const fn length(self) -> u64 {
        self.unit_at(self.units)
    }

    pub(super) const fn slot_at(first: u16) -> u64 {
        HEADER_LEN as u64 + first as u64 * SLOT as u64
    }

    pub(super) const fn unit_at(self, unit: u32) -> u64 {
        HEADER_LEN as u64 + self.table_len() + unit as u64 * UNIT
    }

    pub(super) fn header(self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        raw[..8].copy_from_slice(&MAGIC);
        raw[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        raw[12..16].copy_from_slice(&self.number.to_le_bytes());
        raw[16..20].copy_from_slice(&self.units.to_le_bytes());
        raw[20..24].copy_from_slice(&(UNIT as u32).to_le_bytes());
        let crc = crc32c::crc32c(&raw[..HEADER_FIELDS]).to_le_bytes();
        raw[HEADER_FIELDS..HEADER_FIELDS + 4].copy_from_slice(&crc);
        raw
    }

    /// The pack of this number; `None` if the header is not that of one.
    pub(super) fn read(number: u32, raw: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u32::from_le_bytes(raw.get(at..at + 4)?.try_into().ok()?));
        let geometry = Self { number, units: field(16)? };
        let fits = (1..=PACK_UNITS_MAX).contains(&geometry.units);
        (fits && raw.get(..HEADER_FIELDS + 4)? == &geometry.header()[..HEADER_FIELDS + 4]).then_some(geometry)
    }

    pub(super) fn slot(self, first: u16, record: &Record) -> [u8; SLOT] {
        let mut raw = [0; SLOT];
        raw[..8].copy_from_slice(&record.handle.get().to_le_bytes());
        raw[8..16].copy_from_slice(&record.version.get().to_le_bytes());
        raw[16..24].copy_from_slice(&record.sequence.to_le_bytes());
        raw[24] = record.units;
        raw[25] = if record.unclean { UNCLEAN } else { 0 };
        raw[26] = RECORD_FORMAT;
        let crc = self.crc(first, &raw).to_le_bytes();
        raw[SLOT - 4..].copy_from_slice(&crc);
        raw
    }

    pub(super) fn read_slot(self, first: u16, raw: &[u8; SLOT]) -> Slot {
        if *raw == [0; SLOT] {
            return Slot::Empty;
        }
        let u64_at = |at: usize| raw[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let record = Record {
            handle: ChunkHandle::new(u64_at(0)),
            version: ChunkVersion::new(u64_at(8)),
            unclean: raw[25] & UNCLEAN != 0,
            units: raw[24],
            sequence: u64_at(16),
        };
        let end = u32::from(first) + u32::from(record.units);
        let fits = (units_for(0)..=UNITS_MAX).contains(&u32::from(record.units)) && end <= self.units;
        let good = fits && record.version.get() <= VERSION_MAX && self.slot(first, &record) == *raw;
        if good { Slot::Record(record) } else { Slot::Damaged }
    }

    fn crc(self, first: u16, raw: &[u8; SLOT]) -> u32 {
        let place = crc32c::crc32c_append(crc32c::crc32c(&self.number.to_le_bytes()), &first.to_le_bytes());
        crc32c::crc32c_append(place, &raw[..SLOT - 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            handle: ChunkHandle::new(0xabc),
            version: ChunkVersion::new(VERSION_MAX),
            unclean: true,
            units: UNITS_MAX as u8,
            sequence: 7,
        }
    }

    #[test]
    fn every_bit_of_a_header_is_guarded() {
        let geometry = Geometry { number: 3, units: 100 };
        let good = geometry.header();
        assert_eq!(Geometry::read(3, &good), Some(geometry));
        assert_eq!(Geometry::read(4, &good), None, "that of another pack");
        for bit in 0..(HEADER_FIELDS + 4) * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Geometry::read(3, &bad), None, "bit {bit}");
        }
        assert_eq!(Geometry::read(3, &good[..20]), None);
    }

    #[test]
    fn every_bit_of_a_record_and_its_place_are_guarded() {
        let geometry = Geometry { number: 3, units: 100 };
        let good = geometry.slot(9, &record());
        assert_eq!(geometry.read_slot(9, &good), Slot::Record(record()));
        assert_eq!(geometry.read_slot(10, &good), Slot::Damaged, "that of another slot");
        assert_eq!(Geometry { number: 4, ..geometry }.read_slot(9, &good), Slot::Damaged, "of another pack");
        for bit in 0..SLOT * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(geometry.read_slot(9, &bad), Slot::Damaged, "bit {bit}");
        }
        assert_eq!(geometry.read_slot(9, &[0; SLOT]), Slot::Empty);
        let last = geometry.slot(90, &record());
        assert_eq!(geometry.read_slot(90, &last), Slot::Damaged, "beyond the end of the pack");
    }

    #[test]
    fn units_hold_a_header_and_whole_blocks() {
        let table = [(0, 2), (1, 2), (4096, 2), (4097, 3), (PACKED_MAX, 17)];
        assert_eq!(table.map(|(bytes, _)| (bytes, units_for(bytes))), table);
        let geometry = Geometry { number: 0, units: 129 };
        assert_eq!((geometry.table_len(), geometry.unit_at(1), geometry.length()), (8192, 16_384, 12_288 + 129 * 4096));
    }

    #[test]
    fn places_round_trip_in_eight_bytes() {
        for place in [Place { pack: 0, first: 0, units: 2 }, Place { pack: u32::MAX, first: u16::MAX, units: u8::MAX }]
        {
            assert_eq!(Place::from_bits(place.to_bits()), Some(place));
        }
        assert_eq!(Place::from_bits(0), None);
    }
}
