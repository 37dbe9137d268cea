//! What the master does when members of a new grant do not have the same.

use crate::support::server::Content;
use crate::support::{Client, Cluster, FakeServer, Manners, timings, until};
use gfs_master::config::Timings;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::{ChainBreak, ChunkCommand, FromChunkserver, Position, WriteOutcome};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, Epoch, InodeId, Sequence, Serial, SessionId, Term};
use gfs_proto::limits::SESSION_EXPIRY;
use gfs_proto::ops::{HeldChunk, Op, OpResult};
use std::time::Duration;

/// The first so many writes, all of one epoch.
fn writes(count: u64) -> Content {
    let outcome = |n| WriteOutcome { session: SessionId::new(9), sequence: Sequence::new(n), serial: Serial::new(n) };
    Content {
        digest: count,
        position: Position { epoch: Epoch { term: Term::new(1), counter: 1 }, serial: Serial::new(count) },
        outcomes: (1..=count).map(outcome).collect(),
    }
}

/// A file with one chunk that everybody has reported, and its first grant.
async fn written(cluster: &Cluster, client: &Client, servers: &[FakeServer]) -> (InodeId, ChunkGrant) {
    let made = client.create("file", 1).await;
    let grant = made.grant.expect("a grant");
    for server in servers {
        server.create(grant.handle, grant.version, 100).await;
    }
    let master = cluster.node().master.clone();
    let reported =
        |row: &gfs_master::servers::locations::Located| row.known != gfs_master::servers::locations::Known::Assumed;
    until("all replicas are reported", || {
        master.locations.of(grant.handle).iter().filter(|row| reported(row)).count() == 3
    })
    .await;
    (made.attr.inode, grant)
}

async fn give_back(client: &Client, grant: &ChunkGrant) {
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
}

fn torn(servers: &[FakeServer], handle: ChunkHandle, counts: [u64; 3]) {
    servers.iter().zip(counts).for_each(|(server, count)| server.set_content(handle, writes(count)));
}

