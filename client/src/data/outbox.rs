//! Frames of one chunk between being sent and being acknowledged, and the lease they go under: a
//! pure state machine.
//!
//! ```text
//!          install            fail(Stale), idle for long
//!   None ----------> Held ------------------------------> Stale --+ install with another epoch
//!                    ^  |  fail(Broken), abandon                  +-----------------------------> Held
//!                    |  +-------------------------> Broken -- install -> Held
//!                    +-- every frame in the box gets a new serial, in the old order
//! ```
//! Keeps: serials are given in order and without a gap; a frame leaves the box when all members have
//! acknowledged it, or one that they apply after it; while it is in the box its bytes can be read; what was
//! acknowledged and not flushed is in the memory of a member's machine, or is said to be lost.
//! GFS paper, section 3.1.

use super::frame::Frame;
use gfs_proto::chunk::{ChunkGrant, Numbering, Replica};
use gfs_proto::ids::{Epoch, Serial, ServerId};
use gfs_proto::ops::HeldChunk;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Place of a frame in the order in which a chunk was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct Order(u64);

/// Frames and lease of one chunk.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    lease: Lease,
    frames: VecDeque<Entry>,
    pushed: u64,
    /// Highest order acknowledged, and highest known to be on stable storage.
    acked: u64,
    synced: u64,
    /// Machines that have all that was acknowledged: the members of the last grant.
    witnesses: Vec<(ServerId, Machine)>,
    /// Acknowledged bytes may be gone, and nobody was told.
    lost: bool,
    /// Serials go on if an epoch comes back.
    last: Option<(Epoch, Serial)>,
}

/// One start of a server's machine: its boot id.
type Machine = String;

#[derive(Debug)]
struct Entry {
    order: Order,
    frame: Arc<Frame>,
    /// Under the lease held; zero if it has none.
    serial: Serial,
}

#[derive(Default, Debug)]
enum Lease {
    #[default]
    None,
    Held {
        grant: Arc<ChunkGrant>,
        /// No frame of a new chunk was acknowledged yet: its file may not be there.
        creating: bool,
        used: Instant,
    },
    /// Void or too old; the master may extend it if `fenced` is false.
    Stale {
        epoch: Epoch,
        fenced: bool,
        /// Who acknowledged under it, unless one of them is not what it was: they can still flush.
        members: Option<Arc<ChunkGrant>>,
    },
    Broken {
        grant: Arc<ChunkGrant>,
        suspects: Vec<ServerId>,
    },
}

/// How to send a frame.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub grant: Arc<ChunkGrant>,
    /// `None` if the primary gives it.
    pub serial: Option<Serial>,
    pub create: bool,
}

/// What has to be done before frames can be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// Nothing: a lease is held.
    Nothing,
    /// A grant.
    Grant,
    /// To report what broke.
    Break(Arc<ChunkGrant>, Vec<ServerId>),
}

/// Why frames under an epoch fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The epoch or generation is not the installed one.
    Stale,
    /// These servers failed.
    Broken(Vec<ServerId>),
}

/// Frames that have left the box.
pub(super) type Gone = Vec<Arc<Frame>>;

impl Outbox {
    /// Takes a frame in; it is sent when its [`ticket`](Self::ticket) can be had.
    pub(super) fn push(&mut self, frame: Arc<Frame>) -> Order {
        self.pushed += 1;
        let order = Order(self.pushed);
        let serial = if matches!(self.lease, Lease::Held { .. }) { self.next_serial() } else { Serial::default() };
        self.frames.push_back(Entry { order, frame, serial });
        order
    }

    fn next_serial(&mut self) -> Serial {
        let Lease::Held { grant, .. } = &self.lease else { return Serial::default() };
        let serial = match self.last {
            Some((epoch, serial)) if epoch == grant.epoch => serial.next(),
            _ => Serial::new(1),
        };
        self.last = Some((grant.epoch, serial));
        serial
    }

    /// How to send the frame: `Ok(None)` if it was acknowledged or given up meanwhile, `Err` if a
    /// lease is wanted first.
    pub(super) fn ticket(&mut self, order: Order, now: Instant) -> Result<Option<Ticket>, Want> {
        let Some(entry) = self.frames.iter().find(|entry| entry.order == order) else { return Ok(None) };
        let serial = entry.serial;
        let grant = self.lease(now)?;
        let serial = (grant.numbering == Numbering::Client).then_some(serial);
        Ok(Some(Ticket { grant, serial, create: self.is_creating() }))
    }

