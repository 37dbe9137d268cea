//! Commands as bytes of the operation log: protobuf `gfs.v1.LoggedCommand`.
//!
//! `decode` takes whatever `encode` wrote, of this and every earlier format; what a log holds beside that
//! is an error that the caller stops at, never a command guessed at.

use crate::command::{Action, Command, CoreBatch, Mend, Openers, SizeRecord, Stamp, StampedOp};
use crate::outcome::{Duty, Unclaimed, UnclaimedCause};
use gfs_proto::caller::Caller;
use gfs_proto::convert::WireError;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, InodeId, Sequence, ServerId, ServerUuid, SessionId, TruncateGeneration,
};
use gfs_proto::name::Name;
use gfs_proto::time::Timestamp;
use gfs_proto::wire::{self, logged_command::Action as Wire};
use prost::Message;
use thiserror::Error;

/// The format that is written.
const FORMAT: u32 = 1;

/// Why a log record is no command of ours.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum DecodeError {
    /// Written by a newer master.
    #[error("the log has a command of format {found}, this master knows up to {known}: start a newer one")]
    Format {
        /// As found.
        found: u32,
        /// As known.
        known: u32,
    },
    /// Not protobuf.
    #[error("a command in the log is not readable")]
    Bytes(#[from] prost::DecodeError),
    /// Protobuf, but not what we write.
    #[error("a command in the log is not valid")]
    Field(#[from] WireError),
    /// A part is missing or out of range.
    #[error("a command in the log has no valid {0}")]
    Invalid(&'static str),
}

impl Command {
    /// The bytes to be logged. Operations must be such as may come from the wire: `decode` checks them
    /// as `gfs_proto::convert` does, and a log that cannot be decoded stops the master.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let now = Some(self.stamp.now.into());
        wire::LoggedCommand { format: FORMAT, now, action: Some((&self.action).into()) }.encode_to_vec()
    }

    /// From the bytes of a log entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = wire::LoggedCommand::decode(bytes)?;
        if raw.format != FORMAT {
            return Err(DecodeError::Format { found: raw.format, known: FORMAT });
        }
        let now = time(raw.now)?.ok_or(DecodeError::Invalid("time"))?;
        let action = raw.action.ok_or(DecodeError::Invalid("action"))?;
        Ok(Self { stamp: Stamp { now }, action: action.try_into()? })
    }
}

