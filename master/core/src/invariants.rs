//! Properties of the state, one named function each. Run after every operation in tests, and by fsck.
//!
//! They look at the rows alone, never at how they came about, and report all that is wrong.

use crate::command::Mend;
use crate::outcome::{ChunkRecord, GarbageChunk, PendingCut, Quarantined, Stats, Unclaimed};
use crate::record::{self, Body, Dentry, Inode};
use crate::state::Read;
use crate::state::table::{self, Table};
use crate::view::View;
use gfs_proto::FsError;
use gfs_proto::attr::FileKind;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, SessionId};
use gfs_proto::limits::{FILE_SIZE_MAX, GOAL_MAX, LINKS_MAX};
use gfs_proto::name::Name;
use std::collections::{BTreeMap, BTreeSet};

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Name of the function in `invariants` that found it.
    pub invariant: &'static str,
    /// What is wrong, for people.
    pub detail: String,
    /// What would put it right; none: nobody knows.
    pub repair: Option<Mend>,
}

/// A chunk behind the end of its file: somebody is writing there, or a size was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beyond {
    /// The file.
    pub inode: InodeId,
    /// Where.
    pub index: ChunkIndex,
    /// The chunk.
    pub handle: ChunkHandle,
}

/// What a look at the whole state found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Examination {
    /// Properties that do not hold.
    pub violations: Vec<Violation>,
    /// Not wrong by itself: sizes of files that are being written are volatile.
    pub beyond: Vec<Beyond>,
}

/// All rows, decoded.
struct Facts {
    inodes: BTreeMap<InodeId, Inode>,
    dentries: Vec<(InodeId, Name, Dentry)>,
    file_chunks: BTreeSet<(InodeId, ChunkIndex, ChunkHandle)>,
    chunks: BTreeMap<ChunkHandle, ChunkRecord>,
    xattrs: Vec<(InodeId, Vec<u8>)>,
    orphans: BTreeSet<InodeId>,
    garbage: BTreeMap<ChunkHandle, GarbageChunk>,
    cuts: BTreeMap<ChunkHandle, PendingCut>,
    unwritten: Vec<ChunkHandle>,
    quarantine: Vec<Quarantined>,
    sessions: BTreeSet<SessionId>,
    replies: BTreeSet<SessionId>,
    servers: u64,
    stats: Stats,
    next_inode: InodeId,
    next_handle: ChunkHandle,
    chunk_size: gfs_proto::layout::ChunkSize,
}

/// What is found goes here: the detail of each violation, and its repair.
#[derive(Default)]
struct Found(Vec<(String, Option<Mend>)>);

impl Found {
    /// Without a repair.
    fn push(&mut self, detail: String) {
        self.0.push((detail, None));
    }
    fn mend(&mut self, detail: String, repair: Mend) {
        self.0.push((detail, Some(repair)));
    }
}

