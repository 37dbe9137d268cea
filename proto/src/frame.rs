//! Frames of the data plane: READ, WRITE and their answers, between clients and chunkservers and
//! along the chain.
//!
//! ```text
//! frame  = prefix, header, sums, payload
//! prefix = magic u32 | kind u8 | version u8 | header_len u16 | sums_len u32 | payload_len u32
//!          | request u64 | crc u32 (CRC32C of the 24 bytes before it, then the header)     28 bytes
//! ```
//! All integers are little-endian. The header's fixed part depends on the kind; WRITE and SYNC append
//! lists. Lengths are checked against [`crate::limits`] before anything is allocated. Sums are
//! [`BlockSum`](crate::checksum::BlockSum)s as four bytes each. `docs/format.md` has the same as a table.

use crate::error::FsError;
use crate::ids::{
    ChunkHandle, ChunkVersion, Epoch, Incarnation, Sequence, Serial, ServerId, SessionId, Term, TruncateGeneration,
};
use crate::limits::{BLOCK_SIZE, FRAME_EXTENTS_MAX, FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX, GOAL_MAX};
use bytes::{Buf, BufMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// First bytes of every frame: "GFSd".
pub const MAGIC: u32 = u32::from_le_bytes(*b"GFSd");
/// Version of the frame formats.
pub const VERSION: u8 = 1;
/// Bytes of a prefix.
pub const PREFIX_LEN: usize = 28;
/// Bytes of checksums in one frame: a full payload at odd offsets, in many extents.
pub const SUMS_MAX: u32 = 4 * (FRAME_PAYLOAD_MAX / BLOCK_SIZE + 2 * FRAME_EXTENTS_MAX as u32);
/// Chunks named by one SYNC.
pub const SYNC_CHUNKS_MAX: usize = 128;

/// Why bytes from a connection are not a frame. The connection is of no use afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// Not our protocol.
    #[error("not a data-plane frame (it begins with {0:#010x})")]
    Magic(u32),
    /// A newer or older peer.
    #[error("frame version {0} is not supported (this is {VERSION})")]
    Version(u8),
    /// Unknown kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A length beyond its limit.
    #[error("{what} of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// As announced.
        length: u32,
        /// As allowed.
        limit: u32,
    },
    /// Header damaged on the way.
    #[error("checksum of a frame header does not match")]
    Checksum,
    /// A field that makes no sense.
    #[error("malformed {kind} header: {what}")]
    Malformed {
        /// Of which kind.
        kind: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<FrameError> for FsError {
    fn from(_: FrameError) -> Self {
        Self::Protocol
    }
}

/// Kind of a frame; decides the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First on a connection: header is a protobuf `Hello`. Answered by `Welcome` or `Ack`.
    Hello = 1,
    /// Header is a protobuf `Welcome`.
    Welcome = 2,
    /// [`Read`]; answered by `Data` or `Ack`.
    Read = 3,
    /// [`DataReply`], with sums and payload.
    Data = 4,
    /// [`Write`], with sums and payload; answered by `Ack`.
    Write = 5,
    /// [`Ack`]; the payload is a detail for the log (UTF-8).
    Ack = 6,
    /// [`Sync`]; answered by `Ack`.
    Sync = 7,
    /// No header; answered by `Ack`. Keep-alive.
    Ping = 8,
    /// [`Lend`]; answered by `Lent` or `Ack`. Only where [`CAPABILITY_LENDS`] was announced.
    Lend = 9,
    /// [`Lent`], with descriptors beside its first byte.
    Lent = 10,
    /// [`Sums`]; answered by `Data`, whose payload are the sums of the whole chunk, or `Ack`. Between chunkservers.
    Sums = 11,
}

/// Bit of `Welcome::capabilities`: LEND is answered on this connection.
pub const CAPABILITY_LENDS: u64 = 1;

impl Kind {
    fn from_u8(raw: u8) -> Result<Self, FrameError> {
        use Kind::{Ack, Data, Hello, Lend, Lent, Ping, Read, Sums, Sync, Welcome, Write};
        [Hello, Welcome, Read, Data, Write, Ack, Sync, Ping, Lend, Lent, Sums]
            .into_iter()
            .find(|kind| *kind as u8 == raw)
            .ok_or(FrameError::Kind(raw))
    }
}

