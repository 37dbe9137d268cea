//! Small file systems in memory, for chunkservers that are to be full.

use crate::mounts::detach;
use crate::script::sh;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// File systems of 64 MiB, gone with this value.
pub struct Small(Vec<PathBuf>);

impl Small {
    /// Mounts so many below `parent`.
    pub fn mount(parent: &Path, count: usize) -> Result<Self> {
        let mut mounted = Self(Vec::new());
        for number in 0..count {
            let point = parent.join(format!("small-{number}"));
            fs::create_dir(&point)?;
            sh(parent, &format!("mount -t tmpfs -o size=64m gfs-test {}", point.display()))?;
            mounted.0.push(point);
        }
        Ok(mounted)
    }

    /// Where they are.
    pub fn points(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for point in &self.0 {
            let _ = detach(point); // the directory's removal will say
        }
    }
}
