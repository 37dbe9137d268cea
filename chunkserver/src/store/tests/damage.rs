//! Damage: every bit that counts is guarded, what is found is noted for good, and mending neither loses nor makes up
//! anything, whenever it is cut off.

use super::*;
use crate::store::mem::{Fault, Loss};
use crate::store::{Fetched, ReplicaState};
use gfs_proto::checksum::BlockSum;
use std::path::Path;

const LENGTH: u32 = 2 * BLOCK + 100;

/// A store with a clean replica of 1, in a file of its own or in a pack, and where its image is.
fn with_replica(packed: bool) -> (MemDisk, ChunkStore<MemDisk>, (PathBuf, usize), Vec<u8>) {
    let (disk, store) = fresh();
    let data = pattern(1, LENGTH);
    store.create(h(1), V1, if packed { LENGTH } else { LARGE }).expect("create");
    store.put(h(1), 0, &data).expect("write");
    assert_eq!(store.mark_clean(&[h(1)]), [h(1)]);
    let place = if packed { image_in_pack(&disk) } else { (file_of(&disk, h(1)), 0) };
    (disk, store, place, data)
}

/// Where the first replica of the only pack is.
fn image_in_pack(disk: &MemDisk) -> (PathBuf, usize) {
    let is_pack = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("packs"));
    let path = disk.files().into_iter().find(is_pack).expect("a pack");
    let raw = disk.content(&path).expect("content");
    let at = raw.windows(8).position(|window| window == b"GFSchunk").expect("an image");
    (path, at)
}

fn flip(disk: &MemDisk, path: &Path, bit: usize) {
    let mut raw = disk.content(path).expect("content");
    raw[bit / 8] ^= 1 << (bit % 8);
    disk.put(path, raw);
}

/// What a good peer would send of these blocks.
fn from_peer(data: &[u8], blocks: impl IntoIterator<Item = u32>) -> Vec<Fetched<'_>> {
    let fetched = |block: u32| {
        let data = &data[(block * BLOCK) as usize..data.len().min(((block + 1) * BLOCK) as usize)];
        Fetched { block, data, sum: BlockSum::of(data) }
    };
    blocks.into_iter().map(fetched).collect()
}

/// Mends as the link does, from one good peer.
fn mend(store: &ChunkStore<MemDisk>, data: &[u8]) -> Result<(), DataError> {
    if store.examine(h(1), V1)?.headless {
        store.restore_header(h(1), V1, data.len() as u32)?;
    }
    let found = store.examine(h(1), V1)?;
    store.mend_alone(h(1), V1, &found)?;
    let found = store.examine(h(1), V1)?;
    store.mend_blocks(h(1), V1, &from_peer(data, found.blocks))?;
    store.examine(h(1), V1).map(|found| assert!(found.is_whole(), "{found:?}"))
}

/// Bits of an image that count: the header, the sums of all blocks that a chunk can have, the data with the rest of the
/// last block.
fn bits() -> impl Iterator<Item = usize> {
    let bytes = (0..512).step_by(3).chain((512..512 + 4 * 32).step_by(3)).chain((4096..4096 + 3 * 4096).step_by(97));
    bytes.map(|byte| byte * 8 + byte % 8)
}

#[test]
fn every_flipped_bit_is_found_by_scrubbing_and_mended() {
    for packed in [false, true] {
        let (base, store, (path, at), data) = with_replica(packed);
        drop(store);
        let mut count = 0;
        for bit in bits() {
            let disk = base.fork();
            disk.restart(Loss::Process);
            let store = open(&disk, "boot-1");
            let open_first = bit % 2 == 0;
            if open_first {
                assert_eq!(store.get(h(1)).as_ref(), Ok(&data));
            }
            // a file that ends with its last byte has nothing behind it
            if disk.content(&path).is_none_or(|raw| raw.len() * 8 <= at * 8 + bit) {
                continue;
            }
            flip(&disk, &path, at * 8 + bit);
            let mut found = crate::store::Findings::default();
            let next = store.scrub_part(h(1), V1, 0, &mut found);
            assert!(matches!(next, Ok(None)), "bit {bit}, packed {packed}: {next:?}");
            assert!(!found.is_whole(), "bit {bit}, packed {packed}");
            assert_eq!(store.state(h(1)), Some(ReplicaState::Damaged), "bit {bit}");
            assert!(store.take_harm_news().contains(&h(1)));
            mend(&store, &data).unwrap_or_else(|error| panic!("bit {bit}, packed {packed}: {error}"));
            assert_eq!(store.state(h(1)), Some(ReplicaState::Clean), "bit {bit}");
            assert_eq!(store.get(h(1)).as_ref(), Ok(&data), "bit {bit}");
            count += 1;
        }
        assert!(count > 200, "{count}");
    }
}

#[test]
fn a_damaged_replica_stays_that_over_a_power_cut_and_serves_its_other_blocks() {
    let (disk, store, (path, at), data) = with_replica(false);
    flip(&disk, &path, (at + 4096 + BLOCK as usize) * 8);
    assert_eq!(store.put(h(1), BLOCK + 10, b"part"), Err(DataError::Corrupt));
    assert_eq!(store.state(h(1)), Some(ReplicaState::Damaged), "a partial writer found it");
    assert_eq!(store.lend(h(1), V1).err(), Some(DataError::NotLent));
    drop(store);
    disk.restart(Loss::Power(1));
    let store = open(&disk, "boot-2");
    assert_eq!(store.state(h(1)), Some(ReplicaState::Damaged));
    let mut out = Vec::new();
    let read = store.read(h(1), V1, Extent { offset: 0, length: BLOCK }, &mut out).expect("read");
    assert_eq!((matches(&read, &out), &out[..]), (Ok(()), &data[..BLOCK as usize]));
    store.put(h(1), BLOCK, &data[BLOCK as usize..2 * BLOCK as usize]).expect("a whole block heals it");
    store.examine(h(1), V1).expect("examined");
    assert_eq!(store.state(h(1)), Some(ReplicaState::Dirty));
}

