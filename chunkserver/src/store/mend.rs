//! Mending a damaged replica in place: each block that does not match is replaced by what a peer of the same version
//! has, with its sum; a header by what is known of the chunk. Who the peers are, and that nobody's write is on its
//! way meanwhile, is the caller's business.
//!
//! Invariants:
//! - Only what does not match is written to, and that is looked at under the lock which excludes writers. So a write
//!   that came first is never undone, and a mend that a crash cuts off leaves a damaged block damaged: nothing that
//!   was flushed can be lost by it, so the replica need not be called dirty.
//! - The replica is called damaged until all of it was flushed and compared again
//!   ([`ChunkStore::examine`]).

use super::ChunkStore;
use super::damage::Findings;
use super::disk::{Disk, DiskFile};
use super::image::Image;
use super::index::{Live, Open};
use super::layout::{BLOCK, FIELDS_LEN};
use gfs_proto::checksum::{BlockSum, encode_sums};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use std::io;

/// A block as a peer has it.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// Its number in the chunk.
    pub block: u32,
    /// Its bytes, as many as the chunk has of it.
    pub data: &'a [u8],
    /// The peer's sum of it.
    pub sum: BlockSum,
}

impl<D: Disk> ChunkStore<D> {
    /// Mends what needs no peer: a header that is known, bytes beyond the length, blocks that either the page cache or
    /// the device still has. Returns how many blocks, durable.
    pub fn mend_alone(&self, handle: ChunkHandle, version: ChunkVersion, found: &Findings) -> Result<u32, DataError> {
        self.change_damaged(handle, version, |chunk, live| {
            if live.headless {
                return Ok(0);
            }
            if found.header {
                write_fields(chunk, live.length)?;
            }
            if found.beyond {
                chunk.clear_beyond(live.length)?;
            }
            let mut mended = 0;
            for block in &found.blocks {
                let Some(valid) = valid_in(*block, live.length) else { continue };
                let (cached, stored) = both(chunk, *block, valid)?;
                let good = match (cached, stored) {
                    ((_, true), (_, true)) | ((_, false), (_, false)) => continue,
                    ((image, true), _) | (_, (image, true)) => image,
                };
                write_block(chunk, *block, &good[..valid as usize])?;
                mended += 1;
            }
            Ok(mended)
        })
    }

    /// Gives a replica whose header cannot be believed one that says `length`, durably. Nothing if it can be.
    pub fn restore_header(&self, handle: ChunkHandle, version: ChunkVersion, length: u32) -> Result<(), DataError> {
        self.change_damaged(handle, version, |chunk, live| {
            let room = if chunk.bytes.is_part() { chunk.length_by_size()? } else { chunk.layout.chunk_bytes() };
            if live.headless && length <= room {
                write_fields(chunk, length)?;
                (live.headless, live.header, live.length) = (false, true, length);
            }
            Ok(0)
        })
        .map(|_| ())
    }

    /// Writes those of the blocks that still do not match and have exactly the bytes that belong there. Returns how
    /// many, durable.
    pub fn mend_blocks(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        fetched: &[Fetched<'_>],
    ) -> Result<u32, DataError> {
        self.change_damaged(handle, version, |chunk, live| {
            let mut mended = 0;
            for Fetched { block, data, sum } in fetched {
                let fits = !live.headless && valid_in(*block, live.length) == Some(data.len() as u32);
                if !fits || BlockSum::of(data) != *sum {
                    continue;
                }
                let ((_, cached), (_, stored)) = both(chunk, *block, data.len() as u32)?;
                if !(cached && stored) {
                    write_block(chunk, *block, data)?;
                    mended += 1;
                }
            }
            Ok(mended)
        })
    }

    /// Changes a replica and flushes it, nobody else at it. `act` says how many blocks it has written.
    fn change_damaged(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        act: impl FnOnce(&Image<D::File>, &mut Live<D::File>) -> io::Result<u32>,
    ) -> Result<u32, DataError> {
        self.with_damaged(handle, version, |open, live| {
            if !self.directory(live.entry).in_service() {
                return Err(DataError::Io);
            }
            let chunk = self.image(open, live)?;
            let mended = act(&chunk, live).map_err(|error| self.failed(open, live, &error))?;
            self.flush_mended(open, live)?;
            self.count_mended(mended.into());
            Ok(mended)
        })
    }

    fn flush_mended(&self, open: &Open<D::File>, live: &mut Live<D::File>) -> Result<(), DataError> {
        live.writes += 1;
        if let Err(error) = self.flush_bytes(open.handle, live) {
            self.poison(open, live, "its flush failed");
            return Err(error);
        }
        live.writes_synced = live.writes;
        Ok(())
    }
}

/// A block with whether it matches its sum.
type Seen = (Box<[u8; BLOCK]>, bool);

/// A block as readers get it, and as the device has it.
fn both<F: DiskFile>(chunk: &Image<F>, block: u32, valid: u32) -> io::Result<(Seen, Seen)> {
    let medium = Image { bytes: chunk.bytes.on_medium(), layout: chunk.layout, handle: chunk.handle };
    Ok((chunk.read_block(block, valid)?, medium.read_block(block, valid)?))
}

/// Bytes that a chunk of this length has in a block.
fn valid_in(block: u32, length: u32) -> Option<u32> {
    let start = block.checked_mul(BLOCK_SIZE)?;
    (start < length).then(|| (length - start).min(BLOCK_SIZE))
}

fn write_fields<F: DiskFile>(chunk: &Image<F>, length: u32) -> io::Result<()> {
    chunk.bytes.write(0, &[&chunk.layout.header(chunk.handle, length)[..FIELDS_LEN]])
}

fn write_block<F: DiskFile>(chunk: &Image<F>, block: u32, data: &[u8]) -> io::Result<()> {
    chunk.write_data(block * BLOCK_SIZE, data)?;
    chunk.write_sums(block, &encode_sums([BlockSum::of(data)].into_iter()))
}
