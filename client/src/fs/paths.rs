//! Paths, for programs that have no kernel to walk them.

use super::Client;
use crate::Entry;
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;

impl Client {
    /// The inode at the end of a path from the root of the file system (a leading `/` is optional),
    /// symbolic links followed, the last one too.
    pub async fn resolve(&self, caller: &Caller, path: &[u8]) -> Result<Entry, FsError> {
        let _ = (caller, path);
        Err(FsError::NotImplemented)
    }

    /// [`Client::resolve`], but a symbolic link at the end is the answer itself.
    pub async fn resolve_no_follow(&self, caller: &Caller, path: &[u8]) -> Result<Entry, FsError> {
        let _ = (caller, path);
        Err(FsError::NotImplemented)
    }

    /// The directory and the name in it that a path ends with, to make, remove or rename something.
    /// The root has none: [`FsError::Busy`].
    pub async fn resolve_parent(&self, caller: &Caller, path: &[u8]) -> Result<(InodeId, Name), FsError> {
        let _ = (caller, path);
        Err(FsError::NotImplemented)
    }
}
