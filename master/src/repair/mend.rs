//! Mends a damaged copy where it is: its server replaces each block that does not match by what the others have.
//!
//! ```text
//!   lock the chunk --> nobody holds a lease --> Install(new epoch) at every live replica --> unlock, unless held
//!   --> Mend at the damaged one, naming the others --> it counts again, or what nobody has is reported
//! ```
//! A grant that comes meanwhile does no harm: a server writes only over what does not match, under the lock that
//! excludes writers, so what somebody wrote in between stays.

use super::copy::HOLD_MAX;
use super::{Repair, StepError};
use crate::grants::Generations;
use crate::grants::install::Wanted;
use crate::master::Master;
use crate::servers::link::CommandError;
use crate::servers::locations::{Known, Located};
use futures_util::future::join_all;
use gfs_master_core::{ChunkRecord, FileChunk};
use gfs_proto::FsError;
use gfs_proto::chunk::{Numbering, Replica};
use gfs_proto::control::{ChunkCommand, CommandOutcome, Mended};
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use gfs_proto::limits::BLOCK_SIZE;
use std::time::{Duration, Instant};
use tracing::{error, info};

/// What nobody has is asked for again after this, or when other copies can be asked.
const INCURABLE_FOR: Duration = Duration::from_secs(600);
/// Chunks with such blocks that are remembered.
const INCURABLE_MAX: usize = 64 << 10;
/// A server is told to look at the same replica no sooner than after this.
const DOUBT_AGAIN: Duration = Duration::from_secs(5);
/// Replicas that somebody doubted lately, at most; beyond, reports are forgotten.
const DOUBTS_MAX: usize = 256;

/// Copies that were asked for what is damaged, in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Incurable {
    copies: Vec<(ServerId, ChunkVersion)>,
    since: Instant,
}

impl Repair {
    fn give_up(&self, handle: ChunkHandle, copies: Vec<(ServerId, ChunkVersion)>) {
        let mut incurable = self.incurable.lock();
        incurable.retain(|_, known| known.since.elapsed() < INCURABLE_FOR);
        if incurable.len() < INCURABLE_MAX {
            incurable.insert(handle, Incurable { copies, since: Instant::now() });
        }
    }

    /// Chunks with blocks that no copy has as they should be.
    pub fn incurable(&self) -> u64 {
        let mut incurable = self.incurable.lock();
        incurable.retain(|_, known| known.since.elapsed() < INCURABLE_FOR);
        incurable.len() as u64
    }

    /// True if nobody has asked the server for the same lately.
    fn may_doubt(&self, doubted: (ChunkHandle, ServerId)) -> bool {
        let mut doubts = self.doubts.lock();
        if doubts.len() >= DOUBTS_MAX {
            doubts.retain(|_, at| at.elapsed() < DOUBT_AGAIN);
        }
        let is_recent = doubts.get(&doubted).is_some_and(|at| at.elapsed() < DOUBT_AGAIN);
        if is_recent || doubts.len() >= DOUBTS_MAX {
            return false;
        }
        doubts.insert(doubted, Instant::now());
        true
    }
}

impl Master {
    /// Somebody says that a replica does not match its checksums. Its server looks, and says what it is; so what is
    /// wrong or forged does no harm.
    pub fn doubt(&self, handle: ChunkHandle, version: ChunkVersion, server: ServerId) {
        let is_there = |row: &Located| (row.server, row.version) == (server, version);
        if self.locations.of(handle).iter().any(is_there) && self.repair.may_doubt((handle, server)) {
            info!(chunk = %handle, %version, %server, "a replica is said to be damaged: its server looks at it");
            self.servers.hint(server, ChunkCommand::Verify(SyncChunk { handle, version }));
        }
    }

    /// Has one chunkserver, or all that are up, read all replicas now; which do, and the first round that counts as
    /// what was asked for.
    pub async fn begin_scrub(&self, server: Option<ServerId>) -> Vec<(ServerId, u64)> {
        let mut up = self.servers.statuses(Instant::now());
        up.retain(|status| server.is_none_or(|server| server == status.server));
        let begin = up.into_iter().map(|status| async move {
            let round = status.scrub.map_or(0, |scrub| scrub.round) + 1;
            let begun = self.servers.command(status.server, ChunkCommand::Scrub).await;
            begun.is_ok().then_some((status.server, round))
        });
        join_all(begin).await.into_iter().flatten().collect()
    }

    /// True if all that can be asked now was asked in vain for what is damaged.
    pub(super) fn is_incurable(&self, handle: ChunkHandle, record: &ChunkRecord) -> bool {
        let Some(known) = self.repair.incurable.lock().get(&handle).cloned() else { return false };
        known.since.elapsed() < INCURABLE_FOR && known.copies == self.copies_to_ask(handle, record)
    }

