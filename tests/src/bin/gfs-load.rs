//! `gfs-load DIRECTORY SEED`: makes, writes, renames and removes files in a new directory until its
//! standard input is closed, and says on standard output what has returned.
//!
//! A process of its own, because a test that starts a server must have no files of the mount open:
//! the server's exec would close its copies of them, which asks the mount, which asks the server.

use anyhow::{Context, Result, ensure};
use gfs_tests::Stream;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files are this long at most: some of several chunks, most of one.
const LENGTH_MAX: u64 = 400_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = PathBuf::from(arguments.next().context("DIRECTORY")?);
    let seed = arguments.next().and_then(|it| it.to_str()?.parse().ok()).context("SEED")?;
    ensure!(arguments.next().is_none(), "gfs-load DIRECTORY SEED");
    let end = Arc::new(AtomicBool::new(false));
    let ending = Arc::clone(&end);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new()); // an error is an end, too
        ending.store(true, Ordering::Relaxed);
    });
    fs::create_dir(&directory)?;
    for number in 0.. {
        if end.load(Ordering::Relaxed) {
            break;
        }
        round(&directory, seed, number)?;
    }
    Ok(())
}

/// One file: made, written, sometimes synced, closed, renamed; one of those before is removed.
fn round(directory: &Path, seed: u64, number: u64) -> Result<()> {
    let (made, kept) = (format!("new-{number}"), format!("kept-{number}"));
    let mut stream = Stream::new(seed ^ number);
    let length = match number % 8 {
        0 => stream.number() % LENGTH_MAX,
        _ => stream.number() % 10_000,
    };
    let bytes = stream.bytes(usize::try_from(length)?);
    let mut file = File::create_new(directory.join(&made)).with_context(|| made.clone())?;
    file.write_all(&bytes).with_context(|| made.clone())?;
    if number.is_multiple_of(3) {
        file.sync_all().with_context(|| made.clone())?;
    }
    close(file).with_context(|| made.clone())?;
    fs::rename(directory.join(&made), directory.join(&kept)).with_context(|| kept.clone())?;
    say(&format!("kept {kept} {} {length}", seed ^ number))?;
    if number % 4 == 3 {
        let gone = format!("kept-{}", number - 2);
        fs::remove_file(directory.join(&gone)).with_context(|| gone.clone())?;
        say(&format!("gone {gone}"))?;
    }
    Ok(())
}

/// close(2) with its answer, which dropping a file does not give.
fn close(file: File) -> Result<()> {
    #[expect(unsafe_code, reason = "the standard library keeps the answer of close(2) to itself")]
    // SAFETY: the descriptor was owned by `file` alone, which is gone.
    let closed = unsafe { rustix::io::try_close(file.into_raw_fd()) };
    Ok(closed?)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
