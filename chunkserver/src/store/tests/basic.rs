//! One replica from creation to deletion, without faults.

use super::*;
use crate::store::ReplicaState::{Clean, Dirty};
use crate::store::mem::Loss;

#[test]
fn a_chunk_is_created_written_read_and_deleted() {
    let (_, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    assert_eq!(store.create(h(1), V1, 0), Err(DataError::Epoch), "it is there already");
    assert_eq!(store.get(h(1)), Ok(vec![]));
    assert_eq!(store.put(h(1), 0, b"hello"), Ok(5));
    assert_eq!(store.put(h(1), 3, b"p!"), Ok(5));
    assert_eq!(store.get(h(1)), Ok(b"help!".to_vec()));
    assert_eq!(store.length(h(1), V1), Ok(5));
    assert_eq!(store.length(h(1), V2), Err(DataError::Version));
    let chunk = |handle, version| SyncChunk { handle, version };
    let deleted = store.delete(&[chunk(h(1), V2), chunk(h(9), V1), chunk(h(1), V1)]);
    assert_eq!(deleted, [Err(DataError::Version), Err(DataError::NoChunk), Ok(())]);
    assert_eq!(store.get(h(1)), Err(DataError::NoChunk));
    store.create(h(1), V1, 0).expect("the handle is free again");
}

#[test]
fn a_chunk_that_begins_again_takes_the_place_of_an_older_replica() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, b"void").expect("write");
    store.create(h(1), V2, 0).expect("a higher version");
    assert_eq!(store.length(h(1), V2), Ok(0));
    assert_eq!(store.create(h(1), V1, 0), Err(DataError::Epoch), "too late");
    assert_eq!(store.length(h(1), V1), Err(DataError::Version));
    drop(store);
    let store = open(&disk, "A");
    assert_eq!(store.row(h(1)).map(|row| row.version), Some(V2));
    assert_eq!(store.rows().len(), 1);
}

#[test]
fn creating_and_writing_a_small_chunk_are_two_operations() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("room is known afterwards");
    let before = disk.operations();
    store.create(h(2), V1, 0).expect("create");
    store.put(h(2), 0, &pattern(1, BLOCK)).expect("write");
    assert_eq!(disk.operations() - before, 2);
    let before = disk.operations();
    store.put(h(2), 0, &pattern(2, BLOCK)).expect("overwrite");
    assert_eq!(disk.operations() - before, 2, "data, sums");
    let before = disk.operations();
    store.put(h(2), BLOCK, &pattern(3, 8 * BLOCK)).expect("append");
    assert_eq!(disk.operations() - before, 4, "the record with more units, data, sums, length");
}

#[test]
fn partial_blocks_are_merged_and_holes_read_as_zeroes() {
    let (_, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 3 * BLOCK + 100, b"far").expect("write behind a hole");
    let mut model = vec![0; 3 * BLOCK as usize + 100];
    model.extend_from_slice(b"far");
    assert_eq!(store.get(h(1)), Ok(model.clone()));
    store.put(h(1), 4090, &pattern(9, 20)).expect("across a block border, into the hole");
    model[4090..4110].copy_from_slice(&pattern(9, 20));
    assert_eq!(store.get(h(1)), Ok(model.clone()));
    let extents =
        [(4095, 2), (5, 10), (17, 3), (12_389, 3), (12_392, 4)].map(|(offset, length)| Extent { offset, length });
    let payload = pattern(77, 22);
    store.put_all(h(1), &extents, &payload).expect("several extents in the same blocks, out of order");
    let mut at = 0;
    model.resize(12_396, 0);
    for Extent { offset, length } in extents {
        let (offset, length) = (offset as usize, length as usize);
        model[offset..offset + length].copy_from_slice(&payload[at..at + length]);
        at += length;
    }
    assert_eq!(store.get(h(1)), Ok(model));
    assert_eq!(store.verify(h(1), V1), Ok(0));
}

