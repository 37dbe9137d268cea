//! Agreement of the members of a new grant (GFS paper, 3.1): this replica becomes as another one is, which has every
//! write that this one has and perhaps more, or whose choice the master answers for.
//!
//! ```text
//!   nobody is let in --> SUMS of the source --> what is beyond its end is cut --> blocks whose sums differ are read
//!   from it and written --> the sums are the same --> its writes are known here --> frames of the epoch are let in
//! ```
//! Invariants: a replica that is half-way claims no writes, so that it is nobody's source; what is fetched is checked
//! against the source's sums before it is written, and the whole against them afterwards. Made again it does less.

use super::commands::Failure;
use super::copy::{ask, data};
use crate::grants::Gate;
use crate::node::Node;
use crate::peers::Peer;
use crate::server::may_block;
use crate::store::WriteData;
use crate::store::disk::Disk;
use gfs_proto::checksum::{BlockSum, decode_sums};
use gfs_proto::control::Align;
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataError, DataReply, Extent, Read, Sums};
use gfs_proto::ids::ClusterId;
use gfs_proto::limits::{BLOCK_SIZE, FRAME_PAYLOAD_MAX};
use std::time::Duration;

/// Bound on an answer.
const SUMS_MAX: Duration = Duration::from_secs(10);

/// Where the other replica is.
#[derive(Clone, Copy)]
struct Source<'a> {
    peer: &'a Peer,
    cluster: ClusterId,
}

/// Length and block sums of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Content {
    length: u32,
    sums: Vec<u8>,
}

/// Makes this replica as the source is; the gate is open for the epoch's frames afterwards, or for none.
pub(super) async fn align<D: Disk>(node: &Node<D>, align: &Align) -> Result<(), Failure> {
    let gate = node.grants.get(align.handle).ok_or(DataError::Epoch)?;
    gate.begin_align(align.version, align.epoch)?;
    let mut closed = Closed { node, gate: &gate, done: false };
    let blocks = take_over(node, align).await?;
    closed.done = true;
    gate.finish_align(align.position, &align.outcomes, (blocks > 0).then(|| node.clock.now()));
    if blocks > 0 {
        node.outbox.touched(align.handle);
        tracing::info!(chunk = %align.handle, from = %align.source.server, epoch = %align.epoch, blocks,
            "a replica was made as another one is, after a write that did not reach both");
    }
    Ok(())
}

/// An alignment that ends early, for whatever reason, leaves no grant behind.
struct Closed<'a, D: Disk> {
    node: &'a Node<D>,
    gate: &'a Gate,
    done: bool,
}

impl<D: Disk> Drop for Closed<'_, D> {
    fn drop(&mut self) {
        if !self.done {
            self.gate.abandon_install(self.node.clock.now());
        }
    }
}

/// Blocks that were fetched, or parts of the chunk cut off.
async fn take_over<D: Disk>(node: &Node<D>, align: &Align) -> Result<u32, Failure> {
    let Align { handle, version, .. } = *align;
    let peer = &Peer::of_replica(&align.source, &node.boot_id);
    let membership = node.membership().ok_or_else(|| Failure::told(FsError::Unavailable, "not registered"))?;
    let source = Source { peer, cluster: membership.cluster };
    let answer = data(peer, node.peers.sums(peer, membership.cluster, Sums { handle, version }, SUMS_MAX).await)?;
    let length = DataReply::decode(&answer.header);
    let length = length.map_err(|error| Failure::told(FsError::Protocol, error.to_string()))?.chunk_length;
    let theirs = Content { length, sums: answer.payload.to_vec() };
    if theirs.sums.len() != 4 * length.div_ceil(BLOCK_SIZE) as usize {
        return Err(Failure::told(FsError::Protocol, format!("{} sent no sums of all blocks", peer.server)));
    }
    let mut ours = ours(node, align)?;
    let mut changed = 0;
    if ours.length > length {
        changed += (ours.length - length).div_ceil(BLOCK_SIZE);
        may_block(|| node.store.cut(handle, version, length))?;
        ours = self::ours(node, align)?;
    }
    for run in differences(&ours, &theirs) {
        fetch(node, align, source, (run, length)).await?;
        changed += run.length.div_ceil(BLOCK_SIZE);
    }
    if changed > 0 && self::ours(node, align)? != theirs {
        return Err(Failure::told(FsError::Busy, "the replicas still differ"));
    }
    Ok(changed)
}

