//! Comparing the table of a pack, as the device has it, with what is known in memory. What differs is written anew:
//! for that nobody else is needed, as long as the run lasts in which it is noticed.
//!
//! A pack whose table could not be read as a whole at the start is not touched: what is there is for a person to look
//! at.

use super::format::{Geometry, Place, Record, SLOT, Slot};
use super::{PackError, Packs};
use crate::store::disk::{Disk, DiskFile};
use crate::store::layout::HEADER_LEN;
use std::io;

/// What the device has in a table.
pub(in crate::store) struct TableSeen {
    /// By number of the slot; `None` where there is neither a record nor nothing.
    slots: Vec<Option<Option<Record>>>,
}

impl TableSeen {
    /// The record of a slot; `None` if it is damaged or empty.
    pub(in crate::store) fn record(&self, first: u16) -> Option<Record> {
        self.slots.get(usize::from(first)).copied().flatten().flatten()
    }

    /// Slots that hold neither a record nor nothing.
    fn damaged(&self) -> impl Iterator<Item = u16> {
        let is_damaged = |(first, slot): (usize, &Option<Option<Record>>)| slot.is_none().then_some(first as u16);
        self.slots.iter().enumerate().filter_map(is_damaged)
    }
}

impl<D: Disk> Packs<D> {
    /// Packs whose table was read as a whole.
    pub(in crate::store) fn sound(&self) -> Vec<u32> {
        let members = self.members.lock();
        members.packs.iter().filter(|(_, member)| !member.damaged).map(|(number, _)| *number).collect()
    }

    /// A table as the device has it.
    pub(in crate::store) fn table_on_medium(&self, pack: u32) -> io::Result<TableSeen> {
        let pack = self.get(pack)?;
        let length = pack.geometry.units as usize * SLOT;
        let mut raw = Vec::with_capacity(length);
        pack.file().read_medium(HEADER_LEN as u64, length, &mut raw)?;
        raw.resize(length, u8::MAX);
        let (slots, _) = raw.as_chunks::<SLOT>();
        let read = |(first, slot): (u16, &[u8; SLOT])| match pack.geometry.read_slot(first, slot) {
            Slot::Empty => Some(None),
            Slot::Record(record) => Some(Some(record)),
            Slot::Damaged => None,
        };
        Ok(TableSeen { slots: (0..=u16::MAX).zip(slots).map(read).collect() })
    }

    /// The record of one slot, as the device has it; `None` if it is damaged or empty.
    pub(in crate::store) fn record_on_medium(&self, place: Place) -> io::Result<Option<Record>> {
        let pack = self.get(place.pack)?;
        let mut raw = Vec::with_capacity(SLOT);
        pack.file().read_medium(Geometry::slot_at(place.first), SLOT, &mut raw)?;
        let slot = <&[u8; SLOT]>::try_from(&raw[..]).map(|slot| pack.geometry.read_slot(place.first, slot));
        Ok(match slot {
            Ok(Slot::Record(record)) => Some(record),
            _ => None,
        })
    }

    /// Writes a damaged header anew, and zeroes into damaged slots that nobody uses, durably; how many.
    pub(in crate::store) fn mend_table(&self, number: u32, seen: &TableSeen) -> Result<u64, PackError> {
        let pack = self.get(number)?;
        let mut raw = Vec::with_capacity(HEADER_LEN);
        pack.file().read_medium(0, HEADER_LEN, &mut raw)?;
        let header = pack.geometry.header();
        let mut mended = 0;
        if raw != header {
            pack.file().write(0, &[&header])?;
            mended += 1;
        }
        for first in seen.damaged() {
            // nobody gets the unit while it is looked at
            let members = self.members.lock();
            let unit = Place { pack: number, first, units: 1 };
            let is_used = members.packs.get(&number).is_none_or(|member| member.used.touches(unit));
            if !is_used {
                pack.file().write(Geometry::slot_at(first), &[&[0; SLOT]])?;
                mended += 1;
            }
        }
        if mended > 0 {
            tracing::error!(pack = number, mended, "the header or empty slots of a pack were damaged; written anew");
            pack.flush()?;
        }
        Ok(mended)
    }
}
