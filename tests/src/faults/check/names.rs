//! Operations on names took effect once, in one order that agrees with the clock.
//!
//! Each group of names is judged alone: no operation has names of two. The clients share one mount: what another
//! mount says of a name may be a second old, by promise (`docs/semantics.md`, Between mounts), and link(2) and rename(2)
//! look at two names, each of which may be that old, so little could be said of these.

use super::linear::{self, Call, Model, Verdict};
use super::{Findings, Invariant};
use crate::faults::history::{History, Name, NameOp, Op, Operation, Outcome};
use std::collections::{BTreeMap, BTreeSet};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;

/// An inode: known by its number, or by the operation without an answer that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Inode {
    Number(u64),
    MadeBy(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    inode: Inode,
    directory: bool,
}

/// Names of one group.
struct Names {
    /// Numbers that operations with an answer gave: no other made these.
    made: BTreeSet<u64>,
}

struct Asked {
    index: usize,
    op: NameOp,
    outcome: Option<Outcome>,
}

impl Model for Names {
    type State = BTreeMap<u32, Node>;
    type Op = Asked;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(&self, state: &Self::State, asked: &Asked) -> Option<Self::State> {
        if let (NameOp::Stat(name), Some(Outcome::Node(number, directory))) = (asked.op, &asked.outcome) {
            return self.look(state, name, *number, *directory);
        }
        let made = match asked.outcome {
            Some(Outcome::Node(number, _)) => Inode::Number(number),
            _ => Inode::MadeBy(asked.index),
        };
        match (act(state, asked.op, made), &asked.outcome) {
            (Err(errno), Some(Outcome::Failed(told))) => (errno == *told).then(|| state.clone()),
            (Ok(after), None | Some(Outcome::Done | Outcome::Node(..))) => Some(after),
            _ => None,
        }
    }

    fn asks(&self, asked: &Asked) -> bool {
        matches!(asked.op, NameOp::Stat(_)) || matches!(asked.outcome, Some(Outcome::Failed(_)))
    }
}

impl Names {
    /// A number that is seen for the first time is that of an inode whose making had no answer, or did not tell.
    fn look(
        &self,
        state: &BTreeMap<u32, Node>,
        name: Name,
        number: u64,
        directory: bool,
    ) -> Option<BTreeMap<u32, Node>> {
        let node = state.get(&name.number).filter(|node| node.directory == directory)?;
        match node.inode {
            Inode::Number(known) => (known == number).then(|| state.clone()),
            Inode::MadeBy(_) => {
                let another = Inode::Number(number);
                let taken = self.made.contains(&number) || state.values().any(|other| other.inode == another);
                let told =
                    |other: &Node| if other.inode == node.inode { Node { inode: another, ..*other } } else { *other };
                (!taken).then(|| state.iter().map(|(name, other)| (*name, told(other))).collect())
            }
        }
    }
}

/// POSIX, for names in one directory whose directories are empty.
fn act(state: &BTreeMap<u32, Node>, op: NameOp, made: Inode) -> Result<BTreeMap<u32, Node>, i32> {
    let mut after = state.clone();
    let there = |name: Name| state.get(&name.number).copied();
    match op {
        NameOp::Create(name) | NameOp::Mkdir(name) => {
            if there(name).is_some() {
                return Err(EEXIST);
            }
            after.insert(name.number, Node { inode: made, directory: matches!(op, NameOp::Mkdir(_)) });
        }
        NameOp::Unlink(name) => {
            if there(name).ok_or(ENOENT)?.directory {
                return Err(EISDIR);
            }
            after.remove(&name.number);
        }
        NameOp::Rmdir(name) => {
            if !there(name).ok_or(ENOENT)?.directory {
                return Err(ENOTDIR);
            }
            after.remove(&name.number);
        }
        NameOp::Link(from, to) => {
            let node = there(from).ok_or(ENOENT)?;
            // link(2) looks at the new name before it minds what the old one is
            if there(to).is_some() {
                return Err(EEXIST);
            }
            if node.directory {
                return Err(EPERM);
            }
            after.insert(to.number, node);
        }
        NameOp::Rename(from, to) => {
            let node = there(from).ok_or(ENOENT)?;
            match there(to) {
                Some(other) if other.inode == node.inode => return Ok(after),
                Some(other) if node.directory && !other.directory => return Err(ENOTDIR),
                Some(other) if !node.directory && other.directory => return Err(EISDIR),
                _ => {}
            }
            after.remove(&from.number);
            after.insert(to.number, node);
        }
        NameOp::Stat(name) => {
            there(name).ok_or(ENOENT)?;
        }
    }
    Ok(after)
}

fn group_of(op: NameOp) -> u32 {
    match op {
        NameOp::Create(name) | NameOp::Mkdir(name) | NameOp::Unlink(name) | NameOp::Rmdir(name) => name.group,
        NameOp::Stat(name) | NameOp::Rename(name, _) | NameOp::Link(name, _) => name.group,
    }
}

/// Looks at every group.
pub fn check(history: &History) -> Findings {
    let mut groups: BTreeMap<u32, Vec<Call<Asked>>> = BTreeMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        if let Op::Name(op) = operation.op {
            groups.entry(group_of(op)).or_default().extend(call(index, op, operation));
        }
    }
    let mut findings = Findings::default();
    for (group, calls) in groups {
        let number = |call: &Call<Asked>| match (call.op.op, &call.op.outcome) {
            (NameOp::Create(_), Some(Outcome::Node(number, _))) => Some(*number),
            _ => None,
        };
        let names = Names { made: calls.iter().filter_map(number).collect() };
        match linear::check(&names, &calls) {
            Verdict::Linearizable => findings.looked(Invariant::Linearizable, calls.len() as u64),
            Verdict::GaveUp(_) => {} // not looked at, so not counted
            Verdict::Broken { stuck } => {
                findings.looked(Invariant::Linearizable, calls.len() as u64);
                findings.wrong(Invariant::Linearizable, describe(history, group, &calls, stuck));
            }
        }
    }
    findings
}

