//! Batches that change durable state: prepared, logged as one command, and their results completed with
//! what only this leader knows — opens, grants, addresses.
//!
//! A batch that was applied before (a retry) gets its first results; opens are registered again, which
//! changes nothing, and grants are absent: the client asks for them.

use super::prepare::{Hold, Prepared, well_ordered};
use super::{Request, Results};
use crate::grants::Generations;
use crate::grants::leases::Lease;
use crate::master::clamped;
use gfs_master_core::{Action, Afterlife, CoreBatch, CoreMade, CoreResult, Removed};
use gfs_proto::FsError;
use gfs_proto::chunk::{ChunkGrant, Numbering};
use gfs_proto::ids::InodeId;
use gfs_proto::ops::{Batch, BatchReply, InodeRef, Made, Make, Op, OpResult};

impl Request {
    pub(super) async fn mutate(&self, batch: Batch) -> Result<BatchReply, FsError> {
        let sequence = batch.sequence.ok_or(FsError::Protocol)?;
        well_ordered(&batch.ops)?;
        let ops = batch.ops.clone();
        let Prepared { ops: stamped, removals, holds } = self.prepare(batch.ops).await;
        let action = Action::Batch(CoreBatch {
            session: self.session.id,
            sequence,
            acknowledged: batch.acknowledged,
            caller: self.caller.clone(),
            precondition: batch.precondition,
            ops: stamped,
        });
        let committed = self.master.commit_at(action, clamped(batch.client_time)).await?;
        drop(removals);
        settle(holds, &ops, &committed.outcome.results);
        if !committed.outcome.replayed {
            self.revoke_cut(&ops, &committed.outcome.results, committed.void).await;
        }
        self.note_goals(&ops, &committed.outcome.results);
        let replayed = committed.outcome.replayed;
        let mut results = Results::with_capacity(ops.len());
        for (op, core) in ops.iter().zip(committed.outcome.results) {
            let result = match core {
                Ok(core) => self.complete(op, core, replayed).await,
                Err(error) => Err(error),
            };
            let failed = result.is_err();
            results.push(result);
            if failed {
                break;
            }
        }
        Ok(self.reply(results, committed.index))
    }

    /// Leases of files that were cut end. What other sessions take part in is revoked at the replicas
    /// before the cut is answered: they would acknowledge what is cut away later. The session itself has
    /// flushed before and asks anew.
    async fn revoke_cut(&self, ops: &[Op], results: &[Result<CoreResult, FsError>], dropped: Vec<Lease>) {
        let cut: Vec<InodeId> = ops.iter().zip(results).filter_map(|(op, result)| cut_file(op, result)).collect();
        let mut void = dropped;
        void.retain(|lease| cut.contains(&lease.inode));
        void.extend(cut.iter().flat_map(|inode| self.master.leases.remove_file(*inode)));
        void.retain(|lease| lease.sessions.iter().any(|holder| *holder != self.session.id));
        if !void.is_empty() {
            self.master.revoke(void).await;
        }
        cut.iter().for_each(|inode| self.master.note_cut(*inode));
    }

