//! The outbox by table, and against members that insist on its rules.

use super::super::dirty::Batch;
use super::*;
use bytes::Bytes;
use gfs_proto::chunk::{Replica, ServerAddress};
use gfs_proto::frame::Extent;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, Incarnation, InodeId, MapGeneration, Sequence, Term, TruncateGeneration,
};
use proptest::prelude::*;
use std::collections::HashSet;
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(60);

fn epoch(counter: u64) -> Epoch {
    Epoch { term: Term::new(1), counter }
}

fn grant(counter: u64, created: bool) -> Arc<ChunkGrant> {
    let address = ServerAddress { tcp: ([127, 0, 0, 1], 1).into(), unix: None, host: String::new() };
    let replica = Replica { server: ServerId::new(1), incarnation: Incarnation::new(1), address };
    Arc::new(ChunkGrant {
        inode: InodeId::new(1),
        index: ChunkIndex::new(0),
        handle: ChunkHandle::new(1),
        version: ChunkVersion::new(1),
        epoch: epoch(counter),
        numbering: Numbering::Client,
        created,
        replicas: vec![replica],
        truncate_generation: TruncateGeneration::new(0),
        map_generation: MapGeneration::new(0),
        lease: LEASE,
    })
}

#[test]
fn under_the_primarys_numbering_a_frame_waits_for_earlier_ones_that_it_overlaps() {
    for (numbering, waits) in [(Numbering::Primary, true), (Numbering::Client, false)] {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let (first, other, second) =
            (outbox.push(frame(1, 0, false)), outbox.push(frame(2, 7, false)), outbox.push(frame(3, 0, false)));
        assert!(outbox.install(Arc::new(ChunkGrant { numbering, ..ChunkGrant::clone(&grant(1, false)) }), now));
        let behind = |outbox: &Outbox| [first, other, second].map(|order| outbox.is_behind(order));
        assert_eq!(behind(&outbox), [false, false, waits]);
        outbox.ack(first, epoch(1));
        assert_eq!(behind(&outbox), [false; 3], "it has left");
    }
}

/// With one member: this server, in this run of its machine.
fn grant_on(counter: u64, server: u32, host: &str) -> Arc<ChunkGrant> {
    let mut grant = ChunkGrant::clone(&grant(counter, false));
    grant.replicas[0].server = ServerId::new(server);
    grant.replicas[0].address.host = host.to_owned();
    Arc::new(grant)
}

#[test]
fn what_no_machine_has_in_memory_any_more_is_lost_unless_it_was_flushed() {
    // members of the second grant; flushed before it; is lost
    let cases =
        [(1, "boot1", false, false), (1, "boot2", false, true), (2, "boot1", false, true), (1, "boot2", true, false)];
    for (server, host, flushed, lost) in cases {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let order = outbox.push(frame(1, 0, false));
        assert!(outbox.install(grant_on(1, 1, "boot1"), now));
        outbox.ack(order, epoch(1));
        if flushed {
            outbox.flushed(order);
        }
        outbox.fail(epoch(1), Fault::Broken(Vec::new()));
        assert!(outbox.install(grant_on(2, server, host), now));
        assert_eq!((outbox.take_lost(), outbox.take_lost()), (lost, false), "{server} {host} {flushed}");
        assert_eq!(outbox.unsynced().is_some(), !lost && !flushed);
    }
}

/// A frame that writes one byte at `offset`; its number is the byte.
fn frame(number: u64, offset: u32, sync: bool) -> Arc<Frame> {
    let extents = vec![Extent { offset, length: 1 }];
    let data = vec![Bytes::from(vec![number as u8])];
    let batch = Batch { index: ChunkIndex::new(0), extents, data, bytes: 1 };
    Arc::new(Frame::new(batch, Sequence::new(number), sync))
}

fn serials(outbox: &Outbox) -> Vec<u64> {
    outbox.frames.iter().map(|entry| entry.serial.get()).collect()
}