/// What an operation may have done, and when. None for one that says nothing.
fn call(index: usize, op: NameOp, operation: &Operation) -> Option<Call<Asked>> {
    let from = operation.invoked.0;
    let known = |at: u64, outcome: &Outcome| Call {
        from,
        to: Some(at),
        op: Asked { index, op, outcome: Some(outcome.clone()) },
    };
    match &operation.returned {
        Some((at, outcome @ Outcome::Failed(EPERM | ENOENT | EEXIST | ENOTDIR | EISDIR))) => Some(known(at.0, outcome)),
        // it may have happened, and if it only asked it says nothing
        Some((_, Outcome::Failed(_))) | None => {
            let open = Call { from, to: None, op: Asked { index, op, outcome: None } };
            (!matches!(op, NameOp::Stat(_))).then_some(open)
        }
        Some((at, outcome)) => Some(known(at.0, outcome)),
    }
}

/// The operations around the first that fits nowhere.
fn describe(history: &History, group: u32, calls: &[Call<Asked>], stuck: usize) -> String {
    const BEFORE: usize = 12;
    let at = calls[stuck].op.index;
    let ours = |operation: &&Operation| matches!(operation.op, Op::Name(op) if group_of(op) == group);
    let around: Vec<String> = history.operations[..=at]
        .iter()
        .filter(ours)
        .rev()
        .take(BEFORE)
        .map(|it| format!("{}..{:?} {:?}", it.invoked.0, it.returned, it.op))
        .collect();
    format!(
        "group {group}: no order of its operations is possible; the last ones, backwards:\n  {}",
        around.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::Moment;

    const A: Name = Name { group: 0, number: 0 };
    const B: Name = Name { group: 0, number: 1 };

    fn did(op: NameOp, from: u64, outcome: impl Into<Option<Outcome>>) -> Operation {
        let returned = outcome.into().map(|it| (Moment(from + 1), it));
        let at = Moment(from);
        Operation { process: 0, op: Op::Name(op), invoked: at, seen_from: at, returned }
    }

    fn holds(operations: &[Operation]) -> bool {
        let findings = check(&History { operations: operations.to_vec(), losses: vec![] });
        assert!(findings.looked.iter().any(|it| it.1 > 0));
        findings.violations.is_empty()
    }

    fn node(number: u64) -> Outcome {
        Outcome::Node(number, false)
    }

    #[test]
    fn what_was_made_is_there_until_it_is_removed() {
        let made = did(NameOp::Create(A), 0, node(7));
        let gone = Outcome::Failed(ENOENT);
        assert!(holds(&[made.clone(), did(NameOp::Stat(A), 5, node(7))]));
        assert!(!holds(&[made.clone(), did(NameOp::Stat(A), 5, gone.clone())]));
        assert!(!holds(&[made.clone(), did(NameOp::Stat(A), 5, node(8))]));
        assert!(!holds(&[made.clone(), did(NameOp::Create(A), 5, node(8))]));
        let removed = did(NameOp::Unlink(A), 5, Outcome::Done);
        assert!(holds(&[made.clone(), removed.clone(), did(NameOp::Stat(A), 10, gone)]));
        assert!(!holds(&[made, removed, did(NameOp::Stat(A), 10, node(7))]));
    }

    #[test]
    fn a_rename_moves_once() {
        let made = did(NameOp::Create(A), 0, node(7));
        let moved = did(NameOp::Rename(A, B), 5, Outcome::Done);
        assert!(holds(&[made.clone(), moved.clone(), did(NameOp::Stat(B), 10, node(7))]));
        assert!(!holds(&[made.clone(), moved.clone(), did(NameOp::Stat(A), 10, node(7))]));
        assert!(!holds(&[made, moved.clone(), moved, did(NameOp::Stat(B), 10, node(7))]));
    }

    #[test]
    fn a_link_of_what_is_there_is_not_refused() {
        let made = did(NameOp::Create(A), 0, node(7));
        let linked = |outcome| did(NameOp::Link(A, B), 5, outcome);
        assert!(holds(&[made.clone(), linked(Outcome::Done), did(NameOp::Stat(B), 10, node(7))]));
        assert!(!holds(&[made, linked(Outcome::Failed(ENOENT))]));
        assert!(holds(&[linked(Outcome::Failed(ENOENT))]));
    }

    #[test]
    fn what_had_no_answer_may_have_happened_once() {
        let made = did(NameOp::Create(A), 0, None);
        let seen = |number, at| did(NameOp::Stat(A), at, node(number));
        assert!(holds(&[made.clone(), seen(7, 5), seen(7, 10)]));
        assert!(!holds(&[made.clone(), seen(7, 5), seen(8, 10)]));
        assert!(holds(&[made.clone(), did(NameOp::Stat(A), 5, Outcome::Failed(ENOENT))]));
        // the number that it got is not one that another was told
        let other = did(NameOp::Create(B), 2, node(9));
        assert!(!holds(&[made, other, seen(9, 10)]));
    }
}
