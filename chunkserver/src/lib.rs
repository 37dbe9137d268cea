//! The chunkserver: keeps chunk replicas in ordinary files and moves their bytes (GFS paper, 2.6 and 3).
//!
//! [`store`] owns the bytes on disk and knows nothing of the network. [`chain`] orders mutations and is
//! pure. [`server`] speaks the data protocol, [`link`] the control stream with the master.

pub mod chain;
pub mod clock;
pub mod config;
pub mod store;
