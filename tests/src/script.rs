//! Running commands as a person would, with everything they said in the error if they fail.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bound on a command when nothing else is said.
const DEADLINE: Duration = Duration::from_secs(180);

/// A command to run.
pub struct Script {
    command: Command,
    deadline: Duration,
    shown: String,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; -1 if a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a shell script in `directory` that must succeed; its output, without the newline at the end.
pub fn sh(directory: &Path, script: &str) -> Result<String> {
    let ran = Script::shell(directory, script).run()?;
    Ok(ran.out.trim_end().to_owned())
}

impl Script {
    /// A script of bash that ends at the first failure.
    pub fn shell(directory: &Path, script: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(directory);
        Self::of(command, script.to_owned())
    }

    /// A program with its arguments.
    pub fn new(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::of(command, format!("{} {}", program.display(), arguments.join(" ")))
    }

    fn of(mut command: Command, shown: String) -> Self {
        // what cargo and nextest set for this process is not meant for those it starts
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let ours = ["CARGO", "NEXTEST", "RUST", "GFS_", "GIT_"].iter().any(|prefix| name_text.starts_with(prefix));
            if ours && !matches!(&*name_text, "CARGO_HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN") {
                command.env_remove(&name);
            }
        }
        command.env("LC_ALL", "C").process_group(0);
        Self { command, deadline: DEADLINE, shown }
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With another bound on its time.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it; it must succeed.
    pub fn run(self) -> Result<Ran> {
        self.start()?.end()
    }

    /// Starts it and does not wait: [`Running::end`] does.
    pub fn start(mut self) -> Result<Running> {
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        self.command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
        let child = self.command.spawn().with_context(|| format!("starting `{}`", self.shown))?;
        Ok(Running { child, out, err, end: Instant::now() + self.deadline, deadline: self.deadline, shown: self.shown })
    }

    /// Runs it, whatever comes of it. What it said is kept in files: a pipe could fill up.
    pub fn attempt(self) -> Result<Ran> {
        self.start()?.wait()
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    out: File,
    err: File,
    end: Instant,
    deadline: Duration,
    shown: String,
}

impl Running {
    /// True if it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Bytes that it has written so far, to whatever (proc(5), `io`).
    pub fn written(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).context("no count of written bytes")?;
        Ok(line.parse()?)
    }

    /// Waits for its end; it must succeed.
    pub fn end(self) -> Result<Ran> {
        let shown = self.shown.clone();
        let ran = self.wait()?;
        ensure!(ran.status == 0, "`{shown}` ended with status {}:\n{}{}", ran.status, ran.out, ran.err);
        Ok(ran)
    }

    fn wait(mut self) -> Result<Ran> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= self.end {
                self.kill();
                let (out, err) = (text_of(&mut self.out)?, text_of(&mut self.err)?);
                bail!("`{}` did not end within {:?}:\n{out}{err}", self.shown, self.deadline);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok(Ran { status: status.code().unwrap_or(-1), out: text_of(&mut self.out)?, err: text_of(&mut self.err)? })
    }

    fn kill(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait(); // killed, it ends as soon as the kernel lets it
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

impl Ran {
    /// It must have failed with this status, and have named all of `words`.
    pub fn refused(&self, status: i32, words: &[&str]) -> Result<()> {
        ensure!(self.status == status, "status {} instead of {status}: {}{}", self.status, self.out, self.err);
        for word in words {
            ensure!(self.err.contains(word), "the message does not name {word:?}: {}", self.err);
        }
        Ok(())
    }
}

fn text_of(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_was_said() {
        let error = sh(Path::new("/"), "echo out; echo err >&2; false | cat").expect_err("false");
        let text = format!("{error:#}");
        assert!(text.contains("status 1:\nout\nerr\n"), "{text}");
    }

    #[test]
    fn one_that_does_not_end_is_ended() {
        let script = Script::shell(Path::new("/"), "echo before; sleep 600").within(Duration::from_millis(200));
        let text = format!("{:#}", script.run().expect_err("too long"));
        assert!(text.contains("did not end within") && text.contains("before"), "{text}");
    }
}
