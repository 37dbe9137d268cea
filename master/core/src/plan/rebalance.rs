//! Which copies are moved so that servers are filled evenly: from the fuller to the emptier, as long as they
//! differ by more than a threshold. A new server is filled in this way, gradually.

use super::repair::{ChunkCopies, Load, RepairView, Step, would_move};
use gfs_proto::ids::ServerId;
use std::cmp::Reverse;

/// A copy of the chunk on an emptier server, after which the one on the fullest of its servers is one too
/// many; if the two differ by more than `threshold`, in 1/10,000 of their room. Nothing for a chunk that
/// needs anything else.
pub fn rebalance_step(view: &RepairView, chunk: &ChunkCopies, threshold: u64, load: &impl Load) -> Option<Step> {
    let used = |server: &ServerId| view.get(server).map(|known| known.used());
    let filled = chunk.current.iter().filter_map(|server| used(server).map(|fill| (fill, Reverse(*server))));
    // The same of equally full ones as the rule for removal takes.
    let (fill, Reverse(fullest)) = filled.max()?;
    let emptier = view.iter().filter(|(_, known)| known.used() + threshold < fill);
    let mut targets: Vec<_> = emptier
        .filter_map(|(server, known)| load.copies(*server).map(|copies| (known.used(), copies, *server)))
        .collect();
    targets.sort_unstable();
    let (.., target) = targets.into_iter().find(|(.., target)| would_move(view, chunk, fullest, *target))?;
    let idle = |server: &&ServerId| load.copies(**server).is_some();
    // Any copy will do to read from; the one that is to go costs the others nothing.
    let source = chunk.current.iter().filter(idle).min_by_key(|server| (Reverse(used(server)), **server))?;
    Some(Step::Copy { source: *source, target })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Limits;
    use crate::plan::{RepairServer, Standing, Throttle, next_step};

    const GIB: u64 = 1 << 30;
    const THRESHOLD: u64 = 1000;
    const FREE: Limits = Limits { rate: None, rate_per_server: None, copies_per_server: 99 };

    fn view(used: &[(&str, u64)]) -> RepairView {
        let server = |(rack, used): &(&str, u64)| RepairServer {
            rack: (*rack).into(),
            standing: Standing::Live,
            draining: false,
            accepts_chunks: true,
            bytes_free: (100 - used) * GIB,
            bytes_total: 100 * GIB,
        };
        used.iter().zip(1..).map(|(row, id)| (ServerId::new(id), server(row))).collect()
    }

    fn chunk(servers: &[u32]) -> ChunkCopies {
        let servers: Vec<_> = servers.iter().map(|id| ServerId::new(*id)).collect();
        let goal = u8::try_from(servers.len()).expect("few");
        ChunkCopies {
            goal,
            entitled: servers.clone(),
            current: servers,
            failing: Vec::new(),
            damaged: Vec::new(),
            incurable: false,
            ahead: Vec::new(),
            awaited: 0,
            suspect: Vec::new(),
            occupied: Vec::new(),
            bytes: 1 << 20,
            failures: 0,
        }
    }

    fn step(view: &RepairView, chunk: &ChunkCopies) -> Option<(u32, u32)> {
        match rebalance_step(view, chunk, THRESHOLD, &Throttle::new(FREE))? {
            Step::Copy { source, target } => Some((source.get(), target.get())),
            Step::Remove(_) | Step::Adopt(_) | Step::Raise | Step::Mend(_) => None,
        }
    }

    #[test]
    fn copies_go_from_full_to_empty_servers_beyond_the_threshold() {
        for (used, servers, expected) in [
            (&[("", 50), ("", 60), ("", 1)][..], &[1, 2][..], Some((2, 3))),
            (&[("", 50), ("", 60), ("", 1), ("", 0)], &[1, 2], Some((2, 4))),
            (&[("", 50), ("", 50), ("", 41)], &[1, 2], None),
            (&[("", 50), ("", 50), ("", 1)], &[1, 2], Some((1, 3))),
            (&[("", 50), ("", 50), ("", 1)], &[2, 1], Some((1, 3))),
            (&[("", 50), ("", 60), ("", 1)], &[1, 2, 3], None),
            // the move would put two into one rack
            (&[("a", 50), ("b", 60), ("a", 1)], &[1, 2], None),
            (&[("a", 60), ("b", 50), ("a", 1)], &[1, 2], Some((1, 3))),
        ] {
            assert_eq!(step(&view(used), &chunk(servers)), expected, "{used:?} {servers:?}");
        }
    }

    #[test]
    fn a_chunk_that_needs_something_else_is_left_alone() {
        let servers = view(&[("", 50), ("", 60), ("", 1)]);
        let mut missing = chunk(&[1, 2]);
        missing.goal = 3;
        assert_eq!(step(&servers, &missing), None);
    }

    #[test]
    fn servers_end_up_even_and_then_nothing_moves() {
        // 60 chunks of a GiB with two copies on three servers, and a fourth one that is empty.
        let mut chunks: Vec<_> = (0..60u32).map(|n| chunk(&[[1, 2], [2, 3], [3, 1]][n as usize % 3])).collect();
        let fill = |chunks: &[ChunkCopies]| {
            let count = |id| chunks.iter().filter(|c| c.current.contains(&ServerId::new(id))).count() as u64;
            view(&(1..=4).map(|id| ("", count(id))).collect::<Vec<_>>())
        };
        let mut moves = 0;
        while let Some(at) = chunks.iter().position(|chunk| step(&fill(&chunks), chunk).is_some()) {
            let servers = fill(&chunks);
            let Some((_, target)) = step(&servers, &chunks[at]) else { panic!("just seen") };
            chunks[at].entitled.push(ServerId::new(target));
            chunks[at].current.push(ServerId::new(target));
            let Some(Step::Remove(victim)) = next_step(&servers, &chunks[at], &Throttle::new(FREE)) else {
                panic!("one too many")
            };
            chunks[at].entitled.retain(|server| *server != victim);
            chunks[at].current.retain(|server| *server != victim);
            moves += 1;
            assert!(moves < 100, "it goes round and round");
        }
        let used: Vec<u64> = fill(&chunks).values().map(RepairServer::used).collect();
        let (least, most) = (used.iter().min().expect("four"), used.iter().max().expect("four"));
        assert!(most - least <= THRESHOLD && moves >= 20, "{used:?} after {moves} moves");
    }
}
