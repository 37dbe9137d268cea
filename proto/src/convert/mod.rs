//! Between the generated wire types and the domain types: `From` outwards, `TryFrom` inwards.
//!
//! Every field that comes from the wire is checked here, exactly once; whoever holds a domain type need
//! not look again. Knows no service, no state and no policy: whether an inode exists or a caller may
//! touch it is the master's business. What the wire cannot say (a sequence number of 0, a lease of a
//! fraction of a millisecond) is rounded on the way out, never refused.

mod chunkserver;
mod common;
mod ops;
mod session;
mod status;
#[cfg(test)]
mod tests;

use crate::error::FsError;
use crate::ids::{ChunkHandle, ChunkIndex, InodeId, ServerId};
use crate::limits::{
    CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, CHUNKS_PER_REQUEST_MAX, FILE_SIZE_MAX, GOAL_MAX, MESSAGE_BYTES_MAX,
    REPLY_PAGE_BYTES_MAX,
};
use crate::name::Name;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Replicas named together: a rebalanced chunk has for a while more than its goal.
pub const REPLICAS_MAX: usize = 2 * GOAL_MAX as usize;
/// Rows of one list between chunkserver and master: replicas, leases, ranges, outcomes.
pub const ROWS_MAX: usize = 65_536;
/// Storage directories of one chunkserver.
pub const DIRECTORIES_MAX: usize = 256;
/// Chunkservers that one client finds slow.
pub const SLOW_SERVERS_MAX: usize = 256;
/// Leases given back by one operation.
pub const CHUNKS_RETURNED_MAX: usize = CHUNKS_PER_REQUEST_MAX as usize;
/// Bytes of a text: an address, a path, a reason (Linux `PATH_MAX`).
pub const TEXT_MAX: usize = 4096;

/// Bytes that an entry of a directory page has at least: tags, name, cookie, inode, mode.
const DIR_ENTRY_BYTES_MIN: usize = 8;
/// Entries that fit into one page of a directory.
const DIR_ENTRIES_MAX: usize = REPLY_PAGE_BYTES_MAX as usize / DIR_ENTRY_BYTES_MIN;
/// Chunks of the largest file of the smallest chunks: one past the last index.
const CHUNKS_PER_FILE_MAX: u32 = (FILE_SIZE_MAX / CHUNK_SIZE_MIN as u64) as u32;

/// Bytes of a row at most: three numbers of 10 bytes with their tags, two pairs of tag and length.
const ROW_BYTES_MAX: usize = 3 * 11 + 2 * 2;
/// Two lists of rows in one message, as a report has.
const _: () = assert!(2 * ROWS_MAX * ROW_BYTES_MAX < MESSAGE_BYTES_MAX);
/// Path and reason of each directory, with 64 bytes for the rest.
const _: () = assert!(DIRECTORIES_MAX * (2 * TEXT_MAX + 64) < MESSAGE_BYTES_MAX);

/// A field of a message of `proto/gfs/v1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// The message, as the .proto file calls it.
    pub message: &'static str,
    /// The field, as the .proto file calls it.
    pub field: &'static str,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.field)
    }
}

/// Why a message from the wire means nothing to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// A part without which the message says nothing: a submessage, a choice, an id.
    #[error("{0} is missing")]
    Missing(Field),
    /// More bytes or entries than both ends have agreed on.
    #[error("{at} has a length of {length}, the limit is {limit}")]
    TooLong {
        /// Where.
        at: Field,
        /// As received.
        length: usize,
        /// As agreed.
        limit: usize,
    },
    /// Any other value that no peer of ours sends.
    #[error("{at} {problem}")]
    Invalid {
        /// Where.
        at: Field,
        /// What is wrong.
        problem: &'static str,
    },
    /// Well formed, but refused with an error that the caller of a system call is to see.
    #[error("{at}: {error}")]
    Refused {
        /// Where.
        at: Field,
        /// For the caller.
        error: FsError,
    },
}

impl WireError {
    /// The field that is wrong.
    pub const fn at(self) -> Field {
        match self {
            Self::Missing(at) | Self::TooLong { at, .. } | Self::Invalid { at, .. } | Self::Refused { at, .. } => at,
        }
    }
}

impl From<WireError> for FsError {
    /// The caller's own error if there is one, otherwise [`FsError::Protocol`].
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused { error, .. } => error,
            WireError::Missing(_) | WireError::TooLong { .. } | WireError::Invalid { .. } => Self::Protocol,
        }
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<Infallible> for WireError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Names a field, to check it.
const fn at(message: &'static str, field: &'static str) -> Field {
    Field { message, field }
}

