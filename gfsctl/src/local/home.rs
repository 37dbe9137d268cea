//! The directory of a local cluster: where in it everything is.

use crate::failure::usage;
use crate::remote::shown;
use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// `sun_path` of a socket's address has 108 bytes, the last of them NUL.
const SOCKET_PATH_MAX: usize = 107;
/// Room that the longest socket name needs: `/run/chunkserver-99.sock`.
const SOCKET_NAME_MAX: usize = 24;
/// The file that makes a directory one of ours.
const PLAN: &str = "cluster.json";

/// An absolute path, of a directory that is ours.
#[derive(Debug)]
pub(crate) struct Home(PathBuf);

/// Held as long as this process changes anything.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Home {
    /// For `up`: made if it is missing; one with other things in it is refused.
    pub(crate) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        match fs::metadata(directory) {
            Ok(found) if !found.is_dir() => return Err(usage(format!("{} is not a directory", shown(directory)))),
            Ok(_) => refuse_foreign(directory)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| shown(directory)),
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", shown(directory)))?;
        let home = Self(directory.canonicalize().with_context(|| shown(directory))?);
        if home.0.as_os_str().len() + SOCKET_NAME_MAX > SOCKET_PATH_MAX {
            let room = SOCKET_PATH_MAX - SOCKET_NAME_MAX;
            let text =
                format!("{} is too long for the sockets in it: choose one of up to {room} bytes", shown(&home.0));
            return Err(usage(text));
        }
        for below in ["config", "data", "logs", "run"] {
            let path = home.0.join(below);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", shown(&path)))?;
        }
        Ok(home)
    }

    /// For everything else: it must be there.
    pub(crate) fn existing(directory: &Path) -> anyhow::Result<Self> {
        if !directory.join(PLAN).is_file() {
            let up = format!("`gfsctl local up {}` starts one", shown(directory));
            return Err(usage(format!("there is no local cluster in {}; {up}", shown(directory))));
        }
        Ok(Self(directory.canonicalize().with_context(|| shown(directory))?))
    }

    /// Two gfsctl must not start or stop the same cluster at once.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.0.join("run/lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| shown(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another gfsctl is starting or stopping the cluster in {}; wait for it", shown(&self.0))
            }
            Err(error) => Err(error).with_context(|| shown(&path)),
        }
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    /// What the cluster consists of.
    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join(PLAN)
    }
    /// Settings of a server.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.0.join("config").join(format!("{name}.toml"))
    }
    /// What a server keeps.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.0.join("data").join(name)
    }
    /// What a process says.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.0.join("logs").join(format!("{name}.log"))
    }
    /// Which process it is.
    pub(crate) fn pid(&self, name: &str) -> PathBuf {
        self.0.join("run").join(format!("{name}.pid"))
    }
    /// Data socket of a chunkserver.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.0.join("run").join(format!("{name}.sock"))
    }
}

/// An empty directory will do, and one that we filled. A start that failed early left only `run`.
fn refuse_foreign(directory: &Path) -> anyhow::Result<()> {
    if directory.join(PLAN).is_file() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).with_context(|| shown(directory))? {
        let name = entry.with_context(|| shown(directory))?.file_name();
        if !["config", "data", "logs", "run"].iter().any(|ours| name == *ours) {
            let text = format!(
                "{} is not empty ({} is in it) and holds no local cluster; choose another directory",
                shown(directory),
                name.display()
            );
            return Err(usage(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_refused_and_stays_as_it_was() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("thesis.tex"), "x").expect("written");
        let error = Home::prepare(dir.path()).expect_err("foreign");
        assert!(error.to_string().contains("thesis.tex"), "{error:#}");
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 1);
        let file = Home::prepare(&dir.path().join("thesis.tex")).expect_err("a file");
        assert!(file.to_string().contains("not a directory"), "{file:#}");
    }

    #[test]
    fn a_path_without_room_for_sockets_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let error = Home::prepare(&dir.path().join("x".repeat(90))).expect_err("too long");
        assert!(error.to_string().contains("too long"), "{error:#}");
    }

    #[test]
    fn one_gfsctl_at_a_time() {
        let dir = tempfile::tempdir().expect("directory");
        let home = Home::prepare(dir.path()).expect("empty");
        let held = home.lock().expect("free");
        assert!(home.lock().expect_err("held").to_string().contains("another gfsctl"));
        drop(held);
        home.lock().expect("free again");
    }

    #[test]
    fn down_without_up_says_how_to_start() {
        let dir = tempfile::tempdir().expect("directory");
        let error = Home::existing(dir.path()).expect_err("none");
        assert!(error.to_string().contains("gfsctl local up"), "{error:#}");
    }
}
