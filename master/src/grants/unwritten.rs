//! Chunks that were allocated and that no server has reported yet, or none as flushed: maybe nothing was ever written
//! into them, or power cuts have taken it. Once nobody may write such a chunk any more
//! the servers are asked; if none has a replica the chunk becomes a hole again, and reads see zeroes
//! instead of missing replicas.
//!
//! ```text
//!   allocated --report--> unflushed --report of a clean one, or a raise--> forgotten here, soon in the log
//!       |                     '--- no replica is known any more --.
//!       '--- lease ends ------------------------------------------+--> asked after a while, or when somebody reads
//!                                                                         |--> abandoned, or reported
//!                                                                         '-- servers are away: asked again, less and
//!                                                                             less often
//! ```
//!
//! The state has a mark for each, so that a chunk without replicas is a hole only if it never had any that was flushed,
//! and otherwise lost. A mark changes with a command for hundreds of chunks, some time after the report:
//! after a crash in between the servers report again or are asked once more. An fsync has flushed what every entitled
//! server has, so one of them without a replica is enough to know that there was none; all are asked, because bytes that
//! were acknowledged and not flushed are not to be given up while one may have them.
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

/// The chunks that may come to nothing.
#[derive(Default)]
struct Chunks {
    /// No server has reported one.
    unwritten: HashMap<ChunkHandle, Asking>,
    /// Replicas were reported, and none as flushed.
    unflushed: HashMap<ChunkHandle, Asking>,
}

impl Chunks {
    fn asking(&mut self, handle: ChunkHandle) -> Option<&mut Asking> {
        match self.unwritten.get_mut(&handle) {
            None => self.unflushed.get_mut(&handle),
            some => some,
        }
    }
}

/// Chunks whose mark in the state is to be another one.
#[derive(Default)]
struct News {
    seen: Vec<ChunkHandle>,
    flushed: Vec<ChunkHandle>,
}

/// The chunks.
#[derive(Default)]
pub struct Unwritten {
    chunks: Mutex<Chunks>,
    /// Reported since, and still marked in the state.
    news: Mutex<News>,
    /// To spare the lock while reports come in.
    count: AtomicUsize,
}

impl Unwritten {
    /// With chunks of which it is not known whether they were written, and others that were seen and not flushed.
    pub fn of(
        unwritten: impl IntoIterator<Item = ChunkHandle>,
        unflushed: impl IntoIterator<Item = ChunkHandle>,
    ) -> Self {
        let new = |handle| (handle, Asking::default());
        let (unwritten, unflushed) =
            (unwritten.into_iter().map(new).collect(), unflushed.into_iter().map(new).collect());
        let all = Self::default();
        all.change(|chunks| *chunks = Chunks { unwritten, unflushed });
        all
    }

    fn change<T>(&self, change: impl FnOnce(&mut Chunks) -> T) -> T {
        let mut chunks = self.chunks.lock();
        let result = change(&mut chunks);
        self.count.store(chunks.unwritten.len() + chunks.unflushed.len(), Ordering::Release);
        result
    }

    /// The chunk was allocated, or begins again.
    pub fn add(&self, handle: ChunkHandle) {
        self.change(|chunks| {
            chunks.unflushed.remove(&handle);
            chunks.unwritten.insert(handle, Asking::default());
        });
    }

    /// The chunk has a replica, which a power cut may take.
    pub fn seen(&self, handle: ChunkHandle) {
        if !self.contains(handle) {
            return;
        }
        let is_new = self.change(|chunks| {
            let is_new = chunks.unwritten.remove(&handle).is_some();
            if is_new {
                chunks.unflushed.insert(handle, Asking::default());
            }
            is_new
        });
        if is_new {
            self.news.lock().seen.push(handle);
        }
    }

    /// The chunk has a replica that outlives a power cut.
    pub fn flushed(&self, handle: ChunkHandle) {
        if self.forget(handle) {
            self.news.lock().flushed.push(handle);
        }
    }

