//! How the master is reached: over TCP, or over what a simulation has in its place. What the connection is like
//! (bounds, pings) is the endpoint's.

use std::pin::Pin;
use tonic::transport::{Channel, Endpoint, Error};

/// A connection that takes a moment.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send + 'a>>;

/// See the module's text.
pub trait Dial: Send + Sync {
    /// Connects to a master's port.
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a>;
}

/// Over TCP.
pub(super) struct ByTcp;

impl Dial for ByTcp {
    fn channel<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        Box::pin(endpoint.connect())
    }
}
