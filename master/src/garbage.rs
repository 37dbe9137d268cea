//! Garbage collection (GFS paper, 4.4): replicas of chunks that no file has any more, and stale ones.
//!
//! The garbage table is durable and says which servers have yet to confirm. A chunkserver deletes only
//! on command, and each command names handle, version and the run of the server that is meant.

use crate::master::Master;
use crate::servers::Presence;
use crate::servers::link::CommandError;
use crate::servers::locations::Located;
use futures_util::future::join_all;
use gfs_master_core::{Action, GarbageChunk, Unclaimed, UnclaimedCause};
use gfs_proto::FsError;
use gfs_proto::control::{ChunkCommand, CommandOutcome, NotDeleted};
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ServerId};
use gfs_proto::limits::DELETIONS_MAX;
use gfs_proto::mutant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{debug, warn};

/// Entries of the garbage table that are looked at together: no more are named to a server at once.
const PAGE: usize = DELETIONS_MAX;

/// Garbage on servers that were away or refused is looked at again after this many ticks.
const TICKS_FOR_LEFTOVERS: u32 = 5;

/// Replicas to be deleted, by server.
type Deletions = BTreeMap<ServerId, Vec<SyncChunk>>;

/// From the first new garbage to the deletion: what is removed in this time is deleted together. Short,
/// because the files of deleted chunks become those of new ones.
const GATHERED: Duration = Duration::from_millis(100);
/// As long as more chunks than this become garbage within [`GATHERED`], somebody removes a tree, and the
/// deletions, which keep the same disks busy, wait until that is over,
const STORM: u64 = 64;
/// but not longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has become garbage since the start.
#[derive(Default)]
pub struct Garbage {
    made: AtomicU64,
    news: Notify,
}

