//! Processes that outlive this one: started in a session of their own, found again by number, start
//! time and boot, signalled through a descriptor that cannot mean anybody else.

use crate::remote::shown;
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One process, whatever happens to its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks after boot (proc(5), field 22 of `stat`).
    start: u64,
    /// Of the boot in which it was started.
    boot: String,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It did not run.
    WasDown,
    /// By itself, after SIGTERM.
    Stopped,
    /// It did not end in time and was killed.
    Killed,
}

impl Process {
    /// The process with that number, if it runs.
    fn current(pid: i32) -> Option<Self> {
        Self::known(pid).filter(|(_, ended)| !ended).map(|(process, _)| process)
    }

    /// The process with that number, and whether it has ended and was not reaped.
    fn known(pid: i32) -> Option<(Self, bool)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (start, ended) = start_of(&stat)?;
        Some((Self { pid, start, boot: boot_id() }, ended))
    }

    /// What a pid file says, if that process still runs.
    pub(crate) fn running(pid_file: &Path) -> Option<Self> {
        let text = fs::read_to_string(pid_file).ok()?;
        let written = Self::parse(&text)?;
        (Self::current(written.pid).as_ref() == Some(&written)).then_some(written)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let start = words.next()?.parse().ok()?;
        Some(Self { pid, start, boot: words.next()?.to_owned() })
    }

    /// Writes it down; the number stands alone in the first line, as other tools expect it.
    fn write(&self, pid_file: &Path) -> anyhow::Result<()> {
        fs::write(pid_file, format!("{}\n{} {}\n", self.pid, self.start, self.boot)).with_context(|| shown(pid_file))
    }

    /// SIGTERM, and SIGKILL if it has not ended by then.
    pub(crate) fn stop(&self, patience: Duration) -> anyhow::Result<Ending> {
        let context = || format!("cannot signal process {}", self.pid);
        let Some(handle) = self.handle().with_context(context)? else { return Ok(Ending::WasDown) };
        if !send(&handle, Signal::TERM).with_context(context)? || ended(&handle, patience)? {
            return Ok(Ending::Stopped);
        }
        const KILL_PATIENCE: Duration = Duration::from_secs(10);
        send(&handle, Signal::KILL).with_context(context)?;
        anyhow::ensure!(ended(&handle, KILL_PATIENCE)?, "process {} survives even SIGKILL", self.pid);
        Ok(Ending::Killed)
    }

    /// A descriptor of the process; it is compared after opening, so it means no other.
    fn handle(&self) -> rustix::io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok((Self::current(self.pid).as_ref() == Some(self)).then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// False if it has ended already.
fn send(handle: &OwnedFd, signal: Signal) -> rustix::io::Result<bool> {
    match pidfd_send_signal(handle, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for the end of a process, also of one that is not our child.
fn ended(handle: &OwnedFd, patience: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a time to wait")?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for a process"),
        }
    }
}

/// Start time in a line of `/proc/PID/stat`, and whether that process has ended and was not reaped.
fn start_of(stat: &str) -> Option<(u64, bool)> {
    const START_AFTER_STATE: usize = 19;
    let after_name = stat.rsplit_once(')')?.1; // a name may hold blanks and parentheses
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(START_AFTER_STATE - 1)?.parse().ok()?;
    Some((start, matches!(state, "Z" | "X")))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What is to be started.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [&'a OsStr],
    pub(crate) log: &'a Path,
    pub(crate) pid_file: &'a Path,
}

/// A process that was started and is watched until it is ready.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Process,
    child: Child,
    /// Length of the log before this run.
    log_from: u64,
}

impl Launch<'_> {
    /// Starts it: own session, nothing on standard input, both outputs at the end of the log.
    pub(crate) fn start(&self) -> anyhow::Result<Started> {
        let log = File::options().create(true).append(true).open(self.log).with_context(|| shown(self.log))?;
        let log_from = log.metadata().with_context(|| shown(self.log))?.len();
        let mut command = Command::new(self.program);
        command
            .args(self.arguments)
            .env_remove(gfs_proto::limits::MASTER_ADDRESS_ENV) // it would overrule the written settings
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().with_context(|| shown(self.log))?)
            .stderr(log);
        own_session(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(self.program)))?;
        let pid = i32::try_from(child.id()).context("a process number")?;
        // one that has ended already keeps its number until we ask for its status
        let (process, _) = Process::known(pid).context("a child that nobody has reaped")?;
        process.write(self.pid_file)?;
        Ok(Started { process, child, log_from })
    }
}

