//! The lease table: who may write which chunk, under which epoch, until when (GFS paper, 3.1).
//!
//! Volatile. What fences is the epoch that the replicas have installed; this table only says which one
//! is the newest and whether it may still be handed out. Pure: time is passed in.

use gfs_proto::chunk::Numbering;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, Epoch, Incarnation, InodeId, ServerId, SessionId, Term, TruncateGeneration,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Instant;

/// The right to write one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The file.
    pub inode: InodeId,
    /// Position in the file.
    pub index: ChunkIndex,
    /// Of all members.
    pub version: ChunkVersion,
    /// Newest of the chunk.
    pub epoch: Epoch,
    /// Who gives the serial numbers.
    pub numbering: Numbering,
    /// In which run each member installed it, the primary first.
    pub members: Vec<(ServerId, Incarnation)>,
    /// Who holds it: one session under [`Numbering::Client`].
    pub sessions: Vec<SessionId>,
    /// Of the file.
    pub truncate_generation: TruncateGeneration,
    /// The first frame creates the replicas: nobody has reported one at the grant.
    pub created: bool,
    /// A member lost its successor: not handed out again without a new version.
    pub broken: bool,
    /// Ends unless extended.
    pub expires: Instant,
}

#[derive(Default)]
struct Table {
    leases: HashMap<ChunkHandle, Lease>,
    files: HashMap<InodeId, Vec<ChunkHandle>>,
    counter: u64,
}

/// All leases.
#[derive(Default)]
pub struct Leases(Mutex<Table>);

impl Table {
    fn remove(&mut self, handle: ChunkHandle) -> Option<Lease> {
        let lease = self.leases.remove(&handle)?;
        if let Some(handles) = self.files.get_mut(&lease.inode) {
            handles.retain(|known| *known != handle);
            if handles.is_empty() {
                self.files.remove(&lease.inode);
            }
        }
        Some(lease)
    }
}

impl Leases {
    /// A new epoch, above all others of this term.
    pub fn next_epoch(&self, term: Term) -> Epoch {
        let mut table = self.0.lock();
        table.counter += 1;
        Epoch { term, counter: table.counter }
    }

    /// Records a grant; it replaces an older one of the chunk.
    pub fn insert(&self, lease: Lease) {
        let mut table = self.0.lock();
        let (handle, inode) = (lease.handle, lease.inode);
        debug_assert!(table.leases.get(&handle).is_none_or(|old| old.epoch < lease.epoch), "epochs only grow");
        table.remove(handle);
        table.files.entry(inode).or_default().push(handle);
        table.leases.insert(handle, lease);
    }

    /// The chunk's lease, unless it has run out.
    pub fn get(&self, handle: ChunkHandle, now: Instant) -> Option<Lease> {
        self.0.lock().leases.get(&handle).filter(|lease| lease.expires > now).cloned()
    }

    /// True if somebody may be writing the chunk.
    pub fn is_leased(&self, handle: ChunkHandle, now: Instant) -> bool {
        self.0.lock().leases.get(&handle).is_some_and(|lease| lease.expires > now)
    }

    /// The lease, as another session (or the same again) takes part, extended.
    pub fn join(&self, handle: ChunkHandle, session: SessionId, expires: Instant) {
        if let Some(lease) = self.0.lock().leases.get_mut(&handle) {
            lease.expires = lease.expires.max(expires);
            if !lease.sessions.contains(&session) {
                lease.sessions.push(session);
            }
        }
    }

    /// The chunk was written: the lease lives on, if it is still this one and alive.
    pub fn extend(&self, handle: ChunkHandle, epoch: Epoch, now: Instant, expires: Instant) {
        let mut table = self.0.lock();
        if let Some(lease) = table.leases.get_mut(&handle)
            && lease.epoch == epoch
            && lease.expires > now
        {
            lease.expires = expires;
        }
    }

    /// A member reports that the chain of this epoch broke.
    pub fn mark_broken(&self, handle: ChunkHandle, epoch: Epoch) {
        if let Some(lease) = self.0.lock().leases.get_mut(&handle) {
            lease.broken |= lease.epoch == epoch;
        }
    }

    /// A session gives the lease back. The lease itself, if nobody holds it now.
    pub fn give_back(&self, handle: ChunkHandle, epoch: Epoch, session: SessionId) -> Option<Lease> {
        let mut table = self.0.lock();
        let lease = table.leases.get_mut(&handle).filter(|lease| lease.epoch == epoch)?;
        lease.sessions.retain(|holder| *holder != session);
        if lease.sessions.is_empty() { table.remove(handle) } else { None }
    }

