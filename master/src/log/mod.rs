//! Operation log (GFS paper, 2.6.3): mutations are ordered, made durable and only then applied.
//!
//! ```text
//!  propose ──► group commit ──► raft (RawNode) ──► SegmentedLog ──► Disk
//!     ▲        `replicated`        `node`           `store`         `disk`
//!     └──────── StateMachine::apply, in log order, one thread at a time
//! ```
//!
//! It knows nothing of what a command means: payloads are bytes. Invariants: a proposal is answered
//! only after its record is on stable storage of a majority and applied; a record that was ever
//! acknowledged is never dropped, whatever the recovery finds; a failed fsync ends the process.

mod codec;
mod config;
mod disk;
mod error;
pub mod mem_disk;
mod members;
mod node;
mod raft_logger;
mod real_disk;
mod recovery;
mod replicated;
mod round;
mod segment;
mod storage;
mod store;

#[cfg(test)]
mod tests;

pub use config::{LogConfig, MemberId, Position, SEGMENT_BYTES_DEFAULT};
pub use disk::{AnyDisk, Disk, DiskFile};
pub use error::{Damage, LogError, LogFault};
pub use replicated::{OnFailure, ReplicatedLog};
pub use round::{LogStatus, Role, StateMachine};
