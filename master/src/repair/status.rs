//! What repair is doing, for people.

use std::collections::VecDeque;
use std::time::Duration;

/// The rate is that of so many seconds.
const WINDOW_SECS: u64 = 10;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct RepairStatus {
    /// Chunks that wait for a copy, or for one to be removed.
    pub queued: u64,
    /// Copies being made.
    pub copying: u32,
    /// Copies that were made since the master started.
    pub copied: u64,
    /// Bytes of them.
    pub bytes_copied: u64,
    /// Copies removed since the master started, surplus ones and stray ones.
    pub removed: u64,
    /// Times that a damaged copy was mended since the master started.
    pub mended: u64,
    /// All chunks were looked at since the servers last changed.
    pub looked_everywhere: bool,
    moved: VecDeque<(u64, u64)>,
}

impl RepairStatus {
    pub(super) fn note_copy(&mut self, bytes: u64, now: Duration) {
        self.copied += 1;
        self.bytes_copied += bytes;
        let second = now.as_secs();
        match self.moved.back_mut() {
            Some((at, moved)) if *at == second => *moved += bytes,
            _ => self.moved.push_back((second, bytes)),
        }
        self.moved.retain(|(at, _)| at + WINDOW_SECS >= second);
    }

    /// Bytes per second, over the last seconds. `now` is the span since the master started.
    pub fn rate(&self, now: Duration) -> u64 {
        let recent = self.moved.iter().filter(|(at, _)| at + WINDOW_SECS >= now.as_secs());
        recent.map(|(_, bytes)| bytes).sum::<u64>() / WINDOW_SECS.min(now.as_secs().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut status = RepairStatus::default();
        let at = Duration::from_secs;
        for second in 100..120 {
            status.note_copy(600, at(second));
            status.note_copy(400, at(second));
        }
        assert_eq!((status.copied, status.bytes_copied), (40, 20_000));
        assert!((900..=1100).contains(&status.rate(at(120))), "{}", status.rate(at(120)));
        assert_eq!(status.rate(at(140)), 0);
        assert!(status.moved.len() <= 12, "bounded");
    }
}
