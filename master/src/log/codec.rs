//! Bytes of a frame: what one write and one fsync put into the log.
//!
//! ```text
//! frame   magic "GFR1" | crc32c | body length | records | commit index | records… | zeroes to 8 | end mark
//! record  length | kind, 0, 0, 0 | term | index | payload
//! ```
//! Numbers are little-endian. The checksum covers everything between itself and the end mark, and,
//! without storing them there, cluster, member, segment number and offset, so that a frame is valid
//! in one place only. A frame is never begun before the one in front of it is durable: whatever
//! follows a bad frame proves that the bad one was durable once.

use gfs_proto::ids::ClusterId;
use raft::eraftpb::{ConfState, Entry, EntryType};

use super::config::{MemberId, Position};
use super::members;

/// First bytes of a frame; the last one is the format's version.
const MAGIC: [u8; 4] = *b"GFR1";
/// Bytes before the records of a frame.
const FRAME_HEADER: usize = 24;
/// Bytes before the payload of a record.
const RECORD_HEADER: usize = 24;
/// Frames begin and end at multiples of this.
pub(super) const FRAME_ALIGNMENT: usize = 8;
/// Last bytes of a frame, none of them zero: a frame without them was not written to its end.
pub(super) const END_MARK: [u8; 8] = *b"\xe5GFSEND\xe5";

/// What one record says.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Record {
    /// An entry of raft's log.
    Entry(Entry),
    /// Raft's term and the vote given in it.
    Vote {
        /// Current term.
        term: u64,
        /// Member voted for, 0 for none.
        vote: u64,
    },
    /// Who votes, as of the entry at `at`.
    Members {
        /// Entry that made it so.
        at: Position,
        /// Voters and learners.
        members: ConfState,
    },
    /// The log begins anew behind a state that was taken from elsewhere: nothing before counts.
    Snapshot {
        /// Where that state ends.
        at: Position,
        /// Voters and learners then.
        members: ConfState,
    },
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry(entry) => entry_kind(entry),
            Self::Vote { .. } => 16,
            Self::Members { .. } => 17,
            Self::Snapshot { .. } => 18,
        }
    }

    fn parse(kind: u8, term: u64, index: u64, payload: &[u8]) -> Result<Self, &'static str> {
        let at = Position::new(index, term);
        let entry = |kind| {
            let mut entry = Entry { term, index, data: payload.to_vec().into(), ..Default::default() };
            entry.set_entry_type(kind);
            Ok(Self::Entry(entry))
        };
        match kind {
            1 => entry(EntryType::EntryNormal),
            3 => entry(EntryType::EntryConfChangeV2),
            16 => {
                let vote = payload.try_into().map_err(|_| "a vote of another length")?;
                Ok(Self::Vote { term, vote: u64::from_le_bytes(vote) })
            }
            17 => Ok(Self::Members { at, members: members::decode(payload)? }),
            18 => Ok(Self::Snapshot { at, members: members::decode(payload)? }),
            _ => Err("an unknown kind of record"),
        }
    }
}

fn entry_kind(entry: &Entry) -> u8 {
    match entry.get_entry_type() {
        EntryType::EntryNormal => 1,
        EntryType::EntryConfChange => panic!("members change by the second form of the entry alone"),
        EntryType::EntryConfChangeV2 => 3,
    }
}

/// The checksum's part that a frame does not store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(cluster: ClusterId, member: MemberId, segment: u64) -> Self {
        let crc = crc32c::crc32c(cluster.as_bytes());
        let crc = crc32c::crc32c_append(crc, &member.get().to_le_bytes());
        Self(crc32c::crc32c_append(crc, &segment.to_le_bytes()))
    }

    fn sum(self, offset: u64, covered: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), covered)
    }
}

/// Collects records into a frame; the buffer is kept from frame to frame.
#[derive(Default)]
pub(super) struct FrameWriter {
    bytes: Vec<u8>,
    records: u32,
}

