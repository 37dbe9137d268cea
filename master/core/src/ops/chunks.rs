//! Chunks: allocated into holes, raised to new versions, cuts confirmed, garbage collected.
//! Keeps `chunks_are_referenced`, `garbage_is_not_live`, `cuts_are_inside_chunks`.

use crate::outcome::{ChunkRecord, CoreResult, FileChunk};
use crate::record::{Body, FileBody, Mark};
use crate::state::{File, Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId, TruncateGeneration};
use gfs_proto::limits::{FILE_SIZE_MAX, GOAL_MAX};

/// Gives the hole at `index` a chunk, or finds the one that is there.
pub(crate) fn allocate(
    tx: &mut Tables<'_>,
    inode: InodeId,
    index: ChunkIndex,
    placement: &[ServerId],
) -> Result<CoreResult, FsError> {
    let file = tx.file(inode)?;
    if let Some(handle) = tx.handle(inode, index)? {
        let chunk = tx.file_chunk(index, handle)?;
        return Ok(CoreResult::Allocated { chunk, created: false, generation: file.body.map_generation });
    }
    if tx.genesis().chunk_size.start_of(index) >= FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge);
    }
    // nothing above this line has changed anything
    let chunk = insert(tx, inode, index, placement)?;
    let generation = tx.file(inode)?.body.map_generation;
    Ok(CoreResult::Allocated { chunk, created: true, generation })
}

/// Puts a new chunk into a hole that is known to be one.
pub(super) fn insert(
    tx: &mut Tables<'_>,
    id: InodeId,
    index: ChunkIndex,
    placement: &[ServerId],
) -> Result<FileChunk, FsError> {
    let entitled = entitled(placement)?;
    let File { mut inode, body } = tx.file(id)?;
    let record =
        ChunkRecord { version: ChunkVersion::new(1), goal: inode.goal, references: 1, entitled, inode: id, index };
    let handle = tx.new_handle();
    tx.insert_chunk(handle, &record);
    inode.body = Body::File(FileBody { chunks: body.chunks + 1, map_generation: body.map_generation.next(), ..body });
    tx.put_inode(&inode);
    Ok(FileChunk { index, handle, record, cut: None })
}

/// Servers of a chunk: at least one, none twice, no more than can be asked for while one moves.
pub(super) fn entitled(servers: &[ServerId]) -> Result<Vec<ServerId>, FsError> {
    if servers.is_empty() {
        return Err(FsError::NoSpace);
    }
    let mut sorted = servers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let good = sorted.len() == servers.len() && servers.len() <= 2 * usize::from(GOAL_MAX);
    if good { Ok(servers.to_vec()) } else { Err(FsError::InvalidArgument) }
}

/// A version of a chunk that is at `servers` and nowhere else.
pub(crate) struct Raise<'a> {
    pub(crate) version: ChunkVersion,
    pub(crate) servers: &'a [ServerId],
    pub(crate) unwritten: bool,
}

/// Records a new version, and whether there are replicas of it.
pub(crate) fn raise(tx: &mut Tables<'_>, handle: ChunkHandle, raise: &Raise<'_>) -> Result<(), FsError> {
    let mut record = tx.chunk(handle)?.ok_or(FsError::NotFound)?;
    if raise.version <= record.version {
        return Err(FsError::StaleGrant);
    }
    record.entitled = entitled(raise.servers)?;
    record.version = raise.version;
    let mark = tx.mark(handle)?;
    // nothing above this line has changed anything
    tx.put_chunk(handle, &record);
    match (mark, raise.unwritten) {
        (Some(Mark::Unwritten), true) | (None, false) => {}
        (_, true) => tx.put_mark(handle, Mark::Unwritten, mark.is_none()),
        (Some(_), false) => tx.remove_mark(handle),
    }
    Ok(())
}

/// All members have made these cuts; one that was replaced by a later one stays.
pub(crate) fn cut_applied(tx: &mut Tables<'_>, cuts: &[(ChunkHandle, TruncateGeneration)]) -> Result<(), FsError> {
    for &(handle, generation) in cuts {
        if tx.cut(handle)?.is_some_and(|pending| pending.generation == generation) {
            tx.remove_cut(handle);
        }
    }
    Ok(())
}

