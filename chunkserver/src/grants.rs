//! The chunks that are or were lately under a write lease here: for each a [`Gate`] that lets one
//! mutation at a time through in the order that [`crate::chain`] decides.
//!
//! Keeps: no lock is held while anything waits. A gate goes away when its lease has ended, its chunk is
//! clean and nobody can still resend a write that it remembers.

use crate::chain::{Admission, Applied, Before, InstallStart, Installed, Order, Ticket};
use crate::loans::{Hold, Loans};
use gfs_proto::chunk::Replica;
use gfs_proto::control::{Position, WriteOutcome};
use gfs_proto::frame::{DataError, Extent};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, Epoch, Serial, ServerId, TruncateGeneration};
use gfs_proto::limits::{LEASE, OPERATION_TIMEOUT};
use gfs_proto::ops::HeldChunk;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Locks of the table; a power of two.
const SHARDS: usize = 16;
/// Outcomes are kept as long as a client may resend: the bound on its operations.
pub const OUTCOMES_KEPT: Duration = OPERATION_TIMEOUT;
/// Gates kept at most for their outcomes or their fence alone, about 1 KiB each.
pub const GATES_IDLE_MAX: usize = 16 << 10;
/// A fence without a replica outlives every grant that was given before it.
const _: () = assert!(OUTCOMES_KEPT.as_millis() >= LEASE.as_millis());

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Grants {
    shards: [Mutex<HashMap<ChunkHandle, Arc<Gate>>>; SHARDS],
    loans: Arc<Loans>,
}

/// Order and lease of one chunk.
#[derive(Debug)]
pub struct Gate {
    handle: ChunkHandle,
    loans: Arc<Loans>,
    state: Mutex<State>,
    /// A write is no longer in flight.
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: Order,
    lease: Lease,
    waiters: Vec<Waiter>,
    /// Applied or being applied here, the servers further down not heard from yet.
    in_flight: Vec<InFlight>,
    last_write: Duration,
    /// Since the last heartbeat.
    written: bool,
    /// A write was made since the chunk was last known clean.
    dirty: bool,
    /// Other members may lack what this one has, or have more, since this epoch: until a later grant is used, or the
    /// master says that it has looked.
    doubtful: Option<Epoch>,
}

/// What is known of the lease besides its epoch.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Members, the primary first; empty if a first frame brought the lease.
    pub members: Vec<Replica>,
    /// Life without extension.
    pub length: Duration,
    /// When it ends, on the server's clock.
    pub until: Duration,
}

impl Lease {
    /// Has run out, and would have even if its holder had extended it at the last moment.
    fn is_over(&self, now: Duration) -> bool {
        now >= self.until.saturating_add(self.length)
    }
}

#[derive(Debug)]
struct Waiter {
    /// `None`: any turn.
    serial: Option<Serial>,
    wake: oneshot::Sender<()>,
}

#[derive(Debug)]
struct InFlight {
    epoch: Epoch,
    serial: Serial,
    extents: Vec<Extent>,
    /// Readers by descriptor wait as well.
    _hold: Option<Hold>,
}

/// A decision that is not "wait".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Apply as this serial, then [`Gate::finish`].
    Apply(Serial),
    /// Applied before.
    Known(Serial),
}

impl Grants {
    /// What `look` finds in a range of a chunk; `None` if a write there is in flight, before or after. One that is
    /// admitted meanwhile may be seen by `look` and not by a later reader at another server.
    pub fn when_settled<T>(
        &self,
        handle: ChunkHandle,
        range: Extent,
        look: impl FnOnce(Option<&Gate>) -> T,
    ) -> Option<T> {
        let is_settled = |gate: &Option<Arc<Gate>>| !gate.as_ref().is_some_and(|gate| gate.is_in_flight(range));
        let before = self.get(handle);
        let found = is_settled(&before).then(|| look(before.as_deref()))?;
        is_settled(&self.get(handle)).then_some(found)
    }
}

impl Gate {
    fn new(handle: ChunkHandle, loans: &Arc<Loans>) -> Arc<Self> {
        Arc::new(Self { handle, loans: Arc::clone(loans), state: Mutex::default(), settled: Notify::new() })
    }

    /// True if a write with this ticket would be applied at once and costs no dirty mark.
    pub fn is_open_for(&self, ticket: &Ticket) -> bool {
        let state = self.state.lock();
        state.dirty && state.order.is_turn_of(ticket)
    }

    /// Waits for the frame's turn, until `deadline`. `forwards`: the write stays in flight until
    /// [`Gate::settle`].
    pub async fn admit(
        &self,
        ticket: &Ticket,
        extents: &[Extent],
        forwards: bool,
        deadline: Instant,
    ) -> Result<Turn, DataError> {
        loop {
            let turn = match self.admit_now(ticket, extents, forwards) {
                Ok(result) => return result,
                Err(turn) => turn,
            };
            if timeout_at(deadline, turn).await.is_err() {
                return Err(DataError::SerialGap);
            }
        }
    }

