//! One connection to a peer that misbehaves.

use super::super::connection::{Connection, Introduction, LinkError, Request};
use super::super::stream::{FrameReader, write_frame};
use bytes::Bytes;
use gfs_proto::chunk::ServerAddress;
use gfs_proto::frame::{Kind, Prefix};
use gfs_proto::ids::{ClusterId, ServerId, SessionId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::wire;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const CHUNK: u32 = 64 << 10;

fn us() -> Introduction {
    Introduction {
        cluster: ClusterId::new([1; 16]),
        session: SessionId::new(1),
        chunk_size: ChunkSize::new(CHUNK).expect("valid"),
        host: String::new(),
    }
}

/// Connects to a peer that greets as `welcome` and then does as `peer` says.
async fn connect<F>(welcome: wire::Welcome, peer: impl FnOnce(TcpStream) -> F) -> Result<Arc<Connection>, LinkError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let tcp = listener.local_addr().expect("bound");
    let runtime = tokio::runtime::Handle::current();
    let us = us();
    let address = ServerAddress { tcp, unix: None, host: String::new() };
    let dial = Connection::dial(ServerId::new(7), &address, &us, &runtime);
    let greet = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (prefix, _) = FrameReader::new(&mut stream).head().await.expect("a hello");
        assert_eq!(prefix.kind, Kind::Hello);
        let head = Prefix::encode(Kind::Welcome, 0, &welcome.encode_to_vec(), 0, 0);
        write_frame(&mut stream, &head, &[], &[]).await.expect("greeted");
        stream
    };
    let (connection, stream) = tokio::join!(dial, greet);
    tokio::spawn(peer(stream));
    connection
}

fn welcome() -> wire::Welcome {
    wire::Welcome { server: 7, incarnation: 3, capabilities: 0, chunk_size: CHUNK }
}

fn ping() -> Request<'static> {
    Request { kind: Kind::Ping, header: &[], sums: &[], payload: &[] }
}

#[tokio::test]
async fn a_frame_not_finished_closes_the_connection() {
    let connection = connect(welcome(), |stream| async move {
        let _never_read = stream;
        std::future::pending::<()>().await;
    });
    let connection = connection.await.expect("connected");
    let payload = [Bytes::from(vec![0; 1 << 20])];
    let big = Request { kind: Kind::Write, header: &[], sums: &[], payload: &payload };
    for _ in 0..64 {
        if connection.is_closed() {
            break;
        }
        let answer = timeout(Duration::from_millis(20), connection.ask(big, 0)).await;
        assert!(answer.is_err(), "nobody answers");
    }
    assert!(connection.is_closed(), "its buffers are full, so a frame was cut short");
    assert_eq!(connection.ask(ping(), 0).await, Err(LinkError::Closed));
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_connection_that_ends_fails_what_is_in_flight() {
    for garbage in [&b""[..], &[0xff; 200]] {
        let connection = connect(welcome(), move |mut stream| async move {
            let mut requests = FrameReader::new(&mut stream);
            for _ in 0..3 {
                requests.head().await.expect("a request");
            }
            tokio::io::AsyncWriteExt::write_all(&mut stream, garbage).await.expect("written");
        });
        let connection = connection.await.expect("connected");
        assert_eq!(connection.incarnation().get(), 3);
        let asked = async { tokio::join!(connection.ask(ping(), 0), connection.ask(ping(), 0)) };
        let (answers, third) = tokio::join!(asked, async {
            tokio::task::yield_now().await;
            connection.ask(ping(), 0).await
        });
        assert_eq!([answers.0, answers.1, third], [(); 3].map(|()| Err(LinkError::Closed)));
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let other = [wire::Welcome { server: 8, ..welcome() }, wire::Welcome { chunk_size: 2 * CHUNK, ..welcome() }];
    for welcome in other {
        let refused = connect(welcome, |_| async {}).await;
        assert_eq!(refused.err(), Some(LinkError::Stranger));
    }
}
