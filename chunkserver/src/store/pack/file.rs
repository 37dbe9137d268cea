//! One pack: its file, and flushing it once for all who ask at the same time.
//!
//! Invariants: after a failed flush every later one fails too, and every slice says so. The operating
//! system tells of an error once, and calls the pages that it could not write clean. What was erased counts
//! as that only when a flush has ended well that began after it.

use super::super::disk::DiskFile;
use super::super::slice::Slice;
use super::PackError;
use super::format::{Geometry, Place, Record, SLOT, UNIT};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pack that is open; it stays so.
pub(in crate::store) struct Pack<F> {
    pub geometry: Geometry,
    file: Arc<F>,
    flushes: Mutex<Flushes>,
    ended: Condvar,
    /// A flush failed: what is not durable may be lost, whatever the page cache shows.
    failed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Flushes {
    begun: u64,
    /// Everything that was written before this one began is durable.
    done: u64,
    running: bool,
    /// The first flush that makes all erasures durable.
    erased: u64,
}

impl Flushes {
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.running = true;
        self.begun
    }
}

impl<F: DiskFile> Pack<F> {
    pub(super) fn new(geometry: Geometry, file: F) -> Self {
        let (flushes, ended, failed) = Default::default();
        Self { geometry, file: Arc::new(file), flushes, ended, failed }
    }

    pub(super) fn file(&self) -> &F {
        &self.file
    }

    /// The bytes of a replica.
    pub(super) fn slice(&self, place: Place) -> Slice<F> {
        let base = self.geometry.unit_at(u32::from(place.first));
        Slice::part(self.file.clone(), base, u64::from(place.units) * UNIT, self.failed.clone())
    }

    pub(super) fn write_record(&self, first: u16, record: &Record) -> io::Result<()> {
        self.file.write(Geometry::slot_at(first), &[&self.geometry.slot(first, record)])
    }

    pub(super) fn erase_record(&self, first: u16) -> io::Result<()> {
        let erased = self.file.write(Geometry::slot_at(first), &[&[0; SLOT]]);
        let mut flushes = self.flushes.lock();
        flushes.erased = flushes.begun + 1;
        erased
    }

    /// Some of its records were erased, and that is not durable.
    pub(super) fn has_erased(&self) -> bool {
        let flushes = self.flushes.lock();
        flushes.erased > flushes.done
    }

    /// Makes everything durable that was written to it before the call.
    pub(super) fn flush(&self) -> Result<(), PackError> {
        let mut flushes = self.flushes.lock();
        // one that is running may have begun before the last write
        let wanted = flushes.begun + 1;
        while flushes.done < wanted && !self.has_failed() {
            if flushes.running {
                self.ended.wait(&mut flushes);
            } else {
                self.flush_now(&mut flushes);
            }
        }
        if flushes.done >= wanted { Ok(()) } else { Err(PackError::Flush) }
    }

    /// Makes everything durable that was written to these packs before the call, by one flush of the file system.
    /// They are in the order of their numbers, so that no two callers wait for each other.
    pub(super) fn flush_together(packs: &[Arc<Self>], sync: impl FnOnce() -> io::Result<()>) -> Result<(), PackError> {
        let begun: Vec<u64> = packs.iter().map(|pack| pack.begin_alone()).collect();
        let done = sync();
        for (pack, begun) in packs.iter().zip(begun) {
            pack.end(&mut pack.flushes.lock(), begun, &done);
        }
        if packs.iter().any(|pack| pack.has_failed()) { Err(PackError::Flush) } else { Ok(()) }
    }

    /// A flush of it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn flush_now(&self, flushes: &mut MutexGuard<'_, Flushes>) {
        let begun = flushes.begin();
        let done = MutexGuard::unlocked(flushes, || self.file.sync());
        self.end(flushes, begun, &done);
    }

    fn begin_alone(&self) -> u64 {
        let mut flushes = self.flushes.lock();
        while flushes.running {
            self.ended.wait(&mut flushes);
        }
        flushes.begin()
    }

    fn end(&self, flushes: &mut Flushes, begun: u64, done: &io::Result<()>) {
        flushes.running = false;
        match done {
            Ok(()) => flushes.done = begun,
            Err(error) => {
                tracing::error!(pack = self.geometry.number, %error, "a pack cannot be flushed");
                self.failed.store(true, Ordering::Release);
            }
        }
        self.ended.notify_all();
    }
}
