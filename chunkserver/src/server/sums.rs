//! SUMS: the block sums of a whole chunk, by which another server that is to become as this one finds out where the
//! two differ.

use super::connection::Connection;
use super::{Failure, may_block};
use crate::net::frames::Outgoing;
use crate::node::Node;
use crate::store::disk::Disk;
use gfs_proto::frame::{DataReply, Kind, Sums};
use std::io;

/// Length of the chunk and its sums.
pub(super) fn sums<D: Disk>(node: &Node<D>, request: Sums) -> Result<(u32, Vec<u8>), Failure> {
    may_block(|| node.store.all_sums(request.handle, request.version)).map_err(Failure::from)
}

/// Sends an answer.
pub(super) async fn send(
    connection: &Connection,
    request: u64,
    found: Result<(u32, Vec<u8>), Failure>,
) -> io::Result<()> {
    match found {
        Err(failure) => connection.answer(request, Err(failure)).await,
        Ok((chunk_length, sums)) => {
            let header = DataReply { chunk_length }.encode();
            let frame = Outgoing { kind: Kind::Data, request, header: &header, sums: &[], payload: &sums };
            connection.writer.send(&frame).await
        }
    }
}
