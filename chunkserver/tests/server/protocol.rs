//! Bad input: what is no frame, absurd lengths, greetings that are refused; bounds on connections.

use crate::harness::{CLUSTER, Client, Master, Server, config, pattern, seams, write};
use gfs_chunkserver::clock::BootClock;
use gfs_chunkserver::net::dial::{CallError, DataConnection};
use gfs_chunkserver::run::{Chunkserver, StartError};
use gfs_chunkserver::server::BindError;
use gfs_proto::frame::{Ack, DataError, Kind, PREFIX_LEN, Prefix};
use gfs_proto::ids::ClusterId;
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn server() -> (Master, Server) {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    (master, server)
}

fn hello(version: u32, cluster: ClusterId) -> Vec<u8> {
    let hello = wire::Hello {
        protocol_version: version,
        cluster_id: cluster.as_bytes().to_vec().into(),
        session: 1,
        capabilities: u64::MAX,
        name: "test".to_owned(),
    };
    Prefix::encode(Kind::Hello, 1, &hello.encode_to_vec(), 0, 0)
}

/// Sends bytes and returns all that comes back until the server closes the connection.
async fn until_closed(server: &Server, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.process.address()).await.expect("connected");
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break; // closed already
        }
    }
    let mut back = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut back)).await;
    let _ = read.expect("the connection is closed"); // by a reset, if we sent more than was read
    back
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn absurd_frames_close_the_connection() {
    let (_master, server) = server().await;
    let good = hello(PROTOCOL_VERSION, CLUSTER);
    let mut long = Prefix::encode(Kind::Read, 2, &[0; 28], 0, 0);
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut damaged = Prefix::encode(Kind::Read, 2, &[0; 28], 0, 0);
    damaged[PREFIX_LEN] ^= 1;
    let read_of_nothing = Prefix::encode(Kind::Read, 2, &[0; 28], 0, 0);
    let not_a_request = Prefix::encode(Kind::Welcome, 2, &[], 0, 0);
    let short_write = Prefix::encode(Kind::Write, 2, &[1; 80], 0, 10);
    let bad: [(&str, &[u8]); 7] = [
        ("another protocol", b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n"),
        ("a length beyond all limits", &long),
        ("a damaged header", &damaged),
        ("a read of no bytes", &read_of_nothing),
        ("an answer as request", &not_a_request),
        ("lists that do not fit", &[&short_write[..], &[0; 10]].concat()),
        ("a second greeting", &good),
    ];
    for (what, bytes) in bad {
        let back = until_closed(&server, &[&good, bytes]).await;
        assert!(back.len() >= PREFIX_LEN && back[4] == Kind::Welcome as u8, "{what}");
        if what != "a second greeting" {
            until_closed(&server, &[bytes]).await;
        }
    }
    let client = server.client().await;
    assert_eq!(client.write(&write(&server, 1, 0, 10), &pattern(10, 1)).await.outcome, Ok(()), "others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn greetings_of_others_are_refused_with_a_reason() {
    let (_master, server) = server().await;
    let table = [
        (hello(PROTOCOL_VERSION, ClusterId::new([8; 16])), DataError::Cluster),
        (hello(PROTOCOL_VERSION + 1, CLUSTER), DataError::Protocol),
    ];
    for (greeting, error) in table {
        let back = until_closed(&server, &[&greeting]).await;
        assert_eq!(Ack::decode(&back[PREFIX_LEN..]).expect("an acknowledgement").outcome, Err(error));
    }
    let opened = DataConnection::open(&server.tcp(), ClusterId::new([8; 16]), "test").await;
    assert!(matches!(opened, Err(CallError::Refused(DataError::Cluster))));
    let opened = DataConnection::open(&server.unix(), CLUSTER, "test").await.expect("welcome");
    assert_eq!((opened.server, opened.incarnation), (server.id, server.incarnation()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unregistered_server_asks_to_come_back_later() {
    let directory = tempfile::tempdir().expect("directory");
    let nobody = "127.0.0.1:1".parse().expect("address");
    let process = Chunkserver::start(config(nobody, &directory), seams(Arc::new(BootClock))).await.expect("started");
    let opened =
        DataConnection::open(&gfs_chunkserver::net::dial::Endpoint::Tcp(process.address()), CLUSTER, "t").await;
    assert!(matches!(opened, Err(CallError::Refused(DataError::Busy))));
    process.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_beyond_the_bound_are_closed_and_come_in_when_one_ends() {
    let master = Master::start().await;
    let directory = Arc::new(tempfile::tempdir().expect("directory"));
    let mut config = config(master.address, &directory);
    config.connections_max = 2;
    let process = Chunkserver::start(config, seams(Arc::new(BootClock))).await.expect("started");
    master.until("registration", |_| process.node().lease.is_held().then_some(())).await;
    let endpoint = gfs_chunkserver::net::dial::Endpoint::Tcp(process.address());
    let held = [Client::connect(&endpoint).await, Client::connect(&endpoint).await];
    assert!(DataConnection::open(&endpoint, CLUSTER, "test").await.is_err());
    drop(held);
    let again = async {
        while DataConnection::open(&endpoint, CLUSTER, "test").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), again).await.expect("room for one again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_port_a_directory_or_a_socket_in_use_is_named() {
    let (master, server) = server().await;
    let other = tempfile::tempdir().expect("directory");
    let mut taken = config(master.address, &other);
    taken.listen = server.process.address();
    let start = |config| Chunkserver::start(config, seams(Arc::new(BootClock)));
    let error = start(taken).await.err().expect("refused");
    assert!(matches!(&error, StartError::Bind(BindError::InUse { .. })), "{error}");
    assert!(!other.path().join("store").exists(), "nothing was changed");
    let mut taken = config(master.address, &other);
    taken.socket = server.process.socket().to_owned();
    let error = start(taken).await.err().expect("refused");
    assert!(matches!(&error, StartError::Bind(BindError::SocketInUse { .. })), "{error}");
    let error = start(config(master.address, &server.directory)).await.err().expect("refused");
    assert!(error.to_string().contains("in use by another chunkserver"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_waits_does_not_stop_those_behind_it() {
    let (_master, server) = server().await;
    let client = server.client().await;
    let data = pattern(4096, 1);
    let (first, second) = (write(&server, 1, 0, 4096), write(&server, 2, 4096, 4096));
    let waiting = client.write(&second, &data);
    tokio::pin!(waiting);
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
    assert_eq!(client.call(Kind::Ping, &[], &[], &[]).await.ack().expect("pong").outcome, Ok(()));
    assert_eq!(client.write(&first, &data).await.outcome, Ok(()));
    assert_eq!(waiting.await.outcome, Ok(()));
}
