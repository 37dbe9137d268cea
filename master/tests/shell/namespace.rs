//! Sessions and the namespace: create with first chunk, exactly once, restarts, opens of removed files.

use crate::support::{Client, Cluster, timings, until};
use gfs_master::config::Timings;
use gfs_proto::FsError;
use gfs_proto::attr::SetTime;
use gfs_proto::chunk::Numbering;
use gfs_proto::ops::{Access, Op, OpResult};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn create_gives_inode_open_and_first_chunk_at_once() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let grant = made.grant.expect("a grant for the first chunk");
    assert!(grant.created && grant.numbering == Numbering::Client);
    assert_eq!(grant.replicas.len(), 3);
    assert!(made.opened.is_some_and(|opened| opened.exclusive));
    assert!(servers.iter().all(|server| server.commands().is_empty()), "nobody need agree on a new chunk");
    let map = client.chunks(made.attr.inode).await;
    assert_eq!((map.chunks.len(), map.chunks[0].replicas.len()), (1, 3), "members of a new chunk count at once");
    assert!(map.chunks[0].leased);
    assert_eq!(client.lookup("file").await.map(|attr| attr.inode), Ok(made.attr.inode));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_chunkservers_files_can_be_made_but_not_written() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    assert!(made.grant.is_none());
    assert_eq!(client.grant(made.attr.inode, 0).await, Err(FsError::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer() {
    let cluster = Cluster::start().await;
    let _servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let sequence = client.next_sequence();
    let ops = vec![Client::make("file", Some(1), true)];
    let first = client.batch(Some(sequence), ops.clone()).await.expect("made");
    let again = client.batch(Some(sequence), ops.clone()).await.expect("the same");
    let inode = |reply: &gfs_proto::ops::BatchReply| match &reply.results[0] {
        Ok(OpResult::Made(made)) => (made.attr.inode, made.existed, made.opened.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(inode(&first), inode(&again));
    assert!(matches!(&again.results[0], Ok(OpResult::Made(made)) if made.grant.is_none()));
    let other = client.batch(Some(client.next_sequence()), ops).await.expect("answered");
    assert_eq!(other.results, [Err(FsError::Exists)], "a new number is a new command");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_refers_to_its_own_results_and_ends_with_the_first_failure() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let first = gfs_proto::ops::InodeRef::ResultOf(0);
    let touch = gfs_proto::attr::SetAttr { mtime: Some(SetTime::Now), ..Default::default() };
    let ops = vec![
        Client::make("a", None, false),
        Op::SetAttr { inode: first, changes: touch },
        Op::Rmdir { parent: gfs_proto::ids::InodeId::ROOT.into(), name: support_name("a") },
        Op::GetAttr { inode: first },
    ];
    let reply = client.batch(Some(client.next_sequence()), ops).await.expect("answered");
    assert_eq!(reply.results.len(), 3, "{:?}", reply.results);
    assert_eq!(reply.results[2], Err(FsError::NotDirectory));
    assert!(client.lookup("a").await.is_ok(), "what came before the failure stays");
    let unnumbered = client.batch(None, vec![Client::make("b", None, false)]).await;
    assert_eq!(unnumbered, Err(FsError::Protocol));
}

fn support_name(text: &str) -> gfs_proto::name::Name {
    gfs_proto::name::Name::new(text.as_bytes()).expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let mut cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let mut inodes = Vec::new();
    for number in 0..50 {
        inodes.push(client.create(&format!("file{number}"), number + 1).await.attr.inode);
    }
    let report = Op::ReportSize {
        inode: inodes[0].into(),
        size: 12345,
        mtime: Some(SetTime::Now),
        atime: None,
        ctime: None,
        truncate_generation: Default::default(),
        durable: false,
    };
    assert!(client.ask(report).await.is_ok());
    cluster.restart().await;
    let client = client.resume(&cluster.url(), &[]).await.expect("the session lives on");
    for (number, inode) in inodes.iter().enumerate() {
        assert_eq!(client.lookup(&format!("file{number}")).await.map(|attr| attr.inode), Ok(*inode));
    }
    assert_eq!(client.attr(inodes[0]).await.map(|attr| attr.size), Ok(12345), "logged before the clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_numbers_are_of_a_new_generation() {
    let mut cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let before = client.create("before", 1).await.attr.inode;
    cluster.restart_as(true).await;
    let client = client.resume(&cluster.url(), &[]).await.expect("resumed");
    let after = client.create("after", 2).await.attr.inode;
    assert_eq!((before.get() >> 48, after.get() >> 48), (0, 1));
    assert_eq!(client.lookup("before").await.map(|attr| attr.inode), Ok(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_lives_while_somebody_has_it_open() {
    let cluster = Cluster::start().await;
    let (first, second) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = first.create("file", 1).await.attr.inode;
    assert!(second.unlink("file").await.is_ok());
    assert_eq!(second.lookup("file").await, Err(FsError::NotFound));
    assert_eq!(first.attr(inode).await.map(|attr| attr.nlink), Ok(0), "still open");
    first.release(inode, 1).await;
    let gone = || cluster.node().master.store.view().attr(inode).is_err();
    until("the last release removes the file", gone).await;
    let inode = first.create("file", 2).await.attr.inode;
    first.release(inode, 2).await;
    assert!(second.unlink("file").await.is_ok());
    assert_eq!(second.attr(inode).await, Err(FsError::Stale), "nobody has it open: gone with its name");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_leaves_nothing_open() {
    let cluster = Cluster::with(Timings { expiry: Duration::from_millis(800), ..timings() }).await;
    let (silent, alive) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = silent.create("file", 1).await.attr.inode;
    assert!(alive.unlink("file").await.is_ok());
    let master = cluster.node().master.clone();
    let session = silent.session;
    let mut asked = tokio::time::interval(Duration::from_millis(100));
    while master.sessions.get(session).is_some() {
        asked.tick().await;
        assert!(alive.lookup("nothing").await.is_err());
    }
    until("its orphan is removed", || master.store.view().attr(inode).is_err()).await;
    assert_eq!(silent.ask(Op::StatFs).await, Err(FsError::SessionExpired));
    assert!(silent.resume(&cluster.url(), &[]).await.is_err(), "never again");
    assert!(alive.ask(Op::StatFs).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_outlives_the_session_that_removed_it_while_another_has_it_open() {
    let cluster = Cluster::with(Timings { recall: Duration::from_millis(100), ..timings() }).await;
    let (first, second) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = first.create("file", 1).await.attr.inode;
    assert!(first.unlink("file").await.is_ok());
    // By the number that a lookup gave before the removal.
    second.open_file(inode, 1, Access::Read).await.expect("it lives");
    let master = cluster.node().master.clone();
    master.end_session(first.session, "the test ends it").await;
    assert!(second.attr(inode).await.is_ok(), "second has it open");
    second.release(inode, 1).await;
    until("it is removed", || master.store.view().attr(inode).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_are_reclaimed_before_orphans_are_reaped() {
    let mut cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let (kept, lost) = (client.create("kept", 1).await.attr.inode, client.create("lost", 2).await.attr.inode);
    assert!(client.unlink("kept").await.is_ok() && client.unlink("lost").await.is_ok());
    cluster.restart().await;
    assert!(cluster.node().master.store.view().attr(kept).is_ok(), "its session is expected back");
    let client = client.resume(&cluster.url(), &[(kept, 1, Access::ReadWrite)]).await.expect("resumed");
    let master = cluster.node().master.clone();
    until("what was not claimed is removed", || master.store.view().attr(lost).is_err()).await;
    assert!(client.attr(kept).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_removed_while_its_opener_is_away_is_kept_for_it() {
    let mut cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let inode = client.create("file", 1).await.attr.inode;
    cluster.restart().await;
    let other = Client::start(&cluster.url()).await;
    assert!(other.unlink("file").await.is_ok());
    let client = client.resume(&cluster.url(), &[(inode, 1, Access::ReadWrite)]).await.expect("resumed");
    assert_eq!(client.attr(inode).await.map(|attr| attr.nlink), Ok(0));
    client.release(inode, 1).await;
    let master = cluster.node().master.clone();
    until("the last release removes it", || master.store.view().attr(inode).is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_at_once_are_all_carried_out() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let names: Vec<String> = (0..300).map(|number| format!("file{number}")).collect();
    let makes = names.iter().map(|name| client.ask(Client::make(name, None, false)));
    let made = futures_util::future::join_all(makes).await;
    assert!(made.iter().all(Result::is_ok));
    let found = futures_util::future::join_all(names.iter().map(|name| client.lookup(name))).await;
    assert!(found.iter().all(Result::is_ok));
}
