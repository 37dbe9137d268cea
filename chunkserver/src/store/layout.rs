//! Bytes of a chunk file and its name. Pure; `docs/format.md` has the same as tables. Where data and sums are
//! is in [`gfs_proto::chunk_file`]: clients on this machine read them too.
//!
//! ```text
//! 0      fixed fields, with a CRC32C       504  length slot      512  sums of the first 896 blocks
//! 4096   data                              4096 + chunk size     sums of the other blocks
//! ```
//! A file of no bytes is a chunk that was created and never written. Beyond the length a file has
//! zeroes and the sums of holes.

use gfs_proto::checksum::BlockSum;
use gfs_proto::chunk_file::{self, FORMAT, SUM_LEN, SumSpan};
pub(super) use gfs_proto::chunk_file::{FIELDS_LEN, HEADER_LEN};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::BLOCK_SIZE;

const LENGTH_AT: usize = FIELDS_LEN - LENGTH_LEN;
const LENGTH_LEN: usize = 8;
const FIXED_LEN: usize = 28;
const MAGIC: [u8; 8] = *b"GFSchunk";
/// Block size as an index.
pub(super) const BLOCK: usize = BLOCK_SIZE as usize;

const _: () = assert!(FIXED_LEN + 4 <= LENGTH_AT);

/// Why a header does not describe the chunk that its name promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("the header is short or damaged")]
    Damaged,
    #[error("the chunk file has format {0}")]
    Format(u32),
    #[error("the header is that of another chunk or chunk size")]
    Foreign,
    #[error("the length is damaged")]
    Length,
}

/// Where the parts of a chunk file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    chunk_size: ChunkSize,
}

impl Layout {
    pub(super) const fn new(chunk_size: ChunkSize) -> Self {
        Self { chunk_size }
    }

    pub(super) const fn chunk_bytes(self) -> u32 {
        self.chunk_size.get()
    }

    /// Offset in the file of a byte of the chunk.
    pub(super) const fn data_at(offset: u32) -> u64 {
        chunk_file::data_at(offset)
    }

    /// See [`chunk_file::sum_spans`].
    pub(super) fn sum_spans(self, first: u32, count: u32) -> impl Iterator<Item = SumSpan> {
        chunk_file::sum_spans(self.chunk_size, first, count)
    }

    /// A whole header with a length and the sums of the first blocks, as far as they fit into it.
    pub(super) fn header(self, handle: ChunkHandle, length: u32) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        raw[..FIXED_LEN].copy_from_slice(&self.fixed(handle));
        let crc = crc32c::crc32c(&raw[..FIXED_LEN]).to_le_bytes();
        raw[FIXED_LEN..FIXED_LEN + 4].copy_from_slice(&crc);
        raw[LENGTH_AT..FIELDS_LEN].copy_from_slice(&length_slot(handle, length));
        raw
    }

    /// The length that a header tells; `raw` is at least the fields.
    pub(super) fn read_header(self, handle: ChunkHandle, raw: &[u8]) -> Result<u32, HeaderError> {
        if raw.len() < FIELDS_LEN || raw[..8] != MAGIC {
            return Err(HeaderError::Damaged);
        }
        let crc = crc32c::crc32c(&raw[..FIXED_LEN]).to_le_bytes();
        if raw[FIXED_LEN..FIXED_LEN + 4] != crc {
            return Err(HeaderError::Damaged);
        }
        let format = u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]);
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        if raw[..FIXED_LEN] != self.fixed(handle) {
            return Err(HeaderError::Foreign);
        }
        let slot = &raw[LENGTH_AT..FIELDS_LEN];
        let length = u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]);
        let good = *slot == length_slot(handle, length) && length <= self.chunk_size.get();
        if good { Ok(length) } else { Err(HeaderError::Length) }
    }

    /// Whose header this is, whatever the chunk size; `None` if it is none.
    pub(super) fn handle_in(raw: &[u8]) -> Option<ChunkHandle> {
        let fixed = raw.get(..FIXED_LEN).filter(|fixed| fixed[..8] == MAGIC)?;
        let sealed = raw.get(FIXED_LEN..FIXED_LEN + 4)? == crc32c::crc32c(fixed).to_le_bytes();
        let handle = fixed[12..20].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        sealed.then_some(ChunkHandle::new(handle))
    }

    fn fixed(self, handle: ChunkHandle) -> [u8; FIXED_LEN] {
        let mut raw = [0; FIXED_LEN];
        raw[..8].copy_from_slice(&MAGIC);
        raw[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        raw[12..20].copy_from_slice(&handle.get().to_le_bytes());
        raw[20..24].copy_from_slice(&self.chunk_size.get().to_le_bytes());
        raw[24..28].copy_from_slice(&BLOCK_SIZE.to_le_bytes());
        raw
    }
}

