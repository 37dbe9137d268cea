//! What two processes of the file system must agree on: ids, limits, errors, gRPC services,
//! data-plane frames, checksums. No I/O, no clock, no policy.
//!
//! Inside every other crate only the domain types of this one are used; the generated wire types in
//! [`wire`] are named by RPC modules alone, which convert with `From`/`TryFrom` at the edge.

pub mod attr;
pub mod board;
pub mod caller;
pub mod checksum;
pub mod chunk;
pub mod chunk_file;
pub mod control;
pub mod convert;
pub mod error;
pub mod frame;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod message;
pub mod mutant;
pub mod name;
pub mod ops;
pub mod time;
pub mod units;

/// Types and services generated from `proto/gfs/v1/*.proto`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files carry the documentation"
)]
pub mod wire {
    tonic::include_proto!("gfs.v1");
}

pub use error::FsError;
