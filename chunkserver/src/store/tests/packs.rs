//! Packs: what becomes of a table that is damaged, of room, of what older runs left.

use super::*;
use crate::store::ReplicaState::{Clean, Suspect};
use crate::store::disk::{Disk as _, Room};
use crate::store::mem::Loss;
use std::path::Path;

/// Bytes of the tables of the packs here: 32 units, rounded up to a block.
const TABLE: usize = 4096;

pub(super) fn files_in(disk: &MemDisk, part: &str) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
}

pub(super) fn small(store: &ChunkStore<MemDisk>, n: u64) {
    store.create(h(n), V1, BLOCK).expect("create");
    store.put(h(n), 0, &pattern(n as u8, BLOCK)).expect("write");
}

pub(super) fn delete(store: &ChunkStore<MemDisk>, n: u64) {
    assert_eq!(store.delete(&[SyncChunk { handle: h(n), version: V1 }]), [Ok(())]);
}

fn pack_of(disk: &MemDisk) -> (PathBuf, Vec<u8>) {
    let path = files_in(disk, "/packs/").remove(0);
    let raw = disk.content(&path).expect("pack");
    (path, raw)
}

#[test]
pub(super) fn small_chunks_share_a_file_and_large_ones_have_their_own() {
    let (disk, store) = fresh();
    (1..9).for_each(|n| small(&store, n));
    store.create(h(9), V1, 64 << 10).expect("create");
    assert_eq!((files_in(&disk, "/packs/").len(), files_in(&disk, "/chunks/").len()), (2, 0), "17 units do not fit");
    store.create(h(10), V1, (64 << 10) + 1).expect("create");
    assert_eq!((files_in(&disk, "/packs/").len(), files_in(&disk, "/chunks/").len()), (2, 1));
    let none = StoreConfig { pack_bytes: 0, directories: vec!["/other".into()], ..config("boot-1") };
    let store = ChunkStore::open(none, disk.clone()).expect("open");
    store.join(CLUSTER, ChunkSize::new(CHUNK).expect("size")).expect("join");
    store.create(h(1), V1, 1).expect("create");
    assert_eq!(files_in(&disk, "/other/chunks/").len(), 1);
}

#[test]
fn one_flush_covers_all_replicas_of_a_pack_with_their_records() {
    let (disk, store) = fresh();
    (1..9).for_each(|n| small(&store, n));
    let chunks: Vec<_> = (1..9).map(|n| SyncChunk { handle: h(n), version: V1 }).collect();
    let operations = |act: &dyn Fn()| {
        let before = disk.operations();
        act();
        disk.operations() - before
    };
    assert_eq!(operations(&|| store.sync(&chunks).expect("flush")), 1);
    assert_eq!(operations(&|| store.sync(&chunks).expect("flush")), 0, "nothing was written since");
    let handles: Vec<_> = (1..9).map(h).collect();
    assert_eq!(operations(&|| assert_eq!(store.mark_clean(&handles).len(), 8)), 8 + 1, "the records, a flush");
    assert_eq!(operations(&|| store.raise(h(1), V1, V2).expect("raise")), 2);
    assert_eq!(operations(&|| assert_eq!(store.delete(&chunks[1..]), [Ok(()); 7])), 7 + 1);
}

#[test]
fn a_packed_replica_is_found_again_as_it_was() {
    let (disk, store) = fresh();
    (1..5).for_each(|n| small(&store, n));
    store.put(h(1), BLOCK, &pattern(9, 2 * BLOCK)).expect("moved");
    store.raise(h(2), V1, V2).expect("raise");
    assert_eq!(store.mark_clean(&[h(1), h(2), h(4)]).len(), 3);
    delete(&store, 4);
    disk.restart(Loss::Power(1));
    let store = open(&disk, "boot-2");
    let row = |n| store.row(h(n)).map(|row| (row.version, row.state));
    assert_eq!([1, 2, 3, 4].map(row), [Some((V1, Clean)), Some((V2, Clean)), Some((V1, Suspect)), None]);
    assert_eq!(store.get(h(1)), Ok([pattern(1, BLOCK), pattern(9, 2 * BLOCK)].concat()));
    store.put(h(2), 10, b"written on").expect("write");
    small(&store, 7);
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "a pack of an earlier run is not filled further");
}

