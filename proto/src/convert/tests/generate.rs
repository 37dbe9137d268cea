//! Any valid message: every variant, every optional part present and absent, limits reached.

use crate::attr::{Attr, FileKind, Mode, SetAttr, SetTime};
use crate::caller::Caller;
use crate::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Numbering, Replica, ServerAddress};
use crate::control::*;
use crate::convert::{CHUNKS_PER_FILE_MAX, REPLICAS_MAX};
use crate::error::FsError;
use crate::frame::SyncChunk;
use crate::ids::*;
use crate::layout::ChunkSize;
use crate::limits::*;
use crate::name::Name;
use crate::ops::*;
use crate::time::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

/// Ids that may be 0.
macro_rules! any_id {
    ($($function:ident: $id:ident;)*) => {
        $(fn $function() -> impl Strategy<Value = $id> {
            any::<u64>().prop_map($id::new)
        })*
    };
}
any_id! {
    version: ChunkVersion;
    incarnation: Incarnation;
    serial: Serial;
    term: Term;
    sequence: Sequence;
    session: SessionId;
    truncate_generation: TruncateGeneration;
    map_generation: MapGeneration;
    log_index: LogIndex;
    open_id: OpenId;
    cookie: DirCookie;
}

fn inode() -> impl Strategy<Value = InodeId> {
    (1..=u64::MAX).prop_map(InodeId::new)
}
fn flushed() -> impl Strategy<Value = FlushedChunk> {
    (handle(), any::<u64>(), vec(server(), 0..4)).prop_map(|(handle, version, servers)| FlushedChunk {
        handle,
        version: ChunkVersion::new(version),
        servers,
    })
}
fn handle() -> impl Strategy<Value = ChunkHandle> {
    (1..=u64::MAX).prop_map(ChunkHandle::new)
}
fn server() -> impl Strategy<Value = ServerId> {
    (1..=u32::MAX).prop_map(ServerId::new)
}
fn raised_version() -> impl Strategy<Value = ChunkVersion> {
    (1..=u64::MAX).prop_map(ChunkVersion::new)
}
fn index() -> impl Strategy<Value = ChunkIndex> {
    prop_oneof![0..CHUNKS_PER_FILE_MAX, Just(CHUNKS_PER_FILE_MAX - 1)].prop_map(ChunkIndex::new)
}
fn epoch() -> impl Strategy<Value = Epoch> {
    (term(), any::<u64>()).prop_map(|(term, counter)| Epoch { term, counter })
}
fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp::new(secs, nanos).expect("in range"))
}
fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![Just(SetTime::Now), time().prop_map(SetTime::At)]
}
fn duration() -> impl Strategy<Value = Duration> {
    (1..=u32::MAX).prop_map(|ms| Duration::from_millis(ms.into()))
}
fn mode() -> impl Strategy<Value = Mode> {
    (0..=0o7777u32).prop_map(Mode::new)
}
fn file_size() -> impl Strategy<Value = u64> {
    prop_oneof![0..=FILE_SIZE_MAX, Just(FILE_SIZE_MAX)]
}
fn chunk_bytes() -> impl Strategy<Value = u32> {
    prop_oneof![0..=CHUNK_SIZE_MAX, Just(CHUNK_SIZE_MAX)]
}
fn numbering() -> impl Strategy<Value = Numbering> {
    prop_oneof![Just(Numbering::Client), Just(Numbering::Primary)]
}
fn error() -> impl Strategy<Value = FsError> {
    proptest::sample::select(FsError::ALL)
}

/// Any bytes that are not NUL, up to a limit that is reached often.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(1..=u8::MAX, 1..=most.min(32)), 1 => vec(1..=u8::MAX, most)]
}
fn name() -> impl Strategy<Value = Name> {
    let allowed = |bytes: Vec<u8>| Name::new(&bytes).ok();
    bytes(NAME_MAX)
        .prop_map(|bytes| bytes.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect())
        .prop_filter_map("dots", allowed)
}
fn xattr_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..32), Just(vec![0; XATTR_VALUE_MAX])]
}
fn text() -> impl Strategy<Value = String> {
    ".{0,16}"
}

fn kind() -> impl Strategy<Value = FileKind> {
    proptest::sample::select(vec![
        FileKind::File,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice,
        FileKind::BlockDevice,
    ])
}