    fn admit_now(
        &self,
        ticket: &Ticket,
        extents: &[Extent],
        forwards: bool,
    ) -> Result<Result<Turn, DataError>, oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        let (turn, serial) = match state.order.admit(ticket) {
            Admission::Refused(error) => return Ok(Err(error)),
            Admission::Wait => return Err(state.wait(ticket.serial)),
            Admission::Apply(serial) => (Turn::Apply(serial), serial),
            Admission::Known(serial) => (Turn::Known(serial), serial),
        };
        if forwards {
            let (extents, hold) = (extents.to_vec(), self.loans.hold(self.handle));
            state.in_flight.push(InFlight { epoch: ticket.epoch, serial, extents, _hold: hold });
        }
        if turn == Turn::Known(serial) {
            state.wake_ready();
        }
        Ok(Ok(turn))
    }

    /// Ends what [`Turn::Apply`] began. True if the chunk was clean until now.
    pub fn finish(&self, ticket: &Ticket, serial: Serial, how: Applied, write: &Finished<'_>) -> bool {
        let mut state = self.state.lock();
        state.order.finish(ticket, serial, how, write.extents);
        state.last_write = write.now;
        if how != Applied::Refused {
            state.written = true;
        }
        match how {
            // a grant is used when its members have agreed
            Applied::Done => drop(state.doubtful.take_if(|since| *since < ticket.epoch)),
            Applied::Failed(_) => state.doubtful = Some(ticket.epoch),
            Applied::Refused => {}
        }
        match how {
            Applied::Failed(_) => state.wake_all(),
            Applied::Done | Applied::Refused => state.wake_ready(),
        }
        how != Applied::Refused && !std::mem::replace(&mut state.dirty, true)
    }

    /// The servers further down have answered, or not: `everywhere` if all have applied it.
    pub fn settle(&self, epoch: Epoch, serial: Serial, everywhere: bool) {
        let mut state = self.state.lock();
        if everywhere {
            state.order.settle(epoch, serial);
        } else {
            state.doubtful = Some(epoch);
        }
        state.in_flight.retain(|write| !(write.epoch == epoch && write.serial == serial));
        drop(state);
        self.settled.notify_waiters();
    }

    /// See [`Order::poison`].
    pub fn poison(&self, epoch: Epoch, error: DataError) {
        let mut state = self.state.lock();
        state.order.poison(epoch, error);
        state.doubtful = Some(epoch);
        state.wake_all();
    }

    /// Waits until no write that overlaps `range` is in flight, so that a reader who sees a value here
    /// sees it everywhere.
    pub async fn wait_settled(&self, range: Extent, deadline: Instant) -> Result<(), DataError> {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !self.is_in_flight(range) {
                return Ok(());
            }
            timeout_at(deadline, settled).await.map_err(|_| DataError::Busy)?;
        }
    }

    /// True if a write that overlaps `range` is in flight.
    pub fn is_in_flight(&self, range: Extent) -> bool {
        let overlaps = |extent: &Extent| {
            u64::from(extent.offset) < u64::from(range.offset) + u64::from(range.length)
                && u64::from(range.offset) < u64::from(extent.offset) + u64::from(extent.length)
        };
        self.state.lock().in_flight.iter().any(|write| write.extents.iter().any(overlaps))
    }

    /// True if any write is in flight.
    pub fn has_in_flight(&self) -> bool {
        !self.state.lock().in_flight.is_empty()
    }

    /// True if a grant is installed: the bytes may change.
    pub fn is_leased(&self) -> bool {
        self.state.lock().order.installed().is_some()
    }

    /// The grant that frames are accepted under, if there is one.
    pub fn installed(&self) -> Option<Installed> {
        self.state.lock().order.installed().copied()
    }

    /// True if the chunk was written since it was last known clean.
    pub fn is_dirty(&self) -> bool {
        self.state.lock().dirty
    }

    /// True if other members may have other bytes. Nobody but the master can say.
    pub fn is_doubtful(&self) -> bool {
        self.state.lock().doubtful.is_some()
    }

    /// Waits for its turn and keeps everybody else out until [`Gate::finish_install`] or
    /// [`Gate::abandon_install`].
    pub async fn begin_install(
        &self,
        epoch: Epoch,
        generation: TruncateGeneration,
        deadline: Instant,
    ) -> Result<(), DataError> {
        loop {
            let turn = {
                let mut state = self.state.lock();
                match state.order.begin_install(epoch, generation) {
                    InstallStart::Go => {
                        state.wake_all(); // frames of older epochs need not wait any longer
                        return Ok(());
                    }
                    InstallStart::Stale => return Err(DataError::Epoch),
                    InstallStart::Wait => state.wait(Some(Serial::default())),
                }
            };
            timeout_at(deadline, turn).await.map_err(|_| DataError::Busy)?.ok();
        }
    }

    /// See [`Order::finish_install`].
    pub fn finish_install(&self, installed: Installed, lease: Lease) -> Before {
        let mut state = self.state.lock();
        let before = state.order.finish_install(installed);
        state.lease = lease;
        // what becomes of writes that were on their way is decided by the members together
        state.in_flight.retain(|write| write.epoch >= installed.epoch);
        state.wake_all();
        drop(state);
        self.settled.notify_waiters();
        before
    }

    /// See [`Order::begin_align`]. Keeps everybody out until [`Gate::finish_align`] or [`Gate::abandon_install`].
    pub fn begin_align(&self, version: ChunkVersion, epoch: Epoch) -> Result<(), DataError> {
        self.state.lock().order.begin_align(version, epoch)
    }

    /// See [`Order::finish_align`]. `written`: blocks were, at this time.
    pub fn finish_align(&self, position: Position, outcomes: &[WriteOutcome], written: Option<Duration>) {
        let mut state = self.state.lock();
        state.order.finish_align(position, outcomes);
        state.doubtful = None;
        if let Some(now) = written {
            state.last_write = now;
            state.dirty = true;
        }
        state.wake_all();
    }

    /// See [`Order::abandon_install`]. The fence stays for a while even where there is no replica.
    pub fn abandon_install(&self, now: Duration) {
        let mut state = self.state.lock();
        state.order.abandon_install();
        state.last_write = state.last_write.max(now);
        state.wake_all();
    }

    /// Takes the grant that the first frame of a new chunk carries; `create` makes the file unless this
    /// grant or a newer one is installed already.
    pub fn create(
        &self,
        installed: Installed,
        lease: Lease,
        create: impl FnOnce() -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut state = self.state.lock();
        if state.order.installed().is_some_and(|newest| newest.epoch >= installed.epoch) {
            return Ok(()); // whether it is this one is checked when the frame is admitted
        }
        let mut after = state.order.clone();
        if !after.create(installed) {
            return Err(DataError::Epoch);
        }
        create()?;
        state.last_write = lease.until.saturating_sub(lease.length);
        state.order = after;
        state.lease = lease;
        Ok(())
    }

    /// See [`Order::revoke`]. The fence stays for a while even where there is no replica.
    pub fn revoke(&self, epoch: Epoch, now: Duration) -> bool {
        let mut state = self.state.lock();
        let ours = state.order.revoke(epoch);
        state.doubtful.take_if(|_| ours);
        state.last_write = state.last_write.max(now);
        state.wake_all();
        ours
    }

    /// The master has extended the lease.
    pub fn extend(&self, epoch: Epoch, sent: Duration) {
        let mut state = self.state.lock();
        if state.order.installed().is_some_and(|installed| installed.epoch == epoch) {
            state.lease.until = state.lease.until.max(sent + state.lease.length);
        }
    }

    /// The store has flushed the chunk and marked it clean.
    pub fn cleaned(&self) {
        self.state.lock().dirty = false;
    }

    /// How to reach a member of the lease.
    pub fn member(&self, server: ServerId) -> Option<Replica> {
        self.state.lock().lease.members.iter().find(|member| member.server == server).cloned()
    }
}

