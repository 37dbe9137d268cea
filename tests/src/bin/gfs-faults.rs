//! `gfs-faults`: does faults to clusters of its own under load, judges what comes of it, and prints the table.
//!
//! Exit status: 0 nothing was wrong, 1 something was, or the machine could not go on.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use gfs_tests::environment_is_fit;
use gfs_tests::faults::plan::Amount;
use gfs_tests::faults::report::{Tally, table};
use gfs_tests::faults::workload::{Teller, blocks, names, records};
use gfs_tests::faults::{Scenario, Settings, run, scenarios};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Violations of a scenario that are printed; the evidence has all.
const SHOWN_MAX: usize = 20;

/// Kills, cuts and confuses servers under load, and checks that nothing acknowledged is lost.
#[derive(Parser, Debug)]
#[command(name = "gfs-faults", version)]
struct Arguments {
    /// SIGKILLs of a whole run
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    kills: u32,
    /// Power cuts of a whole run
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    cuts: u32,
    /// Faults between two quiet moments in which everything is read and judged
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    per_round: u32,
    /// Of the other faults only one of so many
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    share: u32,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No fault is begun after so many seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    /// Only scenarios whose name begins like this; repeat for several
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the table to this file, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where histories and logs of what was wrong are kept
    #[arg(long, default_value = "/tmp/gfs-faults-evidence", value_name = "DIR")]
    evidence: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// One of the workloads, as the program starts it
    #[command(hide = true)]
    Worker {
        /// Which
        kind: String,
        /// Number of its first file
        base: u32,
        /// Of what it draws
        seed: u64,
        /// One for each mount
        #[arg(required = true)]
        directories: Vec<PathBuf>,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Worker { kind, base, seed, directories }) => work(kind, *base, *seed, directories),
        None => disturb(&arguments),
    }
}

fn work(kind: &str, base: u32, seed: u64, directories: &[PathBuf]) -> Result<()> {
    let directory = directories.first().context("a directory")?;
    match kind {
        "blocks" => blocks::run(directory, base, seed),
        "readers" => blocks::readers(directory, base, seed),
        "records" => records::run(directory, base, seed),
        "names" => names::run(directories, seed),
        "verify" => {
            let teller = Teller::new();
            blocks::verify(&teller, directory, base)?;
            records::verify(&teller, directory, base)?;
            names::verify(&teller, &directory.join("names"));
            Ok(())
        }
        _ => anyhow::bail!("there is no workload {kind:?}"),
    }
}

fn disturb(arguments: &Arguments) -> Result<()> {
    environment_is_fit()?;
    let end = arguments.time_limit.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let wanted = |scenario: &&Scenario| {
        let named = arguments.only.iter().any(|name| scenario.name.starts_with(name.as_str()));
        named || arguments.only.is_empty() && !matches!(scenario.amount, Amount::WhenNamed(_))
    };
    let chosen: Vec<&Scenario> = scenarios().iter().filter(wanted).collect();
    ensure!(!chosen.is_empty(), "there is no scenario {:?}", arguments.only);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut tallies: Vec<Tally> = Vec::new();
    for scenario in chosen {
        let settings = Settings {
            seed: arguments.seed,
            per_round: arguments.per_round,
            end,
            stop: Arc::clone(&stop),
            progress: |text| {
                let _ = say(text); // the table at the end says it again
            },
            evidence: arguments.evidence.clone(),
        };
        let tally = run(scenario, count(scenario, arguments), &settings).with_context(|| scenario.name)?;
        say(&tally.line())?;
        tally
            .violations
            .iter()
            .take(SHOWN_MAX)
            .try_for_each(|it| say(&format!("  {}: {}", it.invariant.title(), it.what)))?;
        tallies.push(tally);
    }
    let table = table(&tallies);
    say(&table)?;
    if let Some(path) = &arguments.report {
        std::fs::write(path, &table).with_context(|| path.display().to_string())?;
    }
    let wrong: usize = tallies.iter().map(|it| it.violations.len()).sum();
    ensure!(wrong == 0, "{wrong} violations; seed {}, evidence in {}", arguments.seed, arguments.evidence.display());
    Ok(())
}

const fn count(scenario: &Scenario, arguments: &Arguments) -> u32 {
    match scenario.amount {
        Amount::OfKills(percent) => arguments.kills.saturating_mul(percent).div_ceil(100),
        Amount::OfCuts(percent) => arguments.cuts.saturating_mul(percent).div_ceil(100),
        Amount::Times(count) | Amount::WhenNamed(count) => count.div_ceil(arguments.share),
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
