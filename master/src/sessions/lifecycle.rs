//! A session's beginning, return and end, and the recall of what it holds.

use super::Session;
use super::callbacks::CallbackKind;
use crate::gate::Gate;
use crate::grants::leases::Lease;
use crate::master::{Master, now};
use crate::opens::{Claimed, OpenRequest};
use futures_util::future::join_all;
use gfs_master_core::{Action, SessionRecord};
use gfs_proto::FsError;
use gfs_proto::control::ChunkCommand;
use gfs_proto::ids::{InodeId, OpenId, SessionId};
use gfs_proto::ops::Access;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// An open that a client had before the connection or the master was lost.
#[derive(Clone, Copy, Debug)]
pub struct Reclaimed {
    /// The file.
    pub inode: InodeId,
    /// As registered before.
    pub open: OpenId,
    /// What for.
    pub access: Access,
}

impl Master {
    /// A new client.
    pub async fn open_session(&self, name: String) -> Result<Arc<Session>, FsError> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|error| {
            warn!(%error, "the system gives no random numbers");
            FsError::Io
        })?;
        let (mut secret, mut id) = ([0; 16], [0; 8]);
        secret.copy_from_slice(&random[..16]);
        id.copy_from_slice(&random[16..]);
        // Not 0, and positive for those who print it signed.
        let session = SessionId::new((u64::from_le_bytes(id) >> 1).max(1));
        self.commit_one(Action::OpenSession { session, secret, name: name.clone() }).await?;
        info!(%session, name, "session opened");
        Ok(self.sessions.add(SessionRecord { session, secret, name, opened: now() }, Instant::now()))
    }

    /// A client is back with what it had open.
    pub fn resume_session(self: &Arc<Self>, session: &Arc<Session>, reclaims: &[Reclaimed]) {
        for reclaim in reclaims {
            self.reclaim(session.id, reclaim);
        }
        session.attach(None, Instant::now());
        self.sessions.settled.notify_waiters();
        info!(session = %session.id, name = session.name, opens = reclaims.len(), "session resumed");
        if self.everybody_is_back() {
            self.reap_idle_orphans();
        }
    }

    /// Claimed opens wait for nobody: who had the file for itself before is alone with it still, or has to
    /// hear that it is not, for others were let in while it was away.
    fn reclaim(self: &Arc<Self>, session: SessionId, reclaim: &Reclaimed) {
        let Reclaimed { inode, open, access } = *reclaim;
        if self.store.view().attr(inode).is_err() {
            warn!(%session, %inode, "a file that was open is gone");
            return;
        }
        let request = OpenRequest { session, inode, open, access, exclusive_possible: true };
        let (master, reclaim) = (self.clone(), *reclaim);
        match self.opens.claim(request) {
            Claimed::Done(recalled) => recalled.into_iter().for_each(|holder| {
                let master = self.clone();
                tokio::spawn(async move {
                    match holder == session {
                        true => master.recall_claimant(inode, holder).await,
                        false => master.recall_exclusive(inode, holder).await,
                    }
                });
            }),
            Claimed::Wait(gate) => drop(tokio::spawn(async move {
                gate.passed().await;
                master.reclaim(session, &reclaim);
            })),
        }
    }

    /// Returns when nobody can be the exclusive writer of a file without being known here. After a restart
    /// that takes the return of the sessions of before, unless one has claimed the file. Their silence
    /// is borne as long as that of the holder in a recall: whoever is later is recalled when it claims.
    pub async fn claims_of(&self, inode: InodeId) {
        let until = self.started + self.timings.recall;
        loop {
            let settled = self.sessions.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.everybody_is_back() || self.opens.is_open(inode) {
                return;
            }
            if tokio::time::timeout_at(until.into(), settled).await.is_err() {
                return;
            }
        }
    }

    /// Takes exclusive writing from a session and returns when it has flushed and given its grants back,
    /// or was fenced because it did not answer.
    pub async fn recall_exclusive(&self, inode: InodeId, holder: SessionId) {
        self.recall(inode, holder).await;
        // Whatever it still holds was granted to an exclusive writer.
        self.revoke(self.leases.remove_file(inode)).await;
        self.opens.recalled(inode);
    }

    /// As [`Master::recall_exclusive`], for a session that was granted nothing here as exclusive writer but
    /// may believe that it is one: what others have been granted stays.
    async fn recall_claimant(&self, inode: InodeId, claimant: SessionId) {
        self.recall(inode, claimant).await;
        self.opens.recalled(inode);
    }

    /// Has a session flush a file and write through; waits for the answer, but not for ever.
    async fn recall(&self, inode: InodeId, holder: SessionId) {
        let Some(session) = self.sessions.get(holder) else { return };
        let answered = session.callbacks.ask(CallbackKind::RecallExclusive(inode));
        if tokio::time::timeout(self.timings.recall, answered.passed()).await.is_err() {
            // It stays asked: a holder that was cut off believes itself alone until it hears of it.
            warn!(session = %holder, %inode, "a recall was not answered, others go on without the session");
        }
    }

    /// Has the replicas forget these epochs.
    pub async fn revoke(&self, leases: Vec<Lease>) {
        let commands = leases.iter().flat_map(|lease| {
            let revoke = || ChunkCommand::Revoke { handle: lease.handle, epoch: lease.epoch };
            lease.members.iter().map(move |(server, _)| self.servers.command(*server, revoke()))
        });
        // A server that does not answer is fenced by the epoch of the next grant.
        join_all(commands).await;
    }

    /// A client takes its leave: what it has told is in the log before that is confirmed, and before its
    /// session ends, for nobody will be left to tell it again.
    pub async fn close_session(self: &Arc<Self>, id: SessionId) {
        self.opens.files_of(id).into_iter().for_each(|inode| self.sizes.want(inode));
        self.log_wanted_sizes(id).await;
        self.end_session(id, "closed by the client").await;
        self.log_wanted_sizes(id).await;
    }

    /// Returns when every size that is to be logged has been, by whomever.
    async fn log_wanted_sizes(&self, session: SessionId) {
        // Once more after what was under way, which may lack what has been told since.
        for _ in 0..2 {
            if let Err(error) = self.log_sizes().await {
                warn!(%session, %error, "sizes told by a session that ends are logged later");
            }
            join_all(self.sizes.under_way().iter().map(Gate::passed)).await;
        }
    }

    /// Ends a session: logged first, then what it held goes.
    pub async fn end_session(self: &Arc<Self>, id: SessionId, why: &'static str) {
        let Some(session) = self.sessions.remove(id) else { return };
        info!(session = %id, name = session.name, why, "session ended");
        if let Err(error) = self.commit_one(Action::EndSession { session: id }).await {
            // It is still in the log: the next master expires it again.
            warn!(session = %id, %error, "the end of a session was not logged");
        }
        let leases = self.leases.remove_session(id);
        leases.iter().for_each(|lease| self.uneven.note(lease.handle));
        self.recover_sizes(id, &leases).await;
        self.revoke(leases).await;
        for released in self.opens.end_session(id) {
            self.after_release(released);
        }
        self.sessions.settled.notify_waiters();
        if self.everybody_is_back() {
            self.reap_idle_orphans();
        }
    }

    /// The session may not have told how far it wrote: neither where its leases were, nor in other files
    /// that it had open for writing, whose leases have run out.
    async fn recover_sizes(&self, id: SessionId, leases: &[Lease]) {
        // Without replicas there is nothing to be recovered, or it is too early: the size stays.
        join_all(leases.iter().map(|lease| self.recover_length(lease.inode, lease.index, lease.handle))).await;
        let measured: HashSet<_> = leases.iter().map(|lease| lease.handle).collect();
        let files = self.opens.written_by(id);
        join_all(files.into_iter().map(|inode| self.recover_size(inode, &measured))).await;
    }

    /// Removes orphans that nobody has open, once everybody has claimed what was open before.
    pub fn reap_idle_orphans(self: &Arc<Self>) {
        let Ok(orphans) = self.store.view().orphans() else { return };
        let idle: Vec<InodeId> =
            orphans.into_iter().map(|orphan| orphan.inode).filter(|inode| !self.opens.is_open(*inode)).collect();
        if !idle.is_empty() {
            let master = self.clone();
            tokio::spawn(async move { master.reap(idle).await });
        }
    }
}
