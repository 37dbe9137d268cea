//! Each check breaks one field of a good message and finds exactly that field named.

use crate::convert::*;
use crate::limits::*;
use crate::wire;
use bytes::Bytes;

/// `None`: a protocol error; otherwise what the caller is told.
type ForCaller = Option<FsError>;

/// A field of a message, how to break it, and what the caller is told.
type Row<W> = (&'static str, fn(&mut W), ForCaller);

/// `message` is good; each row makes exactly its field bad.
fn table<W: Clone, D>(message: &'static str, good: &W, rows: &[Row<W>])
where
    D: TryFrom<W, Error = WireError>,
{
    assert!(D::try_from(good.clone()).is_ok(), "the good {message} is refused");
    for (field, spoil, for_caller) in rows {
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = D::try_from(bad).err().unwrap_or_else(|| panic!("{message}.{field} is not checked"));
        let place = if field.contains('.') { (*field).to_owned() } else { format!("{message}.{field}") };
        assert_eq!(error.at().to_string(), place, "{error}");
        assert_eq!(FsError::from(error), for_caller.unwrap_or(FsError::Protocol), "{error}");
        let status = tonic::Status::from(error);
        assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, &*error.to_string()));
    }
}

/// Rows of a table: `field: spoil`, and `=> error` if it is the caller's fault.
macro_rules! refused {
    ($domain:ty, $wire:ident, $good:expr, { $($field:literal: $spoil:expr $(=> $error:ident)?;)* }) => {
        table::<wire::$wire, $domain>(stringify!($wire), &$good, &[
            $(($field, $spoil, None$(.or(Some(FsError::$error)))?)),*
        ])
    };
}

fn root() -> Option<wire::InodeRef> {
    Some(wire::InodeRef { kind: Some(wire::inode_ref::Kind::Inode(1)) })
}
fn name() -> Bytes {
    Bytes::from_static(b"a")
}
fn long(length: usize) -> Bytes {
    vec![b'a'; length].into()
}
fn long_text() -> String {
    "a".repeat(TEXT_MAX + 1)
}
fn bad_time() -> Option<wire::Time> {
    Some(wire::Time { secs: 0, nanos: 1_000_000_000 })
}
fn epoch() -> Option<wire::EpochValue> {
    Some(wire::EpochValue { term: 1, counter: 1 })
}
fn held() -> wire::HeldChunk {
    wire::HeldChunk { handle: 1, epoch: epoch() }
}
fn replica() -> wire::Replica {
    wire::Replica { server: 1, tcp: "127.0.0.1:9500".into(), ..Default::default() }
}
fn attr() -> wire::Attr {
    let time = Some(wire::Time::default());
    wire::Attr { inode: 1, mode: 0o100_644, atime: time, mtime: time, ctime: time, ..Default::default() }
}
fn location() -> wire::ChunkLocation {
    wire::ChunkLocation { handle: 1, ..Default::default() }
}
fn flushed() -> wire::FlushedChunk {
    wire::FlushedChunk { handle: 1, version: 1, servers: vec![1] }
}
fn grant() -> wire::ChunkGrant {
    wire::ChunkGrant { inode: 1, handle: 1, epoch: epoch(), replicas: vec![replica()], ..Default::default() }
}
fn stat_fs() -> wire::Op {
    wire::Op { kind: Some(wire::op::Kind::StatFs(wire::StatFs {})) }
}
fn done() -> wire::OpResult {
    wire::OpResult { kind: Some(wire::op_result::Kind::Done(wire::Done {})) }
}
fn failed() -> wire::OpResult {
    wire::OpResult { kind: Some(wire::op_result::Kind::Error(1)) }
}
fn row() -> wire::ReplicaRow {
    wire::ReplicaRow { handle: 1, ..Default::default() }
}

