//! ALIGN: a member of a new grant becomes as another one is, before anybody writes under it.

use crate::harness::{CHUNK, HANDLE, Heard, Master, Server, cluster, epoch, install, pattern, read, write};
use gfs_chunkserver::clock::BootClock;
use gfs_proto::control::{Align, ChunkCommand, CommandOutcome, Install, InstallReport, ReplicaState};
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataError, Extent, Read, Write};
use gfs_proto::ids::{ChunkVersion, Sequence, Serial, ServerId};
use std::sync::Arc;

const VERSION: ChunkVersion = ChunkVersion::new(1);

/// Installs an epoch at these servers; what each reports.
async fn installed(master: &Master, servers: &[&Server], counter: u64) -> Vec<InstallReport> {
    let members: Vec<_> = servers.iter().map(|server| server.replica(master)).collect();
    let mut reports = Vec::new();
    for server in servers {
        let install = Install { lease: std::time::Duration::from_secs(60), ..install(counter, &members) };
        reports.push(master.install(server.id, install).await.expect("installed"));
    }
    reports
}

fn align(master: &Master, source: &Server, report: &InstallReport, counter: u64) -> ChunkCommand {
    ChunkCommand::Align(Align {
        handle: HANDLE,
        version: VERSION,
        epoch: epoch(counter),
        source: source.replica(master),
        position: report.position,
        outcomes: report.outcomes.clone(),
    })
}

/// The same writes at both, then some at the first alone.
async fn torn(servers: &[Server], length: usize, alone: &[(u32, usize)]) {
    let data = pattern(length, 1);
    for server in &servers[..2] {
        assert_eq!(server.client().await.write(&write(server, 1, 0, length), &data).await.outcome, Ok(()));
    }
    let client = servers[0].client().await;
    for (n, (offset, length)) in (2..).zip(alone) {
        let frame = write(&servers[0], n, *offset, *length);
        assert_eq!(client.write(&frame, &pattern(*length, n as u8)).await.outcome, Ok(()));
    }
}

