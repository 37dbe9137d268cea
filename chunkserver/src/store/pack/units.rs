//! Which units of a pack are in use.

use super::format::Place;

/// A set of units.
pub(super) struct Units(Vec<u64>);

impl Units {
    pub(super) fn new(units: u32) -> Self {
        Self(vec![0; units.div_ceil(64) as usize])
    }

    pub(super) fn set(&mut self, place: Place, used: bool) {
        for unit in u32::from(place.first)..place.end() {
            let (word, bit) = (&mut self.0[unit as usize / 64], 1 << (unit % 64));
            *word = if used { *word | bit } else { *word & !bit };
        }
    }

    fn contains(&self, unit: u32) -> bool {
        self.0[unit as usize / 64] & 1 << (unit % 64) != 0
    }

    pub(super) fn touches(&self, place: Place) -> bool {
        (u32::from(place.first)..place.end()).any(|unit| self.contains(unit))
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Runs of units that are not in it, up to `end`: first and number.
    pub(super) fn gaps(&self, end: u32) -> Vec<(u32, u32)> {
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        for unit in (0..end).filter(|unit| !self.contains(*unit)) {
            match gaps.last_mut() {
                Some((first, count)) if *first + *count == unit => *count += 1,
                _ => gaps.push((unit, 1)),
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_set_and_what_is_between_them_are_gaps() {
        let place = |first, units| Place { pack: 0, first, units };
        let mut used = Units::new(130);
        assert_eq!((used.count(), used.gaps(130)), (0, vec![(0, 130)]));
        used.set(place(60, 10), true);
        used.set(place(128, 2), true);
        assert_eq!((used.count(), used.gaps(130)), (12, vec![(0, 60), (70, 58)]));
        assert!(used.touches(place(50, 11)) && used.touches(place(69, 2)));
        assert!(!used.touches(place(50, 10)) && !used.touches(place(70, 17)));
        used.set(place(60, 5), false);
        assert_eq!(used.gaps(130), [(0, 65), (70, 58)]);
    }
}