mod parts {
    use super::*;
    use crate::attr::{Attr, SetTime};
    use crate::caller::Caller;
    use crate::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Replica};
    use crate::ops::{HeldChunk, InodeRef, OpenSpec};
    use crate::time::Timestamp;

    #[test]
    fn small_ones() {
        refused!(Timestamp, Time, wire::Time::default(), { "nanos": |m| m.nanos = 1_000_000_000; });
        refused!(SetTime, SetTime, wire::SetTime::default(), { "Time.nanos": |m| m.at = bad_time(); });
        refused!(Caller, Caller, wire::Caller::default(), { "groups": |m| m.groups = vec![0; GROUPS_MAX + 1]; });
        refused!(HeldChunk, HeldChunk, held(), { "handle": |m| m.handle = 0; "epoch": |m| m.epoch = None; });
        refused!(OpenSpec, OpenSpec, wire::OpenSpec { access: 1, ..Default::default() }, {
            "access": |m| m.access = 0;
            "access": |m| m.access = 4;
        });
    }

    #[test]
    fn inode_ref() {
        use wire::inode_ref::Kind;
        refused!(InodeRef, InodeRef, wire::InodeRef { kind: Some(Kind::ResultOf(63)) }, {
            "kind": |m| m.kind = None;
            "inode": |m| m.kind = Some(Kind::Inode(0));
            "result_of": |m| m.kind = Some(Kind::ResultOf(BATCH_OPS_MAX as u32));
            "result_of": |m| m.kind = Some(Kind::ResultOf(256));
        });
    }

    #[test]
    fn attributes() {
        refused!(Attr, Attr, attr(), {
            "inode": |m| m.inode = 0;
            "mode": |m| m.mode = 0o644;
            "mode": |m| m.mode = 0o1_100_644;
            "size": |m| m.size = FILE_SIZE_MAX + 1;
            "chunks": |m| m.chunks = CHUNKS_PER_FILE_MAX + 1;
            "atime": |m| m.atime = None;
            "mtime": |m| m.mtime = None;
            "ctime": |m| m.ctime = None;
            "Time.nanos": |m| m.ctime = bad_time();
            "goal": |m| m.goal = u32::from(GOAL_MAX) + 1;
            "goal": |m| m.goal = 256;
        });
    }

    #[test]
    fn replicas() {
        refused!(Replica, Replica, replica(), {
            "server": |m| m.server = 0;
            "tcp": |m| m.tcp = "localhost:9500".into();
            "tcp": |m| m.tcp.clear();
            "unix": |m| m.unix = long_text();
            "host": |m| m.host = long_text();
        });
    }

    #[test]
    fn chunks() {
        refused!(ChunkLocation, ChunkLocation, location(), {
            "index": |m| m.index = CHUNKS_PER_FILE_MAX;
            "handle": |m| m.handle = 0;
            "clip": |m| m.clip = Some(CHUNK_SIZE_MAX + 1);
            "replicas": |m| m.replicas = vec![replica(); REPLICAS_MAX + 1];
        });
        refused!(ChunkMap, ChunkMap, wire::ChunkMap { chunks: vec![location()], generation: 1 }, {
            "chunks": |m| m.chunks.push(location());
            "chunks": |m| m.chunks.insert(0, wire::ChunkLocation { index: 1, ..location() });
            "chunks": |m| m.chunks = vec![location(); CHUNKS_PER_REQUEST_MAX as usize + 1];
        });
        refused!(ChunkGrant, ChunkGrant, grant(), {
            "inode": |m| m.inode = 0;
            "index": |m| m.index = CHUNKS_PER_FILE_MAX;
            "handle": |m| m.handle = 0;
            "epoch": |m| m.epoch = None;
            "replicas": |m| m.replicas.clear();
            "replicas": |m| m.replicas = vec![replica(); REPLICAS_MAX + 1];
        });
    }
}

mod batches {
    use super::*;
    use crate::ops::{Batch, BatchReply, DirEntry, DirPage, FsStats, KeepAlive, Made, OpResult, Opened};
    use wire::op_result::Kind;

