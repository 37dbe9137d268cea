//! The channel to one registered chunkserver: commands with ids, answers matched to who waits.
//!
//! Lives as long as the stream behind it; a new registration of the server gets a new one.

use gfs_proto::FsError;
use gfs_proto::control::{ChunkCommand, CommandOutcome, CommandResult, ToChunkserver};
use gfs_proto::ids::Term;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::gate::Gate;

/// Messages to one chunkserver that wait for its stream to take them.
pub const OUTGOING_MAX: usize = 4096;

/// Why a command was not carried out, as far as is known.
#[derive(Clone, Debug, Error)]
pub enum CommandError {
    /// There is no link, or it was lost meanwhile; the command may have been carried out.
    #[error("the chunkserver is not connected")]
    Absent,
    /// No answer in time; the command may still be carried out.
    #[error("the chunkserver did not answer in time")]
    TimedOut,
    /// The server says why not.
    #[error("the chunkserver refused: {error} ({detail})")]
    Refused {
        /// What.
        error: FsError,
        /// Details, for the log.
        detail: String,
    },
}

/// One stream to a chunkserver.
pub struct Link {
    outgoing: mpsc::Sender<ToChunkserver>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<CommandResult>>>,
    ids: AtomicU64,
    term: Term,
    /// Opens when the link is given up: the stream ends then.
    closed: Gate,
}

/// Takes a command out of the table however its waiter ends.
struct Waiting<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.waiting.lock().remove(&self.id);
    }
}

impl Link {
    /// Over a stream's sending half, on behalf of the leader of `term`.
    pub fn new(outgoing: mpsc::Sender<ToChunkserver>, term: Term) -> Self {
        let waiting = Mutex::default();
        Self { outgoing, waiting, ids: AtomicU64::new(1), term, closed: Gate::new() }
    }

    /// Sends a command and waits for its outcome.
    pub async fn command(&self, command: ChunkCommand, bound: Duration) -> Result<CommandOutcome, CommandError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(id, tell);
        let _waiting = Waiting { link: self, id };
        let exchange = async {
            self.send(ToChunkserver::Command { id, term: self.term, command }).await?;
            told.await.map_err(|_| CommandError::Absent)
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(bound, exchange) => answered.map_err(|_| CommandError::TimedOut)??,
            () = self.closed.passed() => return Err(CommandError::Absent),
        };
        answered.outcome.map_err(|error| CommandError::Refused { error, detail: answered.detail })
    }

    /// Sends a command nobody waits for. Dropped if the link is full or gone: such commands are hints.
    pub fn hint(&self, command: ChunkCommand) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        // A full or closed channel is what the text above says.
        drop(self.outgoing.try_send(ToChunkserver::Command { id, term: self.term, command }));
    }

    /// Puts a message into the stream.
    pub async fn send(&self, message: ToChunkserver) -> Result<(), CommandError> {
        self.outgoing.send(message).await.map_err(|_| CommandError::Absent)
    }

    /// The term that the link's commands carry.
    pub fn term(&self) -> Term {
        self.term
    }

    /// An answer has come. Late ones find nobody waiting.
    pub fn answered(&self, result: CommandResult) {
        if let Some(waiter) = self.waiting.lock().remove(&result.id) {
            drop(waiter.send(result));
        }
    }

    /// Gives the link up: whoever waits learns it now, the stream ends.
    pub fn close(&self) {
        self.closed.open();
        self.waiting.lock().clear();
    }

    /// Returns when the link was given up.
    pub async fn closed(&self) {
        self.closed.passed().await;
    }
}