#[test]
fn nothing_of_a_deleted_chunk_is_ever_in_a_new_one() {
    for seed in 0..40 {
        let (disk, store) = fresh();
        let secret = vec![0xee; 3 * BLOCK as usize];
        for n in 1..40 {
            store.create(h(n), V1, 3 * BLOCK).expect("create");
            store.put(h(n), 0, &secret).expect("write");
            store.mark_clean(&[h(n)]);
            delete(&store, n);
            // never flushed: what was written of it before the power cut is arbitrary
            store.create(h(100 + n), V1, 3 * BLOCK).expect("create");
            store.put(h(100 + n), 2 * BLOCK, &pattern(1, 100)).expect("write behind a hole");
        }
        disk.restart(Loss::Power(seed));
        let store = open(&disk, "boot-2");
        for row in store.rows() {
            store.adopt(row.handle, V1, V2).expect("adopt");
            let content = store.get(row.handle).expect("read");
            assert!(!content.contains(&0xee), "seed {seed}: chunk {} has bytes of another", row.handle);
        }
    }
}

#[test]
fn a_record_with_any_bit_flipped_is_not_believed() {
    let (disk, store) = fresh();
    (1..4).for_each(|n| small(&store, n));
    store.stop().expect("stop");
    drop(store);
    let (path, good) = pack_of(&disk);
    for bit in 0..32 * 8 {
        let disk = disk.fork();
        let mut bad = good.clone();
        // the second replica begins at unit 2
        bad[4096 + 2 * 32 + bit / 8] ^= 1 << (bit % 8);
        disk.put(&path, bad);
        let store = open(&disk, "boot-1");
        assert_eq!(store.get(h(2)), Err(DataError::NoChunk), "bit {bit}");
        assert_eq!((store.get(h(1)), store.get(h(3))), (Ok(pattern(1, BLOCK)), Ok(pattern(3, BLOCK))), "bit {bit}");
        delete(&store, 1);
        delete(&store, 3);
        assert_eq!(files_in(&disk, "/packs/").len(), 1, "bit {bit}: the bytes of the second are kept");
    }
}

#[test]
fn an_older_copy_does_not_count_where_a_record_is_damaged() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.mark_clean(&[h(1)]);
    let (path, old) = pack_of(&disk);
    small(&store, 2);
    store.put(h(1), BLOCK, &pattern(2, BLOCK)).expect("moved");
    store.mark_clean(&[h(1), h(2)]);
    drop(store);
    let mut raw = disk.content(&path).expect("pack");
    // as if the old record had not been erased, and the new one were damaged
    raw[4096..4096 + 32].copy_from_slice(&old[4096..4096 + 32]);
    raw[4096 + 4 * 32] ^= 1;
    disk.put(&path, raw);
    let store = open(&disk, "boot-2");
    assert_eq!((store.get(h(1)), store.get(h(2))), (Err(DataError::Suspect), Ok(pattern(2, BLOCK))));
}

#[test]
fn deletions_compaction_and_giving_back_room_go_on_beside_each_other() {
    let (_, store) = fresh();
    (0..400).for_each(|n| small(&store, n));
    store.mark_clean(&store.dirty());
    let busy = std::sync::atomic::AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (store, busy) = (&store, &busy);
            scope.spawn(move || {
                (0..400).filter(|n| n % 4 == thread && n % 25 != 0).for_each(|n| delete(store, n));
                busy.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        while busy.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            store.compact();
            store.directories[0].packs.release().expect("flush");
        }
    });
    while store.compact() > 0 {}
    assert!((0..400).step_by(25).all(|n| store.get(h(n)) == Ok(pattern(n as u8, BLOCK))));
    assert_eq!((store.rows().len(), store.space()[0].error.as_str()), (16, ""));
}

