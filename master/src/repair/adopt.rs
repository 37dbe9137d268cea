//! Makes a suspect copy count where no other does: after all servers of a chunk have lost power.
//!
//! ```text
//!   lock the chunk --> nobody has a copy that counts, nobody is awaited --> Entitle(the chosen one alone) is logged
//!   --> Adopt at it, under a version above all others --> RaiseVersion is logged --> unlock; others are stale
//! ```
//! Any of them will do: a flush is acknowledged by all members, so each has every byte that was flushed, and
//! one that is ahead of the record (its raise was not logged) has the content of the recorded version.
//!
//! The choice is logged first, so that there is never more than one adopted copy that counts, nor one beside
//! a good copy that comes late: they may differ. If result, server or master are lost after that the same one
//! is adopted again, or found adopted: then it is ahead of the record and treated as any other that is. Only a
//! server that refuses gives its place back to all.

use super::StepError;
use crate::grants::Generations;
use crate::grants::install::{Lost, Wanted};
use crate::master::Master;
use crate::servers::Presence;
use crate::servers::link::CommandError;
use crate::servers::locations::{Known, Located};
use gfs_master_core::plan::adoptable;
use gfs_master_core::{Action, ChunkRecord};
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::control::{ChunkCommand, CommandOutcome, ReplicaRow};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use std::time::Instant;
use tracing::{info, warn};

/// A replica that is to count.
#[derive(Clone, Copy)]
struct Adoption {
    handle: ChunkHandle,
    server: ServerId,
    /// Version that it has.
    version: ChunkVersion,
    /// Version that it gets: above all that are known.
    raise_to: ChunkVersion,
}

impl Master {
    /// Makes the server's suspect copy the one that counts, if it still may be.
    pub(super) async fn adopt_copy(&self, handle: ChunkHandle, server: ServerId) -> Result<(), StepError> {
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        let record = self.fit_for_adoption(handle, server).await?;
        let located = self.locations.of(handle);
        let version = located.iter().find(|row| row.server == server).ok_or(StepError::Changed)?.version;
        let newest = located.iter().map(|row| row.version).max().unwrap_or(version).max(record.version);
        let adoption = Adoption { handle, server, version, raise_to: newest.next() };
        let lost =
            record.entitled.iter().filter(|other| self.servers.presence(**other, Instant::now()) != Presence::Up);
        let lost: Vec<Lost> = lost.map(|other| Lost::Away(*other, self.servers.incarnation(*other))).collect();
        let silenced = self.fenced(&lost).await;
        self.choose_alone(adoption, &record).await?;
        let row = match self.adopt_at(adoption).await {
            Err(StepError::Command(CommandError::Refused { error, detail })) => {
                self.choose_again(adoption, &record).await?;
                return Err(CommandError::Refused { error, detail }.into());
            }
            other => other?,
        };
        let (version, entitled) = (adoption.raise_to, vec![server]);
        self.commit_one(Action::RaiseVersion { handle, version, entitled, unwritten: false }).await?;
        drop(silenced);
        self.adopted(&row, adoption)
    }

    /// Has copies that are ahead of the record agree on a version that is logged.
    pub(super) async fn log_raise(&self, handle: ChunkHandle) -> Result<(), StepError> {
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        Ok(self.heal(record.inode, record.index).await?)
    }

    /// The record, if the server's copy may be adopted. A lease that there is ends: whoever holds it needs a copy that
    /// is suspect now as a member.
    async fn fit_for_adoption(&self, handle: ChunkHandle, server: ServerId) -> Result<ChunkRecord, StepError> {
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let file = self.store.view().chunks(record.inode, record.index, 1)?;
        let generations = Generations::from(&file);
        let chunk = file.chunks.into_iter().find(|chunk| chunk.handle == handle).ok_or(StepError::Changed)?;
        let wanted = Wanted { chunk: &chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        let copies = self.copies_of(handle, &chunk.record);
        if !adoptable(&self.servers.repair_view(Instant::now()), &copies).contains(&server) {
            return Err(StepError::Changed);
        }
        self.leases.remove(handle);
        if !self.is_nowhere_else(&wanted).await {
            return Err(StepError::Changed);
        }
        Ok(chunk.record)
    }

    /// From here on no other copy counts, whoever comes back.
    async fn choose_alone(&self, adoption: Adoption, record: &ChunkRecord) -> Result<(), FsError> {
        let Adoption { handle, server, .. } = adoption;
        let (version, from) = (record.version, record.entitled.clone());
        if from == [server] {
            return Ok(());
        }
        self.commit_one(Action::Entitle { handle, version, from, to: vec![server] }).await.map(drop)
    }

    /// It could not be adopted for certain: another may be chosen.
    async fn choose_again(&self, adoption: Adoption, record: &ChunkRecord) -> Result<(), FsError> {
        let Adoption { handle, server, .. } = adoption;
        let (version, to) = (record.version, record.entitled.clone());
        if to == [server] {
            return Ok(());
        }
        self.commit_one(Action::Entitle { handle, version, from: vec![server], to }).await.map(drop)
    }

    async fn adopt_at(&self, adoption: Adoption) -> Result<ReplicaRow, StepError> {
        let Adoption { handle, server, version, raise_to } = adoption;
        let command = ChunkCommand::Adopt { handle, version, raise_to };
        match self.servers.command_within(server, command, self.timings.copy).await? {
            CommandOutcome::Replica(row) if row.handle == handle && row.version == raise_to => Ok(row),
            _ => Err(FsError::Protocol.into()),
        }
    }

    /// It counts: readers and writers are told of it from here on.
    fn adopted(&self, row: &ReplicaRow, adoption: Adoption) -> Result<(), StepError> {
        let Adoption { handle, server, version: from, raise_to: version } = adoption;
        self.unwritten.flushed(handle);
        self.locations.set(handle, Located { server, version, known: Known::Reported(row.state) });
        self.discard_stale(handle);
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let (length, needed) = (u64::from(row.length), self.bytes_of(&record));
        info!(chunk = %handle, %server, %from, %version, length, "no copy counted: a suspect one was adopted");
        if length < needed {
            warn!(chunk = %handle, %server, length, needed, "the adopted copy is shorter than its file: the rest is zeroes");
        }
        self.compare_length(&self.store.view(), &record, row);
        Ok(())
    }
}
