//! What must be true of a world after each of its steps. The first thing that is not ends the run.

use super::model::{FileModel, UNIT};
use super::net::{Endpoint, Net, Place};
use gfs_chunkserver::node::Node;
use gfs_chunkserver::store::mem::MemDisk;
use gfs_master::master::Master;
use gfs_master_core::FileChunk;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::ReplicaState;
use gfs_proto::frame::{Extent, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, Epoch, InodeId, LogIndex, ServerId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of a chunk.
pub(super) const CHUNK: u32 = 64 << 10;
/// Chunks of the largest file.
pub(super) const CHUNKS: u32 = 2;
/// Handles from here on are planted by the world: the master knows nothing of them.
pub(super) const STRANGERS: u64 = 1 << 40;

/// Units of a chunk.
pub(super) const UNITS: usize = (CHUNK / UNIT) as usize;

/// The first unit of a chunk.
pub(super) fn first_unit(index: ChunkIndex) -> usize {
    index.get() as usize * UNITS
}

#[derive(Default)]
struct State {
    files: BTreeMap<InodeId, FileModel>,
    grants: BTreeMap<ChunkHandle, BTreeMap<Epoch, ChunkGrant>>,
    /// Servers by their numbers in the cluster.
    numbers: BTreeMap<ServerId, u8>,
    /// How often each server lost what it had in memory.
    losses: [u32; 8],
    /// Highest index of the log that somebody was told of.
    answered: LogIndex,
    violation: Option<String>,
    counts: Counts,
    /// At the last look.
    marks: Marks,
    /// Files of which something else is known since.
    touched: BTreeSet<InodeId>,
}

/// What has gone on so far: where it is the same nothing has changed, but for what is volatile.
#[derive(Clone, Default, PartialEq, Eq)]
struct Marks {
    logged: LogIndex,
    /// Of the disks of servers that run.
    operations: BTreeMap<Place, u64>,
}

/// How much happened: a world in which nothing does proves nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Writes acknowledged by all members.
    pub writes: u64,
    /// fsyncs that returned.
    pub syncs: u64,
    /// Reads whose bytes were compared.
    pub reads: u64,
    /// Other operations that returned.
    pub operations: u64,
    /// Replicas whose bytes were compared.
    pub replicas: u64,
    /// Processes and machines that stopped.
    pub crashes: u64,
    /// Cuts of the network.
    pub partitions: u64,
    /// Deletions that the master commanded.
    pub deletions: u64,
    /// Grants that clients got.
    pub grants: u64,
    /// Lines of the trace.
    pub events: u64,
}

impl Counts {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.syncs += other.syncs;
        self.reads += other.reads;
        self.operations += other.operations;
        self.replicas += other.replicas;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.deletions += other.deletions;
        self.grants += other.grants;
        self.events += other.events;
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Checks(Mutex<State>);

/// A chunkserver that runs.
pub(super) type Server = (Place, Arc<Node<MemDisk>>);

impl Checks {
    /// Something is wrong; only the first is kept.
    pub(super) fn fail(&self, what: impl FnOnce() -> String) {
        self.0.lock().violation.get_or_insert_with(what);
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.0.lock().violation.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.0.lock().counts);
    }

    /// A server loses what it has in memory, or is away for so long that it does not count.
    pub(super) fn memory_lost(&self, server: u8) {
        let mut state = self.0.lock();
        state.losses[usize::from(server)] += 1;
        let State { files, touched, .. } = &mut *state;
        files.values_mut().for_each(|file| file.keep(0, usize::MAX, !(1 << server)));
        touched.extend(files.keys());
    }

    /// How often each server lost its memory so far.
    pub(super) fn losses(&self) -> [u32; 8] {
        self.0.lock().losses
    }

    /// Servers that have lost nothing since.
    pub(super) fn spared(&self, since: [u32; 8]) -> u8 {
        let now = self.losses();
        (0..8).filter(|server| now[*server] == since[*server]).fold(0, |all, server| all | 1 << server)
    }

