//! Tests of the operation log on a disk in memory, and what they share.

mod commit;
mod crash;
mod damage;
mod failure;
mod group;
mod segments;

use std::sync::Arc;
use std::time::Duration;

use gfs_proto::ids::{ClusterId, LogIndex, Term};
use parking_lot::Mutex;
use raft::{GetEntriesContext, Storage};

use super::config::{LogConfig, Position};
use super::error::{LogError, LogFault};
use super::mem_disk::MemDisk;
use super::recovery;
use super::replicated::{OnFailure, ReplicatedLog};
use super::round::StateMachine;

/// Records what it is given; a run of its own begins behind `from`.
#[derive(Default)]
pub(super) struct Recorder {
    applied: Mutex<Vec<(Position, Vec<u8>)>>,
}

impl Recorder {
    /// Commands in the order in which they were applied, without the log's own entries.
    fn commands(&self) -> Vec<Vec<u8>> {
        self.applied.lock().iter().map(|(_, payload)| payload.clone()).filter(|payload| !payload.is_empty()).collect()
    }

    fn position(&self) -> Position {
        self.applied.lock().last().map_or(Position::default(), |(at, _)| *at)
    }
}

impl StateMachine for Recorder {
    type Output = Vec<u8>;

    fn apply(&self, index: LogIndex, term: Term, payload: &[u8]) -> Vec<u8> {
        let mut applied = self.applied.lock();
        if let Some((last, _)) = applied.last() {
            assert_eq!(index.get(), last.index.get() + 1, "applied in order, each once");
        }
        applied.push((Position { index, term }, payload.to_vec()));
        payload.to_vec()
    }
}

type TestLog = ReplicatedLog<Recorder, MemDisk>;

fn config() -> LogConfig {
    // No tick comes to the rescue of something that was forgotten.
    let tick = Duration::from_secs(3600);
    LogConfig { segment_bytes: 16 << 10, tick, ..LogConfig::single("in memory".into(), ClusterId::new([3; 16])) }
}

fn open_at(disk: &MemDisk, applied: Position) -> Result<(TestLog, Arc<Recorder>), LogError> {
    let machine = Arc::new(Recorder::default());
    let log = ReplicatedLog::open_on(Arc::new(disk.clone()), &config(), applied, machine.clone(), OnFailure::Refuse)?;
    Ok((log, machine))
}

fn open(disk: &MemDisk) -> (TestLog, Arc<Recorder>) {
    open_at(disk, Position::default()).expect("the log opens")
}

/// A command without zero bytes, so that its sectors never look as if they had not been written.
fn command(number: usize, bytes: usize) -> Vec<u8> {
    format!("command {number:04} ").into_bytes().into_iter().cycle().take(bytes).collect()
}

/// Waits for a condition that other tasks bring about; not for ever.
async fn eventually(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came");
        tokio::task::yield_now().await;
    }
}

/// What recovery finds: commands with their indexes.
fn recover(disk: &MemDisk) -> Result<Vec<(u64, Vec<u8>)>, LogFault> {
    let log = recovery::open(Arc::new(disk.clone()), &config(), Position::default())?;
    let (first, last) = (log.first_index().expect("known"), log.last_index().expect("known"));
    let entries = log.entries(first, last + 1, None, GetEntriesContext::empty(false)).expect("all entries can be read");
    let commands = entries.into_iter().filter(|entry| !entry.data.is_empty());
    Ok(commands.map(|entry| (entry.index, entry.data.to_vec())).collect())
}