#[test]
fn sums_beyond_the_header_lie_after_the_data() {
    let (disk, store) = fresh_with(8 << 20);
    store.create(h(1), V1, 0).expect("create");
    // 896 blocks have their sums in the header
    let (border, data) = (896 * BLOCK, pattern(5, 40 * BLOCK));
    store.put(h(1), border - 20 * BLOCK, &data).expect("write across the border");
    store.put(h(1), border + 100, b"x").expect("partial block with its sum at the tail");
    store.put(h(1), (8 << 20) - 10, &[7; 10]).expect("the last bytes of the chunk");
    assert_eq!(store.put(h(1), (8 << 20) - 10, &[7; 11]), Err(DataError::Protocol));
    let mut model = vec![0; 8 << 20];
    let at = (border - 20 * BLOCK) as usize;
    model[at..at + data.len()].copy_from_slice(&data);
    model[border as usize + 100] = b'x';
    model[(8 << 20) - 10..].fill(7);
    assert_eq!(store.get(h(1)), Ok(model.clone()));
    assert_eq!(disk.content(&file_of(&disk, h(1))).map(|raw| raw.len()), Some(4096 + (8 << 20) + 4 * (2048 - 896)));
    store.cut(h(1), V1, border + 50).expect("cut");
    model.truncate(border as usize + 50);
    assert_eq!(store.get(h(1)), Ok(model.clone()));
    store.put(h(1), (8 << 20) - 1, b"z").expect("grow again");
    model.resize(8 << 20, 0);
    model[(8 << 20) - 1] = b'z';
    assert_eq!(store.get(h(1)), Ok(model.clone()), "nothing cut comes back");
    assert_eq!(store.verify(h(1), V1), Ok(0));
    store.flush(h(1)).expect("flush");
    drop(store);
    disk.restart(Loss::Process);
    assert_eq!(open(&disk, "boot-1").get(h(1)), Ok(model));
}

#[test]
fn damage_is_seen_by_readers_by_partial_writers_and_by_verify() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    let data = pattern(1, 2 * BLOCK + 100);
    store.put(h(1), 0, &data).expect("write");
    store.mark_clean(&[h(1)]);
    let path = file_of(&disk, h(1));
    let good = disk.content(&path).expect("file");
    drop(store);
    for bit in [4096 * 8, (4096 + 4095) * 8 + 7, (4096 + 8191) * 8, (4096 + 8192 + 99) * 8 + 3, 512 * 8, 520 * 8 + 31] {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let disk = disk.fork();
        disk.put(&path, bad);
        let store = open(&disk, "boot-1");
        assert_eq!(store.get(h(1)), Err(DataError::Corrupt), "bit {bit}");
        assert_eq!(store.verify(h(1), V1), Ok(1), "bit {bit}");
        let block = match bit / 8 {
            sums @ 512..4096 => (sums as u32 - 512) / 4,
            data => (data as u32 - 4096) / BLOCK,
        };
        assert_eq!(store.put(h(1), block * BLOCK + 10, b"merge"), Err(DataError::Corrupt), "bit {bit}");
        assert_eq!(store.cut(h(1), V1, block * BLOCK + 10), Err(DataError::Corrupt), "bit {bit}");
        if block < 2 {
            store.put(h(1), block * BLOCK, &pattern(3, BLOCK)).expect("a whole block needs nothing of the old one");
            assert_eq!(store.verify(h(1), V1), Ok(0), "bit {bit}");
        }
    }
    for cut in [0, 100, 4000, good.len() - 1] {
        let disk = disk.fork();
        disk.put(&path, good[..cut].to_vec());
        assert_eq!(open(&disk, "boot-1").get(h(1)), Err(DataError::Corrupt), "cut to {cut}");
    }
}