    /// True if the frame must not be sent yet: the primary orders frames as they come, so one that an earlier frame
    /// overlaps waits until that has left. Under our own numbering the members keep the order.
    pub(super) fn is_behind(&self, order: Order) -> bool {
        let Lease::Held { grant, .. } = &self.lease else { return false };
        let Some(entry) = self.frames.iter().find(|entry| entry.order == order) else { return false };
        let earlier = self.frames.iter().take_while(|other| other.order < order);
        grant.numbering == Numbering::Primary && earlier.into_iter().any(|other| other.frame.overlaps(&entry.frame))
    }

    /// The lease, unless it has been idle for so long that it may have ended. Using it keeps it alive, but
    /// not before a member has the chunk: nobody tells the master of a first frame that did not arrive.
    pub(super) fn lease(&mut self, now: Instant) -> Result<Arc<ChunkGrant>, Want> {
        if let Lease::Held { grant, creating, used } = &mut self.lease
            && now.saturating_duration_since(*used) < grant.lease * 3 / 4
        {
            if !*creating {
                *used = now;
            }
            return Ok(grant.clone());
        }
        Err(self.want(now))
    }

    /// What has to be done to have a lease.
    pub(super) fn want(&self, now: Instant) -> Want {
        match &self.lease {
            Lease::Held { grant, used, .. } if now.saturating_duration_since(*used) < grant.lease * 3 / 4 => {
                Want::Nothing
            }
            Lease::Held { .. } | Lease::None | Lease::Stale { .. } => Want::Grant,
            Lease::Broken { grant, suspects } => Want::Break(grant.clone(), suspects.clone()),
        }
    }

    /// A grant has come. True if it can be used; false if it is one that has failed already.
    pub(super) fn install(&mut self, grant: Arc<ChunkGrant>, now: Instant) -> bool {
        let (same, fenced) = match &self.lease {
            Lease::Held { grant: old, .. } => (old.epoch == grant.epoch, false),
            Lease::Stale { epoch, fenced, .. } => (*epoch == grant.epoch, *fenced),
            Lease::Broken { grant: old, .. } => (old.epoch == grant.epoch, true),
            Lease::None => (self.last.is_some_and(|(epoch, _)| epoch == grant.epoch), false),
        };
        if same && fenced {
            self.lease = Lease::Broken { grant, suspects: Vec::new() };
            return false;
        }
        self.look_for_witnesses(&grant);
        let creating = if same { self.is_creating() } else { grant.created };
        self.lease = Lease::Held { grant, creating, used: now };
        for at in 0..self.frames.len() {
            if !same || self.frames[at].serial == Serial::default() {
                self.frames[at].serial = self.next_serial();
            }
        }
        true
    }

    /// What was acknowledged and not flushed survives the death of a server, but not that of its machine. If every
    /// member's machine was started again since, it may be gone, however well they can flush what they have.
    fn look_for_witnesses(&mut self, grant: &ChunkGrant) {
        let is_witness = |replica: &Replica| {
            self.witnesses.iter().any(|(server, host)| *server == replica.server && *host == replica.address.host)
        };
        if self.acked > self.synced && !self.witnesses.is_empty() && !grant.replicas.iter().any(is_witness) {
            self.lost = true;
            self.synced = self.acked;
        }
        self.witnesses = grant.replicas.iter().map(|it| (it.server, it.address.host.clone())).collect();
    }

    /// True, once, if acknowledged bytes may be gone that were never flushed.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Frames or flushes under `epoch` fail. Of no effect if that epoch is history.
    pub(super) fn fail(&mut self, epoch: Epoch, fault: Fault) {
        match (&mut self.lease, fault) {
            (Lease::Held { grant, .. }, Fault::Stale) if grant.epoch == epoch => {
                self.lease = Lease::Stale { epoch, fenced: true, members: None };
            }
            (Lease::Stale { epoch: old, members, .. }, _) if *old == epoch => *members = None,
            (Lease::Held { grant, .. }, Fault::Broken(suspects)) if grant.epoch == epoch => {
                self.lease = Lease::Broken { grant: grant.clone(), suspects };
            }
            (Lease::Broken { grant, suspects }, Fault::Broken(more)) if grant.epoch == epoch => {
                suspects.extend(more.into_iter().filter(|server| !suspects.contains(server)).collect::<Vec<_>>());
            }
            _ => {}
        }
    }

