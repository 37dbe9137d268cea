//! fsync: what was written to the file is on stable storage of every replica, whoever wrote it.
//!
//! What this [`InodeData`] wrote itself is known from its outboxes, and costs one request to the members
//! of each lease. Beyond that, writes may have been made before it came to be, or by other mounts: unless
//! it is sure that there are none, it asks where the chunks are and has each named replica flush them. A
//! replica that is clean answers at once.
//! Keeps: after `Ok`, a replica that lacks the bytes on stable storage is neither named by the master nor
//! will be (it is suspect, or of an older version).

use super::connection::LinkError;
use super::inode::{Asker, InodeData, Lane};
use super::locations::Place;
use super::members::Failure;
use super::outbox::Fault;
use crate::operation::{self, Cause, Obstacle};
use crate::retry::Retry;
use futures_util::future::join_all;
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, Replica};
use gfs_proto::frame::{DataError, SYNC_CHUNKS_MAX, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion, ServerId};
use gfs_proto::ops::FlushedChunk;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Chunks looked up and flushed together.
const PAGE: u32 = SYNC_CHUNKS_MAX as u32;

/// What the replicas of one chunk said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flushed {
    /// Those that have it have flushed it.
    Done,
    /// All of them say that they have nothing.
    Absent,
    /// At least one cannot say.
    Unknown,
}

impl Flushed {
    fn of(outcomes: &[Result<(), Option<DataError>>]) -> Self {
        let absent = |outcome: &&Result<(), _>| **outcome == Err(Some(DataError::NoChunk));
        if outcomes.iter().any(|outcome| outcome.is_err() && !absent(&outcome)) {
            return Self::Unknown;
        }
        match outcomes.iter().filter(absent).count() {
            _ if outcomes.is_empty() => Self::Unknown,
            count if count == outcomes.len() => Self::Absent,
            _ => Self::Done,
        }
    }
}

fn flushed_at(handle: ChunkHandle, version: ChunkVersion, replicas: &[Replica]) -> FlushedChunk {
    FlushedChunk { handle, version, servers: replicas.iter().map(|replica| replica.server).collect() }
}

impl InodeData {
    /// As [`flush`](Self::flush), and on stable storage at all replicas (fsync), with what others wrote
    /// before the call.
    pub async fn sync(self: &Arc<Self>) -> Result<(), FsError> {
        self.sync_for(Asker::Fsync).await
    }

    /// [`sync`](Self::sync) for a close that makes what was written durable; what it is told of is told to
    /// the next fsync again.
    pub async fn sync_at_close(self: &Arc<Self>) -> Result<(), FsError> {
        self.sync_for(Asker::Close).await
    }

    async fn sync_for(self: &Arc<Self>, asker: Asker) -> Result<(), FsError> {
        self.uncut().await;
        let (sure, unseen) = {
            let state = self.state.lock();
            (state.is_sure(), state.unseen)
        };
        self.send(true, asker).await?;
        let since = self.state.lock().failures.count();
        let own = self.sync_own().await?;
        // a new lease can bring to light that what was acknowledged is gone
        self.state.lock().failures.tell(since, asker)?;
        if !sure {
            self.sync_unseen(&own).await?;
        }
        if asker == Asker::Fsync {
            self.await_copies().await?;
        }
        if !sure {
            let state = &mut *self.state.lock();
            state.covered = state.covered.max(unseen);
        }
        Ok(())
    }

    /// These replicas have the chunk on stable storage. The members of a grant are all that count; if they are
    /// enough, too, nothing more is needed.
    pub(super) fn note_granted(&self, grant: &ChunkGrant) {
        let mut state = self.state.lock();
        if grant.replicas.len() < self.plane.authority.copies_min() {
            state.flushed.insert(grant.index, flushed_at(grant.handle, grant.version, &grant.replicas));
        } else {
            state.flushed.remove(&grant.index);
        }
    }

    /// The named replicas have the chunk on stable storage; whether others count that are not there now the master
    /// knows.
    fn note_named(&self, chunk: &ChunkLocation) {
        let flushed = flushed_at(chunk.handle, chunk.version, &chunk.replicas);
        self.state.lock().flushed.insert(chunk.index, flushed);
    }

