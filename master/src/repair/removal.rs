//! Removes a copy that is not needed: recorded first, then deleted by command, under the chunk's lock. A
//! server that does not confirm falls silent before anybody may write the chunk again: what it still has
//! would be read as current otherwise.

use super::StepError;
use crate::grants::install::Lost;
use crate::master::Master;
use crate::servers::Presence;
use crate::servers::link::CommandError;
use gfs_master_core::Action;
use gfs_master_core::plan::{Step, Throttle, next_step};
use gfs_proto::FsError;
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ServerId};
use std::time::Instant;
use tracing::{debug, info};

impl Master {
    /// Removes the server's copy, if it still is one too many. `hold`: though the chunk is being written.
    pub(super) async fn remove_copy(&self, handle: ChunkHandle, server: ServerId, hold: bool) -> Result<(), StepError> {
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        let now = Instant::now();
        if !hold && self.may_be_leased(handle, now) {
            return Err(StepError::Leased);
        }
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let copies = self.copies_of(handle, &record);
        let anybody = Throttle::new(self.repair.settings.limits);
        if next_step(&self.servers.repair_view(now), &copies, &anybody) != Some(Step::Remove(server)) {
            return Err(StepError::Changed);
        }
        let run = self.servers.incarnation(server);
        // Its writer finds a member gone and asks for a new grant.
        self.leases.remove(handle);
        let (version, from) = (record.version, record.entitled);
        let to = from.iter().copied().filter(|other| *other != server).collect();
        self.commit_one(Action::Entitle { handle, version, from, to }).await?;
        let gone = self.delete(server, vec![SyncChunk { handle, version }]).await;
        if gone.is_some_and(|gone| gone.contains(&handle)) {
            debug!(chunk = %handle, %version, %server, "removed a copy that is not needed");
        } else {
            drop(self.fenced(&[Lost::Away(server, run)]).await);
        }
        Ok(())
    }

    /// Deletes replicas that the record does not entitle, on servers that are up.
    pub(super) async fn remove_strays(&self, handle: ChunkHandle) -> Result<(), StepError> {
        for (server, stray) in self.removable_strays(handle) {
            let gone = self.delete(server, vec![stray]).await.ok_or(CommandError::Absent)?;
            if gone.is_empty() {
                return Err(FsError::Io.into());
            }
            info!(chunk = %handle, version = %stray.version, %server, "removed a replica without entitlement");
        }
        Ok(())
    }

    /// Servers that are coming back are told when they have reported.
    pub(super) fn removable_strays(&self, handle: ChunkHandle) -> Vec<(ServerId, SyncChunk)> {
        let mut strays = self.strays(handle);
        strays.retain(|(server, _)| self.servers.presence(*server, Instant::now()) == Presence::Up);
        strays
    }
}
