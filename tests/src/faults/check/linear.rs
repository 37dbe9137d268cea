//! Is a history linearizable: is there one order of all operations that agrees with the clock and with a model?
//!
//! Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the cache of configurations of Lowe,
//! "Testing for linearizability" (2017). An operation without an answer may take effect at any time after it began,
//! or never. Operations that only ask are taken as soon as they fit: that forbids nothing.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;

/// What the operations do to one object.
pub trait Model {
    /// Of the object.
    type State: Clone + Eq + Hash;
    /// An operation with its outcome.
    type Op;

    /// The state before everything.
    fn initial(&self) -> Self::State;

    /// The state after `op`, or `None` if its outcome is not possible in `state`.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// True for an operation that only asks: one that changes nothing whatever the state is.
    fn asks(&self, op: &Self::Op) -> bool;
}

/// An operation and the time in which it took effect.
#[derive(Clone, Debug)]
pub struct Call<O> {
    /// It began.
    pub from: u64,
    /// It returned; `None` if it may take effect at any time, or never.
    pub to: Option<u64>,
    /// What.
    pub op: O,
}

/// The history has no such order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. The longest beginning that could be ordered ends before this operation.
    Broken {
        /// Index into what was given.
        stuck: usize,
    },
    /// So many configurations were looked at without an answer.
    GaveUp(usize),
}

/// Configurations at most: beyond it nothing is said.
const CONFIGURATIONS_MAX: usize = 300_000;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    /// All operations before this one that returned are taken.
    first: usize,
    /// Taken beyond it, and those without an answer.
    beyond: BTreeSet<usize>,
    state: S,
}

/// Looks for an order.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Op>]) -> Verdict {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|index| calls[*index].from);
    let search = Search { model, calls, order };
    let mut seen = HashSet::new();
    let mut furthest = 0;
    let mut start = Configuration { first: 0, beyond: BTreeSet::new(), state: model.initial() };
    search.take_what_changes_nothing(&mut start);
    let mut stack = vec![start];
    while let Some(configuration) = stack.pop() {
        if configuration.first == calls.len() {
            return Verdict::Linearizable;
        }
        furthest = furthest.max(configuration.first);
        if seen.len() >= CONFIGURATIONS_MAX {
            return Verdict::GaveUp(seen.len());
        }
        for at in search.candidates(&configuration) {
            let call = &calls[search.order[at]];
            let Some(state) = model.step(&configuration.state, &call.op) else { continue };
            let mut next = Configuration { state, ..configuration.clone() };
            next.beyond.insert(at);
            search.take_what_changes_nothing(&mut next);
            if seen.insert(next.clone()) {
                stack.push(next);
            }
        }
    }
    Verdict::Broken { stuck: search.order.get(furthest).copied().unwrap_or_default() }
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    /// Calls by their beginning; positions in it are what configurations count.
    order: Vec<usize>,
}

