//! Where the programs under test are, and whether they can be tested here.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// A program of this workspace, built with the same profile as the test that asks.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where is the test itself?")?;
    // target/PROFILE/deps/TEST
    let profile = test.parent().and_then(|deps| deps.parent()).context("the test stands in no target directory")?;
    let found = profile.join(name);
    ensure!(found.is_file(), "{} is not built: run `cargo build --workspace --bins` first", found.display());
    Ok(found)
}

/// Mounting needs root and the kernel's module. Tests fail without them; they never pass unseen.
pub fn environment_is_fit() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the end-to-end tests mount file systems: run them as root");
    }
    ensure!(std::path::Path::new("/dev/fuse").exists(), "/dev/fuse is missing: modprobe fuse");
    Ok(())
}