#[test]
fn serials_follow_the_order_of_writes_and_begin_anew_with_each_epoch() {
    let now = Instant::now();
    let mut outbox = Outbox::default();
    let first = outbox.push(frame(1, 0, false));
    assert_eq!(outbox.ticket(first, now).unwrap_err(), Want::Grant);
    assert!(outbox.install(grant(1, true), now));
    let second = outbox.push(frame(2, 0, false));
    let third = outbox.push(frame(3, 0, false));
    assert_eq!(serials(&outbox), [1, 2, 3]);
    let ticket = outbox.ticket(second, now).expect("a lease").expect("in the box");
    assert!(ticket.create && ticket.serial == Some(Serial::new(2)));
    assert_eq!(outbox.ack(first, epoch(1)).len(), 1);
    assert!(!outbox.ticket(second, now).expect("a lease").expect("in the box").create, "the file is there");
    outbox.fail(epoch(1), Fault::Broken(vec![ServerId::new(1)]));
    outbox.fail(epoch(1), Fault::Broken(vec![ServerId::new(2), ServerId::new(1)]));
    let suspects = vec![ServerId::new(1), ServerId::new(2)];
    assert_eq!(outbox.ticket(third, now).unwrap_err(), Want::Break(grant(1, true), suspects));
    assert!(outbox.install(grant(2, false), now));
    assert_eq!(serials(&outbox), [1, 2]);
    outbox.fail(epoch(1), Fault::Stale);
    assert_eq!(outbox.want(now), Want::Nothing, "an old epoch's failure is history");
    assert_eq!(outbox.ack(third, epoch(2)).len(), 2, "the one before was applied before it");
    assert!(outbox.ticket(second, now).expect("a lease").is_none());
}

#[test]
fn an_extended_lease_goes_on_counting_and_a_fenced_one_is_reported() {
    let now = Instant::now();
    let mut outbox = Outbox::default();
    outbox.install(grant(1, false), now);
    let first = outbox.push(frame(1, 0, false));
    outbox.ack(first, epoch(1));
    let late = now + LEASE;
    let second = outbox.push(frame(2, 0, false));
    assert_eq!(outbox.ticket(second, late).unwrap_err(), Want::Grant, "it may have run out");
    assert!(outbox.install(grant(1, false), late));
    assert_eq!(outbox.ticket(second, late).expect("a lease").expect("in the box").serial, Some(Serial::new(2)));

    outbox.fail(epoch(1), Fault::Stale);
    assert_eq!(outbox.want(late), Want::Grant);
    assert!(!outbox.install(grant(1, false), late), "the very epoch that was refused");
    assert_eq!(outbox.want(late), Want::Break(grant(1, false), Vec::new()));
    outbox.disowned();
    assert_eq!(outbox.want(late), Want::Grant);
    assert!(outbox.install(grant(2, false), late));

    outbox.forget();
    assert!(outbox.held().is_none());
    assert!(outbox.install(grant(2, false), late), "it was not returned after all");
    assert_eq!(serials(&outbox), [1]);
}

#[test]
fn a_grant_whose_chunk_was_never_written_ages_as_any_other() {
    let now = Instant::now();
    let mut outbox = Outbox::default();
    outbox.install(grant(1, true), now);
    let first = outbox.push(frame(1, 0, false));
    let later = now + LEASE / 2;
    assert!(outbox.ticket(first, later).expect("a lease").expect("in the box").create);
    let late = now + LEASE;
    assert_eq!(outbox.ticket(first, late).unwrap_err(), Want::Grant, "the first frame reached nobody");
    assert!(outbox.install(grant(1, true), late));
    assert!(outbox.ticket(first, late).expect("a lease").expect("in the box").create, "extended");
    assert_eq!(outbox.ticket(first, late + LEASE).unwrap_err(), Want::Grant);
    assert!(outbox.install(grant(2, true), late + LEASE), "the chunk became a hole and was allocated again");
    let ticket = outbox.ticket(first, late + LEASE).expect("a lease").expect("in the box");
    assert!(ticket.create && ticket.serial == Some(Serial::new(1)));
}

#[test]
fn what_is_not_flushed_is_known() {
    let now = Instant::now();
    let mut outbox = Outbox::default();
    outbox.install(grant(1, false), now);
    assert_eq!(outbox.unsynced(), None);
    let orders: Vec<Order> = (1..=3).map(|number| outbox.push(frame(number, 0, number == 2))).collect();
    outbox.ack(orders[2], epoch(1));
    assert_eq!(outbox.unsynced(), Some(orders[2]), "the flush of the second did not cover the third");
    outbox.flushed(orders[2]);
    assert_eq!(outbox.unsynced(), None);
    let last = outbox.push(frame(4, 0, true));
    outbox.ack(last, epoch(1));
    assert_eq!(outbox.unsynced(), None);
}

