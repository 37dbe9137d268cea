//! The kernel's table of mounts, and ending what does not end by itself. Nothing here touches the
//! mounted file system, which may not answer.

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::Path;

/// True if anything is mounted there. Test directories have no blanks in their names, which the table
/// would escape.
pub fn is_mounted(path: &Path) -> bool {
    device_of(path).is_some()
}

/// True if something is mounted there and its daemon answers. Asks with statfs(2): the kernel answers
/// stat(2) of a dead mount from its cache for as long as attributes live.
pub fn answers(path: &Path) -> bool {
    is_mounted(path) && rustix::fs::statfs(path).is_ok()
}

/// Takes a mount out of the tree, now, whoever uses it.
pub fn detach(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()), // there was none
        Err(error) => Err(error).with_context(|| format!("unmounting {}", path.display())),
    }
}

/// Ends all requests to a FUSE mount with ENOTCONN (Documentation/filesystems/fuse.rst), so that whoever
/// waits for an answer goes on.
pub(crate) fn abort(path: &Path) {
    if let Some(minor) = device_of(path) {
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1"); // it may just have ended
    }
}

/// Minor number of the device on top at `path` (proc_pid_mountinfo(5)).
fn device_of(path: &Path) -> Option<u32> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().rev().find(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))?;
    line.split(' ').nth(2)?.split_once(':')?.1.parse().ok()
}
