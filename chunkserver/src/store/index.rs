//! Which replicas there are, in 24 bytes each, and those that are open.
//!
//! The index says what a directory listing, the tables of the packs and the mark journal say, for every replica; an [`Open`]
//! is there only for replicas in use. Both are kept together in shards, so that "is it there, is it
//! open" is one question.
//!
//! Invariants: at most one [`Open`] per handle takes part in anything, so its lock orders all access to
//! the file; the index of an open replica changes only under that lock.

use super::layout::{ChunkName, VERSION_MAX};
use super::live_lock::LiveLock;
use super::pack::Place;
use super::slice::Slice;
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SHARDS: usize = 16;

/// Largest number of storage directories: an entry has 8 bits for it.
pub(super) const DIRECTORIES_MAX: usize = 256;

/// What is known of a replica without opening it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub version: ChunkVersion,
    /// Number of its storage directory.
    pub dir: u8,
    /// Where it is in a pack; `None`: it has a file of its own.
    pub place: Option<Place>,
    /// Its file name, or its record in the pack, says that it was never clean.
    pub unclean_name: bool,
    /// The mark journal says that it is modified or suspect.
    pub marked: bool,
    /// Something in it does not match its checksums, though no write was interrupted; the mark journal says so.
    pub damaged: bool,
    /// Clean, Dirty or Suspect.
    pub state: ReplicaState,
}

/// An entry as it is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Compact {
    state: u64,
    /// 0: a file of its own.
    place: u64,
}

impl Entry {
    fn compact(self) -> Compact {
        let state = match self.state {
            ReplicaState::Clean => 0,
            ReplicaState::Dirty => 1,
            ReplicaState::Suspect => 2,
            ReplicaState::Failing | ReplicaState::Damaged | ReplicaState::DamagedSuspect => {
                unreachable!("said when replicas are reported")
            }
        };
        debug_assert!(self.version.get() <= VERSION_MAX, "versions are bounded where they enter");
        let flags =
            u64::from(self.unclean_name) | u64::from(self.marked) << 1 | state << 2 | u64::from(self.damaged) << 4;
        let state = self.version.get() << 16 | flags << 8 | u64::from(self.dir);
        Compact { state, place: self.place.map_or(0, Place::to_bits) }
    }

    fn expand(compact: Compact) -> Self {
        let Compact { state: raw, place } = compact;
        let flags = raw >> 8;
        Self {
            version: ChunkVersion::new(raw >> 16),
            dir: raw as u8,
            place: Place::from_bits(place),
            unclean_name: flags & 1 != 0,
            marked: flags & 2 != 0,
            damaged: flags & 16 != 0,
            state: match flags >> 2 & 3 {
                0 => ReplicaState::Clean,
                1 => ReplicaState::Dirty,
                _ => ReplicaState::Suspect,
            },
        }
    }

    /// Name of its file.
    pub(super) const fn name(self, handle: ChunkHandle) -> ChunkName {
        ChunkName { handle, version: self.version, unclean: self.unclean_name }
    }

    /// True if both are the same file or place, and are called the same.
    pub(super) fn is_named_as(self, other: Self, handle: ChunkHandle) -> bool {
        self.dir == other.dir && self.place == other.place && self.name(handle) == other.name(handle)
    }

    /// True if a power cut leaves no doubt that it was modified.
    pub(super) const fn is_guarded(self) -> bool {
        self.unclean_name || self.marked
    }
}

/// An open replica.
pub(super) struct Open<F> {
    pub handle: ChunkHandle,
    /// Writers exclude everybody; readers, who want data and sums of one moment, exclude writers.
    pub live: LiveLock<F>,
    used: AtomicBool,
}

/// What changes of an open replica.
pub(super) struct Live<F> {
    pub entry: Entry,
    pub bytes: Slice<F>,
    /// Deleted or replaced: whoever still holds it must look again.
    pub gone: bool,
    /// The header is in the file.
    pub header: bool,
    /// The header cannot be read; only possible if suspect or damaged.
    pub headless: bool,
    pub length: u32,
    /// Changes of content so far, and how many of them are durable.
    pub writes: u64,
    pub writes_synced: u64,
    /// The present name of its file is durable, or its record in a pack.
    pub name_synced: bool,
}

impl<F> Open<F> {
    pub(super) fn new(handle: ChunkHandle, live: Live<F>) -> Arc<Self> {
        Arc::new(Self { handle, live: LiveLock::new(live), used: AtomicBool::new(true) })
    }
}

