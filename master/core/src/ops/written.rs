//! Written: replicas of these chunks were seen, flushed ones or others. What no mark is left of was flushed: if all
//! replicas are gone its content is lost, and never taken for zeroes. Keeps `unwritten_chunks_exist`.

use crate::record::Mark;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::ChunkHandle;

/// Takes the marks away, or says with them that nothing was flushed; leaves out chunks that have none (any more).
pub(crate) fn apply(tx: &mut Tables<'_>, handles: &[ChunkHandle], flushed: bool) -> Result<(), FsError> {
    for &handle in handles {
        match tx.mark(handle)? {
            Some(_) if flushed => tx.remove_mark(handle),
            Some(Mark::Unwritten) => tx.put_mark(handle, Mark::Unflushed, false),
            Some(Mark::Unflushed) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::Action;
    use crate::tests::{CHUNK, Fixture, ROOT, servers, unlink};
    use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion};

    fn unwritten(fixture: &Fixture) -> Vec<ChunkHandle> {
        fixture.store.view().unwritten().expect("readable")
    }

    fn unflushed(fixture: &Fixture) -> Vec<ChunkHandle> {
        fixture.store.view().unflushed().expect("readable")
    }

    #[test]
    fn a_chunk_is_unwritten_until_a_replica_is_seen() {
        let (mut fixture, mut seen) = (Fixture::new(), Vec::new());
        let file = fixture.file_of("f", &[0, 1, 2], 3 * CHUNK);
        let chunks = fixture.store.view().chunks(file, ChunkIndex::new(0), 9).expect("a file").chunks;
        let [first, second, third] = [0, 1, 2].map(|at: usize| chunks[at].handle);
        assert_eq!(unwritten(&fixture), [first, second, third]);
        for _ in 0..2 {
            let handles = vec![second, ChunkHandle::new(99)];
            fixture.one(Action::Written { handles, flushed: true }).expect("always");
            assert_eq!((unwritten(&fixture), unflushed(&fixture)), (vec![first, third], vec![]));
        }
        for flushed in [false, false, true, false] {
            fixture.one(Action::Written { handles: vec![third], flushed }).expect("always");
            assert_eq!(unwritten(&fixture), [first]);
            let marked = unflushed(&fixture) == [third];
            assert!(marked || unflushed(&fixture).is_empty());
            seen.push(marked);
        }
        assert_eq!(seen, [true, true, false, false], "a flush is not taken back");
        fixture.root(unlink(ROOT, "f", file, &[])).expect("root may");
        assert_eq!(unwritten(&fixture), [], "no chunk, no mark");
    }

    #[test]
    fn a_raise_says_whether_there_are_replicas() {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], CHUNK);
        let handle = fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle;
        for (version, unwritten_then) in [(2, true), (3, false), (4, true), (5, true), (6, false)] {
            let (version, entitled) = (ChunkVersion::new(version), servers(&[1]));
            let raise = Action::RaiseVersion { handle, version, entitled, unwritten: unwritten_then };
            fixture.one(raise).expect("higher");
            assert_eq!(!unwritten(&fixture).is_empty(), unwritten_then, "{version}");
            fixture.one(Action::Written { handles: vec![handle], flushed: false }).expect("always");
            assert_eq!((unwritten(&fixture), !unflushed(&fixture).is_empty()), (vec![], unwritten_then), "{version}");
        }
    }
}
