//! The chunk store: replicas in one or several storage directories, small ones in packs, others in files
//! of their own, with block checksums, versions, dirty marks and crash recovery (GFS paper, 2.4, 5.2). It knows nothing of leases, epochs,
//! chains or the network; those who call it decide what may be written and served.
//!
//! Invariant: a replica whose state is [`ReplicaState::Clean`] has exactly the bytes that were last
//! written to it, on stable storage. Formats: `docs/format.md`, "Chunk files and storage directories".
//!
//! ```text
//!              create, first write                      mark_clean
//!   (nothing) --------------------> Dirty (".d" name) ----------------> Clean
//!                                     Dirty (journal) <---------------- |
//!                                       |    first write since clean
//!                 unclean stop, poison  v
//!                                    Suspect -- adopt, import --> Clean
//! ```
//! Apart from that a replica is *damaged* from when something in it was found not to match its checksums until that is
//! mended ([`damage`], [`mend`]).
//! All methods block. Those that never wait for the device: `read_cached`, `row`, `rows`, `space`. `write` and
//! `create` do not unless pages are cold, as far as [`ChunkStore::writes_at_once`] and
//! [`ChunkStore::creates_at_once`] say so.

mod adopt;
mod api;
mod clean;
mod compact;
mod cut;
mod damage;
mod directory;
pub mod disk;
mod error;
mod flush;
mod format_file;
mod grow;
mod image;
mod import;
mod index;
mod layout;
mod lend;
mod live_lock;
mod marks;
pub mod mem;
mod mend;
mod open;
mod pack;
mod read;
pub mod real;
mod recover;
mod replica;
mod scrub_note;
mod slice;
mod write;
mod write_plan;

#[cfg(test)]
mod tests;

pub use api::{Adopted, Identity, ReadOut, SendPlan, StoreConfig, WriteData};
pub use damage::Findings;
pub use error::StoreError;
pub use import::Importer;
pub use mend::Fetched;
pub use scrub_note::ScrubNote;

use crate::loans::Loans;
use damage::Harm;
use directory::Directory;
use disk::{Disk, OpenMode};
use format_file::FormatFile;
use gfs_proto::control::{DirectorySpace, ReplicaRow, ReplicaState};
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, Term};
use gfs_proto::layout::ChunkSize;
use image::{Header, Image};
use index::{Entry, Index, Live, Open, Seen};
use layout::Layout;
use marks::Mark;
use parking_lot::{Mutex, RwLock};
use slice::Slice;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The replicas of one chunkserver.
pub struct ChunkStore<D: Disk> {
    disk: Arc<D>,
    directories: Vec<Directory<D>>,
    /// Directories that could not be opened, with the reason.
    missing: Vec<DirectorySpace>,
    index: Index<D::File>,
    identity: RwLock<Identity>,
    /// Known once the chunk size is.
    layout: OnceLock<Layout>,
    stopped: AtomicBool,
    /// Packed replicas that compaction found damaged in this run.
    unmovable: Mutex<HashSet<ChunkHandle>>,
    harm: Harm,
    loans: Arc<Loans>,
}

impl<D: Disk> ChunkStore<D> {
    /// What the directories say of the server.
    pub fn identity(&self) -> Identity {
        *self.identity.read()
    }

    /// Joins a cluster at the first registration, or checks that it is the same one. Durable.
    pub fn join(&self, cluster: ClusterId, chunk_size: ChunkSize) -> Result<(), StoreError> {
        let mut identity = self.identity.write();
        let path = &self.directories[0].path;
        expect_same(path, "cluster", identity.cluster, cluster)?;
        let sizes = (identity.chunk_size.map(ChunkSize::get), chunk_size.get());
        expect_same(path, "a cluster with chunk size", sizes.0, sizes.1)?;
        self.write_formats(|format| {
            format.cluster = Some(cluster);
            format.chunk_size = Some(chunk_size);
        })?;
        identity.cluster = Some(cluster);
        identity.chunk_size = Some(chunk_size);
        self.layout.get_or_init(|| Layout::new(chunk_size));
        Ok(())
    }

    /// Remembers a leader's term durably if it is higher than any before.
    pub fn observe_term(&self, term: Term) -> Result<(), StoreError> {
        if term <= self.identity.read().highest_term {
            return Ok(());
        }
        let mut identity = self.identity.write();
        if term > identity.highest_term {
            self.write_formats(|format| format.highest_term = term)?;
            identity.highest_term = term;
        }
        Ok(())
    }

