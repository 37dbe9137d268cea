//! Content of a file in memory and what a crash makes of it.

use std::collections::{BTreeMap, BTreeSet};

/// What a disk writes as a whole.
pub(super) const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub now: Vec<u8>,
    pub flushed: Vec<u8>,
    /// Contents that each sector had since it was flushed, the oldest first.
    unflushed: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    sizes: Vec<usize>,
    /// Sectors that a failed flush gave up: later flushes do not write them.
    abandoned: BTreeSet<usize>,
    pub locked: bool,
}

fn sector(content: &[u8], index: usize) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let start = (index * SECTOR).min(content.len());
    let part = &content[start..(start + SECTOR).min(content.len())];
    out[..part.len()].copy_from_slice(part);
    out
}

impl Inode {
    /// A file that was flushed.
    pub(super) fn durable(content: Vec<u8>) -> Self {
        Self { now: content.clone(), flushed: content, ..Self::default() }
    }

    /// Remembers what is about to change.
    fn touch(&mut self, range: std::ops::Range<usize>) {
        for index in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let before = sector(&self.now, index);
            self.abandoned.remove(&index);
            self.unflushed.entry(index).or_default().push(before);
        }
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        self.touch(offset..end);
        if end > self.now.len() {
            self.set_len(end);
        }
        self.now[offset..end].copy_from_slice(data);
    }

    pub(super) fn set_len(&mut self, length: usize) {
        if length < self.now.len() {
            self.touch(length..self.now.len());
        }
        self.sizes.push(self.now.len());
        self.now.resize(length, 0);
    }

    pub(super) fn flush(&mut self) {
        let abandoned = std::mem::take(&mut self.abandoned);
        let mut content = self.now.clone();
        for index in &abandoned {
            let old = sector(&self.flushed, *index);
            let start = (index * SECTOR).min(content.len());
            let end = (start + SECTOR).min(content.len());
            content[start..end].copy_from_slice(&old[..end - start]);
        }
        self.flushed = content;
        self.abandoned = abandoned;
        self.unflushed.clear();
        self.sizes.clear();
    }

    /// The device failed during a flush: the page cache forgets that these sectors are to be written.
    pub(super) fn abandon(&mut self) {
        self.abandoned.extend(self.unflushed.keys());
        self.unflushed.clear();
        self.sizes.clear();
    }

    pub(super) fn lose(&mut self, random: &mut Random) {
        let sizes: Vec<_> = self.sizes.iter().copied().chain([self.now.len(), self.flushed.len()]).collect();
        let size = if self.sizes.is_empty() { self.flushed.len() } else { *random.pick(&sizes) };
        let mut content = self.flushed.clone();
        content.resize(size.max(self.flushed.len()).div_ceil(SECTOR) * SECTOR, 0);
        for (index, history) in &self.unflushed {
            let start = index * SECTOR;
            if start + SECTOR <= content.len() {
                let mut choices = history.clone();
                choices.extend([sector(&self.now, *index), sector(&self.flushed, *index)]);
                content[start..start + SECTOR].copy_from_slice(random.pick::<[u8; SECTOR]>(&choices));
            }
        }
        content.truncate(size);
        *self = Self::durable(content);
    }
}

/// xorshift64: the same seed, the same losses.
#[derive(Clone, Debug)]
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 16) % bound.max(1) as u64) as usize
    }
    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}
