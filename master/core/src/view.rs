//! Reading: a consistent picture of the state, with POSIX permission checks where a caller is given.
//!
//! Methods that take a [`Caller`] check what the kernel would; the others are for the master itself.

use crate::outcome::{
    Applied, ChunkRecord, FileChunks, GarbageChunk, Orphan, PendingCut, ServerRecord, SessionRecord, Stats,
};
use crate::store::StoreError;
use gfs_proto::attr::Attr;
use gfs_proto::caller::Caller;
use gfs_proto::error::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, DirCookie, InodeId, SessionId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, DirPage};
use std::marker::PhantomData;

/// The state at one moment. `Io` from any method is the database's error, kept in [`View::fault`].
pub struct View<'a> {
    _store: PhantomData<&'a ()>,
}

impl View<'_> {
    /// Last command whose effects this view shows.
    pub fn applied(&self) -> Applied {
        unimplemented!()
    }
    /// The first database error that a method of this view met: a reason to end the process.
    pub fn fault(&self) -> Option<&StoreError> {
        unimplemented!()
    }
    /// Finds a name. Search permission on the directory.
    pub fn lookup(&self, _caller: &Caller, _parent: InodeId, _name: &Name) -> Result<Attr, FsError> {
        unimplemented!()
    }
    /// Attributes; `Stale` if the inode does not exist.
    pub fn attr(&self, _inode: InodeId) -> Result<Attr, FsError> {
        unimplemented!()
    }
    /// Attributes, if `caller` may open the inode so: `AccessDenied`, `IsDirectory` (writing), `Loop` (a
    /// symbolic link).
    pub fn may_open(&self, _caller: &Caller, _inode: InodeId, _access: Access) -> Result<Attr, FsError> {
        unimplemented!()
    }
    /// Target of a symbolic link; `InvalidArgument` for anything else.
    pub fn read_link(&self, _inode: InodeId) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }
    /// A page of a directory after a cookie, of about `bytes_max` bytes on the wire (capped at
    /// `REPLY_PAGE_BYTES_MAX`). Names of equal hash share a cookie and are never split over pages. Read
    /// permission on the directory; attributes only with search permission too.
    pub fn read_dir(
        &self,
        _caller: &Caller,
        _inode: InodeId,
        _after: DirCookie,
        _bytes_max: u32,
        _with_attributes: bool,
    ) -> Result<DirPage, FsError> {
        unimplemented!()
    }
    /// Version of a directory, for preconditions and coherence.
    pub fn dir_version(&self, _inode: InodeId) -> Result<u64, FsError> {
        unimplemented!()
    }
    /// Value of an extended attribute; `NoAttribute`, `AccessDenied`, `NotSupported` (unknown namespace).
    pub fn get_xattr(&self, _caller: &Caller, _inode: InodeId, _name: &[u8]) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }
    /// Names of the extended attributes that `caller` may see (`trusted.` is root's).
    pub fn list_xattr(&self, _caller: &Caller, _inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        unimplemented!()
    }
    /// Chunks of a file with an index from `first` to `first + count - 1`.
    pub fn chunks(&self, _inode: InodeId, _first: ChunkIndex, _count: u32) -> Result<FileChunks, FsError> {
        unimplemented!()
    }
    /// A chunk of a file; `None` for garbage and for handles never given out.
    pub fn chunk(&self, _handle: ChunkHandle) -> Result<Option<ChunkRecord>, FsError> {
        unimplemented!()
    }
    /// The cut that the chunk's replicas have yet to make.
    pub fn pending_cut(&self, _handle: ChunkHandle) -> Result<Option<PendingCut>, FsError> {
        unimplemented!()
    }
    /// A page of pending cuts in order of handle.
    pub fn pending_cuts(
        &self,
        _after: Option<ChunkHandle>,
        _limit: usize,
    ) -> Result<Vec<(ChunkHandle, PendingCut)>, FsError> {
        unimplemented!()
    }
    /// The garbage entry of a chunk.
    pub fn garbage_chunk(&self, _handle: ChunkHandle) -> Result<Option<GarbageChunk>, FsError> {
        unimplemented!()
    }
    /// A page of the garbage table in order of handle.
    pub fn garbage(&self, _after: Option<ChunkHandle>, _limit: usize) -> Result<Vec<GarbageChunk>, FsError> {
        unimplemented!()
    }
    /// A page of all chunks in order of handle (for repair and `gfsctl`).
    pub fn all_chunks(
        &self,
        _after: Option<ChunkHandle>,
        _limit: usize,
    ) -> Result<Vec<(ChunkHandle, ChunkRecord)>, FsError> {
        unimplemented!()
    }
    /// All orphans.
    pub fn orphans(&self) -> Result<Vec<Orphan>, FsError> {
        unimplemented!()
    }
    /// The orphan of that number, if it is one.
    pub fn orphan(&self, _inode: InodeId) -> Result<Option<Orphan>, FsError> {
        unimplemented!()
    }
    /// Counts; O(1).
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// A live session.
    pub fn session(&self, _session: SessionId) -> Result<Option<SessionRecord>, FsError> {
        unimplemented!()
    }
    /// All live sessions.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, FsError> {
        unimplemented!()
    }
    /// All chunkservers that ever registered.
    pub fn servers(&self) -> Result<Vec<ServerRecord>, FsError> {
        unimplemented!()
    }
    /// A path of an inode from the root, for people: the last known one of several, `None` if it has
    /// none or the search would be long.
    pub fn path_of(&self, _inode: InodeId) -> Result<Option<Vec<u8>>, FsError> {
        unimplemented!()
    }
}
