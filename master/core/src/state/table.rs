//! The tables of the durable state and their keys. Integers in keys are big-endian: byte order is order.

use gfs_proto::ids::{ChunkHandle, ChunkIndex, ClusterId, DirCookie, InodeId, Sequence, ServerId, SessionId};
use gfs_proto::name::Name;
use redb::TableDefinition;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// A table of the state. `docs/format.md` has keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Table {
    /// inode -> attributes.
    Inodes,
    /// (directory, hash of the name, name) -> inode and kind.
    Dentries,
    /// (file, chunk index) -> handle.
    FileChunks,
    /// handle -> version, goal, references, entitled servers, file and index.
    Chunks,
    /// (inode, name) -> value.
    Xattrs,
    /// Unlinked inode -> sessions that keep it.
    Orphans,
    /// handle -> version and servers that have yet to delete it.
    Garbage,
    /// handle -> cut that its replicas have yet to make.
    Cuts,
    /// session -> secret, name.
    Sessions,
    /// (session, sequence) -> results; sequence 0 -> lowest sequence not acknowledged.
    Replies,
    /// server -> uuid, rack.
    Servers,
    /// handle of a chunk that perhaps was never written, or never flushed -> which.
    Unwritten,
    /// (handle, server) of a replica that nobody knows -> version, length, why, since when.
    Quarantine,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub(crate) const ALL: [Self; 13] = [
        Self::Inodes,
        Self::Dentries,
        Self::FileChunks,
        Self::Chunks,
        Self::Xattrs,
        Self::Orphans,
        Self::Garbage,
        Self::Cuts,
        Self::Sessions,
        Self::Replies,
        Self::Servers,
        Self::Unwritten,
        Self::Quarantine,
    ];

    /// Its name in the database.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inodes => "inodes",
            Self::Dentries => "dentries",
            Self::FileChunks => "file_chunks",
            Self::Chunks => "chunks",
            Self::Xattrs => "xattrs",
            Self::Orphans => "orphans",
            Self::Garbage => "garbage",
            Self::Cuts => "cuts",
            Self::Sessions => "sessions",
            Self::Replies => "replies",
            Self::Servers => "servers",
            Self::Unwritten => "unwritten",
            Self::Quarantine => "quarantine",
        }
    }

    /// For redb.
    pub(crate) const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }
}

/// Where the state that is no table lives: format, genesis, counters.
pub(crate) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

pub(crate) fn inode_key(inode: InodeId) -> [u8; 8] {
    inode.get().to_be_bytes()
}

pub(crate) fn handle_key(handle: ChunkHandle) -> [u8; 8] {
    handle.get().to_be_bytes()
}

pub(crate) fn session_key(session: SessionId) -> [u8; 8] {
    session.get().to_be_bytes()
}

pub(crate) fn server_key(server: ServerId) -> [u8; 4] {
    server.get().to_be_bytes()
}

pub(crate) fn unclaimed_key(handle: ChunkHandle, server: ServerId) -> [u8; 12] {
    join(handle_key(handle), server_key(server))
}

/// The server in the key of a replica replica.
pub(crate) fn unclaimed_server(key: &[u8]) -> Option<ServerId> {
    index_of(key).map(|number| ServerId::new(number.get()))
}

pub(crate) fn reply_key(session: SessionId, sequence: Sequence) -> [u8; 16] {
    join(session.get().to_be_bytes(), sequence.get().to_be_bytes())
}

pub(crate) fn file_chunk_key(inode: InodeId, index: ChunkIndex) -> [u8; 12] {
    join(inode_key(inode), index.get().to_be_bytes())
}

pub(crate) fn xattr_key(inode: InodeId, name: &[u8]) -> Vec<u8> {
    [&inode_key(inode)[..], name].concat()
}

/// Beginning of the keys of a directory's entries from `cookie` on.
pub(crate) fn cookie_key(parent: InodeId, cookie: DirCookie) -> [u8; 16] {
    join(inode_key(parent), cookie.get().to_be_bytes())
}

pub(crate) fn dentry_key(cluster: ClusterId, parent: InodeId, name: &Name) -> Vec<u8> {
    [&cookie_key(parent, cookie(cluster, name))[..], name.as_bytes()].concat()
}

/// Position of a name in its directory: 63 bits of SipHash-1-3 under the cluster's id, so that nobody
/// outside can choose names that collide; never one of those that `.` and `..` have.
pub(crate) fn cookie(cluster: ClusterId, name: &Name) -> DirCookie {
    let mut hasher = SipHasher13::new_with_key(cluster.as_bytes());
    hasher.write(name.as_bytes());
    DirCookie::new((hasher.finish() >> 1).max(DirCookie::FIRST.get()))
}

/// The number in the first 8 bytes of a key.
pub(crate) fn first_number(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The number in the second 8 bytes of a key.
pub(crate) fn second_number(key: &[u8]) -> Option<u64> {
    key.get(8..).and_then(first_number)
}

/// The chunk index in the key of a file's chunk.
pub(crate) fn index_of(key: &[u8]) -> Option<ChunkIndex> {
    key.get(8..12)?.first_chunk().map(|bytes| ChunkIndex::new(u32::from_be_bytes(*bytes)))
}

/// The name in the key of a dentry.
pub(crate) fn name_of(key: &[u8]) -> Option<Name> {
    Name::new(key.get(16..)?).ok()
}

fn join<const A: usize, const B: usize, const C: usize>(first: [u8; A], second: [u8; B]) -> [u8; C] {
    const { assert!(A + B == C) };
    let mut key = [0; C];
    key[..A].copy_from_slice(&first);
    key[A..].copy_from_slice(&second);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_numbered_in_order() {
        for (i, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, i);
        }
    }

    #[test]
    fn the_order_of_names_depends_on_the_cluster_alone() {
        let name = Name::new(b"a").expect("a name");
        let (one, two) = (ClusterId::new([1; 16]), ClusterId::new([2; 16]));
        assert_eq!(cookie(one, &name), cookie(one, &name));
        assert_ne!(cookie(one, &name), cookie(two, &name));
        assert!(cookie(one, &name).get() <= i64::MAX as u64, "fits into the kernel's signed offset");
    }
}