/// What a count lacks.
fn lacks(counted: impl Into<u64>, kept: impl Into<u64>) -> i64 {
    let difference = i128::from(counted.into()) - i128::from(kept.into());
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

type Invariant = fn(&Facts, &mut Found);

/// Every property with its name.
const ALL: &[(&str, Invariant)] = &[
    ("dentries_name_inodes", dentries_name_inodes),
    ("nlink_equals_dentries", nlink_equals_dentries),
    ("directories_form_a_tree", directories_form_a_tree),
    ("entries_are_counted", entries_are_counted),
    ("orphans_have_no_links", orphans_have_no_links),
    ("chunks_are_referenced", chunks_are_referenced),
    ("garbage_is_not_live", garbage_is_not_live),
    ("quarantine_is_of_unclaimed", quarantine_is_of_unclaimed),
    ("cuts_are_inside_chunks", cuts_are_inside_chunks),
    ("unwritten_chunks_exist", unwritten_chunks_exist),
    ("sizes_are_within_limits", sizes_are_within_limits),
    ("goals_are_within_limits", goals_are_within_limits),
    ("xattrs_belong_to_inodes", xattrs_belong_to_inodes),
    ("replies_belong_to_sessions", replies_belong_to_sessions),
    ("ids_are_given_out_once", ids_are_given_out_once),
    ("stats_equal_recount", stats_equal_recount),
];

/// Checks all properties.
pub(crate) fn check(view: &View<'_>) -> Result<Vec<Violation>, FsError> {
    examine(view).map(|examination| examination.violations)
}

/// Checks all properties, and looks for what may be wrong.
pub(crate) fn examine(view: &View<'_>) -> Result<Examination, FsError> {
    let facts = Facts::gather(view)?;
    let mut violations = Vec::new();
    for &(invariant, holds) in ALL {
        let mut found = Found::default();
        holds(&facts, &mut found);
        let violation = |(detail, repair)| Violation { invariant, detail, repair };
        violations.extend(found.0.into_iter().map(violation));
    }
    let ends = |inode: &InodeId| match facts.inodes.get(inode).map(|inode| &inode.body) {
        Some(Body::File(file)) => file.size,
        _ => u64::MAX,
    };
    let beyond = facts.file_chunks.iter().filter(|(inode, index, _)| facts.chunk_size.start_of(*index) >= ends(inode));
    let beyond =
        beyond.map(|(inode, index, handle)| Beyond { inode: *inode, index: *index, handle: *handle }).collect();
    Ok(Examination { violations, beyond })
}

impl Facts {
    fn gather(view: &View<'_>) -> Result<Self, FsError> {
        let inode_of = |key: &[u8]| table::first_number(key).map(InodeId::new);
        let handle_of = |key: &[u8]| table::first_number(key).map(ChunkHandle::new);
        let session_of = |key: &[u8]| table::first_number(key).map(SessionId::new);
        let all = usize::MAX;
        let inodes = view.page(Table::Inodes, &[], all, |key, value| {
            let id = inode_of(key)?;
            Inode::decode(id, value).map(|inode| (id, inode))
        })?;
        let dentries = view.page(Table::Dentries, &[], all, |key, value| {
            let (parent, name) = (inode_of(key)?, table::name_of(key)?);
            let rightly = table::dentry_key(view.genesis().cluster, parent, &name) == key;
            rightly.then_some((parent, name, Dentry::decode(value)?))
        })?;
        let file_chunks = view.page(Table::FileChunks, &[], all, |key, value| {
            Some((inode_of(key)?, table::index_of(key)?, ChunkHandle::new(record::decode_number(value)?)))
        })?;
        let chunks =
            view.page(Table::Chunks, &[], all, |key, value| Some((handle_of(key)?, ChunkRecord::decode(value)?)))?;
        let xattrs = view.page(Table::Xattrs, &[], all, |key, _| Some((inode_of(key)?, key.get(8..)?.to_vec())))?;
        let garbage = view.page(Table::Garbage, &[], all, |key, value| {
            let handle = handle_of(key)?;
            GarbageChunk::decode(handle, value).map(|garbage| (handle, garbage))
        })?;
        let cuts =
            view.page(Table::Cuts, &[], all, |key, value| Some((handle_of(key)?, PendingCut::decode(value)?)))?;
        let replies = view.page(Table::Replies, &[], all, |key, _| session_of(key))?;
        Ok(Self {
            inodes: inodes.into_iter().collect(),
            dentries,
            file_chunks: file_chunks.into_iter().collect(),
            chunks: chunks.into_iter().collect(),
            xattrs,
            orphans: Read::orphans(view)?.into_iter().map(|orphan| orphan.inode).collect(),
            garbage: garbage.into_iter().collect(),
            cuts: cuts.into_iter().collect(),
            unwritten: Read::marks(view)?.into_iter().map(|(handle, _)| handle).collect(),
            quarantine: view.quarantine(None, all)?,
            sessions: Read::sessions(view)?.into_iter().map(|session| session.session).collect(),
            replies: replies.into_iter().collect(),
            servers: Read::servers(view)?.len() as u64,
            stats: Read::stats(view),
            next_inode: view.state().next_inode,
            next_handle: view.state().next_handle,
            chunk_size: view.genesis().chunk_size,
        })
    }
}

/// Every name is in a directory and means an inode of the kind it says.
fn dentries_name_inodes(facts: &Facts, found: &mut Found) {
    for (parent, name, dentry) in &facts.dentries {
        if !facts.inodes.get(parent).is_some_and(Inode::is_dir) {
            found.push(format!("{name:?} is in {parent}, which is no directory"));
        }
        match facts.inodes.get(&dentry.inode) {
            None => found.mend(
                format!("{name:?} in {parent} means inode {}, which does not exist", dentry.inode),
                Mend::RemoveName { parent: *parent, name: name.clone() },
            ),
            Some(inode) if inode.kind() != dentry.kind => {
                found.push(format!("{name:?} in {parent} says {:?}, the inode {:?}", dentry.kind, inode.kind()));
            }
            Some(_) => {}
        }
    }
}

/// Links of an inode = its names; of a directory = 2 + its subdirectories.
fn nlink_equals_dentries(facts: &Facts, found: &mut Found) {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut subdirectories: BTreeMap<InodeId, u32> = BTreeMap::new();
    for (parent, _, dentry) in &facts.dentries {
        *names.entry(dentry.inode).or_default() += 1;
        if dentry.kind == FileKind::Directory {
            *subdirectories.entry(*parent).or_default() += 1;
        }
    }
    for (id, inode) in &facts.inodes {
        let named = names.get(id).copied().unwrap_or(0);
        let links = if inode.is_dir() { 2 + subdirectories.get(id).copied().unwrap_or(0) } else { named };
        let detail = || format!("inode {id} has {} links, counted {links}", inode.nlink);
        let is_lost = named == 0 && *id != InodeId::ROOT && !facts.orphans.contains(id);
        if is_lost {
            found.mend(format!("inode {id} has {} links and no name", inode.nlink), Mend::Rescue { inode: *id });
        } else if inode.nlink != links && links > 0 {
            found.mend(detail(), Mend::AddLinks { inode: *id, by: lacks(links, inode.nlink) });
        } else if inode.nlink != links {
            found.push(detail());
        }
        if inode.is_dir() && named > 1 {
            found.push(format!("directory {id} has {named} names"));
        }
    }
}

/// Every directory's parent is where its name is, and leads to the root.
fn directories_form_a_tree(facts: &Facts, found: &mut Found) {
    for (parent, name, dentry) in &facts.dentries {
        let wrong = facts.inodes.get(&dentry.inode).is_some_and(|inode| inode.is_dir() && inode.parent != *parent);
        if wrong {
            found.push(format!("directory {name:?} is in {parent}, its record says otherwise"));
        }
    }
    let mut rooted = BTreeSet::from([InodeId::ROOT]);
    for (id, _) in facts.inodes.iter().filter(|(_, inode)| inode.is_dir()) {
        let (mut path, mut at) = (BTreeSet::new(), *id);
        while !rooted.contains(&at) && path.insert(at) {
            at = facts.inodes.get(&at).map_or(at, |inode| inode.parent);
        }
        if rooted.contains(&at) {
            rooted.append(&mut path);
        } else {
            found.push(format!("directory {id} is not below the root"));
        }
    }
}

/// The size of a directory is the number of its entries.
fn entries_are_counted(facts: &Facts, found: &mut Found) {
    let mut counted: BTreeMap<InodeId, u64> = BTreeMap::new();
    for (parent, _, _) in &facts.dentries {
        *counted.entry(*parent).or_default() += 1;
    }
    for (id, inode) in &facts.inodes {
        let counted = counted.get(id).copied().unwrap_or(0);
        if let Body::Directory { entries, .. } = inode.body
            && entries != counted
        {
            let repair = Mend::AddEntries { inode: *id, by: lacks(counted, entries) };
            found.mend(format!("directory {id} says {entries} entries, counted {counted}"), repair);
        }
    }
}

/// An inode has no links if and only if it is an orphan.
fn orphans_have_no_links(facts: &Facts, found: &mut Found) {
    for (id, inode) in &facts.inodes {
        // one without links that is no orphan has no name either: that is said elsewhere
        if facts.orphans.contains(id) && inode.nlink != 0 {
            found.push(format!("inode {id} has {} links, orphan: {}", inode.nlink, facts.orphans.contains(id)));
        }
    }
    for id in facts.orphans.iter().filter(|id| !facts.inodes.contains_key(id)) {
        found.push(format!("orphan {id} does not exist"));
    }
}

/// Each chunk has as many places in files as references, one of them the recorded one; files count theirs.
fn chunks_are_referenced(facts: &Facts, found: &mut Found) {
    let mut references: BTreeMap<ChunkHandle, u32> = BTreeMap::new();
    let mut counted: BTreeMap<InodeId, u32> = BTreeMap::new();
    for (inode, index, handle) in &facts.file_chunks {
        *references.entry(*handle).or_default() += 1;
        *counted.entry(*inode).or_default() += 1;
        if !facts.chunks.contains_key(handle) {
            let repair = Mend::ClearPlace { inode: *inode, index: *index };
            found.mend(format!("chunk {index} of file {inode} is {handle}, which does not exist"), repair);
        }
        if !facts.inodes.get(inode).is_some_and(|inode| matches!(inode.body, Body::File(_))) {
            found.push(format!("{handle} is a chunk of {inode}, which is no file"));
        }
    }
    for (handle, chunk) in &facts.chunks {
        let counted = references.get(handle).copied().unwrap_or(0);
        if counted == 0 {
            found.mend(format!("chunk {handle} is in no file"), Mend::DropChunk { handle: *handle });
            continue;
        }
        if chunk.references != counted {
            found.push(format!("chunk {handle} has {} references, counted {counted}", chunk.references));
        }
        if !facts.file_chunks.contains(&(chunk.inode, chunk.index, *handle)) && chunk.references == 1 {
            found.push(format!("chunk {handle} is not where it says: file {}, index {}", chunk.inode, chunk.index));
        }
        if chunk.entitled.is_empty() || chunk.version.get() == 0 {
            found.push(format!("chunk {handle} has no version or no server"));
        }
    }
    for (id, inode) in &facts.inodes {
        let counted = counted.get(id).copied().unwrap_or(0);
        if let Body::File(file) = inode.body
            && file.chunks != counted
        {
            let repair = Mend::AddChunks { inode: *id, by: lacks(counted, file.chunks) };
            found.mend(format!("file {id} says {} chunks, counted {counted}", file.chunks), repair);
        }
    }
}

/// No chunk is both part of a file and to be deleted; garbage waits for somebody.
fn garbage_is_not_live(facts: &Facts, found: &mut Found) {
    for (handle, garbage) in &facts.garbage {
        if facts.chunks.contains_key(handle) {
            found.push(format!("chunk {handle} is garbage and in use"));
        }
        if garbage.servers.is_empty() {
            found.push(format!("garbage {handle} waits for nobody"));
        }
    }
}

/// What is kept aside is not waiting for its deletion.
fn quarantine_is_of_unclaimed(facts: &Facts, found: &mut Found) {
    for Unclaimed { handle, server, .. } in facts.quarantine.iter().map(|aside| aside.replica) {
        if facts.garbage.get(&handle).is_some_and(|garbage| garbage.servers.contains(&server)) {
            found.push(format!("the replica of {handle} at {server} is kept aside and garbage"));
        }
    }
}

/// A pending cut is of a live chunk and leaves a part of it.
fn cuts_are_inside_chunks(facts: &Facts, found: &mut Found) {
    for (handle, cut) in &facts.cuts {
        if !facts.chunks.contains_key(handle) {
            found.push(format!("chunk {handle} is to be cut and does not exist"));
        }
        if cut.length == 0 || cut.length >= facts.chunk_size.get() {
            found.push(format!("chunk {handle} is to be cut to {} bytes", cut.length));
        }
    }
}

/// What is marked as perhaps never written, or never flushed, is a live chunk.
fn unwritten_chunks_exist(facts: &Facts, found: &mut Found) {
    for handle in facts.unwritten.iter().filter(|handle| !facts.chunks.contains_key(handle)) {
        found.push(format!("chunk {handle} is marked as unwritten or unflushed and does not exist"));
    }
}

/// Sizes and link counts are such as POSIX and the wire can say.
fn sizes_are_within_limits(facts: &Facts, found: &mut Found) {
    for (id, inode) in &facts.inodes {
        if let Body::File(file) = inode.body
            && file.size > FILE_SIZE_MAX
        {
            found.push(format!("file {id} has {} bytes", file.size));
        }
        if !inode.is_dir() && inode.nlink > LINKS_MAX {
            found.push(format!("inode {id} has {} links", inode.nlink));
        }
    }
}

/// Goals are 1 to 9; a chunk has the goal of its file.
fn goals_are_within_limits(facts: &Facts, found: &mut Found) {
    for (id, inode) in &facts.inodes {
        if !(1..=GOAL_MAX).contains(&inode.goal) {
            found.push(format!("inode {id} has goal {}", inode.goal));
        }
    }
    for (handle, chunk) in facts.chunks.iter().filter(|(_, chunk)| chunk.references == 1) {
        if facts.inodes.get(&chunk.inode).is_some_and(|inode| inode.goal != chunk.goal) {
            found.push(format!("chunk {handle} has goal {}, its file another", chunk.goal));
        }
    }
}

/// Inodes know whether they have attributes, and attributes have inodes.
fn xattrs_belong_to_inodes(facts: &Facts, found: &mut Found) {
    let owners: BTreeSet<InodeId> = facts.xattrs.iter().map(|(inode, _)| *inode).collect();
    for id in owners.iter().filter(|id| !facts.inodes.contains_key(id)) {
        found.push(format!("attributes of inode {id}, which does not exist"));
    }
    let acl = b"system.posix_acl_";
    let with_acl: BTreeSet<InodeId> =
        facts.xattrs.iter().filter(|(_, name)| name.starts_with(acl)).map(|(inode, _)| *inode).collect();
    for (id, inode) in &facts.inodes {
        if inode.has_xattrs != owners.contains(id) || inode.has_acl != with_acl.contains(id) {
            found.push(format!("inode {id} is wrong about having attributes"));
        }
    }
}

/// Outcomes are kept for live sessions alone.
fn replies_belong_to_sessions(facts: &Facts, found: &mut Found) {
    for session in facts.replies.difference(&facts.sessions) {
        found.push(format!("outcomes of session {session}, which has ended"));
    }
}

/// Ids in use are below those to be given out.
fn ids_are_given_out_once(facts: &Facts, found: &mut Found) {
    if let Some((id, _)) = facts.inodes.last_key_value()
        && *id >= facts.next_inode
    {
        found.push(format!("inode {id} exists, the next one is {}", facts.next_inode));
    }
    let handles = [facts.chunks.last_key_value().map(|(h, _)| *h), facts.garbage.last_key_value().map(|(h, _)| *h)];
    if let Some(handle) = handles.into_iter().flatten().max()
        && handle >= facts.next_handle
    {
        found.push(format!("chunk {handle} exists, the next one is {}", facts.next_handle));
    }
}

/// The counts kept along the way are those of the rows.
fn stats_equal_recount(facts: &Facts, found: &mut Found) {
    let mut stats = Stats {
        dentries: facts.dentries.len() as u64,
        chunks: facts.chunks.len() as u64,
        garbage: facts.garbage.len() as u64,
        orphans: facts.orphans.len() as u64,
        sessions: facts.sessions.len() as u64,
        servers: facts.servers,
        goal: facts.stats.goal,
        ..Stats::default()
    };
    for inode in facts.inodes.values() {
        match &inode.body {
            Body::File(file) => {
                stats.files += 1;
                stats.bytes += file.size;
            }
            Body::Directory { .. } => stats.directories += 1,
            Body::Symlink(_) => stats.symlinks += 1,
            Body::Fifo | Body::Socket | Body::CharDevice(_) | Body::BlockDevice(_) => stats.specials += 1,
        }
    }
    if stats != facts.stats {
        let (counted, kept) = (stats.counts(), facts.stats.counts());
        let by = std::array::from_fn(|at| lacks(counted[at], kept[at]));
        found.mend(format!("kept {:?}, counted {stats:?}", facts.stats), Mend::AddCounts { by });
    }
}
