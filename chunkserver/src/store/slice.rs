//! Where the image of a replica is: a whole file, or consecutive bytes of a pack. Both are used alike:
//! offsets count from the beginning of the image, and what lies beyond its room does not exist.

use super::disk::DiskFile;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The bytes of one replica; clones are the same bytes.
#[derive(Debug)]
pub(super) struct Slice<F> {
    pub file: Arc<F>,
    within: Option<Within>,
    /// Reads go past the page cache.
    medium: bool,
}

/// A part of a file.
#[derive(Clone, Debug)]
struct Within {
    base: u64,
    /// Bytes from `base` on.
    room: u64,
    /// A flush of the file failed.
    failed: Arc<AtomicBool>,
}

impl<F> Clone for Slice<F> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), within: self.within.clone(), medium: self.medium }
    }
}

impl<F> Slice<F> {
    pub(super) fn whole(file: F) -> Self {
        Self { file: Arc::new(file), within: None, medium: false }
    }

    /// `failed`: set once a flush of the file has failed.
    pub(super) const fn part(file: Arc<F>, base: u64, room: u64, failed: Arc<AtomicBool>) -> Self {
        Self { file, within: Some(Within { base, room, failed }), medium: false }
    }

    /// Others are in its file.
    pub(super) const fn is_part(&self) -> bool {
        self.within.is_some()
    }

    /// The same bytes, read from the device.
    pub(super) fn on_medium(&self) -> Self {
        Self { medium: true, ..self.clone() }
    }

    /// A flush that others had asked for failed: of what is not known to be durable anything may be lost.
    pub(super) fn may_be_lost(&self) -> bool {
        self.within.as_ref().is_some_and(|within| within.failed.load(Ordering::Acquire))
    }

    /// The file, if nothing else is in it.
    pub(super) fn whole_file(&self) -> Option<Arc<F>> {
        self.within.is_none().then(|| self.file.clone())
    }
}

impl<F: DiskFile> Slice<F> {
    /// Where a byte of the image is in its file.
    pub(super) fn at(&self, offset: u64) -> u64 {
        self.within.as_ref().map_or(0, |within| within.base) + offset
    }

    /// The part of a range that exists.
    fn clip(&self, offset: u64, length: u64) -> u64 {
        self.within.as_ref().map_or(length, |within| length.min(within.room.saturating_sub(offset)))
    }

    /// As [`DiskFile::read`], or [`DiskFile::read_medium`].
    pub(super) fn read(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let (at, length) = (self.at(offset), self.clip(offset, length as u64) as usize);
        if self.medium { self.file.read_medium(at, length, out) } else { self.file.read(at, length, out) }
    }

    /// As [`DiskFile::read_cached`].
    pub(super) fn read_cached(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        self.file.read_cached(self.at(offset), self.clip(offset, length as u64) as usize, out)
    }

    /// As [`DiskFile::write`]. The caller has made sure that there is room.
    pub(super) fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        assert_eq!(self.clip(offset, length), length, "the bytes behind a slice are another replica's");
        self.file.write(self.at(offset), parts)
    }

    /// Makes a range read as zeroes. A file gives its room back, a slice keeps it: a pack with holes
    /// everywhere would be slower than one without.
    pub(super) fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.within.is_none() {
            return self.file.punch(offset, length);
        }
        let length = self.clip(offset, length) as usize;
        let mut present = Vec::with_capacity(length);
        self.read(offset, length, &mut present)?;
        if present.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        present.fill(0);
        self.file.write(self.at(offset), &[&present])
    }

    /// Makes all of it read as zeroes.
    pub(super) fn clear(&self) -> io::Result<()> {
        match &self.within {
            None => self.file.set_len(0),
            Some(within) => self.punch(0, within.room),
        }
    }

    /// Bytes that it can have: the size of a file, the room of a slice.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.within.as_ref().map_or_else(|| self.file.length(), |within| Ok(within.room))
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Disk, OpenMode};
    use super::super::mem::MemDisk;
    use super::*;
    use std::path::Path;

    #[test]
    fn a_slice_ends_where_its_room_does() {
        let file = Arc::new(MemDisk::default().open(Path::new("/f"), OpenMode::CreateNew).expect("file"));
        file.write(0, &[&[7; 100]]).expect("write");
        let slice = Slice::part(file.clone(), 20, 30, Arc::default());
        let all = |slice: &Slice<_>| {
            let mut out = Vec::new();
            slice.read(0, 1000, &mut out).map(|()| out).expect("read")
        };
        slice.write(28, &[b"ab"]).expect("write");
        assert_eq!(all(&slice), [&[7; 28][..], b"ab"].concat());
        slice.punch(10, 1000).expect("punch");
        assert_eq!(all(&slice), [[7; 10], [0; 10], [0; 10]].concat());
        slice.clear().expect("clear");
        let mut raw = Vec::new();
        file.read(0, 100, &mut raw).expect("read");
        assert_eq!(raw, [&[7; 20][..], &[0; 30], &[7; 50]].concat(), "nothing of its neighbours is touched");
        assert_eq!(slice.length().expect("length"), 30);
    }

    #[test]
    #[should_panic(expected = "another replica's")]
    fn nothing_is_written_behind_a_slice() {
        let file = Arc::new(MemDisk::default().open(Path::new("/f"), OpenMode::CreateNew).expect("file"));
        let _ = Slice::part(file, 20, 30, Arc::default()).write(29, &[b"ab"]);
    }
}
