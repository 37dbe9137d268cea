//! Lending: a replica's file for a client on this machine to read by itself. See [`loans`](crate::loans).

use super::ChunkStore;
use super::disk::Disk;
use crate::loans::{Loans, Tenancy};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<D: Disk> ChunkStore<D> {
    /// The file of a replica, and where the board says whether it may be read. [`DataError::NotLent`] if it is not
    /// lent, [`DataError::Busy`] if it has no file of its own now. The caller looks for writes in flight afterwards.
    pub fn lend(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<(Arc<D::File>, Tenancy), DataError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(DataError::NotLent);
        }
        loop {
            let open = self.open_replica(handle)?;
            let mut live = open.live.write();
            if live.gone {
                continue;
            }
            live.check(version)?;
            if live.entry.damaged {
                return Err(DataError::NotLent);
            }
            let Some(file) = live.bytes.whole_file() else {
                // with others in a pack; one that grows gets a file of its own
                return Err(DataError::Busy);
            };
            let directory = self.directory(live.entry);
            let tenancy = live.lend(handle, &directory.loans).ok_or(DataError::NotLent)?;
            // one that failed meanwhile has revoked the loan, or is seen to have failed
            return if directory.in_service() { Ok((file, tenancy)) } else { Err(DataError::NotLent) };
        }
    }

    /// All loans of replicas.
    pub fn loans(&self) -> &Arc<Loans> {
        &self.loans
    }
}