    /// Returns when the master has confirmed what was flushed: no copy that counts lacks it, and they are enough. Where
    /// servers have failed that takes another flush without them, or a copy of each chunk.
    async fn await_copies(&self) -> Result<(), FsError> {
        let mut retry = Retry::eager(self.plane.config.timeout);
        loop {
            let flushed: Vec<(ChunkIndex, FlushedChunk)> =
                self.state.lock().flushed.iter().map(|(index, chunk)| (*index, chunk.clone())).collect();
            let Some(part) = flushed.chunks(PAGE as usize).next() else { return Ok(()) };
            let chunks = part.iter().map(|(_, chunk)| chunk.clone()).collect();
            match self.plane.authority.await_copies(chunks).await {
                Ok(()) => {
                    let state = &mut *self.state.lock();
                    state
                        .flushed
                        .retain(|index, chunk| part.iter().all(|(of, confirmed)| (of, confirmed) != (index, &*chunk)));
                }
                Err(FsError::StaleGrant) => {
                    retry.pause(FsError::NoReplica).await?;
                    join_all(part.iter().map(|chunk| self.sync_again(chunk)))
                        .await
                        .into_iter()
                        .collect::<Result<(), _>>()?;
                }
                Err(error) => {
                    tracing::error!(inode = %self.id(), chunks = flushed.len(),
                        copies = self.plane.authority.copies_min(), %error,
                        "an fsync is not confirmed: too few chunkservers have its data, and no other has taken a copy");
                    return Err(error);
                }
            }
        }
    }

    /// Flushes a chunk once more, at whoever counts now. If that fails the next fsync does not take it for done.
    async fn sync_again(&self, (index, before): &(ChunkIndex, FlushedChunk)) -> Result<(), FsError> {
        self.state.lock().flushed.remove(index); // nothing comes in its place if it is a hole by now
        let synced = self.sync_place(*index).await;
        if synced.is_err() {
            self.state.lock().flushed.entry(*index).or_insert_with(|| before.clone());
        }
        synced
    }

    /// Flushes what this client wrote; returns the chunks.
    async fn sync_own(&self) -> Result<Vec<ChunkIndex>, FsError> {
        let chunks: Vec<ChunkIndex> = {
            let state = self.state.lock();
            let unsynced = |(index, lane): (&ChunkIndex, &Lane)| lane.outbox.unsynced().map(|_| *index);
            state.lanes.iter().filter_map(unsynced).collect()
        };
        match &chunks[..] {
            [] => {}
            [only] => self.sync_chunk(*only).await?,
            _ => {
                let all = join_all(chunks.iter().map(|index| self.sync_chunk(*index))).await;
                all.into_iter().collect::<Result<(), _>>()?;
            }
        }
        Ok(chunks)
    }

    /// Brings acknowledged writes of a chunk to stable storage at all members.
    async fn sync_chunk(&self, index: ChunkIndex) -> Result<(), FsError> {
        let plane = &self.plane;
        let mut retry = Retry::eager(plane.config.timeout);
        loop {
            let (upto, members) = {
                let mut state = self.state.lock();
                let outbox = state.outbox(index);
                let Some(upto) = outbox.unsynced() else { return Ok(()) };
                (upto, outbox.members())
            };
            let Some(grant) = members else {
                Box::pin(self.acquire(index, &mut retry)).await?;
                continue;
            };
            match plane.servers.sync(&grant, self.sync_deadline(&retry)).await {
                Ok(()) => {
                    self.state.lock().outbox(index).flushed(upto);
                    self.note_granted(&grant);
                    return Ok(());
                }
                Err(Failure::NoSpace) => return Err(FsError::NoSpace),
                Err(Failure::Busy) => {}
                Err(Failure::Fault(fault)) => {
                    // a flush names no epoch: whatever was refused, the member is not what it was
                    let fault = if fault == Fault::Stale { Fault::Broken(Vec::new()) } else { fault };
                    self.state.lock().outbox(index).fail(grant.epoch, fault);
                }
            }
            retry.pause(FsError::Unavailable).await?;
        }
    }

    fn sync_deadline(&self, retry: &Retry) -> tokio::time::Instant {
        retry.request_deadline(self.plane.request_timeout.max(Duration::from_millis(100)))
    }

    /// Flushes all chunks but those flushed just now. Another mount may have made the file longer than is
    /// known here: the first page is asked for in any case, and one more after a page whose last chunk
    /// exists.
    async fn sync_unseen(&self, flushed: &[ChunkIndex]) -> Result<(), FsError> {
        let chunks = self.plane.authority.chunk_size().chunks_of(self.size());
        let mut first = 0;
        loop {
            let end = ChunkIndex::new(first + PAGE);
            let mut page = self.page(ChunkIndex::new(first), end).await?;
            let goes_on = end.get() < chunks || page.last().is_some_and(|chunk| chunk.index.next() == end);
            page.retain(|chunk| !flushed.contains(&chunk.index));
            self.sync_page(&page).await?;
            if !goes_on {
                return Ok(());
            }
            first = end.get();
        }
    }

