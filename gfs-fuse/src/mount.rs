//! Getting a FUSE descriptor mounted on a folder, and off it again.
//!
//! Root mounts with `mount(2)` itself; anybody else asks `fusermount3`. The mount is made here and not
//! by fuser because fuser 0.18 unmounts a path again after somebody else did, and gives up when files
//! are open.

use crate::options::MountOptions;
use anyhow::{Context, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use tracing::warn;

/// Pages that the kernel reads ahead of a sequential reader, in KiB. The client reads further ahead
/// itself; a page fault of a mapping waits for this much.
const READ_AHEAD_KIB: u32 = 1024;
const FUSERMOUNT: &str = "fusermount3";

/// Takes the mount of a program that has died off the folder. True if there was one.
pub(crate) fn clear_dead_mount(path: &Path) -> Result<bool> {
    let mut found = false;
    while look_at(path) == Err(Errno::NOTCONN) {
        detach(path).with_context(|| format!("cannot remove the dead mount on {}", path.display()))?;
        found = true;
    }
    Ok(found)
}

/// statfs(2) too, for the kernel may answer stat(2) of a dead mount from its cache.
fn look_at(path: &Path) -> Result<(), Errno> {
    rustix::fs::statfs(path).and_then(|_| rustix::fs::stat(path)).map(drop)
}

/// Checks the folder and returns its absolute path.
pub(crate) fn prepare_mountpoint(path: &Path) -> Result<PathBuf> {
    match look_at(path) {
        Err(Errno::NOENT) => bail!("mountpoint {} does not exist: create it with mkdir -p", path.display()),
        Err(Errno::ACCESS) => bail!("no permission to look at mountpoint {}", path.display()),
        Err(error) => bail!("mountpoint {}: {error}", path.display()),
        Ok(()) => {}
    }
    let path = path.canonicalize().with_context(|| format!("mountpoint {}", path.display()))?;
    if !path.is_dir() {
        bail!("mountpoint {} is not a directory", path.display());
    }
    if let Some(mount) = find_mount(&path) {
        if mount.kind.starts_with("fuse") {
            bail!("{0} has a {1} mounted on it already: unmount it first (umount {0})", path.display(), mount.kind);
        }
        if mount.kind != "autofs" && mount.target != Path::new("/") {
            warn!("{} is itself a mounted {}; mounting over it", path.display(), mount.kind);
        }
    }
    Ok(path)
}

/// A line of the table of mounts.
struct MountLine {
    target: PathBuf,
    kind: String,
    minor: u32,
}

/// The topmost mount whose target is exactly `path`.
fn find_mount(path: &Path) -> Option<MountLine> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().filter_map(parse_mount_line).rfind(|line| line.target == path)
}

/// proc(5): `id parent major:minor root target options [tags] - type source options`.
fn parse_mount_line(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let minor = left.next()?.split_once(':')?.1.parse().ok()?;
    let target = PathBuf::from(unescape_octal(left.nth(1)?));
    Some(MountLine { target, kind: right.split(' ').next()?.to_owned(), minor })
}

/// The table writes blanks, tabs, newlines and backslashes as `\ooo`.
fn unescape_octal(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mounts and returns the descriptor that requests are read from.
pub(crate) fn mount(path: &Path, options: &MountOptions, source: &str) -> Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        mount_as_root(path, options, source)
    } else {
        mount_with_helper(path, options, source)
    }
}

