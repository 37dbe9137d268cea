//! Mend: what a check found wrong with the state is put right, and nothing else. What should never be wrong has no
//! operation of its own that could put it right.
//!
//! The check looked at a state of before. So each mend looks again, and counts are changed by what they lacked, which no
//! proper operation in between changes. Keeps every invariant that held before.

use super::{DirChange, change_dir};
use crate::command::Mend;
use crate::record::{Body, FileBody, Inode};
use crate::state::{File, Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Mode;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId};
use gfs_proto::name::Name;
use gfs_proto::time::Timestamp;

/// Where inodes go that nothing names.
const LOST_AND_FOUND: &str = "lost+found";

/// Carries out those that are still needed, in order.
pub(crate) fn apply(tx: &mut Tables<'_>, mends: &[Mend], now: Timestamp) -> Result<(), FsError> {
    for mend in mends {
        match mend {
            Mend::RemoveName { parent, name } => remove_name(tx, *parent, name, now)?,
            Mend::AddLinks { inode, by } => add_links(tx, *inode, *by)?,
            Mend::AddEntries { inode, by } => add_entries(tx, *inode, *by)?,
            Mend::Rescue { inode } => rescue(tx, *inode, now)?,
            Mend::DropChunk { handle } => drop_chunk(tx, *handle)?,
            Mend::ClearPlace { inode, index } => clear_place(tx, *inode, *index)?,
            Mend::AddChunks { inode, by } => add_chunks(tx, *inode, *by)?,
            Mend::AddCounts { by } => add_counts(tx, *by),
        }
    }
    Ok(())
}

fn remove_name(tx: &mut Tables<'_>, parent: InodeId, name: &Name, now: Timestamp) -> Result<(), FsError> {
    let Some(dentry) = tx.dentry(parent, name)? else { return Ok(()) };
    if tx.find_inode(dentry.inode)?.is_some() {
        return Ok(());
    }
    tx.remove_dentry(parent, name);
    if tx.find_inode(parent)?.is_some_and(|inode| inode.is_dir()) {
        let is_dir = dentry.kind == gfs_proto::attr::FileKind::Directory;
        change_dir(tx, parent, DirChange { entries: -1, subdirectories: -i64::from(is_dir) }, now)?;
    }
    Ok(())
}

fn add_links(tx: &mut Tables<'_>, id: InodeId, by: i64) -> Result<(), FsError> {
    let Some(mut inode) = tx.find_inode(id)? else { return Ok(()) };
    let links = i64::from(inode.nlink).checked_add(by).and_then(|links| u32::try_from(links).ok());
    // without links it would have to be an orphan
    if let Some(links) = links.filter(|links| *links > 0) {
        inode.nlink = links;
        tx.put_inode(&inode);
    }
    Ok(())
}

fn add_entries(tx: &mut Tables<'_>, id: InodeId, by: i64) -> Result<(), FsError> {
    let Some(mut inode) = tx.find_inode(id)? else { return Ok(()) };
    if let Body::Directory { entries, version } = &mut inode.body
        && let Some(counted) = entries.checked_add_signed(by)
    {
        (*entries, *version) = (counted, *version + 1);
        tx.put_inode(&inode);
    }
    Ok(())
}

/// A directory's links are those of its subdirectories and stay; anything else has this one.
fn rescue(tx: &mut Tables<'_>, id: InodeId, now: Timestamp) -> Result<(), FsError> {
    let Some(mut inode) = tx.find_inode(id)? else { return Ok(()) };
    let name = Name::new(format!("inode-{id}").as_bytes()).map_err(|_| FsError::InvalidArgument)?;
    if tx.orphan(id)?.is_some() {
        return Ok(());
    }
    let home = lost_and_found(tx, now)?;
    if home == id || tx.dentry(home, &name)?.is_some() {
        return Ok(());
    }
    inode.parent = home;
    if !inode.is_dir() {
        inode.nlink = 1;
    }
    tx.put_inode(&inode);
    tx.insert_dentry(home, &name, &inode);
    change_dir(tx, home, DirChange::entry(1, &inode), now)
}

