//! Whether a server's process is gone: the one thing that the master asks of the network beside its streams.

use gfs_proto::chunk::ServerAddress;
use std::io::ErrorKind;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection attempt to a server that is probably gone is given up after this.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// An answer that takes a moment.
pub type Refusal<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// See the module's text.
pub trait Reach: Send + Sync + 'static {
    /// True if nobody listens at the server's data port: the process is gone.
    fn refuses<'a>(&'a self, address: &'a ServerAddress) -> Refusal<'a>;
}

/// By a connection over TCP.
pub struct ByTcp;

impl Reach for ByTcp {
    fn refuses<'a>(&'a self, address: &'a ServerAddress) -> Refusal<'a> {
        Box::pin(async {
            let attempt = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address.tcp)).await;
            matches!(attempt, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
        })
    }
}
