//! The same on the file system of this machine.

use super::*;
use crate::store::ReplicaState;
use crate::store::real::RealDisk;
use std::os::unix::fs::MetadataExt;

fn real(dir: &tempfile::TempDir, boot: &str) -> ChunkStore<RealDisk> {
    let config = StoreConfig { directories: vec![dir.path().join("store")], ..config(boot) };
    ChunkStore::open(config, RealDisk).expect("store opens")
}

fn fresh_real(chunk_bytes: u32) -> (tempfile::TempDir, ChunkStore<RealDisk>) {
    let dir = tempfile::tempdir().expect("directory");
    let store = real(&dir, "boot-1");
    store.join(CLUSTER, ChunkSize::new(chunk_bytes).expect("size")).expect("join");
    (dir, store)
}

#[test]
fn chunks_survive_a_stop_and_the_death_of_the_process() {
    let (dir, store) = fresh_real(CHUNK);
    for n in 0..50 {
        store.create(h(n), V1, 0).expect("create");
        store.put(h(n), n as u32 * 100, &pattern(n as u8, 9000)).expect("write");
    }
    store.flush(h(7)).expect("flush");
    assert_eq!(store.mark_clean(&store.dirty()).len(), 50);
    store.put(h(3), 0, b"over").expect("write");
    store.raise(h(4), V1, V2).expect("raise");
    store.cut(h(5), V1, 700).expect("cut");
    assert_eq!(store.delete(&[SyncChunk { handle: h(6), version: V1 }]), [Ok(())]);
    let contents = |store: &ChunkStore<RealDisk>| (0..50).map(|n| store.get(h(n))).collect::<Vec<_>>();
    let before = contents(&store);
    drop(store);
    let store = real(&dir, "boot-1");
    assert_eq!(contents(&store), before);
    assert_eq!(store.state(h(3)), Some(ReplicaState::Dirty));
    store.stop().expect("stop");
    drop(store);
    let store = real(&dir, "boot-2");
    assert_eq!(contents(&store), before);
    assert!(store.rows().iter().all(|row| row.state == ReplicaState::Clean));
    let cached = store.read_cached(h(1), V1, Extent { offset: 0, length: 4096 }, &mut Vec::new());
    assert_eq!(cached.expect("read").map(|read| read.data_len), Some(4096), "the page cache has it");
}

#[test]
fn large_sparse_chunks_take_only_the_room_of_their_data() {
    let (dir, store) = fresh_real(64 << 20);
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), (64 << 20) - BLOCK, &pattern(1, BLOCK)).expect("the last block");
    store.put(h(1), 20 << 20, &pattern(2, 1 << 20)).expect("1 MiB in the middle");
    let path = dir.path().join("store/chunks/00/0000000000000001.1.d");
    let meta = std::fs::metadata(&path).expect("file");
    assert!(meta.size() > 64 << 20 && meta.blocks() * 512 < 2 << 20, "{} bytes", meta.blocks() * 512);
    let mut out = Vec::new();
    let read = store.read(h(1), V1, Extent { offset: 20 << 20, length: 1 << 20 }, &mut out).expect("read");
    matches(&read, &out).expect("sums");
    assert_eq!(out, pattern(2, 1 << 20));
    store.cut(h(1), V1, BLOCK).expect("cut");
    assert!(std::fs::metadata(&path).expect("file").blocks() * 512 <= 16 << 10, "cutting gives the room back");
    assert_eq!(store.get(h(1)), Ok(vec![0; BLOCK as usize]));
}

