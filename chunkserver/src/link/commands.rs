//! What the master commands: install and revoke leases, align, delete, copy, adopt, verify, mend, scrub. Each command is a
//! task of
//! its own.

use super::align::align;
use super::copy::copy;
use super::mend::mend;
use super::stream::Out;
use crate::chain::Installed;
use crate::grants::Lease;
use crate::node::Node;
use crate::server::may_block;
use crate::store::disk::Disk;
use gfs_proto::checksum::content_digest;
use gfs_proto::control::{
    ChunkCommand, CommandOutcome, CommandResult, FromChunkserver, Install, InstallReport, NotDeleted, ReplicaRow,
};
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataError, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, Epoch, Term};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Commands at work at the same time, and copies among them.
const COMMANDS_MAX: usize = 64;
const COPIES_MAX: usize = 16;

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// By what the store or the order of writes said.
    #[error("{0}")]
    Data(#[from] DataError),
    /// Said in words.
    #[error("{text}")]
    Told {
        /// For the master.
        error: FsError,
        /// For its log.
        text: String,
    },
}

impl Failure {
    pub(super) fn told(error: FsError, text: impl Into<String>) -> Self {
        Self::Told { error, text: text.into() }
    }

    /// As the master is told.
    fn error(&self) -> FsError {
        match self {
            Self::Told { error, .. } => *error,
            Self::Data(DataError::NoChunk) => FsError::NotFound,
            Self::Data(DataError::Version | DataError::Incarnation | DataError::Generation) => FsError::Stale,
            Self::Data(DataError::Epoch) => FsError::StaleGrant,
            Self::Data(DataError::Suspect) => FsError::NoReplica,
            Self::Data(DataError::NoSpace) => FsError::NoSpace,
            Self::Data(DataError::Corrupt | DataError::Transfer) => FsError::Corrupt,
            Self::Data(DataError::Io) => FsError::Io,
            Self::Data(DataError::Busy) => FsError::Busy,
            Self::Data(_) => FsError::Unavailable,
        }
    }
}

/// Commands of one stream.
pub(super) struct Commands<D: Disk> {
    node: Arc<Node<D>>,
    out: Out,
    at_work: Arc<Semaphore>,
    copies: Arc<Semaphore>,
}

impl<D: Disk> Commands<D> {
    pub(super) fn new(node: Arc<Node<D>>, out: Out) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { node, out, at_work: semaphore(COMMANDS_MAX), copies: semaphore(COPIES_MAX) }
    }

    /// Begins to carry out a command; its result goes to the master.
    pub(super) fn start(&self, id: u64, term: Term, command: ChunkCommand) {
        let highest = self.node.store.identity().highest_term;
        if term < highest {
            let text = format!("term {term} is over, the current one is {highest}");
            return self.refuse(id, Failure::told(FsError::NotLeader, text));
        }
        let permits = match &command {
            ChunkCommand::Copy { .. }
            | ChunkCommand::Adopt { .. }
            | ChunkCommand::Align(_)
            | ChunkCommand::Verify(_)
            | ChunkCommand::Mend { .. } => Arc::clone(&self.copies),
            _ => Arc::clone(&self.at_work),
        };
        let (node, out) = (Arc::clone(&self.node), self.out.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire_owned().await.expect("never closed");
            let outcome = carry_out(&node, command).await;
            answer(&out, id, outcome).await;
        });
    }

    fn refuse(&self, id: u64, failure: Failure) {
        let out = self.out.clone();
        tokio::spawn(async move { answer(&out, id, Err(failure)).await });
    }
}

async fn answer(out: &Out, id: u64, outcome: Result<CommandOutcome, Failure>) {
    let detail = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let outcome = outcome.map_err(|failure| failure.error());
    let result = FromChunkserver::Result(CommandResult { id, outcome, detail });
    let _ = out.send((&result).into()).await; // the stream has ended: the master asks again
}

async fn carry_out<D: Disk>(node: &Node<D>, command: ChunkCommand) -> Result<CommandOutcome, Failure> {
    match command {
        ChunkCommand::Install(install) => self::install(node, install).await.map(CommandOutcome::Installed),
        ChunkCommand::Align(command) => align(node, &command).await.map(|()| CommandOutcome::Done),
        ChunkCommand::Revoke { handle, epoch } => {
            revoke(node, handle, epoch);
            Ok(CommandOutcome::Done)
        }
        ChunkCommand::Copy { handle, version, source } => {
            copy(node, handle, version, &source).await.map(CommandOutcome::Replica)
        }
        ChunkCommand::Adopt { handle, version, raise_to } => {
            adopt(node, handle, version, raise_to).map(CommandOutcome::Replica)
        }
        ChunkCommand::Verify(chunk) => verify(node, chunk).map(CommandOutcome::Replica),
        ChunkCommand::Mend { handle, version, peers } => {
            mend(node, SyncChunk { handle, version }, &peers).await.map(CommandOutcome::Mended)
        }
        ChunkCommand::Scrub => {
            node.scrub.hurry();
            Ok(CommandOutcome::Done)
        }
        ChunkCommand::Delete { incarnation, .. } if incarnation != node.incarnation => {
            Err(DataError::Incarnation.into())
        }
        ChunkCommand::Delete { chunks, .. } => Ok(CommandOutcome::Deleted(delete(node, &chunks))),
    }
}

