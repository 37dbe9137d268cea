//! Where the copies of a new chunk go (GFS paper, 4.2): free space, recent creations, racks.
//!
//! Copies go to different servers always, to different racks as far as there are any. Among equals the
//! server with few recent creations for its room is taken, because new chunks are about to be written.

use gfs_proto::ids::ServerId;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use thiserror::Error;

/// A chunkserver as placement sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacementServer {
    /// Which.
    pub server: ServerId,
    /// Failure domain; equal labels fail together. Empty: of its own.
    pub rack: String,
    /// Room for chunks, reserve taken off, over directories that accept chunks.
    pub bytes_free: u64,
    /// False at the watermark, while draining, or if it is not up.
    pub accepts_chunks: bool,
    /// Chunks placed there lately: new chunks are written at once, so they mean load to come.
    pub recent: u32,
}

/// What placement looks at. Cheap to keep up to date between calls.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlacementView {
    /// All servers that are registered and up, in any order.
    pub servers: Vec<PlacementServer>,
}

/// No server can take a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no chunkserver has room for a chunk")]
pub struct NoRoom;

/// Chooses up to `goal` different servers for a new chunk, the primary first; fewer if fewer accept
/// chunks. `seed` differs from call to call (a counter), so that load spreads over equal servers.
///
/// A chunk file is as long as what is written to it, so a server need not have `chunk_bytes` free to take
/// one; those that have are preferred. Cost: servers x goal.
pub fn place(view: &PlacementView, goal: u8, chunk_bytes: u32, seed: u64) -> Result<Vec<ServerId>, NoRoom> {
    let mut chosen: Vec<&PlacementServer> = Vec::with_capacity(goal.into());
    while chosen.len() < usize::from(goal) {
        let left = view
            .servers
            .iter()
            .filter(|s| s.accepts_chunks && s.bytes_free > 0 && chosen.iter().all(|c| c.server != s.server));
        let best = left.min_by_key(|server| rank(server, &chosen, chunk_bytes, seed));
        match best {
            Some(server) => chosen.push(server),
            None => break,
        }
    }
    if chosen.is_empty() { Err(NoRoom) } else { Ok(chosen.iter().map(|server| server.server).collect()) }
}

/// Lower is better.
fn rank(
    server: &PlacementServer,
    chosen: &[&PlacementServer],
    chunk_bytes: u32,
    seed: u64,
) -> (bool, usize, u128, u64) {
    let tight = server.bytes_free < u64::from(chunk_bytes);
    let same_rack = chosen.iter().filter(|c| !c.rack.is_empty() && c.rack == server.rack).count();
    // creations per GiB of room, in steps of 1/16 of a chunk's share: so that neither a full nor a busy
    // server is chosen, and nearly equal ones are equal
    let room = u128::from(server.bytes_free >> 20).max(1);
    let load = u128::from(server.recent) * (16 << 10) / room;
    (tight, same_rack, load, shuffle(server.server, seed))
}

fn shuffle(server: ServerId, seed: u64) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(seed);
    hasher.write_u32(server.get());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const GIB: u64 = 1 << 30;
    const CHUNK: u32 = 64 << 20;

    fn server(id: u32, rack: &str, bytes_free: u64) -> PlacementServer {
        PlacementServer { server: ServerId::new(id), rack: rack.into(), bytes_free, accepts_chunks: true, recent: 0 }
    }

    /// Places `count` chunks and counts them by server.
    fn fill(view: &mut PlacementView, goal: u8, count: u64) -> BTreeMap<u32, u32> {
        for seed in 0..count {
            for chosen in place(view, goal, CHUNK, seed).expect("there is room") {
                view.servers.iter_mut().filter(|s| s.server == chosen).for_each(|s| s.recent += 1);
            }
        }
        view.servers.iter().map(|s| (s.server.get(), s.recent)).collect()
    }

    #[test]
    fn equal_servers_get_equal_shares_and_each_is_primary() {
        let mut view = PlacementView { servers: (1..=5).map(|id| server(id, "", 100 * GIB)).collect() };
        let primaries: BTreeSet<_> = (0..100).map(|seed| place(&view, 3, CHUNK, seed).expect("room")[0]).collect();
        assert_eq!(primaries.len(), 5);
        let shares = fill(&mut view, 3, 1000);
        assert!(shares.values().all(|share| (590..=610).contains(share)), "{shares:?}");
    }

    #[test]
    fn shares_follow_free_space() {
        let mut view = PlacementView { servers: vec![server(1, "", 300 * GIB), server(2, "", 100 * GIB)] };
        let shares = fill(&mut view, 1, 400);
        assert!((290..=310).contains(&shares[&1]), "{shares:?}");
    }

    #[test]
    fn copies_go_to_different_racks_while_there_are_any() {
        let racks = ["a", "a", "a", "b", "b", "c"];
        let servers = racks.iter().zip(1..).map(|(rack, id)| server(id, rack, 10 * GIB)).collect();
        let view = PlacementView { servers };
        for seed in 0..50 {
            let chosen = place(&view, 3, CHUNK, seed).expect("room");
            let used: BTreeSet<_> = chosen.iter().map(|id| racks[id.get() as usize - 1]).collect();
            assert_eq!(used.len(), 3, "{chosen:?}");
            assert_eq!(place(&view, 5, CHUNK, seed).expect("room").len(), 5, "racks are a wish, copies a must");
        }
    }

    #[test]
    fn full_and_closed_servers_are_left_out() {
        let mut closed = server(1, "", GIB);
        closed.accepts_chunks = false;
        let view = PlacementView { servers: vec![closed.clone(), server(2, "", 0), server(3, "", 1)] };
        assert_eq!(place(&view, 3, CHUNK, 1), Ok(vec![ServerId::new(3)]));
        assert_eq!(place(&PlacementView { servers: vec![closed] }, 3, CHUNK, 1), Err(NoRoom));
        assert_eq!(place(&PlacementView::default(), 1, CHUNK, 1), Err(NoRoom));
    }

    proptest! {
        #[test]
        fn never_two_copies_on_one_server(
            rows in prop::collection::vec((1u32..20, "[ab]?", 0u64..GIB, any::<bool>(), 0u32..100), 0..20),
            goal in 1u8..=9,
            seed: u64,
        ) {
            let servers: Vec<_> = rows
                .into_iter()
                .map(|(id, rack, bytes_free, accepts_chunks, recent)| PlacementServer {
                    server: ServerId::new(id), rack, bytes_free, accepts_chunks, recent,
                })
                .collect();
            let usable: BTreeSet<_> =
                servers.iter().filter(|s| s.accepts_chunks && s.bytes_free > 0).map(|s| s.server).collect();
            let chosen = place(&PlacementView { servers }, goal, CHUNK, seed).unwrap_or_default();
            let distinct: BTreeSet<_> = chosen.iter().copied().collect();
            prop_assert_eq!(distinct.len(), chosen.len());
            prop_assert!(distinct.is_subset(&usable));
            prop_assert_eq!(chosen.len(), usable.len().min(goal.into()));
        }
    }
}
