//! Scripts of operations, and what must be true of every chunk at any point of one.

use super::*;
use crate::store::ReplicaState;
use std::collections::BTreeMap;

/// One step of a script. Handles are small numbers.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// In a pack,
    Create(u64),
    /// or in a file of its own.
    CreateFile(u64),
    Put(u64, u32, Vec<u8>),
    /// Two extents in one write.
    PutTwo(u64, (u32, u32), Vec<u8>),
    Sync(u64),
    Clean(u64),
    Raise(u64),
    Cut(u64, u32),
    Delete(u64),
    /// A copy of this content, at the next version.
    Import(u64, Vec<u8>),
    Stop,
}

/// What is known of one chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    /// After the last operation that was acknowledged; `None`: there is no chunk.
    pub content: Option<Vec<u8>>,
    /// If one failed or was interrupted: as it would be after it.
    pub or: Vec<Option<Vec<u8>>>,
    /// Lowest version it can have.
    pub version: u64,
    /// Bytes that were flushed and not touched since; these survive anything.
    pub durable: Vec<Option<u8>>,
    /// Its name was flushed.
    pub named: bool,
    /// Acknowledged as clean and not changed since: it stays so if the process dies,
    pub clean: bool,
    /// and, after operations that wait for that, if power is lost.
    pub settled: bool,
}

pub(super) type World = BTreeMap<u64, Truth>;

impl Step {
    pub(super) fn handle(&self) -> Option<u64> {
        match self {
            Self::Create(n)
            | Self::CreateFile(n)
            | Self::Put(n, ..)
            | Self::PutTwo(n, ..)
            | Self::Sync(n)
            | Self::Clean(n) => Some(*n),
            Self::Raise(n) | Self::Cut(n, _) | Self::Delete(n) | Self::Import(n, _) => Some(*n),
            Self::Stop => None,
        }
    }

    /// Runs it, whatever the chunk's version is.
    pub(super) fn run(&self, store: &ChunkStore<MemDisk>) -> Result<(), DataError> {
        let version = |n: &u64| store.row(h(*n)).map(|row| row.version).ok_or(DataError::NoChunk);
        match self {
            Self::Create(n) => store.create(h(*n), V1, 0),
            Self::CreateFile(n) => store.create(h(*n), V1, LARGE),
            Self::Put(n, offset, data) => store.put(h(*n), *offset, data).map(|_| ()),
            Self::PutTwo(n, (one, two), data) => {
                let half = data.len() as u32 / 2;
                let extents = [(*one, half), (*two, half)].map(|(offset, length)| Extent { offset, length });
                store.put_all(h(*n), &extents, data).map(|_| ())
            }
            Self::Sync(n) => store.flush(h(*n)),
            Self::Clean(n) => match store.mark_clean(&[h(*n)]).as_slice() {
                [] => Err(DataError::Io),
                _ => Ok(()),
            },
            Self::Raise(n) => version(n).and_then(|version| store.raise(h(*n), version, version.next())),
            Self::Cut(n, length) => version(n).and_then(|version| store.cut(h(*n), version, *length)),
            Self::Delete(n) => {
                let version = version(n)?;
                store.delete(&[SyncChunk { handle: h(*n), version }]).remove(0)
            }
            Self::Import(n, content) => {
                let version = version(n).map_or(V1, ChunkVersion::next);
                let mut importer = store.import(h(*n), version)?;
                importer.write(0, content, &encode_sums(block_sums(content)))?;
                importer.finish(content.len() as u32).map(|_| ())
            }
            Self::Stop => store.stop().map_err(|_| DataError::Io),
        }
    }

    /// The content after it.
    fn effect(&self, before: Option<&Vec<u8>>) -> Option<Vec<u8>> {
        let mut content = before.cloned().unwrap_or_default();
        let mut put = |offset: u32, data: &[u8]| {
            let (start, end) = (offset as usize, offset as usize + data.len());
            content.resize(content.len().max(end), 0);
            content[start..end].copy_from_slice(data);
        };
        match self {
            Self::Put(_, offset, data) => put(*offset, data),
            Self::PutTwo(_, (one, two), data) => {
                let (first, second) = data.split_at(data.len() / 2);
                put(*one, first);
                put(*two, second);
            }
            Self::Cut(_, length) => content.truncate(*length as usize),
            Self::Delete(_) => return None,
            Self::Import(_, new) => content.clone_from(new),
            _ => {}
        }
        Some(content)
    }
}

/// Notes that a step began: what it touches is not certain any more.
pub(super) fn begin(world: &mut World, step: &Step) {
    let Some(truth) = step.handle().map(|n| world.entry(n).or_default()) else { return };
    let after = step.effect(truth.content.as_ref());
    if let Some(after) = &after {
        let before = truth.content.clone().unwrap_or_default();
        for (at, byte) in truth.durable.iter_mut().enumerate() {
            if before.get(at) != after.get(at) || touches(step, at) {
                *byte = None;
            }
        }
    } else {
        truth.durable.clear();
        truth.named = false;
    }
    if after != truth.content {
        truth.or.push(after);
    }
}