    /// The chunk is gone. True if it was here.
    pub fn forget(&self, handle: ChunkHandle) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.change(|chunks| {
            let unwritten = chunks.unwritten.remove(&handle);
            unwritten.or(chunks.unflushed.remove(&handle)).is_some()
        })
    }

    /// True if no server was ever known to have a replica.
    pub fn contains(&self, handle: ChunkHandle) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.chunks.lock().unwritten.contains_key(&handle)
    }

    /// True if servers had replicas, none of which was known to be flushed.
    pub fn is_unflushed(&self, handle: ChunkHandle) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.chunks.lock().unflushed.contains_key(&handle)
    }

    /// Those that have had no lease for a while, the longer the more often they were asked in vain.
    fn due(&self, leased: impl Fn(ChunkHandle) -> bool, now: Instant, patience: Duration) -> Vec<ChunkHandle> {
        due_of(&mut self.chunks.lock().unwritten, leased, now, patience)
    }

    /// Those that were seen, and have been nowhere for a while.
    fn missed(&self, located: impl Fn(ChunkHandle) -> bool, now: Instant, patience: Duration) -> Vec<ChunkHandle> {
        due_of(&mut self.chunks.lock().unflushed, located, now, patience)
    }

    /// The servers were asked and did not say enough.
    fn put_off(&self, handle: ChunkHandle, now: Instant) {
        if let Some(asking) = self.chunks.lock().asking(handle) {
            *asking = Asking { since: Some(now), in_vain: (asking.in_vain + 1).min(DOUBLINGS_MAX) };
        }
    }
}

/// Those of which nothing keeps anybody from asking, and has not for so long.
fn due_of(
    chunks: &mut HashMap<ChunkHandle, Asking>,
    is_kept: impl Fn(ChunkHandle) -> bool,
    now: Instant,
    patience: Duration,
) -> Vec<ChunkHandle> {
    let mut due = Vec::new();
    for (handle, asking) in chunks.iter_mut() {
        if is_kept(*handle) {
            *asking = Asking::default();
        } else if now.saturating_duration_since(*asking.since.get_or_insert(now)) >= patience * (1 << asking.in_vain) {
            due.push(*handle);
        }
    }
    due
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
        self.log_news(false, |news| &mut news.seen).await?;
        self.log_news(true, |news| &mut news.flushed).await
    }

    async fn log_news(&self, flushed: bool, of: fn(&mut News) -> &mut Vec<ChunkHandle>) -> Result<(), FsError> {
        loop {
            let handles = {
                let mut news = self.unwritten.news.lock();
                let handles = of(&mut news);
                let rest = handles.len().saturating_sub(MARKS_MAX);
                handles.split_off(rest)
            };
            if handles.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.commit_one(Action::Written { handles: handles.clone(), flushed }).await {
                of(&mut self.unwritten.news.lock()).extend(handles);
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
        let patience = self.timings.tick * TICKS_TO_REPORT;
        let mut due = self.unwritten.due(leased, now, patience);
        due.extend(self.unwritten.missed(|handle| self.is_somewhere(handle), now, patience));
        let asking = futures_util::stream::iter(due).take_until(self.stopping.passed());
        let settle = async |handle| {
            if let Err(error) = self.settle(handle).await {
                debug!(chunk = %handle, %error, "whether it was written is found out later");
                self.unwritten.put_off(handle, Instant::now());
            }
        };
        asking.for_each_concurrent(ASKED_AT_ONCE, settle).await;
    }

    /// True if a server is known, or assumed, to have a replica, or the leases of the master before are not over.
    fn is_somewhere(&self, handle: ChunkHandle) -> bool {
        self.inherits_leases(Instant::now()) || !self.locations.of(handle).is_empty()
    }

    /// True if the servers are to be asked about the chunk, once nobody may have a replica, or make one.
    fn is_open_question(&self, handle: ChunkHandle) -> bool {
        match self.unwritten.contains(handle) {
            true => !self.may_be_leased(handle, Instant::now()),
            false => self.unwritten.is_unflushed(handle) && !self.is_somewhere(handle),
        }
    }

    /// Finds out whether the chunk was written, or if so is still there. Afterwards it has replicas or is a hole; `NoReplica` if
    /// servers that may have one are away.
    pub async fn settle(&self, handle: ChunkHandle) -> Result<(), FsError> {
        let Some(record) = self.store.view().chunk(handle)? else {
            self.unwritten.forget(handle);
            return Ok(());
        };
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        if !self.is_open_question(handle) {
            return Ok(());
        }
        // of one that was seen: whoever has it writes to replicas that are gone
        self.leases.remove(handle);
        let file = self.store.view().chunks(record.inode, record.index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.first().filter(|chunk| chunk.handle == handle) else { return Ok(()) };
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        match Box::pin(self.agree(&wanted)).await? {
            Agreement::Reached(_) | Agreement::Changed => {}
            Agreement::Nowhere { away } if away.is_empty() => {
                let chunks = vec![(handle, chunk.record.version)];
                self.commit_one(Action::Abandon { chunks }).await?;
                self.locations.forget_assumed(handle);
                self.unwritten.forget(handle);
            }
            Agreement::Nowhere { .. } => return Err(FsError::NoReplica),
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
