//! The one body of every command: live, at a restart and on a follower.

use crate::command::{Action, Command};
use crate::ops::{
    abandon, batch, chunks, entitle, mend, quarantine, reap, restored, servers, sessions, sizes, written,
};
use crate::outcome::CoreResult;
use crate::state::Tables;
use gfs_proto::FsError;

/// What a command says, and whether it had been applied before.
pub(crate) struct Answer {
    pub(crate) replayed: bool,
    pub(crate) results: Vec<Result<CoreResult, FsError>>,
}

/// Runs a command on the tables. An error of the database shows in the tables' fault, not here.
pub(crate) fn run(tx: &mut Tables<'_>, command: &Command) -> Answer {
    tx.savepoint();
    if let Action::Batch(batch) = &command.action {
        return match batch::apply(tx, command.stamp, batch) {
            Ok((replayed, results)) => Answer { replayed, results },
            Err(error) => Answer { replayed: false, results: vec![Err(error)] },
        };
    }
    let result = one(tx, command);
    if result.is_err() {
        tx.rollback();
    }
    Answer { replayed: false, results: vec![result] }
}

fn one(tx: &mut Tables<'_>, command: &Command) -> Result<CoreResult, FsError> {
    let done = |()| CoreResult::Done;
    match &command.action {
        Action::Batch(_) | Action::Noop => Ok(CoreResult::Done),
        Action::OpenSession { session, secret, name } => {
            sessions::open(tx, command.stamp, *session, *secret, name).map(done)
        }
        Action::EndSession { session } => sessions::end(tx, *session).map(done),
        Action::RegisterServer { uuid, rack } => servers::register(tx, *uuid, rack).map(CoreResult::Server),
        Action::SetDuty { server, duty } => servers::set_duty(tx, *server, *duty).map(done),
        Action::RemoveServer { server } => servers::remove(tx, *server).map(done),
        Action::AllocateChunk { inode, index, placement } => chunks::allocate(tx, *inode, *index, placement),
        Action::RaiseVersion { handle, version, entitled, unwritten } => {
            let raise = chunks::Raise { version: *version, servers: entitled, unwritten: *unwritten };
            chunks::raise(tx, *handle, &raise).map(done)
        }
        Action::Entitle { handle, version, from, to } => {
            entitle::apply(tx, *handle, &entitle::Change { version: *version, from, to }).map(done)
        }
        Action::RecordSizes(sizes) => sizes::apply(tx, sizes).map(done),
        Action::CutApplied { cuts } => chunks::cut_applied(tx, cuts).map(done),
        Action::Collected { rows } => chunks::collected(tx, rows).map(done),
        Action::Abandon { chunks } => abandon::apply(tx, chunks).map(done),
        Action::Written { handles, flushed } => written::apply(tx, handles, *flushed).map(done),
        Action::Quarantine { unclaimed } => quarantine::put_aside(tx, unclaimed, command.stamp.now).map(done),
        Action::Release { rows } => quarantine::release(tx, rows).map(done),
        Action::Discard { unclaimed } => quarantine::discard(tx, unclaimed).map(done),
        Action::Mend { mends } => mend::apply(tx, mends, command.stamp.now).map(done),
        Action::Restored => restored::apply(tx).map(done),
        Action::Reap { inodes } => reap::apply(tx, inodes).map(CoreResult::Reaped),
    }
}
