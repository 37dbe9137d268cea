//! Scrubbing: reads every replica once within a period, past the page cache, so that damage is found while there are
//! good copies to mend it from. Evenly by bytes, behind requests; at full speed when somebody asks for it.
//!
//! A *round* goes over the replicas in 256 slices, by bits 8 to 15 of the handle, within a slice in order of handle;
//! at its end it looks at the tables of the packs. Where it is survives a restart. Replicas that are made meanwhile
//! may be left to the next round; those that are suspect are replaced anyway. What is found is marked and told by
//! the store; nothing here mends it but records and headers of packs, which need nobody else.

use crate::node::Node;
use crate::store::ChunkStore;
use crate::store::disk::Disk;
use crate::store::{Findings, ScrubNote};
use crate::workers::{Rest, Worker};
use gfs_proto::control::ScrubProgress;
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::time::Timestamp;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Slices of a round.
const SLICES: u32 = 256;
/// Bytes read without a pause.
const STEP_BYTES: u64 = 1 << 20;
/// Time spent without a pause: many small replicas make no long step either.
const STEP_MAX: Duration = Duration::from_millis(20);
/// Bytes per second of a round that somebody has asked for, and of any that is late.
const RATE_MAX: u64 = 256 << 20;
/// A round that is in time is read no more slowly than this.
const RATE_MIN: u64 = 64 << 10;
/// The end of the period is kept free, in percent: for load, and for a server that was down.
const SPARE_PERCENT: u32 = 20;
/// With more requests at work the scrubber waits, as long as it is in time.
const BUSY: u32 = 4;
/// Pauses: while others are at work, and the longest.
const GIVE_WAY: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(1);
/// Its position is noted down so often.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// A replica that gets another version while it is read is begun again so often.
const TRIES: u32 = 4;

/// How far the scrubber of a server is.
#[derive(Default)]
pub struct Scrub {
    state: Mutex<State>,
    hurry: AtomicBool,
}

#[derive(Clone, Default)]
struct State {
    note: ScrubNote,
    /// Of the last look.
    replicas_total: u64,
}

impl Scrub {
    /// Have a new round begin now, at full speed.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
    }

    /// For the master.
    pub fn progress<D: Disk>(&self, store: &ChunkStore<D>) -> ScrubProgress {
        let State { note, replicas_total } = self.state.lock().clone();
        let (damaged, mended) = store.harm_counts();
        ScrubProgress {
            round: note.round,
            finished: note.finished,
            began: Timestamp::new(note.began, 0).unwrap_or_default(),
            replicas_total: replicas_total.max(note.replicas),
            replicas_done: note.replicas,
            bytes_done: note.bytes,
            hurried: note.hurried,
            damaged,
            mended,
        }
    }
}

/// The worker.
pub struct Scrubber {
    node: Arc<Node>,
    /// Zero: only when somebody asks.
    period: Duration,
    work: Mutex<Work>,
}

/// Where it is, in memory.
#[derive(Default)]
struct Work {
    loaded: bool,
    /// Replicas of the present slice that were not read yet.
    handles: VecDeque<ChunkHandle>,
    /// The replica that is being read.
    reading: Option<Reading>,
    noted: Option<Instant>,
    /// Nothing is read before this.
    due: Option<Instant>,
}

struct Reading {
    handle: ChunkHandle,
    version: ChunkVersion,
    offset: u32,
    found: Findings,
    tries: u32,
}

