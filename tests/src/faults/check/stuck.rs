//! No process is left in uninterruptible sleep: one that cannot be ended.

use super::{Findings, Invariant};
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// A process may sleep so for a moment, in the middle of a write to a disk.
const MOMENT: Duration = Duration::from_secs(10);

/// Looks at all processes of the machine, until none that was stuck at first is.
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

/// Processes in state D (proc(5)), with their names.
fn sleeping() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        // what is no process, or has ended meanwhile, has no such file
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if rest.starts_with(" D") {
            found.insert(name.to_owned());
        }
    }
    Ok(found)
}
