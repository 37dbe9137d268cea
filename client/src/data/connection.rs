//! One connection to a chunkserver: many requests in flight, answers in any order.
//!
//! The caller writes its frame itself under a short lock; one reader task completes the requests.
//! A frame that was begun and not finished (its caller gave up) makes the connection useless, so it
//! is closed. Closing fails every request in flight at once.

use super::stream::{FrameReader, StreamError, write_frame};
use super::tally::Tally;
use bytes::Bytes;
use gfs_proto::chunk::ServerAddress;
use gfs_proto::frame::{Ack, CAPABILITY_LENDS, DataReply, Kind, Prefix};
use gfs_proto::ids::{ClusterId, Incarnation, ServerId, SessionId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

/// Why there was no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum LinkError {
    /// No connection could be made, or none was made a moment ago.
    #[error("the server cannot be reached")]
    Unreachable,
    /// The connection ended before the answer came.
    #[error("the connection was closed")]
    Closed,
    /// The server did not answer in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// It does not even say that it is alive.
    #[error("the server hangs")]
    Silent,
    /// Another server, cluster or protocol version answers there.
    #[error("another server or cluster answers at this address")]
    Stranger,
    /// The answer contradicts the protocol.
    #[error("the answer violates the protocol")]
    Protocol,
}

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// To a read.
    Data {
        /// Bytes of the chunk at this replica.
        chunk_length: u32,
        /// Four bytes for each block.
        sums: Bytes,
        /// Whole blocks; short where the chunk ends.
        data: Bytes,
    },
    /// To everything else, and to a read that failed.
    Ack(Ack),
}

/// Who we are and whom we expect to find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Introduction {
    pub cluster: ClusterId,
    pub session: SessionId,
    pub chunk_size: ChunkSize,
    /// Boot id of this machine.
    pub host: String,
}

impl Introduction {
    /// The first frame of a connection.
    pub(super) fn hello(&self) -> Vec<u8> {
        let hello = wire::Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.cluster.as_bytes().to_vec().into(),
            session: self.session.get(),
            capabilities: 0,
            name: String::new(),
        };
        Prefix::encode(Kind::Hello, 0, &hello.encode_to_vec(), 0, 0)
    }

    /// The answer to it, if it is that of `server`.
    pub(super) fn welcome(&self, server: ServerId, prefix: &Prefix, header: &[u8]) -> Result<wire::Welcome, LinkError> {
        let welcome = wire::Welcome::decode(header).ok().filter(|_| prefix.kind == Kind::Welcome);
        let welcome = welcome.ok_or(LinkError::Stranger)?;
        if welcome.server != server.get() || welcome.chunk_size != self.chunk_size.get() {
            tracing::warn!(%server, found = welcome.server, chunk_size = welcome.chunk_size, "another server answers");
            return Err(LinkError::Stranger);
        }
        Ok(welcome)
    }
}

enum Waiter {
    One { reply: oneshot::Sender<Result<Answer, LinkError>>, length_max: u32 },
    Many { tally: Arc<Tally>, slot: usize },
}

impl Waiter {
    fn complete(self, answer: Result<Answer, LinkError>) {
        match self {
            Self::One { reply, .. } => drop(reply.send(answer)),
            Self::Many { tally, slot } => tally.put(slot, answer),
        }
    }
    const fn length_max(&self) -> u32 {
        match self {
            Self::One { length_max, .. } => *length_max,
            Self::Many { .. } => 0,
        }
    }
}

/// Requests in flight; `None` when the connection is closed.
struct Pending {
    waiters: Mutex<Option<HashMap<u64, Waiter>>>,
    closed: Notify,
}

