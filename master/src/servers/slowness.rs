//! Chunkservers that clients find slow. Each client says with each sign of life which servers answer its
//! reads much later than the others; what it does not repeat is over. Nothing is decided by it here: clients
//! avoid slow servers themselves, people are told.

use super::{Server, Servers};
use gfs_proto::ids::{ServerId, SessionId};
use gfs_proto::ops::SlowServer;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// A finding is believed for so many keep-alives without another one: a client may have gone.
const BELIEVED: u32 = 3;

/// What clients find of one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slowness {
    /// How many find it slow; 0: it is not, the rest is of no meaning.
    pub clients: u32,
    /// Of its answers to reads on average, for the client that waits longest.
    pub latency: Duration,
    /// Of the others', for the same client.
    pub median: Duration,
}

#[derive(Default)]
pub(super) struct Findings {
    by_client: HashMap<SessionId, (Instant, SlowServer)>,
    /// A person was told.
    warned: bool,
}

impl Findings {
    /// Those that count.
    pub(super) fn slowness(&self, now: Instant, keep_alive: Duration) -> Slowness {
        let believed = |at: Instant| now.saturating_duration_since(at) < keep_alive * BELIEVED;
        let findings = self.by_client.values().filter(|(at, _)| believed(*at)).map(|(_, slow)| slow);
        let clients = u32::try_from(findings.clone().count()).unwrap_or(u32::MAX);
        let worst = findings.max_by_key(|slow| slow.latency);
        worst.map_or(Slowness::default(), |slow| Slowness { clients, latency: slow.latency, median: slow.median })
    }

    /// True if a client has something to say that was not known: `Some(true)` that it is slow, `Some(false)` that it
    /// is not any more.
    fn change(&mut self, now: Instant, keep_alive: Duration) -> Option<Slowness> {
        let slowness = self.slowness(now, keep_alive);
        let slow = slowness.clients > 0;
        (std::mem::replace(&mut self.warned, slow) != slow).then_some(slowness)
    }
}

impl Servers {
    /// A client finds these servers slow, and no others.
    pub fn found_slow(&self, client: SessionId, slow: &[SlowServer], now: Instant) {
        let mut table = self.table.lock();
        for (server, entry) in table.iter_mut() {
            match slow.iter().find(|finding| finding.server == *server) {
                Some(finding) => drop(entry.found_slow.by_client.insert(client, (now, *finding))),
                None if entry.found_slow.by_client.is_empty() => continue,
                None => drop(entry.found_slow.by_client.remove(&client)),
            }
            tell(*server, entry, now, self.timings.keep_alive);
        }
    }

    /// Findings of clients that have gone are believed no longer.
    pub fn doubt_findings(&self, now: Instant) {
        let keep_alive = self.timings.keep_alive;
        let mut table = self.table.lock();
        for (server, entry) in table.iter_mut().filter(|(_, entry)| !entry.found_slow.by_client.is_empty()) {
            entry.found_slow.by_client.retain(|_, (at, _)| now.saturating_duration_since(*at) < keep_alive * BELIEVED);
            tell(*server, entry, now, keep_alive);
        }
    }
}

fn tell(server: ServerId, entry: &mut Server, now: Instant, keep_alive: Duration) {
    match entry.found_slow.change(now, keep_alive) {
        Some(Slowness { clients: 0, .. }) => info!(%server, "no client finds the chunkserver slow any more"),
        Some(Slowness { latency, median, .. }) => {
            warn!(%server, ?latency, others = ?median, "a chunkserver answers reads much later than the others: look at its disks and its network");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    fn finding(millis: u64) -> SlowServer {
        let latency = Duration::from_millis(millis);
        SlowServer { server: ServerId::new(1), latency, median: Duration::from_millis(1) }
    }

    #[test]
    fn a_server_is_slow_while_any_client_says_so_and_that_is_told_once() {
        let (mut findings, now) = (Findings::default(), Instant::now());
        assert_eq!(findings.change(now, PERIOD), None);
        for (client, millis) in [(1, 20), (2, 30)] {
            findings.by_client.insert(SessionId::new(client), (now, finding(millis)));
        }
        let told = findings.change(now, PERIOD).expect("it became slow");
        assert_eq!((told.clients, told.latency), (2, Duration::from_millis(30)), "the worst");
        assert_eq!(findings.change(now, PERIOD), None, "once");
        findings.by_client.remove(&SessionId::new(2));
        assert_eq!(findings.slowness(now, PERIOD).latency, Duration::from_millis(20));
        let gone = now + PERIOD * BELIEVED;
        assert_eq!(findings.change(gone, PERIOD), Some(Slowness::default()), "its clients are silent");
    }
}
