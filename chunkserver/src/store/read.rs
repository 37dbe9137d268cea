//! Reading: bytes with the sums that were stored for them, of one moment. They are not compared here:
//! the reading client does that.

use super::disk::{Disk, DiskFile};
use super::image::Image;
use super::index::{Live, Open};
use super::layout::{Layout, blocks_of};
use super::{ChunkStore, ReadOut, SendPlan};
use gfs_proto::frame::{DataError, Extent};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use std::io;

impl<D: Disk> ChunkStore<D> {
    /// Appends bytes of a chunk to `out`, read together with their sums. `range.offset` is a multiple
    /// of the block size.
    pub fn read(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
        out: &mut Vec<u8>,
    ) -> Result<ReadOut, DataError> {
        self.with_shared(handle, version, |open, live| {
            let data_len = clip(range, live.length)?;
            let chunk = self.image(open, live)?;
            let sums = self.sums(&chunk, live, (range.offset, data_len))?;
            chunk.read_data(range.offset, data_len, out).map_err(|error| self.failed(open, live, &error))?;
            Ok(ReadOut { sums, chunk_length: live.length, data_len })
        })
    }

    /// Like [`ChunkStore::read`], but `None` (and `out` unchanged) if that would wait, for the device or for one
    /// who has the replica exclusively.
    pub fn read_cached(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
        out: &mut Vec<u8>,
    ) -> Result<Option<ReadOut>, DataError> {
        let found = self.with_shared_now(handle, version, |open, live| {
            let data_len = clip(range, live.length)?;
            let start = out.len();
            let mut sums = Vec::new();
            let found = self
                .image(open, live)
                .map(|chunk| read_all_cached(&chunk, (range.offset, data_len), out, &mut sums))?
                .map_err(|error| self.failed(open, live, &error));
            if !matches!(found, Ok(true)) {
                out.truncate(start);
            }
            Ok(found?.then_some(ReadOut { sums, chunk_length: live.length, data_len }))
        })?;
        Ok(found.flatten())
    }

    /// What `sendfile` needs to answer a read.
    pub fn plan_send(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
    ) -> Result<SendPlan<D::File>, DataError> {
        self.with_shared(handle, version, |open, live| self.plan_of(open, live, range))
    }

    /// Like [`ChunkStore::plan_send`], but `None` if the replica is not open or somebody has it exclusively.
    pub fn plan_send_now(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
    ) -> Result<Option<SendPlan<D::File>>, DataError> {
        self.with_shared_now(handle, version, |open, live| self.plan_of(open, live, range))
    }

    fn plan_of(
        &self,
        open: &Open<D::File>,
        live: &Live<D::File>,
        range: Extent,
    ) -> Result<SendPlan<D::File>, DataError> {
        let length = clip(range, live.length)?;
        let sums = self.sums(&self.image(open, live)?, live, (range.offset, length))?;
        let offset = live.bytes.at(Layout::data_at(range.offset));
        Ok(SendPlan { file: live.bytes.file.clone(), offset, length, sums, chunk_length: live.length })
    }

    /// Length of a replica, from its file if need be. Suspect replicas answer too.
    pub fn length(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<u32, DataError> {
        let open = self.open_replica(handle)?;
        let live = open.live.read();
        match live.check(version) {
            _ if live.gone => Err(DataError::NoChunk),
            Ok(()) => Ok(live.length),
            Err(DataError::Suspect) if !live.headless => Ok(live.length),
            Err(DataError::Suspect) => Err(DataError::Corrupt),
            Err(error) => Err(error),
        }
    }

    /// Length of a replica and the sums of all its blocks as they are stored.
    pub fn all_sums(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<(u32, Vec<u8>), DataError> {
        self.with_shared(handle, version, |open, live| {
            let sums = self.sums(&self.image(open, live)?, live, (0, live.length))?;
            Ok((live.length, sums))
        })
    }

    fn sums(
        &self,
        chunk: &Image<D::File>,
        live: &Live<D::File>,
        (offset, length): (u32, u32),
    ) -> Result<Vec<u8>, DataError> {
        let count = blocks_of(length);
        let mut sums = Vec::with_capacity(4 * count as usize);
        let directory = self.directory(live.entry);
        chunk
            .read_sums(offset / BLOCK_SIZE, count, &mut sums)
            .map_err(|error| directory.failed(&error, &directory.file_path(chunk.handle, live.entry)))?;
        Ok(sums)
    }

    /// Judges an error of an operation on a replica.
    pub(super) fn failed(&self, open: &Open<D::File>, live: &Live<D::File>, error: &io::Error) -> DataError {
        let directory = self.directory(live.entry);
        directory.failed(error, &directory.file_path(open.handle, live.entry))
    }
}

/// Bytes of `range` that the chunk has.
fn clip(range: Extent, chunk_length: u32) -> Result<u32, DataError> {
    let end = range.offset.checked_add(range.length).ok_or(DataError::Protocol)?;
    if !range.offset.is_multiple_of(BLOCK_SIZE) {
        return Err(DataError::Protocol);
    }
    Ok(end.min(chunk_length).saturating_sub(range.offset))
}

fn read_all_cached<F: DiskFile>(
    chunk: &Image<F>,
    (offset, length): (u32, u32),
    out: &mut Vec<u8>,
    sums: &mut Vec<u8>,
) -> io::Result<bool> {
    let end = out.len() + length as usize;
    if !chunk.bytes.read_cached(Layout::data_at(offset), length as usize, out)? {
        return Ok(false);
    }
    out.resize(end, 0);
    for span in chunk.layout.sum_spans(offset / BLOCK_SIZE, blocks_of(length)) {
        let end = sums.len() + span.bytes();
        if !chunk.bytes.read_cached(span.at, span.bytes(), sums)? {
            return Ok(false);
        }
        sums.resize(end, 0);
    }
    Ok(true)
}
