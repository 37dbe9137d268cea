//! The tables as a command sees and changes them: its own changes over the layers.
//!
//! Nothing is visible to others until the store publishes the changes in one go. An operation that fails
//! is taken back to its savepoint. Counts of [`Stats`](crate::Stats) are kept here, with the rows.

use super::delta::{Delta, Slot};
use super::layers::{Fault, Layers, Stack};
use super::read::Read;
use super::table::{self, Table};
use crate::outcome::{ChunkRecord, GarbageChunk, PendingCut, Quarantined, ServerRecord, SessionRecord, Stats};
use crate::record::{self, Body, Dentry, Inode, Mark, State};
use crate::store::Genesis;
use gfs_proto::FsError;
use gfs_proto::attr::FileKind;
#[cfg(test)]
use gfs_proto::ids::DirCookie;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, RestoreGeneration, Sequence, SessionId};
use gfs_proto::name::Name;

/// See the module.
pub(crate) struct Tables<'a> {
    layers: &'a Layers,
    genesis: &'a Genesis,
    fault: &'a Fault,
    changes: Delta,
    state: State,
    dropped: Vec<ChunkHandle>,
    undo: Vec<(Table, Box<[u8]>, Option<Slot>)>,
    saved: Savepoint,
}

/// What to go back to if an operation fails, beside the rows in `undo`.
struct Savepoint {
    state: State,
    dropped: usize,
}

/// What a command changed.
pub(crate) struct Changes {
    pub(crate) rows: Delta,
    pub(crate) state: State,
    pub(crate) dropped: Vec<ChunkHandle>,
}

impl Read for Tables<'_> {
    fn rows(&self) -> Stack<'_> {
        Stack::new(Some(&self.changes), self.layers, self.fault)
    }
    fn genesis(&self) -> &Genesis {
        self.genesis
    }
    fn state(&self) -> &State {
        &self.state
    }
}

impl<'a> Tables<'a> {
    pub(crate) fn new(layers: &'a Layers, genesis: &'a Genesis, fault: &'a Fault) -> Self {
        let state = layers.state.clone();
        let saved = Savepoint { state: state.clone(), dropped: 0 };
        let (changes, dropped, undo) = (Delta::default(), Vec::new(), Vec::new());
        Self { layers, genesis, fault, changes, state, dropped, undo, saved }
    }

    /// All changes since the beginning.
    pub(crate) fn finish(self) -> Changes {
        Changes { rows: self.changes, state: self.state, dropped: self.dropped }
    }

    /// Everything up to here stays.
    pub(crate) fn savepoint(&mut self) {
        self.undo.clear();
        self.saved = Savepoint { state: self.state.clone(), dropped: self.dropped.len() };
    }

    /// Takes back what happened since the savepoint.
    pub(crate) fn rollback(&mut self) {
        for (table, key, slot) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.changes.set(table, &key, slot);
        }
        self.state = self.saved.state.clone();
        self.dropped.truncate(self.saved.dropped);
    }

    fn put(&mut self, table: Table, key: &[u8], value: Box<[u8]>, fresh: bool) {
        let old = self.changes.put(table, key, value, fresh);
        self.undo.push((table, key.into(), old));
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        // a row below whose key is fresh in no delta may not exist at all: a slot for nothing is harmless
        let old = self.changes.remove(table, key);
        self.undo.push((table, key.into(), old));
    }

    fn stats(&mut self) -> &mut Stats {
        &mut self.state.stats
    }
}

