//! The one policy for trying again: pauses that grow, until a deadline. The one place that sleeps.

use crate::operation;
use gfs_proto::FsError;
use std::time::Duration;
use tokio::time::Instant;

/// First pause: what an election or a registration under way needs at least.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause: how long a cluster that came back may stay unnoticed.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Attempts at one operation, or at a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    /// Attempts end after `bound`, and with the operation that they are part of.
    pub(crate) fn within(bound: Duration) -> Self {
        Self { deadline: operation::deadline(bound), pause: PAUSE_FIRST }
    }

    /// As [`Retry::within`], with a second attempt at once: at another server it may succeed.
    pub(crate) fn eager(bound: Duration) -> Self {
        Self { pause: Duration::ZERO, ..Self::within(bound) }
    }

    /// When everything must have ended.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// End of one request of it.
    pub(crate) fn request_deadline(&self, bound: Duration) -> Instant {
        self.deadline.min(Instant::now() + bound)
    }

    /// How long to wait after `error` before the next attempt, or the error to end with.
    fn next_pause(&mut self, now: Instant, error: FsError) -> Result<Duration, FsError> {
        if !error.is_retryable() {
            return Err(error);
        }
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(if error == FsError::NoReplica { error } else { FsError::TimedOut });
        }
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        Ok(pause)
    }

    /// Waits before the next attempt; fails with the error that the operation is to end with if there
    /// is none: the error is final, or time has run out.
    pub(crate) async fn pause(&mut self, error: FsError) -> Result<(), FsError> {
        let pause = self.next_pause(Instant::now(), error)?;
        if !pause.is_zero() {
            wait(jittered(pause)).await;
        }
        Ok(())
    }
}

/// Lets time pass.
pub(crate) async fn wait(length: Duration) {
    tokio::time::sleep(length).await;
}
/// Between half of `pause` and all of it, so that many clients do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_at_the_deadline() {
        let mut retry = Retry::within(Duration::from_secs(60));
        let pauses: Vec<_> =
            (0..10).map(|_| retry.next_pause(Instant::now(), FsError::Unavailable).expect("time is left")).collect();
        assert_eq!(pauses[0], PAUSE_FIRST);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[9], PAUSE_MAX);

        let almost = retry.deadline() - Duration::from_millis(1);
        assert_eq!(retry.next_pause(almost, FsError::NotLeader), Ok(Duration::from_millis(1)), "never past the end");
        let end = retry.deadline();
        assert_eq!(retry.next_pause(end, FsError::NotLeader), Err(FsError::TimedOut));
        assert_eq!(retry.next_pause(end, FsError::NoReplica), Err(FsError::NoReplica), "says what was missing");
    }

    #[test]
    fn the_eager_try_again_at_once_and_then_as_the_others() {
        let mut retry = Retry::eager(Duration::from_secs(60));
        let mut pauses = || retry.next_pause(Instant::now(), FsError::NoReplica).expect("time is left");
        assert_eq!([pauses(), pauses(), pauses()], [Duration::ZERO, PAUSE_FIRST, PAUSE_FIRST * 2]);
    }

    #[test]
    fn final_errors_are_not_tried_again() {
        let mut retry = Retry::within(Duration::from_secs(60));
        for error in FsError::ALL {
            let again = retry.next_pause(Instant::now(), *error).is_ok();
            assert_eq!(again, error.is_retryable(), "{error:?}");
        }
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        let pause = Duration::from_millis(100);
        for _ in 0..1000 {
            assert!((pause / 2..=pause).contains(&jittered(pause)));
        }
    }
}
