//! Runs simulated worlds, many or one: `gfs-sim --seeds 10000`, `gfs-sim SEED`.

use anyhow::bail;
use clap::Parser;
use gfs_tests::sim::{self, Counts, Outcome};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs the whole system in simulated worlds, under faults that a seed chooses
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// Replays one seed and prints everything that happens
    seed: Option<u64>,
    /// How many seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Steps of work under faults in each world, 10 ms of its time [default: 900; with --rpc 6000]
    #[arg(long)]
    steps: Option<u64>,
    /// Worlds at the same time [default: one for each processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// With a seed: logs of the programs, too (filter as of tracing)
    #[arg(long)]
    log: Option<String>,
    /// The other worlds: the programs' RPC over simulated TCP, steps of 5 ms
    #[arg(long, conflicts_with = "log")]
    rpc: bool,
}

/// What several threads work on.
struct Batch {
    next: AtomicU64,
    end: AtomicU64,
    failed: Mutex<Vec<Outcome>>,
    total: Mutex<Counts>,
    done: AtomicU64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.seed {
        Some(seed) => replay(seed, &args),
        None => run_many(&args),
    }
}

#[expect(clippy::print_stdout, reason = "the report of a program for people")]
fn say(line: &str) {
    println!("{line}");
}

fn run(seed: u64, args: &Args, aloud: bool) -> Outcome {
    if args.rpc {
        sim::rpc::run(seed, args.steps.unwrap_or(sim::rpc::STEPS_DEFAULT), aloud)
    } else {
        sim::run(seed, args.steps.unwrap_or(sim::STEPS_DEFAULT), aloud)
    }
}

fn replay(seed: u64, args: &Args) -> anyhow::Result<()> {
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    }
    let outcome = run(seed, args, true);
    say(&format!("seed {seed}: trace {:016x}, {:?}", outcome.hash, outcome.counts));
    match outcome.violation {
        Some(violation) => bail!("seed {seed}: {violation}"),
        None => Ok(()),
    }
}

fn run_many(args: &Args) -> anyhow::Result<()> {
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let batch = Batch {
        next: AtomicU64::new(args.from),
        end: AtomicU64::new(args.from + args.seeds),
        failed: Mutex::default(),
        total: Mutex::default(),
        done: AtomicU64::new(0),
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&batch, args));
        }
    });
    let (done, seconds) = (batch.done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    let total = *batch.total.lock().expect("nobody panicked");
    say(&format!("{done} seeds in {seconds:.1} s, {:.1} seeds/s; {total:?}", done as f64 / seconds));
    let mut failed = batch.failed.into_inner().expect("nobody panicked");
    failed.sort_by_key(|outcome| outcome.seed);
    let Some(first) = failed.first() else { return Ok(()) };
    say(&format!("\nthe last steps of seed {}:", first.seed));
    first.trace.iter().for_each(|line| say(line));
    bail!(
        "{} of {done} seeds failed; replay one with `just sim {}{}`",
        failed.len(),
        if args.rpc { "--rpc " } else { "" },
        first.seed
    )
}

fn work(batch: &Batch, args: &Args) {
    loop {
        let seed = batch.next.fetch_add(1, Ordering::Relaxed);
        if seed >= batch.end.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run(seed, args, false);
        batch.done.fetch_add(1, Ordering::Relaxed);
        batch.total.lock().expect("nobody panicked").add(&outcome.counts);
        if let Some(violation) = &outcome.violation {
            say(&format!("FAILED seed {seed}: {violation}"));
            if !args.keep_going {
                batch.end.store(0, Ordering::Relaxed);
            }
            batch.failed.lock().expect("nobody panicked").push(outcome);
        }
    }
}
