//! What the log is told at start, checked once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gfs_proto::ids::{ClusterId, LogIndex, Term};

use super::error::LogError;

/// Number of a master among the log's voters and learners, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId(u64);

impl MemberId {
    /// Wraps a configured number; 0 is refused by [`LogConfig`]'s check.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw value for disk, wire and raft.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "master {}", self.0)
    }
}

/// A place in the log: an index and the term of the entry there. The default is before the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Index of the entry.
    pub index: LogIndex,
    /// Term that it was proposed in.
    pub term: Term,
}

impl Position {
    /// From the raw numbers that raft and the disk use.
    pub const fn new(index: u64, term: u64) -> Self {
        Self { index: LogIndex::new(index), term: Term::new(term) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {})", self.index, self.term)
    }
}

/// Bytes of a preallocated segment unless said otherwise.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Below this a segment would hold little more than its header.
const SEGMENT_BYTES_MIN: u64 = 8 << 10;
/// Offsets within a segment are kept in 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How to open a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Directory of the segments; made if its parent exists. Nothing else may live in it.
    pub directory: PathBuf,
    /// Cluster that the log belongs to; segments of another are refused.
    pub cluster: ClusterId,
    /// This master.
    pub member: MemberId,
    /// Voters of a log that is made now; an existing log knows its own.
    pub voters: Vec<MemberId>,
    /// Bytes preallocated for a segment.
    pub segment_bytes: u64,
    /// The state came from a backup: begin a new log behind it if there is none. Otherwise a missing
    /// log beside a state that is not empty is refused.
    pub restored: bool,
    /// Raft's logical clock; elections take 10 to 20 ticks.
    pub tick: Duration,
}

impl LogConfig {
    /// A log with this master as its only voter.
    pub fn single(directory: PathBuf, cluster: ClusterId) -> Self {
        let member = MemberId::new(1);
        Self {
            directory,
            cluster,
            member,
            voters: vec![member],
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            restored: false,
            tick: Duration::from_millis(100),
        }
    }

    /// Refuses values that cannot work, naming the key.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let refuse = |why: String| Err(LogError::Config(why));
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return refuse(format!(
                "segment size {} is not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX} bytes",
                self.segment_bytes
            ));
        }
        if self.member.get() == 0 || self.voters.iter().any(|voter| voter.get() == 0) {
            return refuse("member numbers begin at 1".into());
        }
        if !self.voters.contains(&self.member) {
            return refuse(format!("{} is not among the voters", self.member));
        }
        if self.voters.iter().enumerate().any(|(at, voter)| self.voters[..at].contains(voter)) {
            return refuse("a voter is named twice".into());
        }
        if self.tick.is_zero() {
            return refuse("the tick must be longer than nothing".into());
        }
        Ok(())
    }
}
