//! Commands as bytes of the operation log: protobuf `gfs.v1.LoggedCommand`.

use crate::command::Command;
use gfs_proto::convert::WireError;
use thiserror::Error;

/// Why a log record is no command of ours.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// Written by a newer master.
    #[error("the log has a command of format {found}, this master knows up to {known}: start a newer one")]
    Format {
        /// As found.
        found: u32,
        /// As known.
        known: u32,
    },
    /// Not protobuf.
    #[error("a command in the log is not readable")]
    Bytes(#[from] prost::DecodeError),
    /// Protobuf, but not what we write.
    #[error("a command in the log is not valid")]
    Field(#[from] WireError),
    /// A part is missing or out of range.
    #[error("a command in the log has no valid {0}")]
    Invalid(&'static str),
}

impl Command {
    /// The bytes to be logged.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        unimplemented!()
    }
    /// From the bytes of a log entry.
    pub fn decode(_bytes: &[u8]) -> Result<Self, DecodeError> {
        unimplemented!()
    }
}
