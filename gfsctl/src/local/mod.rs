//! A cluster on this machine: the real programs as separate processes, everything about them in one
//! directory.
//!
//! ```text
//! DIR/cluster.json    what it consists of: ports, sizes, mount point
//! DIR/config/*.toml   settings of each server, written at each start
//! DIR/data/NAME/      what each server keeps
//! DIR/logs/NAME.log   what each process says
//! DIR/run/NAME.pid    process id, start time and boot id; NAME.sock: data sockets
//! ```
//! A process is only ever signalled after its start time was compared with the one written down, so
//! a number that the system has given to somebody else does no harm.

mod home;
mod mounts;
mod plan;
mod ports;
mod process;
mod programs;
mod report;
mod start;
mod stop;
mod wait;

pub(crate) use plan::Wishes;
pub(crate) use report::Local;

use home::Home;
use plan::Plan;
use std::path::Path;
use std::time::Duration;

/// Starts what does not run.
pub(crate) async fn up(directory: &Path, wishes: &Wishes, patience: Duration) -> anyhow::Result<Local> {
    let home = Home::prepare(directory)?;
    let _lock = home.lock()?;
    let mut plan = Plan::load_or_new(&home, wishes)?;
    let started = start::everything(&home, &mut plan, patience).await?;
    Ok(report::Local::after_up(&home, &plan, started))
}

/// Stops everything in order: mount, chunkservers, master.
pub(crate) async fn down(directory: &Path, patience: Duration) -> anyhow::Result<Local> {
    let home = Home::existing(directory)?;
    let _lock = home.lock()?;
    let plan = Plan::load(&home)?;
    let ended = stop::everything(&home, &plan, patience).await?;
    Ok(report::Local::after_down(&home, &plan, ended))
}

/// [`down`], then [`up`] as it was.
pub(crate) async fn restart(directory: &Path, patience: Duration) -> anyhow::Result<Local> {
    let home = Home::existing(directory)?;
    let _lock = home.lock()?;
    let mut plan = Plan::load(&home)?;
    stop::everything(&home, &plan, patience).await?;
    let started = start::everything(&home, &mut plan, patience).await?;
    Ok(report::Local::after_up(&home, &plan, started))
}

/// What runs.
pub(crate) fn status(directory: &Path) -> anyhow::Result<Local> {
    let home = Home::existing(directory)?;
    let plan = Plan::load(&home)?;
    Ok(report::Local::now(&home, &plan))
}
