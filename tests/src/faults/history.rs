//! What the workloads did and what came of it: the only thing that the checkers judge by.
//!
//! Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share. Invariant: an operation is
//! told before it begins and after it has returned, so what really happened lies between the two.

use super::tag::Found;
use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let part = |number: i64| u64::try_from(number).unwrap_or_default(); // the clock counts from the boot
        Self(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
    }

    /// Time since an earlier one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One operation of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// pwrite(2) of whole blocks, all tagged with the sequence.
    Write {
        /// File of the blocks workload.
        file: u32,
        /// First block.
        first: u32,
        /// Blocks.
        count: u32,
        /// Greater than every one before in this block.
        sequence: u64,
    },
    /// ftruncate(2) to so many blocks.
    Cut {
        /// File of the blocks workload.
        file: u32,
        /// Blocks that stay.
        blocks: u32,
        /// Greater than every one before in this file.
        sequence: u64,
    },
    /// The whole file written under another name, closed, and renamed over it.
    Replace {
        /// File of the blocks workload.
        file: u32,
        /// Blocks.
        count: u32,
        /// Greater than every one before in this file.
        sequence: u64,
    },
    /// fsync(2).
    Sync {
        /// File of the blocks workload.
        file: u32,
    },
    /// close(2): the errors of earlier writes.
    Close {
        /// File of the blocks workload.
        file: u32,
    },
    /// pread(2).
    Read {
        /// File of the blocks workload.
        file: u32,
        /// First block.
        first: u32,
        /// Blocks.
        count: u32,
    },
    /// write(2) with `O_APPEND` of a record, of which file and number say length and bytes.
    Append {
        /// File of the appends workload.
        file: u32,
        /// Counted from 0.
        record: u32,
    },
    /// fsync(2).
    SyncRecords {
        /// File of the appends workload.
        file: u32,
    },
    /// unlink(2).
    RemoveRecords {
        /// File of the appends workload.
        file: u32,
    },
    /// The whole file is read.
    ReadRecords {
        /// File of the appends workload.
        file: u32,
    },
    /// One of the names workload.
    Name(NameOp),
}

/// A name of the names workload: names of different groups never meet in one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// Which of the groups.
    pub group: u32,
    /// Which of its names.
    pub number: u32,
}

/// An operation on names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NameOp {
    /// open(2) with `O_CREAT | O_EXCL`.
    Create(Name),
    /// mkdir(2).
    Mkdir(Name),
    /// unlink(2).
    Unlink(Name),
    /// rmdir(2).
    Rmdir(Name),
    /// rename(2), over what is there.
    Rename(Name, Name),
    /// link(2).
    Link(Name, Name),
    /// lstat(2).
    Stat(Name),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It returned success.
    Done,
    /// It returned success and said what is in these blocks.
    Blocks(Vec<Found>),
    /// It returned success and said how far the records are as they were written, and how those after are.
    Records(Records),
    /// It returned success; the inode number that belongs to the name, and whether that is a directory.
    Node(u64, bool),
    /// It returned this errno.
    Failed(i32),
}

/// A file of records as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Bytes.
    pub size: u64,
    /// So many from the beginning are whole.
    pub whole: u32,
    /// What is behind them: record, and what is wrong with it.
    pub broken: Vec<(u32, String)>,
}

/// A line of a workload's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An operation begins.
    Invoked {
        /// Of this operation, among those of its process.
        id: u64,
        /// When.
        at: Moment,
        /// What.
        op: Op,
    },
    /// It has returned.
    Returned {
        /// As in [`Event::Invoked`].
        id: u64,
        /// When.
        at: Moment,
        /// What came of it.
        outcome: Outcome,
    },
}

impl Event {
    /// When it was.
    pub fn at(&self) -> Moment {
        match self {
            Self::Invoked { at, .. } | Self::Returned { at, .. } => *at,
        }
    }
}

/// An operation with its outcome, if it has returned: otherwise it may take effect at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Process that did it.
    pub process: usize,
    /// What.
    pub op: Op,
    /// When it began.
    pub invoked: Moment,
    /// What it may have seen is what was true at this time or later: before its beginning for one on another mount.
    pub seen_from: Moment,
    /// When it returned, with what.
    pub returned: Option<(Moment, Outcome)>,
}

/// An interval in which everything that was not flushed could be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The first fault.
    pub from: Moment,
    /// Everybody is back.
    pub to: Moment,
    /// The mount is lost: no later fsync covers what was written through it.
    pub mount: bool,
}

/// Everything that happened in one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order of their beginning.
    pub operations: Vec<Operation>,
    /// In the order of time; none overlaps another.
    pub losses: Vec<Loss>,
}

impl History {
    /// Adds what a process said, which may have seen what was true so long before.
    pub fn add(&mut self, process: usize, events: &[Event], stale: Duration) -> Result<()> {
        let stale = u64::try_from(stale.as_nanos()).unwrap_or(u64::MAX);
        let mut open = BTreeMap::new();
        for event in events {
            match event {
                Event::Invoked { id, at, op } => {
                    open.insert(*id, self.operations.len());
                    let seen_from = Moment(at.0.saturating_sub(stale));
                    let op = op.clone();
                    self.operations.push(Operation { process, op, invoked: *at, seen_from, returned: None });
                }
                Event::Returned { id, at, outcome } => {
                    let index = open.remove(id).with_context(|| format!("operation {id} returned and never began"))?;
                    self.operations[index].returned = Some((*at, outcome.clone()));
                }
            }
        }
        self.operations.sort_by_key(|it| it.invoked);
        Ok(())
    }
}

/// A beginning or an end, in the order of time; the numbers count operations and losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An operation begins.
    Begin(usize),
    /// An operation has returned.
    End(usize),
    /// From here on what was not flushed may be gone.
    LossBegin(usize),
    /// Until here.
    LossEnd(usize),
}

impl History {
    /// All beginnings (of what was seen) and ends in the order of time; of what is at the same time, beginnings come first, so that
    /// the two overlap.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.operations.len() * 2);
        for (index, operation) in self.operations.iter().enumerate() {
            steps.push((operation.seen_from, 0, Step::Begin(index)));
            if let Some((at, _)) = operation.returned {
                steps.push((at, 1, Step::End(index)));
            }
        }
        for (index, loss) in self.losses.iter().enumerate() {
            steps.push((loss.from, 0, Step::LossBegin(index)));
            steps.push((loss.to, 1, Step::LossEnd(index)));
        }
        steps.sort_by_key(|(at, order, _)| (*at, *order));
        steps.into_iter().map(|(_, _, step)| step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_pair_up_and_what_did_not_return_stays_open() {
        let invoked = |id, at| Event::Invoked { id, at: Moment(at), op: Op::Sync { file: 1 } };
        let returned = |id, at| Event::Returned { id, at: Moment(at), outcome: Outcome::Done };
        let mut history = History::default();
        history.add(0, &[invoked(1, 10), invoked(2, 11), returned(1, 20)], Duration::ZERO).expect("in order");
        history.add(1, &[invoked(1, 5), returned(1, 10)], Duration::ZERO).expect("in order");
        let ends: Vec<_> = history.operations.iter().map(|it| it.returned.as_ref().map(|end| end.0.0)).collect();
        assert_eq!(ends, [Some(10), Some(20), None]);
        let steps = [Step::Begin(0), Step::Begin(1), Step::End(0), Step::Begin(2), Step::End(1)];
        assert_eq!(history.steps(), steps);
        assert!(history.add(2, &[returned(7, 1)], Duration::ZERO).is_err());
    }
}
