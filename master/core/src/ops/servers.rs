//! Chunkservers: each gets a number at its first registration, and keeps it.

use crate::outcome::ServerRecord;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::ids::{ServerId, ServerUuid};

/// The number of the server that calls itself `uuid`.
pub(crate) fn register(tx: &mut Tables<'_>, uuid: ServerUuid, rack: &str) -> Result<ServerId, FsError> {
    if let Some(mut known) = tx.servers()?.into_iter().find(|server| server.uuid == uuid) {
        if known.rack != rack {
            known.rack = rack.to_owned();
            tx.put_server(&known);
        }
        return Ok(known.server);
    }
    let server = tx.next_server();
    tx.insert_server(&ServerRecord { server, uuid, rack: rack.to_owned() });
    Ok(server)
}
