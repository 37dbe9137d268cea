//! Starting: master, chunkservers, mount, each when the one before is ready.

use super::home::Home;
use super::plan::{Plan, loopback};
use super::process::{Launch, Process, Started};
use super::programs::Programs;
use super::wait::{self, Deadline};
use super::{mounts, ports};
use crate::failure::usage;
use crate::remote::shown;
use anyhow::{Context as _, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Another port is tried so often when somebody else was faster.
const PORTS_TRIED_MAX: usize = 8;
/// Patience with those that are stopped again because a later one failed.
const UNDO: Duration = Duration::from_secs(10);

/// Starts what does not run; the names of what was started. If anything fails, what was started here
/// is stopped again.
pub(crate) async fn everything(home: &Home, plan: &mut Plan, patience: Duration) -> anyhow::Result<Vec<String>> {
    let programs = Programs::find()?;
    let mut run = Run { home, programs, deadline: Deadline::after(patience), started: Vec::new() };
    let result = run.all(plan).await;
    if let Err(error) = result {
        for (_, process) in run.started.iter().rev() {
            let _ = process.stop(UNDO); // the first error is the one that matters
        }
        if let Some(point) = plan.mount.as_deref().filter(|_| run.has("mount")) {
            let _ = mounts::clear(point, plan.master_address()).await; // likewise
        }
        return Err(error);
    }
    Ok(run.started.into_iter().map(|(name, _)| name).collect())
}

struct Run<'a> {
    home: &'a Home,
    programs: Programs,
    deadline: Deadline,
    started: Vec<(String, Process)>,
}

impl Run<'_> {
    async fn all(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        if let Some(point) = &mut plan.mount {
            self.programs.mount()?;
            *point = prepared(point)?;
            self.refuse_foreign(point).await?;
        }
        self.master(plan).await?;
        for at in 0..plan.chunkservers.len() {
            self.chunkserver(plan, at).await?;
        }
        if let Some(point) = plan.mount.clone() {
            self.mount(plan, &point).await?;
        }
        plan.save(self.home)
    }

    /// Before anything is started or written down: the place may be taken.
    async fn refuse_foreign(&self, point: &Path) -> anyhow::Result<()> {
        if self.runs("mount") {
            return Ok(());
        }
        let Some(mounted) = mounts::taken(point).await else { return Ok(()) };
        bail!(
            "{0} has a {1} ({2}) mounted on it already, which is not this cluster's: unmount it first (umount {0}), \
             or choose another mount point",
            shown(point),
            mounted.kind,
            mounted.source
        )
    }

    fn has(&self, name: &str) -> bool {
        self.started.iter().any(|(started, _)| started == name)
    }

    fn runs(&self, name: &str) -> bool {
        Process::running(&self.home.pid(name)).is_some()
    }

    fn launch(&mut self, name: &str, program: &Path, arguments: &[&OsStr]) -> anyhow::Result<Started> {
        let (log, pid_file) = (self.home.log(name), self.home.pid(name));
        let started = Launch { program, arguments, log: &log, pid_file: &pid_file }.start()?;
        self.started.retain(|(former, _)| former != name); // an attempt on a port that was lost
        self.started.push((name.to_owned(), started.process.clone()));
        Ok(started)
    }

    async fn master(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        if self.runs("master") {
            return Ok(());
        }
        for attempt in 1.. {
            if !ports::is_free(plan.master.port) {
                self.other_master_port(plan)?;
            }
            // saved before the first start: from now on the directory is ours
            plan.save(self.home)?;
            let config = self.home.config("master");
            write_config(&config, &master_config(self.home, plan)?)?;
            let program = self.programs.master.clone();
            let mut started = self.launch("master", &program, &[OsStr::new("--config"), config.as_os_str()])?;
            match wait::for_master(self.home, plan, &mut started, self.deadline).await {
                Err(_) if attempt < PORTS_TRIED_MAX && lost_the_port(&mut started, plan.master.port) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        plan.master.port_is_free_choice = false;
        Ok(())
    }

    fn other_master_port(&self, plan: &mut Plan) -> anyhow::Result<()> {
        let port = plan.master.port;
        if !plan.master.port_is_free_choice {
            bail!(
                "port {port} of this cluster's master is in use by another program: stop that, or give this \
                 cluster another one with --port"
            );
        }
        plan.master.port = plan.other_port()?;
        Ok(())
    }

    async fn chunkserver(&mut self, plan: &mut Plan, at: usize) -> anyhow::Result<()> {
        let name = plan.chunkservers[at].name.clone();
        if self.runs(&name) {
            return Ok(());
        }
        for attempt in 1.. {
            // nobody but the master remembers the port of a chunkserver
            if !ports::is_free(plan.chunkservers[at].port) {
                plan.chunkservers[at].port = plan.other_port()?;
            }
            let port = plan.chunkservers[at].port;
            let config = self.home.config(&name);
            write_config(&config, &chunkserver_config(self.home, plan, &name, port)?)?;
            let program = self.programs.chunkserver.clone();
            let mut started = self.launch(&name, &program, &[OsStr::new("--config"), config.as_os_str()])?;
            match wait::for_chunkserver(self.home, plan, (&name, port), &mut started, self.deadline).await {
                Err(_) if attempt < PORTS_TRIED_MAX && lost_the_port(&mut started, port) => {}
                other => return other,
            }
        }
        Ok(())
    }

    async fn mount(&mut self, plan: &Plan, point: &Path) -> anyhow::Result<()> {
        if self.runs("mount") {
            if mounts::is_of(point, plan.master_address()) {
                return Ok(());
            }
            bail!("this cluster is mounted already, but not at {}; `gfsctl local down` first", shown(point));
        }
        let program = self.programs.mount()?.to_owned();
        let address = plan.master_address().to_string();
        let arguments = ["--master", &address, "--foreground"].map(OsStr::new);
        let arguments: Vec<&OsStr> = arguments.into_iter().chain([point.as_os_str()]).collect();
        let mut started = self.launch("mount", &program, &arguments)?;
        wait::for_mount(self.home, plan, point, &mut started, self.deadline).await
    }
}

/// It ended, and somebody else has the port that it was given.
fn lost_the_port(started: &mut Started, port: u16) -> bool {
    started.ended().is_some() && !ports::is_free(port)
}

/// Makes the directory if it is missing; its path without symbolic links, as the kernel's table has
/// it. A mount that lost its daemon is left to gfs-fuse, and is not looked into here.
fn prepared(point: &Path) -> anyhow::Result<std::path::PathBuf> {
    if mounts::at(point).is_some() {
        return Ok(point.to_owned());
    }
    match fs::metadata(point) {
        Ok(found) if !found.is_dir() => return Err(usage(format!("{} is not a directory", shown(point)))),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(point).with_context(|| format!("cannot make {}", shown(point)))?;
        }
        Err(error) => return Err(error).with_context(|| shown(point)),
    }
    point.canonicalize().with_context(|| shown(point))
}