    /// What counts may have become less: to be called before anything stops.
    pub(super) fn refresh(&self, net: &Net, servers: &[Server]) {
        let Some(Endpoint::Master(master)) = net.endpoint(Place::Master) else { return };
        let chunks = self.chunks(&master);
        let mut state = self.0.lock();
        for (place, node) in servers {
            if let Place::Server(number) = place {
                state.numbers.insert(node.server(), *number);
            }
        }
        let State { files, numbers, .. } = &mut *state;
        for (inode, chunk) in chunks {
            let bit = |server: &ServerId| numbers.get(server).map_or(0, |number| 1u8 << number);
            let entitled = chunk.record.entitled.iter().map(bit).fold(0, |all, bit| all | bit);
            if let Some(file) = files.get_mut(&inode) {
                file.keep(first_unit(chunk.index), UNITS, entitled);
            }
        }
    }

    /// Changes what is known of a file.
    pub(super) fn file<R>(&self, inode: InodeId, with: impl FnOnce(&mut FileModel) -> R) -> R {
        let mut state = self.0.lock();
        state.touched.insert(inode);
        with(state.files.entry(inode).or_insert_with(|| FileModel::new(inode)))
    }

    /// Looks at what is known of a file, if anything is.
    pub(super) fn known<R>(&self, inode: InodeId, with: impl FnOnce(&FileModel) -> R) -> Option<R> {
        self.0.lock().files.get(&inode).map(with)
    }

    /// Files of which something is known.
    pub(super) fn files(&self) -> Vec<InodeId> {
        self.0.lock().files.values().filter(|file| !file.gone).map(|file| file.inode).collect()
    }

    /// A client heard that the log is durable up to there.
    pub(super) fn answered(&self, index: LogIndex) {
        let mut state = self.0.lock();
        state.answered = state.answered.max(index);
    }

    /// The log after a start has everything that somebody was told of.
    pub(super) fn recovered(&self, applied: LogIndex) {
        let answered = self.0.lock().answered;
        if applied < answered {
            self.fail(|| format!("the log ends at {applied} after a restart, and {answered} was answered"));
        }
    }

    /// A client got a grant: one epoch is one grant.
    pub(super) fn granted(&self, grant: &ChunkGrant) {
        let mut state = self.0.lock();
        state.counts.grants += 1;
        let known = state.grants.entry(grant.handle).or_default().entry(grant.epoch).or_insert_with(|| grant.clone());
        let same = (known.version, &known.replicas) == (grant.version, &grant.replicas);
        if !same {
            let what =
                format!("epoch {} of chunk {} was granted twice: {known:?} and {grant:?}", grant.epoch, grant.handle);
            state.violation.get_or_insert(what);
        }
    }

    /// The master is about to have a server delete replicas.
    pub(super) fn deleting(&self, master: &Master, server: ServerId, chunks: &[SyncChunk]) {
        for SyncChunk { handle, version } in chunks {
            self.count(|counts| counts.deletions += 1);
            if handle.get() >= STRANGERS {
                self.fail(|| format!("a replica that the master does not know is deleted: {handle} at {server}"));
            }
            let counts =
                |record: &gfs_master_core::ChunkRecord| record.entitled.contains(&server) && *version >= record.version;
            if let Ok(Some(record)) = master.store.view().chunk(*handle)
                && counts(&record)
            {
                self.fail(|| format!("a replica that counts is deleted: {handle}.{version} at {server}: {record:?}"));
            }
        }
    }

    /// Looks at what has changed since the last look, or at `everything`: what is volatile leaves no mark when it
    /// changes. `operations`: how much the disks of servers that run have done, which looking adds to.
    pub(super) fn look(&self, net: &Net, servers: &[Server], operations: impl Fn() -> Vec<u64>, everything: bool) {
        let Some(Endpoint::Master(master)) = net.endpoint(Place::Master) else { return };
        let marks = || {
            let places = servers.iter().map(|(place, _)| *place);
            Marks { logged: master.store.applied().index, operations: places.zip(operations()).collect() }
        };
        let now = marks();
        let (before, touched) = {
            let mut state = self.0.lock();
            (state.marks.clone(), std::mem::take(&mut state.touched))
        };
        if !everything && now == before && touched.is_empty() {
            return;
        }
        self.refresh(net, servers);
        let logged = everything || now.logged != before.logged;
        if logged {
            match master.store.check() {
                Ok(found) if found.is_empty() => {}
                found => self.fail(|| format!("the master's state: {found:?}")),
            }
        }
        let same = |place: &Place| before.operations.get(place) == now.operations.get(place);
        for (inode, chunk) in &self.chunks(&master) {
            for (place, node) in servers {
                if logged || touched.contains(inode) || !same(place) {
                    self.compare(*inode, chunk, *place, node);
                }
            }
            self.usable_grants(chunk, servers);
        }
        self.0.lock().marks = marks();
    }