impl From<&Action> for Wire {
    fn from(action: &Action) -> Self {
        match action {
            Action::Noop => Self::Noop(wire::LoggedNoop {}),
            Action::Batch(batch) => Self::Batch(batch.into()),
            Action::OpenSession { session, secret, name } => Self::OpenSession(wire::LoggedOpenSession {
                session: session.get(),
                secret: secret.to_vec().into(),
                name: name.clone(),
            }),
            Action::EndSession { session } => Self::EndSession(wire::LoggedEndSession { session: session.get() }),
            Action::RegisterServer { uuid, rack } => Self::RegisterServer(wire::LoggedRegisterServer {
                uuid: uuid.as_bytes().to_vec().into(),
                rack: rack.clone(),
            }),
            Action::SetDuty { server, duty } => Self::SetDuty(wire::LoggedSetDuty {
                server: server.get(),
                draining: duty.draining,
                maintenance_until: duty.maintenance_until.map(Into::into),
                left: duty.left.map(Into::into),
            }),
            Action::RemoveServer { server } => Self::RemoveServer(wire::LoggedRemoveServer { server: server.get() }),
            Action::AllocateChunk { inode, index, placement } => Self::AllocateChunk(wire::LoggedAllocateChunk {
                inode: inode.get(),
                index: index.get(),
                placement: raw_servers(placement),
            }),
            Action::RaiseVersion { handle, version, entitled, unwritten } => {
                Self::RaiseVersion(wire::LoggedRaiseVersion {
                    handle: handle.get(),
                    version: version.get(),
                    entitled: raw_servers(entitled),
                    unwritten: *unwritten,
                })
            }
            Action::Entitle { handle, version, from, to } => Self::Entitle(wire::LoggedEntitle {
                handle: handle.get(),
                version: version.get(),
                from: raw_servers(from),
                to: raw_servers(to),
            }),
            Action::RecordSizes(sizes) => {
                Self::RecordSizes(wire::LoggedRecordSizes { sizes: sizes.iter().map(wire::LoggedSize::from).collect() })
            }
            Action::CutApplied { cuts } => Self::CutApplied(wire::LoggedCutApplied {
                cuts: cuts
                    .iter()
                    .map(|(handle, generation)| wire::LoggedCut {
                        handle: handle.get(),
                        truncate_generation: generation.get(),
                    })
                    .collect(),
            }),
            Action::Collected { rows } => Self::Collected(wire::LoggedCollected {
                replicas: rows
                    .iter()
                    .map(|(handle, server)| wire::LoggedReplica { handle: handle.get(), server: server.get() })
                    .collect(),
            }),
            Action::Abandon { chunks } => {
                let chunk = |(handle, version): &(ChunkHandle, ChunkVersion)| wire::LoggedChunk {
                    handle: handle.get(),
                    version: version.get(),
                };
                Self::Abandon(wire::LoggedAbandon { chunks: chunks.iter().map(chunk).collect() })
            }
            Action::Written { handles, flushed } => {
                let handles = handles.iter().map(|handle| handle.get()).collect();
                Self::Written(wire::LoggedWritten { handles, unflushed: !flushed })
            }
            Action::Quarantine { unclaimed } => Self::Quarantine(wire::LoggedQuarantine {
                replicas: unclaimed.iter().map(wire::LoggedUnclaimed::from).collect(),
            }),
            Action::Discard { unclaimed } => Self::Discard(wire::LoggedDiscard {
                replicas: unclaimed.iter().map(wire::LoggedUnclaimed::from).collect(),
            }),
            Action::Release { rows } => {
                let row = |(handle, server): &(ChunkHandle, ServerId)| wire::LoggedReplica {
                    handle: handle.get(),
                    server: server.get(),
                };
                Self::Release(wire::LoggedRelease { replicas: rows.iter().map(row).collect() })
            }
            Action::Mend { mends } => {
                Self::Mend(wire::LoggedMend { mends: mends.iter().map(wire::LoggedOneMend::from).collect() })
            }
            Action::Restored => Self::Restored(wire::LoggedRestored {}),
            Action::Reap { inodes } => {
                Self::Reap(wire::LoggedReap { inodes: inodes.iter().map(|inode| inode.get()).collect() })
            }
        }
    }
}

impl TryFrom<Wire> for Action {
    type Error = DecodeError;
    fn try_from(raw: Wire) -> Result<Self, DecodeError> {
        Ok(match raw {
            Wire::Noop(_) => Self::Noop,
            Wire::Batch(raw) => Self::Batch(raw.try_into()?),
            Wire::OpenSession(raw) => Self::OpenSession {
                session: SessionId::new(raw.session),
                secret: raw.secret[..].try_into().map_err(|_| DecodeError::Invalid("secret"))?,
                name: raw.name,
            },
            Wire::EndSession(raw) => Self::EndSession { session: SessionId::new(raw.session) },
            Wire::RegisterServer(raw) => Self::RegisterServer {
                uuid: ServerUuid::from_slice(&raw.uuid).ok_or(DecodeError::Invalid("uuid"))?,
                rack: raw.rack,
            },
            Wire::SetDuty(raw) => Self::SetDuty {
                server: ServerId::new(raw.server),
                duty: Duty {
                    draining: raw.draining,
                    maintenance_until: time(raw.maintenance_until)?,
                    left: time(raw.left)?,
                },
            },
            Wire::RemoveServer(raw) => Self::RemoveServer { server: ServerId::new(raw.server) },
            Wire::AllocateChunk(raw) => Self::AllocateChunk {
                inode: InodeId::new(raw.inode),
                index: ChunkIndex::new(raw.index),
                placement: servers(raw.placement),
            },
            Wire::RaiseVersion(raw) => Self::RaiseVersion {
                handle: ChunkHandle::new(raw.handle),
                version: ChunkVersion::new(raw.version),
                entitled: servers(raw.entitled),
                unwritten: raw.unwritten,
            },
            Wire::Entitle(raw) => Self::Entitle {
                handle: ChunkHandle::new(raw.handle),
                version: ChunkVersion::new(raw.version),
                from: servers(raw.from),
                to: servers(raw.to),
            },
            Wire::RecordSizes(raw) => {
                Self::RecordSizes(raw.sizes.into_iter().map(SizeRecord::try_from).collect::<Result<_, _>>()?)
            }
            Wire::CutApplied(raw) => {
                let cut = |raw: wire::LoggedCut| {
                    (ChunkHandle::new(raw.handle), TruncateGeneration::new(raw.truncate_generation))
                };
                Self::CutApplied { cuts: raw.cuts.into_iter().map(cut).collect() }
            }
            Wire::Collected(raw) => {
                let row = |raw: wire::LoggedReplica| (ChunkHandle::new(raw.handle), ServerId::new(raw.server));
                Self::Collected { rows: raw.replicas.into_iter().map(row).collect() }
            }
            Wire::Abandon(raw) => {
                let chunk = |raw: wire::LoggedChunk| (ChunkHandle::new(raw.handle), ChunkVersion::new(raw.version));
                Self::Abandon { chunks: raw.chunks.into_iter().map(chunk).collect() }
            }
            Wire::Written(raw) => {
                let handles = raw.handles.into_iter().map(ChunkHandle::new).collect();
                Self::Written { handles, flushed: !raw.unflushed }
            }
            Wire::Quarantine(raw) => Self::Quarantine { unclaimed: unclaimed(raw.replicas)? },
            Wire::Discard(raw) => Self::Discard { unclaimed: unclaimed(raw.replicas)? },
            Wire::Release(raw) => {
                let row = |raw: wire::LoggedReplica| (ChunkHandle::new(raw.handle), ServerId::new(raw.server));
                Self::Release { rows: raw.replicas.into_iter().map(row).collect() }
            }
            Wire::Mend(raw) => {
                Self::Mend { mends: raw.mends.into_iter().map(Mend::try_from).collect::<Result<_, _>>()? }
            }
            Wire::Restored(_) => Self::Restored,
            Wire::Reap(raw) => Self::Reap { inodes: raw.inodes.into_iter().map(InodeId::new).collect() },
        })
    }
}

