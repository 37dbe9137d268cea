//! A workload's process, as the one who started it sees it.

use crate::faults::history::Event;
use crate::programs::program;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes, cuts, replaces and reads blocks.
    Blocks,
    /// Reads the blocks of another.
    Readers,
    /// Appends records.
    Records,
    /// Makes, renames, links and removes names.
    Names,
    /// Reads once everything that others have left.
    Verify,
}

impl Kind {
    /// On the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Readers => "readers",
            Self::Records => "records",
            Self::Names => "names",
            Self::Verify => "verify",
        }
    }
}

/// A running workload.
pub struct Worker {
    kind: Kind,
    child: Child,
    input: Option<ChildStdin>,
    events: Arc<Mutex<Vec<Event>>>,
    returned: Arc<AtomicU64>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts it in directories, one for each mount that it uses.
    pub fn start(kind: Kind, base: u32, seed: u64, directories: &[PathBuf]) -> Result<Self> {
        let mut command = Command::new(program("gfs-faults")?);
        command.args(["worker", kind.word(), &base.to_string(), &seed.to_string()]).args(directories);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("starting the workload {}", kind.word()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("its output")?);
        let (events, returned) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (into, counted) = (Arc::clone(&events), Arc::clone(&returned));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let line = line?;
                let event = serde_json::from_str(&line).with_context(|| line.clone())?;
                counted.fetch_add(u64::from(matches!(event, Event::Returned { .. })), Ordering::Relaxed);
                into.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
            Ok(())
        });
        Ok(Self { kind, child, input, events, returned, reader: Some(reader) })
    }

    /// Operations that have returned, well or not.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// What it does.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it finish what it does. If it does not within `deadline` it is killed, and what it began stays open.
    pub fn end(mut self, deadline: Duration) -> Result<Vec<Event>> {
        drop(self.input.take());
        let mut status = None;
        let in_time = crate::wait::until("the workload ends", deadline, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        });
        if in_time.is_err() {
            self.child.kill()?;
        } else {
            let well = status.is_some_and(|status| status.success());
            ensure!(well, "the workload {} ended with {status:?}", self.kind.word());
        }
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(Ok(()))) => Ok(std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))),
            Some(Ok(Err(error))) if in_time.is_ok() => Err(error),
            Some(Ok(Err(_))) => Ok(std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))),
            _ => bail!("the output of the workload {} was not read", self.kind.word()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop)); // it may have ended already
    }
}
