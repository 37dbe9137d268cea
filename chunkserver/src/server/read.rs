//! READ: small answers by copy with one system call, large ones by `sendfile` from the page cache where
//! no lease lives on the chunk; under a lease by copy, bytes and sums together.

use super::connection::Connection;
use super::{Failure, may_block, may_block_on};
use crate::grants::Gate;
use crate::net::frames::Outgoing;
use crate::node::Node;
use crate::store::disk::DiskFile;
use crate::store::real::RealFile;
use crate::store::{ReadOut, SendPlan};
use gfs_proto::frame::{DataError, DataReply, Extent, Kind, Read};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::time::Instant;

/// Up to this size a copy and one `writev` are cheaper than two system calls.
const COPY_MAX: u32 = 64 << 10;
/// Distance at which a range is probed for being in the page cache; read-ahead comes in pieces no smaller.
const PROBE_STEP: usize = 128 << 10;

fn range(read: &Read) -> Extent {
    Extent { offset: read.offset, length: read.length }
}

/// An answer that is ready to be sent.
pub(super) enum Found {
    /// Bytes and sums in memory.
    Copied(ReadOut, Vec<u8>),
    /// To be sent from the file; `cached` if that will not wait for the disk.
    Planned { plan: SendPlan<RealFile>, cached: bool },
}

/// The answer, unless it has to wait for the disk or for a write in flight.
pub(super) fn now(node: &Node, read: &Read) -> Option<Result<Found, Failure>> {
    if !node.lease.is_held() {
        return Some(Err(DataError::NoReadLease.into()));
    }
    let gate = node.grants.get(read.handle);
    if gate.as_ref().is_some_and(|gate| gate.is_in_flight(range(read))) {
        return None;
    }
    if sends_file(read, gate.as_ref()) {
        return match plan(node, read) {
            Ok(Found::Planned { cached: false, .. }) => None,
            found => Some(found),
        };
    }
    let mut bytes = Vec::new();
    match node.store.read_cached(read.handle, read.version, range(read), &mut bytes) {
        Ok(out) => out.map(|out| Ok(Found::Copied(out, bytes))),
        Err(error) => Some(Err(error.into())),
    }
}

/// The answer, after waiting for what [`now`] would not wait for.
pub(super) async fn later(node: &Node, read: &Read) -> Result<Found, Failure> {
    let gate = node.grants.get(read.handle);
    if let Some(gate) = &gate {
        gate.wait_settled(range(read), Instant::now() + node.patience.turn).await?;
    }
    let found = if sends_file(read, gate.as_ref()) {
        plan(node, read)?
    } else {
        let mut bytes = Vec::new();
        let out = may_block(|| node.store.read(read.handle, read.version, range(read), &mut bytes))?;
        Found::Copied(out, bytes)
    };
    // it may have run out while this waited
    if node.lease.is_held() { Ok(found) } else { Err(DataError::NoReadLease.into()) }
}

/// Under a lease the bytes may change between being summed and being sent.
fn sends_file(read: &Read, gate: Option<&Arc<Gate>>) -> bool {
    read.length > COPY_MAX && !read.by_copy && !gate.is_some_and(|gate| gate.is_leased())
}

fn plan(node: &Node, read: &Read) -> Result<Found, Failure> {
    let plan = node.store.plan_send(read.handle, read.version, range(read))?;
    let cached = is_cached(&plan);
    Ok(Found::Planned { plan, cached })
}

/// Looks at one byte in every step and at the last one.
fn is_cached(plan: &SendPlan<RealFile>) -> bool {
    let Some(last) = u64::from(plan.length).checked_sub(1) else { return true };
    let mut byte = Vec::with_capacity(1);
    (0..last).step_by(PROBE_STEP).chain([last]).all(|at| {
        byte.clear();
        plan.file.read_cached(plan.offset + at, 1, &mut byte).unwrap_or(true)
    })
}

/// Sends an answer.
pub(super) async fn send(connection: &Connection, request: u64, found: Result<Found, Failure>) -> io::Result<()> {
    match found {
        Err(failure) => connection.answer(request, Err(failure)).await,
        Ok(Found::Copied(out, bytes)) => {
            let header = DataReply { chunk_length: out.chunk_length }.encode();
            let payload = &bytes[..out.data_len as usize];
            let frame = Outgoing { kind: Kind::Data, request, header: &header, sums: &out.sums, payload };
            connection.writer.send(&frame).await
        }
        Ok(Found::Planned { plan, cached }) => {
            let header = DataReply { chunk_length: plan.chunk_length }.encode();
            let frame = Outgoing { kind: Kind::Data, request, header: &header, sums: &plan.sums, payload: &[] };
            let sent = connection.writer.send_file(&frame, plan.file.as_fd(), plan.offset, plan.length as usize);
            if cached { sent.await } else { may_block_on(sent).await }
        }
    }
}
