//! Which mutations of a session have not been answered: the numbers that make a retry recognisable.

use gfs_proto::ids::Sequence;
use std::collections::BTreeSet;

/// Gives out sequence numbers, and knows up to which all have been answered.
#[derive(Debug)]
pub(super) struct Window {
    next: Sequence,
    outstanding: BTreeSet<Sequence>,
}

impl Default for Window {
    fn default() -> Self {
        Self { next: Sequence::new(1), outstanding: BTreeSet::new() }
    }
}

impl Window {
    /// The number of a new mutation.
    pub(super) fn begin(&mut self) -> Sequence {
        let sequence = self.next;
        self.next = sequence.next();
        self.outstanding.insert(sequence);
        sequence
    }

    /// Nobody will send this one again. Numbers of an earlier session are not ours to finish.
    pub(super) fn finish(&mut self, sequence: Sequence) {
        self.outstanding.remove(&sequence);
    }

    /// True from its beginning to its end.
    pub(super) fn is_outstanding(&self, sequence: Sequence) -> bool {
        self.outstanding.contains(&sequence)
    }

    /// Everything up to here has been answered; the master may forget those outcomes.
    pub(super) fn acknowledged(&self) -> Sequence {
        let lowest = self.outstanding.first().copied().unwrap_or(self.next);
        Sequence::new(lowest.get() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledges_only_what_lies_below_every_unanswered_one() {
        let mut window = Window::default();
        assert_eq!(window.acknowledged().get(), 0);
        let numbers: Vec<_> = (0..4).map(|_| window.begin()).collect();
        assert_eq!(numbers.iter().map(|n| n.get()).collect::<Vec<_>>(), [1, 2, 3, 4]);
        for (finished, acknowledged) in [(2, 0), (1, 2), (4, 2), (3, 4)] {
            window.finish(Sequence::new(finished));
            assert_eq!(window.acknowledged().get(), acknowledged, "after {finished}");
        }
    }
}
