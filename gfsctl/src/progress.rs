//! A progress bar on standard error, for transfers that last and people who watch.

use crate::output::watched;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Shorter transfers end before anybody would have looked.
const QUIET: Duration = Duration::from_millis(500);

/// Counts bytes; shows itself only if it takes long enough.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: OnceLock<()>,
}

impl Progress {
    /// For `total` bytes; 0 if nobody knows.
    pub(crate) fn new(total: u64) -> Self {
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::hidden());
        let known = "{bar:30} {percent:>3}% {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        let unknown = "{spinner} {binary_bytes}, {binary_bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(if total == 0 { unknown } else { known }) {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), shown: OnceLock::new() }
    }

    /// So many bytes more are there.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.began.elapsed() >= QUIET && watched() {
            self.shown.get_or_init(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }

    /// Bytes so far, and how long they took.
    pub(crate) fn finish(&self) -> (u64, Duration) {
        let done = (self.bar.position(), self.began.elapsed()); // the bar forgets it when it is taken away
        self.bar.finish_and_clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_whether_the_total_is_known_or_not() {
        for total in [0, 10] {
            let progress = Progress::new(total);
            progress.advance(3);
            progress.advance(4);
            assert_eq!(progress.finish().0, 7);
        }
    }
}
