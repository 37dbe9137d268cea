use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const GIB: u64 = 1 << 30;

fn id(server: u32) -> ServerId {
    ServerId::new(server)
}

fn ids(servers: &[u32]) -> Vec<ServerId> {
    servers.iter().map(|server| id(*server)).collect()
}

fn server(rack: &str) -> RepairServer {
    RepairServer {
        rack: rack.into(),
        standing: Standing::Live,
        draining: false,
        accepts_chunks: true,
        bytes_free: 5 * GIB,
        bytes_total: 10 * GIB,
    }
}

/// Servers 1 to `count`, alike, each on its own.
fn view(count: u32) -> RepairView {
    (1..=count).map(|number| (id(number), server(""))).collect()
}

/// A chunk with readable copies there.
fn chunk(goal: u8, servers: &[u32]) -> ChunkCopies {
    ChunkCopies {
        goal,
        entitled: ids(servers),
        current: ids(servers),
        ahead: Vec::new(),
        failing: Vec::new(),
        awaited: 0,
        damaged: Vec::new(),
        incurable: false,
        suspect: Vec::new(),
        occupied: Vec::new(),
        bytes: 1 << 20,
        failures: 0,
    }
}

struct Idle;
impl Load for Idle {
    fn copies(&self, _: ServerId) -> Option<u32> {
        Some(0)
    }
}

/// These servers may not take part in any further copy.
struct Busy(Vec<ServerId>);
impl Load for Busy {
    fn copies(&self, server: ServerId) -> Option<u32> {
        (!self.0.contains(&server)).then_some(0)
    }
}

#[test]
fn copies_that_are_lost_are_missed_and_those_of_servers_that_come_back_are_not() {
    let mut view = view(4);
    let copies = chunk(3, &[1, 2, 3]);
    assert_eq!((need(&view, &copies), health(&view, &copies)), (None, Health::Healthy));
    view.get_mut(&id(3)).expect("known").standing = Standing::Away;
    assert_eq!((need(&view, &copies), health(&view, &copies)), (None, Health::Missing(1)), "it is expected back");
    view.get_mut(&id(3)).expect("known").standing = Standing::Lost;
    assert_eq!(need(&view, &copies), Some(Need { reason: Reason::Repair, missing: 1 }));
    assert_eq!(next_step(&view, &copies, &Idle), Some(Step::Copy { source: id(1), target: id(4) }));
    view.get_mut(&id(4)).expect("known").standing = Standing::Away;
    assert_eq!(next_step(&view, &copies, &Idle), None, "a server that does not answer gets nothing");
    view.remove(&id(2));
    assert_eq!(need(&view, &copies).map(|need| need.missing), Some(2), "a server that nobody knows has nothing");
    view.get_mut(&id(1)).expect("known").standing = Standing::Lost;
    assert_eq!((need(&view, &copies), health(&view, &copies)), (None, Health::Lost));
    view.get_mut(&id(1)).expect("known").standing = Standing::Away;
    assert_eq!(health(&view, &copies), Health::Unavailable);
}

#[test]
fn a_replica_that_nobody_may_use_is_replaced_where_it_is() {
    let mut copies = chunk(3, &[1, 2, 3]);
    copies.current = ids(&[1, 2]);
    assert_eq!(need(&view(3), &copies), Some(Need { reason: Reason::Repair, missing: 1 }));
    assert_eq!(next_step(&view(3), &copies, &Idle), Some(Step::Copy { source: id(1), target: id(3) }));
    copies.entitled = ids(&[1, 2]);
    copies.occupied = ids(&[3]);
    assert_eq!(next_step(&view(3), &copies, &Idle), None, "what is not entitled has to go first");
}

#[test]
fn a_suspect_copy_is_adopted_where_no_other_counts_or_may_come_back() {
    let mut view = view(4);
    let copies = ChunkCopies { current: Vec::new(), suspect: ids(&[3, 2]), ..chunk(3, &[1, 2, 3]) };
    // The first has nothing, and says so.
    assert_eq!(need(&view, &copies), Some(Need { reason: Reason::Unreadable, missing: 3 }));
    assert_eq!((health(&view, &copies), adoptable(&view, &copies)), (Health::Unavailable, ids(&[2, 3])));
    assert_eq!(next_step(&view, &copies, &Busy(ids(&[1, 2, 3, 4]))), Some(Step::Adopt(id(2))));
    let refused = ChunkCopies { failures: 1, ..copies.clone() };
    assert_eq!(next_step(&view, &refused, &Idle), Some(Step::Adopt(id(3))), "the next one after a failure");
    view.get_mut(&id(1)).expect("known").standing = Standing::Away;
    assert_eq!(
        (next_step(&view, &copies, &Idle), health(&view, &copies)),
        (None, Health::Unavailable),
        "it may be good"
    );
    view.get_mut(&id(1)).expect("known").draining = true;
    assert_eq!(need(&view, &copies), None, "drained or not");
    view.get_mut(&id(1)).expect("known").standing = Standing::Lost;
    view.get_mut(&id(2)).expect("known").draining = true;
    assert_eq!(next_step(&view, &copies, &Idle), Some(Step::Adopt(id(3))), "one that stays");
    let good = ChunkCopies { current: ids(&[3]), suspect: ids(&[2]), ..copies.clone() };
    assert!(adoptable(&view, &good).is_empty());
    assert!(matches!(next_step(&view, &good, &Idle), Some(Step::Copy { source, .. }) if source == id(3)));
    for server in [2, 3] {
        view.get_mut(&id(server)).expect("known").standing = Standing::Lost;
    }
    assert_eq!((need(&view, &copies), health(&view, &copies)), (None, Health::Lost));
}

