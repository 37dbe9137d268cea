//! The bytes of one open inode: what is known of them, and the small operations on that.
//!
//! Reading is in `reader`, writing and flushing in `writer`. One lock guards [`State`]; it is never
//! held across an await.
//! Keeps: a byte that was written and is not at all replicas yet is in `dirty` or in a frame of an
//! outbox; a byte in the cache is as new as the replicas'.

use super::dirty::DirtyMap;
use super::fetch::Fetch;
use super::frame::Frame;
use super::locations::Locations;
use super::outbox::{Order, Outbox};
use super::plane::DataPlane;
use super::readahead::Readahead;
use crate::operation::Obstacle;
use bytes::Bytes;
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, ChunkMap};
use gfs_proto::ids::{ChunkIndex, InodeId, TruncateGeneration};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::FILE_SIZE_MAX;
use gfs_proto::ops::{FlushedChunk, HeldChunk};
use gfs_proto::time::Timestamp;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

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
    stamp: u64,
}

/// The bytes of one open inode, shared by its handles.
pub struct InodeData {
    pub(super) plane: Arc<DataPlane>,
    inode: InodeId,
    pub(super) state: Mutex<State>,
    /// A frame left its outbox.
    pub(super) progress: Notify,
    /// Held by the one who appends and does not buffer.
    pub(super) appending: tokio::sync::Mutex<()>,
}

pub(super) struct State {
    pub size: u64,
    pub generation: TruncateGeneration,
    pub exclusive: bool,
    pub dirty: DirtyMap,
    /// Dirty bytes beyond a cut that the master is being asked for; not empty.
    pub cut_off: Option<DirtyMap>,
    pub dirty_since: Option<Instant>,
    pub lanes: HashMap<ChunkIndex, Lane>,
    /// Frames in outboxes that no task has begun to send.
    pub queue: VecDeque<(Order, Arc<Frame>)>,
    pub workers: usize,
    /// The plane knows that there is dirty data.
    pub registered: bool,
    pub locations: Locations,
    pub readahead: Readahead,
    pub fetches: Vec<Arc<Fetch>>,
    pub failures: Failures,
    /// What was flushed, where that alone does not confirm an fsync.
    pub flushed: HashMap<ChunkIndex, FlushedChunk>,
    /// What keeps written data, or kept it last.
    pub obstacle: Option<Obstacle>,
    /// Counts the times from which on there may be writes that this client does not know of.
    pub unseen: u64,
    /// Up to which of them everything was flushed to stable storage.
    pub covered: u64,
    writes: u64,
    reported: u64,
    mtime: SystemTime,
}

/// The way of writes to one chunk.
#[derive(Default)]
pub(super) struct Lane {
    pub outbox: Outbox,
    /// Held by the one task that gets a lease.
    pub gate: Arc<tokio::sync::Mutex<()>>,
}

/// Who flushes and is told of errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Close,
    Fsync,
}

/// Errors of writes whose writer did not wait. Whoever flushes while one happens learns of it, and
/// if nobody does, the next one who flushes. A close that was told does not count for an fsync: many
/// programs do not look at what close returns, and fsync the file by another descriptor afterwards.
#[derive(Default)]
pub(super) struct Failures {
    count: u64,
    told: u64,
    told_to_fsync: u64,
    last: Option<FsError>,
}

impl Failures {
    /// True if this is the first that somebody is to be told of.
    pub(super) fn add(&mut self, error: FsError) -> bool {
        let first = !self.is_untold();
        self.count += 1;
        self.last = Some(error);
        first
    }
    pub(super) const fn count(&self) -> u64 {
        self.count
    }
    /// Nobody has learned of the last one.
    pub(super) const fn is_untold(&self) -> bool {
        self.count > self.told
    }
    /// What somebody who began when there were `since` failures has to be told.
    pub(super) fn tell(&mut self, since: u64, asker: Asker) -> Result<(), FsError> {
        let told = if asker == Asker::Fsync { self.told_to_fsync } else { self.told };
        let news = self.count > since.min(told);
        self.told = self.count;
        if asker == Asker::Fsync {
            self.told_to_fsync = self.count;
        }
        if news { self.last.map_or(Ok(()), Err) } else { Ok(()) }
    }
}

