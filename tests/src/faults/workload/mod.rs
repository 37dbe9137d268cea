//! The processes that use the file system while it is disturbed, and say before and after what they do.
//!
//! Each is `gfs-faults worker KIND …`, started by [`Worker`]: a process of its own, because a process that starts
//! servers must have no files of a mount open, and because it is killed if it hangs. It ends when its standard input
//! does. It judges nothing: what it read it says.

pub mod blocks;
pub mod names;
pub mod records;
mod teller;
mod worker;

pub use teller::Teller;
pub use worker::{Kind, Worker};

use crate::wait::until;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// A mount that was killed is back within this time, or the workload ends with an error.
const BACK: Duration = Duration::from_secs(120);
/// `errno` of a mount whose process is gone.
const ENOTCONN: i32 = 107;

/// Waits while the mount is dead, which is not what is measured.
pub(crate) fn await_mount(teller: &Teller, directory: &Path) -> Result<()> {
    let alive = || {
        let error = fs::metadata(directory).err().map(|error| errno(&error));
        // between its death and the next one there is a directory without anything
        Ok(!matches!(error, Some(ENOTCONN | ENOENT)) || teller.ended())
    };
    if alive()? { Ok(()) } else { until("the mount is back", BACK, alive) }
}

/// `errno` of what is not there.
const ENOENT: i32 = 2;

/// `errno` of an error; 5 (EIO) if it has none, which does not happen with system calls.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(5)
}
