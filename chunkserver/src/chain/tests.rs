//! Tables for each rule, and one property over arbitrary arrivals, failures and breaks.

use super::*;
use gfs_proto::ids::Term;
use proptest::prelude::*;

fn epoch(counter: u64) -> Epoch {
    Epoch { term: Term::new(1), counter }
}

fn installed(counter: u64, numbering: Numbering) -> Installed {
    Installed {
        version: ChunkVersion::new(1),
        epoch: epoch(counter),
        generation: TruncateGeneration::new(1),
        numbering,
        primary: true,
    }
}

fn ticket(counter: u64, sequence: u64, serial: u64) -> Ticket {
    Ticket {
        version: ChunkVersion::new(1),
        epoch: epoch(counter),
        generation: TruncateGeneration::new(1),
        id: WriteId { session: SessionId::new(7), sequence: Sequence::new(sequence) },
        serial: Some(Serial::new(serial)).filter(|serial| serial.get() != 0),
    }
}

fn with_grant(counter: u64) -> Order {
    let mut order = Order::default();
    assert!(order.create(installed(counter, Numbering::Client)));
    order
}

fn install(order: &mut Order, counter: u64) -> Before {
    assert_eq!(order.begin_install(epoch(counter), TruncateGeneration::new(1)), InstallStart::Go);
    order.finish_install(installed(counter, Numbering::Client))
}

const EXTENT: [Extent; 1] = [Extent { offset: 0, length: 10 }];

fn apply(order: &mut Order, ticket: Ticket) -> Admission {
    let admission = order.admit(&ticket);
    if let Admission::Apply(serial) = admission {
        order.finish(&ticket, serial, Applied::Done, &EXTENT);
    }
    admission
}

#[test]
fn frames_are_fenced_by_version_epoch_generation_and_role() {
    let mut order = with_grant(5);
    let good = ticket(5, 1, 1);
    let table = [
        (Ticket { epoch: epoch(4), ..good }, DataError::Epoch),
        (Ticket { epoch: epoch(6), ..good }, DataError::Epoch),
        (Ticket { version: ChunkVersion::new(2), ..good }, DataError::Version),
        (Ticket { generation: TruncateGeneration::new(0), ..good }, DataError::Generation),
        (Ticket { generation: TruncateGeneration::new(2), ..good }, DataError::Generation),
        (Ticket { serial: None, ..good }, DataError::Protocol),
        (Ticket { serial: Some(Serial::new(2 + AHEAD_MAX)), ..good }, DataError::SerialGap),
    ];
    for (frame, error) in table {
        assert_eq!(order.admit(&frame), Admission::Refused(error), "{frame:?}");
    }
    assert_eq!(order.admit(&good), Admission::Apply(Serial::new(1)));
    assert_eq!(Order::default().admit(&good), Admission::Refused(DataError::Epoch), "nothing installed");
}

#[test]
fn serials_are_applied_in_order_one_at_a_time() {
    let mut order = with_grant(1);
    assert_eq!(order.admit(&ticket(1, 2, 2)), Admission::Wait);
    assert_eq!(order.admit(&ticket(1, 1, 1)), Admission::Apply(Serial::new(1)));
    assert_eq!(order.admit(&ticket(1, 1, 1)), Admission::Wait, "resent while it is being applied");
    order.finish(&ticket(1, 1, 1), Serial::new(1), Applied::Done, &EXTENT);
    assert_eq!(order.admit(&ticket(1, 1, 1)), Admission::Known(Serial::new(1)));
    assert_eq!(apply(&mut order, ticket(1, 2, 2)), Admission::Apply(Serial::new(2)));
    assert_eq!(order.admit(&ticket(1, 99, 2)), Admission::Refused(DataError::Protocol), "another write, used serial");
}

#[test]
fn a_refused_frame_consumes_no_serial_and_a_failed_one_poisons_the_epoch() {
    let mut order = with_grant(1);
    let first = ticket(1, 1, 1);
    assert_eq!(order.admit(&first), Admission::Apply(Serial::new(1)));
    order.finish(&first, Serial::new(1), Applied::Refused, &EXTENT);
    assert_eq!(order.next(), Serial::new(1));
    assert_eq!(order.admit(&first), Admission::Apply(Serial::new(1)));
    order.finish(&first, Serial::new(1), Applied::Failed(DataError::Io), &EXTENT);
    assert_eq!(order.admit(&first), Admission::Refused(DataError::Io));
    let before = install(&mut order, 2);
    assert_eq!((before.applied.get(), before.in_doubt.len()), (0, 1), "what failed half way is in doubt");
    assert_eq!(apply(&mut order, ticket(2, 1, 1)), Admission::Apply(Serial::new(1)));
}

