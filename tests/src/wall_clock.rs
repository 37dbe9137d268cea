//! A wall clock of a process's own, that can be stepped while it runs: libfaketime (Debian package `faketime`) answers
//! for CLOCK_REALTIME. Clocks that only go forward are left alone.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian has it.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What the environment of a process is to have so that its clock goes by this file, which is made. The file is looked
/// at once a second.
pub(crate) fn environment(file: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    ensure!(Path::new(LIBRARY).exists(), "{LIBRARY} is missing: apt-get install faketime");
    step(file, 0)?;
    Ok(vec![
        ("LD_PRELOAD", LIBRARY.into()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ])
}

/// From now on that clock differs by so many seconds from the machine's.
pub(crate) fn step(file: &Path, seconds: i64) -> Result<()> {
    let new = file.with_extension("new");
    // in one step: it is read at any time
    fs::write(&new, format!("{seconds:+}\n"))
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    #[test]
    fn the_clock_is_what_the_file_says() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("clock");
        let environment = environment(&file).expect("an environment");
        for seconds in [0, 3600, -3600] {
            step(&file, seconds).expect("written");
            let said = Command::new("date").arg("+%s").envs(environment.clone()).output().expect("date").stdout;
            let said: i64 = String::from_utf8_lossy(&said).trim().parse().expect("a number");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
            assert!((said - now as i64 - seconds).abs() < 30, "{said} at {now}, stepped by {seconds}");
        }
    }
}
