//! Chunks: allocated into holes, raised to new versions, cuts confirmed, garbage collected.
//! Keeps `chunks_are_referenced`, `garbage_is_not_live`, `cuts_are_inside_chunks`.

use crate::outcome::{ChunkRecord, CoreResult, FileChunk};
use crate::record::{Body, FileBody};
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
fn entitled(servers: &[ServerId]) -> Result<Vec<ServerId>, FsError> {
    if servers.is_empty() {
        return Err(FsError::NoSpace);
    }
    let mut sorted = servers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let good = sorted.len() == servers.len() && servers.len() <= 2 * usize::from(GOAL_MAX);
    if good { Ok(servers.to_vec()) } else { Err(FsError::InvalidArgument) }
}

/// A new version is at `servers` and nowhere else.
pub(crate) fn raise(
    tx: &mut Tables<'_>,
    handle: ChunkHandle,
    version: ChunkVersion,
    servers: &[ServerId],
) -> Result<(), FsError> {
    let mut record = tx.chunk(handle)?.ok_or(FsError::NotFound)?;
    if version <= record.version {
        return Err(FsError::StaleGrant);
    }
    record.entitled = entitled(servers)?;
    record.version = version;
    // nothing above this line has changed anything
    tx.put_chunk(handle, &record);
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
