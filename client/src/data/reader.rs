//! Reading: plan under the lock what is in memory and what is not, fetch that, put it together.
//!
//! The order matters: patches (own writes on their way) are collected before anything is fetched. So
//! a write acknowledged during the fetch is in the patches or in the fetched bytes, never in neither.

use super::cache::Piece;
use super::fetch::Fetch;
use super::inode::{InodeData, State};
use super::locations::Place;
use super::readahead::UNIT_MAX;
use super::replicas::{Blocks, FetchError};
use crate::operation;
use crate::retry::Retry;
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use gfs_proto::FsError;
use gfs_proto::chunk::ChunkLocation;
use gfs_proto::ids::ChunkIndex;
use gfs_proto::limits::BLOCK_SIZE;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;
/// Fetches on demand of this size are not kept: a stream is served by readahead, and what else reads
/// so much at once does not come back soon.
pub(super) const BYPASS: u64 = 128 << 10;
/// Blocks that are damaged in every replica are asked for so long.
const CORRUPT_MAX: Duration = Duration::from_secs(10);
/// Locations asked for at once.
const LOCATE_COUNT: u32 = 64;

/// A read as far as it was thought out under the lock.
struct Plan {
    range: Range<u64>,
    patches: Vec<(u64, Bytes)>,
    parts: Vec<Part>,
    ahead: Vec<Arc<Fetch>>,
}

enum Part {
    Ready(u64, Bytes),
    /// Somebody else fetches it, with more than what is wanted here.
    Joined(Arc<Fetch>, Range<u64>),
    /// To be fetched by this read.
    Mine(Arc<Fetch>),
}

/// Completes a fetch whose task gave up.
struct Running<'a> {
    inode: &'a InodeData,
    fetch: &'a Arc<Fetch>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.inode.state.lock().fetches.retain(|fetch| !Arc::ptr_eq(fetch, self.fetch));
        self.fetch.complete(Err(FsError::Interrupted));
    }
}

impl InodeData {
    /// Bytes from `offset`: zeroes in holes, fewer than `length` only at the end of the file. Own
    /// writes are seen whether they were flushed or not.
    pub async fn read(self: &Arc<Self>, offset: u64, length: u32) -> Result<Bytes, FsError> {
        let plan = self.plan(offset, length);
        self.prefetch(&plan.ahead);
        let Plan { range, patches, parts, .. } = plan;
        let pieces = match <[Part; 1]>::try_from(parts) {
            Ok([only]) => vec![self.part(only).await?],
            Err(parts) => {
                join_all(parts.into_iter().map(|part| self.part(part))).await.into_iter().collect::<Result<_, _>>()?
            }
        };
        Ok(assemble(&range, &patches, &pieces))
    }

    fn plan(&self, offset: u64, length: u32) -> Plan {
        let mut state = self.state.lock();
        let range = offset..(offset + u64::from(length)).min(state.size).max(offset);
        let patches = state.patches(&range, self.plane.authority.chunk_size());
        let mut parts = Vec::new();
        for gap in uncovered(&range, &patches) {
            self.plan_gap(&mut state, gap, &mut parts);
        }
        let ahead = self.plan_ahead(&mut state, offset, u64::from(length));
        Plan { range, patches, parts, ahead }
    }

    /// Pieces of the cache that may still be served.
    pub(super) fn cached(&self, state: &State, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = self.plane.cache.get(self.id(), range);
        if let (Some(validity), false) = (state.validity(), pieces.is_empty()) {
            let now = Instant::now();
            pieces.retain(|piece| now.saturating_duration_since(piece.fetched) < validity);
        }
        pieces
    }

    /// A piece was read up to `end`. What a stream has read to its end is the first to go.
    pub(super) fn used(&self, piece: &Piece, end: u64) {
        if piece.end() <= end && piece.data.len() as u64 >= BYPASS {
            self.plane.cache.demote(self.id(), piece.start);
        }
    }