#[test]
fn adoption_gives_no_new_sums_to_what_was_damaged_before() {
    let (disk, store, (path, at), data) = with_replica(false);
    flip(&disk, &path, (at + 4096 + 5) * 8);
    assert_eq!(store.examine(h(1), V1).map(|found| found.blocks.len()), Ok(1));
    store.put(h(1), BLOCK, &data[BLOCK as usize..2 * BLOCK as usize]).expect("it is dirty again");
    drop(store);
    disk.restart(Loss::Power(1));
    let store = open(&disk, "boot-2");
    assert_eq!(store.state(h(1)), Some(ReplicaState::DamagedSuspect));
    let adopted = store.adopt(h(1), V1, V2).expect("adopted");
    assert_eq!((adopted.blocks_resummed, adopted.row.state), (0, ReplicaState::Damaged));
    assert_eq!(store.get(h(1)), Err(DataError::Corrupt), "no wrong byte passes for a good one");
}

#[test]
fn a_mend_writes_over_nothing_but_damage() {
    let (disk, store, (path, at), data) = with_replica(false);
    flip(&disk, &path, (at + 4096) * 8);
    assert_eq!(store.examine(h(1), V1).map(|found| found.blocks.len()), Ok(1));
    let newer = pattern(9, LENGTH);
    store.put(h(1), 0, &newer[..BLOCK as usize]).expect("a write comes before the mend");
    assert_eq!(store.mend_blocks(h(1), V1, &from_peer(&data, [0, 1, 2])), Ok(0));
    let expected = [&newer[..BLOCK as usize], &data[BLOCK as usize..]].concat();
    assert_eq!(store.get(h(1)), Ok(expected));
    flip(&disk, &path, (at + 4096 + 2 * BLOCK as usize) * 8);
    let longer = pattern(1, LENGTH + 50);
    assert_eq!(store.mend_blocks(h(1), V1, &from_peer(&longer, [2])), Ok(0), "a peer of another length");
    let wrong = Fetched { sum: BlockSum::HOLE, ..from_peer(&data, [2])[0] };
    assert_eq!(store.mend_blocks(h(1), V1, &[wrong]), Ok(0), "a peer whose block does not match either");
    assert_eq!(store.mend_blocks(h(1), V2, &from_peer(&data, [2])), Err(DataError::Version));
}

#[test]
fn a_crash_at_any_operation_of_a_mend_loses_nothing() {
    for (packed, byte) in [(false, 4096), (false, 516), (false, 3), (true, 4096 + 10), (true, 504), (true, 1000)] {
        for fault in [Fault::Crash, Fault::Eio, Fault::Enospc] {
            crash_in_mends(packed, byte, fault);
        }
    }
}

fn crash_in_mends(packed: bool, byte: usize, fault: Fault) {
    let (base, store, (path, at), data) = with_replica(packed);
    drop(store);
    flip(&base, &path, (at + byte) * 8);
    for operation in 0..1000 {
        let context = format!("packed {packed}, byte {byte}, {fault:?} at {operation}");
        let disk = base.fork();
        disk.restart(Loss::Process);
        let store = open(&disk, "boot-1");
        disk.fail(operation, fault);
        let mended = mend(&store, &data);
        let over = !disk.failed();
        disk.heal();
        drop(store);
        disk.restart(Loss::Power(operation));
        let note = Path::new(DIR).join("failed");
        if disk.content(&note).is_some() {
            disk.remove(&note).expect("remove");
        }
        let store = open(&disk, "boot-2");
        let state = store.state(h(1)).unwrap_or_else(|| panic!("{context}: it is gone"));
        if state.is_suspect() {
            assert!(fault != Fault::Crash, "{context}: {mended:?}");
            continue;
        }
        if mended.is_ok() {
            assert_eq!(store.get(h(1)).as_ref(), Ok(&data), "{context}");
        }
        mend(&store, &data).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!((store.get(h(1)).as_ref(), store.state(h(1))), (Ok(&data), Some(ReplicaState::Clean)), "{context}");
        if over {
            assert!(mended.is_ok() && operation > 5, "{context}");
            return;
        }
    }
    panic!("a mend is longer than expected");
}

#[test]
fn records_and_headers_of_packs_are_written_anew() {
    let (base, store, (path, at), data) = with_replica(true);
    store.create(h(2), V1, 100).expect("create");
    store.put(h(2), 0, b"second").expect("write");
    store.mark_clean(&[h(2)]);
    let table = base.content(&path).expect("content")[4096..at].to_vec();
    let used: Vec<usize> = (0..table.len()).filter(|byte| table[byte / 32 * 32..][..32] != [0; 32]).collect();
    let empty = 4096 + 31 * 32 + 5;
    for byte in used.into_iter().map(|byte| 4096 + byte).chain([empty]).chain(0..28) {
        flip(&base, &path, byte * 8 + byte % 8);
        assert_eq!(store.scrub_packs(), 1, "byte {byte}");
        assert_eq!(store.scrub_packs(), 0, "byte {byte}");
        if byte % 5 == 0 {
            let disk = base.fork();
            disk.restart(Loss::Power(byte as u64));
            let store = open(&disk, "boot-2");
            assert_eq!(store.get(h(1)).as_ref(), Ok(&data), "byte {byte}");
            assert_eq!(store.get(h(2)), Ok(b"second".to_vec()), "byte {byte}");
        }
    }
}