/// Announces the parts of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// Kind of frame.
    pub kind: Kind,
    /// Bytes of the header.
    pub header_len: u32,
    /// Bytes of checksums.
    pub sums_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Chosen by the asking side, repeated in the answer.
    pub request: u64,
    crc: u32,
}

impl Prefix {
    /// Prefix and header as they go on the wire; sums and payload follow.
    pub fn encode(kind: Kind, request: u64, header: &[u8], sums_len: usize, payload_len: usize) -> Vec<u8> {
        debug_assert!(header.len() <= FRAME_HEADER_MAX as usize, "headers are bounded by their lists");
        let mut out = Vec::with_capacity(PREFIX_LEN + header.len());
        out.put_u32_le(MAGIC);
        out.put_u8(kind as u8);
        out.put_u8(VERSION);
        out.put_u16_le(header.len() as u16);
        out.put_u32_le(sums_len as u32);
        out.put_u32_le(payload_len as u32);
        out.put_u64_le(request);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), header);
        out.put_u32_le(crc);
        out.extend_from_slice(header);
        out
    }

    /// Checks everything that can be checked before the header has arrived.
    pub fn decode(raw: &[u8; PREFIX_LEN]) -> Result<Self, FrameError> {
        let mut raw = &raw[..];
        let magic = raw.get_u32_le();
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let kind = raw.get_u8();
        let version = raw.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let prefix = Self {
            kind: Kind::from_u8(kind)?,
            header_len: u32::from(raw.get_u16_le()),
            sums_len: raw.get_u32_le(),
            payload_len: raw.get_u32_le(),
            request: raw.get_u64_le(),
            crc: raw.get_u32_le(),
        };
        check_length("header", prefix.header_len, FRAME_HEADER_MAX)?;
        check_length("checksums", prefix.sums_len, SUMS_MAX)?;
        check_length("payload", prefix.payload_len, FRAME_PAYLOAD_MAX)?;
        Ok(prefix)
    }

    /// Checks the header that followed; `raw` is the prefix as received.
    pub fn check_header(&self, raw: &[u8; PREFIX_LEN], header: &[u8]) -> Result<(), FrameError> {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&raw[..PREFIX_LEN - 4]), header);
        if crc == self.crc { Ok(()) } else { Err(FrameError::Checksum) }
    }
}

fn check_length(what: &'static str, length: u32, limit: u32) -> Result<(), FrameError> {
    if length > limit { Err(FrameError::TooLong { what, length, limit }) } else { Ok(()) }
}

/// Reads part of a chunk. Offset and length are multiples of the block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version that the replica must have.
    pub version: ChunkVersion,
    /// First byte.
    pub offset: u32,
    /// Bytes, at most [`FRAME_PAYLOAD_MAX`].
    pub length: u32,
    /// Read by copy, sums and data together under the range lock: asked for after a mismatch.
    pub by_copy: bool,
}

/// Asks for the sums of a chunk's blocks as they are stored. At once, whatever write is in flight: the asker knows that
/// an install has fenced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version that the replica must have.
    pub version: ChunkVersion,
}

/// Answer to [`Read`]: whole blocks with their sums; short where the chunk ends (the rest is zeroes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataReply {
    /// Bytes of the chunk at this replica.
    pub chunk_length: u32,
}

/// One range of a vectored write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes, at least 1.
    pub length: u32,
}

/// Where a frame goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The server,
    pub server: ServerId,
    /// in the run that the grant named,
    pub incarnation: Incarnation,
    /// and its data port.
    pub address: SocketAddr,
}

/// Writes extents of one chunk. The payload is their bytes one after the other, the sums those of
/// their pieces ([`crate::checksum::piece_sums`]) one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Version of the replica.
    pub version: ChunkVersion,
    /// Of the grant.
    pub epoch: Epoch,
    /// The receiver's run: another one refuses.
    pub incarnation: Incarnation,
    /// The writer, for deduplication.
    pub session: SessionId,
    /// Its number for this write.
    pub sequence: Sequence,
    /// Order under the epoch; `None`: the receiver is the primary and gives it.
    pub serial: Option<Serial>,
    /// Of the file, as the grant had it.
    pub truncate_generation: TruncateGeneration,
    /// The chunk is new; make its file if this is the first frame of its epoch.
    pub create: bool,
    /// `fdatasync` before answering.
    pub sync: bool,
    /// Ranges, not overlapping, at most [`FRAME_EXTENTS_MAX`].
    pub extents: Vec<Extent>,
    /// Servers to forward to, the next first; empty at the tail and in star writes.
    pub chain: Vec<Hop>,
}

