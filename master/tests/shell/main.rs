//! The master as its peers see it: a node in this process, talked to over its port.

mod agree;
mod chunks;
mod connections;
mod integrity;
mod namespace;
mod power;
mod quarantine;
mod repair;
mod restart;
mod sharing;
mod support;
