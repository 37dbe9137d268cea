//! Replicas that nobody is known to need: kept aside, released, or, if this history has removed their chunk, garbage.
//! Keeps `quarantine_is_of_unclaimed`, `garbage_is_not_live`.
//!
//! A replica whose handle this history never gave out may be all that is left of a file of another one: of the time
//! after the backup that the state was restored from. Only a handle that was given out here, and has no chunk any
//! more, is known to have been removed.

use crate::outcome::{ChunkRecord, GarbageChunk, Quarantined, Unclaimed, UnclaimedCause};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ServerId};
use gfs_proto::time::Timestamp;

/// Puts replicas aside that are not yet, and are nobody's.
pub(crate) fn put_aside(tx: &mut Tables<'_>, unclaimed: &[Unclaimed], now: Timestamp) -> Result<(), FsError> {
    for replica in unclaimed {
        let known = tx.quarantined(replica.handle, replica.server)?;
        if is_of(tx.chunk(replica.handle)?.as_ref(), replica) || tx.garbage_chunk(replica.handle)?.is_some() {
            continue;
        }
        let since = known.map_or(now, |aside| aside.since);
        tx.put_quarantined(&Quarantined { replica: *replica, since }, known.is_none());
    }
    Ok(())
}

/// True if the replica has a place in its chunk, whatever became of its bytes.
fn is_of(chunk: Option<&ChunkRecord>, replica: &Unclaimed) -> bool {
    match (chunk, replica.cause) {
        (Some(record), UnclaimedCause::Ahead) => record.entitled.contains(&replica.server),
        (None, UnclaimedCause::Ahead) | (Some(_), UnclaimedCause::NoChunk) => true,
        (None, UnclaimedCause::NoChunk) => false,
    }
}

/// These are aside no more.
pub(crate) fn release(tx: &mut Tables<'_>, rows: &[(ChunkHandle, ServerId)]) -> Result<(), FsError> {
    for &(handle, server) in rows {
        if tx.quarantined(handle, server)?.is_some() {
            tx.remove_quarantined(handle, server);
        }
    }
    Ok(())
}

/// Has replicas deleted whose chunks were removed in this history.
pub(crate) fn discard(tx: &mut Tables<'_>, unclaimed: &[Unclaimed]) -> Result<(), FsError> {
    for replica in unclaimed {
        let ours = replica.handle < tx.next_handle() && replica.handle.restore_generation() == tx.restore_generation();
        if !ours || tx.chunk(replica.handle)?.is_some() {
            continue;
        }
        match tx.garbage_chunk(replica.handle)? {
            Some(garbage) if garbage.servers.contains(&replica.server) => {}
            Some(mut garbage) => {
                garbage.servers.push(replica.server);
                garbage.version = garbage.version.max(replica.version);
                tx.put_garbage(&garbage);
            }
            None => tx.insert_garbage(&GarbageChunk {
                handle: replica.handle,
                version: replica.version,
                servers: vec![replica.server],
            }),
        }
        release(tx, &[(replica.handle, replica.server)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::tests::{CHUNK, Fixture, ROOT, servers, unlink};
    use gfs_proto::ids::{ChunkIndex, ChunkVersion, RestoreGeneration};

    fn replica(handle: ChunkHandle, server: u32, cause: UnclaimedCause) -> Unclaimed {
        Unclaimed { handle, server: ServerId::new(server), version: ChunkVersion::new(5), length: 7, cause }
    }
    fn aside(fixture: &Fixture) -> Vec<(u64, u32)> {
        let rows = fixture.store.view().quarantine(None, 99).expect("readable");
        rows.iter().map(|row| (row.replica.handle.get(), row.replica.server.get())).collect()
    }
    fn handle_of(fixture: &mut Fixture, name: &str) -> (gfs_proto::ids::InodeId, ChunkHandle) {
        let file = fixture.file_of(name, &[0], CHUNK);
        (file, fixture.store.view().chunks(file, ChunkIndex::new(0), 1).expect("a file").chunks[0].handle)
    }

    #[test]
    fn what_is_nobodys_is_kept_aside_since_it_was_first_seen() {
        let mut fixture = Fixture::new();
        let (_, live) = handle_of(&mut fixture, "live");
        let future = ChunkHandle::new(1000);
        let unclaimed = vec![
            replica(future, 2, UnclaimedCause::NoChunk),
            replica(future, 1, UnclaimedCause::NoChunk),
            replica(live, 1, UnclaimedCause::NoChunk),
            replica(live, 1, UnclaimedCause::Ahead),
            replica(live, 9, UnclaimedCause::Ahead),
            replica(future, 9, UnclaimedCause::Ahead),
        ];
        let since = fixture.now();
        fixture.one(Action::Quarantine { unclaimed: unclaimed.clone() }).expect("always");
        assert_eq!(aside(&fixture), [(live.get(), 9), (1000, 1), (1000, 2)]);
        fixture.one(Action::Quarantine { unclaimed: vec![Unclaimed { length: 8, ..unclaimed[0] }] }).expect("always");
        let row = fixture.store.view().quarantined(future, ServerId::new(2)).expect("readable").expect("aside");
        assert_eq!((row.since, row.replica.length), (since, 8), "seen again: what is new is noted, not when");
        let page = fixture.store.view().quarantine(Some((future, ServerId::new(1))), 1).expect("readable");
        assert_eq!((page.len(), page[0].replica.server.get()), (1, 2));
        let rows = vec![(future, ServerId::new(2)), (future, ServerId::new(77))];
        fixture.one(Action::Release { rows }).expect("always");
        assert_eq!(aside(&fixture), [(live.get(), 9), (1000, 1)]);
    }

    #[test]
    fn only_what_this_history_removed_is_garbage() {
        let mut fixture = Fixture::new();
        let (file, removed) = handle_of(&mut fixture, "f");
        let (_, live) = handle_of(&mut fixture, "live");
        fixture.root(unlink(ROOT, "f", file, &[])).expect("root may");
        let rows = servers(&[1, 2, 3]).into_iter().map(|server| (removed, server)).collect();
        fixture.one(Action::Collected { rows }).expect("always");
        let next = fixture.store.view().was_given_out(ChunkHandle::new(live.get() + 1));
        assert!(!next && fixture.store.view().was_given_out(removed));
        let all = [removed, live, ChunkHandle::new(live.get() + 1)];
        let unclaimed = all.map(|handle| replica(handle, 9, UnclaimedCause::NoChunk)).to_vec();
        fixture.one(Action::Discard { unclaimed: unclaimed.clone() }).expect("always");
        let garbage = |fixture: &Fixture| fixture.store.view().garbage(None, 9).expect("readable");
        let expected = GarbageChunk { handle: removed, version: ChunkVersion::new(5), servers: servers(&[9]) };
        assert_eq!(garbage(&fixture), [expected]);
        fixture.one(Action::Discard { unclaimed: vec![replica(removed, 8, UnclaimedCause::NoChunk)] }).expect("always");
        assert_eq!(garbage(&fixture)[0].servers, servers(&[9, 8]));
        // after a restore the same handle may stand for something else
        let mut fixture = Fixture::new();
        handle_of(&mut fixture, "f");
        fixture.one(Action::Restored).expect("generations are left");
        fixture.one(Action::Discard { unclaimed }).expect("always");
        assert_eq!(garbage(&fixture), []);
        let first = ChunkHandle::first_of(RestoreGeneration::new(1));
        assert!(!fixture.store.view().was_given_out(removed) && !fixture.store.view().was_given_out(first));
    }
}