    /// Files whose goal was set have too few copies or too many now.
    fn note_goals(&self, ops: &[Op], results: &[Result<CoreResult, FsError>]) {
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (Op::SetGoal { inode: InodeRef::Id(inode), .. }, Ok(_)) => self.master.note_file(*inode),
                (Op::SetGoal { .. }, Ok(_)) => self.master.repair.look_everywhere(),
                _ => {}
            }
        }
    }

    /// What the client is told of an operation that was applied.
    async fn complete(&self, op: &Op, core: CoreResult, replayed: bool) -> Result<OpResult, FsError> {
        match core {
            CoreResult::Made(made) => self.made(op, made, replayed).await.map(OpResult::Made),
            CoreResult::Opened(attr) => {
                let Op::Open { spec, .. } = op else { return Err(FsError::Io) };
                self.opened(attr, *spec).await.map(OpResult::Opened)
            }
            CoreResult::Attr(attr) => Ok(OpResult::Attr(self.master.sizes.overlay(attr))),
            CoreResult::Removed(removed) => {
                self.removed(removed);
                Ok(OpResult::Done)
            }
            CoreResult::Renamed { replaced, .. } => {
                replaced.into_iter().for_each(|removed| self.removed(removed));
                Ok(OpResult::Done)
            }
            CoreResult::Deferred { inode } => {
                let meant = inode.map(InodeRef::Id);
                self.volatile(&at(op, meant), &[]).await
            }
            CoreResult::Bytes(bytes) => Ok(OpResult::Bytes(bytes)),
            CoreResult::Names(names) => Ok(OpResult::Names(names)),
            CoreResult::Page(page) => Ok(OpResult::Page(self.page(page))),
            CoreResult::Stats(stats) => Ok(OpResult::Stats(self.stats(stats))),
            CoreResult::Chunks(file) => Ok(OpResult::Chunks(self.master.chunk_map(&file))),
            CoreResult::Done => Ok(OpResult::Done),
            CoreResult::Allocated { .. } | CoreResult::Server(_) | CoreResult::Reaped(_) => Err(FsError::Io),
        }
    }

    async fn made(&self, op: &Op, made: CoreMade, replayed: bool) -> Result<Made, FsError> {
        let Op::Make(make) = op else { return Err(FsError::Io) };
        let opened = match make.open {
            Some(spec) => Some(self.opened(made.attr.clone(), spec).await?),
            None => None,
        };
        let grant = if replayed { None } else { self.first_grant(make, &made) };
        let attr = opened.as_ref().map_or_else(|| self.master.sizes.overlay(made.attr), |opened| opened.attr.clone());
        Ok(Made { attr, existed: made.existed, opened, grant })
    }

    fn first_grant(&self, make: &Make, made: &CoreMade) -> Option<ChunkGrant> {
        let chunk = made.chunk.as_ref()?;
        let generations = Generations { truncate: made.attr.truncate_generation, map: made.attr.map_generation };
        let numbering = match make.open {
            Some(_) => self.master.opens.numbering(self.session.id, made.attr.inode)?,
            None => Numbering::Primary,
        };
        Some(self.master.created_grant(self.session.id, chunk, generations, numbering))
    }

    /// A name is gone, perhaps a file with it.
    fn removed(&self, removed: Removed) {
        match removed.afterlife {
            Afterlife::Linked => {}
            Afterlife::Gone => self.master.sizes.forget(removed.inode),
            // The stamp may have named another inode: then nobody knew whether this one is open.
            Afterlife::Orphaned if !self.master.opens.is_open(removed.inode) => {
                let (master, orphan) = (self.master.clone(), removed.inode);
                tokio::spawn(async move { master.reap(vec![orphan]).await });
            }
            Afterlife::Orphaned => {}
        }
    }
}

/// The file that an operation has cut, if it has.
fn cut_file(op: &Op, result: &Result<CoreResult, FsError>) -> Option<InodeId> {
    match (op, result.as_ref().ok()?) {
        (Op::Open { spec, .. }, CoreResult::Opened(attr)) => spec.truncate.then_some(attr.inode),
        (Op::SetAttr { changes, .. }, CoreResult::Attr(attr)) => changes.size.map(|_| attr.inode),
        (Op::Make(make), CoreResult::Made(made)) => {
            let truncated = made.existed && make.open.is_some_and(|spec| spec.truncate);
            truncated.then_some(made.attr.inode)
        }
        _ => None,
    }
}

/// Ends the holds: times that were set make volatile ones from before void. Before anything else is
/// done, because what is left to do may wait for somebody who waits for a hold.
fn settle(mut holds: Vec<Hold>, ops: &[Op], results: &[Result<CoreResult, FsError>]) {
    for (op, result) in ops.iter().zip(results) {
        if let (Op::SetAttr { changes, .. }, Ok(CoreResult::Attr(attr))) = (op, result) {
            holds.iter_mut().filter(|hold| hold.inode() == attr.inode).for_each(|hold| hold.applied(changes));
        }
    }
}

/// The operation on the inode that the state machine found the reference to mean.
fn at(op: &Op, meant: Option<InodeRef>) -> Op {
    let mut op = op.clone();
    if let Some(meant) = meant {
        match &mut op {
            Op::Release { inode, .. } | Op::GrantChunk { inode, .. } | Op::BreakChunk { inode, .. } => *inode = meant,
            _ => {}
        }
    }
    op
}
