//! Compares all replicas of a file, block by block: with their checksums, with each other, and with what the master
//! says that there should be.
//!
//! A file that is written meanwhile is no finding: what differs between replicas is looked at again, and if it keeps
//! changing that is said. A block that does not match its own sum is damage all the same: a server reads both at one
//! moment. A copy that is missing, or whose server does not answer, is asked for again before that is said: a server may
//! be slow for a moment. Once patience with a server has run out, its other copies are not waited for.

use crate::context::Asker;
use crate::progress::Progress;
use crate::remote::Remote;
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use gfs_client::{ReplicaError, ReplicaPart, ReplicaRange};
use gfs_proto::attr::Attr;
use gfs_proto::chunk::Replica;
use gfs_proto::frame::DataError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use gfs_proto::limits::{BLOCK_SIZE, FRAME_PAYLOAD_MAX};
use gfs_proto::wire::{ChunkReplicas, KnownReplica, ReplicasRequest};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Chunks asked for at once.
const CHUNKS: u32 = 64;
/// A chunk whose replicas differ while somebody may be writing it is looked at so often.
const TRIES: u32 = 5;
/// So long a copy that is missing, or not to be had, is asked for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// In between.
const AGAIN: Duration = Duration::from_millis(300);

/// What was found of one file.
#[derive(Serialize, Debug)]
pub(crate) struct FileReport {
    pub(crate) path: String,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    /// Of what a reader gets; none if some of it cannot be read.
    pub(crate) sha256: Option<String>,
    /// It was written meanwhile: the hash is of no one moment.
    pub(crate) changing: bool,
    pub(crate) findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// None: the chunk as a whole.
    pub(crate) server: Option<u32>,
    pub(crate) chunk: u32,
    pub(crate) handle: String,
    /// In the chunk.
    pub(crate) offset: u32,
    /// Bytes, in whole blocks; 0: the replica as a whole.
    pub(crate) length: u32,
    pub(crate) what: What,
}

/// What is wrong.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Damaged,
    Differs,
    Missing,
    /// Nobody knows: it could not be asked.
    NotChecked(#[serde(skip)] ReplicaError),
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged => f.write_str("does not match its checksum"),
            Self::Differs => f.write_str("differs from other copies"),
            Self::Missing => f.write_str("fewer copies than wanted, or one that cannot be read"),
            Self::NotChecked(why) => write!(f, "not checked: {why}"),
        }
    }
}

/// Looks at files.
pub(crate) struct Verifier {
    remote: Remote,
    admin: Asker,
    progress: Arc<Progress>,
    /// Servers with which patience has run out.
    given_up: Mutex<BTreeSet<u32>>,
}

/// What one look at a chunk gave.
#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    /// Blocks that no replica has as they should be.
    unreadable: bool,
    differs: bool,
}

impl Looked {
    /// Servers whose copies could not be had.
    fn absent(&self) -> impl Iterator<Item = u32> {
        let absent = |finding: &&Finding| matches!(finding.what, What::Missing | What::NotChecked(_));
        self.findings.iter().filter(absent).filter_map(|finding| finding.server)
    }
}

impl Verifier {
    pub(crate) fn new(remote: Remote, admin: Asker, progress: Arc<Progress>) -> Self {
        Self { remote, admin, progress, given_up: Mutex::default() }
    }

