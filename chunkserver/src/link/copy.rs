//! Re-replication (GFS paper, 4.3): fetches a whole replica from a peer by READ frames, checks every
//! block, makes it durable before it counts.

use super::commands::Failure;
use crate::net::dial::Answer;
use crate::node::Node;
use crate::peers::{Peer, PeerError};
use crate::server::may_block;
use crate::store::disk::Disk;
use gfs_proto::chunk::Replica;
use gfs_proto::control::ReplicaRow;
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataReply, Kind, Read};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId};
use gfs_proto::limits::FRAME_PAYLOAD_MAX;
use std::time::Duration;

/// For one block of the copy.
const READ_MAX: Duration = Duration::from_secs(10);

/// Copies a replica; whatever was here under an older version is replaced when it is complete.
pub(super) async fn copy<D: Disk>(
    node: &Node<D>,
    handle: ChunkHandle,
    version: ChunkVersion,
    source: &Replica,
) -> Result<ReplicaRow, Failure> {
    let membership = node.membership().ok_or_else(|| Failure::told(FsError::Unavailable, "not registered"))?;
    let peer = Peer::of_replica(source, &node.boot_id);
    let mut importer = may_block(|| node.store.import(handle, version))?;
    let (mut offset, mut chunk_length) = (0, u32::MAX);
    while offset < chunk_length {
        let left = membership.chunk_size.get() - offset;
        let read = Read { handle, version, offset, length: left.min(FRAME_PAYLOAD_MAX), by_copy: true };
        let (reply, answer) = ask(node, membership.cluster, &peer, &read).await?;
        if offset > 0 && reply.chunk_length != chunk_length || reply.chunk_length > membership.chunk_size.get() {
            return Err(Failure::told(FsError::Busy, "the chunk changed while it was copied"));
        }
        chunk_length = reply.chunk_length;
        let expected = chunk_length.saturating_sub(offset).min(read.length);
        if expected > 0 {
            may_block(|| importer.write(offset, &answer.payload, &answer.sums))?;
        }
        offset += read.length;
    }
    let row = may_block(|| importer.finish(chunk_length))?;
    node.grants.remove(handle);
    node.outbox.touched(handle);
    tracing::info!(chunk = %handle, %version, from = %peer.server, bytes = chunk_length, "copied a replica");
    Ok(row)
}

/// Part of a replica of a peer, as many bytes as it says that the chunk has. Not compared with its sums.
pub(super) async fn ask<D: Disk>(
    node: &Node<D>,
    cluster: ClusterId,
    peer: &Peer,
    read: &Read,
) -> Result<(DataReply, Answer), Failure> {
    let answer = data(peer, node.peers.read(peer, cluster, *read, READ_MAX).await)?;
    let reply =
        DataReply::decode(&answer.header).map_err(|error| Failure::told(FsError::Protocol, error.to_string()))?;
    let expected = reply.chunk_length.saturating_sub(read.offset).min(read.length);
    if answer.payload.len() != expected as usize {
        return Err(Failure::told(FsError::Protocol, format!("{:?} sent a short answer", peer.endpoint)));
    }
    Ok((reply, answer))
}

/// An answer that brings something of a chunk, and no refusal.
pub(super) fn data(peer: &Peer, answer: Result<Answer, PeerError>) -> Result<Answer, Failure> {
    let answer = answer.map_err(|error| Failure::told(FsError::Unavailable, error.to_string()))?;
    if answer.kind == Kind::Data { Ok(answer) } else { Err(refused(peer, answer.ack())) }
}

fn refused(peer: &Peer, ack: Result<gfs_proto::frame::Ack, gfs_proto::frame::FrameError>) -> Failure {
    match ack.map(|ack| ack.outcome) {
        Ok(Err(error)) => {
            Failure::told(FsError::NoReplica, format!("{} refused to be read from: {error}", peer.server))
        }
        Ok(Ok(())) | Err(_) => Failure::told(FsError::Protocol, format!("{} gave an odd answer", peer.server)),
    }
}
