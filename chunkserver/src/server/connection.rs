//! One connection: greeting, then requests until it ends. Knows which requests may wait and lets
//! another task read on before it answers such a one.

use super::{Failure, lend, read, sums, sync, write};
use crate::net::buffer::{Budget, Share};
use crate::net::frames::{FrameReader, FrameWriter, Outgoing, RawFrame, ReceiveError};
use crate::net::socket::Socket;
use crate::node::Node;
use futures_util::future::BoxFuture;
use gfs_proto::frame::{DataError, FrameError, Kind, Lend, Read, Sums, Sync, Write};
use gfs_proto::ids::{ClusterId, Serial};
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire;
use prost::Message;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// Payload bytes that unanswered requests of one connection may hold.
const CONNECTION_BYTES_MAX: u64 = 32 << 20;
/// For the greeting.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// What the tasks of one connection share. Closed when the last of them ends.
pub(super) struct Connection {
    pub(super) node: Arc<Node>,
    pub(super) socket: Arc<Socket>,
    pub(super) writer: FrameWriter,
    pub(super) shown: lend::Shown,
    from: String,
    /// Its own and the server's.
    budgets: [Budget; 2],
    _permit: OwnedSemaphorePermit,
}

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    /// From where, for the log.
    pub(super) from: String,
    /// Counts against the bound on connections.
    pub(super) permit: OwnedSemaphorePermit,
    /// The server's budget.
    pub(super) budget: Budget,
}

impl Connection {
    pub(super) fn new(node: Arc<Node>, accepted: Accepted) -> Self {
        let Accepted { socket, from, permit, budget } = accepted;
        let socket = Arc::new(socket);
        Self {
            node,
            writer: FrameWriter::new(Arc::clone(&socket)),
            socket,
            shown: lend::Shown::default(),
            from,
            budgets: [Budget::new(CONNECTION_BYTES_MAX), budget],
            _permit: permit,
        }
    }

    /// Waits for room for an answer.
    async fn take(&self, bytes: usize) -> [Share; 2] {
        [self.budgets[0].take(bytes).await, self.budgets[1].take(bytes).await]
    }

    /// Says how a request went.
    pub(super) async fn answer(&self, request: u64, outcome: Result<Done, Failure>) -> io::Result<()> {
        let header = self.node.ack(outcome).encode();
        self.writer.send(&Outgoing { kind: Kind::Ack, request, header: &header, sums: &[], payload: &[] }).await
    }
}

/// What an acknowledgement says of a success.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) serial: Serial,
    pub(super) chunk_length: u32,
}

/// What there is to do about a request.
enum Job {
    /// The answer to a READ is ready.
    Send(Result<read::Found, Failure>),
    /// A READ that has to wait.
    Read(Read),
    Write(Box<write::Incoming>),
    Sync(Sync),
    Lend(Lend),
    Sums(Sums),
    Ping,
}

/// Greets, then answers until the connection ends.
pub(super) async fn serve(connection: Arc<Connection>) {
    let (socket, budgets) = (Arc::clone(&connection.socket), connection.budgets.to_vec());
    let mut reader = FrameReader::new(socket, budgets, connection.node.patience.idle);
    match timeout(HELLO_MAX, greet(&connection, &mut reader)).await {
        Ok(Ok(true)) => requests(connection, reader).await,
        Ok(Ok(false)) => {}
        Ok(Err(error)) => connection.log_end(&error),
        Err(_) => connection.log_end(&ReceiveError::Idle(HELLO_MAX)),
    }
}

/// False if the connection ends here, in good order.
async fn greet(connection: &Connection, reader: &mut FrameReader) -> Result<bool, ReceiveError> {
    let Some(frame) = reader.next().await? else { return Ok(false) };
    let malformed = |what| FrameError::Malformed { kind: "HELLO", what };
    if frame.kind != Kind::Hello {
        return Err(malformed("the first frame must be this one").into());
    }
    let hello = wire::Hello::decode(&frame.header[..]).map_err(|_| malformed("fields"))?;
    match check_hello(connection, &hello) {
        Ok(welcome) => {
            let (request, header) = (frame.request, welcome.encode_to_vec());
            let frame = Outgoing { kind: Kind::Welcome, request, header: &header, sums: &[], payload: &[] };
            connection.writer.send(&frame).await?;
            Ok(true)
        }
        Err(error) => {
            tracing::debug!(from = connection.from, name = hello.name, %error, "a greeting was refused");
            connection.answer(frame.request, Err(error.into())).await?;
            Ok(false)
        }
    }
}

