//! What was written to a file and not sent yet: a map of extents, pure.
//!
//! The file is divided into slots of 1 MiB (or a chunk, if that is smaller), so an extent crosses
//! neither a frame nor a chunk. Within a slot segments lie side by side and never overlap; small
//! writes that follow each other grow one segment, an overwrite changes it in place.

use bytes::{Bytes, BytesMut};
use gfs_proto::frame::Extent;
use gfs_proto::ids::ChunkIndex;
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::{FRAME_EXTENTS_MAX, FRAME_PAYLOAD_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A segment grows by small writes up to this: copies while growing stay below one in two bytes.
const SEGMENT_MAX: usize = 128 << 10;

/// Dirty extents of one file.
pub(super) struct DirtyMap {
    chunk: ChunkSize,
    slot_size: u32,
    slots: BTreeMap<u64, Slot>,
    full: BTreeSet<u64>,
    bytes: usize,
}

/// Segments by offset in the slot.
#[derive(Default)]
struct Slot {
    segments: BTreeMap<u32, BytesMut>,
    bytes: u32,
}

/// Contents of one frame, taken out of the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    /// Of the file.
    pub index: ChunkIndex,
    /// Offsets in the chunk, ascending, not touching each other.
    pub extents: Vec<Extent>,
    /// Their bytes one after the other.
    pub data: Vec<Bytes>,
    /// How many.
    pub bytes: u32,
}

impl DirtyMap {
    pub(super) fn new(chunk: ChunkSize) -> Self {
        let slot_size = chunk.get().min(FRAME_PAYLOAD_MAX);
        Self { chunk, slot_size, slots: BTreeMap::new(), full: BTreeSet::new(), bytes: 0 }
    }

    /// Dirty bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Pieces of a range by slot: (slot, offset in it, length).
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u32, usize)> + use<> {
        let size = u64::from(self.slot_size);
        let (mut at, end) = (range.start, range.end);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let within = at % size;
                let length = (size - within).min(end - at);
                let piece = (at / size, within as u32, length as usize);
                at += length;
                piece
            })
        })
    }

    /// Lays `data` over what is there.
    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        for (number, within, length) in self.pieces(offset..offset + data.len() as u64) {
            let (piece, rest) = data.split_at(length);
            data = rest;
            let slot = self.slots.entry(number).or_default();
            let before = slot.bytes;
            slot.write(within, piece, self.slot_size);
            self.bytes += (slot.bytes - before) as usize;
            if slot.bytes == self.slot_size {
                self.full.insert(number);
            }
        }
    }

    /// Drops everything from `size` on.
    pub(super) fn truncate(&mut self, size: u64) {
        let slot_size = u64::from(self.slot_size);
        let keep = size.div_ceil(slot_size);
        let dropped = self.slots.split_off(&keep);
        self.bytes -= dropped.values().map(|slot| slot.bytes as usize).sum::<usize>();
        self.full.split_off(&keep);
        let last = size / slot_size;
        if let Some(slot) = self.slots.get_mut(&last) {
            let before = slot.bytes;
            slot.truncate((size % slot_size) as u32);
            self.bytes -= (before - slot.bytes) as usize;
            let emptied = slot.bytes == 0;
            if before != slot.bytes {
                self.full.remove(&last);
            }
            if emptied {
                self.slots.remove(&last);
            }
        }
    }

    /// Takes out everything from `size` on.
    pub(super) fn split_off(&mut self, size: u64) -> Self {
        let mut beyond = Self::new(self.chunk);
        let keep = size.div_ceil(u64::from(self.slot_size));
        beyond.slots = self.slots.split_off(&keep);
        beyond.full = self.full.split_off(&keep);
        beyond.bytes = beyond.slots.values().map(|slot| slot.bytes as usize).sum();
        self.bytes -= beyond.bytes;
        self.visit(size..keep * u64::from(self.slot_size), |at, bytes| beyond.write(at, bytes));
        self.truncate(size);
        beyond
    }

    /// Calls `visit` with the dirty bytes of a range, in order.
    pub(super) fn visit(&self, range: Range<u64>, mut visit: impl FnMut(u64, &[u8])) {
        if self.slots.is_empty() {
            return;
        }
        let size = u64::from(self.slot_size);
        for (number, slot) in self.slots.range(range.start / size..range.end.div_ceil(size)) {
            let base = number * size;
            for (at, segment) in &slot.segments {
                let start = base + u64::from(*at);
                let (from, to) = (range.start.max(start), range.end.min(start + segment.len() as u64));
                if from < to {
                    visit(from, &segment[(from - start) as usize..(to - start) as usize]);
                }
            }
        }
    }

    /// True if any byte of the range is dirty.
    pub(super) fn touches(&self, range: Range<u64>) -> bool {
        let mut touches = false;
        self.visit(range, |_, _| touches = true);
        touches
    }

    /// Takes one slot that is dirty from end to end: a full frame.
    pub(super) fn take_full(&mut self) -> Option<Batch> {
        let number = self.full.pop_first()?;
        let slot = self.slots.remove(&number).expect("a full slot is there");
        let mut batch = self.batch(number);
        self.bytes -= slot.bytes as usize;
        batch.absorb(self.base(number), slot);
        Some(batch)
    }

    /// Takes everything, in order of offset; slots of a chunk share frames as far as they fit.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        let slots = std::mem::take(&mut self.slots);
        self.full.clear();
        self.bytes = 0;
        let mut batches: Vec<Batch> = Vec::new();
        for (number, mut slot) in slots {
            while !slot.segments.is_empty() {
                let rest = slot.split_at_extents(FRAME_EXTENTS_MAX);
                let fits = |batch: &Batch| {
                    batch.index == self.batch(number).index
                        && batch.bytes + slot.bytes <= FRAME_PAYLOAD_MAX
                        && batch.extents.len() + slot.segments.len() <= FRAME_EXTENTS_MAX
                };
                if !batches.last().is_some_and(fits) {
                    batches.push(self.batch(number));
                }
                batches.last_mut().expect("just pushed").absorb(self.base(number), slot);
                slot = rest;
            }
        }
        batches
    }

    fn batch(&self, number: u64) -> Batch {
        let (index, _) = self.chunk.locate(number * u64::from(self.slot_size));
        Batch { index, extents: Vec::new(), data: Vec::new(), bytes: 0 }
    }

    /// Offset of a slot in its chunk.
    fn base(&self, number: u64) -> u32 {
        self.chunk.locate(number * u64::from(self.slot_size)).1
    }
}

