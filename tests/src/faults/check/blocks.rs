//! Judges reads of tagged blocks: which of the values that were ever written to a block may be read at a moment.
//!
//! Each block has one writer, so its values are ordered. A read may show a value if its write had begun before the
//! read ended, and if no later value was *due*: acknowledged or read before the read began (unless unflushed bytes
//! could be lost since), or flushed by an fsync that had returned. Everything unknown (failed, without an answer)
//! may be there or not, and is never due.

use super::{Findings, Invariant};
use crate::faults::history::{History, Op, Outcome, Step};
use crate::faults::tag::Found;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// `errno` of a file that is not there. The workload made all files before the first fault.
const ENOENT: i32 = 2;

/// Of a block: file and number.
type Place = (u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Zero,
    Tag(u64),
}

#[derive(Clone, Copy, Debug)]
struct Version {
    value: Value,
    /// Acknowledged, and an fsync that succeeds covers it.
    acknowledged: bool,
    /// The file was closed since: an fsync of one that is opened later knows nothing of a loss in between.
    closed: bool,
    durable: bool,
    /// Not flushed when it could be lost: the page cache of the machine that wrote it may have it for a while.
    lost: bool,
    /// Operation that wrote it.
    by: usize,
}

/// All values of a block, the oldest first; the first is the hole that every file begins as.
#[derive(Debug)]
struct Block {
    versions: Vec<Version>,
    /// The oldest that a read may show because later ones were acknowledged or read.
    seen: usize,
    /// The oldest that may ever be shown because it was flushed.
    flushed: usize,
}

impl Default for Block {
    fn default() -> Self {
        let hole = Version {
            value: Value::Zero,
            acknowledged: true,
            closed: false,
            durable: true,
            lost: false,
            by: usize::MAX,
        };
        Self { versions: vec![hole], seen: 0, flushed: 0 }
    }
}

/// What was due when an operation began.
enum Due {
    /// For each block of a read: the oldest that may be shown, and the oldest that was flushed.
    Read(Vec<(usize, usize)>),
    /// For an fsync: what was acknowledged and not flushed.
    Sync(Vec<(Place, usize)>),
}

#[derive(Default)]
struct Checker {
    blocks: BTreeMap<Place, Block>,
    /// What began and has not ended.
    due: BTreeMap<usize, Due>,
    losing: bool,
    losses: usize,
    /// Losses that had begun when an operation began.
    began_after: BTreeMap<usize, usize>,
    read: u64,
    read_flushed: u64,
    findings: Findings,
}

/// Looks at every read of the history.
pub fn check(history: &History) -> Findings {
    let mut checker = Checker::default();
    for step in history.steps() {
        match step {
            Step::Begin(index) => checker.begin(history, index),
            Step::End(index) => checker.end(history, index),
            Step::LossBegin(index) => checker.lose(true, history.losses[index].mount),
            Step::LossEnd(index) => checker.lose(false, history.losses[index].mount),
        }
    }
    let Checker { read, read_flushed, mut findings, .. } = checker;
    findings.looked(Invariant::NoWrongBytes, read);
    findings.looked(Invariant::NeverBackwards, read);
    findings.looked(Invariant::NothingAcknowledgedLost, read_flushed);
    findings
}

impl Checker {
    fn begin(&mut self, history: &History, index: usize) {
        self.began_after.insert(index, self.losses);
        match history.operations[index].op {
            Op::Write { file, first, count, sequence } => {
                (first..first + count).for_each(|number| self.issue((file, number), Value::Tag(sequence), index));
            }
            Op::Replace { file, count, sequence } => {
                (0..count).for_each(|number| self.issue((file, number), Value::Tag(sequence), index));
            }
            Op::Cut { file, blocks, .. } => {
                let places: Vec<Place> = self.blocks.range((file, blocks)..=(file, u32::MAX)).map(|it| *it.0).collect();
                places.into_iter().for_each(|place| self.issue(place, Value::Zero, index));
            }
            Op::Sync { file } => {
                let due = self.unflushed(file);
                self.due.insert(index, Due::Sync(due));
            }
            Op::Read { file, first, count } => {
                let due = (first..first + count).map(|number| {
                    let block = self.blocks.entry((file, number)).or_default();
                    (block.seen.max(block.flushed), block.flushed)
                });
                let due = due.collect();
                self.due.insert(index, Due::Read(due));
            }
            _ => {}
        }
    }

