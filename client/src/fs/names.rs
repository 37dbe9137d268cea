//! Names: looking up, making, removing, renaming.

use super::Client;
use crate::{Entry, Lookup};
use gfs_proto::FsError;
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::ops::{MakeKind, RenameMode};

impl Client {
    /// The inode under a name. `.` and `..` are no names.
    pub async fn lookup(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<Lookup, FsError> {
        let _ = (caller, parent, name);
        Err(FsError::NotImplemented)
    }

    /// [`Client::lookup`] from the caches. The caller's right to search the directory is the kernel's
    /// business here (`default_permissions`).
    pub fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup> {
        let _ = (parent, name);
        None
    }

    /// Makes anything but an open file (`mkdir`, `mknod`, `symlink`); fails if the name exists. `mode`
    /// has the umask applied.
    pub async fn make(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        kind: MakeKind,
        mode: Mode,
    ) -> Result<Entry, FsError> {
        let _ = (caller, parent, name, kind, mode);
        Err(FsError::NotImplemented)
    }

    /// A further name of an inode.
    pub async fn link(&self, caller: &Caller, inode: InodeId, parent: InodeId, name: &Name) -> Result<Entry, FsError> {
        let _ = (caller, inode, parent, name);
        Err(FsError::NotImplemented)
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<(), FsError> {
        let _ = (caller, parent, name);
        Err(FsError::NotImplemented)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<(), FsError> {
        let _ = (caller, parent, name);
        Err(FsError::NotImplemented)
    }

    /// Renames; `from` and `to` are a directory and a name in it.
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let _ = (caller, from, to, mode);
        Err(FsError::NotImplemented)
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, caller: &Caller, inode: InodeId) -> Result<Vec<u8>, FsError> {
        let _ = (caller, inode);
        Err(FsError::NotImplemented)
    }

    /// [`Client::readlink`] from the cache.
    pub fn try_readlink(&self, inode: InodeId) -> Option<Vec<u8>> {
        let _ = inode;
        None
    }
}
