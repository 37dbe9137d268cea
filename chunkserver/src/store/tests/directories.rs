//! Storage directories: formatting, refusing, several at once, identity, room.

use super::*;
use crate::store::disk::{DiskFile, OpenMode, Room};
use crate::store::mem::{Fault, Loss};
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{Incarnation, Term};
use std::path::Path;

fn fails(disk: &MemDisk, config: StoreConfig) -> StoreError {
    match ChunkStore::open(config, disk.clone()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn identity_is_kept_and_the_incarnation_raised_by_every_start() {
    let (disk, store) = fresh();
    let first = store.identity();
    assert_eq!(
        (first.cluster, first.uuid, first.incarnation),
        (Some(CLUSTER), ServerUuid::new([2; 16]), Incarnation::new(1))
    );
    store.observe_term(Term::new(9)).expect("term");
    store.observe_term(Term::new(5)).expect("an older term changes nothing");
    assert!(store.join(ClusterId::new([8; 16]), ChunkSize::new(CHUNK).expect("size")).is_err());
    assert!(store.join(CLUSTER, ChunkSize::new(2 * CHUNK).expect("size")).is_err());
    for run in 2..5 {
        disk.restart(Loss::Power(run));
        let other_uuid = StoreConfig { uuid_if_new: ServerUuid::new([3; 16]), ..config("boot") };
        let identity = ChunkStore::open(other_uuid, disk.clone()).expect("open").identity();
        assert_eq!((identity.incarnation, identity.highest_term), (Incarnation::new(run), Term::new(9)));
        assert_eq!(identity.uuid, ServerUuid::new([2; 16]));
    }
}

#[test]
fn nothing_is_stored_before_a_cluster_is_joined() {
    let disk = MemDisk::default();
    let store = open(&disk, "boot");
    assert_eq!(store.identity().cluster, None);
    assert_eq!(store.create(h(1), V1, 0), Err(DataError::Cluster));
}

#[test]
fn a_directory_in_use_is_refused() {
    let (disk, store) = fresh();
    let message = fails(&disk, config("boot-1")).to_string();
    assert!(message.contains(DIR) && message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(store);
    open(&disk, "boot-1");
}

#[test]
fn foreign_newer_damaged_and_mixed_directories_are_refused_by_name() {
    let (disk, store) = fresh();
    drop(store);
    let format = Path::new(DIR).join("format");
    let good = disk.content(&format).expect("format file");
    let text = String::from_utf8(good).expect("text");

    disk.put(&format, text.replacen("directory 2", "directory 9", 1).into_bytes());
    assert!(matches!(fails(&disk, config("b")), StoreError::Newer { found: 9, known: 2, .. }));
    disk.put(&format, text.replace("incarnation 1", "incarnation 2").into_bytes());
    let message = fails(&disk, config("b")).to_string();
    assert!(message.contains("/store/format is damaged"), "{message}");
    disk.put(&format, text.clone().into_bytes());

    disk.make_dir(Path::new("/home")).expect("directory");
    disk.put(Path::new("/home/letter.txt"), b"dear".to_vec());
    let foreign = StoreConfig { directories: vec!["/home".into()], ..config("b") };
    let message = fails(&disk, foreign).to_string();
    assert!(message.contains("/home") && message.contains("letter.txt"), "{message}");
    assert_eq!(disk.files().iter().filter(|path| path.starts_with("/home")).count(), 1, "nothing changed there");

    let other = StoreConfig { directories: vec!["/two".into()], uuid_if_new: ServerUuid::new([7; 16]), ..config("b") };
    drop(ChunkStore::open(other, disk.clone()).expect("another server's"));
    let both = StoreConfig { directories: vec![DIR.into(), "/two".into()], ..config("b") };
    assert!(matches!(fails(&disk, both), StoreError::Mismatch { what: "server", .. }));
    for bad in [
        StoreConfig { directories: vec![], ..config("b") },
        StoreConfig { directories: vec![DIR.into(), DIR.into()], ..config("b") },
        StoreConfig { watermark_bytes: 1, ..config("b") },
        config(""),
    ] {
        fails(&disk, bad);
    }
    open(&disk, "b");
}

#[test]
fn a_lost_format_file_does_not_make_chunks_vanish() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.mark_clean(&[h(1)]);
    drop(store);
    disk.remove(&Path::new(DIR).join("format")).expect("remove");
    assert!(matches!(fails(&disk, config("b")), StoreError::Foreign { .. }));
}

#[test]
fn formatting_survives_a_crash_anywhere() {
    for operation in (0..40).chain((40..700).step_by(37)) {
        for seed in 0..3 {
            let disk = MemDisk::default();
            disk.fail(operation, Fault::Crash);
            let _ = ChunkStore::open(config("boot-1"), disk.clone());
            disk.restart(Loss::Power(seed));
            open(&disk, "boot-2");
        }
    }
}

#[test]
fn chunks_go_where_most_room_is_and_are_found_again() {
    let disk = MemDisk::default();
    let two = StoreConfig { directories: vec!["/one".into(), "/two".into()], ..config("boot-1") };
    let store = ChunkStore::open(two.clone(), disk.clone()).expect("open");
    store.join(CLUSTER, ChunkSize::new(CHUNK).expect("size")).expect("join");
    for n in 0..40 {
        store.create(h(n), V1, 0).expect("create");
        store.put(h(n), 0, &pattern(n as u8, 2 * BLOCK)).expect("write");
    }
    let chunks: Vec<u64> = store.space().iter().map(|space| space.chunks).collect();
    assert!(chunks.iter().all(|count| *count > 10), "{chunks:?}");
    store.stop().expect("stop");
    drop(store);
    let store = ChunkStore::open(StoreConfig { boot_id: "boot-2".into(), ..two }, disk).expect("open");
    assert!((0..40).all(|n| store.get(h(n)) == Ok(pattern(n as u8, 2 * BLOCK))));
    assert!(store.rows().iter().all(|row| row.state == crate::store::ReplicaState::Clean));
}

#[test]
fn directories_in_one_file_system_share_its_room() {
    let disk = MemDisk::default();
    disk.mount(Path::new("/three"));
    disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: (1 << 20) + 1000 });
    let directories = vec!["/one".into(), "/two".into(), "/three".into()];
    let store = ChunkStore::open(StoreConfig { directories, ..config("boot-1") }, disk).expect("open");
    let space: Vec<(u64, u64)> = store.space().iter().map(|space| (space.bytes_total, space.bytes_free)).collect();
    assert_eq!(space, [(1 << 29, 1 << 19), (1 << 29, 1 << 19), (1 << 30, 1 << 20)]);
}

