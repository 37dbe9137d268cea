//! Opening, creating and closing files.

use super::Client;
use crate::{Entry, FileHandle, OpenFlags, Opened};
use gfs_proto::FsError;
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::chunk::ChunkMap;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;

impl Client {
    /// Opens a file.
    pub async fn open(&self, caller: &Caller, inode: InodeId, flags: OpenFlags) -> Result<Opened, FsError> {
        let _ = (caller, inode, flags);
        Err(FsError::NotImplemented)
    }

    /// [`Client::open`] without waiting: possible only where nobody need be asked.
    pub fn try_open(&self, inode: InodeId, flags: OpenFlags) -> Option<Result<Opened, FsError>> {
        let _ = (inode, flags);
        None
    }

    /// Creates a file and opens it, or opens what is there unless `flags.exclusive`. `mode` has the
    /// umask applied.
    pub async fn create(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        (mode, flags): (Mode, OpenFlags),
    ) -> Result<(Entry, Opened), FsError> {
        let _ = (caller, parent, name, mode, flags);
        Err(FsError::NotImplemented)
    }

    /// `close(2)` of one descriptor: what was written is in the memory of the replicas, the size at
    /// the master. Errors of earlier writes are reported here.
    pub async fn flush(&self, handle: FileHandle) -> Result<(), FsError> {
        let _ = handle;
        Err(FsError::NotImplemented)
    }

    /// [`Client::flush`] without waiting: `Some` if there is nothing to do.
    pub fn try_flush(&self, handle: FileHandle) -> Option<Result<(), FsError>> {
        let _ = handle;
        None
    }

    /// The last descriptor is closed. Never waits; what must be told to the master is sent behind it.
    pub fn release(&self, handle: FileHandle) {
        let _ = handle;
    }

    /// Where the chunks of a file are, holes left out.
    pub async fn file_chunks(&self, caller: &Caller, inode: InodeId) -> Result<ChunkMap, FsError> {
        let _ = (caller, inode);
        Err(FsError::NotImplemented)
    }
}
