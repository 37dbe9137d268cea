//! What must hold whatever is done to the cluster, one file for each checker.
//!
//! A checker looks at a history or at the cluster and counts: so much was looked at, this much was wrong. It never
//! repairs and never guesses: what it cannot look at it does not count.

pub mod blocks;
pub mod bounds;
pub mod fsck;
pub mod linear;
pub mod mended;
pub mod names;
pub mod records;
pub mod replicas;
pub mod stuck;
pub mod verify;

use serde::Serialize;

/// What must hold; the columns of the table in `docs/reliability.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Invariant {
    /// What fsync confirmed, or an operation that is durable when it returns, is there.
    NothingAcknowledgedLost,
    /// No bytes that nobody wrote at that place.
    NoWrongBytes,
    /// No value older than one that was acknowledged or read, but where unflushed bytes may be lost.
    NeverBackwards,
    /// Operations on names took effect once, in one order that agrees with the clock.
    Linearizable,
    /// Replicas of one chunk and version are equal, in their files and for `gfsctl verify`.
    ReplicasEqual,
    /// `gfsctl fsck` finds nothing.
    FsckClean,
    /// All chunks have all copies again.
    FullReplication,
    /// No operation took longer than its bound.
    Bounded,
    /// No process is left that cannot be ended.
    NoneStuck,
    /// A fault was answered as it has to be: ENOSPC, a refusal to start, a directory out of service.
    Answered,
}

impl Invariant {
    /// All, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::NothingAcknowledgedLost,
        Self::NoWrongBytes,
        Self::NeverBackwards,
        Self::Linearizable,
        Self::ReplicasEqual,
        Self::FsckClean,
        Self::FullReplication,
        Self::Bounded,
        Self::NoneStuck,
        Self::Answered,
    ];

    /// Head of its column.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NothingAcknowledgedLost => "nothing acknowledged lost",
            Self::NoWrongBytes => "no wrong bytes",
            Self::NeverBackwards => "never backwards",
            Self::Linearizable => "linearizable",
            Self::ReplicasEqual => "replicas equal",
            Self::FsckClean => "fsck clean",
            Self::FullReplication => "full replication",
            Self::Bounded => "bounded",
            Self::NoneStuck => "none stuck",
            Self::Answered => "answered as promised",
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What it breaks.
    pub invariant: Invariant,
    /// What was found where.
    pub what: String,
}

/// What checkers found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// How much was looked at, for each invariant.
    pub looked: Vec<(Invariant, u64)>,
    /// What was wrong.
    pub violations: Vec<Violation>,
}

impl Findings {
    /// So much more was looked at.
    pub fn looked(&mut self, invariant: Invariant, count: u64) {
        self.looked.push((invariant, count));
    }

    /// This was wrong.
    pub fn wrong(&mut self, invariant: Invariant, what: String) {
        self.violations.push(Violation { invariant, what });
    }

    /// Together with others.
    pub fn join(&mut self, others: Self) {
        self.looked.extend(others.looked);
        self.violations.extend(others.violations);
    }
}