impl Pending {
    fn new() -> Arc<Self> {
        Arc::new(Self { waiters: Mutex::new(Some(HashMap::new())), closed: Notify::new() })
    }
    fn insert(&self, request: u64, waiter: Waiter) -> Result<(), LinkError> {
        match &mut *self.waiters.lock() {
            Some(waiters) => drop(waiters.insert(request, waiter)),
            None => return Err(LinkError::Closed),
        }
        Ok(())
    }
    fn remove(&self, request: u64) -> Option<Waiter> {
        self.waiters.lock().as_mut()?.remove(&request)
    }
    fn len(&self) -> usize {
        self.waiters.lock().as_ref().map_or(0, HashMap::len)
    }
    fn is_closed(&self) -> bool {
        self.waiters.lock().is_none()
    }
    fn close(&self) {
        let waiters = self.waiters.lock().take();
        self.closed.notify_one();
        waiters.into_iter().flatten().for_each(|(_, waiter)| waiter.complete(Err(LinkError::Closed)));
    }
}

/// One connection.
pub(super) struct Connection {
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    pending: Arc<Pending>,
    next_request: AtomicU64,
    incarnation: Incarnation,
    lends: bool,
}

/// A request as it goes on the wire.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub kind: Kind,
    pub header: &'a [u8],
    pub sums: &'a [u8],
    pub payload: &'a [Bytes],
}

/// Forgets the request when its caller gives up.
struct Registration<'a> {
    pending: &'a Pending,
    request: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        drop(self.pending.remove(self.request));
    }
}

/// Closes the connection if a frame was begun and not finished.
struct Unfinished<'a>(Option<&'a Pending>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.0 {
            pending.close();
        }
    }
}

impl Connection {
    /// Connects and shakes hands. `server` must answer.
    pub(super) async fn dial(
        server: ServerId,
        address: &ServerAddress,
        us: &Introduction,
        runtime: &Handle,
    ) -> Result<Arc<Self>, LinkError> {
        let unix = address.unix.as_ref().filter(|_| !us.host.is_empty() && address.host == us.host);
        if let Some(path) = unix
            && let Ok(stream) = UnixStream::connect(path).await
        {
            let (reader, writer) = stream.into_split();
            return Self::greet(server, us, Box::new(reader), Box::new(writer), runtime).await;
        }
        let stream = TcpStream::connect(address.tcp).await.map_err(|_| LinkError::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| LinkError::Unreachable)?;
        let (reader, writer) = stream.into_split();
        Self::greet(server, us, Box::new(reader), Box::new(writer), runtime).await
    }

    async fn greet(
        server: ServerId,
        us: &Introduction,
        reader: Box<dyn AsyncRead + Send + Unpin>,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, LinkError> {
        write_frame(&mut *writer, &us.hello(), &[], &[]).await.map_err(|_| LinkError::Closed)?;
        let mut reader = FrameReader::new(reader);
        let (prefix, header) = reader.head().await.map_err(|error| match error {
            StreamError::Io(_) => LinkError::Closed,
            StreamError::Frame(_) => LinkError::Stranger,
        })?;
        let welcome = us.welcome(server, &prefix, &header)?;
        let pending = Pending::new();
        runtime.spawn(answers(server, reader, pending.clone()));
        let writer = tokio::sync::Mutex::new(writer);
        let incarnation = Incarnation::new(welcome.incarnation);
        let lends = welcome.capabilities & CAPABILITY_LENDS != 0;
        Ok(Arc::new(Self { writer, pending, next_request: AtomicU64::new(1), incarnation, lends }))
    }

    /// The server's run, as it said at the handshake.
    pub(super) const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The server answers LEND, as it said at the handshake.
    pub(super) const fn lends(&self) -> bool {
        self.lends
    }

    /// Requests without an answer yet.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// True when it is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        self.pending.is_closed()
    }

    /// Closes it: requests in flight fail.
    pub(super) fn close(&self) {
        self.pending.close();
    }

    /// Sends a request and waits for its answer, which has at most `length_max` bytes of payload.
    /// The caller bounds the time; giving up forgets the request.
    pub(super) async fn ask(&self, request: Request<'_>, length_max: u32) -> Result<Answer, LinkError> {
        let (reply, answer) = oneshot::channel();
        let number = self.next_request.fetch_add(1, Ordering::Relaxed);
        self.pending.insert(number, Waiter::One { reply, length_max })?;
        let _registration = Registration { pending: &self.pending, request: number };
        self.send(number, request).await?;
        answer.await.unwrap_or(Err(LinkError::Closed))
    }

