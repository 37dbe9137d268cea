//! Power cuts: the process is gone, and what it had not flushed with it. The machine starts again under another boot
//! id, with a file system that replays its journal.

use super::{Field, Lost, Strike, kill};
use crate::data::Stream;
use crate::faults::history::Moment;
use anyhow::{Context, Result};
use rustix::process::Signal;

/// One of them; every fourth time the next fault comes before it has registered.
pub(super) fn chunkserver(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let from = Moment::now();
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    field.cluster.kill_chunkserver(number)?;
    lose_power(field, &[number])?;
    if chance.number() >> 62 == 0 {
        field.launch()?
    } else {
        field.start_all()?
    }
    let loss = field.could_lose().then_some(Lost { from, mount: false });
    Ok(Strike { count: 1, loss })
}

/// All of them, at the same time.
pub(super) fn chunkservers(field: &mut Field) -> Result<Strike> {
    let from = Moment::now();
    kill::all(field)?;
    let numbers: Vec<usize> = (0..field.servers()).collect();
    lose_power(field, &numbers)?;
    field.start_all()?;
    Ok(Strike { count: u32::try_from(numbers.len())?, loss: Some(Lost { from, mount: false }) })
}

pub(super) fn master(field: &mut Field) -> Result<Strike> {
    field.cluster.kill_master()?;
    master_loses_power(field)?;
    field.cluster.start_master()?;
    Ok(Strike { count: 1, loss: None })
}

/// The master and all chunkservers, at the same time.
pub(super) fn servers(field: &mut Field) -> Result<Strike> {
    let from = Moment::now();
    field.cluster.master_process().signal(Signal::KILL)?;
    kill::all(field)?;
    field.cluster.kill_master()?;
    let numbers: Vec<usize> = (0..field.servers()).collect();
    lose_power(field, &numbers)?;
    master_loses_power(field)?;
    field.cluster.start_master()?;
    field.start_all()?;
    Ok(Strike { count: u32::try_from(numbers.len())? + 1, loss: Some(Lost { from, mount: false }) })
}

/// All disks stop before the first one starts again.
fn lose_power(field: &mut Field, numbers: &[usize]) -> Result<()> {
    numbers.iter().try_for_each(|number| field.disks[*number].cut())?;
    for number in numbers {
        field.disks[*number].restart()?;
        field.cluster.restart_machine(*number)?;
        field.cut.insert(*number);
    }
    Ok(())
}

fn master_loses_power(field: &Field) -> Result<()> {
    let disk = field.master_disk.as_ref().context("the master has no disk of its own")?;
    disk.cut()?;
    disk.restart()
}
