//! The machine stops at every single operation of every script, with every kind of loss.

use super::script::{Step, World, acknowledge, begin, check, scripts, scripts_in_files, scripts_of_growth};
use super::*;
use crate::store::mem::{Fault, Loss};

const SEEDS: u64 = 5;

/// A formatted disk, its store stopped.
fn base() -> MemDisk {
    let (disk, store) = fresh();
    store.stop().expect("stop");
    disk
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_flushed_and_shows_nothing_wrong() {
    crash_at_any_operation(&scripts());
}

#[test]
fn a_crash_at_any_operation_on_files_loses_nothing_that_was_flushed_and_shows_nothing_wrong() {
    crash_at_any_operation(&scripts_in_files());
}

#[test]
fn a_crash_at_any_operation_of_growing_chunks_loses_nothing_that_was_flushed_and_shows_nothing_wrong() {
    crash_at_any_operation(&scripts_of_growth());
}

fn crash_at_any_operation(scripts: &[Vec<Step>]) {
    let base = base();
    for (number, script) in scripts.iter().enumerate() {
        let mut operation = 0;
        loop {
            let mut over = false;
            for loss in std::iter::once(Loss::Process).chain((0..SEEDS).map(Loss::Power)) {
                let disk = base.fork();
                let store = open(&disk, "boot-1");
                disk.fail(operation, Fault::Crash);
                let mut world = World::new();
                for step in script {
                    begin(&mut world, step);
                    if step.run(&store).is_err() {
                        break;
                    }
                    acknowledge(&mut world, step);
                }
                over = !disk.failed();
                drop(store);
                disk.restart(loss);
                let process = loss == Loss::Process;
                let store = open(&disk, if process { "boot-1" } else { "boot-2" });
                check(&store, &world, process, &format!("script {number}, operation {operation}, {loss:?}"));
            }
            if over {
                break;
            }
            operation += 1;
        }
        assert!(operation > 10, "script {number} has only {operation} operations");
    }
}

#[test]
fn a_crash_during_the_start_after_a_crash_changes_no_verdict() {
    let base = base();
    let script = &scripts()[1];
    for first in [12, 25, 38] {
        let crashed = base.fork();
        let store = open(&crashed, "boot-1");
        crashed.fail(first, Fault::Crash);
        let mut world = World::new();
        for step in script {
            begin(&mut world, step);
            if step.run(&store).is_err() {
                break;
            }
            acknowledge(&mut world, step);
        }
        drop(store);
        crashed.restart(Loss::Power(first));
        let probe = crashed.fork();
        let before = probe.operations();
        drop(open(&probe, "boot-2"));
        let operations = probe.operations() - before;
        // what lists the 256 directories is alike: the first and last of it suffice
        for operation in (0..20).chain(operations - 40..operations) {
            for seed in 0..SEEDS {
                let disk = crashed.fork();
                disk.fail(operation, Fault::Crash);
                let _ = ChunkStore::open(config("boot-2"), disk.clone());
                disk.restart(Loss::Power(seed));
                check(&open(&disk, "boot-3"), &world, false, &format!("start, operation {operation}, seed {seed}"));
            }
        }
    }
}

#[test]
fn a_suspect_replica_stays_suspect_over_any_kind_of_restart() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    store.create(h(2), V1, 0).expect("create");
    store.mark_clean(&[h(2)]);
    store.put(h(2), 0, b"data").expect("write");
    store.flush(h(1)).expect("flush");
    store.flush(h(2)).expect("flush");
    drop(store);
    disk.restart(Loss::Power(1));
    let both = |store: &ChunkStore<MemDisk>| (store.state(h(1)), store.state(h(2)));
    let suspect = (Some(super::super::ReplicaState::Suspect), Some(super::super::ReplicaState::Suspect));
    assert_eq!(both(&open(&disk, "boot-2")), suspect);
    assert_eq!(both(&open(&disk, "boot-2")), suspect, "the process died: the checksums would all match");
    let store = open(&disk, "boot-2");
    store.stop().expect("stop");
    drop(store);
    assert_eq!(both(&open(&disk, "boot-3")), suspect, "a clean stop cleans nothing that is suspect");
}

