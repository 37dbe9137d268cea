//! The chunkservers: who is registered, who was heard of when, how much room they have.
//!
//! Volatile but for the numbers, which the log gave out, and the duties in it. A server is
//! ```text
//!   expected --register--> arriving --full report--> up --silence--> suspect --silence, link lost--> down
//!      (known from the log, not seen since this master started)          '------- heard again ---> up
//! ```
//! Only servers that are up are named to clients and get new chunks.

pub mod link;
pub mod locations;
pub mod service;
mod slowness;
mod standing;

use crate::config::Timings;
use crate::gate::Gate;
use gfs_master_core::plan::{PlacementServer, PlacementView};
use gfs_master_core::{Duty, ServerRecord};
use gfs_proto::chunk::Replica;
use gfs_proto::control::{ChunkCommand, CommandOutcome, DirectorySpace, Heartbeat, Register, ScrubProgress};
use gfs_proto::ids::{Incarnation, ServerId, ServerUuid};
use gfs_proto::time::Timestamp;
use link::{CommandError, Link};
use parking_lot::Mutex;
use slowness::Findings;
pub use slowness::Slowness;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// A server silent for so many times the suspicion interval is down.
const DOWN_FACTOR: u32 = 6;

/// What can be expected of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Not seen since this master started, but there was no time yet.
    Expected,
    /// Registered, its full report is on its way.
    Arriving,
    /// Serving.
    Up,
    /// Connected but silent.
    Suspect,
    /// Not connected, or silent for long.
    Down,
    /// Stopped cleanly.
    Left,
}

impl Presence {
    /// As people are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expected | Self::Arriving => "arriving",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

/// A server as people are told.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// Its number.
    pub server: ServerId,
    /// Its own name.
    pub uuid: ServerUuid,
    /// Label of its failure domain.
    pub rack: String,
    /// See [`Presence`].
    pub presence: Presence,
    /// From its last registration.
    pub registered: Option<Arc<Register>>,
    /// Room per directory.
    pub space: Vec<DirectorySpace>,
    /// How far it has read its replicas to find damage.
    pub scrub: Option<ScrubProgress>,
    /// What an operator wants of it.
    pub duty: Duty,
    /// Since the last sign of life.
    pub silent: Option<Duration>,
    /// What clients find of its answers to reads.
    pub slowness: Slowness,
}

/// When a server's right to answer reads has surely run out, if it is kept silent until what it missed is logged.
pub struct Fence<'a> {
    /// At this time; sooner if another run of it registers, or if, once its stream has ended, a connection to the address
    /// is refused.
    pub until: Instant,
    /// How to reach it.
    pub replica: Option<Replica>,
    /// The run that it is in, if this master has seen it.
    pub run: Option<Incarnation>,
    /// Ends when it is dropped.
    pub silence: Silence<'a>,
}

/// Keeps a server from answering reads. When the last one of a server ends its connection does, too: it
/// registers again, reports in full and is told which of its replicas are stale before it may answer.
pub struct Silence<'a> {
    servers: &'a Servers,
    server: ServerId,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let mut table = self.servers.table.lock();
        let Some(entry) = table.get_mut(&self.server) else { return };
        entry.silences -= 1;
        if entry.silences == 0
            && let Some(link) = &entry.link
        {
            warn!(server = %self.server, "a chunkserver was left out of a grant, it has to register again");
            link.close();
        }
    }
}

struct Server {
    uuid: ServerUuid,
    rack: String,
    duty: Duty,
    registered: Option<Arc<Register>>,
    link: Option<Arc<Link>>,
    reported: Gate,
    heard: Option<Instant>,
    space: Vec<DirectorySpace>,
    scrub: Option<ScrubProgress>,
    recent: u32,
    /// Stopped in order, when.
    left: Option<Instant>,
    /// Fences that wait for its right to answer reads to run out, over registrations too.
    silences: u32,
    /// Heartbeats of the present link are not acknowledged.
    muted: bool,
    /// What clients say of its answers to reads.
    found_slow: Findings,
}

/// The registry.
pub struct Servers {
    table: Mutex<HashMap<ServerId, Server>>,
    started: Instant,
    timings: Timings,
}

