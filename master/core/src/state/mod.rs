//! The durable state in layers: tables of the database under deltas in memory, read as one.
//!
//! Knows keys and records, no rule of the file system; `ops` has those.

pub(crate) mod delta;
pub(crate) mod layers;
mod read;
pub(crate) mod table;
mod tables;

pub(crate) use read::{File, Read};
pub(crate) use tables::Tables;