#[test]
fn after_the_death_of_a_process_whole_replicas_are_dirty_and_go_on() {
    let (disk, store) = fresh();
    for n in 1..20 {
        store.create(h(n), V1, LARGE).expect("create");
        store.put(h(n), 0, &pattern(n as u8, 5000)).expect("write");
    }
    drop(store);
    disk.restart(Loss::Process);
    let path = file_of(&disk, h(7));
    let mut raw = disk.content(&path).expect("file");
    raw[5000] ^= 1;
    disk.put(&path, raw);
    let store = open(&disk, "boot-1");
    for n in 1..20 {
        let expect = if n == 7 { Err(DataError::Suspect) } else { Ok(pattern(n as u8, 5000)) };
        assert_eq!(store.get(h(n)), expect, "{n}");
    }
    assert_eq!(store.mark_clean(&store.dirty()).len(), 18);
}

#[test]
fn what_a_killed_write_left_beyond_the_length_is_never_read() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, &pattern(1, 100)).expect("write");
    drop(store);
    disk.restart(Loss::Process);
    let path = file_of(&disk, h(1));
    let mut raw = disk.content(&path).expect("file");
    raw.extend(pattern(2, 9000));
    disk.put(&path, raw);
    let store = open(&disk, "boot-1");
    assert_eq!(store.get(h(1)), Ok(pattern(1, 100)));
    store.put(h(1), 20_000, b"x").expect("leaves a hole where the killed write was");
    let mut expect = pattern(1, 100);
    expect.resize(20_000, 0);
    expect.push(b'x');
    assert_eq!(store.get(h(1)), Ok(expect));
}

#[test]
fn an_acknowledged_cut_survives_a_power_cut() {
    for seed in 0..20 {
        let (disk, store) = fresh();
        store.create(h(1), V1, 0).expect("create");
        store.put(h(1), 0, &pattern(1, 3 * BLOCK)).expect("write");
        store.mark_clean(&[h(1)]);
        store.cut(h(1), V1, 10).expect("cut");
        drop(store);
        disk.restart(Loss::Power(seed));
        let store = open(&disk, "boot-2");
        store.adopt(h(1), V1, V2).expect("adopt");
        assert_eq!(store.get(h(1)), Ok(pattern(1, 10)), "seed {seed}");
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_move_keeps_what_was_flushed() {
    let base = base();
    let flushed = pattern(1, 2 * BLOCK);
    // to another place, to a file of its own
    for end in [5 * BLOCK, (64 << 10) + BLOCK] {
        for seed in 0..16 {
            for operation in 0.. {
                let disk = base.fork();
                // what a crash leaves of an operation is chosen by the seed too
                disk.restart(Loss::Power(seed));
                let store = open(&disk, "boot-1");
                store.create(h(1), V1, 2 * BLOCK).expect("create");
                store.put(h(1), 0, &flushed).expect("write");
                store.create(h(2), V1, 1).expect("create");
                store.flush(h(1)).expect("flush");
                disk.fail(operation, Fault::Crash);
                let over = store.put(h(1), end - BLOCK, &pattern(2, BLOCK)).is_ok();
                drop(store);
                disk.restart(Loss::Power(seed));
                let store = open(&disk, "boot-2");
                store.adopt(h(1), V1, V2).expect("adopt");
                let content = store.get(h(1)).expect("read");
                let context = format!("up to {end}, operation {operation}, seed {seed}");
                assert!(content.starts_with(&flushed), "{context}");
                if over {
                    assert!(operation > 5, "{context}: not moved");
                    break;
                }
            }
        }
    }
}
