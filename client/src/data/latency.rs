//! How long the chunkservers take to answer reads: which of them is slow compared with the others, and
//! when a read is worth asking for a second time. A pure state machine: times come in, decisions go out.
//!
//! ```text
//!             answers in FACTOR times the median of the others
//!   good ------------------------------------------------------> avoided --pause--> probed
//!    ^                                                              ^                 |  | samples are good
//!    |                                                              '--- still slow --'  |
//!    '-----------------------------------------------------------------------------------'
//! ```
//! Keeps: second requests are at most [`HEDGES_PER_READ`] of all reads and [`HEDGES_SAVED`] more, so that a
//! cluster which is slow as a whole is not asked twice as much.

use gfs_proto::ids::ServerId;
use gfs_proto::limits::ANSWER_LATE;
use gfs_proto::ops::SlowServer;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So much slower than the median of the others is slow.
const FACTOR: f64 = 10.0;
/// Answers faster than this are never slow: nobody would notice.
const SLOW_MIN: Duration = Duration::from_millis(10);
/// Samples of a server before it is judged, and of the others before they are compared with.
const SAMPLES_MIN: u32 = 8;
const SAMPLES_OF_OTHERS_MIN: u32 = 3;
/// Share of a new sample in the moving average.
const WEIGHT: f64 = 1.0 / 8.0;
/// How long a slow server is avoided: at first, and after several probes.
const AVOIDED_MIN: Duration = Duration::from_secs(5);
const AVOIDED_MAX: Duration = Duration::from_secs(60);
/// A slow server that nothing was heard of for so long after it might have been probed is no longer told of.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A second request goes out when the first takes longer than this share of all, within these bounds.
const TAIL: f64 = 0.95;
const HEDGE_MIN: Duration = Duration::from_millis(10);
const HEDGE_MAX: Duration = ANSWER_LATE;
/// Of the tail before anything was measured.
const TAIL_FIRST: f64 = 0.02;
/// Relative step of the tail's estimate: up by `TAIL` of it, down by the rest, so that it rests at the quantile.
const TAIL_STEP: f64 = 0.05;
/// Second requests earned by each read, and how many may be saved for a bad moment.
const HEDGES_PER_READ: f64 = 0.05;
const HEDGES_SAVED: f64 = 16.0;

/// Reads that are compared with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(usize);

const CLASSES: usize = 3;

impl Class {
    /// Of a read of so many bytes.
    pub(super) const fn of(length: u32) -> Self {
        match length {
            0..0x4001 => Self(0),
            0x4001..0x4_0001 => Self(1),
            _ => Self(2),
        }
    }
}

/// How long an answer took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Took {
    /// It came.
    Exactly(Duration),
    /// It had not come when another server had answered.
    AtLeast(Duration),
}

/// A server that became slow, or is slow no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Slow(SlowServer),
    Good,
}

/// Moving average of one class.
#[derive(Clone, Copy, Default, Debug)]
struct Track {
    seconds: f64,
    samples: u32,
}

impl Track {
    fn add(&mut self, seconds: f64) {
        self.seconds = if self.samples == 0 { seconds } else { self.seconds + (seconds - self.seconds) * WEIGHT };
        self.samples = self.samples.saturating_add(1);
    }
}

#[derive(Clone, Copy, Debug)]
struct Slow {
    /// Avoided until then, probed afterwards.
    until: Instant,
    pause: Duration,
    probed: bool,
    told: SlowServer,
}

#[derive(Default, Debug)]
struct Server {
    tracks: [Track; CLASSES],
    slow: Option<Slow>,
}

/// See the file's text.
#[derive(Debug)]
pub(super) struct Latencies {
    servers: HashMap<ServerId, Server>,
    /// Estimated quantile [`TAIL`], in seconds.
    tails: [f64; CLASSES],
    hedges: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { servers: HashMap::new(), tails: [TAIL_FIRST; CLASSES], hedges: HEDGES_SAVED }
    }
}

