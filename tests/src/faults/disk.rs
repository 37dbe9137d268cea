//! Small file systems on loop devices, whose power can be cut: what was not flushed is gone.
//!
//! The images are in memory, so a flush costs little, and a cut loses what the file system had not written to its
//! device. A device's own cache is not simulated: what reached the image stays. Everything is taken down with this
//! value.

use crate::mounts::detach;
use crate::script::sh;
use crate::wait::until;
use anyhow::{Context, Result};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound on a file system being mounted again.
const AGAIN: Duration = Duration::from_secs(10);

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext4 with its defaults.
    Ext4,
    /// xfs with its defaults.
    Xfs,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// xfs makes nothing smaller than 300 MiB.
    const fn mib_min(self) -> u64 {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 300,
        }
    }
}

/// A file system on a loop device.
#[derive(Debug)]
pub struct Disk {
    format: Format,
    device: PathBuf,
    point: PathBuf,
}

impl Disk {
    /// Makes and mounts one of at least `mib` at `point`, with its image beside it.
    pub fn make(parent: &Path, name: &str, format: Format, mib: u64) -> Result<Self> {
        let (image, point) = (parent.join(format!("{name}.image")), parent.join(name));
        File::create_new(&image)?.set_len(mib.max(format.mib_min()) << 20)?;
        fs::create_dir(&point)?;
        let options = match format {
            Format::Ext4 => "-q -F -E lazy_itable_init=0,lazy_journal_init=0",
            Format::Xfs => "-q",
        };
        let image = image.display().to_string();
        sh(parent, &format!("mkfs.{} {options} {image}", format.name()))?;
        let device = PathBuf::from(sh(parent, &format!("losetup --find --show {image}"))?);
        let disk = Self { format, device, point };
        disk.attach()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Bytes that anybody may still use.
    pub fn free(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.point).with_context(|| self.point.display().to_string())?;
        Ok(found.f_bavail * found.f_frsize)
    }

    fn attach(&self) -> Result<()> {
        mount(&self.device, &self.point, self.format.name(), MountFlags::NOATIME, None)
            .with_context(|| format!("mounting {} at {}", self.device.display(), self.point.display()))
    }

    /// The power goes: from now on nothing reaches the device. Nobody may write any more.
    pub fn cut(&self) -> Result<()> {
        /// `FS_IOC_SHUTDOWN` (linux/fs.h), the same for ext4 and xfs.
        const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`, `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH`.
        const WITHOUT_LOG: u32 = 2;
        let root = File::open(&self.point)?;
        #[expect(unsafe_code, reason = "the request and its argument are ours to state")]
        // SAFETY: the kernel reads one u32 through the pointer that Setter passes.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG)) }
            .with_context(|| format!("shutting {} down", self.point.display()))
    }

    /// The machine starts again: the journal is replayed. Nobody may have a file of it open.
    ///
    /// A process that looks at the mounts at that moment keeps the file system that has no power for a little longer, and
    /// mounting the device then gives the same one again.
    pub fn restart(&self) -> Result<()> {
        until("the file system has power again", AGAIN, || {
            rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::empty())
                .with_context(|| format!("unmounting {}", self.point.display()))?;
            self.attach()?;
            let probe = self.point.join("probe");
            Ok(File::create(&probe).and_then(|_| fs::remove_file(&probe)).is_ok())
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = detach(&self.point); // it may not be mounted
        let _ = sh(Path::new("/"), &format!("losetup --detach {}", self.device.display())); // the test is over
    }
}

/// A file system in memory, for images.
#[derive(Debug)]
pub struct Memory(PathBuf);

impl Memory {
    /// Mounts one at a new directory, whose mounts other mount namespaces see come and go.
    pub fn mount(point: PathBuf) -> Result<Self> {
        fs::create_dir(&point)?;
        let text = point.display().to_string();
        sh(Path::new("/"), &format!("mount -t tmpfs -o size=4g gfs-faults {text} && mount --make-shared {text}"))?;
        Ok(Self(point))
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = detach(&self.0); // the directory's removal will say
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_cut_loses_what_was_not_synced_and_nothing_else() {
        for format in [Format::Ext4, Format::Xfs] {
            let parent = tempfile::tempdir().expect("a directory");
            let memory = Memory::mount(parent.path().join("memory")).expect("memory");
            let disk = Disk::make(memory.point(), "disk", format, 32).expect("a disk");
            let write = |name: &str, sync: bool| {
                let mut file = File::create(disk.point().join(name)).expect("created");
                file.write_all(b"content").expect("written");
                if sync {
                    file.sync_all().expect("synced");
                }
            };
            write("synced", true);
            write("lost", false);
            disk.cut().expect("cut");
            assert!(File::create(disk.point().join("late")).is_err(), "{format:?}: it takes files without power");
            disk.restart().expect("mounted again");
            assert_eq!(fs::read(disk.point().join("synced")).expect("read"), b"content", "{format:?}");
            let lost = fs::read(disk.point().join("lost")).unwrap_or_default();
            assert_eq!(lost, b"", "{format:?}: what was not synced is there: nothing was cut");
        }
    }
}