fn check_hello(connection: &Connection, hello: &wire::Hello) -> Result<wire::Welcome, DataError> {
    let node = &connection.node;
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(DataError::Protocol);
    }
    let membership = node.membership().ok_or(DataError::Busy)?;
    if ClusterId::from_slice(&hello.cluster_id) != Some(membership.cluster) {
        return Err(DataError::Cluster);
    }
    Ok(wire::Welcome {
        server: membership.server.get(),
        incarnation: node.incarnation.get(),
        capabilities: lend::capability(connection),
        chunk_size: membership.chunk_size.get(),
    })
}

/// Answers requests; boxed because it hands the reading on to another one of itself.
fn requests(connection: Arc<Connection>, mut reader: FrameReader) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => return connection.log_end(&error),
            };
            let number = frame.request;
            let (job, mut shares) = match Job::new(&connection.node, frame) {
                Ok(job) => job,
                Err(error) => {
                    let _ = connection.answer(number, Err(DataError::Protocol.into())).await;
                    return connection.log_end(&error.into());
                }
            };
            let counted = Counted::new(&connection.node);
            if !job.waits(&connection.node) {
                job.finish(&connection, number, false).await;
                continue;
            }
            if let Job::Read(read) = &job {
                shares.extend(connection.take(read.length as usize).await);
            }
            tokio::spawn(requests(Arc::clone(&connection), reader));
            job.finish(&connection, number, true).await;
            return drop((counted, shares));
        }
    })
}

/// Counts a request for the heartbeat.
struct Counted(Arc<Node>);

impl Counted {
    fn new(node: &Arc<Node>) -> Self {
        node.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(node))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Job {
    fn new(node: &Node, frame: RawFrame) -> Result<(Self, Vec<Share>), FrameError> {
        let RawFrame { kind, header, sums, payload, shares, .. } = frame;
        let job = match kind {
            Kind::Read => {
                let read = Read::decode(&header)?;
                read::now(node, &read).map_or(Self::Read(read), Self::Send)
            }
            Kind::Write => {
                let write = Write::decode(&header, payload.len() as u32)?;
                Self::Write(Box::new(write::Incoming { write, sums: Arc::new(sums), payload: Arc::new(payload) }))
            }
            Kind::Sync => Self::Sync(Sync::decode(&header)?),
            Kind::Lend => Self::Lend(Lend::decode(&header)?),
            Kind::Sums => Self::Sums(Sums::decode(&header)?),
            Kind::Ping => Self::Ping,
            Kind::Hello | Kind::Welcome | Kind::Data | Kind::Ack | Kind::Lent => {
                return Err(FrameError::Malformed { kind: "request", what: "kind" });
            }
        };
        Ok((job, shares))
    }

    /// True if the answer may have to wait for a disk, another server or another request.
    fn waits(&self, node: &Node) -> bool {
        match self {
            Self::Read(_) | Self::Sync(_) | Self::Lend(_) | Self::Sums(_) => true,
            Self::Write(incoming) => write::may_wait(node, incoming),
            Self::Send(_) | Self::Ping => false,
        }
    }

    async fn finish(self, connection: &Connection, number: u64, may_wait: bool) {
        let node = &connection.node;
        let sent = match self {
            Self::Send(found) => read::send(connection, number, found).await,
            Self::Read(read) => read::send(connection, number, read::later(node, &read).await).await,
            Self::Write(incoming) => connection.answer(number, write::write(node, *incoming, may_wait).await).await,
            Self::Sync(sync) => connection.answer(number, sync::sync(node, &sync)).await,
            Self::Lend(request) => lend::send(connection, number, lend::lend(connection, &request)).await,
            Self::Sums(request) => sums::send(connection, number, sums::sums(node, request)).await,
            Self::Ping => connection.answer(number, Ok(Done::default())).await,
        };
        if let Err(error) = sent {
            tracing::debug!(from = connection.from, %error, "an answer could not be sent");
        }
    }
}

impl Connection {
    /// Peers that speak another protocol are worth a line, those that go away are not.
    fn log_end(&self, error: &ReceiveError) {
        match error {
            ReceiveError::Frame(error) => {
                tracing::warn!(from = self.from, %error, "a connection that breaks the protocol is closed");
            }
            ReceiveError::Io(_) | ReceiveError::Idle(_) => {
                tracing::debug!(from = self.from, %error, "a connection ended");
            }
        }
        self.socket.close();
    }
}
