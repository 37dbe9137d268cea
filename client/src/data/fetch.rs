//! A fetch on its way: others that want the same bytes wait for it instead of asking again.
//!
//! If the bytes change at the replicas meanwhile (a write was acknowledged) it is *tainted*: whoever
//! waits already gets its result, for the write is later than their read or they have it as a patch,
//! but nobody joins it any more and it is not kept.

use bytes::Bytes;
use gfs_proto::FsError;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// Bytes of one chunk on their way.
pub(super) struct Fetch {
    range: Range<u64>,
    /// Into the cache when it has come.
    pub keep: bool,
    /// Nobody had asked for it when it began.
    pub ahead: bool,
    pub started: Instant,
    tainted: AtomicBool,
    result: Mutex<Option<Result<Bytes, FsError>>>,
    done: Notify,
}

impl Fetch {
    pub(super) fn new(range: Range<u64>, keep: bool, ahead: bool) -> Self {
        let (tainted, result, done) = (AtomicBool::new(false), Mutex::new(None), Notify::new());
        Self { range, keep, ahead, started: Instant::now(), tainted, result, done }
    }

    /// In the file.
    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    pub(super) const fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }

    pub(super) fn taint(&self) {
        self.tainted.store(true, Ordering::Release);
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Acquire)
    }

    /// It has come or failed; the first word counts.
    pub(super) fn complete(&self, result: Result<Bytes, FsError>) {
        self.result.lock().get_or_insert(result);
        self.done.notify_waiters();
    }

    pub(super) async fn wait(&self) -> Result<Bytes, FsError> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if let Some(result) = &*self.result.lock() {
                return result.clone();
            }
            done.await;
        }
    }
}
