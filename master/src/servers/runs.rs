//! Which start of a chunkserver counts. A storage directory that was put back from a backup has forgotten what its server
//! acknowledged, and one that was copied names a server that runs elsewhere: both look like that server started again.
//!
//! Volatile: what is known is what has registered since this master started.

use super::Servers;
use gfs_proto::control::Register;
use gfs_proto::ids::ServerId;
use std::net::SocketAddr;
use std::time::Instant;

/// Why a start does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunError {
    /// There was a later one, or another one with the same number.
    Older,
    /// Another one is connected, from this address.
    Elsewhere(SocketAddr),
}

impl Servers {
    /// Whether a server may register, which it says to have this number.
    pub fn check_run(&self, server: ServerId, register: &Register, now: Instant) -> Result<(), RunError> {
        let table = self.table.lock();
        let Some((entry, known)) = table.get(&server).and_then(|entry| Some((entry, entry.registered.as_ref()?)))
        else {
            return Ok(());
        };
        if known.run == register.run {
            return Ok(());
        }
        if register.incarnation <= known.incarnation {
            return Err(RunError::Older);
        }
        // A machine that has lost power leaves a connection, but says nothing over it.
        let is_alive = entry.link.is_some()
            && entry.heard.is_some_and(|heard| now.saturating_duration_since(heard) < self.timings.read_lease);
        let tcp = known.address.tcp;
        if is_alive && tcp != register.address.tcp { Err(RunError::Elsewhere(tcp)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timings;
    use crate::servers::tests::{SERVER, link, register};
    use gfs_proto::ids::RunId;

    #[test]
    fn copies_of_a_server_and_what_it_was_before_are_turned_away() {
        let (now, timings) = (Instant::now(), Timings::default());
        let servers = Servers::new(Vec::new(), timings, now);
        let start = |incarnation, run, port: u16| {
            let mut register = Register { run: RunId::new(run), ..register(incarnation) };
            register.address.tcp.set_port(port);
            register
        };
        let check = |register: Register, now| servers.check_run(SERVER, &register, now);
        assert_eq!(check(start(4, 1, 1), now), Ok(()), "nobody is known");
        let first = link();
        servers.attach(SERVER, start(4, 1, 1), first.clone(), now);
        assert_eq!(check(start(4, 1, 1), now), Ok(()), "it connects once more");
        assert_eq!(check(start(3, 1, 1), now), Ok(()), "the same run, whatever it says");
        assert_eq!(check(start(4, 2, 1), now), Err(RunError::Older), "a directory as it was before run 4");
        assert_eq!(check(start(5, 2, 1), now), Ok(()), "started again at its address: the former one is dead");
        let elsewhere = Err(RunError::Elsewhere(start(4, 1, 1).address.tcp));
        assert_eq!(check(start(5, 2, 2), now), elsewhere, "a copy of its directory");
        assert_eq!(check(start(5, 2, 2), now + timings.read_lease), Ok(()), "the former one is silent");
        servers.detach(SERVER, &first, false);
        assert_eq!(check(start(5, 2, 2), now), Ok(()), "the former one is gone");
    }
}
