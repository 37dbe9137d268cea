//! Full chunkservers: ENOSPC reaches the application, deletes still work, then writing works again.

use anyhow::{Context, Result, ensure};
use gfs_tests::{Options, Small, environment_is_fit, scenario, sh, until};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// `errno` of a full device.
const ENOSPC: i32 = 28;
/// After something was deleted it can be written again within this.
const FREED: Duration = Duration::from_secs(10);

/// Writes until there is no room; how many bytes were taken.
fn fill(path: &Path) -> Result<u64> {
    let mut file = File::create(path).context("creating")?;
    let piece = vec![0x5a; 1 << 20];
    for mib in 0..1024 {
        let outcome = file.write_all(&piece).and_then(|()| if mib % 8 == 7 { file.sync_data() } else { Ok(()) });
        if let Err(error) = outcome {
            ensure_full(&error)?;
            return Ok(mib << 20);
        }
    }
    anyhow::bail!("64 MiB have taken 1 GiB")
}

fn ensure_full(error: &io::Error) -> Result<()> {
    ensure!(error.raw_os_error() == Some(ENOSPC), "a full file system is reported as {error}");
    Ok(())
}

#[test]
fn no_room_is_enospc_and_deleting_makes_room_again() {
    if let Err(error) = environment_is_fit() {
        panic!("{error:#}");
    }
    let parent = tempfile::tempdir().expect("a directory");
    let small = Small::mount(parent.path(), 3).expect("file systems in memory");
    let flags: &'static [&'static str] = &["--reserve-mib", "8", "--watermark-mib", "12"];
    let options = Options { chunkservers: 0, chunk_size: "1MiB", chunkserver_flags: flags, ..Options::default() };
    scenario(options, |cluster| {
        small.points().iter().try_for_each(|point| cluster.add_chunkserver_at(point))?;
        let mount = cluster.mount()?;
        fs::write(mount.join("kept"), b"kept").context("the first file")?;
        let taken = fill(&mount.join("filler"))?;
        ensure!(taken >= 16 << 20, "only {taken} bytes fit into 64 MiB");

        // small files too, by write, fsync or close, and never by a hang
        let another = File::create(mount.join("another")).and_then(|mut file| {
            file.write_all(&[1; 4096])?;
            file.sync_all()
        });
        if let Err(error) = another {
            ensure_full(&error)?;
        }
        let kept = fs::read(mount.join("kept")).context("reading what was there")?;
        ensure!(kept == b"kept", "what was there has changed");
        fs::rename(mount.join("kept"), mount.join("renamed")).context("renaming on a full file system")?;
        fs::create_dir(mount.join("directory")).context("making a directory on a full file system")?;

        fs::remove_file(mount.join("filler")).context("deleting on a full file system")?;
        let again = mount.join("again");
        until("there is room again", FREED, || {
            let written = fs::write(&again, vec![7; 8 << 20]).and_then(|()| File::open(&again)?.sync_all());
            Ok(written.is_ok())
        })?;
        let read = fs::read(&again).context("reading what was written then")?;
        let wrong = read.iter().position(|byte| *byte != 7);
        ensure!(read.len() == 8 << 20 && wrong.is_none(), "{} bytes, the first wrong one at {wrong:?}", read.len());
        ensure!(fs::read(mount.join("renamed")).context("reading what was renamed")? == b"kept");
        Ok(())
    });
}

#[test]
fn df_shows_what_is_used() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let total: u64 = sh(&mount, "df --output=size -B1 . | tail -1")?.trim().parse()?;
        let free: u64 = sh(&mount, "df --output=avail -B1 . | tail -1")?.trim().parse()?;
        ensure!(free > 0 && free <= total, "{free} bytes of {total}");
        fs::write(mount.join("f"), vec![1; 100_000])?;
        let used: u64 = sh(&mount, "du -B1 f | cut -f1")?.parse()?;
        ensure!((100_000..2_000_000).contains(&used), "a file of 100 kB uses {used} bytes");
        Ok(())
    });
}