/// Fences, then cuts and raises on disk, then opens the new epoch. The fence comes before the look at the
/// disk: if the master is told that there is no replica, none is made by a first frame that is late.
async fn install<D: Disk>(node: &Node<D>, install: Install) -> Result<InstallReport, Failure> {
    let gate = node.grants.entry(install.handle);
    let deadline = Instant::now() + node.patience.turn;
    gate.begin_install(install.epoch, install.truncate_generation, deadline).await?;
    let version = install.raise_to.unwrap_or(install.version);
    let (length, sums) = match may_block(|| change(node, &install, version)) {
        Ok(found) => found,
        Err(failure) => {
            gate.abandon_install(node.clock.now());
            return Err(failure);
        }
    };
    let installed = Installed {
        version,
        epoch: install.epoch,
        generation: install.truncate_generation,
        numbering: install.numbering,
        primary: install.members.first().is_some_and(|member| member.server == node.server()),
    };
    let until = node.clock.now() + install.lease;
    let before = gate.finish_install(installed, Lease { members: install.members, length: install.lease, until });
    if install.raise_to.is_some() || install.cut.is_some() {
        node.outbox.touched(install.handle);
    }
    Ok(InstallReport {
        length,
        digest: content_digest(length, &sums),
        position: before.position,
        in_doubt: before.in_doubt,
        outcomes: before.outcomes,
        incarnation: node.incarnation,
    })
}

/// The same command may come twice: the version that it raises to is as good as the one it names.
fn check_version(row: &ReplicaRow, install: &Install) -> Result<(), Failure> {
    let text = || format!("the replica has version {}, not {}", row.version, install.version);
    if row.version < install.version {
        // What is older, suspect or not, was left behind when the chunk was raised or began again: nothing of this
        // version is here.
        return Err(Failure::told(FsError::NotFound, text()));
    }
    if row.state.is_suspect() {
        return Err(DataError::Suspect.into());
    }
    if row.version == install.version || Some(row.version) == install.raise_to {
        return Ok(());
    }
    Err(Failure::told(FsError::Stale, text()))
}

/// Length and sums afterwards. The cut comes first: a replica of the new version never has bytes from beyond it.
fn change<D: Disk>(node: &Node<D>, install: &Install, version: ChunkVersion) -> Result<(u32, Vec<u8>), Failure> {
    let handle = install.handle;
    let row = node.store.row(handle).ok_or(DataError::NoChunk)?;
    // the master takes it for absent, or would: it hears of what is there once more, and has it deleted
    check_version(&row, install).inspect_err(|_| node.outbox.touched(handle))?;
    if let Some(length) = install.cut {
        node.store.cut(handle, row.version, length)?;
    }
    if let Some(raise_to) = install.raise_to {
        node.store.raise(handle, install.version, raise_to)?;
    }
    Ok(node.store.all_sums(handle, version)?)
}

/// The lease has ended: nothing more is accepted, and what was written becomes durable.
fn revoke<D: Disk>(node: &Node<D>, handle: ChunkHandle, epoch: Epoch) {
    let gate = node.grants.entry(handle);
    let doubtful = gate.is_doubtful();
    if !gate.revoke(epoch, node.clock.now()) {
        return;
    }
    let cleaned = gate.is_dirty() && !may_block(|| node.store.mark_clean(&[handle])).is_empty();
    if cleaned {
        gate.cleaned();
    }
    if cleaned || doubtful {
        node.outbox.touched(handle);
    }
}

fn adopt<D: Disk>(
    node: &Node<D>,
    handle: ChunkHandle,
    version: ChunkVersion,
    raise_to: ChunkVersion,
) -> Result<ReplicaRow, Failure> {
    let adopted = may_block(|| node.store.adopt(handle, version, raise_to))?;
    if adopted.blocks_resummed > 0 {
        tracing::warn!(chunk = %handle, blocks = adopted.blocks_resummed,
            "an adopted replica had blocks whose checksums did not match: writes that were never finished");
    }
    // what was known of its writes may be of some whose bytes it has lost
    node.grants.remove(handle);
    node.outbox.touched(handle);
    Ok(adopted.row)
}

