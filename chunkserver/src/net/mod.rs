//! Bytes on sockets: TCP and Unix alike, frames in and out, connections to other data servers. Knows
//! frames but neither chunks nor leases.

pub mod buffer;
pub mod dial;
pub mod frames;
pub mod socket;
