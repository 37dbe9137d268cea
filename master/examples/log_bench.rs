//! Throughput and latency of the operation log: `log_bench DIRECTORY [PAYLOAD_BYTES]`.
//!
//! The directory must lie on the disk to be measured. Prints, for 1, 4 and 64 proposers on a runtime
//! of four workers, operations per second, the median and the 99th percentile, beside what a bare
//! `pwrite` and `fdatasync` of as many bytes costs there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gfs_master::log::{LogConfig, Position, ReplicatedLog, StateMachine};
use gfs_proto::ids::{ClusterId, LogIndex, Term};

/// How long each row is measured.
const TIME: Duration = Duration::from_secs(3);

struct Nothing;

impl StateMachine for Nothing {
    type Output = ();

    fn apply(&self, _: LogIndex, _: Term, _: &[u8]) {}
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("usage: log_bench DIRECTORY [PAYLOAD_BYTES]")?;
    let payload: usize = arguments.next().map_or(Ok(300), |bytes| bytes.parse()).context("PAYLOAD_BYTES")?;
    let scratch = Path::new(&directory).join(format!("log-bench-{}", std::process::id()));
    std::fs::create_dir(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let outcome = measure(&scratch, payload);
    std::fs::remove_dir_all(&scratch)?;
    outcome
}

fn measure(scratch: &Path, payload: usize) -> Result<()> {
    print("pwrite + fdatasync", bare(&scratch.join("bare"), payload)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    for proposers in [1, 4, 64] {
        let config = LogConfig::single(scratch.join(format!("log-{proposers}")), ClusterId::new([7; 16]));
        let log = Arc::new(ReplicatedLog::open(&config, Position::default(), Arc::new(Nothing))?);
        print(&format!("{proposers} proposers"), runtime.block_on(propose(&log, proposers, payload))?);
        log.stop();
    }
    Ok(())
}

/// The floor: one writer, no log.
fn bare(path: &Path, payload: usize) -> Result<Vec<Duration>> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; 64 << 20], 0)?;
    file.sync_all()?;
    let bytes = vec![1; payload];
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < TIME {
        let begin = Instant::now();
        file.write_all_at(&bytes, (times.len() * payload % (32 << 20)) as u64)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

async fn propose(log: &Arc<ReplicatedLog<Nothing>>, proposers: usize, payload: usize) -> Result<Vec<Duration>> {
    let start = Instant::now();
    let proposer = |log: Arc<ReplicatedLog<Nothing>>| async move {
        let mut times = Vec::new();
        while start.elapsed() < TIME {
            let begin = Instant::now();
            log.propose(vec![1; payload]).await?;
            times.push(begin.elapsed());
        }
        anyhow::Ok(times)
    };
    let tasks: Vec<_> = (0..proposers).map(|_| tokio::spawn(proposer(log.clone()))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(times)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default().as_micros();
    let rate = times.len() as f64 / TIME.as_secs_f64();
    println!("{what:<20} {rate:>9.0} ops/s   p50 {:>6} us   p99 {:>6} us", at(50), at(99));
}