    #[test]
    fn keep_alive() {
        let slow = wire::SlowServer { server: 1, ..Default::default() };
        refused!(KeepAlive, KeepAlive, wire::KeepAlive { slow: vec![slow] }, {
            "slow": |m| m.slow = vec![wire::SlowServer { server: 1, ..Default::default() }; SLOW_SERVERS_MAX + 1];
            "SlowServer.server": |m| m.slow[0].server = 0;
        });
    }

    #[test]
    fn batch() {
        let good = wire::Batch { caller: Some(wire::Caller::default()), ops: vec![stat_fs()], ..Default::default() };
        refused!(Batch, Batch, good, {
            "caller": |m| m.caller = None;
            "Time.nanos": |m| m.client_time = bad_time();
            "Precondition.inode": |m| m.precondition = Some(wire::Precondition { inode: 0, version: 1 });
            "ops": |m| m.ops.clear();
            "ops": |m| m.ops = vec![stat_fs(); BATCH_OPS_MAX + 1];
            "Op.kind": |m| m.ops[0].kind = None;
        });
    }

    #[test]
    fn reply() {
        let good = wire::BatchReply { results: vec![done(), failed()], ..Default::default() };
        refused!(BatchReply, BatchReply, good, {
            "results": |m| m.results.clear();
            "results": |m| m.results.push(done());
            "results": |m| m.results = vec![done(); BATCH_OPS_MAX + 1];
            "OpResult.kind": |m| m.results[0].kind = None;
        });
    }

    #[test]
    fn result() {
        fn names(names: Vec<Bytes>) -> Option<Kind> {
            Some(Kind::Names(wire::NameList { names }))
        }
        refused!(Result<OpResult, FsError>, OpResult, done(), {
            "kind": |m| m.kind = None;
            "error": |m| m.kind = Some(Kind::Error(0));
            "bytes": |m| m.kind = Some(Kind::Bytes(long(XATTR_VALUE_MAX + 1)));
            "NameList.names": |m| m.kind = names(vec![Bytes::new()]);
            "NameList.names": |m| m.kind = names(vec![Bytes::from_static(b"user.\0")]);
            "NameList.names": |m| m.kind = names(vec![long(XATTR_NAME_MAX + 1)]);
            "NameList.names": |m| m.kind = names(vec![long(127); XATTR_LIST_MAX / 128 + 1]);
        });
    }

    #[test]
    fn directory() {
        let good = wire::DirEntry { name: name(), cookie: 16, inode: 1, mode: 0o040_000, attr: None };
        refused!(DirEntry, DirEntry, good, {
            "name": |m| m.name.clear();
            "name": |m| m.name = long(NAME_MAX + 1);
            "cookie": |m| m.cookie = 15;
            "inode": |m| m.inode = 0;
            "mode": |m| m.mode = 0o755;
            "Attr.inode": |m| m.attr = Some(wire::Attr { inode: 0, ..attr() });
        });
        refused!(DirPage, DirPage, wire::DirPage::default(), {
            "entries": |m| m.entries = vec![wire::DirEntry::default(); DIR_ENTRIES_MAX + 1];
            "DirEntry.mode": |m| m.entries.push(wire::DirEntry::default());
        });
    }

    #[test]
    fn stats_made_opened() {
        refused!(FsStats, FsStats, wire::FsStats::default(), { "goal": |m| m.goal = u32::from(GOAL_MAX) + 1; });
        let opened = wire::Opened { attr: Some(attr()), exclusive: true, chunks: Some(wire::ChunkMap::default()) };
        refused!(Opened, Opened, opened, { "attr": |m| m.attr = None; "chunks": |m| m.chunks = None; });
        refused!(Made, Made, wire::Made { attr: Some(attr()), ..Default::default() }, {
            "attr": |m| m.attr = None;
            "Opened.attr": |m| m.opened = Some(wire::Opened::default());
            "ChunkGrant.inode": |m| m.grant = Some(wire::ChunkGrant::default());
        });
    }
}