#[test]
fn who_is_expected_back_does_not_count_while_a_client_waits_for_copies() {
    let mut view = view(4);
    view.get_mut(&id(2)).expect("known").standing = Standing::Away;
    view.get_mut(&id(3)).expect("known").standing = Standing::Away;
    let copies = chunk(3, &[1, 2, 3]);
    assert_eq!(need(&view, &copies), None, "they come back");
    let awaited = ChunkCopies { awaited: 2, ..copies.clone() };
    assert_eq!(need(&view, &awaited), Some(Need { reason: Reason::Repair, missing: 2 }));
    assert_eq!(next_step(&view, &awaited, &Idle), Some(Step::Copy { source: id(1), target: id(4) }));
    let enough = ChunkCopies { awaited: 2, ..chunk(3, &[1, 4, 2]) };
    assert_eq!(need(&view, &enough), None);
}

#[test]
fn copies_that_are_all_ahead_of_the_record_are_agreed_on_before_anything_else() {
    let mut view = view(3);
    let copies = ChunkCopies { ahead: ids(&[1]), occupied: ids(&[2, 3]), ..chunk(3, &[1]) };
    assert_eq!(need(&view, &copies).map(|need| need.reason), Some(Reason::Unreadable));
    assert_eq!(next_step(&view, &copies, &Idle), Some(Step::Raise));
    let mixed = ChunkCopies { ahead: ids(&[1]), ..chunk(3, &[1, 2, 3]) };
    assert_eq!(need(&view, &mixed), None, "the others can be read");
    for standing in [Standing::Away, Standing::Lost] {
        for server in [2, 3] {
            view.get_mut(&id(server)).expect("known").standing = standing;
        }
        let step = (standing == Standing::Lost).then_some(Step::Raise);
        assert_eq!(next_step(&view, &mixed, &Idle), step, "one that is {standing:?} would be stale");
    }
}

#[test]
fn a_copy_on_a_failing_disk_is_read_and_replaced_and_then_removed() {
    let view = view(4);
    let mut copies = chunk(3, &[1, 2, 3]);
    copies.failing = ids(&[2]);
    assert_eq!(health(&view, &copies), Health::Missing(1));
    assert_eq!(need(&view, &copies), Some(Need { reason: Reason::Repair, missing: 1 }));
    let busy = Busy(ids(&[1, 3]));
    assert_eq!(next_step(&view, &copies, &busy), Some(Step::Copy { source: id(2), target: id(4) }));
    let mut moved = chunk(3, &[1, 2, 3, 4]);
    moved.failing = ids(&[2]);
    assert_eq!((health(&view, &moved), next_step(&view, &moved, &Idle)), (Health::Healthy, Some(Step::Remove(id(2)))));
}

#[test]
fn a_drained_server_gives_and_never_takes() {
    let mut view = view(4);
    view.get_mut(&id(1)).expect("known").draining = true;
    let copies = chunk(3, &[1, 2, 3]);
    assert_eq!(need(&view, &copies), Some(Need { reason: Reason::Drain, missing: 0 }));
    let busy = Busy(ids(&[2, 3]));
    assert_eq!(next_step(&view, &copies, &busy), Some(Step::Copy { source: id(1), target: id(4) }));
    let moved = chunk(3, &[1, 2, 3, 4]);
    assert_eq!(next_step(&view, &moved, &Idle), Some(Step::Remove(id(1))));
    view.get_mut(&id(4)).expect("known").draining = true;
    assert_eq!(next_step(&view, &moved, &Idle), None, "none is removed before another is there");
    assert_eq!(next_step(&view, &chunk(3, &[2, 3]), &Idle), None, "and none is made there");
}