/// Inodes and names.
impl Tables<'_> {
    /// The next inode number.
    pub(crate) fn new_inode_id(&mut self) -> InodeId {
        let id = self.state.next_inode;
        self.state.next_inode = id.next();
        id
    }

    /// Stores a new inode.
    pub(crate) fn insert_inode(&mut self, inode: &Inode) {
        *self.kind_count(inode.kind()) += 1;
        if let Body::File(file) = inode.body {
            self.stats().bytes += file.size;
        }
        self.put(Table::Inodes, &table::inode_key(inode.id), inode.encode(), true);
    }

    /// Stores a changed inode. The size of a file changes by [`Tables::put_resized`] alone.
    pub(crate) fn put_inode(&mut self, inode: &Inode) {
        self.put(Table::Inodes, &table::inode_key(inode.id), inode.encode(), false);
    }

    /// Stores a file whose size was `old_size`.
    pub(crate) fn put_resized(&mut self, inode: &Inode, old_size: u64) {
        let stats = self.stats();
        stats.bytes = stats.bytes + inode.size() - old_size;
        self.put_inode(inode);
    }

    /// Removes an inode that has no chunks and no attributes left.
    pub(crate) fn remove_inode(&mut self, inode: &Inode) {
        *self.kind_count(inode.kind()) -= 1;
        if let Body::File(file) = inode.body {
            self.stats().bytes -= file.size;
        }
        self.remove(Table::Inodes, &table::inode_key(inode.id));
    }

    fn kind_count(&mut self, kind: FileKind) -> &mut u64 {
        let stats = &mut self.state.stats;
        match kind {
            FileKind::File => &mut stats.files,
            FileKind::Directory => &mut stats.directories,
            FileKind::Symlink => &mut stats.symlinks,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => &mut stats.specials,
        }
    }

    /// Adds a name that is known not to exist.
    pub(crate) fn insert_dentry(&mut self, parent: InodeId, name: &Name, inode: &Inode) {
        self.stats().dentries += 1;
        let key = table::dentry_key(self.genesis.cluster, parent, name);
        self.put(Table::Dentries, &key, Dentry { inode: inode.id, kind: inode.kind() }.encode(), true);
    }

    /// As [`Tables::insert_dentry`], at a cookie that is not the name's.
    #[cfg(test)]
    pub(crate) fn insert_dentry_at(&mut self, parent: InodeId, at: DirCookie, name: &Name, inode: &Inode) {
        let key = [&table::cookie_key(parent, at)[..], name.as_bytes()].concat();
        self.put(Table::Dentries, &key, Dentry { inode: inode.id, kind: inode.kind() }.encode(), true);
    }

    /// Lets an existing name mean another inode.
    pub(crate) fn replace_dentry(&mut self, parent: InodeId, name: &Name, inode: &Inode) {
        let key = table::dentry_key(self.genesis.cluster, parent, name);
        self.put(Table::Dentries, &key, Dentry { inode: inode.id, kind: inode.kind() }.encode(), false);
    }

    /// Removes a name that is known to exist.
    pub(crate) fn remove_dentry(&mut self, parent: InodeId, name: &Name) {
        self.stats().dentries -= 1;
        self.remove(Table::Dentries, &table::dentry_key(self.genesis.cluster, parent, name));
    }

    pub(crate) fn put_xattr(&mut self, inode: InodeId, name: &[u8], value: &[u8], new: bool) {
        self.put(Table::Xattrs, &table::xattr_key(inode, name), record::encode_bytes(value), new);
    }

    pub(crate) fn remove_xattr(&mut self, inode: InodeId, name: &[u8]) {
        self.remove(Table::Xattrs, &table::xattr_key(inode, name));
    }

    pub(crate) fn insert_orphan(&mut self, inode: InodeId, sessions: &[SessionId]) {
        self.stats().orphans += 1;
        self.put(Table::Orphans, &table::inode_key(inode), record::encode_sessions(sessions), true);
    }

    pub(crate) fn put_orphan(&mut self, inode: InodeId, sessions: &[SessionId]) {
        self.put(Table::Orphans, &table::inode_key(inode), record::encode_sessions(sessions), false);
    }

    pub(crate) fn remove_orphan(&mut self, inode: InodeId) {
        self.stats().orphans -= 1;
        self.remove(Table::Orphans, &table::inode_key(inode));
    }
}