    /// Covers a gap with what is cached, what is on its way, and new fetches for the rest.
    fn plan_gap(&self, state: &mut State, gap: Range<u64>, parts: &mut Vec<Part>) {
        let mut pieces = self.cached(state, gap.clone()).into_iter().peekable();
        let now = Instant::now();
        let joinable = |fetch: &&Arc<Fetch>| {
            let fresh = state.validity().is_none_or(|validity| now.saturating_duration_since(fetch.started) < validity);
            fresh && !fetch.is_tainted() && fetch.overlaps(&gap)
        };
        let mut coming: Vec<Arc<Fetch>> = state.fetches.iter().filter(joinable).cloned().collect();
        coming.sort_by_key(|fetch| fetch.range().start);
        let mut at = gap.start;
        while at < gap.end {
            while pieces.next_if(|piece| piece.end() <= at).is_some() {}
            if let Some(piece) = pieces.next_if(|piece| piece.start <= at) {
                at = piece.end();
                self.used(&piece, gap.end);
                parts.push(Part::Ready(piece.start, piece.data));
            } else if let Some(fetch) = coming.iter().find(|fetch| fetch.range().contains(&at)) {
                let wanted = at..fetch.range().end.min(gap.end);
                at = fetch.range().end;
                parts.push(Part::Joined(fetch.clone(), wanted));
            } else {
                let next = coming.iter().map(|fetch| fetch.range().start).find(|start| *start > at);
                let end = [pieces.peek().map(|piece| piece.start), next].into_iter().flatten().min().unwrap_or(gap.end);
                let fetches = self.new_fetches(state, at..end.min(gap.end), false);
                parts.extend(fetches.into_iter().map(Part::Mine));
                at = end;
            }
        }
    }