/// All replicas of a store.
pub(super) struct Index<F> {
    shards: Vec<Mutex<Shard<F>>>,
    open_max_per_shard: usize,
}

struct Shard<F> {
    entries: HashMap<ChunkHandle, Compact>,
    open: HashMap<ChunkHandle, Arc<Open<F>>>,
    /// Clock hand over the open ones.
    order: VecDeque<ChunkHandle>,
    /// Replicas removed so far: a file that was opened by an older entry may be another one.
    removals: u64,
}

/// An entry as it was seen, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub entry: Entry,
    removals: u64,
}

impl<F> Index<F> {
    pub(super) fn new(open_files_max: usize) -> Self {
        let shard = || Shard { entries: HashMap::new(), open: HashMap::new(), order: VecDeque::new(), removals: 0 };
        let shards = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        Self { shards, open_max_per_shard: (open_files_max / SHARDS).max(4) }
    }

    fn shard(&self, handle: ChunkHandle) -> MutexGuard<'_, Shard<F>> {
        let mixed = handle.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        self.shards[mixed as usize % SHARDS].lock()
    }

    pub(super) fn get(&self, handle: ChunkHandle) -> Option<Entry> {
        self.shard(handle).entries.get(&handle).map(|raw| Entry::expand(*raw))
    }

    /// The replica if it is open, and its entry.
    pub(super) fn get_open(&self, handle: ChunkHandle) -> Option<(Seen, Option<Arc<Open<F>>>)> {
        let shard = self.shard(handle);
        let seen = Seen { entry: Entry::expand(*shard.entries.get(&handle)?), removals: shard.removals };
        let open = shard.open.get(&handle).cloned();
        if let Some(open) = &open {
            open.used.store(true, Ordering::Relaxed);
        }
        Some((seen, open))
    }

    /// Adds a replica; `None` if there is one.
    pub(super) fn insert(&self, handle: ChunkHandle, entry: Entry) -> Option<Seen> {
        let mut shard = self.shard(handle);
        if shard.entries.contains_key(&handle) {
            return None;
        }
        shard.entries.insert(handle, entry.compact());
        Some(Seen { entry, removals: shard.removals })
    }

    /// Changes the entry of a replica that is there.
    pub(super) fn update(&self, handle: ChunkHandle, entry: Entry) {
        if let Some(raw) = self.shard(handle).entries.get_mut(&handle) {
            *raw = entry.compact();
        }
    }

    /// Changes the entry of a replica that is exactly `old` and not open.
    pub(super) fn update_closed(&self, handle: ChunkHandle, old: Entry, new: Entry) -> bool {
        let mut shard = self.shard(handle);
        let same = shard.entries.get(&handle) == Some(&old.compact()) && !shard.open.contains_key(&handle);
        if same {
            shard.entries.insert(handle, new.compact());
        }
        same
    }

    /// Removes a replica, and says what it was.
    pub(super) fn remove(&self, handle: ChunkHandle) -> Option<Entry> {
        let mut shard = self.shard(handle);
        shard.open.remove(&handle);
        shard.removals += 1;
        shard.entries.remove(&handle).map(Entry::expand)
    }

    /// Removes a replica that is exactly `entry` and not open.
    pub(super) fn remove_closed(&self, handle: ChunkHandle, entry: Entry) -> bool {
        let mut shard = self.shard(handle);
        let same = shard.entries.get(&handle) == Some(&entry.compact()) && !shard.open.contains_key(&handle);
        if same {
            shard.entries.remove(&handle);
            shard.removals += 1;
        }
        same
    }

    /// Enters an open replica whose file was found as `seen` says. The one that counts is returned:
    /// another thread's if it was faster; `None` if the entry may have changed meanwhile.
    pub(super) fn enter(&self, opened: Arc<Open<F>>, seen: Seen) -> Option<Arc<Open<F>>> {
        let handle = opened.handle;
        let mut shard = self.shard(handle);
        if let Some(open) = shard.open.get(&handle) {
            return Some(open.clone());
        }
        if shard.entries.get(&handle) != Some(&seen.entry.compact()) || shard.removals != seen.removals {
            return None;
        }
        shard.open.insert(handle, opened.clone());
        shard.order.push_back(handle);
        Some(opened)
    }

    /// Closes idle replicas where too many are open. Returns those that are not durable and must be
    /// flushed before that: a file that is opened anew may not tell that its flush failed.
    pub(super) fn close_idle(&self, handle: ChunkHandle) -> Vec<Arc<Open<F>>> {
        let mut shard = self.shard(handle);
        if shard.open.len() <= self.open_max_per_shard {
            return Vec::new();
        }
        let mut unflushed = Vec::new();
        let wanted = self.open_max_per_shard * 7 / 8;
        for _ in 0..2 * shard.order.len() {
            if shard.open.len() <= wanted {
                return Vec::new();
            }
            let Some(handle) = shard.order.pop_front() else { break };
            let Some(open) = shard.open.get(&handle).cloned() else { continue };
            // one is the table's, one is ours: clones are made under the shard's lock only
            let busy = Arc::strong_count(&open) > 2 || open.used.swap(false, Ordering::Relaxed);
            // a pack stays open, and remembers a flush that failed
            let flushed = open
                .live
                .try_read()
                .is_some_and(|live| live.entry.place.is_some() || live.writes == live.writes_synced);
            if busy || !flushed {
                shard.order.push_back(handle);
                if !busy {
                    unflushed.push(open);
                }
            } else {
                shard.open.remove(&handle);
            }
        }
        unflushed
    }

    /// Every replica, with the open ones.
    pub(super) fn for_each(&self, mut visit: impl FnMut(ChunkHandle, Entry, Option<&Arc<Open<F>>>)) {
        for shard in &self.shards {
            let shard = shard.lock();
            for (handle, raw) in &shard.entries {
                visit(*handle, Entry::expand(*raw), shard.open.get(handle));
            }
        }
    }

    /// Files open now.
    pub(super) fn open_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().open.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u64) -> Entry {
        Entry {
            version: ChunkVersion::new(version),
            dir: 3,
            place: None,
            unclean_name: false,
            marked: false,
            damaged: false,
            state: ReplicaState::Clean,
        }
    }

    fn open(handle: u64, writes: u64) -> Arc<Open<()>> {
        let live = Live {
            entry: entry(1),
            bytes: Slice::whole(()),
            gone: false,
            header: true,
            headless: false,
            length: 0,
            writes,
            writes_synced: 0,
            name_synced: true,
        };
        Open::new(ChunkHandle::new(handle), live)
    }

    fn enter(index: &Index<()>, opened: Arc<Open<()>>) -> Vec<Arc<Open<()>>> {
        let handle = opened.handle;
        let seen = index.insert(handle, entry(1)).expect("new");
        assert!(index.enter(opened, seen).is_some());
        index.close_idle(handle)
    }

    #[test]
    fn entries_round_trip_in_sixteen_bytes() {
        for state in [ReplicaState::Clean, ReplicaState::Dirty, ReplicaState::Suspect] {
            for bits in 0..8 {
                let place = (bits == 3).then_some(Place { pack: 9, first: 8, units: 7 });
                let (unclean_name, marked, damaged) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                let e = Entry { unclean_name, marked, damaged, state, dir: 255, place, ..entry(VERSION_MAX) };
                assert_eq!(Entry::expand(e.compact()), e);
            }
        }
    }

    #[test]
    fn open_files_are_bounded_and_busy_ones_stay_open() {
        let index = Index::new(64);
        let busy = open(1_000_000, 0);
        enter(&index, busy.clone());
        for raw in 0..2000 {
            assert!(enter(&index, open(raw, 0)).is_empty());
        }
        assert!(index.open_count() <= 64 + SHARDS, "{}", index.open_count());
        let (_, found) = index.get_open(busy.handle).expect("entry");
        assert!(found.is_some_and(|open| Arc::ptr_eq(&open, &busy)), "a second one would have another lock");
    }

    #[test]
    fn what_is_not_flushed_is_handed_out_before_it_is_closed() {
        let index = Index::new(64);
        let unflushed = (0..2000).map(|raw| enter(&index, open(raw, 1)).len()).max();
        assert!(unflushed > Some(0));
        assert_eq!(index.open_count(), 2000, "nothing was closed");
    }

    #[test]
    fn an_open_file_of_an_older_entry_is_not_entered() {
        let index = Index::new(64);
        let handle = ChunkHandle::new(5);
        let first = index.insert(handle, entry(1)).expect("new");
        index.update(handle, entry(2));
        assert!(index.enter(open(5, 0), first).is_none(), "renamed");
        assert!(!index.remove_closed(handle, entry(1)) && index.remove_closed(handle, entry(2)));
        index.insert(handle, entry(1)).expect("new");
        assert!(index.enter(open(5, 0), first).is_none(), "deleted and made anew: another file of the same name");
    }
}
