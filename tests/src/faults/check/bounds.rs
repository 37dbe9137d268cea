//! No operation takes longer than the mount's bound, and every one returns.

use super::{Findings, Invariant};
use crate::faults::history::{History, Moment, Op};
use std::collections::BTreeMap;
use std::time::Duration;

/// The mount's bound when nothing else is said, and what two busy processors add.
pub const BOUND: Duration = Duration::from_secs(65);

/// Looks at the time that every operation took. `end` is when the last one must have returned.
pub fn check(history: &History, end: Moment) -> Findings {
    let mut findings = Findings::default();
    for operation in &history.operations {
        let took = operation.returned.as_ref().map_or(end, |it| it.0).since(operation.invoked);
        // one operation of a workload can be several calls: open, write, close
        if took > BOUND {
            let open = if operation.returned.is_some() { "" } else { " and has not returned" };
            findings.wrong(Invariant::Bounded, format!("{:?} took {took:?}{open}", operation.op));
        }
    }
    findings.looked(Invariant::Bounded, history.operations.len() as u64);
    findings
}

/// The longest time of each kind of operation.
pub fn longest(history: &History) -> BTreeMap<&'static str, Duration> {
    let mut longest = BTreeMap::new();
    for operation in &history.operations {
        let Some((at, _)) = &operation.returned else { continue };
        let took = at.since(operation.invoked);
        let entry = longest.entry(kind(&operation.op)).or_insert(took);
        *entry = (*entry).max(took);
    }
    longest
}

/// What people call it.
pub fn kind(op: &Op) -> &'static str {
    match op {
        Op::Write { .. } => "write",
        Op::Cut { .. } => "truncate",
        Op::Replace { .. } => "replace",
        Op::Close { .. } => "close",
        Op::Sync { .. } | Op::SyncRecords { .. } => "fsync",
        Op::Read { .. } | Op::ReadRecords { .. } => "read",
        Op::RemoveRecords { .. } => "unlink",
        Op::Append { .. } => "append",
        Op::Name(_) => "name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::{Operation, Outcome};

    #[test]
    fn what_takes_too_long_or_never_returns_is_found() {
        let second = 1_000_000_000;
        let operation = |returned: Option<u64>| Operation {
            process: 0,
            op: Op::Sync { file: 1 },
            invoked: Moment(second),
            seen_from: Moment(second),
            returned: returned.map(|at| (Moment(at * second), Outcome::Done)),
        };
        let history = |returned| History { operations: vec![operation(returned)], losses: vec![] };
        let count = |returned, end| check(&history(returned), Moment(end * second)).violations.len();
        assert_eq!((count(Some(60), 90), count(Some(67), 90), count(None, 60), count(None, 90)), (0, 1, 0, 1));
        assert_eq!(longest(&history(Some(60)))["fsync"], Duration::from_secs(59));
    }
}
