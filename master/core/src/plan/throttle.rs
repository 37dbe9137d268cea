//! How much repair may be under way: copies at each server, bytes per second at each and in the cluster.
//!
//! Token buckets that may be overdrawn by one copy: a copy begins if its buckets are not empty, and takes
//! all its bytes then. So a chunk that is larger than a second's worth is copied at full speed, and what
//! follows waits. Pure: time comes in, as the span since some start.

use super::repair::Load;
use gfs_proto::ids::ServerId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds on repair. Rates are in bytes per second; none: no bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Of all copies together.
    pub rate: Option<u64>,
    /// Of the copies that one server gives or takes.
    pub rate_per_server: Option<u64>,
    /// Copies that one server takes part in at a time.
    pub copies_per_server: u32,
}

/// Tokens are bytes. What is not used within a second is gone.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: i64,
    filled: Duration,
}

impl Bucket {
    fn full(rate: u64, now: Duration) -> Self {
        Self { tokens: signed(rate), filled: now }
    }

    fn fill(&mut self, rate: u64, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        let more = u128::from(rate) * passed.as_nanos() / 1_000_000_000;
        // What is less than a token stays to be counted later.
        if more > 0 {
            let more = signed(u64::try_from(more).unwrap_or(u64::MAX));
            self.tokens = self.tokens.saturating_add(more).min(signed(rate));
            self.filled = now;
        }
    }

    /// When it is not empty any more.
    fn ready(&self, rate: u64) -> Duration {
        let debt = u64::try_from(1i64.saturating_sub(self.tokens)).unwrap_or(0);
        self.filled + Duration::from_secs_f64(debt as f64 / rate.max(1) as f64)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[derive(Default, Debug)]
struct Share {
    copies: u32,
    bucket: Option<Bucket>,
}

/// What is under way, against its bounds.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    now: Duration,
    cluster: Option<Bucket>,
    servers: BTreeMap<ServerId, Share>,
}

impl Throttle {
    /// With nothing under way.
    pub fn new(limits: Limits) -> Self {
        Self { limits, now: Duration::ZERO, cluster: None, servers: BTreeMap::new() }
    }

    /// Time goes on.
    pub fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if let Some(rate) = self.limits.rate {
            self.cluster.get_or_insert(Bucket::full(rate, now)).fill(rate, self.now);
        }
        if let Some(rate) = self.limits.rate_per_server {
            self.servers.values_mut().filter_map(|share| share.bucket.as_mut()).for_each(|b| b.fill(rate, now));
        }
        // A server without copies and with a full bucket is as one that never had any.
        let full = self.limits.rate_per_server.map(signed);
        self.servers.retain(|_, share| share.copies > 0 || share.bucket.is_some_and(|b| Some(b.tokens) < full));
    }

    /// True if no copy may begin, whoever makes it.
    pub fn is_exhausted(&self) -> bool {
        self.cluster.is_some_and(|bucket| bucket.tokens <= 0)
    }

    /// When bytes are there again that are lacking now, for anybody; none if none are.
    pub fn ready(&self) -> Option<Duration> {
        let cluster = self.cluster.filter(|bucket| bucket.tokens <= 0).zip(self.limits.rate);
        let buckets = self.servers.values().filter_map(|share| share.bucket).filter(|bucket| bucket.tokens <= 0);
        let servers = buckets.filter_map(|bucket| self.limits.rate_per_server.map(|rate| bucket.ready(rate)));
        servers.chain(cluster.map(|(bucket, rate)| bucket.ready(rate))).min()
    }

    /// A copy of so many bytes begins.
    pub fn begin(&mut self, source: ServerId, target: ServerId, bytes: u64) {
        for server in [source, target] {
            self.servers.entry(server).or_default().copies += 1;
        }
        self.charge(source, target, signed(bytes));
    }

    /// It has ended, and moved `moved` bytes where `bytes` were expected.
    pub fn end(&mut self, source: ServerId, target: ServerId, bytes: u64, moved: u64) {
        for server in [source, target] {
            let share = self.servers.entry(server).or_default();
            share.copies = share.copies.saturating_sub(1);
        }
        self.charge(source, target, signed(moved) - signed(bytes));
    }

