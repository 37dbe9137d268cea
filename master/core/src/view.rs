//! Reading: a consistent picture of the state, with POSIX permission checks where a caller is given.
//!
//! Methods that take a [`Caller`] check what the kernel would; the others are for the master itself.

use crate::nesting::Alone;
use crate::outcome::{
    Applied, ChunkRecord, FileChunks, GarbageChunk, Orphan, PendingCut, Quarantined, ServerRecord, SessionRecord, Stats,
};
use crate::queries::{self, PageSpec};
use crate::record::{Mark, State};
use crate::state::Read;
use crate::state::layers::{Fault, Layers, Stack};
use crate::state::table::{Table, first_number, unclaimed_key, unclaimed_server};
use crate::store::{Genesis, StoreError};
use gfs_proto::attr::Attr;
use gfs_proto::caller::Caller;
use gfs_proto::error::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, DirCookie, InodeId, ServerId, SessionId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, DirPage};
use parking_lot::RwLockReadGuard;
use std::ops::Deref;

/// The state at one moment. `Io` from any method is the database's error, kept in [`View::fault`].
pub struct View<'a> {
    layers: Held<'a>,
    genesis: &'a Genesis,
    fault: Fault,
}

/// The layers, as they change or as they were.
enum Held<'a> {
    Live { layers: RwLockReadGuard<'a, Layers>, _alone: Alone },
    Copied(&'a Layers),
}

impl Deref for Held<'_> {
    type Target = Layers;
    fn deref(&self) -> &Layers {
        match self {
            Self::Live { layers, .. } => layers,
            Self::Copied(layers) => layers,
        }
    }
}

/// The state at one moment, which holds nobody up while it is looked at. Costs a copy of what has not been merged yet.
pub struct Snapshot<'a> {
    layers: Layers,
    genesis: &'a Genesis,
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(layers: Layers, genesis: &'a Genesis) -> Self {
        Self { layers, genesis }
    }

    /// To look at it.
    pub fn view(&self) -> View<'_> {
        View { layers: Held::Copied(&self.layers), genesis: self.genesis, fault: Fault::default() }
    }
}

impl Read for View<'_> {
    fn rows(&self) -> Stack<'_> {
        Stack::new(None, &self.layers, &self.fault)
    }
    fn genesis(&self) -> &Genesis {
        self.genesis
    }
    fn state(&self) -> &State {
        &self.layers.state
    }
}

