//! Garbage collection (GFS paper, 4.4): replicas of chunks that no file has any more, and stale ones.
//!
//! The garbage table is durable and says which servers have yet to confirm. A chunkserver deletes only
//! on command, and each command names handle, version and the run of the server that is meant.

use crate::master::Master;
use crate::servers::Presence;
use crate::servers::link::CommandError;
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
                self.delete(deletion).await.then_some((deletion.handle, deletion.server))
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

    /// True if the replica is gone.
    async fn delete(&self, deletion: Deletion) -> bool {
        let Deletion { handle, version, server } = deletion;
        let Some(incarnation) = self.servers.incarnation(server) else { return false };
        match self.servers.command(server, ChunkCommand::Delete { handle, version, incarnation }).await {
            Ok(_) | Err(CommandError::Refused { error: FsError::NotFound, .. }) => {
                self.locations.remove(handle, server);
                true
            }
            Err(CommandError::Refused { error, detail }) => {
                warn!(chunk = %handle, %server, %error, detail, "garbage replica was not deleted");
                false
            }
            Err(CommandError::Absent | CommandError::TimedOut) => false,
        }
    }

    /// Tells servers to delete replicas of a chunk that are older than the recorded version and that
    /// nobody is entitled to, once a current one is readable. They must go soon: a client with an old
    /// chunk map might still ask for them.
    pub fn discard_stale(&self, handle: ChunkHandle) {
        let now = Instant::now();
        let Ok(Some(record)) = self.store.view().chunk(handle) else { return };
        let stale: Vec<_> = self
            .locations
            .of(handle)
            .into_iter()
            .filter(|l| l.version < record.version && !record.entitled.contains(&l.server))
            .collect();
        if stale.is_empty() || self.live_replicas(handle, &record, now) == 0 {
            return;
        }
        for located in stale {
            let Some(incarnation) = self.servers.incarnation(located.server) else { continue };
            let version = located.version;
            self.servers.hint(located.server, ChunkCommand::Delete { handle, version, incarnation });
        }
    }
}
