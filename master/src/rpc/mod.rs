//! What clients, chunkservers and administrators reach: decode, call, encode. Wire types end here.

pub mod admin;
pub mod chunkserver;
mod listener;
mod port;
mod replicas;
mod replies;
mod requests;
pub mod session;

pub use listener::serve;
pub use port::{Connection, Port};

use crate::master::Master;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use gfs_proto::wire::admin_server::AdminServer;
use gfs_proto::wire::chunkserver_link_server::ChunkserverLinkServer;
use gfs_proto::wire::session_server::SessionServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Server;
use tonic::transport::server::Router;

/// HTTP/2 pings find a dead peer within this and as much again.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// HTTP/2 windows, so that listings and reports never wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// All gRPC services of a master.
fn router(master: &Arc<Master>, address: SocketAddr) -> Router {
    let session = SessionServer::new(session::SessionService::new(master.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let link = ChunkserverLinkServer::new(chunkserver::LinkService::new(master.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(admin::AdminService::new(master.clone(), address))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_INTERVAL))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(session)
        .add_service(link)
        .add_service(admin)
}