mod ops {
    use super::*;
    use crate::ops::{Make, Op};

    #[test]
    fn reading() {
        for kind in [
            wire::op::Kind::GetAttr(wire::GetAttr { inode: None }),
            wire::op::Kind::ReadLink(wire::ReadLink { inode: None }),
            wire::op::Kind::ListXattr(wire::ListXattr { inode: None }),
        ] {
            assert!(matches!(Op::try_from(wire::Op { kind: Some(kind) }), Err(WireError::Missing(_))));
        }
        refused!(Op, ReadDir, wire::ReadDir { inode: root(), ..Default::default() }, { "inode": |m| m.inode = None; });
        refused!(Op, ReadChunks, wire::ReadChunks { inode: root(), first: 0, count: CHUNKS_PER_REQUEST_MAX }, {
            "inode": |m| m.inode = None;
            "first": |m| m.first = CHUNKS_PER_FILE_MAX;
            "count": |m| m.count = 0;
            "count": |m| m.count = CHUNKS_PER_REQUEST_MAX + 1;
        });
    }

    #[test]
    fn a_large_page_is_capped() {
        let asked = wire::ReadDir { inode: root(), bytes_max: u32::MAX, ..Default::default() };
        assert!(matches!(Op::try_from(asked), Ok(Op::ReadDir { bytes_max: REPLY_PAGE_BYTES_MAX, .. })));
    }

    #[test]
    fn names() {
        refused!(Op, Lookup, wire::Lookup { parent: root(), name: name() }, {
            "parent": |m| m.parent = None;
            "name": |m| m.name.clear() => NotFound;
            "name": |m| m.name = long(NAME_MAX + 1) => NameTooLong;
            "name": |m| m.name = Bytes::from_static(b"..") => InvalidArgument;
            "name": |m| m.name = Bytes::from_static(b"a/b") => InvalidArgument;
        });
        refused!(Op, Link, wire::Link { inode: root(), parent: root(), name: name() }, {
            "inode": |m| m.inode = None;
            "parent": |m| m.parent = None;
            "name": |m| m.name = long(NAME_MAX + 1) => NameTooLong;
        });
        refused!(Op, Unlink, wire::Unlink { parent: root(), name: name() }, {
            "parent": |m| m.parent = None;
            "name": |m| m.name = long(NAME_MAX + 1) => NameTooLong;
        });
        refused!(Op, Rmdir, wire::Rmdir { parent: root(), name: name() }, {
            "parent": |m| m.parent = None;
            "name": |m| m.name = long(NAME_MAX + 1) => NameTooLong;
        });
    }

    #[test]
    fn rename() {
        let (from_parent, to_parent) = (root(), root());
        let good = wire::Rename { from_parent, from_name: name(), to_parent, to_name: name(), mode: 2 };
        refused!(Op, Rename, good, {
            "from_parent": |m| m.from_parent = None;
            "from_name": |m| m.from_name = long(NAME_MAX + 1) => NameTooLong;
            "to_parent": |m| m.to_parent = None;
            "to_name": |m| m.to_name.clear() => NotFound;
            "mode": |m| m.mode = 3;
        });
    }

    #[test]
    fn set_attr() {
        refused!(Op, SetAttr, wire::SetAttr { inode: root(), ..Default::default() }, {
            "inode": |m| m.inode = None;
            "mode": |m| m.mode = Some(0o10_000);
            "size": |m| m.size = Some(FILE_SIZE_MAX + 1) => FileTooLarge;
            "Time.nanos": |m| m.atime = Some(wire::SetTime { at: bad_time() });
            "Time.nanos": |m| m.mtime = Some(wire::SetTime { at: bad_time() });
            "Time.nanos": |m| m.ctime = bad_time();
        });
    }

