//! Servers that hang or are slow: nobody waits for them for long, and nobody is taken for one who is not.

use super::cluster::{Cluster, INODE, config};
use super::{eventually, pattern};
use crate::data::DataConfig;
use crate::operation::{Obstacle, Operation, obstacle};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkIndex, ServerId};
use gfs_proto::limits::{ANSWER_LATE, PULSE};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const CHUNK: u32 = 1 << 20;
/// Hanging is found within the two together; the rest is for a busy machine. Without signs of life it takes
/// [`PATIENT`] at least.
const FOUND: Duration = ANSWER_LATE.saturating_add(PULSE).saturating_add(Duration::from_secs(3));
/// One request may take 10 s, a read 5.
const PATIENT: Duration = Duration::from_secs(60);

fn patient() -> DataConfig {
    DataConfig { timeout: PATIENT, ..config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_out_of_writes_and_flushes() {
    for victim in 0..3 {
        for length in [5000, 900_000] {
            let cluster = Cluster::start(CHUNK).await;
            let plane = cluster.plane(patient());
            let file = cluster.create(&plane);
            file.write(0, &pattern(0, 100, 1)).await.expect("buffered");
            file.flush().await.expect("flushed");
            cluster.servers[victim].faults.lock().hung = true;
            let began = Instant::now();
            file.write(0, &pattern(0, length, 2)).await.expect("buffered");
            file.sync().await.expect("synced at the others");
            assert!(began.elapsed() < FOUND, "server {victim}, {length} bytes: {:?}", began.elapsed());
            let known = cluster.master.lock().chunks[&ChunkIndex::new(0)].clone();
            assert!(!known.entitled.contains(&cluster.servers[victim].id) && known.entitled.len() == 2);
            assert!(cluster.content(length as u64, true) == pattern(0, length, 2));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_when_a_flush_comes_is_left_out() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(patient());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 9000, 1)).await.expect("buffered");
    file.flush().await.expect("flushed");
    cluster.servers[2].faults.lock().hung = true;
    let began = Instant::now();
    file.sync().await.expect("synced at the others");
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    assert_eq!(cluster.content(9000, true), pattern(0, 9000, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_and_alive_is_waited_for() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(patient());
    let file = cluster.create(&plane);
    file.write(0, &pattern(0, 100, 1)).await.expect("buffered");
    file.flush().await.expect("flushed");
    let busy = &cluster.servers[1];
    busy.faults.lock().held = true;
    file.write(0, &pattern(0, 5000, 2)).await.expect("buffered");
    let flush = tokio::spawn({
        let file = file.clone();
        async move { file.flush().await }
    });
    eventually("signs of life", || busy.seen.lock().pings >= 3).await;
    assert_eq!(cluster.breaks.load(Ordering::Relaxed), 0, "it answers");
    busy.release();
    flush.await.expect("no panic").expect("flushed");
    assert_eq!(cluster.content(5000, false), pattern(0, 5000, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_read_is_asked_of_another_replica() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(patient());
    let file = cluster.create(&plane);
    let data = pattern(0, 100_000, 6);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    cluster.servers[0].faults.lock().reads_held = true;
    let began = Instant::now();
    assert_eq!(file.read(8192, 4096).await.expect("read"), data[8192..12288], "while the first is silent");
    assert!(began.elapsed() < Duration::from_secs(3), "it alone may take 5 s: {:?}", began.elapsed());
    let asked = cluster.servers.iter().map(|server| server.seen.lock().reads.len()).collect::<Vec<_>>();
    assert_eq!(asked, [1, 1, 0]);
    assert!(cluster.reported.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_do_not_wait_for_a_server_that_hangs_when_no_second_request_is_left() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(patient());
    let file = cluster.create(&plane);
    let data = pattern(0, 100_000, 6);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    file.invalidate();
    while plane.servers.latencies.lock().may_hedge() {}
    cluster.servers[0].faults.lock().hung = true;
    let began = Instant::now();
    assert_eq!(file.read(8192, 4096).await.expect("read"), data[8192..12288]);
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    file.invalidate();
    let began = Instant::now();
    assert_eq!(file.read(0, 4096).await.expect("read"), data[..4096]);
    assert!(began.elapsed() < ANSWER_LATE, "it is left alone: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_avoided_and_told_of() {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(patient());
    let file = cluster.create(&plane);
    let data = pattern(0, 100_000, 6);
    file.write(0, &data).await.expect("buffered");
    file.flush().await.expect("flushed");
    let slow = &cluster.servers[0];
    slow.faults.lock().read_delay = Duration::from_secs(5);
    for _ in 0..20 {
        file.invalidate();
        assert_eq!(file.read(8192, 4096).await.expect("read"), data[8192..12288]);
    }
    let told: Vec<ServerId> = plane.slow_servers().iter().map(|slow| slow.server).collect();
    assert_eq!(told, [slow.id]);
    let before = slow.seen.lock().reads.len();
    file.invalidate();
    file.read(8192, 4096).await.expect("read");
    assert_eq!(slow.seen.lock().reads.len(), before, "others are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_written_data_learns_who_keeps_it() {
    const BOUND: Duration = Duration::from_secs(2);
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(DataConfig { timeout: BOUND, ..config() });
    let file = cluster.create(&plane);
    // several frames: they are sent by tasks of their own
    file.write(0, &pattern(0, 5 << 20, 2)).await.expect("buffered");
    cluster.servers.iter().for_each(|server| server.kill());
    let (began, waiting) = (Instant::now(), file.clone());
    let outcome: Result<Option<Obstacle>, FsError> = Operation::begin("fsync", Some(INODE), BOUND)
        .run(async move {
            waiting.sync().await.expect_err("nobody is there");
            Ok(obstacle())
        })
        .await;
    assert!(began.elapsed() < BOUND + Duration::from_secs(1), "{:?}", began.elapsed());
    let obstacle = outcome.expect("it ended before its bound");
    assert!(matches!(obstacle, Some(Obstacle::Server { .. } | Obstacle::Master(_))), "{obstacle:?}");
}
