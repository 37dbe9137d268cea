//! A look at everything (`gfsctl fsck`): properties of the state, copies of chunks, what is kept aside. Changes nothing
//! unless asked to, and then by logged mutations, after which it looks again.
//!
//! The state is looked at on a snapshot, chunks in pages: requests go on meanwhile.

use crate::master::Master;
use gfs_master_core::plan::{Health, RepairView, health};
use gfs_master_core::{Action, Beyond, ChunkRecord, Mend, StoreError, Violation};
use gfs_proto::FsError;
use gfs_proto::ids::ChunkHandle;
use std::time::Instant;
use thiserror::Error;
use tracing::info;

/// Chunks looked at under one view of the state.
const PAGE: usize = 512;
/// Mends in one command.
const MENDS_MAX: usize = 256;
/// A mend may bring another damage to light.
const ROUNDS_MAX: usize = 5;
/// Findings of one kind that are told one by one; further ones are counted.
const TOLD_MAX: usize = 200;

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which property: a name of `invariants` in the core, or one of those here.
    pub property: &'static str,
    /// What is wrong, for people.
    pub detail: String,
    /// What would be, or was, done about it, for people; empty: nothing.
    pub repair: String,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fsck {
    /// At most so many of each kind as can be read.
    pub findings: Vec<Finding>,
    /// All of them.
    pub total: usize,
    /// Repairs that were made.
    pub repaired: usize,
    /// Chunks that were looked at.
    pub chunks: u64,
    /// Replicas that are kept aside: no finding, they have their time.
    pub aside: u64,
}

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum FsckError {
    /// The metadata cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A repair was not logged, or chunks cannot be looked up.
    #[error("{0}")]
    State(#[from] FsError),
}

/// Chunks by what is wrong with their copies.
#[derive(Default)]
struct Copies {
    looked_at: u64,
    lost: u64,
    unavailable: u64,
    missing: u64,
    surplus: u64,
    stale: u64,
    lost_chunks: Vec<(ChunkHandle, ChunkRecord)>,
}

impl Fsck {
    fn add(&mut self, property: &'static str, detail: String, repair: String) {
        self.total += 1;
        if self.findings.iter().filter(|known| known.property == property).count() < TOLD_MAX {
            self.findings.push(Finding { property, detail, repair });
        }
    }

    fn count(&mut self, property: &'static str, count: u64, what: &str, repair: &str) {
        if count > 0 {
            self.add(property, format!("{count} {what}"), repair.to_owned());
        }
    }
}

/// What a mend does, for people.
fn in_words(mend: &Mend) -> String {
    match mend {
        Mend::RemoveName { parent, name } => format!("remove {name:?} from directory {parent}"),
        Mend::AddLinks { inode, by } => format!("change the links of inode {inode} by {by}"),
        Mend::AddEntries { inode, by } => format!("change the entries of directory {inode} by {by}"),
        Mend::Rescue { inode } => format!("name it /lost+found/inode-{inode}"),
        Mend::DropChunk { handle } => format!("delete chunk {handle}"),
        Mend::ClearPlace { inode, index } => format!("make chunk {index} of file {inode} a hole"),
        Mend::AddChunks { inode, by } => format!("change the chunks of file {inode} by {by}"),
        Mend::AddCounts { .. } => "put the counts right".to_owned(),
    }
}

impl Master {
    /// Looks at everything; with `repair` puts right what can be, and looks again. Not to be called twice at a time with
    /// `repair`: counts would be changed twice.
    pub async fn fsck(&self, repair: bool) -> Result<Fsck, FsckError> {
        let mut repaired = 0;
        for _ in 0..if repair { ROUNDS_MAX } else { 0 } {
            let violations = tokio::task::block_in_place(|| self.store.examine())?.violations;
            let mends: Vec<Mend> = violations.into_iter().filter_map(|violation| violation.repair).collect();
            if mends.is_empty() {
                break;
            }
            repaired += mends.len();
            for mends in mends.chunks(MENDS_MAX) {
                info!(?mends, "the metadata is repaired");
                self.commit_one(Action::Mend { mends: mends.to_vec() }).await?;
            }
        }
        let mut found = tokio::task::block_in_place(|| self.look_at_everything())?;
        found.repaired = repaired;
        Ok(found)
    }

    fn look_at_everything(&self) -> Result<Fsck, FsckError> {
        let mut found = Fsck::default();
        let examination = self.store.examine()?;
        for Violation { invariant, detail, repair } in examination.violations {
            found.add(invariant, detail, repair.as_ref().map(in_words).unwrap_or_default());
        }
        for beyond in examination.beyond {
            if let Some(detail) = self.is_beyond(beyond)? {
                found.add("chunks_are_inside_files", detail, String::new());
            }
        }
        let copies = self.look_at_copies()?;
        for (handle, record) in &copies.lost_chunks {
            let path = self.store.view().path_of(record.inode)?.unwrap_or_default();
            let path = String::from_utf8_lossy(&path).into_owned();
            let detail =
                format!("chunk {handle} has no copy: chunk {} of {path} (inode {})", record.index, record.inode);
            found.add("chunks_have_copies", detail, String::new());
        }
        found.total += (copies.lost as usize).saturating_sub(copies.lost_chunks.len());
        found.count(
            "chunks_can_be_read",
            copies.unavailable,
            "chunks have no copy that can be read now",
            "none: chunkservers that may have one are awaited",
        );
        found.count(
            "chunks_have_enough_copies",
            copies.missing,
            "chunks have fewer copies than wanted",
            "made by themselves, see gfsctl status",
        );
        found.count(
            "chunks_have_no_surplus",
            copies.surplus,
            "chunks have more copies than wanted",
            "removed by themselves",
        );
        found.count(
            "replicas_are_current",
            copies.stale,
            "replicas are stale or nobody is entitled to them",
            "removed by themselves, or kept aside: gfsctl chunks --orphaned",
        );
        found.chunks = copies.looked_at;
        found.aside = self.count_aside()?;
        Ok(found)
    }

    /// What is wrong with a chunk behind the end of its file; nothing if somebody may be writing it, or never did.
    fn is_beyond(&self, beyond: Beyond) -> Result<Option<String>, FsError> {
        let Beyond { inode, index, handle } = beyond;
        let busy =
            self.opens.is_open(inode) || self.may_be_leased(handle, Instant::now()) || self.unwritten.contains(handle);
        let Ok(attr) = self.store.view().attr(inode) else { return Ok(None) };
        let size = self.sizes.overlay(attr).size;
        let inside = self.store.genesis().chunk_size.start_of(index) < size;
        Ok((!busy && !inside).then(|| format!("chunk {index} of file {inode} ({handle}) is behind its end at {size}")))
    }

    fn look_at_copies(&self) -> Result<Copies, FsError> {
        let (mut found, mut after) = (Copies::default(), None);
        loop {
            let page = self.store.view().all_chunks(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = Some(*last);
            let servers = self.servers.repair_view(Instant::now());
            for (handle, record) in page {
                self.look_at_chunk(&mut found, &servers, handle, record);
            }
        }
    }

    fn look_at_chunk(&self, found: &mut Copies, servers: &RepairView, handle: ChunkHandle, record: ChunkRecord) {
        found.looked_at += 1;
        if self.unwritten.contains(handle) {
            return;
        }
        let copies = self.copies_of(handle, &record);
        let counting = copies.current.len() - copies.failing.len().min(copies.current.len());
        found.surplus += u64::from(counting > usize::from(record.goal));
        let is_old = |row: &&crate::servers::locations::Located| {
            row.version < record.version || !record.entitled.contains(&row.server)
        };
        found.stale += self.locations.of(handle).iter().filter(is_old).count() as u64;
        match health(servers, &copies) {
            Health::Healthy => {}
            Health::Missing(_) => found.missing += 1,
            Health::Unavailable => found.unavailable += 1,
            Health::Lost => {
                found.lost += 1;
                if found.lost_chunks.len() < TOLD_MAX {
                    found.lost_chunks.push((handle, record));
                }
            }
        }
    }

    fn count_aside(&self) -> Result<u64, FsError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store.view().quarantine(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(count) };
            after = Some((last.replica.handle, last.replica.server));
            count += page.len() as u64;
        }
    }
}
