//! Garbage collection (GFS paper, 4.4): replicas of chunks that no file has any more, and stale ones.
//!
//! The garbage table is durable and says which servers have yet to confirm. A chunkserver deletes only
//! on command, and each command names handle, version and the run of the server that is meant.

use crate::master::Master;
use crate::servers::Presence;
use crate::servers::link::CommandError;
use crate::servers::locations::Located;
use futures_util::stream::{self, StreamExt};
use gfs_master_core::{Action, GarbageChunk};
use gfs_proto::FsError;
use gfs_proto::control::ChunkCommand;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, warn};

/// Entries of the garbage table that are looked at together.
const PAGE: usize = 512;
/// Deletions under way at once, over all servers.
const DELETIONS_MAX: usize = 128;

/// One replica to be deleted.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    handle: ChunkHandle,
    version: ChunkVersion,
    server: ServerId,
}

/// What became of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deleted {
    Gone,
    Refused,
    Unanswered,
}

/// Works until the master stops: whenever there is garbage, and now and then for what was left over.
pub async fn collect(master: Arc<Master>) {
    loop {
        tokio::select! {
            () = master.stopping.passed() => return,
            () = master.garbage.notified() => {}
            () = tokio::time::sleep(master.timings.tick) => {}
        }
        if let Err(error) = master.collect_all().await {
            debug!(%error, "garbage collection is put off");
        }
    }
}

impl Master {
    /// One walk over the garbage table.
    async fn collect_all(&self) -> Result<(), FsError> {
        let mut after = None;
        while !self.stopping.is_open() {
            let page = self.store.view().garbage(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.handle);
            let deletions: Vec<Deletion> = page.iter().flat_map(|chunk| self.deletions(chunk)).collect();
            let outcomes = stream::iter(deletions).map(|deletion| async move {
                let gone = self.delete(deletion).await == Deleted::Gone;
                gone.then_some((deletion.handle, deletion.server))
            });
            let rows: Vec<_> = outcomes.buffer_unordered(DELETIONS_MAX).filter_map(std::future::ready).collect().await;
            if !rows.is_empty() {
                self.commit_one(Action::Collected { rows }).await?;
            }
        }
        Ok(())
    }

    /// What can be asked of servers that are up. A replica's version is the reported one, if it was.
    fn deletions(&self, chunk: &GarbageChunk) -> Vec<Deletion> {
        let now = Instant::now();
        let located = self.locations.of(chunk.handle);
        let up = chunk.servers.iter().filter(|server| self.servers.presence(**server, now) == Presence::Up);
        let deletion = |server: &ServerId| {
            let row = located.iter().find(|l| l.server == *server);
            Deletion { handle: chunk.handle, version: row.map_or(chunk.version, |l| l.version), server: *server }
        };
        up.map(deletion).collect()
    }

    async fn delete(&self, deletion: Deletion) -> Deleted {
        let Deletion { handle, version, server } = deletion;
        let Some(incarnation) = self.servers.incarnation(server) else { return Deleted::Unanswered };
        match self.servers.command(server, ChunkCommand::Delete { handle, version, incarnation }).await {
            Ok(_) | Err(CommandError::Refused { error: FsError::NotFound, .. }) => {
                self.locations.remove(handle, server);
                Deleted::Gone
            }
            Err(CommandError::Refused { error, detail }) => {
                warn!(chunk = %handle, %server, %error, detail, "a replica was not deleted");
                Deleted::Refused
            }
            Err(CommandError::Absent | CommandError::TimedOut) => Deleted::Unanswered,
        }
    }

    /// Tells servers to delete replicas of a chunk that are older than the recorded version and that
    /// nobody is entitled to, once a current one is readable. They must go soon: a client with an old
    /// chunk map might still ask for them.
    pub fn discard_stale(&self, handle: ChunkHandle) {
        for Deletion { handle, version, server } in self.stale(handle) {
            if let Some(incarnation) = self.servers.incarnation(server) {
                self.servers.hint(server, ChunkCommand::Delete { handle, version, incarnation });
            }
        }
    }

    /// Has a server that reports stale replicas delete them. False if it does not answer.
    pub async fn discard_stale_at(&self, server: ServerId, handles: Vec<ChunkHandle>) -> bool {
        let stale = handles.into_iter().flat_map(|handle| self.stale(handle)).filter(|d| d.server == server);
        let stale: Vec<Deletion> = stale.collect();
        let outcomes = stream::iter(stale).map(|deletion| self.delete(deletion)).buffer_unordered(DELETIONS_MAX);
        outcomes.all(|deleted| std::future::ready(deleted != Deleted::Unanswered)).await
    }

    fn stale(&self, handle: ChunkHandle) -> Vec<Deletion> {
        let Ok(Some(record)) = self.store.view().chunk(handle) else { return Vec::new() };
        if self.live_replicas(handle, &record, Instant::now()) == 0 {
            return Vec::new();
        }
        let stale = |l: &Located| l.version < record.version && !record.entitled.contains(&l.server);
        let deletion = |l: Located| Deletion { handle, version: l.version, server: l.server };
        self.locations.of(handle).into_iter().filter(stale).map(deletion).collect()
    }
}
