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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::outcome::CoreResult;
    use crate::tests::Fixture;

    #[test]
    fn a_server_keeps_its_number() {
        let mut fixture = Fixture::new();
        let mut register = |byte, rack: &str| match fixture
            .one(Action::RegisterServer { uuid: ServerUuid::new([byte; 16]), rack: rack.into() })
        {
            Ok(CoreResult::Server(server)) => server.get(),
            other => panic!("{other:?} of a registration"),
        };
        assert_eq!([register(7, "a"), register(8, "a"), register(7, "b")], [1, 2, 1]);
        let racks: Vec<_> = fixture.store.view().servers().expect("readable").into_iter().map(|s| s.rack).collect();
        assert_eq!(racks, ["b", "a"]);
    }
}
