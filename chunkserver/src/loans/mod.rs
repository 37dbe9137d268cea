//! Loans: descriptors of chunk files that clients on this machine have, so that they read without the server
//! (short-circuit reads). What makes that safe is the [board](gfs_proto::board), on which the server says of each
//! loan at every moment whether its file may be read.
//!
//! Keeps: from before a byte of a replica changes, until it has changed and no write to it is in flight, the slot
//! of its loan says so; a replica that must not be read any more has no loan. Two places keep it, and nobody
//! who adds a new kind of change has to think of it:
//!
//! - The store's lock of an open replica ([`store`](crate::store), `live_lock.rs`) owns its [`Loan`]. Whoever has
//!   the lock exclusively, which every change needs, unsettles the slot by that; when it is given back, the loan
//!   of a replica that is gone, suspect or of another version is revoked. A replica that is closed loses it too.
//! - The gate of a chunk ([`grants`](crate::grants)) has a [`Hold`] for each write in flight: applied here, not
//!   known to be applied further down. A reader must not see it yet.
//!
//! ```text
//!              lend                exclusive, Hold
//!   (nothing) ------> settled <----------------------> unsettled
//!                        |    given back, dropped          |
//!                        +------------- revoked <----------+   Loan dropped, slot needed, directory
//!                                                              out of service, server stops
//! ```
//! A server that is killed says nothing any more: the lease on the board runs out, and its connections end.

mod board;

use board::Board;
use gfs_proto::board::Slot;
use gfs_proto::ids::ChunkHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Replicas lent at the same time, over all clients: 64 KiB of board. Beyond it the oldest loans are revoked.
const SLOTS: u32 = 8 << 10;

/// All loans of a server. The default is a server that lends nothing.
#[derive(Debug, Default)]
pub struct Loans {
    board: Option<Board>,
    table: Mutex<Table>,
    /// Slots in use; asked without the lock.
    lent: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    /// Nothing is lent any more.
    closed: bool,
    lease_until: u64,
    slots: Vec<Entry>,
    by_handle: HashMap<ChunkHandle, u32>,
    /// Slots not in use.
    free: Vec<u32>,
    /// The slot that is revoked next if there is none: they were taken in this order.
    oldest: u32,
    groups: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    slot: Slot,
    /// `None`: not in use.
    lent: Option<(ChunkHandle, GroupNumber)>,
    /// Those who unsettle it.
    held: u32,
}

/// Tells groups apart.
type GroupNumber = u32;

/// Names one tenancy of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tenancy {
    /// Slot on the board.
    pub slot: u32,
    /// Of how many.
    pub tenancy: u32,
}

/// Loans that are revoked together: those from one storage directory.
#[derive(Debug)]
pub struct LoanGroup {
    loans: Arc<Loans>,
    number: GroupNumber,
}

/// The loan of one open replica, to any number of clients. Revoked when it is dropped.
#[derive(Debug)]
pub struct Loan {
    loans: Arc<Loans>,
    tenancy: Tenancy,
}

/// Keeps the slot of a loan unsettled until it is dropped.
#[derive(Debug)]
pub struct Hold {
    loans: Arc<Loans>,
    tenancy: Tenancy,
}

impl Loans {
    /// With a board; without one if the system gives none, which is logged.
    pub fn new() -> Arc<Self> {
        Self::with_slots(SLOTS)
    }

    fn with_slots(slots: u32) -> Arc<Self> {
        let board = Board::new(slots).inspect_err(|error| {
            tracing::warn!(%error, "no memory can be shared with clients: they read by request only");
        });
        let table = Table {
            slots: vec![Entry { slot: Slot { tenancy: 0, sequence: 1 }, ..Entry::default() }; slots as usize],
            free: (0..slots).rev().collect(),
            ..Table::default()
        };
        Arc::new(Self { board: board.ok(), table: Mutex::new(table), lent: AtomicUsize::new(0) })
    }