    /// What there is to say about a file; nothing if it was removed meanwhile.
    pub(crate) async fn file(&self, attr: &Attr, path: &str) -> anyhow::Result<Option<FileReport>> {
        let chunk_bytes = u64::from(self.remote.client().info().chunk_size.get());
        let mut hash = Content { hasher: Sha256::new(), at: 0, size: attr.size };
        let mut report = FileReport {
            path: path.to_owned(),
            inode: attr.inode.get(),
            bytes: attr.size,
            sha256: None,
            changing: false,
            findings: Vec::new(),
        };
        let chunks = u32::try_from(attr.size.div_ceil(chunk_bytes)).unwrap_or(u32::MAX);
        let mut readable = true;
        for first in (0..chunks).step_by(CHUNKS as usize) {
            for chunk in self.replicas(attr, first, CHUNKS.min(chunks - first)).await? {
                let start = u64::from(chunk.index) * chunk_bytes;
                hash.hole_to(start);
                let (looked, changing) = self.chunk(attr, chunk, &mut hash).await?;
                report.changing |= changing;
                report.findings.extend(looked.findings);
                readable &= !looked.unreadable;
            }
        }
        hash.hole_to(attr.size);
        let after = match self.remote.client().getattr(self.remote.caller(), attr.inode).await {
            Ok(after) => after.attr,
            Err(_) => return Ok(None),
        };
        report.changing |= (after.size, after.mtime) != (attr.size, attr.mtime);
        report.sha256 = readable.then(|| hash.finish());
        Ok(Some(report))
    }

    async fn replicas(&self, attr: &Attr, first: u32, count: u32) -> anyhow::Result<Vec<ChunkReplicas>> {
        let request = ReplicasRequest { inode: attr.inode.get(), first, count };
        Ok(self.admin.replicas(request).await.context("cannot find out which replicas there are")?.chunks)
    }

