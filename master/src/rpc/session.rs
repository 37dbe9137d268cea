//! The Session service.
//!
//! A stream of requests is a [`Replies`]: polled by its connection's task, it reads requests, carries
//! batches out, and yields their replies in whatever order they get ready. No task stands between, so
//! a request that need not wait costs no wake-up, and one that waits holds up nobody.

use crate::gate::Gate;
use crate::master::Master;
use crate::requests;
use crate::sessions::Session;
use crate::sessions::callbacks::{Callback, CallbackKind};
use crate::sessions::lifecycle::Reclaimed;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, Stream, StreamExt};
use gfs_proto::FsError;
use gfs_proto::ids::{InodeId, OpenId, SessionId};
use gfs_proto::limits::{PROTOCOL_VERSION, SESSION_EXPIRY};
use gfs_proto::ops::{Access, Batch};
use gfs_proto::wire::{self, callback, callback_answer, client_message, server_message};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

/// Batches of one stream that are being carried out; further ones wait in the connection.
const BATCHES_MAX: usize = 1024;
/// Longest name of a client.
const NAME_MAX: usize = 256;

/// See the module's text.
pub struct SessionService {
    master: Arc<Master>,
}

impl SessionService {
    /// Of a master.
    pub fn new(master: Arc<Master>) -> Self {
        Self { master }
    }
}

#[tonic::async_trait]
impl wire::session_server::Session for SessionService {
    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionReply>, Status> {
        let address = request.remote_addr().map(|address| address.to_string());
        let message = request.into_inner();
        check_hello(&self.master, &message)?;
        let session = match &message.resume {
            None => {
                let name = message.client_name.chars().take(NAME_MAX).collect();
                let opened = self.master.open_session(name).await;
                opened.map_err(|error| error.into_status("the session could not be opened"))?
            }
            Some(attach) => {
                let session = find(&self.master, attach)?;
                let reclaims = message.reclaim.iter().map(reclaimed).collect::<Result<Vec<_>, Status>>()?;
                self.master.resume_session(&session, &reclaims);
                session
            }
        };
        session.attach(address, Instant::now());
        Ok(Response::new(hello(&self.master, &session)))
    }

    type RequestsStream = BoxStream<'static, Result<wire::ServerMessage, Status>>;

    async fn requests(
        &self,
        request: Request<Streaming<wire::ClientMessage>>,
    ) -> Result<Response<Self::RequestsStream>, Status> {
        let stopping = stopping(self.master.stopping.clone());
        let replies = Replies {
            master: self.master.clone(),
            session: None,
            incoming: Some(request.into_inner()),
            under_way: FuturesUnordered::new(),
        };
        Ok(Response::new(replies.take_until(stopping).boxed()))
    }

    type CallbacksStream = BoxStream<'static, Result<wire::Callback, Status>>;

    async fn callbacks(
        &self,
        request: Request<Streaming<wire::CallbackAnswer>>,
    ) -> Result<Response<Self::CallbacksStream>, Status> {
        let mut answers = request.into_inner();
        let first = answers.message().await?.and_then(|message| message.kind);
        let Some(callback_answer::Kind::Attach(attach)) = first else {
            return Err(FsError::Protocol.into_status("the first message has to attach the stream to a session"));
        };
        let session = find(&self.master, &attach)?;
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(session.callbacks.attach());
        let ended = ended(self.master.stopping.clone(), session.ended.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = answers.message().await {
                if let Some(callback_answer::Kind::Done(id)) = message.kind {
                    session.callbacks.done(id);
                }
            }
        });
        Ok(Response::new(outgoing.map(|callback| Ok(asked(callback))).take_until(ended).boxed()))
    }
}

async fn stopping(gate: Gate) {
    gate.passed().await;
}

async fn ended(stopping: Gate, session: Gate) {
    tokio::select! {
        () = stopping.passed() => {}
        () = session.passed() => {}
    }
}

fn check_hello(master: &Master, message: &wire::OpenSessionRequest) -> Result<(), Status> {
    if message.protocol_version != PROTOCOL_VERSION {
        let detail = format!(
            "the client speaks protocol version {}, this master version {PROTOCOL_VERSION}: use programs of one release",
            message.protocol_version
        );
        return Err(FsError::Protocol.into_status(detail));
    }
    let ours = master.store.genesis().cluster;
    if !message.cluster_id.is_empty() && message.cluster_id != ours.as_bytes().as_slice() {
        return Err(FsError::InvalidArgument.into_status(format!("this master serves another cluster, {ours}")));
    }
    Ok(())
}

fn hello(master: &Master, session: &Session) -> wire::OpenSessionReply {
    let genesis = master.store.genesis();
    let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    debug_assert!(master.timings.expiry <= SESSION_EXPIRY, "clients rely on it");
    wire::OpenSessionReply {
        session: session.id.get(),
        secret: session.secret.to_vec().into(),
        cluster_id: genesis.cluster.as_bytes().to_vec().into(),
        chunk_size: genesis.chunk_size.get(),
        keep_alive_ms: millis(master.timings.keep_alive),
        expiry_ms: millis(master.timings.expiry),
        capabilities: 0,
        goal_default: genesis.goal.into(),
        term: master.term().get(),
    }
}

