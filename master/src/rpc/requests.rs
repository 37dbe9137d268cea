//! Connections for requests: messages on a plain stream, because each hop through HTTP/2 costs a small
//! request more than all the rest of its way (ADR 8). They come in at the port of the gRPC services; the
//! first byte tells them apart.
//!
//! One task per connection reads, carries out, writes. It takes in no more while the client does not
//! take its replies, but goes on with what it has begun: commands hold locks that others wait for.

use super::port::Connection;
use super::replies::Replies;
use crate::master::Master;
use crate::sessions::Session;
use bytes::{Buf, BytesMut};
use futures_util::Stream;
use futures_util::stream::{StreamExt, unfold};
use gfs_proto::FsError;
use gfs_proto::ids::SessionId;
use gfs_proto::message::{self, MessageError, REQUESTS_PREFACE};
use gfs_proto::wire::{self, client_message, server_message};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

/// From the connection to the message that attaches it to a session.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// For a client to hear that its session is over by what it asks next.
const FAREWELL: Duration = Duration::from_secs(30);
/// Replies that wait to be written before no more requests are taken in.
const REPLIES_BYTES_MAX: usize = 1 << 20;

/// Why a connection ended before its client did.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("it did not attach to a session")]
    NotAttached,
}

/// Serves one connection, whose first byte was looked at and is still to be read.
pub(super) async fn serve(master: Arc<Master>, stream: impl Connection) {
    let stopping = master.stopping.clone();
    let outcome = tokio::select! {
        biased;
        outcome = run(master, stream) => outcome,
        () = stopping.passed() => Ok(()),
    };
    if let Err(error) = outcome {
        debug!(%error, "a connection for requests ended");
    }
}

async fn run(master: Arc<Master>, stream: impl Connection) -> Result<(), ConnectionError> {
    let (reader, mut writer) = stream.halves()?;
    let mut reader = Reader { reader, buffer: BytesMut::new() };
    let attached = timeout(ATTACH_TIMEOUT, attach(&master, &mut reader, &mut writer));
    let Some(session) = attached.await.map_err(|_| ConnectionError::NotAttached)?? else { return Ok(()) };
    let ended = session.ended.clone();
    let replies = Replies::new(master, session, Box::pin(reader.messages()));
    tokio::select! {
        biased;
        outcome = answer(replies, writer) => outcome.map_err(ConnectionError::from),
        () = closed(ended) => Ok(()),
    }
}

/// The client is told that its session is over by what it asks; one that asks nothing must not keep its
/// connection for ever.
async fn closed(ended: crate::gate::Gate) {
    ended.passed().await;
    tokio::time::sleep(FAREWELL).await;
}

/// The preface and the message that names the session; `None` if there is no such session, or if it was not opened or
/// resumed at this master.
async fn attach(
    master: &Master,
    reader: &mut Reader<impl AsyncRead + Unpin + Send>,
    writer: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<Option<Arc<Session>>, ConnectionError> {
    let mut preface = [0; REQUESTS_PREFACE.len()];
    reader.reader.read_exact(&mut preface).await?;
    let first = if preface == REQUESTS_PREFACE { reader.next().await? } else { None };
    let Some(wire::ClientMessage { request, kind: Some(client_message::Kind::Attach(attach)) }) = first else {
        return Err(ConnectionError::NotAttached);
    };
    let known = master.sessions.find(SessionId::new(attach.session), &attach.secret);
    // What the client has open it has told a master that stopped meanwhile: it has to tell this one first.
    let session = known.clone().filter(|session| session.is_back());
    let kind = match (&session, known) {
        (Some(session), _) => {
            session.attach(None, Instant::now());
            server_message::Kind::Attached(wire::Attached {})
        }
        (None, Some(_)) => server_message::Kind::Error(FsError::NotLeader.code()),
        (None, None) => server_message::Kind::Error(FsError::SessionExpired.code()),
    };
    let mut out = BytesMut::new();
    message::encode(&wire::ServerMessage { request, kind: Some(kind) }, &mut out)?;
    writer.write_all(&out).await?;
    Ok(session)
}

struct Reader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    /// The next message; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<wire::ClientMessage>, ConnectionError> {
        loop {
            if let Some(message) = message::decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            message::make_room(&mut self.buffer);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// All messages up to the end of the stream, or to one that makes no sense.
    fn messages(self) -> impl Stream<Item = wire::ClientMessage> + Send {
        unfold(self, async |mut reader| match reader.next().await {
            Ok(message) => Some((message?, reader)),
            Err(error) => {
                debug!(%error, "a connection for requests is of no use any more");
                None
            }
        })
    }
}

/// A reply that is too long, to a batch that asked for too much, becomes an error.
fn push(reply: &wire::ServerMessage, out: &mut BytesMut) {
    if let Err(error) = message::encode(reply, out) {
        debug!(%error, "a reply cannot be sent");
        let kind = server_message::Kind::Error(FsError::InvalidArgument.code());
        let refused = message::encode(&wire::ServerMessage { request: reply.request, kind: Some(kind) }, out);
        debug_assert!(refused.is_ok(), "an error is short");
    }
}

/// Writes replies as they get ready, as many at once as there are, until there will be no more.
async fn answer(mut replies: Replies, writer: impl AsyncWrite) -> io::Result<()> {
    let mut writer = pin!(writer);
    let mut out = BytesMut::new();
    poll_fn(|cx| {
        loop {
            let over = loop {
                if out.len() >= REPLIES_BYTES_MAX {
                    replies.go_on(cx);
                    break false;
                }
                match replies.poll_next_unpin(cx) {
                    Poll::Ready(Some(reply)) => push(&reply, &mut out),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
            if out.is_empty() {
                return if over { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let written = ready!(Pin::new(&mut writer).poll_write(cx, &out))?;
            out.advance(written);
        }
    })
    .await
}
