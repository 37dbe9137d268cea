//! Replicas that the master knows nothing of: kept aside, listed, deleted after their time; those of chunks that were
//! removed are deleted at once.

use crate::support::{Client, Cluster, FakeServer, until};
use gfs_master::config::Timings;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::ChunkCommand;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, InodeId};
use gfs_proto::ops::{Access, HeldChunk, Op};
use std::time::Duration;

const V: ChunkVersion = ChunkVersion::new(1);
const UNKNOWN: ChunkHandle = ChunkHandle::new(1000);

fn aside(cluster: &Cluster) -> Vec<(ChunkHandle, u32)> {
    let listing = cluster.node().master.list_quarantine(None, None, 100).expect("readable");
    assert!(listing.next.is_none());
    listing.replicas.iter().map(|row| (row.replica.handle, row.replica.server.get())).collect()
}

fn deleted(server: &FakeServer, handle: ChunkHandle) -> bool {
    server.commands().iter().any(|command| {
        matches!(command, ChunkCommand::Delete { chunks, .. } if chunks.iter().any(|chunk| chunk.handle == handle))
    })
}

async fn written(client: &Client, servers: &[FakeServer], name: &str) -> (InodeId, ChunkGrant) {
    let made = client.create(name, 1).await;
    let grant = made.grant.expect("a grant");
    for server in servers {
        server.create(grant.handle, grant.version, 100).await;
    }
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
    (made.attr.inode, grant)
}

async fn remove(client: &Client, inode: InodeId, name: &str) {
    client.release(inode, 1).await;
    assert!(client.unlink(name).await.is_ok());
}

/// Waits until everything that is aside has been looked at some times.
async fn looked_at(cluster: &Cluster) {
    let begun = std::time::Instant::now();
    until("some ticks have passed", || begun.elapsed() > cluster.timings.tick * 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_kept_listed_and_deleted_after_its_time_only() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    servers[1].create(UNKNOWN, V, 77).await;
    until("it is aside", || aside(&cluster) == [(UNKNOWN, servers[1].id().get())]).await;
    let since = cluster.node().master.list_quarantine(None, None, 1).expect("readable").replicas[0];
    assert_eq!((since.replica.version, since.replica.length), (V, 77));
    looked_at(&cluster).await;
    assert!(!deleted(&servers[1], UNKNOWN));

    cluster.timings = Timings { quarantine: Duration::from_millis(1), ..cluster.timings };
    cluster.restart().await;
    assert_eq!(cluster.node().master.list_quarantine(None, None, 1).expect("readable").replicas, [since], "since then");
    looked_at(&cluster).await;
    assert_eq!(aside(&cluster).len(), 1, "its server is not there");
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&cluster.url()).await);
    }
    until("it is deleted", || back[1].version(UNKNOWN).is_none()).await;
    until("nothing is aside", || aside(&cluster).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_by_itself_is_listed_no_more() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    servers[0].create(UNKNOWN, V, 77).await;
    until("it is aside", || aside(&cluster).len() == 1).await;
    let back = servers.remove(0).kill().without(UNKNOWN).start(&cluster.url()).await;
    until("nothing is aside", || aside(&cluster).is_empty()).await;
    assert!(!deleted(&back, UNKNOWN));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_replicas_of_a_removed_chunk_are_deleted_at_once() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = written(&client, &servers, "file").await;
    remove(&client, inode, "file").await;
    until("all have deleted it", || servers.iter().all(|server| server.version(grant.handle).is_none())).await;
    let garbage = || cluster.node().master.store.view().stats().garbage;
    until("nothing is garbage", || garbage() == 0).await;
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    cluster.all_up(4).await;
    fourth.create(grant.handle, grant.version, 100).await;
    until("it is deleted", || fourth.version(grant.handle).is_none()).await;
    until("nothing is garbage", || garbage() == 0).await;
    assert_eq!(aside(&cluster), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_nothing_of_the_generations_before_is_deleted_by_itself() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, kept) = written(&client, &servers, "kept").await;
    // Removed before the backup, and not known to be: a file of the lost future may have had its number.
    let (inode, removed) = written(&client, &servers, "removed").await;
    remove(&client, inode, "removed").await;
    until("all have deleted it", || servers.iter().all(|server| server.version(removed.handle).is_none())).await;
    until("nothing is garbage", || cluster.node().master.store.view().stats().garbage == 0).await;
    drop(client);
    cluster.restart_as(true).await;
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&cluster.url()).await);
    }
    cluster.all_up(3).await;
    back[0].create(removed.handle, V, 1).await;
    back[0].create(UNKNOWN, V, 2).await;
    until("both are aside", || aside(&cluster).len() == 2).await;
    looked_at(&cluster).await;
    for handle in [removed.handle, UNKNOWN, kept.handle] {
        assert!(!deleted(&back[0], handle));
    }
    assert_eq!(cluster.node().master.census().expect("readable").healthy, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_a_replica_ahead_of_its_record_at_a_server_that_is_not_entitled_outlives_the_record() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = written(&client, &servers, "file").await;
    drop(client);
    cluster.restart_as(true).await;
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&cluster.url()).await);
    }
    cluster.all_up(3).await;
    let client = Client::start(&cluster.url()).await;
    client.open_file(inode, 2, Access::ReadWrite).await.expect("it was backed up");
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    cluster.all_up(4).await;
    fourth.create(grant.handle, grant.version.next(), 100).await;
    until("it is aside", || aside(&cluster) == [(grant.handle, fourth.id().get())]).await;
    // Two raises: the record is above it.
    for _ in 0..3 {
        let held = client.grant(inode, 0).await.expect("granted");
        let broken = Op::BreakChunk {
            inode: inode.into(),
            index: gfs_proto::ids::ChunkIndex::new(0),
            handle: held.handle,
            version: held.version,
            epoch: held.epoch,
            suspects: vec![],
        };
        assert!(client.ask(broken).await.is_ok());
    }
    let record = cluster.node().master.store.view().chunk(grant.handle).expect("readable").expect("known");
    assert!(record.version > grant.version.next());
    looked_at(&cluster).await;
    assert!(!deleted(&fourth, grant.handle) && fourth.version(grant.handle).is_some());
    let map = client.chunks(inode).await;
    assert!(map.chunks[0].replicas.iter().all(|replica| replica.server != fourth.id()), "never served");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_listed_by_health_a_page_at_a_time() {
    use gfs_master::chunk_list::{Name, Wanted};
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let mut handles = Vec::new();
    for number in 0..5 {
        handles.push(written(&client, &servers, &format!("f{number}")).await.1.handle);
    }
    let unwritten = client.create("new", 9).await.grant.expect("a grant").handle;
    let master = cluster.node().master.clone();
    let list = |health: Option<Name>, server| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = master.list_chunks(&Wanted { health, server, after, limit: 2 }).expect("readable");
            assert!(page.chunks.len() <= 2);
            all.extend(page.chunks.into_iter().map(|listed| listed.handle));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    };
    until("all are healthy", || list(Some(Name::Healthy), None) == handles).await;
    assert_eq!(list(Some(Name::Unwritten), None), [unwritten]);
    assert_eq!(list(None, None).len(), 6);
    let (dead, id) = {
        let server = servers.remove(2);
        let id = server.id();
        (server.kill(), id)
    };
    cluster.all_up(2).await;
    assert_eq!(list(None, Some(id)).len(), 6, "what it should have");
    drop(dead);
}
