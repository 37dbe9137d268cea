//! Where the programs under test are, and whether they can be tested here.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// Where the programs are, if not beside the one that asks.
const DIRECTORY: &str = "GFS_TEST_PROGRAMS";

/// A program of this workspace, built with the same profile as the one that asks, or from `GFS_TEST_PROGRAMS`.
pub fn program(name: &str) -> Result<PathBuf> {
    let found = match std::env::var_os(DIRECTORY) {
        Some(directory) => PathBuf::from(directory).join(name),
        None => beside_us()?.join(name),
    };
    ensure!(found.is_file(), "{} is not built: run `cargo build --workspace --bins` first", found.display());
    Ok(found)
}

/// A test is target/PROFILE/deps/TEST, a program target/PROFILE/PROGRAM.
fn beside_us() -> Result<PathBuf> {
    let ours = std::env::current_exe().context("where is the test itself?")?;
    let directory = ours.parent().context("the test stands in no target directory")?;
    let profile = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    Ok(profile.context("the test stands in no target directory")?.to_owned())
}

/// Mounting needs root and the kernel's module. Tests fail without them; they never pass unseen.
pub fn environment_is_fit() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the end-to-end tests mount file systems: run them as root");
    }
    ensure!(std::path::Path::new("/dev/fuse").exists(), "/dev/fuse is missing: modprobe fuse");
    Ok(())
}
