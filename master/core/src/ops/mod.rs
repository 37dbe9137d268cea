//! Mutations, one file each: validate, then mutate; total and deterministic.
//!
//! An operation that returns an error has changed nothing (and what it changed by mistake is rolled back
//! by its caller). None looks at anything but the tables, its arguments and the [`Request`].

pub(crate) mod abandon;
pub(crate) mod batch;
pub(crate) mod chunks;
pub(crate) mod entitle;
pub(crate) mod link;
pub(crate) mod make;
pub(crate) mod mend;
pub(crate) mod open_truncate;
pub(crate) mod quarantine;
pub(crate) mod reap;
pub(crate) mod remove_xattr;
pub(crate) mod rename;
pub(crate) mod restored;
pub(crate) mod rmdir;
pub(crate) mod servers;
pub(crate) mod sessions;
pub(crate) mod set_attr;
pub(crate) mod set_goal;
pub(crate) mod set_xattr;
pub(crate) mod sizes;
mod truncate;
pub(crate) mod unlink;
pub(crate) mod written;

use crate::record::{Body, Inode};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::time::Timestamp;

/// On whose behalf, and when.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) now: Timestamp,
}

/// How many entries and subdirectories a directory gains or loses.
#[derive(Clone, Copy)]
struct DirChange {
    entries: i64,
    subdirectories: i64,
}

impl DirChange {
    /// An entry comes (`1`) or goes (`-1`).
    fn entry(count: i64, what: &Inode) -> Self {
        Self { entries: count, subdirectories: if what.is_dir() { count } else { 0 } }
    }
    /// `old` gives its place to `new`.
    fn swap(old: &Inode, new: &Inode) -> Self {
        Self { entries: 0, subdirectories: i64::from(new.is_dir()) - i64::from(old.is_dir()) }
    }
}

/// Records that the names of a directory have changed.
fn change_dir(tx: &mut Tables<'_>, id: InodeId, change: DirChange, now: Timestamp) -> Result<(), FsError> {
    let mut dir = tx.dir(id)?;
    if let Body::Directory { entries, version } = &mut dir.body {
        *entries = entries.checked_add_signed(change.entries).expect("as many entries go as came");
        *version += 1;
    }
    let links = i64::from(dir.nlink) + change.subdirectories;
    dir.nlink = u32::try_from(links).map_err(|_| FsError::TooManyLinks)?;
    (dir.mtime, dir.ctime) = (now, now);
    tx.put_inode(&dir);
    Ok(())
}