#[test]
fn of_two_records_the_later_counts_and_before_both_a_file() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.mark_clean(&[h(1)]);
    let (path, first) = pack_of(&disk);
    small(&store, 2);
    store.put(h(1), BLOCK, &pattern(2, BLOCK)).expect("moved");
    store.mark_clean(&[h(1)]);
    let (_, second) = pack_of(&disk);
    store.put(h(1), 2 * BLOCK, &pattern(3, 64 << 10)).expect("moved to a file");
    store.mark_clean(&[h(1)]);
    let third = store.get(h(1)).expect("read");
    drop(store);
    // as if the records had not been erased
    let with = |records: &[&[u8]]| {
        let disk = disk.fork();
        let mut raw = disk.content(&path).expect("pack");
        for (slot, good) in [(0, records.first()), (4, records.get(1))] {
            let at = 4096 + slot * 32;
            if let Some(good) = good {
                raw[at..at + 32].copy_from_slice(&good[at..at + 32]);
            }
        }
        disk.put(&path, raw);
        disk
    };
    let both = with(&[&first, &second]);
    let store = open(&both, "boot-1");
    assert_eq!(store.get(h(1)), Ok(third));
    delete(&store, 1);
    drop(store);
    both.restart(Loss::Power(1));
    assert_eq!(open(&both, "boot-2").row(h(1)), None, "nothing comes back");
    let both = with(&[&first, &second]);
    both.remove(&files_in(&both, "/chunks/")[0]).expect("remove");
    let store = open(&both, "boot-1");
    assert_eq!(store.get(h(1)), Ok([pattern(1, BLOCK), pattern(2, BLOCK)].concat()));
}

#[test]
fn replicas_of_many_threads_grow_are_flushed_and_deleted_beside_each_other() {
    let (_, store) = fresh();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..60_u64 {
                    let n = thread * 1000 + round;
                    small(store, n);
                    let more = pattern(round as u8, 1 + (round as u32 * 1777) % (80 << 10));
                    store.put(h(n), BLOCK, &more).expect("write");
                    match round % 3 {
                        0 => store.flush(h(n)).expect("flush"),
                        1 => drop(store.mark_clean(&[h(n)])),
                        _ => store.raise(h(n), V1, V1).expect("raise"),
                    }
                    assert_eq!(store.get(h(n)), Ok([pattern(n as u8, BLOCK), more].concat()));
                    if round % 4 != 0 {
                        delete(store, n);
                    }
                }
            });
        }
    });
    assert_eq!(store.rows().len(), 4 * 15);
    assert!(store.rows().iter().all(|row| store.verify(row.handle, V1) == Ok(0)));
}

#[test]
fn replicas_that_overlap_are_not_believed() {
    let (disk, store) = fresh();
    (1..4).for_each(|n| small(&store, n));
    store.stop().expect("stop");
    drop(store);
    let (path, mut raw) = pack_of(&disk);
    // units 1 to 4 for another one: nothing makes that
    let mut record = [0; 28];
    (record[0], record[8], record[16], record[24], record[26]) = (5, 1, 99, 4, 1);
    let place = [0, 0, 0, 0, 1, 0];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&place), &record);
    raw[4096 + 32..4096 + 32 + 28].copy_from_slice(&record);
    raw[4096 + 32 + 28..4096 + 64].copy_from_slice(&crc.to_le_bytes());
    disk.put(&path, raw);
    let store = open(&disk, "boot-1");
    assert_eq!([1, 2, 3, 5].map(|n| store.get(h(n))), [const { Err(DataError::NoChunk) }; 4]);
    assert!(store.rows().is_empty());
}

#[test]
fn a_pack_with_a_damaged_header_is_left_as_it_is() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.stop().expect("stop");
    drop(store);
    let (path, mut raw) = pack_of(&disk);
    raw[17] ^= 1;
    disk.put(&path, raw.clone());
    let store = open(&disk, "boot-1");
    assert_eq!(store.get(h(1)), Err(DataError::NoChunk));
    small(&store, 2);
    assert_eq!(disk.content(&path), Some(raw));
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "its number is not used again");
}

#[test]
fn damage_of_data_sums_and_header_is_seen_as_in_a_file() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 2 * BLOCK).expect("create");
    store.put(h(1), 0, &pattern(1, 2 * BLOCK)).expect("write");
    store.stop().expect("stop");
    drop(store);
    let (path, good) = pack_of(&disk);
    let image = 4096 + TABLE;
    for (byte, seen) in [(4096, 1), (8192 + 4095, 1), (512, 1), (520, 0), (0, 9), (12, 9), (504, 9)] {
        let disk = disk.fork();
        let mut bad = good.clone();
        bad[image + byte] ^= 4;
        disk.put(&path, bad);
        let store = open(&disk, "boot-1");
        let found = store.verify(h(1), V1);
        match seen {
            9 => assert_eq!(found, Err(DataError::Corrupt), "byte {byte}"),
            count => assert_eq!(found, Ok(count), "byte {byte}"),
        }
    }
}

