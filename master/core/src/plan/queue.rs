//! The order in which chunks are repaired (GFS paper, 4.3): first those without any copy that counts,
//! then the more copies are missing the sooner, live files before removed ones, then those that a client waits for.
//!
//! Bounded: what does not fit is the least urgent, and it is remembered that there is more to be found.
//! Derived from state and reports, never logged.

use super::repair::{Need, Reason};
use gfs_proto::ids::ChunkHandle;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The longest pause after steps that failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The first one; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);

/// Greater is sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Urgency {
    /// Why, and how many copies are missing.
    pub need: Need,
    /// The file has a name.
    pub live_file: bool,
    /// A client was failed by a copy that is missing now.
    pub blocking: bool,
}

/// A chunk that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// See [`Urgency`].
    pub urgency: Urgency,
    /// Waits since then.
    pub since: Duration,
    /// Steps that failed, one after the other.
    pub failures: u32,
    /// Of these, those that failed because the chunk was written meanwhile.
    pub disturbances: u32,
    /// Not before.
    pub due: Duration,
}

/// The queue.
#[derive(Debug)]
pub struct RepairQueue {
    order: BTreeSet<(Reverse<Urgency>, ChunkHandle)>,
    chunks: BTreeMap<ChunkHandle, Waiting>,
    capacity: usize,
    overflowed: bool,
}

