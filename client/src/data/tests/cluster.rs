//! Fake servers under a fake master: who holds which chunk in which version and epoch.

use super::super::authority::ChunkAuthority;
use super::super::inode::{InodeData, OpenData};
use super::super::plane::{DataConfig, DataPlane};
use super::server::FakeServer;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Numbering};
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, ClusterId, Epoch, InodeId, MapGeneration, Serial, ServerId, SessionId, Term,
    TruncateGeneration,
};
use gfs_proto::layout::ChunkSize;
use gfs_proto::ops::FlushedChunk;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub(super) const INODE: InodeId = InodeId::new(7);

/// What the master knows of a chunk.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub handle: ChunkHandle,
    pub version: ChunkVersion,
    pub epoch: Epoch,
    pub entitled: Vec<ServerId>,
    pub clip: Option<u32>,
    pub leased: bool,
}

#[derive(Default)]
pub(super) struct Master {
    pub chunks: BTreeMap<ChunkIndex, Known>,
    pub handles: u64,
    pub epochs: u64,
    pub generation: TruncateGeneration,
    pub shared: bool,
    /// Errors of the next calls of `grant`.
    pub grant_errors: VecDeque<FsError>,
}

pub(super) struct Cluster {
    pub servers: Vec<Arc<FakeServer>>,
    pub chunk_size: ChunkSize,
    pub master: Mutex<Master>,
    pub grants: AtomicUsize,
    pub breaks: AtomicUsize,
    pub locates: AtomicUsize,
    pub reported: Mutex<Vec<ServerId>>,
    /// Chunks whose copies somebody waited for.
    pub awaited: Mutex<Vec<FlushedChunk>>,
    /// What the master says to the next flushes.
    pub verdicts: Mutex<VecDeque<FsError>>,
    pub copies_stay_away: AtomicBool,
}

/// Settings for tests: failures are found in tenths of seconds.
pub(super) fn config() -> DataConfig {
    DataConfig { cache_bytes: 32 << 20, dirty_bytes: 16 << 20, readahead_max: 4 << 20, timeout: Duration::from_secs(9) }
}

impl Cluster {
    pub(super) async fn start(chunk_size: u32) -> Arc<Self> {
        Self::start_at(chunk_size, |_| None).await
    }

    /// `unix` names the sockets.
    pub(super) async fn start_at(chunk_size: u32, unix: impl Fn(u32) -> Option<String>) -> Arc<Self> {
        let mut servers = Vec::new();
        for id in 1..=3 {
            servers.push(FakeServer::start(id, chunk_size, unix(id)).await);
        }
        for server in &servers {
            *server.peers.lock() = servers.iter().map(|peer| (peer.id, Arc::downgrade(peer))).collect();
        }
        Arc::new(Self {
            servers,
            chunk_size: ChunkSize::new(chunk_size).expect("a chunk size"),
            master: Mutex::default(),
            grants: AtomicUsize::new(0),
            breaks: AtomicUsize::new(0),
            locates: AtomicUsize::new(0),
            reported: Mutex::default(),
            awaited: Mutex::default(),
            verdicts: Mutex::default(),
            copies_stay_away: AtomicBool::new(false),
        })
    }

    pub(super) fn plane(self: &Arc<Self>, config: DataConfig) -> Arc<DataPlane> {
        DataPlane::new(self.clone(), config, tokio::runtime::Handle::current())
    }

    /// A new file as the master's reply to its creation has it.
    pub(super) fn create(self: &Arc<Self>, plane: &Arc<DataPlane>) -> Arc<InodeData> {
        let grant = self.allocate(&mut self.master.lock(), ChunkIndex::new(0));
        self.open(plane, 0, Some(grant), true)
    }

    pub(super) fn open(
        &self,
        plane: &Arc<DataPlane>,
        size: u64,
        grant: Option<ChunkGrant>,
        exclusive: bool,
    ) -> Arc<InodeData> {
        let truncate_generation = self.master.lock().generation;
        let map = ChunkMap::default();
        plane.open(OpenData { inode: INODE, size, truncate_generation, map, grant, exclusive })
    }

    pub(super) fn server(&self, id: ServerId) -> &Arc<FakeServer> {
        self.servers.iter().find(|server| server.id == id).expect("a known server")
    }

    fn next_epoch(master: &mut Master) -> Epoch {
        master.epochs += 1;
        Epoch { term: Term::new(1), counter: master.epochs }
    }