#[test]
fn a_failed_flush_of_a_pack_makes_all_suspect_that_were_not_durable() {
    let (disk, store) = fresh();
    (1..4).for_each(|n| small(&store, n));
    store.mark_clean(&[h(3)]);
    store.put(h(1), 0, &pattern(9, 10)).expect("write");
    disk.fail(0, crate::store::mem::Fault::Eio);
    assert_eq!(store.flush(h(1)), Err(DataError::Io));
    assert_eq!((store.get(h(1)), store.get(h(2))), (Err(DataError::Suspect), Err(DataError::Suspect)));
    assert_eq!(store.get(h(3)), Ok(pattern(3, BLOCK)), "that was durable before");
    assert!(store.space()[0].error.contains("flush of /store/packs/00000000 failed"), "{:?}", store.space());
    assert!(store.mark_clean(&[h(1), h(2)]).is_empty());
    assert!(store.directories[0].packs.flush(0).is_err(), "the disk would say that all is well");
    assert!(store.stop().is_err());
}

#[test]
fn a_pack_goes_with_its_last_replica() {
    let (disk, store) = fresh();
    (0..48).for_each(|n| small(&store, n));
    assert_eq!(files_in(&disk, "/packs/").len(), 3);
    (0..31).for_each(|n| delete(&store, n));
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "the second has one replica left");
    delete(&store, 31);
    (32..48).for_each(|n| delete(&store, n));
    assert_eq!(files_in(&disk, "/packs/").len(), 1, "the last one is being filled");
    drop(store);
    open(&disk, "boot-1");
    assert!(files_in(&disk, "/packs/").is_empty(), "nobody fills it any more");
}

#[test]
fn a_pack_stays_until_it_is_durable_that_it_has_no_replica() {
    let (disk, store) = fresh();
    small(&store, 1);
    store.mark_clean(&[h(1)]);
    drop(store);
    let store = open(&disk, "boot-1");
    let packs = &store.directories[0].packs;
    packs.erase(store.index.get(h(1)).and_then(|entry| entry.place).expect("in a pack")).expect("erase");
    packs.remove_empty();
    assert_eq!(files_in(&disk, "/packs/").len(), 1, "its record could come back");
    packs.flush(0).expect("flush");
    packs.remove_empty();
    assert!(files_in(&disk, "/packs/").is_empty());
    packs.flush(0).expect("somebody who deleted from it at the same time comes later");
}

#[test]
fn a_chunk_whose_deletion_failed_is_still_there() {
    for seed in 0..20 {
        let (disk, store) = fresh();
        // what a failed operation leaves is chosen by the seed
        drop(store);
        disk.restart(Loss::Power(seed));
        let store = open(&disk, "boot-2");
        (0..8).for_each(|n| small(&store, n));
        store.mark_clean(&store.dirty());
        disk.fail(0, crate::store::mem::Fault::Enospc);
        assert_eq!(store.delete(&[SyncChunk { handle: h(7), version: V1 }]), [Err(DataError::NoSpace)]);
        store.stop().expect("stop");
        drop(store);
        disk.restart(Loss::Power(seed));
        assert_eq!(open(&disk, "boot-3").get(h(7)), Ok(pattern(7, BLOCK)), "seed {seed}");
    }
}

#[test]
fn a_chunk_that_could_not_be_called_clean_is_not_taken_for_it() {
    for seed in 0..20 {
        let (disk, store) = fresh();
        drop(store);
        disk.restart(Loss::Power(seed));
        let store = open(&disk, "boot-2");
        // a record in the last slots of a sector: a failed write may well have written all of it
        (0..8).for_each(|n| small(&store, n));
        // the flush, then the record
        disk.fail(1, crate::store::mem::Fault::Enospc);
        assert!(store.mark_clean(&[h(7)]).is_empty() && disk.failed());
        store.put(h(7), 0, &pattern(9, BLOCK)).expect("write");
        drop(store);
        disk.restart(Loss::Power(seed));
        assert_eq!(open(&disk, "boot-3").state(h(7)), Some(Suspect), "seed {seed}");
    }
}

#[test]
fn a_record_that_may_be_either_takes_the_directory_out_of_service() {
    let (disk, store) = fresh();
    small(&store, 1);
    disk.fail(0, crate::store::mem::Fault::Enospc);
    assert_eq!(store.raise(h(1), V1, V2), Err(DataError::NoSpace), "the old record was put back");
    assert_eq!(store.row(h(1)).map(|row| row.version), Some(V1));
    disk.fail_from(0, crate::store::mem::Fault::Enospc);
    assert_eq!(store.raise(h(1), V1, V2), Err(DataError::Io));
    disk.heal();
    assert!(store.space()[0].error.contains("a record is not certain"), "{:?}", store.space());
}

