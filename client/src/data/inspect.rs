//! Reading one particular replica, good or bad: for those who compare replicas. Nothing is cached, lent, or asked of
//! another server instead.

use super::connection::{Answer, Request};
use super::plane::DataPlane;
use bytes::Bytes;
use gfs_proto::checksum::{BlockSum, block_sums, decode_sums};
use gfs_proto::chunk::Replica;
use gfs_proto::frame::{DataError, Kind, Read};
use gfs_proto::ids::{ChunkHandle, ChunkVersion};
use gfs_proto::limits::BLOCK_SIZE;
use thiserror::Error;
use tokio::time::Instant;

/// Blocks of a chunk; offset and length are multiples of the block size, the length is at most a frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaRange {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// What a replica has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaPart {
    /// Bytes of the whole chunk, as this replica says.
    pub chunk_length: u32,
    /// Those asked for; fewer where the chunk ends.
    pub data: Bytes,
    /// For each block of them its stored sum, and whether the bytes match it.
    pub blocks: Vec<(BlockSum, bool)>,
}

/// Why a replica cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReplicaError {
    /// Its server says why not.
    #[error("the chunkserver refused: {0}")]
    Refused(DataError),
    /// Its server does not answer, or not as it should.
    #[error("the chunkserver does not answer")]
    Unreachable,
}

impl DataPlane {
    /// Reads blocks of one replica, data and sums of one moment.
    pub async fn read_replica(&self, replica: &Replica, range: ReplicaRange) -> Result<ReplicaPart, ReplicaError> {
        let ReplicaRange { handle, version, offset, length } = range;
        let read = Read { handle, version, offset, length, by_copy: true };
        let request = Request { kind: Kind::Read, header: &read.encode(), sums: &[], payload: &[] };
        let deadline = Instant::now() + self.request_timeout;
        match self.servers.ask(replica, request, length, deadline).await {
            Ok(Answer::Data { chunk_length, sums, data }) => part(range, (chunk_length, sums, data)),
            Ok(Answer::Ack(ack)) => Err(ack.outcome.err().map_or(ReplicaError::Unreachable, ReplicaError::Refused)),
            Err(error) => {
                tracing::debug!(%handle, server = %replica.server, %error, "a replica cannot be read");
                Err(ReplicaError::Unreachable)
            }
        }
    }
}

fn part(range: ReplicaRange, (chunk_length, sums, data): (u32, Bytes, Bytes)) -> Result<ReplicaPart, ReplicaError> {
    let there = chunk_length.saturating_sub(range.offset).min(range.length) as usize;
    let whole = data.len() >= there && sums.len() == 4 * data.len().div_ceil(BLOCK_SIZE as usize);
    if !whole {
        return Err(ReplicaError::Unreachable);
    }
    let blocks = block_sums(&data).zip(decode_sums(&sums)).map(|(is, stored)| (stored, is == stored)).collect();
    Ok(ReplicaPart { chunk_length, data: data.slice(..there), blocks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::encode_sums;

    #[test]
    fn every_block_is_judged_by_itself() {
        let range =
            ReplicaRange { handle: ChunkHandle::new(1), version: ChunkVersion::new(1), offset: 4096, length: 12_288 };
        let mut data = vec![7; 5000];
        let sums = Bytes::from(encode_sums(block_sums(&data)));
        data[4999] ^= 1;
        let data = Bytes::from(data);
        let got = part(range, (9096, sums.clone(), data.clone())).expect("whole");
        assert_eq!(got.blocks.iter().map(|(_, good)| *good).collect::<Vec<_>>(), [true, false]);
        assert_eq!(part(range, (9097, sums, data)), Err(ReplicaError::Unreachable), "too few bytes");
    }
}
