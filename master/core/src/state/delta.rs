//! Changes in memory that lie over the tables of the database: one map per table.
//!
//! A key without a slot has the value of the layer below. A row that was made and removed within one
//! delta leaves nothing behind: a slot knows whether the layers below have the key (`fresh`).

use super::table::Table;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a delta says about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// The key has this value.
    Put {
        value: Box<[u8]>,
        /// No layer below has the key.
        fresh: bool,
    },
    /// The key is gone; a layer below has it.
    Gone,
}

impl Slot {
    fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Gone => None,
        }
    }
    fn bytes(&self) -> usize {
        self.value().map_or(0, <[u8]>::len)
    }
}

/// Memory of a row beside key and value: two allocations rounded up to 16 bytes, each with its header,
/// and 40 bytes in a node of the map that is two thirds full.
const ROW_OVERHEAD: usize = 2 * (8 + 8) + 60;

type Rows = BTreeMap<Box<[u8]>, Slot>;

/// See the module.
#[derive(Clone, Default, Debug)]
pub(crate) struct Delta {
    tables: [Rows; Table::ALL.len()],
    bytes: usize,
}

impl Delta {
    /// Memory in use, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(BTreeMap::is_empty)
    }

    /// `None`: ask the layer below. `Some(None)`: the key is gone.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables[table as usize].get(key).map(Slot::value)
    }

    /// The rows from `from` on, with `None` for those that are gone.
    pub(crate) fn range<'a>(
        &'a self,
        table: Table,
        from: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bounds = (Bound::Included(from), Bound::Unbounded);
        self.tables[table as usize].range::<[u8], _>(bounds).map(|(key, slot)| (&key[..], slot.value()))
    }

    /// All rows of a table.
    pub(crate) fn rows(&self, table: Table) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.tables[table as usize].iter().map(|(key, slot)| (&key[..], slot.value()))
    }

    /// Sets a slot, or with `None` takes it away; returns what was there.
    pub(crate) fn set(&mut self, table: Table, key: &[u8], slot: Option<Slot>) -> Option<Slot> {
        let added = slot.as_ref().map_or(0, |slot| ROW_OVERHEAD + key.len() + slot.bytes());
        let rows = &mut self.tables[table as usize];
        let old = match slot {
            Some(slot) => match rows.get_mut(key) {
                Some(place) => Some(std::mem::replace(place, slot)),
                None => rows.insert(key.into(), slot),
            },
            None => rows.remove(key),
        };
        let removed = old.as_ref().map_or(0, |slot| ROW_OVERHEAD + key.len() + slot.bytes());
        self.bytes = self.bytes + added - removed;
        old
    }

    /// Gives a key a value; `fresh` if the layers below are known not to have it. Returns the old slot.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: Box<[u8]>, fresh: bool) -> Option<Slot> {
        let fresh = match self.tables[table as usize].get(key) {
            Some(Slot::Put { fresh, .. }) => *fresh,
            Some(Slot::Gone) => false,
            None => fresh,
        };
        self.set(table, key, Some(Slot::Put { value, fresh }))
    }

    /// Removes a key. Returns the old slot.
    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) -> Option<Slot> {
        match self.tables[table as usize].get(key) {
            Some(Slot::Put { fresh: true, .. }) => self.set(table, key, None),
            _ => self.set(table, key, Some(Slot::Gone)),
        }
    }

    /// Lays `newer` over this delta.
    pub(crate) fn absorb(&mut self, newer: Self) {
        for (table, rows) in Table::ALL.into_iter().zip(newer.tables) {
            for (key, slot) in rows {
                match slot {
                    Slot::Put { value, fresh } => self.put(table, &key, value, fresh),
                    Slot::Gone => self.remove(table, &key),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Table = Table::Inodes;

    fn put(delta: &mut Delta, fresh: bool) {
        delta.put(T, b"k", Box::from(&b"v"[..]), fresh);
    }

    #[test]
    fn rows_that_come_and_go_leave_nothing() {
        let mut delta = Delta::default();
        put(&mut delta, true);
        assert_eq!(delta.get(T, b"k"), Some(Some(&b"v"[..])));
        put(&mut delta, false);
        delta.remove(T, b"k");
        assert!(delta.is_empty());
        assert_eq!(delta.bytes(), 0);
    }

    #[test]
    fn rows_of_a_layer_below_stay_hidden() {
        let mut delta = Delta::default();
        delta.remove(T, b"k");
        put(&mut delta, true);
        delta.remove(T, b"k");
        assert_eq!(delta.get(T, b"k"), Some(None), "the layer below still has it");
    }

    #[test]
    fn absorbing_is_doing_it_here() {
        for first in [None, Some(true), Some(false)] {
            for second in 0..4 {
                let (mut direct, mut below, mut above) = (Delta::default(), Delta::default(), Delta::default());
                if let Some(fresh) = first {
                    put(&mut direct, fresh);
                    put(&mut below, fresh);
                }
                let steps = |delta: &mut Delta| {
                    if second & 1 != 0 {
                        delta.remove(T, b"k");
                    }
                    if second & 2 != 0 {
                        put(delta, false);
                    }
                };
                steps(&mut direct);
                steps(&mut above);
                below.absorb(above);
                assert_eq!(below.get(T, b"k"), direct.get(T, b"k"));
                assert_eq!(below.bytes(), direct.bytes());
            }
        }
    }
}
