//! Whatever fails: the right bytes at every replica that counts, or an error.

use super::cluster::{Cluster, config};
use super::{eventually, pattern};
use crate::data::DataConfig;
use gfs_proto::FsError;
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkIndex, ServerId};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const CHUNK: u32 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_during_a_stream_is_not_noticed() {
    for victim in 0..3 {
        let cluster = Cluster::start(4 << 20).await;
        let plane = cluster.plane(config());
        let file = cluster.create(&plane);
        let data = pattern(0, 12 << 20, victim as u8);
        for (i, part) in data.chunks(256 << 10).enumerate() {
            if i == 10 {
                cluster.servers[victim].kill();
            }
            file.write((i * (256 << 10)) as u64, part).await.expect("written");
        }
        file.sync().await.expect("synced");
        assert!(cluster.content(data.len() as u64, true) == data);
        assert!(cluster.breaks.load(Ordering::Relaxed) <= 3, "one report for each lease");
        assert_eq!(plane.dirty_bytes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_that_one_server_alone_has_done_awaits_copies() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let handle = cluster.master.lock().chunks[&ChunkIndex::new(0)].handle;
    file.write(0, b"on three").await.expect("buffered");
    file.sync().await.expect("synced");
    cluster.servers[0].kill();
    file.write(0, b"on two").await.expect("buffered");
    file.sync().await.expect("synced");
    assert!(cluster.awaited.lock().is_empty());
    cluster.servers[2].kill();
    cluster.copies_stay_away.store(true, Ordering::Relaxed);
    file.write(0, b"on one").await.expect("buffered");
    file.flush().await.expect("a close does not wait for copies");
    assert_eq!(file.sync().await, Err(FsError::TimedOut));
    assert_eq!(file.sync().await, Err(FsError::TimedOut), "nor is it confirmed by asking again");
    cluster.copies_stay_away.store(false, Ordering::Relaxed);
    file.sync().await.expect("another server has a copy");
    let second = [cluster.servers[1].id];
    assert!(cluster.awaited.lock().iter().all(|chunk| chunk.handle == handle && chunk.servers == second));
    assert_eq!(cluster.awaited.lock().len(), 3);
    file.sync().await.expect("nothing is left to be done");
    assert_eq!(cluster.awaited.lock().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_of_what_others_wrote_is_repeated_until_the_master_confirms_it() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let writer = cluster.create(&plane);
    writer.write(0, b"by another").await.expect("buffered");
    writer.flush().await.expect("at the replicas");
    let syncs = || cluster.servers[1].seen.lock().syncs;
    let other = cluster.open(&plane, 10, None, false);
    other.sync().await.expect("synced");
    assert_eq!(cluster.awaited.lock().len(), 1, "whether others count that were not named the master knows");
    // Now it says that somebody counts who was not asked.
    let before = syncs();
    cluster.verdicts.lock().extend([FsError::StaleGrant, FsError::StaleGrant]);
    let again = cluster.open(&plane, 10, None, false);
    again.sync().await.expect("synced");
    assert_eq!((cluster.awaited.lock().len(), syncs() - before), (4, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_not_a_second_write() {
    for (victim, apply_dropped) in [(0, true), (0, false), (2, true), (2, false)] {
        for length in [5000, 900_000] {
            let cluster = Cluster::start(CHUNK).await;
            let plane = cluster.plane(config());
            let file = cluster.create(&plane);
            file.write(0, &pattern(0, length, 1)).await.expect("buffered");
            file.flush().await.expect("flushed");
            {
                let mut faults = cluster.servers[victim].faults.lock();
                (faults.drop_writes, faults.apply_dropped) = (1, apply_dropped);
            }
            file.write(10, &pattern(10, length, 2)).await.expect("buffered");
            file.flush().await.expect("flushed");
            assert_eq!(cluster.content(10 + length as u64, false)[10..], pattern(10, length, 2));
            let known = cluster.master.lock().chunks[&ChunkIndex::new(0)].clone();
            let direct = victim == 0 || length < 65536;
            assert_eq!(cluster.breaks.load(Ordering::Relaxed), usize::from(direct));
            assert_eq!(known.entitled.len(), 3, "all came back");
            let numbers: HashSet<_> =
                cluster.servers[1].seen.lock().writes.iter().map(|write| write.sequence).collect();
            assert_eq!(numbers.len(), 2, "the number stays");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_lead_to_a_new_lease() {
    let cases = [
        (DataError::Epoch, 1, 1),
        (DataError::Transfer, 0, 1),
        (DataError::SerialGap, 0, 1),
        (DataError::Io, 0, 1),
        (DataError::Busy, 0, 0),
    ];
    for (error, grants, breaks) in cases {
        for length in [3000, 500_000] {
            let cluster = Cluster::start(CHUNK).await;
            let plane = cluster.plane(config());
            let file = cluster.create(&plane);
            file.write(0, &pattern(0, 100, 1)).await.expect("buffered");
            file.flush().await.expect("flushed");
            cluster.servers[0].faults.lock().refuse_writes.push_back(error);
            file.write(50, &pattern(50, length, 2)).await.expect("buffered");
            file.flush().await.expect("flushed");
            assert_eq!(cluster.content(50 + length as u64, false)[50..], pattern(50, length, 2), "{error:?}");
            let counts = (cluster.grants.load(Ordering::Relaxed), cluster.breaks.load(Ordering::Relaxed));
            assert_eq!(counts, (grants, breaks), "{error:?}: the same epoch again is reported broken");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_after_its_time() {
    for victim in [0, 2] {
        let cluster = Cluster::start(CHUNK).await;
        let plane = cluster.plane(DataConfig { timeout: Duration::from_secs(3), ..config() });
        let file = cluster.create(&plane);
        file.write(0, &pattern(0, 100, 1)).await.expect("buffered");
        file.flush().await.expect("flushed");
        cluster.servers[victim].faults.lock().held = true;
        let cluster2 = cluster.clone();
        let began = Instant::now();
        file.write(0, &pattern(0, 5000, 2)).await.expect("buffered");
        let flush = tokio::spawn({
            let file = file.clone();
            async move { file.flush().await }
        });
        eventually("the break to be reported", || cluster2.breaks.load(Ordering::Relaxed) > 0).await;
        cluster.servers[victim].kill();
        cluster.servers[victim].faults.lock().held = false;
        cluster.servers[victim].changed.notify_waiters();
        flush.await.expect("no panic").expect("flushed");
        assert!(began.elapsed() < Duration::from_secs(3));
        assert_eq!(cluster.content(5000, false), pattern(0, 5000, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_ends_when_nothing_answers() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(DataConfig { timeout: Duration::from_millis(900), ..config() });
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 5000, 1)).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    file.write(0, &pattern(0, 5 << 20, 2)).await.expect("buffered");
    cluster.servers.iter().for_each(|server| server.kill());
    let began = Instant::now();
    file.flush().await.expect_err("nobody there");
    file.read(6 << 20, 10).await.expect("behind the end");
    assert_eq!(file.read(0, 10).await.err(), Some(FsError::NoReplica));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(plane.dirty_bytes(), 0, "what was reported lost is not kept");
    file.flush().await.expect("reported once");
    cluster.servers.iter().for_each(|server| server.restart());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_to_whoever_flushes() {
    for length in [4096usize, 3 << 20] {
        let cluster = Cluster::start(CHUNK).await;
        let plane = cluster.plane(config());
        let file = cluster.create(&plane);
        cluster.servers[1].faults.lock().full = true;
        file.write(0, &pattern(0, length, 1)).await.expect("buffered");
        let began = Instant::now();
        assert_eq!(file.flush().await, Err(FsError::NoSpace));
        assert!(began.elapsed() < Duration::from_secs(5), "no retries");
        assert_eq!(plane.dirty_bytes(), 0);
        file.flush().await.expect("told once");
        assert_eq!(file.sync().await, Err(FsError::NoSpace), "to an fsync too: few look at what close returns");
        cluster.servers[1].faults.lock().full = false;
        file.write(0, &pattern(0, length, 3)).await.expect("buffered");
        file.sync().await.expect("there is room again");
        assert!(cluster.content(length as u64, true) == pattern(0, length, 3));
    }
    let cluster = Cluster::start(CHUNK).await;
    let file = cluster.open(&cluster.plane(config()), 0, None, true);
    cluster.master.lock().grant_errors.push_back(FsError::NoSpace);
    file.write(0, b"x").await.expect("buffered");
    assert_eq!(file.sync().await, Err(FsError::NoSpace), "the master found no server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_leaves_errors_for_the_next_flush() {
    let cluster = Cluster::start(CHUNK).await;
    let file = cluster.create(&cluster.plane(config()));
    file.write(0, &pattern(0, 4096, 1)).await.expect("buffered");
    assert!(file.drain().await && !file.is_dirty());
    assert!(cluster.content(4096, false) == pattern(0, 4096, 1));
    cluster.servers[1].faults.lock().full = true;
    file.write(4096, &pattern(4096, 4096, 1)).await.expect("buffered");
    assert!(!file.drain().await, "it is lost");
    assert!(!file.drain().await, "and nobody knows yet");
    assert_eq!(file.flush().await, Err(FsError::NoSpace));
    assert!(file.drain().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_between_write_and_sync_is_noticed() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 9000, 1)).await.expect("buffered");
    file.flush().await.expect("flushed");
    let victim = &cluster.servers[2];
    victim.kill();
    victim.restart();
    // it came back empty, so it is no replica of this version any more
    victim.chunks.lock().clear();
    file.sync().await.expect("synced at the others");
    assert_eq!(cluster.content(9000, true), pattern(0, 9000, 1));
    let known = cluster.master.lock().chunks[&ChunkIndex::new(0)].clone();
    assert!(!known.entitled.contains(&victim.id) && known.version.get() == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bytes_are_read_again_then_elsewhere_and_reported() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 100_000, 6);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    let read = async || {
        file.invalidate();
        cluster.servers.iter().for_each(|server| server.seen.lock().reads.clear());
        file.read(8192, 4096).await
    };
    cluster.servers.iter().for_each(|server| server.faults.lock().corrupt_reads = 1);
    assert_eq!(read().await.expect("read"), data[8192..12288]);
    let asked: Vec<bool> =
        cluster.servers.iter().flat_map(|s| s.seen.lock().reads.clone()).map(|r| r.by_copy).collect();
    assert_eq!(asked, [false, true], "the same server once more");
    assert!(cluster.reported.lock().is_empty());

    cluster.servers.iter().for_each(|server| server.faults.lock().corrupt_reads = 0);
    cluster.servers.iter().take(2).for_each(|server| server.faults.lock().rotten = true);
    for _ in 0..4 {
        assert_eq!(read().await.expect("read"), data[8192..12288]);
    }
    cluster.servers[2].faults.lock().rotten = true;
    let reported: HashSet<ServerId> = cluster.reported.lock().iter().copied().collect();
    assert!(reported.is_subset(&[ServerId::new(1), ServerId::new(2)].into()), "{reported:?}");
    let plane = cluster.plane(DataConfig { timeout: Duration::from_millis(300), ..config() });
    let file = cluster.open(&plane, 100_000, None, false);
    assert_eq!(file.read(0, 10).await.err(), Some(FsError::Corrupt), "never wrong bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_has_of_each_block_is_read_and_blocks_that_none_has_hold_up_no_others() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 200_000, 6);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    let damage = |blocks: [&[u32]; 3]| {
        for (server, blocks) in cluster.servers.iter().zip(blocks) {
            server.faults.lock().rotten_blocks = blocks.to_vec();
        }
    };
    damage([&[0, 9, 40], &[3, 8, 41], &[5, 31, 48]]);
    file.invalidate();
    assert_eq!(file.read(0, 200_000).await.expect("each has what others lack"), data);
    damage([&[20], &[20], &[20]]);
    let file = cluster.open(&plane, 200_000, None, false);
    let began = Instant::now();
    // in order, so that all of it is read ahead
    for block in (0..48).filter(|block| *block != 20) {
        let at = block * 4096;
        assert_eq!(file.read(at as u64, 4096).await.expect("another block"), data[at..at + 4096], "block {block}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let plane = cluster.plane(DataConfig { timeout: Duration::from_millis(300), ..config() });
    let file = cluster.open(&plane, 200_000, None, false);
    assert_eq!(file.read(20 * 4096 + 5, 10).await.err(), Some(FsError::Corrupt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_when_servers_die_or_chunks_move() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    let data = pattern(0, 3 << 20, 8);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    let reader = cluster.open(&cluster.plane(config()), data.len() as u64, None, false);
    assert_eq!(reader.read(100, 100).await.expect("read"), data[100..200]);
    cluster.servers[0].kill();
    cluster.servers[1].kill();
    assert!(reader.read(0, 3 << 20).await.expect("read") == data);
    // versions rise behind the reader's back
    file.write(0, b"new").await.expect("buffered");
    file.write(2 << 20, b"new").await.expect("buffered");
    file.flush().await.expect("flushed");
    reader.invalidate();
    let locates = cluster.locates.load(Ordering::Relaxed);
    assert_eq!(&reader.read(0, 4).await.expect("read")[..3], b"new");
    assert_eq!(cluster.locates.load(Ordering::Relaxed), locates + 1);
    for server in &cluster.servers[..2] {
        server.restart();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_is_given_up_goes_on_by_itself() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    for (length, more) in [(5000u64, true), (700_000, true), (5000, false), (700_000, false)] {
        cluster.servers.iter().for_each(|server| server.faults.lock().held = true);
        file.write(0, &pattern(0, length as usize, 1)).await.expect("buffered");
        let given_up = tokio::time::timeout(Duration::from_millis(30), file.flush()).await;
        assert!(given_up.is_err());
        for server in &cluster.servers {
            server.faults.lock().held = false;
            server.changed.notify_waiters();
        }
        let mut expected = pattern(0, length as usize, 1);
        if more {
            file.write(100, &pattern(100, 50, 2)).await.expect("buffered");
            file.flush().await.expect("flushed");
            expected[100..150].copy_from_slice(&pattern(100, 50, 2));
        }
        eventually("everything to arrive", || !file.is_dirty()).await;
        assert!(cluster.content(length, false) == expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_frames_in_flight_break_a_lease_once() {
    let cluster = Cluster::start(8 << 20).await;
    let plane = cluster.plane(config());
    let file = cluster.create(&plane);
    file.write(0, b"x").await.expect("buffered");
    file.flush().await.expect("flushed");
    cluster.servers.iter().for_each(|server| server.faults.lock().held = true);
    let data = pattern(0, 8 << 20, 5);
    file.write(0, &data).await.expect("buffered");
    eventually("frames in flight", || cluster.writes()[0] >= 8).await;
    cluster.servers[0].kill();
    for server in &cluster.servers {
        server.faults.lock().held = false;
        server.changed.notify_waiters();
    }
    file.flush().await.expect("flushed");
    assert!(cluster.content(8 << 20, false) == data);
    assert_eq!(cluster.breaks.load(Ordering::Relaxed), 1);
}
