//! Whether the chunkservers ran out of room lately: then writes are not buffered, so that a program is told by the `write`
//! that does not fit, not by a `close` at which few programs look.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// A cluster that was full is taken to be full for so long. Chunkservers tell the master of their room once a second.
const REMEMBERED: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Default)]
pub(super) struct Room(Mutex<Option<Instant>>);

impl Room {
    /// A write was refused for want of room.
    pub(super) fn ran_short(&self, now: Instant) {
        *self.0.lock() = Some(now);
    }

    /// True if it is likely that a write is refused.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        let mut since = self.0.lock();
        since.take_if(|since| now.saturating_duration_since(*since) > REMEMBERED);
        since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_until_nothing_was_refused_for_a_while() {
        let (room, now) = (Room::default(), Instant::now());
        assert!(!room.is_short(now));
        room.ran_short(now);
        room.ran_short(now + REMEMBERED);
        assert!(room.is_short(now + REMEMBERED * 2));
        assert!(!room.is_short(now + REMEMBERED * 3));
    }
}