impl<'a> View<'a> {
    pub(crate) fn new((layers, _alone): (RwLockReadGuard<'a, Layers>, Alone), genesis: &'a Genesis) -> Self {
        Self { layers: Held::Live { layers, _alone }, genesis, fault: Fault::default() }
    }

    pub(crate) fn into_fault(self) -> Option<StoreError> {
        self.fault.take()
    }
}

impl View<'_> {
    /// Last command whose effects this view shows.
    pub fn applied(&self) -> Applied {
        self.layers.state.applied
    }
    /// The first database error that a method of this view met: a reason to end the process.
    pub fn fault(&self) -> Option<&StoreError> {
        self.fault.get()
    }
    /// Finds a name. Search permission on the directory.
    pub fn lookup(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<Attr, FsError> {
        queries::lookup(self, caller, parent, name)
    }
    /// Attributes; `Stale` if the inode does not exist.
    pub fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        Read::inode(self, inode).map(|inode| inode.attr())
    }
    /// Attributes, if `caller` may open the inode so: `AccessDenied`, `IsDirectory` (writing), `Loop` (a
    /// symbolic link).
    pub fn may_open(&self, caller: &Caller, inode: InodeId, access: Access) -> Result<Attr, FsError> {
        queries::open(self, caller, inode, access)
    }
    /// Target of a symbolic link; `InvalidArgument` for anything else.
    pub fn read_link(&self, inode: InodeId) -> Result<Vec<u8>, FsError> {
        queries::read_link(self, inode)
    }
    /// A page of a directory after a cookie, of about `bytes_max` bytes on the wire (capped at
    /// `REPLY_PAGE_BYTES_MAX`). Names of equal hash share a cookie and are never split over pages. Read
    /// permission on the directory; attributes only with search permission too.
    pub fn read_dir(
        &self,
        caller: &Caller,
        inode: InodeId,
        after: DirCookie,
        bytes_max: u32,
        with_attributes: bool,
    ) -> Result<DirPage, FsError> {
        queries::read_dir(self, caller, inode, PageSpec { after, bytes_max, with_attributes })
    }
    /// Version of a directory, for preconditions and coherence.
    pub fn dir_version(&self, inode: InodeId) -> Result<u64, FsError> {
        queries::dir_version(self, inode)
    }
    /// Value of an extended attribute; `NoAttribute`, `AccessDenied`, `NotSupported` (unknown namespace).
    pub fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        queries::get_xattr(self, caller, inode, name)
    }
    /// Names of the extended attributes that `caller` may see (`trusted.` is root's).
    pub fn list_xattr(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        queries::list_xattr(self, caller, inode)
    }
    /// Chunks of a file with an index from `first` to `first + count - 1`.
    pub fn chunks(&self, inode: InodeId, first: ChunkIndex, count: u32) -> Result<FileChunks, FsError> {
        queries::chunks(self, inode, first, count)
    }
    /// A chunk of a file; `None` for garbage and for handles never given out.
    pub fn chunk(&self, handle: ChunkHandle) -> Result<Option<ChunkRecord>, FsError> {
        Read::chunk(self, handle)
    }
    /// A replica that is kept aside.
    pub fn quarantined(&self, handle: ChunkHandle, server: ServerId) -> Result<Option<Quarantined>, FsError> {
        Read::quarantined(self, handle, server)
    }
    /// A page of the replicas that are kept aside, in order of handle and server.
    pub fn quarantine(
        &self,
        after: Option<(ChunkHandle, ServerId)>,
        limit: usize,
    ) -> Result<Vec<Quarantined>, FsError> {
        let from = after.map_or(Vec::new(), |(handle, server)| unclaimed_key(handle, server.next()).to_vec());
        self.page(Table::Quarantine, &from, limit, |key, value| {
            Quarantined::decode(first_number(key).map(ChunkHandle::new)?, unclaimed_server(key)?, value)
        })
    }
    /// True if a chunk of this handle was made in this history: if there is none now, it was removed.
    pub fn was_given_out(&self, handle: ChunkHandle) -> bool {
        let next = self.layers.state.next_handle;
        handle < next && handle.restore_generation() == next.restore_generation()
    }
    /// The cut that the chunk's replicas have yet to make.
    pub fn pending_cut(&self, handle: ChunkHandle) -> Result<Option<PendingCut>, FsError> {
        self.cut(handle)
    }
    /// A page of pending cuts in order of handle.
    pub fn pending_cuts(
        &self,
        after: Option<ChunkHandle>,
        limit: usize,
    ) -> Result<Vec<(ChunkHandle, PendingCut)>, FsError> {
        self.page(Table::Cuts, &queries::after(after), limit, |key, value| {
            Some((ChunkHandle::new(first_number(key)?), PendingCut::decode(value)?))
        })
    }
    /// All chunks of which no replica was seen: perhaps nothing was ever written into them.
    pub fn unwritten(&self) -> Result<Vec<ChunkHandle>, FsError> {
        self.marked(Mark::Unwritten)
    }
    /// All chunks of which replicas were seen, and none that was flushed: power cuts may take all of them.
    pub fn unflushed(&self) -> Result<Vec<ChunkHandle>, FsError> {
        self.marked(Mark::Unflushed)
    }
    /// The garbage entry of a chunk.
    pub fn garbage_chunk(&self, handle: ChunkHandle) -> Result<Option<GarbageChunk>, FsError> {
        Read::garbage_chunk(self, handle)
    }
    /// A page of the garbage table in order of handle.
    pub fn garbage(&self, after: Option<ChunkHandle>, limit: usize) -> Result<Vec<GarbageChunk>, FsError> {
        self.page(Table::Garbage, &queries::after(after), limit, |key, value| {
            GarbageChunk::decode(ChunkHandle::new(first_number(key)?), value)
        })
    }
    /// A page of all chunks in order of handle (for repair and `gfsctl`).
    pub fn all_chunks(
        &self,
        after: Option<ChunkHandle>,
        limit: usize,
    ) -> Result<Vec<(ChunkHandle, ChunkRecord)>, FsError> {
        self.page(Table::Chunks, &queries::after(after), limit, |key, value| {
            Some((ChunkHandle::new(first_number(key)?), ChunkRecord::decode(value)?))
        })
    }
    /// All orphans.
    pub fn orphans(&self) -> Result<Vec<Orphan>, FsError> {
        Read::orphans(self)
    }
    /// The orphan of that number, if it is one.
    pub fn orphan(&self, inode: InodeId) -> Result<Option<Orphan>, FsError> {
        Read::orphan(self, inode)
    }
    /// Counts; O(1).
    pub fn stats(&self) -> Stats {
        self.layers.state.stats
    }
    /// A live session.
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, FsError> {
        Read::session(self, session)
    }
    /// All live sessions.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, FsError> {
        Read::sessions(self)
    }
    /// All chunkservers that ever registered.
    pub fn servers(&self) -> Result<Vec<ServerRecord>, FsError> {
        Read::servers(self)
    }
    /// A path of an inode from the root, for people: the last known one of several, `None` if it has
    /// none or the search would be long.
    pub fn path_of(&self, inode: InodeId) -> Result<Option<Vec<u8>>, FsError> {
        queries::path_of(self, inode)
    }
}