fn write_config(path: &Path, text: &str) -> anyhow::Result<()> {
    let head = "# Written by `gfsctl local` at each start; changes are lost.\n";
    fs::write(path, format!("{head}{text}")).with_context(|| shown(path))
}

fn master_config(home: &Home, plan: &Plan) -> anyhow::Result<String> {
    let data = home.data("master");
    fs::create_dir_all(&data).with_context(|| shown(&data))?;
    let mut text = format!("data = {}\nlisten = {}\n", quoted(&data)?, toml_string(&plan.master_address().to_string()));
    if let Some(size) = &plan.chunk_size {
        text.push_str(&format!("chunk-size = {}\n", toml_string(size)));
    }
    if let Some(goal) = plan.goal {
        text.push_str(&format!("goal = {goal}\n"));
    }
    Ok(text)
}

fn chunkserver_config(home: &Home, plan: &Plan, name: &str, port: u16) -> anyhow::Result<String> {
    let data = home.data(name);
    fs::create_dir_all(&data).with_context(|| shown(&data))?;
    Ok(format!(
        "directory = {}\nlisten = {}\nsocket = {}\nmaster = {}\n",
        quoted(&data)?,
        toml_string(&loopback(port).to_string()),
        quoted(&home.socket(name))?,
        toml_string(&plan.master_address().to_string()),
    ))
}

fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().ok_or_else(|| usage(format!("{} is not UTF-8, as settings must be", shown(path))))?;
    Ok(toml_string(text))
}

/// A basic string of TOML: quotes, backslashes and control characters are escaped.
fn toml_string(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            _ if letter.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::Wishes;

    #[test]
    fn settings_name_everything_that_the_servers_need() {
        let dir = tempfile::tempdir().expect("directory");
        let home = Home::prepare(dir.path()).expect("empty");
        let wishes = Wishes { chunk_size: Some("1MiB".into()), goal: Some(2), ..Wishes::default() };
        let plan = Plan::load_or_new(&home, &wishes).expect("new");
        let master = master_config(&home, &plan).expect("plain");
        assert!(master.contains("chunk-size = \"1MiB\"\ngoal = 2\n"), "{master}");
        let server = chunkserver_config(&home, &plan, "chunkserver-1", 4711).expect("plain");
        assert!(server.contains("listen = \"127.0.0.1:4711\"") && server.contains("chunkserver-1.sock"), "{server}");
        assert!(home.data("chunkserver-1").is_dir() && home.data("master").is_dir());
    }

    #[test]
    fn odd_paths_are_escaped() {
        assert_eq!(toml_string("a\"b\\c\nd"), r#""a\"b\\c\u000Ad""#);
    }
}
