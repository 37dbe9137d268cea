//! Giving a packed replica more room: where it is, in another place, or in a file of its own; and moving
//! it, whatever for.
//!
//! ```text
//! new copy written -> flushed -> record or name -> flushed -> old record erased -> flushed
//! ```
//! At any moment there is a complete copy with all that was flushed, and where a start finds two, it takes
//! the new one: of two records that with the higher sequence number, a file before a record. Without the
//! last flush the old copy could come back when the new one is deleted.

use super::ChunkStore;
use super::disk::{Disk, DiskFile, OpenMode};
use super::index::{Entry, Live, Open};
use super::layout::{BLOCK, HEADER_LEN};
use super::pack::{PACKED_MAX, Place};
use super::slice::Slice;
use gfs_proto::frame::DataError;
use std::io;

impl<D: Disk> ChunkStore<D> {
    /// Makes sure that a replica can hold `length` bytes. After an error it is what it was, or suspect.
    pub(super) fn make_room(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        length: u32,
    ) -> Result<(), DataError> {
        let Some(place) = live.entry.place.filter(|place| place.capacity() < length) else { return Ok(()) };
        let grown = self.grow(open, live, place, length);
        if grown == Err(DataError::Io) {
            self.poison(open, live, "it cannot be moved");
        }
        grown
    }

    fn grow(&self, open: &Open<D::File>, live: &mut Live<D::File>, place: Place, length: u32) -> Result<(), DataError> {
        if length > PACKED_MAX {
            return self.move_to_file(open, live, length);
        }
        // one that grows will grow again
        let wanted = length.max(place.capacity().saturating_mul(2)).min(PACKED_MAX);
        let directory = self.directory(live.entry);
        if let Some(place) = directory.extend_place(place, wanted)? {
            return self.stretch(open, live, place);
        }
        match directory.take_place(wanted)? {
            Some(place) => self.move_to_place(open, live, place),
            None => self.move_to_file(open, live, length),
        }
    }

    /// The replica stays where it is, and gets the units behind it.
    fn stretch(&self, open: &Open<D::File>, live: &mut Live<D::File>, place: Place) -> Result<(), DataError> {
        let directory = self.directory(live.entry);
        let entry = Entry { place: Some(place), ..live.entry };
        directory.write_record(open.handle, entry, Some(live.entry)).inspect_err(|_| {
            live.entry.place.into_iter().for_each(|old| directory.packs.free(place.behind(old)));
        })?;
        live.bytes = directory.packs.slice(place).map_err(|error| self.failed(open, live, &error))?;
        live.name_synced = false;
        self.publish(open, live, |published| *published = entry);
        Ok(())
    }

    /// Moves a replica to units that were taken for it, or frees them.
    pub(super) fn move_to_place(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        place: Place,
    ) -> Result<(), DataError> {
        let moved = self.move_to(open, live, place);
        if live.entry.place != Some(place) {
            self.directory(live.entry).packs.free(place);
        }
        moved
    }

    fn move_to(&self, open: &Open<D::File>, live: &mut Live<D::File>, place: Place) -> Result<(), DataError> {
        let directory = self.directory(live.entry);
        let entry = Entry { place: Some(place), ..live.entry };
        let bytes = directory.packs.slice(place).map_err(|error| self.failed(open, live, &error))?;
        if live.header {
            copy(live, &bytes).map_err(|error| directory.failed(&error, &directory.packs.path(place.pack)))?;
            directory.sync_pack(place.pack)?;
        }
        directory.write_record(open.handle, entry, None)?;
        directory.sync_pack(place.pack)?;
        self.moved(open, live, (entry, bytes))
    }

    /// Moves a replica to a file, which will hold `length` bytes.
    fn move_to_file(&self, open: &Open<D::File>, live: &mut Live<D::File>, length: u32) -> Result<(), DataError> {
        let directory = self.directory(live.entry);
        let entry = Entry { place: None, ..live.entry };
        let name = entry.name(open.handle);
        let (path, moving) = (directory.chunk_path(name), directory.subdir(open.handle).join(name.move_name()));
        directory.take_room(HEADER_LEN as u64 + u64::from(length))?;
        let failed = |error: io::Error| directory.failed(&error, &moving);
        // what an earlier try has left that failed
        match self.disk.remove(&moving) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let bytes = self.disk.open(&moving, OpenMode::CreateNew).map(Slice::whole).map_err(failed)?;
        let made = || {
            if live.header {
                copy(live, &bytes).map_err(failed)?;
                bytes.file.sync().map_err(|error| directory.flush_failed(&error, &moving))?;
            }
            self.disk.rename(&moving, &path).map_err(failed)
        };
        made().inspect_err(|_| {
            // as good as it goes: the next try or the next start removes it otherwise
            let _ = self.disk.remove(&moving);
        })?;
        directory.sync_names(open.handle)?;
        self.moved(open, live, (entry, bytes))
    }

    /// From now on the replica is in the new place, with a durable name and all that it holds.
    fn moved(
        &self,
        open: &Open<D::File>,
        live: &mut Live<D::File>,
        (entry, bytes): (Entry, Slice<D::File>),
    ) -> Result<(), DataError> {
        let old = live.entry;
        live.bytes = bytes;
        live.writes_synced = live.writes;
        live.name_synced = true;
        self.publish(open, live, |published| *published = entry);
        let directory = self.directory(old);
        directory.remove(open.handle, old).map_err(|_| {
            // two records from now on: once the new one says clean, a start would take the old one
            directory.fail("the former place of a chunk that was moved cannot be given up");
            DataError::Io
        })?;
        self.sync_name(open.handle, old)
    }
}

/// Copies the image as it is, sums that do not match included.
fn copy<F: DiskFile>(live: &Live<F>, to: &Slice<F>) -> io::Result<()> {
    let length = HEADER_LEN + live.length.next_multiple_of(BLOCK as u32) as usize;
    let mut image = Vec::with_capacity(length);
    live.bytes.read(0, length, &mut image)?;
    to.write(0, &[&image])
}