    /// Ends the lease of a chunk.
    pub fn remove(&self, handle: ChunkHandle) -> Option<Lease> {
        self.0.lock().remove(handle)
    }

    /// Ends all leases of a file.
    pub fn remove_file(&self, inode: InodeId) -> Vec<Lease> {
        let mut table = self.0.lock();
        let handles = table.files.get(&inode).cloned().unwrap_or_default();
        handles.into_iter().filter_map(|handle| table.remove(handle)).collect()
    }

    /// Takes a session off all leases; those that it held alone end.
    pub fn remove_session(&self, session: SessionId) -> Vec<Lease> {
        let mut table = self.0.lock();
        let held = |lease: &&mut Lease| lease.sessions.contains(&session);
        let mut alone = Vec::new();
        for lease in table.leases.values_mut().filter(held) {
            lease.sessions.retain(|holder| *holder != session);
            if lease.sessions.is_empty() {
                alone.push(lease.handle);
            }
        }
        alone.into_iter().filter_map(|handle| table.remove(handle)).collect()
    }

    /// Ends what has run out.
    pub fn remove_expired(&self, now: Instant) -> Vec<Lease> {
        let mut table = self.0.lock();
        let over: Vec<_> = table.leases.values().filter(|l| l.expires <= now).map(|l| l.handle).collect();
        over.into_iter().filter_map(|handle| table.remove(handle)).collect()
    }

    /// All leases, for people.
    pub fn all(&self) -> Vec<Lease> {
        self.0.lock().leases.values().cloned().collect()
    }

    /// Number of leases.
    pub fn len(&self) -> usize {
        self.0.lock().leases.len()
    }

    /// True if nobody may write anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);
    const TERM: Term = Term::new(3);

    fn lease(leases: &Leases, handle: u64, now: Instant) -> Lease {
        let lease = Lease {
            handle: ChunkHandle::new(handle),
            inode: InodeId::new(5),
            index: ChunkIndex::new(0),
            version: ChunkVersion::new(1),
            epoch: leases.next_epoch(TERM),
            numbering: Numbering::Primary,
            members: vec![(ServerId::new(1), Incarnation::new(1))],
            sessions: vec![A],
            truncate_generation: TruncateGeneration::new(0),
            created: false,
            broken: false,
            expires: now + Duration::from_secs(60),
        };
        leases.insert(lease.clone());
        lease
    }

    #[test]
    fn lives_until_it_runs_out_unless_extended() {
        let (leases, now) = (Leases::default(), Instant::now());
        let granted = lease(&leases, 1, now);
        let later = now + Duration::from_secs(59);
        leases.extend(granted.handle, granted.epoch, later, later + Duration::from_secs(60));
        let end = later + Duration::from_secs(60);
        assert!(leases.is_leased(granted.handle, end - Duration::from_secs(1)));
        assert!(leases.get(granted.handle, end).is_none());
        leases.extend(granted.handle, granted.epoch, end, end + Duration::from_secs(60));
        assert!(leases.get(granted.handle, end).is_none(), "a dead lease is not revived");
        assert_eq!(leases.remove_expired(end).len(), 1);
        assert!(leases.is_empty() && leases.remove_file(granted.inode).is_empty());
    }

    #[test]
    fn an_older_epoch_changes_nothing() {
        let (leases, now) = (Leases::default(), Instant::now());
        let old = lease(&leases, 1, now);
        let new = lease(&leases, 1, now);
        assert!(new.epoch > old.epoch);
        let far = now + Duration::from_secs(600);
        leases.extend(old.handle, old.epoch, now, far);
        leases.mark_broken(old.handle, old.epoch);
        assert_eq!(leases.give_back(old.handle, old.epoch, A), None);
        assert_eq!(leases.get(old.handle, now), Some(new));
    }

    #[test]
    fn ends_with_its_last_holder() {
        let (leases, now) = (Leases::default(), Instant::now());
        let shared = lease(&leases, 1, now);
        let alone = lease(&leases, 2, now);
        leases.join(shared.handle, B, now);
        let ended: Vec<_> = leases.remove_session(A).iter().map(|lease| lease.handle).collect();
        assert_eq!(ended, [alone.handle]);
        assert!(leases.give_back(shared.handle, shared.epoch, B).is_some());
        assert!(leases.is_empty());
    }
}