impl Latencies {
    /// A read begins; after how long without an answer it is worth asking another server.
    pub(super) fn begin(&mut self, class: Class) -> Duration {
        self.hedges = (self.hedges + HEDGES_PER_READ).min(HEDGES_SAVED);
        Duration::from_secs_f64(self.tails[class.0]).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    /// True if a second request may go out now; it is counted.
    pub(super) fn may_hedge(&mut self) -> bool {
        let may = self.hedges >= 1.0;
        if may {
            self.hedges -= 1.0;
        }
        may
    }

    /// A server answered, or somebody else was faster.
    pub(super) fn note(&mut self, server: ServerId, class: Class, took: Took, now: Instant) -> Option<Change> {
        let entry = self.servers.entry(server).or_default();
        if let Some(slow) = entry.slow.as_mut().filter(|slow| !slow.probed && now >= slow.until) {
            slow.probed = true;
            entry.tracks = Default::default();
        }
        let track = &mut entry.tracks[class.0];
        match took {
            Took::Exactly(took) => track.add(took.as_secs_f64()),
            Took::AtLeast(took) => track.add(took.as_secs_f64().max(track.seconds)),
        }
        if let (Took::Exactly(took), None) = (took, &entry.slow) {
            self.tails[class.0] = next_tail(self.tails[class.0], took.as_secs_f64());
        }
        self.judge(server, class, now)
    }

    fn judge(&mut self, server: ServerId, class: Class, now: Instant) -> Option<Change> {
        let median = self.median_of_others(server, class)?;
        let entry = self.servers.get_mut(&server)?;
        let track = entry.tracks[class.0];
        if track.samples < SAMPLES_MIN || entry.slow.is_some_and(|slow| now < slow.until) {
            return None;
        }
        if track.seconds < (median * FACTOR).max(SLOW_MIN.as_secs_f64()) {
            return entry.slow.take().map(|_| Change::Good);
        }
        let told = SlowServer {
            server,
            latency: Duration::from_secs_f64(track.seconds),
            median: Duration::from_secs_f64(median),
        };
        let pause = entry.slow.map_or(AVOIDED_MIN, |slow| (slow.pause * 2).min(AVOIDED_MAX));
        let was_slow = entry.slow.replace(Slow { until: now + pause, pause, probed: false, told }).is_some();
        (!was_slow).then_some(Change::Slow(told))
    }

    fn median_of_others(&self, server: ServerId, class: Class) -> Option<f64> {
        let others = self.servers.iter().filter(|(id, _)| **id != server).map(|(_, other)| other.tracks[class.0]);
        let mut seconds: Vec<f64> =
            others.filter(|track| track.samples >= SAMPLES_OF_OTHERS_MIN).map(|track| track.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len().saturating_sub(1) / 2).copied()
    }

    /// True while others are to be read from if there are any.
    pub(super) fn is_avoided(&self, server: ServerId, now: Instant) -> bool {
        self.servers.get(&server).and_then(|entry| entry.slow).is_some_and(|slow| now < slow.until)
    }

    /// For the master: who is slow as far as is known.
    pub(super) fn slow(&self, now: Instant) -> Vec<SlowServer> {
        let told = self.servers.values().filter_map(|entry| entry.slow).filter(|slow| now < slow.until + FORGOTTEN);
        let mut slow: Vec<SlowServer> = told.map(|slow| slow.told).collect();
        slow.sort_by_key(|slow| slow.server);
        slow
    }
}

fn next_tail(tail: f64, sample: f64) -> f64 {
    let step = if sample > tail { 1.0 + TAIL_STEP * TAIL } else { 1.0 - TAIL_STEP * (1.0 - TAIL) };
    (tail * step).clamp(HEDGE_MIN.as_secs_f64() / 10.0, HEDGE_MAX.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: u32 = 4096;

    fn ms(count: f64) -> Took {
        Took::Exactly(Duration::from_secs_f64(count / 1000.0))
    }
    fn server(id: u32) -> ServerId {
        ServerId::new(id)
    }

    /// Server 1 answers in `slow` milliseconds, two others in one; what changed.
    fn read(latencies: &mut Latencies, slow: f64, times: usize, now: Instant) -> Vec<Change> {
        let class = Class::of(READ);
        let mut changes = Vec::new();
        for _ in 0..times {
            changes.extend(latencies.note(server(2), class, ms(1.0), now));
            changes.extend(latencies.note(server(3), class, ms(1.2), now));
            changes.extend(latencies.note(server(1), class, ms(slow), now));
        }
        changes
    }

    #[test]
    fn a_server_ten_times_slower_than_the_others_is_avoided_probed_and_taken_back() {
        let (mut latencies, start) = (Latencies::default(), Instant::now());
        assert_eq!(read(&mut latencies, 11.0, SAMPLES_MIN as usize - 1, start), [], "too early to say");
        let changes = read(&mut latencies, 11.0, 5, start);
        assert!(matches!(changes[..], [Change::Slow(slow)] if slow.server == server(1)), "{changes:?}");
        assert!(latencies.is_avoided(server(1), start) && !latencies.is_avoided(server(2), start));
        assert_eq!(latencies.slow(start).len(), 1);

        let probe = start + AVOIDED_MIN;
        assert!(!latencies.is_avoided(server(1), probe));
        assert_eq!(read(&mut latencies, 50.0, SAMPLES_MIN as usize, probe), [], "still slow: not told again");
        assert!(latencies.is_avoided(server(1), probe + AVOIDED_MIN), "for longer this time");

        let probe = probe + AVOIDED_MIN * 2;
        assert_eq!(read(&mut latencies, 1.0, SAMPLES_MIN as usize, probe), [Change::Good], "by new samples alone");
        assert!(!latencies.is_avoided(server(1), probe) && latencies.slow(probe).is_empty());
    }

    #[test]
    fn what_is_slow_depends_on_the_others_and_on_being_noticed() {
        let now = Instant::now();
        for (slow, is_slow) in [(1.0, false), (9.0, false), (9.9, false), (15.0, true), (500.0, true)] {
            let mut latencies = Latencies::default();
            read(&mut latencies, slow, 20, now);
            assert_eq!(latencies.is_avoided(server(1), now), is_slow, "{slow} ms beside 1 ms");
        }
        let mut alone = Latencies::default();
        for _ in 0..100 {
            assert_eq!(alone.note(server(1), Class::of(READ), ms(900.0), now), None, "there is nobody to compare with");
        }
        let mut fast = Latencies::default();
        for _ in 0..100 {
            fast.note(server(2), Class::of(READ), ms(0.1), now);
            assert_eq!(fast.note(server(1), Class::of(READ), ms(5.0), now), None, "nobody would notice");
        }
    }

    #[test]
    fn one_that_always_loses_is_found_by_how_long_it_took_at_least() {
        let (mut latencies, now) = (Latencies::default(), Instant::now());
        let class = Class::of(READ);
        for _ in 0..SAMPLES_MIN {
            latencies.note(server(2), class, ms(0.5), now);
            latencies.note(server(1), class, Took::AtLeast(Duration::from_millis(11)), now);
        }
        assert!(latencies.is_avoided(server(1), now));
        let late = now + AVOIDED_MIN + FORGOTTEN;
        assert!(latencies.slow(late).is_empty(), "nobody reads there any more: it is not told of for ever");
    }

    #[test]
    fn the_second_request_goes_out_at_the_tail() {
        let (mut latencies, now, class) = (Latencies::default(), Instant::now(), Class::of(1 << 20));
        for n in 0..5000 {
            let took = if n % 50 == 0 { 300.0 } else { 30.0 };
            latencies.note(server(n % 3), class, ms(took), now);
        }
        let after = latencies.begin(class);
        assert!((Duration::from_millis(25)..Duration::from_millis(60)).contains(&after), "{after:?}");
        for n in 0..5000 {
            latencies.note(server(n % 3), class, ms(0.2), now);
        }
        assert_eq!(latencies.begin(class), HEDGE_MIN, "never sooner");
        assert!(latencies.begin(Class::of(READ)) > HEDGE_MIN, "each class for itself");
    }

    proptest! {
        #[test]
        fn second_requests_keep_to_their_budget(reads in prop::collection::vec(any::<bool>(), 0..3000)) {
            let mut latencies = Latencies::default();
            let mut hedges = 0.0;
            for (count, wants) in reads.iter().enumerate() {
                latencies.begin(Class::of(READ));
                hedges += f64::from(u8::from(*wants && latencies.may_hedge()));
                prop_assert!(hedges <= HEDGES_SAVED + HEDGES_PER_READ * (count + 1) as f64);
            }
        }
    }
}