/// A chunk to flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncChunk {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
}

/// `fdatasync` of chunks on the receiver, and of the directory entries that they are new under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sync {
    /// The run that acknowledged the writes: another one refuses, it may have lost them.
    pub incarnation: Incarnation,
    /// At most [`SYNC_CHUNKS_MAX`].
    pub chunks: Vec<SyncChunk>,
}

/// Why a chunkserver refused or failed. 0 on the wire is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[repr(u16)]
pub enum DataError {
    /// There is no such replica here.
    #[error("no replica of this chunk")]
    NoChunk = 1,
    /// The replica's version is another.
    #[error("the replica has another version")]
    Version = 2,
    /// The epoch is not the installed one.
    #[error("the lease epoch is not the installed one")]
    Epoch = 3,
    /// The server has restarted since.
    #[error("the server has restarted")]
    Incarnation = 4,
    /// The file was cut since.
    #[error("the truncate generation is not the installed one")]
    Generation = 5,
    /// Data did not match its checksum on arrival.
    #[error("checksum mismatch on arrival")]
    Transfer = 6,
    /// Data does not match its checksum on disk.
    #[error("checksum mismatch on disk")]
    Corrupt = 7,
    /// The disk is full.
    #[error("no space left")]
    NoSpace = 8,
    /// The disk failed.
    #[error("input/output error")]
    Io = 9,
    /// No heartbeat lease: the replica may be out of date without knowing.
    #[error("cut off from the master")]
    NoReadLease = 10,
    /// The replica is suspect after an unclean stop.
    #[error("the replica is suspect")]
    Suspect = 11,
    /// An earlier write of the epoch did not arrive in time.
    #[error("an earlier write is missing")]
    SerialGap = 12,
    /// The next server of the chain failed; [`Ack::culprit`] names it.
    #[error("the next server of the chain failed")]
    Chain = 13,
    /// Too many connections or bytes in flight; later.
    #[error("the server is busy")]
    Busy = 14,
    /// The frame contradicts the protocol.
    #[error("protocol violation")]
    Protocol = 15,
    /// The server is of another cluster.
    #[error("the server belongs to another cluster")]
    Cluster = 16,
    /// No descriptor is passed for this replica; it is read by READ.
    #[error("no descriptor is passed for this replica")]
    NotLent = 17,
}

impl DataError {
    fn from_u16(raw: u16) -> Self {
        use DataError::{
            Busy, Chain, Cluster, Corrupt, Epoch, Generation, Incarnation, Io, NoChunk, NoReadLease, NoSpace, NotLent,
            Protocol, SerialGap, Suspect, Transfer, Version,
        };
        [
            NoChunk,
            Version,
            Epoch,
            Incarnation,
            Generation,
            Transfer,
            Corrupt,
            NoSpace,
            Io,
            NoReadLease,
            Suspect,
            SerialGap,
            Chain,
            Busy,
            Cluster,
            NotLent,
        ]
        .into_iter()
        .find(|error| *error as u16 == raw)
        .unwrap_or(Protocol)
    }
}

/// Asks for the descriptor of a replica's file, to read it without the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lend {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The replica must have exactly this version.
    pub version: ChunkVersion,
}

/// A descriptor of a chunk file, for reading only, and where the [board](crate::board) says whether it may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lent {
    /// Layout of the file: [`chunk_file::FORMAT`](crate::chunk_file::FORMAT).
    pub format: u32,
    /// Slot on the board.
    pub slot: u32,
    /// Another tenancy on the board means: revoked.
    pub tenancy: u32,
    /// The board's own descriptor follows the file's: with the first answer of a connection.
    pub with_board: bool,
    /// Nanoseconds on the clock of the board's lease when this was sent.
    pub now: u64,
}

/// Outcome of a WRITE, SYNC, PING or of a READ that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// How it went.
    pub outcome: Result<(), DataError>,
    /// With [`DataError::Chain`]: who failed. With a [`DataError::NoSpace`] that came up the chain: who
    /// is full. Otherwise the answering server.
    pub culprit: ServerId,
    /// Run of the answering server.
    pub incarnation: Incarnation,
    /// Serial that the write got; 0 for other requests.
    pub serial: Serial,
    /// Bytes of the chunk after the write.
    pub chunk_length: u32,
}

