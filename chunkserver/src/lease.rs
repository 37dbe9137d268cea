//! The read lease: reads are answered only while the master is known to have heard from this server
//! lately. A server that is cut off could otherwise serve a version that was replaced without it.

use crate::clock::Clock;
use crate::loans::Loans;
use gfs_proto::mutant;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Until when reads may be answered.
pub struct ReadLease {
    clock: Arc<dyn Clock>,
    /// Nanoseconds on the clock; 0: never held.
    until: AtomicU64,
    /// Clients that read by themselves keep to it too.
    loans: Arc<Loans>,
}

impl ReadLease {
    /// Not held yet.
    pub fn new(clock: Arc<dyn Clock>, loans: Arc<Loans>) -> Self {
        Self { clock, until: AtomicU64::new(0), loans }
    }

    /// The master acknowledged what was sent at `sent`.
    pub fn acknowledged(&self, sent: Duration, length: Duration) {
        let until = nanos(sent + length);
        self.until.fetch_max(until, Ordering::AcqRel);
        self.loans.extend_lease(until);
    }

    /// True if reads may be answered now.
    pub fn is_held(&self) -> bool {
        mutant!(StaleRead) || nanos(self.clock.now()) < self.until.load(Ordering::Acquire)
    }
}

/// Nanoseconds; 584 years fit.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn the_lease_counts_from_the_send_time() {
        let clock = Arc::new(ManualClock::default());
        let lease = ReadLease::new(Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
        let second = Duration::from_secs(1);
        clock.advance(10 * second);
        assert!(!lease.is_held());
        lease.acknowledged(9 * second, 2 * second);
        assert!(lease.is_held());
        lease.acknowledged(8 * second, 2 * second);
        clock.advance(second - Duration::from_nanos(1));
        assert!(lease.is_held(), "an older answer takes nothing back");
        clock.advance(Duration::from_nanos(1));
        assert!(!lease.is_held());
    }
}
