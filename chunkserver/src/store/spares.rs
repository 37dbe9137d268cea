//! Files of deleted chunks, kept to become those of new ones. Making a file costs the search for a free
//! inode and free blocks, and removing one gives them back: hundreds of microseconds each on an ext4
//! where much was deleted lately (ADR 4). Renaming a file that is there costs a tenth of that.
//!
//! ```text
//!   chunk --delete--> renamed to spare/N.B --> zeroed, blocks kept --> offered
//!   (.d name) <--create-- renamed
//! ```
//! A spare reads as zeroes: its blocks are marked as unwritten, which no later change of its name
//! overtakes on a file system that keeps its metadata in order. After a power cut no spare is used all
//! the same, and what a killed process left is zeroed once more.

use super::disk::{Disk, DiskFile, OpenMode};
use super::layout::{BLOCK, HEADER_LEN};
use super::recover::LastRun;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Subdirectory of a storage directory.
pub(super) const SPARE: &str = "spare";
/// Larger files are removed: giving back their blocks costs little per byte.
const BLOCKS_MAX: u64 = ((HEADER_LEN + (64 << 10)) / BLOCK) as u64;
/// Bytes kept per storage directory. They are given back when room is short.
const BYTES_MAX: u64 = 256 << 20;
/// A spare may have this many times the blocks that the new chunk is expected to need.
const WASTE_MAX: u64 = 2;
/// Given back at a time.
const RELEASED_TOGETHER: usize = 256;

/// The spares of one storage directory.
pub(super) struct Spares<D: Disk> {
    disk: Arc<D>,
    dir: PathBuf,
    pool: Mutex<Pool>,
    /// The file system cannot zero a range and keep its blocks.
    unsupported: AtomicBool,
}

#[derive(Default)]
struct Pool {
    /// Numbers of the spares by their blocks.
    by_blocks: [Vec<u64>; BLOCKS_MAX as usize + 1],
    /// Room that they take, an inode counted as a block.
    bytes: u64,
    next: u64,
}

/// What a spare takes.
const fn cost(blocks: u64) -> u64 {
    (blocks + 1) * BLOCK as u64
}

impl Pool {
    fn add(&mut self, number: u64, blocks: u64) {
        self.by_blocks[blocks as usize].push(number);
    }

    /// One with enough blocks for a chunk file of `blocks` and not too many, or else the largest smaller one.
    fn take(&mut self, blocks: u64) -> Option<(u64, u64)> {
        let most = (blocks * WASTE_MAX).min(BLOCKS_MAX);
        let found = (blocks..=most)
            .chain((0..blocks.min(BLOCKS_MAX + 1)).rev())
            .find(|blocks| !self.by_blocks[*blocks as usize].is_empty())?;
        let number = self.by_blocks[found as usize].pop()?;
        self.bytes -= cost(found);
        Some((number, found))
    }
}

impl<D: Disk> Spares<D> {
    /// What the last run left.
    pub(super) fn open(disk: Arc<D>, path: &Path, last_run: LastRun) -> io::Result<Self> {
        let spares = Self { disk, dir: path.join(SPARE), pool: Mutex::default(), unsupported: AtomicBool::new(false) };
        for listed in spares.disk.list(&spares.dir)? {
            let path = spares.dir.join(&listed.name);
            let kept = match (listed.name.to_str().and_then(parse), last_run) {
                (Some(name), LastRun::Stopped) => Some(name),
                (Some(name), LastRun::ProcessDied) => spares.zero(&path).is_ok().then_some(name),
                _ => None,
            };
            match kept {
                Some((number, blocks)) => {
                    let mut pool = spares.pool.lock();
                    pool.add(number, blocks);
                    pool.bytes += cost(blocks);
                    pool.next = pool.next.max(number + 1);
                }
                None => spares.disk.remove(&path)?,
            }
        }
        Ok(spares)
    }

    fn zero(&self, path: &Path) -> io::Result<()> {
        let file = self.disk.open(path, OpenMode::Existing)?;
        file.zero(file.length()?)
    }

