//! Cutting a chunk: bytes beyond the new length are gone for good before the call returns, so that no
//! later write can make them readable again.

use super::ChunkStore;
use super::disk::{Disk, DiskFile};
use super::image::Image;
use super::index::{Live, Open};
use super::layout::{BLOCK, blocks_of};
use gfs_proto::checksum::{BlockSum, encode_sums};
use gfs_proto::frame::{DataError, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use std::io;

impl<D: Disk> ChunkStore<D> {
    /// Drops the bytes from `length` on, durably; fine if the chunk is shorter. Works on a full disk.
    /// After an error the cut is not made, or the replica is suspect.
    pub fn cut(&self, handle: ChunkHandle, version: ChunkVersion, length: u32) -> Result<(), DataError> {
        let changed = self.with_exclusive(handle, version, |open, live| {
            if length >= live.length { Ok(false) } else { self.cut_file(open, live, length).map(|()| true) }
        })?;
        // a cut that was made before may still have to be flushed: an answer may have been lost
        let dirty = self.index.get(handle).is_some_and(|entry| entry.is_guarded());
        if changed || dirty { self.sync(&[SyncChunk { handle, version }]) } else { Ok(()) }
    }

    fn cut_file(&self, open: &Open<D::File>, live: &mut Live<D::File>, length: u32) -> Result<(), DataError> {
        if !self.directory(live.entry).in_service() {
            return Err(DataError::Io);
        }
        let chunk = self.image(open, live)?;
        let last = last_block(&chunk, live.length, length).map_err(|error| self.failed(open, live, &error))?;
        let Some(last) = last else {
            self.call_damaged(open, live);
            return Err(DataError::Corrupt);
        };
        self.guard(open, live)?;
        let done = apply(&chunk, (live.length, length), last);
        live.writes += 1;
        match done {
            Ok(()) => live.length = length,
            Err(error) => {
                self.poison(open, live, "a cut failed");
                return Err(self.failed(open, live, &error));
            }
        }
        Ok(())
    }
}

/// The sum of the block that stays in part (that of a hole if none does); `None` if it is damaged.
fn last_block<F: DiskFile>(chunk: &Image<F>, old: u32, new: u32) -> io::Result<Option<BlockSum>> {
    let stays = new % BLOCK_SIZE;
    if stays == 0 {
        return Ok(Some(BlockSum::HOLE));
    }
    let block = new / BLOCK_SIZE;
    let (image, good) = chunk.read_block(block, (old - block * BLOCK_SIZE).min(BLOCK as u32))?;
    Ok(good.then(|| BlockSum::of(&image[..stays as usize])))
}

fn apply<F: DiskFile>(chunk: &Image<F>, (old, new): (u32, u32), last: BlockSum) -> io::Result<()> {
    let (kept, before) = (blocks_of(new), blocks_of(old));
    chunk.punch_data(new, old - new)?;
    chunk.clear_sums(kept, before - kept)?;
    if !new.is_multiple_of(BLOCK_SIZE) {
        chunk.write_sums(kept - 1, &encode_sums([last].into_iter()))?;
    }
    chunk.write_length(new)
}
