//! The chunkservers that this client talks to: a few connections each, made when needed.
//!
//! A server that could not be reached is not tried again for a moment, so that a read goes to
//! another replica at once and a write reports it at once.

use super::connection::{Answer, Connection, Introduction, LinkError, Request};
use super::latency::Latencies;
use super::local::Local;
use super::pulse::Asked;
use super::tally::Tally;
use gfs_proto::chunk::{Replica, ServerAddress};
use gfs_proto::ids::{ChunkHandle, ServerId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::{Instant as Deadline, timeout};

/// Connections per server: one stream of one file fills one, several files fill the machine.
const CONNECTIONS: usize = 4;
/// The lane of signs of life, which must not wait for anything else.
pub(super) const PULSE_LANE: usize = CONNECTIONS;
/// Bound on connecting and shaking hands.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a server that could not be reached is left alone: at first, and after several attempts.
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(8);

/// All of them.
pub(super) struct Servers {
    /// Those on this machine, read without asking.
    pub(super) local: Arc<Local>,
    pub(super) latencies: Mutex<Latencies>,
    pub(super) runtime: Handle,
    us: Introduction,
    table: Mutex<HashMap<ServerId, Arc<Server>>>,
}

/// One of them.
pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) address: ServerAddress,
    slots: [Slot; CONNECTIONS + 1],
    /// Held by whoever asks for a sign of life.
    pub(super) pulse: tokio::sync::Mutex<Asked>,
    rest: Mutex<Rest>,
    in_flight: AtomicUsize,
    /// In the run that we are connected to.
    lends: AtomicBool,
}

/// After a failure.
#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    length: Duration,
}

#[derive(Default)]
struct Slot {
    open: Mutex<Option<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<()>,
}

impl Slot {
    fn open(&self) -> Option<Arc<Connection>> {
        self.open.lock().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

impl Servers {
    pub(super) fn new(us: Introduction, runtime: Handle) -> Self {
        let local = Local::new(us.clone(), runtime.clone());
        Self { local, latencies: Mutex::default(), us, runtime, table: Mutex::default() }
    }

    /// The server of a replica. If it has moved, connections to the old place are forgotten.
    pub(super) fn get(&self, replica: &Replica) -> Arc<Server> {
        let mut table = self.table.lock();
        match table.get(&replica.server) {
            Some(server) if server.address == replica.address => server.clone(),
            _ => {
                let server = Arc::new(Server {
                    id: replica.server,
                    address: replica.address.clone(),
                    slots: Default::default(),
                    pulse: Default::default(),
                    rest: Mutex::default(),
                    in_flight: AtomicUsize::new(0),
                    lends: AtomicBool::new(false),
                });
                table.insert(replica.server, server.clone());
                server
            }
        }
    }

    /// Cost of reading from a replica, lower is better: rests, is slow, is on another host, is busy.
    pub(super) fn cost(&self, replica: &Replica) -> (bool, bool, bool, usize) {
        let server = self.get(replica);
        let slow = self.latencies.lock().is_avoided(replica.server, Instant::now());
        (server.rests(), slow, replica.address.host != self.us.host, server.in_flight.load(Ordering::Relaxed))
    }

    /// True if the server is on this machine and lends descriptors.
    pub(super) fn lends(&self, replica: &Replica) -> bool {
        replica.address.host == self.us.host && self.get(replica).lends.load(Ordering::Relaxed)
    }

    /// Asks a server, on its least busy connection.
    pub(super) async fn ask(
        &self,
        replica: &Replica,
        request: Request<'_>,
        length_max: u32,
        deadline: Deadline,
    ) -> Result<Answer, LinkError> {
        let server = self.get(replica);
        let _busy = Busy::new(&server.in_flight);
        let asked = async { server.connection(self, server.idlest()).await?.ask(request, length_max).await };
        let attended = async { self.attend(|| vec![replica], asked).await.unwrap_or(Err(LinkError::Silent)) };
        tokio::time::timeout_at(deadline, attended).await.unwrap_or(Err(LinkError::TimedOut))
    }

    /// Sends a request whose answer goes to `tally`, as does a failure to send. All requests about
    /// one chunk take the same connection, so they arrive in the order in which they were sent.
    pub(super) async fn post(
        &self,
        (slot, replica): (usize, &Replica),
        handle: ChunkHandle,
        request: Request<'_>,
        tally: &Arc<Tally>,
    ) {
        let server = self.get(replica);
        let lane = handle.get() as usize % CONNECTIONS;
        let sent = match server.connection(self, lane).await {
            Ok(connection) => connection.post(request, tally, slot).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tally.put(slot, Err(error));
        }
    }

    /// A server did not answer a read in time: others are preferred for a while.
    pub(super) fn avoid(&self, replica: &Replica) {
        self.get(replica).begin_rest();
    }

    /// A server did not answer a write to this chunk in time: its connection is not trusted any more.
    pub(super) fn distrust(&self, replica: &Replica, handle: ChunkHandle) {
        if let Some(connection) = self.get(replica).slots[handle.get() as usize % CONNECTIONS].open() {
            connection.close();
        }
    }
}

impl Server {
    fn rests(&self) -> bool {
        self.rest.lock().until.is_some_and(|until| Instant::now() < until)
    }

    fn begin_rest(&self) {
        let rest = &mut *self.rest.lock();
        rest.length = (rest.length * 2).clamp(REST_MIN, REST_MAX);
        rest.until = Some(Instant::now() + rest.length);
    }

    /// It hangs: whoever waits for it learns so, and it is left alone for a while.
    pub(super) fn give_up(&self) {
        self.slots.iter().filter_map(Slot::open).for_each(|connection| connection.close());
        if !self.rests() {
            self.begin_rest();
        }
    }

    /// An open connection without requests, else one not opened yet, else the least busy.
    fn idlest(&self) -> usize {
        let load = |slot: &Slot| slot.open().map(|connection| connection.in_flight());
        let mut best = (usize::MAX, 0);
        for (number, slot) in self.slots[..PULSE_LANE].iter().enumerate() {
            match load(slot) {
                Some(0) => return number,
                Some(busy) => best = best.min((busy, number)),
                None => best = best.min((1, number)),
            }
        }
        best.1
    }

    pub(super) async fn connection(&self, servers: &Servers, slot: usize) -> Result<Arc<Connection>, LinkError> {
        let slot = &self.slots[slot];
        if let Some(connection) = slot.open() {
            return Ok(connection);
        }
        let _dialing = slot.dialing.lock().await;
        if let Some(connection) = slot.open() {
            return Ok(connection);
        }
        if self.rests() {
            return Err(LinkError::Unreachable);
        }
        let dial = Connection::dial(self.id, &self.address, &servers.us, &servers.runtime);
        let made = timeout(DIAL_TIMEOUT, dial).await.unwrap_or(Err(LinkError::Unreachable));
        match made {
            Ok(connection) => {
                tracing::debug!(server = %self.id, incarnation = %connection.incarnation(), "connected");
                *self.rest.lock() = Rest::default();
                self.lends.store(connection.lends(), Ordering::Relaxed);
                *slot.open.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(server = %self.id, address = %self.address.tcp, %error, "cannot connect");
                self.begin_rest();
                Err(error)
            }
        }
    }
}

/// Counts a request while it is in flight.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