impl<M: Model> Search<'_, M> {
    fn call(&self, at: usize) -> &Call<M::Op> {
        &self.calls[self.order[at]]
    }

    /// Positions that may come next: not taken, and nothing else that is not taken returned before they began.
    fn candidates(&self, configuration: &Configuration<M::State>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut returned = u64::MAX;
        // one without an answer may be far behind
        let open = (0..configuration.first).filter(|at| self.call(*at).to.is_none());
        for at in open.chain(configuration.first..self.order.len()) {
            if self.call(at).from > returned {
                break;
            }
            if configuration.beyond.contains(&at) {
                continue;
            }
            returned = returned.min(self.call(at).to.unwrap_or(u64::MAX));
            found.push(at);
        }
        found.retain(|at| self.call(*at).from <= returned);
        found
    }

    /// Takes every candidate that only asks and fits, and moves the beginning on. One that only happens to change
    /// nothing in this state may be needed later, in another one.
    fn take_what_changes_nothing(&self, configuration: &mut Configuration<M::State>) {
        loop {
            while configuration.first < self.order.len() {
                let call = self.call(configuration.first);
                // one without an answer is passed by; if it was taken, that is remembered
                if call.to.is_some() && !configuration.beyond.remove(&configuration.first) {
                    break;
                }
                configuration.first += 1;
            }
            let fits = |at: &usize| {
                let call = self.call(*at);
                let same = self.model.step(&configuration.state, &call.op).is_some_and(|it| it == configuration.state);
                call.to.is_some() && self.model.asks(&call.op) && same
            };
            let fitting: Vec<usize> = self.candidates(configuration).into_iter().filter(fits).collect();
            if fitting.is_empty() {
                return;
            }
            configuration.beyond.extend(fitting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Stream;
    use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
    use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

    /// One register.
    struct Cell;

    #[derive(Clone, Copy, Debug)]
    enum Access {
        Write(u8),
        Read(u8),
    }

    impl Model for Cell {
        type State = u8;
        type Op = Access;

        fn initial(&self) -> u8 {
            0
        }

        fn step(&self, state: &u8, op: &Access) -> Option<u8> {
            match op {
                Access::Write(value) => Some(*value),
                Access::Read(value) => (value == state).then_some(*state),
            }
        }

        fn asks(&self, op: &Access) -> bool {
            matches!(op, Access::Read(_))
        }
    }

    fn call(from: u64, to: impl Into<Option<u64>>, op: Access) -> Call<Access> {
        Call { from, to: to.into(), op }
    }

    use Access::{Read, Write};

    #[test]
    fn the_clock_decides_what_may_come_first() {
        let holds = |calls: &[Call<Access>]| check(&Cell, calls) == Verdict::Linearizable;
        assert!(holds(&[call(0, 1, Write(1)), call(2, 3, Read(1))]));
        assert!(!holds(&[call(0, 1, Write(1)), call(2, 3, Read(0))]));
        assert!(holds(&[call(0, 5, Write(1)), call(2, 3, Read(0)), call(4, 6, Read(1))]));
        assert!(!holds(&[call(0, 9, Write(1)), call(2, 3, Read(1)), call(4, 6, Read(0))]));
    }

    #[test]
    fn what_has_no_answer_happens_late_or_never() {
        let holds = |calls: &[Call<Access>]| check(&Cell, calls) == Verdict::Linearizable;
        let open = || call(0, None, Write(1));
        assert!(holds(&[open(), call(2, 3, Read(0))]));
        assert!(holds(&[open(), call(2, 3, Read(0)), call(4, 5, Read(1))]));
        assert!(!holds(&[open(), call(2, 3, Read(1)), call(4, 5, Read(0))]));
        assert!(!holds(&[call(2, 3, Read(1)), call(4, None, Write(1))]));
    }

    /// What `stateright` says of the same history; it knows no clock, so beginnings and ends are told in their order.
    fn stateright_says(calls: &[Call<Access>]) -> bool {
        let mut steps: Vec<(u64, bool, usize)> = Vec::new();
        for (thread, call) in calls.iter().enumerate() {
            steps.push((call.from, false, thread));
            steps.extend(call.to.map(|to| (to, true, thread)));
        }
        steps.sort_unstable();
        let mut tester = LinearizabilityTester::new(Register(0_u8));
        for (_, ends, thread) in steps {
            let told = match (calls[thread].op, ends) {
                (Write(value), false) => tester.on_invoke(thread, RegisterOp::Write(value)),
                (Read(_), false) => tester.on_invoke(thread, RegisterOp::Read),
                (Write(_), true) => tester.on_return(thread, RegisterRet::WriteOk),
                (Read(value), true) => tester.on_return(thread, RegisterRet::ReadOk(value)),
            };
            told.expect("a history");
        }
        tester.is_consistent()
    }

    #[test]
    fn stateright_judges_small_histories_alike() {
        let mut chance = Stream::new(11);
        let mut verdicts = [0, 0];
        for _ in 0..3000 {
            let mut below = |bound: u64| (chance.number() >> 33) % bound;
            let calls: Vec<Call<Access>> = (0..2 + below(5))
                .map(|number| {
                    // no two moments are the same
                    let from = below(12) * 100 + number * 2;
                    let to = (below(8) != 0).then(|| from + 1 + below(5) * 100);
                    let value = u8::try_from(below(3)).expect("small");
                    call(from, to, if below(2) == 0 { Write(value) } else { Read(value) })
                })
                .collect();
            // a read without an answer says nothing, whatever its value
            let told: Vec<_> =
                calls.iter().filter(|it| it.to.is_some() || matches!(it.op, Write(_))).cloned().collect();
            let ours = check(&Cell, &told) == Verdict::Linearizable;
            assert_eq!(ours, stateright_says(&told), "{told:?}");
            verdicts[usize::from(ours)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 300), "{verdicts:?}: too few of one kind");
    }
}
