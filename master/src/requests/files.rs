//! Operations on volatile state: opens, grants, locations, sizes. They may wait for a client or a
//! chunkserver; nothing else waits for them.

use super::{Request, resolve};
use crate::grants::Broken;
use crate::grants::locate::CHUNKS_AT_OPEN;
use crate::master::{Master, now};
use crate::opens::{OpenRequest, Registered, Released};
use crate::sizes::SizeReport;
use gfs_master_core::Action;
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::chunk::ChunkMap;
use gfs_proto::ids::{ChunkIndex, InodeId, OpenId, SessionId};
use gfs_proto::ops::{Access, Op, OpResult, OpenSpec, Opened};
use std::sync::Arc;
use tracing::debug;

impl Request {
    /// The answer to an operation that concerns volatile state.
    pub(super) async fn volatile(&self, op: &Op, earlier: &[Result<OpResult, FsError>]) -> Result<OpResult, FsError> {
        let session = self.session.id;
        match op {
            Op::Open { inode, spec } => self.open(resolve(*inode, earlier)?, *spec).await.map(OpResult::Opened),
            Op::Release { open, .. } => {
                self.release(*open);
                Ok(OpResult::Done)
            }
            Op::ReadChunks { inode, first, count } => {
                self.master.locate(resolve(*inode, earlier)?, *first, *count).await.map(OpResult::Chunks)
            }
            Op::GrantChunk { inode, index } => {
                self.master.grant_chunk(session, resolve(*inode, earlier)?, *index).await.map(OpResult::Grant)
            }
            Op::BreakChunk { inode, index, handle, version, epoch, suspects } => {
                let (inode, suspects) = (resolve(*inode, earlier)?, suspects.clone());
                let broken =
                    Broken { inode, index: *index, handle: *handle, version: *version, epoch: *epoch, suspects };
                self.master.break_chunk(session, broken).await.map(OpResult::Grant)
            }
            Op::ReturnChunks { chunks } => {
                self.master.return_chunks(session, chunks);
                Ok(OpResult::Done)
            }
            Op::AwaitCopies { chunks } => self.master.await_copies(chunks).await.map(|()| OpResult::Done),
            Op::ReportSize { inode, size, mtime, atime, ctime, truncate_generation, durable } => {
                let generation = *truncate_generation;
                let report = SizeReport { size: *size, mtime: *mtime, atime: *atime, ctime: *ctime, generation };
                self.report(resolve(*inode, earlier)?, &report, *durable).await.map(OpResult::Attr)
            }
            Op::ReportDamage { handle, version, server } => {
                self.master.doubt(*handle, *version, *server);
                Ok(OpResult::Done)
            }
            _ => Err(FsError::Protocol),
        }
    }

    async fn open(&self, inode: InodeId, spec: OpenSpec) -> Result<Opened, FsError> {
        let attr = self.master.store.view().may_open(&self.caller, inode, spec.access)?;
        self.master.claims_of(inode).await;
        self.opened(attr, spec).await
    }

    /// Registers an open of an inode that the caller may open, with these attributes a moment ago.
    pub(super) async fn opened(&self, attr: Attr, spec: OpenSpec) -> Result<Opened, FsError> {
        if attr.kind != FileKind::File {
            return Ok(Opened { attr, exclusive: false, chunks: ChunkMap::default() });
        }
        let inode = attr.inode;
        let exclusive = self.master.register_open(self.session.id, inode, spec).await;
        // It may have been removed before it was registered, and grown while the holder was recalled.
        let seen = self.look(inode);
        if seen.is_err() || self.session.ended.is_open() {
            self.release(spec.open);
        }
        let (attr, chunks) = seen?;
        Ok(Opened { attr, exclusive, chunks })
    }

