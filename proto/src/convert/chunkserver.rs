//! What a chunkserver and the master say to each other.
//!
//! Keeps: the protocol version is ours, a lease has a primary, a command that failed has nothing else to
//! report, and no range reaches beyond the largest chunk.

use super::common::{address, numbering};
use super::{DIRECTORIES_MAX, Field, REPLICAS_MAX, ROWS_MAX, WireError, at, each, each_copy, for_people, millis};
use crate::chunk::Numbering;
use crate::control::{
    Align, ChainBreak, ChunkCommand, ChunkReport, CommandOutcome, CommandResult, DirectorySpace, DoubtRange,
    FromChunkserver, Heartbeat, Install, InstallReport, Mended, NotDeleted, Position, Register, Registered, ReplicaRow,
    ReplicaState, ScrubProgress, ToChunkserver, WriteOutcome,
};
use crate::error::FsError;
use crate::frame::SyncChunk;
use crate::ids::{
    ChunkVersion, ClusterId, Incarnation, RunId, Sequence, Serial, ServerUuid, SessionId, Term, TruncateGeneration,
};
use crate::layout::ChunkSize;
use crate::limits::{BLOCK_SIZE, CHUNK_SIZE_MAX, DELETIONS_MAX, LOST_BLOCKS_MAX, PROTOCOL_VERSION};
use crate::ops::Capabilities;
use crate::wire;
use bytes::Bytes;
use std::time::Duration;

