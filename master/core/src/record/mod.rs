//! Records of the tables: each value begins with its format version. Layouts: `docs/format.md`.

pub(crate) mod codec;
mod inode;
mod reply;

pub(crate) use inode::{Body, FileBody, Inode};
pub(crate) use reply::{decode_results, encode_results};

use crate::outcome::{
    Applied, ChunkRecord, Duty, GarbageChunk, PendingCut, Quarantined, ServerRecord, SessionRecord, Stats, Unclaimed,
    UnclaimedCause,
};
use crate::store::Genesis;
use codec::{Reader, Writer};
use gfs_proto::attr::FileKind;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, ClusterId, InodeId, LogIndex, RestoreGeneration, ServerId, ServerUuid,
    SessionId, Term, TruncateGeneration,
};
use gfs_proto::layout::ChunkSize;

/// First byte of every value of this module.
const FORMAT: u8 = 1;
/// Of a server that an operator wants something of.
const FORMAT_DUTY: u8 = 2;

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dentry {
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
}

/// Every kind, at the place of its number in records.
const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

pub(crate) fn kind_number(kind: FileKind) -> u8 {
    KINDS.iter().position(|k| *k == kind).expect("KINDS lists all of them") as u8
}

pub(crate) fn kind_of(number: u8) -> Option<FileKind> {
    KINDS.get(usize::from(number)).copied()
}

impl Dentry {
    pub(crate) fn encode(self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 12);
        out.byte(kind_number(self.kind));
        out.number(self.inode.get());
        out.finish()
    }
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let kind = kind_of(from.byte()?)?;
        let inode = InodeId::new(from.number()?);
        from.end().map(|()| Self { inode, kind })
    }
}

/// A value that is one number: the handle of a file's chunk, a floor of sequences.
pub(crate) fn encode_number(value: u64) -> Box<[u8]> {
    let mut out = Writer::versioned(FORMAT, 11);
    out.number(value);
    out.finish()
}

pub(crate) fn decode_number(bytes: &[u8]) -> Option<u64> {
    let mut from = Reader::versioned(FORMAT, bytes)?;
    let value = from.number()?;
    from.end().map(|()| value)
}

/// What is known of a chunk that nobody has flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// No replica was seen: perhaps it was never written.
    Unwritten,
    /// Replicas were seen, and none that would survive a power cut for certain.
    Unflushed,
}

impl Mark {
    /// Follows the version in the record of an unflushed chunk; in that of an unwritten one nothing does.
    const UNFLUSHED: u8 = 1;

    pub(crate) fn encode(self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 2);
        if self == Self::Unflushed {
            out.byte(Self::UNFLUSHED);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let mark = match from.byte() {
            None => Self::Unwritten,
            Some(Self::UNFLUSHED) => Self::Unflushed,
            Some(_) => return None,
        };
        from.end().map(|()| mark)
    }
}

/// A value that is a list of sessions.
pub(crate) fn encode_sessions(sessions: &[SessionId]) -> Box<[u8]> {
    let mut out = Writer::versioned(FORMAT, 16);
    out.numbers(sessions.iter().map(|session| session.get()));
    out.finish()
}

pub(crate) fn decode_sessions(bytes: &[u8]) -> Option<Vec<SessionId>> {
    let mut from = Reader::versioned(FORMAT, bytes)?;
    let sessions = from.list(|f| f.number().map(SessionId::new))?;
    from.end().map(|()| sessions)
}

/// A value that is bytes: an extended attribute.
pub(crate) fn encode_bytes(bytes: &[u8]) -> Box<[u8]> {
    let mut out = Writer::versioned(FORMAT, 1 + bytes.len());
    out.fixed(bytes);
    out.finish()
}

pub(crate) fn decode_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let (version, value) = bytes.split_first()?;
    (*version == FORMAT).then(|| value.to_vec())
}

fn write_servers(out: &mut Writer, servers: &[ServerId]) {
    out.numbers(servers.iter().map(|server| u64::from(server.get())));
}

fn read_servers(from: &mut Reader<'_>) -> Option<Vec<ServerId>> {
    from.list(|f| f.narrow().map(ServerId::new))
}

impl ChunkRecord {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.number(self.version.get());
        out.byte(self.goal);
        out.number(self.references);
        out.number(self.inode.get());
        out.number(self.index.get());
        write_servers(out, &self.entitled);
    }
    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let version = ChunkVersion::new(from.number()?);
        let goal = from.byte()?;
        let references = from.narrow()?;
        let inode = InodeId::new(from.number()?);
        let index = ChunkIndex::new(from.narrow()?);
        let entitled = read_servers(from)?;
        Some(Self { version, goal, references, entitled, inode, index })
    }
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 24);
        self.write(&mut out);
        out.finish()
    }
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let record = Self::read(&mut from)?;
        from.end().map(|()| record)
    }
}

impl GarbageChunk {
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 16);
        out.number(self.version.get());
        write_servers(&mut out, &self.servers);
        out.finish()
    }
    pub(crate) fn decode(handle: ChunkHandle, bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let version = ChunkVersion::new(from.number()?);
        let servers = read_servers(&mut from)?;
        from.end().map(|()| Self { handle, version, servers })
    }
}

impl Quarantined {
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 24);
        out.number(self.replica.version.get());
        out.number(self.replica.length);
        out.byte(self.replica.cause.number());
        out.time(self.since);
        out.finish()
    }
    pub(crate) fn decode(handle: ChunkHandle, server: ServerId, bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let (version, length) = (ChunkVersion::new(from.number()?), from.narrow()?);
        let cause = UnclaimedCause::of_number(from.byte()?)?;
        let since = from.time()?;
        from.end().map(|()| Self { replica: Unclaimed { handle, server, version, length, cause }, since })
    }
}

