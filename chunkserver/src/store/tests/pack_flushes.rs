//! Flushes of packs: what they cover, and what is left of a pack when one fails.

use super::packs::{files_in, small};
use super::*;
use crate::store::disk::Room;
use crate::store::mem::{Fault, Loss};
use std::path::Path;

fn has_note(disk: &MemDisk) -> bool {
    disk.content(&Path::new(DIR).join("failed")).is_some()
}

/// A store whose only pack is from an earlier run and has these clean replicas.
fn sealed(replicas: std::ops::Range<u64>) -> (MemDisk, ChunkStore<MemDisk>) {
    let (disk, store) = fresh();
    replicas.for_each(|n| small(&store, n));
    store.mark_clean(&store.dirty());
    drop(store);
    let store = open(&disk, "boot-1");
    (disk, store)
}

fn place_of(store: &ChunkStore<MemDisk>, n: u64) -> crate::store::pack::Place {
    store.index.get(h(n)).and_then(|entry| entry.place).expect("in a pack")
}

#[test]
fn a_pack_without_replicas_stays_if_the_flush_of_the_last_erasure_failed() {
    let (disk, store) = sealed(1..2);
    let packs = &store.directories[0].packs;
    packs.erase(place_of(&store, 1)).expect("erase");
    disk.fail(0, Fault::Eio);
    packs.flush(0).expect_err("fails");
    packs.remove_empty();
    assert_eq!(files_in(&disk, "/packs/").len(), 1, "its record could come back");
}

#[test]
fn neighbours_are_not_served_when_another_operation_fails_to_flush_their_pack() {
    type Act = fn(&ChunkStore<MemDisk>) -> DataError;
    let acts: [(&str, u64, Act); 3] = [
        ("deletion", 1, |store| {
            store.delete(&[SyncChunk { handle: h(1), version: V1 }]).remove(0).expect_err("not durable")
        }),
        // the image is read and written, then flushed
        ("growth", 2, |store| store.put(h(1), BLOCK, &[7; 4096]).expect_err("not durable")),
        ("raise", 1, |store| store.raise(h(1), V1, V2).expect_err("not durable")),
    ];
    for (what, operation, act) in acts {
        let (disk, store) = fresh();
        (1..4).for_each(|n| small(&store, n));
        store.mark_clean(&[h(3)]);
        disk.fail(operation, Fault::Eio);
        assert_eq!(act(&store), DataError::Io, "{what}");
        assert!(disk.failed() && has_note(&disk), "{what}");
        assert_eq!(store.get(h(2)), Err(DataError::Suspect), "{what}: only the page cache may have it");
        assert_eq!(store.get(h(3)), Ok(pattern(3, BLOCK)), "{what}: that was durable before");
    }
}

#[test]
fn a_flush_that_fails_while_a_record_is_put_back_is_noted_down() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.mark_clean(&[h(1)]);
    disk.fail(0, Fault::Eio);
    store.directories[0].packs.flush(0).expect_err("fails");
    assert!(!has_note(&disk));
    disk.fail(0, Fault::Enospc);
    assert_eq!(store.raise(h(1), V1, V2), Err(DataError::Io));
    assert!(disk.failed() && has_note(&disk));
}

#[test]
fn a_flush_that_fails_before_room_is_given_back_takes_the_directory_out_of_service() {
    let (disk, store) = fresh();
    small(&store, 1);
    disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: 500 });
    store.space();
    // the room is looked at, the pack flushed
    disk.fail(1, Fault::Eio);
    assert_eq!(store.directories[0].take_room(1 << 20), Err(DataError::Io));
    assert!(disk.failed() && has_note(&disk) && !store.directories[0].in_service());
}

#[test]
fn a_flush_that_fails_at_a_start_is_noted_down() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.mark_clean(&[h(1)]);
    let path = files_in(&disk, "/packs/").remove(0);
    let old = disk.content(&path).expect("pack");
    small(&store, 2);
    store.put(h(1), BLOCK, &pattern(2, BLOCK)).expect("moved");
    store.stop().expect("stop");
    drop(store);
    // as if the former record had not been erased
    let mut raw = disk.content(&path).expect("pack");
    raw[4096..4096 + 32].copy_from_slice(&old[4096..4096 + 32]);
    disk.put(&path, raw);
    let mut failed = 0;
    for operation in 0.. {
        let disk = disk.fork();
        disk.fail(operation, Fault::Eio);
        let opened = ChunkStore::open(config("boot-1"), disk.clone());
        if !disk.failed() {
            break;
        }
        let Err(StoreError::Io { source, .. }) = opened else { continue };
        if source.to_string().contains("could not be flushed") {
            failed += 1;
            assert!(has_note(&disk), "operation {operation}");
            disk.restart(Loss::Process);
            assert!(!open(&disk, "boot-1").directories[0].in_service());
        }
    }
    assert_eq!(failed, 1, "one record is erased");
}

#[test]
fn many_packs_are_flushed_together() {
    let (disk, store) = fresh();
    (0..17 * 16).for_each(|n| small(&store, n));
    assert_eq!(files_in(&disk, "/packs/").len(), 17);
    let chunk = |n| SyncChunk { handle: h(n), version: V1 };
    let one_each: Vec<_> = (0..17).map(|pack| chunk(16 * pack)).collect();
    let operations = disk.operations();
    assert_eq!(store.delete(&one_each), [Ok(()); 17]);
    assert_eq!(disk.operations() - operations, 17 + 1, "records, a flush");
    assert!((0..17).all(|pack| store.directories[0].packs.flush(pack).is_ok()), "they can be flushed again");
    let one_each: Vec<_> = (0..17).map(|pack| chunk(16 * pack + 1)).collect();
    disk.fail(17, Fault::Eio);
    assert_eq!(store.delete(&one_each), [Err(DataError::Io); 17]);
    assert!(has_note(&disk));
    assert!((0..17).all(|pack| store.get(h(16 * pack + 2)) == Err(DataError::Suspect)));
}