/// Chunks.
impl Tables<'_> {
    /// The restore generation that ids are given out in.
    pub(crate) fn restore_generation(&self) -> RestoreGeneration {
        self.state.next_handle.restore_generation()
    }

    /// Gives out ids of a new restore generation from now on.
    pub(crate) fn begin_generation(&mut self, generation: RestoreGeneration) {
        self.state.next_inode = InodeId::first_of(generation);
        self.state.next_handle = ChunkHandle::first_of(generation);
    }

    /// The next chunk handle.
    pub(crate) fn new_handle(&mut self) -> ChunkHandle {
        let handle = self.state.next_handle;
        self.state.next_handle = handle.next();
        handle
    }

    /// Stores a new chunk, of which no replica exists, and its place in its file.
    pub(crate) fn insert_chunk(&mut self, handle: ChunkHandle, chunk: &ChunkRecord) {
        self.stats().chunks += 1;
        self.put(Table::Chunks, &table::handle_key(handle), chunk.encode(), true);
        let place = table::file_chunk_key(chunk.inode, chunk.index);
        self.put(Table::FileChunks, &place, record::encode_number(handle.get()), true);
        self.put_mark(handle, Mark::Unwritten, true);
    }

    pub(crate) fn put_chunk(&mut self, handle: ChunkHandle, chunk: &ChunkRecord) {
        self.put(Table::Chunks, &table::handle_key(handle), chunk.encode(), false);
    }

    /// Takes a chunk out of a file; without references left it is garbage.
    pub(crate) fn drop_chunk(&mut self, inode: InodeId, index: ChunkIndex, handle: ChunkHandle) -> Result<(), FsError> {
        let mut chunk = self.file_chunk(index, handle)?.record;
        self.remove(Table::FileChunks, &table::file_chunk_key(inode, index));
        if chunk.references > 1 {
            chunk.references -= 1;
            self.put_chunk(handle, &chunk);
            return Ok(());
        }
        if self.cut(handle)?.is_some() {
            self.remove_cut(handle);
        }
        if self.mark(handle)?.is_some() {
            self.remove_mark(handle);
        }
        self.stats().chunks -= 1;
        self.remove(Table::Chunks, &table::handle_key(handle));
        let garbage = GarbageChunk { handle, version: chunk.version, servers: chunk.entitled };
        self.stats().garbage += 1;
        self.put(Table::Garbage, &table::handle_key(handle), garbage.encode(), true);
        self.dropped.push(handle);
        Ok(())
    }

    /// Marks a chunk; `new` if it has no mark.
    pub(crate) fn put_mark(&mut self, handle: ChunkHandle, mark: Mark, new: bool) {
        self.put(Table::Unwritten, &table::handle_key(handle), mark.encode(), new);
    }

    pub(crate) fn remove_mark(&mut self, handle: ChunkHandle) {
        self.remove(Table::Unwritten, &table::handle_key(handle));
    }

    pub(crate) fn put_quarantined(&mut self, aside: &Quarantined, new: bool) {
        let key = table::unclaimed_key(aside.replica.handle, aside.replica.server);
        self.put(Table::Quarantine, &key, aside.encode(), new);
    }

    pub(crate) fn remove_quarantined(&mut self, handle: ChunkHandle, server: gfs_proto::ids::ServerId) {
        self.remove(Table::Quarantine, &table::unclaimed_key(handle, server));
    }

    /// A chunk that is in no file is garbage, if it is anywhere.
    pub(crate) fn drop_unplaced(&mut self, handle: ChunkHandle, chunk: ChunkRecord) -> Result<(), FsError> {
        if self.cut(handle)?.is_some() {
            self.remove_cut(handle);
        }
        if self.mark(handle)?.is_some() {
            self.remove_mark(handle);
        }
        self.stats().chunks -= 1;
        self.remove(Table::Chunks, &table::handle_key(handle));
        if !chunk.entitled.is_empty() {
            self.insert_garbage(&GarbageChunk { handle, version: chunk.version, servers: chunk.entitled });
        }
        Ok(())
    }

    /// A place whose chunk does not exist is a hole.
    pub(crate) fn clear_place(&mut self, inode: InodeId, index: ChunkIndex) {
        self.remove(Table::FileChunks, &table::file_chunk_key(inode, index));
    }

    /// Removes a row behind the rules.
    #[cfg(test)]
    pub(crate) fn tear(&mut self, table: Table, key: &[u8]) {
        self.remove(table, key);
    }

    /// Other counts than those that were kept.
    pub(crate) fn set_stats(&mut self, stats: Stats) {
        self.state.stats = stats;
    }

    /// Garbage of a chunk that has none yet.
    pub(crate) fn insert_garbage(&mut self, garbage: &GarbageChunk) {
        self.stats().garbage += 1;
        self.put(Table::Garbage, &table::handle_key(garbage.handle), garbage.encode(), true);
        self.dropped.push(garbage.handle);
    }

    /// Handles below this one were given out in this history, if they are of its restore generation.
    pub(crate) fn next_handle(&self) -> ChunkHandle {
        self.state.next_handle
    }

    pub(crate) fn put_garbage(&mut self, garbage: &GarbageChunk) {
        self.put(Table::Garbage, &table::handle_key(garbage.handle), garbage.encode(), false);
    }

    pub(crate) fn remove_garbage(&mut self, handle: ChunkHandle) {
        self.stats().garbage -= 1;
        self.remove(Table::Garbage, &table::handle_key(handle));
    }

    pub(crate) fn put_cut(&mut self, handle: ChunkHandle, cut: PendingCut, new: bool) {
        self.put(Table::Cuts, &table::handle_key(handle), cut.encode(), new);
    }

    pub(crate) fn remove_cut(&mut self, handle: ChunkHandle) {
        self.remove(Table::Cuts, &table::handle_key(handle));
    }
}

