//! Chunks that were allocated and that no server has reported yet: maybe nothing was ever written into
//! them. Once nobody may write such a chunk any more
//! the servers are asked; if none has a replica the chunk becomes a hole again, and reads see zeroes
//! instead of missing replicas.
//!
//! ```text
//!   allocated --report--> forgotten here, soon in the log
//!       '--- lease ends --> asked after a while, or when somebody reads --> abandoned, or reported
//!                             '-- servers are away: asked again, less and less often
//! ```
//!
//! The state has a mark for each, so that a chunk without replicas is a hole only if it never had any,
//! and otherwise lost. A mark goes with a command for hundreds of chunks, some time after the report:
//! after a crash in between the servers report again or are asked once more.
//!
//! After a start, the answer that had the grant may never have reached the client. A client that did get
//! its grant may write under it for as long as a lease lasts; before that nothing is abandoned.

use super::Generations;
use super::install::{Agreement, Wanted};
use crate::master::Master;
use futures_util::StreamExt as _;
use gfs_master_core::Action;
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::ChunkHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::debug;

/// A report comes within this many ticks of the write; then asking is worth its while.
const TICKS_TO_REPORT: u32 = 2;
/// Chunks asked about at the same time: enough to have thousands done in seconds, few beside the
/// commands that clients wait for.
const ASKED_AT_ONCE: usize = 32;
/// Patience doubles so often at most: to a minute, with ticks of a second.
const DOUBLINGS_MAX: u32 = 5;
/// Marks taken away by one command of about 5 KiB.
const MARKS_MAX: usize = 1024;

/// When to ask about a chunk.
#[derive(Clone, Copy, Default)]
struct Asking {
    /// Without a lease, and not asked, since then.
    since: Option<Instant>,
    /// Asked in vain so many times.
    in_vain: u32,
}

/// The chunks.
#[derive(Default)]
pub struct Unwritten {
    chunks: Mutex<HashMap<ChunkHandle, Asking>>,
    /// Reported since, and still marked in the state.
    written: Mutex<Vec<ChunkHandle>>,
    /// To spare the lock while reports come in.
    count: AtomicUsize,
}

impl Unwritten {
    /// With chunks of which it is not known whether they were written.
    pub fn of(handles: impl IntoIterator<Item = ChunkHandle>) -> Self {
        let chunks: HashMap<_, _> = handles.into_iter().map(|handle| (handle, Asking::default())).collect();
        Self { count: chunks.len().into(), chunks: chunks.into(), written: Mutex::default() }
    }

    /// The chunk was allocated.
    pub fn add(&self, handle: ChunkHandle) {
        let mut chunks = self.chunks.lock();
        chunks.insert(handle, Asking::default());
        self.count.store(chunks.len(), Ordering::Release);
    }

    /// The chunk has a replica.
    pub fn written(&self, handle: ChunkHandle) {
        if self.forget(handle) {
            self.written.lock().push(handle);
        }
    }

    /// The chunk is gone. True if it was here.
    pub fn forget(&self, handle: ChunkHandle) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut chunks = self.chunks.lock();
        let known = chunks.remove(&handle).is_some();
        self.count.store(chunks.len(), Ordering::Release);
        known
    }

    /// True if no server is known to have a replica.
    pub fn contains(&self, handle: ChunkHandle) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.chunks.lock().contains_key(&handle)
    }

    /// Those that have had no lease for a while, the longer the more often they were asked in vain.
    fn due(&self, leased: impl Fn(ChunkHandle) -> bool, now: Instant, patience: Duration) -> Vec<ChunkHandle> {
        let mut chunks = self.chunks.lock();
        let mut due = Vec::new();
        for (handle, asking) in chunks.iter_mut() {
            if leased(*handle) {
                *asking = Asking::default();
            } else if now.saturating_duration_since(*asking.since.get_or_insert(now))
                >= patience * (1 << asking.in_vain)
            {
                due.push(*handle);
            }
        }
        due
    }

    /// The servers were asked and did not say enough.
    fn put_off(&self, handle: ChunkHandle, now: Instant) {
        if let Some(asking) = self.chunks.lock().get_mut(&handle) {
            *asking = Asking { since: Some(now), in_vain: (asking.in_vain + 1).min(DOUBLINGS_MAX) };
        }
    }
}

