//! One process of a cluster: how it is started, ended, and looked at.

use crate::wait::until;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Bound on a clean end.
const END: Duration = Duration::from_secs(30);

/// A process that can be ended and started again with the same arguments.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    log: PathBuf,
    orphan_signal: Signal,
    child: Option<Child>,
}

impl Daemon {
    /// Not started yet. Its output goes to `log`.
    pub fn new(name: &str, program: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        let (name, wrapper, environment) = (name.to_owned(), Vec::new(), Vec::new());
        Self { name, program, arguments, wrapper, environment, log, orphan_signal: Signal::KILL, child: None }
    }

    /// Variables of the environment, from its next start on.
    pub fn environment(&mut self, environment: Vec<(&'static str, PathBuf)>) {
        self.environment = environment;
    }

    /// From its next start on it is started by this command, which must become it by exec: what is ended here is the
    /// process that was started.
    pub fn wrap(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    /// If the test itself dies, this signal ends the process rather than SIGKILL.
    #[must_use]
    pub fn orphan_signal(mut self, signal: Signal) -> Self {
        self.orphan_signal = signal;
        self
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process number, while it was not ended here.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Starts it.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut words = self.wrapper.iter().map(Path::new).chain([self.program.as_path()]);
        let mut command = Command::new(words.next().unwrap_or(&self.program));
        command
            .args(words)
            .args(&self.arguments)
            .env_remove("GFS_MASTER")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        die_with_us(&mut command, self.orphan_signal);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// How it ended, if it ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// Waits until `ready`, unless it ends before.
    pub fn wait_ready(&mut self, what: &str, deadline: Duration, ready: impl Fn() -> Result<bool>) -> Result<()> {
        let name = self.name.clone();
        let mut ended = None;
        until(&format!("{name} {what}"), deadline, || {
            ended = self.ended()?;
            Ok(ended.is_some() || ready()?)
        })?;
        match ended {
            Some(status) => bail!("{name} ended with {status}"),
            None => Ok(()),
        }
    }

    /// A signal, if it runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.pid() {
            Some(pid) => kill_process(pid, signal).with_context(|| format!("{signal:?} to {}", self.name)),
            None => Ok(()),
        }
    }

    /// SIGSTOP. Its threads stop one by one, so this waits for the last.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?.as_raw_nonzero();
        until(&format!("every thread of {} has stopped", self.name), END, || {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                if !stat.rsplit_once(')').is_some_and(|(_, state)| state.starts_with(" T")) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// SIGKILL, and it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("killing {}", self.name))?;
            child.wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(())
    }

    /// SIGTERM; it must end in time and with success.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_end()
    }

    /// It must end by itself, in time and with success.
    pub fn wait_end(&mut self) -> Result<()> {
        let name = self.name.clone();
        let mut ended = None;
        if self.child.is_none() {
            return Ok(());
        }
        until(&format!("{name} ends"), END, || {
            ended = self.ended()?;
            Ok(ended.is_some())
        })?;
        self.child = None;
        match ended {
            Some(status) if !status.success() => bail!("{name} ended with {status}"),
            _ => Ok(()),
        }
    }

    /// It was started, was not ended here, and still runs.
    pub fn check(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("{} ended by itself with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill(); // it may have ended already
    }
}

/// A test that is killed leaves nothing behind: the kernel signals its children.
fn die_with_us(command: &mut Command, signal: Signal) {
    let ask = move || set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from);
    #[expect(unsafe_code, reason = "the standard library has no call for it")]
    // SAFETY: prctl(2) is one system call, allocates nothing and takes no lock, so it may run between
    // fork and exec.
    unsafe {
        command.pre_exec(ask);
    }
}
