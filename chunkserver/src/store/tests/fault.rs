//! Every single operation of every script fails once, with EIO and with ENOSPC.

use super::script::{Step, World, acknowledge, begin, check, scripts, scripts_in_files, scripts_of_growth};
use super::*;
use crate::store::ReplicaState;
use crate::store::mem::{Fault, Loss};

/// Runs a script in which one operation fails; steps after that go on as far as they can.
fn run(disk: &MemDisk, store: &ChunkStore<MemDisk>, script: &[Step], (operation, fault): (u64, Fault)) -> World {
    let mut world = World::new();
    disk.fail(operation, fault);
    for step in script {
        begin(&mut world, step);
        let context = format!("operation {operation}, {fault:?}, {step:?}");
        match step.run(store) {
            Ok(()) => acknowledge(&mut world, step),
            Err(error) => refused(store, &world, step, error, &context),
        }
    }
    world
}

/// After an error a chunk is as it was, or not used any more.
fn refused(store: &ChunkStore<MemDisk>, world: &World, step: &Step, error: DataError, context: &str) {
    let Some((n, truth)) = step.handle().and_then(|n| Some((n, world.get(&n)?))) else { return };
    match store.get(h(n)) {
        Ok(content) if matches!(step, Step::Put(..) | Step::PutTwo(..)) => {
            assert_eq!(Some(&content), truth.content.as_ref(), "{context}: {error}: part of a failed write is visible");
        }
        Ok(content) => {
            let known = truth.content.as_ref() == Some(&content) || truth.or.contains(&Some(content));
            assert!(known, "{context}: {error}: content that nobody wrote");
        }
        Err(DataError::Suspect | DataError::NoChunk | DataError::Io) => {}
        Err(other) => panic!("{context}: {error}, then {other}"),
    }
}

fn every_operation_fails(fault: Fault) {
    let (base, store) = fresh();
    store.stop().expect("stop");
    drop(store);
    let scripts = [scripts(), scripts_in_files(), scripts_of_growth()].concat();
    for (number, script) in scripts.iter().enumerate() {
        for operation in 0.. {
            let disk = base.fork();
            let store = open(&disk, "boot-1");
            let mut world = run(&disk, &store, script, (operation, fault));
            let over = !disk.failed();
            disk.heal();
            // a write that was refused is not there later either: what it might have done was undone
            for truth in world.values_mut() {
                (truth.clean, truth.settled) = (false, false);
            }
            drop(store);
            disk.restart(Loss::Process);
            let context = format!("script {number}, operation {operation}, {fault:?}, restarted");
            let note = std::path::Path::new(DIR).join("failed");
            if disk.content(&note).is_some() {
                assert!(!open(&disk, "boot-1").space()[0].error.is_empty(), "{context}");
                disk.remove(&note).expect("remove");
            }
            check(&open(&disk, "boot-1"), &world, true, &context);
            if over {
                break;
            }
        }
    }
}

#[test]
fn an_io_error_at_any_operation_shows_nothing_wrong() {
    every_operation_fails(Fault::Eio);
}

#[test]
fn a_full_disk_at_any_operation_shows_nothing_half_done() {
    every_operation_fails(Fault::Enospc);
}

#[test]
fn a_write_that_finds_no_room_is_undone_and_succeeds_later() {
    let old = pattern(1, 2 * BLOCK + 500);
    // fresh blocks; a part of an old one; the end of one and fresh ones; several extents
    let writes: [&[(u32, u32)]; 5] = [
        &[(4 * BLOCK, 5000)],
        &[(100, 50)],
        &[(2 * BLOCK + 400, 9000)],
        &[(10, 5), (5 * BLOCK, 100)],
        &[(BLOCK, 4 * BLOCK)],
    ];
    for (number, extents) in writes.into_iter().enumerate() {
        let extents: Vec<_> =
            extents.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect();
        let payload = pattern(9, extents.iter().map(|extent| extent.length).sum());
        for operation in 0..8 {
            let (disk, store) = fresh();
            store.create(h(1), V1, 0).expect("create");
            store.put(h(1), 0, &old).expect("write");
            disk.fail(operation, Fault::Enospc);
            let failed = store.put_all(h(1), &extents, &payload);
            disk.heal();
            match failed {
                Ok(_) => break,
                Err(DataError::NoSpace) => {}
                Err(error) => panic!("write {number}, operation {operation}: {error}"),
            }
            // only a whole block that was overwritten in place cannot be brought back
            if store.state(h(1)) == Some(ReplicaState::Suspect) {
                assert_eq!(number, 4, "operation {operation}");
                continue;
            }
            assert_eq!(store.get(h(1)), Ok(old.clone()), "write {number}, operation {operation}");
            assert_eq!(store.verify(h(1), V1), Ok(0));
            store.put_all(h(1), &extents, &payload).expect("there is room again");
            store.put(h(1), 12 * BLOCK, b"beyond").expect("what was undone left nothing behind");
            store.get(h(1)).expect("sums match");
        }
    }
}

#[test]
fn extending_over_old_blocks_needs_room_before_it_destroys_them() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, &pattern(1, 2 * BLOCK)).expect("write");
    disk.fail(0, Fault::Enospc);
    assert_eq!(store.put(h(1), 0, &pattern(2, 4 * BLOCK)), Err(DataError::NoSpace));
    assert_eq!(store.get(h(1)), Ok(pattern(1, 2 * BLOCK)));
}

#[test]
fn an_io_error_takes_the_directory_out_of_service() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    disk.fail(0, Fault::Eio);
    assert_eq!(store.put(h(1), 0, b"more"), Err(DataError::Io));
    assert!(store.space()[0].error.contains("0000000000000001.1.d"), "{:?}", store.space());
    assert!(!store.space()[0].accepts_chunks);
    assert_eq!(store.create(h(2), V1, 0), Err(DataError::Io));
}