    /// Changes the format files of all directories in service.
    fn write_formats(&self, change: impl Fn(&mut FormatFile)) -> Result<(), StoreError> {
        for directory in self.directories.iter().filter(|directory| directory.in_service()) {
            directory.write_format(&change).map_err(|source| StoreError::Io {
                action: "write the format file of",
                path: directory.path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Every replica. Lengths are known only of those in use.
    pub fn rows(&self) -> Vec<ReplicaRow> {
        let mut rows = Vec::new();
        self.index.for_each(|handle, entry, open| {
            let length = open.and_then(|open| open.live.try_read().map(|live| live.length)).unwrap_or(0);
            rows.push(ReplicaRow { handle, version: entry.version, length, state: self.state_of(entry) });
        });
        rows
    }

    /// One replica.
    pub fn row(&self, handle: ChunkHandle) -> Option<ReplicaRow> {
        let (Seen { entry, .. }, open) = self.index.get_open(handle)?;
        let length = open.map_or(0, |open| open.live.read().length);
        Some(ReplicaRow { handle, version: entry.version, length, state: self.state_of(entry) })
    }

    /// Directories out of service, among those that were opened.
    pub fn directories_failed(&self) -> usize {
        self.directories.iter().filter(|directory| !directory.in_service()).count()
    }

    /// As it is reported.
    fn state_of(&self, entry: Entry) -> ReplicaState {
        match entry.state {
            ReplicaState::Clean | ReplicaState::Dirty if !self.directory(entry).in_service() => ReplicaState::Failing,
            ReplicaState::Suspect if entry.damaged => ReplicaState::DamagedSuspect,
            ReplicaState::Clean | ReplicaState::Dirty if entry.damaged => ReplicaState::Damaged,
            state => state,
        }
    }

    /// Handles that have been dirty since they were last marked clean, for the one who marks them.
    pub fn dirty(&self) -> Vec<ChunkHandle> {
        let mut dirty = Vec::new();
        self.index.for_each(|handle, entry, _| {
            if entry.state == ReplicaState::Dirty {
                dirty.push(handle);
            }
        });
        dirty
    }

    /// Replicas open at the moment.
    pub fn open_files(&self) -> usize {
        self.index.open_count()
    }

    /// Room in each directory. Directories in one file system have equal parts of its room.
    pub fn space(&self) -> Vec<DirectorySpace> {
        let file_systems: Vec<u64> = self.directories.iter().map(Directory::file_system).collect();
        let sharers = |directory: &Directory<D>| {
            file_systems.iter().filter(|other| **other == directory.file_system()).count().max(1) as u64
        };
        let present = self.directories.iter().map(|directory| directory.space(sharers(directory)));
        present.chain(self.missing.iter().cloned()).collect()
    }

    /// Takes the directory of this path out of service.
    pub fn fail_directory(&self, path: &Path, reason: &str) {
        self.directories.iter().filter(|directory| directory.path == path).for_each(|directory| directory.fail(reason));
    }

    fn directory(&self, entry: Entry) -> &Directory<D> {
        &self.directories[usize::from(entry.dir)]
    }

    /// Fails before the first registration: nothing can be stored then.
    fn layout(&self) -> Result<Layout, DataError> {
        self.layout.get().copied().ok_or(DataError::Cluster)
    }

    fn image(&self, open: &Open<D::File>, live: &Live<D::File>) -> Result<Image<D::File>, DataError> {
        Ok(Image { bytes: live.bytes.clone(), layout: self.layout()?, handle: open.handle })
    }

    /// The replica, opened if need be.
    fn open_replica(&self, handle: ChunkHandle) -> Result<Arc<Open<D::File>>, DataError> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let (seen, open) = self.index.get_open(handle).ok_or(DataError::NoChunk)?;
            let open = match open {
                Some(open) => Some(open),
                None => self.open_file(handle, seen)?,
            };
            if let Some(open) = open {
                return Ok(open);
            }
        }
        Err(DataError::Busy)
    }

    /// Opens a replica; `None` if it was renamed or moved meanwhile.
    fn open_file(&self, handle: ChunkHandle, seen: Seen) -> Result<Option<Arc<Open<D::File>>>, DataError> {
        let entry = seen.entry;
        let directory = self.directory(entry);
        let path = directory.file_path(handle, entry);
        let opened = match entry.place {
            Some(place) => directory.packs.slice(place),
            None => self.disk.open(&path, OpenMode::Existing).map(Slice::whole),
        };
        let bytes = match opened {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if self.index.get(handle) == Some(entry) { Err(DataError::NoChunk) } else { Ok(None) };
            }
            Err(error) => return Err(directory.failed(&error, &path)),
        };
        let chunk = Image { bytes: bytes.clone(), layout: self.layout()?, handle };
        let header = chunk.header().map_err(|error| directory.failed(&error, &path))?;
        let live = match live_of((entry, bytes), header, &path) {
            Err(DataError::Corrupt) => {
                self.harm_closed(handle, entry);
                return Err(DataError::Corrupt);
            }
            live => live?,
        };
        let open = self.index.enter(Open::new(handle, live), seen);
        self.close_idle(handle);
        Ok(open)
    }

    /// Closes files where too many are open, after flushing them if need be.
    fn close_idle(&self, handle: ChunkHandle) {
        let unflushed = self.index.close_idle(handle);
        if !unflushed.is_empty() && self.flush_all(&unflushed).is_ok() {
            drop(unflushed);
            self.index.close_idle(handle);
        }
    }

    /// Runs `act` on a replica of this version with everybody else excluded.
    fn with_exclusive<T>(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        act: impl FnOnce(&Open<D::File>, &mut Live<D::File>) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        loop {
            let open = self.open_replica(handle)?;
            let mut live = open.live.write();
            if !live.gone {
                live.check(version)?;
                return act(&open, &mut live);
            }
        }
    }

    /// Runs `act` on a replica of this version with writers excluded.
    fn with_shared<T>(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        act: impl FnOnce(&Open<D::File>, &Live<D::File>) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        loop {
            let open = self.open_replica(handle)?;
            let live = open.live.read();
            if !live.gone {
                live.check(version)?;
                return act(&open, &live);
            }
        }
    }

    /// As [`ChunkStore::with_shared`], without waiting: `None` if the replica is not open, or not free.
    fn with_shared_now<T>(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        act: impl FnOnce(&Open<D::File>, &Live<D::File>) -> Result<T, DataError>,
    ) -> Result<Option<T>, DataError> {
        let (_, Some(open)) = self.index.get_open(handle).ok_or(DataError::NoChunk)? else { return Ok(None) };
        let Some(live) = open.live.try_read().filter(|live| !live.gone) else { return Ok(None) };
        live.check(version)?;
        act(&open, &live).map(Some)
    }

    /// Changes what the index says of a replica; the caller has it exclusively.
    fn publish(&self, open: &Open<D::File>, live: &mut Live<D::File>, change: impl FnOnce(&mut Entry)) {
        change(&mut live.entry);
        self.index.update(open.handle, live.entry);
    }

    /// An operation left the replica in a state that nobody asked for: it is not used any more.
    fn poison(&self, open: &Open<D::File>, live: &mut Live<D::File>, why: &str) {
        tracing::warn!(chunk = %open.handle, version = %live.entry.version, why, "replica is suspect");
        let marks = &self.directory(live.entry).marks;
        marks.mark_later(open.handle, Mark::Suspect);
        marks.write_queued();
        self.publish(open, live, |entry| {
            entry.state = ReplicaState::Suspect;
            entry.marked = true;
        });
    }

    /// Makes sure that a power cut leaves no doubt that the replica was modified. Before every change.
    fn guard(&self, open: &Open<D::File>, live: &mut Live<D::File>) -> Result<(), DataError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(DataError::Busy);
        }
        let directory = self.directory(live.entry);
        if !live.entry.is_guarded() {
            directory.marks.mark(open.handle, Mark::Dirty).inspect_err(|error| {
                if *error == DataError::Io {
                    directory.fail("the mark journal cannot be written");
                }
            })?;
            self.publish(open, live, |entry| entry.marked = true);
        }
        if live.entry.state != ReplicaState::Dirty {
            self.publish(open, live, |entry| entry.state = ReplicaState::Dirty);
        }
        Ok(())
    }
}