#[test]
fn room_is_given_back_only_of_what_is_durably_erased() {
    for seed in 0..20 {
        let (disk, store) = fresh();
        (1..3).for_each(|n| small(&store, n));
        assert_eq!(store.mark_clean(&[h(1), h(2)]).len(), 2);
        let packs = &store.directories[0].packs;
        packs.erase(store.index.get(h(1)).and_then(|entry| entry.place).expect("in a pack")).expect("erase");
        assert!(packs.release().expect("flush"));
        drop(store);
        disk.restart(Loss::Power(seed));
        let store = open(&disk, "boot-2");
        let found = store.get(h(1));
        assert!(found == Ok(pattern(1, BLOCK)) || found == Err(DataError::NoChunk), "seed {seed}: {found:?}");
    }
}

#[test]
fn what_a_chunk_held_before_it_began_again_does_not_come_back() {
    for seed in 0..20 {
        let (disk, store) = fresh();
        small(&store, 1);
        store.mark_clean(&[h(1)]);
        store.create(h(1), V2, LARGE).expect("begins again");
        assert_eq!(store.delete(&[SyncChunk { handle: h(1), version: V2 }]), [Ok(())]);
        drop(store);
        disk.restart(Loss::Power(seed));
        assert_eq!(open(&disk, "boot-2").row(h(1)), None, "seed {seed}");
    }
}

/// Three packs with one clean replica in each, and their store.
fn three_sparse() -> (MemDisk, ChunkStore<MemDisk>) {
    let (disk, store) = fresh();
    (0..48).for_each(|n| small(&store, n));
    assert_eq!(store.mark_clean(&store.dirty()).len(), 48);
    (0..48).filter(|n| n % 16 != 7).for_each(|n| delete(&store, n));
    assert_eq!(files_in(&disk, "/packs/").len(), 3);
    (disk, store)
}

#[test]
fn nearly_empty_packs_become_one() {
    let (disk, store) = three_sparse();
    store.put(h(7), 5, b"dirty").expect("write");
    assert_eq!(store.compact(), 0, "the emptiest has a replica that is in use, the third is being filled");
    store.mark_clean(&[h(7)]);
    assert_eq!(store.compact(), 1);
    assert_eq!(files_in(&disk, "/packs/").len(), 3, "two units of the third were left, so there is a fourth");
    assert_eq!(store.compact(), 1);
    assert_eq!(store.compact(), 0);
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "one that is nearly empty, one that is being filled");
    drop(store);
    let store = open(&disk, "boot-2");
    let mut changed = pattern(7, BLOCK);
    changed[5..10].copy_from_slice(b"dirty");
    let expect = [changed, pattern(23, BLOCK), pattern(39, BLOCK)];
    assert_eq!([7, 23, 39].map(|n| store.get(h(n))), expect.map(Ok));
    assert!(store.rows().iter().all(|row| row.state == Clean) && store.rows().len() == 3);
}

#[test]
fn packs_that_many_runs_have_left_become_few() {
    let (disk, mut store) = fresh();
    for run in 0..6 {
        (0..3).for_each(|n| small(&store, 3 * run + n));
        store.mark_clean(&store.dirty());
        drop(store);
        disk.restart(Loss::Process);
        store = open(&disk, "boot-1");
    }
    assert_eq!(files_in(&disk, "/packs/").len(), 6);
    for _ in 0..10 {
        store.compact();
    }
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "18 replicas of two units, in packs of 32");
    assert!((0..18).all(|n| store.get(h(n)) == Ok(pattern(n as u8, BLOCK))));
}

#[test]
fn a_pack_is_made_before_the_last_is_full() {
    let (disk, store) = fresh();
    store.prepare_places();
    assert!(files_in(&disk, "/packs/").is_empty(), "nobody needs one");
    (0..11).for_each(|n| small(&store, n));
    store.prepare_places();
    assert_eq!(files_in(&disk, "/packs/").len(), 1, "ten units are left");
    small(&store, 11);
    (0..3).for_each(|_| store.prepare_places());
    store.compact();
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "one, and it stays");
    let operations = disk.operations();
    (12..28).for_each(|n| small(&store, n));
    assert_eq!(disk.operations() - operations, 16 * 2, "records and images: no pack was made");
    assert_eq!(files_in(&disk, "/packs/").len(), 2);
    store.prepare_places();
    store.stop().expect("stop");
    assert_eq!(files_in(&disk, "/packs/").len(), 2, "one that was not begun goes");
}

