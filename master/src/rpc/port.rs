//! The port and its connections: TCP, or what a simulation has in its place.

use gfs_proto::limits::STALL_TIMEOUT;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;

/// Somebody connects now and then.
pub trait Port: Send + Sync + 'static {
    /// Their end.
    type Connection: Connection;

    /// The next connection. An error is of one attempt: others may follow.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// One connection, for gRPC as it is, for requests in two halves.
pub trait Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static {
    /// For what comes.
    type Reader: AsyncRead + Unpin + Send;
    /// For what goes.
    type Writer: AsyncWrite + Unpin + Send;

    /// Waits for the first byte, which stays to be read; `None` at the end of the stream.
    fn first_byte(&mut self) -> impl Future<Output = io::Result<Option<u8>>> + Send;

    /// In two halves; the connection fails when the other side takes nothing for [`STALL_TIMEOUT`].
    ///
    /// # Errors
    /// Those of the socket.
    fn halves(self) -> io::Result<(Self::Reader, Self::Writer)>;
}

impl Port for TcpListener {
    type Connection = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        Ok(stream)
    }
}

impl Connection for TcpStream {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let looked = self.peek(&mut first).await?;
        self.set_nodelay(true)?;
        Ok((looked == 1).then_some(first[0]))
    }

    fn halves(self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        rustix::net::sockopt::set_tcp_user_timeout(&self, STALL_TIMEOUT.as_millis() as u32)?;
        Ok(self.into_split())
    }
}