    #[test]
    fn xattrs() {
        refused!(Op, GetXattr, wire::GetXattr { inode: root(), name: long(XATTR_NAME_MAX) }, {
            "inode": |m| m.inode = None;
            "name": |m| m.name.clear() => Range;
            "name": |m| m.name = long(XATTR_NAME_MAX + 1) => Range;
            "name": |m| m.name = Bytes::from_static(b"user.\0") => InvalidArgument;
        });
        let good = wire::SetXattr { inode: root(), name: name(), value: long(XATTR_VALUE_MAX), mode: 2 };
        refused!(Op, SetXattr, good, {
            "inode": |m| m.inode = None;
            "name": |m| m.name.clear() => Range;
            "value": |m| m.value = long(XATTR_VALUE_MAX + 1) => Range;
            "mode": |m| m.mode = 3;
        });
        refused!(Op, RemoveXattr, wire::RemoveXattr { inode: root(), name: name() }, {
            "inode": |m| m.inode = None;
            "name": |m| m.name.clear() => Range;
        });
    }

    #[test]
    fn goal() {
        refused!(Op, SetGoal, wire::SetGoal { inode: root(), goal: GOAL_MAX.into() }, {
            "inode": |m| m.inode = None;
            "goal": |m| m.goal = 0 => InvalidArgument;
            "goal": |m| m.goal = u32::from(GOAL_MAX) + 1 => InvalidArgument;
            "goal": |m| m.goal = 257 => InvalidArgument;
        });
    }

    #[test]
    fn files() {
        let open = Some(wire::OpenSpec { access: 1, ..Default::default() });
        refused!(Op, Open, wire::Open { inode: root(), open }, {
            "inode": |m| m.inode = None;
            "open": |m| m.open = None;
            "OpenSpec.access": |m| m.open = Some(wire::OpenSpec::default());
        });
        refused!(Op, Release, wire::Release { inode: root(), open_id: 1 }, { "inode": |m| m.inode = None; });
        refused!(Op, ReportSize, wire::ReportSize { inode: root(), size: FILE_SIZE_MAX, ..Default::default() }, {
            "inode": |m| m.inode = None;
            "size": |m| m.size = FILE_SIZE_MAX + 1 => FileTooLarge;
            "Time.nanos": |m| m.mtime = Some(wire::SetTime { at: bad_time() });
            "Time.nanos": |m| m.atime = Some(wire::SetTime { at: bad_time() });
            "Time.nanos": |m| m.ctime = bad_time();
        });
    }

    #[test]
    fn leases() {
        refused!(Op, GrantChunk, wire::GrantChunk { inode: root(), index: CHUNKS_PER_FILE_MAX - 1 }, {
            "inode": |m| m.inode = None;
            "index": |m| m.index = CHUNKS_PER_FILE_MAX;
        });
        let good = wire::BreakChunk { inode: root(), handle: 1, epoch: epoch(), ..Default::default() };
        refused!(Op, BreakChunk, good, {
            "inode": |m| m.inode = None;
            "index": |m| m.index = CHUNKS_PER_FILE_MAX;
            "handle": |m| m.handle = 0;
            "epoch": |m| m.epoch = None;
            "suspects": |m| m.suspects = vec![0];
            "suspects": |m| m.suspects = vec![1; REPLICAS_MAX + 1];
        });
        refused!(Op, ReportDamage, wire::ReportDamage { handle: 1, version: 1, server: 1 }, {
            "handle": |m| m.handle = 0;
            "server": |m| m.server = 0;
        });
        refused!(Op, ReturnChunks, wire::ReturnChunks { chunks: vec![held(); CHUNKS_RETURNED_MAX] }, {
            "chunks": |m| m.chunks.push(held());
            "HeldChunk.handle": |m| m.chunks[0].handle = 0;
        });
        refused!(Op, AwaitCopies, wire::AwaitCopies { chunks: vec![flushed(); CHUNKS_RETURNED_MAX] }, {
            "chunks": |m| m.chunks.push(flushed());
            "FlushedChunk.handle": |m| m.chunks[0].handle = 0;
            "FlushedChunk.servers": |m| m.chunks[0].servers = vec![0];
            "FlushedChunk.servers": |m| m.chunks[0].servers = vec![1; REPLICAS_MAX + 1];
        });
    }