async fn content(server: &Server) -> (Vec<u8>, u32) {
    let client = server.client().await;
    let mut all = Vec::new();
    let mut length = 0;
    for offset in (0..CHUNK).step_by(1 << 20) {
        let piece = (CHUNK - offset).min(1 << 20);
        let back = client.read(read(offset, piece)).await.expect("read");
        all.extend(back.bytes);
        length = back.chunk_length;
    }
    (all, length)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_alone_had_applied_is_at_the_other_and_known_there() {
    for (length, alone) in [
        (10_000, vec![(5000, 100)]),
        (10_000, vec![(20_000, 3000), (100, 50)]),
        (1_000_000, vec![(900_000, 60_000), (4096, 4096), (999_000, 40_000)]),
    ] {
        let (master, servers) = cluster().await;
        torn(&servers, length, &alone).await;
        let reports = installed(&master, &[&servers[0], &servers[1]], 2).await;
        assert_ne!(reports[0].digest, reports[1].digest);
        assert!(reports[0].position > reports[1].position);
        let command = align(&master, &servers[0], &reports[0], 2);
        assert_eq!(master.command(servers[1].id, command.clone()).await, Ok(CommandOutcome::Done));
        assert_eq!(master.command(servers[1].id, command).await, Ok(CommandOutcome::Done), "again");
        assert!(content(&servers[0]).await == content(&servers[1]).await);
        let resent = write(&servers[1], 2, alone[0].0, alone[0].1);
        let resent = Write { epoch: epoch(2), serial: Some(Serial::new(1)), create: false, ..resent };
        let other = pattern(alone[0].1, 99);
        assert_eq!(servers[1].client().await.write(&resent, &other).await.outcome, Ok(()), "known: not applied again");
        assert!(content(&servers[0]).await == content(&servers[1]).await);
        let again = installed(&master, &[&servers[0], &servers[1]], 3).await;
        assert_eq!(again[0].digest, again[1].digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_is_ahead_of_the_one_that_counts_goes_back_to_it() {
    let (master, servers) = cluster().await;
    torn(&servers, 10_000, &[(9000, 5000), (0, 10)]).await;
    let reports = installed(&master, &[&servers[0], &servers[1]], 2).await;
    assert_eq!(reports[0].length, 14_000);
    let command = align(&master, &servers[1], &reports[1], 2);
    assert_eq!(master.command(servers[0].id, command).await, Ok(CommandOutcome::Done));
    let (first, second) = (content(&servers[0]).await, content(&servers[1]).await);
    assert!(first == second && first.1 == 10_000);
    // what it had is not known any more: it is made again
    let resent = Write { epoch: epoch(2), serial: Some(Serial::new(1)), create: false, ..write(&servers[0], 2, 0, 10) };
    assert_eq!(servers[0].client().await.write(&resent, &pattern(10, 77)).await.outcome, Ok(()));
    assert_eq!(content(&servers[0]).await.0[..10], pattern(10, 77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_is_gone_leaves_a_replica_that_takes_no_writes_and_claims_none() {
    let (master, mut servers) = cluster().await;
    torn(&servers, 10_000, &[(0, 100)]).await;
    let source = servers.remove(0);
    let reports = installed(&master, &[&source, &servers[0]], 2).await;
    let command = align(&master, &source, &reports[0], 2);
    source.process.kill().await;
    assert_eq!(master.command(servers[0].id, command.clone()).await, Err(FsError::Unavailable));
    let frame = Write { epoch: epoch(2), create: false, ..write(&servers[0], 1, 0, 100) };
    let refused = servers[0].client().await.write(&frame, &pattern(100, 9)).await;
    assert_eq!(refused.outcome, Err(DataError::Epoch));
    assert_eq!(master.command(servers[0].id, command).await, Err(FsError::StaleGrant), "its epoch is over");
    let report = installed(&master, &[&servers[0]], 3).await.remove(0);
    assert_eq!((report.position, report.outcomes.len()), (Default::default(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grant_that_is_used_is_not_aligned() {
    let (master, servers) = cluster().await;
    torn(&servers, 10_000, &[]).await;
    let reports = installed(&master, &[&servers[0], &servers[1]], 2).await;
    assert_eq!(reports[0].digest, reports[1].digest);
    let frame = Write { epoch: epoch(2), create: false, sequence: Sequence::new(9), ..write(&servers[1], 1, 0, 100) };
    assert_eq!(servers[1].client().await.write(&frame, &pattern(100, 9)).await.outcome, Ok(()));
    let command = align(&master, &servers[0], &reports[0], 2);
    assert_eq!(master.command(servers[1].id, command).await, Err(FsError::Unavailable));
    assert_eq!(content(&servers[1]).await.0[..100], pattern(100, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_hangs_further_down_does_not_keep_the_others_from_agreeing() {
    let (master, servers) = cluster().await;
    torn(&servers, 10_000, &[]).await;
    // A server that takes connections and never answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = hung.local_addr().expect("address");
    let hop = gfs_proto::frame::Hop { server: ServerId::new(99), address, ..servers[1].hop() };
    let frame = Write { chain: vec![hop], ..write(&servers[0], 2, 0, 4096) };
    let client = servers[0].client().await;
    let data = pattern(4096, 5);
    let writing = tokio::spawn(async move { client.write(&frame, &data).await });
    let (sender, range) = (&servers[0].process, Extent { offset: 0, length: 4096 });
    master.until("it is on its way", |_| sender.node().grants.get(HANDLE)?.is_in_flight(range).then_some(())).await;
    let reports = installed(&master, &[&servers[0], &servers[1]], 2).await;
    let command = align(&master, &servers[0], &reports[0], 2);
    let begun = std::time::Instant::now();
    assert_eq!(master.command(servers[1].id, command).await, Ok(CommandOutcome::Done));
    assert!(begun.elapsed() < servers[0].process.node().patience.hop, "{:?}", begun.elapsed());
    let back = servers[1].client().await.read(Read { by_copy: true, ..read(0, 4096) }).await.expect("read");
    assert_eq!(back.bytes, pattern(4096, 5));
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_in_doubt_is_reported_as_one_being_written_until_the_master_has_looked() {
    let (master, mut servers) = cluster().await;
    torn(&servers, 10_000, &[]).await;
    // One lost the server behind it, the other is killed and started again.
    let mut hop = servers[2].hop();
    hop.incarnation = hop.incarnation.next();
    let frame = Write { chain: vec![hop], ..write(&servers[0], 2, 0, 100) };
    let ack = servers[0].client().await.write(&frame, &pattern(100, 5)).await;
    assert_eq!(ack.outcome, Err(DataError::Chain));
    let killed = servers.remove(1);
    let directory = Arc::clone(&killed.directory);
    killed.process.kill().await;
    servers.insert(1, Server::start_in(&master, directory, Arc::new(BootClock)).await);
    for server in &servers[..2] {
        let (node, id) = (server.process.node(), server.id);
        node.store.mark_clean(&[HANDLE]);
        assert_eq!(node.store.row(HANDLE).map(|row| row.state), Some(ReplicaState::Clean), "flushed");
        master.heard(|heard| heard.reports.clear());
        node.outbox.touched(HANDLE);
        let row = |state| move |heard: &mut Heard| heard.row(id, HANDLE).filter(|row| row.state == state);
        master.until("a replica being written", row(ReplicaState::Dirty)).await;
        let replicas = [server.replica(&master)];
        master.install(id, install(5, &replicas)).await.expect("installed");
        let revoke = ChunkCommand::Revoke { handle: HANDLE, epoch: epoch(5) };
        master.heard(|heard| heard.reports.clear());
        assert_eq!(master.command(id, revoke).await, Ok(CommandOutcome::Done));
        master.until("a clean replica", row(ReplicaState::Clean)).await;
    }
}
