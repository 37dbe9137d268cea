//! A client's batch from decoded request to reply.
//!
//! A batch that changes durable state is one logged command, whatever else is in it
//! ([`mutations`]); the others are answered from the store and the volatile tables, operation by
//! operation, without the log ([`reads`], [`files`]). Most of those never wait: polled once, they are
//! ready.

mod files;
mod mutations;
mod prepare;
mod reads;

use crate::master::Master;
use crate::sessions::Session;
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{InodeId, LogIndex};
use gfs_proto::limits;
use gfs_proto::ops::{Batch, BatchReply, InodeRef, Op, OpResult};
use std::sync::Arc;

/// Results so far, for operations that refer to earlier ones.
pub type Results = Vec<Result<OpResult, FsError>>;

/// Who asks, and of whom.
pub struct Request {
    /// The master.
    pub master: Arc<Master>,
    /// Whose batch it is.
    pub session: Arc<Session>,
    /// Whose permissions count.
    pub caller: Caller,
}

/// Carries out a batch. An error is about the request as a whole.
pub async fn run(master: Arc<Master>, session: Arc<Session>, batch: Batch) -> Result<BatchReply, FsError> {
    if session.ended.is_open() {
        return Err(FsError::SessionExpired);
    }
    let request = Request { master, session, caller: batch.caller.clone() };
    if batch.ops.iter().any(Op::is_mutation) {
        return Box::pin(request.mutate(batch)).await;
    }
    request.read(&batch).await
}

/// True if carrying it out may wait for the operation log or for other machines.
pub fn is_logged(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| {
        op.is_mutation()
            || matches!(op, Op::ReportSize { durable: true, .. } | Op::GrantChunk { .. } | Op::BreakChunk { .. })
    })
}

impl Request {
    /// Operations that are not logged as such, one after another, up to the first failure.
    async fn read(&self, batch: &Batch) -> Result<BatchReply, FsError> {
        let index = self.master.store.applied().index;
        let mut results = Results::with_capacity(batch.ops.len());
        if let Some(precondition) = batch.precondition
            && self.master.store.view().dir_version(precondition.inode) != Ok(precondition.version)
        {
            return Ok(self.reply(vec![Err(FsError::Precondition)], index));
        }
        for op in &batch.ops {
            let result = match self.at_once(op, &results) {
                Some(result) => result,
                None => Box::pin(self.volatile(op, &results)).await,
            };
            let failed = result.is_err();
            results.push(result);
            if failed {
                break;
            }
        }
        Ok(self.reply(results, index))
    }

    /// What is applied here is on stable storage, as long as nothing is answered earlier.
    fn reply(&self, results: Results, index: LogIndex) -> BatchReply {
        BatchReply { results, log_index: index, durable_index: index, ttl: limits::ATTRIBUTE_TTL }
    }
}

/// The inode that an operation means.
fn resolve(reference: InodeRef, results: &[Result<OpResult, FsError>]) -> Result<InodeId, FsError> {
    match reference {
        InodeRef::Id(inode) => Ok(inode),
        InodeRef::ResultOf(n) => match results.get(usize::from(n)) {
            Some(Ok(OpResult::Attr(attr))) => Ok(attr.inode),
            Some(Ok(OpResult::Made(made))) => Ok(made.attr.inode),
            Some(Ok(OpResult::Opened(opened))) => Ok(opened.attr.inode),
            _ => Err(FsError::Protocol),
        },
    }
}
