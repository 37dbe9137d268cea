//! Connections for requests: who is let in, and what one that is not read from does to others.

use crate::support::{Client, Cluster, Manners, soon, until};
use bytes::BytesMut;
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ChunkIndex, InodeId, Sequence};
use gfs_proto::limits::{BATCH_OPS_MAX, MESSAGE_BYTES_MAX, REPLY_PAGE_BYTES_MAX};
use gfs_proto::message::{self, REQUESTS_PREFACE};
use gfs_proto::ops::{Batch, BatchReply, HeldChunk, KeepAlive, Op, OpResult, SlowServer};
use gfs_proto::wire::{self, client_message, server_message};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(cluster: &Cluster) -> TcpStream {
    TcpStream::connect(cluster.node().address()).await.expect("the master listens")
}

fn batch(request: u64, sequence: Option<u64>, op: Op) -> wire::ClientMessage {
    let batch = Batch {
        caller: Caller::root(),
        sequence: sequence.map(Sequence::new),
        acknowledged: Sequence::new(1),
        client_time: None,
        precondition: None,
        ops: vec![op],
    };
    wire::ClientMessage { request, kind: Some(client_message::Kind::Batch((&batch).into())) }
}

fn attach(attach: wire::Attach) -> wire::ClientMessage {
    wire::ClientMessage { request: 0, kind: Some(client_message::Kind::Attach(attach)) }
}

/// The preface and messages.
fn stream(messages: &[wire::ClientMessage]) -> BytesMut {
    let mut bytes = BytesMut::from(&REQUESTS_PREFACE[..]);
    messages.iter().for_each(|message| message::encode(message, &mut bytes).expect("short"));
    bytes
}

