//! Memory for payloads: page-aligned buffers that are used again, and the budgets that bound how much
//! of it unanswered requests may hold.

use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Alignment of large payloads: a page, so that copies run at full speed and direct I/O stays possible.
const ALIGNMENT: usize = 4096;
/// Payloads up to this size are plain allocations, which the allocator recycles well by itself.
const PLAIN_MAX: usize = 64 << 10;
/// Size of the buffers that are kept.
const LARGE: usize = gfs_proto::limits::FRAME_PAYLOAD_MAX as usize + ALIGNMENT;
/// How many are kept when nobody uses them: 16 MiB of idle memory at most.
const KEPT_MAX: usize = 16;

static KEPT: LazyLock<Mutex<Vec<Vec<u8>>>> = LazyLock::new(Mutex::default);

/// Bytes of one payload. Large ones begin at a page border.
#[derive(Debug)]
pub struct Payload {
    raw: Vec<u8>,
    start: usize,
    length: usize,
}

impl Payload {
    /// Room for `length` bytes; their content is arbitrary.
    pub fn new(length: usize) -> Self {
        if length <= PLAIN_MAX || length > LARGE - ALIGNMENT {
            return Self { raw: vec![0; length], start: 0, length };
        }
        let raw = KEPT.lock().pop().unwrap_or_else(|| vec![0; LARGE]);
        let start = raw.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "bytes can be aligned to a page");
        Self { raw, start, length }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if self.raw.len() == LARGE {
            let mut kept = KEPT.lock();
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.raw));
            }
        }
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.length]
    }
}

impl DerefMut for Payload {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.length]
    }
}

/// What a request costs at least, so that requests without payload are bounded as well.
const COST_MIN: usize = 64 << 10;
/// Bytes that one permit stands for.
const UNIT: usize = 4096;

/// A bound on the bytes that unanswered requests hold, of one connection or of the whole server.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

/// A share of a budget; given back when dropped.
#[derive(Debug)]
pub struct Share(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    /// A budget of so many bytes; at least one largest frame fits.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT as u64).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units.max(LARGE / UNIT))))
    }

    /// Waits until so many bytes are free: whoever reads from a connection stops reading meanwhile.
    pub async fn take(&self, bytes: usize) -> Share {
        let units = bytes.max(COST_MIN).div_ceil(UNIT) as u32;
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await;
        Share(permit.expect("budgets are never closed"))
    }

    /// Bytes that nobody holds.
    pub fn free_bytes(&self) -> u64 {
        (self.0.available_permits() * UNIT) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn large_payloads_are_aligned_and_used_again() {
        let length = 1 << 20;
        let first = Payload::new(length);
        assert_eq!((first.len(), first.as_ptr().align_offset(ALIGNMENT)), (length, 0));
        drop(first);
        assert!(!KEPT.lock().is_empty());
        for length in [0, 1, PLAIN_MAX, PLAIN_MAX + 1, LARGE - ALIGNMENT] {
            assert_eq!(Payload::new(length).len(), length);
        }
    }

    #[test]
    fn a_budget_makes_wait_and_is_given_back() {
        let budget = Budget::new(4 << 20);
        let shares: Vec<_> = (0..4).map(|_| budget.take(1 << 20).now_or_never().expect("room")).collect();
        assert_eq!(budget.free_bytes(), 0);
        assert!(budget.take(1).now_or_never().is_none());
        drop(shares);
        assert!(budget.take(1).now_or_never().is_some());
        let small: Vec<_> = (0..64).map(|_| budget.take(0).now_or_never().expect("room")).collect();
        assert!(budget.take(0).now_or_never().is_none(), "requests without payload are bounded: {}", small.len());
    }
}