impl FrameWriter {
    /// Forgets what was collected.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(FRAME_HEADER, 0);
        self.records = 0;
    }

    pub(super) fn push(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => self.push_entry(entry),
            Record::Vote { term, vote } => self.put(record.kind(), *term, 0, &vote.to_le_bytes()),
            Record::Members { at, members } | Record::Snapshot { at, members } => {
                self.put(record.kind(), at.term.get(), at.index.get(), &members::encode(members));
            }
        }
    }

    pub(super) fn push_entry(&mut self, entry: &Entry) {
        assert!(entry.context.is_empty(), "entries carry no context here, and none would be kept");
        self.put(entry_kind(entry), entry.term, entry.index, &entry.data);
    }

    fn put(&mut self, kind: u8, term: u64, index: u64, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("payloads are bounded by PAYLOAD_MAX");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        self.bytes.extend_from_slice(&term.to_le_bytes());
        self.bytes.extend_from_slice(&index.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        self.records += 1;
    }

    /// Completes the frame for one place and returns its bytes.
    pub(super) fn seal(&mut self, seed: Seed, offset: u64, commit: u64) -> &mut Vec<u8> {
        let body = u32::try_from(self.bytes.len() - FRAME_HEADER).expect("a frame fits into a segment");
        let padded = self.bytes.len().next_multiple_of(FRAME_ALIGNMENT);
        self.bytes.resize(padded, 0);
        self.bytes[0..4].copy_from_slice(&MAGIC);
        self.bytes[8..12].copy_from_slice(&body.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&commit.to_le_bytes());
        let sum = seed.sum(offset, &self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        self.bytes.extend_from_slice(&END_MARK);
        &mut self.bytes
    }
}

/// Bytes of a frame with records of these payload lengths.
pub(super) fn frame_bytes(payloads: impl Iterator<Item = usize>) -> u64 {
    let body: usize = payloads.map(|length| RECORD_HEADER + length).sum();
    ((FRAME_HEADER + body).next_multiple_of(FRAME_ALIGNMENT) + END_MARK.len()) as u64
}

/// A frame read back.
#[derive(Debug)]
pub(super) struct Frame {
    /// Bytes it takes, end mark included.
    pub(super) bytes: u64,
    /// Commit index when it was written.
    pub(super) commit: u64,
    pub(super) records: Vec<Record>,
}

/// Why there is no frame at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoFrame {
    /// Length, magic or checksum do not fit.
    Invalid,
    /// The checksum is right and the contents are not understood.
    Contents(&'static str),
}

/// Reads the frame that begins `bytes`, which is at `offset` of its segment.
pub(super) fn decode(seed: Seed, offset: u64, bytes: &[u8]) -> Result<Frame, NoFrame> {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if bytes.len() < FRAME_HEADER || bytes[0..4] != MAGIC {
        return Err(NoFrame::Invalid);
    }
    let body_end = FRAME_HEADER + number(8) as usize;
    let end = body_end.next_multiple_of(FRAME_ALIGNMENT);
    if end > bytes.len() || seed.sum(offset, &bytes[8..end]) != number(4) {
        return Err(NoFrame::Invalid);
    }
    let records = decode_records(number(12), &bytes[FRAME_HEADER..body_end]).map_err(NoFrame::Contents)?;
    Ok(Frame { bytes: (end + END_MARK.len()) as u64, commit: long(&bytes[16..24]), records })
}

fn decode_records(count: u32, mut body: &[u8]) -> Result<Vec<Record>, &'static str> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let (header, rest) = body.split_at_checked(RECORD_HEADER).ok_or("a record is cut off")?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (payload, rest) = rest.split_at_checked(length).ok_or("a record is longer than its frame")?;
        records.push(Record::parse(header[4], long(&header[8..16]), long(&header[16..24]), payload)?);
        body = rest;
    }
    if records.len() != count as usize { Err("another number of records") } else { Ok(records) }
}

/// Eight bytes as a number.
pub(super) fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("the caller slices eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let members = ConfState { voters: vec![1, 2, 3], learners: vec![9], auto_leave: true, ..Default::default() };
        let entry = |kind, data: &'static [u8]| {
            let mut entry = Entry { term: 3, index: 8, data: data.into(), ..Default::default() };
            entry.set_entry_type(kind);
            Record::Entry(entry)
        };
        vec![
            entry(EntryType::EntryNormal, b"mkdir"),
            entry(EntryType::EntryConfChangeV2, b"x"),
            Record::Vote { term: 4, vote: 2 },
            Record::Members { at: Position::new(7, 2), members: members.clone() },
            Record::Snapshot { at: Position::new(9, 3), members },
        ]
    }

    fn sealed(offset: u64) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        writer.clear();
        records().iter().for_each(|record| writer.push(record));
        writer.seal(seed(7), offset, 5).clone()
    }

    fn seed(segment: u64) -> Seed {
        Seed::new(ClusterId::new([1; 16]), MemberId::new(1), segment)
    }

    #[test]
    fn every_kind_of_record_comes_back() {
        let bytes = sealed(4096);
        let frame = decode(seed(7), 4096, &bytes).expect("a frame just sealed is valid");
        assert_eq!((frame.records, frame.commit, frame.bytes), (records(), 5, bytes.len() as u64));
    }

    #[test]
    fn a_frame_is_valid_in_its_own_place_only() {
        let bytes = sealed(4096);
        assert_eq!(decode(seed(7), 4104, &bytes).unwrap_err(), NoFrame::Invalid, "another offset");
        assert_eq!(decode(seed(8), 4096, &bytes).unwrap_err(), NoFrame::Invalid, "another segment");
    }

    #[test]
    fn absurd_lengths_and_counts_are_refused() {
        let mut bytes = sealed(4096);
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(seed(7), 4096, &bytes).unwrap_err(), NoFrame::Invalid);
        let body = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0].repeat(3);
        assert!(decode_records(1, &body).is_err());
        assert!(decode_records(3, &[]).is_err());
    }

    #[test]
    fn frame_bytes_agrees_with_seal() {
        for length in [1, 7, 8, 300] {
            let mut writer = FrameWriter::default();
            writer.clear();
            writer.push_entry(&Entry { data: vec![1; length].into(), ..Default::default() });
            assert_eq!(frame_bytes([length].into_iter()), writer.seal(seed(1), 0, 0).len() as u64);
        }
    }
}