impl Batch {
    fn absorb(&mut self, base: u32, slot: Slot) {
        self.bytes += slot.bytes;
        for (at, segment) in slot.segments {
            let (offset, length) = (base + at, segment.len() as u32);
            match self.extents.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => self.extents.push(Extent { offset, length }),
            }
            self.data.push(segment.freeze());
        }
    }
}

impl Slot {
    fn write(&mut self, mut offset: u32, mut data: &[u8], slot_size: u32) {
        let end = offset + data.len() as u32;
        let mut follows = None;
        if let Some((start, segment)) = self.segments.range_mut(..=offset).next_back() {
            let within = (offset - start) as usize;
            if within < segment.len() {
                let (over, rest) = data.split_at(data.len().min(segment.len() - within));
                segment[within..within + over.len()].copy_from_slice(over);
                offset += over.len() as u32;
                data = rest;
            }
            if within <= segment.len() {
                follows = Some(*start);
            }
        }
        if data.is_empty() {
            return;
        }
        self.clear(offset, end);
        self.bytes += data.len() as u32;
        if let Some(segment) = follows.and_then(|start| self.segments.get_mut(&start))
            && segment.len() + data.len() <= SEGMENT_MAX
        {
            segment.extend_from_slice(data);
            return;
        }
        let room = (slot_size - offset) as usize;
        let streams = follows.is_some() && data.len() < SEGMENT_MAX / 2;
        let capacity = if streams { SEGMENT_MAX.min(room).max(data.len()) } else { data.len() };
        let mut segment = BytesMut::with_capacity(capacity);
        segment.extend_from_slice(data);
        self.segments.insert(offset, segment);
    }

    /// Removes the bytes from `start` to `end`; no segment that begins before `start` reaches into
    /// them.
    fn clear(&mut self, start: u32, end: u32) {
        while let Some((&at, segment)) = self.segments.range(start..end).next() {
            let length = segment.len() as u32;
            let mut segment = self.segments.remove(&at).expect("just found");
            self.bytes -= length;
            if at + length > end {
                let tail = segment.split_off((end - at) as usize);
                self.bytes += tail.len() as u32;
                self.segments.insert(end, tail);
            }
        }
    }

    fn truncate(&mut self, length: u32) {
        let dropped = self.segments.split_off(&length);
        self.bytes -= dropped.values().map(|segment| segment.len() as u32).sum::<u32>();
        if let Some((start, segment)) = self.segments.iter_mut().next_back() {
            let excess = segment.len().saturating_sub((length - start) as usize);
            segment.truncate(segment.len() - excess);
            self.bytes -= excess as u32;
        }
    }

