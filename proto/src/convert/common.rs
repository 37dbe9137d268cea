//! What several messages consist of: times, callers, attributes, replicas, chunk maps, grants.
//!
//! Keeps: a chunk map is in order of index, a grant has a primary, a mode names a kind.

use super::{CHUNKS_PER_FILE_MAX, Field, REPLICAS_MAX, WireError, at, each, millis};
use crate::attr::{Attr, FileKind, Mode, SetTime};
use crate::caller::Caller;
use crate::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Numbering, Replica, ServerAddress};
use crate::ids::{ChunkVersion, Epoch, Incarnation, MapGeneration, Term, TruncateGeneration};
use crate::limits::{CHUNKS_PER_REQUEST_MAX, GROUPS_MAX};
use crate::ops::HeldChunk;
use crate::time::Timestamp;
use crate::wire;
use std::time::Duration;

const _: () = assert!(CHUNKS_PER_REQUEST_MAX <= CHUNKS_PER_FILE_MAX);

impl From<Timestamp> for wire::Time {
    fn from(time: Timestamp) -> Self {
        Self { secs: time.secs(), nanos: time.nanos() }
    }
}

impl TryFrom<wire::Time> for Timestamp {
    type Error = WireError;
    fn try_from(raw: wire::Time) -> Result<Self, WireError> {
        Self::new(raw.secs, raw.nanos).ok_or(at("Time", "nanos").invalid("is not below a second"))
    }
}

impl From<SetTime> for wire::SetTime {
    fn from(time: SetTime) -> Self {
        match time {
            SetTime::Now => Self { at: None },
            SetTime::At(time) => Self { at: Some(time.into()) },
        }
    }
}

impl TryFrom<wire::SetTime> for SetTime {
    type Error = WireError;
    fn try_from(raw: wire::SetTime) -> Result<Self, WireError> {
        Ok(match raw.at {
            None => Self::Now,
            Some(time) => Self::At(time.try_into()?),
        })
    }
}

impl From<Epoch> for wire::EpochValue {
    fn from(epoch: Epoch) -> Self {
        Self { term: epoch.term.get(), counter: epoch.counter }
    }
}

impl From<wire::EpochValue> for Epoch {
    fn from(raw: wire::EpochValue) -> Self {
        Self { term: Term::new(raw.term), counter: raw.counter }
    }
}

impl From<HeldChunk> for wire::HeldChunk {
    fn from(held: HeldChunk) -> Self {
        Self { handle: held.handle.get(), epoch: Some(held.epoch.into()) }
    }
}

impl TryFrom<wire::HeldChunk> for HeldChunk {
    type Error = WireError;
    fn try_from(raw: wire::HeldChunk) -> Result<Self, WireError> {
        let field = |name| at("HeldChunk", name);
        Ok(Self { handle: field("handle").handle(raw.handle)?, epoch: field("epoch").required(raw.epoch)? })
    }
}

impl From<&Caller> for wire::Caller {
    fn from(caller: &Caller) -> Self {
        Self { uid: caller.uid, gid: caller.gid, groups: caller.groups.clone() }
    }
}

impl TryFrom<wire::Caller> for Caller {
    type Error = WireError;
    fn try_from(raw: wire::Caller) -> Result<Self, WireError> {
        let groups = at("Caller", "groups").list(raw.groups, GROUPS_MAX)?;
        Ok(Self { uid: raw.uid, gid: raw.gid, groups })
    }
}

/// `st_mode` of a kind and permission bits.
pub(super) fn full_mode(kind: FileKind, mode: Mode) -> u32 {
    kind.mode_bits() | u32::from(mode.get())
}

impl Field {
    /// Kind and permission bits of `st_mode`.
    pub(super) fn full_mode(self, raw: u32) -> Result<(FileKind, Mode), WireError> {
        self.check(raw <= 0o177_777, "has bits that st_mode has not")?;
        let kind = FileKind::from_mode(raw).ok_or(self.invalid("names no kind of inode"))?;
        Ok((kind, Mode::new(raw)))
    }
}

impl From<&Attr> for wire::Attr {
    fn from(attr: &Attr) -> Self {
        Self {
            inode: attr.inode.get(),
            mode: full_mode(attr.kind, attr.mode),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            chunks: attr.chunks,
            atime: Some(attr.atime.into()),
            mtime: Some(attr.mtime.into()),
            ctime: Some(attr.ctime.into()),
            goal: attr.goal.into(),
            has_xattrs: attr.has_xattrs,
            has_acl: attr.has_acl,
            truncate_generation: attr.truncate_generation.get(),
            map_generation: attr.map_generation.get(),
        }
    }
}

impl TryFrom<wire::Attr> for Attr {
    type Error = WireError;
    fn try_from(raw: wire::Attr) -> Result<Self, WireError> {
        let field = |name| at("Attr", name);
        let (kind, mode) = field("mode").full_mode(raw.mode)?;
        field("chunks").check(raw.chunks <= CHUNKS_PER_FILE_MAX, "is more than the largest file has")?;
        Ok(Self {
            inode: field("inode").inode(raw.inode)?,
            kind,
            mode,
            nlink: raw.nlink,
            uid: raw.uid,
            gid: raw.gid,
            rdev: raw.rdev,
            size: field("size").reported_size(raw.size)?,
            chunks: raw.chunks,
            atime: field("atime").required(raw.atime)?,
            mtime: field("mtime").required(raw.mtime)?,
            ctime: field("ctime").required(raw.ctime)?,
            goal: field("goal").goal(raw.goal)?,
            has_xattrs: raw.has_xattrs,
            has_acl: raw.has_acl,
            truncate_generation: TruncateGeneration::new(raw.truncate_generation),
            map_generation: MapGeneration::new(raw.map_generation),
        })
    }
}

