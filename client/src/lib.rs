//! The client library: a session with the master, caches of names and attributes, open files, and
//! under them the data plane that reads and writes chunks.
//!
//! [`Client`] is the whole interface: POSIX operations on inode numbers, as a mount needs them, and
//! [`Client::resolve`] for paths. It knows nothing of FUSE and prints nothing.
//! Every operation that is begun with [`Client::bounded`] ends within [`ClientConfig::timeout`].

mod authority;
mod cache;
pub mod config;
pub mod data;
#[cfg(test)]
mod fake_master;
mod files;
mod fs;
mod operation;
mod retry;
mod session;
mod types;

pub use config::{ClientConfig, ConnectError};
pub use data::{ReplicaError, ReplicaPart, ReplicaRange};
pub use fs::Client;
pub use session::{Dial, Dialling, RequestReader, RequestWriter, Requesting, Writable};
pub use types::{
    Allocate, ClusterInfo, DirHandle, DirItem, DirItems, Entry, FileHandle, Lookup, OpenFlags, Opened, Seek, WriteFlags,
};
