//! Processes hang while files are used: every operation ends within its bound, and nothing is lost.

use anyhow::{Context, Result, bail, ensure};
use gfs_tests::{Cluster, Options, Stream, answers, scenario, until};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const EIO: i32 = 5;
const ETIMEDOUT: i32 = 110;
/// A hung chunkserver is found and left out in two seconds. Without looking for signs of life it takes ten or more.
const NOTICED: Duration = Duration::from_secs(7);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// Bound on things that have no bound of their own.
const STEP: Duration = Duration::from_secs(60);

/// The longest of several operations.
#[derive(Default)]
struct Longest(Duration);

impl Longest {
    fn time<T>(&mut self, operation: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = operation();
        self.0 = self.0.max(began.elapsed());
        done.with_context(|| format!("an operation that took {:?}", began.elapsed()))
    }
}

fn ensure_times_out<T>(what: &str, bound: Duration, operation: impl FnOnce() -> io::Result<T>) -> Result<()> {
    let began = Instant::now();
    let outcome = operation();
    let took = began.elapsed();
    ensure!(took < bound + SLACK, "{what} took {took:?}");
    match outcome.map_err(|error| error.raw_os_error()) {
        Err(Some(EIO | ETIMEDOUT)) => Ok(()),
        Err(other) => bail!("{what} failed with error {other:?}"),
        Ok(_) => bail!("{what} succeeded"),
    }
}

fn log_of(cluster: &Cluster, name: &str) -> Result<String> {
    fs::read_to_string(cluster.path(&format!("{name}.log"))).context("reading a log")
}

/// Writes, flushes and reads in turns until `rounds` are over; the server hangs after a third of them.
fn use_file(cluster: &mut Cluster, path: &Path, rounds: usize) -> Result<Longest> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    let (mut longest, mut back) = (Longest::default(), vec![0; MIB]);
    for round in 0..rounds {
        if round == rounds / 3 {
            cluster.pause_chunkserver(1)?;
        }
        let at = (round * MIB) as u64;
        let piece = Stream::new(round as u64).bytes(MIB);
        longest.time(|| file.write_all_at(&piece, at))?;
        longest.time(|| file.sync_data())?;
        longest.time(|| file.read_exact_at(&mut back, at))?;
        ensure!(back == piece, "round {round}");
    }
    Ok(longest)
}

fn check_file(path: &Path, rounds: usize, longest: &mut Longest) -> Result<()> {
    let file = File::open(path)?;
    let mut back = vec![0; MIB];
    for round in 0..rounds {
        longest.time(|| file.read_exact_at(&mut back, (round * MIB) as u64))?;
        ensure!(back == Stream::new(round as u64).bytes(MIB), "round {round}");
    }
    Ok(())
}

#[test]
fn a_chunkserver_that_hangs_is_a_pause_and_no_error() {
    let options = Options { chunkservers: 4, chunk_size: "4MiB", ..Options::default() };
    scenario(options, |cluster| {
        const ROUNDS: usize = 30;
        let file = cluster.mount()?.join("file");
        let mut longest = use_file(cluster, &file, ROUNDS)?;
        cluster.replace_mount(0)?;
        check_file(&file, ROUNDS, &mut longest)?;
        ensure!(longest.0 < NOTICED, "the longest operation took {:?}", longest.0);
        cluster.resume_chunkserver(1)?;
        cluster.wait_chunkservers(4)?;
        cluster.replace_mount(0)?;
        check_file(&file, ROUNDS, &mut longest)
    });
}

#[test]
fn a_master_that_hangs_longer_than_the_bound_is_a_timeout_and_no_more() {
    const BOUND: Duration = Duration::from_secs(3);
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount_with(&["-o", "timeout=3"])?;
        let kept = Stream::new(1).bytes(MIB);
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(mount.join("open"))?;
        file.write_all_at(&kept, 0)?;
        file.sync_all()?;
        cluster.pause_master()?;
        ensure_times_out("mkdir", BOUND, || fs::create_dir(mount.join("directory")))?;
        ensure_times_out("open", BOUND, || File::create(mount.join("another")))?;
        cluster.resume_master()?;

        until("the mount works again", STEP, || Ok(fs::create_dir(mount.join("later")).is_ok()))?;
        file.write_all_at(&kept, MIB as u64).context("writing to the file that stayed open")?;
        file.sync_all().context("flushing it")?;
        drop(file);
        let log = log_of(cluster, "mount-0")?;
        let said = |line: &str| line.contains("operation=") && line.contains("the master at");
        ensure!(log.lines().any(said), "the log does not say who was in the way");
        cluster.stop_mount(0)?;
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("open"))? == [kept.clone(), kept].concat(), "what was written has changed");
        Ok(())
    });
}

/// A mount, a file that it has not read yet, and a new one.
fn hang_all_chunkservers(cluster: &mut Cluster) -> Result<(PathBuf, File, File)> {
    let mount = cluster.mount_with(&["-o", "timeout=4"])?;
    fs::write(mount.join("old"), vec![1; MIB])?;
    cluster.stop_mount(0)?;
    cluster.start_mount(0)?;
    cluster.gfsctl(&["cat", "/old"])?; // the master has heard of its replicas
    let old = File::open(mount.join("old"))?;
    let new = OpenOptions::new().create_new(true).write(true).open(mount.join("new"))?;
    (0..3).try_for_each(|number| cluster.pause_chunkserver(number))?;
    Ok((mount, old, new))
}

#[test]
fn no_operation_takes_longer_than_its_bound_when_no_chunkserver_answers() {
    const BOUND: Duration = Duration::from_secs(4);
    scenario(Options::default(), |cluster| {
        let (mount, old, file) = hang_all_chunkservers(cluster)?;
        ensure_times_out("read", BOUND, || old.read_exact_at(&mut [0; 4096], 0))?;
        file.write_all_at(&[2; 4096], 0).context("what is written is kept")?;
        ensure_times_out("fsync", BOUND, || file.sync_all())?;
        let log = log_of(cluster, "mount-0")?;
        for operation in ["read", "fsync"] {
            let name = format!("operation=\"{operation}\"");
            let hangs = |line: &str| line.contains("the server hangs") || line.contains("cannot be reached");
            let said = |line: &str| line.contains(&name) && line.contains("cs") && hangs(line);
            ensure!(log.lines().any(said), "the log does not say who kept the {operation}");
        }
        (0..3).try_for_each(|number| cluster.resume_chunkserver(number))?;
        until("it can be written again", STEP, || {
            Ok(file.write_all_at(&[3; 4096], 0).and_then(|()| file.sync_all()).is_ok())
        })?;
        until("it can be read again", STEP, || Ok(old.read_exact_at(&mut [0; 4096], 0).is_ok()))?;
        drop((old, file));
        // in order: what a dead mount had open is waited for longer than this one's bound
        cluster.stop_mount(0)?;
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("new"))? == [3; 4096], "what was flushed has changed");
        Ok(())
    });
}

#[test]
fn a_mount_whose_process_was_killed_is_cleared_by_the_next() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        fs::write(mount.join("file"), "kept")?;
        cluster.kill_mount(0)?;
        ensure!(!answers(&mount), "nobody serves it");
        cluster.start_mount(0)?;
        ensure!(fs::read(mount.join("file"))? == b"kept");
        let log = log_of(cluster, "mount-0")?;
        ensure!(log.contains("was the mount of a program that has died"), "it does not say what it found");
        Ok(())
    });
}
