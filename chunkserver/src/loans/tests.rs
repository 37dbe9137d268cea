use super::*;

fn handle(raw: u64) -> ChunkHandle {
    ChunkHandle::new(raw)
}

impl Loans {
    /// What clients see of a loan: `None` if it is revoked, otherwise whether it is settled.
    fn seen(&self, tenancy: Tenancy) -> Option<bool> {
        let slot = self.board.as_ref().expect("a board").slot(tenancy.slot);
        (slot.tenancy == tenancy.tenancy).then(|| slot.is_settled())
    }
}

#[test]
fn a_slot_is_settled_only_while_nobody_changes_or_holds_it() {
    let loans = Loans::new();
    let group = loans.group();
    assert!(loans.hold(handle(1)).is_none(), "not lent");
    let loan = group.lend(handle(1)).expect("lent");
    let tenancy = loan.tenancy().expect("lent");
    assert_eq!(loans.seen(tenancy), Some(false), "whoever lends has the replica exclusively");
    loan.settle();
    assert_eq!(loans.seen(tenancy), Some(true));
    let before = loans.board.as_ref().expect("a board").slot(tenancy.slot);
    let hold = loans.hold(handle(1)).expect("lent");
    loan.unsettle();
    assert_eq!(loans.seen(tenancy), Some(false));
    loan.settle();
    assert_eq!(loans.seen(tenancy), Some(false), "applied here, in flight further down");
    let second = loans.hold(handle(1)).expect("lent");
    drop(hold);
    assert_eq!(loans.seen(tenancy), Some(false), "another one is in flight");
    drop(second);
    assert_eq!(loans.seen(tenancy), Some(true));
    let after = loans.board.as_ref().expect("a board").slot(tenancy.slot);
    assert_ne!(before, after, "whoever looked before and after sees that something happened between");
    assert!(loans.hold(handle(2)).is_none(), "another chunk");
}

#[test]
fn a_revoked_loan_never_comes_back_and_does_not_touch_its_successor() {
    let loans = Loans::with_slots(1);
    let group = loans.group();
    let first = group.lend(handle(1)).expect("lent");
    first.settle();
    let old = first.tenancy().expect("lent");
    let hold = loans.hold(handle(1)).expect("lent");
    let second = group.lend(handle(2)).expect("the oldest makes room");
    assert_eq!((first.tenancy(), loans.seen(old), loans.count()), (None, None, 1));
    second.settle();
    let new = second.tenancy().expect("lent");
    assert_eq!((new.slot, loans.seen(new)), (old.slot, Some(true)));
    first.unsettle();
    assert_eq!(loans.seen(new), Some(true));
    drop((first, hold));
    assert_eq!((loans.seen(new), loans.count()), (Some(true), 1));
    drop(second);
    assert_eq!((loans.seen(new), loans.count()), (None, 0));
}

#[test]
fn a_directory_out_of_service_and_a_server_that_stops_revoke_what_they_lent() {
    let loans = Loans::new();
    let (one, other) = (loans.group(), loans.group());
    let [a, b] = [one.lend(handle(1)), other.lend(handle(2))].map(|loan| loan.expect("lent"));
    let kept = b.tenancy().expect("lent");
    b.settle();
    one.revoke();
    assert_eq!((a.tenancy(), loans.seen(kept)), (None, Some(true)));
    loans.extend_lease(50);
    loans.extend_lease(40);
    assert_eq!(loans.board.as_ref().expect("a board").lease(), 50);
    loans.close();
    assert_eq!((loans.seen(kept), loans.count()), (None, 0));
    loans.extend_lease(60);
    assert_eq!(loans.board.as_ref().expect("a board").lease(), 0, "an acknowledgement that comes late");
    assert!(one.lend(handle(3)).is_none());
}
