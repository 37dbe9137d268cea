//! No server and no mount is left in uninterruptible sleep, and none of their tasks has panicked: whoever waits for one that
//! has may wait for ever. Workloads have ended: one that could not is found by the bound on its end.

use super::{Findings, Invariant};
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A process may sleep so for a moment, in the middle of a write to a disk.
const MOMENT: Duration = Duration::from_secs(10);

/// Looks at all threads of the processes that this one has started, until none that was stuck at first is.
pub fn check() -> Result<Findings> {
    let mut findings = Findings::default();
    let mut stuck = sleeping()?;
    let _ = crate::wait::until("nothing is stuck", MOMENT, || {
        let now = sleeping()?;
        stuck.retain(|process| now.contains(process));
        Ok(stuck.is_empty())
    }); // what is left is what is found
    findings.looked(Invariant::NoneStuck, 1);
    for process in stuck {
        findings.wrong(Invariant::NoneStuck, format!("process {process} sleeps uninterruptibly"));
    }
    Ok(findings)
}

/// What panics the processes have logged in this directory.
pub fn panics(directory: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let found = text.lines().filter(|line| line.contains("panicked at"));
            found.for_each(|line| findings.wrong(Invariant::NoneStuck, format!("{}: {line}", path.display())));
        }
    }
    Ok(findings)
}

/// Threads in state D of our children (proc(5)).
fn sleeping() -> Result<BTreeSet<String>> {
    let ours = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        // what is no process, or has ended meanwhile, has no such file
        let Some((_, parent)) = state(&process) else { continue };
        if parent != ours {
            continue;
        }
        let Ok(threads) = fs::read_dir(process.join("task")) else { continue };
        let threads = threads.flatten().map(|thread| thread.path());
        found.extend(threads.filter(|it| state(it).is_some_and(|it| it.0 == "D")).map(|it| it.display().to_string()));
    }
    Ok(found)
}

/// State and parent.
fn state(process: &Path) -> Option<(String, String)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_in_the_logs() {
        let directory = tempfile::tempdir().expect("a directory");
        let wrong = || panics(directory.path()).expect("readable").violations.len();
        fs::write(directory.path().join("master.log"), "all is well\n").expect("written");
        assert_eq!(wrong(), 0);
        let line = "thread 'tokio-rt-worker' (7) panicked at master/src/x.rs:1:1:\nwhy\n";
        fs::write(directory.path().join("master.log"), line).expect("written");
        assert_eq!(wrong(), 1);
    }

    #[test]
    fn a_process_is_known_by_state_and_parent() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let (state, parent) = state(Path::new(&format!("/proc/{}", child.id()))).expect("it runs");
        assert!(["S", "R", "D"].contains(&&*state), "{state}");
        assert_eq!(parent, std::process::id().to_string());
        child.kill().expect("ended");
        child.wait().expect("gone");
    }
}
