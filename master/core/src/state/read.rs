//! Typed reading of rows, the same for views and for commands being applied.

use super::layers::Stack;
use super::table::{self, Table};
use crate::outcome::{
    ChunkRecord, FileChunk, GarbageChunk, Orphan, PendingCut, Quarantined, ServerRecord, SessionRecord, Stats,
};
use crate::record::{self, Body, Dentry, FileBody, Inode, Mark, State};
use crate::store::Genesis;
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, DirCookie, InodeId, ServerId, SessionId};
use gfs_proto::name::Name;
use std::ops::ControlFlow;

/// A file's inode with its body at hand.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) inode: Inode,
    pub(crate) body: FileBody,
}

/// Something that rows can be read from.
pub(crate) trait Read {
    /// The rows.
    fn rows(&self) -> Stack<'_>;
    /// What the cluster was formatted with.
    fn genesis(&self) -> &Genesis;
    /// Counters.
    fn state(&self) -> &State;

    fn stats(&self) -> Stats {
        self.state().stats
    }

    fn find_inode(&self, id: InodeId) -> Result<Option<Inode>, FsError> {
        self.rows().get(Table::Inodes, &table::inode_key(id), |bytes| Inode::decode(id, bytes))
    }

    /// `Stale` if there is none.
    fn inode(&self, id: InodeId) -> Result<Inode, FsError> {
        self.find_inode(id)?.ok_or(FsError::Stale)
    }

    /// `NotDirectory` if it is something else.
    fn dir(&self, id: InodeId) -> Result<Inode, FsError> {
        let inode = self.inode(id)?;
        if inode.is_dir() { Ok(inode) } else { Err(FsError::NotDirectory) }
    }

    /// `IsDirectory` or `InvalidArgument` if it is something else.
    fn file(&self, id: InodeId) -> Result<File, FsError> {
        let inode = self.inode(id)?;
        match inode.body {
            Body::File(body) => Ok(File { inode, body }),
            Body::Directory { .. } => Err(FsError::IsDirectory),
            _ => Err(FsError::InvalidArgument),
        }
    }

    fn dentry(&self, parent: InodeId, name: &Name) -> Result<Option<Dentry>, FsError> {
        let key = table::dentry_key(self.genesis().cluster, parent, name);
        self.rows().get(Table::Dentries, &key, Dentry::decode)
    }

    /// The inode under a name. Dangling names are violations, so they are I/O errors here.
    fn child(&self, parent: InodeId, name: &Name) -> Result<Option<Inode>, FsError> {
        let Some(dentry) = self.dentry(parent, name)? else { return Ok(None) };
        match self.find_inode(dentry.inode)? {
            Some(inode) => Ok(Some(inode)),
            None => Err(self.rows().fault().corrupt(Table::Inodes, &table::inode_key(dentry.inode))),
        }
    }

    /// Entries of a directory from a cookie on.
    fn scan_dentries(
        &self,
        parent: InodeId,
        from: DirCookie,
        visit: &mut dyn FnMut(DirCookie, Name, Dentry) -> Result<ControlFlow<()>, FsError>,
    ) -> Result<(), FsError> {
        let rows = self.rows();
        let (start, prefix) = (table::cookie_key(parent, from), table::inode_key(parent));
        rows.scan(Table::Dentries, &start, &prefix, &mut |key, value| {
            let parts = (table::second_number(key), table::name_of(key), Dentry::decode(value));
            match parts {
                (Some(cookie), Some(name), Some(dentry)) => visit(DirCookie::new(cookie), name, dentry),
                _ => Err(rows.fault().corrupt(Table::Dentries, key)),
            }
        })
    }

    fn chunk(&self, handle: ChunkHandle) -> Result<Option<ChunkRecord>, FsError> {
        self.rows().get(Table::Chunks, &table::handle_key(handle), ChunkRecord::decode)
    }

