//! Chunk grants: who may write a chunk, agreed with every replica before the client hears of it.
//!
//! Grants of one chunk come one after another ([`Master::chunk_locks`]). What a client gets is one of
//! - a *created* grant: the chunk is new, its first frame makes the replicas, nobody is asked;
//! - the *live* lease again, or a share of it where several sessions write;
//! - a *new* epoch, installed at every replica (`install`), with a new version unless they are exactly
//!   the servers that the chunk record entitles.
//!
//! After every grant the file is looked at once more: if it was cut, remapped or recalled meanwhile the
//! grant is void and made again.

mod align;
pub mod install;
pub mod leases;
pub mod locate;
pub mod uneven;
pub mod unwritten;

use crate::master::Master;
use crate::opens::Opens;
use gfs_master_core::plan::{NoRoom, PlacementView, place};
use gfs_master_core::{Action, CoreResult, FileChunk, FileChunks};
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, Numbering, Replica};
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, Epoch, InodeId, MapGeneration, ServerId, SessionId, TruncateGeneration,
};
use gfs_proto::ops::HeldChunk;
use install::{Agreed, Agreement, Wanted};
use leases::Lease;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tracing::{debug, info};

/// A grant is tried anew so often when the file changes under it.
const ATTEMPTS_MAX: usize = 8;

/// A grant that failed in a client's hands.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The file.
    pub inode: InodeId,
    /// Position in it.
    pub index: ChunkIndex,
    /// The chunk of the grant.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who did not answer, or refused.
    pub suspects: Vec<ServerId>,
}

/// Who wants to write which chunk.
#[derive(Clone, Copy, Debug)]
struct Asked {
    session: SessionId,
    inode: InodeId,
    index: ChunkIndex,
}

/// The generations of a file that a grant belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generations {
    /// Of its size.
    pub truncate: TruncateGeneration,
    /// Of its chunk map.
    pub map: MapGeneration,
}

impl From<&FileChunks> for Generations {
    fn from(file: &FileChunks) -> Self {
        Self { truncate: file.truncate_generation, map: file.generation }
    }
}

fn numbering(opens: &Opens, asked: Asked) -> Result<Numbering, FsError> {
    opens.numbering(asked.session, asked.inode).ok_or(FsError::BadHandle)
}

/// The view without these servers, unless nobody else takes chunks.
fn without(mut up: PlacementView, avoided: &[ServerId]) -> PlacementView {
    if up.servers.iter().any(|s| s.accepts_chunks && !avoided.contains(&s.server)) {
        up.servers.retain(|s| !avoided.contains(&s.server));
    }
    up
}

impl Master {
    /// The right to write a chunk of a file that the session has open for writing.
    pub async fn grant_chunk(
        &self,
        session: SessionId,
        inode: InodeId,
        index: ChunkIndex,
    ) -> Result<ChunkGrant, FsError> {
        let asked = Asked { session, inode, index };
        numbering(&self.opens, asked)?;
        let _turn = self.chunk_locks.lock((inode, index)).await;
        for _ in 0..ATTEMPTS_MAX {
            let attempt = self.try_grant(asked).await;
            if let Some(grant) = attempt.inspect_err(|error| debug!(?asked, %error, "no grant"))? {
                return Ok(grant);
            }
        }
        Err(FsError::Unavailable)
    }

