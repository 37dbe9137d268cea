//! The chunkserver: keeps chunk replicas in ordinary files and moves their bytes (GFS paper, 2.6 and 3).
//!
//! [`store`] owns the bytes on disk and knows nothing of the network. [`chain`] orders mutations and is
//! pure; [`grants`] lets them through one by one. [`server`] speaks the data protocol, [`link`] the
//! control stream with the master; [`scrub`] looks for damage; [`loans`] says what clients may read without it; [`node`] is what they
//! share.

pub mod chain;
pub mod clock;
pub mod config;
pub mod grants;
pub mod lease;
pub mod link;
pub mod loans;
pub mod net;
pub mod node;
pub mod outbox;
pub mod peers;
pub mod pulse;
pub mod run;
pub mod scrub;
pub mod server;
pub mod store;
pub mod workers;
