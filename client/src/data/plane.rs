//! What all open files of a client share.

use super::authority::ChunkAuthority;
use super::inode::{InodeData, OpenData};
use gfs_proto::limits::OPERATION_TIMEOUT;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Bounds of the data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataConfig {
    /// Bytes of the block cache, readahead included.
    pub cache_bytes: usize,
    /// Bytes written and not yet acknowledged by the replicas, over all files; writers wait above it.
    pub dirty_bytes: usize,
    /// Largest readahead window of one file.
    pub readahead_max: u32,
    /// Bound on any one operation.
    pub timeout: Duration,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, dirty_bytes: 64 << 20, readahead_max: 8 << 20, timeout: OPERATION_TIMEOUT }
    }
}

/// Connections, block cache and dirty memory of one client.
pub struct DataPlane {
    authority: Arc<dyn ChunkAuthority>,
    config: DataConfig,
    runtime: Handle,
}

impl DataPlane {
    /// Nothing is connected before the first read or write. Background work runs on `runtime`.
    pub fn new(authority: Arc<dyn ChunkAuthority>, config: DataConfig, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { authority, config, runtime })
    }

    /// Starts to read and write an inode. The caller shares the result among the inode's handles:
    /// two of them for one inode would not see each other's dirty data.
    pub fn open(self: &Arc<Self>, open: OpenData) -> Arc<InodeData> {
        let _ = (&self.authority, &self.config, &self.runtime);
        InodeData::new(open)
    }
}