#[test]
fn what_an_attempt_to_make_a_pack_has_left_is_replaced() {
    let (disk, store) = fresh();
    disk.put(&Path::new(DIR).join("packs/00000000.new"), vec![7; 5000]);
    small(&store, 1);
    assert_eq!(store.get(h(1)), Ok(pattern(1, BLOCK)));
    assert!(store.directories[0].in_service() && files_in(&disk, ".new").is_empty());
}

#[test]
fn a_chunk_that_leaves_its_pack_takes_room() {
    let (disk, store) = fresh();
    small(&store, 1);
    disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: 100_000 });
    store.space();
    let free = store.directories[0].free_estimate() - store.directories[0].packs.idle();
    store.put(h(1), BLOCK, &pattern(1, 64 << 10)).expect("moved");
    let idle = store.directories[0].packs.idle();
    assert_eq!(store.directories[0].free_estimate() - idle, free - u64::from(BLOCK + BLOCK + (64 << 10)));
}

#[test]
fn a_raise_that_is_repeated_is_durable() {
    for (seed, bytes) in (0..20).flat_map(|seed| [(seed, BLOCK), (seed, LARGE)]) {
        let (disk, store) = fresh();
        store.create(h(1), V1, bytes).expect("create");
        store.put(h(1), 0, &pattern(1, BLOCK)).expect("write");
        store.mark_clean(&[h(1)]);
        // after the record or name is written, before it is durable
        store
            .with_exclusive(h(1), V1, |open, live| store.rename(open, live, |entry| entry.version = V2))
            .expect("rename");
        drop(store);
        disk.restart(Loss::Process);
        let store = open(&disk, "boot-1");
        store.raise(h(1), V1, V2).expect("raise");
        drop(store);
        disk.restart(Loss::Power(seed));
        let version = open(&disk, "boot-2").row(h(1)).map(|row| row.version);
        assert_eq!(version, Some(V2), "seed {seed}, {bytes} bytes");
    }
}

#[test]
fn a_damaged_replica_does_not_keep_the_others_of_its_pack_from_being_moved() {
    let disk = MemDisk::default();
    let config = || StoreConfig { pack_bytes: 1 << 20, ..config("boot-1") };
    let open = || ChunkStore::open(config(), disk.clone()).expect("open");
    let store = open();
    store.join(CLUSTER, ChunkSize::new(CHUNK).expect("size")).expect("join");
    (0..256).for_each(|n| small(&store, n));
    // three in the first pack, four in the second
    let kept = [0, 1, 2, 128, 129, 130, 131];
    (0..256).filter(|n| !kept.contains(n)).for_each(|n| delete(&store, n));
    store.stop().expect("stop");
    drop(store);
    let (path, mut raw) = pack_of(&disk);
    let image = 4096 + 256 * 32;
    raw[image + 2 * 4096] ^= 4;
    disk.put(&path, raw);
    let store = open();
    assert_eq!(store.get(h(1)), Err(DataError::Corrupt));
    assert_eq!(store.compact(), 2);
    let operations = disk.operations();
    assert_eq!((store.compact(), disk.operations() - operations), (0, 0), "it is not looked at again");
    assert_eq!([0, 2].map(|n| store.get(h(n))), [0, 2].map(|n| Ok(pattern(n, BLOCK))));
}

#[test]
fn a_power_cut_at_any_operation_of_a_compaction_loses_nothing() {
    let (base, store) = three_sparse();
    store.stop().expect("stop");
    drop(store);
    for seed in 0..8 {
        for operation in 0.. {
            let disk = base.fork();
            disk.restart(Loss::Power(seed));
            let store = open(&disk, "boot-2");
            store.join(CLUSTER, ChunkSize::new(CHUNK).expect("size")).expect("join");
            disk.fail(operation, crate::store::mem::Fault::Crash);
            let over = store.compact() == 2;
            drop(store);
            disk.restart(Loss::Power(seed));
            let store = open(&disk, "boot-3");
            for n in [7, 23, 39] {
                assert_eq!(store.get(h(n)), Ok(pattern(n as u8, BLOCK)), "{n}, operation {operation}, seed {seed}");
            }
            if over {
                break;
            }
            assert!(operation < 100, "it never ends");
        }
    }
}

