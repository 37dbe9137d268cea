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

fn at(counter: u64, serial: u64) -> Position {
    Position { epoch: epoch(counter), serial: Serial::new(serial) }
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
    assert_eq!((before.position, before.in_doubt.len()), (Position::default(), 1), "what failed half way is in doubt");
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
    assert_eq!(before.position, at(1, 2));
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
    assert_eq!(install(&mut order, 4).position, at(3, 1), "reported by the install that succeeds");
    let again = install(&mut order, 4);
    assert_eq!(again.position, at(3, 1), "an epoch that was installed and not used says nothing");
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
fn an_aligned_replica_knows_the_writes_of_the_other_and_one_half_way_knows_none() {
    let (mut order, mut other) = (with_grant(1), with_grant(1));
    apply(&mut order, ticket(1, 1, 1));
    for n in 1..=2 {
        apply(&mut other, ticket(1, n, n));
    }
    let version = ChunkVersion::new(1);
    assert_eq!(order.begin_align(version, epoch(2)), Err(DataError::Epoch), "not installed");
    install(&mut order, 2);
    let source = install(&mut other, 2);
    assert_eq!(order.begin_align(ChunkVersion::new(2), epoch(2)), Err(DataError::Version));
    assert_eq!(order.begin_align(version, epoch(2)), Ok(()));
    assert_eq!(order.begin_align(version, epoch(2)), Err(DataError::Busy));
    assert_eq!(order.admit(&ticket(2, 2, 1)), Admission::Wait, "nobody is let in");
    order.abandon_install();
    assert_eq!(order.admit(&ticket(2, 2, 1)), Admission::Refused(DataError::Epoch), "nor after it failed");
    let half_way = install(&mut order, 3);
    assert_eq!((half_way.position, half_way.outcomes), (Position::default(), Vec::new()));
    order.begin_align(version, epoch(3)).expect("begun");
    order.finish_align(source.position, &source.outcomes);
    assert_eq!(order.admit(&ticket(3, 2, 1)), Admission::Known(Serial::new(1)), "the other had it");
    assert_eq!(apply(&mut order, ticket(3, 3, 2)), Admission::Apply(Serial::new(2)));
    assert_eq!(order.begin_align(version, epoch(3)), Err(DataError::Protocol), "the grant is being used");
    assert_eq!(install(&mut order, 4).position, at(3, 2));
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

/// One of three members, with the writes that went into its bytes, in order.
#[derive(Clone, Default)]
struct Member {
    order: Order,
    history: Vec<u64>,
}

/// What happens to three members.
#[derive(Clone, Debug)]
enum Turmoil {
    /// A write, the first time or sent again, goes down the chain and gets past so many members.
    Chained { resent: Option<prop::sample::Index>, reach: usize },
    /// A server is killed and comes back: it has its bytes, and remembers nothing.
    Restarts(usize),
    /// The members get a new epoch and agree. Half-way, somebody gives up: the first so many have been aligned.
    Agree { aligned: usize },
}

fn turmoil() -> impl Strategy<Value = Turmoil> {
    let resent = prop::option::of(any::<prop::sample::Index>());
    prop_oneof![
        8 => (resent, prop_oneof![3 => Just(3usize), 2 => 0..3usize])
            .prop_map(|(resent, reach)| Turmoil::Chained { resent, reach }),
        1 => (0..3usize).prop_map(Turmoil::Restarts),
        3 => prop_oneof![3 => Just(3usize), 1 => 0..3usize].prop_map(|aligned| Turmoil::Agree { aligned }),
    ]
}

/// Three members and their clients.
#[derive(Default)]
struct Three {
    members: [Member; 3],
    counter: u64,
    written: u64,
    pending: Vec<u64>,
    acknowledged: Vec<u64>,
}

impl Three {
    fn write(&mut self, resent: Option<prop::sample::Index>, reach: usize) {
        let number = match resent.filter(|_| !self.pending.is_empty()) {
            Some(at) => self.pending[at.index(self.pending.len())],
            None => {
                self.written += 1;
                self.pending.push(self.written);
                self.written
            }
        };
        let mut serial = 0;
        for member in self.members.iter_mut().take(reach) {
            let frame = ticket(self.counter, number, serial);
            match member.order.admit(&frame) {
                Admission::Apply(given) => {
                    member.order.finish(&frame, given, Applied::Done, &EXTENT);
                    member.history.push(number);
                    serial = given.get();
                }
                Admission::Known(given) => serial = given.get(),
                Admission::Wait | Admission::Refused(_) => return,
            }
        }
        if reach == self.members.len() {
            self.pending.retain(|pending| *pending != number);
            self.acknowledged.push(number);
        }
    }

    /// As the master does it; false if it stops before all are aligned.
    fn agree(&mut self, aligned: usize) -> bool {
        self.counter += 1;
        let reports: Vec<Before> = (0..3)
            .map(|index| {
                let installed = Installed { primary: index == 0, ..installed(self.counter, Numbering::Primary) };
                let order = &mut self.members[index].order;
                assert_eq!(order.begin_install(installed.epoch, installed.generation), InstallStart::Go);
                order.finish_install(installed)
            })
            .collect();
        let source = (0..3).max_by_key(|index| reports[*index].position).expect("three");
        let history = self.members[source].history.clone();
        let ids = |before: &Before| before.outcomes.iter().map(|it| it.sequence).collect::<Vec<_>>();
        let differ =
            |index: &usize| self.members[*index].history != history || ids(&reports[*index]) != ids(&reports[source]);
        let others: Vec<usize> = (0..3).filter(differ).collect();
        for index in others.iter().take(aligned) {
            let member = &mut self.members[*index];
            member.order.begin_align(ChunkVersion::new(1), epoch(self.counter)).expect("nobody has the grant");
            member.order.finish_align(reports[source].position, &reports[source].outcomes);
            member.history.clone_from(&history);
        }
        others.len() <= aligned
    }

    fn check(&self) {
        let [a, b, c] = self.members.each_ref().map(|member| &member.history);
        assert!(a == b && b == c, "{a:?} {b:?} {c:?}");
        let mut once = a.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), a.len(), "a write took effect twice: {a:?}");
        let lost: Vec<_> = self.acknowledged.iter().filter(|number| !a.contains(number)).collect();
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    }
}

proptest! {
    /// Writes of a file that several mounts write, chains that break anywhere, servers that forget, agreements that are
    /// begun and not finished: after each agreement all have the same writes, each once, and every acknowledged one.
    #[test]
    fn after_each_agreement_the_members_are_equal_and_each_write_took_effect_once(
        events in prop::collection::vec(turmoil(), 1..80)
    ) {
        let mut three = Three::default();
        prop_assert!(three.agree(3));
        three.write(None, 3);
        let mut usable = true;
        let mut remembers = [true; 3];
        for event in events {
            match event {
                Turmoil::Chained { resent, reach } if usable => three.write(resent, reach),
                Turmoil::Restarts(index) => {
                    // one of them stays up: what all forget nobody knows
                    remembers[index] = false;
                    if remembers == [false; 3] {
                        remembers[index] = true;
                        continue;
                    }
                    three.members[index].order = Order::default();
                }
                Turmoil::Agree { aligned } => {
                    usable = three.agree(aligned);
                    if usable {
                        three.check();
                        remembers = [true; 3];
                    }
                }
                Turmoil::Chained { .. } => {}
            }
        }
        prop_assert!(three.agree(3));
        three.check();
    }
}