    #[test]
    fn make_file() {
        let open = Some(wire::OpenSpec { access: 3, ..Default::default() });
        let file = wire::Make {
            parent: root(),
            name: name(),
            mode: 0o100_644,
            open,
            first_chunk: true,
            inode: 2,
            chunk: 1,
            ..Default::default()
        };
        refused!(Make, Make, file, {
            "parent": |m| m.parent = None;
            "name": |m| m.name = long(NAME_MAX + 1) => NameTooLong;
            "mode": |m| m.mode = 0o644;
            "mode": |m| m.mode |= 0o200_000;
            "rdev": |m| m.rdev = 1;
            "target": |m| m.target = name();
            "OpenSpec.access": |m| m.open = Some(wire::OpenSpec::default());
            "chunk": |m| m.inode = 0;
            "chunk": |m| m.chunk = 0;
        });
    }

    #[test]
    fn make_others() {
        let link = wire::Make { parent: root(), name: name(), mode: 0o120_777, ..Default::default() };
        refused!(Make, Make, wire::Make { target: long(SYMLINK_MAX), ..link.clone() }, {
            "target": |m| m.target.clear() => NotFound;
            "target": |m| m.target = long(SYMLINK_MAX + 1) => NameTooLong;
            "target": |m| m.target = Bytes::from_static(b"a\0") => InvalidArgument;
        });
        refused!(Make, Make, wire::Make { mode: 0o040_755, inode: 2, ..link }, {
            "open": |m| m.open = Some(wire::OpenSpec { access: 1, ..Default::default() });
            "first_chunk": |m| m.first_chunk = true;
        });
    }
}

mod servers {
    use super::*;
    use crate::control::*;

    fn space() -> Option<wire::SpaceReport> {
        Some(wire::SpaceReport::default())
    }
    fn directories(count: usize) -> Option<wire::SpaceReport> {
        Some(wire::SpaceReport { directories: vec![wire::DirectorySpace::default(); count] })
    }

    #[test]
    fn a_message_has_a_kind() {
        use wire::from_chunkserver::Kind;
        let leaving = wire::FromChunkserver { kind: Some(Kind::Leaving(wire::Leaving {})) };
        refused!(FromChunkserver, FromChunkserver, leaving, { "kind": |m| m.kind = None; });
        let ack = wire::to_chunkserver::Kind::HeartbeatAck(wire::HeartbeatAck::default());
        refused!(ToChunkserver, ToChunkserver, wire::ToChunkserver { kind: Some(ack) }, {
            "kind": |m| m.kind = None;
            "ChunkCommand.kind": |m| {
                m.kind = Some(wire::to_chunkserver::Kind::Command(wire::ChunkCommand::default()));
            };
        });
    }

    #[test]
    fn register() {
        let good = wire::Register {
            protocol_version: PROTOCOL_VERSION,
            server_uuid: vec![1; 16].into(),
            tcp: "[::1]:9500".into(),
            space: space(),
            ..Default::default()
        };
        refused!(Register, Register, good, {
            "protocol_version": |m| m.protocol_version = PROTOCOL_VERSION + 1;
            "cluster_id": |m| m.cluster_id = long(15);
            "server_uuid": |m| m.server_uuid.clear();
            "server_uuid": |m| m.server_uuid = long(17);
            "tcp": |m| m.tcp = "[::1]".into();
            "unix": |m| m.unix = long_text();
            "host": |m| m.host = long_text();
            "rack": |m| m.rack = long_text();
            "software": |m| m.software = long_text();
            "space": |m| m.space = None;
            "SpaceReport.directories": |m| m.space = directories(DIRECTORIES_MAX + 1);
        });
    }

