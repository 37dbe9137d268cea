//! Entitle: the servers that hold the current version of a chunk have become more, or fewer, without a
//! write in between: a copy counts from here on, a removal begins here.
//!
//! Compare-and-set: whoever planned the change looked at a version and a set; if either is another by
//! now, nothing is changed.

use super::chunks::entitled;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};

/// What was planned, and on what grounds.
pub(crate) struct Change<'a> {
    pub(crate) version: ChunkVersion,
    pub(crate) from: &'a [ServerId],
    pub(crate) to: &'a [ServerId],
}

/// Replaces the entitled servers if they are still those that were seen.
pub(crate) fn apply(tx: &mut Tables<'_>, handle: ChunkHandle, change: &Change<'_>) -> Result<(), FsError> {
    let mut record = tx.chunk(handle)?.ok_or(FsError::NotFound)?;
    if record.version != change.version || record.entitled != change.from {
        return Err(FsError::StaleGrant);
    }
    record.entitled = entitled(change.to)?;
    // nothing above this line has changed anything
    tx.put_chunk(handle, &record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::Action;
    use crate::tests::{CHUNK, Fixture, servers};
    use gfs_proto::FsError;
    use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion};

    #[test]
    fn only_what_was_looked_at_is_changed() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], CHUNK);
        let handle = fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle;
        let entitle = |handle, version, from: &[u32], to: &[u32]| Action::Entitle {
            handle,
            version: ChunkVersion::new(version),
            from: servers(from),
            to: servers(to),
        };
        for (action, error) in [
            (entitle(handle, 2, &[1, 2, 3], &[1, 2]), FsError::StaleGrant),
            (entitle(handle, 1, &[1, 2], &[1, 2, 4]), FsError::StaleGrant),
            (entitle(handle, 1, &[1, 2, 3], &[]), FsError::NoSpace),
            (entitle(handle, 1, &[1, 2, 3], &[1, 1]), FsError::InvalidArgument),
            (entitle(ChunkHandle::new(99), 1, &[1, 2, 3], &[1]), FsError::NotFound),
        ] {
            assert_eq!(fixture.one(action.clone()), Err(error), "{action:?}");
        }
        fixture.one(entitle(handle, 1, &[1, 2, 3], &[1, 2, 3, 4])).expect("as it was seen");
        fixture.one(entitle(handle, 1, &[1, 2, 3, 4], &[2, 3, 4])).expect("as it was seen");
        let record = fixture.store.view().chunk(handle).expect("readable").expect("it exists");
        assert_eq!((record.version.get(), record.entitled), (1, servers(&[2, 3, 4])), "no new version");
    }
}