impl From<&Replica> for wire::Replica {
    fn from(replica: &Replica) -> Self {
        Self {
            server: replica.server.get(),
            incarnation: replica.incarnation.get(),
            tcp: replica.address.tcp.to_string(),
            unix: replica.address.unix.clone().unwrap_or_default(),
            host: replica.address.host.clone(),
        }
    }
}

impl TryFrom<wire::Replica> for Replica {
    type Error = WireError;
    fn try_from(raw: wire::Replica) -> Result<Self, WireError> {
        Ok(Self {
            server: at("Replica", "server").server(raw.server)?,
            incarnation: Incarnation::new(raw.incarnation),
            address: address("Replica", &raw.tcp, raw.unix, raw.host)?,
        })
    }
}

/// The three fields of an address, which `Replica` and `Register` call the same.
pub(super) fn address(
    message: &'static str,
    tcp: &str,
    unix: String,
    host: String,
) -> Result<ServerAddress, WireError> {
    Ok(ServerAddress {
        tcp: tcp.parse().map_err(|_| at(message, "tcp").invalid("is not ip:port"))?,
        unix: Some(at(message, "unix").text(unix)?).filter(|path| !path.is_empty()),
        host: at(message, "host").text(host)?,
    })
}

impl Field {
    /// Members of a lease: at least the primary.
    pub(super) fn members(self, raw: Vec<wire::Replica>) -> Result<Vec<Replica>, WireError> {
        self.check(!raw.is_empty(), "has no primary")?;
        self.list(raw, REPLICAS_MAX)
    }
}

/// Who gives the serial numbers, as the field `client_numbers` says it.
pub(super) const fn numbering(client_numbers: bool) -> Numbering {
    if client_numbers { Numbering::Client } else { Numbering::Primary }
}

impl From<&ChunkLocation> for wire::ChunkLocation {
    fn from(location: &ChunkLocation) -> Self {
        Self {
            index: location.index.get(),
            handle: location.handle.get(),
            version: location.version.get(),
            clip: location.clip,
            leased: location.leased,
            replicas: each(&location.replicas),
        }
    }
}

impl TryFrom<wire::ChunkLocation> for ChunkLocation {
    type Error = WireError;
    fn try_from(raw: wire::ChunkLocation) -> Result<Self, WireError> {
        let field = |name| at("ChunkLocation", name);
        Ok(Self {
            index: field("index").index(raw.index)?,
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            clip: raw.clip.map(|clip| field("clip").chunk_bytes(clip)).transpose()?,
            leased: raw.leased,
            replicas: field("replicas").list(raw.replicas, REPLICAS_MAX)?,
        })
    }
}

impl From<&ChunkMap> for wire::ChunkMap {
    fn from(map: &ChunkMap) -> Self {
        Self { generation: map.generation.get(), chunks: each(&map.chunks) }
    }
}

impl TryFrom<wire::ChunkMap> for ChunkMap {
    type Error = WireError;
    fn try_from(raw: wire::ChunkMap) -> Result<Self, WireError> {
        let field = at("ChunkMap", "chunks");
        let chunks: Vec<ChunkLocation> = field.list(raw.chunks, CHUNKS_PER_REQUEST_MAX as usize)?;
        field.check(chunks.is_sorted_by(|a, b| a.index < b.index), "is not in order of index")?;
        Ok(Self { generation: MapGeneration::new(raw.generation), chunks })
    }
}

impl From<&ChunkGrant> for wire::ChunkGrant {
    fn from(grant: &ChunkGrant) -> Self {
        Self {
            inode: grant.inode.get(),
            index: grant.index.get(),
            handle: grant.handle.get(),
            version: grant.version.get(),
            epoch: Some(grant.epoch.into()),
            client_numbers: grant.numbering == Numbering::Client,
            created: grant.created,
            replicas: each(&grant.replicas),
            truncate_generation: grant.truncate_generation.get(),
            lease_ms: millis(grant.lease),
            map_generation: grant.map_generation.get(),
        }
    }
}

impl TryFrom<wire::ChunkGrant> for ChunkGrant {
    type Error = WireError;
    fn try_from(raw: wire::ChunkGrant) -> Result<Self, WireError> {
        let field = |name| at("ChunkGrant", name);
        Ok(Self {
            inode: field("inode").inode(raw.inode)?,
            index: field("index").index(raw.index)?,
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            epoch: field("epoch").required(raw.epoch)?,
            numbering: numbering(raw.client_numbers),
            created: raw.created,
            replicas: field("replicas").members(raw.replicas)?,
            truncate_generation: TruncateGeneration::new(raw.truncate_generation),
            map_generation: MapGeneration::new(raw.map_generation),
            lease: Duration::from_millis(raw.lease_ms.into()),
        })
    }
}
