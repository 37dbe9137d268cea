//! Replicas that nobody is known to need (design of the garbage collection: GFS paper, 4.4). A master that was
//! restored from a backup knows nothing of what was written after it; what its chunkservers have of that may be all
//! that is left.
//!
//! ```text
//!   reported, unknown --removed in this history--> garbage table, deleted soon
//!                '----- otherwise ---------------> kept aside (logged, with the time) --retention--> deleted, logged
//!                                                     '-- gone, or its chunk entitles it --> released
//! ```
//! Invariant: nothing that is aside is named to a client, copied, or deleted before its time.

use crate::master::{Master, now};
use crate::servers::Presence;
use gfs_master_core::{Action, ChunkRecord, Quarantined, Unclaimed, UnclaimedCause, View};
use gfs_proto::FsError;
use gfs_proto::control::ReplicaRow;
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ServerId};
use gfs_proto::limits::DELETIONS_MAX;
use gfs_proto::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Replicas logged in one command.
const LOGGED_MAX: usize = 512;
/// Rows looked at under one view of the state.
const PAGE: usize = DELETIONS_MAX;
/// Everything that is aside is looked at once in so many ticks.
const TICKS: u32 = 5;

/// What a report has that is nobody's.
pub(crate) fn unclaimed(
    view: &View<'_>,
    server: ServerId,
    row: &ReplicaRow,
    record: Option<&ChunkRecord>,
) -> Result<Option<Unclaimed>, FsError> {
    let cause = match record {
        None => UnclaimedCause::NoChunk,
        // In this history it is what a raise left that was not logged: a stray one, of use to nobody.
        Some(_) if view.was_given_out(row.handle) => return Ok(None),
        Some(record) if row.version > record.version && !record.entitled.contains(&server) => UnclaimedCause::Ahead,
        Some(_) => return Ok(None),
    };
    let ReplicaRow { handle, version, length, .. } = *row;
    let is_garbage = view.garbage_chunk(handle)?.is_some_and(|garbage| garbage.servers.contains(&server));
    let is_aside = view.quarantined(handle, server)?.is_some_and(|aside| aside.replica.version == version);
    Ok((!is_aside && !is_garbage).then_some(Unclaimed { handle, server, version, length, cause }))
}

impl Master {
    /// Has replicas that are nobody's deleted or kept aside.
    pub(crate) async fn put_aside(&self, unclaimed: Vec<Unclaimed>) -> Result<(), FsError> {
        let (removed, unknown): (Vec<_>, Vec<_>) = {
            let view = self.store.view();
            let is_removed =
                |replica: &Unclaimed| replica.cause == UnclaimedCause::NoChunk && view.was_given_out(replica.handle);
            unclaimed.into_iter().partition(is_removed)
        };
        for unclaimed in removed.chunks(LOGGED_MAX) {
            self.commit_one(Action::Discard { unclaimed: unclaimed.to_vec() }).await?;
            self.garbage.add(unclaimed.len());
        }
        for unclaimed in unknown.chunks(LOGGED_MAX) {
            warn!(server = %unclaimed[0].server, replicas = unclaimed.len(), first = %unclaimed[0].handle,
                "a chunkserver has replicas that this master knows nothing of; they are kept: gfsctl chunks --orphaned");
            self.commit_one(Action::Quarantine { unclaimed: unclaimed.to_vec() }).await?;
        }
        Ok(())
    }

    /// True if the replica is kept aside: not to be touched.
    pub(crate) fn is_aside(&self, handle: ChunkHandle, server: ServerId) -> bool {
        !matches!(self.store.view().quarantined(handle, server), Ok(None))
    }

    /// When a replica that is aside is to be deleted.
    pub(crate) fn ends(&self, aside: &Quarantined) -> Timestamp {
        let nanos = i128::try_from(self.timings.quarantine.as_nanos()).unwrap_or(i128::MAX);
        Timestamp::from_nanos(aside.since.as_nanos().saturating_add(nanos))
    }

    /// One walk over everything that is aside.
    async fn look_aside(&self) -> Result<(), FsError> {
        let mut after = None;
        while !self.stopping.is_open() {
            let page = self.store.view().quarantine(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.replica.handle, last.replica.server));
            let (mut released, mut due) = (Vec::new(), BTreeMap::<ServerId, Vec<SyncChunk>>::new());
            for aside in &page {
                let Unclaimed { handle, server, version, .. } = aside.replica;
                match self.judge(aside)? {
                    Verdict::Stays => {}
                    Verdict::Released => released.push((handle, server)),
                    Verdict::Due => due.entry(server).or_default().push(SyncChunk { handle, version }),
                }
            }
            for (server, chunks) in due {
                let gone = self.delete(server, chunks).await.unwrap_or_default();
                info!(%server, replicas = gone.len(), kept = ?self.timings.quarantine,
                    "replicas that nobody asked for were deleted after their time");
                released.extend(gone.into_iter().map(|handle| (handle, server)));
            }
            if !released.is_empty() {
                self.commit_one(Action::Release { rows: released }).await?;
            }
        }
        Ok(())
    }

    fn judge(&self, aside: &Quarantined) -> Result<Verdict, FsError> {
        let Unclaimed { handle, server, version, .. } = aside.replica;
        let entitled = self.store.view().chunk(handle)?.is_some_and(|record| record.entitled.contains(&server));
        if entitled || !self.servers.is_known(server) {
            return Ok(Verdict::Released);
        }
        if self.servers.presence(server, Instant::now()) != Presence::Up {
            return Ok(Verdict::Stays);
        }
        let there = self.locations.of(handle).into_iter().find(|row| row.server == server);
        Ok(match there {
            None => Verdict::Released,
            Some(row) if row.version == version && self.ends(aside) <= now() => Verdict::Due,
            Some(_) => Verdict::Stays,
        })
    }
}

/// What becomes of a replica that is aside.
enum Verdict {
    Stays,
    /// It is gone, or its chunk knows of it.
    Released,
    /// Its time is over.
    Due,
}

/// Works until the master stops.
pub(crate) async fn run(master: Arc<Master>) {
    loop {
        let pause: Duration = master.timings.tick * TICKS;
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(error) = master.look_aside().await {
            debug!(%error, "replicas that are kept aside are looked at later");
        }
    }
}