/// Made if there is none; `NotDirectory` if something else has its name.
fn lost_and_found(tx: &mut Tables<'_>, now: Timestamp) -> Result<InodeId, FsError> {
    let name = Name::new(LOST_AND_FOUND.as_bytes()).map_err(|_| FsError::InvalidArgument)?;
    if let Some(found) = tx.child(InodeId::ROOT, &name)? {
        return if found.is_dir() { Ok(found.id) } else { Err(FsError::NotDirectory) };
    }
    let root = tx.dir(InodeId::ROOT)?;
    let made = Inode {
        id: tx.new_inode_id(),
        mode: Mode::new(0o700),
        nlink: 2,
        uid: 0,
        gid: 0,
        goal: root.goal,
        has_xattrs: false,
        has_acl: false,
        parent: InodeId::ROOT,
        atime: now,
        mtime: now,
        ctime: now,
        body: Body::Directory { entries: 0, version: 0 },
    };
    tx.insert_inode(&made);
    tx.insert_dentry(InodeId::ROOT, &name, &made);
    change_dir(tx, InodeId::ROOT, DirChange::entry(1, &made), now)?;
    Ok(made.id)
}

fn drop_chunk(tx: &mut Tables<'_>, handle: ChunkHandle) -> Result<(), FsError> {
    let Some(chunk) = tx.chunk(handle)? else { return Ok(()) };
    if tx.handle(chunk.inode, chunk.index)? == Some(handle) {
        return Ok(());
    }
    tx.drop_unplaced(handle, chunk)
}

fn clear_place(tx: &mut Tables<'_>, inode: InodeId, index: ChunkIndex) -> Result<(), FsError> {
    let Some(handle) = tx.handle(inode, index)? else { return Ok(()) };
    if tx.chunk(handle)?.is_some() {
        return Ok(());
    }
    tx.clear_place(inode, index);
    if let Ok(File { mut inode, body }) = tx.file(inode) {
        let chunks = body.chunks.saturating_sub(1);
        inode.body = Body::File(FileBody { chunks, map_generation: body.map_generation.next(), ..body });
        tx.put_inode(&inode);
    }
    Ok(())
}

fn add_chunks(tx: &mut Tables<'_>, id: InodeId, by: i64) -> Result<(), FsError> {
    let Ok(File { mut inode, body }) = tx.file(id) else { return Ok(()) };
    let counted = i64::from(body.chunks).checked_add(by).and_then(|chunks| u32::try_from(chunks).ok());
    if let Some(chunks) = counted {
        inode.body = Body::File(FileBody { chunks, ..body });
        tx.put_inode(&inode);
    }
    Ok(())
}

