//! READ: by copy and by `sendfile`, under the read lease only.

use crate::harness::{HANDLE, Master, Server, epoch, pattern, read, write};
use gfs_chunkserver::clock::ManualClock;
use gfs_proto::control::ChunkCommand;
use gfs_proto::frame::{DataError, Read};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use std::sync::Arc;
use std::time::Duration;

async fn filled() -> (Master, Server, Vec<u8>) {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let data = pattern(3 << 20, 9);
    for (n, piece) in (0..).zip(data.chunks(1 << 20)) {
        let frame = write(&server, n + 1, (n as u32) << 20, piece.len());
        assert_eq!(client.write(&frame, piece).await.outcome, Ok(()));
    }
    (master, server, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_reads_give_the_same_bytes_with_and_without_a_lease() {
    let (master, server, data) = filled().await;
    let revoke = ChunkCommand::Revoke { handle: HANDLE, epoch: epoch(1) };
    for leased in [true, false] {
        for endpoint in [server.tcp(), server.unix()] {
            let client = crate::harness::Client::connect(&endpoint).await;
            let at = |offset: u32, length: u32| Read { offset, length, ..read(0, 4096) };
            for (offset, length) in [(0, 1 << 20), (4096, 1 << 20), ((2 << 20) - 4096, 128 << 10), (1 << 20, 4096)] {
                let back = client.read(at(offset, length)).await.expect("read");
                assert!(back.bytes == data[offset as usize..][..length as usize], "{offset}+{length} leased {leased}");
                assert_eq!(back.chunk_length, 3 << 20);
            }
            let beyond = client.read(at((3 << 20) - 4096, 1 << 20)).await.expect("read");
            assert_eq!(beyond.bytes, &data[(3 << 20) - 4096..], "short where the chunk ends");
            assert!(client.read(at((3 << 20) + 4096, 1 << 20)).await.expect("read").bytes.is_empty());
            let copied = client.read(Read { by_copy: true, ..at(0, 1 << 20) }).await.expect("read");
            assert!(copied.bytes == data[..1 << 20]);
        }
        master.command(server.id, revoke.clone()).await.expect("revoked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_reads_are_answered_on_one_connection() {
    let (_master, server, data) = filled().await;
    let client = server.client().await;
    let reads = (0..256u32).map(|n| {
        let (client, data) = (&client, &data);
        async move {
            let length = if n % 5 == 0 { 256 << 10 } else { 4096 };
            let offset = (n * 7919 % 600) * 4096;
            let length = length.min((3 << 20) - offset);
            let back = client.read(Read { offset, length, ..read(0, 4096) }).await.expect("read");
            assert!(back.bytes == data[offset as usize..][..length as usize]);
        }
    });
    futures_util::future::join_all(reads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_here_is_refused() {
    let (_master, server, _) = filled().await;
    let client = server.client().await;
    let other = Read { handle: ChunkHandle::new(99), ..read(0, 4096) };
    for length in [4096, 1 << 20] {
        assert_eq!(client.read(Read { length, ..other }).await.err(), Some(DataError::NoChunk));
        let version = Read { version: ChunkVersion::new(2), length, ..read(0, 4096) };
        assert_eq!(client.read(version).await.err(), Some(DataError::Version));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_stop_when_the_master_is_not_heard() {
    let master = Master::start().await;
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1000));
    let directory = Arc::new(tempfile::tempdir().expect("directory"));
    let server = Server::start_in(&master, directory, Arc::clone(&clock) as _).await;
    let client = server.client().await;
    assert_eq!(client.write(&write(&server, 1, 0, 4096), &pattern(4096, 1)).await.outcome, Ok(()));
    assert!(client.read(read(0, 4096)).await.is_ok());
    master.heard(|heard| heard.deaf = true);
    clock.advance(Duration::from_millis(1999));
    assert!(client.read(read(0, 4096)).await.is_ok(), "the lease lives");
    clock.advance(Duration::from_millis(1));
    assert_eq!(client.read(read(0, 4096)).await.err(), Some(DataError::NoReadLease));
    let second = write(&server, 2, 0, 4096);
    assert_eq!(client.write(&second, &pattern(4096, 2)).await.outcome, Ok(()), "writes are fenced by their epoch");
    master.heard(|heard| heard.deaf = false);
    master.until("the read lease", |_| server.process.node().lease.is_held().then_some(())).await;
    assert!(client.read(read(0, 4096)).await.is_ok());
}
