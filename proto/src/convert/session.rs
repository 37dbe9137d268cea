//! Batches of operations and their results.
//!
//! Keeps: a batch has an operation, a reply has a result, and only the last result may be an error. What
//! the master sends is checked as strictly as what a client sends, but never blamed on a caller.

use super::{DIR_ENTRIES_MAX, Field, SLOW_SERVERS_MAX, WireError, at, each, millis};
use crate::error::FsError;
use crate::ids::{DirCookie, LogIndex, Sequence};
use crate::limits::{BATCH_OPS_MAX, XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use crate::name::Name;
use crate::ops::{
    Batch, BatchReply, DirEntry, DirPage, FsStats, KeepAlive, Made, OpResult, Opened, Precondition, SlowServer,
};
use crate::wire::{self, op_result::Kind};
use bytes::Bytes;
use std::time::Duration;

impl From<&SlowServer> for wire::SlowServer {
    fn from(slow: &SlowServer) -> Self {
        let micros = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        Self { server: slow.server.get(), latency_us: micros(slow.latency), median_us: micros(slow.median) }
    }
}

impl TryFrom<wire::SlowServer> for SlowServer {
    type Error = WireError;
    fn try_from(raw: wire::SlowServer) -> Result<Self, WireError> {
        let (latency, median) = (Duration::from_micros(raw.latency_us), Duration::from_micros(raw.median_us));
        Ok(Self { server: at("SlowServer", "server").server(raw.server)?, latency, median })
    }
}

impl From<&KeepAlive> for wire::KeepAlive {
    fn from(alive: &KeepAlive) -> Self {
        Self { slow: each(&alive.slow) }
    }
}

impl TryFrom<wire::KeepAlive> for KeepAlive {
    type Error = WireError;
    fn try_from(raw: wire::KeepAlive) -> Result<Self, WireError> {
        Ok(Self { slow: at("KeepAlive", "slow").list(raw.slow, SLOW_SERVERS_MAX)? })
    }
}

impl From<Precondition> for wire::Precondition {
    fn from(precondition: Precondition) -> Self {
        Self { inode: precondition.inode.get(), version: precondition.version }
    }
}

impl TryFrom<wire::Precondition> for Precondition {
    type Error = WireError;
    fn try_from(raw: wire::Precondition) -> Result<Self, WireError> {
        Ok(Self { inode: at("Precondition", "inode").inode(raw.inode)?, version: raw.version })
    }
}

impl From<&Batch> for wire::Batch {
    fn from(batch: &Batch) -> Self {
        Self {
            caller: Some((&batch.caller).into()),
            sequence: batch.sequence.map_or(0, Sequence::get),
            acknowledged: batch.acknowledged.get(),
            client_time: batch.client_time.map(Into::into),
            precondition: batch.precondition.map(Into::into),
            ops: each(&batch.ops),
        }
    }
}

impl TryFrom<wire::Batch> for Batch {
    type Error = WireError;
    fn try_from(raw: wire::Batch) -> Result<Self, WireError> {
        let field = |name| at("Batch", name);
        field("ops").check(!raw.ops.is_empty(), "is empty")?;
        Ok(Self {
            caller: field("caller").required(raw.caller)?,
            sequence: (raw.sequence != 0).then_some(Sequence::new(raw.sequence)),
            acknowledged: Sequence::new(raw.acknowledged),
            client_time: raw.client_time.map(TryInto::try_into).transpose()?,
            precondition: raw.precondition.map(TryInto::try_into).transpose()?,
            ops: field("ops").list(raw.ops, BATCH_OPS_MAX)?,
        })
    }
}

impl From<&BatchReply> for wire::BatchReply {
    fn from(reply: &BatchReply) -> Self {
        Self {
            results: each(&reply.results),
            log_index: reply.log_index.get(),
            durable_index: reply.durable_index.get(),
            ttl_ms: millis(reply.ttl),
        }
    }
}

impl TryFrom<wire::BatchReply> for BatchReply {
    type Error = WireError;
    fn try_from(raw: wire::BatchReply) -> Result<Self, WireError> {
        let field = at("BatchReply", "results");
        let results: Vec<Result<OpResult, FsError>> = field.list(raw.results, BATCH_OPS_MAX)?;
        let (_, before) = results.split_last().ok_or(field.invalid("is empty"))?;
        field.check(before.iter().all(Result::is_ok), "goes on after a failure")?;
        Ok(Self {
            results,
            log_index: LogIndex::new(raw.log_index),
            durable_index: LogIndex::new(raw.durable_index),
            ttl: Duration::from_millis(raw.ttl_ms.into()),
        })
    }
}

impl From<&Result<OpResult, FsError>> for wire::OpResult {
    fn from(result: &Result<OpResult, FsError>) -> Self {
        let kind = match result {
            Ok(result) => result.into(),
            Err(error) => Kind::Error(error.code()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&OpResult> for Kind {
    fn from(result: &OpResult) -> Self {
        match result {
            OpResult::Done => Self::Done(wire::Done {}),
            OpResult::Attr(attr) => Self::Attr(attr.into()),
            OpResult::Bytes(bytes) => Self::Bytes(Bytes::copy_from_slice(bytes)),
            OpResult::Page(page) => Self::Page(page.into()),
            OpResult::Stats(stats) => Self::Stats((*stats).into()),
            OpResult::Names(names) => {
                Self::Names(wire::NameList { names: names.iter().map(|name| Bytes::copy_from_slice(name)).collect() })
            }
            OpResult::Chunks(map) => Self::Chunks(map.into()),
            OpResult::Made(made) => Self::Made(made.into()),
            OpResult::Opened(opened) => Self::Opened(opened.into()),
            OpResult::Grant(grant) => Self::Grant(grant.into()),
        }
    }
}

impl TryFrom<wire::OpResult> for Result<OpResult, FsError> {
    type Error = WireError;
    fn try_from(raw: wire::OpResult) -> Result<Self, WireError> {
        Ok(Ok(match at("OpResult", "kind").present(raw.kind)? {
            Kind::Error(code) => return Ok(Err(at("OpResult", "error").error(code)?)),
            Kind::Done(wire::Done {}) => OpResult::Done,
            Kind::Attr(raw) => OpResult::Attr(raw.try_into()?),
            Kind::Bytes(raw) => OpResult::Bytes(at("OpResult", "bytes").value(raw)?),
            Kind::Page(raw) => OpResult::Page(raw.try_into()?),
            Kind::Stats(raw) => OpResult::Stats(raw.try_into()?),
            Kind::Names(raw) => OpResult::Names(xattr_names(raw)?),
            Kind::Chunks(raw) => OpResult::Chunks(raw.try_into()?),
            Kind::Made(raw) => OpResult::Made(raw.try_into()?),
            Kind::Opened(raw) => OpResult::Opened(raw.try_into()?),
            Kind::Grant(raw) => OpResult::Grant(raw.try_into()?),
        }))
    }
}

impl Field {
    /// An error that must be one: 0 would be a success.
    fn error(self, code: u32) -> Result<FsError, WireError> {
        self.check(code != 0, "is no error")?;
        Ok(FsError::from_code(code))
    }
    /// Of an extended attribute, or a link's target, which is shorter.
    fn value(self, raw: Bytes) -> Result<Vec<u8>, WireError> {
        self.check_length(raw.len(), XATTR_VALUE_MAX)?;
        Ok(raw.into())
    }
}

/// Each with the NUL that listxattr(2) puts behind it, they fit into the largest list.
fn xattr_names(raw: wire::NameList) -> Result<Vec<Vec<u8>>, WireError> {
    let field = at("NameList", "names");
    let total = raw.names.iter().map(|name| name.len() + 1).sum();
    field.check_length(total, XATTR_LIST_MAX)?;
    for name in &raw.names {
        field.check_length(name.len(), XATTR_NAME_MAX)?;
        field.check(!name.is_empty() && !name.contains(&0), "holds what is no name")?;
    }
    Ok(raw.names.into_iter().map(Vec::from).collect())
}

impl From<&DirPage> for wire::DirPage {
    fn from(page: &DirPage) -> Self {
        Self { entries: each(&page.entries), end: page.end, version: page.version }
    }
}

impl TryFrom<wire::DirPage> for DirPage {
    type Error = WireError;
    fn try_from(raw: wire::DirPage) -> Result<Self, WireError> {
        let entries = at("DirPage", "entries").list(raw.entries, DIR_ENTRIES_MAX)?;
        Ok(Self { entries, end: raw.end, version: raw.version })
    }
}

impl From<&DirEntry> for wire::DirEntry {
    fn from(entry: &DirEntry) -> Self {
        Self {
            name: Bytes::copy_from_slice(entry.name.as_bytes()),
            cookie: entry.cookie.get(),
            inode: entry.inode.get(),
            mode: entry.kind.mode_bits(),
            attr: entry.attr.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::DirEntry> for DirEntry {
    type Error = WireError;
    fn try_from(raw: wire::DirEntry) -> Result<Self, WireError> {
        let field = |name| at("DirEntry", name);
        let (kind, _) = field("mode").full_mode(raw.mode)?;
        field("cookie").check(raw.cookie >= DirCookie::FIRST.get(), "is one of those of . and ..")?;
        Ok(Self {
            name: Name::new(&raw.name).map_err(|_| field("name").invalid("is no name"))?,
            cookie: DirCookie::new(raw.cookie),
            inode: field("inode").inode(raw.inode)?,
            kind,
            attr: raw.attr.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<FsStats> for wire::FsStats {
    fn from(stats: FsStats) -> Self {
        Self {
            bytes_total: stats.bytes_total,
            bytes_free: stats.bytes_free,
            inodes: stats.inodes,
            chunks: stats.chunks,
            goal: stats.goal.into(),
        }
    }
}

impl TryFrom<wire::FsStats> for FsStats {
    type Error = WireError;
    fn try_from(raw: wire::FsStats) -> Result<Self, WireError> {
        Ok(Self {
            bytes_total: raw.bytes_total,
            bytes_free: raw.bytes_free,
            inodes: raw.inodes,
            chunks: raw.chunks,
            goal: at("FsStats", "goal").goal(raw.goal)?,
        })
    }
}

impl From<&Made> for wire::Made {
    fn from(made: &Made) -> Self {
        Self {
            attr: Some((&made.attr).into()),
            existed: made.existed,
            opened: made.opened.as_ref().map(Into::into),
            grant: made.grant.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Made> for Made {
    type Error = WireError;
    fn try_from(raw: wire::Made) -> Result<Self, WireError> {
        Ok(Self {
            attr: at("Made", "attr").required(raw.attr)?,
            existed: raw.existed,
            opened: raw.opened.map(TryInto::try_into).transpose()?,
            grant: raw.grant.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&Opened> for wire::Opened {
    fn from(opened: &Opened) -> Self {
        Self { attr: Some((&opened.attr).into()), exclusive: opened.exclusive, chunks: Some((&opened.chunks).into()) }
    }
}

impl TryFrom<wire::Opened> for Opened {
    type Error = WireError;
    fn try_from(raw: wire::Opened) -> Result<Self, WireError> {
        Ok(Self {
            attr: at("Opened", "attr").required(raw.attr)?,
            exclusive: raw.exclusive,
            chunks: at("Opened", "chunks").required(raw.chunks)?,
        })
    }
}
