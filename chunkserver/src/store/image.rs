//! The image of a replica by its parts: header, sums, data. Knows the layout, not the state of the chunk,
//! nor whether the image is a file or a slice of a pack.

use super::disk::DiskFile;
use super::layout::{
    BLOCK, FIELDS_LEN, HEADER_LEN, HeaderError, LENGTH_SLOT_AT, Layout, blocks_of, length_slot, sum_at,
};
use super::slice::Slice;
use gfs_proto::checksum::{BlockSum, block_sums, encode_sums};
use gfs_proto::ids::ChunkHandle;
use gfs_proto::limits::BLOCK_SIZE;
use std::io;

/// Bytes compared or copied at a time.
pub(super) const STEP: u32 = 1 << 20;

/// The image of one replica.
pub(super) struct Image<F> {
    pub bytes: Slice<F>,
    pub layout: Layout,
    pub handle: ChunkHandle,
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    /// There are no bytes, or zeroes where a header begins: created, never written.
    None,
    /// Length of the chunk.
    Length(u32),
    /// It cannot be believed.
    Bad(HeaderError),
}

/// What a comparison of all blocks with their sums found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Comparison {
    /// Blocks that differ.
    pub bad: Vec<u32>,
}

impl<F: DiskFile> Image<F> {
    pub(super) fn header(&self) -> io::Result<Header> {
        let mut raw = Vec::with_capacity(FIELDS_LEN);
        self.bytes.read(0, FIELDS_LEN, &mut raw)?;
        if raw.iter().all(|byte| *byte == 0) {
            return Ok(Header::None);
        }
        Ok(self.layout.read_header(self.handle, &raw).map_or_else(Header::Bad, Header::Length))
    }

    /// Appends the sums of `count` blocks from `first`, as they are stored.
    pub(super) fn read_sums(&self, first: u32, count: u32, out: &mut Vec<u8>) -> io::Result<()> {
        for span in self.layout.sum_spans(first, count) {
            let end = out.len() + span.bytes();
            self.bytes.read(span.at, span.bytes(), out)?;
            out.resize(end, 0);
        }
        Ok(())
    }

    pub(super) fn write_sums(&self, first: u32, sums: &[u8]) -> io::Result<()> {
        let mut rest = sums;
        for span in self.layout.sum_spans(first, (sums.len() / 4) as u32) {
            let (now, later) = rest.split_at(span.bytes());
            self.bytes.write(span.at, &[now])?;
            rest = later;
        }
        Ok(())
    }

    pub(super) fn clear_sums(&self, first: u32, count: u32) -> io::Result<()> {
        self.layout.sum_spans(first, count).try_for_each(|span| self.bytes.punch(span.at, span.bytes() as u64))
    }

    pub(super) fn write_length(&self, length: u32) -> io::Result<()> {
        self.bytes.write(LENGTH_SLOT_AT, &[&length_slot(self.handle, length)])
    }

    /// Writes the header of a chunk that has only holes.
    pub(super) fn write_header(&self, length: u32) -> io::Result<()> {
        self.bytes.write(0, &[&self.layout.header(self.handle, length)])
    }

    /// Appends `length` bytes of data; where it ends or has a hole, zeroes.
    pub(super) fn read_data(&self, offset: u32, length: u32, out: &mut Vec<u8>) -> io::Result<()> {
        let end = out.len() + length as usize;
        self.bytes.read(Layout::data_at(offset), length as usize, out)?;
        out.resize(end, 0);
        Ok(())
    }

    pub(super) fn write_data(&self, offset: u32, data: &[u8]) -> io::Result<()> {
        self.bytes.write(Layout::data_at(offset), &[data])
    }

    /// True if there are zeroes where a chunk of this length has nothing: in the rest of its last block (of a packed one
    /// in all of its room), and in the sums of the first part behind its own.
    pub(super) fn is_empty_beyond(&self, length: u32) -> io::Result<bool> {
        let (blocks, in_header) = (blocks_of(length), (HEADER_LEN - FIELDS_LEN) as u32 / 4);
        let mut rest = Vec::new();
        let room = if self.bytes.is_part() { self.length_by_size()? } else { blocks * BLOCK_SIZE };
        self.bytes.read(Layout::data_at(length), room.saturating_sub(length) as usize, &mut rest)?;
        if blocks < in_header {
            let end = self.layout.chunk_bytes() / BLOCK_SIZE;
            self.read_sums(blocks, in_header.min(end) - blocks, &mut rest)?;
        }
        Ok(rest.iter().all(|byte| *byte == 0))
    }

    /// One block with zeroes beyond `valid` bytes, and whether it matches its sum.
    pub(super) fn read_block(&self, block: u32, valid: u32) -> io::Result<(Box<[u8; BLOCK]>, bool)> {
        let mut raw = Vec::with_capacity(BLOCK);
        self.read_data(block * BLOCK_SIZE, valid, &mut raw)?;
        let mut sum = Vec::with_capacity(4);
        self.read_sums(block, 1, &mut sum)?;
        let mut image = Box::new([0; BLOCK]);
        image[..raw.len()].copy_from_slice(&raw);
        let good = BlockSum::of(&image[..]) == sum_at(&sum, 0);
        Ok((image, good))
    }

    /// Makes bytes read as zeroes.
    pub(super) fn punch_data(&self, offset: u32, length: u32) -> io::Result<()> {
        self.bytes.punch(Layout::data_at(offset), u64::from(length))
    }

    /// Compares the blocks that `length` bytes from `offset` (a block border) touch with their sums.
    pub(super) fn compare(&self, offset: u32, length: u32, found: &mut Comparison) -> io::Result<()> {
        let first = offset / BLOCK_SIZE;
        let (mut data, mut sums) = (Vec::with_capacity(length as usize), Vec::new());
        self.read_data(offset, length, &mut data)?;
        self.read_sums(first, blocks_of(length), &mut sums)?;
        let differ = block_sums(&data).enumerate().filter(|(index, sum)| *sum != sum_at(&sums, *index));
        found.bad.extend(differ.map(|(index, _)| first + index as u32));
        Ok(())
    }

    /// Compares a whole chunk.
    pub(super) fn compare_all(&self, length: u32) -> io::Result<Comparison> {
        let mut found = Comparison::default();
        for offset in (0..length).step_by(STEP as usize) {
            self.compare(offset, STEP.min(length - offset), &mut found)?;
        }
        Ok(found)
    }

    /// Removes what an unfinished write left beyond the length.
    pub(super) fn clear_beyond(&self, length: u32) -> io::Result<()> {
        let (blocks, all) = (blocks_of(length), self.layout.chunk_bytes() / BLOCK_SIZE);
        self.punch_data(length, self.layout.chunk_bytes() - length)?;
        self.clear_sums(blocks, all - blocks)
    }

    /// Makes the sums of these blocks anew from what is there.
    pub(super) fn resum(&self, blocks: &[u32], length: u32) -> io::Result<()> {
        for block in blocks {
            let valid = (length - block * BLOCK_SIZE).min(BLOCK_SIZE);
            let (image, _) = self.read_block(*block, valid)?;
            self.write_sums(*block, &encode_sums([BlockSum::of(&image[..])].into_iter()))?;
        }
        Ok(())
    }

    /// The longest chunk that this can be, when its header does not tell.
    pub(super) fn length_by_size(&self) -> io::Result<u32> {
        let size = self.bytes.length()?.saturating_sub(HEADER_LEN as u64);
        Ok(size.min(u64::from(self.layout.chunk_bytes())) as u32)
    }
}
