//! The store: redb tables under an in-memory delta.

use crate::command::Command;
use crate::outcome::{Applied, Outcome};
use crate::view::View;
use gfs_proto::ids::{ClusterId, LogIndex, RestoreGeneration, Term};
use gfs_proto::layout::ChunkSize;
use gfs_proto::time::Timestamp;
use thiserror::Error;

/// What a cluster is formatted with; never changes (but the restore generation, which only grows).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// Of all its chunks.
    pub chunk_size: ChunkSize,
    /// Default replication goal; the root directory's.
    pub goal: u8,
    /// In the upper bits of all ids.
    pub restore_generation: RestoreGeneration,
    /// When it was formatted; the root directory's times.
    pub created: Timestamp,
}

/// Why the store cannot be used. All are final: the process must end (or never start).
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("the metadata database failed")]
    Database(#[from] redb::Error),
    /// `format` on a database that has something in it.
    #[error("the metadata database is not empty")]
    NotEmpty,
    /// `open` on a database without a file system.
    #[error("the database holds no file system metadata")]
    NotFormatted,
    /// Written by a newer version.
    #[error("the metadata has format {found}, this master knows up to {known}: start a newer one")]
    Format {
        /// As found.
        found: u32,
        /// As known.
        known: u32,
    },
    /// A record that cannot be what we wrote.
    #[error("a record of table {table} is damaged (key {key:02x?})")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Its key.
        key: Vec<u8>,
    },
    /// An earlier error; the state may not be used any more.
    #[error("the metadata database failed before")]
    Failed,
}

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Name of the function in `invariants` that found it.
    pub invariant: &'static str,
    /// What is wrong, for people.
    pub detail: String,
}

/// All metadata of a cluster. Shared by reference between threads.
pub struct Store {}

impl Store {
    /// Writes an empty file system (the root directory, mode 0755, owned by root) durably.
    pub fn format(_db: redb::Database, _genesis: &Genesis) -> Result<Self, StoreError> {
        unimplemented!()
    }
    /// Opens what `format` made; refuses unknown format versions.
    pub fn open(_db: redb::Database) -> Result<Self, StoreError> {
        unimplemented!()
    }
    /// What the cluster was formatted with.
    pub fn genesis(&self) -> &Genesis {
        unimplemented!()
    }
    /// Last command whose effects are visible. After `open`: replay the log from the next one.
    pub fn applied(&self) -> Applied {
        unimplemented!()
    }
    /// Runs a command, the next of the log (asserted: index = applied + 1 or higher). One caller at a time. Waits for no
    /// disk but where metadata is not in memory. An error is about the database, not the command: the
    /// state is as before, nothing can be applied any more, the process must end.
    pub fn apply(&self, _index: LogIndex, _term: Term, _command: &Command) -> Result<Outcome, StoreError> {
        unimplemented!()
    }
    /// A consistent picture of the state. Holds a lock that `apply` waits for at its end: keep it for one
    /// request, not across an await (it is not `Send`), and never take a second one on the same thread
    /// while holding one (deadlock). Work on many rows takes a new view every few hundred.
    pub fn view(&self) -> View<'_> {
        unimplemented!()
    }
    /// Memory that is in the delta, about; what `freeze` and `merge` bring down.
    pub fn delta_bytes(&self) -> usize {
        unimplemented!()
    }
    /// Sets the active delta aside for `merge`. False if one is set aside already or nothing has changed.
    pub fn freeze(&self) -> bool {
        unimplemented!()
    }
    /// Writes the frozen delta to the database in one durable commit, beside `apply` and views; returns
    /// what is durable now (the log up to there may go). One caller at a time (others wait). Without a
    /// frozen delta it returns at once.
    pub fn merge(&self) -> Result<Applied, StoreError> {
        unimplemented!()
    }
    /// All invariants, over the whole state; empty if all is well. Slow (reads everything).
    pub fn check(&self) -> Result<Vec<Violation>, StoreError> {
        unimplemented!()
    }
    /// Hash of the whole logical state: equal on all replicas after the same log, whatever was merged.
    pub fn digest(&self) -> Result<u128, StoreError> {
        unimplemented!()
    }
}
