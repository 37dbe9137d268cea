//! Damaged replicas: doubted, found, mended, made up for.

use crate::repair::{entitled, four, hasty, leased};
use crate::support::{Client, Cluster, FakeServer, Manners, until};
use gfs_master::chunk_list::{Name, Wanted};
use gfs_master::config::Timings;
use gfs_master::servers::locations::Known;
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ServerId};
use gfs_proto::ops::{Op, OpResult};
use std::time::Duration;

fn state(cluster: &Cluster, handle: ChunkHandle, server: ServerId) -> Option<ReplicaState> {
    let rows = cluster.node().master.locations.of(handle);
    rows.iter().find(|row| row.server == server).and_then(|row| match row.known {
        Known::Reported(state) => Some(state),
        Known::Assumed => None,
    })
}

fn others(servers: &[FakeServer], one: usize) -> Vec<ServerId> {
    let others = servers.iter().enumerate().filter(|(number, _)| *number != one).map(|(_, server)| server.id());
    let mut others: Vec<_> = others.collect();
    others.sort_unstable();
    others
}

fn sorted(mut servers: Vec<ServerId>) -> Vec<ServerId> {
    servers.sort_unstable();
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_not_named_and_mended_by_the_others() {
    let (cluster, servers, _fourth, client, inode, grant) = four(hasty()).await;
    let handle = grant.handle;
    // it cannot be mended for the moment, so that it can be looked at
    servers[1].manners(Manners::Mute);
    servers[1].find_damage(handle).await;
    until("the master knows", || state(&cluster, handle, servers[1].id()) == Some(ReplicaState::Damaged)).await;
    let read = Op::ReadChunks { inode: inode.into(), first: ChunkIndex::new(0), count: 1 };
    let Ok(OpResult::Chunks(map)) = client.ask(read).await else { panic!("no locations") };
    let named: Vec<ServerId> = map.chunks[0].replicas.iter().map(|replica| replica.server).collect();
    assert_eq!(sorted(named), others(&servers, 1), "whole copies only");
    servers[1].manners(Manners::Good);
    until("it is mended", || state(&cluster, handle, servers[1].id()) == Some(ReplicaState::Clean)).await;
    let peers = servers[1].mends(handle).last().cloned().expect("it was told to");
    assert_eq!(sorted(peers), others(&servers, 1));
    assert_eq!(entitled(&cluster, handle).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_all_damaged_are_named_and_mend_each_other() {
    let (cluster, servers, _fourth, _client, _, grant) = four(hasty()).await;
    let handle = grant.handle;
    for server in &servers {
        server.find_damage(handle).await;
    }
    until("all are mended", || {
        servers.iter().all(|server| {
            !server.mends(handle).is_empty() && state(&cluster, handle, server.id()) == Some(ReplicaState::Clean)
        })
    })
    .await;
    for (number, server) in servers.iter().enumerate() {
        assert_eq!(sorted(server.mends(handle)[0].clone()), others(&servers, number), "the damaged ones too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_s_report_makes_the_server_look_and_nothing_else() {
    let (cluster, servers, _fourth, client, _, grant) = four(hasty()).await;
    let (handle, version) = (grant.handle, grant.version);
    let report = |server: ServerId| Op::ReportDamage { handle, version, server };
    for _ in 0..20 {
        assert!(client.ask(report(servers[0].id())).await.is_ok());
    }
    until("it looks", || servers[0].looks(handle) > 0).await;
    assert_eq!(state(&cluster, handle, servers[0].id()), Some(ReplicaState::Dirty), "a report alone says nothing");
    assert!(servers[0].mends(handle).is_empty());
    assert_eq!(servers[0].looks(handle), 1, "told once for many reports");
    servers[2].rot(handle);
    assert!(client.ask(report(servers[2].id())).await.is_ok());
    until("it is mended", || servers[2].mends(handle).len() == 1).await;
    let nobody = Op::ReportDamage { handle: ChunkHandle::new(4711), version, server: servers[0].id() };
    assert!(client.ask(nobody).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_copy_has_is_counted_and_not_asked_for_again_and_again() {
    let (cluster, mut servers, _fourth, _client, _, grant) = four(hasty()).await;
    let handle = grant.handle;
    servers.iter().for_each(|server| server.manners(Manners::NoMends));
    servers[0].find_damage(handle).await;
    until("it is given up", || cluster.node().master.repair.incurable() == 1).await;
    let wanted = Wanted { health: Some(Name::Damaged), server: None, after: None, limit: 10 };
    let listed = cluster.node().master.list_chunks(&wanted).expect("readable").chunks;
    assert_eq!(listed.iter().map(|chunk| chunk.handle).collect::<Vec<_>>(), [handle]);
    until("the others look at theirs", || servers[1].looks(handle) + servers[2].looks(handle) == 2).await;
    cluster.node().master.repair.look_everywhere();
    let again = until("it is asked again", || servers[0].mends(handle).len() > 1);
    assert!(tokio::time::timeout(Duration::from_millis(500), again).await.is_err(), "asked in vain before");
    assert_eq!(entitled(&cluster, handle).len(), 3);
    // other copies than those that were asked
    servers[0].manners(Manners::Good);
    drop(servers.remove(1).kill());
    until("it is tried with others", || cluster.node().master.repair.incurable() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_written_all_the_time_is_held_for_its_mending() {
    let long = Duration::from_secs(600);
    let cluster = Cluster::with(Timings { repair_patience: Duration::from_millis(200), lease: long, ..hasty() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = leased(&client, &servers).await;
    servers[0].find_damage(grant.handle).await;
    until("the lease is ended for it", || !servers[0].mends(grant.handle).is_empty()).await;
    let next = tokio::time::timeout(Duration::from_secs(20), client.grant(inode, 0)).await.expect("in time");
    let next = next.expect("granted");
    assert!(next.epoch > grant.epoch && next.replicas.len() == 3);
}
