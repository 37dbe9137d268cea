//! One segment file: its name, its header, and what its bytes are worth after an unclean stop.

use gfs_proto::ids::ClusterId;
use gfs_proto::mutant;

use super::codec::{self, END_MARK, FRAME_ALIGNMENT, Frame, NoFrame, Seed};
use super::config::{MemberId, Position};
use super::error::{Damage, LogFault};

/// Bytes of the header; the first frame follows.
pub(super) const HEADER_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"GFSLOG\r\n";
/// Format of header and frames that this program writes.
const FORMAT: u32 = 1;
/// Where the checksum of the header lies.
const CRC_AT: usize = HEADER_BYTES as usize - 4;
/// What a disk writes as a whole: a torn write leaves each of them old (zero) or new.
const SECTOR: usize = 512;

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) member: MemberId,
}

/// First block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) identity: Identity,
    /// Number of the segment, from 1, without gaps.
    pub(super) number: u64,
    /// The entry before the first one that this segment may hold.
    pub(super) previous: Position,
    /// Where the frames of the segment before ended; 0 for the first.
    pub(super) previous_end: u64,
}

/// File name of a segment.
pub(super) fn name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// Name of a segment's file while it is being made.
pub(super) fn temporary_name(number: u64) -> String {
    format!("{number:016x}.tmp")
}

/// Number of the segment with this name.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().filter(|&number| self::name(number) == name)
}

impl Header {
    pub(super) fn seed(&self) -> Seed {
        Seed::new(self.identity.cluster, self.identity.member, self.number)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes.extend_from_slice(self.identity.cluster.as_bytes());
        let previous = (self.previous.index.get(), self.previous.term.get());
        for field in [self.identity.member.get(), self.number, previous.0, previous.1, self.previous_end] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.resize(CRC_AT, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the header of the segment with this number and checks whose it is.
    pub(super) fn decode(identity: Identity, number: u64, bytes: &[u8]) -> Result<Self, LogFault> {
        let segment = name(number);
        let damaged = |segment| LogFault::Damaged { segment, offset: 0, damage: Damage::Header };
        let Some(bytes) = bytes.get(..HEADER_BYTES as usize) else { return Err(damaged(segment)) };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..CRC_AT]) != word(CRC_AT) {
            return Err(damaged(segment));
        }
        if word(8) != FORMAT {
            return Err(LogFault::NewerFormat { segment, found: word(8), known: FORMAT });
        }
        let field = |at: usize| codec::long(&bytes[32 + at * 8..40 + at * 8]);
        let cluster = ClusterId::from_slice(&bytes[16..32]).expect("sixteen bytes were sliced");
        let found = Identity { cluster, member: MemberId::new(field(0)) };
        if found != identity {
            return Err(LogFault::Foreign { segment, cluster, member: found.member });
        }
        if field(1) != number {
            return Err(damaged(segment));
        }
        Ok(Self { identity, number, previous: Position::new(field(2), field(3)), previous_end: field(4) })
    }
}

/// Gives every frame of a segment to `visit` and returns where they end. `last` says whether the
/// segment is the log's last one, the only one that may end in a torn write.
pub(super) fn scan(
    header: &Header,
    bytes: &[u8],
    last: bool,
    mut visit: impl FnMut(u64, Frame) -> Result<(), LogFault>,
) -> Result<u64, LogFault> {
    let seed = header.seed();
    let mut offset = HEADER_BYTES;
    loop {
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        match codec::decode(seed, offset, rest) {
            Ok(frame) => {
                let next = offset + frame.bytes;
                visit(offset, frame)?;
                offset = next;
            }
            Err(reason) => {
                let damage = match reason {
                    NoFrame::Contents(why) => Some(Damage::Contents(why)),
                    NoFrame::Invalid => judge(seed, offset, rest, last),
                };
                return match damage {
                    Some(damage) => Err(LogFault::Damaged { segment: name(header.number), offset, damage }),
                    None => Ok(offset),
                };
            }
        }
    }
}

/// What is behind the last good frame: nothing or a torn write (`None`), or damage.
fn judge(seed: Seed, offset: u64, rest: &[u8], last: bool) -> Option<Damage> {
    let written = rest.iter().rposition(|&byte| byte != 0)? + 1;
    let valid = |&at: &usize| !matches!(codec::decode(seed, offset + at as u64, &rest[at..]), Err(NoFrame::Invalid));
    if let Some(at) = (FRAME_ALIGNMENT..written).step_by(FRAME_ALIGNMENT).find(valid) {
        return (!mutant!(TruncatedLog)).then_some(Damage::Middle(offset + at as u64));
    }
    let torn = last && is_torn(offset as usize, &rest[..written]);
    (!torn).then_some(Damage::Tail)
}

/// Whether something of the write that left `written` is missing: its end, or a sector of it. Without
/// that, all of it arrived, so it was acknowledged or may have been, and was damaged later.
fn is_torn(offset: usize, written: &[u8]) -> bool {
    let end = written.len().next_multiple_of(FRAME_ALIGNMENT);
    let ends = end == written.len() && written.ends_with(&END_MARK);
    let first = (SECTOR - offset % SECTOR).min(written.len());
    let missing = |sector: &[u8]| sector.iter().all(|&byte| byte == 0);
    !ends || missing(&written[..first]) || written[first..].chunks(SECTOR).any(missing)
}
