//! Chunkservers: each gets a number at its first registration, and keeps it until it is removed. Numbers are
//! not given out again: a server that was removed and comes back is another one, with nothing.

use crate::outcome::{Duty, ServerRecord};
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
    tx.insert_server(&ServerRecord { server, uuid, rack: rack.to_owned(), duty: Duty::default() });
    Ok(server)
}

/// What is wanted of it, and known of its absence, from now on.
pub(crate) fn set_duty(tx: &mut Tables<'_>, server: ServerId, duty: Duty) -> Result<(), FsError> {
    let mut record = known(tx, server)?;
    // nothing above this line has changed anything
    record.duty = duty;
    tx.put_server(&record);
    Ok(())
}

/// It is no part of the cluster any more. Chunk records may name it still: what they entitled is lost.
pub(crate) fn remove(tx: &mut Tables<'_>, server: ServerId) -> Result<(), FsError> {
    known(tx, server)?;
    // nothing above this line has changed anything
    tx.remove_server(server);
    Ok(())
}

fn known(tx: &Tables<'_>, server: ServerId) -> Result<ServerRecord, FsError> {
    tx.servers()?.into_iter().find(|record| record.server == server).ok_or(FsError::NotFound)
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

    #[test]
    fn a_duty_is_kept_over_registrations_and_ends_with_the_server() {
        let mut fixture = Fixture::new();
        let register = |byte| Action::RegisterServer { uuid: ServerUuid::new([byte; 16]), rack: "r".into() };
        let (first, unknown) = (ServerId::new(1), ServerId::new(9));
        assert_eq!(fixture.one(register(7)), Ok(CoreResult::Server(first)));
        let until = Some(gfs_proto::time::Timestamp::from_nanos(1_700_000_000_000_000_001));
        let duties = |f: &Fixture| -> Vec<Duty> {
            f.store.view().servers().expect("readable").into_iter().map(|server| server.duty).collect()
        };
        for duty in [
            Duty { draining: true, ..Duty::default() },
            Duty { draining: true, maintenance_until: until, left: None },
            Duty { draining: false, maintenance_until: until, left: until },
            Duty { left: until, ..Duty::default() },
            Duty::default(),
            Duty { draining: true, ..Duty::default() },
        ] {
            fixture.one(Action::SetDuty { server: first, duty }).expect("known");
            fixture.one(register(7)).expect("again");
            assert_eq!(duties(&fixture), [duty]);
        }
        let duty = Duty::default();
        assert_eq!(fixture.one(Action::SetDuty { server: unknown, duty }), Err(FsError::NotFound));
        assert_eq!(fixture.one(Action::RemoveServer { server: unknown }), Err(FsError::NotFound));
        fixture.one(Action::RemoveServer { server: first }).expect("known");
        assert_eq!((duties(&fixture), fixture.store.view().stats().servers), (vec![], 0));
        assert_eq!(fixture.one(register(7)), Ok(CoreResult::Server(ServerId::new(2))), "another one");
        assert_eq!(duties(&fixture), [Duty::default()]);
    }
}
