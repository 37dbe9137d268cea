//! Judges files of appended records: which may be missing at the end, and that none is missing before.
//!
//! Length and bytes of a record are a function of file and number, so the place of each is known. Each file has one
//! writer, which goes on with another file after an error. A record that was flushed is whole in every later read;
//! one that was acknowledged is, too, unless unflushed bytes could be lost since. What is behind these may be whole,
//! missing, or zeroes. A file that was not removed is there.

use super::{Findings, Invariant};
use crate::faults::history::{History, Op, Outcome, Records, Step};
use std::collections::BTreeMap;

/// `errno` of a file that is not there.
const ENOENT: i32 = 2;

/// Counts of records of a file, from the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct File {
    /// Begun.
    issued: u32,
    /// Returned, and an fsync that succeeds covers them.
    acknowledged: u32,
    /// Must be read.
    seen: u32,
    /// Must be read whatever happens.
    flushed: u32,
    /// An error was reported: nothing more is covered.
    failed: bool,
    /// Its removal has begun.
    removed: bool,
}

/// Looks at every read of the history.
pub fn check(history: &History) -> Findings {
    let mut files: BTreeMap<u32, File> = BTreeMap::new();
    let mut began: BTreeMap<usize, File> = BTreeMap::new();
    let (mut findings, mut looked, mut losing) = (Findings::default(), 0, false);
    for step in history.steps() {
        match step {
            Step::Begin(index) => {
                let Some(number) = file_of(&history.operations[index].op) else { continue };
                let file = files.entry(number).or_default();
                if let Op::Append { record, .. } = history.operations[index].op {
                    file.issued = file.issued.max(record + 1);
                }
                file.removed |= matches!(history.operations[index].op, Op::RemoveRecords { .. });
                began.insert(index, *file);
            }
            Step::End(index) => {
                let operation = &history.operations[index];
                let Some(number) = file_of(&operation.op) else { continue };
                let (file, before) = (files.entry(number).or_default(), began.remove(&index).unwrap_or_default());
                match (&operation.op, operation.returned.as_ref().map(|it| &it.1)) {
                    (Op::Append { record, .. }, Some(Outcome::Done)) => file.acknowledge(record + 1, losing),
                    (Op::SyncRecords { .. }, Some(Outcome::Done)) => file.flush(before.acknowledged),
                    (Op::ReadRecords { .. }, Some(Outcome::Records(found))) => {
                        looked += u64::from(found.whole);
                        judge(number, found, before, file.issued, &mut findings);
                    }
                    (Op::ReadRecords { .. }, Some(Outcome::Failed(ENOENT))) if file.issued > 0 && !file.removed => {
                        findings
                            .wrong(Invariant::NothingAcknowledgedLost, format!("records of file {number} are gone"));
                    }
                    (Op::Append { .. } | Op::SyncRecords { .. }, Some(Outcome::Failed(_))) => file.fail(),
                    _ => {}
                }
            }
            Step::LossBegin(index) | Step::LossEnd(index) => {
                losing = matches!(step, Step::LossBegin(_));
                files.values_mut().for_each(|file| file.lose(history.losses[index].mount));
            }
        }
    }
    findings.looked(Invariant::NothingAcknowledgedLost, looked);
    findings.looked(Invariant::NoWrongBytes, looked);
    findings
}

fn file_of(op: &Op) -> Option<u32> {
    match op {
        Op::Append { file, .. } | Op::SyncRecords { file } | Op::ReadRecords { file } | Op::RemoveRecords { file } => {
            Some(*file)
        }
        _ => None,
    }
}

impl File {
    fn acknowledge(&mut self, records: u32, losing: bool) {
        if !self.failed {
            self.acknowledged = self.acknowledged.max(records);
            if !losing {
                self.seen = self.seen.max(records);
            }
        }
    }

    fn flush(&mut self, records: u32) {
        // what an error or the mount's end uncovered meanwhile stays uncovered
        self.flushed = self.flushed.max(records.min(self.acknowledged));
        self.seen = self.seen.max(self.flushed);
    }

    fn fail(&mut self) {
        self.failed = true;
        self.lose(true);
    }