fn find(master: &Master, attach: &wire::Attach) -> Result<Arc<Session>, Status> {
    let session = master.sessions.find(SessionId::new(attach.session), &attach.secret);
    session.ok_or_else(|| FsError::SessionExpired.into_status("the session is unknown here or has expired"))
}

fn reclaimed(raw: &wire::Reclaim) -> Result<Reclaimed, Status> {
    let access = match raw.access {
        1 => Access::Read,
        2 => Access::Write,
        3 => Access::ReadWrite,
        _ => return Err(FsError::Protocol.into_status("Reclaim.access names no access")),
    };
    Ok(Reclaimed { inode: InodeId::new(raw.inode), open: OpenId::new(raw.open_id), access })
}

fn asked(callback: Callback) -> wire::Callback {
    let CallbackKind::RecallExclusive(inode) = callback.kind;
    let recall = wire::Recall { inode: inode.get(), r#type: 1, scope: 1, ..wire::Recall::default() };
    wire::Callback { id: callback.id, kind: Some(callback::Kind::Recall(recall)) }
}

/// Replies to one stream of requests.
struct Replies {
    master: Arc<Master>,
    session: Option<Arc<Session>>,
    /// Absent after the client's last message.
    incoming: Option<Streaming<wire::ClientMessage>>,
    under_way: FuturesUnordered<BoxFuture<'static, wire::ServerMessage>>,
}

fn answer(request: u64, kind: server_message::Kind) -> wire::ServerMessage {
    wire::ServerMessage { request, kind: Some(kind) }
}

fn refused(request: u64, error: FsError) -> wire::ServerMessage {
    answer(request, server_message::Kind::Error(error.code()))
}

async fn carry_out(master: Arc<Master>, session: Arc<Session>, request: u64, raw: wire::Batch) -> wire::ServerMessage {
    let outcome = match Batch::try_from(raw) {
        Ok(batch) => requests::run(master, session, batch).await,
        Err(error) => {
            debug!(%error, "a batch that makes no sense");
            Err(error.into())
        }
    };
    match outcome {
        Ok(reply) => answer(request, server_message::Kind::Reply((&reply).into())),
        Err(error) => refused(request, error),
    }
}

impl Replies {
    /// Takes a message: an answer at once, or a batch that is under way now.
    fn receive(&mut self, message: wire::ClientMessage) -> Option<wire::ServerMessage> {
        let request = message.request;
        let Some(kind) = message.kind else { return Some(refused(request, FsError::Protocol)) };
        if let client_message::Kind::Attach(attach) = &kind {
            return Some(self.attach(request, attach));
        }
        let Some(session) = self.session.clone() else { return Some(refused(request, FsError::Protocol)) };
        if session.ended.is_open() {
            return Some(refused(request, FsError::SessionExpired));
        }
        session.heard(Instant::now());
        let master = self.master.clone();
        match kind {
            client_message::Kind::KeepAlive(_) => {
                return Some(answer(request, server_message::Kind::KeptAlive(wire::KeptAlive {})));
            }
            client_message::Kind::Batch(raw) => {
                self.under_way.push(Box::pin(carry_out(master, session, request, raw)));
            }
            client_message::Kind::Close(_) => self.under_way.push(Box::pin(async move {
                master.end_session(session.id, "closed by the client").await;
                answer(request, server_message::Kind::Closed(wire::SessionClosed {}))
            })),
            client_message::Kind::Attach(_) => {}
        }
        None
    }

    fn attach(&mut self, request: u64, attach: &wire::Attach) -> wire::ServerMessage {
        match self.master.sessions.find(SessionId::new(attach.session), &attach.secret) {
            None => refused(request, FsError::SessionExpired),
            Some(session) => {
                session.attach(None, Instant::now());
                self.session = Some(session);
                answer(request, server_message::Kind::Attached(wire::Attached {}))
            }
        }
    }
}

impl Stream for Replies {
    type Item = Result<wire::ServerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(Some(reply)) = self.under_way.poll_next_unpin(cx) {
                return Poll::Ready(Some(Ok(reply)));
            }
            if self.under_way.len() >= BATCHES_MAX {
                return Poll::Pending;
            }
            let Some(incoming) = &mut self.incoming else {
                return if self.under_way.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            };
            match incoming.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(reply) = self.receive(message) {
                        return Poll::Ready(Some(Ok(reply)));
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => self.incoming = None,
            }
        }
    }
}

impl Drop for Replies {
    /// The client is gone, but what it asked for is under way: commands are logged and waited for by
    /// others. It is finished for nobody.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.under_way);
        if !left.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { while left.next().await.is_some() {} });
        }
    }
}
