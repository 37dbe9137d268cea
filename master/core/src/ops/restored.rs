//! Restored: the state came from a backup. Ids that the lost future gave out must never be given out
//! again, so all further ones belong to the next restore generation.

use crate::state::Tables;
use gfs_proto::FsError;
use gfs_proto::ids::RestoreGeneration;

/// Begins the next generation of inode numbers and chunk handles. `Overflow` after the last one.
pub(crate) fn apply(tx: &mut Tables<'_>) -> Result<(), FsError> {
    let current = tx.restore_generation();
    let next = current.get().checked_add(1).map(RestoreGeneration::new).ok_or(FsError::Overflow)?;
    tx.begin_generation(next);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::Action;
    use crate::tests::{Fixture, ROOT};
    use gfs_proto::ids::{ChunkIndex, InodeId, RestoreGeneration};

    #[test]
    fn ids_of_the_lost_future_are_not_given_out_again() {
        let mut fixture = Fixture::new();
        let before = fixture.file(ROOT, "before");
        for generation in 1..3 {
            fixture.one(Action::Restored).expect("generations are left");
            let file = fixture.file_of(&format!("after {generation}"), &[0], 1);
            let first = InodeId::first_of(RestoreGeneration::new(generation));
            assert!(file >= first && before < first);
            let chunk = fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle;
            assert_eq!(chunk.restore_generation().get(), generation);
        }
    }
}
