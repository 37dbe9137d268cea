//! The segmented log: appends frames, begins segments, drops those that a checkpoint made
//! superfluous, reads entries back. One caller at a time changes it.
//!
//! Invariants: segments are numbered without gaps; a segment is visible only when its header and
//! first frame are durable; within a segment entries follow each other without gaps, so whatever
//! replaces entries begins a new segment.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState};

use super::codec::{self, FrameWriter, Record};
use super::config::Position;
use super::disk::{Disk, DiskFile};
use super::error::{Damage, LogFault};
use super::segment::{self, HEADER_BYTES, Header};
use gfs_proto::mutant;

/// Entries kept in memory behind the last one; older ones are read from their segment.
const RECENT_BYTES_MAX: usize = 8 << 20;
/// A write that reaches new ground brings zeroes up to the next multiple of this: turning
/// preallocated blocks into written ones costs a journal commit, so it is done once per 64 small
/// pages and not at each of them (measured: 30 us of 120 us per fsync).
const ZERO_AHEAD: u64 = 256 << 10;
/// Kept free in a segment beside a batch of entries, for votes and members that come with it.
const RESERVE_MARGIN: u64 = 2048;
/// File whose presence says that an fsync failed: what the page cache holds may not be on the disk.
pub(super) const FAILED_FLAG: &str = "fsync-failed";

/// A segment whose file is open.
pub(super) struct Segment<F> {
    pub(super) header: Header,
    pub(super) file: F,
    /// Bytes that may be written.
    pub(super) capacity: u64,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) segment: u64,
    pub(super) frame: u32,
    pub(super) frame_bytes: u32,
}

impl Slot {
    pub(super) fn is_same_frame(&self, other: &Self) -> bool {
        (self.segment, self.frame) == (other.segment, other.frame)
    }
}

/// Who votes, and the entry that made it so.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Members {
    pub(super) at: Position,
    pub(super) state: ConfState,
}

/// What the log holds, apart from files: filled by recovery, kept up to date by appends.
#[derive(Default)]
pub(super) struct Contents {
    /// The entry before the first that is held.
    pub(super) base: Position,
    /// Entries from `base + 1`.
    pub(super) slots: VecDeque<Slot>,
    /// The last entries, as many as fit.
    pub(super) recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// Term, vote and commit index.
    pub(super) hard_state: HardState,
    pub(super) members: Members,
}

impl Contents {
    pub(super) fn last(&self) -> Position {
        self.slots
            .back()
            .map_or(self.base, |slot| Position::new(self.base.index.get() + self.slots.len() as u64, slot.term))
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.base.index.get() + 1)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// Term of an entry, or of the base.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index.get() { Some(self.base.term.get()) } else { self.slot(index).map(|slot| slot.term) }
    }

    pub(super) fn push(&mut self, entry: Entry, slot: Slot) {
        assert_eq!(entry.index, self.last().index.get() + 1, "entries follow each other");
        self.slots.push_back(slot);
        self.recent_bytes += entry.data.len();
        self.recent.push_back(entry);
        while self.recent_bytes > RECENT_BYTES_MAX && self.recent.len() > 1 {
            let oldest = self.recent.pop_front().map_or(0, |entry| entry.data.len());
            self.recent_bytes -= oldest;
        }
    }

    /// Drops the entries behind `index`.
    pub(super) fn truncate_after(&mut self, index: u64) {
        let keep = index.saturating_sub(self.base.index.get()) as usize;
        self.slots.truncate(keep);
        while self.recent.back().is_some_and(|entry| entry.index > index) {
            let dropped = self.recent.pop_back().map_or(0, |entry| entry.data.len());
            self.recent_bytes -= dropped;
        }
    }

    /// Forgets the entries up to `base`, which is in the log.
    fn advance_base(&mut self, base: Position) {
        let count = base.index.get() - self.base.index.get();
        self.slots.drain(..count as usize);
        while self.recent.front().is_some_and(|entry| entry.index <= base.index.get()) {
            let dropped = self.recent.pop_front().map_or(0, |entry| entry.data.len());
            self.recent_bytes -= dropped;
        }
        self.base = base;
    }

    /// Begins anew behind a state taken from elsewhere.
    pub(super) fn reset(&mut self, base: Position, members: Members) {
        self.slots.clear();
        self.recent.clear();
        self.recent_bytes = 0;
        self.base = base;
        self.members = members;
    }
}