#[test]
fn what_arrives_damaged_is_refused() {
    let (_, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    let extents = [Extent { offset: 0, length: 5 }];
    let sums = sums_of(&extents, b"hello");
    let write = WriteData { extents: &extents, payload: b"hallo", sums: &sums };
    assert_eq!(store.write(h(1), V1, &write), Err(DataError::Transfer));
    assert_eq!(store.get(h(1)), Ok(vec![]));
}

#[test]
fn reads_are_cut_at_the_end_and_give_the_sums_of_their_blocks() {
    let (_, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    let data = pattern(1, 10_000);
    store.put(h(1), 0, &data).expect("write");
    let range = |offset, length| Extent { offset, length };
    for (offset, length, expect) in [(0, 4096, 4096), (4096, 8192, 5904), (8192, 4096, 1808), (12_288, 4096, 0)] {
        let mut out = b"before".to_vec();
        let read = store.read(h(1), V1, range(offset, length), &mut out).expect("read");
        assert_eq!((read.data_len, read.chunk_length), (expect, 10_000));
        let bytes = &data[(offset as usize).min(10_000)..][..expect as usize];
        assert_eq!(&out[6..], bytes);
        matches(&read, bytes).expect("sums");
        let mut cached = Vec::new();
        assert_eq!(store.read_cached(h(1), V1, range(offset, length), &mut cached), Ok(Some(read.clone())));
        assert_eq!(cached, bytes);
        let plan = store.plan_send(h(1), V1, range(offset, length)).expect("plan");
        assert_eq!((plan.length, plan.sums, plan.offset), (expect, read.sums, 4096 + u64::from(offset)));
    }
    assert_eq!(store.read(h(1), V1, range(1, 4096), &mut Vec::new()), Err(DataError::Protocol));
    assert_eq!(store.read(h(1), V2, range(0, 4096), &mut Vec::new()), Err(DataError::Version));
}

#[test]
fn dirty_becomes_clean_and_dirty_again() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, b"one").expect("write");
    assert_eq!(store.state(h(1)), Some(Dirty));
    assert_eq!(store.dirty(), [h(1)]);
    assert_eq!(store.mark_clean(&[h(1), h(2)]), [h(1)]);
    assert_eq!(store.state(h(1)), Some(Clean));
    assert!(file_of(&disk, h(1)).to_string_lossy().ends_with("0001.1"));
    store.put(h(1), 0, b"two").expect("write");
    assert_eq!(store.state(h(1)), Some(Dirty));
    assert_eq!(store.mark_clean(&[h(1)]), [h(1)]);
    store.create(h(3), V1, LARGE).expect("create");
    assert_eq!(store.mark_clean(&store.dirty()), [h(3)], "a chunk never written");
    assert!(store.dirty().is_empty());
    drop(store);
    let store = open(&disk, "boot-2");
    assert_eq!((store.state(h(1)), store.state(h(3))), (Some(Clean), Some(Clean)));
    assert_eq!((store.get(h(1)), store.get(h(3))), (Ok(b"two".to_vec()), Ok(vec![])));
}

#[test]
fn raising_the_version_keeps_content_and_state() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    store.raise(h(1), V1, V2).expect("raise");
    store.raise(h(1), V1, V2).expect("once more: the answer may have been lost");
    assert_eq!(store.raise(h(1), V1, ChunkVersion::new(3)), Err(DataError::Version));
    assert_eq!(store.get(h(1)), Ok(b"data".to_vec()));
    assert!(file_of(&disk, h(1)).to_string_lossy().ends_with(".2.d"));
    store.mark_clean(&[h(1)]);
    store.raise(h(1), V2, ChunkVersion::new(7)).expect("raise");
    assert_eq!(store.state(h(1)), Some(Clean));
    assert!(file_of(&disk, h(1)).to_string_lossy().ends_with(".7"));
}

#[test]
fn a_copy_replaces_an_older_or_suspect_replica_only() {
    let (disk, store) = fresh();
    let data = [pattern(1, BLOCK), vec![0; 2 * BLOCK as usize], pattern(2, 100)].concat();
    let sums = encode_sums(block_sums(&data));
    let import = |store: &ChunkStore<MemDisk>, version| {
        let mut importer = store.import(h(1), version)?;
        importer.write(0, &data[..2 * BLOCK as usize], &sums[..8])?;
        importer.write(2 * BLOCK, &data[2 * BLOCK as usize..], &sums[8..])?;
        importer.finish(data.len() as u32)
    };
    assert_eq!(import(&store, V1).expect("import").state, Clean);
    assert_eq!(store.get(h(1)), Ok(data.clone()));
    assert_eq!(import(&store, V1), Err(DataError::Version), "a good one is there");
    store.put(h(1), 0, b"dirty").expect("write");
    assert_eq!(import(&store, V2).expect("import").version, V2);
    assert_eq!(store.get(h(1)), Ok(data.clone()));
    store.put(h(1), 0, b"dirty").expect("write");
    drop(store);
    let store = open(&disk, "boot-2");
    assert_eq!(store.get(h(1)), Err(DataError::Suspect));
    let mut bad = store.import(h(1), V2).expect("import");
    assert_eq!(bad.write(0, &data[..4096], &sums[4..8]), Err(DataError::Transfer));
    assert!(matches!(store.import(h(1), V2), Err(DataError::Busy)));
    drop(bad);
    import(&store, V2).expect("import");
    assert_eq!(store.get(h(1)), Ok(data.clone()));
    disk.restart(Loss::Power(1));
    let store = open(&disk, "boot-3");
    assert_eq!((store.state(h(1)), store.get(h(1))), (Some(Clean), Ok(data)));
    assert_eq!(disk.files().iter().filter(|path| path.starts_with("/store/chunks")).count(), 1);
}