impl State {
    /// What was written to a range and is not at all replicas, oldest first.
    pub(super) fn patches(&self, range: &Range<u64>, chunk: ChunkSize) -> Vec<(u64, Bytes)> {
        let mut patches = Vec::new();
        if self.lanes.values().any(|lane| !lane.outbox.is_empty()) {
            for part in chunk.split(range.start, range.end - range.start) {
                let Some(lane) = self.lanes.get(&part.index) else { continue };
                let base = chunk.start_of(part.index);
                for frame in lane.outbox.frames() {
                    frame.visit(part.offset..part.offset + part.length, |at, bytes| {
                        patches.push((base + u64::from(at), bytes));
                    });
                }
            }
        }
        for dirty in self.cut_off.iter().chain([&self.dirty]) {
            dirty.visit(range.clone(), |at, bytes| patches.push((at, Bytes::copy_from_slice(bytes))));
        }
        patches
    }

    /// The last frame of each chunk that has any on its way.
    pub(super) fn barrier(&self) -> Vec<(ChunkIndex, Order)> {
        let busy = |(index, lane): (&ChunkIndex, &Lane)| {
            (!lane.outbox.is_empty()).then(|| (*index, lane.outbox.last_pushed()))
        };
        self.lanes.iter().filter_map(busy).collect()
    }

    pub(super) fn outbox(&mut self, index: ChunkIndex) -> &mut Outbox {
        &mut self.lanes.entry(index).or_default().outbox
    }

    /// There is nothing that the replicas lack.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.cut_off.is_none() && self.lanes.values().all(|lane| lane.outbox.is_empty())
    }

    fn dirty_bytes(&self) -> usize {
        self.dirty.bytes() + self.cut_off.as_ref().map_or(0, DirtyMap::bytes)
    }

    /// Every write since the file was last flushed as a whole was made here.
    pub(super) const fn is_sure(&self) -> bool {
        self.exclusive && self.covered == self.unseen
    }

    /// Chunks from that index on are gone: there is nothing of theirs to flush.
    fn forget_beyond(&mut self, chunks: u32) {
        self.lanes.retain(|index, lane| index.get() < chunks || !lane.outbox.is_empty());
    }

    /// Bytes up to `end` were written now.
    pub(super) fn written(&mut self, end: u64) {
        self.size = self.size.max(end);
        self.writes += 1;
        self.mtime = SystemTime::now();
    }

    /// What is cached may be served at any age only if nobody else can write.
    pub(super) fn validity(&self) -> Option<Duration> {
        (!self.exclusive).then_some(gfs_proto::limits::ATTRIBUTE_TTL)
    }
}

impl InodeData {
    pub(super) fn new(plane: Arc<DataPlane>, open: OpenData) -> Arc<Self> {
        let now = Instant::now();
        let mut locations = Locations::default();
        locations.learn_first(open.map, now);
        let mut lanes: HashMap<ChunkIndex, Lane> = HashMap::new();
        if let Some(grant) = open.grant {
            locations.learn_grant(&grant);
            lanes.entry(grant.index).or_default().outbox.install(Arc::new(grant), now);
        }
        let state = State {
            size: open.size,
            generation: open.truncate_generation,
            exclusive: open.exclusive,
            dirty: DirtyMap::new(plane.authority.chunk_size()),
            cut_off: None,
            dirty_since: None,
            lanes,
            queue: VecDeque::new(),
            workers: 0,
            registered: false,
            locations,
            readahead: Readahead::new(plane.config.readahead_max),
            fetches: Vec::new(),
            failures: Failures::default(),
            flushed: HashMap::new(),
            obstacle: None,
            // an empty file that nobody else has open: all that will be written comes by here
            unseen: u64::from(!open.exclusive || open.size > 0),
            covered: 0,
            writes: 0,
            reported: 0,
            mtime: UNIX_EPOCH,
        };
        Arc::new(Self {
            plane,
            inode: open.inode,
            state: Mutex::new(state),
            progress: Notify::new(),
            appending: tokio::sync::Mutex::new(()),
        })
    }

    /// Number of the inode.
    pub const fn id(&self) -> InodeId {
        self.inode
    }

    /// Bytes of the file, own writes included.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Generation of the last cut that is known.
    pub fn truncate_generation(&self) -> TruncateGeneration {
        self.state.lock().generation
    }

