//! The namespace of the fake master: enough of the rules to see what a client believes.

use crate::data::tests::server::FakeServer;
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind, SetTime};
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Numbering};
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, DirCookie, Epoch, InodeId, MapGeneration, OpenId, Term, TruncateGeneration,
};
use gfs_proto::limits::LEASE;
use gfs_proto::name::Name;
use gfs_proto::ops::{
    DirEntry, DirPage, FsStats, InodeRef, Made, Make, MakeKind, Op, OpResult, OpenSpec, Opened, RenameMode,
};
use gfs_proto::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Entries of a page of a directory: few, so that tests get several.
pub(crate) const PAGE_ENTRIES: usize = 4;

pub(crate) struct Namespace {
    pub(crate) index: u64,
    /// An open for reading is answered as if the session had the file open for writing, too, and were alone.
    pub(crate) readers_alone: bool,
    attrs: HashMap<InodeId, Attr>,
    children: HashMap<InodeId, BTreeMap<Vec<u8>, InodeId>>,
    targets: HashMap<InodeId, Vec<u8>>,
    versions: HashMap<InodeId, u64>,
    /// They have a replica of every chunk; without any, what is written stays dirty.
    pub(crate) servers: Vec<Arc<FakeServer>>,
    chunks: BTreeMap<(InodeId, ChunkIndex), ChunkGrant>,
    epochs: u64,
    /// Attributes before they were reported and not logged.
    logged: HashMap<InodeId, Attr>,
    last: InodeId,
    /// Opens for writing.
    writers: BTreeSet<(InodeId, OpenId)>,
}

impl Default for Namespace {
    fn default() -> Self {
        let mut namespace = Self {
            index: 1,
            readers_alone: false,
            attrs: HashMap::new(),
            children: HashMap::new(),
            targets: HashMap::new(),
            versions: HashMap::new(),
            servers: Vec::new(),
            chunks: BTreeMap::new(),
            epochs: 0,
            logged: HashMap::new(),
            last: InodeId::ROOT,
            writers: BTreeSet::new(),
        };
        namespace.attrs.insert(InodeId::ROOT, namespace.attr(InodeId::ROOT, FileKind::Directory));
        namespace.children.insert(InodeId::ROOT, BTreeMap::new());
        namespace
    }
}

fn id(inode: InodeRef) -> Result<InodeId, FsError> {
    match inode {
        InodeRef::Id(inode) => Ok(inode),
        InodeRef::ResultOf(_) => Err(FsError::NotSupported),
    }
}

/// Position of a name; tests use names whose first bytes differ.
fn cookie(name: &[u8]) -> DirCookie {
    let mut raw = [0; 8];
    raw[1..].iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    DirCookie::new(u64::from_be_bytes(raw))
}

impl Namespace {
    fn attr(&self, inode: InodeId, kind: FileKind) -> Attr {
        let now = Timestamp::new(self.index as i64, 0).expect("whole seconds");
        Attr {
            inode,
            kind,
            mode: gfs_proto::attr::Mode::new(0o755),
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            chunks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            truncate_generation: TruncateGeneration::default(),
            map_generation: MapGeneration::default(),
        }
    }

    /// Makes an empty file without a client's knowledge.
    pub(crate) fn add_file(&mut self, parent: InodeId, name: &str) -> InodeId {
        self.index += 1;
        self.last = self.last.next();
        let inode = self.last;
        self.attrs.insert(inode, self.attr(inode, FileKind::File));
        self.children.get_mut(&parent).expect("a directory").insert(name.as_bytes().to_vec(), inode);
        *self.versions.entry(parent).or_default() += 1;
        inode
    }

    /// As if another session had written the file.
    pub(crate) fn set_size(&mut self, inode: InodeId, size: u64) {
        self.attrs.get_mut(&inode).expect("a file").size = size;
    }

    /// As if another session had removed the last name of the file.
    pub(crate) fn remove_inode(&mut self, inode: InodeId) {
        self.attrs.remove(&inode);
    }

    /// Reported sizes and times were never logged.
    pub(crate) fn forget_reports(&mut self) {
        let forgotten: Vec<(InodeId, Attr)> = self.logged.drain().collect();
        self.attrs.extend(forgotten);
    }