    /// Chunks of the files of which something is known.
    pub(super) fn chunks(&self, master: &Master) -> Vec<(InodeId, FileChunk)> {
        let of = |inode| {
            let found = master.store.view().chunks(inode, ChunkIndex::new(0), CHUNKS);
            found.map_or_else(|_| Vec::new(), |file| file.chunks.into_iter().map(|chunk| (inode, chunk)).collect())
        };
        self.files().into_iter().flat_map(of).collect()
    }

    /// The bytes of a replica that counts.
    pub(super) fn bytes(chunk: &FileChunk, node: &Node<MemDisk>) -> Option<Vec<u8>> {
        let row = node.store.row(chunk.handle)?;
        let usable = matches!(row.state, ReplicaState::Clean | ReplicaState::Dirty);
        if !usable || row.version != chunk.record.version || !chunk.record.entitled.contains(&node.server()) {
            return None;
        }
        let (mut bytes, range) = (Vec::new(), Extent { offset: 0, length: CHUNK });
        node.store.read(chunk.handle, row.version, range, &mut bytes).ok()?;
        bytes.resize(CHUNK as usize, 0);
        Some(bytes)
    }

    /// A replica that counts has everything that must be there, and nothing else.
    fn compare(&self, inode: InodeId, chunk: &FileChunk, place: Place, node: &Node<MemDisk>) {
        let Some(bytes) = Self::bytes(chunk, node) else { return };
        self.count(|counts| counts.replicas += 1);
        // what a cut that is not made yet hides
        let shown = chunk.cut.map_or(CHUNK, |cut| cut.length.min(CHUNK)) as usize;
        let wrong = self.known(inode, |file| file.find_wrong(first_unit(chunk.index), &bytes[..shown]));
        if let Some((unit, word, allowed)) = wrong.flatten() {
            let (handle, version) = (chunk.handle, chunk.record.version);
            self.fail(|| {
                format!(
                    "{place:?} has {word} in unit {unit} of chunk {handle}.{version} of inode {inode}, allowed are \
                     {allowed:?}"
                )
            });
        }
    }

    /// A grant that all its members accept is the only one, and has every server that counts.
    fn usable_grants(&self, chunk: &FileChunk, servers: &[Server]) {
        let state = self.0.lock();
        let Some(grants) = state.grants.get(&chunk.handle) else { return };
        let accepts =
            |grant: &ChunkGrant, member: &gfs_proto::chunk::Replica| {
                servers.iter().any(|(_, node)| {
                    (node.server(), node.incarnation) == (member.server, member.incarnation)
                        && node.grants.get(grant.handle).and_then(|gate| gate.installed()).is_some_and(|installed| {
                            (installed.epoch, installed.version) == (grant.epoch, grant.version)
                        })
                })
            };
        let usable = |grant: &&ChunkGrant| grant.replicas.iter().all(|member| accepts(grant, member));
        let usable: Vec<ChunkGrant> = grants.values().filter(usable).cloned().collect();
        drop(state);
        if usable.len() > 1 {
            self.fail(|| format!("several grants of one chunk can be used: {usable:?}"));
        }
        for grant in usable {
            let member = |server: &ServerId| grant.replicas.iter().any(|replica| replica.server == *server);
            if grant.version <= chunk.record.version && !chunk.record.entitled.iter().all(member) {
                self.fail(|| format!("a grant leaves out a replica that counts: {grant:?}, {:?}", chunk.record));
            }
        }
    }
}
