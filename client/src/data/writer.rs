//! Writing: buffering, sending, leases that break, flushing to the replicas' memory.
//!
//! The way of a byte: `dirty` map, frame in the outbox of its chunk, acknowledged by all members. A
//! frame is delivered by whoever waits for it (one small file: no other task takes part), by up to
//! [`WORKERS`] tasks of the inode otherwise. A frame that fails breaks the lease of its chunk once;
//! a new one is had by one task for all, and every frame of the chunk goes again under it.

use super::cache::Piece;
use super::dirty::Batch;
use super::frame::Frame;
use super::inode::{Asker, InodeData, State};
use super::members::Failure;
use super::outbox::{Order, Ticket, Want};
use crate::operation::{self, Obstacle, Operation};
use crate::retry::Retry;
use bytes::Bytes;
use futures_util::future::join_all;
use gfs_proto::FsError;
use gfs_proto::frame::Extent;
use gfs_proto::ids::{ChunkIndex, Epoch};
use gfs_proto::limits::{FILE_SIZE_MAX, FRAME_PAYLOAD_MAX, STAR_BYTES_MAX};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout_at;

/// Frames of one inode in flight.
const WORKERS: usize = 8;

/// Where a write begins.
#[derive(Clone, Copy)]
enum At {
    Offset(u64),
    End,
}

/// Who learns of a failed delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The one who waits for it.
    Caller,
    /// Nobody yet: it is kept.
    Nobody,
}

/// How a delivery ended well.
enum Delivered {
    /// All members under that epoch.
    Under(Epoch),
    /// Acknowledged along with a later frame.
    Before,
}

/// Goes on with a delivery in a task of its own if the one who waited for it gives up: other frames
/// are numbered after it.
struct Delivery<'a> {
    inode: &'a Arc<InodeData>,
    frame: &'a Arc<Frame>,
    order: Order,
    over: bool,
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        if !self.over {
            let (inode, frame, order) = (self.inode.clone(), self.frame.clone(), self.order);
            inode.clone().plane.runtime.spawn(async move { inode.deliver_behind(order, &frame).await });
        }
    }
}

