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
pub(super) struct LiveLock<F>(RwLock<Guarded<F>>);

struct Guarded<F> {
    live: Live<F>,
    /// Of which version.
    loan: Option<(Loan, ChunkVersion)>,
}

/// Shared access: nothing changes meanwhile.
pub(super) struct Shared<'l, F>(RwLockReadGuard<'l, Guarded<F>>);

/// Exclusive access: no client reads the file by a descriptor meanwhile and believes what it read.
pub(super) struct Exclusive<'l, F>(RwLockWriteGuard<'l, Guarded<F>>);

impl<F> LiveLock<F> {
    pub(super) fn new(live: Live<F>) -> Self {
        Self(RwLock::new(Guarded { live, loan: None }))
    }

    pub(super) fn read(&self) -> Shared<'_, F> {
        Shared(self.0.read())
    }

    pub(super) fn try_read(&self) -> Option<Shared<'_, F>> {
        self.0.try_read().map(Shared)
    }

    pub(super) fn write(&self) -> Exclusive<'_, F> {
        let guarded = self.0.write();
        if let Some((loan, _)) = &guarded.loan {
            loan.unsettle();
        }
        Exclusive(guarded)
    }
}

impl<F> Exclusive<'_, F> {
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

impl<F> Drop for Exclusive<'_, F> {
    fn drop(&mut self) {
        let Guarded { live, loan } = &mut *self.0;
        let entry = live.entry;
        let is_sound = !live.gone && entry.state != ReplicaState::Suspect && !entry.damaged;
        let counts = |version| is_sound && entry.version == version;
        match loan {
            Some((loan, version)) if counts(*version) => loan.settle(),
            _ => *loan = None,
        }
    }
}

impl<F> Deref for Shared<'_, F> {
    type Target = Live<F>;
    fn deref(&self) -> &Live<F> {
        &self.0.live
    }
}

impl<F> Deref for Exclusive<'_, F> {
    type Target = Live<F>;
    fn deref(&self) -> &Live<F> {
        &self.0.live
    }
}

impl<F> DerefMut for Exclusive<'_, F> {
    fn deref_mut(&mut self) -> &mut Live<F> {
        &mut self.0.live
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Entry;
    use super::super::slice::Slice;
    use super::*;
    use crate::loans::Loans;

    const HANDLE: ChunkHandle = ChunkHandle::new(1);

    fn live() -> Live<()> {
        let version = ChunkVersion::new(1);
        let state = ReplicaState::Clean;
        let entry = Entry { version, dir: 0, unclean_name: false, marked: false, damaged: false, state, place: None };
        Live {
            entry,
            bytes: Slice::whole(()),
            gone: false,
            header: true,
            headless: false,
            length: 0,
            writes: 0,
            writes_synced: 0,
            name_synced: true,
        }
    }

    #[test]
    fn what_an_exclusive_holder_leaves_behind_decides_about_the_loan() {
        type Act = fn(&mut Live<()>);
        let acts: [(Act, bool); 6] = [
            (|_| {}, true),
            (|live| live.length = 7, true),
            (|live| live.entry.version = ChunkVersion::new(2), false),
            (|live| live.entry.state = ReplicaState::Suspect, false),
            (|live| live.entry.damaged = true, false),
            (|live| live.gone = true, false),
        ];
        for (number, (act, kept)) in acts.into_iter().enumerate() {
            let loans = Loans::new();
            let (lock, group) = (LiveLock::new(live()), loans.group());
            let lent = lock.write().lend(HANDLE, &group);
            assert!(lent.is_some());
            act(&mut lock.write());
            assert_eq!(loans.count(), usize::from(kept), "act {number}");
            assert!(!kept || lock.write().lend(HANDLE, &group) == lent, "the same loan");
        }
    }

    #[test]
    fn a_replica_that_is_closed_is_not_lent_any_more() {
        let loans = Loans::new();
        let lock = LiveLock::new(live());
        assert!(lock.write().lend(HANDLE, &loans.group()).is_some());
        drop(lock);
        assert_eq!(loans.count(), 0);
    }
}
