//! Harness of the end-to-end tests: real clusters, started from the real programs.
//!
//! [`scenario`] gives a test a [`Cluster`] of its own: processes, directories, ports and mounts that
//! nobody else uses, taken down when the test ends, however it ends. If it fails, the logs of all
//! processes are part of the message. A test never sleeps: it waits for a condition with [`until`].
//!
//! A test that starts a process must not have files of a mount open: the new process begins with copies
//! of them, and its exec closes these, which asks the mount. [`Load`] and [`Script`] work on files from
//! processes of their own.

mod cluster;
mod daemon;
mod data;
pub mod faults;
mod load;
mod mounts;
mod network;
mod ports;
mod power;
mod programs;
mod replicas;
pub mod rot;
mod scenario;
mod script;
pub mod sim;
mod small;
mod wait;
mod wall_clock;

pub use cluster::{Cluster, Options};
pub use daemon::Daemon;
pub use data::{Stream, sha256_of};
pub use load::{Left, Load};
pub use mounts::{answers, detach, is_mounted};
pub use network::Network;
pub use ports::free_port;
pub use programs::{environment_is_fit, program};
pub use replicas::replicas;
pub use scenario::scenario;
pub use script::{Ran, Running, Script, sh};
pub use small::Small;
pub use wait::until;
