//! The Session service: handshakes and callbacks. Requests have connections of their own: `requests`.

use crate::gate::Gate;
use crate::master::Master;
use crate::sessions::Session;
use crate::sessions::callbacks::{Callback, CallbackKind};
use crate::sessions::lifecycle::Reclaimed;
use futures_util::stream::{BoxStream, StreamExt};
use gfs_proto::FsError;
use gfs_proto::ids::{InodeId, OpenId, SessionId};
use gfs_proto::limits::{PROTOCOL_VERSION, SESSION_EXPIRY};
use gfs_proto::ops::Access;
use gfs_proto::wire::{self, callback, callback_answer};
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status, Streaming};

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

async fn ended(stopping: Gate, session: Gate) {
    tokio::select! {
        biased;
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
        copies_min: master.repair.copies_min().into(),
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
