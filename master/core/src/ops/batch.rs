//! Batch: a client's operations in order, up to the first failure; each is all or nothing, those before
//! a failure stay. Exactly once: the results are kept under (session, sequence) until acknowledged.
//! Keeps `replies_belong_to_sessions`.

use super::rename::Place;
use super::{
    Request, link, make, open_truncate, remove_xattr, rename, rmdir, sessions, set_attr, set_goal, set_xattr, sizes,
    unlink,
};
use crate::command::{CoreBatch, SizeRecord, Stamp, StampedOp};
use crate::outcome::CoreResult;
use crate::queries;
use crate::record::{Body, decode_number, decode_results, encode_number, encode_results};
use crate::state::table::{Table, reply_key};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::SetTime;
use gfs_proto::ids::{InodeId, Sequence};
use gfs_proto::ops::{InodeRef, Op, Precondition};

type Results = Vec<Result<CoreResult, FsError>>;

/// Where the lowest sequence that may still come is kept, among the outcomes, which count from 1.
const FLOOR: Sequence = Sequence::new(0);

/// The results, and whether they are those of an earlier time.
pub(crate) fn apply(tx: &mut Tables<'_>, stamp: Stamp, batch: &CoreBatch) -> Result<(bool, Results), FsError> {
    if batch.session.get() == 0 {
        return Ok((false, run(tx, stamp, batch)));
    }
    if !tx.has_session(batch.session)? {
        return Ok((false, vec![Err(FsError::SessionExpired)]));
    }
    let key = reply_key(batch.session, batch.sequence);
    if batch.sequence != FLOOR
        && let Some(results) = tx.rows().get(Table::Replies, &key, decode_results)?
    {
        return Ok((true, results));
    }
    let floor = tx.rows().get(Table::Replies, &reply_key(batch.session, FLOOR), decode_number)?;
    let acknowledged = floor.map_or(Sequence::new(1), Sequence::new);
    if batch.sequence < acknowledged {
        return Ok((false, vec![Err(FsError::Protocol)]));
    }
    let results = run(tx, stamp, batch);
    let floor_is_new = floor.is_none();
    forget(tx, batch, acknowledged, floor_is_new)?;
    tx.put_reply(batch.session, batch.sequence, encode_results(&results), true);
    Ok((false, results))
}

/// Drops outcomes that the client has got.
fn forget(tx: &mut Tables<'_>, batch: &CoreBatch, floor: Sequence, new: bool) -> Result<(), FsError> {
    let acknowledged = batch.acknowledged.min(batch.sequence);
    if acknowledged <= floor {
        return Ok(());
    }
    for sequence in sessions::outcomes(tx, batch.session, floor, acknowledged)? {
        tx.remove_reply(batch.session, sequence);
    }
    tx.put_reply(batch.session, FLOOR, encode_number(acknowledged.get()), new);
    Ok(())
}

fn run(tx: &mut Tables<'_>, stamp: Stamp, batch: &CoreBatch) -> Results {
    if let Some(precondition) = batch.precondition
        && let Err(error) = check(tx, precondition)
    {
        return vec![Err(error)];
    }
    let request = Request { caller: &batch.caller, now: stamp.now };
    let mut results = Results::with_capacity(batch.ops.len());
    for op in &batch.ops {
        tx.savepoint();
        let result = one(tx, request, op, &results);
        let failed = result.is_err();
        results.push(result);
        if failed {
            tx.rollback();
            break;
        }
    }
    tx.savepoint();
    results
}

fn check(tx: &Tables<'_>, precondition: Precondition) -> Result<(), FsError> {
    let dir = tx.find_inode(precondition.inode)?;
    match dir.map(|dir| dir.body) {
        Some(Body::Directory { version, .. }) if version == precondition.version => Ok(()),
        _ => Err(FsError::Precondition),
    }
}

/// One operation. `before` are the results of those before it.
fn one(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    stamped: &StampedOp,
    before: &[Result<CoreResult, FsError>],
) -> Result<CoreResult, FsError> {
    let inode_of = |reference: InodeRef| resolve(reference, before);
    let openers = stamped.openers.as_ref();
    match &stamped.op {
        Op::Make(op) => make::apply(tx, request, inode_of(op.parent)?, op, &stamped.placement).map(CoreResult::Made),
        Op::Link { inode, parent, name } => {
            link::apply(tx, request, inode_of(*inode)?, inode_of(*parent)?, name).map(CoreResult::Attr)
        }
        Op::Unlink { parent, name } => {
            unlink::apply(tx, request, inode_of(*parent)?, name, openers).map(CoreResult::Removed)
        }
        Op::Rmdir { parent, name } => rmdir::apply(tx, request, inode_of(*parent)?, name).map(CoreResult::Removed),
        Op::Rename { from_parent, from_name, to_parent, to_name, mode } => {
            let from = Place { parent: inode_of(*from_parent)?, name: from_name };
            let to = Place { parent: inode_of(*to_parent)?, name: to_name };
            rename::apply(tx, request, from, to, *mode, openers)
        }
        Op::SetAttr { inode, changes } => {
            set_attr::apply(tx, request, inode_of(*inode)?, changes).map(CoreResult::Attr)
        }
        Op::SetXattr { inode, name, value, mode } => {
            set_xattr::apply(tx, request, inode_of(*inode)?, name, value, *mode).map(|()| CoreResult::Done)
        }
        Op::RemoveXattr { inode, name } => {
            remove_xattr::apply(tx, request, inode_of(*inode)?, name).map(|()| CoreResult::Done)
        }
        Op::SetGoal { inode, goal } => {
            set_goal::apply(tx, request, inode_of(*inode)?, *goal).map(|()| CoreResult::Done)
        }
        Op::Open { inode, spec } => open_truncate::apply(tx, request, inode_of(*inode)?, *spec).map(CoreResult::Opened),
        Op::ReportSize { inode, size, mtime, atime, ctime, truncate_generation, durable: _ } => {
            let time = |set: &Option<SetTime>| set.map(|set| set_time(set, request));
            let record = SizeRecord {
                inode: inode_of(*inode)?,
                size: *size,
                mtime: time(mtime),
                atime: time(atime),
                ctime: *ctime,
                truncate_generation: *truncate_generation,
            };
            sizes::record(tx, &record).map(CoreResult::Attr)
        }
        Op::Release { inode, .. } | Op::GrantChunk { inode, .. } | Op::BreakChunk { inode, .. } => {
            Ok(CoreResult::Deferred { inode: Some(inode_of(*inode)?) })
        }
        Op::ReturnChunks { .. } => Ok(CoreResult::Deferred { inode: None }),
        reading => queries::answer(tx, request.caller, reading, inode_of),
    }
}

fn set_time(set: SetTime, request: Request<'_>) -> gfs_proto::time::Timestamp {
    match set {
        SetTime::Now => request.now,
        SetTime::At(time) => time,
    }
}

fn resolve(reference: InodeRef, before: &[Result<CoreResult, FsError>]) -> Result<InodeId, FsError> {
    match reference {
        InodeRef::Id(inode) => Ok(inode),
        InodeRef::ResultOf(number) => {
            let result = before.get(usize::from(number)).and_then(|result| result.as_ref().ok());
            result.and_then(CoreResult::inode).ok_or(FsError::Protocol)
        }
    }
}
