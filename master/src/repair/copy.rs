//! Makes one more copy of a chunk.
//!
//! ```text
//!   lock the chunk --> nobody holds a lease --> Install(new epoch) at every live replica: frames of former
//!   leases are refused --> unlock --> Copy at the target --> lock --> nobody agreed on anything meanwhile
//!   --> Entitle is logged: the copy counts --> unlock
//! ```
//! A new grant may come at any time; it marks the copy as disturbed, and the copy is deleted again. A chunk
//! that is written all the time is *held*: its lease ends, and whoever wants to write it waits for the copy,
//! which takes as long as a chunk takes to be moved, not for its turn in the queue.

use super::{StepError, WorkGuard};
use crate::grants::Generations;
use crate::grants::install::Wanted;
use crate::master::Master;
use crate::servers::link::CommandError;
use crate::servers::locations::{Known, Located};
use gfs_master_core::{Action, ChunkRecord, FileChunk};
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::control::{ChunkCommand, CommandOutcome, ReplicaRow, ReplicaState};
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ServerId};
use gfs_proto::limits::OPERATION_TIMEOUT;
use std::time::{Duration, Instant};
use tracing::debug;

/// A writer is held up no longer than this: it gives up after twice as long.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(OPERATION_TIMEOUT.as_secs() / 2);

/// What is to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copying {
    pub(super) handle: ChunkHandle,
    pub(super) source: ServerId,
    pub(super) target: ServerId,
    /// End the lease that there is, let nobody write until the copy is made.
    pub(super) hold: bool,
}

impl Master {
    /// Makes the copy; bytes that were moved.
    pub(super) async fn make_copy(&self, copying: Copying, work: &WorkGuard) -> Result<u64, StepError> {
        let Copying { handle, source, target, hold } = copying;
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let turn = self.chunk_locks.lock((record.inode, record.index)).await;
        let chunk = self.fence_source(copying, &record).await?;
        work.fenced();
        let held = hold.then_some(turn);
        let row = self.fetch(&chunk, copying).await.inspect_err(|error| {
            if matches!(error, StepError::Command(CommandError::Refused { error: FsError::Corrupt, .. })) {
                self.doubt(handle, chunk.record.version, source);
            }
        })?;
        let _turn = match held {
            Some(turn) => turn,
            None => self.chunk_locks.lock((record.inode, record.index)).await,
        };
        if work.is_disturbed() {
            self.discard_copy(&row, target).await;
            return Err(StepError::Changed);
        }
        if let Err(error) = self.entitle(&chunk, target).await {
            if matches!(error, FsError::StaleGrant | FsError::NotFound) {
                self.discard_copy(&row, target).await;
                return Err(StepError::Changed);
            }
            // Perhaps it was logged: if not, the replica is found as a stray one.
            return Err(error.into());
        }
        let known = Known::Reported(ReplicaState::Clean);
        self.locations.set(handle, Located { server: target, version: row.version, known });
        debug!(chunk = %handle, version = %row.version, from = %source, to = %target, bytes = row.length, "copied");
        Ok(row.length.into())
    }

    /// Ends what former leases may still do to the source. The caller holds the chunk's lock.
    async fn fence_source(&self, copying: Copying, seen: &ChunkRecord) -> Result<FileChunk, StepError> {
        let Copying { handle, source, hold, .. } = copying;
        if hold {
            self.leases.remove(handle);
        } else if self.may_be_leased(handle, Instant::now()) {
            return Err(StepError::Leased);
        }
        let file = self.store.view().chunks(seen.inode, seen.index, 1)?;
        let generations = Generations::from(&file);
        let chunk = file.chunks.into_iter().find(|chunk| chunk.handle == handle).ok_or(StepError::Changed)?;
        let wanted = Wanted { chunk: &chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        if self.locations.of(handle).iter().any(|row| row.version > chunk.record.version && row.known.usable()) {
            // A raise that was not logged: replicas have to agree before anything is copied.
            self.agree(&wanted).await?;
            return Err(StepError::Changed);
        }
        if !self.fence(&wanted).await.contains(&source) {
            return Err(StepError::Source);
        }
        Ok(chunk)
    }

    async fn fetch(&self, chunk: &FileChunk, copying: Copying) -> Result<ReplicaRow, StepError> {
        let Copying { source, target, hold, .. } = copying;
        let (handle, version) = (chunk.handle, chunk.record.version);
        let source = self.servers.replica_up(source, Instant::now()).ok_or(StepError::Source)?;
        let command = ChunkCommand::Copy { handle, version, source };
        let bound = if hold { self.timings.copy.min(HOLD_MAX) } else { self.timings.copy };
        match self.servers.command_within(target, command, bound).await? {
            CommandOutcome::Replica(row) if row.handle == handle && row.version == version => Ok(row),
            _ => Err(FsError::Protocol.into()),
        }
    }

    /// Records that the target has the current version.
    async fn entitle(&self, chunk: &FileChunk, target: ServerId) -> Result<(), FsError> {
        let (handle, version, from) = (chunk.handle, chunk.record.version, &chunk.record.entitled);
        if from.contains(&target) {
            // Its replica was lost or could not be used: the record stays as it is.
            let same = |record: ChunkRecord| record.version == version && record.entitled == *from;
            let stays = self.store.view().chunk(handle)?.is_some_and(same);
            return if stays { Ok(()) } else { Err(FsError::StaleGrant) };
        }
        let to = from.iter().copied().chain([target]).collect();
        self.commit_one(Action::Entitle { handle, version, from: from.clone(), to }).await.map(drop)
    }

    /// A copy that must not count is deleted at once. If that fails it is found as a stray one. The caller
    /// holds the chunk's lock.
    async fn discard_copy(&self, row: &ReplicaRow, target: ServerId) {
        let counts = |record: &ChunkRecord| record.version == row.version && record.entitled.contains(&target);
        if matches!(self.store.view().chunk(row.handle), Ok(Some(record)) if counts(&record)) {
            // It was recorded all along and had lost its replica. Who disturbed the copy has found it complete
            // and may have made it a member: otherwise the version would have been raised without it.
            return;
        }
        let chunk = SyncChunk { handle: row.handle, version: row.version };
        let gone = self.delete(target, vec![chunk]).await;
        debug!(chunk = %row.handle, server = %target, ?gone, "a copy was of no use: the chunk changed meanwhile");
    }
}
