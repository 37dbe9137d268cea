//! The chunk store: replicas as files in one or several storage directories, with block checksums,
//! versions, dirty marks and crash recovery (GFS paper, 2.4, 5.2). It knows nothing of leases, epochs,
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
//! All methods block. Those that never wait for the device unless pages are cold: `write` (but for the
//! first one to a clean chunk, which commits a dirty mark), `create`, `read_cached`, `row`, `rows`.

pub mod disk;
pub mod real;

use disk::Disk;
use gfs_proto::control::{DirectorySpace, ReplicaRow};
use gfs_proto::frame::{DataError, Extent, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, Incarnation, ServerUuid, Term};
use gfs_proto::layout::ChunkSize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Storage directories; an empty one is formatted, one that does not exist is made.
    pub directories: Vec<PathBuf>,
    /// Below this much free room in a directory nothing is written to it; deletes always work.
    pub reserve_bytes: u64,
    /// Below this much free room in a directory no chunk is placed in it. At least the reserve.
    pub watermark_bytes: u64,
    /// Boot id of the machine: tells the death of a process from a loss of power.
    pub boot_id: String,
    /// Random; the name of the server if no directory has one yet.
    pub uuid_if_new: ServerUuid,
    /// Chunk files kept open, at least 64.
    pub open_files_max: usize,
}

/// What the storage directories say of their server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `None` before the first registration.
    pub cluster: Option<ClusterId>,
    /// As for the cluster.
    pub chunk_size: Option<ChunkSize>,
    /// Name of the server for itself.
    pub uuid: ServerUuid,
    /// This run.
    pub incarnation: Incarnation,
    /// Highest term obeyed.
    pub highest_term: Term,
}

/// Bytes to write to one chunk.
#[derive(Clone, Copy, Debug)]
pub struct WriteData<'a> {
    /// Ranges, at least one, not overlapping.
    pub extents: &'a [Extent],
    /// Their bytes, one after the other.
    pub payload: &'a [u8],
    /// Their piece sums ([`gfs_proto::checksum::piece_sums`]), one after the other, four bytes each.
    pub sums: &'a [u8],
}

/// What a read found besides the bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadOut {
    /// Stored sums of the blocks that the bytes touch, four bytes each. Not compared with the bytes.
    pub sums: Vec<u8>,
    /// Length of the chunk.
    pub chunk_length: u32,
    /// Bytes read: fewer than asked for where the chunk ends.
    pub data_len: u32,
}

/// Where to send bytes from without looking at them. Only for chunks without a live lease: the file
/// may change under the sender.
#[derive(Debug)]
pub struct SendPlan<F> {
    /// The chunk file.
    pub file: Arc<F>,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes to send; 0 beyond the end of the chunk.
    pub length: u32,
    /// As in [`ReadOut`].
    pub sums: Vec<u8>,
    /// Length of the chunk.
    pub chunk_length: u32,
}

/// How an adoption went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// The replica as it is now.
    pub row: ReplicaRow,
    /// Blocks whose checksum did not match and was made anew.
    pub blocks_resummed: u32,
}

/// Why a store cannot be opened or changed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing to store in.
    #[error("no storage directory is configured")]
    NoDirectory,
    /// Settings that contradict each other.
    #[error("{0}")]
    Config(&'static str),
    /// Another process uses the directory.
    #[error("storage directory {path} is in use by another chunkserver{holder}; stop it or name another directory",
        path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// " (process N)" if known.
        holder: String,
    },
    /// Not a storage directory.
    #[error("{path} is neither empty nor a storage directory of a chunkserver (it contains {found:?}); \
        name an empty directory", path = path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Made by a later program.
    #[error("storage directory {path} has format {found}, this program knows formats up to {known}; \
        use a newer program", path = path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// The format file cannot be understood.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Directories of different servers or clusters.
    #[error("storage directory {path} belongs to {what} {found}, not to {expected}", path = path.display())]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// Which property: "server", "cluster" or "chunk size".
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// The operating system refused.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// The replicas of one chunkserver.
pub struct ChunkStore<D: Disk> {
    disk: D,
    identity: Identity,
}

/// A replica that is being copied in. Dropped before [`Importer::finish`], it leaves nothing behind.
pub struct Importer<'s, D: Disk> {
    store: &'s ChunkStore<D>,
}

impl<D: Disk> ChunkStore<D> {
    /// Locks and reads the directories, formats empty ones, raises the incarnation durably, decides
    /// which replicas are suspect.
    pub fn open(config: StoreConfig, disk: D) -> Result<Self, StoreError> {
        let _ = (config, disk);
        Err(StoreError::NoDirectory)
    }

    /// What the directories say of the server.
    pub fn identity(&self) -> Identity {
        let _ = &self.disk;
        self.identity
    }

    /// Joins a cluster at the first registration, or checks that it is the same one. Durable.
    pub fn join(&self, cluster: ClusterId, chunk_size: ChunkSize) -> Result<(), StoreError> {
        let _ = (cluster, chunk_size);
        Err(StoreError::NoDirectory)
    }

    /// Remembers a leader's term durably if it is higher than any before.
    pub fn observe_term(&self, term: Term) -> Result<(), StoreError> {
        let _ = term;
        Err(StoreError::NoDirectory)
    }

