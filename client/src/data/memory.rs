//! The bound on bytes that were written and not acknowledged, over all files of a client.
//!
//! A soft bound: whoever is below it may write one request more, so it is exceeded by at most one
//! request of each writer.

use gfs_proto::FsError;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Dirty bytes of all files.
pub(super) struct Memory {
    used: AtomicUsize,
    bytes_max: usize,
    freed: Notify,
}

impl Memory {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { used: AtomicUsize::new(0), bytes_max, freed: Notify::new() }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// True if writers must wait.
    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.bytes_max
    }

    pub(super) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Waits until there is room.
    pub(super) async fn room(&self, deadline: Instant) -> Result<(), FsError> {
        let wait = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if !self.is_full() {
                    return;
                }
                freed.await;
            }
        };
        timeout_at(deadline, wait).await.map_err(|_| FsError::TimedOut)
    }
}
