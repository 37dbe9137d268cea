//! When and how far to read ahead: a pure state machine.
//!
//! ```text
//!             offset elsewhere                 read at the expected place
//!   (none) ---------------------> Random ------------------------------> Sequential --+
//!                                   ^                                        |        | each time half of the
//!                                   +--- offset elsewhere: another stream ---+        | window is used up, the
//!                                                                                     | next fetch is twice as big
//!                                                                                     +--> up to `window_max`
//! ```
//! The kernel sends several reads of one stream at once, so a read near the expected place counts.
//! A few streams are told apart, for files read in several places.

use std::ops::Range;

/// Streams told apart in one file.
const STREAMS: usize = 4;
/// First window: the second read in a row fetches this much ahead.
const WINDOW_MIN: u64 = 128 << 10;
/// What is fetched at once: the largest frame.
pub(super) const UNIT_MAX: u64 = gfs_proto::limits::FRAME_PAYLOAD_MAX as u64;
/// Reads of a known stream may be out of order by this much.
const DISORDER_MAX: u64 = 1 << 20;

/// Streams of one file.
#[derive(Debug)]
pub(super) struct Readahead {
    window_max: u64,
    streams: Vec<Stream>,
    clock: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Everything before was asked for.
    ahead: u64,
    window: u64,
    used: u64,
}

impl Readahead {
    pub(super) fn new(window_max: u32) -> Self {
        Self { window_max: u64::from(window_max), streams: Vec::new(), clock: 0 }
    }

    /// A read of `length` bytes at `offset` of a file of `size` bytes: what to fetch beyond it. It ends
    /// at a multiple of [`UNIT_MAX`] once the window is that large, or at the file's end.
    pub(super) fn on_read(&mut self, offset: u64, length: u64, size: u64) -> Option<Range<u64>> {
        self.clock += 1;
        let end = (offset + length).min(size);
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.matches(offset, length)) else {
            self.begin(end);
            return None;
        };
        stream.used = self.clock;
        stream.next = stream.next.max(end);
        stream.advance(length, size, self.window_max)
    }

    fn begin(&mut self, end: u64) {
        let stream = Stream { next: end, ahead: end, window: 0, used: self.clock };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
    }

    /// Forgets what was asked for: it was dropped from the cache.
    pub(super) fn reset(&mut self) {
        self.streams.clear();
    }
}

impl Stream {
    fn matches(&self, offset: u64, length: u64) -> bool {
        let slack = if self.window == 0 { 0 } else { DISORDER_MAX.max(2 * length).min(self.window.max(2 * length)) };
        offset.abs_diff(self.next) <= slack
    }

    fn advance(&mut self, length: u64, size: u64, window_max: u64) -> Option<Range<u64>> {
        if window_max == 0 {
            return None;
        }
        self.ahead = self.ahead.max(self.next);
        if self.window != 0 && self.ahead > self.next + self.window / 2 {
            return None;
        }
        self.window = if self.window == 0 { WINDOW_MIN.max(2 * length) } else { self.window * 2 }.min(window_max);
        let unit = self.window.next_power_of_two().min(UNIT_MAX);
        let target = (self.next + self.window).next_multiple_of(unit).min(size);
        let from = self.ahead;
        self.ahead = self.ahead.max(target);
        (from < target).then_some(from..target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut machine = Readahead::new(8 << 20);
        let mut at = 12345u64;
        for _ in 0..1000 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (at % (1 << 30)) & !4095;
            assert_eq!(machine.on_read(offset, 4096, 1 << 30), None);
        }
    }

    #[test]
    fn a_sequential_stream_is_asked_for_once_and_without_gaps() {
        for (length, max) in [(4096, 8 * MIB), (128 << 10, 8 * MIB), (MIB, 8 * MIB), (100_000, MIB), (4096, 4096)] {
            let size = 64 * MIB + 777;
            let mut machine = Readahead::new(max as u32);
            let (mut at, mut covered) = (0, None::<u64>);
            while at < size {
                if let Some(range) = machine.on_read(at, length, size) {
                    assert!(range.start >= at, "never behind the reader");
                    if let Some(covered) = covered {
                        assert_eq!(range.start.max(covered), range.start, "nothing twice");
                        assert!(range.start <= covered.max((at + length).min(size)), "no gap");
                    }
                    assert!(range.end <= size);
                    assert!(range.end - at <= max + length + MIB, "window of {max}: {range:?} at {at}");
                    covered = Some(range.end);
                }
                at += length;
            }
            assert_eq!(covered, Some(size));
        }
    }

    #[test]
    fn the_window_doubles_up_to_its_bound() {
        let mut machine = Readahead::new(4 << 20);
        let size = 1 << 30;
        let fetched: Vec<u64> = (0..512u64)
            .filter_map(|i| machine.on_read(i * (128 << 10), 128 << 10, size))
            .map(|range| range.end - range.start)
            .collect();
        assert!(fetched[0] <= 512 << 10, "{fetched:?}");
        assert!(fetched.iter().skip(6).all(|length| (MIB..=4 * MIB).contains(length)), "{fetched:?}");
    }

    #[test]
    fn reads_out_of_order_are_one_stream() {
        let mut machine = Readahead::new(8 << 20);
        let size = 1 << 30;
        let mut asked = 0;
        for pair in 0..64u64 {
            for i in [pair * 2 + 1, pair * 2] {
                asked += machine.on_read(i * (128 << 10), 128 << 10, size).map_or(0, |range| range.end - range.start);
            }
        }
        assert!((16 * MIB..=26 * MIB).contains(&asked), "{asked}");
    }

    #[test]
    fn two_streams_do_not_disturb_each_other() {
        let mut machine = Readahead::new(8 << 20);
        let (size, length) = (1 << 30, 64 << 10);
        let mut fetches = 0;
        for i in 0..100u64 {
            fetches += usize::from(machine.on_read(i * length, length, size).is_some());
            fetches += usize::from(machine.on_read(size / 2 + i * length, length, size).is_some());
        }
        assert!((4..40).contains(&fetches), "{fetches}");
    }
}
