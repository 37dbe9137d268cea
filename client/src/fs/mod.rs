//! The file system as its users see it: one method for each call of POSIX.
//!
//! A method checks what the client can check, asks caches, then the master or the data plane, and
//! keeps the caches exact about what it has changed itself. `try_` methods never wait: they answer
//! from what is known, or `None`.

mod attributes;
mod directories;
mod files;
mod io;
mod names;
mod paths;

use crate::{ClientConfig, ClusterInfo, ConnectError};
use gfs_proto::wire::admin_client::AdminClient;
use std::sync::Arc;
use tonic::transport::Channel;

/// A connection to a cluster: one session with the master and all that depends on it.
pub struct Client {
    _private: (),
}

impl Client {
    /// Opens a session. Must be called inside a tokio runtime with time and I/O; its background
    /// tasks run there until [`Client::shutdown`] or the last reference is dropped.
    pub async fn connect(config: ClientConfig) -> Result<Arc<Self>, ConnectError> {
        Err(ConnectError::Refused { address: config.master, cause: "the client has no session yet".into() })
    }

    /// Of the cluster and the session.
    pub fn info(&self) -> ClusterInfo {
        unreachable!("nobody has a client yet")
    }

    /// The master's reports for people.
    pub fn admin(&self) -> AdminClient<Channel> {
        unreachable!("nobody has a client yet")
    }

    /// Writes out everything, tells the master the sizes, closes the session. Calls after it fail
    /// with [`gfs_proto::FsError::SessionExpired`].
    pub async fn shutdown(&self) -> Result<(), gfs_proto::FsError> {
        Err(gfs_proto::FsError::NotImplemented)
    }
}
