//! WRITE: fences, takes its turn, applies while it forwards, acknowledges when both are done (GFS
//! paper, 3.1 and 3.2).
//!
//! If the process dies after the apply and before the answer, the client hears nothing, asks for a new
//! epoch and sends the write again; it is known by its (session, sequence) wherever it was applied.

use super::connection::Done;
use super::{Failure, may_block};
use crate::chain::{Applied, Installed, Ticket, WriteId};
use crate::grants::{Finished, Gate, Lease, Turn};
use crate::net::buffer::Payload;
use crate::node::Node;
use crate::peers::{Forward, Peer, verdict};
use crate::store::WriteData;
use crate::store::disk::Disk;
use gfs_proto::checksum::{encode_sums, piece_sums};
use gfs_proto::chunk::Numbering;
use gfs_proto::control::ChainBreak;
use gfs_proto::frame::{Ack, DataError, Extent, SyncChunk, Write};
use gfs_proto::ids::{Serial, ServerId};
use gfs_proto::limits::{LEASE, STAR_BYTES_MAX};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A WRITE as it came.
pub(super) struct Incoming {
    pub(super) write: Write,
    pub(super) sums: Arc<Vec<u8>>,
    pub(super) payload: Arc<Payload>,
}

impl Incoming {
    fn ticket(&self) -> Ticket {
        let write = &self.write;
        Ticket {
            version: write.version,
            epoch: write.epoch,
            generation: write.truncate_generation,
            id: WriteId { session: write.session, sequence: write.sequence },
            serial: write.serial,
        }
    }

    fn data(&self) -> WriteData<'_> {
        WriteData { extents: &self.write.extents, payload: &self.payload, sums: &self.sums }
    }
}

/// False if it is small, its turn has come, and it is neither forwarded nor flushed nor needs a flush to have room:
/// it costs a copy into the page cache.
pub(super) fn may_wait(node: &Node, incoming: &Incoming) -> bool {
    let write = &incoming.write;
    if write.sync || !write.chain.is_empty() || incoming.payload.len() > STAR_BYTES_MAX as usize {
        return true;
    }
    match node.grants.get(write.handle) {
        Some(gate) => !gate.is_open_for(&incoming.ticket()) || !node.store.writes_at_once(write.handle, end(write)),
        // the first frame of a new chunk makes a replica
        None => {
            let is_first = write.create && write.serial == Some(Serial::new(1));
            !is_first || !node.store.creates_at_once(write.handle, end(write))
        }
    }
}

/// Where the last of its bytes ends.
fn end(write: &Write) -> u32 {
    write.extents.iter().map(|extent| extent.offset.saturating_add(extent.length)).max().unwrap_or(0)
}

/// Handles one WRITE to its end.
pub(super) async fn write<D: Disk>(node: &Arc<Node<D>>, incoming: Incoming, may_wait: bool) -> Result<Done, Failure> {
    let write = &incoming.write;
    if write.incarnation != node.incarnation {
        return Err(DataError::Incarnation.into());
    }
    let gate = if may_wait { may_block(|| gate(node, write)) } else { gate(node, write) }?;
    if write.serial.is_none() {
        check_pieces(&incoming)?;
    }
    let ticket = incoming.ticket();
    let deadline = Instant::now() + node.patience.turn;
    let forwards = !write.chain.is_empty();
    let turn = gate.admit(&ticket, &write.extents, forwards, deadline).await?;
    let (Turn::Apply(serial) | Turn::Known(serial)) = turn;
    let forward = forward(node, &gate, &incoming, serial);
    let here = || {
        let length = match turn {
            Turn::Apply(serial) => apply(node, &gate, &incoming, serial),
            Turn::Known(_) => node.store.length(write.handle, write.version),
        };
        length.and_then(|length| flush(node, write).map(|()| length))
    };
    let chunk_length = if may_wait { may_block(here) } else { here() };
    let below = match forward {
        Some(forward) => below(node, &gate, write, serial, forward).await,
        None => Ok(()),
    };
    let chunk_length = chunk_length?;
    below.map_err(|(error, culprit)| Failure { error, culprit: Some(culprit) })?;
    Ok(Done { serial, chunk_length })
}

/// The gate that the write has to pass. The first frame of a new chunk brings its grant along.
fn gate<D: Disk>(node: &Node<D>, write: &Write) -> Result<Arc<Gate>, DataError> {
    if !write.create {
        return node.grants.get(write.handle).ok_or(DataError::Epoch);
    }
    let numbering = if write.serial.is_some() { Numbering::Client } else { Numbering::Primary };
    let installed = Installed {
        version: write.version,
        epoch: write.epoch,
        generation: write.truncate_generation,
        numbering,
        primary: numbering == Numbering::Primary,
    };
    let now = node.clock.now();
    let lease = Lease { members: Vec::new(), length: LEASE, until: now + LEASE };
    let gate = node.grants.entry(write.handle);
    gate.create(installed, lease, || {
        node.store.create(write.handle, write.version, end(write))?;
        node.outbox.touched(write.handle);
        Ok(())
    })?;
    Ok(gate)
}

