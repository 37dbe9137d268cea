//! One read from the replicas of a chunk: which first, what is checked, who is next. One that was lent to us is
//! read without its server; where that gives nothing, the servers are asked as if it had not been tried.

use super::authority::ChunkAuthority;
use super::connection::{Answer, LinkError, Request};
use super::latency::{Change, Class, Took};
use super::servers::Servers;
use crate::operation::{self, Cause, Obstacle};
use crate::retry;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use gfs_proto::checksum::{block_sums, decode_sums};
use gfs_proto::chunk::{ChunkLocation, Replica};
use gfs_proto::frame::{DataError, Kind, Read};
use gfs_proto::limits::BLOCK_SIZE;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why no replica gave the bytes. Ordered: the gravest of several counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum FetchError {
    /// Every replica says that it has no such chunk.
    Absent,
    /// None can be reached, or none serves it now.
    Unreachable,
    /// Those that can be reached have bad checksums.
    Corrupt,
}

/// Part of a chunk; block aligned, at most a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blocks {
    pub offset: u32,
    pub length: u32,
}

impl Servers {
    /// Bytes of a chunk, exactly as many as asked for, verified, with zeroes where it ends or is
    /// clipped. Goes from replica to replica.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        location: &ChunkLocation,
        blocks: Blocks,
        authority: &dyn ChunkAuthority,
        request_timeout: Duration,
    ) -> Result<Bytes, FetchError> {
        if location.clip.is_some_and(|clip| clip <= blocks.offset) {
            return Ok(BytesMut::zeroed(blocks.length as usize).freeze());
        }
        if let Some(loan) = self.local.loan(location)
            && let Ok(data) = self.local.read(location.handle, &loan, blocks).await
        {
            return Ok(pad(data, blocks, location.clip));
        }
        let mut order: Vec<&Replica> = location.replicas.iter().collect();
        if order.len() > 1 {
            // what did not match its sums, here or on the thread that asked first, is asked for from the same server:
            // that decides whether it is reported
            let doubted = self.local.doubted(location);
            order.sort_by_cached_key(|replica| (Some(replica.server) != doubted, self.cost(replica)));
        }
        self.race(order, location, blocks, (authority, request_timeout)).await
    }

    /// Asks one replica after the other, the next as soon as one fails; a second one beside the first if that takes
    /// longer than nearly all reads do. The first good answer counts.
    async fn race(
        self: &Arc<Self>,
        order: Vec<&Replica>,
        location: &ChunkLocation,
        blocks: Blocks,
        (authority, request_timeout): (&dyn ChunkAuthority, Duration),
    ) -> Result<Bytes, FetchError> {
        let class = Class::of(blocks.length);
        let began = Instant::now();
        let ask = async |replica| {
            let asked = Instant::now();
            (replica, asked, self.fetch_from(replica, location, blocks, asked + request_timeout).await)
        };
        let mut order = order.into_iter().peekable();
        let mut running: Vec<(&Replica, Instant)> = order.next().map(|first| (first, began)).into_iter().collect();
        let mut tries: FuturesUnordered<_> = running.iter().map(|(first, _)| ask(*first)).collect();
        let (after, others) = (self.latencies.lock().begin(class), order.len() > 0);
        let hedge = async move { if others { retry::wait(after).await } else { std::future::pending().await } };
        let (mut hedge, mut hedged, mut gravest) = (std::pin::pin!(hedge), false, None);
        while !tries.is_empty() {
            let (replica, asked, outcome) = tokio::select! {
                biased;
                Some(ended) = tries.next() => ended,
                () = &mut hedge, if !hedged => {
                    hedged = true;
                    if let Some(next) = order.next_if(|_| self.latencies.lock().may_hedge()) {
                        tracing::debug!(chunk = %location.handle, to = %next.server, "a read is late, another replica is asked");
                        running.push((next, Instant::now()));
                        tries.push(ask(next));
                    }
                    continue;
                }
            };
            running.retain(|(other, _)| other.server != replica.server);
            match outcome {
                Ok(data) => {
                    self.took(replica, class, Took::Exactly(asked.elapsed()));
                    running.iter().for_each(|(other, asked)| self.was_outpaced(other, class, *asked));
                    if self.lends(replica) {
                        self.local.was_read(location, replica);
                    }
                    return Ok(pad(data, blocks, location.clip));
                }
                Err(error) => {
                    if error == FetchError::Corrupt {
                        authority.corrupt(location, replica.server);
                        operation::blame(Obstacle::server(replica, Cause::Corrupt));
                    }
                    gravest = gravest.max(Some(error));
                    if let Some(next) = order.next() {
                        running.push((next, Instant::now()));
                        tries.push(ask(next));
                    }
                }
            }
        }
        match gravest {
            // replicas that are damaged in different places have all of it between them
            Some(FetchError::Corrupt) if blocks.length > BLOCK_SIZE => {
                self.fetch_halves(location, blocks, authority, request_timeout).await
            }
            gravest => Err(gravest.unwrap_or(FetchError::Unreachable)),
        }
    }

    async fn fetch_halves(
        self: &Arc<Self>,
        location: &ChunkLocation,
        blocks: Blocks,
        authority: &dyn ChunkAuthority,
        request_timeout: Duration,
    ) -> Result<Bytes, FetchError> {
        let first = (blocks.length / 2).next_multiple_of(BLOCK_SIZE);
        let mut whole = BytesMut::with_capacity(blocks.length as usize);
        for (offset, length) in [(blocks.offset, first), (blocks.offset + first, blocks.length - first)] {
            let half = Blocks { offset, length };
            whole.extend_from_slice(&Box::pin(self.fetch(location, half, authority, request_timeout)).await?);
        }
        Ok(whole.freeze())
    }

    fn took(&self, replica: &Replica, class: Class, took: Took) {
        let change = self.latencies.lock().note(replica.server, class, took, std::time::Instant::now());
        let (server, address) = (replica.server, replica.address.tcp);
        match change {
            Some(Change::Slow(slow)) => {
                tracing::warn!(%server, %address, latency = ?slow.latency, others = ?slow.median,
                "a chunkserver is much slower than the others: it is read from only where there is no other")
            }
            Some(Change::Good) => tracing::info!(%server, %address, "a chunkserver is no longer slow"),
            None => {}
        }
    }

    /// Another server has answered first, although it was asked later: this one is slow, or it hangs.
    fn was_outpaced(self: &Arc<Self>, replica: &Replica, class: Class, asked: Instant) {
        self.took(replica, class, Took::AtLeast(asked.elapsed()));
        self.look_after(replica);
    }

    async fn fetch_from(
        &self,
        replica: &Replica,
        location: &ChunkLocation,
        blocks: Blocks,
        deadline: Instant,
    ) -> Result<Bytes, FetchError> {
        for by_copy in [false, true] {
            let (handle, version) = (location.handle, location.version);
            let read = Read { handle, version, offset: blocks.offset, length: blocks.length, by_copy };
            let request = Request { kind: Kind::Read, header: &read.encode(), sums: &[], payload: &[] };
            let answer = self.ask(replica, request, blocks.length, deadline).await;
            match answer {
                Ok(Answer::Data { chunk_length, sums, data }) if verified(blocks, chunk_length, &sums, &data) => {
                    return Ok(data);
                }
                Ok(Answer::Data { .. }) => tracing::debug!(%handle, server = %replica.server, by_copy, "sums differ"),
                Ok(Answer::Ack(ack)) if ack.outcome == Err(DataError::NoChunk) => return Err(FetchError::Absent),
                Ok(Answer::Ack(ack)) if ack.outcome == Err(DataError::Corrupt) => {}
                Ok(Answer::Ack(ack)) => {
                    tracing::debug!(%handle, %version, server = %replica.server, outcome = ?ack.outcome, "read refused");
                    if let Err(error) = ack.outcome {
                        operation::blame(Obstacle::server(replica, Cause::Refused(error)));
                    }
                    return Err(FetchError::Unreachable);
                }
                Err(error) => {
                    tracing::debug!(%handle, server = %replica.server, %error, "read failed");
                    operation::blame(Obstacle::server(replica, error));
                    if error == LinkError::TimedOut {
                        self.avoid(replica);
                    }
                    return Err(FetchError::Unreachable);
                }
            }
        }
        Err(FetchError::Corrupt)
    }
}

