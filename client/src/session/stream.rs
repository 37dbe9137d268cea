//! The connection for requests and replies: messages on a plain stream (`gfs_proto::message`). Whoever
//! has a request writes it itself, so that no task has to be woken first; only what the socket does not
//! take at once is left to a task.

use super::requests::Outgoing;
use bytes::{Buf, BytesMut};
use gfs_proto::message::{self, MessageError, REQUESTS_PREFACE};
use gfs_proto::wire::{ClientMessage, ServerMessage};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A master that takes nothing for so long is gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a connection is of no use any more.
#[derive(Debug, Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the master sent {0}")]
    Message(#[from] MessageError),
}

struct Shared {
    stream: TcpStream,
    unsent: Mutex<BytesMut>,
    /// There are unsent bytes that the socket did not take.
    left: Notify,
}

impl Shared {
    /// Writes what the socket takes now. An error is the reader's to find.
    fn write(&self, unsent: &mut BytesMut) {
        while !unsent.is_empty() {
            match self.stream.try_write(unsent) {
                Ok(count) => unsent.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.left.notify_one(),
                Err(_) => return unsent.clear(),
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
        let idle = unsent.is_empty();
        message::encode(&message, &mut unsent);
        if idle {
            self.0.write(&mut unsent);
        }
    }
}

/// Receives. Dropped, it ends the task that writes what was left.
pub(super) struct Receiver {
    shared: Arc<Shared>,
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
            match self.shared.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.shared.stream.readable().await?,
                Err(error) => return Err(error.into()),
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
pub(super) async fn connect(address: &str) -> io::Result<(Sender, Receiver)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, STALL_TIMEOUT.as_millis() as u32)?;
    let unsent = Mutex::new(BytesMut::from(&REQUESTS_PREFACE[..]));
    let shared = Arc::new(Shared { stream, unsent, left: Notify::new() });
    shared.left.notify_one();
    let writer = tokio::spawn(write_left(shared.clone()));
    Ok((Sender(shared.clone()), Receiver { shared, buffer: BytesMut::new(), writer }))
}

async fn write_left(shared: Arc<Shared>) {
    loop {
        shared.left.notified().await;
        if shared.stream.writable().await.is_err() {
            return;
        }
        shared.write(&mut shared.unsent.lock());
    }
}