    /// Makes an empty replica, dirty, in the directory with most room. Costs no flush.
    /// [`DataError::Epoch`] if the chunk has a replica here already.
    pub fn create(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<(), DataError> {
        let _ = (handle, version);
        Err(DataError::Io)
    }

    /// Checks the piece sums ([`DataError::Transfer`]) and writes; returns the length of the chunk.
    /// After an error nothing of it is visible, or the replica is suspect.
    pub fn write(&self, handle: ChunkHandle, version: ChunkVersion, data: &WriteData<'_>) -> Result<u32, DataError> {
        let _ = (handle, version, data);
        Err(DataError::Io)
    }

    /// Appends bytes of a chunk to `out`, read together with their sums. `range.offset` is a multiple
    /// of the block size.
    pub fn read(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
        out: &mut Vec<u8>,
    ) -> Result<ReadOut, DataError> {
        let _ = (handle, version, range, out);
        Err(DataError::Io)
    }

    /// Like [`ChunkStore::read`], but `None` (and `out` unchanged) if that would wait for the device.
    pub fn read_cached(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
        out: &mut Vec<u8>,
    ) -> Result<Option<ReadOut>, DataError> {
        let _ = (handle, version, range, out);
        Err(DataError::Io)
    }

    /// What `sendfile` needs to answer a read.
    pub fn plan_send(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        range: Extent,
    ) -> Result<SendPlan<D::File>, DataError> {
        let _ = (handle, version, range);
        Err(DataError::Io)
    }

    /// Makes everything written to these chunks before the call durable, with their names.
    pub fn sync(&self, chunks: &[SyncChunk]) -> Result<(), DataError> {
        let _ = chunks;
        Err(DataError::Io)
    }

    /// Gives a replica a higher version, durably. Idempotent: fine if it has version `to` already.
    pub fn raise(&self, handle: ChunkHandle, from: ChunkVersion, to: ChunkVersion) -> Result<(), DataError> {
        let _ = (handle, from, to);
        Err(DataError::Io)
    }

    /// Drops the bytes from `length` on, durably; fine if the chunk is shorter.
    pub fn cut(&self, handle: ChunkHandle, version: ChunkVersion, length: u32) -> Result<(), DataError> {
        let _ = (handle, version, length);
        Err(DataError::Io)
    }

    /// Deletes replicas of exactly these versions, durably; one result for each.
    pub fn delete(&self, chunks: &[SyncChunk]) -> Vec<Result<(), DataError>> {
        chunks.iter().map(|_| Err(DataError::Io)).collect()
    }

    /// Flushes replicas and marks them clean, unless a write began after their flush did: those stay
    /// dirty. Returns the handles that are clean now.
    pub fn mark_clean(&self, handles: &[ChunkHandle]) -> Vec<ChunkHandle> {
        let _ = handles;
        Vec::new()
    }

    /// Every replica. Lengths are known only of those in use.
    pub fn rows(&self) -> Vec<ReplicaRow> {
        Vec::new()
    }

    /// One replica.
    pub fn row(&self, handle: ChunkHandle) -> Option<ReplicaRow> {
        let _ = handle;
        None
    }

    /// Length of a replica, from its file if need be. Suspect replicas answer too.
    pub fn length(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<u32, DataError> {
        let _ = (handle, version);
        Err(DataError::Io)
    }

    /// Handles that have been dirty since they were last marked clean, for the one who marks them.
    pub fn dirty(&self) -> Vec<ChunkHandle> {
        Vec::new()
    }

    /// Room in each directory.
    pub fn space(&self) -> Vec<DirectorySpace> {
        Vec::new()
    }

    /// Compares all blocks with their sums; the number that does not match.
    pub fn verify(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<u32, DataError> {
        let _ = (handle, version);
        Err(DataError::Io)
    }

    /// Makes a suspect replica count under version `to`: sums that do not match are made anew. Durable.
    pub fn adopt(&self, handle: ChunkHandle, version: ChunkVersion, to: ChunkVersion) -> Result<Adopted, DataError> {
        let _ = (handle, version, to);
        Err(DataError::Io)
    }

    /// Begins a copy of a replica from elsewhere; it replaces an older or suspect one when it is complete.
    pub fn import(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<Importer<'_, D>, DataError> {
        let _ = (handle, version);
        Err(DataError::Io)
    }

    /// Takes the directory of this path out of service.
    pub fn fail_directory(&self, path: &Path, reason: &str) {
        let _ = (path, reason);
    }

    /// Clean stop: flushes, marks everything clean, writes the clean marker. Nothing may be called
    /// afterwards; without it the next start takes this one for a crash.
    pub fn stop(&self) -> Result<(), StoreError> {
        Err(StoreError::NoDirectory)
    }
}

impl<D: Disk> Importer<'_, D> {
    /// Writes whole blocks (the last of the chunk may be short) after checking their sums
    /// ([`DataError::Transfer`]). Holes are kept.
    pub fn write(&mut self, offset: u32, data: &[u8], sums: &[u8]) -> Result<(), DataError> {
        let _ = (offset, data, sums, self.store);
        Err(DataError::Io)
    }

    /// Makes the copy durable and part of the store, in place of what was there.
    pub fn finish(self, chunk_length: u32) -> Result<ReplicaRow, DataError> {
        let _ = chunk_length;
        Err(DataError::Io)
    }
}