/// The slot that holds the length, and where it is.
pub(super) fn length_slot(handle: ChunkHandle, length: u32) -> [u8; LENGTH_LEN] {
    let length = length.to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&handle.get().to_le_bytes()), &length).to_le_bytes();
    let mut slot = [0; LENGTH_LEN];
    slot[..4].copy_from_slice(&length);
    slot[4..].copy_from_slice(&crc);
    slot
}

/// Offset of [`length_slot`] in the file.
pub(super) const LENGTH_SLOT_AT: u64 = LENGTH_AT as u64;

/// Blocks that hold the first `length` bytes.
pub(super) const fn blocks_of(length: u32) -> u32 {
    length.div_ceil(BLOCK_SIZE)
}

/// The sums as they are stored.
pub(super) fn sum_at(raw: &[u8], index: usize) -> BlockSum {
    let sum = &raw[index * SUM_LEN..][..SUM_LEN];
    BlockSum::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])
}

/// Largest version that a name may carry: the index keeps 48 bits.
pub(super) const VERSION_MAX: u64 = (1 << 48) - 1;
/// Subdirectories of `chunks`.
pub(super) const SUBDIRS: u32 = 256;

/// What the name of a chunk file says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ChunkName {
    pub handle: ChunkHandle,
    pub version: ChunkVersion,
    /// Never clean since it was created (suffix `.d`).
    pub unclean: bool,
}

impl ChunkName {
    /// Name in its subdirectory.
    pub(super) fn file_name(self) -> String {
        let suffix = if self.unclean { ".d" } else { "" };
        format!("{}.{}{suffix}", self.handle, self.version.get())
    }

    /// Name while it is copied in.
    pub(super) fn import_name(self) -> String {
        format!("{}.{}.import", self.handle, self.version.get())
    }

    /// Name while it is moved out of a pack.
    pub(super) fn move_name(self) -> String {
        format!("{}.{}.move", self.handle, self.version.get())
    }

    /// The name in a file name; `None` if it is not exactly as [`ChunkName::file_name`] makes it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (handle, rest) = name.split_once('.')?;
        let (version, unclean) = rest.strip_suffix(".d").map_or((rest, false), |version| (version, true));
        let name_read = Self {
            handle: ChunkHandle::new(u64::from_str_radix(handle, 16).ok()?),
            version: ChunkVersion::new(version.parse().ok().filter(|v| *v <= VERSION_MAX)?),
            unclean,
        };
        (name_read.file_name() == name).then_some(name_read)
    }

    /// Number of its subdirectory: chunks made one after the other are together, so that one flush of
    /// the directory covers them.
    pub(super) const fn subdir(handle: ChunkHandle) -> u32 {
        (handle.get() >> 8) as u32 % SUBDIRS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(bytes: u32) -> Layout {
        Layout::new(ChunkSize::new(bytes).expect("chunk size"))
    }

    #[test]
    fn every_bit_of_the_used_fields_is_guarded() {
        let (l, handle) = (layout(1 << 20), ChunkHandle::new(77));
        let good = l.header(handle, 12345);
        assert_eq!(l.read_header(handle, &good), Ok(12345));
        let used = (0..FIXED_LEN + 4).chain(LENGTH_AT..FIELDS_LEN);
        for bit in used.flat_map(|byte| byte * 8..byte * 8 + 8) {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(l.read_header(handle, &bad).is_err(), "bit {bit}");
        }
        assert_eq!(l.read_header(ChunkHandle::new(78), &good), Err(HeaderError::Foreign));
        assert_eq!(layout(2 << 20).read_header(handle, &good), Err(HeaderError::Foreign));
        assert_eq!(l.read_header(handle, &good[..100]), Err(HeaderError::Damaged));
        assert_eq!(l.read_header(handle, &l.header(handle, (1 << 20) + 1)), Err(HeaderError::Length));
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let name = |version, unclean| ChunkName { handle: ChunkHandle::new(0xab), version, unclean };
        for name in [name(ChunkVersion::new(1), false), name(ChunkVersion::new(VERSION_MAX), true)] {
            assert_eq!(ChunkName::parse(&name.file_name()), Some(name));
        }
        for bad in [
            "",
            "lock",
            "ab.1",
            "00000000000000ab.01",
            "00000000000000AB.1",
            "00000000000000ab.1.e",
            "00000000000000ab",
            "00000000000000ab.+1",
            "00000000000000ab.1.import",
            "00000000000000ab.281474976710656",
        ] {
            assert_eq!(ChunkName::parse(bad), None, "{bad}");
        }
    }
}