    /// The memory to show to clients; `None` if nothing is ever lent.
    pub fn board(&self) -> Option<BorrowedFd<'_>> {
        self.board.as_ref().map(AsFd::as_fd)
    }

    /// A new group.
    pub fn group(self: &Arc<Self>) -> LoanGroup {
        let mut table = self.table.lock();
        table.groups += 1;
        LoanGroup { loans: Arc::clone(self), number: table.groups }
    }

    /// The read lease is held until then, in nanoseconds on the server's clock. Never goes back.
    pub fn extend_lease(&self, until: u64) {
        let mut table = self.table.lock();
        if let (Some(board), false) = (&self.board, table.closed || until <= table.lease_until) {
            table.lease_until = until;
            board.set_lease(until);
        }
    }

    /// A write to the chunk is in flight until the hold is dropped; `None` if it is not lent. A chunk that is lent
    /// from now on is not held: whoever lends looks for writes in flight afterwards.
    pub fn hold(self: &Arc<Self>, handle: ChunkHandle) -> Option<Hold> {
        if self.lent.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut table = self.table.lock();
        let slot = *table.by_handle.get(&handle)?;
        let tenancy = Tenancy { slot, tenancy: table.slots[slot as usize].slot.tenancy };
        self.unsettle(&mut table, tenancy);
        Some(Hold { loans: Arc::clone(self), tenancy })
    }

    /// The server stops: everything is revoked, nothing is lent any more, the lease is not held.
    pub fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        if let Some(board) = &self.board {
            board.set_lease(0);
        }
        self.revoke_where(&mut table, |_| true);
    }

    /// Replicas lent now.
    pub fn count(&self) -> usize {
        self.lent.load(Ordering::SeqCst)
    }

    fn unsettle(&self, table: &mut Table, tenancy: Tenancy) {
        let Some(entry) = table.tenant(tenancy) else { return };
        entry.held += 1;
        if entry.held == 1 {
            self.step(tenancy.slot, entry);
        }
    }

    fn settle(&self, table: &mut Table, tenancy: Tenancy) {
        let Some(entry) = table.tenant(tenancy) else { return };
        entry.held -= 1;
        if entry.held == 0 {
            self.step(tenancy.slot, entry);
        }
    }

    fn step(&self, number: u32, entry: &mut Entry) {
        entry.slot.sequence = entry.slot.sequence.wrapping_add(1);
        debug_assert_eq!(entry.slot.is_settled(), entry.held == 0, "settled where nobody holds it");
        self.show(number, entry.slot);
    }

    fn show(&self, number: u32, slot: Slot) {
        if let Some(board) = &self.board {
            board.set_slot(number, slot);
        }
    }

    fn revoke(&self, table: &mut Table, tenancy: Tenancy) {
        let Some(entry) = table.tenant(tenancy) else { return };
        let slot = Slot { tenancy: entry.slot.tenancy.wrapping_add(1), sequence: 1 };
        self.show(tenancy.slot, slot);
        let (handle, _) = std::mem::replace(entry, Entry { slot, ..Entry::default() }).lent.expect("it has a tenant");
        table.by_handle.remove(&handle);
        table.free.push(tenancy.slot);
        self.lent.fetch_sub(1, Ordering::SeqCst);
    }

    fn revoke_where(&self, table: &mut Table, which: impl Fn(GroupNumber) -> bool) {
        let tenancies: Vec<Tenancy> = (0..)
            .zip(&table.slots)
            .filter(|(_, entry)| entry.lent.is_some_and(|(_, group)| which(group)))
            .map(|(slot, entry)| Tenancy { slot, tenancy: entry.slot.tenancy })
            .collect();
        tenancies.into_iter().for_each(|tenancy| self.revoke(table, tenancy));
    }

    fn is_lent(&self, tenancy: Tenancy) -> bool {
        self.table.lock().tenant(tenancy).is_some()
    }
}

impl Table {
    /// The entry, if this is still its tenancy.
    fn tenant(&mut self, tenancy: Tenancy) -> Option<&mut Entry> {
        let entry = self.slots.get_mut(tenancy.slot as usize)?;
        (entry.lent.is_some() && entry.slot.tenancy == tenancy.tenancy).then_some(entry)
    }
}

impl LoanGroup {
    /// Lends a replica, which the caller has exclusively: the slot is unsettled until [`Loan::settle`]. `None` if
    /// nothing is lent.
    pub fn lend(&self, handle: ChunkHandle) -> Option<Loan> {
        let loans = &self.loans;
        let table = &mut *loans.table.lock();
        if table.closed || loans.board.is_none() {
            return None;
        }
        if let Some(slot) = table.by_handle.get(&handle) {
            // a replica that was replaced and is still being closed
            let tenancy = Tenancy { slot: *slot, tenancy: table.slots[*slot as usize].slot.tenancy };
            loans.revoke(table, tenancy);
        }
        if table.free.is_empty() {
            let slot = table.oldest;
            table.oldest = (slot + 1) % table.slots.len() as u32;
            loans.revoke(table, Tenancy { slot, tenancy: table.slots[slot as usize].slot.tenancy });
        }
        let slot = table.free.pop()?;
        let entry = &mut table.slots[slot as usize];
        (entry.lent, entry.held) = (Some((handle, self.number)), 1);
        let tenancy = Tenancy { slot, tenancy: entry.slot.tenancy };
        loans.show(slot, entry.slot);
        table.by_handle.insert(handle, slot);
        loans.lent.fetch_add(1, Ordering::SeqCst);
        Some(Loan { loans: Arc::clone(loans), tenancy })
    }

    /// Revokes all of them.
    pub fn revoke(&self) {
        let table = &mut *self.loans.table.lock();
        self.loans.revoke_where(table, |group| group == self.number);
    }
}

impl Loan {
    /// Where clients find it on the board; `None` if it was revoked.
    pub fn tenancy(&self) -> Option<Tenancy> {
        self.loans.is_lent(self.tenancy).then_some(self.tenancy)
    }

    /// The replica may be changed from now on.
    pub fn unsettle(&self) {
        self.loans.unsettle(&mut self.loans.table.lock(), self.tenancy);
    }

    /// It is not being changed any more.
    pub fn settle(&self) {
        self.loans.settle(&mut self.loans.table.lock(), self.tenancy);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.loans.revoke(&mut self.loans.table.lock(), self.tenancy);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.loans.settle(&mut self.loans.table.lock(), self.tenancy);
    }
}

#[cfg(test)]
mod tests;
