//! Waiting until what was started is of use.

use super::home::Home;
use super::mounts;
use super::plan::{Plan, loopback};
use super::ports::listens;
use super::process::Started;
use crate::context::ask;
use crate::remote::shown;
use anyhow::bail;
use gfs_proto::wire::{ChunkserversRequest, StatusRequest};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Bound on one question to a server that has just started.
const ANSWER: Duration = Duration::from_secs(2);

/// Until when to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    pub(crate) fn after(patience: Duration) -> Self {
        Self { at: Instant::now() + patience, patience }
    }
}

/// Looks at a process, and at whether it is ready, until one of them says something. `what` completes
/// "it did not …".
async fn until(
    home: &Home,
    (name, started): (&str, &mut Started),
    deadline: Deadline,
    what: &str,
    ready: impl AsyncFn(i32) -> bool,
) -> anyhow::Result<()> {
    let log = home.log(name);
    loop {
        // first: what answers in its place is somebody else
        if let Some(status) = started.ended() {
            bail!("{name} ended with {status}; the end of {}:\n{}", shown(&log), started.log_tail(&log).trim_end());
        }
        if ready(started.process.pid).await {
            return Ok(());
        }
        if Instant::now() >= deadline.at {
            let tail = started.log_tail(&log);
            bail!(
                "{name} did not {what} within {:.0?}; the end of {}:\n{}",
                deadline.patience,
                shown(&log),
                tail.trim_end()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The master itself listens at its port, and answers.
pub(crate) async fn for_master(
    home: &Home,
    plan: &Plan,
    started: &mut Started,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let address = plan.master_address();
    let ready = async |pid| {
        let status = async |mut admin: crate::context::Admin| admin.status(StatusRequest {}).await;
        listens(pid, address.port()) && ask(&address.to_string(), ANSWER, status).await.is_ok()
    };
    until(home, ("master", started), deadline, "answer", ready).await
}

/// The master knows the chunkserver as one that is up.
pub(crate) async fn for_chunkserver(
    home: &Home,
    plan: &Plan,
    (name, port): (&str, u16),
    started: &mut Started,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let (master, own) = (plan.master_address().to_string(), loopback(port).to_string());
    let ready = async |pid| {
        let servers = async |mut admin: crate::context::Admin| admin.chunkservers(ChunkserversRequest {}).await;
        let up = |reply: gfs_proto::wire::ChunkserversReply| {
            reply.servers.iter().any(|server| server.state == "up" && server.tcp == own)
        };
        listens(pid, port) && ask(&master, ANSWER, servers).await.is_ok_and(up)
    };
    until(home, (name, started), deadline, "register with the master", ready).await
}

/// The kernel has the mount, and its root answers.
pub(crate) async fn for_mount(
    home: &Home,
    plan: &Plan,
    point: &Path,
    started: &mut Started,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let ready = async |_| {
        let path = point.to_owned();
        // not stat(2): the kernel answers that for a dead mount too, from its cache
        let answered = || tokio::task::spawn_blocking(move || rustix::fs::statfs(path).is_ok());
        mounts::is_of(point, plan.master_address())
            && matches!(tokio::time::timeout(ANSWER, answered()).await, Ok(Ok(true)))
    };
    until(home, ("mount", started), deadline, "mount", ready).await
}