fn add_counts(tx: &mut Tables<'_>, by: [i64; 11]) {
    let stats = tx.stats();
    let kept = stats.counts();
    tx.set_stats(stats.with_counts(std::array::from_fn(|at| kept[at].saturating_add_signed(by[at]))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::state::table::{self, Table};
    use crate::tests::{Fixture, ROOT, name};

    /// What is damaged, and the properties that do not hold then.
    type Damage = (&'static str, fn(&mut Tables<'_>, &Made), &'static [&'static str]);

    struct Made {
        dir: InodeId,
        inner: InodeId,
        file: InodeId,
        handle: ChunkHandle,
    }

    /// `/dir/inner/`, `/dir/file` with one chunk.
    fn made() -> (Fixture, Made) {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "dir");
        let (inner, file) = (fixture.dir(dir, "inner"), fixture.file(dir, "file"));
        let placement = crate::tests::servers(&[1, 2]);
        fixture.one(Action::AllocateChunk { inode: file, index: ChunkIndex::new(0), placement }).expect("a hole");
        let handle = fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle;
        (fixture, Made { dir, inner, file, handle })
    }

    const DAMAGES: &[Damage] = &[
        (
            "links of a file",
            |tx, made| {
                let mut inode = tx.inode(made.file).expect("there");
                inode.nlink = 7;
                tx.put_inode(&inode);
            },
            &["nlink_equals_dentries"],
        ),
        (
            "links and entries of a directory",
            |tx, made| {
                let mut inode = tx.inode(made.dir).expect("there");
                inode.nlink = 2;
                inode.body = Body::Directory { entries: 9, version: 1 };
                tx.put_inode(&inode);
            },
            &["nlink_equals_dentries", "entries_are_counted"],
        ),
        (
            "an inode is gone",
            |tx, made| tx.tear(Table::Inodes, &table::inode_key(made.inner)),
            &["dentries_name_inodes", "stats_equal_recount"],
        ),
        (
            "the name of a file is gone",
            |tx, made| {
                let cluster = tx.genesis().cluster;
                tx.tear(Table::Dentries, &table::dentry_key(cluster, made.dir, &name("file")));
            },
            &["nlink_equals_dentries", "entries_are_counted", "stats_equal_recount"],
        ),
        (
            "the name of a directory is gone",
            |tx, made| {
                let cluster = tx.genesis().cluster;
                tx.tear(Table::Dentries, &table::dentry_key(cluster, made.dir, &name("inner")));
            },
            &["nlink_equals_dentries", "entries_are_counted", "stats_equal_recount"],
        ),
        (
            "the name of a file is gone, and its links were wrong",
            |tx, made| {
                let cluster = tx.genesis().cluster;
                tx.tear(Table::Dentries, &table::dentry_key(cluster, made.dir, &name("file")));
                let mut inode = tx.inode(made.file).expect("there");
                inode.nlink = 3;
                tx.put_inode(&inode);
            },
            &["nlink_equals_dentries", "entries_are_counted", "stats_equal_recount"],
        ),
        (
            "a chunk record is gone",
            |tx, made| {
                tx.tear(Table::Chunks, &table::handle_key(made.handle));
                tx.tear(Table::Unwritten, &table::handle_key(made.handle));
            },
            &["chunks_are_referenced", "stats_equal_recount"],
        ),
        (
            "a chunk is in no file",
            |tx, made| {
                tx.tear(Table::FileChunks, &table::file_chunk_key(made.file, ChunkIndex::new(0)));
            },
            &["chunks_are_referenced"],
        ),
        (
            "counts",
            |tx, _| {
                let stats = tx.stats();
                tx.set_stats(crate::Stats { bytes: stats.bytes + 100, files: 0, ..stats });
            },
            &["stats_equal_recount"],
        ),
    ];

    /// As `gfsctl fsck --repair` does it.
    fn mend(fixture: &mut Fixture) {
        let found = fixture.store.examine().expect("readable").violations;
        let mends = found.into_iter().filter_map(|violation| violation.repair).collect();
        fixture.apply_unchecked(Action::Mend { mends });
    }

    #[test]
    fn what_is_damaged_is_found_and_mended() {
        for (what, damage, expected) in DAMAGES {
            let (mut fixture, made) = made();
            fixture.store.damage(|tx| damage(tx, &made));
            let found = fixture.store.examine().expect("readable").violations;
            let mut names: Vec<_> = found.iter().map(|violation| violation.invariant).collect();
            names.dedup();
            assert_eq!(names, *expected, "{what}: {found:?}");
            assert!(found.iter().all(|violation| violation.repair.is_some()), "{what}: {found:?}");
            // a mend may bring something else to light
            (0..3).for_each(|_| mend(&mut fixture));
            assert_eq!(fixture.store.check().expect("readable"), [], "{what}");
        }
    }

    #[test]
    fn what_was_lost_is_found_again_by_its_number() {
        let (mut fixture, made) = made();
        fixture.store.damage(|tx| DAMAGES[3].1(tx, &made));
        mend(&mut fixture);
        mend(&mut fixture);
        let home = fixture.lookup(ROOT, "lost+found").expect("made");
        let found = fixture.lookup(home.inode, &format!("inode-{}", made.file)).expect("rescued");
        assert_eq!((found.inode, found.nlink, fixture.chunk_indices(made.file)), (made.file, 1, vec![0]));
        assert_eq!(home.mode.get() & 0o777, 0o700, "what others may not see is not shown to them");
    }

    #[test]
    fn what_was_put_right_meanwhile_is_left_alone() {
        let (mut fixture, made) = made();
        let before = fixture.store.digest_of_rows().expect("readable");
        let mends = vec![
            Mend::RemoveName { parent: made.dir, name: name("file") },
            Mend::RemoveName { parent: made.dir, name: name("none") },
            Mend::AddLinks { inode: made.file, by: -1 },
            Mend::AddLinks { inode: InodeId::new(99), by: 1 },
            Mend::DropChunk { handle: made.handle },
            Mend::DropChunk { handle: ChunkHandle::new(99) },
            Mend::ClearPlace { inode: made.file, index: ChunkIndex::new(0) },
            Mend::AddChunks { inode: made.dir, by: 3 },
            Mend::Rescue { inode: InodeId::new(99) },
        ];
        fixture.one(Action::Mend { mends }).expect("always");
        assert_eq!(fixture.store.digest_of_rows().expect("readable"), before);
    }
}
