//! Errors of the operation log: what a proposal, and what opening, may end with.

use std::io;
use std::sync::Arc;

use gfs_proto::ids::{ClusterId, LogIndex};
use thiserror::Error;

use super::config::{MemberId, Position};

/// Why a proposal was not carried out, or the log not opened.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// Another master leads (or none does yet); nothing was logged.
    #[error("this master does not lead{}", leader.map(|id| format!("; {id} does")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<MemberId>,
    },
    /// Leadership ended while the proposal was under way: it may or may not be carried out. A retry
    /// with the same (session, sequence) finds out.
    #[error("leadership was lost while the command was under way; its outcome is not known yet")]
    OutcomeUnknown,
    /// The log is being stopped; nothing was logged.
    #[error("the operation log is stopped")]
    Stopped,
    /// No room for another segment; nothing was logged.
    #[error("no space left for the operation log: free space on its file system")]
    NoSpace,
    /// The command is larger than any record may be; nothing was logged.
    #[error("a command of {bytes} bytes does not fit into the operation log (at most {max})")]
    TooLarge {
        /// Bytes of the command.
        bytes: usize,
        /// Bytes that a command may have.
        max: usize,
    },
    /// Writing or flushing the log failed. Only tests see this: a real process has been aborted.
    #[error("the operation log failed: {0}")]
    Failed(Arc<LogFault>),
    /// A setting is out of range.
    #[error("operation log: {0}")]
    Config(String),
    /// The log on disk cannot be used.
    #[error(transparent)]
    Unusable(Arc<LogFault>),
}

impl LogFault {
    /// Wraps an error of the file system.
    pub(super) fn disk(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { action, name: name.to_owned(), source }
    }

    /// Whether freeing space helps.
    pub(super) fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

impl From<LogFault> for LogError {
    fn from(error: LogFault) -> Self {
        Self::Unusable(Arc::new(error))
    }
}

/// What is wrong with the log on disk. Whatever opening refuses, it leaves as it is.
#[derive(Debug, Error)]
pub enum LogFault {
    /// A record before the end of the log is damaged, or the last one is and was not merely torn.
    #[error(
        "operation log: segment {segment} is damaged at offset {offset}: {damage}. Acknowledged operations would \
         be lost, so nothing was changed; restore this master's directory from a backup or another master"
    )]
    Damaged {
        /// File name of the segment.
        segment: String,
        /// Byte at which the damaged record or field begins.
        offset: u64,
        /// What does not fit.
        damage: Damage,
    },
    /// A segment between others, or the one that the state needs first, is not there.
    #[error("operation log: segment {segment} is missing; restore it, or the whole directory, from a backup")]
    SegmentMissing {
        /// File name of the missing segment.
        segment: String,
    },
    /// Written by a later version of the program.
    #[error("operation log: segment {segment} has format {found}, this program knows {known}; start a newer program")]
    NewerFormat {
        /// File name of the segment.
        segment: String,
        /// Its format.
        found: u32,
        /// Newest format known here.
        known: u32,
    },
    /// The log of another cluster or of another of its masters.
    #[error("operation log: segment {segment} belongs to cluster {cluster}, {member}; this is another one")]
    Foreign {
        /// File name of the segment.
        segment: String,
        /// Cluster that wrote it.
        cluster: ClusterId,
        /// Master that wrote it.
        member: MemberId,
    },
    /// Entries between the state and the log are gone.
    #[error("operation log begins at {first}, but the state ends at {applied}: what lies between is missing")]
    Gap {
        /// First index in the log.
        first: LogIndex,
        /// Where the state ends.
        applied: Position,
    },
    /// State and log do not share their history.
    #[error("the state ends at {applied}, but the operation log has term {term} at that index: one is of another copy")]
    Diverged {
        /// Where the state ends.
        applied: Position,
        /// The term that the log has there.
        term: u64,
    },
    /// There is a state, but no log at all.
    #[error(
        "the state ends at {applied}, but there is no operation log beside it; restore the log, or start with \
         --restored to go on from the state alone"
    )]
    LogMissing {
        /// Where the state ends.
        applied: Position,
    },
    /// After a failed fsync the page cache cannot be trusted, and it cannot be bypassed either.
    #[error("operation log: an fsync failed in the last run, and {segment} cannot be read past the page cache")]
    Uncached {
        /// File name of the segment.
        segment: String,
        /// Why not.
        source: io::Error,
    },
    /// The file system refused an operation.
    #[error("operation log: cannot {action} {name}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        name: String,
        /// What the file system said.
        source: io::Error,
    },
}

/// What does not fit about a damaged place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Damage {
    /// The segment's header.
    #[error("the header fails its checksum")]
    Header,
    /// A bad record with a good one behind it.
    #[error("the record there fails its checksum and a valid one follows at offset {0}")]
    Middle(u64),
    /// A bad record, complete, at the end of the log.
    #[error("the last record fails its checksum although all of it was written")]
    Tail,
    /// The segment ends before the place at which its successor was begun.
    #[error("the segment was {0} bytes long when its successor was begun")]
    Short(u64),
    /// An index that does not follow from the one before.
    #[error("the record's index {found} does not follow; {expected} was expected")]
    Order {
        /// The index that would have followed.
        expected: u64,
        /// The one there.
        found: u64,
    },
    /// Checksum right, contents not understood.
    #[error("the record's contents make no sense ({0})")]
    Contents(&'static str),
}
