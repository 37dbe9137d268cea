//! A sample of simulated worlds of the RPC layer (`gfs-sim --rpc` runs more), and that a seed always gives the same
//! one, to the last byte on the network.

use gfs_tests::sim::{Counts, rpc};
use std::process::{Command, Output};

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
        total.add(&outcome.counts);
    }
    // a sample in which nothing happens would prove nothing
    assert!(total.operations > 300 && total.crashes > 10 && total.partitions > 10, "{total:?}");
}

/// The log of a world and the hash of its trace.
fn told(seed: u64) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gfs-sim"));
    let ran = program.args(["--rpc", "--steps", &STEPS.to_string(), &seed.to_string()]).output();
    let Output { status, stdout, stderr } = ran.expect("the program of this package");
    assert!(status.success(), "seed {seed}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

// In processes of their own: tokio counts the runtimes of a process, and throws its dice by that.
#[test]
fn a_seed_gives_the_same_world_again() {
    for seed in SAMPLE {
        let (first, again) = (told(seed), told(seed));
        assert!(first.contains(": trace "), "the hash is there");
        assert_eq!(first, again, "seed {seed}");
    }
    assert_ne!(told(0), told(1));
}
