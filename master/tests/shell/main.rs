//! The master as its peers see it: a node in this process, talked to over gRPC.

mod chunks;
mod namespace;
mod repair;
mod restart;
mod sharing;
mod support;
