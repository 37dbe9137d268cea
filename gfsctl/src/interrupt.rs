//! Ctrl-C and SIGTERM for commands that have something to tidy up: the work is given up, the caller goes on.

use anyhow::{Context as _, Result};
use std::fmt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit status of what SIGINT ended, as shells have it.
pub(crate) const STATUS: u8 = 130;

/// Somebody did not want to wait; what was half done is taken away.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The outcome of `work`, which is dropped at the first signal. From then on a second one ends the process at once.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = listen()?;
    tokio::select! {
        outcome = work => {
            tokio::spawn(end_at(signals)); // this process catches them from now on
            outcome
        }
        () = either(&mut signals) => {
            tokio::spawn(end_at(signals));
            Err(Interrupted.into())
        }
    }
}

fn listen() -> Result<(Signal, Signal)> {
    let caught = |kind| signal(kind).context("cannot catch signals");
    Ok((caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?))
}

async fn either((interrupt, terminate): &mut (Signal, Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn end_at(mut signals: (Signal, Signal)) {
    either(&mut signals).await;
    std::process::exit(i32::from(STATUS));
}