fn attr() -> impl Strategy<Value = Attr> {
    let who = (inode(), kind(), mode(), any::<[u32; 4]>(), file_size(), 0..=CHUNKS_PER_FILE_MAX);
    let flags = (0..=GOAL_MAX, any::<bool>(), any::<bool>(), truncate_generation(), map_generation());
    (who, [time(), time(), time()], flags).prop_map(|(who, [atime, mtime, ctime], flags)| {
        let (inode, kind, mode, [nlink, uid, gid, rdev], size, chunks) = who;
        let (goal, has_xattrs, has_acl, truncate_generation, map_generation) = flags;
        Attr {
            inode,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size,
            chunks,
            atime,
            mtime,
            ctime,
            goal,
            has_xattrs,
            has_acl,
            truncate_generation,
            map_generation,
        }
    })
}

fn address() -> impl Strategy<Value = ServerAddress> {
    (any::<SocketAddr>(), option::of("/.{0,16}"), text()).prop_map(|(mut tcp, unix, host)| {
        if let SocketAddr::V6(tcp) = &mut tcp {
            tcp.set_flowinfo(0); // has no textual form
        }
        ServerAddress { tcp, unix, host }
    })
}
fn replica() -> impl Strategy<Value = Replica> {
    (server(), incarnation(), address()).prop_map(|(server, incarnation, address)| Replica {
        server,
        incarnation,
        address,
    })
}
fn members() -> impl Strategy<Value = Vec<Replica>> {
    prop_oneof![4 => vec(replica(), 1..4), 1 => vec(replica(), REPLICAS_MAX)]
}

fn location() -> impl Strategy<Value = ChunkLocation> {
    let clip = option::of(chunk_bytes());
    (handle(), version(), clip, any::<bool>(), vec(replica(), 0..4)).prop_map(
        |(handle, version, clip, leased, replicas)| ChunkLocation {
            index: ChunkIndex::new(0),
            handle,
            version,
            clip,
            leased,
            replicas,
        },
    )
}
fn chunk_map() -> impl Strategy<Value = ChunkMap> {
    (map_generation(), btree_map(index(), location(), 0..5)).prop_map(|(generation, chunks)| ChunkMap {
        generation,
        chunks: chunks.into_iter().map(|(index, location)| ChunkLocation { index, ..location }).collect(),
    })
}
fn grant() -> impl Strategy<Value = ChunkGrant> {
    let chunk = (inode(), index(), handle(), version(), epoch());
    let rest = (numbering(), any::<bool>(), members(), truncate_generation(), map_generation(), duration());
    (chunk, rest).prop_map(|((inode, index, handle, version, epoch), rest)| {
        let (numbering, created, replicas, truncate_generation, map_generation, lease) = rest;
        ChunkGrant {
            inode,
            index,
            handle,
            version,
            epoch,
            numbering,
            created,
            replicas,
            truncate_generation,
            map_generation,
            lease,
        }
    })
}
fn held() -> impl Strategy<Value = HeldChunk> {
    (handle(), epoch()).prop_map(|(handle, epoch)| HeldChunk { handle, epoch })
}

fn target() -> impl Strategy<Value = InodeRef> {
    prop_oneof![inode().prop_map(InodeRef::Id), (0..BATCH_OPS_MAX as u8).prop_map(InodeRef::ResultOf)]
}
fn open_spec() -> impl Strategy<Value = OpenSpec> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    (open_id(), access, any::<bool>()).prop_map(|(open, access, truncate)| OpenSpec { open, access, truncate })
}
fn make_kind() -> impl Strategy<Value = MakeKind> {
    prop_oneof![
        Just(MakeKind::Directory),
        bytes(SYMLINK_MAX).prop_map(MakeKind::Symlink),
        Just(MakeKind::Fifo),
        Just(MakeKind::Socket),
        any::<u32>().prop_map(MakeKind::CharDevice),
        any::<u32>().prop_map(MakeKind::BlockDevice),
    ]
}
fn make() -> impl Strategy<Value = Make> {
    let ids = option::of((inode(), handle()));
    let file = (option::of(open_spec()), any::<bool>()).prop_map(|(open, first)| (MakeKind::File, open, first));
    let what = prop_oneof![file, make_kind().prop_map(|kind| (kind, None, false))];
    (target(), name(), what, mode(), any::<bool>(), ids).prop_map(
        |(parent, name, (kind, open, first_chunk), mode, exclusive, ids)| Make {
            parent,
            name,
            kind,
            mode,
            exclusive,
            open,
            first_chunk,
            ids,
        },
    )
}
fn set_attr() -> impl Strategy<Value = SetAttr> {
    let plain = (option::of(mode()), any::<Option<u32>>(), any::<Option<u32>>(), option::of(file_size()));
    let times = (option::of(set_time()), option::of(set_time()), option::of(time()), any::<bool>());
    (plain, times).prop_map(|((mode, uid, gid, size), (atime, mtime, ctime, by_open_handle))| SetAttr {
        mode,
        uid,
        gid,
        size,
        atime,
        mtime,
        ctime,
        by_open_handle,
    })
}

