//! A disk in memory that can lose power, for tests.
//!
//! What was not flushed may be lost piece by piece: every 512-byte sector falls back to any content it
//! had since the last flush, the size likewise, and every change of a directory may be missing on its
//! own (a rename may also have left both names, never neither). Any single operation can be made to
//! fail or to be the last before a crash; what it was doing is then done in part.

mod inode;

use super::disk::{Disk, DiskFile, Listed, OpenMode, Room};
use inode::{Inode, Random, SECTOR};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// EIO: the device failed.
    Eio,
    /// ENOSPC: the file system is full.
    Enospc,
    /// The machine stops in the middle; everything fails until [`MemDisk::restart`].
    Crash,
}

/// What is there after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The process died: the page cache is whole.
    Process,
    /// Power was lost; the seed chooses what of the unflushed is lost.
    Power(u64),
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemDisk(Arc<Mutex<State>>);

/// An open file of a [`MemDisk`].
#[derive(Debug)]
pub struct MemFile {
    disk: MemDisk,
    inode: u64,
    /// Files opened before a crash are dead after it.
    boot: u64,
    holds_lock: AtomicBool,
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if self.holds_lock.load(Ordering::Relaxed)
            && state.boot == self.boot
            && let Some(file) = state.files.get_mut(&self.inode)
        {
            file.locked = false;
        }
    }
}

#[derive(Debug)]
struct State {
    files: BTreeMap<u64, Inode>,
    /// As programs see it, and as the medium has it.
    names: Names,
    durable: Names,
    pending: Vec<Change>,
    inode_last: u64,
    boot: u64,
    crashed: bool,
    operations: u64,
    fault: Option<(u64, Fault)>,
    /// The fault happens again at every later operation.
    lasting: bool,
    room: Room,
    /// Room can be kept for files.
    allocates: bool,
    /// Directories that are file systems of their own.
    mounts: Vec<PathBuf>,
    random: Random,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Dir,
    File(u64),
}

/// A change of a directory that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
}

impl Default for MemDisk {
    fn default() -> Self {
        let room = Room { file_system: 0, bytes_total: 1 << 40, bytes_free: 1 << 40 };
        let state = State {
            files: BTreeMap::new(),
            names: BTreeMap::from([(PathBuf::from("/"), Node::Dir)]),
            durable: BTreeMap::from([(PathBuf::from("/"), Node::Dir)]),
            pending: Vec::new(),
            inode_last: 0,
            boot: 0,
            crashed: false,
            operations: 0,
            fault: None,
            lasting: false,
            room,
            allocates: true,
            mounts: Vec::new(),
            random: Random(1),
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl MemDisk {
    /// Operations so far: to find out how many there are to fail.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }
    /// Makes the `number`-th operation from now fail (0 is the next), once.
    pub fn fail(&self, number: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fault = Some((state.operations + number, fault));
        state.lasting = false;
    }
    /// Makes the `number`-th operation from now fail, and all after it until [`MemDisk::heal`].
    pub fn fail_from(&self, number: u64, fault: Fault) {
        self.fail(number, fault);
        self.0.lock().lasting = true;
    }
    /// True once the injected fault has happened.
    pub fn failed(&self) -> bool {
        self.0.lock().fault.is_none()
    }
    /// True from a [`Fault::Crash`] to the restart.
    pub fn is_crashed(&self) -> bool {
        self.0.lock().crashed
    }
    /// Forgets a fault that has not happened.
    pub fn heal(&self) {
        self.0.lock().fault = None;
    }
    /// What [`Disk::room`] answers.
    pub fn set_room(&self, room: Room) {
        self.0.lock().room = room;
    }
    /// No room can be kept for files from now on.
    pub fn cannot_allocate(&self) {
        self.0.lock().allocates = false;
    }
    /// What [`Disk::room`] says of this directory is about a file system of its own.
    pub fn mount(&self, dir: &Path) {
        self.0.lock().mounts.push(dir.to_owned());
    }
    /// The machine stops now and comes up again.
    pub fn restart(&self, loss: Loss) {
        self.0.lock().restart(loss);
    }
    /// An independent copy of the disk, locks released.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.0.lock();
        let mut files = state.files.clone();
        files.values_mut().for_each(|file| file.locked = false);
        let copy = State {
            files,
            names: state.names.clone(),
            mounts: state.mounts.clone(),
            durable: state.durable.clone(),
            pending: state.pending.clone(),
            fault: None,
            random: Random(state.random.0),
            ..*state
        };
        Self(Arc::new(Mutex::new(copy)))
    }
    /// Everything that is in a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        match state.names.get(path)? {
            Node::File(inode) => state.files.get(inode).map(|file| file.now.clone()),
            Node::Dir => None,
        }
    }
    /// Replaces what is in a file, durably: for tests of damage.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.0.lock();
        let inode = match state.names.get(path) {
            Some(Node::File(inode)) => *inode,
            _ => state.add_file(path),
        };
        state.durable.insert(path.to_owned(), Node::File(inode));
        state.files.insert(inode, Inode::durable(content));
    }
    /// Paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.0.lock();
        state.names.iter().filter(|(_, node)| **node != Node::Dir).map(|(path, _)| path.clone()).collect()
    }
}