    /// The master does not know the lease that was reported broken.
    pub(super) fn disowned(&mut self) {
        if let Lease::Broken { grant, .. } = &self.lease {
            self.lease = Lease::Stale { epoch: grant.epoch, fenced: true, members: None };
        }
    }

    /// All members have acknowledged the frame under `epoch`. Under client numbering they apply in
    /// the order of serials, so whatever was sent before it under that epoch is applied too.
    pub(super) fn ack(&mut self, order: Order, epoch: Epoch) -> Gone {
        let Some(at) = self.frames.iter().position(|entry| entry.order == order) else { return Vec::new() };
        let current = match &mut self.lease {
            Lease::Held { grant, creating, .. } if grant.epoch == epoch => {
                *creating = false;
                grant.numbering == Numbering::Client
            }
            _ => false,
        };
        self.acked = self.acked.max(order.0);
        let gone: Vec<Entry> =
            if current { self.frames.drain(..=at).collect() } else { self.frames.remove(at).into_iter().collect() };
        if current && gone.last().is_some_and(|entry| entry.frame.sync) {
            self.synced = self.synced.max(order.0);
        }
        gone.into_iter().map(|entry| entry.frame).collect()
    }

    /// The frame is given up. Members may differ in its range, so the lease breaks.
    pub(super) fn abandon(&mut self, order: Order) -> Gone {
        let Some(at) = self.frames.iter().position(|entry| entry.order == order) else { return Vec::new() };
        if let Lease::Held { grant, .. } = &self.lease {
            self.lease = Lease::Broken { grant: grant.clone(), suspects: Vec::new() };
        }
        self.frames.remove(at).map(|entry| entry.frame).into_iter().collect()
    }

    /// The lease was given back or is void.
    pub(super) fn forget(&mut self) {
        if let Lease::Held { grant, .. } | Lease::Broken { grant, .. } = &self.lease {
            let members = self.members();
            self.lease = Lease::Stale { epoch: grant.epoch, fenced: false, members };
        }
    }

    /// Whom to ask for a flush of what they acknowledged. A flush names version and incarnation, not
    /// the epoch, so it needs no living lease: a file can be flushed after it was closed.
    pub(super) fn members(&self) -> Option<Arc<ChunkGrant>> {
        match &self.lease {
            Lease::Held { grant, .. } => Some(grant.clone()),
            Lease::Stale { members, .. } => members.clone(),
            Lease::None | Lease::Broken { .. } => None,
        }
    }

    /// True if the chunk is new and no member is known to have a file for it: it reads as zeroes.
    pub(super) const fn is_creating(&self) -> bool {
        matches!(self.lease, Lease::Held { creating: true, .. })
    }

    /// For ReturnChunks.
    pub(super) fn held(&self) -> Option<HeldChunk> {
        match &self.lease {
            Lease::Held { grant, .. } | Lease::Broken { grant, .. } => {
                Some(HeldChunk { handle: grant.handle, epoch: grant.epoch })
            }
            Lease::None | Lease::Stale { .. } => None,
        }
    }

    /// Frames not acknowledged, oldest first.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.frames.iter().map(|entry| &entry.frame)
    }

    /// The order of the last frame pushed.
    pub(super) const fn last_pushed(&self) -> Order {
        Order(self.pushed)
    }

    /// True if no frame up to `order` is in the box.
    pub(super) fn is_done(&self, order: Order) -> bool {
        self.frames.front().is_none_or(|entry| entry.order > order)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True if a frame was acknowledged: the members have a file.
    pub(super) const fn has_arrived(&self) -> bool {
        self.acked > 0
    }

    /// If acknowledged writes are not known to be on stable storage: up to where.
    pub(super) fn unsynced(&self) -> Option<Order> {
        (self.acked > self.synced).then_some(Order(self.acked))
    }

    /// All members have flushed what was acknowledged up to `order`.
    pub(super) fn flushed(&mut self, order: Order) {
        self.synced = self.synced.max(order.0);
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
