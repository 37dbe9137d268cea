//! Work that may take a while on a worker of the runtime.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs work that may take long without holding up the other tasks of this worker; as it is where there is
/// one worker alone, in a test or a simulation.
pub(crate) fn may_block<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