fn touches(step: &Step, at: usize) -> bool {
    let within = |offset: u32, length: usize| (offset as usize..offset as usize + length).contains(&at);
    match step {
        Step::Put(_, offset, data) => within(*offset, data.len()),
        Step::PutTwo(_, (one, two), data) => within(*one, data.len() / 2) || within(*two, data.len() / 2),
        Step::Cut(_, length) => at >= *length as usize,
        Step::Import(..) => true,
        _ => false,
    }
}

/// Notes that a step was acknowledged.
pub(super) fn acknowledge(world: &mut World, step: &Step) {
    if matches!(step, Step::Stop) {
        for truth in world.values_mut().filter(|truth| truth.content.is_some() && truth.or.is_empty()) {
            truth.all_durable();
            truth.settled = true;
        }
        return;
    }
    let Some(truth) = step.handle().and_then(|n| world.get_mut(&n)) else { return };
    truth.content = step.effect(truth.content.as_ref());
    truth.or.clear();
    match step {
        Step::Create(_) | Step::CreateFile(_) => {
            *truth = Truth { content: Some(vec![]), version: 1, ..Truth::default() }
        }
        Step::Put(..) | Step::PutTwo(..) => (truth.clean, truth.settled) = (false, false),
        Step::Sync(_) => {
            let clean = truth.clean;
            truth.all_durable();
            truth.clean = clean;
        }
        Step::Cut(..) => {
            truth.all_durable();
            (truth.clean, truth.settled) = (false, false);
        }
        Step::Clean(_) => truth.all_durable(),
        Step::Raise(_) => {
            truth.version += 1;
            truth.named = true;
        }
        Step::Delete(_) => *truth = Truth::default(),
        Step::Import(..) => {
            truth.version += 1;
            truth.all_durable();
            truth.settled = true;
        }
        Step::Stop => {}
    }
}

impl Truth {
    fn all_durable(&mut self) {
        self.durable = self.content.iter().flatten().copied().map(Some).collect();
        self.named = true;
        self.clean = true;
    }

    fn may_be(&self, content: Option<&Vec<u8>>) -> bool {
        content == self.content.as_ref() || self.or.iter().any(|or| or.as_ref() == content)
    }
}

/// What a reopened store must show of every chunk. `process`: only the process had died.
pub(super) fn check(store: &ChunkStore<MemDisk>, world: &World, process: bool, context: &str) {
    for (n, truth) in world {
        let row = store.row(h(*n));
        let Some(row) = row else {
            let may_be_gone = truth.may_be(None) || (!process && !truth.named);
            assert!(may_be_gone, "{context}: chunk {n} is gone");
            continue;
        };
        if truth.may_be(None) && truth.content.is_none() {
            // deleted, or created and not acknowledged: whatever is there, it must not be taken for good
            continue;
        }
        assert!(row.version.get() >= truth.version, "{context}: chunk {n} fell back to {}", row.version);
        match row.state {
            ReplicaState::Clean | ReplicaState::Dirty => {
                let content = store.get(h(*n)).unwrap_or_else(|error| panic!("{context}: chunk {n}: {error}"));
                assert!(row.state == ReplicaState::Clean || process, "{context}: dirty after a power cut");
                assert!(truth.may_be(Some(&content)), "{context}: chunk {n} {:?}: wrong content", row.state);
            }
            ReplicaState::Failing => panic!("{context}: chunk {n} is in a directory out of service after a start"),
            ReplicaState::Damaged | ReplicaState::DamagedSuspect => panic!("{context}: chunk {n} is called damaged"),
            ReplicaState::Suspect => {
                let known = truth.settled || (truth.clean && process);
                assert!(!known || !truth.or.is_empty(), "{context}: chunk {n} was clean and is suspect");
                assert_eq!(store.get(h(*n)), Err(DataError::Suspect), "{context}");
                check_suspect(store, (*n, truth), row.version, context);
            }
        }
    }
}

/// No flushed byte is lost, though it takes an adoption to read it.
fn check_suspect(store: &ChunkStore<MemDisk>, (n, truth): (u64, &Truth), version: ChunkVersion, context: &str) {
    if !truth.named && truth.durable.is_empty() {
        return;
    }
    store.adopt(h(n), version, version.next()).unwrap_or_else(|error| panic!("{context}: adopt {n}: {error}"));
    let content = store.get(h(n)).unwrap_or_else(|error| panic!("{context}: adopted {n}: {error}"));
    for (at, byte) in truth.durable.iter().enumerate() {
        if let Some(byte) = byte {
            assert_eq!(content.get(at), Some(byte), "{context}: chunk {n} lost the flushed byte {at}");
        }
    }
}

/// The same with chunks in files of their own.
pub(super) fn scripts_in_files() -> Vec<Vec<Step>> {
    let in_file = |step: &Step| match step {
        Step::Create(n) => Step::CreateFile(*n),
        other => other.clone(),
    };
    scripts().iter().map(|script| script.iter().map(in_file).collect()).collect()
}