    fn lose(&mut self, mount: bool) {
        self.seen = self.flushed;
        if mount {
            self.acknowledged = self.flushed;
            self.failed = true;
        }
    }
}

fn judge(number: u32, found: &Records, due: File, issued: u32, findings: &mut Findings) {
    let name = format!("records of file {number} ({} bytes, {} whole)", found.size, found.whole);
    if found.whole < due.flushed {
        let what = format!("{name}: {} were flushed; {:?}", due.flushed, found.broken.first());
        findings.wrong(Invariant::NothingAcknowledgedLost, what);
    } else if found.whole < due.seen {
        let what = format!("{name}: {} were acknowledged; {:?}", due.seen, found.broken.first());
        findings.wrong(Invariant::NeverBackwards, what);
    }
    if found.whole > issued {
        findings.wrong(Invariant::NoWrongBytes, format!("{name}: only {issued} were written"));
    }
    let wrong = found.broken.iter().filter(|(_, what)| what.contains("wrong"));
    findings.violations.extend(wrong.map(|(record, what)| super::Violation {
        invariant: Invariant::NoWrongBytes,
        what: format!("{name}: record {record} has {what}"),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::{Loss, Moment, Operation};

    fn operation(op: Op, from: u64, outcome: Outcome) -> Operation {
        Operation {
            process: 0,
            op,
            invoked: Moment(from),
            seen_from: Moment(from),
            returned: Some((Moment(from + 1), outcome)),
        }
    }

    fn append(record: u32, at: u64) -> Operation {
        operation(Op::Append { file: 1, record }, at, Outcome::Done)
    }

    fn read(whole: u32, broken: &[&str]) -> Operation {
        let broken = (whole..).zip(broken).map(|(record, what)| (record, (*what).to_owned())).collect();
        let found = Records { size: 0, whole, broken };
        operation(Op::ReadRecords { file: 1 }, 90, Outcome::Records(found))
    }

    fn judged(operations: Vec<Operation>, losses: Vec<Loss>) -> Vec<Invariant> {
        let findings = check(&History { operations, losses });
        findings.violations.into_iter().map(|it| it.invariant).collect()
    }

    #[test]
    fn records_that_returned_are_there_and_flushed_ones_after_a_loss() {
        let sync = || operation(Op::SyncRecords { file: 1 }, 4, Outcome::Done);
        let written = |read| vec![append(0, 1), sync(), append(1, 7), read];
        assert_eq!(judged(written(read(2, &[])), vec![]), []);
        assert_eq!(judged(written(read(1, &[])), vec![]), [Invariant::NeverBackwards]);
        assert_eq!(judged(written(read(0, &[])), vec![]), [Invariant::NothingAcknowledgedLost]);
        assert_eq!(judged(written(read(3, &[])), vec![]), [Invariant::NoWrongBytes]);
        let loss = Loss { from: Moment(20), to: Moment(21), mount: false };
        assert_eq!(judged(written(read(1, &["zeroes"])), vec![loss]), []);
        assert_eq!(judged(written(read(1, &["wrong bytes"])), vec![loss]), [Invariant::NoWrongBytes]);
        assert_eq!(judged(written(read(0, &[])), vec![loss]), [Invariant::NothingAcknowledgedLost]);
    }

    #[test]
    fn a_file_is_there_until_it_is_removed() {
        let remove = || operation(Op::RemoveRecords { file: 1 }, 8, Outcome::Failed(5));
        let missing = || operation(Op::ReadRecords { file: 1 }, 90, Outcome::Failed(2));
        assert_eq!(judged(vec![append(0, 1), missing()], vec![]), [Invariant::NothingAcknowledgedLost]);
        assert_eq!(judged(vec![append(0, 1), remove(), missing()], vec![]), []);
        assert_eq!(judged(vec![missing()], vec![]), [], "it was never made");
    }

    #[test]
    fn what_failed_is_open() {
        let failed = operation(Op::SyncRecords { file: 1 }, 4, Outcome::Failed(5));
        assert_eq!(judged(vec![append(0, 1), failed, read(0, &[])], vec![]), []);
    }
}
