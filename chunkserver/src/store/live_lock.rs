//! The lock of an open replica, which owns its loan too.
//!
//! Keeps the invariant of [`loans`](crate::loans): whoever has the replica exclusively has unsettled its slot by that,
//! whatever it is going to do, and what it leaves behind decides whether the loan lives on.

use super::index::Live;
use crate::loans::{Loan, LoanGroup, Tenancy};
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::ops::{Deref, DerefMut};

/// What changes of an open replica, and who was lent it.
pub(super) struct LiveLock(RwLock<Guarded>);

struct Guarded {
    live: Live,
    /// Of which version.
    loan: Option<(Loan, ChunkVersion)>,
}

/// Shared access: nothing changes meanwhile.
pub(super) struct Shared<'l>(RwLockReadGuard<'l, Guarded>);

/// Exclusive access: no client reads the file by a descriptor meanwhile and believes what it read.
pub(super) struct Exclusive<'l>(RwLockWriteGuard<'l, Guarded>);

impl LiveLock {
    pub(super) fn new(live: Live) -> Self {
        Self(RwLock::new(Guarded { live, loan: None }))
    }

    pub(super) fn read(&self) -> Shared<'_> {
        Shared(self.0.read())
    }

    pub(super) fn try_read(&self) -> Option<Shared<'_>> {
        self.0.try_read().map(Shared)
    }

    pub(super) fn write(&self) -> Exclusive<'_> {
        let guarded = self.0.write();
        if let Some((loan, _)) = &guarded.loan {
            loan.unsettle();
        }
        Exclusive(guarded)
    }
}

impl Exclusive<'_> {
    /// The loan of the replica, made if there is none.
    pub(super) fn lend(&mut self, handle: ChunkHandle, group: &LoanGroup) -> Option<Tenancy> {
        let guarded = &mut *self.0;
        if let Some(tenancy) = guarded.loan.as_ref().and_then(|(loan, _)| loan.tenancy()) {
            return Some(tenancy);
        }
        guarded.loan = group.lend(handle).map(|loan| (loan, guarded.live.entry.version));
        guarded.loan.as_ref().and_then(|(loan, _)| loan.tenancy())
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        let Guarded { live, loan } = &mut *self.0;
        let counts = |version| !live.gone && live.entry.state != ReplicaState::Suspect && live.entry.version == version;
        match loan {
            Some((loan, version)) if counts(*version) => loan.settle(),
            _ => *loan = None,
        }
    }
}

impl Deref for Shared<'_> {
    type Target = Live;
    fn deref(&self) -> &Live {
        &self.0.live
    }
}

impl Deref for Exclusive<'_> {
    type Target = Live;
    fn deref(&self) -> &Live {
        &self.0.live
    }
}

impl DerefMut for Exclusive<'_> {
    fn deref_mut(&mut self) -> &mut Live {
        &mut self.0.live
    }
}
