//! The control stream with the master: registration, heartbeats, chunk reports, commands (GFS paper,
//! 2.6.2 and 4.5). Knows the wire types; hands domain types to the rest.
//!
//! ```text
//! connect -> Register -> Registered -> { heartbeats, reports } up, { acknowledgements, commands } down
//!    ^                                   |
//!    '------- pause, longer each time <--' the stream ends
//! ```
//! A lost link ends nothing here: the read lease runs out by itself, writes are fenced by their epochs.
//! Only a refusal that no further attempt can change ends the link, and with it the program.

mod align;
mod commands;
mod copy;
mod dial;
mod mend;
mod report;
mod stream;

pub use dial::{Dial, Dialling};
pub use stream::{Out, join, serve};

use crate::node::Node;
use crate::store::disk::Disk;
use dial::ByTcp;
use gfs_proto::chunk::ServerAddress;
use gfs_proto::control::{FromChunkserver, Register};
use gfs_proto::ids::{ClusterId, RunId, Term};
use gfs_proto::ops::Capabilities;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;

/// First and longest pause between attempts. A master that restarts is found again within one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the link needs to know besides the node.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// `host:port`.
    pub master: String,
    /// Where this server listens.
    pub address: ServerAddress,
    /// Its failure domain.
    pub rack: String,
    /// Of this start.
    pub run: RunId,
}

/// Why a stream ended.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Nobody there, or not a master.
    #[error("the master cannot be reached at {master}: {reason}")]
    Unreachable {
        /// Where.
        master: String,
        /// Why.
        reason: String,
    },
    /// The master said no, for now.
    #[error("the master at {master} refused this chunkserver: {reason}")]
    Refused {
        /// Where.
        master: String,
        /// Its words.
        reason: String,
    },
    /// The master said no, and would say so again: another cluster, another version of the protocol.
    #[error("the master at {master} turned this chunkserver away: {reason}")]
    TurnedAway {
        /// Where.
        master: String,
        /// Its words.
        reason: String,
    },
    /// The master is of another cluster.
    #[error(
        "the master at {master} is of cluster {theirs}, this server's directories belong to {ours}; \
        give the right master with --master, or other directories"
    )]
    AnotherCluster {
        /// Where.
        master: String,
        /// Its cluster.
        theirs: ClusterId,
        /// The directories'.
        ours: ClusterId,
    },
    /// An older leader.
    #[error("the master at {master} is of term {theirs}, this server has obeyed {ours}; waiting for the current one")]
    Deposed {
        /// Where.
        master: String,
        /// Its term.
        theirs: Term,
        /// The highest seen.
        ours: Term,
    },
    /// It ended after it worked.
    #[error("the connection to the master at {master} was lost: {reason}")]
    Lost {
        /// Where.
        master: String,
        /// Why.
        reason: String,
    },
    /// The directories cannot keep what the master said.
    #[error("cannot remember what the master said")]
    Store(#[from] crate::store::StoreError),
}

impl LinkError {
    /// True if no further attempt can succeed before somebody has changed something here.
    pub fn is_final(&self) -> bool {
        match self {
            Self::TurnedAway { .. } | Self::AnotherCluster { .. } => true,
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Deposed { .. }
            | Self::Lost { .. }
            | Self::Store(_) => false,
        }
    }
}

/// Keeps the stream up until told to stop; then takes leave. Fails if it is refused for good
/// ([`LinkError::is_final`]).
pub async fn run(node: Arc<Node>, settings: LinkSettings, stop: watch::Receiver<bool>) -> Result<(), LinkError> {
    run_over(node, settings, &ByTcp, stop).await
}

/// As [`run`], over something else than TCP.
///
/// # Errors
/// Those of [`run`].
pub async fn run_over<D: Disk>(
    node: Arc<Node<D>>,
    settings: LinkSettings,
    dial: &dyn Dial,
    mut stop: watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let mut trouble = Trouble::default();
    let mut pause = PAUSE_MIN;
    while !*stop.borrow() {
        let error = match stream::run(&node, (&settings, dial), &mut stop, &mut trouble).await {
            Ok(()) => break,
            Err(error) if error.is_final() => return Err(error),
            Err(error) => error,
        };
        pause = if matches!(error, LinkError::Lost { .. }) { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        trouble.note(&error);
        tokio::select! {
            biased;
            () = sleep(pause) => {}
            _ = stop.changed() => {}
        }
    }
    Ok(())
}

/// Says once what is wrong, not at each attempt.
#[derive(Debug, Default)]
struct Trouble(Option<String>);

impl Trouble {
    fn note(&mut self, error: &LinkError) {
        let text = error.to_string();
        if self.0.as_ref() == Some(&text) {
            return;
        }
        match error {
            LinkError::Refused { .. }
            | LinkError::TurnedAway { .. }
            | LinkError::AnotherCluster { .. }
            | LinkError::Store(_) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(cause, "{text}; trying again");
            }
            LinkError::Unreachable { .. } | LinkError::Deposed { .. } | LinkError::Lost { .. } => {
                tracing::warn!("{text}; trying again");
            }
        }
        self.0 = Some(text);
    }

    fn over(&mut self) {
        self.0 = None;
    }
}

/// What a server says of itself first.
pub fn register<D: Disk>(node: &Node<D>, settings: &LinkSettings) -> FromChunkserver {
    let identity = node.store.identity();
    FromChunkserver::Register(Register {
        cluster: identity.cluster,
        uuid: identity.uuid,
        incarnation: identity.incarnation,
        run: settings.run,
        address: settings.address.clone(),
        rack: settings.rack.clone(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        space: node.store.space(),
        capabilities: Capabilities::default(),
        highest_term: identity.highest_term,
    })
}