/// A primary gives a serial only to what is whole: the servers further down would otherwise have a
/// write that it has not.
fn check_pieces(incoming: &Incoming) -> Result<(), DataError> {
    let mut rest = &incoming.payload[..];
    let mut sums = Vec::with_capacity(incoming.sums.len());
    for Extent { offset, length } in &incoming.write.extents {
        let (bytes, after) = rest.split_at(*length as usize);
        sums.extend(encode_sums(piece_sums(*offset, bytes)));
        rest = after;
    }
    if sums == **incoming.sums { Ok(()) } else { Err(DataError::Transfer) }
}

fn apply<D: Disk>(node: &Node<D>, gate: &Gate, incoming: &Incoming, serial: Serial) -> Result<u32, DataError> {
    let write = &incoming.write;
    let result = node.store.write(write.handle, write.version, &incoming.data());
    let how = match result {
        Ok(_) => Applied::Done,
        // others may have this serial already, and the next write to get it here would be another one
        Err(error) if write.serial.is_none() && !write.chain.is_empty() => Applied::Failed(error),
        Err(error) => how_failed(error),
    };
    let finished = Finished { extents: &write.extents, now: node.clock.now() };
    if gate.finish(&incoming.ticket(), serial, how, &finished) || matches!(how, Applied::Failed(_)) {
        node.outbox.touched(write.handle);
    }
    if let Err(error) = result {
        log_failure(write, error);
    }
    result
}

/// What was refused before anything changed may come again.
fn how_failed(error: DataError) -> Applied {
    match error {
        DataError::Transfer | DataError::NoSpace | DataError::NoChunk | DataError::Version | DataError::Protocol => {
            Applied::Refused
        }
        error => Applied::Failed(error),
    }
}

fn log_failure(write: &Write, error: DataError) {
    match error {
        DataError::Io | DataError::Corrupt => {
            tracing::error!(chunk = %write.handle, %error, "a write failed; see the state of the directory");
        }
        error => tracing::warn!(chunk = %write.handle, %error, "a write was refused"),
    }
}

fn flush<D: Disk>(node: &Node<D>, write: &Write) -> Result<(), DataError> {
    if !write.sync {
        return Ok(());
    }
    node.store.sync(&[SyncChunk { handle: write.handle, version: write.version }])
}

/// A write on its way further down.
struct Below {
    peer: Peer,
    answer: JoinHandle<Result<Ack, crate::peers::PeerError>>,
}

/// Starts to send the write to the next server of its chain, if there is one.
fn forward<D: Disk>(node: &Arc<Node<D>>, gate: &Gate, incoming: &Incoming, serial: Serial) -> Option<Below> {
    let write = &incoming.write;
    let (next, rest) = write.chain.split_first()?;
    let peer = match gate.member(next.server) {
        Some(member) if member.incarnation == next.incarnation => Peer::of_replica(&member, &node.boot_id),
        _ => Peer::of_hop(next),
    };
    let forward = Forward {
        peer: peer.clone(),
        cluster: node.membership().expect("greetings are answered after registration only").cluster,
        write: Write { incarnation: next.incarnation, serial: Some(serial), chain: rest.to_vec(), ..write.clone() },
        sums: Arc::clone(&incoming.sums),
        payload: Arc::clone(&incoming.payload),
        deadline: node.patience.turn + node.patience.hop * write.chain.len() as u32,
    };
    let node = Arc::clone(node);
    Some(Below { peer, answer: tokio::spawn(async move { node.peers.forward(forward).await }) })
}

/// Waits for those further down and tells the master if the chain broke.
async fn below<D: Disk>(
    node: &Node<D>,
    gate: &Gate,
    write: &Write,
    serial: Serial,
    below: Below,
) -> Result<(), (DataError, ServerId)> {
    let answer = below.answer.await.expect("forwarding does not panic and is not cancelled");
    let verdict = verdict(&below.peer, answer);
    gate.settle(write.epoch, serial, verdict.is_ok());
    if let Err((DataError::Chain, suspect)) = verdict {
        let chain = ChainBreak { handle: write.handle, version: write.version, epoch: write.epoch, suspect };
        node.outbox.broke(chain);
    }
    verdict
}