/// A terminal that goes away takes its session with it, but not these.
fn own_session(command: &mut Command) {
    let detach = || rustix::process::setsid().map(drop).map_err(std::io::Error::from);
    #[expect(unsafe_code, reason = "the standard library has a call for process groups, but none for sessions")]
    // SAFETY: setsid(2) is one system call, allocates nothing and takes no lock, so it may run
    // between fork and exec.
    unsafe {
        command.pre_exec(detach);
    }
}

impl Started {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// The last lines that this run has written to its log.
    pub(crate) fn log_tail(&self, log: &Path) -> String {
        const LINES: usize = 15;
        let text = fs::read(log).unwrap_or_default();
        let from = usize::try_from(self.log_from).unwrap_or(usize::MAX).min(text.len());
        let text = String::from_utf8_lossy(&text[from..]);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        tail.iter().map(|line| format!("    {line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(dir: &Path, script: &str) -> Started {
        let (log, pid_file) = (dir.join("log"), dir.join("pid"));
        let arguments = [OsStr::new("-c"), OsStr::new(script)];
        let program = Path::new("/bin/sh");
        Launch { program, arguments: &arguments, log: &log, pid_file: &pid_file }.start().expect("started")
    }

    #[test]
    fn a_process_is_found_again_and_stopped() {
        let dir = tempfile::tempdir().expect("directory");
        let pid_file = dir.path().join("pid");
        assert_eq!(Process::running(&pid_file), None);
        let started = launch(dir.path(), "exec sleep 600");
        let found = Process::running(&pid_file).expect("runs");
        assert_eq!(found, started.process);
        assert_eq!(found.stop(Duration::from_secs(10)).expect("signalled"), Ending::Stopped);
        assert_eq!(Process::running(&pid_file), None, "though nobody has reaped it");
        assert_eq!(found.stop(Duration::from_secs(10)).expect("nobody there"), Ending::WasDown);
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let started = launch(dir.path(), "exec sleep 600");
        let former = Process { start: started.process.start - 1, ..started.process.clone() };
        former.write(&dir.path().join("pid")).expect("written");
        assert_eq!(Process::running(&dir.path().join("pid")), None);
        assert_eq!(former.stop(Duration::from_secs(10)).expect("checked"), Ending::WasDown);
        assert_eq!(started.process.stop(Duration::from_secs(10)).expect("signalled"), Ending::Stopped);
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().expect("directory");
        let script = format!("trap '' TERM; : >{}/ready; while :; do sleep 600; done", dir.path().display());
        let started = launch(dir.path(), &script);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !dir.path().join("ready").exists() {
            assert!(Instant::now() < deadline, "the shell never began");
            std::thread::yield_now();
        }
        assert_eq!(started.process.stop(Duration::from_millis(50)).expect("signalled"), Ending::Killed);
    }

    #[test]
    fn only_the_lines_of_this_run_are_shown() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("log"), "former run\n").expect("written");
        let mut started = launch(dir.path(), "echo hello; echo there >&2; exit 3");
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            assert!(Instant::now() < deadline, "the shell never ended");
            if let Some(status) = started.ended() {
                break status;
            }
            std::thread::yield_now();
        };
        assert!(status.contains('3'), "{status}");
        assert_eq!(started.log_tail(&dir.path().join("log")), "    hello\n    there\n");
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let fields: Vec<String> = (4..53).map(|n| n.to_string()).collect();
        assert_eq!(start_of(&format!("77 (a) S) S {}", fields.join(" "))), Some((22, false)));
        assert_eq!(start_of(&format!("77 (a) Z {}", fields.join(" "))), Some((22, true)));
        assert_eq!(start_of("nonsense"), None);
    }
}