/// Somebody says that a replica does not match its checksums: looks, and says what it is.
fn verify<D: Disk>(node: &Node<D>, chunk: SyncChunk) -> Result<ReplicaRow, Failure> {
    let SyncChunk { handle, version } = chunk;
    may_block(|| node.store.examine(handle, version))?;
    node.outbox.touched(handle);
    Ok(node.store.row(handle).ok_or(DataError::NoChunk)?)
}

/// Deletes; those that are still there afterwards.
fn delete<D: Disk>(node: &Node<D>, chunks: &[SyncChunk]) -> Vec<NotDeleted> {
    let mut kept = Vec::new();
    for (chunk, result) in chunks.iter().zip(may_block(|| node.store.delete(chunks))) {
        match result {
            Ok(()) => {
                node.grants.remove(chunk.handle);
                node.outbox.removed(chunk.handle, chunk.version);
            }
            Err(DataError::NoChunk) => bury(node, *chunk),
            Err(error) => kept.push(NotDeleted { handle: chunk.handle, error: Failure::from(error).error() }),
        }
    }
    kept
}

/// Keeps a first frame that is late from making what is not there, and deletes what one made meanwhile.
fn bury<D: Disk>(node: &Node<D>, chunk: SyncChunk) {
    node.grants.bury(chunk.handle, chunk.version, node.clock.now());
    if matches!(may_block(|| node.store.delete(&[chunk])).pop(), Some(Ok(()))) {
        node.outbox.removed(chunk.handle, chunk.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootClock;
    use crate::node::Patience;
    use crate::outbox::Change;
    use crate::store::mem::MemDisk;
    use crate::store::{ChunkStore, StoreConfig};
    use gfs_proto::chunk::Numbering;
    use gfs_proto::control::ReplicaState;
    use gfs_proto::ids::{ClusterId, ServerUuid, TruncateGeneration};
    use gfs_proto::layout::ChunkSize;
    use std::time::Duration;

    const HANDLE: ChunkHandle = ChunkHandle::new(1);

    fn install_of(version: ChunkVersion) -> Install {
        Install {
            handle: HANDLE,
            version,
            raise_to: None,
            epoch: Epoch { term: Term::new(1), counter: 1 },
            cut: None,
            truncate_generation: TruncateGeneration::new(0),
            numbering: Numbering::Client,
            members: Vec::new(),
            lease: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn a_replica_of_another_version_is_reported_again() {
        let config = StoreConfig {
            directories: vec!["/chunks".into()],
            reserve_bytes: 1 << 20,
            watermark_bytes: 2 << 20,
            boot_id: "boot".to_owned(),
            uuid_if_new: ServerUuid::new([1; 16]),
            open_files_max: 16,
            pack_bytes: 0,
        };
        let store = ChunkStore::open(config, MemDisk::default()).expect("a new store");
        store.join(ClusterId::new([7; 16]), ChunkSize::new(64 << 10).expect("within limits")).expect("joined");
        let patience = Patience { turn: Duration::ZERO, hop: Duration::ZERO, idle: Duration::ZERO };
        let node = Node::new(store, Arc::new(BootClock), "boot".to_owned(), patience);
        node.store.create(HANDLE, ChunkVersion::new(1), 1).expect("there is room");
        node.outbox.start();
        let outcome = install(&node, install_of(ChunkVersion::new(2))).await;
        assert_eq!(outcome.map_err(|failure| failure.error()), Err(FsError::NotFound));
        assert_eq!(node.outbox.take().changes, [(HANDLE, Change::Touched)]);
    }

    #[test]
    fn what_is_older_is_absent_whatever_its_state() {
        let [first, second, third] = [1, 2, 3].map(ChunkVersion::new);
        let install = install_of(second);
        let answer = |version, state| {
            let row = ReplicaRow { handle: HANDLE, version, length: 0, state };
            check_version(&row, &install).map_err(|failure| failure.error())
        };
        for state in [ReplicaState::Clean, ReplicaState::Suspect, ReplicaState::DamagedSuspect] {
            assert_eq!(answer(first, state), Err(FsError::NotFound));
        }
        assert_eq!(answer(second, ReplicaState::Suspect), Err(FsError::NoReplica));
        assert_eq!(answer(second, ReplicaState::Clean), Ok(()));
        assert_eq!(answer(third, ReplicaState::Clean), Err(FsError::Stale));
    }
}