impl InodeData {
    /// Under `exclusive` the bytes are kept and the call waits only for memory; otherwise they are at
    /// all replicas when it returns.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.write_at(At::Offset(offset), data).await.map(drop)
    }

    /// Writes at the end of the file, which no other append of this client gets; returns where.
    pub async fn append(self: &Arc<Self>, data: &[u8]) -> Result<u64, FsError> {
        self.write_at(At::End, data).await
    }

    /// [`write`](Self::write) into memory, if the file is buffered and there is room; waits for nothing.
    /// `None`: nothing was done.
    pub fn try_write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Option<Result<(), FsError>> {
        self.try_write_at(At::Offset(offset), data).map(|written| written.map(drop))
    }

    /// As [`try_write`](Self::try_write), at the end of the file; returns where.
    pub fn try_append(self: &Arc<Self>, data: &[u8]) -> Option<Result<u64, FsError>> {
        self.try_write_at(At::End, data)
    }

    fn try_write_at(self: &Arc<Self>, at: At, data: &[u8]) -> Option<Result<u64, FsError>> {
        if self.plane.memory.is_full() { None } else { self.buffer(at, data).transpose() }
    }

    async fn write_at(self: &Arc<Self>, at: At, data: &[u8]) -> Result<u64, FsError> {
        if self.plane.memory.is_full() {
            self.plane.press();
            operation::blame(Obstacle::Memory);
            self.plane.memory.room(operation::deadline(self.plane.config.timeout)).await?;
        }
        match self.buffer(at, data)? {
            Some(offset) => Ok(offset),
            None => self.write_through(at, data).await,
        }
    }

    /// Keeps the bytes if that is allowed; returns where they went.
    fn buffer(self: &Arc<Self>, at: At, data: &[u8]) -> Result<Option<u64>, FsError> {
        let mut state = self.state.lock();
        if !state.exclusive {
            return Ok(None);
        }
        let offset = match at {
            At::Offset(offset) => offset,
            At::End => state.size,
        };
        let end = end_of(offset, data)?;
        if data.is_empty() {
            return Ok(Some(offset));
        }
        let before = state.dirty.bytes();
        state.dirty.write(offset, data);
        self.plane.memory.take(state.dirty.bytes() - before);
        state.written(end);
        state.dirty_since.get_or_insert_with(Instant::now);
        while let Some(batch) = state.dirty.take_full() {
            let job = self.push(&mut state, batch, false);
            state.queue.push_back(job);
        }
        self.register(&mut state);
        self.start_workers(&mut state);
        Ok(Some(offset))
    }

    /// Tells the plane that there is dirty data; under the lock, as is [`settled`](Self::settled).
    fn register(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.registered, true) {
            self.plane.mark_dirty(self);
        }
    }

    fn push(&self, state: &mut State, batch: Batch, sync: bool) -> (Order, Arc<Frame>) {
        let frame = Arc::new(Frame::new(batch, self.plane.next_sequence(), sync));
        (state.outbox(frame.index()).push(frame.clone()), frame)
    }

    /// Writes at all replicas before it returns. The file grows when the bytes are there.
    async fn write_through(self: &Arc<Self>, at: At, data: &[u8]) -> Result<u64, FsError> {
        let (offset, _appending) = match at {
            At::Offset(offset) => (offset, None),
            At::End => {
                let appending = self.appending.lock().await;
                (self.size(), Some(appending))
            }
        };
        let end = end_of(offset, data)?;
        if data.is_empty() {
            return Ok(offset);
        }
        self.send_now(offset, data).await?;
        self.state.lock().written(end);
        Ok(offset)
    }

    /// Sends bytes past the dirty map and waits until all replicas have them.
    pub(super) async fn send_now(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let batches = self.cut(offset, data);
        self.plane.memory.take(data.len());
        let jobs: Vec<_> = {
            let mut state = self.state.lock();
            // what was buffered before and has not gone out yet must not come after it
            if state.dirty.touches(offset..offset + data.len() as u64) {
                self.enqueue_all(&mut state, false);
                self.start_workers(&mut state);
            }
            self.register(&mut state);
            batches.into_iter().map(|batch| self.push(&mut state, batch, false)).collect()
        };
        match &jobs[..] {
            [(order, frame)] => self.deliver(*order, frame, Told::Caller).await,
            _ => {
                let all = jobs.iter().map(|(order, frame)| self.deliver(*order, frame, Told::Caller));
                join_all(all).await.into_iter().collect()
            }
        }
    }

    /// Frames of a write, one for each unit of a chunk.
    fn cut(&self, offset: u64, data: &[u8]) -> Vec<Batch> {
        let chunk = self.plane.authority.chunk_size();
        let unit = u64::from(chunk.get().min(FRAME_PAYLOAD_MAX));
        let mut rest = Bytes::copy_from_slice(data);
        let mut at = offset;
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let length = (unit - at % unit).min(rest.len() as u64) as u32;
            let (index, within) = chunk.locate(at);
            let extents = vec![Extent { offset: within, length }];
            batches.push(Batch { index, extents, data: vec![rest.split_to(length as usize)], bytes: length });
            at += u64::from(length);
        }
        batches
    }

    /// Starts tasks for queued frames.
    fn start_workers(self: &Arc<Self>, state: &mut State) {
        let more = state.queue.len().min(WORKERS.saturating_sub(state.workers));
        state.workers += more;
        for _ in 0..more {
            self.plane.runtime.spawn(self.clone().work());
        }
    }

    async fn work(self: Arc<Self>) {
        loop {
            let job = {
                let mut state = self.state.lock();
                let job = state.queue.pop_front();
                state.workers -= usize::from(job.is_none());
                job
            };
            let Some((order, frame)) = job else { return };
            self.deliver_behind(order, &frame).await;
        }
    }

    /// Delivers a frame that nobody waits for: a failure is kept for the next flush.
    async fn deliver_behind(self: &Arc<Self>, order: Order, frame: &Arc<Frame>) {
        let operation = Operation::begin("write-back", Some(self.id()), self.plane.config.timeout);
        let _told_later = operation.run(Box::pin(self.deliver(order, frame, Told::Nobody))).await;
    }

    /// Sends a frame until all members have it, or it cannot be.
    async fn deliver(self: &Arc<Self>, order: Order, frame: &Arc<Frame>, told: Told) -> Result<(), FsError> {
        let mut delivery = Delivery { inode: self, frame, order, over: false };
        let outcome = self.try_deliver(order, frame).await;
        delivery.over = true;
        match outcome {
            Ok(delivered) => {
                self.arrived(order, frame.index(), &delivered);
                Ok(())
            }
            Err(error) => {
                // the bytes are gone: nobody may take it for a flush that another open can make good
                let error = if error == FsError::BadHandle { FsError::Io } else { error };
                self.gave_up((order, frame.index()), error, told);
                Err(error)
            }
        }
    }

    async fn try_deliver(&self, order: Order, frame: &Frame) -> Result<Delivered, FsError> {
        let plane = &self.plane;
        let mut retry = Retry::eager(plane.config.timeout);
        loop {
            let Some(ticket) = self.ticket(order, frame.index(), &mut retry).await? else {
                return Ok(Delivered::Before);
            };
            let epoch = ticket.grant.epoch;
            let deadline = retry.request_deadline(plane.request_timeout);
            match plane.servers.write(&ticket, frame, plane.authority.session(), deadline).await {
                Ok(()) => {
                    if frame.sync {
                        self.note_granted(&ticket.grant);
                    }
                    return Ok(Delivered::Under(epoch));
                }
                Err(Failure::NoSpace) => return Err(FsError::NoSpace),
                Err(Failure::Busy) => {}
                Err(Failure::Fault(fault)) => self.state.lock().outbox(frame.index()).fail(epoch, fault),
            }
            self.is_kept();
            retry.pause(FsError::Unavailable).await?;
        }
    }

    /// How to send a frame, with a lease had first if need be; `None` if it has arrived meanwhile.
    async fn ticket(&self, order: Order, index: ChunkIndex, retry: &mut Retry) -> Result<Option<Ticket>, FsError> {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let (ticket, is_behind) = {
                let mut state = self.state.lock();
                let outbox = state.outbox(index);
                (outbox.ticket(order, Instant::now()), outbox.is_behind(order))
            };
            match ticket {
                Ok(_) if is_behind => timeout_at(retry.deadline(), progress).await.map_err(|_| FsError::TimedOut)?,
                Ok(ticket) => return Ok(ticket),
                Err(_) => Box::pin(self.acquire(index, retry)).await?,
            }
        }
    }

    /// Gets a lease, unless another task just did.
    pub(super) async fn acquire(&self, index: ChunkIndex, retry: &mut Retry) -> Result<(), FsError> {
        let gate = self.state.lock().lanes.entry(index).or_default().gate.clone();
        let _gate = timeout_at(retry.deadline(), gate.lock()).await.map_err(|_| FsError::TimedOut)?;
        let want = self.state.lock().outbox(index).want(Instant::now());
        let authority = &self.plane.authority;
        let answer = match &want {
            Want::Nothing => return Ok(()),
            Want::Grant => authority.grant(self.id(), index),
            Want::Break(grant, suspects) => authority.broken(grant, suspects.clone()),
        };
        match timeout_at(retry.deadline(), answer).await.unwrap_or(Err(FsError::TimedOut)) {
            Ok(grant) if grant.replicas.is_empty() => retry.pause(FsError::NoReplica).await,
            Ok(grant) => {
                let state = &mut *self.state.lock();
                state.locations.learn_grant(&grant);
                let outbox = state.outbox(index);
                outbox.install(Arc::new(grant), Instant::now());
                if outbox.take_lost() {
                    tracing::error!(inode = %self.id(), %index, "unflushed writes were lost: all replicas lost power");
                    state.failures.add(FsError::Io);
                }
                Ok(())
            }
            Err(FsError::StaleGrant) => {
                self.state.lock().outbox(index).disowned();
                retry.pause(FsError::StaleGrant).await
            }
            Err(error) => {
                operation::blame_master(error);
                self.is_kept();
                retry.pause(error).await
            }
        }
    }

    /// Written data is kept for now: whoever waits for it behind is to know by whom.
    fn is_kept(&self) {
        self.state.lock().obstacle = operation::obstacle();
        self.progress.notify_waiters();
    }

    fn arrived(&self, order: Order, index: ChunkIndex, delivered: &Delivered) {
        let Delivered::Under(epoch) = delivered else { return };
        let mut state = self.state.lock();
        let gone = state.outbox(index).ack(order, *epoch);
        state.obstacle = None;
        for frame in &gone {
            self.leave(&mut state, frame);
            self.keep_small(&state, frame);
        }
        drop(state);
        self.settled();
    }

    fn gave_up(&self, (order, index): (Order, ChunkIndex), error: FsError, told: Told) {
        let mut state = self.state.lock();
        let mut gone = state.outbox(index).abandon(order);
        let queued = state.queue.len();
        if matches!(error, FsError::TimedOut | FsError::NoReplica) {
            // the cluster is not there: what waits behind would each wait as long again
            while let Some((order, frame)) = state.queue.pop_front() {
                gone.extend(state.outbox(frame.index()).abandon(order));
            }
        }
        if (told == Told::Nobody || state.queue.len() < queued) && state.failures.add(error) {
            let inode = self.id();
            tracing::warn!(%inode, chunk = %index, %error, "written data could not be stored: the next fsync or close is told");
        }
        gone.iter().for_each(|frame| self.leave(&mut state, frame));
        drop(state);
        self.settled();
    }

    /// The frame's bytes are no longer in an outbox.
    fn leave(&self, state: &mut State, frame: &Frame) {
        let start = self.plane.authority.chunk_size().start_of(frame.index());
        for extent in &frame.batch.extents {
            let from = start + u64::from(extent.offset);
            self.taint(state, from..from + u64::from(extent.length));
        }
        self.plane.memory.release(frame.batch.bytes as usize);
    }

    /// A small file is often read right after it was written; its bytes are here already.
    fn keep_small(&self, state: &State, frame: &Frame) {
        if let ([data], [extent]) = (&frame.batch.data[..], &frame.batch.extents[..])
            && data.len() <= STAR_BYTES_MAX as usize
            && state.exclusive
        {
            let start = self.plane.authority.chunk_size().start_of(frame.index()) + u64::from(extent.offset);
            self.plane.cache.put(self.id(), Piece { start, data: data.clone(), fetched: Instant::now() });
        }
    }

    /// Tells who waits, and the plane if nothing is dirty any more.
    pub(super) fn settled(&self) {
        let mut state = self.state.lock();
        if state.dirty.is_empty() {
            state.dirty_since = None;
        }
        let clean = state.registered && state.is_clean();
        if clean {
            state.registered = false;
            self.plane.mark_clean(self);
        }
        drop(state);
        self.progress.notify_waiters();
    }

    /// Begins to send everything dirty and does not wait.
    pub(super) fn send_soon(self: &Arc<Self>) {
        let mut state = self.state.lock();
        self.enqueue_all(&mut state, false);
        self.start_workers(&mut state);
    }

    /// Leaves buffering without waiting: what is dirty goes on its way, before anything that is written
    /// from now on, and what is cached is void.
    pub fn stop_buffering(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            state.exclusive = false;
            self.enqueue_all(&mut state, false);
            self.start_workers(&mut state);
        }
        self.invalidate();
    }

    /// Makes frames of everything dirty; the last one of each chunk flushes if `sync`.
    fn enqueue_all(&self, state: &mut State, sync: bool) {
        state.dirty_since = None;
        let batches = state.dirty.take_all();
        let mut batches = batches.into_iter().peekable();
        while let Some(batch) = batches.next() {
            let last = batches.peek().is_none_or(|next| next.index != batch.index);
            let job = self.push(state, batch, sync && last);
            state.queue.push_back(job);
        }
    }

    /// Waits until all replicas have what was written before the call (close). Returns also the
    /// error of an earlier flush in the background that nobody was told of yet.
    pub async fn flush(self: &Arc<Self>) -> Result<(), FsError> {
        self.uncut().await;
        self.send(false, Asker::Close).await
    }

    /// Waits until it is known whether dirty bytes go with a cut or stay. What the master waits for itself
    /// (a recall) must not wait for its answer to the cut, and does not come here.
    pub(super) async fn uncut(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.state.lock().cut_off.is_none() {
                return;
            }
            progress.await;
        }
    }

    /// Sends what was written before the call and waits until all replicas have it. False if some of it
    /// is lost; the error stays for [`flush`](Self::flush) to tell.
    pub async fn drain(self: &Arc<Self>) -> bool {
        self.uncut().await;
        let (since, barrier) = {
            let mut state = self.state.lock();
            self.enqueue_all(&mut state, false);
            self.start_workers(&mut state);
            (state.failures.count(), state.barrier())
        };
        self.passed(&barrier).await;
        let failures = &self.state.lock().failures;
        failures.count() == since && !failures.is_untold()
    }

    /// Sends what may be sent and waits for it.
    pub(super) async fn send(self: &Arc<Self>, sync: bool, asker: Asker) -> Result<(), FsError> {
        let (since, mine, barrier) = {
            let mut state = self.state.lock();
            let since = state.failures.count();
            self.enqueue_all(&mut state, sync);
            let alone = state.queue.len() == 1 && state.workers == 0;
            let mine = if alone { state.queue.pop_front() } else { None };
            self.start_workers(&mut state);
            (since, mine, state.barrier())
        };
        let outcome = match &mine {
            Some((order, frame)) => self.deliver(*order, frame, Told::Caller).await,
            None => Ok(()),
        };
        self.passed(&barrier).await;
        let failures = &mut self.state.lock().failures;
        if let (Err(error), Asker::Close) = (&outcome, asker) {
            failures.add(*error);
        }
        outcome.and(failures.tell(since, asker))
    }

    /// Waits until no frame up to the barrier is in its outbox. Each delivery is bounded.
    async fn passed(&self, barrier: &[(ChunkIndex, Order)]) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let mut state = self.state.lock();
                if barrier.iter().all(|(index, order)| state.outbox(*index).is_done(*order)) {
                    return;
                }
                state.obstacle.iter().cloned().for_each(operation::blame);
            }
            progress.await;
        }
    }
}

/// End of a write, if the file may reach there.
fn end_of(offset: u64, data: &[u8]) -> Result<u64, FsError> {
    let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_SIZE_MAX);
    end.ok_or(FsError::FileTooLarge)
}