fn reading_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (target(), name()).prop_map(|(parent, name)| Op::Lookup { parent, name }),
        target().prop_map(|inode| Op::GetAttr { inode }),
        target().prop_map(|inode| Op::ReadLink { inode }),
        (target(), cookie(), 0..=REPLY_PAGE_BYTES_MAX, any::<bool>()).prop_map(
            |(inode, after, bytes_max, with_attributes)| Op::ReadDir { inode, after, bytes_max, with_attributes }
        ),
        Just(Op::StatFs),
        (target(), bytes(XATTR_NAME_MAX)).prop_map(|(inode, name)| Op::GetXattr { inode, name }),
        target().prop_map(|inode| Op::ListXattr { inode }),
        (target(), index(), 1..=CHUNKS_PER_REQUEST_MAX).prop_map(|(inode, first, count)| Op::ReadChunks {
            inode,
            first,
            count
        }),
    ]
}
fn naming_op() -> impl Strategy<Value = Op> {
    let rename_mode = prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)];
    prop_oneof![
        make().prop_map(Op::Make),
        (target(), target(), name()).prop_map(|(inode, parent, name)| Op::Link { inode, parent, name }),
        (target(), name()).prop_map(|(parent, name)| Op::Unlink { parent, name }),
        (target(), name()).prop_map(|(parent, name)| Op::Rmdir { parent, name }),
        (target(), name(), target(), name(), rename_mode).prop_map(
            |(from_parent, from_name, to_parent, to_name, mode)| {
                Op::Rename { from_parent, from_name, to_parent, to_name, mode }
            }
        ),
    ]
}
fn attribute_op() -> impl Strategy<Value = Op> {
    let xattr_mode = prop_oneof![Just(XattrMode::Either), Just(XattrMode::Create), Just(XattrMode::Replace)];
    prop_oneof![
        (target(), set_attr()).prop_map(|(inode, changes)| Op::SetAttr { inode, changes }),
        (target(), bytes(XATTR_NAME_MAX), xattr_value(), xattr_mode)
            .prop_map(|(inode, name, value, mode)| Op::SetXattr { inode, name, value, mode }),
        (target(), bytes(XATTR_NAME_MAX)).prop_map(|(inode, name)| Op::RemoveXattr { inode, name }),
        (target(), 1..=GOAL_MAX).prop_map(|(inode, goal)| Op::SetGoal { inode, goal }),
    ]
}
fn file_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (target(), open_spec()).prop_map(|(inode, spec)| Op::Open { inode, spec }),
        (target(), open_id()).prop_map(|(inode, open)| Op::Release { inode, open }),
        (target(), index()).prop_map(|(inode, index)| Op::GrantChunk { inode, index }),
        (target(), index(), handle(), version(), epoch(), vec(server(), 0..=REPLICAS_MAX)).prop_map(
            |(inode, index, handle, version, epoch, suspects)| {
                Op::BreakChunk { inode, index, handle, version, epoch, suspects }
            }
        ),
        vec(held(), 0..8).prop_map(|chunks| Op::ReturnChunks { chunks }),
        vec(flushed(), 0..8).prop_map(|chunks| Op::AwaitCopies { chunks }),
        report_size(),
        (handle(), version(), server()).prop_map(|(handle, version, server)| Op::ReportDamage {
            handle,
            version,
            server
        }),
    ]
}
fn report_size() -> impl Strategy<Value = Op> {
    let times = (option::of(set_time()), option::of(set_time()), option::of(time()));
    (target(), file_size(), times, truncate_generation(), any::<bool>()).prop_map(
        |(inode, size, (mtime, atime, ctime), truncate_generation, durable)| Op::ReportSize {
            inode,
            size,
            mtime,
            atime,
            ctime,
            truncate_generation,
            durable,
        },
    )
}
fn op() -> impl Strategy<Value = Op> {
    prop_oneof![reading_op(), naming_op(), attribute_op(), file_op()]
}