impl UnclaimedCause {
    /// In records and in the log.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::NoChunk => 1,
            Self::Ahead => 2,
        }
    }
    pub(crate) const fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::NoChunk),
            2 => Some(Self::Ahead),
            _ => None,
        }
    }
}

impl PendingCut {
    pub(crate) fn write(self, out: &mut Writer) {
        out.number(self.length);
        out.number(self.generation.get());
    }
    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { length: from.narrow()?, generation: TruncateGeneration::new(from.number()?) })
    }
    pub(crate) fn encode(self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 12);
        self.write(&mut out);
        out.finish()
    }
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let cut = Self::read(&mut from)?;
        from.end().map(|()| cut)
    }
}

impl SessionRecord {
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 64);
        out.fixed(&self.secret);
        out.time(self.opened);
        out.bytes(self.name.as_bytes());
        out.finish()
    }
    pub(crate) fn decode(session: SessionId, bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let secret = from.fixed()?;
        let opened = from.time()?;
        let name = from.text()?;
        from.end().map(|()| Self { session, secret, name, opened })
    }
}

impl ServerRecord {
    /// With a duty, or without one as in the first version.
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let plain = self.duty == Duty::default();
        let mut out = Writer::versioned(if plain { FORMAT } else { FORMAT_DUTY }, 48);
        out.fixed(self.uuid.as_bytes());
        out.bytes(self.rack.as_bytes());
        if !plain {
            let Duty { draining, maintenance_until, left } = self.duty;
            let times = u8::from(maintenance_until.is_some()) << 1 | u8::from(left.is_some()) << 2;
            out.byte(u8::from(draining) | times);
            maintenance_until.into_iter().chain(left).for_each(|time| out.time(time));
        }
        out.finish()
    }
    pub(crate) fn decode(server: ServerId, bytes: &[u8]) -> Option<Self> {
        let version = *bytes.first()?;
        let mut from = Reader::versioned(version, bytes)?;
        let uuid = ServerUuid::new(from.fixed()?);
        let rack = from.text()?;
        let duty = match version {
            FORMAT => Duty::default(),
            FORMAT_DUTY => read_duty(&mut from)?,
            _ => return None,
        };
        from.end().map(|()| Self { server, uuid, rack, duty })
    }
}

fn read_duty(from: &mut Reader<'_>) -> Option<Duty> {
    let flags = from.byte().filter(|flags| *flags <= 7)?;
    let maintenance_until = if flags & 2 != 0 { Some(from.time()?) } else { None };
    let left = if flags & 4 != 0 { Some(from.time()?) } else { None };
    Some(Duty { draining: flags & 1 != 0, maintenance_until, left })
}

impl Genesis {
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 48);
        out.fixed(self.cluster.as_bytes());
        out.number(self.chunk_size.get());
        out.byte(self.goal);
        out.number(self.restore_generation.get());
        out.time(self.created);
        out.finish()
    }
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let cluster = ClusterId::new(from.fixed()?);
        let chunk_size = ChunkSize::new(from.narrow()?)?;
        let goal = from.byte()?;
        let restore_generation = RestoreGeneration::new(from.narrow()?);
        let created = from.time()?;
        from.end().map(|()| Self { cluster, chunk_size, goal, restore_generation, created })
    }
}

/// What the state has beside its tables: where it stands in the log, ids to be given out, counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) applied: Applied,
    pub(crate) next_inode: InodeId,
    pub(crate) next_handle: ChunkHandle,
    pub(crate) next_server: ServerId,
    pub(crate) stats: Stats,
}

impl State {
    pub(crate) fn encode(&self) -> Box<[u8]> {
        let mut out = Writer::versioned(FORMAT, 96);
        out.number(self.applied.index.get());
        out.number(self.applied.term.get());
        out.number(self.next_inode.get());
        out.number(self.next_handle.get());
        out.number(self.next_server.get());
        write_stats(&mut out, &self.stats);
        out.finish()
    }
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::versioned(FORMAT, bytes)?;
        let state = Self {
            applied: Applied { index: LogIndex::new(from.number()?), term: Term::new(from.number()?) },
            next_inode: InodeId::new(from.number()?),
            next_handle: ChunkHandle::new(from.number()?),
            next_server: ServerId::new(from.narrow()?),
            stats: read_stats(&mut from)?,
        };
        from.end().map(|()| state)
    }
}

pub(crate) fn write_stats(out: &mut Writer, stats: &Stats) {
    let Stats {
        files,
        directories,
        symlinks,
        specials,
        dentries,
        bytes,
        chunks,
        garbage,
        orphans,
        sessions,
        servers,
        goal,
    } = *stats;
    let counts = [files, directories, symlinks, specials, dentries, bytes, chunks, garbage, orphans, sessions, servers];
    counts.into_iter().for_each(|count| out.number(count));
    out.byte(goal);
}

pub(crate) fn read_stats(from: &mut Reader<'_>) -> Option<Stats> {
    Some(Stats {
        files: from.number()?,
        directories: from.number()?,
        symlinks: from.number()?,
        specials: from.number()?,
        dentries: from.number()?,
        bytes: from.number()?,
        chunks: from.number()?,
        garbage: from.number()?,
        orphans: from.number()?,
        sessions: from.number()?,
        servers: from.number()?,
        goal: from.byte()?,
    })
}