impl From<&CoreBatch> for wire::LoggedBatch {
    fn from(batch: &CoreBatch) -> Self {
        Self {
            session: batch.session.get(),
            sequence: batch.sequence.get(),
            acknowledged: batch.acknowledged.get(),
            caller: Some((&batch.caller).into()),
            precondition: batch.precondition.map(Into::into),
            ops: batch.ops.iter().map(wire::LoggedOp::from).collect(),
        }
    }
}

impl TryFrom<wire::LoggedBatch> for CoreBatch {
    type Error = DecodeError;
    fn try_from(raw: wire::LoggedBatch) -> Result<Self, DecodeError> {
        let caller: Caller = raw.caller.ok_or(DecodeError::Invalid("caller"))?.try_into()?;
        Ok(Self {
            session: SessionId::new(raw.session),
            sequence: Sequence::new(raw.sequence),
            acknowledged: Sequence::new(raw.acknowledged),
            caller,
            precondition: raw.precondition.map(TryInto::try_into).transpose()?,
            ops: raw.ops.into_iter().map(StampedOp::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&StampedOp> for wire::LoggedOp {
    fn from(stamped: &StampedOp) -> Self {
        let openers = stamped.openers.as_ref().map(|openers| wire::Openers {
            inode: openers.inode.get(),
            sessions: openers.sessions.iter().map(|session| session.get()).collect(),
        });
        Self { op: Some((&stamped.op).into()), placement: raw_servers(&stamped.placement), openers }
    }
}

impl TryFrom<wire::LoggedOp> for StampedOp {
    type Error = DecodeError;
    fn try_from(raw: wire::LoggedOp) -> Result<Self, DecodeError> {
        let openers = raw.openers.map(|raw| Openers {
            inode: InodeId::new(raw.inode),
            sessions: raw.sessions.into_iter().map(SessionId::new).collect(),
        });
        let op = raw.op.ok_or(DecodeError::Invalid("operation"))?.try_into()?;
        Ok(Self { op, placement: servers(raw.placement), openers })
    }
}

impl From<&SizeRecord> for wire::LoggedSize {
    fn from(size: &SizeRecord) -> Self {
        Self {
            inode: size.inode.get(),
            size: size.size,
            mtime: size.mtime.map(Into::into),
            atime: size.atime.map(Into::into),
            ctime: size.ctime.map(Into::into),
            truncate_generation: size.truncate_generation.get(),
        }
    }
}

impl TryFrom<wire::LoggedSize> for SizeRecord {
    type Error = DecodeError;
    fn try_from(raw: wire::LoggedSize) -> Result<Self, DecodeError> {
        Ok(Self {
            inode: InodeId::new(raw.inode),
            size: raw.size,
            mtime: time(raw.mtime)?,
            atime: time(raw.atime)?,
            ctime: time(raw.ctime)?,
            truncate_generation: TruncateGeneration::new(raw.truncate_generation),
        })
    }
}

impl From<&Unclaimed> for wire::LoggedUnclaimed {
    fn from(replica: &Unclaimed) -> Self {
        Self {
            handle: replica.handle.get(),
            server: replica.server.get(),
            version: replica.version.get(),
            length: replica.length,
            why: replica.cause.number().into(),
        }
    }
}

fn unclaimed(raw: Vec<wire::LoggedUnclaimed>) -> Result<Vec<Unclaimed>, DecodeError> {
    let replica = |raw: wire::LoggedUnclaimed| {
        let cause = u8::try_from(raw.why).ok().and_then(UnclaimedCause::of_number);
        Ok(Unclaimed {
            handle: ChunkHandle::new(raw.handle),
            server: ServerId::new(raw.server),
            version: ChunkVersion::new(raw.version),
            length: raw.length,
            cause: cause.ok_or(DecodeError::Invalid("reason of a replica replica"))?,
        })
    };
    raw.into_iter().map(replica).collect()
}

impl From<&Mend> for wire::LoggedOneMend {
    fn from(mend: &Mend) -> Self {
        let (kind, none) = (|kind| Self { kind, ..Self::default() }, Self::default());
        match mend {
            Mend::RemoveName { parent, name } => {
                Self { inode: parent.get(), name: name.as_bytes().to_vec().into(), ..kind(1) }
            }
            Mend::AddLinks { inode, by } => Self { inode: inode.get(), by: vec![*by], ..kind(2) },
            Mend::AddEntries { inode, by } => Self { inode: inode.get(), by: vec![*by], ..kind(3) },
            Mend::Rescue { inode } => Self { inode: inode.get(), ..kind(4) },
            Mend::DropChunk { handle } => Self { handle: handle.get(), ..kind(5) },
            Mend::ClearPlace { inode, index } => Self { inode: inode.get(), index: index.get(), ..kind(6) },
            Mend::AddChunks { inode, by } => Self { inode: inode.get(), by: vec![*by], ..kind(7) },
            Mend::AddCounts { by } => Self { kind: 8, by: by.to_vec(), ..none },
        }
    }
}

impl TryFrom<wire::LoggedOneMend> for Mend {
    type Error = DecodeError;
    fn try_from(raw: wire::LoggedOneMend) -> Result<Self, DecodeError> {
        let inode = InodeId::new(raw.inode);
        let by = || raw.by.first().copied().ok_or(DecodeError::Invalid("difference of a mend"));
        Ok(match raw.kind {
            1 => {
                let name = Name::new(&raw.name).map_err(|_| DecodeError::Invalid("name of a mend"))?;
                Self::RemoveName { parent: inode, name }
            }
            2 => Self::AddLinks { inode, by: by()? },
            3 => Self::AddEntries { inode, by: by()? },
            4 => Self::Rescue { inode },
            5 => Self::DropChunk { handle: ChunkHandle::new(raw.handle) },
            6 => Self::ClearPlace { inode, index: ChunkIndex::new(raw.index) },
            7 => Self::AddChunks { inode, by: by()? },
            8 => Self::AddCounts { by: raw.by[..].try_into().map_err(|_| DecodeError::Invalid("counts of a mend"))? },
            _ => return Err(DecodeError::Invalid("kind of a mend")),
        })
    }
}

fn time(raw: Option<wire::Time>) -> Result<Option<Timestamp>, DecodeError> {
    Ok(raw.map(TryInto::try_into).transpose()?)
}

fn raw_servers(servers: &[ServerId]) -> Vec<u32> {
    servers.iter().map(|server| server.get()).collect()
}

fn servers(raw: Vec<u32>) -> Vec<ServerId> {
    raw.into_iter().map(ServerId::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::ops::{Op, Precondition};

    fn at(secs: i64) -> Timestamp {
        Timestamp::new(secs, 999_999_999).expect("below a second")
    }

    fn actions() -> Vec<Action> {
        let (inode, handle, server) = (InodeId::new(5), ChunkHandle::new(u64::MAX), ServerId::new(7));
        let replica =
            |cause| Unclaimed { handle, server, version: ChunkVersion::new(u64::MAX), length: u32::MAX, cause };
        let name = Name::new(b"\xffname").expect("a name");
        let unlink = StampedOp {
            op: Op::Unlink { parent: InodeId::ROOT.into(), name },
            placement: vec![server],
            openers: Some(Openers { inode, sessions: vec![SessionId::new(1), SessionId::new(2)] }),
        };
        let size = SizeRecord {
            inode,
            size: 1 << 44,
            mtime: Some(at(-5)),
            atime: None,
            ctime: Some(at(i64::MAX)),
            truncate_generation: TruncateGeneration::new(3),
        };
        vec![
            Action::Noop,
            Action::Batch(CoreBatch {
                session: SessionId::new(9),
                sequence: Sequence::new(8),
                acknowledged: Sequence::new(7),
                caller: Caller { uid: 1, gid: 2, groups: vec![3, 4] },
                precondition: Some(Precondition { inode, version: 6 }),
                ops: vec![unlink, Op::StatFs.into()],
            }),
            Action::OpenSession { session: SessionId::new(1), secret: [7; 16], name: "here".into() },
            Action::EndSession { session: SessionId::new(1) },
            Action::RegisterServer { uuid: ServerUuid::new([3; 16]), rack: "r".into() },
            Action::SetDuty {
                server,
                duty: Duty { draining: true, maintenance_until: Some(at(9)), left: Some(at(8)) },
            },
            Action::RemoveServer { server },
            Action::AllocateChunk { inode, index: ChunkIndex::new(9), placement: vec![server] },
            Action::RaiseVersion { handle, version: ChunkVersion::new(2), entitled: vec![server], unwritten: true },
            Action::Entitle {
                handle,
                version: ChunkVersion::new(2),
                from: vec![server],
                to: vec![server, ServerId::new(8)],
            },
            Action::RecordSizes(vec![size]),
            Action::CutApplied { cuts: vec![(handle, TruncateGeneration::new(1))] },
            Action::Collected { rows: vec![(handle, server)] },
            Action::Abandon { chunks: vec![(handle, ChunkVersion::new(2))] },
            Action::Written { handles: vec![handle, handle], flushed: true },
            Action::Written { handles: vec![handle], flushed: false },
            Action::Quarantine { unclaimed: vec![replica(UnclaimedCause::NoChunk), replica(UnclaimedCause::Ahead)] },
            Action::Release { rows: vec![(handle, server)] },
            Action::Discard { unclaimed: vec![replica(UnclaimedCause::NoChunk)] },
            Action::Mend {
                mends: vec![
                    Mend::RemoveName { parent: inode, name: Name::new(b"n").expect("a name") },
                    Mend::AddLinks { inode, by: -3 },
                    Mend::AddEntries { inode, by: 4 },
                    Mend::Rescue { inode },
                    Mend::DropChunk { handle },
                    Mend::ClearPlace { inode, index: ChunkIndex::new(5) },
                    Mend::AddChunks { inode, by: i64::MIN },
                    Mend::AddCounts { by: [1, -2, 3, -4, 5, -6, 7, -8, 9, -10, i64::MAX] },
                ],
            },
            Action::Restored,
            Action::Reap { inodes: vec![inode] },
        ]
    }

    #[test]
    fn every_action_round_trips() {
        for action in actions() {
            let command = Command { stamp: Stamp { now: at(-1) }, action };
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let newer = wire::LoggedCommand { format: FORMAT + 1, now: None, action: None }.encode_to_vec();
        assert_eq!(Command::decode(&newer), Err(DecodeError::Format { found: FORMAT + 1, known: FORMAT }));
        assert!(matches!(Command::decode(&[0xff; 9]), Err(DecodeError::Bytes(_))));
        assert!(matches!(Command::decode(&[]), Err(DecodeError::Format { found: 0, .. })));
        let empty = wire::LoggedCommand { format: FORMAT, now: Some(at(0).into()), action: None }.encode_to_vec();
        assert_eq!(Command::decode(&empty), Err(DecodeError::Invalid("action")));
    }
}
