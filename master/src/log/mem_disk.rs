//! A [`Disk`] in memory that can lose power, fail to flush, fill up and stop at any operation.
//!
//! Each file has what the page cache holds and what the device holds. Power loss keeps or loses
//! each unflushed sector, length and name change on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, DiskFile};

/// A device writes this much as a whole.
pub const SECTOR: usize = 512;

/// Handles share the disk; [`MemDisk::power_loss`] makes another one.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<Device>,
    gate: Condvar,
}

#[derive(Clone, Default)]
struct Device {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced: Vec<NameChange>,
    faults: Faults,
    /// Flushes that have begun.
    syncs_begun: u64,
}

#[derive(Clone, Default)]
struct Faults {
    /// Changes that still succeed; `None` for all.
    changes_left: Option<u64>,
    /// Flushes of files fail, and drop what they should have written.
    sync_fails: bool,
    /// Files cannot be made.
    full: bool,
    /// The page cache cannot be bypassed.
    cached_only: bool,
    /// Flushes wait.
    syncs_wait: bool,
}

#[derive(Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    device: Vec<u8>,
    dirty: BTreeSet<usize>,
    length_dirty: bool,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Move(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Move(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl Inode {
    /// What a read past the page cache finds: the kernel writes dirty pages first.
    fn uncached(&self) -> Vec<u8> {
        let mut bytes = self.device.clone();
        bytes.resize(self.cache.len(), 0);
        self.dirty.iter().for_each(|&sector| copy_sector(&self.cache, &mut bytes, sector));
        bytes
    }

    fn sync(&mut self) {
        self.device = self.uncached();
        self.dirty.clear();
        self.length_dirty = false;
    }

    fn lose_power(&mut self, keep: &mut impl FnMut() -> bool) {
        if self.length_dirty && keep() {
            self.device.resize(self.cache.len(), 0);
        }
        for &sector in &self.dirty {
            if keep() {
                copy_sector(&self.cache, &mut self.device, sector);
            }
        }
        self.dirty.clear();
        self.length_dirty = false;
        self.cache = self.device.clone();
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let end = ((sector + 1) * SECTOR).min(from.len()).min(to.len());
    let start = (sector * SECTOR).min(end);
    to[start..end].copy_from_slice(&from[start..end]);
}

fn failure() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Device {
    fn change(&mut self) -> io::Result<()> {
        match &mut self.faults.changes_left {
            Some(0) => Err(failure()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename_or(&mut self, change: NameChange) -> io::Result<()> {
        self.change()?;
        change.apply(&mut self.names);
        self.unsynced.push(change);
        Ok(())
    }
}

impl MemDisk {
    /// What a power loss now leaves; `keep` is asked for each change that was not flushed.
    pub fn power_loss(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut device = self.0.state.lock().clone();
        for change in std::mem::take(&mut device.unsynced) {
            if keep() {
                change.apply(&mut device.durable_names);
            }
        }
        device.names = device.durable_names.clone();
        device.inodes.iter_mut().for_each(|inode| inode.lose_power(&mut keep));
        device.faults = Faults::default();
        Self(Arc::new(Shared { state: Mutex::new(device), ..Default::default() }))
    }

    /// Another disk with the same contents, flushed.
    pub fn copy(&self) -> Self {
        self.power_loss(|| true)
    }

    /// From the n-th change on, all of them fail.
    pub fn stop_after(&self, changes: Option<u64>) {
        self.0.state.lock().faults.changes_left = changes;
    }

    /// Whether [`MemDisk::stop_after`]'s bound was reached.
    pub fn is_stopped(&self) -> bool {
        self.0.state.lock().faults.changes_left == Some(0)
    }

    /// Flushes of files fail, and drop what they should have written.
    pub fn fail_syncs(&self, fail: bool) {
        self.0.state.lock().faults.sync_fails = fail;
    }

    /// Files cannot be made.
    pub fn fill(&self, full: bool) {
        self.0.state.lock().faults.full = full;
    }

    /// The page cache cannot be bypassed.
    pub fn forbid_uncached(&self) {
        self.0.state.lock().faults.cached_only = true;
    }

    /// Flushes wait until they are let go on.
    pub fn hold_syncs(&self, hold: bool) {
        self.0.state.lock().faults.syncs_wait = hold;
        self.0.gate.notify_all();
    }

    /// Flushes of files that were begun.
    pub fn syncs_begun(&self) -> u64 {
        self.0.state.lock().syncs_begun
    }

    /// Contents of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.0.state.lock();
        state.inodes[state.names[name]].cache.clone()
    }

    /// Replaces the contents of a file, durably.
    pub fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.0.state.lock();
        let inode = state.names[name];
        state.inodes[inode] = Inode { cache: bytes.clone(), device: bytes, ..Default::default() };
    }

    /// Names and contents of everything.
    pub fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.state.lock();
        state.names.iter().map(|(name, &inode)| (name.clone(), state.inodes[inode].cache.clone())).collect()
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, capacity: u64) -> io::Result<MemFile> {
        let mut state = self.0.state.lock();
        if state.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        state.rename_or(NameChange::Set(name.to_owned(), inode))?;
        state.inodes.push(Inode { cache: vec![0; capacity as usize], length_dirty: true, ..Default::default() });
        Ok(MemFile { disk: self.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        let inode = self.0.state.lock().inode(name)?;
        Ok(MemFile { disk: self.clone(), inode })
    }

    fn read_uncached(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.0.state.lock();
        if state.faults.cached_only {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(state.inodes[state.inode(name)?].uncached())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.state.lock().rename_or(NameChange::Move(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.inode(name)?;
        state.rename_or(NameChange::Remove(name.to_owned()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.change()?;
        state.unsynced.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

/// A file of a [`MemDisk`].
pub struct MemFile {
    disk: MemDisk,
    inode: usize,
}

impl DiskFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.0.state.lock().inodes[self.inode].cache.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.0.state.lock();
        let range = offset as usize..offset as usize + buffer.len();
        let bytes = state.inodes[self.inode].cache.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        state.change()?;
        let inode = &mut state.inodes[self.inode];
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        assert!(end <= inode.cache.len(), "the log writes into preallocated space only");
        inode.cache[start..end].copy_from_slice(bytes);
        inode.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        state.syncs_begun += 1;
        while state.faults.syncs_wait {
            self.disk.0.gate.wait(&mut state);
        }
        state.change()?;
        if state.faults.sync_fails {
            // As Linux does: the pages count as clean and stay readable.
            state.inodes[self.inode].dirty.clear();
            return Err(failure());
        }
        state.inodes[self.inode].sync();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        state.change()?;
        let inode = &mut state.inodes[self.inode];
        inode.cache.truncate(length as usize);
        inode.sync();
        inode.device.truncate(length as usize);
        // The cut page is read from the device again, the rest of the page cache is gone.
        inode.cache = inode.device.clone();
        Ok(())
    }
}
