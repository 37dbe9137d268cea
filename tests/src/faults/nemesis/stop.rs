//! SIGSTOP: connections stay, nothing is answered. It ends after a while, and the process goes on where it was.

use super::{Field, Strike};
use crate::data::Stream;
use crate::wait::until;
use anyhow::Result;
use rustix::process::Signal;
use std::time::Duration;

/// Longer than a request waits for a server that hangs, and than the master needs to take it for suspect.
const STOPPED: Duration = Duration::from_millis(3500);

/// One chunkserver.
pub(super) fn chunkserver(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    field.cluster.chunkserver_process(number).signal(Signal::STOP)?;
    pass();
    field.cluster.chunkserver_process(number).signal(Signal::CONT)?;
    field.start_all()?;
    Ok(Strike { count: 1, loss: None })
}

/// The master.
pub(super) fn master(field: &Field) -> Result<Strike> {
    field.cluster.pause_master()?;
    pass();
    field.cluster.resume_master()?;
    Ok(Strike { count: 1, loss: None })
}

/// The fault is the time that passes.
fn pass() {
    let _ = until("the time has passed", STOPPED, || Ok(false)); // an error by intent
}