/// When a time of the past was on our clock that cannot be set.
fn instant_of(time: Timestamp, now: Instant) -> Instant {
    let nanos = crate::master::now().as_nanos().saturating_sub(time.as_nanos()).max(0);
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    now.checked_sub(since).unwrap_or(now)
}

impl Server {
    /// As the log knows it at `now`.
    fn of(record: ServerRecord, now: Instant) -> Self {
        let left = record.duty.left.map(|left| instant_of(left, now));
        Self {
            uuid: record.uuid,
            rack: record.rack,
            duty: record.duty,
            registered: None,
            link: None,
            reported: Gate::new(),
            heard: None,
            space: Vec::new(),
            scrub: None,
            recent: 0,
            left,
            silences: 0,
            muted: false,
            found_slow: Findings::default(),
        }
    }

    fn presence(&self, started: Instant, now: Instant, timings: &Timings) -> Presence {
        let silence = now.saturating_duration_since(self.heard.unwrap_or(started));
        match (&self.registered, &self.link) {
            _ if self.left.is_some() => Presence::Left,
            (None, _) if silence < timings.suspect_after => Presence::Expected,
            (None, _) | (Some(_), None) => Presence::Down,
            (Some(_), Some(_)) if silence >= timings.suspect_after * DOWN_FACTOR => Presence::Down,
            (Some(_), Some(_)) if silence >= timings.suspect_after => Presence::Suspect,
            (Some(_), Some(_)) if self.reported.is_open() => Presence::Up,
            (Some(_), Some(_)) => Presence::Arriving,
        }
    }

    fn replica(&self, server: ServerId) -> Option<Replica> {
        let registered = self.registered.as_ref()?;
        Some(Replica { server, incarnation: registered.incarnation, address: registered.address.clone() })
    }

    fn bytes_free(&self) -> u64 {
        self.space.iter().filter(|d| d.accepts_chunks).map(|d| d.bytes_free).sum()
    }
}

impl Servers {
    /// With the servers that the log knows.
    pub fn new(records: Vec<ServerRecord>, timings: Timings, now: Instant) -> Self {
        let table = records.into_iter().map(|record| (record.server, Server::of(record, now))).collect();
        Self { table: Mutex::new(table), started: now, timings }
    }

    /// The number of a server that registered before in the same rack: nothing is to be logged.
    pub fn known(&self, uuid: ServerUuid, rack: &str) -> Option<ServerId> {
        let table = self.table.lock();
        table.iter().find(|(_, server)| server.uuid == uuid && server.rack == rack).map(|(id, _)| *id)
    }

    /// Incarnation of the server's last registration.
    pub fn incarnation(&self, server: ServerId) -> Option<Incarnation> {
        self.table.lock().get(&server).and_then(|s| s.registered.as_ref()).map(|r| r.incarnation)
    }

    /// A server has registered; an older link of it is given up. What it has is still to be reported.
    pub fn attach(&self, server: ServerId, register: Register, link: Arc<Link>, now: Instant) {
        let mut table = self.table.lock();
        let record = ServerRecord { server, uuid: register.uuid, rack: register.rack.clone(), duty: Duty::default() };
        let entry = table.entry(server).or_insert_with(|| Server::of(record, now));
        if let Some(old) = entry.link.replace(link) {
            old.close();
        }
        entry.rack.clone_from(&register.rack);
        entry.space.clone_from(&register.space);
        entry.registered = Some(Arc::new(register));
        // Whoever waits for the old report gets on and looks again.
        std::mem::take(&mut entry.reported).open();
        entry.heard = Some(now);
        entry.left = None;
        entry.muted = entry.silences > 0;
    }

    /// The full report is complete.
    pub fn reported(&self, server: ServerId, link: &Arc<Link>) {
        if let Some(entry) = self.table.lock().get(&server)
            && entry.link.as_ref().is_some_and(|known| Arc::ptr_eq(known, link))
        {
            entry.reported.open();
        }
    }

    /// A sign of life.
    pub fn heartbeat(&self, server: ServerId, heartbeat: &Heartbeat, now: Instant) {
        if let Some(entry) = self.table.lock().get_mut(&server) {
            entry.heard = Some(now);
            entry.space.clone_from(&heartbeat.space);
            entry.scrub = heartbeat.scrub;
        }
    }

