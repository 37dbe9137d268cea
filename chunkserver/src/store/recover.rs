//! What the replicas of a directory are worth after the last run: names and marks say which were
//! modified, how the run ended says what may have happened to those.
//!
//! | last run | modified replicas |
//! |---|---|
//! | stopped cleanly | none, but those that were suspect already |
//! | process died, same boot: the page cache is whole | compared with their checksums: Dirty or Suspect |
//! | another boot, failed flush | Suspect: acknowledged bytes may be gone though all checksums match |
//! | mark journal damaged | every replica is Suspect |
//!
//! A replica that was ever called suspect stays it until it is adopted or replaced: suspect marks are
//! written before the new run is.

use super::directory::{note_failed_flush, subdir};
use super::disk::{Disk, OpenMode};
use super::format_file::FormatFile;
use super::image::{Header, Image};
use super::index::Entry;
use super::layout::{ChunkName, Layout, SUBDIRS};
use super::marks::{self, Harmed, Mark, Marks, Replayed};
use super::open::read_file;
use super::pack::{PackError, Packs, Place, Record, Scanned};
use super::slice::Slice;
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::ChunkHandle;
use gfs_proto::layout::ChunkSize;
use std::io;
use std::path::Path;

/// Threads that compare replicas with their checksums.
const COMPARERS: usize = 4;

/// How the last run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LastRun {
    /// There was none.
    None,
    Stopped,
    ProcessDied,
    PowerLost,
}

impl LastRun {
    pub(super) fn of(format: Option<&FormatFile>, boot_id: &str, flush_failed: bool) -> Self {
        match format {
            None => Self::None,
            Some(_) if flush_failed => Self::PowerLost,
            Some(format) if format.stopped => Self::Stopped,
            Some(format) if format.boot_id == boot_id => Self::ProcessDied,
            Some(_) => Self::PowerLost,
        }
    }
}

/// A replica that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub handle: ChunkHandle,
    pub entry: Entry,
}

/// Where replicas are looked for.
pub(super) struct FoundIn<'a, D: Disk> {
    pub disk: &'a D,
    pub path: &'a Path,
    pub packs: &'a Packs<D>,
}

/// What was found in a directory.
pub(super) struct Recovery {
    pub found: Vec<Found>,
    /// Marks that hold from now on.
    pub marks: Marks,
    /// Replicas that were found damaged by the runs before.
    pub harmed: Harmed,
}

/// Reads names and marks, removes what interrupted operations left, decides what is suspect.
pub(super) fn recover<D: Disk>(
    found_in: &FoundIn<'_, D>,
    scanned: Scanned,
    last_run: LastRun,
    chunk_size: Option<ChunkSize>,
) -> io::Result<Recovery> {
    let FoundIn { disk, path, .. } = *found_in;
    let damaged = scanned.damaged;
    let candidates = choose(found_in, list(disk, path)?, scanned.replicas)?;
    let replayed = match read_file(disk, &path.join(marks::FILE))? {
        Some(raw) => marks::replay(&raw),
        None => Replayed { damaged: last_run != LastRun::None, ..Replayed::default() },
    };
    if replayed.damaged && last_run != LastRun::None {
        tracing::error!(directory = %path.display(), "the mark journal is damaged: every replica is suspect");
    }
    let first_sight = |candidate: Candidate| {
        let Candidate { name, place, .. } = candidate;
        let mut found = first_sight(name, &replayed, last_run);
        found.entry.place = place;
        if damaged.contains(&found.handle) {
            tracing::error!(chunk = %found.handle, "suspect: another record of it is damaged");
            found.entry.state = ReplicaState::Suspect;
        }
        found
    };
    let mut found: Vec<Found> = candidates.into_iter().map(first_sight).collect();
    if last_run == LastRun::ProcessDied
        && let Some(chunk_size) = chunk_size
    {
        compare_dirty(found_in, &mut found, Layout::new(chunk_size));
    }
    for found in &mut found {
        found.entry.damaged = replayed.harmed.contains(&found.handle);
    }
    let mark_of = |found: &Found| match found.entry.state {
        ReplicaState::Suspect => Some(Mark::Suspect),
        ReplicaState::Dirty if !found.entry.unclean_name => Some(Mark::Dirty),
        _ => None,
    };
    let marks: Marks = found.iter().filter_map(|found| Some((found.handle, mark_of(found)?))).collect();
    for found in &mut found {
        found.entry.marked = marks.contains_key(&found.handle);
    }
    let harmed = found.iter().filter(|found| found.entry.damaged).map(|found| found.handle).collect();
    Ok(Recovery { found, marks, harmed })
}

/// State by name and mark alone: Dirty means that the content decides.
fn first_sight(name: ChunkName, replayed: &Replayed, last_run: LastRun) -> Found {
    let mark = replayed.marks.get(&name.handle);
    let modified = name.unclean || mark.is_some();
    let state = match last_run {
        _ if mark == Some(&Mark::Suspect) || replayed.damaged => ReplicaState::Suspect,
        _ if !modified => ReplicaState::Clean,
        LastRun::ProcessDied => ReplicaState::Dirty,
        // a clean stop leaves nothing modified
        LastRun::None | LastRun::Stopped | LastRun::PowerLost => ReplicaState::Suspect,
    };
    let entry = Entry {
        version: name.version,
        dir: 0,
        place: None,
        unclean_name: name.unclean,
        marked: false,
        damaged: false,
        state,
    };
    Found { handle: name.handle, entry }
}

