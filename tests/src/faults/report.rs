//! What came of a run: for each scenario how often what was looked at, and what was wrong.

use super::check::{Findings, Invariant, Violation};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Of one scenario.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Of the scenario.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// So many.
    pub faults: u32,
    /// Operations of the workloads.
    pub operations: u64,
    /// How much each checker looked at.
    pub looked: BTreeMap<Invariant, u64>,
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// Errors that the workloads were told, by operation and errno; names excepted, for which errors are answers.
    pub errors: BTreeMap<(&'static str, i32), u64>,
    /// The longest time of each kind of operation.
    pub longest: BTreeMap<&'static str, Duration>,
    /// What else came of the faults: how often the servers did what.
    pub notes: BTreeMap<&'static str, u64>,
    /// From the first start to the last end.
    pub took: Duration,
}

impl Tally {
    /// Nothing yet.
    pub const fn new(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            faults: 0,
            operations: 0,
            looked: BTreeMap::new(),
            violations: Vec::new(),
            errors: BTreeMap::new(),
            longest: BTreeMap::new(),
            notes: BTreeMap::new(),
            took: Duration::ZERO,
        }
    }

    /// So much more was looked at.
    pub fn looked(&mut self, invariant: Invariant, count: u64) {
        *self.looked.entry(invariant).or_default() += count;
    }

    /// This was wrong.
    pub fn wrong(&mut self, invariant: Invariant, what: String) {
        self.violations.push(Violation { invariant, what });
    }

    /// So much more came of the faults.
    pub fn note(&mut self, what: &'static str, count: u64) {
        *self.notes.entry(what).or_default() += count;
    }

    /// What is counted, and what else came of it.
    fn unit(&self) -> String {
        let notes: Vec<String> = self.notes.iter().map(|(what, count)| format!("{count} {what}")).collect();
        if notes.is_empty() { self.unit.to_owned() } else { format!("{} ({})", self.unit, notes.join(", ")) }
    }

    /// What checkers found.
    pub fn take(&mut self, findings: Findings) {
        findings.looked.iter().for_each(|(invariant, count)| self.looked(*invariant, *count));
        self.violations.extend(findings.violations);
    }

    /// One cell of the table.
    fn cell(&self, invariant: Invariant) -> String {
        let wrong = self.violations.iter().filter(|it| it.invariant == invariant).count();
        match (self.looked.get(&invariant), wrong) {
            (None, 0) => "not checked".to_owned(),
            (looked, wrong) => format!("{wrong} of {}", looked.copied().unwrap_or_default()),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let wrong = self.violations.len();
        let seconds = self.took.as_secs_f64();
        format!(
            "{}: {} {} in {seconds:.0} s, {} operations, {wrong} violations, longest {:?}, errors {:?}",
            self.name,
            self.faults,
            self.unit(),
            self.operations,
            self.longest,
            self.errors
        )
    }
}

/// The table for `docs/reliability.md`, in Markdown: violations of what was looked at.
pub fn table(tallies: &[Tally]) -> String {
    let mut text = "| scenario | faults | operations |".to_owned();
    Invariant::ALL.iter().for_each(|it| put(&mut text, &format!(" {} |", it.title())));
    put(&mut text, &format!("\n|{}\n", "---|".repeat(3 + Invariant::ALL.len())));
    for tally in tallies {
        put(&mut text, &format!("| {} | {} {} | {} |", tally.name, tally.faults, tally.unit(), tally.operations));
        Invariant::ALL.iter().for_each(|it| put(&mut text, &format!(" {} |", tally.cell(*it))));
        put(&mut text, "\n");
    }
    text
}

fn put(text: &mut String, more: &str) {
    let _ = write!(text, "{more}"); // a String takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_at_is_said() {
        let mut tally = Tally::new("kill", "SIGKILLs");
        tally.looked(Invariant::NoWrongBytes, 10);
        tally.wrong(Invariant::NoWrongBytes, "x".to_owned());
        tally.wrong(Invariant::Bounded, "y".to_owned());
        tally.note("were noticed", 2);
        tally.note("were noticed", 1);
        let text = table(&[tally]);
        assert!(text.lines().all(|line| line.matches('|').count() == 4 + Invariant::ALL.len()), "{text}");
        assert!(text.contains("| not checked | 1 of 10 |"), "{text}");
        assert!(text.contains("1 of 0"), "{text}");
        assert!(text.contains("| 0 SIGKILLs (3 were noticed) |"), "{text}");
    }
}
