//! A sample of the fault machine: about 50 SIGKILLs of chunkservers, masters and mounts under load, with every check; power
//! cuts wait for what is open (docs/reliability.md). `just faults` does the whole.

use gfs_tests::environment_is_fit;
use gfs_tests::faults::{Settings, run, scenarios};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs so many faults of a scenario; nothing may be wrong.
fn sample(name: &str, count: u32) {
    if let Err(error) = environment_is_fit() {
        panic!("{error:#}");
    }
    let evidence = tempfile::tempdir().expect("a directory").keep();
    let stop = Arc::new(AtomicBool::new(false));
    let settings = Settings { seed: 1, per_round: 15, end: None, stop, progress: |_| {}, evidence: evidence.clone() };
    let scenario = scenarios().iter().find(|it| it.name == name).expect("a scenario");
    match run(scenario, count, &settings) {
        Ok(tally) if tally.violations.is_empty() => {
            assert!(tally.faults >= count, "{}", tally.line());
            std::fs::remove_dir_all(evidence).expect("nothing was kept");
        }
        Ok(tally) => panic!("{}\n{:#?}\nevidence: {}", tally.line(), tally.violations, evidence.display()),
        Err(error) => panic!("{error:#}\nevidence: {}", evidence.display()),
    }
}

#[test]
fn killed_chunkservers_lose_nothing() {
    sample("kill-chunkservers", 30);
}

#[test]
fn killed_masters_lose_nothing() {
    sample("kill-master", 8);
}

#[test]
fn killed_servers_and_mounts_lose_nothing_that_was_flushed() {
    sample("kill-any", 8);
}

#[test]
fn servers_killed_in_the_middle_of_a_flush_or_a_rename_lose_nothing() {
    sample("kill-at-call", 4);
}

#[test]
#[ignore = "one of seven runs finds something, not taken apart yet (docs/reliability.md)"]
fn power_cuts_of_chunkservers_lose_nothing_that_was_flushed() {
    sample("cut-chunkservers", 30);
}

#[test]
#[ignore = "the master dies every half second: the size of a file that was closed and not flushed goes back to nothing"]
fn power_cuts_of_the_master_lose_nothing() {
    sample("cut-master", 15);
}

#[test]
#[ignore = "as with power cuts of the master"]
fn power_cuts_of_any_server_lose_nothing_that_was_flushed() {
    sample("cut-any", 15);
}