impl Worker for Scrubber {
    fn name(&self) -> &'static str {
        "scrubber"
    }

    fn step(&self) -> Rest {
        let work = &mut *self.work.lock();
        if !work.loaded {
            work.loaded = true;
            self.resume();
        }
        let note = self.node.scrub.state.lock().note;
        let begins = self.begins(&note);
        if begins.is_some() {
            *work = Work { loaded: true, ..Work::default() };
            self.begin(begins == Some(Hurry::Yes));
            return Rest::None;
        }
        if !note.is_under_way() {
            return Rest::For(LOOK);
        }
        if let Some(wait) = self.wait(work, &note) {
            return Rest::For(wait);
        }
        let bytes = self.read_on(work);
        self.note_down(work);
        let pause = self.pause(bytes);
        work.due = Some(Instant::now() + pause);
        if pause.is_zero() { Rest::None } else { Rest::For(pause.min(LOOK)) }
    }

    fn status(&self) -> String {
        let progress = self.node.scrub.progress(&self.node.store);
        format!("round {}: {} of {} replicas", progress.round, progress.replicas_done, progress.replicas_total)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hurry {
    Yes,
    No,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Scrubber {
    /// Every replica is read within `period`; zero: only when somebody asks.
    pub fn new(node: Arc<Node>, period: Duration) -> Self {
        Self { node, period, work: Mutex::default() }
    }

    /// Takes up the round that the last run was at.
    fn resume(&self) {
        let note = self.node.store.scrub_note();
        let mut state = self.node.scrub.state.lock();
        state.note = note;
        state.replicas_total = self.node.store.replica_count();
    }

    /// Whether a round begins now, and how.
    fn begins(&self, note: &ScrubNote) -> Option<Hurry> {
        if self.node.scrub.hurry.swap(false, Ordering::AcqRel) {
            return Some(Hurry::Yes);
        }
        let period = i64::try_from(self.period.as_secs()).unwrap_or(i64::MAX);
        let is_due = note.round == 0 || now() >= note.began.saturating_add(period) || now() < note.began;
        (!self.period.is_zero() && !note.is_under_way() && is_due).then_some(Hurry::No)
    }

    fn begin(&self, hurried: bool) {
        let mut state = self.node.scrub.state.lock();
        let ScrubNote { round, finished, .. } = state.note;
        state.note = ScrubNote { round: round + 1, finished, began: now(), hurried, ..ScrubNote::default() };
        state.replicas_total = self.node.store.replica_count();
        tracing::info!(round = round + 1, replicas = state.replicas_total, hurried, "scrubbing begins");
    }

    /// How long others are waited for.
    fn wait(&self, work: &Work, note: &ScrubNote) -> Option<Duration> {
        if let Some(left) = work.due.map(|due| due.saturating_duration_since(Instant::now())).filter(|l| !l.is_zero()) {
            return Some(left.min(LOOK));
        }
        let is_busy = self.node.requests.load(Ordering::Relaxed) > BUSY;
        (is_busy && !note.hurried && !self.left(note).is_zero()).then_some(GIVE_WAY)
    }

    /// Until the round should be over.
    fn left(&self, note: &ScrubNote) -> Duration {
        let usable = self.period * (100 - SPARE_PERCENT) / 100;
        usable.saturating_sub(Duration::from_secs(u64::try_from(now() - note.began).unwrap_or(0)))
    }

    fn pause(&self, bytes: u64) -> Duration {
        let State { note, replicas_total } = self.node.scrub.state.lock().clone();
        if !note.is_under_way() {
            return Duration::ZERO;
        }
        let chunk = self.node.membership().map_or(0, |membership| u64::from(membership.chunk_size.get()));
        let done = Done { replicas: note.replicas, bytes: note.bytes };
        let left = if note.hurried { Duration::ZERO } else { self.left(&note) };
        pause(bytes, rate(done, replicas_total, chunk, left))
    }

    /// Reads a bounded piece; its bytes.
    fn read_on(&self, work: &mut Work) -> u64 {
        let (began, mut bytes) = (Instant::now(), 0);
        while bytes < STEP_BYTES && began.elapsed() < STEP_MAX {
            match work.reading.take() {
                Some(reading) => bytes += self.read(work, reading),
                None => {
                    if !self.next(work) {
                        break;
                    }
                }
            }
        }
        bytes
    }

    /// Turns to the next replica, or the next slice; false if the round is over.
    fn next(&self, work: &mut Work) -> bool {
        let store = &self.node.store;
        if let Some(handle) = work.handles.pop_front() {
            let version = store.scrubbed_version(handle);
            let fresh = |version| Reading { handle, version, offset: 0, found: Findings::default(), tries: 0 };
            work.reading = version.map(fresh);
            return true;
        }
        let mut state = self.node.scrub.state.lock();
        let note = &mut state.note;
        if note.slice < SLICES {
            work.handles = store.handles_of_slice(note.slice, note.after).into();
            // what is read from here on is of this slice; it is left when the last one was read
            if work.handles.is_empty() {
                (note.slice, note.after) = (note.slice + 1, 0);
            }
            return true;
        }
        drop(state);
        let mended = store.scrub_packs();
        let mut state = self.node.scrub.state.lock();
        state.note.finished = state.note.round;
        let ScrubNote { round, replicas, bytes, .. } = state.note;
        drop(state);
        work.noted = None;
        tracing::info!(round, replicas, bytes, mended, "scrubbing is through");
        false
    }

    fn read(&self, work: &mut Work, mut reading: Reading) -> u64 {
        let before = reading.found.bytes;
        let Reading { handle, version, offset, .. } = reading;
        let next = self.node.store.scrub_part(handle, version, offset, &mut reading.found);
        let bytes = reading.found.bytes - before;
        let over = match next {
            Ok(Some(offset)) => {
                work.reading = Some(Reading { offset, ..reading });
                false
            }
            Err(DataError::Version | DataError::Busy) if reading.tries < TRIES => {
                let version = self.node.store.scrubbed_version(handle);
                let tries = reading.tries + 1;
                let again = |version| Reading { handle, version, offset: 0, found: Findings::default(), tries };
                work.reading = version.map(again);
                work.reading.is_none()
            }
            Ok(None) | Err(_) => true,
        };
        let mut state = self.node.scrub.state.lock();
        state.note.bytes += bytes;
        if over {
            state.note.replicas += 1;
            state.note.after = handle.get();
        }
        bytes
    }

    /// Now and then, and when a round is over.
    fn note_down(&self, work: &mut Work) {
        if work.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        work.noted = Some(Instant::now());
        let note = self.node.scrub.state.lock().note;
        if let Err(error) = self.node.store.note_scrub(&note) {
            tracing::warn!(%error, "how far scrubbing is cannot be noted down");
        }
    }
}

/// What a round has read.
#[derive(Clone, Copy)]
struct Done {
    replicas: u64,
    bytes: u64,
}

/// Bytes per second that are needed to be through when `left` is over. Lengths of replicas are not known before they
/// are read: those to come are taken to be as long as those that were, at first as long as a chunk can be.
fn rate(done: Done, replicas_total: u64, chunk: u64, left: Duration) -> u64 {
    // the guess counts as one replica
    let mean = (done.bytes + chunk) / (done.replicas + 1);
    let to_come = replicas_total.saturating_sub(done.replicas).saturating_mul(mean);
    if left.is_zero() { RATE_MAX } else { (to_come / left.as_secs().max(1)).clamp(RATE_MIN, RATE_MAX) }
}

fn pause(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Replicas of these lengths, read as the rate says: the seconds that it took, and the bytes that were read when half
    /// of the time was over.
    fn run(lengths: &[u64], seconds: u64) -> (f64, u64) {
        let (mut done, mut time, mut half) = (Done { replicas: 0, bytes: 0 }, 0.0, 0);
        for length in lengths {
            let mut rest = *length;
            while rest > 0 {
                let bytes = rest.min(STEP_BYTES);
                let left = Duration::from_secs_f64((seconds as f64 - time).max(0.0));
                time += pause(bytes, rate(done, lengths.len() as u64, 64 * MIB, left)).as_secs_f64();
                done.bytes += bytes;
                half = if time * 2.0 <= seconds as f64 { done.bytes } else { half };
                rest -= bytes;
            }
            done.replicas += 1;
        }
        (time, half)
    }

    #[test]
    fn a_round_is_through_in_time_and_not_much_before() {
        let mixed: Vec<u64> = (0..2000).map(|n| if n % 3 == 0 { 64 * MIB } else { 8192 }).collect();
        let sorted = [vec![8192; 1000], vec![64 * MIB; 500]].concat();
        for (lengths, least) in [(mixed, 0.4), (vec![64 * MIB; 500], 0.4), (sorted, 0.05)] {
            let seconds = 24 * 3600;
            let (took, half) = run(&lengths, seconds);
            let (took, half) = (took / seconds as f64, half as f64 / lengths.iter().sum::<u64>() as f64);
            // a fifth of the period is left after that
            assert!((0.9..=1.02).contains(&took), "{took}");
            assert!((least..=0.6).contains(&half), "{half}: what is long may come late, and then most is read late");
        }
    }

    #[test]
    fn rates_are_bounded() {
        let none = Done { replicas: 0, bytes: 0 };
        assert_eq!(rate(none, 1, 64 * MIB, Duration::from_secs(1_000_000)), RATE_MIN);
        assert_eq!(rate(none, 1_000_000, 64 * MIB, Duration::from_secs(1)), RATE_MAX);
        assert_eq!(rate(none, 0, 0, Duration::ZERO), RATE_MAX, "asked for, or late");
        assert_eq!(pause(RATE_MAX, RATE_MAX), Duration::from_secs(1));
    }
}