    /// Sends a request whose acknowledgement goes to slot `slot` of `tally`, now or never.
    pub(super) async fn post(&self, request: Request<'_>, tally: &Arc<Tally>, slot: usize) -> Result<(), LinkError> {
        let number = self.next_request.fetch_add(1, Ordering::Relaxed);
        self.pending.insert(number, Waiter::Many { tally: tally.clone(), slot })?;
        self.send(number, request).await
    }

    async fn send(&self, number: u64, request: Request<'_>) -> Result<(), LinkError> {
        let payload_len = request.payload.iter().map(Bytes::len).sum();
        let head = Prefix::encode(request.kind, number, request.header, request.sums.len(), payload_len);
        let mut writer = self.writer.lock().await;
        if self.pending.is_closed() {
            return Err(LinkError::Closed);
        }
        let mut unfinished = Unfinished(Some(&self.pending));
        write_frame(&mut **writer, &head, request.sums, request.payload).await.map_err(|_| LinkError::Closed)?;
        unfinished.0 = None;
        Ok(())
    }
}

/// The reader task: ends with the connection, and ends it.
async fn answers(server: ServerId, mut reader: FrameReader<Box<dyn AsyncRead + Send + Unpin>>, pending: Arc<Pending>) {
    let all = async {
        loop {
            if let Err(error) = answer(&mut reader, &pending).await {
                break error;
            }
        }
    };
    tokio::select! {
        biased;
        error = all => match error {
            StreamError::Io(error) => tracing::debug!(%server, %error, "connection closed"),
            StreamError::Frame(error) => tracing::warn!(%server, %error, "not a frame; connection closed"),
        },
        () = pending.closed.notified() => {}
    }
    pending.close();
}

async fn answer<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>, pending: &Pending) -> Result<(), StreamError> {
    let (prefix, header) = reader.head().await?;
    let waiter = pending.remove(prefix.request);
    let (sums_len, payload_len) = (prefix.sums_len as usize, prefix.payload_len as usize);
    let Some(waiter) = waiter else {
        return Ok(reader.skip(sums_len + payload_len).await?);
    };
    let guard = Undelivered(Some(waiter));
    let parsed = match prefix.kind {
        Kind::Data if prefix.payload_len <= guard.length_max() => {
            let chunk_length = DataReply::decode(&header)?.chunk_length;
            let (sums, data) = (reader.bytes(sums_len).await?, reader.bytes(payload_len).await?);
            Ok(Answer::Data { chunk_length, sums, data })
        }
        Kind::Ack => {
            let ack = Ack::decode(&header)?;
            detail(reader, &ack, sums_len, payload_len).await?;
            Ok(Answer::Ack(ack))
        }
        _ => {
            reader.skip(sums_len + payload_len).await?;
            Err(LinkError::Protocol)
        }
    };
    guard.deliver(parsed);
    Ok(())
}

/// The payload of an acknowledgement says more about a failure, to people.
async fn detail<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    ack: &Ack,
    sums_len: usize,
    payload_len: usize,
) -> Result<(), StreamError> {
    reader.skip(sums_len).await?;
    if payload_len > 0 {
        let text = reader.bytes(payload_len).await?;
        tracing::debug!(culprit = %ack.culprit, outcome = ?ack.outcome, detail = %String::from_utf8_lossy(&text), "answer");
    }
    Ok(())
}

/// A waiter taken out of the table whose answer is still being read: it learns if that fails.
struct Undelivered(Option<Waiter>);

impl Undelivered {
    fn length_max(&self) -> u32 {
        self.0.as_ref().map_or(0, Waiter::length_max)
    }
    fn deliver(mut self, answer: Result<Answer, LinkError>) {
        if let Some(waiter) = self.0.take() {
            waiter.complete(answer);
        }
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.take() {
            waiter.complete(Err(LinkError::Closed));
        }
    }
}
