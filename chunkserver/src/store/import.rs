//! Copying a replica in from elsewhere: under a name of its own until it is complete and durable, then
//! in place of an older or suspect replica.

use super::ChunkStore;
use super::disk::{Disk, DiskFile, OpenMode};
use super::image::Image;
use super::index::Entry;
use super::layout::{FIELDS_LEN, HEADER_LEN, Layout, blocks_of, sum_at};
use super::replica::check_version;
use super::slice::Slice;
use gfs_proto::checksum::{BlockSum, block_sums};
use gfs_proto::control::{ReplicaRow, ReplicaState};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// A replica that is being copied in. Dropped before [`Importer::finish`] it leaves nothing behind.
pub struct Importer<'s, D: Disk> {
    store: &'s ChunkStore<D>,
    handle: ChunkHandle,
    entry: Entry,
    bytes: Slice<D::File>,
    path: PathBuf,
    /// Sums of the blocks so far, at their places.
    sums: Vec<u8>,
    renamed: bool,
}

impl<D: Disk> ChunkStore<D> {
    /// Begins a copy of a replica from elsewhere; it replaces an older or suspect one when it is
    /// complete. [`DataError::Version`] if there is one that it cannot replace, [`DataError::Busy`] if
    /// it is being copied in already.
    pub fn import(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<Importer<'_, D>, DataError> {
        self.layout()?;
        check_version(version)?;
        let existing = self.index.get(handle);
        // beside what it replaces: one directory is flushed, one file of a chunk is left after a crash
        let dir = match existing {
            Some(entry) => may_replace(entry, version).map(|()| entry.dir)?,
            None => self.place()?,
        };
        let entry = Entry {
            version,
            dir,
            place: None,
            unclean_name: false,
            marked: false,
            damaged: false,
            state: ReplicaState::Clean,
        };
        let directory = self.directory(entry);
        directory.take_room(HEADER_LEN as u64)?;
        let path = directory.import_path(entry.name(handle));
        let file = self.disk.open(&path, OpenMode::CreateNew).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => DataError::Busy,
            _ => directory.failed(&error, &path),
        })?;
        Ok(Importer { store: self, handle, entry, bytes: Slice::whole(file), path, sums: Vec::new(), renamed: false })
    }
}

fn may_replace(existing: Entry, version: ChunkVersion) -> Result<(), DataError> {
    let suspect = existing.state == ReplicaState::Suspect && existing.version <= version;
    if suspect || existing.version < version { Ok(()) } else { Err(DataError::Version) }
}

