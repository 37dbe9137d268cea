//! Where the chunks of one file are, as far as it is known: pure.
//!
//! Valid for one map generation; a newer one replaces it. A location that turns out to be wrong is
//! forgotten and asked for again. That an index is a hole is believed for a while only, unless this
//! client alone writes the file.

use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap};
use gfs_proto::ids::{ChunkIndex, MapGeneration};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is known of one index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A chunk.
    Chunk(Arc<ChunkLocation>),
    /// No chunk: zeroes.
    Hole,
}

/// Chunk map of one file.
#[derive(Default, Debug)]
pub(super) struct Locations {
    generation: MapGeneration,
    known: BTreeMap<ChunkIndex, Known>,
}

#[derive(Debug)]
enum Known {
    Chunk(Arc<ChunkLocation>),
    Hole { since: Instant },
}

impl Locations {
    /// The place of a chunk, unless it is unknown or a hole seen longer than `hole_ttl` ago.
    pub(super) fn get(&self, index: ChunkIndex, now: Instant, hole_ttl: Option<Duration>) -> Option<Place> {
        match self.known.get(&index)? {
            Known::Chunk(location) => Some(Place::Chunk(location.clone())),
            Known::Hole { since } => {
                let fresh = hole_ttl.is_none_or(|ttl| now.saturating_duration_since(*since) < ttl);
                fresh.then_some(Place::Hole)
            }
        }
    }

    /// An answer of the master for the indices from `first` to before `end`.
    pub(super) fn learn(&mut self, map: ChunkMap, first: ChunkIndex, end: ChunkIndex, now: Instant) {
        if map.generation < self.generation {
            return;
        }
        if map.generation > self.generation {
            self.known.clear();
            self.generation = map.generation;
        }
        for index in first.get()..end.get() {
            self.known.insert(ChunkIndex::new(index), Known::Hole { since: now });
        }
        for location in map.chunks {
            self.known.insert(location.index, Known::Chunk(Arc::new(location)));
        }
    }

    /// The map that came with an open: the chunks of the file from the first on.
    pub(super) fn learn_first(&mut self, map: ChunkMap, now: Instant) {
        if let Some(last) = map.chunks.last() {
            let end = last.index.next();
            self.learn(map, ChunkIndex::new(0), end, now);
        }
    }

    /// A grant says where its chunk is. It may change the map by filling a hole; what else is known
    /// stays, for its holder is the writer.
    pub(super) fn learn_grant(&mut self, grant: &ChunkGrant) {
        self.generation = self.generation.max(grant.map_generation);
        let location = ChunkLocation {
            index: grant.index,
            handle: grant.handle,
            version: grant.version,
            clip: None,
            leased: true,
            replicas: grant.replicas.clone(),
        };
        self.known.insert(grant.index, Known::Chunk(Arc::new(location)));
    }

    /// The place turned out to be wrong.
    pub(super) fn forget(&mut self, index: ChunkIndex) {
        self.known.remove(&index);
    }

    /// The file was cut at `offset` of chunk `index`: later chunks are gone, this one reads as zeroes
    /// from there.
    pub(super) fn cut(&mut self, index: ChunkIndex, offset: u32) {
        self.known.split_off(&index.next());
        if offset == 0 {
            self.known.remove(&index);
        } else if let Some(Known::Chunk(location)) = self.known.get_mut(&index) {
            let clip = location.clip.map_or(offset, |clip| clip.min(offset));
            *location = Arc::new(ChunkLocation { clip: Some(clip), ..(**location).clone() });
        }
    }

    pub(super) fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::ids::{ChunkHandle, ChunkVersion};

    fn location(index: u32) -> ChunkLocation {
        ChunkLocation {
            index: ChunkIndex::new(index),
            handle: ChunkHandle::new(u64::from(index) + 100),
            version: ChunkVersion::new(1),
            clip: None,
            leased: false,
            replicas: Vec::new(),
        }
    }

    fn map(generation: u64, indices: &[u32]) -> ChunkMap {
        ChunkMap { generation: MapGeneration::new(generation), chunks: indices.iter().map(|i| location(*i)).collect() }
    }

    fn kind(locations: &Locations, index: u32, now: Instant) -> &'static str {
        match locations.get(ChunkIndex::new(index), now, Some(Duration::from_secs(1))) {
            None => "unknown",
            Some(Place::Hole) => "hole",
            Some(Place::Chunk(location)) if location.clip.is_some() => "clipped",
            Some(Place::Chunk(_)) => "chunk",
        }
    }

    #[test]
    fn indices_are_chunks_holes_or_unknown() {
        let now = Instant::now();
        let mut locations = Locations::default();
        locations.learn(map(3, &[0, 2]), ChunkIndex::new(0), ChunkIndex::new(4), now);
        let kinds = |locations: &Locations, now| [0, 1, 2, 3, 4].map(|i| kind(locations, i, now));
        assert_eq!(kinds(&locations, now), ["chunk", "hole", "chunk", "hole", "unknown"]);
        let later = now + Duration::from_secs(2);
        assert_eq!(kinds(&locations, later), ["chunk", "unknown", "chunk", "unknown", "unknown"]);
        locations.learn(map(2, &[1]), ChunkIndex::new(1), ChunkIndex::new(2), now);
        assert_eq!(kind(&locations, 1, now), "hole", "an older map is ignored");
        locations.cut(ChunkIndex::new(2), 10);
        assert_eq!(kinds(&locations, now), ["chunk", "hole", "clipped", "unknown", "unknown"]);
        locations.learn(map(4, &[1]), ChunkIndex::new(1), ChunkIndex::new(2), now);
        assert_eq!(kinds(&locations, now), ["unknown", "chunk", "unknown", "unknown", "unknown"]);
    }
}
