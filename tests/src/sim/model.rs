//! What a file may contain: for each unit of it everything that was written there, in order, and how far each
//! of these writes got.
//!
//! A file has one writer, which goes on with nothing before the last write was acknowledged. So the order in
//! which writes were issued is the order in which they count.

use gfs_proto::ids::InodeId;

/// Written as a whole; each of its words is the number of the write. Blocks have several.
pub(super) const UNIT: u32 = 1024;

/// How far a write got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Reach {
    Issued,
    /// By all members. Those that have it in memory still are the bits that are set.
    Acknowledged(u8),
    /// On stable storage, as fsync says.
    Synced,
}

/// Writes to one unit, the oldest first; those that can be seen no more are forgotten.
#[derive(Clone, Default, Debug)]
struct Unit(Vec<(u32, Reach)>);

impl Unit {
    /// What may be there: from the last write that must be there on.
    fn allowed(&self) -> impl Iterator<Item = u32> {
        let certain = |(_, reach): &(u32, Reach)| match reach {
            Reach::Issued => false,
            Reach::Acknowledged(members) => *members != 0,
            Reach::Synced => true,
        };
        let from = self.0.iter().rposition(certain);
        let zero = from.is_none().then_some(0);
        zero.into_iter().chain(self.0[from.unwrap_or(0)..].iter().map(|(stamp, _)| *stamp))
    }

    fn forget(&mut self) {
        let last = self.0.iter().rposition(|(_, reach)| *reach == Reach::Synced);
        drop(self.0.drain(..last.unwrap_or(0)));
    }
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct FileModel {
    pub(super) inode: InodeId,
    units: Vec<Unit>,
    /// Its name is being removed: nothing is said of it any more.
    pub(super) gone: bool,
    /// Cuts that began and cuts that were logged so far: a chunk map from before a cut was logged is of no use
    /// afterwards, and one that was asked for while a cut was under way may be from before it.
    pub(super) cuts: u64,
}

/// Words that may be at each unit of a range.
pub(super) type Allowed = Vec<Vec<u32>>;

impl FileModel {
    pub(super) fn new(inode: InodeId) -> Self {
        Self { inode, units: Vec::new(), gone: false, cuts: 0 }
    }

    fn unit(&mut self, at: usize) -> &mut Unit {
        if self.units.len() <= at {
            self.units.resize_with(at + 1, Unit::default);
        }
        &mut self.units[at]
    }

    /// A write begins: units from `first`.
    pub(super) fn issue(&mut self, stamp: u32, first: usize, count: usize) {
        (first..first + count).for_each(|at| self.unit(at).0.push((stamp, Reach::Issued)));
    }

    /// A cut begins: everything from `first` is zero then.
    pub(super) fn issue_cut(&mut self, first: usize) {
        self.cuts += 1;
        (first..self.units.len()).for_each(|at| self.unit(at).0.push((0, Reach::Issued)));
    }

    /// The cut from `first` was logged.
    pub(super) fn cut(&mut self, first: usize) {
        self.cuts += 1;
        for unit in self.units.iter_mut().skip(first) {
            if let Some(last) = unit.0.last_mut() {
                last.1 = Reach::Synced;
            }
            unit.forget();
        }
    }

    /// The write got as far as that.
    pub(super) fn reach(&mut self, stamp: u32, first: usize, count: usize, reach: Reach) {
        for at in first..first + count {
            let unit = self.unit(at);
            unit.0.iter_mut().filter(|(of, _)| *of == stamp).for_each(|(_, known)| *known = reach.max(*known));
        }
    }

    /// All that was acknowledged, and that somebody has, is on stable storage.
    pub(super) fn synced(&mut self) {
        self.acknowledged(0, usize::MAX, |members| if members == 0 { Reach::Acknowledged(0) } else { Reach::Synced });
        self.units.iter_mut().for_each(Unit::forget);
    }

    /// Only these servers count for the units of a range.
    pub(super) fn keep(&mut self, first: usize, count: usize, servers: u8) {
        self.acknowledged(first, count, |members| Reach::Acknowledged(members & servers));
    }

    fn acknowledged(&mut self, first: usize, count: usize, now: impl Fn(u8) -> Reach) {
        for (_, reach) in self.units.iter_mut().skip(first).take(count).flat_map(|unit| &mut unit.0) {
            if let Reach::Acknowledged(members) = *reach {
                *reach = now(members);
            }
        }
    }

    /// Everything that may be at each unit of a range.
    pub(super) fn allowed(&self, first: usize, count: usize) -> Allowed {
        let at = |at: usize| self.units.get(at).map_or_else(|| vec![0], |unit| unit.allowed().collect());
        (first..first + count).map(at).collect()
    }

    /// The first word that must not be in bytes from unit `first` on: its unit there, what it is, what may be.
    pub(super) fn find_wrong(&self, first: usize, bytes: &[u8]) -> Option<(usize, u32, Vec<u32>)> {
        let is_right = |at: usize, word| match self.units.get(first + at) {
            Some(unit) => unit.allowed().any(|allowed| allowed == word),
            None => word == 0,
        };
        let (at, word) = find(bytes, is_right)?;
        Some((at, word, self.allowed(first + at, 1).swap_remove(0)))
    }

    /// True if something must be there that is not zero.
    pub(super) fn must_be_there(&self, first: usize, count: usize) -> bool {
        self.allowed(first, count).iter().any(|allowed| !allowed.contains(&0))
    }

    /// Adds what was issued at a range since it was asked for.
    pub(super) fn allow_issued(&self, first: usize, allowed: &mut Allowed) {
        for (at, allowed) in allowed.iter_mut().enumerate() {
            if let Some(unit) = self.units.get(first + at) {
                // memory may have been lost since, too
                allowed.extend(unit.0.iter().map(|(stamp, _)| *stamp).chain(unit.allowed()));
            }
        }
    }
}

/// Bytes of a unit that a write left.
pub(super) fn bytes_of(stamp: u32) -> impl Iterator<Item = u8> {
    std::iter::repeat_n(stamp.to_le_bytes(), UNIT as usize / 4).flatten()
}

/// The first word that must not be there: its unit, and what it is.
pub(super) fn find_wrong(bytes: &[u8], allowed: &Allowed) -> Option<(usize, u32)> {
    find(bytes, |at, word| allowed.get(at).is_some_and(|allowed| allowed.contains(&word)))
}

/// The first word that is not right in its unit.
fn find(bytes: &[u8], is_right: impl Fn(usize, u32) -> bool) -> Option<(usize, u32)> {
    for (at, unit) in bytes.chunks(UNIT as usize).enumerate() {
        // almost all units have one word again and again
        let one = &unit[..unit.len().min(4)];
        let words = if unit[one.len()..] == unit[..unit.len() - one.len()] { one } else { unit };
        for word in words.chunks_exact(4) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if !is_right(at, word) {
                return Some((at, word));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_map_that_was_asked_for_while_a_cut_was_under_way_is_of_no_use_when_it_was_logged() {
        let mut file = FileModel::new(InodeId::new(2));
        file.issue(3, 0, 1);
        file.issue_cut(0);
        let (at_the_map, may_be) = (file.cuts, file.allowed(0, 1));
        assert_eq!(may_be, [[0, 3, 0]], "the old word or zeroes, until the cut is logged");
        assert_eq!(file.cuts, at_the_map, "a read that ends before is compared");
        file.cut(0);
        assert_eq!(file.allowed(0, 1), [[0]], "zeroes for whoever asks now");
        assert_ne!(file.cuts, at_the_map, "a map without the clip shows what is behind it");
    }
}