    fn allocate(&self, master: &mut Master, index: ChunkIndex) -> ChunkGrant {
        master.handles += 1;
        let entitled = self.servers.iter().filter(|server| !server.is_down()).map(|server| server.id).collect();
        let known = Known {
            handle: ChunkHandle::new(master.handles),
            version: ChunkVersion::new(1),
            epoch: Self::next_epoch(master),
            entitled,
            clip: None,
            leased: true,
        };
        master.chunks.insert(index, known.clone());
        self.grant_of(master, index, &known, true)
    }

    fn grant_of(&self, master: &Master, index: ChunkIndex, known: &Known, created: bool) -> ChunkGrant {
        ChunkGrant {
            inode: INODE,
            index,
            handle: known.handle,
            version: known.version,
            epoch: known.epoch,
            numbering: if master.shared { Numbering::Primary } else { Numbering::Client },
            created,
            replicas: known.entitled.iter().map(|id| self.server(*id).replica()).collect(),
            truncate_generation: master.generation,
            map_generation: MapGeneration::new(1),
            lease: Duration::from_secs(60),
        }
    }

    /// A new epoch at every entitled server that is up; a new version if not all are.
    fn install(&self, master: &mut Master, index: ChunkIndex, raise: bool) -> Result<ChunkGrant, FsError> {
        let mut known = master.chunks.get(&index).cloned().ok_or(FsError::StaleGrant)?;
        let has = |id: &ServerId| {
            let server = self.server(*id);
            !server.is_down()
                && !server.is_hung()
                && server.chunks.lock().get(&known.handle).is_some_and(|chunk| chunk.version == known.version)
        };
        let live: Vec<ServerId> = known.entitled.iter().copied().filter(has).collect();
        let written = self.servers.iter().any(|server| server.chunks.lock().contains_key(&known.handle));
        if live.is_empty() && written {
            return Err(FsError::NoReplica);
        }
        known.epoch = Self::next_epoch(master);
        known.leased = true;
        if !written {
            known.clip = None;
            known.entitled.retain(|id| !self.server(*id).is_down());
            master.chunks.insert(index, known.clone());
            return Ok(self.grant_of(master, index, &known, true));
        }
        if raise || live != known.entitled {
            known.version = known.version.next();
        }
        known.entitled = live;
        let clip = known.clip.take();
        for server in self.replicas_of(&known) {
            server.revoke(known.handle);
            let mut chunks = server.chunks.lock();
            let chunk = chunks.get_mut(&known.handle).expect("it has it");
            (chunk.version, chunk.epoch, chunk.next) = (known.version, known.epoch, Serial::new(1));
            chunk.generation = master.generation;
            if let Some(clip) = clip {
                chunk.data.truncate(clip as usize);
            }
        }
        master.chunks.insert(index, known.clone());
        Ok(self.grant_of(master, index, &known, false))
    }

    fn replicas_of<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = &'a Arc<FakeServer>> {
        known.entitled.iter().map(|id| self.server(*id))
    }

    /// True if each chunk of a server has a current replica elsewhere.
    pub(super) fn has_home_without(&self, server: &FakeServer) -> bool {
        let current = |known: &Known, other: &FakeServer| {
            other.chunks.lock().get(&known.handle).is_some_and(|chunk| chunk.version == known.version)
        };
        self.master.lock().chunks.values().all(|known| {
            !current(known, server)
                || self.replicas_of(known).any(|other| other.id != server.id && current(known, other))
        })
    }

    /// What SetAttr{size} does at the master; the servers cut with the next install.
    pub(super) fn cut(&self, size: u64) -> TruncateGeneration {
        let master = &mut *self.master.lock();
        master.generation = master.generation.next();
        let (index, offset) = self.chunk_size.locate(size);
        master.chunks.split_off(&if offset == 0 { index } else { index.next() });
        for known in master.chunks.values_mut() {
            known.leased = false;
        }
        if let Some(known) = master.chunks.get_mut(&index) {
            known.clip = Some(known.clip.map_or(offset, |clip| clip.min(offset)));
        }
        master.generation
    }

    /// The file as every entitled live replica has it; they must agree.
    pub(super) fn content(&self, size: u64, stable: bool) -> Vec<u8> {
        let mut content = vec![0; size as usize];
        for (index, known) in &self.master.lock().chunks {
            let start = self.chunk_size.start_of(*index);
            let lost = |server: &FakeServer| {
                let restarted = server.incarnation.lock().get() > 1;
                server.is_down() || restarted && !server.chunks.lock().contains_key(&known.handle)
            };
            let mut copies = self.replicas_of(known).filter(|server| !lost(server)).map(|server| {
                let chunks = server.chunks.lock();
                chunks.get(&known.handle).map(|chunk| if stable { chunk.stable.clone() } else { chunk.data.clone() })
            });
            let Some(first) = copies.next().flatten() else { continue };
            assert!(copies.all(|copy| copy.as_ref() == Some(&first)), "replicas of chunk {index} differ");
            let keep = known.clip.unwrap_or(u32::MAX) as usize;
            for (i, byte) in first.into_iter().take(keep).enumerate() {
                if let Some(slot) = content.get_mut(start as usize + i) {
                    *slot = byte;
                }
            }
        }
        content
    }

    pub(super) fn writes(&self) -> Vec<usize> {
        self.servers.iter().map(|server| server.seen.lock().writes.len()).collect()
    }

    fn was_written(&self, handle: ChunkHandle) -> bool {
        self.servers.iter().any(|server| server.seen.lock().writes.iter().any(|write| write.handle == handle))
    }

    pub(super) fn reads(&self) -> usize {
        self.servers.iter().map(|server| server.seen.lock().reads.len()).sum()
    }
}