impl Garbage {
    /// So many chunks more.
    pub fn add(&self, chunks: usize) {
        if chunks > 0 {
            self.made.fetch_add(chunks as u64, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    /// There may be something to do although nothing is new: a server is back.
    pub fn look(&self) {
        self.news.notify_one();
    }

    /// Waits until what is removed together is there; `urgent`: room is short.
    async fn gathered(&self, urgent: impl Fn() -> bool) {
        let latest = tokio::time::Instant::now() + PATIENCE;
        loop {
            let before = self.made.load(Ordering::Relaxed);
            tokio::time::sleep(GATHERED).await;
            let calm = self.made.load(Ordering::Relaxed) - before <= STORM;
            if calm || urgent() || tokio::time::Instant::now() >= latest {
                return;
            }
        }
    }
}

/// Works until the master stops: when there is new garbage, and now and then for what was left over.
pub async fn collect(master: Arc<Master>) {
    loop {
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            () = master.something_to_delete() => {}
        }
        if let Err(error) = master.collect_all().await {
            debug!(%error, "garbage collection is put off");
        }
    }
}

impl Master {
    async fn something_to_delete(&self) {
        let news = self.garbage.news.notified();
        if tokio::time::timeout(self.timings.tick * TICKS_FOR_LEFTOVERS, news).await.is_ok() {
            self.garbage.gathered(|| self.is_short_of_room()).await;
        }
    }

    /// A server that is up takes no new chunks.
    fn is_short_of_room(&self) -> bool {
        self.servers.placement(Instant::now()).servers.iter().any(|server| !server.accepts_chunks)
    }

    /// One walk over the garbage table.
    async fn collect_all(&self) -> Result<(), FsError> {
        let mut after = None;
        while !self.stopping.is_open() {
            let page = self.store.view().garbage(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.handle);
            self.put_aside(page.iter().flat_map(|chunk| self.unlisted(chunk)).collect()).await?;
            let mut deletions = Deletions::new();
            page.iter().for_each(|chunk| self.add_deletions(chunk, &mut deletions));
            let outcomes = join_all(deletions.into_iter().map(|(server, chunks)| async move {
                let gone = self.delete(server, chunks).await.unwrap_or_default();
                gone.into_iter().map(move |handle| (handle, server))
            }));
            let mut rows: Vec<_> = outcomes.await.into_iter().flatten().collect();
            // Nobody waits for servers that were removed.
            rows.extend(page.iter().flat_map(|chunk| {
                let removed = chunk.servers.iter().filter(|server| !self.servers.is_known(**server));
                removed.map(|server| (chunk.handle, *server))
            }));
            if !rows.is_empty() {
                self.commit_one(Action::Collected { rows }).await?;
            }
        }
        Ok(())
    }

    /// Replicas of a removed chunk that its row does not name: the chunk did not entitle them, and they were kept, because
    /// nobody had a current one, or their deletion was not confirmed, when it was removed. No report will tell of
    /// them again. They are in the row, or in a new one, at the next walk.
    fn unlisted(&self, chunk: &GarbageChunk) -> Vec<Unclaimed> {
        let handle = chunk.handle;
        if !self.store.view().was_given_out(handle) {
            return Vec::new();
        }
        let mut located = self.locations.of(handle);
        located.retain(|row| !chunk.servers.contains(&row.server) && !self.is_aside(handle, row.server));
        let cause = UnclaimedCause::NoChunk;
        located
            .iter()
            .map(|row| Unclaimed { handle, server: row.server, version: row.version, length: 0, cause })
            .collect()
    }

    /// What can be asked of servers that are up. A replica's version is the reported one, if it was.
    fn add_deletions(&self, chunk: &GarbageChunk, deletions: &mut Deletions) {
        let (now, handle) = (Instant::now(), chunk.handle);
        let located = self.locations.of(handle);
        for server in chunk.servers.iter().filter(|server| self.servers.presence(**server, now) == Presence::Up) {
            let row = located.iter().find(|l| l.server == *server);
            let version = row.map_or(chunk.version, |l| l.version);
            deletions.entry(*server).or_default().push(SyncChunk { handle, version });
        }
    }

    /// Has a server delete these replicas, no more than one command may name. Those that are gone then;
    /// `None` if it did not answer.
    pub(crate) async fn delete(&self, server: ServerId, chunks: Vec<SyncChunk>) -> Option<Vec<ChunkHandle>> {
        let incarnation = self.servers.incarnation(server)?;
        let command = ChunkCommand::Delete { chunks: chunks.clone(), incarnation };
        let kept = match self.servers.command(server, command).await {
            Ok(CommandOutcome::Deleted(kept)) => kept,
            Err(CommandError::Absent | CommandError::TimedOut) => return None,
            other => {
                warn!(%server, ?other, "replicas were not deleted");
                return Some(Vec::new());
            }
        };
        for NotDeleted { handle, error } in &kept {
            warn!(chunk = %handle, %server, %error, "a replica was not deleted");
        }
        let mut gone: Vec<ChunkHandle> = chunks.into_iter().map(|chunk| chunk.handle).collect();
        gone.retain(|handle| kept.iter().all(|kept| kept.handle != *handle));
        gone.iter().for_each(|handle| self.locations.remove(*handle, server));
        Some(gone)
    }

    /// Tells servers to delete replicas of a chunk that are older than the recorded version and that
    /// nobody is entitled to, once a current one is readable. They must go soon: a client with an old
    /// chunk map might still ask for them.
    pub fn discard_stale(&self, handle: ChunkHandle) {
        for (server, chunk) in self.stale(handle) {
            if let Some(incarnation) = self.servers.incarnation(server) {
                self.servers.hint(server, ChunkCommand::Delete { chunks: vec![chunk], incarnation });
            }
        }
    }

    /// Has a server that reports replicas that it is not entitled to delete them. False if it does not
    /// answer. One that is up already is told here only of those of older versions: others are removed by
    /// repair, one step of a chunk at a time.
    pub async fn discard_stale_at(&self, server: ServerId, handles: Vec<ChunkHandle>) -> bool {
        let returns = self.servers.presence(server, Instant::now()) != Presence::Up;
        let named = |handle| match returns {
            _ if mutant!(DeleteUnknown) => self.located(handle),
            true => self.strays(handle),
            false => self.stale(handle),
        };
        let stale = handles.into_iter().flat_map(named);
        let stale: Vec<SyncChunk> = stale.filter(|(of, _)| *of == server).map(|(_, chunk)| chunk).collect();
        for chunks in stale.chunks(DELETIONS_MAX) {
            if self.delete(server, chunks.to_vec()).await.is_none() {
                return false;
            }
        }
        true
    }

    /// Every replica that was reported of a chunk.
    fn located(&self, handle: ChunkHandle) -> Vec<(ServerId, SyncChunk)> {
        let named = |l: Located| (l.server, SyncChunk { handle, version: l.version });
        self.locations.of(handle).into_iter().map(named).collect()
    }

    /// Replicas of an older version, of servers that are not entitled to the recorded one.
    fn stale(&self, handle: ChunkHandle) -> Vec<(ServerId, SyncChunk)> {
        let Ok(Some(record)) = self.store.view().chunk(handle) else { return Vec::new() };
        if self.live_replicas(handle, &record, Instant::now()) == 0 {
            return Vec::new();
        }
        let is_stale = |(of, chunk): &(ServerId, SyncChunk)| {
            chunk.version < record.version && !record.entitled.contains(of) && !self.is_aside(handle, *of)
        };
        self.located(handle).into_iter().filter(is_stale).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deletions_wait_for_the_end_of_a_storm() {
        for (storm, urgent, expected) in [(0, false, 1), (30, false, 31), (1000, false, 100), (30, true, 1)] {
            let garbage = Arc::new(Garbage::default());
            garbage.add(1);
            let (start, of) = (tokio::time::Instant::now(), garbage.clone());
            tokio::spawn(async move {
                for _ in 0..storm {
                    tokio::time::sleep(GATHERED / 2).await;
                    of.add(STORM as usize + 1);
                    tokio::time::sleep(GATHERED / 2).await;
                }
            });
            garbage.gathered(|| urgent).await;
            let rounds = start.elapsed().as_millis() / GATHERED.as_millis();
            assert!(rounds.abs_diff(expected) <= 1, "{storm} {urgent}: {rounds} rounds");
        }
    }
}
