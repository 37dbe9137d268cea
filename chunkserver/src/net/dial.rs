//! Connections to data servers as the asking side: to the next one of a chain, to the source of a
//! copy. Many requests are in flight on one connection, answers come in any order.

use super::buffer::Payload;
use super::frames::{FrameReader, FrameWriter, Outgoing, RawFrame, ReceiveError};
use super::socket::Socket;
use gfs_proto::frame::{Ack, DataError, FrameError, Kind};
use gfs_proto::ids::{ClusterId, Incarnation, ServerId};
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A connection that nobody uses is closed by the other side first; this is for a side that vanished.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Connecting and greeting.
const DIAL_MAX: Duration = Duration::from_secs(3);

/// Where a data server listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// Address of its data port.
    Tcp(SocketAddr),
    /// Its socket on this machine.
    Unix(PathBuf),
}

/// Why a server gave no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// No connection, or it broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It sent what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It said no.
    #[error("refused: {0}")]
    Refused(DataError),
    /// It said nothing in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// `Data` or `Ack`.
    pub kind: Kind,
    /// Header.
    pub header: Vec<u8>,
    /// Sums.
    pub sums: Vec<u8>,
    /// Payload.
    pub payload: Payload,
}

impl Answer {
    /// As an acknowledgement.
    pub fn ack(&self) -> Result<Ack, FrameError> {
        match self.kind {
            Kind::Ack => Ack::decode(&self.header),
            _ => Err(FrameError::Malformed { kind: "ACK", what: "kind" }),
        }
    }
}

/// Requests without an answer; `None` when the connection has ended.
type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection on which the greetings are done.
#[derive(Debug)]
pub struct DataConnection {
    socket: Arc<Socket>,
    writer: FrameWriter,
    pending: Arc<Pending>,
    next: AtomicU64,
    /// Who answered.
    pub server: ServerId,
    /// In which run.
    pub incarnation: Incarnation,
}

impl DataConnection {
    /// Connects and greets.
    pub async fn open(endpoint: &Endpoint, cluster: ClusterId, name: &str) -> Result<Self, CallError> {
        timeout(DIAL_MAX, Self::greet(endpoint, cluster, name)).await.unwrap_or(Err(CallError::Deadline(DIAL_MAX)))
    }

    async fn greet(endpoint: &Endpoint, cluster: ClusterId, name: &str) -> Result<Self, CallError> {
        let socket = Arc::new(match endpoint {
            Endpoint::Tcp(address) => Socket::connect_tcp(*address).await?,
            Endpoint::Unix(path) => Socket::connect_unix(path).await?,
        });
        let (writer, mut reader) =
            (FrameWriter::new(Arc::clone(&socket)), FrameReader::new(Arc::clone(&socket), Vec::new(), IDLE_MAX));
        let hello = wire::Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: cluster.as_bytes().to_vec().into(),
            session: 0,
            capabilities: 0,
            name: name.to_owned(),
        };
        let header = hello.encode_to_vec();
        writer.send(&Outgoing { kind: Kind::Hello, request: 0, header: &header, sums: &[], payload: &[] }).await?;
        let welcome = welcome(reader.next().await)?;
        let pending: Arc<Pending> = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(read_answers(reader, Arc::clone(&socket), Arc::clone(&pending)));
        Ok(Self {
            socket,
            writer,
            pending,
            next: AtomicU64::new(1),
            server: ServerId::new(welcome.server),
            incarnation: Incarnation::new(welcome.incarnation),
        })
    }

    /// True if a request may still be answered.
    pub fn is_open(&self) -> bool {
        self.pending.lock().is_some()
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, frame: Outgoing<'_>, deadline: Duration) -> Result<Answer, CallError> {
        let answer = self.begin(frame).await?;
        match timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(closed().into()),
            Err(_) => Err(CallError::Deadline(deadline)),
        }
    }

    /// Sends a request; the answer comes through the receiver, which fails when the connection ends.
    /// The number of the request is given here.
    pub async fn begin(&self, mut frame: Outgoing<'_>) -> Result<oneshot::Receiver<Answer>, CallError> {
        frame.request = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.pending.lock().as_mut().ok_or_else(closed)?.insert(frame.request, sender);
        let sent = self.writer.send(&frame).await;
        if let Err(error) = sent {
            self.forget(frame.request);
            return Err(error.into());
        }
        Ok(receiver)
    }

    fn forget(&self, request: u64) {
        if let Some(pending) = self.pending.lock().as_mut() {
            pending.remove(&request);
        }
    }
}

impl Drop for DataConnection {
    fn drop(&mut self) {
        self.socket.close();
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection has ended")
}

fn welcome(received: Result<Option<RawFrame>, ReceiveError>) -> Result<wire::Welcome, CallError> {
    let frame = match received {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(closed().into()),
        Err(ReceiveError::Io(error)) => return Err(error.into()),
        Err(ReceiveError::Frame(error)) => return Err(error.into()),
        Err(ReceiveError::Idle(idle)) => return Err(CallError::Deadline(idle)),
    };
    let malformed = FrameError::Malformed { kind: "WELCOME", what: "fields" };
    match frame.kind {
        Kind::Welcome => wire::Welcome::decode(&frame.header[..]).map_err(|_| malformed.into()),
        Kind::Ack => Err(Ack::decode(&frame.header)?.outcome.map_or_else(CallError::Refused, |()| malformed.into())),
        _ => Err(malformed.into()),
    }
}

async fn read_answers(mut reader: FrameReader, socket: Arc<Socket>, pending: Arc<Pending>) {
    while let Ok(Some(frame)) = reader.next().await {
        let waiting = pending.lock().as_mut().and_then(|pending| pending.remove(&frame.request));
        if let Some(waiting) = waiting {
            let RawFrame { kind, header, sums, payload, .. } = frame;
            // whoever asked may have given up
            let _ = waiting.send(Answer { kind, header, sums, payload });
        }
    }
    socket.close();
    pending.lock().take();
}
