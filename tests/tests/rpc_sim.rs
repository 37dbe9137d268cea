//! A sample of simulated worlds of the RPC layer (`gfs-sim --rpc` runs more), each twice: a seed always gives the
//! same world, to the last byte on the network.

use gfs_tests::sim::{Counts, rpc};

/// Worlds of the sample: as many as take some seconds without optimisation.
const SAMPLE: std::ops::Range<u64> = 0..6;
const STEPS: u64 = rpc::STEPS_DEFAULT / 2;

#[test]
fn whatever_befalls_connections_each_operation_is_done_once_and_everybody_is_back_afterwards() {
    let mut total = Counts::default();
    for seed in SAMPLE {
        let outcome = rpc::run(seed, STEPS, false);
        if let Some(violation) = &outcome.violation {
            panic!("seed {seed}: {violation}; the last steps:\n{}", outcome.trace.join("\n"));
        }
        let again = rpc::run(seed, STEPS, false);
        assert_eq!((outcome.hash, outcome.counts), (again.hash, again.counts), "seed {seed}");
        assert_ne!(outcome.hash, rpc::run(seed + 1000, 50, false).hash, "another seed gives another world");
        total.add(&outcome.counts);
    }
    // a sample in which nothing happens would prove nothing
    assert!(total.operations > 300 && total.crashes > 10 && total.partitions > 10, "{total:?}");
}