/// Everything that the master says until it closes the connection.
async fn answer_to(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(cluster).await;
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    // a reset says the same as an end
    let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_client_is_turned_away() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let long = (MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes();
    let with_preface = |rest: &[u8]| [&REQUESTS_PREFACE[..], rest].concat();
    let cases: [(&str, Vec<u8>); 5] = [
        ("another version", b"GFSreq9\n".repeat(2)),
        ("an absurd length", with_preface(&long)),
        ("garbage", with_preface(&[3, 0, 0, 0, 0xff, 0xff, 0xff])),
        ("no session", stream(&[batch(1, None, Op::StatFs)]).to_vec()),
        ("an absurd length later", [&stream(&[attach(client.attach())])[..], &long].concat()),
    ];
    for (what, bytes) in cases {
        let answer = answer_to(&cluster, &bytes).await;
        assert_eq!(answer.is_empty(), what != "an absurd length later", "{what}: {answer:?}");
    }
    let unknown = wire::Attach { session: client.attach().session, secret: vec![1; 16].into() };
    let mut answer = BytesMut::from(&answer_to(&cluster, &stream(&[attach(unknown)])).await[..]);
    let told = message::decode::<wire::ServerMessage>(&mut answer).expect("a message").expect("all of it");
    assert_eq!(told.kind, Some(server_message::Kind::Error(FsError::SessionExpired.code())), "a wrong secret");
    client.lookup("x").await.expect_err("there is none, but the master answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_told_another_master_what_it_has_open_has_to_tell_this_one_first() {
    let mut cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    cluster.crash().await;
    let answer = answer_to(&cluster, &stream(&[attach(client.attach())])).await;
    let told = message::decode::<wire::ServerMessage>(&mut BytesMut::from(&answer[..])).expect("a message");
    let refused = server_message::Kind::Error(FsError::NotLeader.code());
    assert_eq!(told.expect("all of it").kind, Some(refused));
    client.resume(&cluster.url(), &[]).await.expect("resumed, and attached after that");
}

/// Makes so many files that a page of a listing is as long as it may be.
async fn fill_root(client: &Client) {
    let names = (0..1500).map(|number| format!("{number:0>200}"));
    let made = names.map(async |name| client.ask(Client::make(&name, None, false)).await);
    for result in futures_util::future::join_all(made).await {
        result.expect("made");
    }
}

fn list() -> Op {
    Op::ReadDir {
        inode: InodeId::ROOT.into(),
        after: Default::default(),
        bytes_max: REPLY_PAGE_BYTES_MAX,
        with_attributes: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_would_be_too_long_is_an_error() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    fill_root(&client).await;
    let most = client.batch(None, vec![list(); BATCH_OPS_MAX]).await;
    assert_eq!(most.err(), Some(FsError::InvalidArgument), "more than a message may have");
    assert!(client.batch(None, vec![list(); 4]).await.is_ok(), "the connection is as good as before");
}

/// A command goes on, and gives back its locks, though the client that asked takes no replies.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_replies_holds_up_nobody() {
    /// As many replies fill all buffers on the way.
    const LISTINGS: u64 = 100;
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let grant = made.grant.expect("a grant");
    let handle = grant.handle;
    for server in &servers {
        server.create(grant.handle, grant.version, 100).await;
    }
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
    fill_root(&client).await;

    let mut deaf = connect(&cluster).await;
    servers.iter().for_each(|server| server.manners(Manners::Mute));
    let grant = Op::GrantChunk { inode: made.attr.inode.into(), index: ChunkIndex::new(0) };
    let grant = stream(&[attach(client.attach()), batch(1, None, grant)]);
    deaf.write_all(&grant).await.expect("sent");
    until("the first grant has the lock", || !servers[0].installs(handle).is_empty()).await;
    let mut listings = BytesMut::new();
    (2..LISTINGS).for_each(|request| message::encode(&batch(request, None, list()), &mut listings).expect("short"));
    deaf.write_all(&listings).await.expect("sent");
    servers.iter().for_each(|server| server.manners(Manners::Good));
    // It waits for the chunk's lock, which the first grant has until its commands have timed out.
    let granted = soon("the grant", client.grant(made.attr.inode, 0)).await;
    assert!(granted.is_ok(), "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_behind_a_report_is_answered_with_it() {
    let cluster = Cluster::start().await;
    let client = Client::start(&cluster.url()).await;
    let attr = client.create("file", 1).await.attr;
    let report = Op::ReportSize {
        inode: attr.inode.into(),
        size: 777,
        mtime: None,
        atime: None,
        ctime: None,
        truncate_generation: attr.truncate_generation,
        durable: false,
    };
    // As a client that comes back does: what it has told before, then what it had asked and was not answered.
    let look = Op::GetAttr { inode: attr.inode.into() };
    let mut stream_of_both = connect(&cluster).await;
    let bytes = stream(&[attach(client.attach()), batch(1, None, report), batch(2, None, look)]);
    stream_of_both.write_all(&bytes).await.expect("sent");
    let mut came = BytesMut::new();
    let looked = async {
        loop {
            while let Some(message) = message::decode::<wire::ServerMessage>(&mut came).expect("a message") {
                if let (2, Some(server_message::Kind::Reply(reply))) = (message.request, message.kind) {
                    return BatchReply::try_from(reply).expect("a valid reply").results;
                }
            }
            assert_ne!(stream_of_both.read_buf(&mut came).await.expect("read"), 0, "the connection is there");
        }
    };
    let looked = soon("the attributes", looked).await;
    assert!(matches!(&looked[..], [Ok(OpResult::Attr(attr))] if attr.size == 777), "{looked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_clients_find_slow_is_shown() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let (client, slow) = (Client::start(&cluster.url()).await, servers[1].id());
    let (latency, median) = (Duration::from_millis(120), Duration::from_millis(2));
    let alive = KeepAlive { slow: vec![SlowServer { server: slow, latency, median }] };
    let answer = client.send(client_message::Kind::KeepAlive((&alive).into())).await;
    assert!(matches!(answer, Some(server_message::Kind::KeptAlive(_))), "{answer:?}");

    let mut admin = wire::admin_client::AdminClient::new(crate::support::connect(&cluster.url()).await);
    let told = admin.chunkservers(wire::ChunkserversRequest {}).await.expect("told").into_inner().servers;
    for server in told {
        let found = (server.slow_clients, server.slow_latency_us, server.slow_median_us);
        assert_eq!(found, if server.server == slow.get() { (1, 120_000, 2000) } else { (0, 0, 0) });
    }
    let clients = || -> u32 {
        let statuses = cluster.node().master.servers.statuses(Instant::now());
        statuses.iter().map(|status| status.slowness.clients).sum()
    };
    until("a client that says nothing more is not believed for ever", || clients() == 0).await;
    client.send(client_message::Kind::KeepAlive((&alive).into())).await;
    client.send(client_message::Kind::KeepAlive((&KeepAlive::default()).into())).await;
    assert_eq!(clients(), 0, "it takes it back");
}
