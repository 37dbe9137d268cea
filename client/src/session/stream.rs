//! The connection for requests and replies: messages on a plain stream (`gfs_proto::message`). Whoever
//! has a request writes it itself, so that no task has to be woken first; only what the socket does not
//! take at once is left to a task. What nobody waits for travels with the next request, if one comes soon.

use super::dial::{Dial, RequestWriter};
use super::requests::Outgoing;
use bytes::{Buf, BytesMut};
use gfs_proto::message::{self, MessageError, REQUESTS_PREFACE};
use gfs_proto::wire::{ClientMessage, ServerMessage};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;

/// What is not urgent waits so long for something to travel with.
const LINGER: Duration = Duration::from_millis(1);

/// Why a connection is of no use any more.
#[derive(Debug, Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the master sent {0}")]
    Message(#[from] MessageError),
}

struct Shared {
    stream: Box<dyn RequestWriter>,
    unsent: Mutex<Unsent>,
    /// The socket did not take all there is.
    full: Notify,
    /// Something lingers, and nobody looks after it yet.
    lingers: Notify,
}

#[derive(Default)]
struct Unsent {
    bytes: BytesMut,
    /// The socket was full: a task writes when it takes more.
    full: bool,
    /// Something was left to linger since the task that looks after it looked last.
    lingered: bool,
    /// That task is awake.
    watched: bool,
}

impl Unsent {
    /// One that is too long, which no request is, is not answered: whoever waits for it has a deadline.
    fn push(&mut self, message: &ClientMessage) {
        if let Err(error) = message::encode(message, &mut self.bytes) {
            tracing::error!(request = message.request, %error, "a request cannot be sent");
        }
    }
}

impl Shared {
    /// Writes what the socket takes now. An error is the reader's to find.
    fn write(&self, unsent: &mut Unsent) {
        unsent.full = false;
        while !unsent.bytes.is_empty() {
            match self.stream.try_write(&unsent.bytes) {
                Ok(count) => unsent.bytes.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    unsent.full = true;
                    return self.full.notify_one();
                }
                Err(_) => {
                    // perhaps behind half a message: nothing may follow
                    self.stream.shut();
                    unsent.bytes.clear();
                }
            }
        }
    }
}

/// Sends; clones send on the same connection.
#[derive(Clone)]
pub(super) struct Sender(Arc<Shared>);

impl Outgoing for Sender {
    fn send(&self, message: ClientMessage) {
        let mut unsent = self.0.unsent.lock();
        unsent.push(&message);
        if !unsent.full {
            self.0.write(&mut unsent);
        }
    }

    fn send_behind(&self, message: ClientMessage) {
        let mut unsent = self.0.unsent.lock();
        unsent.push(&message);
        unsent.lingered = true;
        if !std::mem::replace(&mut unsent.watched, true) {
            self.0.lingers.notify_one();
        }
    }

    fn hurry(&self) {
        let mut unsent = self.0.unsent.lock();
        if !unsent.full {
            self.0.write(&mut unsent);
        }
    }
}

/// Receives. Dropped, it ends the task that writes what was left.
pub(super) struct Receiver {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    writer: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// The next message; `None` when the master has closed the connection. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<ServerMessage>, StreamError> {
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
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Connects to a master's port.
pub(super) async fn connect(dial: &dyn Dial, address: &str) -> io::Result<(Sender, Receiver)> {
    let (stream, reader) = dial.requests(address).await?;
    let unsent = Unsent { bytes: BytesMut::from(&REQUESTS_PREFACE[..]), ..Unsent::default() };
    let shared = Arc::new(Shared { stream, unsent: Mutex::new(unsent), full: Notify::new(), lingers: Notify::new() });
    let writer = tokio::spawn(write_left(shared.clone()));
    Ok((Sender(shared), Receiver { reader, buffer: BytesMut::new(), writer }))
}

/// Writes what nobody else writes.
async fn write_left(shared: Arc<Shared>) {
    tokio::join!(write_when_it_is_taken(&shared), write_what_lingers(&shared));
}

async fn write_when_it_is_taken(shared: &Shared) {
    loop {
        shared.full.notified().await;
        if shared.stream.writable().await.is_err() {
            return;
        }
        shared.write(&mut shared.unsent.lock());
    }
}

/// Looks every [`LINGER`] while there is something to look after, so that it is not woken for each message.
async fn write_what_lingers(shared: &Shared) {
    loop {
        shared.lingers.notified().await;
        loop {
            tokio::time::sleep(LINGER).await;
            let mut unsent = shared.unsent.lock();
            if !unsent.full {
                shared.write(&mut unsent);
            }
            if !std::mem::replace(&mut unsent.lingered, false) {
                unsent.watched = false;
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::dial::ByTcp;
    use gfs_proto::wire::{KeepAlive, client_message::Kind};
    use tokio::net::{TcpListener, TcpStream};

    fn message(request: u64) -> ClientMessage {
        ClientMessage { request, kind: Some(Kind::KeepAlive(KeepAlive::default())) }
    }

    struct Peer {
        stream: TcpStream,
        came: BytesMut,
    }

    impl Peer {
        /// Numbers of the messages that come with one read.
        async fn read(&mut self) -> Vec<u64> {
            self.stream.read_buf(&mut self.came).await.expect("the connection is there");
            let mut decode = || message::decode::<ClientMessage>(&mut self.came).expect("a message");
            std::iter::from_fn(|| decode().map(|message| message.request)).collect()
        }
    }

    /// A connection, with the preface and message 0 read from it.
    async fn connected() -> (Sender, Receiver, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (sender, receiver) = connect(&ByTcp, &address).await.expect("connected");
        let mut stream = listener.accept().await.expect("connected").0;
        sender.send(message(0));
        let mut preface = REQUESTS_PREFACE;
        stream.read_exact(&mut preface).await.expect("the preface");
        assert_eq!(preface, REQUESTS_PREFACE);
        let mut peer = Peer { stream, came: BytesMut::new() };
        while peer.read().await != [0] {}
        (sender, receiver, peer)
    }

    // On one thread nobody else runs before this waits, so nothing leaves by itself.
    #[tokio::test]
    async fn what_nobody_waits_for_travels_with_the_next_request() {
        let (sender, _receiver, mut peer) = connected().await;
        sender.send_behind(message(1));
        sender.send_behind(message(2));
        sender.send(message(3));
        assert_eq!(peer.read().await, [1, 2, 3]);
        sender.send_behind(message(4));
        sender.hurry();
        assert_eq!(peer.read().await, [4]);
    }

    #[tokio::test]
    async fn what_lingers_leaves_by_itself_each_time() {
        let (sender, _receiver, mut peer) = connected().await;
        for request in 1..5 {
            sender.send_behind(message(request));
            assert_eq!(peer.read().await, [request]);
        }
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_follows() {
        const MANY: u64 = 500_000;
        let (sender, _receiver, mut peer) = connected().await;
        (1..=MANY).for_each(|request| sender.send(message(request)));
        assert!(sender.0.unsent.lock().full, "more than all buffers on the way take");
        let mut came = Vec::new();
        while came.len() < MANY as usize {
            came.extend(peer.read().await);
        }
        assert!(came.into_iter().eq(1..=MANY), "all, in order");
    }
}
