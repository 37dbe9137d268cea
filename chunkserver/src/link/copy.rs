//! Re-replication (GFS paper, 4.3): fetches a whole replica from a peer by READ frames, checks every
//! block, makes it durable before it counts.

use super::commands::Failure;
use crate::net::dial::Answer;
use crate::net::frames::Outgoing;
use crate::node::Node;
use crate::peers::Peer;
use crate::server::may_block;
use gfs_proto::chunk::Replica;
use gfs_proto::control::ReplicaRow;
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataReply, Kind, Read};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::FRAME_PAYLOAD_MAX;
use std::time::Duration;

/// For one block of the copy.
const READ_MAX: Duration = Duration::from_secs(10);

/// Copies a replica; whatever was here under an older version is replaced when it is complete.
pub(super) async fn copy(
    node: &Node,
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
        let (length, answer) = ask(node, &peer, (Kind::Read, &read.encode())).await?;
        if offset > 0 && length != chunk_length || length > membership.chunk_size.get() {
            return Err(Failure::told(FsError::Busy, "the chunk changed while it was copied"));
        }
        chunk_length = length;
        let expected = chunk_length.saturating_sub(offset).min(read.length);
        if answer.payload.len() != expected as usize {
            return Err(Failure::told(FsError::Protocol, format!("{:?} sent a short answer", peer.endpoint)));
        }
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

/// Asks a peer for something of a chunk that is answered with DATA; the length of the chunk there, too.
pub(super) async fn ask(node: &Node, peer: &Peer, (kind, header): (Kind, &[u8])) -> Result<(u32, Answer), Failure> {
    let membership = node.membership().ok_or_else(|| Failure::told(FsError::Unavailable, "not registered"))?;
    let frame = Outgoing { kind, request: 0, header, sums: &[], payload: &[] };
    let answer = node.peers.call(peer, membership.cluster, frame, READ_MAX).await;
    let answer = answer.map_err(|error| Failure::told(FsError::Unavailable, error.to_string()))?;
    if answer.kind != Kind::Data {
        return Err(refused(peer, answer.ack()));
    }
    let reply = DataReply::decode(&answer.header);
    let reply = reply.map_err(|error| Failure::told(FsError::Protocol, error.to_string()))?;
    Ok((reply.chunk_length, answer))
}

fn refused(peer: &Peer, ack: Result<gfs_proto::frame::Ack, gfs_proto::frame::FrameError>) -> Failure {
    match ack.map(|ack| ack.outcome) {
        Ok(Err(error)) => {
            Failure::told(FsError::NoReplica, format!("{} refused to be read from: {error}", peer.server))
        }
        Ok(Ok(())) | Err(_) => Failure::told(FsError::Protocol, format!("{} gave an odd answer", peer.server)),
    }
}