impl State {
    /// Counts an operation; `Some` if it is to fail.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(eio());
        }
        self.operations += 1;
        match self.fault {
            Some((at, fault)) if at + 1 == self.operations || self.lasting && at < self.operations => {
                if !self.lasting {
                    self.fault = None;
                }
                self.crashed = fault == Fault::Crash;
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    /// For operations that happen wholly or not: before a crash either, otherwise not.
    fn step_whole(&mut self) -> io::Result<bool> {
        match self.step()? {
            None => Ok(true),
            Some(Fault::Crash) => Ok(self.random.coin()),
            Some(fault) => Err(fault_error(fault)),
        }
    }

    fn answer<T>(&self, value: T) -> io::Result<T> {
        if self.crashed { Err(eio()) } else { Ok(value) }
    }

    fn add_file(&mut self, path: &Path) -> u64 {
        self.inode_last += 1;
        let inode = self.inode_last;
        self.files.insert(inode, Inode::default());
        self.change(Change::Add(path.to_owned(), Node::File(inode)));
        inode
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().ok_or_else(enoent)?;
        if self.names.get(parent) == Some(&Node::Dir) { Ok(()) } else { Err(enoent()) }
    }

    fn restart(&mut self, loss: Loss) {
        if let Loss::Power(seed) = loss {
            self.random = Random(seed.wrapping_mul(2) | 1);
            for change in std::mem::take(&mut self.pending) {
                if self.random.coin() {
                    change.apply(&mut self.durable);
                } else if let Change::Rename(_, to, node) = change
                    && self.random.coin()
                {
                    self.durable.insert(to, node);
                }
            }
            let kept = self.durable.clone();
            self.durable.retain(|path, _| path.ancestors().all(|dir| kept.contains_key(dir)));
            self.names = self.durable.clone();
            let Self { files, random, .. } = self;
            files.values_mut().for_each(|file| file.lose(random));
        }
        self.files.values_mut().for_each(|file| file.locked = false);
        self.boot += 1;
        self.crashed = false;
        self.fault = None;
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path, node) => {
                if names.get(path) == Some(node) {
                    names.remove(path);
                }
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path, _) => path.parent() == Some(dir),
            Self::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn waits(&self) -> bool {
        false
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<MemFile> {
        let mut state = self.0.lock();
        let existing = match state.names.get(path) {
            Some(Node::File(inode)) => Some(*inode),
            Some(Node::Dir) => return Err(io::Error::from_raw_os_error(21)),
            None => None,
        };
        let done = state.step_whole()?;
        let inode = match (existing, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::Error::from_raw_os_error(17)),
            (Some(inode), _) => inode,
            (None, OpenMode::Existing) => return Err(enoent()),
            (None, _) => {
                state.parent_exists(path)?;
                if done { state.add_file(path) } else { 0 }
            }
        };
        let (boot, answer) = (state.boot, state.answer(()));
        drop(state);
        answer.map(|()| MemFile { disk: self.clone(), inode, boot, holds_lock: AtomicBool::new(false) })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.0.lock();
        state.step_whole()?;
        if state.names.get(dir) != Some(&Node::Dir) {
            return Err(enoent());
        }
        let below = state.names.range(dir.to_owned()..).take_while(|(path, _)| path.starts_with(dir));
        let direct = below.filter(|(path, _)| path.parent() == Some(dir));
        let listed = direct.filter_map(|(path, node)| {
            path.file_name().map(|name| Listed { name: name.to_owned(), is_dir: *node == Node::Dir })
        });
        state.answer(listed.collect())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.parent_exists(dir)?;
        if state.names.contains_key(dir) {
            return Err(io::Error::from_raw_os_error(17));
        }
        if state.step_whole()? {
            state.change(Change::Add(dir.to_owned(), Node::Dir));
        }
        state.answer(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = *state.names.get(from).ok_or_else(enoent)?;
        state.parent_exists(to)?;
        if state.step_whole()? {
            state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        }
        state.answer(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = *state.names.get(path).ok_or_else(enoent)?;
        if state.step_whole()? {
            state.change(Change::Remove(path.to_owned(), node));
        }
        state.answer(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.names.get(dir) != Some(&Node::Dir) {
            return Err(enoent());
        }
        if state.step_whole()? {
            let State { pending, durable, .. } = &mut *state;
            pending.retain(|change| {
                let settled = change.is_in(dir);
                if settled {
                    change.apply(durable);
                }
                !settled
            });
        }
        state.answer(())
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let mut state = self.0.lock();
        state.step_whole()?;
        let mount = state.mounts.iter().position(|mount| dir.starts_with(mount));
        let file_system = mount.map_or(0, |at| at as u64 + 1);
        state.answer(Room { file_system, ..state.room })
    }
}

impl MemFile {
    /// Runs `act` on the file unless the operation fails; a fault leaves `partly` of it behind.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Inode) -> T,
        partly: impl FnOnce(&mut Inode, &mut Random, Fault),
    ) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.boot != self.boot {
            return Err(eio());
        }
        let fault = state.step()?;
        let State { files, random, .. } = &mut *state;
        let file = files.get_mut(&self.inode).ok_or_else(eio)?;
        match fault {
            None => Ok(act(file)),
            Some(fault) => {
                partly(file, random, fault);
                Err(fault_error(fault))
            }
        }
    }
}

impl DiskFile for MemFile {
    fn read(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let read = |file: &mut Inode| {
            let start = (offset as usize).min(file.now.len());
            out.extend_from_slice(&file.now[start..(start + length).min(file.now.len())]);
        };
        self.with(read, |_, _, _| ())
    }

    fn read_cached(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        self.read(offset, length, out).map(|()| true)
    }

    fn read_medium(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.read(offset, length, out)
    }

    fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let data = parts.concat();
        let all = |file: &mut Inode| file.write(offset as usize, &data);
        // a part of it, up to a sector's border, or all
        let partly = |file: &mut Inode, random: &mut Random, _| {
            let end = offset as usize + random.below(data.len() + SECTOR);
            let whole_sectors = (end - end % SECTOR).saturating_sub(offset as usize);
            file.write(offset as usize, &data[..whole_sectors.min(data.len())]);
        };
        self.with(all, partly)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let act = |file: &mut Inode| {
            let end = ((offset + length) as usize).min(file.now.len());
            if (offset as usize) < end {
                file.write(offset as usize, &vec![0; end - offset as usize]);
            }
        };
        self.with(act, |_, _, _| ())
    }

    fn allocate(&self, length: u64) -> io::Result<bool> {
        self.set_len(length)?;
        Ok(self.disk.0.lock().allocates)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.length()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|file| file.set_len(length as usize), |_, _, _| ())
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|file| file.now.len() as u64, |_, _, _| ())
    }

    fn sync(&self) -> io::Result<()> {
        let failing = |file: &mut Inode, random: &mut Random, fault| match fault {
            Fault::Crash if random.coin() => file.flush(),
            Fault::Crash => (),
            Fault::Eio | Fault::Enospc => file.abandon(),
        };
        self.with(Inode::flush, failing)
    }

    fn sync_file_system(&self) -> io::Result<()> {
        self.with(|_| (), |_, _, _| ())?;
        let mut state = self.disk.0.lock();
        state.files.values_mut().for_each(Inode::flush);
        state.pending.clear();
        state.durable = state.names.clone();
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let taken = self.with(|file| !std::mem::replace(&mut file.locked, true), |_, _, _| ())?;
        self.holds_lock.fetch_or(taken, Ordering::Relaxed);
        Ok(taken)
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enoent() -> io::Error {
    io::Error::from_raw_os_error(2)
}

fn fault_error(fault: Fault) -> io::Error {
    match fault {
        Fault::Eio | Fault::Crash => eio(),
        Fault::Enospc => io::Error::from_raw_os_error(28),
    }
}
