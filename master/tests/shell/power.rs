//! Power cuts: suspect replicas are replaced from one that was spared, or else one of them is adopted.

use crate::repair::{entitled, give_back, hasty, leased, record};
use crate::restart::report_size;
use crate::support::server::Dead;
use crate::support::{Client, Cluster, FakeServer, Manners, timings, until};
use gfs_master::config::Timings;
use gfs_master::servers::locations::Known;
use gfs_proto::FsError;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::{ChunkCommand, ChunkReport, FromChunkserver};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion, InodeId};
use gfs_proto::ops::Access;
use std::time::Duration;

/// A cluster whose three servers were killed while a chunk was written.
struct Dark {
    cluster: Cluster,
    client: Client,
    inode: InodeId,
    grant: ChunkGrant,
    dead: [Dead; 3],
}

async fn dark(timings: Timings) -> Dark {
    let cluster = Cluster::with(timings).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = leased(&client, &servers).await;
    let master = cluster.node().master.clone();
    let reported = || master.locations.of(grant.handle).iter().filter(|row| row.known != Known::Assumed).count() == 3;
    until("all have reported", reported).await;
    drop(master);
    let dead: Vec<Dead> = servers.into_iter().map(FakeServer::kill).collect();
    cluster.all_up(0).await;
    let dead = dead.try_into().unwrap_or_else(|_| panic!("three servers"));
    Dark { cluster, client, inode, grant, dead }
}

fn adoptions(servers: &[&FakeServer], handle: ChunkHandle) -> Vec<(ChunkVersion, ChunkVersion)> {
    servers.iter().flat_map(|server| server.adoptions(handle)).collect()
}