impl Read {
    const LEN: usize = 28;
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u64_le(self.handle.get());
        out.put_u64_le(self.version.get());
        out.put_u32_le(self.offset);
        out.put_u32_le(self.length);
        out.put_u32_le(u32::from(self.by_copy));
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        let bad = |what| FrameError::Malformed { kind: "READ", what };
        if raw.len() != Self::LEN {
            return Err(bad("length"));
        }
        let read = Self {
            handle: ChunkHandle::new(raw.get_u64_le()),
            version: ChunkVersion::new(raw.get_u64_le()),
            offset: raw.get_u32_le(),
            length: raw.get_u32_le(),
            by_copy: raw.get_u32_le() & 1 != 0,
        };
        let aligned = read.offset.is_multiple_of(BLOCK_SIZE) && read.length.is_multiple_of(BLOCK_SIZE);
        match read.offset.checked_add(read.length) {
            _ if !aligned => Err(bad("offset and length are not multiples of the block size")),
            None => Err(bad("offset + length overflows")),
            Some(_) if read.length == 0 || read.length > FRAME_PAYLOAD_MAX => Err(bad("bytes asked for")),
            Some(_) => Ok(read),
        }
    }
}

impl Sums {
    const LEN: usize = 16;
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u64_le(self.handle.get());
        out.put_u64_le(self.version.get());
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        if raw.len() != Self::LEN {
            return Err(FrameError::Malformed { kind: "SUMS", what: "length" });
        }
        Ok(Self { handle: ChunkHandle::new(raw.get_u64_le()), version: ChunkVersion::new(raw.get_u64_le()) })
    }
}

impl Lend {
    const LEN: usize = 16;
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u64_le(self.handle.get());
        out.put_u64_le(self.version.get());
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        if raw.len() != Self::LEN {
            return Err(FrameError::Malformed { kind: "LEND", what: "length" });
        }
        Ok(Self { handle: ChunkHandle::new(raw.get_u64_le()), version: ChunkVersion::new(raw.get_u64_le()) })
    }
}

impl Lent {
    const LEN: usize = 24;
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u32_le(self.format);
        out.put_u32_le(self.slot);
        out.put_u32_le(self.tenancy);
        out.put_u32_le(u32::from(self.with_board));
        out.put_u64_le(self.now);
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        if raw.len() != Self::LEN {
            return Err(FrameError::Malformed { kind: "LENT", what: "length" });
        }
        Ok(Self {
            format: raw.get_u32_le(),
            slot: raw.get_u32_le(),
            tenancy: raw.get_u32_le(),
            with_board: raw.get_u32_le() & 1 != 0,
            now: raw.get_u64_le(),
        })
    }
}

impl DataReply {
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        self.chunk_length.to_le_bytes().to_vec()
    }
    /// From a frame's header.
    pub fn decode(raw: &[u8]) -> Result<Self, FrameError> {
        let bad = FrameError::Malformed { kind: "DATA", what: "length" };
        raw.try_into().map(|raw| Self { chunk_length: u32::from_le_bytes(raw) }).map_err(|_| bad)
    }
}

const FLAG_CREATE: u16 = 1;
const FLAG_SYNC: u16 = 1 << 1;

