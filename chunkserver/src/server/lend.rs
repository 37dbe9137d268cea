//! LEND: passes the descriptor of a replica's file to a client on this machine (short-circuit reads), and
//! with the first one the board that says when it may be read.

use super::connection::Connection;
use super::{Failure, may_block};
use crate::lease::nanos;
use crate::net::frames::Outgoing;
use crate::node::Node;
use gfs_proto::chunk_file;
use gfs_proto::frame::{CAPABILITY_LENDS, DataError, Kind, Lend, Lent};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What there is to say to a LEND.
pub(super) struct Found {
    file: OwnedFd,
    lent: Lent,
}

/// Whether a connection has the board yet.
#[derive(Default)]
pub(super) struct Shown(AtomicBool);

/// What a greeting says of it: descriptors pass between processes of one machine only.
pub(super) fn capability(connection: &Connection) -> u64 {
    let lends = connection.socket.passes_descriptors() && connection.node.store.loans().board().is_some();
    if lends { CAPABILITY_LENDS } else { 0 }
}

/// Lends a replica.
pub(super) fn lend(connection: &Connection, lend: &Lend) -> Result<Found, Failure> {
    let node = &connection.node;
    if capability(connection) == 0 {
        return Err(DataError::Protocol.into());
    }
    if !node.lease.is_held() {
        return Err(DataError::NoReadLease.into());
    }
    let (file, tenancy) = may_block(|| {
        let (file, tenancy) = node.store.lend(lend.handle, lend.version)?;
        // another open file of its own, which cannot be written to
        Ok::<_, DataError>((file.reopen_for_reading().map_err(|error| not_reopened(&error))?, tenancy))
    })?;
    // Writes admitted from now on find the loan; of those from before it does not know.
    if is_in_flight(node, lend) {
        return Err(DataError::Busy.into());
    }
    let now = nanos(node.clock.now());
    let format = chunk_file::FORMAT;
    let lent = Lent { format, slot: tenancy.slot, tenancy: tenancy.tenancy, with_board: false, now };
    Ok(Found { file, lent })
}

fn is_in_flight(node: &Node, lend: &Lend) -> bool {
    node.grants.get(lend.handle).is_some_and(|gate| gate.has_in_flight())
}

fn not_reopened(error: &io::Error) -> DataError {
    tracing::warn!(%error, "a chunk file cannot be opened for a client; it reads by request");
    DataError::NotLent
}

/// Sends an answer.
pub(super) async fn send(connection: &Connection, request: u64, found: Result<Found, Failure>) -> io::Result<()> {
    let Found { file, lent } = match found {
        Ok(found) => found,
        Err(failure) => return connection.answer(request, Err(failure)).await,
    };
    let board = connection.node.store.loans().board();
    let with_board = !connection.shown.0.swap(true, Ordering::AcqRel);
    let header = Lent { with_board, ..lent }.encode();
    let frame = Outgoing { kind: Kind::Lent, request, header: &header, sums: &[], payload: &[] };
    let descriptors: Vec<_> = [file.as_fd()].into_iter().chain(board.filter(|_| with_board)).collect();
    connection.writer.send_descriptors(&frame, &descriptors).await
}