    /// Where the chunks are. Where nobody else writes, what is known need not be asked again: a flush names
    /// the version.
    async fn page(&self, first: ChunkIndex, end: ChunkIndex) -> Result<Vec<Arc<ChunkLocation>>, FsError> {
        if let Some(known) = self.known_page(first, end) {
            return Ok(known);
        }
        let mut retry = Retry::eager(self.plane.config.timeout);
        loop {
            let asked = Instant::now();
            let map = self.plane.authority.locate(self.id(), first, end.get() - first.get());
            match timeout_at(retry.deadline(), map).await.unwrap_or(Err(FsError::TimedOut)) {
                Ok(map) => {
                    let chunks = map.chunks.iter().cloned().map(Arc::new).collect();
                    self.state.lock().locations.learn(map, first, end, asked);
                    return Ok(chunks);
                }
                Err(error) if error.is_retryable() => {
                    operation::blame_master(error);
                    retry.pause(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn known_page(&self, first: ChunkIndex, end: ChunkIndex) -> Option<Vec<Arc<ChunkLocation>>> {
        let state = self.state.lock();
        let end = end.get().min(self.plane.authority.chunk_size().chunks_of(state.size));
        if !state.exclusive {
            return None;
        }
        let places = (first.get()..end).map(|index| state.locations.get(ChunkIndex::new(index), Instant::now(), None));
        let places: Option<Vec<Place>> = places.collect();
        let chunk = |place| if let Place::Chunk(location) = place { Some(location) } else { None };
        Some(places?.into_iter().filter_map(chunk).collect())
    }

    /// One request to each server; chunks of which one fails are looked into one by one.
    async fn sync_page(&self, page: &[Arc<ChunkLocation>]) -> Result<(), FsError> {
        let mut servers: HashMap<ServerId, (&Replica, Vec<SyncChunk>)> = HashMap::new();
        for chunk in page {
            for replica in &chunk.replicas {
                let (_, chunks) = servers.entry(replica.server).or_insert((replica, Vec::new()));
                chunks.push(SyncChunk { handle: chunk.handle, version: chunk.version });
            }
        }
        let retry = Retry::eager(self.plane.config.timeout);
        let deadline = self.sync_deadline(&retry);
        let asked = servers.into_iter().map(async |(server, (replica, chunks))| {
            (server, self.plane.servers.sync_replica(replica, chunks, deadline).await.is_ok())
        });
        let done: HashMap<ServerId, bool> = join_all(asked).await.into_iter().collect();
        let is_done = |replica: &Replica| done.get(&replica.server) == Some(&true);
        let is_flushed = |chunk: &&Arc<ChunkLocation>| !chunk.replicas.is_empty() && chunk.replicas.iter().all(is_done);
        let (flushed, missing): (Vec<_>, Vec<_>) = page.iter().partition(is_flushed);
        flushed.iter().for_each(|chunk| self.note_named(chunk));
        join_all(missing.into_iter().map(|chunk| self.sync_place(chunk.index))).await.into_iter().collect()
    }

    /// Flushes one chunk at the replicas that the master names now, until they have all done it.
    async fn sync_place(&self, index: ChunkIndex) -> Result<(), FsError> {
        let mut retry = Retry::eager(self.plane.config.timeout);
        self.state.lock().locations.forget(index);
        loop {
            match self.place(index, &retry).await {
                Ok(Place::Hole) => return Ok(()),
                Ok(Place::Chunk(chunk)) => match self.sync_replicas(&chunk, &retry).await {
                    Flushed::Done => {
                        self.note_named(&chunk);
                        return Ok(());
                    }
                    Flushed::Absent => return self.may_be_absent(&chunk).then_some(()).ok_or(FsError::NoReplica),
                    Flushed::Unknown => self.state.lock().locations.forget(index),
                },
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            if retry.pause(FsError::NoReplica).await.is_err() {
                tracing::error!(inode = %self.id(), %index, "not every replica of a chunk can be flushed");
                return Err(FsError::NoReplica);
            }
        }
    }

    async fn sync_replicas(&self, chunk: &ChunkLocation, retry: &Retry) -> Flushed {
        let deadline = self.sync_deadline(retry);
        let named = SyncChunk { handle: chunk.handle, version: chunk.version };
        let asked =
            chunk.replicas.iter().map(|replica| self.plane.servers.sync_replica(replica, vec![named], deadline));
        let outcomes = join_all(asked).await;
        for (replica, outcome) in chunk.replicas.iter().zip(&outcomes) {
            match outcome {
                Err(Some(error)) => operation::blame(Obstacle::server(replica, Cause::Refused(*error))),
                Err(None) => operation::blame(Obstacle::server(replica, LinkError::TimedOut)),
                Ok(()) => {}
            }
        }
        Flushed::of(&outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_flushed_when_all_that_have_it_say_so() {
        let (good, absent, away) = (Ok(()), Err(Some(DataError::NoChunk)), Err(None));
        let cases: [(&[_], Flushed); 6] = [
            (&[], Flushed::Unknown),
            (&[good, good], Flushed::Done),
            (&[good, absent], Flushed::Done),
            (&[absent, absent], Flushed::Absent),
            (&[good, away], Flushed::Unknown),
            (&[absent, Err(Some(DataError::Version))], Flushed::Unknown),
        ];
        for (outcomes, expected) in cases {
            assert_eq!(Flushed::of(outcomes), expected, "{outcomes:?}");
        }
    }
}