impl<D: Disk> Importer<'_, D> {
    /// Writes whole blocks (the last of the chunk may be short) after checking their sums
    /// ([`DataError::Transfer`]). Holes are kept.
    pub fn write(&mut self, offset: u32, data: &[u8], sums: &[u8]) -> Result<(), DataError> {
        let layout = self.store.layout()?;
        let end = u64::from(offset) + data.len() as u64;
        let first = (offset / BLOCK_SIZE) as usize;
        let fits = offset.is_multiple_of(BLOCK_SIZE) && end <= u64::from(layout.chunk_bytes());
        if !fits || sums.len() != 4 * blocks_of(data.len() as u32) as usize {
            return Err(DataError::Protocol);
        }
        if !block_sums(data).enumerate().all(|(index, sum)| sum == sum_at(sums, index)) {
            return Err(DataError::Transfer);
        }
        let needed = (first * 4 + sums.len()).max(self.sums.len());
        self.sums.resize(needed, 0);
        self.sums[first * 4..][..sums.len()].copy_from_slice(sums);
        self.write_data(offset, data, sums)
    }

    /// Writes the runs of blocks that are no holes.
    fn write_data(&self, offset: u32, data: &[u8], sums: &[u8]) -> Result<(), DataError> {
        let directory = self.store.directory(self.entry);
        let mut at = offset;
        let is_hole = |(index, block): (usize, &[u8])| {
            sum_at(sums, index) == BlockSum::HOLE && block.iter().all(|byte| *byte == 0)
        };
        let holes: Vec<bool> = data.chunks(BLOCK_SIZE as usize).enumerate().map(is_hole).collect();
        let mut rest = data;
        for run in holes.chunk_by(|a, b| a == b) {
            let (now, later) = rest.split_at((run.len() * BLOCK_SIZE as usize).min(rest.len()));
            if !run[0] {
                directory.take_room(now.len() as u64)?;
                let written = self.bytes.write(Layout::data_at(at), &[now]);
                written.map_err(|error| directory.failed(&error, &self.path))?;
            }
            at += now.len() as u32;
            rest = later;
        }
        Ok(())
    }

    /// Makes the copy durable and part of the store, in place of what was there.
    pub fn finish(mut self, chunk_length: u32) -> Result<ReplicaRow, DataError> {
        let store = self.store;
        let layout = store.layout()?;
        let sum_bytes = 4 * blocks_of(chunk_length) as usize;
        if chunk_length > layout.chunk_bytes() || self.sums.len() > sum_bytes {
            return Err(DataError::Protocol);
        }
        self.sums.resize(sum_bytes, 0);
        let directory = store.directory(self.entry);
        let written = self.write_header(layout, chunk_length);
        written.map_err(|error| directory.failed(&error, &self.path))?;
        self.bytes.file.sync().map_err(|error| directory.flush_failed(&error, &self.path))?;
        self.put_in_place()?;
        let Self { handle, entry, .. } = self;
        Ok(ReplicaRow { handle, version: entry.version, length: chunk_length, state: entry.state })
    }

    fn write_header(&self, layout: Layout, length: u32) -> io::Result<()> {
        let chunk = Image { bytes: self.bytes.clone(), layout, handle: self.handle };
        let header = layout.header(self.handle, length);
        self.bytes.write(0, &[&header[..FIELDS_LEN]])?;
        // a file reaches to the end of its header, though all sums be those of holes
        self.bytes.write(HEADER_LEN as u64 - 1, &[&[0]])?;
        chunk.write_sums(0, &self.sums)
    }

    fn put_in_place(&mut self) -> Result<(), DataError> {
        let (store, handle, entry) = (self.store, self.handle, self.entry);
        let directory = store.directory(entry);
        let old = match store.take_out(handle, |old| may_replace(old, entry.version)) {
            Ok((old, _)) => Some(old),
            Err(DataError::NoChunk) => None,
            Err(error) => return Err(error),
        };
        let path = directory.chunk_path(entry.name(handle));
        if let Err(error) = store.disk.rename(&self.path, &path) {
            if let Some(old) = old {
                store.index.insert(handle, old);
            }
            return Err(directory.failed(&error, &path));
        }
        self.renamed = true;
        let settled = self.settle(old);
        // it is there, though perhaps not for good
        let state = if settled.is_ok() { entry.state } else { ReplicaState::Suspect };
        let entered = store.index.insert(handle, Entry { state, ..entry });
        settled.and(entered.map(|_| ()).ok_or(DataError::Busy))
    }

    /// Makes the name durable, then removes what was replaced, then takes the mark away.
    fn settle(&self, old: Option<Entry>) -> Result<(), DataError> {
        let (store, handle, entry) = (self.store, self.handle, self.entry);
        let directory = store.directory(entry);
        if old.is_none() {
            directory.chunks.fetch_add(1, Ordering::Relaxed);
        }
        directory.sync_names(handle)?;
        if let Some(old) = old.filter(|old| !old.is_named_as(entry, handle)) {
            directory.remove(handle, old)?;
            store.sync_name(handle, old)?;
        }
        directory.marks.forget(handle);
        directory.marks.flush()
    }
}

impl<D: Disk> Drop for Importer<'_, D> {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = self.store.disk.remove(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "an unfinished copy stays until the next start");
        }
    }
}