    /// The link is gone, if it is still this one.
    pub fn detach(&self, server: ServerId, link: &Arc<Link>, left: bool) -> bool {
        link.close();
        let mut table = self.table.lock();
        let Some(entry) = table.get_mut(&server) else { return false };
        let current = entry.link.as_ref().is_some_and(|known| Arc::ptr_eq(known, link));
        if current {
            entry.link = None;
            entry.left = left.then(Instant::now);
        }
        current
    }

    /// What can be expected of a server.
    pub fn presence(&self, server: ServerId, now: Instant) -> Presence {
        let table = self.table.lock();
        table.get(&server).map_or(Presence::Down, |entry| entry.presence(self.started, now, &self.timings))
    }

    /// How to reach the server, if it is up.
    pub fn replica_up(&self, server: ServerId, now: Instant) -> Option<Replica> {
        let table = self.table.lock();
        let up = |entry: &&Server| entry.presence(self.started, now, &self.timings) == Presence::Up;
        table.get(&server).filter(up).and_then(|entry| entry.replica(server))
    }

    /// How to reach the server, as it last registered.
    pub fn replica(&self, server: ServerId) -> Option<Replica> {
        self.table.lock().get(&server).and_then(|entry| entry.replica(server))
    }

    /// A server that is not up yet and will be soon.
    pub fn arriving(&self, now: Instant) -> Option<ServerId> {
        let soon = |entry: &Server| {
            matches!(entry.presence(self.started, now, &self.timings), Presence::Expected | Presence::Arriving)
        };
        self.table.lock().iter().find(|(_, entry)| soon(entry)).map(|(server, _)| *server)
    }

    /// Waits until the server is up or cannot be expected to be soon; at most until `deadline`.
    pub async fn arrival(&self, server: ServerId, deadline: Instant) {
        loop {
            let now = Instant::now();
            let (presence, gate) = match self.table.lock().get(&server) {
                None => return,
                Some(entry) => (entry.presence(self.started, now, &self.timings), entry.reported.clone()),
            };
            if !matches!(presence, Presence::Expected | Presence::Arriving) || now >= deadline {
                return;
            }
            // Presence changes with time alone, too: look again now and then.
            let pause = self.timings.heartbeat.min(deadline - now);
            let _ = tokio::time::timeout(pause, gate.passed()).await;
        }
    }