    fn path(&self, number: u64, blocks: u64) -> PathBuf {
        self.dir.join(format!("{number}.{blocks}"))
    }

    /// Makes a chunk file that nobody uses any more a spare; `file` is it, if it is open. False if it was
    /// left as it is.
    pub(super) fn put(&self, path: &Path, file: Option<&D::File>) -> io::Result<bool> {
        if self.unsupported.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let opened;
        let file = match file {
            Some(file) => file,
            None => {
                opened = self.disk.open(path, OpenMode::Existing)?;
                &opened
            }
        };
        let length = file.length()?;
        let blocks = length.div_ceil(BLOCK as u64);
        let Some(number) = self.number(blocks) else { return Ok(false) };
        let spare = self.path(number, blocks);
        let zeroed = self.disk.rename(path, &spare).map(|()| file.zero(length));
        match zeroed {
            Ok(Ok(())) => {
                self.pool.lock().add(number, blocks);
                Ok(true)
            }
            Ok(Err(error)) => {
                self.unsupported.fetch_or(error.kind() == io::ErrorKind::Unsupported, Ordering::Relaxed);
                self.pool.lock().bytes -= cost(blocks);
                self.disk.remove(&spare)?;
                Ok(true)
            }
            Err(error) => {
                self.pool.lock().bytes -= cost(blocks);
                Err(error)
            }
        }
    }

    /// Number for one more spare, if it is not too large and there are not too many.
    fn number(&self, blocks: u64) -> Option<u64> {
        let mut pool = self.pool.lock();
        if blocks > BLOCKS_MAX || pool.bytes + cost(blocks) > BYTES_MAX {
            return None;
        }
        pool.bytes += cost(blocks);
        pool.next += 1;
        Some(pool.next - 1)
    }

    /// Gives a spare the name of a new chunk file that will hold about `bytes` of data, and opens it. `None`
    /// if there is none that fits.
    pub(super) fn take(&self, path: &Path, bytes: u32) -> io::Result<Option<D::File>> {
        let blocks = (HEADER_LEN as u64 + u64::from(bytes)).div_ceil(BLOCK as u64);
        let Some((number, blocks)) = self.pool.lock().take(blocks) else { return Ok(None) };
        self.disk.rename(&self.path(number, blocks), path)?;
        self.disk.open(path, OpenMode::Existing).map(Some).inspect_err(|_| {
            // nobody's; if it cannot be removed either, the next start finds a chunk that was never written
            let _ = self.disk.remove(path);
        })
    }

    /// Bytes that could be given back.
    pub(super) fn bytes(&self) -> u64 {
        self.pool.lock().bytes
    }

    /// Gives room back; false if there is none.
    pub(super) fn release(&self) -> bool {
        let mut released = false;
        for _ in 0..RELEASED_TOGETHER {
            let Some((number, blocks)) = self.pool.lock().take(BLOCKS_MAX) else { break };
            released |= self.disk.remove(&self.path(number, blocks)).is_ok();
        }
        released
    }
}

/// Number and blocks of a spare by its name.
fn parse(name: &str) -> Option<(u64, u64)> {
    let (number, blocks) = name.split_once('.')?;
    let (number, blocks) = (number.parse().ok()?, blocks.parse().ok().filter(|blocks| *blocks <= BLOCKS_MAX)?);
    (format!("{number}.{blocks}") == name).then_some((number, blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spare_that_fits_best_is_taken() {
        let mut pool = Pool::default();
        for (number, blocks) in [(1, 2), (2, 5), (3, 17)] {
            pool.add(number, blocks);
            pool.bytes += cost(blocks);
        }
        assert_eq!(pool.take(3), Some((2, 5)), "the next larger one");
        assert_eq!(pool.take(3), Some((1, 2)), "17 blocks would be a waste");
        assert_eq!(pool.take(3), None);
        assert_eq!(pool.take(9), Some((3, 17)));
        assert_eq!((pool.take(9), pool.bytes), (None, 0));
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        assert_eq!(parse("12.17"), Some((12, 17)));
        for bad in ["", "12", "12.18", "012.1", "12.1.1", "-1.1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