    fn copies_to_ask(&self, handle: ChunkHandle, record: &ChunkRecord) -> Vec<(ServerId, ChunkVersion)> {
        let now = Instant::now();
        let counts = |row: &Located| {
            let usable = row.version == record.version && row.known.usable() && record.entitled.contains(&row.server);
            usable && self.servers.replica_up(row.server, now).is_some()
        };
        let rows = self.locations.of(handle);
        let mut copies: Vec<_> = rows.iter().filter(|row| counts(row)).map(|row| (row.server, row.version)).collect();
        copies.sort_unstable();
        copies
    }

    /// Has the server mend its copy. `hold`: though the chunk is being written.
    pub(super) async fn mend_copy(&self, handle: ChunkHandle, server: ServerId, hold: bool) -> Result<(), StepError> {
        let record = self.store.view().chunk(handle)?.ok_or(StepError::Changed)?;
        let turn = self.chunk_locks.lock((record.inode, record.index)).await;
        let (chunk, peers) = self.fence_for_mend(handle, &record, (server, hold)).await?;
        let held = hold.then_some(turn);
        let asked = self.copies_to_ask(handle, &chunk.record);
        let version = chunk.record.version;
        let command = ChunkCommand::Mend { handle, version, peers: peers.clone() };
        let bound = if hold { self.timings.copy.min(HOLD_MAX) } else { self.timings.copy };
        let outcome = self.servers.command_within(server, command, bound).await;
        drop(held);
        match outcome {
            Ok(CommandOutcome::Mended(mended)) if mended.row.handle == handle => {
                let all_asked = peers.len() + 1 >= chunk.record.entitled.len();
                self.mended(&chunk, server, &mended, all_asked);
                if mended.blocks_lost > 0 {
                    self.repair.give_up(handle, asked);
                    // those that could not help are damaged too, and perhaps nobody knows
                    peers.iter().for_each(|peer| self.doubt(handle, version, peer.server));
                }
                Ok(())
            }
            Err(CommandError::Refused { error: FsError::Corrupt, detail }) if peers.is_empty() => {
                error!(chunk = %handle, inode = %record.inode, index = %record.index, %server,
                    "the header of the only copy is damaged: the chunk cannot be read");
                self.repair.give_up(handle, asked);
                Err(CommandError::Refused { error: FsError::Corrupt, detail }.into())
            }
            Ok(_) => Err(FsError::Protocol.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends what former leases may still do to any copy; those that can be asked for blocks. The caller holds the
    /// chunk's lock.
    async fn fence_for_mend(
        &self,
        handle: ChunkHandle,
        seen: &ChunkRecord,
        (server, hold): (ServerId, bool),
    ) -> Result<(FileChunk, Vec<Replica>), StepError> {
        if hold {
            self.leases.remove(handle);
        } else if self.may_be_leased(handle, Instant::now()) {
            return Err(StepError::Leased);
        }
        let file = self.store.view().chunks(seen.inode, seen.index, 1)?;
        let generations = Generations::from(&file);
        let chunk = file.chunks.into_iter().find(|chunk| chunk.handle == handle).ok_or(StepError::Changed)?;
        let rows = self.locations.of(handle);
        let is_its = |row: &&Located| row.server == server && row.version == chunk.record.version;
        if !rows.iter().find(is_its).is_some_and(|row| row.known.is_damaged()) {
            return Err(StepError::Changed);
        }
        let wanted = Wanted { chunk: &chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        let now = Instant::now();
        let fenced = self.fence(&wanted).await.into_iter().filter(|other| *other != server);
        let peers = fenced.filter_map(|other| self.servers.replica_up(other, now)).collect();
        Ok((chunk, peers))
    }

    fn mended(&self, chunk: &FileChunk, server: ServerId, mended: &Mended, all_asked: bool) {
        let Mended { row, blocks_mended, blocks_lost, lost } = mended;
        let (handle, version, record) = (row.handle, row.version, &chunk.record);
        self.locations.set(handle, Located { server, version, known: Known::Reported(row.state) });
        if *blocks_lost == 0 {
            info!(chunk = %handle, %version, %server, blocks = blocks_mended, "mended a damaged copy");
            self.repair.incurable.lock().remove(&handle);
            return;
        }
        let start = self.store.genesis().chunk_size.start_of(record.index);
        let offsets: Vec<u64> = lost.iter().map(|block| start + u64::from(*block) * u64::from(BLOCK_SIZE)).collect();
        let fate = match all_asked {
            true => "in every copy: restore them from elsewhere",
            false => "in every copy that is there: others are away, and are asked when they are back",
        };
        error!(inode = %record.inode, chunk = %handle, index = %record.index, %server, blocks = blocks_lost, ?offsets,
            "blocks of a file are damaged {fate}; reading them is an I/O error");
    }
}
