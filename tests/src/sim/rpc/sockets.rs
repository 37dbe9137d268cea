//! Simulated TCP under the programs' own gRPC and requests: what `turmoil` has in place of sockets, behind the
//! seams that the programs have for it.

use gfs_client::{RequestReader, RequestWriter, Requesting, Writable};
use gfs_master::reach::{Reach, Refusal};
use gfs_master::rpc::{Connection, Port};
use gfs_proto::chunk::ServerAddress;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint, Error};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

/// A server that is probably gone is given up after this, as by TCP.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Connects over the simulated network, for clients and chunkservers.
pub(super) struct SimDial;

#[derive(Clone, Copy)]
struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            Ok(TokioIo::new(TcpStream::connect((host, port)).await?))
        })
    }
}

fn channel<'a>(endpoint: &'a Endpoint) -> Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send + 'a>> {
    Box::pin(endpoint.connect_with_connector(Connector))
}

impl gfs_chunkserver::link::Dial for SimDial {
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> gfs_chunkserver::link::Dialling<'a> {
        channel(endpoint)
    }
}

impl gfs_client::Dial for SimDial {
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> gfs_client::Dialling<'a> {
        channel(endpoint)
    }

    fn requests<'a>(&'a self, address: &'a str) -> Requesting<'a> {
        Box::pin(async move {
            let stream = Arc::new(Mutex::new(TcpStream::connect(address).await?));
            let (writer, reader) = (Writer(stream.clone()), Reader(stream));
            Ok((Box::new(writer) as Box<dyn RequestWriter>, Box::new(reader) as RequestReader))
        })
    }
}

/// One end of a client's connection for requests, as the two halves share it.
struct Writer(Arc<Mutex<TcpStream>>);
struct Reader(Arc<Mutex<TcpStream>>);

impl RequestWriter for Writer {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().try_write(bytes)
    }

    fn writable(&self) -> Writable<'_> {
        Box::pin(poll_fn(|cx| {
            let stream = self.0.lock();
            pin!(stream.writable()).poll(cx)
        }))
    }

    /// What comes ends by itself: the other side has reset the connection, or nothing would have failed.
    fn shut(&self) {
        let mut stream = self.0.lock();
        drop(Pin::new(&mut *stream).poll_shutdown(&mut Context::from_waker(Waker::noop())));
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, into)
    }
}

/// The master's port.
pub(super) struct SimPort(TcpListener);

impl SimPort {
    pub(super) async fn bind(port: u16) -> io::Result<Self> {
        TcpListener::bind(("0.0.0.0", port)).await.map(Self)
    }

    /// Takes connections and says nothing, as a process that is there.
    pub(super) async fn be_there(self) {
        while self.0.accept().await.is_ok() {}
    }
}

impl Port for SimPort {
    type Connection = Accepted;

    async fn next(&self) -> io::Result<Accepted> {
        let (stream, _) = self.0.accept().await?;
        Ok(Accepted(stream))
    }
}

/// The master's end of a connection.
pub(super) struct Accepted(TcpStream);

impl Connection for Accepted {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let count = self.0.peek(&mut first).await?;
        Ok((count == 1).then_some(first[0]))
    }

    fn halves(self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        Ok(self.0.into_split())
    }
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.0.local_addr().ok(), remote_addr: self.0.peer_addr().ok() }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What the master asks of the network.
pub(super) struct SimReach;

impl Reach for SimReach {
    fn refuses<'a>(&'a self, address: &'a ServerAddress) -> Refusal<'a> {
        Box::pin(async {
            let attempt = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address.tcp)).await;
            matches!(attempt, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
        })
    }
}
