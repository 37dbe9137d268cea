//! The stream to the master: registration, reports, commands, leave-taking, terms.

use crate::harness::{
    CLUSTER, DEADLINE, HANDLE, Master, Server, cluster, config, epoch, install, pattern, read, seams, write,
};
use gfs_chunkserver::clock::BootClock;
use gfs_chunkserver::link::LinkError;
use gfs_chunkserver::run::Chunkserver;
use gfs_proto::control::{ChunkCommand, CommandOutcome, Install, NotDeleted};
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataError, Read, SyncChunk, Write};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, Term, TruncateGeneration};
use std::sync::Arc;
use tokio::time::timeout;

const VERSION: ChunkVersion = ChunkVersion::new(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clean_stop_takes_leave_and_the_next_run_reports_everything() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    for n in 1..=20u64 {
        let frame = Write { handle: ChunkHandle::new(n), ..write(&server, 1, 0, 100) };
        assert_eq!(client.write(&frame, &pattern(100, n as u8)).await.outcome, Ok(()));
    }
    let (id, directory) = (server.id, Arc::clone(&server.directory));
    drop(client);
    server.process.stop().await.expect("stopped");
    master.until("leave", |heard| heard.left.contains(&id).then_some(())).await;
    master.heard(|heard| heard.reports.clear());
    let server = Server::start_in(&master, directory, Arc::new(BootClock)).await;
    assert_eq!(server.id, id, "the same server");
    let rows = master.heard(|heard| heard.reports.iter().flat_map(|(_, report)| report.present.clone()).count());
    assert_eq!(rows, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_finds_a_restarted_master_and_refuses_an_older_one() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let address = master.address;
    assert_eq!(master.heard(|heard| heard.registered[&server.id].cluster), None, "not yet of any cluster");
    let restart = async |old: Master, cluster, term| {
        old.stop().await;
        Master::start_at(address, cluster, term).await
    };
    let newer = restart(master, CLUSTER, Term::new(7)).await;
    newer.until("registration", |heard| (heard.registrations == 1).then_some(())).await;
    newer.until("a heartbeat", |heard| heard.heartbeats.first().map(drop)).await;
    assert_eq!(server.process.node().store.identity().highest_term, Term::new(7));
    let older = restart(newer, CLUSTER, Term::new(6)).await;
    older.until("two attempts", |heard| (heard.registrations >= 2).then_some(())).await;
    assert!(older.heard(|heard| heard.heartbeats.is_empty()), "it is not obeyed");
    let right = restart(older, CLUSTER, Term::new(8)).await;
    right.until("a heartbeat", |heard| heard.heartbeats.first().map(drop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_gives_up_at_a_master_of_another_cluster() {
    const OTHER: ClusterId = ClusterId::new([9; 16]);
    let master = Master::start().await;
    let mut server = Server::start(&master).await;
    let address = master.address;
    master.stop().await;
    let other = Master::start_at(address, OTHER, Term::new(8)).await;
    let refusal = timeout(DEADLINE, server.process.refused()).await.expect("in time");
    assert!(matches!(refusal, LinkError::AnotherCluster { theirs: OTHER, ours: CLUSTER, .. }), "{refusal}");
    assert!(other.heard(|heard| heard.heartbeats.is_empty()), "it is not obeyed");
    assert_eq!(server.process.node().store.identity().cluster, Some(CLUSTER));
    server.process.stop().await.expect("stopped cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_ends_the_attempts_only_if_it_is_for_good() {
    let master = Master::start().await;
    master.heard(|heard| heard.refusal = Some(FsError::Stale));
    let directory = tempfile::tempdir().expect("directory");
    let started = Chunkserver::start(config(master.address, &directory), seams(Arc::new(BootClock))).await;
    let mut process = started.expect("started");
    master.until("two attempts", |heard| (heard.registrations >= 2).then_some(())).await;
    master.heard(|heard| heard.refusal = Some(FsError::Protocol));
    let refusal = timeout(DEADLINE, process.refused()).await.expect("in time");
    assert!(refusal.is_final() && refusal.to_string().contains("you may not"), "{refusal}");
    process.stop().await.expect("stopped cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deletes_name_exactly_one_replica_of_this_run() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    assert_eq!(client.write(&write(&server, 1, 0, 100), &pattern(100, 1)).await.outcome, Ok(()));
    let delete = |version, incarnation| ChunkCommand::Delete {
        chunks: vec![SyncChunk { handle: HANDLE, version }],
        incarnation,
    };
    let wrong_run = master.command(server.id, delete(VERSION, server.incarnation().next())).await;
    assert_eq!(wrong_run, Err(FsError::Stale));
    let wrong_version = master.command(server.id, delete(ChunkVersion::new(9), server.incarnation())).await;
    let kept = NotDeleted { handle: HANDLE, error: FsError::Stale };
    assert_eq!(wrong_version, Ok(CommandOutcome::Deleted(vec![kept])));
    let old_term = master.command_of(server.id, Term::new(0), delete(VERSION, server.incarnation())).await;
    assert_eq!(old_term.outcome, Err(FsError::NotLeader));
    assert!(client.read(read(0, 4096)).await.is_ok());
    let id = server.id;
    master.until("the replica in a report", |heard| heard.row(id, HANDLE)).await;
    assert_eq!(master.command(id, delete(VERSION, server.incarnation())).await, Ok(CommandOutcome::Deleted(vec![])));
    assert_eq!(client.read(read(0, 4096)).await.err(), Some(DataError::NoChunk));
    master.until("its removal in a report", |heard| heard.row(id, HANDLE).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_first_frame_that_comes_after_the_master_was_told_of_no_replica_makes_none() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let asked = master.install(server.id, install(2, &[server.replica(&master)])).await;
    assert_eq!(asked.map(drop), Err(FsError::NotFound));
    let late = write(&server, 1, 0, 100);
    assert_eq!(client.write(&late, &pattern(100, 1)).await.outcome, Err(DataError::Epoch));
    assert_eq!(client.read(read(0, 4096)).await.err(), Some(DataError::NoChunk));
    let newer = Write { epoch: epoch(3), ..late };
    assert_eq!(client.write(&newer, &pattern(100, 1)).await.outcome, Ok(()), "of a grant that came after");

    let handle = ChunkHandle::new(0x22);
    let delete = ChunkCommand::Delete {
        chunks: vec![SyncChunk { handle, version: VERSION }],
        incarnation: server.incarnation(),
    };
    assert_eq!(master.command(server.id, delete).await, Ok(CommandOutcome::Deleted(vec![])));
    let late = Write { handle, epoch: epoch(4), ..write(&server, 1, 0, 100) };
    assert_eq!(client.write(&late, &pattern(100, 1)).await.outcome, Err(DataError::Epoch));
    let begun_again = Write { version: VERSION.next(), ..late };
    assert_eq!(client.write(&begun_again, &pattern(100, 1)).await.outcome, Ok(()));

    let handle = ChunkHandle::new(0x33);
    let revoke = ChunkCommand::Revoke { handle, epoch: epoch(2) };
    assert_eq!(master.command(server.id, revoke).await, Ok(CommandOutcome::Done));
    let late = Write { handle, epoch: epoch(2), ..write(&server, 1, 0, 100) };
    assert_eq!(client.write(&late, &pattern(100, 1)).await.outcome, Err(DataError::Epoch), "revoked before it came");
    let newer = Write { epoch: epoch(3), ..late };
    assert_eq!(client.write(&newer, &pattern(100, 1)).await.outcome, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_is_whole_and_a_cut_is_made_before_the_raise() {
    let (master, servers) = cluster().await;
    let client = servers[0].client().await;
    let data = pattern(2_500_000, 3);
    for (n, piece) in (0..).zip(data.chunks(1 << 20)) {
        let frame = write(&servers[0], n + 1, (n as u32) << 20, piece.len());
        assert_eq!(client.write(&frame, piece).await.outcome, Ok(()));
    }
    let source = servers[0].replica(&master);
    let copy = ChunkCommand::Copy { handle: HANDLE, version: VERSION, source: source.clone() };
    let outcome = master.command(servers[1].id, copy.clone()).await.expect("copied");
    let CommandOutcome::Replica(row) = outcome else { panic!("not a row: {outcome:?}") };
    assert_eq!((row.handle, row.version), (HANDLE, VERSION));
    let back = servers[1].client().await.read(read(2 << 20, 1 << 20)).await.expect("read");
    assert_eq!((back.chunk_length, &back.bytes[..]), (2_500_000, &data[2 << 20..]));
    let missing = ChunkCommand::Copy { handle: ChunkHandle::new(77), version: VERSION, source };
    assert_eq!(master.command(servers[2].id, missing).await, Err(FsError::NoReplica));

    let members = [servers[0].replica(&master), servers[1].replica(&master)];
    let cut = Install {
        cut: Some(1_000_000),
        raise_to: Some(ChunkVersion::new(2)),
        truncate_generation: TruncateGeneration::new(1),
        ..install(2, &members)
    };
    for server in &servers[..2] {
        let report = master.install(server.id, cut.clone()).await.expect("installed");
        assert_eq!(report.length, 1_000_000);
        let read = Read { version: ChunkVersion::new(2), ..read(999_424 - 4096, 8192) };
        let back = server.client().await.read(read).await.expect("read");
        assert_eq!((back.chunk_length, back.bytes.len()), (1_000_000, 1_000_000 - 999_424 + 4096));
    }
    assert!(master.install(servers[2].id, cut).await.is_err(), "no replica there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_without_a_master_starts_and_stops() {
    let directory = tempfile::tempdir().expect("directory");
    let nobody = "127.0.0.1:1".parse().expect("address");
    let process = Chunkserver::start(config(nobody, &directory), seams(Arc::new(BootClock))).await.expect("started");
    process.stop().await.expect("stopped");
}