fn mount_as_root(path: &Path, options: &MountOptions, source: &str) -> Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("/dev/fuse is missing: load the kernel module with `modprobe fuse`"),
        std::io::ErrorKind::PermissionDenied => {
            anyhow!(
                "no permission for /dev/fuse: in a container, give it the device (--device /dev/fuse) and CAP_SYS_ADMIN"
            )
        }
        _ => anyhow!("cannot open /dev/fuse: {error}"),
    })?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, options.suid == Some(false));
    flags.set(MountFlags::NODEV, options.dev == Some(false));
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::NOATIME, options.no_atime);
    let others = if options.allow_other == Some(false) { "" } else { ",allow_other" };
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions{others}\0", device.as_raw_fd());
    let data = std::ffi::CString::from_vec_with_nul(data.into_bytes()).context("mount data")?;
    let kind = format!("fuse.{}", options.subtype);
    rustix::mount::mount(source, path, kind.as_str(), flags, data.as_c_str()).map_err(|error| match error {
        Errno::PERM => anyhow!("the kernel does not let this process mount (CAP_SYS_ADMIN is missing)"),
        Errno::NODEV => anyhow!("the kernel has no FUSE: load the module with `modprobe fuse`"),
        _ => anyhow!("cannot mount on {}: {error}", path.display()),
    })?;
    Ok(device.into())
}

/// The protocol of fusermount3: it mounts, and passes the descriptor over the socket that the
/// environment names.
fn mount_with_helper(path: &Path, options: &MountOptions, source: &str) -> Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    let child = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(helper_options(options, source))
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                anyhow!("{FUSERMOUNT} is missing, and only root can mount without it: install the package fuse3")
            }
            _ => anyhow!("cannot run {FUSERMOUNT}: {error}"),
        })?;
    drop(theirs);
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().with_context(|| format!("waiting for {FUSERMOUNT}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    device?.ok_or_else(|| anyhow!("{FUSERMOUNT} passed no descriptor"))
}

fn helper_options(options: &MountOptions, source: &str) -> String {
    let mut list =
        vec![format!("fsname={source}"), format!("subtype={}", options.subtype), "default_permissions".into()];
    for (on, option) in [
        (options.read_only, "ro"),
        (options.no_exec, "noexec"),
        (options.no_atime, "noatime"),
        (options.allow_other == Some(true), "allow_other"),
        (options.suid == Some(true), "suid"),
        (options.dev == Some(true), "dev"),
    ] {
        if on {
            list.push(option.into());
        }
    }
    list.join(",")
}

fn receive_descriptor(socket: &OwnedFd) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Raises the kernel's read-ahead: INIT cannot go above the default of 128 KiB. Only root may.
pub(crate) fn raise_read_ahead(path: &Path) {
    let Some(mount) = find_mount(path) else { return };
    let setting = format!("/sys/class/bdi/0:{}/read_ahead_kb", mount.minor);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string())
        && rustix::process::geteuid().is_root()
    {
        warn!("cannot raise the kernel's read-ahead in {setting}: {error}");
    }
}

/// Unmounts. With files still open the mount is detached: it vanishes from the tree, and those
/// files fail once this process has ended.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return detach(path);
    }
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => {
            warn!("files on {} are still open; detaching it", path.display());
            detach(path)
        }
        // Somebody else was faster.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
}

fn detach(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?);
    }
    let output = Command::new(FUSERMOUNT).args(["-u", "-z", "--"]).arg(path).output()?;
    if output.status.success() { Ok(()) } else { bail!("{}", String::from_utf8_lossy(&output.stderr).trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_of_mounts() {
        let line = "63 28 0:51 / /mnt/a\\040b rw,relatime shared:31 - fuse.gfs 127.0.0.1:9400 rw,user_id=0";
        let parsed = parse_mount_line(line).expect("a mount");
        assert_eq!(parsed.target, Path::new("/mnt/a b"));
        assert_eq!((parsed.kind.as_str(), parsed.minor), ("fuse.gfs", 51));
        assert!(parse_mount_line("nonsense").is_none());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape_octal(r"a\134b\0"), r"a\b\0");
    }

    #[test]
    fn a_mountpoint_must_be_a_folder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(prepare_mountpoint(folder.path()).is_ok());
        let missing = prepare_mountpoint(&folder.path().join("missing")).expect_err("missing").to_string();
        assert!(missing.contains("missing does not exist"), "{missing}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("file");
        let error = prepare_mountpoint(&file).expect_err("a file").to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }
}