/// The log on its disk.
pub(super) struct SegmentedLog<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) segment_bytes: u64,
    pub(super) segments: VecDeque<Segment<D::File>>,
    pub(super) contents: Contents,
    /// Where the next frame goes in the last segment.
    pub(super) end: u64,
    /// Up to here the last segment's blocks were written before.
    pub(super) written: u64,
    pub(super) writer: FrameWriter,
}

impl<D: Disk> SegmentedLog<D> {
    /// Makes sure that entries with these payload lengths can be appended without beginning a
    /// segment, so that a full disk is noticed before anything is proposed.
    pub(super) fn reserve(&mut self, payloads: impl Iterator<Item = usize>) -> Result<(), LogFault> {
        let need = codec::frame_bytes(payloads) + RESERVE_MARGIN;
        if self.end + need > self.active().capacity { self.roll(self.contents.last(), need) } else { Ok(()) }
    }

    /// Makes entries, and a changed term or vote, durable in one write and one fsync.
    pub(super) fn append(&mut self, entries: Vec<Entry>, hard_state: Option<HardState>) -> Result<(), LogFault> {
        let mut vote = None;
        if let Some(state) = hard_state {
            let old = &self.contents.hard_state;
            vote = (old.term != state.term || old.vote != state.vote)
                .then_some(Record::Vote { term: state.term, vote: state.vote });
            self.contents.hard_state = state;
        }
        self.make_room(&entries)?;
        self.writer.clear();
        vote.iter().for_each(|vote| self.writer.push(vote));
        entries.iter().for_each(|entry| self.writer.push_entry(entry));
        let (segment, frame) = (self.active().header.number, self.end);
        let frame_bytes = self.write_frame()?;
        for entry in entries {
            let slot = Slot { term: entry.term, segment, frame: frame as u32, frame_bytes };
            self.contents.push(entry, slot);
        }
        Ok(())
    }

    /// Entries that replace others, or do not fit, begin a segment.
    fn make_room(&mut self, entries: &[Entry]) -> Result<(), LogFault> {
        let need = codec::frame_bytes(entries.iter().map(|entry| entry.data.len())) + RESERVE_MARGIN;
        let last = self.contents.last();
        let next = entries.first().map_or(last.index.get() + 1, |entry| entry.index);
        assert!(
            next > self.contents.base.index.get() && next <= last.index.get() + 1,
            "no gaps, nothing dropped comes again"
        );
        if next <= last.index.get() {
            let term = self.contents.term(next - 1).expect("checked above to be in the log");
            self.roll(Position::new(next - 1, term), need)
        } else if self.end + need > self.active().capacity {
            self.roll(last, need)
        } else {
            Ok(())
        }
    }

    /// Makes a change of members durable. Comes before the entry that made it is applied.
    pub(super) fn set_members(&mut self, members: Members) -> Result<(), LogFault> {
        self.make_room(&[])?;
        self.writer.clear();
        self.writer.push(&Record::Members { at: members.at, members: members.state.clone() });
        self.contents.members = members;
        self.write_frame().map(drop)
    }

    /// The commit index; written with the next frame.
    pub(super) fn set_commit(&mut self, commit: u64) {
        self.contents.hard_state.commit = commit;
    }

    fn active(&self) -> &Segment<D::File> {
        self.segments.back().expect("an open log has a segment")
    }

    fn write_frame(&mut self) -> Result<u32, LogFault> {
        let active = self.segments.back().expect("an open log has a segment");
        let bytes = self.writer.seal(active.header.seed(), self.end, self.contents.hard_state.commit);
        let (length, end) = (bytes.len(), self.end + bytes.len() as u64);
        assert!(end <= active.capacity, "room was made before");
        if end > self.written {
            self.written = end.next_multiple_of(ZERO_AHEAD).min(active.capacity);
            bytes.resize((self.written - self.end) as usize, 0);
        }
        let name = segment::name(active.header.number);
        active.file.write_at(self.end, bytes).map_err(LogFault::disk("write", &name))?;
        if !mutant!(AcknowledgeBeforeSync) {
            active.file.sync().map_err(LogFault::disk("flush", &name))?;
        }
        self.end = end;
        Ok(length as u32)
    }