#[test]
fn an_adopted_replica_gets_sums_for_what_it_has() {
    let (disk, store) = fresh();
    store.create(h(1), V1, LARGE).expect("create");
    let data = pattern(1, 3 * BLOCK);
    store.put(h(1), 0, &data).expect("write");
    store.mark_clean(&[h(1)]);
    store.put(h(1), 0, &data).expect("dirty again");
    store.flush(h(1)).expect("flush");
    drop(store);
    let path = file_of(&disk, h(1));
    let mut raw = disk.content(&path).expect("file");
    raw[4096 + 5000] ^= 1;
    disk.put(&path, raw);
    let store = open(&disk, "boot-2");
    assert_eq!(store.get(h(1)), Err(DataError::Suspect));
    let adopted = store.adopt(h(1), V1, V2).expect("adopt");
    assert_eq!((adopted.blocks_resummed, adopted.row.version, adopted.row.state), (1, V2, Clean));
    let mut expect = data;
    expect[5000] ^= 1;
    assert_eq!(store.get(h(1)), Ok(expect.clone()));
    disk.restart(Loss::Power(7));
    let store = open(&disk, "boot-3");
    assert_eq!((store.state(h(1)), store.get(h(1))), (Some(Clean), Ok(expect)));
    assert_eq!(store.adopt(h(1), V1, V2).map(|adopted| adopted.blocks_resummed), Ok(0), "repeated");
}

#[test]
fn many_open_files_are_closed_again() {
    let (_, store) = fresh();
    for n in 0..500 {
        store.create(h(n), V1, 0).expect("create");
        store.put(h(n), 0, &n.to_le_bytes()).expect("write");
    }
    assert!(store.open_files() <= 128, "{}", store.open_files());
    for n in 0..500 {
        assert_eq!(store.get(h(n)), Ok(n.to_le_bytes().to_vec()));
        store.put(h(n), 8, b"more").expect("write");
    }
    assert!(store.open_files() <= 128, "{}", store.open_files());
    assert_eq!(store.mark_clean(&store.dirty()).len(), 500);
}

#[test]
fn writers_of_one_chunk_and_readers_exclude_each_other() {
    let (_, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, &[0; 8192]).expect("write");
    std::thread::scope(|scope| {
        for thread in 1..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..200_u32 {
                    store.put(h(1), 100 * thread, &[round as u8; 5000]).expect("write");
                    if round % 50 == 0 {
                        store.mark_clean(&[h(1)]);
                    }
                }
            });
            scope.spawn(move || (0..200).for_each(|_| drop(store.get(h(1)).expect("sums match at any time"))));
        }
    });
    assert_eq!(store.verify(h(1), V1), Ok(0));
}

#[test]
fn what_needs_no_flush_is_known_beforehand() {
    let (_, store) = fresh();
    assert!(!store.creates_at_once(h(1), BLOCK), "a pack has to be made");
    assert!(store.creates_at_once(h(1), LARGE), "a file");
    store.create(h(1), V1, BLOCK).expect("create");
    store.create(h(4), V1, 16 * BLOCK).expect("create");
    assert!(store.creates_at_once(h(2), 12 * BLOCK) && !store.creates_at_once(h(2), 13 * BLOCK), "13 units are left");
    assert!(!store.creates_at_once(h(1), BLOCK), "the former one has to go for good");
    store.put(h(1), 0, &pattern(1, BLOCK)).expect("write");
    assert!(store.writes_at_once(h(1), BLOCK) && !store.writes_at_once(h(1), BLOCK + 1), "it would be moved");
    store.mark_clean(&[h(1)]);
    assert!(!store.writes_at_once(h(1), BLOCK), "it would be marked");
    store.create(h(2), V1, LARGE).expect("create");
    assert!(store.writes_at_once(h(2), CHUNK) && !store.writes_at_once(h(3), 1));
}

#[test]
fn a_cached_read_does_not_wait_for_one_who_has_the_replica() {
    let (_, store) = fresh();
    store.create(h(1), V1, BLOCK).expect("create");
    store.put(h(1), 0, &pattern(1, BLOCK)).expect("write");
    let range = Extent { offset: 0, length: BLOCK };
    let found = || {
        let cached = store.read_cached(h(1), V1, range, &mut Vec::new()).expect("read");
        (cached.is_some(), store.plan_send_now(h(1), V1, range).expect("plan").is_some())
    };
    assert_eq!(found(), (true, true));
    let moved = store.with_exclusive(h(1), V1, |_, _| Ok(found()));
    assert_eq!(moved, Ok((false, false)));
}