#[test]
fn a_frame_given_up_breaks_the_lease() {
    let now = Instant::now();
    let mut outbox = Outbox::default();
    outbox.install(grant(1, false), now);
    let (first, second) = (outbox.push(frame(1, 0, false)), outbox.push(frame(2, 0, false)));
    assert_eq!(outbox.abandon(first).len(), 1);
    assert_eq!(outbox.ticket(second, now).unwrap_err(), Want::Break(grant(1, false), Vec::new()));
    assert!(outbox.is_done(first) && !outbox.is_done(second));
}

/// A replica as the protocol wants it.
#[derive(Clone, Default, Debug)]
struct Member {
    epoch: u64,
    applied: u64,
    seen: HashSet<u64>,
    bytes: [u8; 4],
}

impl Member {
    fn receive(&mut self, ticket: &Ticket, frame: &Frame) {
        let serial = ticket.serial.expect("client numbering").get();
        if ticket.grant.epoch.counter != self.epoch || serial != self.applied + 1 {
            return; // fenced, or before its turn: not received as far as this model goes
        }
        self.applied = serial;
        if self.seen.insert(frame.sequence.get()) {
            self.bytes[frame.batch.extents[0].offset as usize] = frame.batch.data[0][0];
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        offset: u32,
        sync: bool,
    },
    /// Frame number `which` in the box reaches a member.
    Send {
        which: usize,
        member: usize,
    },
    /// Acknowledged if all members have it.
    Ack {
        which: usize,
    },
    Break,
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u32, any::<bool>()).prop_map(|(offset, sync)| Step::Push { offset, sync }),
        12 => (0..4usize, 0..3usize).prop_map(|(which, member)| Step::Send { which, member }),
        4 => (0..4usize).prop_map(|which| Step::Ack { which }),
        1 => Just(Step::Break),
        1 => Just(Step::Refresh),
    ]
}

struct World {
    outbox: Outbox,
    members: Vec<Member>,
    epoch: u64,
    orders: Vec<(Order, Arc<Frame>)>,
    now: Instant,
}

impl World {
    fn install(&mut self) {
        self.epoch += 1;
        for member in &mut self.members {
            (member.epoch, member.applied) = (self.epoch, 0);
        }
        assert!(self.outbox.install(grant(self.epoch, false), self.now));
    }

    fn in_box(&self, which: usize) -> Option<(Order, Arc<Frame>)> {
        let frame = self.outbox.frames().nth(which)?.clone();
        self.orders.iter().find(|(_, other)| Arc::ptr_eq(other, &frame)).cloned()
    }

    fn send(&mut self, which: usize, member: usize) {
        let Some((order, frame)) = self.in_box(which) else { return };
        let ticket = self.outbox.ticket(order, self.now).expect("a lease").expect("in the box");
        self.members[member].receive(&ticket, &frame);
    }

    fn ack(&mut self, which: usize) {
        let Some((order, frame)) = self.in_box(which) else { return };
        let serial = self.outbox.frames[which].serial.get();
        if self.members.iter().all(|member| member.applied >= serial && member.seen.contains(&frame.sequence.get())) {
            self.outbox.ack(order, epoch(self.epoch));
        }
    }
}

proptest! {
    #[test]
    fn members_end_up_with_the_last_write_of_each_byte(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World {
            outbox: Outbox::default(),
            members: vec![Member::default(); 3],
            epoch: 0,
            orders: Vec::new(),
            now: Instant::now(),
        };
        world.install();
        let mut expected = [0; 4];
        let mut pushed = 0;
        for step in steps {
            match step {
                Step::Push { offset, sync } if pushed < 200 => {
                    pushed += 1;
                    let frame = frame(pushed, offset, sync);
                    expected[offset as usize] = pushed as u8;
                    let order = world.outbox.push(frame.clone());
                    world.orders.push((order, frame));
                }
                Step::Push { .. } => {}
                Step::Send { which, member } => world.send(which, member),
                Step::Ack { which } => world.ack(which),
                Step::Break => {
                    world.outbox.fail(epoch(world.epoch), Fault::Broken(vec![ServerId::new(1)]));
                    world.install();
                }
                Step::Refresh => prop_assert!(world.outbox.install(grant(world.epoch, false), world.now)),
            }
            // what is in the box lies over what the members have, oldest first
            let mut seen = world.members[0].bytes;
            for frame in world.outbox.frames() {
                seen[frame.batch.extents[0].offset as usize] = frame.batch.data[0][0];
            }
            prop_assert_eq!(seen, expected, "a reader");
        }
        while !world.outbox.is_empty() {
            (0..3).for_each(|member| world.send(0, member));
            world.ack(0);
        }
        for member in &world.members {
            prop_assert_eq!(member.bytes, expected);
        }
    }
}
