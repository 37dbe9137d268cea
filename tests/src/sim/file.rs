//! The metadata file in memory: pages that were not flushed may be lost one by one when power is.

use super::dice::Dice;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// What reaches the device as a whole.
const PAGE: usize = 4096;

/// A file; clones are the same one.
#[derive(Clone, Default, Debug)]
pub(super) struct SimFile(Arc<Mutex<Content>>);

#[derive(Clone, Default, Debug)]
struct Content {
    cache: Vec<u8>,
    device: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Content {
    fn store(&mut self, page: usize) {
        let end = ((page + 1) * PAGE).min(self.cache.len()).min(self.device.len());
        let start = (page * PAGE).min(end);
        self.device[start..end].copy_from_slice(&self.cache[start..end]);
    }
}

impl SimFile {
    /// Another file, with what the death of the process now leaves.
    pub(super) fn after_kill(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Another file, with what a loss of power now leaves.
    pub(super) fn after_power_loss(&self, dice: &mut Dice) -> Self {
        let mut content = self.0.lock().clone();
        if content.cache.len() < content.device.len() || dice.chance(500) {
            let length = content.cache.len().max(content.device.len());
            content.device.resize(length, 0);
        }
        for page in std::mem::take(&mut content.dirty) {
            if dice.chance(500) {
                content.store(page);
            }
        }
        content.cache = content.device.clone();
        Self(Arc::new(Mutex::new(content)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().cache.is_empty()
    }
}

impl redb::StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.0.lock();
        let from = content.cache.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().cache.resize(length as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.0.lock();
        let length = content.cache.len();
        content.device.resize(length, 0);
        for page in std::mem::take(&mut content.dirty) {
            content.store(page);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock();
        let (start, end) = (offset as usize, offset as usize + data.len());
        if end > content.cache.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.cache[start..end].copy_from_slice(data);
        content.dirty.extend(start / PAGE..end.div_ceil(PAGE));
        Ok(())
    }
}