    #[test]
    fn heartbeat() {
        refused!(DirectorySpace, DirectorySpace, wire::DirectorySpace::default(), {
            "path": |m| m.path = long_text();
            "error": |m| m.error = long_text();
        });
        refused!(Heartbeat, Heartbeat, wire::Heartbeat { space: space(), ..Default::default() }, {
            "space": |m| m.space = None;
            "SpaceReport.directories": |m| m.space = directories(DIRECTORIES_MAX + 1);
            "writing": |m| m.writing = vec![held(); ROWS_MAX + 1];
            "HeldChunk.epoch": |m| m.writing = vec![wire::HeldChunk { handle: 1, epoch: None }];
            "ScrubProgress.began": |m| m.scrub = Some(wire::ScrubProgress::default());
        });
        let began = Some(wire::Time::default());
        refused!(ScrubProgress, ScrubProgress, wire::ScrubProgress { round: 1, finished: 1, began, ..Default::default() }, {
            "finished": |m| m.finished = 2;
            "began": |m| m.began = None;
            "Time.nanos": |m| m.began = bad_time();
        });
    }

    #[test]
    fn reports() {
        refused!(ReplicaRow, ReplicaRow, row(), {
            "handle": |m| m.handle = 0;
            "length": |m| m.length = CHUNK_SIZE_MAX + 1;
            "state": |m| m.state = 6;
        });
        refused!(ChunkReport, ChunkReport, wire::ChunkReport { present: vec![row()], ..Default::default() }, {
            "present": |m| m.present = vec![row(); ROWS_MAX + 1];
            "removed": |m| m.removed = vec![row(); ROWS_MAX + 1];
            "ReplicaRow.handle": |m| m.removed.push(wire::ReplicaRow::default());
        });
        refused!(ChainBreak, ChainBreak, wire::ChainBreak { handle: 1, version: 1, epoch: epoch(), suspect: 1 }, {
            "handle": |m| m.handle = 0;
            "epoch": |m| m.epoch = None;
            "suspect": |m| m.suspect = 0;
        });
    }

    #[test]
    fn command_results() {
        let report = || wire::InstallReport { previous_epoch: epoch(), ..Default::default() };
        refused!(InstallReport, InstallReport, report(), {
            "length": |m| m.length = CHUNK_SIZE_MAX + 1;
            "previous_epoch": |m| m.previous_epoch = None;
            "in_doubt": |m| m.in_doubt = vec![wire::DoubtRange::default(); ROWS_MAX + 1];
            "outcomes": |m| m.outcomes = vec![wire::WriteOutcome::default(); ROWS_MAX + 1];
        });
        refused!(DoubtRange, DoubtRange, wire::DoubtRange { offset: 1, length: CHUNK_SIZE_MAX - 1, serial: 1 }, {
            "length": |m| m.length += 1;
            "length": |m| m.length = u32::MAX;
        });
        let good = wire::CommandResult { id: 1, installed: Some(report()), ..Default::default() };
        refused!(CommandResult, CommandResult, good, {
            "error": |m| m.error = 1;
            "detail": |m| m.detail = long_text();
            "replica": |m| m.replica = Some(row());
            "NotDeleted.handle": |m| {
                m.installed = None;
                m.deleted = Some(wire::Deleted { kept: vec![wire::NotDeleted::default()] });
            };
            "InstallReport.previous_epoch": |m| m.installed = Some(wire::InstallReport::default());
            "ReplicaRow.handle": |m| {
                m.installed = None;
                m.replica = Some(wire::ReplicaRow::default());
            };
            "error": |m| {
                m.installed = None;
                m.error = 1;
                m.mended = Some(wire::Mended::default());
            };
            "Mended.replica": |m| {
                m.installed = None;
                m.mended = Some(wire::Mended::default());
            };
        });
        let good =
            wire::Mended { replica: Some(row()), blocks_lost: 100, lost: vec![1; LOST_BLOCKS_MAX], blocks_mended: 1 };
        refused!(Mended, Mended, good, {
            "replica": |m| m.replica = None;
            "lost": |m| m.lost.push(1);
            "lost": |m| m.blocks_lost = 1;
            "lost": |m| m.lost[0] = CHUNK_SIZE_MAX / BLOCK_SIZE;
        });
    }