#[test]
fn of_two_copies_in_two_directories_the_higher_version_counts() {
    let (disk, store) = fresh();
    store.create(h(1), V2, LARGE).expect("create");
    store.put(h(1), 0, b"new").expect("write");
    store.mark_clean(&[h(1)]);
    drop(store);
    let both = StoreConfig { directories: vec!["/other".into(), DIR.into()], ..config("boot-1") };
    drop(ChunkStore::open(both.clone(), disk.clone()).expect("open"));
    let raw = disk.content(&file_of(&disk, h(1))).expect("file");
    disk.put(Path::new("/other/chunks/00/0000000000000001.1"), raw);
    let store = ChunkStore::open(both, disk.clone()).expect("open");
    assert_eq!((store.row(h(1)).map(|row| row.version), store.get(h(1))), (Some(V2), Ok(b"new".to_vec())));
    assert_eq!(disk.files().iter().filter(|path| path.to_string_lossy().contains("chunks/")).count(), 1);
}

#[test]
fn watermark_and_reserve_bound_what_is_stored_and_deletes_go_on() {
    let (disk, store) = fresh();
    let room = |free| disk.set_room(Room { file_system: 0, bytes_total: 1 << 30, bytes_free: free });
    room(1 << 20);
    store.create(h(1), V1, LARGE).expect("create");
    store.put(h(1), 0, &pattern(1, BLOCK)).expect("write");
    room(1999);
    let space = store.space().remove(0);
    assert_eq!((space.bytes_free, space.accepts_chunks), (999, false), "the reserve is taken off");
    assert_eq!(store.create(h(2), V1, 0), Err(DataError::NoSpace));
    store.put(h(1), 0, &pattern(2, BLOCK)).expect("above the reserve");
    room(999);
    store.space();
    assert_eq!(store.put(h(1), 0, &pattern(3, BLOCK)), Err(DataError::NoSpace));
    assert_eq!(store.get(h(1)), Ok(pattern(2, BLOCK)));
    store.cut(h(1), V1, 10).expect("a cut needs no room");
    assert_eq!(store.delete(&[SyncChunk { handle: h(1), version: V1 }]), [Ok(())]);
    room(1 << 20);
    store.create(h(2), V1, 0).expect("there is room again, and nobody had to say so");
}

