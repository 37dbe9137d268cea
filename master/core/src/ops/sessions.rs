//! Sessions: opened under an id that the leader drew, ended with their outcomes.
//! Keeps `replies_belong_to_sessions`.

use crate::command::Stamp;
use crate::outcome::SessionRecord;
use crate::state::table::{self, Table};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{Sequence, SessionId};
use std::ops::ControlFlow;

/// A client arrives.
pub(crate) fn open(
    tx: &mut Tables<'_>,
    stamp: Stamp,
    session: SessionId,
    secret: [u8; 16],
    name: &str,
) -> Result<(), FsError> {
    if session.get() == 0 {
        return Err(FsError::InvalidArgument);
    }
    if tx.has_session(session)? {
        return Err(FsError::Exists);
    }
    // nothing above this line has changed anything
    tx.insert_session(&SessionRecord { session, secret, name: name.to_owned(), opened: stamp.now });
    Ok(())
}

/// A client is gone. Orphans that it alone kept stay for the leader to reap: another session may have
/// opened one since it lost its name, which is nowhere logged.
pub(crate) fn end(tx: &mut Tables<'_>, session: SessionId) -> Result<(), FsError> {
    if !tx.has_session(session)? {
        return Err(FsError::SessionExpired);
    }
    // nothing above this line has changed anything
    tx.remove_session(session);
    for sequence in outcomes(tx, session, Sequence::default(), Sequence::new(u64::MAX))? {
        tx.remove_reply(session, sequence);
    }
    for mut orphan in tx.orphans()? {
        if orphan.sessions.contains(&session) {
            orphan.sessions.retain(|s| *s != session);
            tx.put_orphan(orphan.inode, &orphan.sessions);
        }
    }
    Ok(())
}

/// Sequences of a session that have a row in the reply cache: `from` and on, below `end`.
pub(super) fn outcomes(
    tx: &Tables<'_>,
    session: SessionId,
    from: Sequence,
    end: Sequence,
) -> Result<Vec<Sequence>, FsError> {
    let mut found = Vec::new();
    let (from, prefix) = (table::reply_key(session, from), table::session_key(session));
    let rows = tx.rows();
    rows.scan(Table::Replies, &from, &prefix, &mut |key, _| {
        let sequence = table::second_number(key).ok_or_else(|| rows.fault().corrupt(Table::Replies, key))?;
        if sequence >= end.get() {
            return Ok(ControlFlow::Break(()));
        }
        found.push(Sequence::new(sequence));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