    #[test]
    fn registered() {
        let good = wire::Registered {
            server: 1,
            cluster_id: vec![1; 16].into(),
            chunk_size: CHUNK_SIZE_MIN,
            heartbeat_ms: 1,
            read_lease_ms: 1,
            ..Default::default()
        };
        refused!(Registered, Registered, good, {
            "server": |m| m.server = 0;
            "cluster_id": |m| m.cluster_id.clear();
            "chunk_size": |m| m.chunk_size = CHUNK_SIZE_MIN / 2;
            "chunk_size": |m| m.chunk_size += 1;
            "heartbeat_ms": |m| m.heartbeat_ms = 0;
            "read_lease_ms": |m| m.read_lease_ms = 0;
        });
    }

    #[test]
    fn install() {
        let good = wire::Install { handle: 1, epoch: epoch(), members: vec![replica()], ..Default::default() };
        refused!(Install, Install, good, {
            "handle": |m| m.handle = 0;
            "epoch": |m| m.epoch = None;
            "cut": |m| m.cut = Some(CHUNK_SIZE_MAX + 1);
            "members": |m| m.members.clear();
            "members": |m| m.members = vec![replica(); REPLICAS_MAX + 1];
        });
    }

    #[test]
    fn other_commands() {
        use wire::chunk_command::Kind;
        let version = 1;
        let named = |handle| wire::OneReplica { handle, version };
        let too_many = vec![wire::WriteOutcome::default(); ROWS_MAX + 1];
        let align = || wire::Align {
            handle: 1,
            version,
            epoch: epoch(),
            source: Some(replica()),
            last_epoch: epoch(),
            ..wire::Align::default()
        };
        for (place, kind) in [
            ("Revoke.handle", Kind::Revoke(wire::Revoke { handle: 0, epoch: epoch() })),
            ("Revoke.epoch", Kind::Revoke(wire::Revoke { handle: 1, epoch: None })),
            ("OneReplica.handle", Kind::Delete(wire::Delete { chunks: vec![named(0)], incarnation: 1 })),
            ("Delete.chunks", Kind::Delete(wire::Delete { chunks: vec![named(1); DELETIONS_MAX + 1], incarnation: 1 })),
            ("CopyChunk.handle", Kind::Copy(wire::CopyChunk { handle: 0, version, source: Some(replica()) })),
            ("CopyChunk.source", Kind::Copy(wire::CopyChunk { handle: 1, version, source: None })),
            ("Align.handle", Kind::Align(wire::Align { handle: 0, ..align() })),
            ("Align.epoch", Kind::Align(wire::Align { epoch: None, ..align() })),
            ("Align.source", Kind::Align(wire::Align { source: None, ..align() })),
            ("Align.last_epoch", Kind::Align(wire::Align { last_epoch: None, ..align() })),
            ("Align.outcomes", Kind::Align(wire::Align { outcomes: too_many.clone(), ..align() })),
            ("Adopt.handle", Kind::Adopt(wire::Adopt { handle: 0, version, raise_to: 2 })),
            ("Adopt.raise_to", Kind::Adopt(wire::Adopt { handle: 1, version, raise_to: 0 })),
            ("OneReplica.handle", Kind::Verify(named(0))),
            ("Mend.handle", Kind::Mend(wire::Mend { handle: 0, version, peers: Vec::new() })),
            ("Mend.peers", Kind::Mend(wire::Mend { handle: 1, version, peers: vec![replica(); REPLICAS_MAX + 1] })),
        ] {
            assert_eq!(ChunkCommand::try_from(kind).err().map(|error| error.at().to_string()).as_deref(), Some(place));
        }
    }
}