#[test]
fn a_chunk_that_begins_again_knows_nothing_of_the_writes_before() {
    let mut order = with_grant(1);
    apply(&mut order, ticket(1, 1, 1));
    assert!(!order.create(installed(1, Numbering::Client)), "the same grant");
    assert!(order.create(installed(2, Numbering::Client)));
    assert_eq!(order.admit(&ticket(1, 1, 1)), Admission::Refused(DataError::Epoch), "the late one");
    assert_eq!(
        apply(&mut order, ticket(2, 1, 1)),
        Admission::Apply(Serial::new(1)),
        "its bytes are not in the new file"
    );
    assert!(install(&mut order, 3).in_doubt.iter().all(|range| range.serial == Serial::new(1)));
    assert!(!order.create(installed(2, Numbering::Client)));
}

#[test]
fn resent_writes_are_known_across_epochs_and_consume_their_serial() {
    let mut order = with_grant(1);
    apply(&mut order, ticket(1, 1, 1));
    apply(&mut order, ticket(1, 2, 2));
    let before = install(&mut order, 2);
    assert_eq!((before.epoch, before.applied), (epoch(1), Serial::new(2)));
    assert_eq!(before.outcomes.len(), 2);
    assert_eq!(order.admit(&ticket(2, 2, 1)), Admission::Known(Serial::new(1)));
    assert_eq!(apply(&mut order, ticket(2, 3, 2)), Admission::Apply(Serial::new(2)));
    assert_eq!(order.admit(&ticket(2, 1, 3)), Admission::Known(Serial::new(3)));
    assert_eq!(order.next(), Serial::new(4));
}

#[test]
fn the_primary_gives_serials() {
    let mut order = Order::default();
    assert!(order.create(installed(1, Numbering::Primary)));
    assert_eq!(apply(&mut order, ticket(1, 1, 0)), Admission::Apply(Serial::new(1)));
    assert_eq!(apply(&mut order, ticket(1, 1, 0)), Admission::Known(Serial::new(1)), "resent in the same epoch");
    assert_eq!(order.admit(&ticket(1, 2, 0)), Admission::Apply(Serial::new(2)));
    assert_eq!(order.admit(&ticket(1, 3, 0)), Admission::Wait);
    order.finish(&ticket(1, 2, 0), Serial::new(2), Applied::Done, &EXTENT);
    assert_eq!(order.begin_install(epoch(2), TruncateGeneration::new(1)), InstallStart::Go);
    order.finish_install(installed(2, Numbering::Primary));
    assert_eq!(order.admit(&ticket(2, 1, 0)), Admission::Known(Serial::new(1)), "known from before: a new serial");
    let secondary = Installed { primary: false, ..installed(3, Numbering::Primary) };
    assert_eq!(order.begin_install(epoch(3), TruncateGeneration::new(1)), InstallStart::Go);
    order.finish_install(secondary);
    assert_eq!(order.admit(&ticket(3, 4, 0)), Admission::Refused(DataError::Protocol));
}

#[test]
fn installs_wait_for_the_apply_and_never_go_back() {
    let mut order = with_grant(3);
    let first = ticket(3, 1, 1);
    order.admit(&first);
    let generation = TruncateGeneration::new(1);
    assert_eq!(order.begin_install(epoch(4), generation), InstallStart::Wait);
    assert_eq!(order.begin_install(epoch(2), generation), InstallStart::Stale);
    assert_eq!(order.begin_install(epoch(4), TruncateGeneration::new(0)), InstallStart::Stale);
    order.finish(&first, Serial::new(1), Applied::Done, &EXTENT);
    assert_eq!(order.begin_install(epoch(4), generation), InstallStart::Go);
    assert_eq!(order.admit(&ticket(3, 2, 2)), Admission::Refused(DataError::Epoch), "fenced while installing");
    assert_eq!(order.admit(&ticket(4, 2, 1)), Admission::Wait, "its own frames wait for it");
    order.abandon_install();
    assert_eq!(order.admit(&ticket(3, 2, 2)), Admission::Refused(DataError::Epoch), "void after a failed install");
    assert_eq!(order.begin_install(epoch(3), generation), InstallStart::Stale);
    assert_eq!(install(&mut order, 4).applied, Serial::new(1), "reported by the install that succeeds");
    let again = install(&mut order, 4);
    assert_eq!((again.epoch, again.applied), (epoch(4), Serial::new(0)));
}

#[test]
fn installing_the_same_epoch_again_keeps_its_serials() {
    let mut order = with_grant(1);
    apply(&mut order, ticket(1, 1, 1));
    install(&mut order, 1);
    assert_eq!(order.next(), Serial::new(2));
}

