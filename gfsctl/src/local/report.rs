//! What a local cluster looks like, for people and programs.

use super::home::Home;
use super::mounts;
use super::plan::{Plan, loopback};
use super::process::{Ending, Process};
use crate::output::{Align, Page, Report, Table};
use crate::remote::shown;
use serde::Serialize;

/// What was done.
#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Done {
    Looked,
    Up,
    Down,
}

/// State of a local cluster, after something was done with it or not.
#[derive(Serialize)]
pub(crate) struct Local {
    #[serde(skip)]
    done: Done,
    running: bool,
    directory: String,
    master: String,
    mount: Option<String>,
    mounted: bool,
    /// Mounted, and its process is gone: whoever uses it gets errors.
    mount_dead: bool,
    /// Names of what this call has started.
    started: Vec<String>,
    /// Names of what this call had to kill.
    killed: Vec<String>,
    processes: Vec<Row>,
    #[serde(skip)]
    was_down: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    running: bool,
    pid: Option<i32>,
    address: Option<String>,
    data: Option<String>,
    log: String,
}

impl Local {
    pub(crate) fn after_up(home: &Home, plan: &Plan, started: Vec<String>) -> Self {
        Self { done: Done::Up, started, ..Self::now(home, plan) }
    }

    pub(crate) fn after_down(home: &Home, plan: &Plan, ended: Vec<(String, Ending)>) -> Self {
        let was_down = ended.iter().all(|(_, ending)| *ending == Ending::WasDown);
        let killed = ended.into_iter().filter(|(_, ending)| *ending == Ending::Killed).map(|(name, _)| name);
        Self { done: Done::Down, was_down, killed: killed.collect(), ..Self::now(home, plan) }
    }

    pub(crate) fn now(home: &Home, plan: &Plan) -> Self {
        let row = |name: &str| {
            let port = match name {
                "master" => Some(plan.master.port),
                _ => plan.chunkservers.iter().find(|it| it.name == name).map(|it| it.port),
            };
            let process = Process::running(&home.pid(name));
            Row {
                running: process.is_some(),
                pid: process.map(|it| it.pid),
                address: port.map(|port| loopback(port).to_string()),
                data: port.map(|_| shown(&home.data(name))),
                log: shown(&home.log(name)),
                name: name.to_owned(),
            }
        };
        let processes: Vec<Row> = plan.names().into_iter().map(row).collect();
        let mounted = plan.mount.as_deref().is_some_and(|point| mounts::is_of(point, plan.master_address()));
        Self {
            done: Done::Looked,
            running: processes.iter().all(|it| it.running),
            directory: shown(home.path()),
            master: plan.master_address().to_string(),
            mount: plan.mount.as_deref().map(shown),
            mounted,
            mount_dead: mounted && processes.iter().any(|it| it.name == "mount" && !it.running),
            started: Vec::new(),
            killed: Vec::new(),
            processes,
            was_down: false,
        }
    }

    fn headline(&self) -> String {
        let directory = &self.directory;
        match self.done {
            Done::Looked if self.running => format!("the cluster in {directory} runs"),
            Done::Looked if self.processes.iter().any(|it| it.running) => {
                format!("the cluster in {directory} runs only in part; `gfsctl local up {directory}` completes it")
            }
            Done::Looked => format!("the cluster in {directory} does not run; `gfsctl local up {directory}` starts it"),
            Done::Up if self.started.is_empty() => format!("the cluster in {directory} runs already"),
            Done::Up => format!("the cluster in {directory} runs (started: {})", self.started.join(", ")),
            Done::Down if self.was_down => format!("the cluster in {directory} did not run"),
            Done::Down => format!("the cluster in {directory} is stopped; its data stays"),
        }
    }
}

impl Report for Local {
    fn human(&self, page: &mut Page) {
        page.line(self.headline());
        for name in &self.killed {
            page.line(format!("{name} did not end in time and was killed; its log may say why"));
        }
        if let Some(mount) = self.mount.as_ref().filter(|_| self.mount_dead) {
            let directory = &self.directory;
            page.line(format!(
                "the mount at {mount} is dead, its process is gone; `gfsctl local up {directory}` mounts it again"
            ));
        }
        if self.done == Done::Down {
            return;
        }
        page.line("");
        let mut table = Table::new(&[
            ("PROCESS", Align::Left),
            ("PID", Align::Right),
            ("ADDRESS", Align::Left),
            ("LOG", Align::Left),
        ]);
        for row in &self.processes {
            table.row(vec![
                row.name.clone(),
                row.pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string()),
                row.address.clone().or_else(|| self.mount.clone()).unwrap_or_default(),
                row.log.clone(),
            ]);
        }
        page.table(&table);
        if self.running {
            page.line("");
            page.line(format!("other programs find it with GFS_MASTER={}", self.master));
        }
    }

    /// `local status` answers a script, too.
    fn exit_status(&self) -> u8 {
        u8::from(self.done == Done::Looked && !self.running)
    }
}