impl Write {
    const FIXED_LEN: usize = 80;
    const EXTENT_LEN: usize = 8;

    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(Self::FIXED_LEN + self.extents.len() * Self::EXTENT_LEN + self.chain.len() * Hop::LEN);
        out.put_u64_le(self.handle.get());
        out.put_u64_le(self.version.get());
        put_epoch(&mut out, self.epoch);
        out.put_u64_le(self.incarnation.get());
        out.put_u64_le(self.session.get());
        out.put_u64_le(self.sequence.get());
        out.put_u64_le(self.serial.map_or(0, Serial::get));
        out.put_u64_le(self.truncate_generation.get());
        out.put_u16_le(if self.create { FLAG_CREATE } else { 0 } | if self.sync { FLAG_SYNC } else { 0 });
        out.put_u16_le(self.extents.len() as u16);
        out.put_u32_le(self.chain.len() as u32);
        for extent in &self.extents {
            out.put_u32_le(extent.offset);
            out.put_u32_le(extent.length);
        }
        self.chain.iter().for_each(|hop| hop.put(&mut out));
        out
    }

    /// From a frame's header; `payload_len` must be the sum of the extents.
    pub fn decode(mut raw: &[u8], payload_len: u32) -> Result<Self, FrameError> {
        let bad = |what| FrameError::Malformed { kind: "WRITE", what };
        if raw.len() < Self::FIXED_LEN {
            return Err(bad("length"));
        }
        let raw = &mut raw;
        let mut write = Self {
            handle: ChunkHandle::new(raw.get_u64_le()),
            version: ChunkVersion::new(raw.get_u64_le()),
            epoch: get_epoch(raw),
            incarnation: Incarnation::new(raw.get_u64_le()),
            session: SessionId::new(raw.get_u64_le()),
            sequence: Sequence::new(raw.get_u64_le()),
            serial: Some(Serial::new(raw.get_u64_le())).filter(|serial| serial.get() != 0),
            truncate_generation: TruncateGeneration::new(raw.get_u64_le()),
            create: false,
            sync: false,
            extents: Vec::new(),
            chain: Vec::new(),
        };
        let flags = raw.get_u16_le();
        write.create = flags & FLAG_CREATE != 0;
        write.sync = flags & FLAG_SYNC != 0;
        let (extents, hops) = (usize::from(raw.get_u16_le()), raw.get_u32_le() as usize);
        if extents == 0 || extents > FRAME_EXTENTS_MAX || hops > usize::from(GOAL_MAX) {
            return Err(bad("number of extents or hops"));
        }
        if raw.len() != extents * Self::EXTENT_LEN + hops * Hop::LEN {
            return Err(bad("length of lists"));
        }
        write.extents = (0..extents).map(|_| Extent { offset: raw.get_u32_le(), length: raw.get_u32_le() }).collect();
        write.chain = (0..hops).map(|_| Hop::get(raw)).collect();
        let sane = |e: &Extent| e.length > 0 && e.offset.checked_add(e.length).is_some();
        let total = write.extents.iter().map(|e| u64::from(e.length)).sum::<u64>();
        if !write.extents.iter().all(sane) || total != u64::from(payload_len) {
            return Err(bad("extents do not match the payload"));
        }
        Ok(write)
    }
}

impl Hop {
    const LEN: usize = 4 + 8 + 16 + 2;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.server.get());
        out.put_u64_le(self.incarnation.get());
        let ip = match self.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.put_slice(&ip.octets());
        out.put_u16_le(self.address.port());
    }

    fn get(raw: &mut &[u8]) -> Self {
        let server = ServerId::new(raw.get_u32_le());
        let incarnation = Incarnation::new(raw.get_u64_le());
        let mut ip = [0; 16];
        raw.copy_to_slice(&mut ip);
        let ip = Ipv6Addr::from(ip).to_canonical();
        Self { server, incarnation, address: SocketAddr::new(ip, raw.get_u16_le()) }
    }
}

impl Sync {
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.chunks.len() * 16);
        out.put_u64_le(self.incarnation.get());
        for chunk in &self.chunks {
            out.put_u64_le(chunk.handle.get());
            out.put_u64_le(chunk.version.get());
        }
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        let bad = |what| FrameError::Malformed { kind: "SYNC", what };
        if raw.len() < 24 || !(raw.len() - 8).is_multiple_of(16) || (raw.len() - 8) / 16 > SYNC_CHUNKS_MAX {
            return Err(bad("length"));
        }
        let incarnation = Incarnation::new(raw.get_u64_le());
        let chunks = (0..raw.len() / 16)
            .map(|_| SyncChunk {
                handle: ChunkHandle::new(raw.get_u64_le()),
                version: ChunkVersion::new(raw.get_u64_le()),
            })
            .collect();
        Ok(Self { incarnation, chunks })
    }
}

impl Ack {
    const LEN: usize = 28;
    /// As a frame's header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_u16_le(self.outcome.err().map_or(0, |error| error as u16));
        out.put_u16_le(0);
        out.put_u32_le(self.culprit.get());
        out.put_u64_le(self.incarnation.get());
        out.put_u64_le(self.serial.get());
        out.put_u32_le(self.chunk_length);
        out
    }
    /// From a frame's header.
    pub fn decode(mut raw: &[u8]) -> Result<Self, FrameError> {
        if raw.len() != Self::LEN {
            return Err(FrameError::Malformed { kind: "ACK", what: "length" });
        }
        let code = raw.get_u16_le();
        raw.advance(2);
        Ok(Self {
            outcome: if code == 0 { Ok(()) } else { Err(DataError::from_u16(code)) },
            culprit: ServerId::new(raw.get_u32_le()),
            incarnation: Incarnation::new(raw.get_u64_le()),
            serial: Serial::new(raw.get_u64_le()),
            chunk_length: raw.get_u32_le(),
        })
    }
}

fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.put_u64_le(epoch.term.get());
    out.put_u64_le(epoch.counter);
}

fn get_epoch(raw: &mut &[u8]) -> Epoch {
    Epoch { term: Term::new(raw.get_u64_le()), counter: raw.get_u64_le() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write() -> Write {
        Write {
            handle: ChunkHandle::new(7),
            version: ChunkVersion::new(3),
            epoch: Epoch { term: Term::new(2), counter: 9 },
            incarnation: Incarnation::new(5),
            session: SessionId::new(6),
            sequence: Sequence::new(8),
            serial: Some(Serial::new(1)),
            truncate_generation: TruncateGeneration::new(4),
            create: true,
            sync: false,
            extents: vec![Extent { offset: 0, length: 10 }, Extent { offset: 4096, length: 5 }],
            chain: vec![
                Hop {
                    server: ServerId::new(2),
                    incarnation: Incarnation::new(1),
                    address: ([127, 0, 0, 1], 80).into(),
                },
                Hop {
                    server: ServerId::new(3),
                    incarnation: Incarnation::new(1),
                    address: "[::1]:81".parse().expect("address"),
                },
            ],
        }
    }

    #[test]
    fn headers_round_trip() {
        let w = write();
        assert_eq!(Write::decode(&w.encode(), 15), Ok(w));
        let r = Read {
            handle: ChunkHandle::new(1),
            version: ChunkVersion::new(2),
            offset: 4096,
            length: 8192,
            by_copy: true,
        };
        assert_eq!(Read::decode(&r.encode()), Ok(r));
        let chunks = vec![SyncChunk { handle: ChunkHandle::new(1), version: ChunkVersion::new(1) }; SYNC_CHUNKS_MAX];
        let s = Sync { incarnation: Incarnation::new(4), chunks };
        assert_eq!(Sync::decode(&s.encode()), Ok(s));
        let lend = Lend { handle: ChunkHandle::new(1), version: ChunkVersion::new(2) };
        assert_eq!(Lend::decode(&lend.encode()), Ok(lend));
        let sums = Sums { handle: ChunkHandle::new(1), version: ChunkVersion::new(2) };
        assert_eq!(Sums::decode(&sums.encode()), Ok(sums));
        let lent = Lent { format: 1, slot: 2, tenancy: 3, with_board: true, now: 4 };
        assert_eq!(Lent::decode(&lent.encode()), Ok(lent));
        for outcome in [Ok(()), Err(DataError::Chain), Err(DataError::Cluster), Err(DataError::NotLent)] {
            let ack = Ack {
                outcome,
                culprit: ServerId::new(2),
                incarnation: Incarnation::new(3),
                serial: Serial::new(4),
                chunk_length: 5,
            };
            assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
        }
    }

    #[test]
    fn a_damaged_prefix_or_header_is_refused() {
        let header = write().encode();
        let good = Prefix::encode(Kind::Write, 1, &header, 8, 15);
        let parse = |raw: &[u8]| {
            let prefix: &[u8; PREFIX_LEN] = raw[..PREFIX_LEN].try_into().expect("prefix");
            Prefix::decode(prefix).and_then(|p| p.check_header(prefix, &raw[PREFIX_LEN..]))
        };
        assert_eq!(parse(&good), Ok(()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused_before_they_are_allocated() {
        let mut raw = Prefix::encode(Kind::Read, 1, &[], 0, 0);
        raw[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let prefix: &[u8; PREFIX_LEN] = raw[..].try_into().expect("prefix");
        assert!(matches!(Prefix::decode(prefix), Err(FrameError::TooLong { what: "payload", .. })));
        assert!(Write::decode(&write().encode(), 16).is_err(), "payload of another length");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200), length in any::<u32>()) {
            let _ = Write::decode(&raw, length);
            let _ = Read::decode(&raw);
            let _ = Sync::decode(&raw);
            let _ = Lend::decode(&raw);
            let _ = Sums::decode(&raw);
            let _ = Lent::decode(&raw);
            let _ = Ack::decode(&raw);
            if let Ok(prefix) = raw.as_slice().try_into() as Result<&[u8; PREFIX_LEN], _> {
                let _ = Prefix::decode(prefix);
            }
        }
    }
}
