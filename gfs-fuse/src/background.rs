//! Going to the background: the program starts itself again, detached, and waits for the word that the
//! mount works. So the shell gets its prompt back only when it does, and the error with its exit status
//! when it does not.
//!
//! The word is one line: `ready`, `failed TEXT` or `usage TEXT`.

use crate::Failure;
use anyhow::{Context, Result, anyhow};
use rustix::process::setsid;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the second instance that it is one.
pub(crate) const CHILD_ENV: &str = "GFS_FUSE_BACKGROUND";
const READY: &str = "ready";
const FAILED: &str = "failed ";
const USAGE: &str = "usage ";

/// True in the detached instance.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD_ENV).is_some()
}

/// Starts the detached instance with the same arguments and waits until it mounted or failed.
pub(crate) fn start(log_file: Option<&Path>) -> Result<(), Failure> {
    let log = match log_file {
        Some(path) => open_log(path)?,
        None => OpenOptions::new().write(true).open("/dev/null").context("/dev/null")?,
    };
    let mut child = Command::new(std::env::current_exe().context("finding the program itself")?)
        .args(std::env::args_os().skip(1))
        .env(CHILD_ENV, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting in the background")?;
    let mut word = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut word).context("waiting for the mount")?;
    }
    heard(word.trim_end()).unwrap_or_else(|| {
        let status = child.wait().context("waiting for the mount")?;
        Err(anyhow!("the mount ended before it was ready ({status}){}", see_log(log_file)).into())
    })
}

/// What the second instance said; `None` if it ended without a word.
fn heard(word: &str) -> Option<Result<(), Failure>> {
    let failure = |text: &str, usage| Some(Err(Failure { error: anyhow!("{text}"), usage }));
    match (word, word.strip_prefix(FAILED), word.strip_prefix(USAGE)) {
        (READY, _, _) => Some(Ok(())),
        (_, Some(text), _) => failure(text, false),
        (_, _, Some(text)) => failure(text, true),
        _ => None,
    }
}

fn said(result: Result<(), &Failure>) -> String {
    match result {
        Ok(()) => READY.to_owned(),
        Err(failure) => {
            let kind = if failure.usage { USAGE } else { FAILED };
            kind.to_owned() + &format!("{:#}", failure.error).replace('\n', " ")
        }
    }
}

fn see_log(log_file: Option<&Path>) -> String {
    log_file.map(|path| format!(": see {}", path.display())).unwrap_or_default()
}

fn open_log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write the log file {}", path.display()))
}

/// In the detached instance, first thing: leaves the terminal and the caller's folder.
pub(crate) fn leave_terminal() -> Result<()> {
    setsid().context("leaving the terminal")?;
    std::env::set_current_dir("/").context("leaving the current folder")
}

/// In the detached instance: says how it went and closes the pipe to the first one.
pub(crate) fn report(result: Result<(), &Failure>) {
    let word = said(result);
    let mut pipe = std::io::stdout();
    // A parent that has gone away needs no word.
    let _ = pipe.write_all(word.as_bytes()).and_then(|()| pipe.write_all(b"\n")).and_then(|()| pipe.flush());
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_brings_text_and_kind_of_a_failure() {
        assert!(matches!(heard(&said(Ok(()))), Some(Ok(()))));
        for usage in [false, true] {
            let word = said(Err(&Failure { error: anyhow!("why\nit").context("what"), usage }));
            let Some(Err(failure)) = heard(&word) else { panic!("{word}") };
            assert_eq!((failure.error.to_string().as_str(), failure.usage), ("what: why it", usage));
        }
        assert!(heard("").is_none() && heard("read").is_none());
    }
}