    /// Looks at a chunk until it is the same before and after, or for as long as is reasonable; true if it was not.
    async fn chunk(&self, attr: &Attr, mut chunk: ChunkReplicas, hash: &mut Content) -> anyhow::Result<(Looked, bool)> {
        let (began, mut attempt) = (Instant::now(), 0);
        loop {
            attempt += 1;
            let mut content = hash.clone();
            let looked = self.look(&chunk, &mut content).await;
            let after = self.replicas(attr, chunk.index, 1).await?.into_iter().find(|other| other.index == chunk.index);
            let Some(after) = after else {
                // cut off meanwhile
                return Ok((Looked::default(), true));
            };
            let id = |chunk: &ChunkReplicas| (chunk.handle, chunk.version, chunk.clip);
            let quiet = id(&after) == id(&chunk) && !after.leased && !chunk.leased;
            let settled = quiet || id(&after) == id(&chunk) && !looked.differs && !looked.unreadable;
            let wait = if settled { self.hopes(&looked, began) } else { attempt < TRIES };
            if !wait {
                *hash = content;
                self.tell(&chunk, &looked).await;
                let mut looked = looked;
                if !settled {
                    looked.findings.retain(|finding| finding.what == What::Damaged);
                }
                looked.findings = merged(looked.findings);
                return Ok((looked, !settled));
            }
            chunk = after;
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// True if a copy that could not be had may still come; otherwise its server is given up.
    fn hopes(&self, looked: &Looked, began: Instant) -> bool {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if began.elapsed() < PATIENCE {
            return looked.absent().any(|server| !given_up.contains(&server));
        }
        given_up.extend(looked.absent());
        false
    }

    async fn look(&self, chunk: &ChunkReplicas, hash: &mut Content) -> Looked {
        let mut looked = Looked::default();
        let current = |known: &&KnownReplica| known.entitled && known.version == chunk.version;
        let live: Vec<Replica> = chunk
            .replicas
            .iter()
            .filter(current)
            .filter(|known| known.state != "suspect")
            .filter_map(|known| Replica::try_from(known.replica.clone()?).ok())
            .collect();
        if chunk.unwritten && live.is_empty() {
            return looked; // a hole
        }
        let finding = |server, offset, what| Finding {
            server,
            chunk: chunk.index,
            handle: ChunkHandle::new(chunk.handle).to_string(),
            offset,
            length: if matches!(what, What::Damaged | What::Differs) { BLOCK_SIZE } else { 0 },
            what,
        };
        if live.len() < chunk.goal as usize {
            let absent: Vec<&KnownReplica> = chunk
                .replicas
                .iter()
                .filter(|known| known.entitled && live.iter().all(|replica| replica.server.get() != known.server))
                .collect();
            looked.findings.extend(absent.iter().map(|known| finding(Some(known.server), 0, What::Missing)));
            if absent.is_empty() {
                looked.findings.push(finding(None, 0, What::Missing));
            }
        }
        if live.is_empty() {
            looked.unreadable = true;
            return looked;
        }
        let (mut offset, mut length) = (0, u32::MAX);
        while offset < length {
            let range = ReplicaRange {
                handle: ChunkHandle::new(chunk.handle),
                version: ChunkVersion::new(chunk.version),
                offset,
                length: FRAME_PAYLOAD_MAX.min(self.remote.client().info().chunk_size.get() - offset),
            };
            let asked = live.iter().map(|replica| self.remote.client().read_replica(replica, range));
            let parts: Vec<(u32, Result<ReplicaPart, ReplicaError>)> =
                live.iter().map(|replica| replica.server.get()).zip(join_all(asked).await).collect();
            let compared = compare(&parts);
            self.progress.advance(compared.bytes);
            for (server, block, what) in compared.findings {
                looked.differs |= what == What::Differs;
                looked.findings.push(finding(Some(server), offset + block * BLOCK_SIZE, what));
            }
            length = compared.chunk_length;
            let in_part = length.saturating_sub(offset).min(range.length);
            looked.unreadable |=
                !hash.take(&compared.good, in_part, chunk.clip.map(|clip| clip.saturating_sub(offset)));
            offset += range.length;
        }
        looked
    }

    /// What is damaged is to be looked at by its server.
    async fn tell(&self, chunk: &ChunkReplicas, looked: &Looked) {
        let mut servers: Vec<u32> = looked
            .findings
            .iter()
            .filter(|finding| finding.what == What::Damaged)
            .filter_map(|finding| finding.server)
            .collect();
        servers.dedup();
        let (handle, version) = (ChunkHandle::new(chunk.handle), ChunkVersion::new(chunk.version));
        for server in servers {
            let range = ReplicaRange { handle, version, offset: 0, length: BLOCK_SIZE };
            // it is a hint: the scrubber would find it too
            let _ = self.remote.client().report_damage(range, ServerId::new(server)).await;
        }
    }
}

/// Neighbouring ranges of one replica with the same fault as one; of one that could not be had, one for the chunk.
fn merged(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| (finding.chunk, finding.server, finding.offset));
    let mut out: Vec<Finding> = Vec::new();
    for next in findings {
        // the last of the same kind: those of another may lie between
        let same = |last: &&mut Finding| (last.chunk, last.server, last.what) == (next.chunk, next.server, next.what);
        match out.iter_mut().rev().find(same) {
            Some(last) if next.length == 0 && last.length == 0 => {}
            Some(last) if last.offset + last.length >= next.offset => {
                last.length = last.length.max(next.offset + next.length - last.offset);
            }
            _ => out.push(next),
        }
    }
    out
}

/// Parts of all replicas, compared.
#[derive(Default)]
struct Compared {
    /// Server, number of the block in the part, what is wrong.
    findings: Vec<(u32, u32, What)>,
    /// For each block the bytes of a replica that has it as it should be.
    good: BTreeMap<u32, Bytes>,
    chunk_length: u32,
    bytes: u64,
}

/// Blocks that match their sums are compared by these; of two that differ neither is known to be right, and the one that
/// fewer replicas have is named.
fn compare(parts: &[(u32, Result<ReplicaPart, ReplicaError>)]) -> Compared {
    let mut compared = Compared::default();
    let read: Vec<(u32, &ReplicaPart)> =
        parts.iter().filter_map(|(server, part)| Some((*server, part.as_ref().ok()?))).collect();
    for (server, part) in parts {
        match part {
            Err(ReplicaError::Refused(DataError::Corrupt)) => compared.findings.push((*server, 0, What::Damaged)),
            Err(ReplicaError::Refused(DataError::NoChunk | DataError::Version | DataError::Io)) => {
                compared.findings.push((*server, 0, What::Missing));
            }
            Err(error) => compared.findings.push((*server, 0, What::NotChecked(*error))),
            Ok(part) => compared.bytes += part.data.len() as u64,
        }
    }
    let lengths = read.iter().map(|(server, part)| (*server, part.chunk_length));
    compared.chunk_length = most_common(lengths.clone()).unwrap_or(0);
    for (server, length) in lengths {
        if length != compared.chunk_length {
            compared.findings.push((server, 0, What::Differs));
        }
    }
    let blocks = read.iter().map(|(_, part)| part.blocks.len()).max().unwrap_or(0);
    for block in 0..blocks {
        let of = |part: &ReplicaPart| part.blocks.get(block).copied();
        let good = read.iter().filter_map(|(server, part)| Some((*server, of(part).filter(|(_, good)| *good)?.0)));
        let right = most_common(good);
        for (server, part) in &read {
            let what = match of(part) {
                Some((_, false)) => Some(What::Damaged),
                Some((sum, true)) if Some(sum) != right => Some(What::Differs),
                _ => None,
            };
            compared.findings.extend(what.map(|what| (*server, block as u32, what)));
            if of(part) == right.map(|right| (right, true)) {
                let from = block * BLOCK_SIZE as usize;
                let to = part.data.len().min(from + BLOCK_SIZE as usize);
                compared.good.entry(block as u32).or_insert_with(|| part.data.slice(from.min(to)..to));
            }
        }
    }
    compared
}

fn most_common<T: PartialEq + Copy>(values: impl Iterator<Item = (u32, T)> + Clone) -> Option<T> {
    let count = |value: T| values.clone().filter(|(_, other)| *other == value).count();
    // of equally many the first
    let mut best: Option<(usize, T)> = None;
    for (_, value) in values.clone() {
        let count = count(value);
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, value));
        }
    }
    best.map(|(_, value)| value)
}

