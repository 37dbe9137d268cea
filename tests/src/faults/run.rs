//! Runs one scenario: rounds of load under faults, each followed by quiet, in which everything is read and judged.
//!
//! What is found wrong is counted and kept with the evidence; the run goes on, so that one finding does not hide the
//! next. An error is returned only if the machine itself cannot go on.

use super::check::{self, Findings, Invariant};
use super::history::{Event, History, Loss, Moment, Op, Outcome};
use super::nemesis::{Fault, Field, Strike, strike};
use super::plan::Scenario;
use super::report::Tally;
use super::workload::{Kind, Worker};
use crate::cluster::Options;
use crate::data::Stream;
use crate::wait::until;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a run is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything that is drawn is drawn from it.
    pub seed: u64,
    /// Faults of a round.
    pub per_round: u32,
    /// No fault is begun after this.
    pub end: Option<Instant>,
    /// Set when somebody asked for the end: what was begun is finished and taken down.
    pub stop: Arc<AtomicBool>,
    /// Told what happens.
    pub progress: fn(&str),
    /// Where histories and logs of what was wrong are kept.
    pub evidence: PathBuf,
}

impl Settings {
    /// True until the time is up, or a signal asked for the end.
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.end.is_none_or(|end| Instant::now() < end)
    }
}

/// Files of a round are counted from its number times this.
const FILES_MAX: u32 = 10_000;
/// `errno` of what is not there.
const ENOENT: i32 = 2;
/// Operations that return between two faults at most.
const PAUSE_MAX: u64 = 60;
/// What another mount may not know yet of a file that is written: two seconds when all is well
/// (`docs/semantics.md`, Between mounts), and as long as a fault keeps its size from being told.
const STALE: Duration = Duration::from_secs(30);
/// The master takes a mount for dead that was not heard of for 30 s, also since its own start; what that one was writing is
/// agreed on within seconds then (`docs/semantics.md`, Data).
const WRITER_ENDED: Duration = Duration::from_secs(45);
/// Bound on a workload's end: the bound of each of its operations.
const END: Duration = Duration::from_secs(150);

/// Does `count` faults of a scenario.
pub fn run(scenario: &Scenario, count: u32, settings: &Settings) -> Result<Tally> {
    let began = Instant::now();
    let mut tally = Tally::new(scenario.name, scenario.unit);
    let flags: &[&str] = &["--suspect-after", "2s", "--lost-after", "5s"];
    let options =
        Options { chunkservers: scenario.servers, chunk_size: "64KiB", master_flags: flags, ..Options::default() };
    let mut field = Field::start(options, scenario.disks, 3)?;
    let chance = Stream::new(settings.seed);
    let mut drawn = Drawn { faults: scenario.faults, count, chance, settings };
    let mut rounds = Vec::new();
    while tally.faults < count && settings.goes_on() {
        let number = u32::try_from(rounds.len())?;
        let mut round = Round::new(number);
        let outcome = round.disturb(&mut field, &mut drawn, &mut tally);
        let outcome = outcome.and_then(|()| round.judge(&mut field, &mut tally));
        let bad = outcome.is_err() || !round.wrong.is_empty();
        if bad {
            keep(&settings.evidence, scenario.name, &round, &field)?;
        }
        outcome.with_context(|| format!("round {number}, seed {}", settings.seed))?;
        round.summarize(&mut tally);
        let (faults, wrong) = (tally.faults, tally.violations.len());
        let text =
            format!("{}: {faults} {} after {:?}, {wrong} violations", scenario.name, scenario.unit, began.elapsed());
        (settings.progress)(&text);
        rounds.iter_mut().for_each(|earlier: &mut Round| earlier.lose_with(&round.history));
        rounds.push(round);
    }
    // what was written first has been through everything
    for round in &mut rounds {
        let mut findings = round.verify(&field)?;
        findings.join(round.findings(false));
        if !findings.violations.is_empty() {
            keep(&settings.evidence, scenario.name, round, &field)?;
        }
        tally.take(findings);
    }
    tally.took = began.elapsed();
    Ok(tally)
}

/// What is drawn and how often.
struct Drawn<'a> {
    faults: &'a [Fault],
    count: u32,
    chance: Stream,
    settings: &'a Settings,
}

