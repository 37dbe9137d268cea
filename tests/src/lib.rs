//! Harness of the end-to-end tests: real clusters, started from the real programs.
//!
//! [`scenario`] gives a test a [`Cluster`] of its own: processes, directories, ports and mounts that
//! nobody else uses, taken down when the test ends, however it ends. If it fails, the logs of all
//! processes are part of the message. A test never sleeps: it waits for a condition with [`until`].

mod cluster;
mod daemon;
mod data;
mod mounts;
mod ports;
mod programs;
mod scenario;
mod script;
mod wait;

pub use cluster::{Cluster, Options};
pub use daemon::Daemon;
pub use data::{Stream, sha256_of};
pub use mounts::{detach, is_mounted};
pub use ports::free_port;
pub use programs::{environment_is_fit, program};
pub use scenario::scenario;
pub use script::{Ran, Script, sh};
pub use wait::until;