impl<F> Live<F> {
    /// A flush of its pack failed, whoever asked for it. That one cannot tell the others: it may have a
    /// replica locked.
    fn may_be_lost(&self) -> bool {
        self.entry.state != ReplicaState::Clean && self.bytes.may_be_lost()
    }

    /// Fails unless the replica has this version and may be used.
    pub(super) fn check(&self, version: ChunkVersion) -> Result<(), DataError> {
        if self.entry.version != version {
            Err(DataError::Version)
        } else if self.entry.state == ReplicaState::Suspect || self.may_be_lost() {
            Err(DataError::Suspect)
        } else if self.headless {
            Err(DataError::Corrupt)
        } else {
            Ok(())
        }
    }
}

/// What an open replica begins with.
fn live_of<F>((entry, bytes): (Entry, Slice<F>), header: Header, path: &Path) -> Result<Live<F>, DataError> {
    let clean = entry.state == ReplicaState::Clean;
    let live = |header, length, headless| Live {
        entry,
        bytes,
        gone: false,
        header,
        headless,
        length,
        // whether a dirty one was flushed is not known
        writes: u64::from(!clean),
        writes_synced: 0,
        name_synced: clean,
    };
    match header {
        Header::Length(length) => Ok(live(true, length, false)),
        Header::None if entry.unclean_name => Ok(live(false, 0, false)),
        _ if entry.state == ReplicaState::Suspect || entry.damaged => Ok(live(false, 0, true)),
        header => {
            tracing::error!(file = %path.display(), ?header, "chunk file is damaged");
            Err(DataError::Corrupt)
        }
    }
}

fn expect_same<T: PartialEq + std::fmt::Display>(
    path: &Path,
    what: &'static str,
    found: Option<T>,
    expected: T,
) -> Result<(), StoreError> {
    match found {
        Some(found) if found != expected => Err(StoreError::Mismatch {
            path: path.to_owned(),
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }),
        _ => Ok(()),
    }
}