    /// True while writes are buffered.
    pub fn is_exclusive(&self) -> bool {
        self.state.lock().exclusive
    }

    /// The master's newer knowledge of the size. Ignored if it is of an older generation, or if this
    /// session is the exclusive writer and knows better. A newer generation is a cut by somebody
    /// else: grants and cached bytes are void.
    pub fn learn_size(&self, size: u64, generation: TruncateGeneration) {
        let mut state = self.state.lock();
        if generation < state.generation || state.exclusive {
            return;
        }
        let cut = generation > state.generation;
        state.generation = generation;
        if cut {
            state.forget_beyond(self.plane.authority.chunk_size().chunks_of(size));
        }
        // within a generation a file only grows, so a smaller size is an older one
        state.size = if cut { size } else { state.size.max(size) };
        drop(state);
        if cut {
            self.forget_grants();
            self.invalidate();
        }
    }

    /// Size and mtime, if there was a write since the last [`reported`](Self::reported).
    pub fn unreported(&self) -> Option<SizeChange> {
        let state = self.state.lock();
        let since = state.mtime.duration_since(UNIX_EPOCH).unwrap_or_default();
        (state.writes > state.reported).then(|| SizeChange {
            size: state.size,
            mtime: Timestamp::from_nanos(since.as_nanos() as i128),
            truncate_generation: state.generation,
            stamp: state.writes,
        })
    }

    /// The master has noted `change`.
    pub fn reported(&self, change: &SizeChange) {
        let mut state = self.state.lock();
        state.reported = state.reported.max(change.stamp);
    }

