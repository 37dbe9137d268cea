//! Abandon: chunks that were allocated and never written become holes again.
//! Keeps `chunks_are_referenced`, `cuts_are_inside_chunks`.

use crate::record::{Body, FileBody};
use crate::state::{File, Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion};

/// Takes the chunks out of their files, as garbage: a first frame that comes too late is deleted again.
/// What was raised, shared or dropped since stays as it is.
pub(crate) fn apply(tx: &mut Tables<'_>, chunks: &[(ChunkHandle, ChunkVersion)]) -> Result<(), FsError> {
    for &(handle, version) in chunks {
        let Some(record) = tx.chunk(handle)?.filter(|r| r.version == version && r.references == 1) else { continue };
        tx.drop_chunk(record.inode, record.index, handle)?;
        let File { mut inode, body } = tx.file(record.inode)?;
        let map_generation = body.map_generation.next();
        inode.body = Body::File(FileBody { chunks: body.chunks - 1, map_generation, ..body });
        tx.put_inode(&inode);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::Action;
    use crate::tests::{CHUNK, Fixture};
    use gfs_proto::ids::ChunkIndex;

    #[test]
    fn an_abandoned_chunk_is_a_hole_and_garbage() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0, 1], 2 * CHUNK);
        let chunks = |f: &Fixture| f.store.view().chunks(file, ChunkIndex::new(0), 9).expect("a file").chunks;
        let (first, second) = (chunks(&fixture)[0].clone(), chunks(&fixture)[1].clone());
        let other = first.record.version.next();
        let abandon = |handle, version| Action::Abandon { chunks: vec![(handle, version)] };
        fixture.one(abandon(first.handle, other)).expect("always");
        assert_eq!(chunks(&fixture).len(), 2, "raised since: stays");
        for _ in 0..2 {
            fixture.one(abandon(first.handle, first.record.version)).expect("always");
        }
        assert_eq!(chunks(&fixture), [second]);
        assert_eq!(fixture.attr(file).chunks, 1);
        assert!(fixture.store.view().garbage_chunk(first.handle).expect("readable").is_some());
    }
}