    /// Handles of a file's chunks from an index on, at most `limit`.
    fn handles(
        &self,
        inode: InodeId,
        first: ChunkIndex,
        limit: u64,
    ) -> Result<Vec<(ChunkIndex, ChunkHandle)>, FsError> {
        let (rows, end) = (self.rows(), u64::from(first.get()).saturating_add(limit));
        let mut found = Vec::new();
        let (from, prefix) = (table::file_chunk_key(inode, first), table::inode_key(inode));
        rows.scan(Table::FileChunks, &from, &prefix, &mut |key, value| {
            let parts = table::index_of(key).zip(record::decode_number(value));
            let (index, handle) = parts.ok_or_else(|| rows.fault().corrupt(Table::FileChunks, key))?;
            if u64::from(index.get()) >= end {
                return Ok(ControlFlow::Break(()));
            }
            found.push((index, ChunkHandle::new(handle)));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn handle(&self, inode: InodeId, index: ChunkIndex) -> Result<Option<ChunkHandle>, FsError> {
        let key = table::file_chunk_key(inode, index);
        Ok(self.rows().get(Table::FileChunks, &key, record::decode_number)?.map(ChunkHandle::new))
    }

    /// A chunk that a file's map names.
    fn file_chunk(&self, index: ChunkIndex, handle: ChunkHandle) -> Result<FileChunk, FsError> {
        let key = table::handle_key(handle);
        let record = self.chunk(handle)?.ok_or_else(|| self.rows().fault().corrupt(Table::Chunks, &key))?;
        Ok(FileChunk { index, handle, record, cut: self.cut(handle)? })
    }

    fn cut(&self, handle: ChunkHandle) -> Result<Option<PendingCut>, FsError> {
        self.rows().get(Table::Cuts, &table::handle_key(handle), PendingCut::decode)
    }

    /// What is known of a chunk that nobody has flushed; none of any other.
    fn mark(&self, handle: ChunkHandle) -> Result<Option<Mark>, FsError> {
        self.rows().get(Table::Unwritten, &table::handle_key(handle), Mark::decode)
    }

    /// The chunks that have a mark.
    fn marks(&self) -> Result<Vec<(ChunkHandle, Mark)>, FsError> {
        self.page(Table::Unwritten, &[], usize::MAX, |key, value| {
            Some((table::first_number(key).map(ChunkHandle::new)?, Mark::decode(value)?))
        })
    }

    /// The chunks that have this mark.
    fn marked(&self, wanted: Mark) -> Result<Vec<ChunkHandle>, FsError> {
        let marks = self.marks()?.into_iter();
        Ok(marks.filter(|(_, mark)| *mark == wanted).map(|(handle, _)| handle).collect())
    }

    fn garbage_chunk(&self, handle: ChunkHandle) -> Result<Option<GarbageChunk>, FsError> {
        self.rows().get(Table::Garbage, &table::handle_key(handle), |bytes| GarbageChunk::decode(handle, bytes))
    }

    fn quarantined(&self, handle: ChunkHandle, server: ServerId) -> Result<Option<Quarantined>, FsError> {
        let key = table::unclaimed_key(handle, server);
        self.rows().get(Table::Quarantine, &key, |bytes| Quarantined::decode(handle, server, bytes))
    }

    fn orphan(&self, inode: InodeId) -> Result<Option<Orphan>, FsError> {
        let sessions = self.rows().get(Table::Orphans, &table::inode_key(inode), record::decode_sessions)?;
        Ok(sessions.map(|sessions| Orphan { inode, sessions }))
    }

    fn orphans(&self) -> Result<Vec<Orphan>, FsError> {
        self.page(Table::Orphans, &[], usize::MAX, |key, value| {
            let inode = InodeId::new(table::first_number(key)?);
            record::decode_sessions(value).map(|sessions| Orphan { inode, sessions })
        })
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, FsError> {
        let key = table::session_key(session);
        self.rows().get(Table::Sessions, &key, |bytes| SessionRecord::decode(session, bytes))
    }

    fn has_session(&self, session: SessionId) -> Result<bool, FsError> {
        Ok(self.rows().get(Table::Sessions, &table::session_key(session), |_| Some(()))?.is_some())
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>, FsError> {
        self.page(Table::Sessions, &[], usize::MAX, |key, value| {
            SessionRecord::decode(SessionId::new(table::first_number(key)?), value)
        })
    }

    fn servers(&self) -> Result<Vec<ServerRecord>, FsError> {
        self.page(Table::Servers, &[], usize::MAX, |key, value| {
            ServerRecord::decode(ServerId::new(u32::from_be_bytes(*key.first_chunk()?)), value)
        })
    }

    fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        self.rows().get(Table::Xattrs, &table::xattr_key(inode, name), record::decode_bytes)
    }

    fn xattr_names(&self, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        let (mut names, prefix) = (Vec::new(), table::inode_key(inode));
        self.rows().scan(Table::Xattrs, &prefix, &prefix, &mut |key, _| {
            names.push(key[prefix.len()..].to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }

    /// Rows of a table from a key on, decoded.
    fn page<T>(
        &self,
        table: Table,
        from: &[u8],
        limit: usize,
        decode: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, FsError> {
        let (rows, mut found) = (self.rows(), Vec::new());
        rows.scan(table, from, &[], &mut |key, value| {
            if found.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            found.push(decode(key, value).ok_or_else(|| rows.fault().corrupt(table, key))?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}