#[test]
fn a_directory_that_fails_is_left_out_and_shown() {
    let disk = MemDisk::default();
    let two = StoreConfig { directories: vec!["/one".into(), "/no/such/parent".into()], ..config("boot-1") };
    let store = ChunkStore::open(two, disk.clone()).expect("one is enough");
    let space = store.space();
    assert!(space[0].error.is_empty() && space[1].error.contains("cannot make it"), "{space:?}");
    let none = StoreConfig { directories: vec!["/no/such/parent".into()], ..config("boot-1") };
    assert!(matches!(fails(&disk, none), StoreError::Io { .. }));
}

#[test]
fn a_directory_out_of_service_is_read_and_not_written() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    store.fail_directory(Path::new(DIR), "smells of smoke");
    assert_eq!(store.space()[0].error, "smells of smoke");
    assert_eq!(store.get(h(1)), Ok(b"data".to_vec()));
    assert_eq!(store.put(h(1), 0, b"more"), Err(DataError::Io));
    assert_eq!(store.create(h(2), V1, 0), Err(DataError::Io));
    let reported = [store.row(h(1)).expect("there").state, store.rows()[0].state];
    assert_eq!(reported, [ReplicaState::Failing; 2], "no copy to count on");
    drop(store);
    let store = open(&disk, "boot-1");
    store.put(h(1), 0, b"more").expect("in service again after a restart");
}

#[test]
fn what_is_deleted_in_a_directory_out_of_service_is_not_served_again() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    store.fail_directory(Path::new(DIR), "smells of smoke");
    disk.fail(0, Fault::Eio);
    let chunk = SyncChunk { handle: h(1), version: V1 };
    assert_eq!(store.delete(&[chunk]), [Ok(())], "the disk need not agree");
    assert_eq!((store.row(h(1)), store.get(h(1))), (None, Err(DataError::NoChunk)));
}

#[test]
fn a_failed_flush_is_remembered_until_a_person_removes_the_note() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.put(h(1), 0, b"data").expect("write");
    disk.fail(0, Fault::Eio);
    assert_eq!(store.flush(h(1)), Err(DataError::Io));
    drop(store);
    disk.restart(Loss::Process);
    let store = open(&disk, "boot-1");
    assert!(store.space()[0].error.contains("/store/failed"), "{:?}", store.space());
    assert_eq!(store.get(h(1)), Err(DataError::Suspect), "the page cache has what the disk never got");
    drop(store);
    disk.remove(&Path::new(DIR).join("failed")).expect("remove");
    let store = open(&disk, "boot-1");
    assert_eq!((store.space()[0].error.as_str(), store.get(h(1))), ("", Err(DataError::Suspect)));
}

#[test]
fn a_damaged_mark_journal_makes_everything_suspect() {
    let (disk, store) = fresh();
    store.create(h(1), V1, 0).expect("create");
    store.mark_clean(&[h(1)]);
    drop(store);
    let marks = Path::new(DIR).join("marks");
    let file = disk.open(&marks, OpenMode::Existing).expect("journal");
    file.write(40, &[&[1]]).expect("damage");
    assert_eq!(open(&disk, "boot-1").get(h(1)), Err(DataError::Suspect));
    assert_eq!(open(&disk, "boot-1").get(h(1)), Err(DataError::Suspect), "and it stays so");
}
