//! Disks that fail: a system call of a running server is answered with EIO, as strace(1) can have it, or its file
//! system takes nothing any more.
//!
//! A chunkserver takes the directory out of service and lives on; a person looks at the disk and has it used again.
//! The master ends, and is started again.

use super::{Field, Lost, Strike};
use crate::daemon::Daemon;
use crate::data::Stream;
use crate::faults::history::Moment;
use crate::wait::until;
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flushes; the number is counted by each thread.
pub(super) const FLUSHES: &str = "fsync,fdatasync";
/// Reads of files; nothing else is read so.
pub(super) const READS: &str = "pread64,preadv,preadv2";
/// The highest number that is drawn.
const CALLS_MAX: u64 = 12;
/// A server that does not call so often within this time is left alone, which is not counted.
const PATIENCE: Duration = Duration::from_secs(4);
/// After a call has failed everybody knows within this.
const KNOWN: Duration = Duration::from_secs(10);
/// Copies are made elsewhere meanwhile.
const REPAIRING: Duration = Duration::from_secs(2);
/// All copies are there again before the next disk fails, unless the load does not let them.
const HEALED: Duration = Duration::from_secs(60);

/// A call of a chunkserver fails.
pub(super) fn chunkserver(field: &mut Field, calls: &str, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    let failed = inject(field.cluster.chunkserver_process(number), calls, chance, field.cluster.directory())?;
    if !failed {
        return Ok(Strike { count: 0, loss: None });
    }
    out_of_service(field, number, &format!("{calls} failed"));
    let _ = until("copies are made", REPAIRING, || Ok(false)); // an error by intent: the time is part of the fault
    field.cluster.kill_chunkserver(number)?;
    used_again(&field.cluster.chunkserver_directory(number))?;
    field.start_all()?;
    await_health(field);
    Ok(Strike { count: 1, loss: None })
}

/// A flush of the master fails.
pub(super) fn master(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let directory = field.cluster.directory().to_owned();
    let failed = inject(field.cluster.master_process(), FLUSHES, chance, &directory)?;
    if failed {
        master_ends(field, "its flush failed")?;
    }
    Ok(Strike { count: u32::from(failed), loss: None })
}

/// The file system of a chunkserver takes nothing any more; later the machine starts again with another boot id.
pub(super) fn dead_disk(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let from = Moment::now();
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    field.disks[number].cut()?;
    out_of_service(field, number, "its disk died");
    let _ = until("copies are made", REPAIRING, || Ok(false)); // an error by intent
    field.cluster.kill_chunkserver(number)?;
    field.disks[number].restart()?;
    field.cluster.restart_machine(number)?;
    field.cut.insert(number);
    used_again(&field.cluster.chunkserver_directory(number))?;
    field.start_all()?;
    await_health(field);
    let loss = field.could_lose().then_some(Lost { from, mount: false });
    Ok(Strike { count: 1, loss })
}

/// The same for the master.
pub(super) fn master_dead_disk(field: &mut Field) -> Result<Strike> {
    field.master_disk.as_ref().context("the master has no disk of its own")?.cut()?;
    // it may have nothing to write for a while
    let ended = ends(field)?;
    field.promised(ended, || "the master goes on although its disk is dead".to_owned());
    field.cluster.kill_master()?;
    field.master_disk.as_ref().context("the master has no disk of its own")?.restart()?;
    field.cluster.start_master()?;
    Ok(Strike { count: 1, loss: None })
}

fn master_ends(field: &mut Field, why: &str) -> Result<()> {
    let ended = ends(field)?;
    field.promised(ended, || format!("the master goes on although {why}"));
    field.cluster.kill_master()?;
    field.cluster.start_master()
}

fn ends(field: &mut Field) -> Result<bool> {
    let daemon = field.cluster.master_process();
    let mut status = None;
    let in_time = until("it ends", KNOWN, || {
        status = daemon.ended()?;
        Ok(status.is_some())
    });
    Ok(in_time.is_ok() && status.is_some_and(|status| !status.success()))
}

/// Everybody has to know that a directory is not used any more.
fn out_of_service(field: &mut Field, number: usize, why: &str) {
    let data = fs::canonicalize(field.cluster.chunkserver_directory(number)).unwrap_or_default();
    let said = until("its directory is out of service", KNOWN, || {
        let listed = field.cluster.gfsctl_json(&["chunkservers"])?;
        let servers = listed["chunkservers"].as_array().context("no list of chunkservers")?;
        let mut all = servers.iter().filter_map(|server| server["directories"].as_array()).flatten();
        let is = |path: &str| fs::canonicalize(path).is_ok_and(|path| path == data);
        Ok(all.any(|it| it["path"].as_str().is_some_and(is) && it["error"].as_str().is_some_and(|it| !it.is_empty())))
    });
    field.promised(said.is_ok(), || format!("chunkserver-{number} goes on although {why}: {said:?}"));
}

/// As a person does who has looked at the disk.
fn used_again(directory: &Path) -> Result<()> {
    let flag = directory.join("failed");
    match fs::remove_file(&flag) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.with_context(|| flag.display().to_string()),
    }
}

fn await_health(field: &Field) {
    let _ = until("all copies are there", HEALED, || field.is_healthy()); // the end of the round insists on it
}

/// Has a call of a running process fail; false if none was made in time.
fn inject(daemon: &Daemon, calls: &str, chance: &mut Stream, directory: &Path) -> Result<bool> {
    let pid = daemon.pid().context("it does not run")?.as_raw_nonzero().to_string();
    let when = 1 + (chance.number() >> 33) % CALLS_MAX;
    let told = directory.join("strace");
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=EIO:when={when}"));
    let words = ["-f", "-qq", "-o", &told.display().to_string(), "-p", &pid, "-e", &trace, "-e", &inject];
    let words = words.into_iter().map(str::to_owned).collect();
    fs::write(&told, "")?;
    let mut tracer = Daemon::new("strace", PathBuf::from("/usr/bin/strace"), words, directory.join("strace.log"));
    tracer.start()?;
    let failed = until("a call fails", PATIENCE, || Ok(fs::read_to_string(&told)?.contains("(INJECTED)"))).is_ok();
    // it lets go of the process before it ends
    tracer.signal(Signal::TERM)?;
    let _ = tracer.wait_end(); // the signal is its status
    Ok(failed)
}
