//! What all open files of a client share: connections, block cache, dirty memory, numbers of writes.

use super::authority::ChunkAuthority;
use super::cache::BlockCache;
use super::connection::Introduction;
use super::inode::{InodeData, OpenData};
use super::memory::Memory;
use super::servers::Servers;
use crate::retry;
use futures_util::future::join_all;
use gfs_proto::FsError;
use gfs_proto::ids::{InodeId, Sequence};
use gfs_proto::limits::OPERATION_TIMEOUT;
use gfs_proto::ops::SlowServer;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Dirty data is sent when it is this old, whatever its amount.
const DIRTY_AGE: Duration = Duration::from_secs(2);
/// The kernel's name for this boot of this machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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

impl DataConfig {
    /// Bound on one write of an operation: time is left for others if a server is silent.
    fn request_timeout(&self) -> Duration {
        (self.timeout / 6).min(Duration::from_secs(10))
    }
    /// Bound on one read, which another replica can serve as well.
    fn read_timeout(&self) -> Duration {
        self.request_timeout() / 2
    }
}

/// Connections, block cache and dirty memory of one client.
pub struct DataPlane {
    pub(super) authority: Arc<dyn ChunkAuthority>,
    pub(super) config: DataConfig,
    pub(super) request_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(crate) runtime: Handle,
    pub(super) servers: Arc<Servers>,
    pub(super) cache: BlockCache,
    pub(super) memory: Memory,
    sequence: AtomicU64,
    dirty: Mutex<HashMap<InodeId, Arc<InodeData>>>,
    became_dirty: Arc<Notify>,
}

impl DataPlane {
    /// Nothing is connected before the first read or write. Background work runs on `runtime`.
    pub fn new(authority: Arc<dyn ChunkAuthority>, config: DataConfig, runtime: Handle) -> Arc<Self> {
        let us = Introduction {
            cluster: authority.cluster(),
            session: authority.session(),
            chunk_size: authority.chunk_size(),
            host: std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned(),
        };
        let plane = Arc::new(Self {
            request_timeout: config.request_timeout(),
            read_timeout: config.read_timeout(),
            servers: Arc::new(Servers::new(us, runtime.clone())),
            cache: BlockCache::new(config.cache_bytes),
            memory: Memory::new(config.dirty_bytes),
            sequence: AtomicU64::new(1),
            dirty: Mutex::default(),
            became_dirty: Arc::new(Notify::new()),
            authority,
            config,
            runtime,
        });
        plane.runtime.spawn(send_old_data(Arc::downgrade(&plane), plane.became_dirty.clone()));
        plane
    }

    /// Starts to read and write an inode. The caller shares the result among the inode's handles:
    /// two of them for one inode would not see each other's dirty data. Dirty data keeps it alive.
    pub fn open(self: &Arc<Self>, open: OpenData) -> Arc<InodeData> {
        InodeData::new(self.clone(), open)
    }

    /// Sends everything dirty and waits for it. The first error counts, the others are logged.
    pub async fn flush_all(&self) -> Result<(), FsError> {
        let inodes = self.dirty_inodes();
        let outcomes = join_all(inodes.iter().map(InodeData::flush)).await;
        for (inode, error) in inodes.iter().zip(&outcomes).filter_map(|(inode, outcome)| Some((inode, outcome.err()?)))
        {
            tracing::error!(inode = %inode.id(), %error, "written data could not be stored");
        }
        outcomes.into_iter().collect()
    }

    /// Chunkservers that answer much later than the others.
    pub fn slow_servers(&self) -> Vec<SlowServer> {
        self.servers.latencies.lock().slow(Instant::now())
    }

    /// Bytes written and not acknowledged by all replicas yet.
    pub fn dirty_bytes(&self) -> usize {
        self.memory.used()
    }

    pub(super) fn next_sequence(&self) -> Sequence {
        Sequence::new(self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    fn dirty_inodes(&self) -> Vec<Arc<InodeData>> {
        self.dirty.lock().values().cloned().collect()
    }

    /// The inode has dirty data from now on.
    pub(super) fn mark_dirty(&self, inode: &Arc<InodeData>) {
        self.dirty.lock().insert(inode.id(), inode.clone());
        self.became_dirty.notify_one();
    }

    pub(super) fn mark_clean(&self, inode: &InodeData) {
        // dropped after the lock is: it may be the last reference
        let _last = self.dirty.lock().remove(&inode.id());
    }

    /// Memory is short: sends what all files have.
    pub(super) fn press(&self) {
        self.dirty_inodes().iter().for_each(InodeData::send_soon);
    }
}

/// Sends data that has been dirty for long. Idle while nothing is dirty; ends with the plane.
async fn send_old_data(plane: Weak<DataPlane>, became_dirty: Arc<Notify>) {
    loop {
        became_dirty.notified().await;
        loop {
            retry::wait(DIRTY_AGE / 2).await;
            let Some(plane) = plane.upgrade() else { return };
            let inodes = plane.dirty_inodes();
            if inodes.is_empty() {
                break;
            }
            inodes.iter().filter(|inode| inode.is_older_than(DIRTY_AGE)).for_each(InodeData::send_soon);
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.became_dirty.notify_one();
    }
}