    /// One attempt; `None` if the file changed meanwhile.
    async fn try_grant(&self, asked: Asked) -> Result<Option<ChunkGrant>, FsError> {
        let numbering = numbering(&self.opens, asked)?;
        let file = self.store.view().chunks(asked.inode, asked.index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.into_iter().next() else {
            return self.allocate(asked, numbering).await;
        };
        if let Some(grant) = self.rejoin(asked, numbering, &chunk, generations) {
            return Ok(Some(grant));
        }
        let wanted = Wanted { chunk: &chunk, generations, numbering, suspects: &[], raise: false };
        self.agree_and_grant(asked, &wanted).await
    }

    /// The chain broke: the same right again, under a new version on the replicas that live.
    pub async fn break_chunk(&self, session: SessionId, broken: Broken) -> Result<ChunkGrant, FsError> {
        let asked = Asked { session, inode: broken.inode, index: broken.index };
        numbering(&self.opens, asked)?;
        info!(%session, chunk = %broken.handle, suspects = ?broken.suspects, "a client's chain broke");
        let _turn = self.chunk_locks.lock((broken.inode, broken.index)).await;
        let suspects = self.still_suspect(&broken);
        for _ in 0..ATTEMPTS_MAX {
            let numbering = numbering(&self.opens, asked)?;
            let file = self.store.view().chunks(asked.inode, asked.index, 1)?;
            let generations = Generations::from(&file);
            let chunk = file.chunks.into_iter().next().filter(|chunk| chunk.handle == broken.handle);
            // Cut off or remapped since: what the client holds is void.
            let chunk = chunk.ok_or(FsError::StaleGrant)?;
            let newer = self.leases.get(chunk.handle, Instant::now()).is_some_and(|l| l.epoch > broken.epoch);
            if newer && let Some(grant) = self.rejoin(asked, numbering, &chunk, generations) {
                return Ok(grant); // Somebody else reported it first, or our answer was lost.
            }
            let wanted = Wanted { chunk: &chunk, generations, numbering, suspects: &suspects, raise: true };
            if let Some(grant) = self.agree_and_grant(asked, &wanted).await? {
                return Ok(grant);
            }
        }
        Err(FsError::Unavailable)
    }

    /// Those that failed the client in the run that they are in still. One that was started again since
    /// has thereby explained itself: if it is left out for good the chunk has one copy less.
    fn still_suspect(&self, broken: &Broken) -> Vec<ServerId> {
        let lease = self.leases.get(broken.handle, Instant::now()).filter(|lease| lease.epoch == broken.epoch);
        let members = lease.map_or_else(Vec::new, |lease| lease.members);
        let began_anew = |server: &ServerId| {
            members.iter().any(|(member, run)| member == server && self.servers.incarnation(*server) != Some(*run))
        };
        broken.suspects.iter().copied().filter(|server| !began_anew(server)).collect()
    }

    /// A client gives leases back. Nothing is said to the replicas: the next grant's epoch fences this
    /// one, and they flush by themselves what nobody writes.
    pub fn return_chunks(&self, session: SessionId, chunks: &[HeldChunk]) {
        for held in chunks {
            if let Some(lease) = self.leases.give_back(held.handle, held.epoch, session) {
                self.sizes.want(lease.inode);
            }
        }
    }

    /// Servers for a new chunk, at least one; the avoided ones only if no other takes chunks. Waits a little for
    /// servers that are just arriving, as all are when the master has started: a chunk keeps the copies that it
    /// begins with for some time.
    /// `Unavailable` if no server is up, `NoSpace` if none of those that are up has room.
    pub async fn choose_servers(&self, goal: u8, avoided: &[ServerId]) -> Result<Vec<ServerId>, FsError> {
        let seed = self.placements.fetch_add(1, Ordering::Relaxed);
        let chunk_bytes = self.store.genesis().chunk_size.get();
        let deadline = Instant::now() + self.timings.suspect_after;
        loop {
            let now = Instant::now();
            let up = without(self.servers.placement(now), avoided);
            let chosen: Result<Vec<ServerId>, NoRoom> = place(&up, goal, chunk_bytes, seed);
            let enough = chosen.as_ref().is_ok_and(|chosen| chosen.len() >= usize::from(goal));
            match self.servers.arriving(now) {
                Some(server) if !enough && now < deadline => self.servers.arrival(server, deadline).await,
                _ if up.servers.is_empty() => return Err(FsError::Unavailable),
                _ => return chosen.map_err(|NoRoom| FsError::NoSpace),
            }
        }
    }

    async fn allocate(&self, asked: Asked, numbering: Numbering) -> Result<Option<ChunkGrant>, FsError> {
        let attr = self.store.view().attr(asked.inode)?;
        let placement = self.choose_servers(attr.goal, &[]).await?;
        let action = Action::AllocateChunk { inode: asked.inode, index: asked.index, placement };
        let CoreResult::Allocated { chunk, created, generation } = self.commit_one(action).await? else {
            return Err(FsError::Io);
        };
        if !created {
            return Ok(None);
        }
        let generations = Generations { truncate: attr.truncate_generation, map: generation };
        let grant = self.created_grant(asked.session, &chunk, generations, numbering);
        Ok(self.confirm(asked, grant))
    }

    /// The grant of a chunk that was allocated just now: no replica exists, so nobody need agree.
    pub fn created_grant(
        &self,
        session: SessionId,
        chunk: &FileChunk,
        generations: Generations,
        numbering: Numbering,
    ) -> ChunkGrant {
        let entitled = &chunk.record.entitled;
        self.locations.assume(chunk.handle, chunk.record.version, entitled);
        self.servers.placed(entitled);
        let replicas: Vec<Replica> = entitled.iter().filter_map(|s| self.servers.replica(*s)).collect();
        let lease = Lease {
            handle: chunk.handle,
            inode: chunk.record.inode,
            index: chunk.index,
            version: chunk.record.version,
            epoch: self.leases.next_epoch(self.term()),
            numbering,
            members: replicas.iter().map(|r| (r.server, r.incarnation)).collect(),
            sessions: vec![session],
            truncate_generation: generations.truncate,
            created: true,
            broken: false,
            expires: Instant::now() + self.timings.lease,
        };
        let grant = self.grant_of(&lease, generations, replicas);
        self.leases.insert(lease);
        grant
    }

    fn grant_of(&self, lease: &Lease, generations: Generations, replicas: Vec<Replica>) -> ChunkGrant {
        ChunkGrant {
            inode: lease.inode,
            index: lease.index,
            handle: lease.handle,
            version: lease.version,
            epoch: lease.epoch,
            numbering: lease.numbering,
            created: lease.created,
            replicas,
            truncate_generation: generations.truncate,
            map_generation: generations.map,
            lease: self.timings.lease,
        }
    }

    /// The live lease of the chunk once more, if it still holds and the session may have a share of it.
    fn rejoin(
        &self,
        asked: Asked,
        numbering: Numbering,
        chunk: &FileChunk,
        generations: Generations,
    ) -> Option<ChunkGrant> {
        let now = Instant::now();
        let lease = self.leases.get(chunk.handle, now)?;
        let mine = lease.sessions == [asked.session] || numbering == Numbering::Primary;
        let same = lease.numbering == numbering
            && lease.version == chunk.record.version
            && lease.truncate_generation == generations.truncate;
        if lease.broken || !mine || !same || chunk.cut.is_some() {
            return None;
        }
        let replicas: Vec<Replica> = lease.members.iter().filter_map(|m| self.servers.replica_up(m.0, now)).collect();
        let alive = replicas.iter().map(|r| (r.server, r.incarnation)).eq(lease.members.iter().copied());
        if !alive {
            return None;
        }
        self.leases.join(chunk.handle, asked.session, now + self.timings.lease);
        Some(self.grant_of(&lease, generations, replicas))
    }

    /// Agreement of the replicas; where none was ever made, new ones may be begun: if none was reported
    /// since the chunk was allocated, or if the file does not reach it.
    async fn agree_or_begin(&self, asked: Asked, wanted: &Wanted<'_>) -> Result<Option<Agreed>, FsError> {
        let chunk = wanted.chunk;
        let agreement = match self.agree(wanted).await? {
            Agreement::Nowhere { away } => {
                if !away.is_empty() && self.others_may_begin(asked, chunk.handle) {
                    return Err(FsError::Unavailable);
                }
                let begins = self.store.genesis().chunk_size.start_of(chunk.index);
                let attr = self.sizes.overlay(self.store.view().attr(chunk.record.inode)?);
                // power cuts took what was never flushed, and no server may have been spared
                let is_lost = away.is_empty() && self.unwritten.is_unflushed(chunk.handle);
                if !is_lost && !self.unwritten.contains(chunk.handle) && attr.size > begins {
                    return Err(FsError::NoReplica);
                }
                self.create_again(wanted, &away).await?
            }
            other => other,
        };
        match agreement {
            Agreement::Reached(agreed) => Ok(Some(agreed)),
            Agreement::Changed => Ok(None),
            Agreement::Nowhere { .. } => Err(FsError::NoReplica),
        }
    }

    /// The master before this one may have let another session write the first frame. It cannot any more where the
    /// server has said that it has none: that fences it.
    fn others_may_begin(&self, asked: Asked, handle: ChunkHandle) -> bool {
        let now = Instant::now();
        self.inherits_leases(now)
            && !self.leases.is_leased(handle, now)
            && (!self.everybody_is_back() || self.opens.others_write(asked.session, asked.inode))
    }

    async fn agree_and_grant(&self, asked: Asked, wanted: &Wanted<'_>) -> Result<Option<ChunkGrant>, FsError> {
        let Some(agreed) = self.agree_or_begin(asked, wanted).await? else { return Ok(None) };
        let lease = Lease {
            handle: wanted.chunk.handle,
            inode: asked.inode,
            index: asked.index,
            version: agreed.version,
            epoch: agreed.epoch,
            numbering: wanted.numbering,
            members: agreed.replicas.iter().map(|r| (r.server, r.incarnation)).collect(),
            sessions: vec![asked.session],
            truncate_generation: wanted.generations.truncate,
            created: agreed.created,
            broken: false,
            expires: Instant::now() + self.timings.lease,
        };
        let grant = self.grant_of(&lease, wanted.generations, agreed.replicas);
        self.leases.insert(lease);
        Ok(self.confirm(asked, grant))
    }

    /// The lease is in the table; a cut, a removal or a recall that came meanwhile either finds it there
    /// or is seen here.
    fn confirm(&self, asked: Asked, grant: ChunkGrant) -> Option<ChunkGrant> {
        let numbering = self.opens.numbering(asked.session, asked.inode);
        let file = self.store.view().chunks(asked.inode, asked.index, 1).ok()?;
        let mapped = file.chunks.first().is_some_and(|chunk| chunk.handle == grant.handle && chunk.cut.is_none());
        if mapped && file.truncate_generation == grant.truncate_generation && numbering == Some(grant.numbering) {
            return Some(grant);
        }
        self.leases.give_back(grant.handle, grant.epoch, asked.session);
        None
    }
}
