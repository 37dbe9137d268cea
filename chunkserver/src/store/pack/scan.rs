//! Reading the packs of a directory at a start: their tables, and none of their replicas.
//!
//! Damage is said loudly and never guessed about. A replica whose record cannot be read is not there any
//! more: its version is not known. Another copy of it in the same directory may be an older one, so it is
//! suspect. A damaged pack keeps its bytes, for a person to look at.

use super::format::{Geometry, Place, Record, SLOT, Slot, UNIT};
use super::units::Units;
use super::{Member, Members, NEW, Pack, Packs, folder, parse};
use crate::store::disk::{Disk, DiskFile, OpenMode};
use crate::store::layout::{HEADER_LEN, Layout};
use gfs_proto::ids::ChunkHandle;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What the tables say.
#[derive(Default)]
pub(in crate::store) struct Scanned {
    pub replicas: Vec<(Place, Record)>,
    /// Replicas of which a record is damaged, as far as their headers tell.
    pub damaged: BTreeSet<ChunkHandle>,
}

impl<D: Disk> Packs<D> {
    /// Opens the packs of a storage directory and reads their tables. `pack_bytes`: size of new ones; 0
    /// for none.
    pub(in crate::store) fn open(disk: Arc<D>, path: &Path, pack_bytes: u64) -> io::Result<(Self, Scanned)> {
        let dir = folder(path);
        let mut numbers = BTreeSet::new();
        for listed in disk.list(&dir)? {
            let name = listed.name.to_string_lossy();
            match parse(&name) {
                Some(number) => drop(numbers.insert(number)),
                None if name.ends_with(NEW) => disk.remove(&dir.join(&listed.name))?,
                None => tracing::warn!(file = %dir.join(&listed.name).display(), "not a pack; ignored"),
            }
        }
        let number_next = numbers.last().map_or(0, |last| last + 1);
        let members = Members { packs: BTreeMap::new(), filling: None, ready: None, number_next };
        let mut packs = Self {
            disk,
            dir,
            pack_bytes,
            members: Mutex::new(members),
            making: Mutex::new(()),
            sequence: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        };
        let mut scanned = Scanned::default();
        for number in numbers {
            packs.open_one(number, &mut scanned)?;
        }
        let sequence = scanned.replicas.iter().map(|(_, record)| record.sequence).max();
        packs.sequence = AtomicU64::new(sequence.map_or(0, |last| last + 1));
        packs.remove_empty();
        Ok((packs, scanned))
    }

    fn open_one(&mut self, number: u32, scanned: &mut Scanned) -> io::Result<()> {
        let path = self.path(number);
        let file = self.disk.open(&path, OpenMode::Existing)?;
        let mut raw = Vec::new();
        file.read(0, HEADER_LEN, &mut raw)?;
        let Some(geometry) = Geometry::read(number, &raw) else {
            tracing::error!(file = %path.display(), "the header of a pack is damaged: the replicas in it are lost");
            return Ok(());
        };
        let pack = Pack::new(geometry, file);
        let (used, damaged) = read_table(&pack, scanned)?;
        if damaged {
            tracing::error!(file = %path.display(), "the table of a pack is damaged: replicas in it are lost");
        }
        let units_have =
            (pack.file().allocated()?.saturating_sub(geometry.unit_at(0)) / UNIT).min(geometry.units.into());
        let idle = units_have.saturating_sub(used.count());
        *self.idle.get_mut() += idle * UNIT;
        let member = Member { pack: Arc::new(pack), next: 0, used, idle, allocated: true, damaged };
        self.members.get_mut().packs.insert(number, member);
        Ok(())
    }
}

/// The units in use; true if there may be more.
fn read_table<F: DiskFile>(pack: &Pack<F>, scanned: &mut Scanned) -> io::Result<(Units, bool)> {
    let geometry = pack.geometry;
    let mut raw = Vec::new();
    pack.file().read(HEADER_LEN as u64, geometry.units as usize * SLOT, &mut raw)?;
    // a table that ends early is damaged where it is missing
    raw.resize(geometry.units as usize * SLOT, u8::MAX);
    let mut used = Units::new(geometry.units);
    let mut damaged = false;
    let (slots, _) = raw.as_chunks::<SLOT>();
    for (first, slot) in (0..=u16::MAX).zip(slots) {
        let place = |units| Place { pack: geometry.number, first, units };
        match geometry.read_slot(first, slot) {
            Slot::Empty => {}
            Slot::Record(record) if !used.touches(place(record.units)) => {
                used.set(place(record.units), true);
                scanned.replicas.push((place(record.units), record));
            }
            Slot::Record(record) => {
                tracing::error!(pack = geometry.number, slot = first, chunk = %record.handle, "replicas overlap");
                damaged = true;
                lose_overlapped(&mut used, place(record.units), scanned);
                scanned.damaged.insert(record.handle);
            }
            Slot::Damaged => {
                damaged = true;
                let handle = handle_at(pack, first)?;
                tracing::error!(pack = geometry.number, slot = first, chunk = ?handle, "a record is damaged");
                scanned.damaged.extend(handle);
            }
        }
    }
    Ok((used, damaged))
}

/// Of replicas that overlap none can be believed.
fn lose_overlapped(used: &mut Units, place: Place, scanned: &mut Scanned) {
    let Scanned { replicas, damaged } = scanned;
    replicas.retain(|(other, record)| {
        let apart = other.pack != place.pack || other.end() <= u32::from(place.first);
        if !apart {
            damaged.insert(record.handle);
        }
        apart
    });
    used.set(place, true);
}

/// Whose replica begins at a unit, if its header tells.
fn handle_at<F: DiskFile>(pack: &Pack<F>, first: u16) -> io::Result<Option<ChunkHandle>> {
    let mut raw = Vec::new();
    pack.file().read(pack.geometry.unit_at(u32::from(first)), HEADER_LEN, &mut raw)?;
    Ok(Layout::handle_in(&raw))
}