/// The errors that a field can have.
impl Field {
    const fn invalid(self, problem: &'static str) -> WireError {
        WireError::Invalid { at: self, problem }
    }
    const fn refused(self, error: FsError) -> WireError {
        WireError::Refused { at: self, error }
    }
    /// `problem` is what the field does if `good` does not hold: "is zero".
    fn check(self, good: bool, problem: &'static str) -> Result<(), WireError> {
        if good { Ok(()) } else { Err(self.invalid(problem)) }
    }
    fn check_length(self, length: usize, limit: usize) -> Result<(), WireError> {
        if length <= limit { Ok(()) } else { Err(WireError::TooLong { at: self, length, limit }) }
    }
}

/// Submessages and lists.
impl Field {
    fn present<T>(self, value: Option<T>) -> Result<T, WireError> {
        value.ok_or(WireError::Missing(self))
    }
    fn required<W, D>(self, value: Option<W>) -> Result<D, WireError>
    where
        D: TryFrom<W>,
        WireError: From<D::Error>,
    {
        Ok(self.present(value)?.try_into()?)
    }
    fn list<W, D>(self, values: Vec<W>, limit: usize) -> Result<Vec<D>, WireError>
    where
        D: TryFrom<W>,
        WireError: From<D::Error>,
    {
        self.check_length(values.len(), limit)?;
        values.into_iter().map(|value| Ok(value.try_into()?)).collect()
    }
}

/// Numbers.
impl Field {
    /// Names of things are counted from 1: 0 is a field that was left out.
    fn id(self, raw: u64) -> Result<u64, WireError> {
        if raw == 0 { Err(WireError::Missing(self)) } else { Ok(raw) }
    }
    fn inode(self, raw: u64) -> Result<InodeId, WireError> {
        self.id(raw).map(InodeId::new)
    }
    fn handle(self, raw: u64) -> Result<ChunkHandle, WireError> {
        self.id(raw).map(ChunkHandle::new)
    }
    fn server(self, raw: u32) -> Result<ServerId, WireError> {
        self.id(raw.into()).map(|_| ServerId::new(raw))
    }
    fn index(self, raw: u32) -> Result<ChunkIndex, WireError> {
        self.check(raw < CHUNKS_PER_FILE_MAX, "is beyond the largest file")?;
        Ok(ChunkIndex::new(raw))
    }
    fn file_size(self, raw: u64) -> Result<u64, WireError> {
        if raw <= FILE_SIZE_MAX { Ok(raw) } else { Err(self.refused(FsError::FileTooLarge)) }
    }
    /// As [`Field::file_size`], in a reply: no caller is to blame.
    fn reported_size(self, raw: u64) -> Result<u64, WireError> {
        self.check(raw <= FILE_SIZE_MAX, "is beyond the largest file")?;
        Ok(raw)
    }
    fn chunk_bytes(self, raw: u32) -> Result<u32, WireError> {
        self.check(raw <= CHUNK_SIZE_MAX, "is beyond the largest chunk")?;
        Ok(raw)
    }
    /// A goal that somebody reports; 0 where there is nothing to copy.
    fn goal(self, raw: u32) -> Result<u8, WireError> {
        u8::try_from(raw).ok().filter(|goal| *goal <= GOAL_MAX).ok_or(self.invalid("is more than the largest goal"))
    }
    fn interval(self, raw_ms: u32) -> Result<Duration, WireError> {
        self.check(raw_ms > 0, "is zero")?;
        Ok(Duration::from_millis(raw_ms.into()))
    }
}

/// Bytes and texts.
impl Field {
    /// A name that a caller chose: what is wrong with it is the caller's to learn.
    fn name(self, raw: &[u8]) -> Result<Name, WireError> {
        Name::new(raw).map_err(|error| self.refused(error))
    }
    fn text(self, raw: String) -> Result<String, WireError> {
        self.check_length(raw.len(), TEXT_MAX)?;
        Ok(raw)
    }
    fn uuid<T>(self, raw: &[u8], parse: fn(&[u8]) -> Option<T>) -> Result<T, WireError> {
        parse(raw).ok_or(self.invalid("does not have 16 bytes"))
    }
}

/// Whole milliseconds; 49 days at most.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A text for people, cut to what the peer accepts: a long reason must not end the connection.
fn for_people(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

/// Each element for the wire.
fn each<'a, D: 'a, W: From<&'a D>>(values: &'a [D]) -> Vec<W> {
    values.iter().map(W::from).collect()
}

/// Each element for the wire, of small types.
fn each_copy<D: Copy, W: From<D>>(values: &[D]) -> Vec<W> {
    values.iter().map(|value| W::from(*value)).collect()
}