#[test]
fn room_in_packs_counts_as_free_and_is_given_back_when_it_is_short() {
    let (disk, store) = fresh();
    let room = |free| disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: free });
    (0..16).for_each(|n| small(&store, n));
    (1..16).for_each(|n| delete(&store, n));
    small(&store, 20);
    room(10_000);
    let free = |store: &ChunkStore<MemDisk>| store.space()[0].bytes_free;
    assert_eq!(free(&store), 9000 + 60 * u64::from(BLOCK), "two packs of 32 units, two replicas");
    room(1500);
    let operations = disk.operations();
    assert_eq!(free(&store), 500 + 60 * u64::from(BLOCK));
    assert_eq!(disk.operations() - operations, 1, "who asks only looks");
    (0..2).for_each(|_| assert_eq!(store.compact(), 0));
    assert_eq!(free(&store), 500, "below the watermark nothing is kept");
    assert_eq!((store.get(h(0)), store.get(h(20))), (Ok(pattern(0, BLOCK)), Ok(pattern(20, BLOCK))));
    room(1 << 20);
    store.create(h(21), V1, 1).expect("create");
    assert_eq!(files_in(&disk, "/chunks/").len(), 1, "a pack would take too much of what is left");
}

#[test]
fn where_no_room_can_be_kept_it_is_taken_by_each_replica() {
    let (disk, store) = fresh();
    disk.cannot_allocate();
    disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: 3 << 20 });
    store.space();
    small(&store, 1);
    // the room of the file system is not asked for again until it seems short
    let mut made = 1;
    disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: 0 });
    while store.create(h(made + 1), V1, BLOCK).is_ok() {
        made += 1;
    }
    let (files, packs) = (files_in(&disk, "/chunks/").len() as u64, files_in(&disk, "/packs/").len() as u64);
    assert!(packs > 4 && files > 0, "a pack takes a sixteenth of what is left");
    // a header for a file; two units for a packed one, header and table for a pack
    let taken = u64::from(BLOCK) * (files + 2 * (made - files) + 2 * packs);
    assert!((3 << 20) - 2 * u64::from(BLOCK) <= taken + 1000 && taken <= 3 << 20, "{taken} bytes");
    assert_eq!(store.put(h(1), 0, &pattern(7, BLOCK)), Err(DataError::NoSpace));
    assert_eq!(store.get(h(1)), Ok(pattern(1, BLOCK)));
}

#[test]
fn an_idle_packed_replica_is_closed_without_a_flush() {
    let (disk, store) = fresh();
    (0..14).for_each(|n| small(&store, n));
    let syncs = disk.operations();
    (14..500).for_each(|n| small(&store, n));
    assert!(store.open_files() <= 128, "{}", store.open_files());
    let made = files_in(&disk, "/packs/").len() as u64 - 1;
    assert_eq!(disk.operations() - syncs, 486 * 2 + made * 6, "records, images, and six for a pack");
    assert!((0..500).all(|n| store.get(h(n)) == Ok(pattern(n as u8, BLOCK))));
}

#[test]
fn a_directory_of_the_first_format_is_taken_over() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, b"old").expect("write");
    store.stop().expect("stop");
    drop(store);
    let format = Path::new(DIR).join("format");
    let text = String::from_utf8(disk.content(&format).expect("format file")).expect("text");
    let text = text.replacen("directory 2", "directory 1", 1);
    let body = &text[..text.len() - "crc 00000000\n".len()];
    disk.put(&format, format!("{body}crc {:08x}\n", crc32c::crc32c(body.as_bytes())).into_bytes());
    disk.make_dir(&Path::new(DIR).join("spare")).expect("folder");
    disk.put(&Path::new(DIR).join("spare/7.2"), vec![0; 8192]);
    let store = open(&disk, "boot-2");
    assert_eq!(store.get(h(1)), Ok(b"old".to_vec()));
    assert!(files_in(&disk, "/spare/").is_empty());
    small(&store, 2);
    let text = String::from_utf8(disk.content(&format).expect("format file")).expect("text");
    assert!(text.starts_with("gfs-chunkserver-directory 2\n"), "{text}");
}
