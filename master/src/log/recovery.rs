//! Opening: what the segments hold after any stop, or why they cannot be used.
//!
//! Every start reads past the page cache, cuts what a torn write left behind, flushes, and goes on
//! in a new segment: so a record that counts is on the device whatever happened to the page cache,
//! and a torn write is never in front of later records. Nothing is changed before all was judged
//! usable.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use gfs_proto::ids::LogIndex;
use raft::eraftpb::ConfState;

use super::codec::{Frame, FrameWriter, Record};
use super::config::{LogConfig, Position};
use super::disk::{Disk, DiskFile};
use super::error::{Damage, LogFault};
use super::members;
use super::segment::{self, HEADER_BYTES, Header, Identity};
use super::store::{Contents, FAILED_FLAG, Members, Segment, SegmentedLog, Slot, make_segment};

/// Opens the log behind a state that ends at `applied`, or makes it.
pub(super) fn open<D: Disk>(disk: Arc<D>, config: &LogConfig, applied: Position) -> Result<SegmentedLog<D>, LogFault> {
    let identity = Identity { cluster: config.cluster, member: config.member };
    let found = Found::list(&*disk)?;
    let plan = match found.run.last() {
        None => plan_new(config, identity, applied)?,
        Some(_) => plan_existing(&*disk, &found, identity, applied)?,
    };
    carry_out(disk, config, found, plan)
}

/// The files there are.
struct Found {
    /// Numbers of the last segments that follow each other without a gap.
    run: Vec<u64>,
    /// Files that do not count: segments being made, those in front of a gap.
    leftovers: Vec<String>,
    /// An fsync failed in the last run.
    flagged: bool,
}

impl Found {
    fn list<D: Disk>(disk: &D) -> Result<Self, LogFault> {
        let names = disk.list().map_err(LogFault::disk("list", "the directory"))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
        numbers.sort_unstable();
        let gap = numbers.windows(2).rposition(|pair| pair[1] != pair[0] + 1).map_or(0, |at| at + 1);
        let run = numbers.split_off(gap);
        let flagged = names.iter().any(|name| name == FAILED_FLAG);
        let made = names.into_iter().filter(|name| name.ends_with(".tmp"));
        Ok(Self { leftovers: numbers.into_iter().map(segment::name).chain(made).collect(), run, flagged })
    }
}

/// What was read, and which segment comes next.
struct Plan {
    contents: Contents,
    headers: Vec<Header>,
    /// How many of them, from the oldest, are void.
    first_live: usize,
    /// The segment to go on in.
    next: Header,
    /// Whether `next` voids everything before it.
    reset: bool,
    /// Where the last segment's frames end; it is cut there.
    end: u64,
}

fn plan_new(config: &LogConfig, identity: Identity, applied: Position) -> Result<Plan, LogFault> {
    let reset = applied != Position::default();
    if reset && !config.restored {
        return Err(LogFault::LogMissing { applied });
    }
    let mut contents = Contents::default();
    begin_behind(&mut contents, applied, members::of_voters(&config.voters));
    let next = Header { identity, number: 1, previous: applied, previous_end: 0 };
    Ok(Plan { contents, headers: Vec::new(), first_live: 0, next, reset, end: 0 })
}

/// The log counts from the state on.
fn begin_behind(contents: &mut Contents, applied: Position, members: ConfState) {
    contents.reset(applied, Members { at: applied, state: members });
    let state = &mut contents.hard_state;
    if state.term < applied.term.get() {
        (state.term, state.vote) = (applied.term.get(), 0);
    }
    state.commit = applied.index.get();
}

fn plan_existing<D: Disk>(disk: &D, found: &Found, identity: Identity, applied: Position) -> Result<Plan, LogFault> {
    let mut reader = Reader::default();
    for (at, &number) in found.run.iter().enumerate() {
        let bytes = read(disk, &segment::name(number), found.flagged)?;
        reader.segment(Header::decode(identity, number, &bytes)?, &bytes, at + 1 == found.run.len())?;
    }
    let Reader { mut contents, headers, first_live, end, entries_in_last, last_resets } = reader;
    let (first, last) = (contents.base.index.get() + 1, contents.last());
    if applied.index < contents.base.index {
        return Err(match found.run[0] {
            number if !found.leftovers.is_empty() => LogFault::SegmentMissing { segment: segment::name(number - 1) },
            _ => LogFault::Gap { first: LogIndex::new(first), applied },
        });
    }
    let header = *headers.last().expect("there is a segment");
    let successor = Header { number: header.number + 1, previous: last, previous_end: end, ..header };
    if applied.index > last.index {
        let state = contents.members.state.clone();
        begin_behind(&mut contents, applied, state);
        let (next, first_live) = (Header { previous: applied, ..successor }, headers.len());
        return Ok(Plan { contents, headers, first_live, next, reset: true, end });
    }
    match contents.term(applied.index.get()) {
        Some(term) if term != applied.term.get() => return Err(LogFault::Diverged { applied, term }),
        _ => {}
    }
    let commit = &mut contents.hard_state.commit;
    *commit = (*commit).clamp(applied.index.get(), last.index.get());
    // A segment without entries is replaced instead of left behind at every start.
    let reset = last_resets && entries_in_last == 0;
    let next = if entries_in_last == 0 { header } else { successor };
    Ok(Plan { contents, headers, first_live, next, reset, end })
}