/// Names of chunk files. Opens none.
fn list<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<ChunkName>> {
    let mut names = Vec::new();
    for number in 0..SUBDIRS {
        let dir = subdir(path, number);
        for listed in disk.list(&dir)? {
            let name = listed.name.to_string_lossy();
            match ChunkName::parse(&name).filter(|read| ChunkName::subdir(read.handle) == number) {
                Some(name) => names.push(name),
                None if name.ends_with(".import") || name.ends_with(".move") => disk.remove(&dir.join(&listed.name))?,
                None => tracing::warn!(file = %dir.join(&listed.name).display(), "not a chunk file; ignored"),
            }
        }
    }
    Ok(names)
}

/// One of perhaps several that a crash has left of a replica. Ordered by handle and, of one handle, by what
/// counts: the higher version; of one version that which promises less; a file before a place in a pack, from
/// which it was moved; of two places the one that was written later.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Candidate {
    name: ChunkName,
    place: Option<Place>,
    sequence: u64,
}

impl Candidate {
    fn rank(&self) -> impl Ord + use<> {
        let ChunkName { handle, version, unclean } = self.name;
        let is_file = self.place.is_none();
        (handle, version, unclean, is_file, self.sequence)
    }
}

/// One candidate for each handle. The others are removed, those in packs durably: they must not come back
/// when the one that counts is deleted.
fn choose<D: Disk>(
    found_in: &FoundIn<'_, D>,
    names: Vec<ChunkName>,
    packed: Vec<(Place, Record)>,
) -> io::Result<Vec<Candidate>> {
    let FoundIn { disk, path, packs } = found_in;
    let of_record = |(place, record): (Place, Record)| {
        let Record { handle, version, unclean, sequence, .. } = record;
        Candidate { name: ChunkName { handle, version, unclean }, place: Some(place), sequence }
    };
    let files = names.into_iter().map(|name| Candidate { name, place: None, sequence: 0 });
    let mut all: Vec<Candidate> = packed.into_iter().map(of_record).chain(files).collect();
    all.sort_unstable_by_key(Candidate::rank);
    for pair in all.windows(2).filter(|pair| pair[0].name.handle == pair[1].name.handle) {
        let Candidate { name, place, .. } = pair[0];
        match place {
            Some(place) => erase(found_in, place)?,
            None => disk.remove(&subdir(path, ChunkName::subdir(name.handle)).join(name.file_name()))?,
        }
    }
    all.reverse();
    all.dedup_by_key(|candidate| candidate.name.handle);
    packs.remove_empty();
    Ok(all)
}

/// Erases a record durably.
fn erase<D: Disk>(found_in: &FoundIn<'_, D>, place: Place) -> io::Result<()> {
    let FoundIn { disk, path, packs } = found_in;
    packs.erase(place)?;
    packs.flush(place.pack).map_err(|error| match error {
        PackError::Io(error) => error,
        PackError::Flush => {
            // the next start would read from the page cache what the disk may never have got
            note_failed_flush(*disk, path, &format!("flush of {} failed", packs.path(place.pack).display()));
            io::Error::other(PackError::Flush)
        }
    })
}

/// Makes those suspect whose content does not match their checksums.
fn compare_dirty<D: Disk>(found_in: &FoundIn<'_, D>, found: &mut [Found], layout: Layout) {
    let mut dirty: Vec<&mut Found> = found.iter_mut().filter(|f| f.entry.state == ReplicaState::Dirty).collect();
    let compare = |part: &mut [&mut Found]| {
        for found in part {
            if !is_whole(found_in, found, layout).unwrap_or(false) {
                tracing::warn!(chunk = %found.handle, "an unfinished write: the replica is suspect");
                found.entry.state = ReplicaState::Suspect;
            }
        }
    };
    if !found_in.disk.waits() {
        return compare(&mut dirty);
    }
    let share = dirty.len().div_ceil(COMPARERS).max(1);
    std::thread::scope(|scope| dirty.chunks_mut(share).for_each(|part| drop(scope.spawn(|| compare(part)))));
}

/// True if header and blocks match; what an unfinished write left beyond the length is removed.
fn is_whole<D: Disk>(found_in: &FoundIn<'_, D>, found: &Found, layout: Layout) -> io::Result<bool> {
    let FoundIn { disk, path, packs } = found_in;
    let Found { handle, entry } = *found;
    let bytes = match entry.place {
        Some(place) => packs.slice(place)?,
        None => {
            let file = subdir(path, ChunkName::subdir(handle)).join(entry.name(handle).file_name());
            Slice::whole(disk.open(&file, OpenMode::Existing)?)
        }
    };
    let chunk = Image { bytes, layout, handle };
    let length = match chunk.header()? {
        Header::None if entry.unclean_name => 0,
        Header::None => return Ok(false),
        Header::Length(length) => length,
        Header::Bad(_) => return Ok(false),
    };
    if !chunk.compare_all(length)?.bad.is_empty() {
        return Ok(false);
    }
    chunk.clear_beyond(length)?;
    Ok(true)
}
