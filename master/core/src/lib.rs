//! The pure part of the master: durable state, the mutations of it, its invariants, planners.
//!
//! A [`Store`] holds all metadata: redb tables under an in-memory delta. [`Store::apply`] runs logged
//! [`Command`]s one after another, deterministically; [`Store::view`] reads, many at once, and never
//! waits for the disk but where metadata is not in memory. Nothing here knows a clock, randomness,
//! threads, the network or a log line; the only I/O is that of the database handed in.
//!
//! How the shell drives it:
//!
//! ```text
//! leader:  view -> choose (time, servers, openers) -> Command::encode -> log -> apply -> reply
//! all:     log  -> Command::decode -> apply
//! thread:  delta_bytes() > limit -> freeze() -> merge() -> the log below merge()'s index may go
//! start:   open(db) -> replay the log after applied()
//! ```

mod access;
mod apply;
mod command;
mod encode;
mod invariants;
mod nesting;
mod ops;
mod outcome;
pub mod plan;
mod queries;
mod record;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod xattrs;

pub use command::{Action, Command, CoreBatch, Mend, Openers, SizeRecord, Stamp, StampedOp};
pub use encode::DecodeError;
pub use invariants::{Beyond, Examination, Violation};
pub use outcome::{
    Afterlife, Applied, ChunkRecord, CoreMade, CoreResult, Duty, FileChunk, FileChunks, GarbageChunk, Orphan, Outcome,
    PendingCut, Quarantined, Removed, ServerRecord, SessionRecord, Stats, Unclaimed, UnclaimedCause,
};
pub use store::{Genesis, Store, StoreError};
pub use view::{Snapshot, View};