/// Sessions, outcomes, servers.
impl Tables<'_> {
    pub(crate) fn insert_session(&mut self, session: &SessionRecord) {
        self.stats().sessions += 1;
        self.put(Table::Sessions, &table::session_key(session.session), session.encode(), true);
    }

    pub(crate) fn remove_session(&mut self, session: SessionId) {
        self.stats().sessions -= 1;
        self.remove(Table::Sessions, &table::session_key(session));
    }

    pub(crate) fn put_reply(&mut self, session: SessionId, sequence: Sequence, value: Box<[u8]>, new: bool) {
        self.put(Table::Replies, &table::reply_key(session, sequence), value, new);
    }

    pub(crate) fn remove_reply(&mut self, session: SessionId, sequence: Sequence) {
        self.remove(Table::Replies, &table::reply_key(session, sequence));
    }

    pub(crate) fn insert_server(&mut self, server: &ServerRecord) {
        self.stats().servers += 1;
        self.state.next_server = server.server.next();
        self.put(Table::Servers, &table::server_key(server.server), server.encode(), true);
    }

    pub(crate) fn put_server(&mut self, server: &ServerRecord) {
        self.put(Table::Servers, &table::server_key(server.server), server.encode(), false);
    }

    pub(crate) fn remove_server(&mut self, server: gfs_proto::ids::ServerId) {
        self.stats().servers -= 1;
        self.remove(Table::Servers, &table::server_key(server));
    }

    /// The number that the next new server gets.
    pub(crate) fn next_server(&self) -> gfs_proto::ids::ServerId {
        self.state.next_server
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Fixture, ROOT, name};
    use std::ops::ControlFlow;

    fn rows(tx: &Tables<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        for table in Table::ALL {
            let scanned = tx.rows().scan(table, &[], &[], &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                Ok(ControlFlow::Continue(()))
            });
            scanned.expect("memory does not fail");
        }
        rows
    }

    #[test]
    fn a_rollback_takes_everything_back() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], 9);
        let fault = Fault::default();
        fixture.store.with_tables(&fault, |tx| {
            let mut inode = tx.inode(file).expect("it exists");
            tx.insert_dentry(ROOT, &name("kept"), &inode);
            tx.savepoint();
            let before = (rows(tx), tx.state.clone(), tx.dropped.clone());
            inode.nlink = 5;
            tx.put_inode(&inode);
            tx.remove_dentry(ROOT, &name("kept"));
            tx.insert_dentry(ROOT, &name("kept"), &inode);
            tx.remove_dentry(ROOT, &name("f"));
            let (index, handle) = tx.handles(file, ChunkIndex::new(0), 1).expect("readable")[0];
            tx.drop_chunk(file, index, handle).expect("it has the chunk");
            tx.new_inode_id();
            assert_ne!(rows(tx), before.0);
            tx.rollback();
            assert_eq!((rows(tx), tx.state.clone(), tx.dropped.clone()), before);
        });
    }
}
