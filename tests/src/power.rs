//! Power cuts as a chunkserver knows them: its process is gone, and the machine has another boot id.
//!
//! What was written and not flushed is still in the page cache, so nothing is torn or lost by this. A
//! chunkserver cannot know that, and has to take every replica that was being written for suspect.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// A command that runs another one on what looks like a machine of its own: its boot id is in the file `boot_id`,
/// which is made. Mounts that come and go elsewhere do so there, too.
pub(crate) fn machine(boot_id: &Path) -> Result<Vec<String>> {
    const RUN: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
    boot(boot_id)?;
    let words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", RUN];
    Ok(words.into_iter().map(str::to_owned).chain([boot_id.display().to_string()]).collect())
}

/// Another boot id for such a machine. What runs there must have been ended.
pub(crate) fn boot(boot_id: &Path) -> Result<()> {
    let fresh = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(boot_id, fresh).with_context(|| boot_id.display().to_string())
}

/// No machine has it.
const ANOTHER_BOOT: &str = "boot 00000000-0000-0000-0000-000000000000";

/// Makes the directory that of a machine which was started again since (`docs/format.md`: `format`). Its
/// chunkserver must not run.
pub(crate) fn cut(directory: &Path) -> Result<()> {
    let path = directory.join("format");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (body, crc) = text.rsplit_once("crc ").context("no crc line")?;
    ensure!(crc.trim() == format!("{:08x}", crc32c::crc32c(body.as_bytes())), "{} is damaged", path.display());
    ensure!(body.lines().any(|line| line == "stopped no"), "it was stopped cleanly");
    let lines: Vec<&str> =
        body.lines().map(|line| if line.starts_with("boot ") { ANOTHER_BOOT } else { line }).collect();
    let body = lines.join("\n") + "\n";
    fs::write(&path, format!("{body}crc {:08x}\n", crc32c::crc32c(body.as_bytes())))?;
    Ok(())
}
