//! Time as the chunkserver sees it: one clock that keeps counting while the machine sleeps, so that
//! a lease taken before a suspend is over after it. Tests set it by hand.

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Where "now" comes from.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed point before the process began; never goes back.
    fn now(&self) -> Duration;
}

/// `CLOCK_BOOTTIME` of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// Stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_only() {
        let (a, b) = (BootClock.now(), BootClock.now());
        assert!(a > Duration::ZERO && b >= a);
        let manual = ManualClock::default();
        manual.advance(Duration::from_secs(2));
        assert_eq!(manual.now(), Duration::from_secs(2));
    }
}