fn caller() -> impl Strategy<Value = Caller> {
    (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..20)).prop_map(|(uid, gid, groups)| Caller { uid, gid, groups })
}
pub(super) fn batch() -> impl Strategy<Value = Batch> {
    let number = option::of((1..=u64::MAX).prop_map(Sequence::new));
    let condition = option::of((inode(), any::<u64>()).prop_map(|(inode, version)| Precondition { inode, version }));
    let ops = prop_oneof![8 => vec(op(), 1..6), 1 => vec(op(), BATCH_OPS_MAX)];
    (caller(), number, sequence(), option::of(time()), condition, ops).prop_map(
        |(caller, sequence, acknowledged, client_time, precondition, ops)| Batch {
            caller,
            sequence,
            acknowledged,
            client_time,
            precondition,
            ops,
        },
    )
}

fn opened() -> impl Strategy<Value = Opened> {
    (attr(), any::<bool>(), chunk_map()).prop_map(|(attr, exclusive, chunks)| Opened { attr, exclusive, chunks })
}
fn made() -> impl Strategy<Value = Made> {
    (attr(), any::<bool>(), option::of(opened()), option::of(grant())).prop_map(|(attr, existed, opened, grant)| Made {
        attr,
        existed,
        opened,
        grant,
    })
}
fn dir_entry() -> impl Strategy<Value = DirEntry> {
    let cookie = (DirCookie::FIRST.get()..=u64::MAX).prop_map(DirCookie::new);
    (name(), cookie, inode(), kind(), option::of(attr())).prop_map(|(name, cookie, inode, kind, attr)| DirEntry {
        name,
        cookie,
        inode,
        kind,
        attr,
    })
}
fn stats() -> impl Strategy<Value = FsStats> {
    (any::<[u64; 4]>(), 0..=GOAL_MAX).prop_map(|([bytes_total, bytes_free, inodes, chunks], goal)| FsStats {
        bytes_total,
        bytes_free,
        inodes,
        chunks,
        goal,
    })
}
fn op_result() -> impl Strategy<Value = OpResult> {
    let page = (vec(dir_entry(), 0..5), any::<bool>(), any::<u64>());
    prop_oneof![
        Just(OpResult::Done),
        attr().prop_map(OpResult::Attr),
        xattr_value().prop_map(OpResult::Bytes),
        page.prop_map(|(entries, end, version)| OpResult::Page(DirPage { entries, end, version })),
        stats().prop_map(OpResult::Stats),
        vec(bytes(XATTR_NAME_MAX), 0..5).prop_map(OpResult::Names),
        chunk_map().prop_map(OpResult::Chunks),
        made().prop_map(OpResult::Made),
        opened().prop_map(OpResult::Opened),
        grant().prop_map(OpResult::Grant),
    ]
}
pub(super) fn batch_reply() -> impl Strategy<Value = BatchReply> {
    let last = prop_oneof![op_result().prop_map(Ok), error().prop_map(Err)];
    (vec(op_result(), 0..4), last, log_index(), log_index(), duration()).prop_map(
        |(done, last, log_index, durable_index, ttl)| BatchReply {
            results: done.into_iter().map(Ok).chain([last]).collect(),
            log_index,
            durable_index,
            ttl,
        },
    )
}