impl RepairQueue {
    /// For so many chunks, about 150 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self { order: BTreeSet::new(), chunks: BTreeMap::new(), capacity, overflowed: false }
    }

    /// A chunk waits, or waits on with another urgency.
    pub fn insert(&mut self, handle: ChunkHandle, urgency: Urgency, now: Duration) {
        let known = self.take(handle);
        let fresh = Waiting { urgency, since: now, failures: 0, disturbances: 0, due: now };
        let blocking = urgency.blocking || known.is_some_and(|known| known.urgency.blocking);
        let urgency = Urgency { blocking, ..urgency };
        self.put(handle, Waiting { urgency, ..known.unwrap_or(fresh) });
        if self.chunks.len() > self.capacity
            && let Some((_, least)) = self.order.last().copied()
        {
            self.take(least);
            self.overflowed = true;
        }
    }

    fn put(&mut self, handle: ChunkHandle, waiting: Waiting) {
        self.order.insert((Reverse(waiting.urgency), handle));
        self.chunks.insert(handle, waiting);
    }

    fn take(&mut self, handle: ChunkHandle) -> Option<Waiting> {
        let waiting = self.chunks.remove(&handle)?;
        self.order.remove(&(Reverse(waiting.urgency), handle));
        Some(waiting)
    }

    /// The chunk needs nothing any more.
    pub fn remove(&mut self, handle: ChunkHandle) {
        self.take(handle);
    }

    /// A step failed: again after a pause that doubles each time. `disturbed`: nobody is to blame, the chunk was
    /// written meanwhile.
    pub fn failed(&mut self, handle: ChunkHandle, now: Duration, disturbed: bool) {
        if let Some(waiting) = self.chunks.get_mut(&handle) {
            waiting.due = now + (PAUSE * (1 << waiting.failures.min(10))).min(PAUSE_MAX);
            waiting.failures += 1;
            waiting.disturbances += u32::from(disturbed);
        }
    }

    /// Not before then, though nothing failed.
    pub fn put_off(&mut self, handle: ChunkHandle, due: Duration) {
        if let Some(waiting) = self.chunks.get_mut(&handle) {
            waiting.due = due;
        }
    }

    /// Now, unless steps failed.
    pub fn not_put_off(&mut self, handle: ChunkHandle, now: Duration) {
        if let Some(waiting) = self.chunks.get_mut(&handle).filter(|waiting| waiting.failures == 0) {
            waiting.due = waiting.due.min(now);
        }
    }

    /// Servers have changed: what was put off may be possible now.
    pub fn hurry(&mut self) {
        self.chunks.values_mut().for_each(|waiting| waiting.due = Duration::ZERO);
    }

    /// As it waits.
    pub fn get(&self, handle: ChunkHandle) -> Option<Waiting> {
        self.chunks.get(&handle).copied()
    }

    /// Chunks whose turn it is, the most urgent first.
    pub fn due(&self, now: Duration) -> impl Iterator<Item = ChunkHandle> {
        self.order.iter().map(|(_, handle)| *handle).filter(move |handle| self.chunks[handle].due <= now)
    }

    /// Chunks that wait.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// True, once, if chunks were left out that fit now.
    pub fn has_room_again(&mut self) -> bool {
        let again = self.overflowed && self.chunks.len() <= self.capacity / 2;
        self.overflowed &= !again;
        again
    }

    /// Chunks that wait, by reason.
    pub fn count(&self, reason: Reason) -> usize {
        self.chunks.values().filter(|waiting| waiting.urgency.need.reason == reason).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn urgency(reason: Reason, missing: u8, live_file: bool, blocking: bool) -> Urgency {
        Urgency { need: Need { reason, missing }, live_file, blocking }
    }

    fn due(queue: &RepairQueue, now: Duration) -> Vec<u64> {
        queue.due(now).map(ChunkHandle::get).collect()
    }

    #[test]
    fn the_papers_order() {
        let mut queue = RepairQueue::new(100);
        for (handle, urgency) in [
            (1, urgency(Reason::Rebalance, 0, true, true)),
            (2, urgency(Reason::Drain, 0, true, true)),
            (3, urgency(Reason::Repair, 1, false, true)),
            (4, urgency(Reason::Repair, 1, true, false)),
            (5, urgency(Reason::Repair, 1, true, true)),
            (6, urgency(Reason::Repair, 2, false, false)),
            (7, urgency(Reason::Surplus, 0, true, false)),
            (8, urgency(Reason::Unreadable, 1, false, false)),
        ] {
            queue.insert(ChunkHandle::new(handle), urgency, NOW);
        }
        assert_eq!(due(&queue, NOW), [8, 6, 5, 4, 3, 2, 7, 1]);
        queue.insert(ChunkHandle::new(4), urgency(Reason::Repair, 2, true, false), NOW);
        assert_eq!(due(&queue, NOW)[..3], [8, 4, 6]);
        assert_eq!((queue.len(), queue.count(Reason::Repair)), (8, 4));
    }

    #[test]
    fn the_least_urgent_is_left_out_and_that_is_remembered() {
        let mut queue = RepairQueue::new(4);
        for handle in 1..=6 {
            queue.insert(ChunkHandle::new(handle), urgency(Reason::Repair, handle as u8, true, false), NOW);
        }
        assert_eq!(due(&queue, NOW), [6, 5, 4, 3]);
        assert!(!queue.has_room_again());
        [6, 5].into_iter().for_each(|handle| queue.remove(ChunkHandle::new(handle)));
        assert!(queue.has_room_again() && !queue.has_room_again());
    }

    #[test]
    fn what_failed_waits_longer_and_longer_and_keeps_its_age() {
        let mut queue = RepairQueue::new(4);
        let (chunk, wanted) = (ChunkHandle::new(1), urgency(Reason::Repair, 1, true, false));
        queue.insert(chunk, wanted, NOW);
        let mut now = NOW;
        for pause in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            queue.failed(chunk, now, pause == 500);
            let later = now + Duration::from_secs(1);
            queue.insert(chunk, Urgency { blocking: true, ..wanted }, later);
            let pause = Duration::from_millis(pause);
            assert!(due(&queue, now + pause - Duration::from_millis(1)).is_empty(), "{pause:?}");
            now += pause;
            assert_eq!(due(&queue, now), [1], "{pause:?}");
        }
        queue.hurry();
        assert_eq!(due(&queue, NOW), [1]);
        let waiting = queue.get(chunk).expect("waits");
        assert_eq!((waiting.since, waiting.failures, waiting.urgency.blocking), (NOW, 9, true));
        assert_eq!(waiting.disturbances, 1);
    }
}
