//! Which server has which replica, in which version: volatile, from reports (GFS paper, 2.6.2).
//!
//! Packed, because there is one row for each chunk of the cluster: 24 bytes and a control byte per
//! slot of the hash table, 30-60 bytes per chunk at its load. Up to three replicas of one version are
//! kept inline; whatever does not fit (more copies, other versions) is kept in a spill table.
//!
//! Knows nothing of what is logged: whether a replica counts is decided by who compares it with the
//! chunk record.

use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const SHARDS: usize = 64;
const INLINE: usize = 3;

/// Where a replica's row comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Its server reported it.
    Reported(ReplicaState),
    /// Its server was told to take it by a client's first frame; the report is still to come.
    Assumed,
}

impl Known {
    /// True unless the replica must not be served.
    pub const fn usable(self) -> bool {
        !matches!(self, Self::Reported(state) if state.is_suspect())
    }
    /// True if some of it is known not to match its checksums.
    pub const fn is_damaged(self) -> bool {
        matches!(self, Self::Reported(state) if state.is_damaged())
    }
    const fn pack(self) -> u8 {
        match self {
            Self::Reported(ReplicaState::Clean) => 1,
            Self::Reported(ReplicaState::Dirty) => 2,
            Self::Reported(ReplicaState::Suspect) => 3,
            Self::Assumed => 4,
            Self::Reported(ReplicaState::Failing) => 5,
            Self::Reported(ReplicaState::Damaged) => 6,
            Self::Reported(ReplicaState::DamagedSuspect) => 7,
        }
    }
    const fn unpack(raw: u8) -> Self {
        match raw {
            1 => Self::Reported(ReplicaState::Clean),
            2 => Self::Reported(ReplicaState::Dirty),
            3 => Self::Reported(ReplicaState::Suspect),
            5 => Self::Reported(ReplicaState::Failing),
            6 => Self::Reported(ReplicaState::Damaged),
            7 => Self::Reported(ReplicaState::DamagedSuspect),
            _ => Self::Assumed,
        }
    }
}

/// A replica on a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// Who has it.
    pub server: ServerId,
    /// In this version.
    pub version: ChunkVersion,
    /// How it is known.
    pub known: Known,
}

