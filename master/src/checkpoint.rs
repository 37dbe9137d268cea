//! Checkpoints: what was applied in memory goes to the metadata file beside the running mutations, and
//! the log behind it may go (GFS paper, 2.6.3).
//!
//! One thread. Requests feel it only when the memory for what is not in the file runs out: then
//! mutations wait for the next checkpoint.

use crate::gate::Gate;
use crate::master::Master;
use gfs_master_core::{Store, StoreError};
use gfs_proto::ids::LogIndex;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{debug, error};

/// A checkpoint is made when so much has been applied since the last one.
const DELTA_BYTES_WANTED: usize = 12 << 20;
/// Mutations wait while so much is not in the file.
const DELTA_BYTES_MAX: usize = 64 << 20;
/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(100);

const _: () = assert!(DELTA_BYTES_WANTED * 4 <= DELTA_BYTES_MAX);

/// Room in memory for what is applied and not yet in the metadata file.
pub struct DeltaRoom {
    /// Opens with the end of the checkpoint that is next to end.
    next: Mutex<Gate>,
    checkpoint: AtomicU64,
}

impl DeltaRoom {
    /// With the metadata file at this index.
    pub fn new(checkpoint: LogIndex) -> Self {
        Self { next: Mutex::default(), checkpoint: AtomicU64::new(checkpoint.get()) }
    }

    /// Index of the last checkpoint.
    pub fn checkpoint(&self) -> LogIndex {
        LogIndex::new(self.checkpoint.load(Ordering::Relaxed))
    }

    /// Waits until there is room for another command.
    pub async fn admission(&self, store: &Store) {
        while store.delta_bytes() > DELTA_BYTES_MAX {
            let gate = self.next.lock().clone();
            gate.passed().await;
        }
    }

    fn made(&self) {
        std::mem::take(&mut *self.next.lock()).open();
    }
}

/// The thread that makes checkpoints.
pub struct Checkpointer {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts it.
    pub fn start(master: Arc<Master>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || run(&master, &told))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread; a checkpoint under way is finished.
    pub fn stop(self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if self.thread.join().is_err() {
            error!("the checkpoint thread ended with a panic");
        }
    }
}

fn run(master: &Master, stop: &(Mutex<bool>, Condvar)) {
    let mut last = Instant::now();
    let mut stopped = stop.0.lock();
    while !*stopped {
        stop.1.wait_for(&mut stopped, LOOK);
        let due = last.elapsed() >= master.timings.checkpoint;
        if master.store.delta_bytes() >= DELTA_BYTES_WANTED || due {
            last = Instant::now();
            parking_lot::MutexGuard::unlocked(&mut stopped, || step(master));
        }
    }
}

/// Makes a checkpoint, and drops the log before it.
pub fn step(master: &Master) {
    match make(&master.store) {
        Ok(Some(index)) => {
            master.log.checkpointed(index);
            master.room.checkpoint.store(index.get(), Ordering::Relaxed);
        }
        Ok(None) => {}
        Err(cause) => {
            // Nothing that is applied from now on could ever leave the memory.
            error!("cannot write the metadata file, the master ends: {:#}", anyhow::Error::from(cause));
            std::process::abort();
        }
    }
    master.room.made();
}

/// Makes one, if anything has changed: the log up to the returned index is not needed any more.
pub fn make(store: &Store) -> Result<Option<LogIndex>, StoreError> {
    if !store.freeze() {
        return Ok(None);
    }
    let begun = Instant::now();
    let applied = store.merge()?;
    debug!(index = %applied.index, took = ?begun.elapsed(), "checkpoint");
    Ok(Some(applied.index))
}
