//! Reading, writing and syncing open files.

use super::Client;
use crate::{Allocate, FileHandle, Seek, WriteFlags};
use bytes::Bytes;
use gfs_proto::FsError;

impl Client {
    /// Up to `length` bytes; fewer only at the end of the file.
    pub async fn read(&self, handle: FileHandle, offset: u64, length: u32) -> Result<Bytes, FsError> {
        let _ = (handle, offset, length);
        Err(FsError::NotImplemented)
    }

    /// [`Client::read`] from memory.
    pub fn try_read(&self, handle: FileHandle, offset: u64, length: u32) -> Option<Result<Bytes, FsError>> {
        let _ = (handle, offset, length);
        None
    }

    /// Writes all of `data`; at the end of the file if the handle was opened with O_APPEND.
    pub async fn write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<u32, FsError> {
        self.write_with(handle, offset, data, WriteFlags::default()).await
    }

    /// [`Client::write`] with what the kernel says about it.
    pub async fn write_with(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, FsError> {
        let _ = (handle, offset, data, flags);
        Err(FsError::NotImplemented)
    }

    /// [`Client::write_with`] into memory without waiting, if the file is buffered and there is room.
    pub fn try_write(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Option<Result<u32, FsError>> {
        let _ = (handle, offset, data, flags);
        None
    }

    /// `fsync(2)`, or `fdatasync(2)` if `data_only`: the bytes on stable storage of every replica, then
    /// the size logged at the master.
    pub async fn fsync(&self, handle: FileHandle, data_only: bool) -> Result<(), FsError> {
        let _ = (handle, data_only);
        Err(FsError::NotImplemented)
    }

    /// `fsync(2)` of a directory: its changes are durable when they return, so there is nothing to do.
    pub fn fsyncdir(&self) {}

    /// `fallocate(2)`.
    pub async fn fallocate(&self, handle: FileHandle, offset: u64, length: u64, what: Allocate) -> Result<(), FsError> {
        let _ = (handle, offset, length, what);
        Err(FsError::NotImplemented)
    }

    /// `lseek(2)` for data and holes; whole chunks are told apart.
    pub async fn seek(&self, handle: FileHandle, offset: u64, what: Seek) -> Result<u64, FsError> {
        let _ = (handle, offset, what);
        Err(FsError::NotImplemented)
    }
}
