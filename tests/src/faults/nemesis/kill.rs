//! SIGKILL: the process is gone, what it wrote is in the page cache of a machine that goes on.

use super::{Field, Lost, Strike};
use crate::data::Stream;
use crate::faults::history::Moment;
use anyhow::Result;
use rustix::process::Signal;

/// No bytes can be lost.
fn killed(count: usize) -> Result<Strike> {
    Ok(Strike { count: u32::try_from(count)?, loss: None })
}

/// One of them; every fourth time the next fault comes before it has registered.
pub(super) fn chunkserver(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    field.cluster.kill_chunkserver(number)?;
    if chance.number() >> 62 == 0 {
        field.launch()?
    } else {
        field.start_all()?
    }
    killed(1)
}

/// All of them, at the same time.
pub(super) fn chunkservers(field: &mut Field) -> Result<Strike> {
    let count = all(field)?;
    field.start_all()?;
    killed(count)
}

/// The signal to all before the end of the first is waited for.
pub(super) fn all(field: &mut Field) -> Result<usize> {
    let running = (0..field.servers()).filter(|number| field.cluster.chunkserver_process(*number).pid().is_some());
    let running: Vec<usize> = running.collect();
    for number in &running {
        field.cluster.chunkserver_process(*number).signal(Signal::KILL)?;
    }
    running.iter().try_for_each(|number| field.cluster.kill_chunkserver(*number))?;
    Ok(running.len())
}

pub(super) fn master(field: &mut Field) -> Result<Strike> {
    field.cluster.kill_master()?;
    field.cluster.start_master()?;
    killed(1)
}

pub(super) fn servers(field: &mut Field) -> Result<Strike> {
    field.cluster.master_process().signal(Signal::KILL)?;
    let count = all(field)? + 1;
    field.cluster.kill_master()?;
    field.cluster.start_master()?;
    field.start_all()?;
    killed(count)
}

/// The mount that is written through: what it had in memory is gone.
pub(super) fn mount(field: &mut Field) -> Result<Strike> {
    let from = Moment::now();
    field.cluster.replace_mount(0)?;
    Ok(Strike { count: 1, loss: Some(Lost { from, mount: true }) })
}