    /// Registers fetches of whole blocks that cover a range, each within a chunk and a unit.
    fn new_fetches(&self, state: &mut State, range: Range<u64>, ahead: bool) -> Vec<Arc<Fetch>> {
        let unit = UNIT_MAX.min(u64::from(self.plane.authority.chunk_size().get()));
        let (mut at, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK));
        let keep = ahead || end - at < BYPASS;
        let mut fetches = Vec::new();
        while at < end {
            let border = (at / unit + 1) * unit;
            let fetch = Arc::new(Fetch::new(at..border.min(end), keep, ahead));
            at = border;
            state.fetches.push(fetch.clone());
            fetches.push(fetch);
        }
        fetches
    }

    pub(super) fn plan_ahead(&self, state: &mut State, offset: u64, length: u64) -> Vec<Arc<Fetch>> {
        let size = state.size;
        let Some(range) = state.readahead.on_read(offset, length, size) else { return Vec::new() };
        let mut fetches = Vec::new();
        for unit in units(range) {
            let known = self
                .cached(state, unit.clone())
                .iter()
                .any(|piece| piece.start <= unit.start && piece.end() >= unit.end)
                || state.fetches.iter().any(|fetch| !fetch.is_tainted() && fetch.overlaps(&unit));
            let dirty = uncovered(&unit, &state.patches(&unit, self.plane.authority.chunk_size())).is_empty();
            if !known && !dirty {
                fetches.extend(self.new_fetches(state, unit, true));
            }
        }
        fetches
    }

    pub(super) fn prefetch(self: &Arc<Self>, fetches: &[Arc<Fetch>]) {
        for fetch in fetches {
            let (inode, fetch) = (self.clone(), fetch.clone());
            self.plane.runtime.spawn(async move { drop(inode.run(&fetch).await) });
        }
    }

    async fn part(&self, part: Part) -> Result<(u64, Bytes), FsError> {
        match part {
            Part::Ready(start, data) => Ok((start, data)),
            Part::Mine(fetch) => Ok((fetch.range().start, self.run(&fetch).await?)),
            Part::Joined(fetch, wanted) => {
                let start = fetch.range().start;
                match fetch.wait().await {
                    // whoever fetched it began earlier, had another bound, and asked for places that may be damaged and
                    // that nobody asks for here
                    Err(_) => {
                        let (from, to) = (wanted.start / BLOCK * BLOCK, wanted.end.next_multiple_of(BLOCK));
                        Ok((from, self.load(from..to.min(fetch.range().end), false).await?))
                    }
                    Ok(data) => Ok((start, data)),
                }
            }
        }
    }

    /// Runs a registered fetch to its end.
    async fn run(&self, fetch: &Arc<Fetch>) -> Result<Bytes, FsError> {
        let running = Running { inode: self, fetch };
        let result = self.load(fetch.range(), fetch.ahead).await;
        if let Ok(data) = &result {
            let state = self.state.lock();
            if fetch.keep && !fetch.is_tainted() {
                let piece = Piece { start: fetch.range().start, data: data.clone(), fetched: fetch.started };
                self.plane.cache.put(self.id(), piece);
            }
            drop(state);
        }
        fetch.complete(result.clone());
        drop(running);
        result
    }

    /// Bytes of a range within a chunk from the replicas, asking for their places as needed. What is damaged in every
    /// replica is waited for, for a while: it may be mended. Not if it is read `ahead` of anybody who wants it.
    async fn load(&self, range: Range<u64>, ahead: bool) -> Result<Bytes, FsError> {
        let (index, offset) = self.plane.authority.chunk_size().locate(range.start);
        let blocks = Blocks { offset, length: (range.end - range.start) as u32 };
        let mut retry = Retry::eager(self.plane.config.timeout);
        let (mut absent, mut corrupt) = (0, None);
        loop {
            let error = match self.place(index, &retry).await {
                Ok(Place::Hole) => return Ok(zeroes(blocks.length)),
                Ok(Place::Chunk(location)) => {
                    let plane = &self.plane;
                    match plane.servers.fetch(&location, blocks, &*plane.authority, plane.read_timeout).await {
                        Ok(data) => return Ok(data),
                        Err(FetchError::Absent) if absent > 0 => return self.absent(&location, blocks),
                        Err(error) => {
                            absent += usize::from(error == FetchError::Absent);
                            self.state.lock().locations.forget(index);
                            if error == FetchError::Corrupt { FsError::Corrupt } else { FsError::NoReplica }
                        }
                    }
                }
                Err(error) => {
                    operation::blame_master(error);
                    if !error.is_retryable() {
                        return Err(error);
                    }
                    error
                }
            };
            let is_corrupt = error == FsError::Corrupt;
            if is_corrupt && ahead {
                return Err(error);
            }
            let gives_up = is_corrupt && corrupt.get_or_insert_with(Instant::now).elapsed() > CORRUPT_MAX;
            if gives_up || retry.pause(FsError::NoReplica).await.is_err() {
                tracing::error!(inode = %self.id(), %index, %error, "a chunk cannot be read");
                return Err(error);
            }
        }
    }

    /// True if it is no loss that no server named just now has a file. The master names servers of a chunk
    /// that nobody has written only while somebody may write it. (A chunk that begins again has a higher
    /// version, so that says nothing.)
    pub(super) fn may_be_absent(&self, location: &ChunkLocation) -> bool {
        location.leased && !self.state.lock().outbox(location.index).has_arrived()
    }

    /// No replica has a file, and the master was asked afresh where they are.
    fn absent(&self, location: &ChunkLocation, blocks: Blocks) -> Result<Bytes, FsError> {
        if self.may_be_absent(location) {
            return Ok(zeroes(blocks.length));
        }
        tracing::error!(inode = %self.id(), index = %location.index, chunk = %location.handle,
            "no server has the replica that it reported");
        Err(FsError::NoReplica)
    }

    pub(super) async fn place(&self, index: ChunkIndex, retry: &Retry) -> Result<Place, FsError> {
        let count = {
            let state = self.state.lock();
            if state.lanes.get(&index).is_some_and(|lane| lane.outbox.is_creating()) {
                return Ok(Place::Hole);
            }
            if let Some(place) = state.locations.get(index, Instant::now(), state.validity()) {
                return Ok(place);
            }
            let chunks = self.plane.authority.chunk_size().chunks_of(state.size);
            chunks.saturating_sub(index.get()).clamp(1, LOCATE_COUNT)
        };
        let asked = Instant::now();
        let map = timeout_at(retry.deadline(), self.plane.authority.locate(self.id(), index, count));
        let map = map.await.unwrap_or(Err(FsError::TimedOut))?;
        let end = ChunkIndex::new(index.get() + count);
        let mut state = self.state.lock();
        state.locations.learn(map, index, end, asked);
        Ok(state.locations.get(index, asked, None).unwrap_or(Place::Hole))
    }
}