#[test]
fn a_second_store_on_the_same_directory_is_refused() {
    let (dir, _store) = fresh_real(CHUNK);
    let config = StoreConfig { directories: vec![dir.path().join("store")], ..config("boot-1") };
    match ChunkStore::open(config, RealDisk) {
        Err(StoreError::Locked { holder, .. }) => assert_eq!(holder, format!(" (process {})", std::process::id())),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_plan_names_the_file_to_send_from() {
    let (_dir, store) = fresh_real(CHUNK);
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, &pattern(1, 10_000)).expect("write");
    let plan = store.plan_send(h(1), V1, Extent { offset: 4096, length: 8192 }).expect("plan");
    let mut sent = vec![0; plan.length as usize];
    let got = rustix::io::pread(&*plan.file, &mut sent[..], plan.offset).expect("read");
    assert_eq!((got, &sent[..]), (5904, &pattern(1, 10_000)[4096..]));
}

#[test]
fn packs_work_on_a_file_system_in_memory() {
    let shared = std::path::Path::new("/dev/shm");
    let Ok(dir) = tempfile::tempdir_in(shared) else { return };
    let store = real(&dir, "boot-1");
    store.join(CLUSTER, ChunkSize::new(CHUNK).expect("size")).expect("join");
    for n in 0..40 {
        store.create(h(n), V1, BLOCK).expect("create");
        store.put(h(n), 0, &pattern(n as u8, BLOCK)).expect("write");
    }
    store.put(h(3), BLOCK, &pattern(1, 3 * BLOCK)).expect("moved");
    store.put(h(4), 64 << 10, b"own file").expect("moved");
    store.flush(h(3)).expect("flush");
    assert_eq!(store.delete(&[SyncChunk { handle: h(5), version: V1 }]), [Ok(())]);
    let before: Vec<_> = (0..40).map(|n| store.get(h(n))).collect();
    drop(store);
    let store = real(&dir, "boot-1");
    assert_eq!((0..40).map(|n| store.get(h(n))).collect::<Vec<_>>(), before);
    assert_eq!(store.get(h(5)), Err(DataError::NoChunk));
}

#[test]
fn room_of_deleted_chunks_in_packs_is_given_back() {
    let (dir, store) = fresh_real(CHUNK);
    for n in 0..16 {
        store.create(h(n), V1, BLOCK).expect("create");
        store.put(h(n), 0, &pattern(n as u8, BLOCK)).expect("write");
    }
    let chunks: Vec<_> = (1..16).map(|n| SyncChunk { handle: h(n), version: V1 }).collect();
    store.delete(&chunks).into_iter().for_each(|done| done.expect("delete"));
    let pack = dir.path().join("store/packs/00000000");
    let taken = || std::fs::metadata(&pack).expect("pack").blocks() * 512;
    assert!(taken() >= 128 << 10, "{}", taken());
    while store.directories[0].packs.release().expect("flush") {}
    assert!(taken() <= 4 * u64::from(BLOCK), "{}: header, table, one replica", taken());
    assert_eq!(store.get(h(0)), Ok(pattern(0, BLOCK)));
}

#[test]
fn a_clean_stop_gives_back_what_was_not_given_out() {
    let (dir, store) = fresh_real(CHUNK);
    store.create(h(1), V1, BLOCK).expect("create");
    store.put(h(1), 0, &pattern(1, BLOCK)).expect("write");
    store.stop().expect("stop");
    let taken = std::fs::metadata(dir.path().join("store/packs/00000000")).expect("pack").blocks() * 512;
    assert!(taken <= 4 * u64::from(BLOCK), "{taken}: header, table, one replica");
    drop(store);
    let store = real(&dir, "boot-2");
    assert_eq!((store.directories[0].packs.idle(), store.get(h(1))), (0, Ok(pattern(1, BLOCK))));
}

#[test]
#[ignore = "makes 100,000 chunks: run it alone, optimised"]
fn a_server_with_100_000_packed_chunks_starts_in_two_seconds() {
    let dir = tempfile::tempdir().expect("directory");
    let open = |boot: &str| {
        let directories = vec![dir.path().join("store")];
        let config = StoreConfig { directories, pack_bytes: 64 << 20, ..config(boot) };
        ChunkStore::open(config, RealDisk).expect("store opens")
    };
    let store = open("boot-1");
    store.join(CLUSTER, ChunkSize::new(64 << 20).expect("size")).expect("join");
    for n in 0..100_000 {
        store.create(h(n), V1, 100).expect("create");
        store.put(h(n), 0, &[1; 100]).expect("write");
    }
    store.stop().expect("stop");
    drop(store);
    let begun = std::time::Instant::now();
    let store = open("boot-2");
    assert_eq!(store.rows().len(), 100_000);
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    assert_eq!(store.open_files(), 0, "no chunk is opened");
}

#[test]
#[ignore = "makes 100,000 files: run it alone, optimised"]
fn a_server_with_100_000_chunks_starts_in_two_seconds() {
    let (dir, store) = fresh_real(64 << 20);
    store.stop().expect("stop");
    drop(store);
    for n in 0..100_000_u64 {
        let subdir = dir.path().join(format!("store/chunks/{:02x}", (n >> 8) & 0xff));
        std::fs::write(subdir.join(format!("{n:016x}.1")), b"").expect("file");
    }
    let begun = std::time::Instant::now();
    let store = real(&dir, "boot-2");
    assert_eq!(store.rows().len(), 100_000);
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    assert_eq!(store.open_files(), 0, "no chunk is opened");
}