fn aligned_before_use(server: &FakeServer, grant: &ChunkGrant) -> bool {
    server.alignments(grant.handle).iter().any(|align| align.epoch == grant.epoch && align.version == grant.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_equal_are_asked_nothing_more() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [5, 5, 5]);
    give_back(&client, &first).await;
    client.grant(inode, 0).await.expect("granted");
    for server in &servers {
        assert_eq!((server.installs(first.handle).len(), server.alignments(first.handle).len()), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_lack_writes_get_them_from_the_one_with_the_last_before_the_grant_is_used() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [4, 6, 5]);
    give_back(&client, &first).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert_eq!((grant.replicas.len(), grant.version), (3, first.version), "nobody is left out for that");
    let align = servers[0].alignments(first.handle).remove(0);
    assert_eq!((align.source.server, align.position), (servers[1].id(), writes(6).position));
    assert!(aligned_before_use(&servers[0], &grant) && aligned_before_use(&servers[2], &grant));
    assert_eq!(servers[1].alignments(first.handle), []);
    for server in &servers {
        assert_eq!(server.content(first.handle), writes(6), "bytes and known writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_bytes_and_forgot_the_writes_is_told_of_them() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [6, 6, 6]);
    servers[2].set_content(first.handle, Content { digest: 6, ..Content::default() });
    give_back(&client, &first).await;
    client.grant(inode, 0).await.expect("granted");
    assert_eq!(servers[2].content(first.handle), writes(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_be_aligned_is_left_out_and_a_source_that_nobody_can_read_too() {
    // who fails, how; who is left out
    for (failing, of_source, out) in [(vec![2], true, 2), (vec![2], false, 2), (vec![0, 2], true, 1)] {
        let cluster = Cluster::start().await;
        let servers = cluster.servers().await;
        let client = Client::start(&cluster.url()).await;
        let (inode, first) = written(&cluster, &client, &servers).await;
        torn(&servers, first.handle, [5, 6, 5]);
        failing.iter().for_each(|index: &usize| servers[*index].manners(Manners::NoAlignments(of_source)));
        give_back(&client, &first).await;
        let grant = client.grant(inode, 0).await.expect("granted");
        let expected: Vec<_> = [0, 1, 2].into_iter().filter(|it| *it != out).map(|it| servers[it].id()).collect();
        let mut members: Vec<_> = grant.replicas.iter().map(|replica| replica.server).collect();
        members.sort_unstable();
        let mut sorted = expected.clone();
        sorted.sort_unstable();
        assert_eq!((members, grant.version > first.version), (sorted, true), "{failing:?} {of_source}");
        let contents: Vec<_> =
            [0, 1, 2].into_iter().filter(|it| *it != out).map(|it| servers[it].content(first.handle)).collect();
        assert_eq!(contents[0], contents[1]);
        let record = cluster.node().master.store.view().chunk(first.handle).expect("readable").expect("known");
        assert!(!record.entitled.contains(&servers[out].id()), "logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_of_the_client_is_no_source() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [5, 7, 6]);
    let broken = Op::BreakChunk {
        inode: inode.into(),
        index: ChunkIndex::new(0),
        handle: first.handle,
        version: first.version,
        epoch: first.epoch,
        suspects: vec![servers[1].id()],
    };
    let Ok(OpResult::Grant(grant)) = client.ask(broken).await else { panic!("a new grant") };
    assert_eq!(grant.replicas.len(), 2);
    assert_eq!([&servers[0], &servers[2]].map(|server| server.content(first.handle)), [writes(6), writes(6)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_that_the_master_did_not_live_to_finish_is_made_again() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [5, 6, 5]);
    drop(client);
    // Installed, and one of two aligned: then the master stops. Those that were killed with it forgot what they knew.
    servers[0].set_content(first.handle, writes(6));
    cluster.restart().await;
    let url = cluster.url();
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&url).await);
    }
    torn(&back, first.handle, [6, 6, 5]);
    cluster.all_up(3).await;
    let client = Client::start(&url).await;
    let inode = client.lookup("file").await.expect("there").inode;
    client.open_file(inode, 1, gfs_proto::ops::Access::Write).await.expect("opened");
    let grant = client.grant(inode, 0).await.expect("granted");
    assert_eq!(grant.replicas.len(), 3);
    for server in &back {
        assert_eq!(server.content(first.handle), writes(6));
    }
}

/// Timings under which a client that says nothing is soon given up.
fn hasty() -> Timings {
    Timings { expiry: Duration::from_millis(1500), ..timings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_left_behind_is_made_equal_though_nobody_writes_again() {
    let cluster = Cluster::with(hasty()).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [6, 5, 4]);
    drop(client);
    until("all are equal", || servers.iter().all(|server| server.content(first.handle) == writes(6))).await;
    until("nothing is in doubt", || cluster.node().master.uneven.is_empty()).await;
    let record = cluster.node().master.store.view().chunk(first.handle).expect("readable").expect("known");
    assert_eq!((record.version, record.entitled.len()), (first.version, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_writer_left_behind_that_died_with_the_master_is_made_equal_when_it_is_given_up() {
    let mut cluster = Cluster::with(hasty()).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    // not the last chunk, of which the length is asked for
    let last = client.grant(inode, 1).await.expect("granted");
    for server in &servers {
        server.create(last.handle, last.version, 100).await;
    }
    drop(client);
    cluster.crash().await;
    let url = cluster.url();
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&url).await);
    }
    torn(&back, first.handle, [6, 5, 4]);
    cluster.all_up(3).await;
    until("all are equal", || back.iter().all(|server| server.content(first.handle) == writes(6))).await;
    until("nothing is in doubt", || cluster.node().master.uneven.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_broke_is_looked_into_though_its_client_says_nothing() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [6, 5, 5]);
    let suspect = servers[1].id();
    let told = ChainBreak { handle: first.handle, version: first.version, epoch: first.epoch, suspect };
    servers[0].tell(FromChunkserver::ChainBreak(told)).await;
    until("all are equal", || servers.iter().all(|server| server.content(first.handle) == writes(6))).await;
    let grant = client.grant(inode, 0).await.expect("the client goes on under another grant");
    assert!(grant.epoch > first.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ran_out_is_looked_into() {
    let cluster = Cluster::with(Timings { lease: Duration::from_secs(1), expiry: SESSION_EXPIRY, ..timings() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, first) = written(&cluster, &client, &servers).await;
    torn(&servers, first.handle, [7, 8, 7]);
    until("all are equal", || servers.iter().all(|server| server.content(first.handle) == writes(8))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_did_not_answer_is_made_equal_later_and_keeps_its_place() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, first) = written(&cluster, &client, &servers).await;
    give_back(&client, &first).await;
    torn(&servers, first.handle, [5, 6, 4]);
    servers[2].manners(Manners::Mute);
    let master = cluster.node().master.clone();
    let is_revoke = |command: &ChunkCommand| matches!(command, ChunkCommand::Revoke { .. });
    let revokes = || servers[0].commands().iter().filter(|command| is_revoke(command)).count();
    let before = revokes();
    master.uneven.note(first.handle);
    until("two are equal", || servers[..2].iter().all(|server| server.content(first.handle) == writes(6))).await;
    assert!(!master.uneven.is_empty(), "the third has not confirmed");
    // The next look ends after the answers of the one before were used.
    let looks = servers[0].installs(first.handle).len();
    until("they are looked at again", || servers[0].installs(first.handle).len() > looks).await;
    assert_eq!(revokes(), before, "the two remember that another may differ, if this master does not");
    servers[2].manners(Manners::Good);
    until("the third is equal", || servers[2].content(first.handle) == writes(6)).await;
    until("nothing is in doubt", || master.uneven.is_empty()).await;
    until("nothing is in doubt anywhere", || revokes() > before).await;
    let record = master.store.view().chunk(first.handle).expect("readable").expect("known");
    assert_eq!((record.version, record.entitled.len()), (first.version, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_while_it_wrote_is_made_equal_when_it_is_back() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, first) = written(&cluster, &client, &servers).await;
    give_back(&client, &first).await;
    torn(&servers, first.handle, [6, 6, 6]);
    // Its replica is reported as one that is being written.
    let back = servers.remove(2).again(&cluster.url()).await;
    back.set_content(first.handle, Content { digest: 77, ..Content::default() });
    until("it is equal", || back.content(first.handle) == writes(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_from_one_that_is_equal_to_the_others() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&cluster, &client, &servers).await;
    give_back(&client, &first).await;
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    cluster.all_up(4).await;
    torn(&servers, first.handle, [5, 6, 5]);
    let goal = Op::SetGoal { inode: inode.into(), goal: 4 };
    assert!(client.ask(goal).await.is_ok());
    let copied =
        |command: &ChunkCommand| matches!(command, ChunkCommand::Copy { handle, .. } if *handle == first.handle);
    until("the copy is asked for", || fourth.commands().iter().any(copied)).await;
    for server in &servers {
        assert_eq!(server.content(first.handle), writes(6));
    }
}
