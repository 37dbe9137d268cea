//! The metadata server: the state machine of `gfs-master-core` behind an operation log, with
//! everything volatile around it — sessions, opens, locations, leases — and the gRPC services.
//!
//! Durable state changes only through the log. What is in this crate's tables is lost with the
//! process and is rebuilt from what clients reclaim and chunkservers report.

mod blocking;
pub mod checkpoint;
pub mod chores;
pub mod chunk_list;
pub mod config;
pub mod data_dir;
pub mod duties;
pub mod fsck;
pub mod garbage;
pub mod gate;
pub mod grants;
pub mod keyed_lock;
pub mod lengths;
pub mod log;
pub mod master;
pub mod node;
pub mod opens;
pub mod quarantine;
pub mod reach;
pub mod repair;
pub mod requests;
pub mod rpc;
pub mod servers;
pub mod sessions;
pub mod sizes;