/// A segment as the device has it; as the page cache has it only where that is as good.
fn read<D: Disk>(disk: &D, name: &str, flagged: bool) -> Result<Vec<u8>, LogFault> {
    match disk.read_uncached(name) {
        Err(source) if source.kind() == io::ErrorKind::Unsupported && flagged => {
            Err(LogFault::Uncached { segment: name.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            read_cached(disk, name).map_err(LogFault::disk("read", name))
        }
        outcome => outcome.map_err(LogFault::disk("read", name)),
    }
}

fn read_cached<D: Disk>(disk: &D, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; file.length()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Goes through the segments in order.
#[derive(Default)]
struct Reader {
    contents: Contents,
    headers: Vec<Header>,
    end: u64,
    first_live: usize,
    entries_in_last: u64,
    last_resets: bool,
}

impl Reader {
    fn segment(&mut self, header: Header, bytes: &[u8], last: bool) -> Result<(), LogFault> {
        if let Some(before) = self.headers.last()
            && self.end != header.previous_end
        {
            let damage = Damage::Short(header.previous_end);
            return Err(LogFault::Damaged { segment: segment::name(before.number), offset: self.end, damage });
        }
        self.entries_in_last = 0;
        let end = segment::scan(&header, bytes, last, |offset, frame| self.frame(&header, offset, frame))?;
        if end == HEADER_BYTES {
            let damage = Damage::Contents("there is none, and a segment always has one");
            return Err(LogFault::Damaged { segment: segment::name(header.number), offset: end, damage });
        }
        self.end = end;
        self.headers.push(header);
        Ok(())
    }

    fn frame(&mut self, header: &Header, offset: u64, frame: Frame) -> Result<(), LogFault> {
        let damaged = |damage| LogFault::Damaged { segment: segment::name(header.number), offset, damage };
        let slot = Slot { term: 0, segment: header.number, frame: offset as u32, frame_bytes: frame.bytes as u32 };
        if offset == HEADER_BYTES {
            self.begin(header, &frame).map_err(damaged)?;
        }
        let state = &mut self.contents.hard_state;
        state.commit = state.commit.max(frame.commit);
        for record in frame.records {
            self.record(record, slot).map_err(damaged)?;
        }
        Ok(())
    }

    /// Checks that a segment follows from what was read before it.
    fn begin(&mut self, header: &Header, first: &Frame) -> Result<(), Damage> {
        let at = header.previous;
        self.last_resets = first.records.iter().any(|record| matches!(record, Record::Snapshot { .. }));
        if self.last_resets {
            self.first_live = self.headers.len();
        }
        if self.headers.is_empty() {
            self.contents.base = at;
        } else if !self.last_resets {
            let (expected, found) = (self.contents.last().index.get() + 1, at.index.get() + 1);
            if self.contents.term(at.index.get()) != Some(at.term.get()) {
                return Err(Damage::Order { expected, found });
            }
            self.contents.truncate_after(at.index.get());
        }
        Ok(())
    }

    fn record(&mut self, record: Record, slot: Slot) -> Result<(), Damage> {
        match record {
            Record::Entry(entry) => {
                let expected = self.contents.last().index.get() + 1;
                if entry.index != expected {
                    return Err(Damage::Order { expected, found: entry.index });
                }
                self.entries_in_last += 1;
                self.contents.push(entry.clone(), Slot { term: entry.term, ..slot });
            }
            Record::Vote { term, vote } => {
                let state = &mut self.contents.hard_state;
                (state.term, state.vote) = (term, vote);
            }
            Record::Members { at, members } => self.contents.members = Members { at, state: members },
            Record::Snapshot { at, members } => self.contents.reset(at, Members { at, state: members }),
        }
        Ok(())
    }
}

/// Makes the disk agree with the plan. Repeating it after a stop at any point comes to the same.
fn carry_out<D: Disk>(disk: Arc<D>, config: &LogConfig, found: Found, plan: Plan) -> Result<SegmentedLog<D>, LogFault> {
    let Plan { contents, mut headers, first_live, next, reset, end } = plan;
    let replaced = headers.pop_if(|last| last.number == next.number).is_some();
    let dropped = headers.drain(..first_live.min(headers.len())).map(|header| segment::name(header.number));
    let dropped: Vec<String> = found.leftovers.into_iter().chain(dropped).collect();
    let mut segments = VecDeque::new();
    for header in headers {
        let name = segment::name(header.number);
        let file = disk.open(&name).map_err(LogFault::disk("open", &name))?;
        let capacity = file.length().map_err(LogFault::disk("measure", &name))?;
        segments.push_back(Segment { header, file, capacity });
    }
    if let Some(last) = segments.back().filter(|_| !replaced) {
        last.file.truncate(end).map_err(LogFault::disk("cut", &segment::name(last.header.number)))?;
    }
    let (segment, end) = make_segment(&*disk, next, config.segment_bytes, &contents, reset)?;
    segments.push_back(segment);
    remove(&*disk, dropped.iter().map(String::as_str))?;
    if found.flagged {
        remove(&*disk, [FAILED_FLAG].into_iter())?;
    }
    let writer = FrameWriter::default();
    Ok(SegmentedLog { disk, segment_bytes: config.segment_bytes, segments, contents, end, written: end, writer })
}

/// Removes files that do not count any more. Should they come back after a power loss, they are
/// removed again.
pub(super) fn remove<'a, D: Disk>(disk: &D, mut names: impl Iterator<Item = &'a str>) -> Result<(), LogFault> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    names.try_for_each(|name| disk.remove(name).or_else(gone).map_err(LogFault::disk("remove", name)))?;
    disk.sync_directory().map_err(LogFault::disk("flush the directory of", "the log"))
}
