//! The port: gRPC and connections for requests share it, told apart by their first byte.

use super::port::{Connection, Port};
use super::{requests, router};
use crate::master::Master;
use gfs_proto::message::REQUESTS_PREFACE;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, error, warn};

/// From the connection to its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// gRPC connections that were accepted and not yet taken up.
const BACKLOG: usize = 64;
/// After an accept failed, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a port until the master stops.
pub async fn serve<P: Port>(master: Arc<Master>, port: P, address: SocketAddr) {
    let (grpc, connections) = mpsc::channel(BACKLOG);
    let accepting = tokio::spawn(accept(master.clone(), port, grpc));
    let stopping = master.stopping.clone();
    let served = router(&master, address)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move { stopping.passed().await });
    if let Err(cause) = served.await {
        error!("the server ended: {:#}", anyhow::Error::from(cause));
    }
    accepting.abort();
}

async fn accept<P: Port>(master: Arc<Master>, port: P, grpc: mpsc::Sender<io::Result<P::Connection>>) {
    loop {
        match port.next().await {
            Ok(stream) => drop(tokio::spawn(sort(master.clone(), stream, grpc.clone()))),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives a connection to whom it belongs.
async fn sort<C: Connection>(master: Arc<Master>, mut stream: C, grpc: mpsc::Sender<io::Result<C>>) {
    match timeout(FIRST_BYTE_TIMEOUT, stream.first_byte()).await {
        Ok(Ok(Some(first))) if first == REQUESTS_PREFACE[0] => requests::serve(master, stream).await,
        // a server that has ended takes no more
        Ok(Ok(Some(_))) => drop(grpc.send(Ok(stream)).await),
        _ => debug!("a connection that said nothing"),
    }
}
