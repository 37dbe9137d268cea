//! What the parts of a running chunkserver share: store, grants, peers, read lease, and what the
//! master has said about this server.

use crate::clock::Clock;
use crate::grants::Grants;
use crate::lease::ReadLease;
use crate::outbox::Outbox;
use crate::peers::Peers;
use crate::scrub::Scrub;
use crate::store::ChunkStore;
use crate::store::disk::Disk;
use crate::store::real::RealDisk;
use gfs_proto::ids::{ClusterId, Incarnation, ServerId};
use gfs_proto::layout::ChunkSize;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// The chunk store on the file systems of this machine.
pub type Store = ChunkStore<RealDisk>;

/// Bounds on waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an earlier write of the same epoch, or for a write in flight.
    pub turn: Duration,
    /// For one server further down a chain, added for each.
    pub hop: Duration,
    /// For the next request on a connection.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { turn: Duration::from_secs(5), hop: Duration::from_secs(3), idle: Duration::from_secs(600) }
    }
}

/// What registration told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// This server's number.
    pub server: ServerId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Size of its chunks.
    pub chunk_size: ChunkSize,
}

/// See the module's documentation.
pub struct Node<D: Disk = RealDisk> {
    /// Replicas.
    pub store: ChunkStore<D>,
    /// Of the machine.
    pub clock: Arc<dyn Clock>,
    /// This run.
    pub incarnation: Incarnation,
    /// Boot id of the machine.
    pub boot_id: String,
    /// Leases and the order of writes.
    pub grants: Grants,
    /// Other data servers.
    pub peers: Peers,
    /// Whether reads may be answered.
    pub lease: ReadLease,
    /// What the master is to hear.
    pub outbox: Outbox,
    /// How far all replicas were read to find damage.
    pub scrub: Scrub,
    /// Bounds on waiting.
    pub patience: Patience,
    /// Requests that are not answered yet.
    pub requests: AtomicU32,
    membership: RwLock<Option<Membership>>,
}

impl<D: Disk> Node<D> {
    /// Before registration.
    pub fn new(store: ChunkStore<D>, clock: Arc<dyn Clock>, boot_id: String, patience: Patience) -> Self {
        let incarnation = store.identity().incarnation;
        let grants = Grants::new(Arc::clone(store.loans()));
        store.dirty().into_iter().for_each(|handle| grants.recovered(handle));
        Self {
            incarnation,
            boot_id,
            grants,
            peers: Peers::default(),
            lease: ReadLease::new(Arc::clone(&clock), Arc::clone(store.loans())),
            outbox: Outbox::default(),
            scrub: Scrub::default(),
            patience,
            requests: AtomicU32::new(0),
            membership: RwLock::new(None),
            clock,
            store,
        }
    }

    /// `None` before the first registration of this run.
    pub fn membership(&self) -> Option<Membership> {
        *self.membership.read()
    }

    /// The master has registered this server.
    pub fn joined(&self, membership: Membership) {
        *self.membership.write() = Some(membership);
    }

    /// Reaches other servers another way than by connections.
    #[must_use]
    pub fn with_peers(self, peers: Peers) -> Self {
        Self { peers, ..self }
    }

    /// This server's number; 0 before registration.
    pub fn server(&self) -> ServerId {
        self.membership().map_or(ServerId::default(), |membership| membership.server)
    }
}
