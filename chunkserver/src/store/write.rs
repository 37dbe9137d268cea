//! Writing: data, then sums, then the length if it grows; for a new chunk all in one call.
//!
//! Between these steps data and sums disagree on disk, which only a crash can show: the replica is
//! dirty then and is compared before it is used. A write that fails for want of room is undone. Where
//! that is not possible, the replica becomes suspect: never are parts of a failed write visible.

use super::disk::{Disk, DiskFile};
use super::image::Image;
use super::index::{Entry, Live, Open};
use super::layout::{BLOCK, FIELDS_LEN, HEADER_LEN, Layout, blocks_of, sum_at};
use super::write_plan::{Piece, Plan, SumRun, check, plan, segments};
use super::{ChunkStore, WriteData};
use gfs_proto::checksum::{BlockSum, encode_sums};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use std::io;

/// How far a write got.
struct Progress {
    /// Data ranges that may have been written: offset and length.
    data: Vec<(u32, u32)>,
    /// Sums or length may have been written.
    sums: bool,
}

/// A replica can be used no more.
struct Beyond;

impl<D: Disk> ChunkStore<D> {
    /// Checks the piece sums ([`DataError::Transfer`]) and writes; returns the length of the chunk.
    /// Blocks overwritten in part are compared first ([`DataError::Corrupt`]). After an error nothing
    /// of it is visible, or the replica is suspect.
    pub fn write(&self, handle: ChunkHandle, version: ChunkVersion, write: &WriteData<'_>) -> Result<u32, DataError> {
        let pieces = check(write, self.layout()?.chunk_bytes())?;
        self.with_exclusive(handle, version, |open, live| self.write_pieces(open, live, &pieces))
    }

    /// True if a write up to byte `end` needs no flush: the replica is known to be modified (a power cut must
    /// leave no doubt of that), and has room where it is. Another request may change that.
    pub fn writes_at_once(&self, handle: ChunkHandle, end: u32) -> bool {
        let is_ready = |entry: Entry| entry.is_guarded() && entry.place.is_none_or(|place| place.capacity() >= end);
        self.index.get(handle).is_some_and(is_ready)
    }