    pub(crate) fn names(&self, parent: InodeId) -> Vec<String> {
        let names = self.children[&parent].keys();
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    pub(crate) fn attr_of(&self, inode: InodeId) -> Attr {
        self.attrs[&inode].clone()
    }

    /// A name of it is gone.
    fn unlinked(&mut self, inode: InodeId) {
        if let Some(attr) = self.attrs.get_mut(&inode).filter(|attr| attr.kind != FileKind::Directory) {
            attr.nlink -= 1;
        }
    }

    fn get(&self, inode: InodeRef) -> Result<Attr, FsError> {
        self.attrs.get(&id(inode)?).cloned().ok_or(FsError::Stale)
    }

    fn entries(&mut self, parent: InodeRef) -> Result<&mut BTreeMap<Vec<u8>, InodeId>, FsError> {
        let parent = id(parent)?;
        *self.versions.entry(parent).or_default() += 1;
        self.index += 1;
        self.children.get_mut(&parent).ok_or(FsError::NotDirectory)
    }

    fn find(&self, parent: InodeRef, name: &Name) -> Result<InodeId, FsError> {
        let entries = self.children.get(&id(parent)?).ok_or(FsError::NotDirectory)?;
        entries.get(name.as_bytes()).copied().ok_or(FsError::NotFound)
    }

    /// One operation.
    pub(crate) fn apply(&mut self, op: &Op, exclusive: bool) -> Result<OpResult, FsError> {
        match op {
            Op::Lookup { parent, name } => self.get(self.find(*parent, name)?.into()).map(OpResult::Attr),
            Op::GetAttr { inode } => self.get(*inode).map(OpResult::Attr),
            Op::ReadLink { inode } => {
                self.targets.get(&id(*inode)?).cloned().map(OpResult::Bytes).ok_or(FsError::InvalidArgument)
            }
            Op::ReadDir { inode, after, .. } => self.page(id(*inode)?, *after).map(OpResult::Page),
            Op::StatFs => Ok(OpResult::Stats(FsStats { goal: 3, ..FsStats::default() })),
            Op::ReadChunks { inode, first, count } => {
                let range = *first..ChunkIndex::new(first.get() + count);
                Ok(OpResult::Chunks(self.map(id(*inode)?, &range)))
            }
            Op::Make(make) => self.make(make, exclusive).map(OpResult::Made),
            Op::Link { inode, parent, name } => {
                let inode = id(*inode)?;
                self.entries(*parent)?.insert(name.as_bytes().to_vec(), inode);
                let attr = self.attrs.get_mut(&inode).ok_or(FsError::Stale)?;
                attr.nlink += 1;
                Ok(OpResult::Attr(attr.clone()))
            }
            Op::Unlink { parent, name } | Op::Rmdir { parent, name } => {
                let removed = self.find(*parent, name)?;
                self.entries(*parent)?.remove(name.as_bytes());
                self.unlinked(removed);
                Ok(OpResult::Done)
            }
            Op::Rename { from_parent, from_name, to_parent, to_name, mode } => {
                let moved = self.find(*from_parent, from_name)?;
                if *mode == RenameMode::NoReplace && self.find(*to_parent, to_name).is_ok() {
                    return Err(FsError::Exists);
                }
                self.entries(*from_parent)?.remove(from_name.as_bytes());
                let replaced = self.entries(*to_parent)?.insert(to_name.as_bytes().to_vec(), moved);
                replaced.into_iter().for_each(|replaced| self.unlinked(replaced));
                Ok(OpResult::Done)
            }
            Op::SetAttr { inode, changes } => {
                self.index += 1;
                let attr = self.attrs.get_mut(&id(*inode)?).ok_or(FsError::Stale)?;
                attr.mode = changes.mode.unwrap_or(attr.mode);
                attr.ctime = Timestamp::from_nanos(attr.ctime.as_nanos() + 1);
                if let Some(size) = changes.size {
                    attr.size = size;
                    attr.truncate_generation = attr.truncate_generation.next();
                }
                if let Some(SetTime::At(at)) = changes.mtime {
                    attr.mtime = at;
                }
                Ok(OpResult::Attr(attr.clone()))
            }
            Op::Open { inode, spec } => {
                if spec.truncate {
                    self.cut(id(*inode)?, 0);
                }
                let attr = self.get(*inode)?;
                self.register(attr.inode, spec);
                let exclusive = exclusive && (self.is_written(attr.inode) || self.readers_alone);
                Ok(OpResult::Opened(Opened { attr, exclusive, chunks: ChunkMap::default() }))
            }
            Op::Release { inode, open } => {
                self.writers.remove(&(id(*inode)?, *open));
                Ok(OpResult::Done)
            }
            Op::ReturnChunks { .. } | Op::AwaitCopies { .. } => Ok(OpResult::Done),
            Op::ReportSize { inode, size, mtime, ctime, durable, truncate_generation, .. } => {
                let attr = self.attrs.get_mut(&id(*inode)?).ok_or(FsError::Stale)?;
                if *truncate_generation != attr.truncate_generation {
                    return Ok(OpResult::Attr(attr.clone()));
                }
                if *durable {
                    self.logged.remove(&attr.inode);
                } else {
                    self.logged.entry(attr.inode).or_insert_with(|| attr.clone());
                }
                attr.size = attr.size.max(*size);
                if let Some(SetTime::At(at)) = mtime {
                    attr.mtime = *at;
                }
                attr.ctime = ctime.unwrap_or(attr.ctime);
                Ok(OpResult::Attr(attr.clone()))
            }
            Op::GrantChunk { .. } if self.servers.is_empty() => Err(FsError::Unavailable),
            Op::GrantChunk { inode, index } => self.grant(id(*inode)?, *index).map(OpResult::Grant),
            _ => Err(FsError::NotSupported),
        }
    }

    fn register(&mut self, inode: InodeId, spec: &OpenSpec) {
        if spec.access.writes() {
            self.writers.insert((inode, spec.open));
        }
    }

    /// Somebody has it open for writing, as far as was told.
    pub(crate) fn is_written(&self, inode: InodeId) -> bool {
        self.writers.iter().any(|(written, _)| *written == inode)
    }

    /// As if another session had set the size.
    pub(crate) fn cut(&mut self, inode: InodeId, size: u64) {
        let attr = self.attrs.get_mut(&inode).expect("a file");
        (attr.size, attr.truncate_generation) = (size, attr.truncate_generation.next());
    }

    fn map(&self, inode: InodeId, range: &Range<ChunkIndex>) -> ChunkMap {
        let grants = self.chunks.range((inode, range.start)..(inode, range.end)).map(|(_, grant)| grant);
        let location = |grant: &ChunkGrant| ChunkLocation {
            index: grant.index,
            handle: grant.handle,
            version: grant.version,
            clip: None,
            leased: true,
            replicas: grant.replicas.clone(),
        };
        ChunkMap { generation: MapGeneration::default(), chunks: grants.map(location).collect() }
    }

    /// The grant of the chunk again, or one of a new epoch if the file was cut since.
    fn grant(&mut self, inode: InodeId, index: ChunkIndex) -> Result<ChunkGrant, FsError> {
        let attr = self.get(inode.into())?;
        let before = self.chunks.get(&(inode, index));
        if let Some(grant) = before.filter(|grant| grant.truncate_generation == attr.truncate_generation) {
            return Ok(grant.clone());
        }
        let created = before.is_none();
        self.epochs += 1;
        let grant = ChunkGrant {
            inode,
            index,
            handle: ChunkHandle::new(inode.get() << 8 | u64::from(index.get())),
            version: ChunkVersion::new(1),
            epoch: Epoch { term: Term::new(1), counter: self.epochs },
            numbering: Numbering::Client,
            created,
            replicas: self.servers.iter().map(|server| server.replica()).collect(),
            truncate_generation: attr.truncate_generation,
            map_generation: MapGeneration::default(),
            lease: LEASE,
        };
        self.servers.iter().for_each(|server| server.install(&grant, attr.size));
        self.chunks.insert((inode, index), ChunkGrant { created: false, ..grant.clone() });
        Ok(grant)
    }

    fn make(&mut self, make: &Make, exclusive: bool) -> Result<Made, FsError> {
        let opened =
            |attr: &Attr| make.open.map(|_| Opened { attr: attr.clone(), exclusive, chunks: ChunkMap::default() });
        if let Ok(existing) = self.find(make.parent, &make.name) {
            let attr = self.get(existing.into())?;
            let found = Made { opened: opened(&attr), attr, existed: true, grant: None };
            return if make.exclusive { Err(FsError::Exists) } else { Ok(found) };
        }
        self.last = self.last.next();
        let inode = self.last;
        self.entries(make.parent)?.insert(make.name.as_bytes().to_vec(), inode);
        let attr = Attr { mode: make.mode, ..self.attr(inode, make.kind.file_kind()) };
        self.attrs.insert(inode, attr.clone());
        make.open.iter().for_each(|spec| self.register(inode, spec));
        match &make.kind {
            MakeKind::Directory => {
                self.children.insert(inode, BTreeMap::new());
            }
            MakeKind::Symlink(target) => {
                self.targets.insert(inode, target.clone());
            }
            _ => {}
        }
        Ok(Made { opened: opened(&attr), attr, existed: false, grant: None })
    }

    fn page(&self, inode: InodeId, after: DirCookie) -> Result<DirPage, FsError> {
        let children = self.children.get(&inode).ok_or(FsError::NotDirectory)?;
        let rest: Vec<_> = children.iter().filter(|(name, _)| cookie(name) > after).collect();
        let entry = |(name, child): &(&Vec<u8>, &InodeId)| {
            let attr = self.attrs.get(child).cloned()?;
            let name = Name::new(name).ok()?;
            Some(DirEntry { cookie: cookie(name.as_bytes()), name, inode: **child, kind: attr.kind, attr: Some(attr) })
        };
        Ok(DirPage {
            entries: rest.iter().take(PAGE_ENTRIES).filter_map(entry).collect(),
            end: rest.len() <= PAGE_ENTRIES,
            version: self.versions.get(&inode).copied().unwrap_or_default(),
        })
    }
}
