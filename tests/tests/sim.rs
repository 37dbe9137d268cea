//! A sample of simulated worlds (`just sim` runs many more), and that a seed always gives the same one.

use gfs_tests::sim::{self, Counts, Outcome, STEPS_DEFAULT};

/// Worlds of the sample: as many as take some seconds without optimisation.
const SAMPLE: std::ops::Range<u64> = 0..24;

fn well(seed: u64, steps: u64) -> Outcome {
    let outcome = sim::run(seed, steps, false);
    if let Some(violation) = &outcome.violation {
        panic!("seed {seed}: {violation}; the last steps:\n{}", outcome.trace.join("\n"));
    }
    outcome
}

#[test]
fn whatever_befalls_it_nothing_acknowledged_is_lost() {
    let mut total = Counts::default();
    for seed in SAMPLE {
        total.add(&well(seed, STEPS_DEFAULT / 2).counts);
    }
    // a sample in which nothing happens would prove nothing
    assert!(total.writes > 50 && total.syncs > 50 && total.reads > 20, "{total:?}");
    assert!(total.crashes > 20 && total.partitions > 10 && total.deletions > 10, "{total:?}");
}

#[test]
fn a_seed_gives_the_same_world_again() {
    for seed in [3, 14] {
        let (first, again) = (sim::run(seed, 400, false), sim::run(seed, 400, false));
        assert_eq!(first.hash, again.hash, "seed {seed}");
        assert_ne!(first.hash, sim::run(seed + 1, 400, false).hash, "another seed gives another world");
    }
}