    /// When a server that has not confirmed a new version, and was in the run `incarnation` when it was asked, can surely
    /// not serve the old version any more. It loses its right to answer reads for that purpose, whether it is connected
    /// now or comes back before the new version is logged: its heartbeats are not acknowledged until it registers again,
    /// see [`Silence`]. `None`: nobody has heard of such a server.
    pub fn fence(&self, server: ServerId, incarnation: Option<Incarnation>, now: Instant) -> Option<Fence<'_>> {
        let mut table = self.table.lock();
        let entry = table.get_mut(&server)?;
        let run = entry.registered.as_ref().map(|register| register.incarnation);
        let began_anew = run.is_some() && incarnation.is_some() && run != incarnation;
        let unacknowledged = began_anew && !entry.reported.is_open();
        // It was acknowledged at the latest when it was heard of, by us or by the master before us, and its right
        // counts from when it had sent what was acknowledged. A server that hangs was heard of a while ago.
        let right = entry.heard.unwrap_or(self.started) + self.timings.read_lease;
        let until = if entry.left.is_some() || unacknowledged { now } else { right };
        entry.muted = true;
        entry.silences += 1;
        Some(Fence { until, replica: entry.replica(server), run, silence: Silence { servers: self, server } })
    }

    /// True if a heartbeat may be acknowledged, which lets the server answer reads: its full report is
    /// in, so that it was told which replicas are stale, and nobody waits for its silence.
    pub fn may_acknowledge(&self, server: ServerId) -> bool {
        self.table.lock().get(&server).is_some_and(|entry| entry.reported.is_open() && !entry.muted)
    }

    /// Sends a command and waits for its outcome.
    pub async fn command(&self, server: ServerId, command: ChunkCommand) -> Result<CommandOutcome, CommandError> {
        let link = self.link(server).ok_or(CommandError::Absent)?;
        link.command(command, self.timings.command).await
    }

    /// As [`Servers::command`], under a bound of its own.
    pub async fn command_within(
        &self,
        server: ServerId,
        command: ChunkCommand,
        bound: Duration,
    ) -> Result<CommandOutcome, CommandError> {
        let link = self.link(server).ok_or(CommandError::Absent)?;
        link.command(command, bound).await
    }

    /// Sends a command nobody waits for.
    pub fn hint(&self, server: ServerId, command: ChunkCommand) {
        if let Some(link) = self.link(server) {
            link.hint(command);
        }
    }

    /// True if its stream is there, which ends with its process.
    pub fn is_connected(&self, server: ServerId) -> bool {
        self.link(server).is_some()
    }

    fn link(&self, server: ServerId) -> Option<Arc<Link>> {
        self.table.lock().get(&server).and_then(|entry| entry.link.clone())
    }

    /// Servers that may take new chunks.
    pub fn placement(&self, now: Instant) -> PlacementView {
        let table = self.table.lock();
        let up = table.iter().filter(|(_, s)| s.presence(self.started, now, &self.timings) == Presence::Up);
        let servers = up.map(|(id, entry)| PlacementServer {
            server: *id,
            rack: entry.rack.clone(),
            bytes_free: entry.bytes_free(),
            accepts_chunks: !entry.duty.draining && entry.space.iter().any(|d| d.accepts_chunks),
            recent: entry.recent,
        });
        PlacementView { servers: servers.collect() }
    }

    /// Chunks were placed there.
    pub fn placed(&self, servers: &[ServerId]) {
        let mut table = self.table.lock();
        for server in servers {
            if let Some(entry) = table.get_mut(server) {
                entry.recent = entry.recent.saturating_add(1);
            }
        }
    }

    /// What was placed a while ago is no load to come any more: halves the counts.
    pub fn decay(&self) {
        self.table.lock().values_mut().for_each(|entry| entry.recent /= 2);
    }

    /// Total and free bytes of all servers that are up.
    pub fn room(&self, now: Instant) -> (u64, u64) {
        let table = self.table.lock();
        let up = table.values().filter(|s| s.presence(self.started, now, &self.timings) == Presence::Up);
        up.fold((0, 0), |(total, free), s| {
            (total + s.space.iter().map(|d| d.bytes_total).sum::<u64>(), free + s.bytes_free())
        })
    }

    /// Servers of the cluster, away or not.
    pub fn count(&self) -> usize {
        self.table.lock().len()
    }

    /// All servers, by number.
    pub fn statuses(&self, now: Instant) -> Vec<ServerStatus> {
        let table = self.table.lock();
        let mut all: Vec<_> = table
            .iter()
            .map(|(id, entry)| ServerStatus {
                server: *id,
                uuid: entry.uuid,
                rack: entry.rack.clone(),
                presence: entry.presence(self.started, now, &self.timings),
                registered: entry.registered.clone(),
                space: entry.space.clone(),
                scrub: entry.scrub,
                duty: entry.duty,
                silent: entry.heard.map(|heard| now.saturating_duration_since(heard)),
                slowness: entry.found_slow.slowness(now, self.timings.keep_alive),
            })
            .collect();
        all.sort_unstable_by_key(|status| status.server);
        all
    }

    /// Ends all links.
    pub fn close(&self) {
        self.table.lock().values().filter_map(|entry| entry.link.as_ref()).for_each(|link| link.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::chunk::ServerAddress;
    use gfs_proto::ids::Term;
    use gfs_proto::ops::Capabilities;

    const SERVER: ServerId = ServerId::new(1);

    fn register(incarnation: u64) -> Register {
        Register {
            cluster: None,
            uuid: ServerUuid::new([1; 16]),
            incarnation: Incarnation::new(incarnation),
            address: ServerAddress { tcp: "127.0.0.1:1".parse().expect("address"), unix: None, host: String::new() },
            rack: String::new(),
            software: String::new(),
            space: Vec::new(),
            capabilities: Capabilities::default(),
            highest_term: Term::new(0),
        }
    }
    fn link() -> Arc<Link> {
        Arc::new(Link::new(tokio::sync::mpsc::channel(1).0, Term::new(1)))
    }

    #[test]
    fn presence_follows_registration_reports_and_silence() {
        let (now, timings) = (Instant::now(), Timings::default());
        let record =
            ServerRecord { server: SERVER, uuid: ServerUuid::new([1; 16]), rack: String::new(), duty: Duty::default() };
        let servers = Servers::new(vec![record], timings, now);
        let after = |secs| servers.presence(SERVER, now + Duration::from_secs(secs));
        assert_eq!((after(4), after(5)), (Presence::Expected, Presence::Down));
        let link = link();
        servers.attach(SERVER, register(1), link.clone(), now);
        assert_eq!(after(0), Presence::Arriving);
        servers.reported(SERVER, &link);
        assert_eq!((after(4), after(5), after(30)), (Presence::Up, Presence::Suspect, Presence::Down));
        assert!(servers.detach(SERVER, &link, false));
        assert_eq!(after(0), Presence::Down);
        assert_eq!(servers.presence(ServerId::new(9), now), Presence::Down, "never heard of");
    }

    #[test]
    fn a_fence_passes_with_time_or_a_new_run() {
        let (now, timings) = (Instant::now(), Timings::default());
        let servers = Servers::new(Vec::new(), timings, now);
        let (first, second) = (link(), link());
        servers.attach(SERVER, register(1), first.clone(), now);
        let run = servers.incarnation(SERVER);
        let lease = timings.read_lease;
        servers.reported(SERVER, &first);
        assert!(servers.may_acknowledge(SERVER));
        let until = |run, now| servers.fence(SERVER, run, now).map(|fence| fence.until);
        let fence = servers.fence(SERVER, run, now).expect("known");
        assert_eq!((fence.until, fence.run, fence.replica.is_some()), (now + lease, run, true));
        assert_eq!(until(run, now + lease / 2), Some(now + lease), "from when it was heard of");
        assert!(!servers.may_acknowledge(SERVER), "it must fall silent");
        drop(fence);
        servers.attach(SERVER, register(2), second.clone(), now);
        assert_eq!(until(run, now), Some(now), "another run, and nothing of it was acknowledged");
        servers.attach(SERVER, register(2), second.clone(), now);
        servers.reported(SERVER, &second);
        assert!(servers.may_acknowledge(SERVER), "a new registration");
        assert_eq!(until(run, now), Some(now + lease), "another run, which may answer reads, too");
        assert!(!servers.may_acknowledge(SERVER));
        assert!(!servers.detach(SERVER, &first, false), "an older link changes nothing");
        assert!(servers.detach(SERVER, &second, false));
        assert_eq!(until(servers.incarnation(SERVER), now), Some(now + lease), "its port may be asked");
        assert!(servers.fence(ServerId::new(9), None, now).is_none(), "never heard of");
    }

    #[test]
    fn who_comes_back_before_what_it_missed_is_logged_is_silent() {
        let (now, timings) = (Instant::now(), Timings::default());
        let servers = Servers::new(Vec::new(), timings, now);
        let first = link();
        servers.attach(SERVER, register(1), first.clone(), now);
        servers.reported(SERVER, &first);
        servers.detach(SERVER, &first, false);
        let fence = servers.fence(SERVER, servers.incarnation(SERVER), now + timings.read_lease).expect("known");
        assert_eq!(fence.until, now + timings.read_lease, "nobody need wait");
        let second = link();
        servers.attach(SERVER, register(1), second.clone(), now + timings.read_lease);
        servers.reported(SERVER, &second);
        assert!(!servers.may_acknowledge(SERVER), "what it has may be old in a moment");
        drop(fence);
        servers.attach(SERVER, register(1), link(), now + timings.read_lease);
    }

    #[tokio::test]
    async fn a_registration_ends_no_silence_that_somebody_still_waits_for() {
        let now = Instant::now();
        let servers = Servers::new(Vec::new(), Timings::default(), now);
        let registered = || {
            let link = link();
            servers.attach(SERVER, register(1), link.clone(), now);
            servers.reported(SERVER, &link);
            link
        };
        let first = registered();
        let run = servers.incarnation(SERVER);
        let fences = [servers.fence(SERVER, run, now), servers.fence(SERVER, run, now)];
        let [one, other] = fences;
        drop(one);
        // The connection may also be lost by itself.
        servers.detach(SERVER, &first, false);
        let second = registered();
        assert!(!servers.may_acknowledge(SERVER), "the other fence is not passed");
        drop(other);
        second.closed().await;
        registered();
        assert!(servers.may_acknowledge(SERVER));
    }
}
