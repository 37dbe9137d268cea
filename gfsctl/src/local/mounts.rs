//! What is mounted where, and unmounting what nobody serves any more.

use crate::remote::shown;
use anyhow::{Context as _, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is mounted on top of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mounted {
    pub(crate) kind: String,
    /// Of one of ours: the address of its master.
    pub(crate) source: String,
}

impl Mounted {
    fn is_gfs(&self) -> bool {
        self.kind == "fuse.gfs" || self.kind == "fuse"
    }
}

/// What is mounted on top at `path`, which must be free of symbolic links. Asks the kernel's table, never the file
/// system itself, which may not answer.
pub(crate) fn at(path: &Path) -> Option<Mounted> {
    found_in(&fs::read("/proc/self/mountinfo").unwrap_or_default(), path)
}

/// True if it is a mount of the cluster with the master at `master`.
pub(crate) fn is_of(path: &Path, master: SocketAddr) -> bool {
    at(path).is_some_and(|mounted| mounted.is_gfs() && mounted.source == master.to_string())
}

/// Somebody's FUSE mount is there, and its program runs, as far as can be seen within a moment.
pub(crate) async fn taken(path: &Path) -> Option<Mounted> {
    let mounted = at(path).filter(|mounted| mounted.kind.starts_with("fuse"))?;
    (!is_dead(path).await).then_some(mounted)
}

/// True if its program has gone: a FUSE mount without one says so at once. One that does not answer is not dead.
async fn is_dead(path: &Path) -> bool {
    const ANSWER: Duration = Duration::from_secs(2);
    let path = path.to_owned();
    // not stat(2): the kernel may answer that from its cache
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statfs(path).map(drop));
    matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Ok(Err(rustix::io::Errno::NOTCONN))))
}

/// Takes away what a mount process of the cluster has left behind. A mount that still works, or that is of another
/// cluster, is somebody else's and stays.
pub(crate) async fn clear(path: &Path, master: SocketAddr) -> anyhow::Result<()> {
    if is_of(path, master) && is_dead(path).await {
        detach(path)?;
    }
    Ok(())
}

/// proc_pid_mountinfo(5): the fifth word is the mount point, type and source follow a lone dash.
fn found_in(table: &[u8], path: &Path) -> Option<Mounted> {
    let line = table.split(|byte| *byte == b'\n').rev().find(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        unescaped(point).as_bytes() == path.as_os_str().as_bytes()
    })?;
    let mut words = line.split(|byte| *byte == b' ').skip_while(|word| *word != b"-").skip(1);
    let mut word = || Some(unescaped(words.next()?).to_string_lossy().into_owned());
    Some(Mounted { kind: word()?, source: word()? })
}

/// Blanks, tabs, newlines and backslashes stand there as three octal digits after a backslash.
fn unescaped(word: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Takes away a mount whose daemon is gone; programs that still use it get errors, not hangs.
fn detach(path: &Path) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return unmount(path, UnmountFlags::DETACH).with_context(|| format!("cannot unmount {}", shown(path)));
    }
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-z"]).arg(path).stdin(Stdio::null());
    let output = command.output().context("cannot run fusermount3 (package fuse3)")?;
    if !output.status.success() {
        bail!("cannot unmount {}: {}", shown(path), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 24 0:26 / /mnt/a\\040b rw - tmpfs none rw
31 30 0:27 / /mnt/a\\040b rw,nosuid shared:5 master:2 - fuse.gfs 127.0.0.1:9400 rw,user_id=0
";

    #[test]
    fn the_topmost_mount_counts() {
        let kind = |path: &str| found_in(TABLE, Path::new(path)).map(|mounted| mounted.kind);
        assert_eq!(kind("/mnt/a b").as_deref(), Some("fuse.gfs"));
        assert_eq!(found_in(TABLE, Path::new("/mnt/a b")).map(|it| it.source).as_deref(), Some("127.0.0.1:9400"));
        assert_eq!(kind("/").as_deref(), Some("ext4"));
        assert_eq!(kind("/mnt"), None);
        assert!(at(Path::new("/proc")).is_some_and(|mounted| !mounted.is_gfs()));
    }
}