    fn charge(&mut self, source: ServerId, target: ServerId, bytes: i64) {
        let cap = |rate: u64, bucket: &mut Bucket| {
            bucket.tokens = bucket.tokens.saturating_sub(bytes).min(signed(rate));
        };
        if let (Some(bucket), Some(rate)) = (&mut self.cluster, self.limits.rate) {
            cap(rate, bucket);
        }
        if let Some(rate) = self.limits.rate_per_server {
            for server in [source, target] {
                let share = self.servers.entry(server).or_default();
                cap(rate, share.bucket.get_or_insert(Bucket::full(rate, self.now)));
            }
        }
    }

    /// Copies under way.
    pub fn under_way(&self) -> u32 {
        self.servers.values().map(|share| share.copies).sum::<u32>() / 2
    }
}

impl Load for Throttle {
    fn copies(&self, server: ServerId) -> Option<u32> {
        let Some(share) = self.servers.get(&server) else { return Some(0) };
        let open = share.copies < self.limits.copies_per_server && share.bucket.is_none_or(|b| b.tokens > 0);
        open.then_some(share.copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId::new(1);
    const B: ServerId = ServerId::new(2);
    const C: ServerId = ServerId::new(3);
    const D: ServerId = ServerId::new(4);
    const MIB: u64 = 1 << 20;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn a_server_takes_part_in_so_many_copies() {
        let mut throttle = Throttle::new(Limits { rate: None, rate_per_server: None, copies_per_server: 2 });
        throttle.at(secs(1.0));
        throttle.begin(A, B, MIB);
        throttle.begin(A, C, MIB);
        assert_eq!([A, B, C, D].map(|s| throttle.copies(s)), [None, Some(1), Some(1), Some(0)]);
        throttle.end(A, C, MIB, MIB);
        assert_eq!((throttle.copies(A), throttle.under_way()), (Some(1), 1));
        assert_eq!((throttle.is_exhausted(), throttle.ready()), (false, None), "no rate, no waiting");
    }

    /// Begins copies of `bytes` for ten seconds as the throttle allows, each done at once; bytes begun.
    fn run(limits: Limits, bytes: u64, pairs: &[(ServerId, ServerId)]) -> u64 {
        let (mut throttle, mut begun) = (Throttle::new(limits), 0);
        for step in 0..10_000 {
            throttle.at(Duration::from_millis(step));
            for (source, target) in pairs {
                let open = |throttle: &Throttle| {
                    let may = |server| throttle.copies(server).is_some();
                    may(*source) && may(*target) && !throttle.is_exhausted()
                };
                while open(&throttle) {
                    throttle.begin(*source, *target, bytes);
                    throttle.end(*source, *target, bytes, bytes);
                    begun += bytes;
                }
            }
        }
        begun
    }

    #[test]
    fn rates_are_reached_and_kept() {
        let limits = |rate, rate_per_server| Limits { rate, rate_per_server, copies_per_server: 4 };
        let both = [(A, B), (C, D)];
        // Ten seconds, a second's worth that was there at the start, one copy that overdraws.
        for bytes in [4 << 10, MIB, 64 * MIB] {
            for (limits, rate) in [(limits(Some(8 * MIB), None), 8 * MIB), (limits(None, Some(4 * MIB)), 8 * MIB)] {
                let begun = run(limits, bytes, &both);
                assert!(begun >= 10 * rate && begun <= 11 * rate + 2 * bytes, "{bytes} {limits:?} {begun}");
            }
        }
    }

    #[test]
    fn what_was_not_moved_is_given_back() {
        let mut throttle = Throttle::new(Limits { rate: Some(MIB), rate_per_server: None, copies_per_server: 4 });
        throttle.at(secs(0.0));
        throttle.begin(A, B, 64 * MIB);
        assert!(throttle.is_exhausted());
        assert!(throttle.ready().expect("a debt") > secs(62.0));
        throttle.end(A, B, 64 * MIB, MIB / 2);
        assert!(!throttle.is_exhausted());
    }
}
