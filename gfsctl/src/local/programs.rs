//! Finding the programs: beside this one, else in PATH.

use crate::remote::shown;
use anyhow::{Context as _, bail};
use rustix::fs::{Access, access};
use std::env;
use std::path::{Path, PathBuf};

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) master: PathBuf,
    pub(crate) chunkserver: PathBuf,
    /// Only needed to mount.
    mount: Result<PathBuf, String>,
}

impl Programs {
    /// Looks for all of them before anything is started.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let own = env::current_exe().context("cannot find out where gfsctl itself is")?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self {
            master: find("gfs-master", &beside)?,
            chunkserver: find("gfs-chunkserver", &beside)?,
            mount: find("gfs-fuse", &beside).map_err(|error| error.to_string()),
        })
    }

    /// The mount program.
    pub(crate) fn mount(&self) -> anyhow::Result<&Path> {
        match &self.mount {
            Ok(path) => Ok(path),
            Err(text) => bail!("{text}"),
        }
    }
}

fn find(name: &str, beside: &Path) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(beside.to_owned()).chain(env::split_paths(&path));
    match places.map(|place| place.join(name)).find(|it| it.is_file() && access(it, Access::EXEC_OK).is_ok()) {
        Some(found) => Ok(found),
        None => bail!(
            "{name} is neither beside gfsctl in {} nor in PATH; `cargo build --release` builds all programs",
            shown(beside)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_beside_us_comes_first_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let program = dir.path().join("sh");
        std::fs::write(&program, "").expect("written");
        assert_ne!(find("sh", dir.path()).expect("in PATH"), program, "it cannot be executed");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(find("sh", dir.path()).expect("beside"), program);
        let error = find("no-such-program", dir.path()).expect_err("nowhere");
        assert!(error.to_string().contains("no-such-program"), "{error:#}");
    }
}
