//! The bytes of one open inode.

use bytes::Bytes;
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, ChunkMap};
use gfs_proto::ids::{InodeId, TruncateGeneration};
use gfs_proto::ops::HeldChunk;
use gfs_proto::time::Timestamp;
use std::sync::Arc;

/// What is known of an inode when it is opened.
#[derive(Clone, Debug)]
pub struct OpenData {
    /// The inode.
    pub inode: InodeId,
    /// Its size.
    pub size: u64,
    /// Of the attributes that the size came with.
    pub truncate_generation: TruncateGeneration,
    /// Locations of its first chunks, as [`gfs_proto::ops::Opened`] has them; may be empty.
    pub map: ChunkMap,
    /// Lease on its first chunk, if it was just made.
    pub grant: Option<ChunkGrant>,
    /// This session alone has it open, for writing: writes are buffered.
    pub exclusive: bool,
}

/// Size and time of last change, to be reported to the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeChange {
    /// Bytes of the file, flushed or not.
    pub size: u64,
    /// Time of the last write.
    pub mtime: Timestamp,
    /// To be sent with it: a report of an older generation is void.
    pub truncate_generation: TruncateGeneration,
    /// Number of the last write, for [`InodeData::reported`].
    pub(super) stamp: u64,
}

/// The bytes of one open inode, shared by its handles.
pub struct InodeData {
    open: OpenData,
}

impl InodeData {
    pub(super) fn new(open: OpenData) -> Arc<Self> {
        Arc::new(Self { open })
    }

    /// Bytes from `offset`: zeroes in holes, fewer than `length` only at the end of the file. Own
    /// writes are seen whether they were flushed or not.
    pub async fn read(self: &Arc<Self>, _offset: u64, _length: u32) -> Result<Bytes, FsError> {
        Err(FsError::NotImplemented)
    }

    /// As [`read`](Self::read), if all of it is in memory; waits for nothing.
    pub fn try_read(self: &Arc<Self>, _offset: u64, _length: u32) -> Option<Bytes> {
        None
    }

    /// Under `exclusive` the bytes are kept and the call waits only for memory; otherwise they are at
    /// all replicas when it returns.
    pub async fn write(self: &Arc<Self>, _offset: u64, _data: &[u8]) -> Result<(), FsError> {
        Err(FsError::NotImplemented)
    }

    /// Writes at the end of the file, which no other append of this client gets; returns where.
    pub async fn append(self: &Arc<Self>, _data: &[u8]) -> Result<u64, FsError> {
        Err(FsError::NotImplemented)
    }

    /// Bytes of the file, own writes included.
    pub fn size(&self) -> u64 {
        self.open.size
    }

    /// The master's newer knowledge of the size. Ignored if it is of an older generation, or if this
    /// session is the exclusive writer and knows better.
    pub fn learn_size(&self, _size: u64, _generation: TruncateGeneration) {}

    /// Size and mtime, if there was a write since the last [`reported`](Self::reported).
    pub fn unreported(&self) -> Option<SizeChange> {
        None
    }

    /// The master has noted `change`.
    pub fn reported(&self, _change: &SizeChange) {}

    /// True if there are writes that not all replicas have acknowledged.
    pub fn is_dirty(&self) -> bool {
        false
    }

    /// Waits until all replicas have what was written before the call (close). Returns also the
    /// error of an earlier flush in the background that nobody was told of yet.
    pub async fn flush(self: &Arc<Self>) -> Result<(), FsError> {
        Err(FsError::NotImplemented)
    }

    /// As [`flush`](Self::flush), and on stable storage at all replicas (fsync).
    pub async fn sync(self: &Arc<Self>) -> Result<(), FsError> {
        Err(FsError::NotImplemented)
    }

    /// Before the master is asked to set the size: drops what lies beyond, flushes the rest.
    pub async fn truncate_prepare(self: &Arc<Self>, _new_size: u64) -> Result<(), FsError> {
        Err(FsError::NotImplemented)
    }

    /// The master has set the size. All grants are void.
    pub fn truncated(&self, _new_size: u64, _generation: TruncateGeneration) {}

    /// Enters or leaves buffering. On leaving, returns when everything is flushed; the grants are
    /// still [`held`](Self::held) and are the caller's to return and to forget.
    pub async fn set_exclusive(self: &Arc<Self>, _exclusive: bool) -> Result<(), FsError> {
        Err(FsError::NotImplemented)
    }

    /// Leases held, for ReturnChunks.
    pub fn held(&self) -> Vec<HeldChunk> {
        Vec::new()
    }

    /// The leases were given back or are void; the next write asks anew.
    pub fn forget_grants(&self) {}

    /// What was cached of the file may be old: another session changed it.
    pub fn invalidate(&self) {}
}