/// What [`Gate::finish`] has to note of a write.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// Its ranges.
    pub extents: &'a [Extent],
    /// Now, on the server's clock.
    pub now: Duration,
}

impl State {
    fn wait(&mut self, serial: Option<Serial>) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.waiters.retain(|waiter| !waiter.wake.is_closed());
        self.waiters.push(Waiter { serial, wake });
        woken
    }

    /// Wakes those whose serial has come, and one of those who take any turn.
    fn wake_ready(&mut self) {
        let (next, mut any_turn) = (self.order.next(), true);
        let ready = |waiter: &mut Waiter| match waiter.serial {
            Some(serial) => serial <= next,
            None => !waiter.wake.is_closed() && std::mem::take(&mut any_turn),
        };
        for waiter in self.waiters.extract_if(.., ready) {
            let _ = waiter.wake.send(()); // whoever stopped waiting needs no waking
        }
    }

    fn wake_all(&mut self) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.wake.send(());
        }
    }

    /// No lease, nothing to flush, nothing that could be resent.
    fn is_over(&self, now: Duration, kept: Duration) -> bool {
        let kept_for =
            self.order.installed().is_some() || self.order.is_busy() || self.dirty || self.doubtful.is_some();
        !kept_for && now >= self.last_write + kept
    }
}

