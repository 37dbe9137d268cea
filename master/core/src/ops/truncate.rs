//! What a new size does to a file's chunks; shared by SetAttr and Open with O_TRUNC.
//!
//! Chunks beyond the size become garbage. A cut inside a chunk is logged as pending until all replicas
//! have made it; reads clip there meanwhile. Because a writer may have got further than the recorded
//! size, a size inside an existing chunk always counts as a cut. Keeps `cuts_are_inside_chunks`.

use crate::access;
use crate::outcome::PendingCut;
use crate::record::{Body, Inode};
use crate::state::{File, Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ChunkIndex, TruncateGeneration};
use gfs_proto::time::Timestamp;

/// Extended attribute that gives a program privileges: void once its content or owner changes.
const CAPABILITY: &[u8] = b"security.capability";

/// Stores `file` (whose inode may have changed otherwise) with a new size within the limits.
pub(super) fn resize(tx: &mut Tables<'_>, file: File, size: u64, now: Timestamp) -> Result<Attr, FsError> {
    let File { mut inode, mut body } = file;
    let (old_size, chunk_size) = (body.size, tx.genesis().chunk_size);
    body.truncate_generation = body.truncate_generation.next();
    let beyond = tx.handles(inode.id, ChunkIndex::new(chunk_size.chunks_of(size)), u64::MAX)?;
    for (index, handle) in &beyond {
        tx.drop_chunk(inode.id, *index, *handle)?;
    }
    if !beyond.is_empty() {
        body.chunks -= u32::try_from(beyond.len()).expect("indices have 32 bits");
        body.map_generation = body.map_generation.next();
    }
    cut_inside(tx, &inode, size, body.truncate_generation)?;
    body.size = size;
    (inode.mtime, inode.ctime) = (now, now);
    inode.body = Body::File(body);
    tx.put_resized(&inode, old_size);
    Ok(inode.attr())
}

fn cut_inside(tx: &mut Tables<'_>, inode: &Inode, size: u64, generation: TruncateGeneration) -> Result<(), FsError> {
    let (index, length) = tx.genesis().chunk_size.locate(size);
    if length == 0 {
        return Ok(());
    }
    let Some(handle) = tx.handle(inode.id, index)? else { return Ok(()) };
    match tx.cut(handle)? {
        Some(pending) if pending.length <= length => {}
        pending => tx.put_cut(handle, PendingCut { length, generation }, pending.is_none()),
    }
    Ok(())
}

/// Takes setuid, setgid and file capabilities off a file that changes; a change of `content` by the
/// superuser leaves them, a change of owner does not.
pub(super) fn drop_privileges(
    tx: &mut Tables<'_>,
    caller: &Caller,
    inode: &mut Inode,
    content: bool,
) -> Result<(), FsError> {
    if inode.is_dir() {
        return Ok(());
    }
    if !(content && caller.is_root()) {
        access::drop_privileges(caller, inode);
    }
    if inode.has_xattrs && tx.xattr(inode.id, CAPABILITY)?.is_some() {
        tx.remove_xattr(inode.id, CAPABILITY);
        inode.has_xattrs = !tx.xattr_names(inode.id)?.is_empty();
    }
    Ok(())
}
