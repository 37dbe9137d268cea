//! Every replica of the chunks of a file, as its server reported it: for people who compare them.

use crate::master::Master;
use crate::servers::locations::{Known, Located};
use gfs_master_core::FileChunk;
use gfs_proto::FsError;
use gfs_proto::control::ReplicaState;
use gfs_proto::ids::{ChunkIndex, InodeId, ServerId};
use gfs_proto::wire;
use std::time::Instant;

/// Chunks of a file from `first` on.
pub(super) fn of_file(
    master: &Master,
    inode: InodeId,
    first: ChunkIndex,
    count: u32,
) -> Result<Vec<wire::ChunkReplicas>, FsError> {
    let file = master.store.view().chunks(inode, first, count)?;
    Ok(file.chunks.iter().map(|chunk| of_chunk(master, chunk)).collect())
}

fn of_chunk(master: &Master, chunk: &FileChunk) -> wire::ChunkReplicas {
    let located = master.locations.of(chunk.handle);
    let has = |server: &&ServerId| located.iter().any(|row| row.server == **server);
    let mut replicas: Vec<_> = located.iter().map(|row| of_server(master, chunk, row.server, Some(row))).collect();
    let absent = chunk.record.entitled.iter().filter(|server| !has(server));
    replicas.extend(absent.map(|server| of_server(master, chunk, *server, None)));
    replicas.sort_unstable_by_key(|replica| replica.server);
    wire::ChunkReplicas {
        index: chunk.index.get(),
        handle: chunk.handle.get(),
        version: chunk.record.version.get(),
        goal: chunk.record.goal.into(),
        clip: chunk.cut.map(|cut| cut.length),
        leased: master.may_be_leased(chunk.handle, Instant::now()),
        unwritten: master.unwritten.contains(chunk.handle),
        replicas,
    }
}

fn of_server(master: &Master, chunk: &FileChunk, server: ServerId, row: Option<&Located>) -> wire::KnownReplica {
    let replica = master.servers.replica_up(server, Instant::now());
    wire::KnownReplica {
        server: server.get(),
        version: row.map_or(0, |row| row.version.get()),
        state: row.map_or("missing", |row| name(row.known)).to_owned(),
        entitled: chunk.record.entitled.contains(&server),
        replica: replica.as_ref().map(Into::into),
    }
}

const fn name(known: Known) -> &'static str {
    match known {
        Known::Reported(ReplicaState::Clean) => "clean",
        Known::Reported(ReplicaState::Dirty) | Known::Assumed => "dirty",
        Known::Reported(ReplicaState::Suspect | ReplicaState::DamagedSuspect) => "suspect",
        Known::Reported(ReplicaState::Failing) => "failing",
        Known::Reported(ReplicaState::Damaged) => "damaged",
    }
}