/// Asks about the chunks that nobody may write any more, until the master stops. A task of its own,
/// because servers that do not answer make it slow.
pub async fn settle_all(master: Arc<Master>) {
    loop {
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            () = tokio::time::sleep(master.timings.tick) => {}
        }
        master.settle_unwritten(Instant::now()).await;
    }
}

impl Master {
    /// Logs which chunks have been written.
    pub async fn log_written(&self) -> Result<(), FsError> {
        loop {
            let handles = {
                let mut written = self.unwritten.written.lock();
                let rest = written.len().saturating_sub(MARKS_MAX);
                written.split_off(rest)
            };
            if handles.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.commit_one(Action::Written { handles: handles.clone() }).await {
                self.unwritten.written.lock().extend(handles);
                return Err(error);
            }
        }
    }

    /// True if somebody may be writing the chunk, under a grant of this master or of the one before.
    pub fn may_be_leased(&self, handle: ChunkHandle, now: Instant) -> bool {
        self.leases.is_leased(handle, now) || self.inherits_leases(now)
    }

    async fn settle_unwritten(&self, now: Instant) {
        let leased = |handle| self.may_be_leased(handle, now);
        let due = self.unwritten.due(leased, now, self.timings.tick * TICKS_TO_REPORT);
        let asking = futures_util::stream::iter(due).take_until(self.stopping.passed());
        let settle = async |handle| {
            if let Err(error) = self.settle(handle).await {
                debug!(chunk = %handle, %error, "whether it was written is found out later");
                self.unwritten.put_off(handle, Instant::now());
            }
        };
        asking.for_each_concurrent(ASKED_AT_ONCE, settle).await;
    }

    /// Finds out whether the chunk was written. Afterwards it has replicas or is a hole; `NoReplica` if
    /// servers that may have one are away.
    pub async fn settle(&self, handle: ChunkHandle) -> Result<(), FsError> {
        let Some(record) = self.store.view().chunk(handle)? else {
            self.unwritten.forget(handle);
            return Ok(());
        };
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        if !self.unwritten.contains(handle) || self.may_be_leased(handle, Instant::now()) {
            return Ok(());
        }
        let file = self.store.view().chunks(record.inode, record.index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.first().filter(|chunk| chunk.handle == handle) else { return Ok(()) };
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        match Box::pin(self.agree(&wanted)).await? {
            Agreement::Reached(_) => self.unwritten.written(handle),
            Agreement::Nowhere { away } if away.is_empty() => {
                let chunks = vec![(handle, chunk.record.version)];
                self.commit_one(Action::Abandon { chunks }).await?;
                self.locations.forget_assumed(handle);
                self.unwritten.forget(handle);
            }
            Agreement::Nowhere { .. } => return Err(FsError::NoReplica),
            Agreement::Changed => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_only_after_a_while_without_a_lease() {
        let (unwritten, now, patience) = (Unwritten::default(), Instant::now(), Duration::from_secs(2));
        let (leased, free) = (ChunkHandle::new(1), ChunkHandle::new(2));
        [leased, free].into_iter().for_each(|handle| unwritten.add(handle));
        let due = |now| unwritten.due(|handle| handle == leased, now, patience);
        assert_eq!(due(now), []);
        assert_eq!(due(now + patience), [free]);
        assert!(unwritten.forget(free) && !unwritten.forget(free));
        assert_eq!(due(now + patience), []);
        assert!(unwritten.contains(leased) && !unwritten.contains(free));
    }

    #[test]
    fn asked_less_and_less_often_while_servers_are_away() {
        let (unwritten, mut now, patience) = (Unwritten::default(), Instant::now(), Duration::from_secs(2));
        let chunk = ChunkHandle::new(1);
        unwritten.add(chunk);
        let due = |now| unwritten.due(|_| false, now, patience);
        assert_eq!(due(now), []);
        for pauses in [1, 2, 4, 8, 16, 32, 32] {
            assert_eq!(due(now + patience * pauses - Duration::from_millis(1)), [], "{pauses}");
            now += patience * pauses;
            assert_eq!(due(now), [chunk], "{pauses}");
            unwritten.put_off(chunk, now);
        }
    }
}
