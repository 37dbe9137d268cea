//! The requests of one connection and the replies to them.
//!
//! [`Replies`] is the stream of what the connection sends. Polled, it takes in whatever requests have come,
//! starts them, and yields replies in the order in which they get ready, so one that waits holds up
//! nobody. What only looks, and a command that comes alone, is carried out right here, without another
//! task to be woken. Commands that come together go to tasks of their own: each would otherwise wait for
//! the flush of the one before it instead of sharing it.

use crate::master::Master;
use crate::requests;
use crate::sessions::Session;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, Stream, StreamExt};
use gfs_proto::FsError;
use gfs_proto::ops::{Batch, KeepAlive, Op};
use gfs_proto::wire::{self, client_message, server_message};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{debug, error};

/// Batches of one stream that are being carried out; further ones wait in the connection.
const BATCHES_MAX: usize = 1024;

/// See the module's text.
pub(super) struct Replies {
    master: Arc<Master>,
    session: Arc<Session>,
    /// Absent after the client's last message.
    incoming: Option<BoxStream<'static, wire::ClientMessage>>,
    /// Taken in, not yet started.
    taken: Vec<wire::ClientMessage>,
    ready: VecDeque<wire::ServerMessage>,
    /// What only looks: its reply may be long, and nobody waits for it but the client.
    looks: FuturesUnordered<BoxFuture<'static, wire::ServerMessage>>,
    /// What changes something, may wait for others, and hold locks meanwhile.
    commands: FuturesUnordered<BoxFuture<'static, wire::ServerMessage>>,
}

/// What became of a request.
enum Started {
    /// All done.
    Answered(server_message::Kind),
    /// Its reply will come.
    UnderWay,
    /// To be carried out; it may wait for the log or for other machines.
    Command(Batch),
}

fn answer(request: u64, kind: server_message::Kind) -> wire::ServerMessage {
    wire::ServerMessage { request, kind: Some(kind) }
}

fn refused(request: u64, error: FsError) -> wire::ServerMessage {
    answer(request, server_message::Kind::Error(error.code()))
}

async fn carry_out(master: Arc<Master>, session: Arc<Session>, request: u64, batch: Batch) -> wire::ServerMessage {
    match requests::run(master, session, batch).await {
        Ok(reply) => answer(request, server_message::Kind::Reply((&reply).into())),
        Err(error) => refused(request, error),
    }
}

/// On a task of its own.
fn apart(
    request: u64,
    work: impl Future<Output = wire::ServerMessage> + Send + 'static,
) -> BoxFuture<'static, wire::ServerMessage> {
    let task = tokio::spawn(work);
    Box::pin(async move {
        task.await.unwrap_or_else(|panic| {
            error!(%panic, "a request ended with a panic");
            refused(request, FsError::Io)
        })
    })
}

impl Replies {
    pub(super) fn new(
        master: Arc<Master>,
        session: Arc<Session>,
        incoming: BoxStream<'static, wire::ClientMessage>,
    ) -> Self {
        Self {
            master,
            session,
            incoming: Some(incoming),
            taken: Vec::new(),
            ready: VecDeque::new(),
            looks: FuturesUnordered::new(),
            commands: FuturesUnordered::new(),
        }
    }

    /// Takes in what has come. The context is woken when more comes.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        while self.looks.len() + self.commands.len() + self.taken.len() < BATCHES_MAX {
            let Some(incoming) = &mut self.incoming else { return };
            match incoming.poll_next_unpin(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(message)) => self.taken.push(message),
                Poll::Ready(None) => self.incoming = None,
            }
        }
    }

    /// Starts what was taken in: each reply is ready, or under way.
    fn start_all(&mut self) {
        let idle = self.commands.is_empty();
        let mut commands = Vec::new();
        for message in std::mem::take(&mut self.taken) {
            let request = message.request;
            match self.start(message) {
                Ok(Started::Answered(reply)) => self.ready.push_back(answer(request, reply)),
                Ok(Started::UnderWay) => {}
                Ok(Started::Command(batch)) => commands.push((request, batch)),
                Err(error) => self.ready.push_back(refused(request, error)),
            }
        }
        let alone = idle && commands.len() == 1;
        for (request, batch) in commands {
            let work = carry_out(self.master.clone(), self.session.clone(), request, batch);
            self.commands.push(if alone { Box::pin(work) } else { apart(request, work) });
        }
    }

    /// Starts anything but a command. An error is about the request as a whole.
    fn start(&mut self, message: wire::ClientMessage) -> Result<Started, FsError> {
        let (master, session, request) = (self.master.clone(), self.session.clone(), message.request);
        let kind = message.kind.ok_or(FsError::Protocol)?;
        if session.ended.is_open() {
            return Err(FsError::SessionExpired);
        }
        session.heard(Instant::now());
        match kind {
            client_message::Kind::KeepAlive(raw) => {
                let alive =
                    KeepAlive::try_from(raw).inspect_err(|error| debug!(%error, "a keep-alive that makes no sense"))?;
                master.servers.found_slow(session.id, &alive.slow, Instant::now());
                return Ok(Started::Answered(server_message::Kind::KeptAlive(wire::KeptAlive {})));
            }
            client_message::Kind::Batch(raw) => {
                let batch = Batch::try_from(raw).inspect_err(|error| debug!(%error, "a batch that makes no sense"))?;
                if requests::is_logged(&batch) {
                    return Ok(Started::Command(batch));
                }
                let looks = batch.ops.iter().all(Op::only_looks);
                let mut work = Box::pin(carry_out(master, session, request, batch));
                if looks {
                    self.looks.push(work);
                } else if let Some(reply) = (&mut work).now_or_never() {
                    // as far as it need not wait: what is asked for behind a report is answered with it
                    self.ready.push_back(reply);
                } else {
                    self.commands.push(work);
                }
            }
            client_message::Kind::Close(_) => self.commands.push(Box::pin(async move {
                master.close_session(session.id).await;
                answer(request, server_message::Kind::Closed(wire::SessionClosed {}))
            })),
            client_message::Kind::Attach(_) => return Err(FsError::Protocol),
        }
        Ok(Started::UnderWay)
    }

    /// Goes on with commands and takes in nothing.
    pub(super) fn go_on(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(reply)) = self.commands.poll_next_unpin(cx) {
            self.ready.push_back(reply);
        }
    }
}

impl Stream for Replies {
    type Item = wire::ServerMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reply) = self.ready.pop_front() {
                return Poll::Ready(Some(reply));
            }
            let this = &mut *self;
            for replies in [&mut this.looks, &mut this.commands] {
                if let Poll::Ready(Some(reply)) = replies.poll_next_unpin(cx) {
                    return Poll::Ready(Some(reply));
                }
            }
            self.take_in(cx);
            if self.taken.is_empty() {
                let over = self.incoming.is_none() && self.looks.is_empty() && self.commands.is_empty();
                return if over { Poll::Ready(None) } else { Poll::Pending };
            }
            self.start_all();
        }
    }
}

impl Drop for Replies {
    /// The client is gone, but what it asked for is under way: commands are logged and waited for by
    /// others. It is finished for nobody.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.commands);
        if !left.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { while left.next().await.is_some() {} });
        }
    }
}
