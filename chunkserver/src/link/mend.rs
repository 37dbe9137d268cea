//! Mending a damaged replica: what does not match its sums is fetched from peers, block by block, so that replicas
//! with different damage mend each other. The master has fenced all writers of former leases before.

use super::commands::Failure;
use super::copy::ask;
use crate::node::Node;
use crate::peers::Peer;
use crate::server::may_block;
use crate::store::disk::Disk;
use crate::store::{Fetched, Findings};
use gfs_proto::checksum::{BlockSum, decode_sums};
use gfs_proto::chunk::Replica;
use gfs_proto::control::Mended;
use gfs_proto::error::FsError;
use gfs_proto::frame::{DataError, Read, SyncChunk};
use gfs_proto::ids::ClusterId;
use gfs_proto::limits::{BLOCK_SIZE, LOST_BLOCKS_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Consecutive blocks asked for at once.
const RUN_MAX: u32 = 64;

/// What is mended, and who may help.
struct Mending<'a, D: Disk> {
    node: &'a Node<D>,
    chunk: SyncChunk,
    cluster: ClusterId,
    peers: Vec<Peer>,
}

/// Mends a replica; what could not be is named, and stays damaged.
pub(super) async fn mend<D: Disk>(node: &Node<D>, chunk: SyncChunk, peers: &[Replica]) -> Result<Mended, Failure> {
    let membership = node.membership().ok_or_else(|| Failure::told(FsError::Unavailable, "not registered"))?;
    let peers = peers.iter().map(|replica| Peer::of_replica(replica, &node.boot_id)).collect();
    let mending = Mending { node, chunk, cluster: membership.cluster, peers };
    let (found, blocks_mended) = mending.run().await?;
    node.outbox.touched(chunk.handle);
    if found.headless {
        return Err(DataError::Corrupt.into());
    }
    let row = node.store.row(chunk.handle).ok_or(DataError::NoChunk)?;
    tracing::info!(chunk = %chunk.handle, version = %chunk.version, blocks_mended, lost = found.blocks.len(), "mended");
    let lost = found.blocks.iter().copied().take(LOST_BLOCKS_MAX).collect();
    Ok(Mended { row, blocks_mended, blocks_lost: found.blocks.len() as u32, lost })
}

impl<D: Disk> Mending<'_, D> {
    /// What is still damaged afterwards, and how many blocks were mended.
    async fn run(&self) -> Result<(Findings, u32), Failure> {
        let mut found = self.examine()?;
        if found.is_whole() {
            return Ok((found, 0));
        }
        if found.headless {
            self.fetch_header().await;
            found = self.examine()?;
        }
        let SyncChunk { handle, version } = self.chunk;
        let mut mended = may_block(|| self.node.store.mend_alone(handle, version, &found))?;
        let blocks: Vec<u32> = self.examine()?.blocks.into_iter().collect();
        for run in blocks.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(RUN_MAX as usize)) {
            mended += self.mend_run(run).await?;
        }
        Ok((self.examine()?, mended))
    }

    fn examine(&self) -> Result<Findings, Failure> {
        let SyncChunk { handle, version } = self.chunk;
        Ok(may_block(|| self.node.store.examine(handle, version))?)
    }

    fn read(&self, first: u32, count: u32) -> Read {
        let SyncChunk { handle, version } = self.chunk;
        Read { handle, version, offset: first * BLOCK_SIZE, length: count * BLOCK_SIZE, by_copy: true }
    }

    /// The length of a chunk is equal at all members, since nobody writes it. If no peer tells, the replica stays as it
    /// is.
    async fn fetch_header(&self) {
        let SyncChunk { handle, version } = self.chunk;
        for peer in &self.peers {
            let restored = match ask(self.node, self.cluster, peer, &self.read(0, 1)).await {
                Ok((reply, _)) => may_block(|| self.node.store.restore_header(handle, version, reply.chunk_length))
                    .map_err(Into::into),
                Err(failure) => Err(failure),
            };
            match restored {
                Ok(()) => return,
                Err(error) => tracing::warn!(chunk = %handle, server = %peer.server, %error, "gives no header"),
            }
        }
    }

    /// Mends consecutive blocks, each from the first peer that has it as it should be.
    async fn mend_run(&self, run: &[u32]) -> Result<u32, Failure> {
        let SyncChunk { handle, version } = self.chunk;
        let read = self.read(run[0], run.len() as u32);
        let mut wanted: BTreeSet<u32> = run.iter().copied().collect();
        let mut good: BTreeMap<u32, (Vec<u8>, BlockSum)> = BTreeMap::new();
        for peer in &self.peers {
            if wanted.is_empty() {
                break;
            }
            match ask(self.node, self.cluster, peer, &read).await {
                Ok((_, answer)) => {
                    let blocks = answer.payload.chunks(BLOCK_SIZE as usize).zip(decode_sums(&answer.sums));
                    for (block, (data, sum)) in (run[0]..).zip(blocks) {
                        if BlockSum::of(data) == sum && wanted.remove(&block) {
                            good.insert(block, (data.to_vec(), sum));
                        }
                    }
                }
                Err(error) => tracing::warn!(chunk = %handle, server = %peer.server, %error, "gives no block"),
            }
        }
        let fetched: Vec<Fetched<'_>> =
            good.iter().map(|(block, (data, sum))| Fetched { block: *block, data, sum: *sum }).collect();
        Ok(may_block(|| self.node.store.mend_blocks(handle, version, &fetched))?)
    }
}