    /// Keeps the first `count` segments, returns the others.
    fn split_at_extents(&mut self, count: usize) -> Self {
        let Some((&at, _)) = self.segments.iter().nth(count) else {
            return Self::default();
        };
        let segments = self.segments.split_off(&at);
        let bytes = segments.values().map(|segment| segment.len() as u32).sum();
        self.bytes -= bytes;
        Self { segments, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest chunk: five of them are a file in these tests.
    const CHUNK: u32 = 64 << 10;
    const FILE: usize = 5 * CHUNK as usize;

    fn map() -> DirtyMap {
        DirtyMap::new(ChunkSize::new(CHUNK).expect("valid"))
    }

    /// What the map holds, as (file offset, bytes).
    fn contents(map: &DirtyMap) -> Vec<Option<u8>> {
        let mut out = vec![None; FILE];
        map.visit(0..out.len() as u64, |at, data| {
            for (i, byte) in data.iter().enumerate() {
                assert_eq!(out[at as usize + i].replace(*byte), None, "segments overlap");
            }
        });
        out
    }

    fn unpack(batches: &[Batch]) -> Vec<Option<u8>> {
        let mut out = vec![None; FILE];
        for batch in batches {
            assert!(batch.bytes <= FRAME_PAYLOAD_MAX && batch.extents.len() <= FRAME_EXTENTS_MAX);
            assert!(batch.extents.is_sorted_by(|a, b| a.offset + a.length < b.offset), "{:?}", batch.extents);
            let data = batch.data.concat();
            assert_eq!(data.len(), batch.bytes as usize);
            let mut rest = &data[..];
            for extent in &batch.extents {
                assert!(extent.offset + extent.length <= CHUNK);
                let (bytes, more) = rest.split_at(extent.length as usize);
                rest = more;
                let start = u64::from(batch.index.get()) * u64::from(CHUNK) + u64::from(extent.offset);
                for (i, byte) in bytes.iter().enumerate() {
                    assert_eq!(out[start as usize + i].replace(*byte), None);
                }
            }
            assert!(rest.is_empty());
        }
        out
    }

    #[test]
    fn small_writes_in_a_row_become_one_extent() {
        let mut map = map();
        for i in 0..1000u64 {
            map.write(i * 50, &[i as u8; 50]);
        }
        assert_eq!(map.bytes(), 50_000);
        let batches = map.take_all();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].extents, [Extent { offset: 0, length: 50_000 }]);
        assert_eq!(batches[0].data.len(), 1, "one segment");
        assert!(map.is_empty() && map.bytes() == 0);
    }

    #[test]
    fn a_slot_is_full_when_its_last_byte_is_written_and_not_before() {
        let mut map = map();
        let slot = CHUNK as usize;
        map.write(u64::from(CHUNK), &vec![1; slot - 1]);
        assert_eq!(map.take_full(), None);
        map.write(2 * u64::from(CHUNK) - 1, &[2; 2]);
        let batch = map.take_full().expect("full");
        assert_eq!((batch.index.get(), batch.bytes, batch.extents.len()), (1, CHUNK, 1));
        assert_eq!(map.bytes(), 1, "the first byte of the next slot");
    }

    #[test]
    fn frames_have_at_most_256_extents() {
        let mut map = map();
        for i in 0..600u64 {
            map.write(i * 10, b"x");
        }
        let counts: Vec<_> = map.take_all().iter().map(|batch| batch.extents.len()).collect();
        assert_eq!(counts, [256, 256, 88]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write { offset: u32, length: u32, byte: u8 },
        Truncate(u32),
        TakeFull,
        TakeAll,
    }

    fn step() -> impl Strategy<Value = Step> {
        let near_borders = prop_oneof![0..FILE as u32, (1..5u32, 0..64u32).prop_map(|(b, d)| b * CHUNK - 32 + d)];
        let length = prop_oneof![1..64u32, 1..20_000u32, Just(CHUNK)];
        prop_oneof![
            8 => (near_borders, length, any::<u8>()).prop_map(|(offset, length, byte)| Step::Write { offset, length, byte }),
            1 => (0..FILE as u32).prop_map(Step::Truncate),
            1 => Just(Step::TakeFull),
            1 => Just(Step::TakeAll),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_an_array_of_bytes(steps in prop::collection::vec(step(), 1..40)) {
            let mut map = map();
            let mut model = vec![None; FILE];
            for step in steps {
                match step {
                    Step::Write { offset, length, byte } => {
                        let end = (offset + length).min(FILE as u32);
                        let data: Vec<u8> = (offset..end).map(|i| byte.wrapping_add(i as u8)).collect();
                        map.write(u64::from(offset), &data);
                        for (i, byte) in data.into_iter().enumerate() {
                            model[offset as usize + i] = Some(byte);
                        }
                    }
                    Step::Truncate(size) => {
                        map.truncate(u64::from(size));
                        model[size as usize..].fill(None);
                    }
                    Step::TakeFull => {
                        if let Some(batch) = map.take_full() {
                            for (slot, taken) in model.iter_mut().zip(unpack(&[batch])) {
                                if taken.is_some() {
                                    prop_assert_eq!(*slot, taken);
                                    *slot = None;
                                }
                            }
                        }
                    }
                    Step::TakeAll => {
                        prop_assert!(unpack(&map.take_all()) == model);
                        model.fill(None);
                    }
                }
                prop_assert_eq!(map.bytes(), model.iter().flatten().count());
            }
            prop_assert!(contents(&map) == model);
        }
    }
}
