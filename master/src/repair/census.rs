//! Chunks counted by health, and by what depends on a server. Walks over all chunks.

use crate::master::Master;
use gfs_master_core::ChunkRecord;
use gfs_master_core::plan::{Health, RepairView, Standing, health};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ServerId};
use std::collections::BTreeMap;
use std::time::Instant;

/// Chunks that are looked at under one view of the state.
const PAGE: usize = 512;

/// What depends on one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dependent {
    /// Chunks whose record names it, and of which it has or may have a replica.
    pub chunks: u64,
    /// Of these, those that can be read nowhere else.
    pub last_copies: u64,
    /// Of these, those that have readable copies elsewhere, but fewer than are wanted.
    pub fewer: u64,
    /// Of these, those that have one only.
    pub single: u64,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// With as many readable copies as wanted.
    pub healthy: u64,
    /// With fewer and at least one: how many lack one copy, two, …
    pub missing: Vec<u64>,
    /// Of these, with one readable copy only.
    pub at_risk: u64,
    /// Without any, while a server that may have one is expected back, or a suspect one can be adopted.
    pub unavailable: u64,
    /// Without any.
    pub lost: u64,
    /// By server.
    pub dependents: BTreeMap<ServerId, Dependent>,
}

impl Census {
    /// With fewer copies than wanted, and at least one.
    pub fn degraded(&self) -> u64 {
        self.missing.iter().sum()
    }

    fn add(&mut self, health: Health, goal: u8) {
        match health {
            Health::Healthy => self.healthy += 1,
            Health::Lost => self.lost += 1,
            Health::Unavailable => self.unavailable += 1,
            Health::Missing(copies) => {
                let at = usize::from(copies).saturating_sub(1);
                if self.missing.len() <= at {
                    self.missing.resize(at + 1, 0);
                }
                self.missing[at] += 1;
                self.at_risk += u64::from(copies + 1 == goal);
            }
        }
    }
}

impl Master {
    /// Counts all chunks. Takes microseconds for each: not to be called where others wait.
    pub fn census(&self) -> Result<Census, FsError> {
        let (mut census, mut after) = (Census::default(), None);
        loop {
            let page = self.store.view().all_chunks(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(census) };
            after = Some(*last);
            let view = self.servers.repair_view(Instant::now());
            page.iter().for_each(|(handle, record)| self.count(&mut census, &view, *handle, record));
        }
    }

    fn count(&self, census: &mut Census, view: &RepairView, handle: ChunkHandle, record: &ChunkRecord) {
        if self.unwritten.contains(handle) {
            // It is a hole still, or about to be written.
            census.healthy += 1;
            return;
        }
        let copies = self.copies_of(handle, record);
        census.add(health(view, &copies), record.goal);
        let live = |server: &ServerId| view.get(server).is_some_and(|known| known.standing == Standing::Live);
        for server in &record.entitled {
            let has = copies.current.contains(server);
            if has || !live(server) {
                let dependent = census.dependents.entry(*server).or_default();
                dependent.chunks += 1;
                let elsewhere = copies.current.iter().filter(|other| *other != server && live(other)).count();
                dependent.last_copies += u64::from(elsewhere == 0);
                let fewer = elsewhere > 0 && elsewhere < usize::from(record.goal);
                dependent.fewer += u64::from(fewer);
                dependent.single += u64::from(fewer && elsewhere == 1);
            }
        }
    }
}