impl Drawn<'_> {
    fn fault(&mut self) -> Result<Fault> {
        Ok(self.faults[usize::try_from(self.chance.number() >> 33)? % self.faults.len()])
    }
}

/// Load under faults in a directory of its own.
struct Round {
    number: u32,
    history: History,
    processes: usize,
    wrong: Vec<String>,
}

impl Round {
    fn new(number: u32) -> Self {
        Self { number, history: History::default(), processes: 0, wrong: Vec::new() }
    }

    fn directory(&self, mount: &Path) -> PathBuf {
        mount.join(format!("round-{}", self.number))
    }

    fn base(&self) -> u32 {
        self.number * FILES_MAX
    }

    /// Starts the load, and lets the faults come.
    fn disturb(&mut self, field: &mut Field, drawn: &mut Drawn<'_>, tally: &mut Tally) -> Result<()> {
        let workers = self.start(field, drawn.chance.number())?;
        let returned = || workers.iter().map(Worker::returned).sum::<u64>();
        let until_count = drawn.count.min(tally.faults + drawn.settings.per_round);
        while tally.faults < until_count && drawn.settings.goes_on() {
            let pause = returned() + 1 + drawn.chance.number() % PAUSE_MAX;
            let going = until("operations return", check::bounds::BOUND, || Ok(returned() >= pause));
            if let Err(error) = going {
                self.wrong.push(format!("{error:#}"));
                tally.wrong(Invariant::Bounded, format!("round {}: {error:#}", self.number));
                break;
            }
            let fault = drawn.fault()?;
            let done = strike(field, fault, &mut drawn.chance).with_context(|| format!("{fault:?}"))?;
            self.note(done);
            tally.faults += done.count;
            field.note_health()?;
        }
        field.start_all()?;
        for worker in workers {
            let stale = if worker.kind() == Kind::Readers { STALE } else { Duration::ZERO };
            self.add(&worker.end(END)?, stale)?;
        }
        Ok(())
    }

    fn start(&mut self, field: &Field, seed: u64) -> Result<Vec<Worker>> {
        let written = self.directory(&field.mounts[0]);
        let names = self.directory(&field.mounts[2]).join("names");
        fs::create_dir(&written)?;
        fs::create_dir(written.join("names"))?;
        let start = |kind, directories: &[PathBuf]| Worker::start(kind, self.base(), seed ^ kind as u64, directories);
        let blocks = start(Kind::Blocks, std::slice::from_ref(&written))?;
        until("the files are made", END, || Ok(blocks.returned() > 0))?;
        // the other mounts may not know yet that it is there
        for directory in [&names, &self.directory(&field.mounts[1])] {
            until("the directory is seen", END, || Ok(directory.is_dir()))?;
        }
        let readers = start(Kind::Readers, &[self.directory(&field.mounts[1])])?;
        let records = start(Kind::Records, &[written])?;
        let names = start(Kind::Names, &[names.clone(), names.clone(), names])?;
        Ok(vec![blocks, readers, records, names])
    }

    fn note(&mut self, done: Strike) {
        let to = Moment::now();
        self.history.losses.extend(done.loss.map(|lost| Loss { from: lost.from, to, mount: lost.mount }));
    }

    /// What nobody flushed in this round can be lost by the power cuts of a later one; its mounts wrote out all they had.
    fn lose_with(&mut self, later: &History) {
        self.history.losses.extend(later.losses.iter().filter(|loss| !loss.mount));
    }

    fn add(&mut self, events: &[Event], stale: Duration) -> Result<()> {
        self.processes += 1;
        self.history.add(self.processes, events, stale)
    }

    /// The faults are over: all copies come back, everything is read by mounts that know nothing, and judged.
    fn judge(&mut self, field: &mut Field, tally: &mut Tally) -> Result<()> {
        let healed = field.heal();
        tally.looked(Invariant::FullReplication, 1);
        if let Err(error) = &healed {
            self.wrong.push(format!("{error:#}"));
            tally.wrong(Invariant::FullReplication, format!("round {}: {error:#}", self.number));
        }
        field.cluster.stop_mount(1)?;
        field.cluster.start_mount(1)?;
        let unread = self.verify(field)?;
        self.take(tally, unread);
        if healed.is_ok() {
            field.heal()?; // what the reading found
            self.take(tally, check::replicas::check(&field.directories(), self.patience())?);
        }
        let mut findings = self.findings(true);
        findings.join(check::bounds::check(&self.history, Moment::now()));
        findings.join(check::stuck::check()?);
        self.take(tally, findings);
        Ok(())
    }

