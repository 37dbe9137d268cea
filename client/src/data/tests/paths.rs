//! The paths without faults: how many frames, how many requests, which bytes.

use super::cluster::{Cluster, INODE, config};
use super::{eventually, pattern};
use crate::data::Tried;
use crate::data::{DataConfig, OpenData};
use gfs_proto::chunk::ChunkMap;
use gfs_proto::ids::{ChunkIndex, ChunkVersion, Serial, TruncateGeneration};
use gfs_proto::{FsError, limits};
use std::sync::atomic::Ordering;

const CHUNK: u32 = 256 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_is_one_creating_frame_to_each_server() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 4096, 1)).await.expect("buffered");
    assert_eq!(cluster.writes(), [0, 0, 0], "nothing is sent before close");
    assert!(file.is_dirty());
    file.flush().await.expect("flushed");
    assert_eq!(cluster.writes(), [1, 1, 1]);
    for server in &cluster.servers {
        let write = server.seen.lock().writes[0].clone();
        assert!(write.create && !write.sync && write.chain.is_empty() && write.serial == Some(Serial::new(1)));
    }
    assert!(!file.is_dirty() && plane.dirty_bytes() == 0);
    assert_eq!(cluster.content(4096, false), pattern(0, 4096, 1));
    assert_eq!((cluster.grants.load(Ordering::Relaxed), cluster.reads()), (0, 0));
    assert_eq!(file.read(0, 8192).await.expect("read"), pattern(0, 4096, 1));
    assert_eq!(cluster.reads(), 0, "just written");
    file.flush().await.expect("nothing to do");
    assert_eq!(cluster.writes(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_in_full_frames_along_the_chain_while_it_is_written() {
    let cluster = Cluster::start(4 << 20).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 10 << 20, 3);
    for (i, part) in data.chunks(128 << 10).enumerate() {
        file.write((i * (128 << 10)) as u64, part).await.expect("buffered");
    }
    eventually("full frames to be sent without a flush", || plane.dirty_bytes() == 0).await;
    file.flush().await.expect("flushed");
    assert_eq!(cluster.content(data.len() as u64, false), data);
    let seen = cluster.servers[0].seen.lock().writes.clone();
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|write| write.extents.len() == 1 && write.extents[0].length == 1 << 20));
    let chains: Vec<bool> = seen.iter().map(|write| write.chain.len() == 2).collect();
    assert_eq!(chains.iter().filter(|chain| !**chain).count(), 3, "the first frame of each chunk is a star");
    assert_eq!(cluster.breaks.load(Ordering::Relaxed), 0);
    assert_eq!(cluster.grants.load(Ordering::Relaxed), 2, "chunks 1 and 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_buffered_goes_before_what_is_written_after() {
    let cluster = Cluster::start(CHUNK).await;
    let file = cluster.create(&cluster.plane(config()));
    file.write(0, &pattern(0, 4096, 1)).await.expect("buffered");
    file.stop_buffering();
    assert!(file.try_write(0, b"x").is_none());
    file.write(0, &pattern(0, 100, 9)).await.expect("written through");
    file.flush().await.expect("flushed");
    let wanted = [pattern(0, 100, 9), pattern(100, 3996, 1)].concat();
    assert!(cluster.content(4096, false) == wanted && file.read(0, 4096).await.expect("read") == wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scattered_small_writes_share_a_frame() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    for i in (0..10u64).rev() {
        file.write(i * 8192, &[i as u8; 100]).await.expect("buffered");
    }
    file.flush().await.expect("flushed");
    assert_eq!(cluster.writes(), [1, 1, 1]);
    assert_eq!(cluster.servers[1].seen.lock().writes[0].extents.len(), 10);
    let read = file.read(8192, 8192).await.expect("read");
    assert_eq!((&read[..100], &read[100..]), (&[1; 100][..], &[0; 8092][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_ask_for_their_blocks_only_and_streams_read_ahead() {
    let cluster = Cluster::start(1 << 20).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, (8 << 20) + 1000, 9);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");

    let other = cluster.plane(config());
    let file = cluster.open(&other, data.len() as u64, None, true);
    for at in [5 << 20, 100, 3 << 20, 7_300_000] {
        assert_eq!(file.read(at, 4096).await.expect("read"), data[at as usize..at as usize + 4096]);
    }
    let lengths: Vec<u32> =
        cluster.servers.iter().flat_map(|s| s.seen.lock().reads.clone()).map(|r| r.length).collect();
    assert!(lengths.iter().all(|length| *length <= 8192), "{lengths:?}");
    assert_eq!(lengths.len(), 4);
    assert_eq!(cluster.locates.load(Ordering::Relaxed), 2, "from chunk 5, then from chunk 0");

    let before = cluster.reads();
    let mut got = Vec::new();
    while got.len() < data.len() {
        let length = if got.len() % 3 == 0 { 128 << 10 } else { 100_000 };
        let part = match file.try_read(got.len() as u64, length) {
            Tried::Done(part) => part,
            _ => file.read(got.len() as u64, length).await.expect("read"),
        };
        assert!(!part.is_empty());
        got.extend_from_slice(&part);
    }
    assert!(got == data);
    assert!(cluster.reads() - before < 25, "{} requests for 9 chunks", cluster.reads() - before);
    assert!(matches!(file.try_read(data.len() as u64, 10), Tried::Done(end) if end.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_reads_of_one_range_share_a_fetch() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 65536, 2)).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    let reads = (0..8).map(|_| file.read(4096, 8192));
    for read in futures_util::future::join_all(reads).await {
        assert_eq!(read.expect("read"), pattern(4096, 8192, 2));
    }
    assert_eq!(cluster.reads(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_a_write_overtook_is_neither_joined_nor_kept() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    // more than is kept of a small write, so that reads ask for it
    let (old, new) = (pattern(0, 200_000, 1), pattern(0, 200_000, 2));
    file.write(0, &old).await.expect("buffered");
    file.flush().await.expect("flushed");
    cluster.servers.iter().for_each(|server| server.faults.lock().reads_held = true);
    let read = |file: &std::sync::Arc<crate::data::InodeData>| {
        let file = file.clone();
        tokio::spawn(async move { file.read(4096, 4096).await.expect("read") })
    };
    let early = read(&file);
    eventually("the read to be asked", || cluster.reads() > 0).await;
    file.write(0, &new).await.expect("buffered");
    file.flush().await.expect("flushed");
    // on a busy machine the early one may have been asked a second time
    let asked = cluster.reads();
    let late = read(&file);
    eventually("another read to be asked", || cluster.reads() > asked).await;
    for server in &cluster.servers {
        server.faults.lock().reads_held = false;
        server.changed.notify_waiters();
    }
    let early = early.await.expect("no panic");
    assert!(early == old[4096..8192] || early == new[4096..8192], "it began before the write");
    assert_eq!(late.await.expect("no panic"), new[4096..8192]);
    assert_eq!(file.read(4096, 4096).await.expect("read"), new[4096..8192]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_exclusive_what_others_write_is_seen_when_the_cache_has_aged() {
    let cluster = Cluster::start(CHUNK).await;
    let (writer, reader) = (cluster.plane(config()), cluster.plane(config()));
    let writer = cluster.create(&writer);
    writer.write(0, b"old").await.expect("buffered");
    writer.flush().await.expect("flushed");
    let reader = cluster.open(&reader, 3, None, false);
    assert_eq!(reader.read(0, 3).await.expect("read"), &b"old"[..]);
    writer.write(0, b"new").await.expect("buffered");
    writer.flush().await.expect("flushed");
    let seen = async { while reader.read(0, 3).await.expect("read") != b"new"[..] {} };
    tokio::time::timeout(10 * limits::ATTRIBUTE_TTL, seen).await.expect("the new bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_and_clipped_bytes_are_zeroes() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let chunk = u64::from(CHUNK);
    file.write(2 * chunk + 5000, &[9; 10]).await.expect("buffered");
    file.write(10, &[8; 20_000]).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    let read = file.read(chunk - 100, CHUNK + 200).await.expect("read");
    assert!(read.len() == CHUNK as usize + 200 && read.iter().all(|byte| *byte == 0));
    assert_eq!(&file.read(2 * chunk + 4999, 100).await.expect("read")[..], [&[0][..], &[9; 10]].concat());

    let cut = file.truncate_prepare(9000).await.expect("prepared");
    let generation = cluster.cut(9000);
    file.truncated(9000, generation);
    drop(cut);
    let cut = file.truncate_prepare(16_000).await.expect("prepared");
    let generation = cluster.cut(16_000);
    file.truncated(16_000, generation);
    drop(cut);
    cluster.master.lock().chunks.get_mut(&ChunkIndex::new(0)).expect("there").clip = Some(9000);
    for file in [file, cluster.open(&cluster.plane(config()), 16_000, None, false)] {
        let read = file.read(0, 20_000).await.expect("read");
        assert_eq!(read, [&[0; 10][..], &[8; 8990], &[0; 7000]].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_reaches_stable_storage_with_the_data_or_after_it() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 5000, 1)).await.expect("buffered");
    file.sync().await.expect("synced");
    assert_eq!(cluster.content(5000, true), pattern(0, 5000, 1));
    let syncs = || cluster.servers.iter().map(|server| server.seen.lock().syncs).sum::<usize>();
    assert_eq!((cluster.writes(), syncs()), (vec![1, 1, 1], 0), "one round trip");
    file.write(300_000, &pattern(300_000, 5000, 2)).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.sync().await.expect("synced");
    assert_eq!((cluster.writes(), syncs()), (vec![2, 2, 2], 3));
    assert_eq!(cluster.content(305_000, true)[300_000..], pattern(300_000, 5000, 2));
    file.sync().await.expect("nothing to do");
    assert_eq!(syncs(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_asks_for_what_others_wrote_only_where_they_may_have() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 3 * CHUNK as usize, 1);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    let counts = || {
        let syncs = cluster.servers.iter().map(|server| std::mem::take(&mut server.seen.lock().syncs)).sum::<usize>();
        (cluster.locates.swap(0, Ordering::Relaxed), syncs)
    };
    let size = data.len() as u64;
    let reader = cluster.open(&cluster.plane(config()), size, None, false);
    reader.sync().await.expect("synced");
    assert_eq!((counts(), cluster.content(size, true) == data), ((1, 3), true), "one request to each");
    reader.sync().await.expect("synced");
    assert_eq!(counts(), (1, 3), "others may have written since");
    let writer = cluster.open(&cluster.plane(config()), size, None, true);
    writer.sync().await.expect("synced");
    writer.sync().await.expect("nothing to do");
    assert_eq!(counts(), (1, 3), "nobody else can have written between these two");
    writer.write(0, b"new").await.expect("buffered");
    writer.sync().await.expect("synced");
    assert_eq!(counts(), (0, 0), "with the data");
    writer.invalidate();
    writer.sync().await.expect("synced");
    assert_eq!(counts(), (1, 3));
    cluster.servers[0].kill();
    cluster.master.lock().chunks.values_mut().for_each(|known| known.leased = false);
    reader.sync().await.expect("at those that are there");
    cluster.servers[1..].iter().for_each(|server| server.chunks.lock().clear());
    assert_eq!(reader.sync().await, Err(FsError::NoReplica), "nobody has the bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_exclusive_writes_are_at_the_replicas_when_they_return() {
    let cluster = Cluster::start(CHUNK).await;
    cluster.master.lock().shared = true;
    let plane = cluster.plane(config());
    let file = cluster.open(&plane, 0, None, false);
    let data = pattern(0, 600_000, 4);
    file.write(0, &data).await.expect("written");
    assert!(cluster.content(600_000, false) == data);
    assert!(!file.is_dirty() && plane.dirty_bytes() == 0);
    let writes = cluster.servers[0].seen.lock().writes.clone();
    assert!(writes.iter().all(|write| write.serial.is_none() && write.chain.len() == 2), "through the primary");
    assert_eq!(file.append(b"end").await.expect("written"), 600_000);
    assert_eq!(file.read(599_999, 10).await.expect("read"), [&data[599_999..], b"end"].concat());
    file.sync().await.expect("synced");
    assert_eq!(cluster.content(600_003, true)[600_000..], *b"end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_exclusive_flushes_and_the_size_is_reported_once() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    assert_eq!(file.unreported(), None);
    assert_eq!(file.append(b"abc").await, Ok(0));
    assert_eq!(file.append(b"def").await, Ok(3));
    let change = file.unreported().expect("written");
    assert_eq!(change.size, 6);
    file.append(b"g").await.expect("written");
    file.reported(&change);
    let change = file.unreported().expect("written since");
    file.reported(&change);
    assert_eq!(file.unreported(), None);
    file.set_exclusive(false).await.expect("flushed");
    assert_eq!(cluster.content(7, false), b"abcdefg");
    assert_eq!(file.held().len(), 1);
    file.forget_grants();
    assert!(file.held().is_empty());
    file.write(0, b"A").await.expect("written");
    assert_eq!(cluster.content(7, false), b"Abcdefg");
    file.learn_size(100, TruncateGeneration::new(0));
    assert_eq!(file.size(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_while_too_much_is_dirty() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(DataConfig { dirty_bytes: 1 << 20, ..config() });
    let file = cluster.create(&plane);
    cluster.servers.iter().for_each(|server| server.faults.lock().held = true);
    let writer = {
        let file = file.clone();
        tokio::spawn(async move {
            for i in 0..64u64 {
                file.write(i * 65536, &pattern(i * 65536, 65536, 7)).await.expect("written");
            }
        })
    };
    eventually("the bound to be reached", || plane.dirty_bytes() >= 1 << 20).await;
    assert!(!writer.is_finished());
    assert_eq!(plane.dirty_bytes(), 1 << 20);
    for server in &cluster.servers {
        server.faults.lock().held = false;
        server.changed.notify_waiters();
    }
    writer.await.expect("no panic");
    file.flush().await.expect("flushed");
    assert!(cluster.content(64 * 65536, false) == pattern(0, 64 * 65536, 7));
    assert_eq!(plane.dirty_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_is_sent_without_a_flush_and_survives_its_file_being_closed() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, b"closed without a flush").await.expect("buffered");
    drop(file);
    assert_eq!(plane.dirty_bytes(), 22);
    eventually("the data to be sent", || plane.dirty_bytes() == 0).await;
    assert_eq!(cluster.content(22, false), b"closed without a flush");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unix_socket_is_used_on_the_same_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |id| Some(folder.path().join(format!("cs{id}")).to_str().expect("UTF-8").to_owned());
    let cluster = Cluster::start_at(CHUNK, path).await;
    // a connection to the TCP port would hang: its listener leads elsewhere
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 200_000, 5)).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    assert!(file.read(0, 200_000).await.expect("read") == pattern(0, 200_000, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_beyond_the_limit_are_refused() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    for exclusive in [true, false] {
        let open = OpenData {
            inode: INODE,
            size: limits::FILE_SIZE_MAX,
            truncate_generation: TruncateGeneration::new(0),
            map: ChunkMap::default(),
            grant: None,
            exclusive,
        };
        let file = plane.open(open);
        assert_eq!(file.write(limits::FILE_SIZE_MAX - 1, b"xy").await, Err(FsError::FileTooLarge));
        assert_eq!(file.write(u64::MAX, b"x").await, Err(FsError::FileTooLarge));
        assert_eq!(file.append(b"x").await, Err(FsError::FileTooLarge));
        assert!(!file.is_dirty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_without_replicas_is_zeroes_only_while_somebody_may_write_its_first_frame() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let writer = cluster.create(&plane);
    let index = ChunkIndex::new(0);
    for version in [1, 2] {
        cluster.master.lock().chunks.get_mut(&index).expect("there").version = ChunkVersion::new(version);
        let reader = cluster.open(&cluster.plane(config()), 9000, None, false);
        assert_eq!(reader.read(0, 9000).await.expect("read"), [0; 9000][..], "version {version}");
    }
    cluster.master.lock().chunks.get_mut(&index).expect("there").version = ChunkVersion::new(1);
    writer.write(0, &pattern(0, 9000, 3)).await.expect("buffered");
    writer.flush().await.expect("flushed");
    let reader = cluster.open(&cluster.plane(config()), 9000, None, false);
    assert_eq!(reader.read(0, 10).await.expect("read"), pattern(0, 10, 3));
    cluster.servers.iter().for_each(|server| server.chunks.lock().clear());
    writer.invalidate();
    assert_eq!(writer.read(0, 10).await.err(), Some(FsError::NoReplica), "it knows that it has written");
    cluster.master.lock().chunks.get_mut(&index).expect("there").leased = false;
    let lost = cluster.open(&cluster.plane(config()), 9000, None, false).read(0, 10).await;
    assert_eq!(lost.err(), Some(FsError::NoReplica), "lost bytes are no zeroes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_beyond_a_cut_are_dropped_when_the_master_has_agreed_and_not_before() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 5000, 1);
    file.write(0, &data).await.expect("buffered");
    let cut = file.truncate_prepare(1000).await.expect("prepared");
    assert_eq!(cluster.content(5000, false), [&data[..1000], &[0; 4000]].concat(), "no more may be sent");
    assert_eq!(file.read(0, 5000).await.expect("read"), data);
    let (syncing, recalled) = (file.clone(), file.clone());
    let sync = tokio::spawn(async move { syncing.sync().await });
    recalled.set_exclusive(false).await.expect("the master may wait for it before it answers");
    assert!(file.is_dirty() && !sync.is_finished());
    drop(cut);
    sync.await.expect("no panic").expect("synced");
    assert_eq!(cluster.content(5000, true), data, "the master refused");

    file.set_exclusive(true).await.expect("exclusive");
    file.write(2000, &[7; 100]).await.expect("buffered");
    let cut = file.truncate_prepare(1000).await.expect("prepared");
    file.truncated(1000, cluster.cut(1000));
    assert!(!file.is_dirty() && plane.dirty_bytes() == 0);
    drop(cut);
    file.sync().await.expect("nothing is left");
    assert_eq!(file.read(0, 5000).await.expect("read"), data[..1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_grown_over_a_chunk_never_written_reads_as_zeroes_everywhere() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let cut = file.truncate_prepare(10_000).await.expect("prepared");
    let generation = cluster.cut(10_000);
    file.truncated(10_000, generation);
    drop(cut);
    for file in [file, cluster.open(&cluster.plane(config()), 10_000, None, false)] {
        assert!(file.read(0, 20_000).await.expect("read").iter().eq(&[0; 10_000]));
    }
    assert_eq!(cluster.writes(), [1, 1, 1], "one byte, so that the chunk is there");
}