fn zeroes(length: u32) -> Bytes {
    BytesMut::zeroed(length as usize).freeze()
}

/// Cuts a range at multiples of [`UNIT_MAX`].
fn units(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = at;
            at = ((at / UNIT_MAX + 1) * UNIT_MAX).min(end);
            start..at
        })
    })
}

/// Parts of `range` that no patch covers, in order.
pub(super) fn uncovered(range: &Range<u64>, patches: &[(u64, Bytes)]) -> Vec<Range<u64>> {
    let mut covered: Vec<Range<u64>> = patches.iter().map(|(at, bytes)| *at..at + bytes.len() as u64).collect();
    covered.sort_by_key(|patch| patch.start);
    let mut gaps = Vec::new();
    let mut at = range.start;
    for patch in covered {
        if patch.start > at {
            gaps.push(at..patch.start.min(range.end));
        }
        at = at.max(patch.end);
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    gaps
}

/// Pieces, then patches over them in order; no copy if one of them is all.
pub(super) fn assemble(range: &Range<u64>, patches: &[(u64, Bytes)], pieces: &[(u64, Bytes)]) -> Bytes {
    let whole = match (patches, pieces) {
        ([], [only]) | ([only], []) => Some(only),
        _ => None,
    };
    if let Some((start, data)) = whole
        && *start <= range.start
        && start + data.len() as u64 >= range.end
    {
        return data.slice((range.start - start) as usize..(range.end - start) as usize);
    }
    let mut out = BytesMut::zeroed((range.end - range.start) as usize);
    for (start, data) in pieces.iter().chain(patches) {
        let (from, to) = (range.start.max(*start), range.end.min(start + data.len() as u64));
        if from < to {
            let bytes = &data[(from - start) as usize..(to - start) as usize];
            out[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(bytes);
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_patches_leave() {
        let patch = |at, length| (at, Bytes::from(vec![1; length]));
        let cases: [(&[_], &[(u64, u64)]); 4] = [
            (&[], &[(0, 100)]),
            (&[patch(0, 100)], &[]),
            (&[patch(10, 20), patch(20, 30)], &[(0, 10), (50, 100)]),
            (&[patch(50, 60), patch(0, 10)], &[(10, 50)]),
        ];
        for (patches, expected) in cases {
            let gaps: Vec<_> = uncovered(&(0..100), patches).into_iter().map(|gap| (gap.start, gap.end)).collect();
            assert_eq!(gaps, expected);
        }
    }

    #[test]
    fn later_patches_lie_over_earlier_ones_and_pieces() {
        let bytes = |byte: u8, length| Bytes::from(vec![byte; length]);
        let pieces = [(0, bytes(1, 8)), (8, bytes(2, 8))];
        let patches = [(4, bytes(3, 6)), (6, bytes(4, 2))];
        assert_eq!(&assemble(&(2..12), &patches, &pieces)[..], [1, 1, 3, 3, 4, 4, 3, 3, 2, 2]);
        let one = [(0, bytes(7, 100))];
        assert_eq!(assemble(&(10..20), &[], &one).as_ptr(), one[0].1[10..].as_ptr(), "not copied");
    }

    #[test]
    fn units_are_cut_at_their_borders() {
        let cut: Vec<_> = units(100..3 * UNIT_MAX + 1).collect();
        assert_eq!(
            cut,
            [100..UNIT_MAX, UNIT_MAX..2 * UNIT_MAX, 2 * UNIT_MAX..3 * UNIT_MAX, 3 * UNIT_MAX..3 * UNIT_MAX + 1]
        );
    }
}