/// True if the answer has the bytes that a chunk of that length must give, and they match their sums.
fn verified(blocks: Blocks, chunk_length: u32, sums: &[u8], data: &[u8]) -> bool {
    let there = chunk_length.saturating_sub(blocks.offset).min(blocks.length) as usize;
    let in_blocks = there.next_multiple_of(BLOCK_SIZE as usize).min(blocks.length as usize);
    (data.len() == there || data.len() == in_blocks)
        && sums.len() == 4 * data.len().div_ceil(BLOCK_SIZE as usize)
        && block_sums(data).eq(decode_sums(sums))
}

/// As many bytes as asked for: zeroes where the chunk ends or is clipped.
pub(super) fn pad(data: Bytes, blocks: Blocks, clip: Option<u32>) -> Bytes {
    let length = blocks.length as usize;
    let keep = clip.map_or(length, |clip| (clip.saturating_sub(blocks.offset) as usize).min(length)).min(data.len());
    if keep == length {
        return data;
    }
    let mut padded = BytesMut::zeroed(length);
    padded[..keep].copy_from_slice(&data[..keep]);
    padded.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::encode_sums;

    #[test]
    fn an_answer_must_have_all_bytes_and_their_sums() {
        let data = vec![7u8; 8192];
        let sums = |data: &[u8]| encode_sums(block_sums(data));
        let blocks = |offset, length| Blocks { offset, length };
        assert!(verified(blocks(0, 8192), 1 << 20, &sums(&data), &data));
        assert!(verified(blocks(0, 8192), 8192, &sums(&data), &data));
        assert!(verified(blocks(0, 16384), 5000, &sums(&data[..5000]), &data[..5000]), "cut at the length");
        assert!(verified(blocks(0, 16384), 5000, &sums(&data), &data), "or in whole blocks");
        assert!(verified(blocks(8192, 4096), 5000, &[], &[]), "behind the end");
        assert!(!verified(blocks(0, 16384), 1 << 20, &sums(&data), &data), "too few bytes");
        assert!(!verified(blocks(0, 8192), 1 << 20, &sums(&data)[..4], &data), "too few sums");
        let mut bad = data.clone();
        bad[5000] ^= 1;
        assert!(!verified(blocks(0, 8192), 1 << 20, &sums(&data), &bad));
    }

    #[test]
    fn what_is_missing_or_clipped_is_zero() {
        let blocks = Blocks { offset: 4096, length: 8192 };
        let data = Bytes::from(vec![7u8; 8192]);
        let sevens = |clip| pad(data.clone(), blocks, clip).iter().filter(|byte| **byte == 7).count();
        assert_eq!([None, Some(0), Some(4097), Some(1 << 20)].map(sevens), [8192, 0, 1, 8192]);
        assert_eq!(pad(data.slice(..10), blocks, None).len(), 8192);
    }
}
