//! The one retry policy of the data plane, and the one place that waits for time to pass.

use gfs_proto::FsError;
use std::time::Duration;
use tokio::time::Instant;

/// The first retry comes at once, later ones after this and twice as much each time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Attempts of one operation, until its deadline.
#[derive(Debug)]
pub(super) struct Retry {
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, pause: Duration::ZERO }
    }

    /// End of the operation.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// End of one request of it.
    pub(super) fn request_deadline(&self, timeout: Duration) -> Instant {
        self.deadline.min(Instant::now() + timeout)
    }

    /// Waits before the next attempt; `TimedOut` if there is no time for one.
    pub(super) async fn pause(&mut self) -> Result<(), FsError> {
        let until = Instant::now() + self.pause;
        if until >= self.deadline {
            return Err(FsError::TimedOut);
        }
        if !self.pause.is_zero() {
            tokio::time::sleep_until(until).await;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        Ok(())
    }
}
