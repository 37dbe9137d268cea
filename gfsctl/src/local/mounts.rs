//! What is mounted where, and unmounting what nobody serves any more.

use crate::remote::shown;
use anyhow::{Context as _, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// The type of what is mounted on top at `path`, which must be free of symbolic links. Asks the
/// kernel's table, never the file system itself, which may not answer.
pub(crate) fn kind_at(path: &Path) -> Option<String> {
    kind_in(&fs::read("/proc/self/mountinfo").unwrap_or_default(), path)
}

/// True if one of ours is mounted there.
pub(crate) fn is_ours(path: &Path) -> bool {
    kind_at(path).is_some_and(|kind| kind == "fuse.gfs" || kind == "fuse")
}

/// proc_pid_mountinfo(5): the fifth word is the mount point, the type follows a lone dash.
fn kind_in(table: &[u8], path: &Path) -> Option<String> {
    let line = table.split(|byte| *byte == b'\n').rev().find(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        unescaped(point).as_bytes() == path.as_os_str().as_bytes()
    })?;
    let mut words = line.split(|byte| *byte == b' ').skip_while(|word| *word != b"-");
    Some(String::from_utf8_lossy(words.nth(1)?).into_owned())
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
pub(crate) fn detach(path: &Path) -> anyhow::Result<()> {
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
        assert_eq!(kind_in(TABLE, Path::new("/mnt/a b")).as_deref(), Some("fuse.gfs"));
        assert_eq!(kind_in(TABLE, Path::new("/")).as_deref(), Some("ext4"));
        assert_eq!(kind_in(TABLE, Path::new("/mnt")), None);
        assert!(!is_ours(Path::new("/proc")) && kind_at(Path::new("/proc")).is_some());
    }
}