/// The bytes of a file, as they are hashed.
#[derive(Clone)]
struct Content {
    hasher: Sha256,
    at: u64,
    size: u64,
}

impl Content {
    fn hole_to(&mut self, end: u64) {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        while self.at < end.min(self.size) {
            let step = (end.min(self.size) - self.at).min(ZEROES.len() as u64);
            self.hasher.update(&ZEROES[..step as usize]);
            self.at += step;
        }
    }

    /// So many bytes of a chunk, zeroes from `clip` on; false if some of them are not there.
    fn take(&mut self, good: &BTreeMap<u32, Bytes>, length: u32, clip: Option<u32>) -> bool {
        let mut whole = true;
        for block in 0..length.div_ceil(BLOCK_SIZE) {
            let start = block * BLOCK_SIZE;
            let valid = (length - start).min(BLOCK_SIZE);
            let kept = clip.map_or(valid, |clip| clip.saturating_sub(start).min(valid));
            let bytes = good.get(&block).filter(|bytes| bytes.len() >= kept as usize);
            whole &= bytes.is_some() || kept == 0;
            let wanted = u64::from(kept).min(self.size - self.at.min(self.size)) as usize;
            if let Some(bytes) = bytes {
                self.hasher.update(&bytes[..wanted]);
                self.at += wanted as u64;
            }
            self.hole_to(self.at + u64::from(valid - kept));
        }
        whole
    }

