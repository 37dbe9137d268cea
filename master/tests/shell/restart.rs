//! What a master that was killed leaves to the next: chunks that were granted and perhaps never written,
//! and chunkservers that are on their way back.

use crate::support::{CHUNK, Client, Cluster, FakeServer, timings, until};
use gfs_master::config::Timings;
use gfs_proto::FsError;
use gfs_proto::attr::SetTime;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::ids::{ChunkIndex, InodeId};
use gfs_proto::ops::{Access, Op};
use gfs_proto::wire::callback;
use std::time::Duration;

/// A cluster of which a copy can be made: no checkpoint comes in between.
async fn cluster() -> Cluster {
    Cluster::with(Timings { checkpoint: Duration::from_secs(3600), ..timings() }).await
}

/// A new file with a grant for its first chunk.
async fn granted(client: &Client) -> (InodeId, ChunkGrant) {
    let made = client.create("file", 1).await;
    (made.attr.inode, made.grant.expect("a grant"))
}

async fn again(cluster: &Cluster, servers: Vec<FakeServer>) -> Vec<FakeServer> {
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&cluster.url()).await);
    }
    back
}

async fn resumed(client: &Client, cluster: &Cluster, inode: InodeId) -> Client {
    client.resume(&cluster.url(), &[(inode, 1, Access::ReadWrite)]).await.expect("resumed")
}

