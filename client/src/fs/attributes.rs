//! Attributes, extended attributes, goals, and the numbers of `statfs`.

use super::Client;
use crate::{Entry, FileHandle};
use gfs_proto::FsError;
use gfs_proto::attr::SetAttr;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::ops::{FsStats, XattrMode};

impl Client {
    /// Attributes, this client's own writes in them.
    pub async fn getattr(&self, caller: &Caller, inode: InodeId) -> Result<Entry, FsError> {
        let _ = (caller, inode);
        Err(FsError::NotImplemented)
    }

    /// [`Client::getattr`] from the caches.
    pub fn try_getattr(&self, inode: InodeId) -> Option<Entry> {
        let _ = inode;
        None
    }

    /// `chmod`, `chown`, `utimensat`, `truncate`; with an open file also `ftruncate`. setuid and setgid
    /// bits go as POSIX wants when the owner or the size changes.
    pub async fn setattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        changes: SetAttr,
        open: Option<FileHandle>,
    ) -> Result<Entry, FsError> {
        let _ = (caller, inode, changes, open);
        Err(FsError::NotImplemented)
    }

    /// Room and numbers. Bytes are raw: divide by the goal for what a user can store.
    pub async fn statfs(&self) -> Result<FsStats, FsError> {
        Err(FsError::NotImplemented)
    }

    /// Copies wanted of a file's chunks, or of what will be created in a directory.
    pub async fn set_goal(&self, caller: &Caller, inode: InodeId, goal: u8) -> Result<(), FsError> {
        let _ = (caller, inode, goal);
        Err(FsError::NotImplemented)
    }

    /// Value of an extended attribute; `name` has its namespace (`user.…`).
    pub async fn getxattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let _ = (caller, inode, name);
        Err(FsError::NotImplemented)
    }

    /// [`Client::getxattr`] without waiting: mostly "there is none", known from the attributes.
    pub fn try_getxattr(&self, inode: InodeId, name: &[u8]) -> Option<Result<Vec<u8>, FsError>> {
        let _ = (inode, name);
        None
    }

    /// Names of all extended attributes.
    pub async fn listxattr(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        let _ = (caller, inode);
        Err(FsError::NotImplemented)
    }

    /// [`Client::listxattr`] without waiting.
    pub fn try_listxattr(&self, inode: InodeId) -> Option<Vec<Vec<u8>>> {
        let _ = inode;
        None
    }

    /// Creates or replaces an extended attribute.
    pub async fn setxattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        (name, value): (&[u8], &[u8]),
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let _ = (caller, inode, name, value, mode);
        Err(FsError::NotImplemented)
    }

    /// Removes an extended attribute.
    pub async fn removexattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<(), FsError> {
        let _ = (caller, inode, name);
        Err(FsError::NotImplemented)
    }
}