impl From<&FromChunkserver> for wire::FromChunkserver {
    fn from(message: &FromChunkserver) -> Self {
        use wire::from_chunkserver::Kind;
        let kind = match message {
            FromChunkserver::Register(register) => Kind::Register(register.into()),
            FromChunkserver::Heartbeat(heartbeat) => Kind::Heartbeat(heartbeat.into()),
            FromChunkserver::Report(report) => Kind::Report(report.into()),
            FromChunkserver::Result(result) => Kind::Result(result.into()),
            FromChunkserver::ChainBreak(chain_break) => Kind::ChainBreak((*chain_break).into()),
            FromChunkserver::Leaving => Kind::Leaving(wire::Leaving {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::FromChunkserver> for FromChunkserver {
    type Error = WireError;
    fn try_from(raw: wire::FromChunkserver) -> Result<Self, WireError> {
        use wire::from_chunkserver::Kind;
        Ok(match at("FromChunkserver", "kind").present(raw.kind)? {
            Kind::Register(raw) => Self::Register(raw.try_into()?),
            Kind::Heartbeat(raw) => Self::Heartbeat(raw.try_into()?),
            Kind::Report(raw) => Self::Report(raw.try_into()?),
            Kind::Result(raw) => Self::Result(raw.try_into()?),
            Kind::ChainBreak(raw) => Self::ChainBreak(raw.try_into()?),
            Kind::Leaving(wire::Leaving {}) => Self::Leaving,
        })
    }
}

impl From<&Register> for wire::Register {
    fn from(register: &Register) -> Self {
        Self {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: register.cluster.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes())),
            server_uuid: Bytes::copy_from_slice(register.uuid.as_bytes()),
            incarnation: register.incarnation.get(),
            tcp: register.address.tcp.to_string(),
            unix: register.address.unix.clone().unwrap_or_default(),
            host: register.address.host.clone(),
            rack: register.rack.clone(),
            software: register.software.clone(),
            space: Some(space_report(&register.space)),
            capabilities: register.capabilities.get(),
            highest_term: register.highest_term.get(),
            run: register.run.get(),
        }
    }
}

impl TryFrom<wire::Register> for Register {
    type Error = WireError;
    fn try_from(raw: wire::Register) -> Result<Self, WireError> {
        let field = |name| at("Register", name);
        field("protocol_version").check(raw.protocol_version == PROTOCOL_VERSION, "is not spoken here")?;
        let cluster = Some(&raw.cluster_id).filter(|id| !id.is_empty());
        Ok(Self {
            cluster: cluster.map(|id| field("cluster_id").uuid(id, ClusterId::from_slice)).transpose()?,
            uuid: field("server_uuid").uuid(&raw.server_uuid, ServerUuid::from_slice)?,
            incarnation: Incarnation::new(raw.incarnation),
            run: RunId::new(raw.run),
            address: address("Register", &raw.tcp, raw.unix, raw.host)?,
            rack: field("rack").text(raw.rack)?,
            software: field("software").text(raw.software)?,
            space: field("space").space(raw.space)?,
            capabilities: Capabilities::new(raw.capabilities),
            highest_term: Term::new(raw.highest_term),
        })
    }
}

fn space_report(space: &[DirectorySpace]) -> wire::SpaceReport {
    wire::SpaceReport { directories: each(space) }
}

impl Field {
    fn space(self, raw: Option<wire::SpaceReport>) -> Result<Vec<DirectorySpace>, WireError> {
        at("SpaceReport", "directories").list(self.present(raw)?.directories, DIRECTORIES_MAX)
    }
}

impl From<&DirectorySpace> for wire::DirectorySpace {
    fn from(space: &DirectorySpace) -> Self {
        Self {
            path: space.path.clone(),
            bytes_total: space.bytes_total,
            bytes_free: space.bytes_free,
            chunks: space.chunks,
            accepts_chunks: space.accepts_chunks,
            error: for_people(&space.error),
        }
    }
}

impl TryFrom<wire::DirectorySpace> for DirectorySpace {
    type Error = WireError;
    fn try_from(raw: wire::DirectorySpace) -> Result<Self, WireError> {
        Ok(Self {
            path: at("DirectorySpace", "path").text(raw.path)?,
            bytes_total: raw.bytes_total,
            bytes_free: raw.bytes_free,
            chunks: raw.chunks,
            accepts_chunks: raw.accepts_chunks,
            error: at("DirectorySpace", "error").text(raw.error)?,
        })
    }
}

impl From<&Heartbeat> for wire::Heartbeat {
    fn from(heartbeat: &Heartbeat) -> Self {
        Self {
            sent: heartbeat.sent,
            space: Some(space_report(&heartbeat.space)),
            writing: each_copy(&heartbeat.writing),
            requests_in_flight: heartbeat.requests_in_flight,
            scrub: heartbeat.scrub.map(Into::into),
        }
    }
}

impl From<ScrubProgress> for wire::ScrubProgress {
    fn from(progress: ScrubProgress) -> Self {
        Self {
            round: progress.round,
            finished: progress.finished,
            began: Some(progress.began.into()),
            replicas_total: progress.replicas_total,
            replicas_done: progress.replicas_done,
            bytes_done: progress.bytes_done,
            hurried: progress.hurried,
            damaged: progress.damaged,
            mended: progress.mended,
        }
    }
}

impl TryFrom<wire::ScrubProgress> for ScrubProgress {
    type Error = WireError;
    fn try_from(raw: wire::ScrubProgress) -> Result<Self, WireError> {
        let field = |name| at("ScrubProgress", name);
        field("finished").check(raw.finished <= raw.round, "is later than the last that began")?;
        Ok(Self {
            round: raw.round,
            finished: raw.finished,
            began: field("began").required(raw.began)?,
            replicas_total: raw.replicas_total,
            replicas_done: raw.replicas_done,
            bytes_done: raw.bytes_done,
            hurried: raw.hurried,
            damaged: raw.damaged,
            mended: raw.mended,
        })
    }
}

impl TryFrom<wire::Heartbeat> for Heartbeat {
    type Error = WireError;
    fn try_from(raw: wire::Heartbeat) -> Result<Self, WireError> {
        Ok(Self {
            sent: raw.sent,
            space: at("Heartbeat", "space").space(raw.space)?,
            writing: at("Heartbeat", "writing").list(raw.writing, ROWS_MAX)?,
            requests_in_flight: raw.requests_in_flight,
            scrub: raw.scrub.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&ChunkReport> for wire::ChunkReport {
    fn from(report: &ChunkReport) -> Self {
        Self {
            full: report.full,
            last: report.last,
            present: each_copy(&report.present),
            removed: each_copy(&report.removed),
        }
    }
}

impl TryFrom<wire::ChunkReport> for ChunkReport {
    type Error = WireError;
    fn try_from(raw: wire::ChunkReport) -> Result<Self, WireError> {
        Ok(Self {
            full: raw.full,
            last: raw.last,
            present: at("ChunkReport", "present").list(raw.present, ROWS_MAX)?,
            removed: at("ChunkReport", "removed").list(raw.removed, ROWS_MAX)?,
        })
    }
}

impl From<ReplicaRow> for wire::ReplicaRow {
    fn from(row: ReplicaRow) -> Self {
        let state = match row.state {
            ReplicaState::Clean => 0,
            ReplicaState::Dirty => 1,
            ReplicaState::Suspect => 2,
            ReplicaState::Failing => 3,
            ReplicaState::Damaged => 4,
            ReplicaState::DamagedSuspect => 5,
        };
        Self { handle: row.handle.get(), version: row.version.get(), length: row.length, state }
    }
}

impl TryFrom<wire::ReplicaRow> for ReplicaRow {
    type Error = WireError;
    fn try_from(raw: wire::ReplicaRow) -> Result<Self, WireError> {
        let field = |name| at("ReplicaRow", name);
        let state = match raw.state {
            0 => ReplicaState::Clean,
            1 => ReplicaState::Dirty,
            2 => ReplicaState::Suspect,
            3 => ReplicaState::Failing,
            4 => ReplicaState::Damaged,
            5 => ReplicaState::DamagedSuspect,
            _ => return Err(field("state").invalid("is no state of a replica")),
        };
        Ok(Self {
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            length: field("length").chunk_bytes(raw.length)?,
            state,
        })
    }
}

impl From<ChainBreak> for wire::ChainBreak {
    fn from(chain_break: ChainBreak) -> Self {
        Self {
            handle: chain_break.handle.get(),
            version: chain_break.version.get(),
            epoch: Some(chain_break.epoch.into()),
            suspect: chain_break.suspect.get(),
        }
    }
}

impl TryFrom<wire::ChainBreak> for ChainBreak {
    type Error = WireError;
    fn try_from(raw: wire::ChainBreak) -> Result<Self, WireError> {
        let field = |name| at("ChainBreak", name);
        Ok(Self {
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            epoch: field("epoch").required(raw.epoch)?,
            suspect: field("suspect").server(raw.suspect)?,
        })
    }
}

impl From<&CommandResult> for wire::CommandResult {
    fn from(result: &CommandResult) -> Self {
        let error = result.outcome.as_ref().err().map_or(0, |error| error.code());
        let mut raw = Self { id: result.id, error, detail: for_people(&result.detail), ..Self::default() };
        match &result.outcome {
            Ok(CommandOutcome::Installed(report)) => raw.installed = Some(report.into()),
            Ok(CommandOutcome::Replica(row)) => raw.replica = Some((*row).into()),
            Ok(CommandOutcome::Deleted(kept)) => raw.deleted = Some(wire::Deleted { kept: each_copy(kept) }),
            Ok(CommandOutcome::Mended(mended)) => raw.mended = Some(mended.into()),
            Ok(CommandOutcome::Done) | Err(_) => {}
        }
        raw
    }
}

impl TryFrom<wire::CommandResult> for CommandResult {
    type Error = WireError;
    fn try_from(raw: wire::CommandResult) -> Result<Self, WireError> {
        let outcome = match (raw.error, raw.installed, raw.replica, raw.deleted, raw.mended) {
            (0, None, None, None, None) => Ok(CommandOutcome::Done),
            (0, Some(report), None, None, None) => Ok(CommandOutcome::Installed(report.try_into()?)),
            (0, None, Some(row), None, None) => Ok(CommandOutcome::Replica(row.try_into()?)),
            (0, None, None, Some(deleted), None) => {
                Ok(CommandOutcome::Deleted(at("Deleted", "kept").list(deleted.kept, DELETIONS_MAX)?))
            }
            (0, None, None, None, Some(mended)) => Ok(CommandOutcome::Mended(mended.try_into()?)),
            (code, None, None, None, None) => Err(FsError::from_code(code)),
            (0, ..) => return Err(at("CommandResult", "replica").invalid("is given beside another outcome")),
            _ => return Err(at("CommandResult", "error").invalid("is given beside an outcome")),
        };
        Ok(Self { id: raw.id, outcome, detail: at("CommandResult", "detail").text(raw.detail)? })
    }
}

impl From<&Mended> for wire::Mended {
    fn from(mended: &Mended) -> Self {
        Self {
            replica: Some(mended.row.into()),
            blocks_mended: mended.blocks_mended,
            blocks_lost: mended.blocks_lost,
            lost: mended.lost.clone(),
        }
    }
}

impl TryFrom<wire::Mended> for Mended {
    type Error = WireError;
    fn try_from(raw: wire::Mended) -> Result<Self, WireError> {
        let field = |name| at("Mended", name);
        field("lost").check_length(raw.lost.len(), LOST_BLOCKS_MAX)?;
        field("lost").check(raw.lost.len() <= raw.blocks_lost as usize, "names more blocks than there are")?;
        let in_chunk = |block: &u32| *block < CHUNK_SIZE_MAX / BLOCK_SIZE;
        field("lost").check(raw.lost.iter().all(in_chunk), "reaches beyond the largest chunk")?;
        Ok(Self {
            row: field("replica").required(raw.replica)?,
            blocks_mended: raw.blocks_mended,
            blocks_lost: raw.blocks_lost,
            lost: raw.lost,
        })
    }
}

impl From<NotDeleted> for wire::NotDeleted {
    fn from(kept: NotDeleted) -> Self {
        Self { handle: kept.handle.get(), error: kept.error.code() }
    }
}

impl TryFrom<wire::NotDeleted> for NotDeleted {
    type Error = WireError;
    fn try_from(raw: wire::NotDeleted) -> Result<Self, WireError> {
        Ok(Self { handle: at("NotDeleted", "handle").handle(raw.handle)?, error: FsError::from_code(raw.error) })
    }
}

impl From<SyncChunk> for wire::OneReplica {
    fn from(chunk: SyncChunk) -> Self {
        Self { handle: chunk.handle.get(), version: chunk.version.get() }
    }
}

impl TryFrom<wire::OneReplica> for SyncChunk {
    type Error = WireError;
    fn try_from(raw: wire::OneReplica) -> Result<Self, WireError> {
        let handle = at("OneReplica", "handle").handle(raw.handle)?;
        Ok(Self { handle, version: ChunkVersion::new(raw.version) })
    }
}

impl From<&InstallReport> for wire::InstallReport {
    fn from(report: &InstallReport) -> Self {
        Self {
            length: report.length,
            applied_serial: report.position.serial.get(),
            previous_epoch: Some(report.position.epoch.into()),
            digest: report.digest,
            in_doubt: each_copy(&report.in_doubt),
            outcomes: each_copy(&report.outcomes),
            incarnation: report.incarnation.get(),
        }
    }
}

impl TryFrom<wire::InstallReport> for InstallReport {
    type Error = WireError;
    fn try_from(raw: wire::InstallReport) -> Result<Self, WireError> {
        let field = |name| at("InstallReport", name);
        Ok(Self {
            length: field("length").chunk_bytes(raw.length)?,
            digest: raw.digest,
            position: Position {
                epoch: field("previous_epoch").required(raw.previous_epoch)?,
                serial: Serial::new(raw.applied_serial),
            },
            in_doubt: field("in_doubt").list(raw.in_doubt, ROWS_MAX)?,
            outcomes: field("outcomes").list(raw.outcomes, ROWS_MAX)?,
            incarnation: Incarnation::new(raw.incarnation),
        })
    }
}

impl From<DoubtRange> for wire::DoubtRange {
    fn from(range: DoubtRange) -> Self {
        Self { offset: range.offset, length: range.length, serial: range.serial.get() }
    }
}

impl TryFrom<wire::DoubtRange> for DoubtRange {
    type Error = WireError;
    fn try_from(raw: wire::DoubtRange) -> Result<Self, WireError> {
        let end = u64::from(raw.offset) + u64::from(raw.length);
        at("DoubtRange", "length").check(end <= u64::from(CHUNK_SIZE_MAX), "reaches beyond the largest chunk")?;
        Ok(Self { offset: raw.offset, length: raw.length, serial: Serial::new(raw.serial) })
    }
}

impl From<WriteOutcome> for wire::WriteOutcome {
    fn from(outcome: WriteOutcome) -> Self {
        Self { session: outcome.session.get(), sequence: outcome.sequence.get(), serial: outcome.serial.get() }
    }
}

impl From<wire::WriteOutcome> for WriteOutcome {
    fn from(raw: wire::WriteOutcome) -> Self {
        Self {
            session: SessionId::new(raw.session),
            sequence: Sequence::new(raw.sequence),
            serial: Serial::new(raw.serial),
        }
    }
}

impl From<&ToChunkserver> for wire::ToChunkserver {
    fn from(message: &ToChunkserver) -> Self {
        use wire::to_chunkserver::Kind;
        let kind = match message {
            ToChunkserver::Registered(registered) => Kind::Registered(registered.into()),
            ToChunkserver::HeartbeatAck { sent, term } => {
                Kind::HeartbeatAck(wire::HeartbeatAck { sent: *sent, term: term.get() })
            }
            ToChunkserver::Command { id, term, command } => {
                Kind::Command(wire::ChunkCommand { id: *id, term: term.get(), kind: Some(command.into()) })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::ToChunkserver> for ToChunkserver {
    type Error = WireError;
    fn try_from(raw: wire::ToChunkserver) -> Result<Self, WireError> {
        use wire::to_chunkserver::Kind;
        Ok(match at("ToChunkserver", "kind").present(raw.kind)? {
            Kind::Registered(raw) => Self::Registered(raw.try_into()?),
            Kind::HeartbeatAck(raw) => Self::HeartbeatAck { sent: raw.sent, term: Term::new(raw.term) },
            Kind::Command(raw) => Self::Command {
                id: raw.id,
                term: Term::new(raw.term),
                command: at("ChunkCommand", "kind").required(raw.kind)?,
            },
        })
    }
}

impl From<&Registered> for wire::Registered {
    fn from(registered: &Registered) -> Self {
        Self {
            server: registered.server.get(),
            cluster_id: Bytes::copy_from_slice(registered.cluster.as_bytes()),
            term: registered.term.get(),
            chunk_size: registered.chunk_size.get(),
            heartbeat_ms: millis(registered.heartbeat),
            read_lease_ms: millis(registered.read_lease),
            capabilities: registered.capabilities.get(),
        }
    }
}

impl TryFrom<wire::Registered> for Registered {
    type Error = WireError;
    fn try_from(raw: wire::Registered) -> Result<Self, WireError> {
        let field = |name| at("Registered", name);
        let chunk_size = ChunkSize::new(raw.chunk_size);
        Ok(Self {
            server: field("server").server(raw.server)?,
            cluster: field("cluster_id").uuid(&raw.cluster_id, ClusterId::from_slice)?,
            term: Term::new(raw.term),
            chunk_size: chunk_size.ok_or(field("chunk_size").invalid("is no chunk size"))?,
            heartbeat: field("heartbeat_ms").interval(raw.heartbeat_ms)?,
            read_lease: field("read_lease_ms").interval(raw.read_lease_ms)?,
            capabilities: Capabilities::new(raw.capabilities),
        })
    }
}

impl From<&ChunkCommand> for wire::chunk_command::Kind {
    fn from(command: &ChunkCommand) -> Self {
        match command {
            ChunkCommand::Install(install) => Self::Install(install.into()),
            ChunkCommand::Revoke { handle, epoch } => {
                Self::Revoke(wire::Revoke { handle: handle.get(), epoch: Some((*epoch).into()) })
            }
            ChunkCommand::Delete { chunks, incarnation } => {
                Self::Delete(wire::Delete { chunks: each_copy(chunks), incarnation: incarnation.get() })
            }
            ChunkCommand::Copy { handle, version, source } => Self::Copy(wire::CopyChunk {
                handle: handle.get(),
                version: version.get(),
                source: Some(source.into()),
            }),
            ChunkCommand::Align(align) => Self::Align(align.into()),
            ChunkCommand::Adopt { handle, version, raise_to } => {
                Self::Adopt(wire::Adopt { handle: handle.get(), version: version.get(), raise_to: raise_to.get() })
            }
            ChunkCommand::Verify(chunk) => Self::Verify((*chunk).into()),
            ChunkCommand::Mend { handle, version, peers } => {
                Self::Mend(wire::Mend { handle: handle.get(), version: version.get(), peers: each(peers) })
            }
            ChunkCommand::Scrub => Self::Scrub(wire::Scrub {}),
        }
    }
}

impl TryFrom<wire::chunk_command::Kind> for ChunkCommand {
    type Error = WireError;
    fn try_from(raw: wire::chunk_command::Kind) -> Result<Self, WireError> {
        use wire::chunk_command::Kind;
        Ok(match raw {
            Kind::Install(raw) => Self::Install(raw.try_into()?),
            Kind::Revoke(raw) => Self::Revoke {
                handle: at("Revoke", "handle").handle(raw.handle)?,
                epoch: at("Revoke", "epoch").required(raw.epoch)?,
            },
            Kind::Delete(raw) => Self::Delete {
                chunks: at("Delete", "chunks").list(raw.chunks, DELETIONS_MAX)?,
                incarnation: Incarnation::new(raw.incarnation),
            },
            Kind::Copy(raw) => Self::Copy {
                handle: at("CopyChunk", "handle").handle(raw.handle)?,
                version: ChunkVersion::new(raw.version),
                source: at("CopyChunk", "source").required(raw.source)?,
            },
            Kind::Align(raw) => Self::Align(raw.try_into()?),
            Kind::Adopt(raw) => Self::Adopt {
                handle: at("Adopt", "handle").handle(raw.handle)?,
                version: ChunkVersion::new(raw.version),
                raise_to: ChunkVersion::new(at("Adopt", "raise_to").id(raw.raise_to)?),
            },
            Kind::Verify(raw) => Self::Verify(raw.try_into()?),
            Kind::Mend(raw) => Self::Mend {
                handle: at("Mend", "handle").handle(raw.handle)?,
                version: ChunkVersion::new(raw.version),
                peers: at("Mend", "peers").list(raw.peers, REPLICAS_MAX)?,
            },
            Kind::Scrub(wire::Scrub {}) => Self::Scrub,
        })
    }
}

impl From<&Install> for wire::Install {
    fn from(install: &Install) -> Self {
        Self {
            handle: install.handle.get(),
            version: install.version.get(),
            raise_to: install.raise_to.map_or(0, ChunkVersion::get),
            epoch: Some(install.epoch.into()),
            cut: install.cut,
            truncate_generation: install.truncate_generation.get(),
            client_numbers: install.numbering == Numbering::Client,
            members: each(&install.members),
            lease_ms: millis(install.lease),
        }
    }
}

impl TryFrom<wire::Install> for Install {
    type Error = WireError;
    fn try_from(raw: wire::Install) -> Result<Self, WireError> {
        let field = |name| at("Install", name);
        Ok(Self {
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            raise_to: (raw.raise_to != 0).then_some(ChunkVersion::new(raw.raise_to)),
            epoch: field("epoch").required(raw.epoch)?,
            cut: raw.cut.map(|cut| field("cut").chunk_bytes(cut)).transpose()?,
            truncate_generation: TruncateGeneration::new(raw.truncate_generation),
            numbering: numbering(raw.client_numbers),
            members: field("members").members(raw.members)?,
            lease: Duration::from_millis(raw.lease_ms.into()),
        })
    }
}

impl From<&Align> for wire::Align {
    fn from(align: &Align) -> Self {
        Self {
            handle: align.handle.get(),
            version: align.version.get(),
            epoch: Some(align.epoch.into()),
            source: Some((&align.source).into()),
            last_epoch: Some(align.position.epoch.into()),
            last_serial: align.position.serial.get(),
            outcomes: each_copy(&align.outcomes),
        }
    }
}

impl TryFrom<wire::Align> for Align {
    type Error = WireError;
    fn try_from(raw: wire::Align) -> Result<Self, WireError> {
        let field = |name| at("Align", name);
        let position =
            Position { epoch: field("last_epoch").required(raw.last_epoch)?, serial: Serial::new(raw.last_serial) };
        Ok(Self {
            handle: field("handle").handle(raw.handle)?,
            version: ChunkVersion::new(raw.version),
            epoch: field("epoch").required(raw.epoch)?,
            source: field("source").required(raw.source)?,
            position,
            outcomes: field("outcomes").list(raw.outcomes, ROWS_MAX)?,
        })
    }
}
