//! The fault machine: real clusters under load, faults on purpose, and checkers that know what was promised.
//!
//! A [`Scenario`] is data: how the cluster is, what is done to it and how often. [`run`] starts the cluster and the
//! [`workload`]s, which are processes of their own and say before and after each operation what they do; lets a
//! [`nemesis`] do its worst; and gives the [`history`] to the [`check`]ers. What they find is counted in a
//! [`report::Tally`] for each invariant. `gfs-faults` is the program, `just faults` runs all of it.
//!
//! Nothing here knows how the file system works inside, but for the files of the replicas (`crate::replicas`).

pub mod check;
pub mod disk;
pub mod history;
pub mod nemesis;
pub mod plan;
pub mod report;
pub mod run;
pub mod tag;
pub mod workload;

pub use plan::{Scenario, scenarios};
pub use run::{Settings, run};