impl ChunkAuthority for Cluster {
    fn locate(&self, inode: InodeId, first: ChunkIndex, count: u32) -> BoxFuture<'_, Result<ChunkMap, FsError>> {
        async move {
            assert_eq!(inode, INODE);
            self.locates.fetch_add(1, Ordering::Relaxed);
            let master = self.master.lock();
            let end = ChunkIndex::new(first.get() + count);
            let location = |(index, known): (&ChunkIndex, &Known)| ChunkLocation {
                index: *index,
                handle: known.handle,
                version: known.version,
                clip: known.clip,
                leased: known.leased,
                replicas: self
                    .replicas_of(known)
                    .filter(|server| !server.is_down())
                    .map(|server| server.replica())
                    .collect(),
            };
            // a chunk that nobody has written becomes a hole with the end of its lease
            let real = |(_, known): &(&ChunkIndex, &Known)| known.leased || self.was_written(known.handle);
            let chunks = master.chunks.range(first..end).filter(real).map(location).collect();
            Ok(ChunkMap { generation: MapGeneration::new(1), chunks })
        }
        .boxed()
    }

    fn grant(&self, inode: InodeId, index: ChunkIndex) -> BoxFuture<'_, Result<ChunkGrant, FsError>> {
        async move {
            assert_eq!(inode, INODE);
            self.grants.fetch_add(1, Ordering::Relaxed);
            let master = &mut *self.master.lock();
            if let Some(error) = master.grant_errors.pop_front() {
                return Err(error);
            }
            match master.chunks.get(&index).cloned() {
                None => Ok(self.allocate(master, index)),
                Some(known) if known.leased && !master.shared => Ok(self.grant_of(master, index, &known, false)),
                Some(_) => self.install(master, index, false),
            }
        }
        .boxed()
    }

    fn broken(&self, grant: &ChunkGrant, _suspects: Vec<ServerId>) -> BoxFuture<'_, Result<ChunkGrant, FsError>> {
        let (index, epoch) = (grant.index, grant.epoch);
        async move {
            self.breaks.fetch_add(1, Ordering::Relaxed);
            let master = &mut *self.master.lock();
            match master.chunks.get(&index) {
                Some(known) if known.epoch == epoch && known.leased => self.install(master, index, true),
                _ => Err(FsError::StaleGrant),
            }
        }
        .boxed()
    }

    fn await_copies(&self, chunks: Vec<FlushedChunk>) -> BoxFuture<'_, Result<(), FsError>> {
        self.awaited.lock().extend(chunks);
        let verdict = self.verdicts.lock().pop_front();
        if let Some(error) = verdict {
            return async move { Err(error) }.boxed();
        }
        let answer = if self.copies_stay_away.load(Ordering::Relaxed) { Err(FsError::TimedOut) } else { Ok(()) };
        async move { answer }.boxed()
    }

    fn copies_min(&self) -> usize {
        2
    }

    fn session(&self) -> SessionId {
        SessionId::new(5)
    }

    fn cluster(&self) -> ClusterId {
        ClusterId::new([1; 16])
    }

    fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    fn corrupt(&self, _location: &ChunkLocation, server: ServerId) {
        self.reported.lock().push(server);
    }
}