/// Handles are given out in order by the master itself: no flooding to defend against.
#[derive(Default)]
struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, handle: u64) {
        // Fibonacci hashing; the high half decides, so it is folded into the low one.
        let mixed = (self.0 ^ handle).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<HandleHasher>>;

#[derive(Clone, Copy)]
struct Row {
    version: u32,
    servers: [u16; INLINE],
    known: [u8; INLINE],
    spilled: bool,
}

const _: () = assert!(std::mem::size_of::<(u64, Row)>() == 24);

#[derive(Default)]
struct Shard {
    rows: Map<Row>,
    spill: Map<Vec<Located>>,
}

/// All replicas that are known.
pub struct Locations {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Locations {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Row {
    const EMPTY: Self = Self { version: 0, servers: [0; INLINE], known: [0; INLINE], spilled: false };

    fn inline(&self) -> impl Iterator<Item = Located> {
        let version = ChunkVersion::new(self.version.into());
        (0..INLINE).filter(|i| self.known[*i] != 0).map(move |i| Located {
            server: ServerId::new(self.servers[i].into()),
            version,
            known: Known::unpack(self.known[i]),
        })
    }
}

impl Shard {
    fn all(&self, handle: u64) -> Vec<Located> {
        let Some(row) = self.rows.get(&handle) else { return Vec::new() };
        let spilled = if row.spilled { self.spill.get(&handle).map_or(&[][..], Vec::as_slice) } else { &[] };
        row.inline().chain(spilled.iter().copied()).collect()
    }

    /// Stores the replicas of one chunk in as little room as possible.
    fn put(&mut self, handle: u64, replicas: &[Located]) {
        if replicas.is_empty() {
            self.rows.remove(&handle);
            self.spill.remove(&handle);
            return;
        }
        let mut row = Row::EMPTY;
        let mut spill = Vec::new();
        let mut used = 0;
        // The newest version is the one that most have.
        let newest = replicas.iter().filter_map(|r| u32::try_from(r.version.get()).ok()).max().unwrap_or(0);
        for replica in replicas {
            let small = u16::try_from(replica.server.get()).ok();
            match small.filter(|_| used < INLINE && replica.version.get() == u64::from(newest)) {
                Some(server) => {
                    row.servers[used] = server;
                    row.known[used] = replica.known.pack();
                    used += 1;
                }
                None => spill.push(*replica),
            }
        }
        row.version = newest;
        row.spilled = !spill.is_empty();
        if row.spilled {
            self.spill.insert(handle, spill);
        } else {
            self.spill.remove(&handle);
        }
        self.rows.insert(handle, row);
    }

    fn change(&mut self, handle: u64, change: impl FnOnce(&mut Vec<Located>)) {
        let mut replicas = self.all(handle);
        change(&mut replicas);
        self.put(handle, &replicas);
    }
}

impl Locations {
    fn shard(&self, handle: ChunkHandle) -> &Mutex<Shard> {
        &self.shards[handle.get() as usize % SHARDS]
    }

    /// Replicas of a chunk, in no particular order.
    pub fn of(&self, handle: ChunkHandle) -> Vec<Located> {
        self.shard(handle).lock().all(handle.get())
    }

    /// A server has this replica, instead of any other of the chunk.
    pub fn set(&self, handle: ChunkHandle, located: Located) {
        self.shard(handle).lock().change(handle.get(), |replicas| {
            replicas.retain(|known| known.server != located.server);
            replicas.push(located);
        });
    }

    /// New chunk: these servers will have it when the first frame has come.
    pub fn assume(&self, handle: ChunkHandle, version: ChunkVersion, servers: &[ServerId]) {
        let mut shard = self.shard(handle).lock();
        let mut replicas = shard.all(handle.get());
        for server in servers {
            replicas.retain(|known| known.server != *server || known.version >= version);
            // A report may have been faster.
            if replicas.iter().all(|known| known.server != *server) {
                replicas.push(Located { server: *server, version, known: Known::Assumed });
            }
        }
        shard.put(handle.get(), &replicas);
    }

    /// A server has the replica no more.
    pub fn remove(&self, handle: ChunkHandle, server: ServerId) {
        let mut shard = self.shard(handle).lock();
        shard.change(handle.get(), |replicas| replicas.retain(|known| known.server != server));
    }

    /// Forgets what was only assumed of a chunk.
    pub fn forget_assumed(&self, handle: ChunkHandle) {
        let mut shard = self.shard(handle).lock();
        shard.change(handle.get(), |replicas| replicas.retain(|known| known.known != Known::Assumed));
    }

    /// Forgets everything of a server: it registers and will report in full. Walks the whole table, one
    /// shard at a time.
    pub fn drop_server(&self, server: ServerId) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let affected: Vec<u64> =
                shard.rows.keys().copied().filter(|h| shard.all(*h).iter().any(|r| r.server == server)).collect();
            for handle in affected {
                shard.change(handle, |replicas| replicas.retain(|known| known.server != server));
            }
        }
    }

    /// Number of chunks with a replica.
    pub fn chunks(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().rows.len()).sum()
    }

    /// Suspect replicas of each server.
    pub fn suspects(&self) -> HashMap<ServerId, u64> {
        self.count(|known| !known.usable())
    }

    /// Damaged replicas of each server.
    pub fn damaged(&self) -> HashMap<ServerId, u64> {
        self.count(Known::is_damaged)
    }

    fn count(&self, counts_in: impl Fn(Known) -> bool) -> HashMap<ServerId, u64> {
        let mut counts = HashMap::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let spilled = shard.spill.values().flatten().copied();
            for located in shard.rows.values().flat_map(Row::inline).chain(spilled) {
                if counts_in(located.known) {
                    *counts.entry(located.server).or_default() += 1;
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn located(server: u32, version: u64, state: u8) -> Located {
        Located { server: ServerId::new(server), version: ChunkVersion::new(version), known: Known::unpack(state) }
    }
    fn sorted(mut replicas: Vec<Located>) -> Vec<Located> {
        replicas.sort_by_key(|r| r.server);
        replicas
    }

    #[test]
    fn assumed_replicas_never_hide_reported_ones() {
        let (locations, handle) = (Locations::default(), ChunkHandle::new(1));
        locations.set(handle, located(1, 1, 2));
        locations.assume(handle, ChunkVersion::new(1), &[ServerId::new(1), ServerId::new(2)]);
        assert_eq!(sorted(locations.of(handle)), [located(1, 1, 2), located(2, 1, 4)]);
        locations.forget_assumed(handle);
        assert_eq!(locations.of(handle), [located(1, 1, 2)]);
    }

    #[test]
    fn a_million_chunks_fit_into_65_bytes_each() {
        // hashbrown doubles at 7/8 load: just after that it has 16/7 slots for each entry.
        let worst = (size_of::<(u64, Row)>() + 1) as f64 * 16.0 / 7.0;
        assert!(worst < 65.0, "{worst}");
    }

    #[derive(Clone, Debug)]
    enum Change {
        Set(u64, Located),
        Remove(u64, u32),
        Drop(u32),
    }
    fn change() -> impl Strategy<Value = Change> {
        let server = || prop_oneof![1u32..6, Just(70_000)];
        let version = prop_oneof![1u64..4, Just(1 << 40)];
        prop_oneof![
            8 => (0u64..4, server(), version, 1u8..8).prop_map(|(h, s, v, k)| Change::Set(h, located(s, v, k))),
            2 => (0u64..4, server()).prop_map(|(h, s)| Change::Remove(h, s)),
            1 => server().prop_map(Change::Drop),
        ]
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(changes in prop::collection::vec(change(), 0..60)) {
            let locations = Locations::default();
            let mut model: BTreeMap<(u64, ServerId), Located> = BTreeMap::new();
            for change in changes {
                match change {
                    Change::Set(handle, row) => {
                        locations.set(ChunkHandle::new(handle), row);
                        model.insert((handle, row.server), row);
                    }
                    Change::Remove(handle, server) => {
                        locations.remove(ChunkHandle::new(handle), ServerId::new(server));
                        model.remove(&(handle, ServerId::new(server)));
                    }
                    Change::Drop(server) => {
                        locations.drop_server(ServerId::new(server));
                        model.retain(|(_, owner), _| owner.get() != server);
                    }
                }
            }
            for handle in 0..4 {
                let wanted: Vec<_> = model.range((handle, ServerId::new(0))..=(handle, ServerId::new(u32::MAX)))
                    .map(|(_, row)| *row).collect();
                prop_assert_eq!(sorted(locations.of(ChunkHandle::new(handle))), wanted);
            }
            let chunks: std::collections::BTreeSet<_> = model.keys().map(|(handle, _)| handle).collect();
            prop_assert_eq!(locations.chunks(), chunks.len());
        }
    }
}
