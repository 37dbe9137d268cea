//! Telling a peer that hangs from one that is busy: whoever waits long for its answer asks for a sign of life,
//! on a connection that carries nothing else. A server that runs answers at once, whatever its disks do.
//!
//! Without it, a hung server in a chain is found when the patience of all before it has run out, and until then
//! what was written cannot be read from them: they cannot know whether it is everywhere.

use crate::net::dial::{CallError, DataConnection};
use crate::net::frames::Outgoing;
use crate::peers::Peer;
use gfs_proto::frame::Kind;
use gfs_proto::ids::{ClusterId, ServerId};
use gfs_proto::limits::{ANSWER_LATE, PULSE};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout};

const PING: Outgoing<'_> = Outgoing { kind: Kind::Ping, request: 0, header: &[], sums: &[], payload: &[] };

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pulses {
    table: Mutex<HashMap<ServerId, Arc<tokio::sync::Mutex<Pulse>>>>,
}

/// Of one peer.
#[derive(Debug, Default)]
struct Pulse {
    connection: Option<DataConnection>,
    /// When the last question was answered, or was not.
    ended: Option<Instant>,
    alive: bool,
}

impl Pulses {
    /// Returns when the peer gives no sign of life. For whoever waits for an answer of it, as long as it waits.
    pub async fn watch(&self, peer: &Peer, cluster: ClusterId) {
        loop {
            sleep(ANSWER_LATE).await;
            if !self.is_alive(peer, cluster).await {
                return;
            }
        }
    }

    /// Those who ask at the same time share one question.
    async fn is_alive(&self, peer: &Peer, cluster: ClusterId) -> bool {
        let began = Instant::now();
        let pulse = Arc::clone(self.table.lock().entry(peer.server).or_default());
        let mut pulse = pulse.lock().await;
        if pulse.ended.is_some_and(|ended| ended >= began) {
            return pulse.alive;
        }
        let answer = timeout(PULSE, pulse.ask(peer, cluster)).await.unwrap_or(Err(CallError::Deadline(PULSE)));
        pulse.alive = answer.is_ok();
        pulse.ended = Some(Instant::now());
        if let Err(error) = answer {
            tracing::warn!(server = %peer.server, endpoint = ?peer.endpoint, %error, "a peer gives no sign of life");
            pulse.connection = None;
        }
        pulse.alive
    }
}

impl Pulse {
    async fn ask(&mut self, peer: &Peer, cluster: ClusterId) -> Result<(), CallError> {
        let usable = |connection: &DataConnection| connection.is_open() && connection.incarnation == peer.incarnation;
        let connection = match self.connection.take().filter(usable) {
            Some(connection) => connection,
            None => DataConnection::open(&peer.endpoint, cluster, "chunkserver's pulse").await?,
        };
        connection.call(PING, PULSE).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
