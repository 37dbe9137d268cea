//! The mark journal of a storage directory: which replicas have been modified since they were clean
//! (those whose file name does not say so), which are suspect, and which are damaged. Damage is noted apart from the
//! other two: it stays whatever else is said of a replica, until that is mended, replaced or deleted.
//!
//! One file of fixed size, written full of zeroes when it is made, so that appending a record changes
//! no metadata of the file system. Concurrent appenders share one flush. When it is full it is
//! replaced by one that holds the marks in force.
//!
//! ```text
//! slot 0  magic 8 | format u32 | 0 u32 | first sequence u64 | initial records u32 | crc u32
//! slot n  sequence u64 | handle u64 | durable u64 | kind u8, 0 0 0 | crc u32
//! ```
//! A slot never crosses a sector, so a crash leaves it old or new. A slot that a crash may have lost
//! reads as zeroes and lies after the last durable record; each record says what was durable when it
//! was written, so that a hole before that is known to be damage. Damage is not guessed about: the
//! caller has to take every replica of the directory for modified.
//!
//! Invariant: a clearing record is appended only after what it vouches for is durable.

use super::disk::{Disk, DiskFile, OpenMode};
use gfs_proto::frame::DataError;
use gfs_proto::ids::ChunkHandle;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the journal in its directory.
pub(super) const FILE: &str = "marks";
/// Name of its successor while that is written.
pub(super) const FILE_NEW: &str = "marks.new";

const SLOT: usize = 32;
const MAGIC: [u8; 8] = *b"GFSmarks";
const FORMAT: u32 = 1;
/// 256 KiB: at 1000 marks per second replaced every 8 s.
const SLOTS_MIN: usize = 8192;

/// What a replica is marked as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// Modified since it was clean.
    Dirty,
    /// To be compared with other replicas before it is used.
    Suspect,
}

/// Marks by handle.
pub(super) type Marks = BTreeMap<ChunkHandle, Mark>;

/// Replicas of which something does not match its checksums, though no write was interrupted.
pub(super) type Harmed = BTreeSet<ChunkHandle>;

/// What a journal says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Replayed {
    pub marks: Marks,
    pub harmed: Harmed,
    /// Records that had been durable cannot be read: there may be more marks.
    pub damaged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    sequence: u64,
    handle: ChunkHandle,
    note: Note,
}

/// What a record says of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Note {
    Marked(Mark),
    Unmarked,
    Harmed,
    Mended,
}

impl Record {
    fn encode(self, durable: u64) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&self.sequence.to_le_bytes());
        slot[8..16].copy_from_slice(&self.handle.get().to_le_bytes());
        slot[16..24].copy_from_slice(&durable.to_le_bytes());
        slot[24] = match self.note {
            Note::Marked(Mark::Dirty) => 1,
            Note::Unmarked => 2,
            Note::Marked(Mark::Suspect) => 3,
            Note::Harmed => 4,
            Note::Mended => 5,
        };
        seal(&mut slot);
        slot
    }

    /// The record and what was durable when it was written.
    fn decode(slot: &[u8; SLOT], sequence: u64) -> Option<(Self, u64)> {
        let note = match slot[24] {
            1 => Note::Marked(Mark::Dirty),
            2 => Note::Unmarked,
            3 => Note::Marked(Mark::Suspect),
            4 => Note::Harmed,
            5 => Note::Mended,
            _ => return None,
        };
        let record = Self { sequence, handle: ChunkHandle::new(u64_at(slot, 8)), note };
        (is_sealed(slot) && u64_at(slot, 0) == sequence).then_some((record, u64_at(slot, 16)))
    }

    fn apply(self, (marks, harmed): (&mut Marks, &mut Harmed)) {
        match self.note {
            Note::Marked(mark) => drop(marks.insert(self.handle, mark)),
            Note::Unmarked => drop(marks.remove(&self.handle)),
            Note::Harmed => drop(harmed.insert(self.handle)),
            Note::Mended => drop(harmed.remove(&self.handle)),
        }
    }
}