    fn issue(&mut self, place: Place, value: Value, by: usize) {
        let version = Version { value, acknowledged: false, closed: false, durable: false, lost: false, by };
        self.blocks.entry(place).or_default().versions.push(version);
    }

    fn unflushed(&self, file: u32) -> Vec<(Place, usize)> {
        let blocks = self.blocks.range((file, 0)..=(file, u32::MAX));
        let last = |block: &Block| block.versions.iter().rposition(|version| version.acknowledged);
        blocks
            .filter_map(|(place, block)| {
                last(block).filter(|last| !block.versions[*last].durable).map(|last| (*place, last))
            })
            .collect()
    }

    fn end(&mut self, history: &History, index: usize) {
        let operation = &history.operations[index];
        let Some((_, outcome)) = &operation.returned else { return };
        let quiet = self.is_quiet(index);
        match (&operation.op, outcome) {
            (Op::Write { file, first, count, .. }, Outcome::Done) => {
                self.acknowledge((*file, *first)..=(*file, first + count - 1), index, quiet, false);
            }
            (Op::Cut { file, blocks, .. }, Outcome::Done) => {
                self.acknowledge((*file, *blocks)..=(*file, u32::MAX), index, quiet, true);
            }
            (Op::Replace { file, count, .. }, Outcome::Done) => {
                self.acknowledge((*file, 0)..=(*file, count - 1), index, quiet, true);
            }
            (Op::Sync { .. }, Outcome::Done) => self.flushed(index),
            (Op::Read { file, first, .. }, Outcome::Blocks(found)) => {
                self.judge(history, index, (*file, *first), found);
            }
            (Op::Read { file, .. }, Outcome::Failed(ENOENT)) => {
                self.findings.wrong(Invariant::NothingAcknowledgedLost, format!("file {file} is gone"));
            }
            (Op::Write { file, .. } | Op::Sync { file } | Op::Close { file } | Op::Cut { file, .. }, _) => {
                match outcome {
                    Outcome::Failed(_) => self.forget(*file),
                    _ if matches!(operation.op, Op::Close { .. }) => self.close(*file),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Nothing could be lost while it was under way.
    fn is_quiet(&self, index: usize) -> bool {
        !self.losing && self.began_after.get(&index) == Some(&self.losses)
    }

    fn acknowledge(&mut self, places: RangeInclusive<Place>, by: usize, quiet: bool, durable: bool) {
        for block in self.blocks.range_mut(places).map(|it| it.1) {
            let Some(at) = block.versions.iter().rposition(|version| version.by == by) else { continue };
            block.versions[at].acknowledged = true;
            if quiet {
                block.seen = block.seen.max(at);
            }
            if durable {
                block.flush(at);
            }
        }
    }

    fn flushed(&mut self, index: usize) {
        let Some(Due::Sync(due)) = self.due.remove(&index) else { return };
        for (place, at) in due {
            if let Some(block) = self.blocks.get_mut(&place).filter(|block| block.versions[at].acknowledged) {
                block.flush(at);
            }
        }
    }

    /// An error was reported: what was acknowledged before it, and not flushed, may be gone for good.
    fn forget(&mut self, file: u32) {
        self.blocks.range_mut((file, 0)..=(file, u32::MAX)).for_each(|(_, block)| block.forget());
    }

    fn close(&mut self, file: u32) {
        for block in self.blocks.range_mut((file, 0)..=(file, u32::MAX)).map(|it| it.1) {
            let flushed = block.flushed;
            block.versions[flushed..].iter_mut().for_each(|version| version.closed = true);
        }
    }

    /// Unflushed bytes may be lost. With the mount they are lost for every later fsync, too; otherwise an fsync that
    /// succeeds still says that everything is there.
    fn lose(&mut self, begins: bool, mount: bool) {
        self.losing = begins;
        self.losses += usize::from(begins);
        for block in self.blocks.values_mut() {
            block.seen = block.flushed;
            let flushed = block.flushed;
            block.versions[flushed..].iter_mut().for_each(|version| version.lost = !version.durable);
            block.forget_if(|version| mount || version.closed);
        }
    }

    fn judge(&mut self, history: &History, index: usize, from: Place, found: &[Found]) {
        let quiet = self.is_quiet(index);
        let Some(Due::Read(due)) = self.due.remove(&index) else { return };
        for (offset, (found, (oldest, flushed))) in (0..).zip(found.iter().zip(due)) {
            let place = (from.0, from.1 + offset);
            let block = self.blocks.entry(place).or_default();
            // what could be lost while it was read is not due to it
            let oldest = if quiet { oldest } else { flushed };
            self.read += 1;
            self.read_flushed += u64::from(flushed > 0);
            match block.verdict(found, oldest, flushed) {
                Ok(at) if quiet && !block.is_cached(history, at, index) => block.seen = block.seen.max(at),
                Ok(_) => {}
                Err((invariant, what)) => {
                    let operation = &history.operations[index];
                    let text = format!(
                        "file {} block {}: {what}; read by process {} from {} to {}",
                        place.0,
                        place.1,
                        operation.process,
                        operation.invoked.0,
                        operation.returned.as_ref().map_or(0, |it| it.0.0),
                    );
                    self.findings.wrong(invariant, text);
                }
            }
        }
    }
}

impl Block {
    fn flush(&mut self, at: usize) {
        self.versions[at].durable = true;
        self.flushed = self.flushed.max(at);
    }

    /// The read may show what the writer's own machine remembers, and no server has any more.
    fn is_cached(&self, history: &History, at: usize, read: usize) -> bool {
        let Version { lost, by, .. } = self.versions[at];
        lost && history.operations[by].process == history.operations[read].process
    }

    fn forget(&mut self) {
        self.forget_if(|_| true);
    }

    fn forget_if(&mut self, gone: impl Fn(&Version) -> bool) {
        let open = self.versions[self.flushed..].iter_mut().filter(|version| !version.durable && gone(version));
        open.for_each(|version| version.acknowledged = false);
        self.seen = self.flushed;
    }

    /// Which version was read, or what is wrong with it.
    fn verdict(&self, found: &Found, oldest: usize, flushed: usize) -> Result<usize, (Invariant, String)> {
        let value = match found {
            Found::Zero => Value::Zero,
            Found::Tag(sequence) => Value::Tag(*sequence),
            Found::Wrong(what) => return Err((Invariant::NoWrongBytes, what.clone())),
        };
        if let Some(at) = (oldest..self.versions.len()).find(|at| self.versions[*at].value == value) {
            return Ok(at);
        }
        let due = self.versions[oldest].value;
        match self.versions.iter().rposition(|version| version.value == value) {
            None => Err((Invariant::NoWrongBytes, format!("{value:x?}, which nobody wrote; due was {due:x?}"))),
            Some(at) if at < flushed => {
                let flushed = self.versions[flushed].value;
                Err((Invariant::NothingAcknowledgedLost, format!("{value:x?} although {flushed:x?} was flushed")))
            }
            Some(_) => Err((Invariant::NeverBackwards, format!("{value:x?} although {due:x?} was there before"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::{Loss, Moment, Operation};

    fn operation(op: Op, from: u64, end: Option<(u64, Outcome)>) -> Operation {
        Operation {
            process: 0,
            op,
            invoked: Moment(from),
            seen_from: Moment(from),
            returned: end.map(|(at, it)| (Moment(at), it)),
        }
    }

    fn write(sequence: u64, from: u64, to: u64) -> Operation {
        operation(Op::Write { file: 1, first: 0, count: 1, sequence }, from, Some((to, Outcome::Done)))
    }

    fn sync(from: u64, outcome: Outcome) -> Operation {
        operation(Op::Sync { file: 1 }, from, Some((from + 1, outcome)))
    }

    fn read(found: Found, from: u64) -> Operation {
        let op = Op::Read { file: 1, first: 0, count: 1 };
        operation(op, from, Some((from + 1, Outcome::Blocks(vec![found]))))
    }

    fn judged(operations: Vec<Operation>, losses: Vec<Loss>) -> Vec<Invariant> {
        let findings = check(&History { operations, losses });
        findings.violations.into_iter().map(|it| it.invariant).collect()
    }

    fn loss(from: u64, mount: bool) -> Loss {
        Loss { from: Moment(from), to: Moment(from + 1), mount }
    }

    use Found::{Tag, Zero};
    use Invariant::{NeverBackwards, NoWrongBytes, NothingAcknowledgedLost};

    #[test]
    fn what_was_acknowledged_is_read() {
        assert_eq!(judged(vec![write(1, 0, 1), read(Tag(1), 2)], vec![]), []);
        assert_eq!(judged(vec![write(1, 0, 1), read(Zero, 2)], vec![]), [NeverBackwards]);
        assert_eq!(judged(vec![write(1, 0, 9), read(Zero, 2)], vec![]), []);
        assert_eq!(judged(vec![write(1, 0, 9), read(Tag(1), 2)], vec![]), []);
    }

    #[test]
    fn what_was_read_is_not_taken_back() {
        let operations = vec![write(1, 0, 1), write(2, 2, 90), read(Tag(2), 3), read(Tag(1), 6)];
        assert_eq!(judged(operations, vec![]), [NeverBackwards]);
    }

    #[test]
    fn what_nobody_wrote_is_wrong() {
        assert_eq!(judged(vec![write(1, 0, 1), read(Tag(7), 2)], vec![]), [NoWrongBytes]);
        assert_eq!(judged(vec![read(Found::Wrong("x".into()), 2)], vec![]), [NoWrongBytes]);
        assert_eq!(judged(vec![read(Tag(1), 2), write(1, 5, 6)], vec![]), [NoWrongBytes]);
    }

    #[test]
    fn a_loss_takes_what_was_not_flushed_and_nothing_else() {
        let unflushed = vec![write(1, 0, 1), read(Zero, 20)];
        assert_eq!(judged(unflushed, vec![loss(10, false)]), []);
        let flushed = |found| vec![write(1, 0, 1), sync(2, Outcome::Done), write(2, 4, 5), read(found, 20)];
        assert_eq!(judged(flushed(Tag(1)), vec![loss(10, false)]), []);
        assert_eq!(judged(flushed(Tag(2)), vec![loss(10, false)]), []);
        assert_eq!(judged(flushed(Zero), vec![loss(10, false)]), [NothingAcknowledgedLost]);
        assert_eq!(judged(flushed(Tag(1)), vec![]), [NeverBackwards]);
    }

    #[test]
    fn the_writer_may_read_what_is_lost_for_a_while_and_nobody_else() {
        let read_by = |process| vec![write(1, 0, 1), Operation { process, ..read(Tag(1), 20) }, read(Zero, 30)];
        assert_eq!(judged(read_by(0), vec![loss(10, false)]), []);
        assert_eq!(judged(read_by(1), vec![loss(10, false)]), [NeverBackwards]);
        assert_eq!(judged(read_by(0), vec![]), [NeverBackwards]);
    }

    #[test]
    fn an_fsync_after_a_loss_vouches_for_what_was_written_before_it_unless_the_mount_went() {
        let operations = || vec![write(1, 0, 1), sync(20, Outcome::Done), read(Zero, 30)];
        assert_eq!(judged(operations(), vec![loss(10, false)]), [NothingAcknowledgedLost]);
        assert_eq!(judged(operations(), vec![loss(10, true)]), []);
    }

    #[test]
    fn an_fsync_of_a_file_that_was_closed_before_the_loss_vouches_for_nothing() {
        let close = operation(Op::Close { file: 1 }, 4, Some((5, Outcome::Done)));
        let operations = |at| vec![write(1, 0, 1), close.clone(), sync(at, Outcome::Done), read(Zero, 30)];
        assert_eq!(judged(operations(20), vec![loss(10, false)]), []);
        assert_eq!(judged(operations(7), vec![loss(10, false)]), [NothingAcknowledgedLost]);
    }

    #[test]
    fn an_fsync_covers_what_was_acknowledged_before_it_began() {
        let operations = |to| vec![write(1, 0, to), sync(10, Outcome::Done), read(Zero, 40)];
        assert_eq!(judged(operations(9), vec![loss(30, false)]), [NothingAcknowledgedLost]);
        assert_eq!(judged(operations(11), vec![loss(30, false)]), []);
    }

    #[test]
    fn a_failed_fsync_leaves_everything_open() {
        let failed = sync(2, Outcome::Failed(5));
        let operations = vec![write(1, 0, 1), failed, sync(8, Outcome::Done), read(Zero, 20)];
        assert_eq!(judged(operations, vec![]), []);
    }

    #[test]
    fn a_cut_is_a_value_and_a_replacement_is_durable() {
        let cut = operation(Op::Cut { file: 1, blocks: 0, sequence: 2 }, 4, Some((5, Outcome::Done)));
        let operations = |found| vec![write(1, 0, 1), cut.clone(), read(found, 20)];
        assert_eq!(judged(operations(Zero), vec![]), []);
        assert_eq!(judged(operations(Tag(1)), vec![]), [NothingAcknowledgedLost]);
        let replace = operation(Op::Replace { file: 1, count: 1, sequence: 3 }, 0, Some((5, Outcome::Done)));
        assert_eq!(judged(vec![replace, read(Zero, 20)], vec![loss(10, false)]), [NothingAcknowledgedLost]);
    }
}