    /// Replicas are equal at once, unless a writer died whose end nobody has announced.
    fn patience(&self) -> Duration {
        if self.history.losses.iter().any(|loss| loss.mount) { WRITER_ENDED } else { Duration::ZERO }
    }

    fn take(&mut self, tally: &mut Tally, findings: Findings) {
        self.wrong.extend(findings.violations.iter().map(|it| it.what.clone()));
        tally.take(findings);
    }

    /// Reads everything through the mount that does not write. Every read must succeed.
    fn verify(&mut self, field: &Field) -> Result<Findings> {
        let directory = self.directory(&field.mounts[1]);
        let worker = Worker::start(Kind::Verify, self.base(), 0, &[directory])?;
        let before = self.history.operations.len();
        self.add(&worker.end(END * 2)?, Duration::ZERO)?;
        let mut findings = Findings::default();
        for operation in &self.history.operations[before..] {
            match &operation.returned {
                Some((_, Outcome::Failed(ENOENT))) => {} // an answer, which is judged with the others
                Some((_, Outcome::Failed(errno))) => {
                    let what = format!("{:?} fails with errno {errno} when all is well", operation.op);
                    findings.wrong(Invariant::NothingAcknowledgedLost, what);
                }
                _ => {}
            }
        }
        Ok(findings)
    }

    fn findings(&self, names: bool) -> Findings {
        let mut findings = check::blocks::check(&self.history);
        findings.join(check::records::check(&self.history));
        if names {
            findings.join(check::names::check(&self.history));
        }
        findings
    }

    fn summarize(&self, tally: &mut Tally) {
        tally.operations += self.history.operations.len() as u64;
        for (kind, took) in check::bounds::longest(&self.history) {
            let longest = tally.longest.entry(kind).or_default();
            *longest = took.max(*longest);
        }
        for operation in &self.history.operations {
            let failed = match &operation.returned {
                Some((_, Outcome::Failed(errno))) if !matches!(operation.op, Op::Name(_)) => *errno,
                _ => continue,
            };
            *tally.errors.entry((check::bounds::kind(&operation.op), failed)).or_default() += 1;
        }
    }
}

/// History and logs, for people to look at.
fn keep(evidence: &Path, name: &str, round: &Round, field: &Field) -> Result<()> {
    let directory = evidence.join(format!("{name}-round-{}", round.number));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("wrong"), round.wrong.join("\n"))?;
    let mut lines: Vec<String> = round.history.losses.iter().map(|loss| format!("{loss:?}")).collect();
    lines.extend(round.history.operations.iter().map(|it| format!("{it:?}")));
    fs::write(directory.join("history"), lines.join("\n"))?;
    for entry in fs::read_dir(field.cluster.directory())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::copy(&path, directory.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::{Operation, Records};

    /// What is wrong if a record that was acknowledged is gone after a loss in a later round.
    fn judged(mount: bool) -> Vec<Invariant> {
        let operation = |op, at: u64, outcome| Operation {
            process: 0,
            op,
            invoked: Moment(at),
            seen_from: Moment(at),
            returned: Some((Moment(at + 1), outcome)),
        };
        let mut round = Round::new(0);
        round.history.operations = vec![
            operation(Op::Append { file: 1, record: 0 }, 1, Outcome::Done),
            operation(Op::ReadRecords { file: 1 }, 30, Outcome::Records(Records::default())),
        ];
        let losses = vec![Loss { from: Moment(10), to: Moment(20), mount }];
        round.lose_with(&History { losses, ..History::default() });
        round.findings(false).violations.into_iter().map(|it| it.invariant).collect()
    }

    #[test]
    fn what_was_not_flushed_may_be_lost_by_power_cuts_of_later_rounds_only() {
        assert_eq!(judged(false), []);
        assert_eq!(judged(true), [Invariant::NeverBackwards]);
    }
}
