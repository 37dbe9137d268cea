//! How the masters are reached: over TCP, or over what a simulation has in its place. What the connections are
//! like (bounds, pings, messages) is the session's.

use gfs_proto::limits::STALL_TIMEOUT;
use rustix::net::Shutdown;
use std::io;
use std::pin::Pin;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tonic::transport::{Channel, Endpoint, Error};

/// A connection for calls and callbacks, which takes a moment.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send + 'a>>;
/// A connection for requests, which takes a moment.
pub type Requesting<'a> =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn RequestWriter>, RequestReader)>> + Send + 'a>>;
/// What comes on it.
pub type RequestReader = Box<dyn AsyncRead + Send + Unpin>;
/// Waiting for room.
pub type Writable<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// See the module's text.
pub trait Dial: Send + Sync + 'static {
    /// Connects to a master's port for gRPC.
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a>;

    /// Connects to the port at `host:port` for requests. The connection fails when the other side takes nothing
    /// for [`STALL_TIMEOUT`].
    fn requests<'a>(&'a self, address: &'a str) -> Requesting<'a>;
}

/// What goes on a connection for requests: whoever has one writes it, and never waits.
pub trait RequestWriter: Send + Sync {
    /// Writes what is taken now, at least one byte.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is; any other one is final.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until something may be taken again.
    fn writable(&self) -> Writable<'_>;

    /// Ends both directions.
    fn shut(&self);
}

/// Over TCP.
pub(crate) struct ByTcp;

impl Dial for ByTcp {
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        Box::pin(endpoint.connect())
    }

    fn requests<'a>(&'a self, address: &'a str) -> Requesting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            rustix::net::sockopt::set_tcp_user_timeout(&stream, STALL_TIMEOUT.as_millis() as u32)?;
            let (reader, writer) = stream.into_split();
            Ok((Box::new(writer) as Box<dyn RequestWriter>, Box::new(reader) as RequestReader))
        })
    }
}

impl RequestWriter for OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        OwnedWriteHalf::try_write(self, bytes)
    }

    fn writable(&self) -> Writable<'_> {
        Box::pin(OwnedWriteHalf::writable(self))
    }

    fn shut(&self) {
        let _ = rustix::net::shutdown(self.as_ref(), Shutdown::Both); // an error: it has ended
    }
}