    /// Begins a segment behind `previous`; entries behind that are void.
    fn roll(&mut self, previous: Position, need: u64) -> Result<(), LogFault> {
        let header = Header {
            number: self.active().header.number + 1,
            previous,
            previous_end: self.end,
            ..self.active().header
        };
        let capacity = self.segment_bytes.max(HEADER_BYTES + RESERVE_MARGIN + need);
        let (segment, end) = make_segment(&*self.disk, header, capacity, &self.contents, false)?;
        self.contents.truncate_after(previous.index.get());
        self.segments.push_back(segment);
        (self.end, self.written) = (end, end);
        Ok(())
    }

    /// Forgets segments all of whose entries are at most `index`, which a durable checkpoint covers.
    /// Returns the names of their files, to be removed in this order.
    pub(super) fn drop_through(&mut self, index: u64) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(next) = self.segments.get(1).map(|segment| segment.header.previous)
            && next.index.get() <= index
        {
            self.contents.advance_base(next);
            names.extend(self.segments.pop_front().map(|segment| segment::name(segment.header.number)));
        }
        names
    }

    /// Entries of one frame, from the disk.
    pub(super) fn read_frame(&self, slot: &Slot) -> Result<Vec<Entry>, LogFault> {
        let first = self.segments.front().expect("an open log has a segment").header.number;
        let segment = &self.segments[(slot.segment - first) as usize];
        let name = segment::name(slot.segment);
        let mut bytes = vec![0; slot.frame_bytes as usize];
        let offset = u64::from(slot.frame);
        segment.file.read_at(offset, &mut bytes).map_err(LogFault::disk("read", &name))?;
        let frame = codec::decode(segment.header.seed(), offset, &bytes).map_err(|_| LogFault::Damaged {
            segment: name,
            offset,
            damage: Damage::Contents("it was valid before"),
        })?;
        let entry = |record| if let Record::Entry(entry) = record { Some(entry) } else { None };
        Ok(frame.records.into_iter().filter_map(entry).collect())
    }
}

/// Makes a segment whose first frame repeats what must not go with the older ones: term, vote and
/// members. It has its name only when all of that is durable. Returns where the next frame goes.
pub(super) fn make_segment<D: Disk>(
    disk: &D,
    header: Header,
    capacity: u64,
    contents: &Contents,
    reset: bool,
) -> Result<(Segment<D::File>, u64), LogFault> {
    let (name, temporary) = (segment::name(header.number), segment::temporary_name(header.number));
    let mut writer = FrameWriter::default();
    writer.clear();
    let state = &contents.hard_state;
    writer.push(&Record::Vote { term: state.term, vote: state.vote });
    let members = contents.members.state.clone();
    writer.push(&match reset {
        true => Record::Snapshot { at: header.previous, members },
        false => Record::Members { at: contents.members.at, members },
    });
    let mut bytes = header.encode();
    bytes.extend_from_slice(writer.seal(header.seed(), HEADER_BYTES, state.commit));
    let end = bytes.len() as u64;
    let make = || {
        let file = disk.create(&temporary, capacity).map_err(LogFault::disk("make", &temporary))?;
        file.write_at(0, &bytes).map_err(LogFault::disk("write", &temporary))?;
        file.sync().map_err(LogFault::disk("flush", &temporary))?;
        disk.rename(&temporary, &name).map_err(LogFault::disk("rename", &temporary))?;
        disk.sync_directory().map_err(LogFault::disk("flush the directory of", &name))?;
        Ok(file)
    };
    let file = make().inspect_err(|_| {
        // Best effort: a leftover is removed at the next start too.
        let _ = disk.remove(&temporary);
    })?;
    Ok((Segment { header, file, capacity }, end))
}

/// Leaves word that an fsync failed. Best effort: every start distrusts the page cache anyway.
pub(super) fn flag_failure<D: Disk>(disk: &D) {
    let _ = disk.create(FAILED_FLAG, 1).and_then(|file| file.sync()).and_then(|()| disk.sync_directory());
}