#[test]
fn copies_go_to_racks_that_have_none_and_move_there() {
    let racks = ["a", "a", "b", "b", "c"];
    let mut view: RepairView = racks.iter().zip(1..).map(|(rack, number)| (id(number), server(rack))).collect();
    assert_eq!(next_step(&view, &chunk(3, &[1, 3]), &Idle), Some(Step::Copy { source: id(1), target: id(5) }));
    let shared = chunk(3, &[1, 2, 3]);
    assert_eq!(need(&view, &shared).map(|need| need.reason), Some(Reason::Racks));
    assert_eq!(next_step(&view, &shared, &Idle), Some(Step::Copy { source: id(1), target: id(5) }));
    let four = chunk(3, &[1, 2, 3, 5]);
    assert!(matches!(next_step(&view, &four, &Idle), Some(Step::Remove(server)) if server == id(1) || server == id(2)));
    view.remove(&id(5));
    assert_eq!(need(&view, &shared), None, "no rack is left without a copy");
    assert_eq!(next_step(&view, &chunk(3, &[1, 3]), &Idle).map(|_| ()), Some(()), "racks are a wish, copies a must");
}

#[test]
fn the_fullest_server_gives_up_what_is_too_many() {
    let mut view = view(4);
    view.get_mut(&id(2)).expect("known").bytes_free = GIB;
    assert_eq!(next_step(&view, &chunk(3, &[1, 2, 3, 4]), &Idle), Some(Step::Remove(id(2))));
    assert_eq!(next_step(&view, &chunk(2, &[1, 3, 4]), &Idle), Some(Step::Remove(id(1))));
    view.get_mut(&id(4)).expect("known").standing = Standing::Away;
    assert_eq!(next_step(&view, &chunk(3, &[1, 2, 3, 4]), &Idle), None, "one that is away does not count for others");
}

#[test]
fn after_failures_other_sources_are_tried_and_then_other_targets() {
    let (view, mut copies) = (view(4), chunk(3, &[1, 2]));
    let mut tried = Vec::new();
    for failures in 0..4 {
        copies.failures = failures;
        if let Some(Step::Copy { source, target }) = next_step(&view, &copies, &Idle) {
            tried.push((source.get(), target.get()));
        }
    }
    assert_eq!(tried, [(1, 3), (2, 3), (1, 4), (2, 4)]);
}

#[test]
fn a_damaged_copy_is_mended_or_else_made_up_for_and_then_removed() {
    let view = view(4);
    let copies = ChunkCopies { damaged: ids(&[2]), ..chunk(3, &[1, 2, 3]) };
    assert_eq!(need(&view, &copies), Some(Need { reason: Reason::Repair, missing: 1 }));
    assert_eq!(health(&view, &copies), Health::Missing(1));
    let steps = (0..4).map(|failures| next_step(&view, &ChunkCopies { failures, ..copies.clone() }, &Idle));
    let mend = Some(Step::Mend(id(2)));
    let elsewhere = Some(Step::Copy { source: id(1), target: id(4) });
    assert_eq!(steps.collect::<Vec<_>>(), [mend, mend, mend, elsewhere]);
    let more = ChunkCopies { damaged: ids(&[2]), ..chunk(3, &[1, 2, 3, 4]) };
    assert_eq!(next_step(&view, &more, &Idle), Some(Step::Remove(id(2))), "it is best done without");
    let all = ChunkCopies { damaged: ids(&[1, 2, 3]), ..chunk(3, &[1, 2, 3]) };
    assert_eq!(need(&view, &all).map(|need| need.missing), Some(3));
    assert_eq!(next_step(&view, &all, &Idle), Some(Step::Mend(id(1))), "by the others, which are damaged elsewhere");
    let incurable = ChunkCopies { incurable: true, ..all };
    assert_eq!(
        (need(&view, &incurable), health(&view, &incurable)),
        (None, Health::Missing(3)),
        "there is no better one"
    );
    let lost = ChunkCopies { damaged: ids(&[1]), ..chunk(3, &[1, 2]) };
    let source = next_step(&view, &ChunkCopies { incurable: true, ..lost }, &Idle);
    assert_eq!(source, Some(Step::Copy { source: id(2), target: id(3) }), "it is the last to be copied from");
    let suspect = ChunkCopies { current: Vec::new(), suspect: ids(&[1, 2]), damaged: ids(&[1]), ..chunk(2, &[1, 2]) };
    assert_eq!(next_step(&view, &suspect, &Idle), Some(Step::Adopt(id(2))), "the whole one");
}

#[test]
fn nobody_without_room_or_too_busy_takes_part() {
    let mut view = view(4);
    let copies = chunk(3, &[1, 2]);
    assert_eq!(next_step(&view, &copies, &Busy(ids(&[1, 3]))), Some(Step::Copy { source: id(2), target: id(4) }));
    assert_eq!(next_step(&view, &copies, &Busy(ids(&[1, 2]))), None);
    view.get_mut(&id(3)).expect("known").bytes_free = 1 << 20;
    view.get_mut(&id(4)).expect("known").accepts_chunks = false;
    assert_eq!(next_step(&view, &copies, &Idle), None);
}