    fn write_pieces(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        pieces: &[Piece<'_>],
    ) -> Result<u32, DataError> {
        let chunk = self.image(open, live)?;
        let directory = self.directory(live.entry);
        let plan = match plan(&chunk, pieces, live.length) {
            Err(DataError::Corrupt) => {
                self.call_damaged(open, live);
                return Err(DataError::Corrupt);
            }
            plan => plan.inspect_err(|error| {
                if *error == DataError::Io {
                    directory.fail("a chunk cannot be read");
                }
            })?,
        };
        let header = if live.header { 0 } else { HEADER_LEN as u32 };
        // one in a pack has its room already, or will be moved and takes it then
        let grown = if live.entry.place.is_some() { 0 } else { plan.length - live.length + header };
        directory.take_room(u64::from(grown))?;
        self.guard(open, live)?;
        self.make_room(open, live, plan.length)?;
        let chunk = self.image(open, live)?;
        let mut progress = Progress { data: Vec::new(), sums: false };
        let done = if live.header {
            write_over(&chunk, pieces, (&plan, live.length), &mut progress)
        } else {
            write_first(&chunk, pieces, &plan)
        };
        if let Err(error) = done {
            let error = directory.failed(&error, &directory.file_path(open.handle, live.entry));
            self.undo(open, live, (&plan, &progress), error);
            return Err(error);
        }
        live.header = true;
        live.length = plan.length;
        live.writes += 1;
        Ok(plan.length)
    }

    fn undo(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        (plan, progress): (&Plan, &Progress),
        error: DataError,
    ) {
        let undo = || -> Result<(), Beyond> {
            let chunk = self.image(open, live).map_err(|_| Beyond)?;
            if error == DataError::Io {
                Err(Beyond)
            } else if !live.header {
                chunk.bytes.clear().map_err(|_| Beyond)
            } else {
                undo_over(&chunk, plan, progress, live.length)
            }
        };
        let undone = undo();
        // the file has changed even if it was changed back
        live.writes += 1;
        if undone.is_err() {
            self.poison(open, live, "a write failed and could not be undone");
        }
    }
}

/// The first write to a chunk: the header goes with it, data from offset 0 in the same call.
fn write_first<F: DiskFile>(chunk: &Image<F>, pieces: &[Piece<'_>], plan: &Plan) -> io::Result<()> {
    let mut header = chunk.layout.header(chunk.handle, plan.length);
    for run in &plan.runs {
        let mut rest = &run.sums[..];
        for span in chunk.layout.sum_spans(run.first, (run.sums.len() / 4) as u32) {
            let (sums, later) = rest.split_at(span.bytes());
            match usize::try_from(span.at) {
                Ok(at @ FIELDS_LEN..HEADER_LEN) => header[at..at + sums.len()].copy_from_slice(sums),
                _ => chunk.bytes.write(span.at, &[sums])?,
            }
            rest = later;
        }
    }
    let mut header_written = false;
    for segment in segments(pieces, None) {
        if segment.offset == 0 {
            let parts: Vec<&[u8]> = std::iter::once(&header[..]).chain(segment.parts).collect();
            chunk.bytes.write(0, &parts)?;
            header_written = true;
        } else {
            chunk.bytes.write(Layout::data_at(segment.offset), &segment.parts)?;
        }
    }
    if header_written { Ok(()) } else { chunk.bytes.write(0, &[&header]) }
}

/// A write to a chunk that has a header.
fn write_over<F: DiskFile>(
    chunk: &Image<F>,
    pieces: &[Piece<'_>],
    (plan, old_length): (&Plan, u32),
    progress: &mut Progress,
) -> io::Result<()> {
    // What needs new room goes first, while nothing is lost yet if there is none.
    let border = plan.replaces.then(|| blocks_of(old_length) * BLOCK_SIZE);
    for segment in segments(pieces, border) {
        progress.data.push((segment.offset, segment.length));
        chunk.bytes.write(Layout::data_at(segment.offset), &segment.parts)?;
    }
    progress.sums = true;
    for run in &plan.runs {
        chunk.write_sums(run.first, &run.sums)?;
    }
    if plan.length > old_length { chunk.write_length(plan.length) } else { Ok(()) }
}

/// Puts back what [`write_over`] changed.
fn undo_over<F: DiskFile>(chunk: &Image<F>, plan: &Plan, progress: &Progress, old_length: u32) -> Result<(), Beyond> {
    for (offset, length) in &progress.data {
        for block in offset / BLOCK_SIZE..=(offset + length - 1) / BLOCK_SIZE {
            let sum = undo_block(chunk, plan, block, progress.sums, old_length)?;
            if progress.sums {
                let run = SumRun { first: block, sums: encode_sums([sum].into_iter()) };
                chunk.write_sums(run.first, &run.sums).map_err(|_| Beyond)?;
            }
        }
    }
    if progress.sums { chunk.write_length(old_length).map_err(|_| Beyond) } else { Ok(()) }
}

/// Puts one block back; returns the sum that it had.
fn undo_block<F: DiskFile>(
    chunk: &Image<F>,
    plan: &Plan,
    block: u32,
    sums_changed: bool,
    old_length: u32,
) -> Result<BlockSum, Beyond> {
    let start = block * BLOCK_SIZE;
    if let Some(old) = plan.old.iter().find(|old| old.block == block) {
        let valid = ((old_length - start) as usize).min(BLOCK);
        chunk.bytes.write(Layout::data_at(start), &[&old.image[..valid]]).map_err(|_| Beyond)?;
        chunk.punch_data(start + valid as u32, (BLOCK - valid) as u32).map_err(|_| Beyond)?;
        return Ok(BlockSum::of(&old.image[..]));
    }
    if start < old_length {
        let mut sum = Vec::new();
        chunk.read_sums(block, 1, &mut sum).map_err(|_| Beyond)?;
        // a block that held data is lost, one that was a hole is made one again
        if sums_changed || sum_at(&sum, 0) != BlockSum::HOLE {
            return Err(Beyond);
        }
    }
    chunk.punch_data(start, BLOCK_SIZE).map_err(|_| Beyond)?;
    Ok(BlockSum::HOLE)
}
