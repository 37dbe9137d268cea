//! The data server: frames from clients and other chunkservers over TCP and a Unix socket.
//!
//! ```text
//! listener -> connection: read a frame -> will it wait? no:  answer it, read on
//!                                                       yes: another task reads on, this one answers
//! ```
//! So a request that waits for a disk, for its turn or for another server never holds up those behind
//! it, and one that does not wait costs no change of task.

mod connection;
mod direct;
mod lend;
mod listener;
mod read;
mod sums;
mod sync;
mod write;

pub use listener::{BindError, DataServer, Limits, Listeners, bind};

use gfs_proto::frame::DataError;
use gfs_proto::ids::ServerId;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Why a request failed, and through whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) error: DataError,
    /// Where, if it was not here.
    pub(crate) culprit: Option<ServerId>,
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self { error, culprit: None }
    }
}

/// True if the runtime can go on elsewhere while this thread waits (a test's single thread cannot).
fn can_block() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Runs what may wait for a disk without holding up other tasks.
pub(crate) fn may_block<T>(work: impl FnOnce() -> T) -> T {
    if can_block() { tokio::task::block_in_place(work) } else { work() }
}

/// As [`may_block`], for a future whose steps may wait for a disk.
async fn may_block_on<T>(work: impl Future<Output = T>) -> T {
    if can_block() { tokio::task::block_in_place(|| Handle::current().block_on(work)) } else { work.await }
}
