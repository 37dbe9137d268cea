//! Writes tagged blocks into large files, small ones, ones that are cut, and ones that are replaced; reads them.
//!
//! Invariant: every block has one writing thread, so that its values are ordered; sequences only grow.

use super::{ENOENT, ENOTCONN, Teller, await_mount};
use crate::data::Stream;
use crate::faults::history::{Op, Outcome};
use crate::faults::tag::{self, BLOCK, Found};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads that write.
const WRITERS: u32 = 2;
/// Blocks in a row that belong to one writer in files that all write.
const SEGMENT: u32 = 4;
/// Blocks of the files: several chunks of 64 KiB, part of one, and what goes into packs.
const SIZES: [u32; 12] = [48, 48, 24, 24, 1, 1, 1, 2, 2, 3, 4, 4];
/// The first ones are written by all threads, the next are cut by their owner, the others replaced by theirs.
const SHARED: u32 = 2;
const CUT: u32 = 4;

fn name(file: u32) -> String {
    format!("blocks-{file}")
}

/// Path of a file.
fn path(directory: &Path, file: u32) -> PathBuf {
    directory.join(name(file))
}

/// Opens a file for reading in a directory that is held meanwhile. So ENOENT is what the file system says of the file;
/// a directory that is not there, as between a mount's death and the next one, is ENOTCONN.
fn open_in(directory: &Path, name: &str) -> io::Result<File> {
    let away = |error: io::Error| match error.raw_os_error() {
        Some(ENOENT) => io::Error::from_raw_os_error(ENOTCONN),
        _ => error,
    };
    let directory = File::open(directory).map_err(away)?;
    Ok(openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Runs until the teller ends it. `base` is the number of the first file.
pub fn run(directory: &Path, base: u32, seed: u64) -> Result<()> {
    for file in 0..SIZES.len() {
        File::create_new(path(directory, base + u32::try_from(file)?)).context("making the files")?;
    }
    let teller = Teller::new();
    let writers = (0..WRITERS).map(|number| {
        let mut thread = Thread::new(&teller, directory, base, seed ^ u64::from(number) << 32);
        std::thread::spawn(move || thread.write(number))
    });
    let mut reader = Thread::new(&teller, directory, base, !seed);
    let reader = std::thread::spawn(move || reader.read_on());
    for thread in writers.chain([reader]).collect::<Vec<_>>() {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the workload panicked"))??;
    }
    Ok(())
}

/// Only reads, until the teller ends it.
pub fn readers(directory: &Path, base: u32, seed: u64) -> Result<()> {
    Thread::new(&Teller::new(), directory, base, seed).read_on()
}

/// Reads every file once.
pub fn verify(teller: &Arc<Teller>, directory: &Path, base: u32) -> Result<()> {
    let mut thread = Thread::new(teller, directory, base, 0);
    for (file, size) in (0..).zip(SIZES) {
        thread.read(file, 0, size);
    }
    Ok(())
}

struct Thread {
    teller: Arc<Teller>,
    directory: PathBuf,
    base: u32,
    chance: Stream,
    open: BTreeMap<u32, File>,
}

impl Thread {
    fn new(teller: &Arc<Teller>, directory: &Path, base: u32, seed: u64) -> Self {
        let chance = Stream::new(seed);
        Self { teller: Arc::clone(teller), directory: directory.to_owned(), base, chance, open: BTreeMap::new() }
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.chance.number() >> 33).unwrap_or_default() % bound
    }

    fn write(&mut self, number: u32) -> Result<()> {
        while !self.teller.ended() {
            let file = self.below(u32::try_from(SIZES.len())?);
            let size = SIZES[file as usize];
            let owned = file < SHARED || file % WRITERS == number;
            match self.below(100) {
                0..50 if owned => self.write_some(file, size, number)?,
                50..72 if owned => self.sync(file)?,
                72..78 if owned => self.close(file),
                78..82 if owned && (SHARED..CUT).contains(&file) => self.cut(file, size)?,
                82..90 if owned && file >= CUT => self.replace(file, size),
                90.. => self.read_some(file, size),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_on(&mut self) -> Result<()> {
        while !self.teller.ended() {
            let file = self.below(u32::try_from(SIZES.len())?);
            self.read_some(file, SIZES[file as usize]);
            await_mount(&self.teller, &self.directory)?;
        }
        Ok(())
    }

    fn read_some(&mut self, file: u32, size: u32) {
        let first = self.below(size);
        let count = 1 + self.below((size - first).min(12));
        self.read(file, first, count);
    }

    fn read(&mut self, file: u32, first: u32, count: u32) {
        let number = self.base + file;
        self.teller.tell(Op::Read { file: number, first, count }, || {
            // opened each time: a file that was replaced is another one
            let found = read_blocks(&open_in(&self.directory, &name(number))?, number, first, count)?;
            Ok(Outcome::Blocks(found))
        });
    }

    /// Some blocks in a row that this thread owns.
    fn write_some(&mut self, file: u32, size: u32, number: u32) -> Result<()> {
        let first = self.below(size);
        let segment = first / SEGMENT;
        if file < SHARED && segment % WRITERS != number {
            return Ok(());
        }
        let end = if file < SHARED { (segment + 1) * SEGMENT } else { size };
        let count = 1 + self.below((end.min(size) - first).min(SEGMENT));
        let (place, sequence) = (self.base + file, self.teller.sequence());
        let bytes: Vec<u8> = (first..first + count).flat_map(|block| tag::block(place, block, sequence)).collect();
        let op = Op::Write { file: place, first, count, sequence };
        self.act(file, op, |open| open.write_all_at(&bytes, u64::from(first) * BLOCK as u64))
    }

    fn sync(&mut self, file: u32) -> Result<()> {
        self.act(file, Op::Sync { file: self.base + file }, |open| open.sync_data())
    }

    fn cut(&mut self, file: u32, size: u32) -> Result<()> {
        let (blocks, sequence) = (self.below(size), self.teller.sequence());
        let op = Op::Cut { file: self.base + file, blocks, sequence };
        self.act(file, op, |open| open.set_len(u64::from(blocks) * BLOCK as u64))
    }

    fn close(&mut self, file: u32) {
        if let Some(open) = self.open.remove(&file) {
            self.teller.tell(Op::Close { file: self.base + file }, || close(open).map(|()| Outcome::Done));
        }
    }

    /// The new content under another name, over the old one.
    fn replace(&mut self, file: u32, size: u32) {
        self.close(file);
        let (place, sequence) = (self.base + file, self.teller.sequence());
        let (new, old) = (self.directory.join(format!("new-{place}-{sequence}")), path(&self.directory, place));
        let bytes: Vec<u8> = (0..size).flat_map(|block| tag::block(place, block, sequence)).collect();
        self.teller.tell(Op::Replace { file: place, count: size, sequence }, || {
            let open = File::create_new(&new)?;
            open.write_all_at(&bytes, 0)?;
            close(open)?;
            fs::rename(&new, &old)?;
            Ok(Outcome::Done)
        });
    }

    /// On a file that stays open until something fails.
    fn act(&mut self, file: u32, op: Op, act: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        await_mount(&self.teller, &self.directory)?;
        if !self.open.contains_key(&file) {
            let Ok(open) = File::options().read(true).write(true).open(path(&self.directory, self.base + file)) else {
                return Ok(()); // nothing was done; a reader says what is missing
            };
            self.open.insert(file, open);
        }
        let Some(open) = self.open.get(&file) else { return Ok(()) };
        if !self.teller.tell(op, || act(open).map(|()| Outcome::Done)) {
            self.close(file);
        }
        Ok(())
    }
}

fn read_blocks(file: &File, number: u32, first: u32, count: u32) -> io::Result<Vec<Found>> {
    let mut bytes = vec![0; count as usize * BLOCK];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], u64::from(first) * BLOCK as u64 + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    // what is behind the end of the file reads as a hole
    Ok((first..).zip(bytes.chunks(BLOCK)).map(|(block, bytes)| tag::recognise(number, block, bytes)).collect())
}

/// close(2) with its answer, which dropping a file does not give.
pub(crate) fn close(file: File) -> io::Result<()> {
    #[expect(unsafe_code, reason = "the standard library keeps the answer of close(2) to itself")]
    // SAFETY: the descriptor was owned by `file` alone, which is gone.
    let closed = unsafe { rustix::io::try_close(file.into_raw_fd()) };
    Ok(closed?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_is_told_from_a_mount_that_is_away() {
        let parent = tempfile::tempdir().expect("a directory");
        let fails_with = |directory: &Path| open_in(directory, "file").err().and_then(|error| error.raw_os_error());
        assert_eq!(fails_with(parent.path()), Some(ENOENT));
        assert_eq!(fails_with(&parent.path().join("round-0")), Some(ENOTCONN));
        fs::write(parent.path().join("file"), "x").expect("written");
        assert_eq!(fails_with(parent.path()), None);
    }
}
