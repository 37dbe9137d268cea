//! The exclusive-writer rule between sessions, and volatile sizes.

use crate::support::{Client, Cluster, timings, until};
use gfs_proto::FsError;
use gfs_proto::attr::{SetAttr, SetTime};
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::TruncateGeneration;
use gfs_proto::ops::{Access, HeldChunk, Op, OpResult};
use gfs_proto::wire::{self, callback, client_message, server_message};
use std::time::Duration;

fn report(inode: gfs_proto::ids::InodeId, size: u64, generation: TruncateGeneration) -> Op {
    Op::ReportSize {
        inode: inode.into(),
        size,
        mtime: Some(SetTime::Now),
        atime: None,
        ctime: None,
        truncate_generation: generation,
        durable: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_waits_until_the_exclusive_writer_has_flushed() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let (writer, reader) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    writer.listen().await;
    let made = writer.create("file", 1).await;
    let (inode, grant) = (made.attr.inode, made.grant.expect("a grant"));
    let opening = reader.open_file(inode, 1, Access::Read);
    let flushing = async {
        let recall = writer.callback().await;
        assert!(matches!(&recall.kind, Some(callback::Kind::Recall(r)) if r.inode == inode.get() && r.r#type == 1));
        // The stream that waits for the recall answers other requests meanwhile.
        assert!(reader.lookup("file").await.is_ok());
        for server in &servers {
            server.create(grant.handle, grant.version, 1000).await;
        }
        assert!(writer.ask(report(inode, 1000, made.attr.truncate_generation)).await.is_ok());
        let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
        assert!(writer.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
        writer.done(recall.id);
    };
    let (opened, ()) = tokio::join!(opening, flushing);
    let opened = opened.expect("opened");
    assert!(!opened.exclusive);
    assert_eq!(opened.attr.size, 1000, "what was flushed is seen");
    let again = writer.grant(inode, 0).await.expect("granted");
    assert_eq!(again.numbering, Numbering::Primary, "not alone any more");
    assert!(again.epoch > grant.epoch && again.version == grant.version && !again.created);
    assert_eq!(reader.grant(inode, 0).await, Err(FsError::BadHandle), "it only reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holder_is_fenced() {
    let bound = Duration::from_millis(300);
    let cluster = Cluster::with(gfs_master::config::Timings { recall: bound, ..timings() }).await;
    let servers = cluster.servers().await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    writer.listen().await;
    let made = writer.create("file", 1).await;
    let grant = made.grant.expect("a grant");
    assert!(!other.open_file(made.attr.inode, 1, Access::ReadWrite).await.expect("opened").exclusive);
    let revoked = |server: &crate::support::FakeServer| {
        let revoke = gfs_proto::control::ChunkCommand::Revoke { handle: grant.handle, epoch: grant.epoch };
        server.commands().contains(&revoke)
    };
    assert!(servers.iter().all(revoked), "the holder's epoch is void at every replica");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_revokes_what_other_sessions_write_under() {
    let recall = Duration::from_millis(100);
    let cluster = Cluster::with(gfs_master::config::Timings { recall, ..timings() }).await;
    let servers = cluster.servers().await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let made = writer.create("file", 1).await;
    let (inode, grant) = (made.attr.inode, made.grant.expect("a grant"));
    for server in &servers {
        server.create(grant.handle, grant.version, 1000).await;
    }
    let revoked = |epoch| {
        let revoke = gfs_proto::control::ChunkCommand::Revoke { handle: grant.handle, epoch };
        servers.iter().filter(|server| server.commands().contains(&revoke)).count()
    };
    let cut = |size| {
        let changes = SetAttr { size: Some(size), ..SetAttr::default() };
        Op::SetAttr { inode: inode.into(), changes }
    };
    assert!(writer.ask(cut(500)).await.is_ok());
    assert_eq!(revoked(grant.epoch), 0, "it cut its own file, and has written nothing since");
    other.open_file(inode, 1, Access::ReadWrite).await.expect("opened");
    // Inside the chunk, then the whole chunk.
    for size in [100, 0] {
        let shared = writer.grant(inode, 0).await.expect("granted");
        assert_eq!((shared.handle, shared.numbering), (grant.handle, Numbering::Primary));
        assert!(other.ask(cut(size)).await.is_ok());
        assert_eq!(revoked(shared.epoch), 3, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recall_is_repeated_after_the_stream_was_lost() {
    let cluster = Cluster::start().await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = writer.create("file", 1).await.attr.inode;
    let opening = other.open_file(inode, 1, Access::Read);
    let late = async {
        // Nobody listened when the recall was made.
        writer.listen().await;
        let first = writer.callback().await;
        writer.listen().await;
        let second = writer.callback().await;
        assert_eq!(first.id, second.id);
        writer.done(second.id);
    };
    let (opened, ()) = tokio::join!(opening, late);
    assert!(opened.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_cut_off_is_recalled_when_it_is_back() {
    let bound = Duration::from_millis(300);
    let cluster = Cluster::with(gfs_master::config::Timings { recall: bound, ..timings() }).await;
    let (writer, other) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = writer.create("file", 1).await.attr.inode;
    assert!(!other.open_file(inode, 1, Access::ReadWrite).await.expect("opened").exclusive, "nobody waits for ever");
    other.release(inode, 1).await;
    let writer = writer.resume(&cluster.url(), &[(inode, 1, Access::ReadWrite)]).await.expect("resumed");
    writer.listen().await;
    let recall = writer.callback().await;
    assert!(matches!(&recall.kind, Some(callback::Kind::Recall(recall)) if recall.inode == inode.get()));
    writer.done(recall.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_volatile_at_first_and_logged_soon_after_the_last_close() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let attr = client.create("file", 1).await.attr;
    let (inode, master) = (attr.inode, cluster.node().master.clone());
    let noted = client.ask(report(inode, 777, attr.truncate_generation)).await;
    assert!(matches!(noted, Ok(OpResult::Attr(noted)) if noted.size == 777 && noted.mtime > attr.mtime));
    assert_eq!(client.lookup("file").await.map(|attr| attr.size), Ok(777));
    assert_eq!(master.store.view().attr(inode).map(|attr| attr.size), Ok(0), "not logged while it is written");
    client.release(inode, 1).await;
    until("the size is logged", || master.store.view().attr(inode).is_ok_and(|attr| attr.size == 777)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_is_logged_soon_after_its_writer_has_closed_whoever_reads_the_file() {
    let cluster = Cluster::start().await;
    let (writer, reader) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let attr = writer.create("file", 1).await.attr;
    writer.release(attr.inode, 1).await;
    reader.open_file(attr.inode, 1, Access::Read).await.expect("opened");
    let master = cluster.node().master.clone();
    let logged = |size| master.store.view().attr(attr.inode).is_ok_and(|attr| attr.size == size);
    writer.open_file(attr.inode, 2, Access::Write).await.expect("opened");
    assert!(writer.ask(report(attr.inode, 777, attr.truncate_generation)).await.is_ok());
    writer.release(attr.inode, 2).await;
    until("the size is logged when its writer closes", || logged(777)).await;
    // As a writer does that had closed the file when the master before this one died.
    assert!(writer.ask(report(attr.inode, 888, attr.truncate_generation)).await.is_ok());
    until("the size is logged when it is told again", || logged(888)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_closed_leaves_no_size_behind_that_is_not_logged() {
    // The first tick comes at once, no other.
    let tick = Duration::from_secs(3600);
    let cluster = Cluster::with(gfs_master::config::Timings { tick, ..timings() }).await;
    let client = Client::start(&cluster.url()).await;
    let (open, closed) = (client.create("open", 1).await.attr, client.create("closed", 2).await.attr);
    for attr in [&open, &closed] {
        assert!(client.ask(report(attr.inode, 777, attr.truncate_generation)).await.is_ok());
    }
    client.release(closed.inode, 2).await;
    let told = client.send(client_message::Kind::Close(wire::CloseSession {})).await;
    assert!(matches!(told, Some(server_message::Kind::Closed(_))), "{told:?}");
    let logged = |inode| cluster.node().master.store.view().attr(inode).map(|attr| attr.size);
    assert_eq!((logged(open.inode), logged(closed.inode)), (Ok(777), Ok(777)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_never_told_is_found_after_its_leases_ran_out_too() {
    let short = Duration::from_millis(200);
    let cluster = Cluster::with(gfs_master::config::Timings { lease: short, ..timings() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let (inode, grant) = (made.attr.inode, made.grant.expect("a grant"));
    for server in &servers {
        server.create(grant.handle, grant.version, 1000).await;
    }
    let empty = client.grant(inode, 1).await.expect("a chunk that is never written");
    let master = cluster.node().master.clone();
    until("the leases have run out", || master.leases.is_empty()).await;
    master.end_session(client.session, "it is dead").await;
    until("the size is recorded", || master.store.view().attr(inode).is_ok_and(|attr| attr.size == 1000)).await;
    assert!(empty.created && servers.iter().all(|server| server.version(empty.handle).is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn fsync_logs_and_truncation_voids_what_was_reported() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let attr = client.create("file", 1).await.attr;
    let (inode, master) = (attr.inode, cluster.node().master.clone());
    let Op::ReportSize { inode: reference, size, mtime, atime, ctime, truncate_generation, .. } =
        report(inode, 5000, attr.truncate_generation)
    else {
        unreachable!()
    };
    let durable = Op::ReportSize { inode: reference, size, mtime, atime, ctime, truncate_generation, durable: true };
    assert!(client.ask(durable).await.is_ok());
    assert_eq!(master.store.view().attr(inode).map(|attr| attr.size), Ok(5000));
    let cut = SetAttr { size: Some(10), ..SetAttr::default() };
    let Ok(OpResult::Attr(cut)) = client.ask(Op::SetAttr { inode: inode.into(), changes: cut }).await else {
        panic!("truncated")
    };
    assert_eq!(cut.size, 10);
    let late = client.ask(report(inode, 9999, attr.truncate_generation)).await;
    assert!(matches!(late, Ok(OpResult::Attr(seen)) if seen.size == 10), "a report from before the cut is void");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_reported_with_a_mutation_need_an_open_for_writing_or_permission() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let attr = client.create("file", 1).await.attr;
    let user = gfs_proto::caller::Caller { uid: 7, gid: 7, groups: Vec::new() };
    let report = async |size| {
        let ops = vec![report(attr.inode, size, attr.truncate_generation), Client::make("refused", None, false)];
        let reply = client.batch_of(user.clone(), Some(client.next_sequence()), ops).await.expect("a reply");
        reply.results[0].clone().map(drop)
    };
    assert_eq!(report(70).await, Ok(()), "its session writes the file");
    client.release(attr.inode, 1).await;
    assert_eq!(report(80).await, Err(FsError::AccessDenied));
    assert_eq!(client.lookup("file").await.map(|attr| attr.size), Ok(70));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_were_set_are_not_overtaken_by_what_was_reported_before() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let attr = client.create("file", 1).await.attr;
    let (inode, master) = (attr.inode, cluster.node().master.clone());
    assert!(client.ask(report(inode, 10, attr.truncate_generation)).await.is_ok());
    let past = gfs_proto::time::Timestamp::new(1_000_000, 5).expect("valid");
    let changes = SetAttr { mtime: Some(SetTime::At(past)), ..SetAttr::default() };
    assert!(client.ask(Op::SetAttr { inode: inode.into(), changes }).await.is_ok());
    assert_eq!(client.attr(inode).await.map(|attr| (attr.mtime, attr.size)), Ok((past, 10)));
    client.release(inode, 1).await;
    until("the size is logged", || master.store.view().attr(inode).is_ok_and(|attr| attr.size == 10)).await;
    assert_eq!(client.attr(inode).await.map(|attr| attr.mtime), Ok(past));
}
