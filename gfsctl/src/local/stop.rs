//! Stopping: the mount first, so that it can flush; then those it flushes to; the master last.

use super::home::Home;
use super::mounts;
use super::plan::Plan;
use super::process::{Ending, Process};
use anyhow::Context as _;
use std::fs;
use std::time::Duration;

/// How each process ended, in the order in which they were stopped.
pub(crate) async fn everything(home: &Home, plan: &Plan, patience: Duration) -> anyhow::Result<Vec<(String, Ending)>> {
    let mut ended = Vec::new();
    let servers: Vec<&str> = plan.chunkservers.iter().map(|it| it.name.as_str()).collect();
    ended.extend(together(home, &["mount"], patience).await?);
    if let Some(point) = &plan.mount {
        mounts::clear(point, plan.master_address()).await?;
    }
    ended.extend(together(home, &servers, patience).await?);
    ended.extend(together(home, &["master"], patience).await?);
    Ok(ended)
}

/// Signals all of them at once and waits for each.
async fn together(home: &Home, names: &[&str], patience: Duration) -> anyhow::Result<Vec<(String, Ending)>> {
    let stopping: Vec<_> = names
        .iter()
        .map(|name| {
            let process = Process::running(&home.pid(name));
            let stop = move || process.map_or(Ok(Ending::WasDown), |it| it.stop(patience));
            ((*name).to_owned(), tokio::task::spawn_blocking(stop))
        })
        .collect();
    let mut ended = Vec::with_capacity(stopping.len());
    for (name, stopped) in stopping {
        let ending = stopped.await.with_context(|| format!("stopping {name}"))?;
        let ending = ending.with_context(|| format!("stopping {name}"))?;
        let _ = fs::remove_file(home.pid(&name)); // it may never have been written
        ended.push((name, ending));
    }
    Ok(ended)
}