/// Waits until all have the recorded version, and are entitled to it.
async fn whole(cluster: &Cluster, servers: &[&FakeServer], handle: ChunkHandle) {
    cluster.all_up(servers.len()).await;
    until("all have the recorded version", || {
        let record = record(cluster, handle);
        let has = |server: &&FakeServer| {
            server.version(handle) == Some(record.version) && record.entitled.contains(&server.id())
        };
        servers.iter().all(has)
    })
    .await;
    let status = || cluster.node().master.repair.status();
    until("nothing is left to be done", || status().queued == 0 && status().looked_everywhere).await;
    until("all count", || cluster.node().master.census().expect("readable").healthy == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_suspect_copies_is_adopted_and_the_others_are_replaced() {
    let Dark { cluster, client, inode, grant, dead: [a, b, c] } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let a = a.without_power().start(&url).await;
    let b = b.without_power().start(&url).await;
    let c = c.without_power().start(&url).await;
    let all = [&a, &b, &c];
    whole(&cluster, &all, handle).await;
    let raised = grant.version.next();
    assert_eq!(adoptions(&all, handle), [(grant.version, raised)], "once, at one of them");
    assert_eq!((record(&cluster, handle).version, a.adoptions(handle).len()), (raised, 1), "the first one");
    assert!(cluster.node().master.leases.is_empty(), "the lease that there was has ended");
    let map = client.chunks(inode).await;
    assert_eq!((map.chunks[0].version, map.chunks[0].replicas.len()), (raised, 3));
    assert_eq!(client.grant(inode, 0).await.expect("granted").version, raised);
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_adopted_while_a_server_may_come_that_was_spared() {
    let Dark { cluster, client, grant, dead: [a, b, c], .. } = dark(timings()).await;
    give_back(&client, &grant).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let a = a.without_power().start(&url).await;
    let b = b.without_power().start(&url).await;
    cluster.all_up(2).await;
    let status = || cluster.node().master.repair.status();
    until("all was looked at", || status().looked_everywhere && status().queued == 0).await;
    assert_eq!(cluster.node().master.census().expect("readable").unavailable, 1);
    let c = c.start(&url).await;
    let all = [&a, &b, &c];
    whole(&cluster, &all, handle).await;
    assert_eq!(adoptions(&all, handle), []);
    let copied = |server: &FakeServer| server.commands().iter().any(|it| matches!(it, ChunkCommand::Copy { .. }));
    assert!(copied(&a) && copied(&b) && !copied(&c), "from the good one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_is_not_waited_for_and_its_copy_does_not_count_later() {
    let Dark { cluster, grant, dead: [a, b, c], .. } = dark(hasty()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let b = b.without_power().start(&url).await;
    let c = c.without_power().start(&url).await;
    until("one is adopted", || record(&cluster, handle).version > grant.version).await;
    let a = a.start(&url).await;
    let all = [&a, &b, &c];
    whole(&cluster, &all, handle).await;
    assert_eq!(adoptions(&all, handle).len(), 1);
    let deleted = |command: &ChunkCommand| matches!(command, ChunkCommand::Delete { .. });
    assert!(a.commands().iter().any(deleted), "it has bytes that the others have not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_whose_result_is_lost_is_made_again_at_the_same_server() {
    let Dark { cluster, grant, dead: [a, b, c], .. } =
        dark(Timings { copy: Duration::from_millis(300), ..timings() }).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let a = a.without_power().start(&url).await;
    a.manners(Manners::SlowCopies);
    let b = b.without_power().start(&url).await;
    let c = c.without_power().start(&url).await;
    until("it is asked again", || a.adoptions(handle).len() > 1).await;
    assert_eq!(entitled(&cluster, handle), [a.id()], "the choice is logged");
    a.manners(Manners::Good);
    a.make_copies(false).await;
    whole(&cluster, &[&a, &b, &c], handle).await;
    assert_eq!(adoptions(&[&b, &c], handle), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_adopted_before_the_master_stopped_counts_alone() {
    let Dark { mut cluster, client, grant, dead: [a, b, c], .. } = dark(hasty()).await;
    let handle = grant.handle;
    let a = a.without_power().start(&cluster.url()).await;
    a.manners(Manners::SlowCopies);
    let b = b.without_power().start(&cluster.url()).await;
    until("the third is lost, and an adoption under way", || a.copies_waiting() > 0).await;
    drop(client);
    cluster.restart().await;
    drop(a.carry_out_copies());
    assert_eq!(a.version(handle), Some(grant.version.next()));
    let url = cluster.url();
    // The good copy comes first, and too late.
    let c = c.start(&url).await;
    let a = a.again(&url).await;
    let b = b.again(&url).await;
    whole(&cluster, &[&a, &b, &c], handle).await;
    let deleted = |command: &ChunkCommand| matches!(command, ChunkCommand::Delete { .. });
    assert!(c.commands().iter().any(deleted), "two that may differ do not both count");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_is_refused_another_is_adopted() {
    let Dark { cluster, grant, dead: [a, b, c], .. } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let a = a.without_power().start(&url).await;
    a.manners(Manners::NoAdoptions);
    let b = b.without_power().start(&url).await;
    let c = c.without_power().start(&url).await;
    whole(&cluster, &[&a, &b, &c], handle).await;
    assert_eq!([&a, &b, &c].map(|server| server.adoptions(handle).len()), [1, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_copy_is_above_those_whose_raise_was_not_logged() {
    let Dark { cluster, grant, dead: [a, b, mut c], .. } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let ahead = grant.version.next();
    c.set_version(handle, ahead);
    let a = a.without_power().start(&url).await;
    let b = b.without_power().start(&url).await;
    let c = c.without_power().start(&url).await;
    let all = [&a, &b, &c];
    whole(&cluster, &all, handle).await;
    assert_eq!(adoptions(&all, handle), [(grant.version, ahead.next())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_not_reported_its_copy_is_asked_before_another_is_adopted() {
    let Dark { cluster, grant, dead: [a, b, c], .. } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    let c = c.without(handle).start(&url).await;
    cluster.all_up(1).await;
    let row = c.create_unreported(handle, grant.version, 100);
    let a = a.without_power().start(&url).await;
    let b = b.without_power().start(&url).await;
    until("it was asked", || !c.installs(handle).is_empty()).await;
    let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
    c.tell(FromChunkserver::Report(report)).await;
    let all = [&a, &b, &c];
    whole(&cluster, &all, handle).await;
    assert_eq!(adoptions(&all, handle), []);
}

/// True if the file has no chunk: reads see zeroes.
fn is_hole(cluster: &Cluster, inode: InodeId) -> bool {
    cluster.node().master.store.view().chunks(inode, ChunkIndex::new(0), 1).expect("a file").chunks.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_never_flushed_and_went_with_all_its_machines_is_a_hole() {
    let Dark { cluster, client, inode, grant, dead: [a, b, c] } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    report_size(&client, inode, 100).await;
    let _a = a.without(handle).start(&url).await;
    let _b = b.without(handle).start(&url).await;
    cluster.all_up(2).await;
    assert_eq!(client.grant(inode, 0).await, Err(FsError::NoReplica), "one may have been spared");
    assert!(!is_hole(&cluster, inode));
    let _c = c.without(handle).start(&url).await;
    until("nobody has anything", || is_hole(&cluster, inode)).await;
    assert!(client.chunks(inode).await.chunks.is_empty(), "zeroes, not an error");
    assert!(client.grant(inode, 0).await.expect("a new chunk").created);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_was_spared_of_a_chunk_that_was_never_flushed_stays() {
    let Dark { cluster, client, inode, grant, dead: [a, b, c] } = dark(timings()).await;
    let (url, handle) = (cluster.url(), grant.handle);
    report_size(&client, inode, 100).await;
    let _a = a.without(handle).start(&url).await;
    let _b = b.without(handle).start(&url).await;
    cluster.all_up(2).await;
    assert_eq!(client.grant(inode, 0).await, Err(FsError::NoReplica));
    let c = c.start(&url).await;
    cluster.all_up(3).await;
    let grant = client.grant(inode, 0).await.expect("one has it");
    assert!(!grant.created && grant.replicas.iter().map(|r| r.server).eq([c.id()]), "{grant:?}");
    assert!(!is_hole(&cluster, inode));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_master_knows_which_chunks_were_never_flushed() {
    let lease = Duration::from_millis(500);
    for flushed in [false, true] {
        let Dark { mut cluster, client, inode, grant, dead: [a, b, c] } = dark(Timings { lease, ..timings() }).await;
        let handle = grant.handle;
        report_size(&client, inode, 100).await;
        let url = cluster.url();
        let a = a.start(&url).await;
        if flushed {
            a.flush(handle).await;
        }
        let expected = if flushed { vec![] } else { vec![handle] };
        let marks = |cluster: &Cluster| {
            let view = cluster.node().master.store.view();
            (view.unwritten().expect("readable"), view.unflushed().expect("readable"))
        };
        until("it is logged", || marks(&cluster) == (vec![], expected.clone())).await;
        let a = a.kill();
        cluster.crash().await;
        let url = cluster.url();
        let client = client.resume(&url, &[(inode, 1, Access::ReadWrite)]).await.expect("resumed");
        report_size(&client, inode, 100).await;
        let (a, b, c) = (a.without(handle), b.without(handle), c.without(handle));
        let _servers = (a.start(&url).await, b.start(&url).await, c.start(&url).await);
        cluster.all_up(3).await;
        if flushed {
            let lost = || cluster.node().master.census().expect("readable").lost == 1;
            until("it is known to be lost", lost).await;
            assert_eq!(client.grant(inode, 0).await, Err(FsError::NoReplica), "what was flushed is never zeroes");
            assert!(!is_hole(&cluster, inode));
        } else {
            until("it is a hole", || is_hole(&cluster, inode)).await;
        }
    }
}