    fn look(&self, inode: InodeId) -> Result<(Attr, ChunkMap), FsError> {
        let (attr, chunks) = {
            let view = self.master.store.view();
            (view.attr(inode)?, view.chunks(inode, ChunkIndex::new(0), CHUNKS_AT_OPEN)?)
        };
        Ok((self.master.sizes.overlay(attr), self.master.chunk_map(&chunks)))
    }

    /// Forgets an open; with the last one of a file that has no name any more, the file.
    pub(super) fn release(&self, open: OpenId) {
        if let Some(released) = self.master.opens.release(self.session.id, open) {
            self.want_if_closed(released.inode);
            self.master.after_release(released);
        }
    }

    /// The session does not write the file any more: soon it will not tell another master what it has told this one,
    /// whoever else has the file open.
    fn want_if_closed(&self, inode: InodeId) {
        if self.master.opens.numbering(self.session.id, inode).is_none() {
            self.master.sizes.want(inode);
        }
    }

    async fn report(&self, inode: InodeId, report: &SizeReport, durable: bool) -> Result<Attr, FsError> {
        let attr = {
            let view = self.master.store.view();
            match self.master.opens.numbering(self.session.id, inode) {
                Some(_) => view.attr(inode)?,
                None => view.may_open(&self.caller, inode, Access::Write)?,
            }
        };
        if attr.kind != FileKind::File {
            return Err(FsError::InvalidArgument);
        }
        let noted = self.master.sizes.note(attr, report, now());
        if durable {
            self.master.log_size(inode).await?;
        } else {
            self.want_if_closed(inode);
        }
        Ok(noted)
    }
}

impl Master {
    /// Registers an open, recalling an exclusive writer first if there is one. True if the session is
    /// the exclusive writer now.
    pub async fn register_open(&self, session: SessionId, inode: InodeId, spec: OpenSpec) -> bool {
        let exclusive_possible = self.everybody_is_back();
        let request = OpenRequest { session, inode, open: spec.open, access: spec.access, exclusive_possible };
        loop {
            match self.opens.register(request) {
                Registered::Done(exclusive) => return exclusive,
                Registered::Wait(gate) => gate.passed().await,
                Registered::Recall { holder } => {
                    self.recall_exclusive(inode, holder).await;
                    return false;
                }
            }
        }
    }

    /// Logs what is known of a file's size and times beyond what is recorded; returns when it is.
    pub async fn log_size(&self, inode: InodeId) -> Result<(), FsError> {
        loop {
            match self.sizes.take(inode) {
                Ok(None) => return Ok(()),
                Err(gate) => gate.passed().await,
                Ok(Some(pending)) => {
                    let logged = self.commit_one(Action::RecordSizes(vec![pending.record])).await;
                    self.sizes.logged(&pending, logged.is_ok());
                    return logged.map(drop);
                }
            }
        }
    }

    /// An open is gone: its file's size is logged soon, an orphan that nobody has open is removed.
    pub fn after_release(self: &Arc<Self>, released: Released) {
        if !released.last {
            return;
        }
        self.sizes.want(released.inode);
        let orphan = self.store.view().orphan(released.inode);
        if matches!(orphan, Ok(Some(_))) {
            let master = self.clone();
            tokio::spawn(async move { master.reap(vec![released.inode]).await });
        }
    }

    /// Removes those orphans that nobody has open. While sessions are still expected back none is: they
    /// may claim them.
    pub async fn reap(&self, orphans: Vec<InodeId>) {
        if !self.everybody_is_back() {
            return;
        }
        let (idle, open): (Vec<_>, Vec<_>) =
            orphans.into_iter().partition(|inode| self.opens.begin_removal(*inode).is_empty());
        if !idle.is_empty() {
            match self.commit_one(Action::Reap { inodes: idle.clone() }).await {
                Ok(_) => idle.iter().for_each(|inode| self.sizes.forget(*inode)),
                Err(error) => debug!(%error, ?idle, "orphans are kept for now"),
            }
        }
        idle.into_iter().chain(open).for_each(|inode| self.opens.end_removal(inode));
    }
}