/// These servers have deleted their replicas.
pub(crate) fn collected(tx: &mut Tables<'_>, rows: &[(ChunkHandle, ServerId)]) -> Result<(), FsError> {
    for &(handle, server) in rows {
        let Some(mut garbage) = tx.garbage_chunk(handle)? else { continue };
        garbage.servers.retain(|s| *s != server);
        if garbage.servers.is_empty() {
            tx.remove_garbage(handle);
        } else {
            tx.put_garbage(&garbage);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::tests::{CHUNK, Fixture, ROOT, servers, set_size, unlink};

    fn allocate(inode: InodeId, index: u32, ids: &[u32]) -> Action {
        Action::AllocateChunk { inode, index: ChunkIndex::new(index), placement: servers(ids) }
    }

    #[test]
    fn a_hole_gets_one_chunk() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let Ok(CoreResult::Allocated { chunk, created: true, generation }) = fixture.one(allocate(file, 7, &[1, 2]))
        else {
            panic!("a hole")
        };
        assert_eq!((fixture.attr(file).map_generation, fixture.attr(file).chunks), (generation, 1));
        let again = fixture.one(allocate(file, 7, &[3]));
        assert_eq!(again, Ok(CoreResult::Allocated { chunk, created: false, generation }));
        let dir = fixture.dir(ROOT, "d");
        let beyond = u32::try_from(FILE_SIZE_MAX / CHUNK).expect("32 bits");
        for (action, error) in [
            (allocate(file, 8, &[]), FsError::NoSpace),
            (allocate(file, 8, &[1, 1]), FsError::InvalidArgument),
            (allocate(file, beyond, &[1]), FsError::FileTooLarge),
            (allocate(dir, 0, &[1]), FsError::IsDirectory),
            (allocate(InodeId::new(99), 0, &[1]), FsError::Stale),
        ] {
            assert_eq!(fixture.one(action.clone()), Err(error), "{action:?}");
        }
    }

    #[test]
    fn versions_only_rise() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], 1);
        let handle = fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle;
        let raise = |handle, version, ids: &[u32]| Action::RaiseVersion {
            handle,
            version: ChunkVersion::new(version),
            entitled: servers(ids),
            unwritten: false,
        };
        assert_eq!(fixture.one(raise(handle, 1, &[1])), Err(FsError::StaleGrant));
        assert_eq!(fixture.one(raise(handle, 2, &[])), Err(FsError::NoSpace));
        assert_eq!(fixture.one(raise(ChunkHandle::new(99), 2, &[1])), Err(FsError::NotFound));
        fixture.one(raise(handle, 4, &[2, 1])).expect("higher");
        let record = fixture.store.view().chunk(handle).expect("readable").expect("it exists");
        assert_eq!((record.version.get(), record.entitled), (4, servers(&[2, 1])));
    }

    #[test]
    fn only_the_cut_that_was_made_is_done() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], CHUNK);
        let pending = |f: &Fixture| f.store.view().pending_cuts(None, 9).expect("readable");
        fixture.root(set_size(file, 100)).expect("root may");
        let (handle, first) = pending(&fixture)[0];
        fixture.root(set_size(file, 50)).expect("root may");
        fixture.one(Action::CutApplied { cuts: vec![(handle, first.generation)] }).expect("always");
        let (_, second) = pending(&fixture)[0];
        assert_eq!(second.length, 50, "the second cut is still to be made");
        fixture.one(Action::CutApplied { cuts: vec![(handle, second.generation)] }).expect("always");
        assert_eq!(pending(&fixture), []);
    }

    #[test]
    fn garbage_waits_for_every_server() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], CHUNK);
        fixture.root(unlink(ROOT, "f", file, &[])).expect("root may");
        let garbage = |f: &Fixture| f.store.view().garbage(None, 9).expect("readable");
        let handle = garbage(&fixture)[0].handle;
        for (ids, left) in [(vec![1, 9], vec![2, 3]), (vec![1], vec![2, 3]), (vec![3], vec![2])] {
            let rows = servers(&ids).into_iter().map(|server| (handle, server)).collect();
            fixture.one(Action::Collected { rows }).expect("always");
            assert_eq!(garbage(&fixture)[0].servers, servers(&left));
        }
        fixture.one(Action::Collected { rows: vec![(handle, ServerId::new(2))] }).expect("always");
        assert_eq!(garbage(&fixture), []);
        assert_eq!(fixture.store.view().garbage(Some(handle), 9), Ok(vec![]));
    }
}