pub(crate) async fn report_size(client: &Client, inode: InodeId, size: u64) {
    let report = Op::ReportSize {
        inode: inode.into(),
        size,
        mtime: Some(SetTime::Now),
        atime: None,
        ctime: None,
        truncate_generation: Default::default(),
        durable: false,
    };
    assert!(client.ask(report).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_grant_was_lost_with_the_master_begins_again() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = granted(&client).await;
    cluster.crash().await;
    let _servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let client = resumed(&client, &cluster, inode).await;
    // The client knows that the file is longer, from chunks that it has written or will write.
    report_size(&client, inode, 300_000).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert!(grant.created && grant.handle == first.handle && grant.version == first.version.next());
    assert_eq!(grant.replicas.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_not_written_yet_is_asked_for_where_it_was_granted() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = granted(&client).await;
    cluster.crash().await;
    let mut servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let client = resumed(&client, &cluster, inode).await;
    let named = client.chunks(inode).await.chunks[0].clone();
    assert!(named.leased && named.handle == first.handle, "{named:?}");
    assert_eq!(named.replicas.len(), 3, "each says that it has nothing: nobody waits for the lease to run out");
    drop(servers.pop());
    cluster.all_up(2).await;
    let named = client.chunks(inode).await.chunks[0].clone();
    assert_eq!(named.replicas, [], "the one that is away may have it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_never_written_can_be_written_after_a_checkpoint() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = granted(&client).await;
    report_size(&client, inode, 300_000).await;
    // Stops in order: all of the log is in the checkpoint.
    cluster.restart().await;
    let _servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let client = resumed(&client, &cluster, inode).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert!(grant.created && grant.handle == first.handle && grant.version == first.version.next());
    cluster.restart().await;
    let unwritten = cluster.node().master.store.view().unwritten();
    assert_eq!(unwritten, Ok(vec![first.handle]), "begun again, and still nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_never_written_is_a_hole_after_a_checkpoint() {
    let mut cluster = Cluster::with(Timings { lease: Duration::from_millis(500), ..timings() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, _) = granted(&client).await;
    let far = client.grant(inode, 4).await.expect("granted");
    for server in &servers {
        server.create(far.handle, far.version, 100).await;
    }
    report_size(&client, inode, 300_000).await;
    cluster.restart().await;
    let _servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let master = cluster.node().master.clone();
    let first = || master.store.view().chunks(inode, ChunkIndex::new(0), 1).expect("a file").chunks;
    until("the chunk that was never written is a hole", || first().is_empty()).await;
    let client = resumed(&client, &cluster, inode).await;
    let map = client.chunks(inode).await;
    assert_eq!((map.chunks.len(), map.chunks[0].handle, map.chunks[0].replicas.len()), (1, far.handle, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_replicas_are_all_lost_is_no_hole() {
    let (lease, checkpoint) = (Duration::from_millis(500), Duration::from_secs(3600));
    let mut cluster = Cluster::with(Timings { lease, checkpoint, ..timings() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = granted(&client).await;
    for server in &servers {
        server.create(first.handle, first.version, 100).await;
    }
    let marks = |cluster: &Cluster| {
        let view = cluster.node().master.store.view();
        (view.unwritten().expect("readable"), view.unflushed().expect("readable"))
    };
    until("it is known to be written", || marks(&cluster) == (vec![], vec![first.handle])).await;
    servers[1].flush(first.handle).await;
    until("it is known to be flushed", || marks(&cluster) == (vec![], vec![])).await;
    cluster.crash().await;
    assert_eq!(marks(&cluster), (vec![], vec![]), "it is in the log");
    cluster.restart().await;
    assert_eq!(marks(&cluster), (vec![], vec![]), "it is in the checkpoint");
    servers.iter().for_each(|server| server.lose(first.handle));
    let _servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let client = resumed(&client, &cluster, inode).await;
    report_size(&client, inode, 100).await;
    assert_eq!(client.grant(inode, 0).await, Err(FsError::NoReplica));
    let map = client.chunks(inode).await;
    assert_eq!((map.chunks.len(), map.chunks[0].replicas.len()), (1, 0), "an error to readers, not zeroes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_begun_under_the_former_master_is_found_before_it_is_reported() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = granted(&client).await;
    cluster.crash().await;
    let servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    // The first frame comes after the full reports.
    for server in &servers {
        server.create_unreported(first.handle, first.version, 100);
    }
    let client = resumed(&client, &cluster, inode).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert!(!grant.created, "what was written is not thrown away");
    assert_eq!((grant.version, grant.replicas.len()), (first.version, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_again_while_another_writer_may_have_begun_it_at_a_server_that_is_away() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let (client, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let (inode, _) = granted(&client).await;
    cluster.crash().await;
    let mut servers = servers;
    let _away = servers.pop();
    let _servers = again(&cluster, servers).await;
    cluster.all_up(2).await;
    let client = resumed(&client, &cluster, inode).await;
    assert_eq!(client.grant(inode, 0).await, Err(FsError::Unavailable), "the other one is not back yet");
    let _other = other.resume(&cluster.url(), &[]).await.expect("resumed");
    assert!(client.grant(inode, 0).await.expect("granted").created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_all_its_servers_say_is_not_there_begins_again_though_a_writer_has_died() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let (dead, client) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let (inode, first) = granted(&dead).await;
    cluster.crash().await;
    let _servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    let client = client.resume(&cluster.url(), &[]).await.expect("resumed");
    client.open_file(inode, 1, Access::ReadWrite).await.expect("opened");
    let grant = client.grant(inode, 0).await.expect("nobody waits until the session of the dead one has expired");
    assert!(grant.created && grant.handle == first.handle && grant.version == first.version.next());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_waits_for_the_writer_that_is_on_its_way_back() {
    let mut cluster = cluster().await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = writer.create("file", 1).await.attr.inode;
    cluster.crash().await;
    let other = other.resume(&cluster.url(), &[]).await.expect("resumed");
    let opening = other.open_file(inode, 1, Access::Read);
    let returning = async {
        let writer = resumed(&writer, &cluster, inode).await;
        writer.listen().await;
        let recall = writer.callback().await;
        report_size(&writer, inode, 1000).await;
        writer.done(recall.id);
        writer
    };
    let (opened, _writer) = tokio::join!(opening, returning);
    assert_eq!(opened.map(|opened| opened.attr.size), Ok(1000), "what it held back is seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_comes_back_late_hears_that_it_is_not_alone() {
    let recall = Duration::from_millis(300);
    let mut cluster = Cluster::with(Timings { checkpoint: Duration::from_secs(3600), recall, ..timings() }).await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = writer.create("file", 1).await.attr.inode;
    cluster.crash().await;
    let other = other.resume(&cluster.url(), &[]).await.expect("resumed");
    let opened = other.open_file(inode, 1, Access::ReadWrite).await.expect("it is not waited for without end");
    assert!(!opened.exclusive, "who knows what the other one has open");
    let writer = resumed(&writer, &cluster, inode).await;
    writer.listen().await;
    let recall = writer.callback().await;
    assert!(matches!(&recall.kind, Some(callback::Kind::Recall(recall)) if recall.inode == inode.get()));
    writer.done(recall.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_found_when_writer_and_master_died_together() {
    let expiry = Duration::from_secs(1);
    let mut cluster = Cluster::with(Timings { checkpoint: Duration::from_secs(3600), expiry, ..timings() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = granted(&client).await;
    let far = client.grant(inode, 3).await.expect("granted");
    for server in &servers {
        server.create(grant.handle, grant.version, 1000).await;
        server.create(far.handle, far.version, 500).await;
    }
    cluster.crash().await;
    let _servers = again(&cluster, servers).await;
    let master = cluster.node().master.clone();
    let recorded = || master.store.view().attr(inode).map(|attr| attr.size);
    until("the session has expired", || master.sessions.is_empty()).await;
    until("the size is recorded", || recorded() == Ok(3 * CHUNK + 500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_back_tells_the_size_itself() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = granted(&client).await;
    for server in &servers {
        server.create(grant.handle, grant.version, 1000).await;
    }
    cluster.crash().await;
    let client = resumed(&client, &cluster, inode).await;
    let servers = again(&cluster, servers).await;
    cluster.all_up(3).await;
    report_size(&client, inode, 1000).await;
    client.release(inode, 1).await;
    let master = cluster.node().master.clone();
    until("the size is recorded", || master.store.view().attr(inode).is_ok_and(|attr| attr.size == 1000)).await;
    assert!(servers.iter().all(|server| server.installs(grant.handle).is_empty()), "no replica is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_chunks_wait_for_the_servers_that_come_back() {
    let mut cluster = cluster().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, _) = granted(&client).await;
    cluster.crash().await;
    let client = resumed(&client, &cluster, inode).await;
    let (grant, _servers) = tokio::join!(client.grant(inode, 7), again(&cluster, servers));
    assert_eq!(grant.expect("granted").replicas.len(), 3, "not on the first that came");
}