fn space() -> impl Strategy<Value = Vec<DirectorySpace>> {
    let directory = (text(), any::<[u64; 3]>(), any::<bool>(), text()).prop_map(
        |(path, [bytes_total, bytes_free, chunks], accepts_chunks, error)| DirectorySpace {
            path,
            bytes_total,
            bytes_free,
            chunks,
            accepts_chunks,
            error,
        },
    );
    vec(directory, 0..4)
}
fn capabilities() -> impl Strategy<Value = Capabilities> {
    any::<u64>().prop_map(Capabilities::new)
}
fn register() -> impl Strategy<Value = Register> {
    let ids = (any::<Option<[u8; 16]>>(), any::<[u8; 16]>(), incarnation(), any::<u64>(), address());
    (ids, text(), text(), space(), capabilities(), term()).prop_map(
        |((cluster, uuid, incarnation, run, address), rack, software, space, capabilities, highest_term)| Register {
            cluster: cluster.map(ClusterId::new),
            uuid: ServerUuid::new(uuid),
            incarnation,
            run: RunId::new(run),
            address,
            rack,
            software,
            space,
            capabilities,
            highest_term,
        },
    )
}
fn row() -> impl Strategy<Value = ReplicaRow> {
    let state = prop_oneof![
        Just(ReplicaState::Clean),
        Just(ReplicaState::Dirty),
        Just(ReplicaState::Suspect),
        Just(ReplicaState::Failing),
        Just(ReplicaState::Damaged),
        Just(ReplicaState::DamagedSuspect)
    ];
    (handle(), version(), chunk_bytes(), state).prop_map(|(handle, version, length, state)| ReplicaRow {
        handle,
        version,
        length,
        state,
    })
}
fn outcome() -> impl Strategy<Value = WriteOutcome> {
    let parts = (session(), sequence(), serial());
    parts.prop_map(|(session, sequence, serial)| WriteOutcome { session, sequence, serial })
}
fn position() -> impl Strategy<Value = Position> {
    (epoch(), serial()).prop_map(|(epoch, serial)| Position { epoch, serial })
}
fn install_report() -> impl Strategy<Value = InstallReport> {
    let range = (chunk_bytes(), serial()).prop_flat_map(|(offset, serial)| {
        (0..=CHUNK_SIZE_MAX - offset).prop_map(move |length| DoubtRange { offset, length, serial })
    });
    (chunk_bytes(), any::<u64>(), position(), vec(range, 0..5), vec(outcome(), 0..5), incarnation()).prop_map(
        |(length, digest, position, in_doubt, outcomes, incarnation)| InstallReport {
            length,
            digest,
            position,
            in_doubt,
            outcomes,
            incarnation,
        },
    )
}
fn mended() -> impl Strategy<Value = Mended> {
    let lost = vec(0..CHUNK_SIZE_MAX / BLOCK_SIZE, 0..=LOST_BLOCKS_MAX);
    (row(), any::<u32>(), lost, 0..1000u32).prop_map(|(row, blocks_mended, lost, more)| Mended {
        row,
        blocks_mended,
        blocks_lost: lost.len() as u32 + more,
        lost,
    })
}
fn scrub() -> impl Strategy<Value = ScrubProgress> {
    let counts = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (any::<u64>(), any::<u64>(), time(), counts, any::<bool>()).prop_map(|(one, other, began, counts, hurried)| {
        let (replicas_total, replicas_done, bytes_done, damaged, mended) = counts;
        let (round, finished) = (one.max(other), one.min(other));
        ScrubProgress { round, finished, began, replicas_total, replicas_done, bytes_done, hurried, damaged, mended }
    })
}
fn command_result() -> impl Strategy<Value = CommandResult> {
    let outcome = prop_oneof![
        Just(Ok(CommandOutcome::Done)),
        install_report().prop_map(|report| Ok(CommandOutcome::Installed(report))),
        row().prop_map(|row| Ok(CommandOutcome::Replica(row))),
        vec((handle(), error()).prop_map(|(handle, error)| NotDeleted { handle, error }), 0..5)
            .prop_map(|kept| Ok(CommandOutcome::Deleted(kept))),
        mended().prop_map(|mended| Ok(CommandOutcome::Mended(mended))),
        error().prop_map(Err),
    ];
    (any::<u64>(), outcome, text()).prop_map(|(id, outcome, detail)| CommandResult { id, outcome, detail })
}
pub(super) fn keep_alive() -> impl Strategy<Value = KeepAlive> {
    let micros = || any::<u64>().prop_map(Duration::from_micros);
    let slow = (server(), micros(), micros());
    let slow = slow.prop_map(|(server, latency, median)| SlowServer { server, latency, median });
    vec(slow, 0..5).prop_map(|slow| KeepAlive { slow })
}
fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    (any::<u64>(), space(), vec(held(), 0..5), any::<u32>(), option::of(scrub())).prop_map(
        |(sent, space, writing, requests_in_flight, scrub)| Heartbeat {
            sent,
            space,
            writing,
            requests_in_flight,
            scrub,
        },
    )
}
fn report() -> impl Strategy<Value = ChunkReport> {
    (any::<bool>(), any::<bool>(), vec(row(), 0..5), vec(row(), 0..5))
        .prop_map(|(full, last, present, removed)| ChunkReport { full, last, present, removed })
}
fn chain_break() -> impl Strategy<Value = ChainBreak> {
    (handle(), version(), epoch(), server()).prop_map(|(handle, version, epoch, suspect)| ChainBreak {
        handle,
        version,
        epoch,
        suspect,
    })
}
pub(super) fn from_chunkserver() -> impl Strategy<Value = FromChunkserver> {
    prop_oneof![
        register().prop_map(FromChunkserver::Register),
        heartbeat().prop_map(FromChunkserver::Heartbeat),
        report().prop_map(FromChunkserver::Report),
        command_result().prop_map(FromChunkserver::Result),
        chain_break().prop_map(FromChunkserver::ChainBreak),
        Just(FromChunkserver::Leaving),
    ]
}