fn ours<D: Disk>(node: &Node<D>, align: &Align) -> Result<Content, Failure> {
    let (length, sums) = may_block(|| node.store.all_sums(align.handle, align.version))?;
    Ok(Content { length, sums })
}

/// Runs of blocks that are not the same, each no longer than a frame; what `ours` lacks counts as a hole. Where the
/// chunk is longer there its last block is among them: it brings the length.
fn differences(ours: &Content, theirs: &Content) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    let here = decode_sums(&ours.sums).chain(std::iter::repeat_with(BlockSum::default));
    let last = theirs.sums.len() / 4;
    for (block, (there, here)) in (0..).zip(decode_sums(&theirs.sums).zip(here)) {
        if there == here && !(block + 1 == last && ours.length < theirs.length) {
            continue;
        }
        let offset = block as u32 * BLOCK_SIZE;
        let length = BLOCK_SIZE.min(theirs.length - offset);
        match runs.last_mut() {
            Some(run) if run.offset + run.length == offset && run.length + length <= FRAME_PAYLOAD_MAX => {
                run.length += length;
            }
            _ => runs.push(Extent { offset, length }),
        }
    }
    runs
}

async fn fetch<D: Disk>(
    node: &Node<D>,
    align: &Align,
    Source { peer, cluster }: Source<'_>,
    (run, chunk_length): (Extent, u32),
) -> Result<(), Failure> {
    let Align { handle, version, .. } = *align;
    let length = run.length.next_multiple_of(BLOCK_SIZE);
    let read = Read { handle, version, offset: run.offset, length, by_copy: true };
    let (reply, answer) = ask(node, cluster, peer, &read).await?;
    if reply.chunk_length != chunk_length || answer.payload.len() != run.length as usize {
        return Err(Failure::told(FsError::Protocol, format!("{} changed while it was read from", peer.server)));
    }
    let data = WriteData { extents: &[run], payload: &answer.payload, sums: &answer.sums };
    match may_block(|| node.store.write(handle, version, &data)) {
        Ok(_) => Ok(()),
        Err(DataError::Transfer) => {
            let text = format!("a block from {} does not match its sum", peer.server);
            Err(Failure::told(FsError::NoReplica, text))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::encode_sums;

    fn content(length: u32, sums: &[u8]) -> Content {
        let sums = sums.iter().map(|sum| BlockSum::from_le_bytes([*sum, 0, 0, 0]));
        Content { length, sums: encode_sums(sums) }
    }
    fn runs(ours: &Content, theirs: &Content) -> Vec<(u32, u32)> {
        differences(ours, theirs).into_iter().map(|run| (run.offset / BLOCK_SIZE, run.length)).collect()
    }

    #[test]
    fn only_what_differs_is_fetched_and_the_last_block_if_the_chunk_is_longer_there() {
        let full = BLOCK_SIZE;
        let base = content(3 * full, &[1, 2, 3]);
        assert_eq!(runs(&base, &base), []);
        assert_eq!(runs(&base, &content(3 * full, &[1, 9, 3])), [(1, full)]);
        assert_eq!(runs(&base, &content(3 * full, &[8, 9, 3])), [(0, 2 * full)], "one run");
        assert_eq!(runs(&base, &content(3 * full, &[8, 2, 9])), [(0, full), (2, full)]);
        assert_eq!(runs(&base, &content(3 * full + 5, &[1, 2, 3, 4])), [(3, 5)]);
        assert_eq!(runs(&base, &content(4 * full + 5, &[1, 2, 3, 0, 0])), [(4, 5)], "holes bring nothing but the end");
        assert_eq!(runs(&content(2 * full + 7, &[1, 2, 3]), &base), [(2, full)], "a block of zeroes to its end");
        assert_eq!(runs(&content(0, &[]), &base), [(0, 3 * full)]);
    }

    #[test]
    fn runs_are_no_longer_than_a_frame() {
        let blocks = FRAME_PAYLOAD_MAX / BLOCK_SIZE + 2;
        let theirs = content(blocks * BLOCK_SIZE, &vec![1; blocks as usize]);
        let runs = runs(&content(0, &[]), &theirs);
        assert_eq!(runs, [(0, FRAME_PAYLOAD_MAX), (blocks - 2, 2 * BLOCK_SIZE)]);
    }
}