    fn finish(self) -> String {
        self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::checksum::BlockSum;

    fn part(data: &[u8], bad: &[usize]) -> Result<ReplicaPart, ReplicaError> {
        let blocks = data.chunks(BLOCK_SIZE as usize).enumerate();
        let blocks = blocks.map(|(number, block)| (BlockSum::of(block), !bad.contains(&number))).collect();
        Ok(ReplicaPart { chunk_length: data.len() as u32, data: data.to_vec().into(), blocks })
    }

    #[test]
    fn neighbouring_blocks_are_one_finding() {
        let finding = |server, block: u32, what| Finding {
            server: Some(server),
            chunk: 0,
            handle: String::new(),
            offset: block * BLOCK_SIZE,
            length: if what == What::Missing { 0 } else { BLOCK_SIZE },
            what,
        };
        let blocks = [0, 1, 2, 5].into_iter();
        let mut all: Vec<Finding> =
            blocks.flat_map(|b| [1, 2].map(|server| finding(server, b, What::Damaged))).collect();
        all.push(finding(1, 3, What::Differs));
        all.extend([finding(3, 0, What::Missing), finding(3, 256, What::Missing)]);
        let ranges: Vec<_> =
            merged(all).iter().map(|f| (f.server, f.offset / BLOCK_SIZE, f.length / BLOCK_SIZE, f.what)).collect();
        let (damaged, differs) = (What::Damaged, What::Differs);
        assert_eq!(
            ranges,
            [
                (Some(1), 0, 3, damaged),
                (Some(1), 3, 1, differs),
                (Some(1), 5, 1, damaged),
                (Some(2), 0, 3, damaged),
                (Some(2), 5, 1, damaged),
                (Some(3), 0, 0, What::Missing),
            ]
        );
    }

    #[test]
    fn who_does_not_answer_is_not_called_bad() {
        let good = vec![7; 5000];
        let parts = [
            (1, part(&good, &[])),
            (2, Err(ReplicaError::Unreachable)),
            (3, Err(ReplicaError::Refused(DataError::NoChunk))),
        ];
        let found: Vec<_> = compare(&parts).findings;
        assert_eq!(found, [(2, 0, What::NotChecked(ReplicaError::Unreachable)), (3, 0, What::Missing)]);
        let json = serde_json::to_string(&found[0].2).expect("plain");
        assert_eq!(json, "\"not_checked\"");
    }

    #[test]
    fn damage_and_difference_are_told_apart_and_named() {
        let good = vec![7; 10_000];
        let mut other = good.clone();
        other[5000] = 8;
        let parts = [(1, part(&good, &[])), (2, part(&good, &[2])), (3, part(&other, &[0]))];
        let compared = compare(&parts);
        assert_eq!(compared.findings, [(3, 0, What::Damaged), (3, 1, What::Differs), (2, 2, What::Damaged)]);
        assert_eq!((compared.good.len(), compared.chunk_length, compared.bytes), (3, 10_000, 30_000));
        let gone = compare(&[(1, Err(ReplicaError::Unreachable)), (2, Err(ReplicaError::Refused(DataError::Corrupt)))]);
        assert_eq!(gone.findings, [(1, 0, What::NotChecked(ReplicaError::Unreachable)), (2, 0, What::Damaged)]);
        let shorter = compare(&[(1, part(&good, &[])), (2, part(&good[..9000], &[])), (3, part(&good, &[]))]);
        assert_eq!(shorter.findings, [(2, 0, What::Differs), (2, 2, What::Differs)]);
    }

    #[test]
    fn the_hash_is_that_of_the_file_with_its_holes_and_cuts() {
        let good: BTreeMap<u32, Bytes> =
            [(0, Bytes::from(vec![1; 4096])), (1, Bytes::from(vec![2; 1000]))].into_iter().collect();
        let mut content = Content { hasher: Sha256::new(), at: 0, size: 20_000 };
        content.hole_to(8192);
        assert!(content.take(&good, 5096, Some(4200)));
        content.hole_to(20_000);
        let mut expected = vec![0; 20_000];
        expected[8192..8192 + 4096].fill(1);
        expected[8192 + 4096..8192 + 4200].fill(2);
        let sum: String = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(content.finish(), sum);
        let mut lost = Content { hasher: Sha256::new(), at: 0, size: 20_000 };
        assert!(!lost.take(&good, 12_288, None), "a block that nobody has");
    }
}