fn install() -> impl Strategy<Value = ChunkCommand> {
    let versions = (handle(), version(), option::of(raised_version()), epoch(), option::of(chunk_bytes()));
    (versions, truncate_generation(), numbering(), members(), duration()).prop_map(
        |((handle, version, raise_to, epoch, cut), truncate_generation, numbering, members, lease)| {
            ChunkCommand::Install(Install {
                handle,
                version,
                raise_to,
                epoch,
                cut,
                truncate_generation,
                numbering,
                members,
                lease,
            })
        },
    )
}
fn align() -> impl Strategy<Value = ChunkCommand> {
    (handle(), version(), epoch(), replica(), position(), vec(outcome(), 0..5)).prop_map(
        |(handle, version, epoch, source, position, outcomes)| {
            ChunkCommand::Align(Align { handle, version, epoch, source, position, outcomes })
        },
    )
}
fn sync_chunk() -> impl Strategy<Value = SyncChunk> {
    (handle(), version()).prop_map(|(handle, version)| SyncChunk { handle, version })
}
fn command() -> impl Strategy<Value = ChunkCommand> {
    prop_oneof![
        install(),
        align(),
        (handle(), epoch()).prop_map(|(handle, epoch)| ChunkCommand::Revoke { handle, epoch }),
        (vec(sync_chunk(), 0..5), incarnation())
            .prop_map(|(chunks, incarnation)| ChunkCommand::Delete { chunks, incarnation }),
        (handle(), version(), replica()).prop_map(|(handle, version, source)| ChunkCommand::Copy {
            handle,
            version,
            source
        }),
        (handle(), version(), raised_version()).prop_map(|(handle, version, raise_to)| ChunkCommand::Adopt {
            handle,
            version,
            raise_to
        }),
        sync_chunk().prop_map(ChunkCommand::Verify),
        (handle(), version(), vec(replica(), 0..=REPLICAS_MAX))
            .prop_map(|(handle, version, peers)| { ChunkCommand::Mend { handle, version, peers } }),
        Just(ChunkCommand::Scrub),
    ]
}
fn registered() -> impl Strategy<Value = Registered> {
    let chunk_size = (16..=28u32).prop_map(|bits| ChunkSize::new(1 << bits).expect("64 KiB to 256 MiB"));
    (server(), any::<[u8; 16]>(), term(), chunk_size, duration(), duration(), capabilities()).prop_map(
        |(server, cluster, term, chunk_size, heartbeat, read_lease, capabilities)| Registered {
            server,
            cluster: ClusterId::new(cluster),
            term,
            chunk_size,
            heartbeat,
            read_lease,
            capabilities,
        },
    )
}
pub(super) fn to_chunkserver() -> impl Strategy<Value = ToChunkserver> {
    prop_oneof![
        registered().prop_map(ToChunkserver::Registered),
        (any::<u64>(), term()).prop_map(|(sent, term)| ToChunkserver::HeartbeatAck { sent, term }),
        (any::<u64>(), term(), command()).prop_map(|(id, term, command)| ToChunkserver::Command { id, term, command }),
    ]
}
