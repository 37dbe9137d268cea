//! Chunks listed for people, a bounded page at a time: by health, or those replicas that are kept aside.

use crate::master::Master;
use gfs_master_core::plan::{Health, health};
use gfs_master_core::{ChunkRecord, Quarantined};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ServerId};
use std::time::Instant;

/// Chunks looked at for one page, so that no view of the state is held for long.
const LOOKED_AT_MAX: usize = 4096;

/// Which chunks.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Only of this health.
    pub health: Option<Name>,
    /// Only those that have, or should have, a replica there.
    pub server: Option<ServerId>,
    /// After this one.
    pub after: Option<ChunkHandle>,
    /// At most so many.
    pub limit: usize,
}

/// A [`Health`] as people call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// As many readable copies as wanted.
    Healthy,
    /// Fewer, at least one.
    Missing,
    /// None, for the time being.
    Unavailable,
    /// None.
    Lost,
    /// Blocks of it are damaged in every copy.
    Damaged,
    /// Allocated; no server has been seen to have it.
    Unwritten,
}

impl Name {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Healthy, Self::Missing, Self::Unavailable, Self::Lost, Self::Damaged, Self::Unwritten];

    /// As printed.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
            Self::Unwritten => "unwritten",
        }
    }
}

/// A chunk with its copies.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The chunk.
    pub handle: ChunkHandle,
    /// As logged.
    pub record: ChunkRecord,
    /// How it stands.
    pub health: Name,
    /// Servers with a copy that can be read.
    pub current: Vec<ServerId>,
}

/// A page, and where the next one begins if there may be one.
#[derive(Clone, Debug)]
pub struct Listing {
    /// In order of handle.
    pub chunks: Vec<Listed>,
    /// The last one looked at; none at the end.
    pub next: Option<ChunkHandle>,
}

/// A page of what is kept aside, and where the next one begins if there may be one.
#[derive(Clone, Debug)]
pub struct AsideListing {
    /// In order of handle and server.
    pub replicas: Vec<Quarantined>,
    /// The last one looked at; none at the end.
    pub next: Option<(ChunkHandle, ServerId)>,
}

impl Master {
    /// Chunks with their health.
    pub fn list_chunks(&self, wanted: &Wanted) -> Result<Listing, FsError> {
        let page = self.store.view().all_chunks(wanted.after, LOOKED_AT_MAX)?;
        let servers = self.servers.repair_view(Instant::now());
        let (mut chunks, mut last) = (Vec::new(), None);
        let whole = page.len() < LOOKED_AT_MAX;
        for (handle, record) in page {
            if chunks.len() >= wanted.limit {
                return Ok(Listing { chunks, next: last });
            }
            last = Some(handle);
            let copies = self.copies_of(handle, &record);
            let health = match health(&servers, &copies) {
                _ if self.unwritten.contains(handle) => Name::Unwritten,
                _ if self.repair.has_given_up(handle) => Name::Damaged,
                Health::Healthy => Name::Healthy,
                Health::Missing(_) => Name::Missing,
                Health::Unavailable => Name::Unavailable,
                Health::Lost => Name::Lost,
            };
            let there = |server: &ServerId| copies.current.contains(server) || record.entitled.contains(server);
            if wanted.health.is_none_or(|only| only == health) && wanted.server.as_ref().is_none_or(there) {
                chunks.push(Listed { handle, record, health, current: copies.current });
            }
        }
        Ok(Listing { chunks, next: if whole { None } else { last } })
    }

    /// Replicas that are kept aside.
    pub fn list_quarantine(
        &self,
        server: Option<ServerId>,
        after: Option<(ChunkHandle, ServerId)>,
        limit: usize,
    ) -> Result<AsideListing, FsError> {
        let mut page = self.store.view().quarantine(after, limit)?;
        let next = page.last().filter(|_| page.len() == limit).map(|last| (last.replica.handle, last.replica.server));
        page.retain(|aside| server.is_none_or(|only| only == aside.replica.server));
        Ok(AsideListing { replicas: page, next })
    }
}