/// Packed chunks that grow: where they are, into another place, another pack, a file of their own.
pub(super) fn scripts_of_growth() -> Vec<Vec<Step>> {
    use Step::{Clean, Create, Cut, Delete, Import, Put, Raise, Sync};
    let room = 64 << 10;
    vec![
        vec![
            Create(1),
            Put(1, 0, pattern(1, BLOCK)),
            Sync(1),
            // the units behind it are free
            Put(1, BLOCK, pattern(2, BLOCK)),
            Sync(1),
            Create(2),
            Put(2, 0, pattern(3, 100)),
            Sync(2),
            // now they are not
            Put(1, 2 * BLOCK, pattern(4, 3 * BLOCK)),
            Put(1, 100, pattern(5, 50)),
            Sync(1),
            Delete(1),
            Sync(2),
        ],
        vec![
            Create(1),
            Put(1, 0, pattern(1, 2 * BLOCK)),
            Clean(1),
            Create(2),
            Put(1, 2 * BLOCK, pattern(2, 5 * BLOCK)),
            Put(1, 0, pattern(3, 10)),
            Clean(1),
            Raise(1),
            // to another pack
            Put(1, 7 * BLOCK, pattern(4, 8 * BLOCK)),
            Put(1, 0, pattern(5, 10)),
            Sync(1),
            Cut(1, BLOCK + 1),
            Delete(1),
            Create(1),
        ],
        vec![
            Create(1),
            Put(1, 0, pattern(1, BLOCK + 5)),
            Sync(1),
            // to a file of its own
            Put(1, room - 10, pattern(2, 100)),
            Put(1, 0, pattern(3, 10)),
            Sync(1),
            Put(1, room + BLOCK, pattern(4, 100)),
            Clean(1),
            Raise(1),
            Delete(1),
            Create(1),
            Put(1, 0, pattern(5, 10)),
            Sync(1),
        ],
        vec![
            Create(1),
            // a chunk without bytes moves too
            Put(1, room, pattern(1, 100)),
            Sync(1),
            Create(2),
            Put(2, 0, pattern(2, 100)),
            Clean(2),
            Import(2, pattern(3, room + 100)),
            Put(2, 0, pattern(4, 10)),
            Delete(2),
            Create(2),
            Create(3),
            Put(2, BLOCK, pattern(5, 6 * BLOCK)),
            Clean(2),
            Clean(3),
        ],
    ]
}

/// Scripts that between them have every operation after every kind of state, with chunks in packs.
pub(super) fn scripts() -> Vec<Vec<Step>> {
    use Step::{Clean, Create, Cut, Delete, Import, Put, PutTwo, Raise, Stop, Sync};
    vec![
        vec![
            Create(1),
            Put(1, 0, pattern(1, BLOCK)),
            Sync(1),
            Put(1, BLOCK, pattern(2, BLOCK)),
            Put(1, 100, pattern(3, 50)),
            Sync(1),
            Put(1, 50, pattern(4, 2 * BLOCK)),
        ],
        vec![
            Create(1),
            Put(1, 5000, pattern(1, 3000)),
            Clean(1),
            Put(1, 0, pattern(2, 2 * BLOCK)),
            Put(1, 8000, pattern(3, 5000)),
            Clean(1),
            PutTwo(1, (10, 6000), pattern(4, 4000)),
            Raise(1),
            Put(1, 0, pattern(5, 10)),
            Sync(1),
            Clean(1),
            Raise(1),
        ],
        vec![
            Create(1),
            Put(1, 0, pattern(1, 3 * BLOCK + 77)),
            Clean(1),
            Cut(1, 2 * BLOCK + 10),
            Put(1, 4 * BLOCK, pattern(2, 100)),
            Cut(1, BLOCK),
            Cut(1, 0),
            Put(1, 10, pattern(3, 100)),
            Clean(1),
        ],
        // handles of deleted chunks are used again
        vec![
            Create(1),
            Put(1, 0, pattern(1, 3 * BLOCK)),
            Clean(1),
            Delete(1),
            Create(2),
            Put(2, BLOCK + 10, pattern(2, 100)),
            Sync(2),
            Create(1),
            Put(1, 0, pattern(3, 2 * BLOCK)),
            Sync(1),
            Delete(2),
            Create(3),
            Delete(1),
            Create(1),
            Put(1, 2 * BLOCK, pattern(4, 10)),
            Clean(1),
        ],
        vec![
            Import(1, pattern(1, 2 * BLOCK + 5)),
            Put(1, 3, pattern(2, 100)),
            Import(1, pattern(3, BLOCK)),
            Clean(1),
            Create(2),
            Put(2, 0, pattern(4, 100)),
            Delete(1),
            Sync(2),
            Delete(2),
            Create(2),
            Put(2, 0, pattern(5, 100)),
            Clean(2),
            Put(2, 0, pattern(6, 100)),
            Delete(2),
            Create(1),
        ],
        vec![
            Create(1),
            Create(2),
            Put(1, 0, pattern(1, 5000)),
            PutTwo(2, (8192, 0), pattern(2, 5000)),
            Clean(1),
            Put(1, 0, pattern(3, 10)),
            Create(3),
            Stop,
        ],
    ]
}