/// What there is to do about one chunk's lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Epoch of the lease that has run out.
    pub epoch: Epoch,
}

impl Grants {
    /// No grants; `loans` are told of writes in flight.
    pub fn new(loans: Arc<Loans>) -> Self {
        Self { loans, ..Self::default() }
    }

    fn shard(&self, handle: ChunkHandle) -> &Mutex<HashMap<ChunkHandle, Arc<Gate>>> {
        // handles are counted up: the low bits spread them evenly
        &self.shards[handle.get() as usize % SHARDS]
    }

    /// The gate of a chunk, if it has one.
    pub fn get(&self, handle: ChunkHandle) -> Option<Arc<Gate>> {
        self.shard(handle).lock().get(&handle).cloned()
    }

    /// The gate of a chunk, made if need be.
    pub fn entry(&self, handle: ChunkHandle) -> Arc<Gate> {
        match self.shard(handle).lock().entry(handle) {
            Entry::Occupied(gate) => Arc::clone(gate.get()),
            Entry::Vacant(place) => Arc::clone(place.insert(Gate::new(handle, &self.loans))),
        }
    }

    /// The replica was being written when the run before this one ended: what others have is not known, nor what this one
    /// knew.
    pub fn recovered(&self, handle: ChunkHandle) {
        self.entry(handle).state.lock().doubtful = Some(Epoch::default());
    }

    /// A replica that was to be deleted is not there: a first frame that comes late makes none. Only while
    /// there is room: many chunks that were never written may be deleted together, and a gate that
    /// remembers writes is worth more.
    pub fn bury(&self, handle: ChunkHandle, version: ChunkVersion, now: Duration) {
        let gate = {
            let mut shard = self.shard(handle).lock();
            let room = shard.len() < GATES_IDLE_MAX / SHARDS / 2;
            match shard.entry(handle) {
                Entry::Occupied(gate) => Arc::clone(gate.get()),
                Entry::Vacant(place) if room => Arc::clone(place.insert(Gate::new(handle, &self.loans))),
                Entry::Vacant(_) => return,
            }
        };
        let mut state = gate.state.lock();
        state.order.bury(version);
        state.last_write = state.last_write.max(now);
        state.wake_all();
    }

    /// The replica is gone: nothing that is remembered of it applies to a new one.
    pub fn remove(&self, handle: ChunkHandle) {
        let gate = self.shard(handle).lock().remove(&handle);
        if let Some(gate) = gate {
            gate.state.lock().wake_all();
        }
    }

    fn each(&self, mut look: impl FnMut(ChunkHandle, &mut State)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(handle, gate)| look(*handle, &mut gate.state.lock()));
        }
    }

    /// Leases under which something was written since the last call; at most `most`.
    pub fn take_written(&self, most: usize) -> Vec<HeldChunk> {
        let mut held = Vec::new();
        self.each(|handle, state| {
            if let Some(installed) = state.order.installed()
                && held.len() < most
                && std::mem::take(&mut state.written)
            {
                held.push(HeldChunk { handle, epoch: installed.epoch });
            }
        });
        held
    }

    /// Leases that ran out so long ago that the master cannot have extended them; they are fenced from
    /// now on. (It extends a lease when its holder asks, without a word to the members, and what keeps
    /// a former holder out is the next epoch.)
    pub fn expire(&self, now: Duration) -> Vec<Expired> {
        let mut expired = Vec::new();
        self.each(|handle, state| {
            let over = state.order.installed().filter(|_| state.lease.is_over(now)).map(|installed| installed.epoch);
            if let Some(epoch) = over {
                state.order.revoke(epoch);
                state.wake_all();
                expired.push(Expired { handle, epoch });
            }
        });
        expired
    }

    /// True if nothing was written to the chunk for so long, or its lease has ended.
    pub fn is_idle(&self, handle: ChunkHandle, now: Duration, idle: Duration) -> bool {
        self.get(handle).is_none_or(|gate| {
            let state = gate.state.lock();
            state.order.installed().is_none() || now >= state.last_write + idle
        })
    }

    /// Drops gates that are of no use any more; of those that are kept for their outcomes only, at
    /// most [`GATES_IDLE_MAX`] stay.
    pub fn forget(&self, now: Duration) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let keep = if shard.len() > GATES_IDLE_MAX / SHARDS { Duration::ZERO } else { OUTCOMES_KEPT };
            shard.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.state.lock().is_over(now, keep));
            shard.shrink_to(GATES_IDLE_MAX / SHARDS / 4);
        }
    }

    /// Gates there are.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests;
