//! Turns, waits and ends of leases, one gate at a time.

use super::*;
use crate::chain::WriteId;
use futures_util::FutureExt;
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::{ChunkVersion, Sequence, SessionId, Term};

const EXTENT: [Extent; 1] = [Extent { offset: 0, length: 100 }];
const SECOND: Duration = Duration::from_secs(1);

fn installed(counter: u64) -> Installed {
    Installed {
        version: ChunkVersion::new(1),
        epoch: Epoch { term: Term::new(1), counter },
        generation: TruncateGeneration::new(0),
        numbering: Numbering::Client,
        primary: true,
    }
}

fn ticket(serial: u64) -> Ticket {
    let of = installed(1);
    let id = WriteId { session: SessionId::new(1), sequence: Sequence::new(serial) };
    Ticket { version: of.version, epoch: of.epoch, generation: of.generation, id, serial: Some(Serial::new(serial)) }
}

fn lease(until: Duration) -> Lease {
    Lease { members: Vec::new(), length: 60 * SECOND, until }
}

fn grants() -> (Grants, Arc<Gate>) {
    let grants = Grants::default();
    let gate = grants.entry(ChunkHandle::new(5));
    gate.create(installed(1), lease(60 * SECOND), || Ok(())).expect("created");
    (grants, gate)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn finish(gate: &Gate, serial: u64, now: Duration) -> bool {
    gate.finish(&ticket(serial), Serial::new(serial), Applied::Done, &Finished { extents: &EXTENT, now })
}

#[tokio::test]
async fn writes_wait_for_their_turn_and_no_longer() {
    let (_grants, gate) = grants();
    let mut second = Box::pin({
        let gate = Arc::clone(&gate);
        async move { gate.admit(&ticket(2), &EXTENT, false, soon()).await }
    });
    assert!((&mut second).now_or_never().is_none());
    let first = gate.admit(&ticket(1), &EXTENT, false, soon()).await;
    assert_eq!(first, Ok(Turn::Apply(Serial::new(1))));
    assert!((&mut second).now_or_never().is_none(), "while the first is applied");
    assert!(finish(&gate, 1, SECOND), "was clean");
    assert_eq!(second.await, Ok(Turn::Apply(Serial::new(2))));
    assert!(!finish(&gate, 2, SECOND), "was dirty");
    let late = gate.admit(&ticket(9), &EXTENT, false, Instant::now()).await;
    assert_eq!(late, Err(DataError::SerialGap));
}

#[tokio::test]
async fn a_waiting_write_is_refused_when_the_lease_ends() {
    let (_grants, gate) = grants();
    let second = ticket(2);
    let mut waiting = Box::pin(gate.admit(&second, &EXTENT, false, soon()));
    assert!((&mut waiting).now_or_never().is_none());
    assert!(gate.revoke(installed(1).epoch, Duration::ZERO));
    assert_eq!(waiting.await, Err(DataError::Epoch));
}

#[tokio::test]
async fn an_install_waits_for_the_apply() {
    let (_grants, gate) = grants();
    gate.admit(&ticket(1), &EXTENT, false, soon()).await.expect("admitted");
    let next = installed(2);
    let mut install = Box::pin(gate.begin_install(next.epoch, next.generation, soon()));
    assert!((&mut install).now_or_never().is_none());
    finish(&gate, 1, SECOND);
    install.await.expect("its turn");
    let before = gate.finish_install(next, lease(SECOND));
    assert_eq!(before.position, Position { epoch: installed(1).epoch, serial: Serial::new(1) });
}

#[tokio::test]
async fn readers_wait_for_writes_in_flight_where_they_overlap() {
    let (_grants, gate) = grants();
    gate.admit(&ticket(1), &EXTENT, true, soon()).await.expect("admitted");
    finish(&gate, 1, SECOND);
    let beside = Extent { offset: 100, length: 10 };
    assert!(gate.wait_settled(beside, soon()).now_or_never().is_some());
    let mut reader = Box::pin(gate.wait_settled(Extent { offset: 99, length: 1 }, soon()));
    assert!((&mut reader).now_or_never().is_none());
    gate.settle(installed(1).epoch, Serial::new(1), true);
    assert_eq!(reader.await, Ok(()));
}

#[tokio::test]
async fn leases_are_extended_by_writing_and_expire_without() {
    let (grants, gate) = grants();
    assert!(grants.take_written(9).is_empty());
    gate.admit(&ticket(1), &EXTENT, false, soon()).await.expect("admitted");
    finish(&gate, 1, 10 * SECOND);
    let held = grants.take_written(9);
    assert_eq!(held.len(), 1);
    gate.extend(held[0].epoch, 10 * SECOND);
    assert!(grants.expire(129 * SECOND).is_empty(), "the master may have extended it");
    assert!(!grants.is_idle(ChunkHandle::new(5), 12 * SECOND, 5 * SECOND));
    assert!(grants.is_idle(ChunkHandle::new(5), 15 * SECOND, 5 * SECOND));
    assert_eq!(grants.expire(130 * SECOND), [Expired { handle: ChunkHandle::new(5), epoch: held[0].epoch }]);
    assert!(!gate.is_leased());
    drop(gate);
    grants.forget(1000 * SECOND);
    assert_eq!(grants.count(), 1, "dirty");
    grants.entry(ChunkHandle::new(5)).cleaned();
    grants.forget(11 * SECOND);
    assert_eq!(grants.count(), 1, "somebody may still resend");
    grants.forget(1000 * SECOND);
    assert_eq!(grants.count(), 0);
}

#[tokio::test]
async fn a_fence_without_a_replica_outlives_the_grants_before_it() {
    let grants = Grants::default();
    let (handle, now) = (ChunkHandle::new(9), 1000 * SECOND);
    let newer = installed(2);
    grants.entry(handle).begin_install(newer.epoch, newer.generation, soon()).await.expect("its turn");
    grants.entry(handle).abandon_install(now);
    let create = |counter| grants.entry(handle).create(installed(counter), lease(now), || Ok(()));
    grants.forget(now + LEASE - SECOND);
    assert_eq!(create(1), Err(DataError::Epoch));
    grants.forget(now + OUTCOMES_KEPT);
    assert_eq!((grants.count(), create(1)), (0, Ok(())), "bounded");
    grants.bury(handle, ChunkVersion::new(1), now);
    assert_eq!(create(3), Err(DataError::Epoch));
    let again = Installed { version: ChunkVersion::new(2), ..installed(3) };
    assert_eq!(grants.entry(handle).create(again, lease(now), || Ok(())), Ok(()));
}

#[test]
fn chunks_that_were_never_written_do_not_drive_out_what_is_remembered() {
    let grants = Grants::default();
    (1..=2 * GATES_IDLE_MAX as u64).for_each(|n| grants.bury(ChunkHandle::new(n), ChunkVersion::new(1), SECOND));
    assert_eq!(grants.count(), GATES_IDLE_MAX / 2);
}

#[test]
fn idle_gates_are_bounded() {
    let grants = Grants::default();
    for handle in 1..=(2 * GATES_IDLE_MAX as u64) {
        grants.entry(ChunkHandle::new(handle));
    }
    grants.forget(SECOND);
    assert!(grants.count() <= GATES_IDLE_MAX);
}

#[tokio::test]
async fn what_was_read_does_not_count_if_a_write_came_meanwhile() {
    let (grants, gate) = grants();
    let handle = ChunkHandle::new(5);
    assert_eq!(grants.when_settled(handle, EXTENT[0], |gate| gate.is_some()), Some(true));
    let admit = || gate.admit(&ticket(1), &EXTENT, true, soon()).now_or_never().expect("its turn").expect("admitted");
    assert_eq!(grants.when_settled(handle, EXTENT[0], |_| admit()), None, "it is on its way down the chain");
    let beyond = Extent { offset: 100, length: 100 };
    assert_eq!(grants.when_settled(handle, beyond, |_| 7), Some(7), "elsewhere nothing is");
    finish(&gate, 1, SECOND);
    assert_eq!(grants.when_settled(handle, EXTENT[0], |_| unreachable!("not looked at")), None::<()>);
    gate.settle(installed(1).epoch, Serial::new(1), true);
    assert_eq!(grants.when_settled(handle, EXTENT[0], |_| 7), Some(7));
}