#[test]
fn revoked_grants_accept_nothing_and_keep_the_fence() {
    let mut order = with_grant(2);
    assert!(!order.revoke(epoch(1)));
    assert!(order.revoke(epoch(2)));
    assert_eq!(order.admit(&ticket(2, 1, 1)), Admission::Refused(DataError::Epoch));
    assert!(!order.create(installed(2, Numbering::Client)), "a late first frame");
    assert_eq!(order.begin_install(epoch(1), TruncateGeneration::new(1)), InstallStart::Stale);
    let mut order = Order::default();
    assert!(!order.revoke(epoch(3)));
    assert!(!order.create(installed(3, Numbering::Client)), "revoked before its first frame");
    assert!(order.create(installed(4, Numbering::Client)));
}

#[test]
fn doubt_ends_with_the_chain_below_or_the_first_write_of_a_new_epoch() {
    let mut order = with_grant(1);
    for n in 1..=3 {
        apply(&mut order, ticket(1, n, n));
    }
    order.settle(epoch(1), Serial::new(2));
    let serials = |before: &Before| before.in_doubt.iter().map(|range| range.serial.get()).collect::<Vec<_>>();
    assert_eq!(serials(&install(&mut order, 2)), [1, 3]);
    assert_eq!(serials(&install(&mut order, 3)), [1, 3], "no write came in between: nobody used the report");
    apply(&mut order, ticket(3, 4, 1));
    assert_eq!(serials(&install(&mut order, 4)), [1]);
}

#[test]
fn windows_are_bounded_and_doubt_is_merged_not_forgotten() {
    let mut order = with_grant(1);
    let writes = (OUTCOMES_MAX + 50) as u64;
    for n in 1..=writes {
        let frame = ticket(1, n, n);
        order.admit(&frame);
        order.finish(&frame, Serial::new(n), Applied::Done, &[Extent { offset: n as u32 * 10, length: 10 }]);
    }
    order.settle(epoch(1), Serial::new(51));
    let before = install(&mut order, 2);
    assert_eq!((before.outcomes.len(), before.in_doubt.len()), (OUTCOMES_MAX, DOUBT_MAX));
    let first = before.in_doubt[0];
    assert_eq!((first.offset, first.length), (10, 510), "the merged range covers all it was made of");
    assert_eq!(before.outcomes[0].sequence.get(), 51);
}

/// What reaches one replica.
#[derive(Clone, Debug)]
enum Event {
    /// The nth unacknowledged write of the client arrives (perhaps again).
    Arrives(prop::sample::Index),
    /// The apply that runs ends.
    Ends(Applied),
    /// The chain breaks: a new epoch, the client numbers anew what it has not heard about.
    Breaks,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<prop::sample::Index>().prop_map(Event::Arrives),
        5 => Just(Event::Ends(Applied::Done)),
        1 => Just(Event::Ends(Applied::Refused)),
        1 => Just(Event::Ends(Applied::Failed(DataError::Io))),
        1 => Just(Event::Breaks),
    ]
}

proptest! {
    /// Whatever arrives in whatever order and however often: every write is applied at most once, in
    /// the order in which the client numbered them, and once acknowledged it was applied.
    #[test]
    fn every_write_is_applied_once_in_the_clients_order(events in prop::collection::vec(event(), 1..300)) {
        let mut order = with_grant(1);
        let (mut counter, mut trace) = (1, Vec::new());
        let mut pending: Vec<(u64, u64)> = (1..=40).map(|n| (n, n)).collect(); // sequence, serial
        let mut running: Option<(Ticket, Serial)> = None;
        for event in events {
            match event {
                Event::Arrives(_) if pending.is_empty() => break,
                Event::Arrives(at) => {
                    let (sequence, serial) = pending[at.index(pending.len().min(6))];
                    let frame = ticket(counter, sequence, serial);
                    match order.admit(&frame) {
                        Admission::Apply(serial) => {
                            prop_assert!(running.is_none());
                            running = Some((frame, serial));
                        }
                        Admission::Known(_) => {
                            prop_assert!(trace.contains(&sequence), "acknowledged, never applied: {sequence}");
                            pending.retain(|(at, _)| *at != sequence);
                        }
                        Admission::Wait | Admission::Refused(_) => {}
                    }
                }
                Event::Ends(how) => {
                    let Some((frame, serial)) = running.take() else { continue };
                    order.finish(&frame, serial, how, &EXTENT);
                    if how == Applied::Done {
                        trace.push(frame.id.sequence.get());
                    }
                }
                Event::Breaks if running.is_some() => {
                    let start = order.begin_install(epoch(counter + 1), TruncateGeneration::new(1));
                    prop_assert_eq!(start, InstallStart::Wait);
                }
                Event::Breaks => {
                    counter += 1;
                    install(&mut order, counter);
                    pending.iter_mut().zip(1..).for_each(|(write, serial)| write.1 = serial);
                }
            }
        }
        let ordered: Vec<u64> = (1..=trace.len() as u64).collect();
        prop_assert_eq!(trace, ordered);
    }
}