fn seal(slot: &mut [u8; SLOT]) {
    let crc = crc32c::crc32c(&slot[..SLOT - 4]);
    slot[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(slot: &[u8; SLOT]) -> bool {
    slot[SLOT - 4..] == crc32c::crc32c(&slot[..SLOT - 4]).to_le_bytes()
}

fn u64_at(slot: &[u8; SLOT], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&slot[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Reads a whole journal. Total: any bytes give an answer.
pub(super) fn replay(raw: &[u8]) -> Replayed {
    let (slots, _torn) = raw.as_chunks::<SLOT>();
    let damaged = Replayed { damaged: true, ..Replayed::default() };
    let Some((header, records)) = slots.split_first() else { return damaged };
    let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if header[..8] != MAGIC || !is_sealed(header) || format != FORMAT {
        return damaged;
    }
    let first = u64_at(header, 16);
    let initial = u64::from(u32::from_le_bytes([header[24], header[25], header[26], header[27]]));
    let mut durable = first.saturating_add(initial);
    let mut hole = None;
    let mut out = Replayed::default();
    for (slot, sequence) in records.iter().zip(first..) {
        if *slot == [0; SLOT] {
            hole = hole.or(Some(sequence));
        } else if let Some((record, before)) = Record::decode(slot, sequence) {
            record.apply((&mut out.marks, &mut out.harmed));
            durable = durable.max(before.saturating_add(1));
        } else {
            out.damaged = true;
        }
    }
    let end = first.saturating_add(records.len() as u64);
    out.damaged |= hole.unwrap_or(end) < durable;
    out
}

/// The journal of an open directory.
pub(super) struct MarkJournal<D: Disk> {
    disk: Arc<D>,
    dir: PathBuf,
    state: Mutex<State<D::File>>,
    committed: Condvar,
}

struct State<F> {
    file: Arc<F>,
    /// Slots of the file, and the next free one.
    slots: usize,
    slot_next: usize,
    sequence_next: u64,
    queued: Vec<Record>,
    /// Every record up to this one is durable.
    durable: u64,
    /// Records up to this one that are not durable were refused for want of room.
    refused: u64,
    committing: bool,
    failed: bool,
    marks: Marks,
    harmed: Harmed,
}

impl<D: Disk> MarkJournal<D> {
    /// Replaces the journal of a directory by one that holds `marks` and `harmed`, durably.
    pub(super) fn create(disk: Arc<D>, dir: PathBuf, marks: Marks, harmed: Harmed) -> io::Result<Self> {
        let fresh = write_fresh(&*disk, &dir, (&marks, &harmed), 1)?;
        let records = marks.len() + harmed.len();
        let state = State {
            file: Arc::new(fresh.file),
            slots: fresh.slots,
            slot_next: 1 + records,
            sequence_next: 1 + records as u64,
            queued: Vec::new(),
            durable: records as u64,
            refused: 0,
            committing: false,
            failed: false,
            marks,
            harmed,
        };
        Ok(Self { disk, dir, state: Mutex::new(state), committed: Condvar::new() })
    }

    /// Marks a replica durably; waits for a flush that it shares with others.
    pub(super) fn mark(&self, handle: ChunkHandle, mark: Mark) -> Result<(), DataError> {
        let mut state = self.state.lock();
        let sequence = state.queue(handle, Note::Marked(mark));
        self.wait_durable(&mut state, sequence)
    }

    /// Marks a replica, durable with the next flush.
    pub(super) fn mark_later(&self, handle: ChunkHandle, mark: Mark) {
        let mut state = self.state.lock();
        if state.marks.get(&handle) != Some(&mark) {
            state.queue(handle, Note::Marked(mark));
        }
    }

    /// Takes a mark away, durable with the next flush: losing that leaves the replica marked.
    pub(super) fn clear(&self, handle: ChunkHandle) {
        let mut state = self.state.lock();
        if state.marks.contains_key(&handle) {
            state.queue(handle, Note::Unmarked);
        }
    }

    /// Notes durably that a replica is damaged.
    pub(super) fn harm(&self, handle: ChunkHandle) -> Result<(), DataError> {
        let mut state = self.state.lock();
        if state.harmed.contains(&handle) {
            // noted by somebody whose flush may be on its way
            let last = state.sequence_next - 1;
            return self.wait_durable(&mut state, last);
        }
        let sequence = state.queue(handle, Note::Harmed);
        self.wait_durable(&mut state, sequence)
    }

    /// A replica is damaged no more, durable with the next flush: losing that leaves it called damaged.
    pub(super) fn mended(&self, handle: ChunkHandle) {
        let mut state = self.state.lock();
        if state.harmed.contains(&handle) {
            state.queue(handle, Note::Mended);
        }
    }

    /// Nothing is said of a replica any more: it is gone, or another has taken its place. As [`MarkJournal::clear`].
    pub(super) fn forget(&self, handle: ChunkHandle) {
        self.clear(handle);
        self.mended(handle);
    }

    /// Hands queued records to the operating system, so that they survive the process.
    pub(super) fn write_queued(&self) {
        let mut state = self.state.lock();
        if !state.queued.is_empty() && !state.committing && !state.failed {
            self.commit(&mut state, false);
        }
    }

    /// Makes everything queued durable.
    pub(super) fn flush(&self) -> Result<(), DataError> {
        let mut state = self.state.lock();
        let last = state.sequence_next - 1;
        self.wait_durable(&mut state, last)
    }

    fn wait_durable(&self, state: &mut MutexGuard<'_, State<D::File>>, sequence: u64) -> Result<(), DataError> {
        loop {
            if state.durable >= sequence {
                return Ok(());
            } else if state.failed {
                return Err(DataError::Io);
            } else if state.refused >= sequence {
                return Err(DataError::NoSpace);
            } else if state.committing {
                self.committed.wait(state);
            } else {
                self.commit(state, true);
            }
        }
    }

    /// Writes what is queued, and flushes; others may queue meanwhile.
    fn commit(&self, state: &mut MutexGuard<'_, State<D::File>>, flush: bool) {
        state.committing = true;
        let batch = std::mem::take(&mut state.queued);
        let last = state.sequence_next - 1;
        let done = if state.slot_next + batch.len() <= state.slots {
            let at = (state.slot_next * SLOT) as u64;
            let raw: Vec<u8> = batch.iter().flat_map(|record| record.encode(state.durable)).collect();
            let file = state.file.clone();
            let write = || file.write(at, &[&raw]).and_then(|()| if flush { file.sync() } else { Ok(()) });
            MutexGuard::unlocked(state, write).map(|()| {
                state.slot_next += batch.len();
                if flush {
                    state.durable = last;
                }
            })
        } else {
            self.replace(state)
        };
        state.committing = false;
        if let Err(error) = done {
            let full = error.kind() == io::ErrorKind::StorageFull;
            state.refused = if full { last } else { state.refused };
            state.failed |= !full;
            let newer = std::mem::replace(&mut state.queued, batch);
            state.queued.extend(newer);
        }
        self.committed.notify_all();
    }

    /// Writes a new journal with the marks in force and goes over to it.
    fn replace(&self, state: &mut MutexGuard<'_, State<D::File>>) -> io::Result<()> {
        let (marks, harmed) = (state.marks.clone(), state.harmed.clone());
        let records = marks.len() + harmed.len();
        let first = state.sequence_next;
        state.sequence_next += records as u64;
        let fresh = MutexGuard::unlocked(state, || write_fresh(&*self.disk, &self.dir, (&marks, &harmed), first))?;
        state.file = Arc::new(fresh.file);
        state.slots = fresh.slots;
        state.slot_next = 1 + records;
        state.durable = first + records as u64 - 1;
        Ok(())
    }

    #[cfg(test)]
    fn marks(&self) -> Marks {
        self.state.lock().marks.clone()
    }
}

impl<F> State<F> {
    fn queue(&mut self, handle: ChunkHandle, note: Note) -> u64 {
        let record = Record { sequence: self.sequence_next, handle, note };
        self.sequence_next += 1;
        record.apply((&mut self.marks, &mut self.harmed));
        self.queued.push(record);
        record.sequence
    }
}

struct Fresh<F> {
    file: F,
    slots: usize,
}

fn write_fresh<D: Disk>(
    disk: &D,
    dir: &Path,
    (marks, harmed): (&Marks, &Harmed),
    first: u64,
) -> io::Result<Fresh<D::File>> {
    let records = marks.len() + harmed.len();
    let slots = SLOTS_MIN.max((1 + records).next_multiple_of(SLOTS_MIN / 2) * 2);
    let mut header = [0; SLOT];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&first.to_le_bytes());
    header[24..28].copy_from_slice(&(records as u32).to_le_bytes());
    seal(&mut header);
    let mut raw = Vec::with_capacity(slots * SLOT);
    raw.extend_from_slice(&header);
    let marked = marks.iter().map(|(handle, mark)| (*handle, Note::Marked(*mark)));
    let noted = marked.chain(harmed.iter().map(|handle| (*handle, Note::Harmed)));
    for ((handle, note), sequence) in noted.zip(first..) {
        raw.extend_from_slice(&Record { sequence, handle, note }.encode(0));
    }
    raw.resize(slots * SLOT, 0);
    let file = replace_file(disk, dir, (FILE, FILE_NEW), &raw)?;
    Ok(Fresh { file, slots })
}

/// Replaces a file of a directory as a whole, durably; `names` are its name and that of its successor.
pub(super) fn replace_file<D: Disk>(disk: &D, dir: &Path, names: (&str, &str), content: &[u8]) -> io::Result<D::File> {
    let (name, new) = (dir.join(names.0), dir.join(names.1));
    // never opened as it is: after a crash it may be the same file as its predecessor
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&new, OpenMode::CreateNew)?;
    let written = file.write(0, &[content]).and_then(|()| file.sync()).and_then(|()| disk.rename(&new, &name));
    if written.is_err() {
        // best effort: it is removed before its next use
        let _ = disk.remove(&new);
    }
    written?;
    disk.sync_dir(dir)?;
    Ok(file)
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
