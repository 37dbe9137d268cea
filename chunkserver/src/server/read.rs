//! READ: small answers by copy with one system call, large ones by `sendfile` from the page cache where
//! no lease lives on the chunk; under a lease by copy, bytes and sums together.

use super::connection::Connection;
use super::{Failure, may_block, may_block_on};
use crate::grants::Gate;
use crate::net::frames::Outgoing;
use crate::node::Node;
use crate::store::disk::{Disk, DiskFile};
use crate::store::real::RealFile;
use crate::store::{ReadOut, SendPlan};
use gfs_proto::frame::{DataError, DataReply, Extent, Kind, Read};
use std::io;
use std::os::fd::AsFd;
use tokio::time::Instant;

/// Up to this size a copy and one `writev` are cheaper than two system calls.
const COPY_MAX: u32 = 64 << 10;
/// Distance at which a range is probed for being in the page cache; read-ahead comes in pieces no smaller.
const PROBE_STEP: usize = 128 << 10;

fn range(read: &Read) -> Extent {
    Extent { offset: read.offset, length: read.length }
}

/// An answer that is ready to be sent.
pub(super) enum Found<F = RealFile> {
    /// Bytes and sums in memory.
    Copied(ReadOut, Vec<u8>),
    /// To be sent from the file; `cached` if that will not wait for the disk.
    Planned { plan: SendPlan<F>, cached: bool },
}

/// The answer, unless it has to wait for the disk, for a write in flight or for one who moves the replica.
pub(super) fn now(node: &Node, read: &Read) -> Option<Result<Found, Failure>> {
    if !node.lease.is_held() {
        return Some(Err(DataError::NoReadLease.into()));
    }
    let found = node.grants.when_settled(read.handle, range(read), |gate| find_now(node, read, gate))?;
    found.map_err(Failure::from).transpose()
}

fn find_now(node: &Node, read: &Read, gate: Option<&Gate>) -> Result<Option<Found>, DataError> {
    if sends_file(read, gate) {
        let plan = node.store.plan_send_now(read.handle, read.version, range(read))?;
        return Ok(plan.filter(is_cached).map(|plan| Found::Planned { plan, cached: true }));
    }
    let mut bytes = Vec::new();
    let out = node.store.read_cached(read.handle, read.version, range(read), &mut bytes)?;
    Ok(out.map(|out| Found::Copied(out, bytes)))
}

/// The answer, after waiting for what [`now`] would not wait for.
pub(super) async fn later<D: Disk>(node: &Node<D>, read: &Read) -> Result<Found<D::File>, Failure> {
    let deadline = Instant::now() + node.patience.turn;
    let found = loop {
        if let Some(gate) = node.grants.get(read.handle) {
            gate.wait_settled(range(read), deadline).await?;
        }
        let find = |gate: Option<&Gate>| may_block(|| find(node, read, gate));
        match node.grants.when_settled(read.handle, range(read), find) {
            Some(found) => break found?,
            None if Instant::now() >= deadline => return Err(DataError::Busy.into()),
            None => {}
        }
    };
    // it may have run out while this waited
    if node.lease.is_held() { Ok(found) } else { Err(DataError::NoReadLease.into()) }
}

fn find<D: Disk>(node: &Node<D>, read: &Read, gate: Option<&Gate>) -> Result<Found<D::File>, DataError> {
    if sends_file(read, gate) {
        let plan = node.store.plan_send(read.handle, read.version, range(read))?;
        let cached = is_cached(&plan);
        return Ok(Found::Planned { plan, cached });
    }
    let mut bytes = Vec::new();
    let out = node.store.read(read.handle, read.version, range(read), &mut bytes)?;
    Ok(Found::Copied(out, bytes))
}

/// Under a lease the bytes may change between being summed and being sent.
fn sends_file(read: &Read, gate: Option<&Gate>) -> bool {
    read.length > COPY_MAX && !read.by_copy && !gate.is_some_and(|gate| gate.is_leased())
}

/// Looks at one byte in every step and at the last one.
fn is_cached<F: DiskFile>(plan: &SendPlan<F>) -> bool {
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