#[derive(Clone, Debug)]
struct World {
    view: RepairView,
    copies: ChunkCopies,
}

fn world() -> impl Strategy<Value = World> {
    let one = ("[abc]?", 0u8..6, prop::bool::weighted(0.2), any::<bool>(), 0u64..8).prop_map(|raw| {
        let (rack, standing, draining, accepts_chunks, gib) = raw;
        let standing = [Standing::Away, Standing::Lost].get(usize::from(standing)).copied().unwrap_or(Standing::Live);
        RepairServer { standing, draining, accepts_chunks, bytes_free: gib * GIB, ..server(&rack) }
    });
    let places = prop::collection::btree_map(1u32..9, 0u8..7, 1..7);
    (prop::collection::btree_map(1u32..9, one, 1..9), places, 1u8..5).prop_map(|(servers, places, goal)| {
        let mut copies = ChunkCopies { goal, ..chunk(goal, &[]) };
        for (server, kind) in places {
            match kind {
                0 => copies.occupied.push(id(server)),
                1 => copies.entitled.push(id(server)),
                2 => {
                    copies.entitled.push(id(server));
                    copies.suspect.push(id(server));
                }
                3 => {
                    copies.entitled.push(id(server));
                    copies.current.push(id(server));
                    copies.damaged.push(id(server));
                }
                _ => {
                    copies.entitled.push(id(server));
                    copies.current.push(id(server));
                }
            }
        }
        World { view: servers.into_iter().map(|(server, known)| (id(server), known)).collect(), copies }
    })
}

fn live(world: &World) -> BTreeSet<ServerId> {
    let answers = |server: &&ServerId| world.view.get(server).is_some_and(|known| known.standing == Standing::Live);
    world.copies.current.iter().filter(answers).copied().collect()
}

fn racks_shared(world: &World) -> usize {
    let racks: Vec<&str> = live(world).iter().map(|server| world.view[server].rack.as_str()).collect();
    let named: Vec<&&str> = racks.iter().filter(|rack| !rack.is_empty()).collect();
    named.len() - named.iter().collect::<BTreeSet<_>>().len()
}

proptest! {
    #[test]
    fn steps_lead_to_an_end_and_never_below_the_goal(start in world()) {
        let mut world = start;
        for _ in 0..30 {
            let (before, shared) = (live(&world), racks_shared(&world));
            match next_step(&world.view, &world.copies, &Idle) {
                None => {
                    let wanted = need(&world.view, &world.copies);
                    prop_assert!(wanted.is_none_or(|need| matches!(need.reason, Reason::Repair | Reason::Drain)));
                    return Ok(());
                }
                Some(Step::Copy { source, target }) => {
                    let taker = &world.view[&target];
                    prop_assert!(before.contains(&source) && !before.contains(&target));
                    prop_assert!(taker.standing == Standing::Live && !taker.draining && taker.accepts_chunks);
                    prop_assert!(!world.copies.occupied.contains(&target));
                    if !world.copies.entitled.contains(&target) {
                        world.copies.entitled.push(target);
                    }
                    world.copies.suspect.retain(|other| *other != target);
                    world.copies.current.push(target);
                }
                Some(Step::Mend(server)) => {
                    prop_assert!(before.contains(&server) && world.copies.damaged.contains(&server));
                    world.copies.damaged.retain(|other| *other != server);
                }
                Some(Step::Raise) => prop_assert!(false, "none is ahead"),
                Some(Step::Adopt(server)) => {
                    prop_assert!(before.is_empty() && world.copies.suspect.contains(&server));
                    let away = |server: &ServerId| {
                        world.view.get(server).is_some_and(|known| known.standing == Standing::Away)
                    };
                    prop_assert!(!world.copies.entitled.iter().any(away));
                    world.copies.entitled = vec![server];
                    world.copies.current = vec![server];
                    world.copies.suspect.clear();
                }
                Some(Step::Remove(server)) => {
                    world.copies.entitled.retain(|other| *other != server);
                    world.copies.current.retain(|other| *other != server);
                    let is_to_stay = |server: &&ServerId| {
                        !world.view[*server].draining && !world.copies.damaged.contains(server)
                    };
                    let staying = live(&world).iter().filter(is_to_stay).count();
                    prop_assert!(before.contains(&server) && staying >= usize::from(world.copies.goal));
                    prop_assert!(racks_shared(&world) <= shared);
                }
            }
            let distinct: BTreeSet<_> = world.copies.entitled.iter().collect();
            prop_assert_eq!(distinct.len(), world.copies.entitled.len());
        }
        prop_assert!(false, "no end: {:?}", world);
    }
}