    /// True if there are writes that not all replicas have acknowledged.
    pub fn is_dirty(&self) -> bool {
        !self.state.lock().is_clean()
    }

    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.state.lock().dirty_since.is_some_and(|since| since.elapsed() >= age)
    }

    /// Before the master is asked to set the size: flushes what lies before it. What lies beyond is kept
    /// back until [`truncated`](Self::truncated) drops it, or the [`Cut`] is dropped without that.
    pub async fn truncate_prepare(self: &Arc<Self>, new_size: u64) -> Result<Cut, FsError> {
        if new_size > FILE_SIZE_MAX {
            return Err(FsError::FileTooLarge);
        }
        let cut = Cut { inode: self.clone() };
        {
            let state = &mut *self.state.lock();
            let beyond = state.dirty.split_off(new_size);
            if !beyond.is_empty() {
                state.cut_off = Some(beyond);
            }
        }
        self.materialise(new_size).await?;
        self.send(false, Asker::Close).await?;
        Ok(cut)
    }

    fn drop_dirty(&self, size: u64) {
        let mut state = self.state.lock();
        let before = state.dirty_bytes();
        state.dirty.truncate(size);
        state.cut_off.iter_mut().for_each(|beyond| beyond.truncate(size));
        state.cut_off.take_if(|beyond| beyond.is_empty());
        let dropped = before - state.dirty_bytes();
        drop(state);
        self.plane.memory.release(dropped);
        self.settled();
    }

    /// A chunk that was granted and never written has no file anywhere. Before the file grows over
    /// it and its lease ends, a byte is written, so that readers find zeroes and not nothing.
    async fn materialise(self: &Arc<Self>, new_size: u64) -> Result<(), FsError> {
        let chunk = self.plane.authority.chunk_size();
        let starts: Vec<u64> = {
            let state = self.state.lock();
            let empty = |(index, lane): (&ChunkIndex, &Lane)| {
                let start = chunk.start_of(*index);
                let unwritten = lane.outbox.is_creating() && lane.outbox.is_empty();
                let untouched = unwritten && !state.dirty.touches(start..start + u64::from(chunk.get()));
                (untouched && start < new_size).then_some(start)
            };
            state.lanes.iter().filter_map(empty).collect()
        };
        for start in starts {
            self.send_now(start, &[0]).await?;
        }
        Ok(())
    }

    /// The master has set the size. All grants are void.
    pub fn truncated(&self, new_size: u64, generation: TruncateGeneration) {
        self.drop_dirty(new_size);
        let chunk = self.plane.authority.chunk_size();
        let mut state = self.state.lock();
        state.generation = state.generation.max(generation);
        if new_size < state.size {
            let (index, offset) = chunk.locate(new_size);
            state.locations.cut(index, offset);
            state.readahead.reset();
            state.forget_beyond(chunk.chunks_of(new_size));
            self.taint(&mut state, new_size..u64::MAX);
        }
        state.size = new_size;
        if new_size == 0 && state.exclusive {
            state.covered = state.unseen;
        }
        drop(state);
        self.forget_grants();
    }

    /// It was closed, and its content or attributes have changed since: what is cached goes. What this
    /// client has not flushed to stable storage is still known.
    pub fn reopened(&self, size: u64, generation: TruncateGeneration, map: ChunkMap) {
        if generation > self.truncate_generation() {
            self.truncated(size, generation);
        }
        self.invalidate();
        let state = &mut *self.state.lock();
        state.size = size;
        state.locations.learn_first(map, Instant::now());
    }

    /// Enters or leaves buffering. On leaving, returns when everything is flushed; the grants are
    /// still [`held`](Self::held) and are the caller's to return and to forget.
    pub async fn set_exclusive(self: &Arc<Self>, exclusive: bool) -> Result<(), FsError> {
        let was = std::mem::replace(&mut self.state.lock().exclusive, exclusive);
        match (was, exclusive) {
            (true, false) => {
                self.state.lock().unseen += 1;
                self.send(false, Asker::Close).await
            }
            (false, true) => {
                self.invalidate();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Leases held, for ReturnChunks.
    pub fn held(&self) -> Vec<HeldChunk> {
        self.state.lock().lanes.values().filter_map(|lane| lane.outbox.held()).collect()
    }

    /// The leases were given back or are void; the next write asks anew.
    pub fn forget_grants(&self) {
        self.state.lock().lanes.values_mut().for_each(|lane| lane.outbox.forget());
    }

    /// What was cached of the file may be old: another session changed it.
    pub fn invalidate(&self) {
        let mut state = self.state.lock();
        state.unseen += 1;
        state.locations.clear();
        state.readahead.reset();
        self.taint(&mut state, 0..u64::MAX);
    }

    /// Bytes of the range have changed at the replicas: what is cached goes, what is being fetched
    /// is not kept.
    pub(super) fn taint(&self, state: &mut State, range: Range<u64>) {
        state.fetches.iter().filter(|fetch| fetch.overlaps(&range)).for_each(|fetch| fetch.taint());
        self.plane.cache.remove(self.inode, range);
    }
}

/// A cut between [`InodeData::truncate_prepare`] and its outcome. The caller keeps writers out meanwhile.
#[must_use = "dropped, it takes the cut back"]
pub struct Cut {
    inode: Arc<InodeData>,
}

impl Drop for Cut {
    /// The bytes are still there if the master did not agree.
    fn drop(&mut self) {
        let mut state = self.inode.state.lock();
        let Some(beyond) = state.cut_off.take() else { return };
        beyond.visit(0..u64::MAX, |at, bytes| state.dirty.write(at, bytes));
        state.dirty_since.get_or_insert_with(Instant::now);
        drop(state);
        self.inode.settled();
    }
}

impl Drop for InodeData {
    fn drop(&mut self) {
        self.plane.cache.remove(self.inode, 0..u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_to_all_who_were_waiting_or_else_to_the_next() {
        let mut failures = Failures::default();
        assert_eq!(failures.tell(0, Asker::Fsync), Ok(()));
        let (early, late) = (failures.count(), failures.count());
        failures.add(FsError::NoSpace);
        assert_eq!(failures.tell(early, Asker::Fsync), Err(FsError::NoSpace));
        assert_eq!(failures.tell(late, Asker::Close), Err(FsError::NoSpace), "both waited while it happened");
        assert_eq!(failures.tell(failures.count(), Asker::Fsync), Ok(()));
        failures.add(FsError::Io);
        assert_eq!(failures.tell(failures.count(), Asker::Close), Err(FsError::Io), "nobody was told");
        assert_eq!(failures.tell(failures.count(), Asker::Close), Ok(()));
        assert_eq!(failures.tell(failures.count(), Asker::Fsync), Err(FsError::Io), "a close was, no fsync");
        assert_eq!(failures.tell(failures.count(), Asker::Fsync), Ok(()));
    }
}
