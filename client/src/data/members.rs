//! One write or flush at all members of a lease: star or chain, and what a failure means.
//!
//! Small frames under client numbering go to every member at once; larger ones, and all under
//! primary numbering, go along the chain (GFS paper, 3.2; star saves two hops for small files). The
//! first frame of a new chunk is a star whatever its size: a member that is down must not keep the
//! others from having the chunk at all.

use super::connection::{Answer, LinkError, Request};
use super::frame::Frame;
use super::outbox::{Fault, Ticket};
use super::servers::Servers;
use super::tally::{Outcome, Tally};
use crate::operation::{self, Cause, Obstacle};
use futures_util::future::join_all;
use gfs_proto::chunk::{ChunkGrant, Replica};
use gfs_proto::frame::{Ack, DataError, Hop, Kind, Sync, SyncChunk, Write};
use gfs_proto::ids::{Incarnation, Serial, ServerId, SessionId};
use gfs_proto::limits::STAR_BYTES_MAX;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Serials begin with it in each epoch.
const FIRST: Serial = Serial::new(1);

/// How waiting for the members ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ended {
    /// There is nothing more to wait for.
    Answered,
    /// These hang; they need not have been asked directly.
    Silent(Vec<ServerId>),
    /// Somebody did not answer in time.
    TimedOut,
}

/// Why a write or flush did not succeed everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The lease is of no use any more.
    Fault(Fault),
    /// A disk is full.
    NoSpace,
    /// A server wants it later, under the same lease.
    Busy,
}

impl Servers {
    /// Writes a frame at all members.
    pub(super) async fn write(
        &self,
        ticket: &Ticket,
        frame: &Frame,
        session: SessionId,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let members = &ticket.grant.replicas;
        let star = match ticket.serial {
            Some(serial) => frame.batch.bytes <= STAR_BYTES_MAX || (ticket.create && serial == FIRST),
            None => false,
        };
        let asked = if star { &members[..] } else { &members[..1] };
        let tally = Arc::new(Tally::new(asked.len()));
        let awaits = || if star { tally.missing(asked) } else { members.iter().collect() };
        let send = |(slot, replica): (usize, &Replica)| {
            let chain = if star { &[] } else { &members[1..] };
            let header = header(ticket, frame, session, replica.incarnation, chain);
            let (tally, replica, handle) = (tally.clone(), replica.clone(), ticket.grant.handle);
            async move {
                let request =
                    Request { kind: Kind::Write, header: &header, sums: frame.sums(), payload: &frame.batch.data };
                self.post((slot, &replica), handle, request, &tally).await;
            }
        };
        let all = async {
            match asked {
                [only] => send((0, only)).await,
                _ => drop(join_all(asked.iter().enumerate().map(send)).await),
            }
            tally.wait().await;
        };
        let ended = self.ended(deadline, awaits, all).await;
        self.judge(asked, ticket, &tally, &ended)
    }

    /// Brings what the members of a lease have acknowledged to stable storage.
    pub(super) async fn sync(&self, grant: &Arc<ChunkGrant>, deadline: Instant) -> Result<(), Failure> {
        let tally = Arc::new(Tally::new(grant.replicas.len()));
        let send = |(slot, replica): (usize, &Replica)| {
            let chunks = vec![SyncChunk { handle: grant.handle, version: grant.version }];
            let header = Sync { incarnation: replica.incarnation, chunks }.encode();
            let (tally, replica) = (tally.clone(), replica.clone());
            async move {
                let request = Request { kind: Kind::Sync, header: &header, sums: &[], payload: &[] };
                self.post((slot, &replica), grant.handle, request, &tally).await;
            }
        };
        let all = async {
            join_all(grant.replicas.iter().enumerate().map(send)).await;
            tally.wait().await;
        };
        let ended = self.ended(deadline, || tally.missing(&grant.replicas), all).await;
        let ticket = Ticket { grant: grant.clone(), serial: None, create: false };
        self.judge(&grant.replicas, &ticket, &tally, &ended)
    }

    /// Has one replica flush chunks; what it refused with, or `None` if it did not answer.
    pub(super) async fn sync_replica(
        &self,
        replica: &Replica,
        chunks: Vec<SyncChunk>,
        deadline: Instant,
    ) -> Result<(), Option<DataError>> {
        let header = Sync { incarnation: replica.incarnation, chunks }.encode();
        let request = Request { kind: Kind::Sync, header: &header, sums: &[], payload: &[] };
        match self.ask(replica, request, 0, deadline).await {
            Ok(Answer::Ack(ack)) => ack.outcome.map_err(Some),
            Ok(Answer::Data { .. }) | Err(_) => Err(None),
        }
    }

    async fn ended<'a>(
        &self,
        deadline: Instant,
        awaits: impl Fn() -> Vec<&'a Replica>,
        all: impl Future<Output = ()>,
    ) -> Ended {
        match timeout_at(deadline, self.attend(awaits, all)).await {
            Ok(Ok(())) => Ended::Answered,
            Ok(Err(silent)) => Ended::Silent(silent.into_iter().map(|replica| replica.server).collect()),
            Err(_) => Ended::TimedOut,
        }
    }

    fn judge(&self, asked: &[Replica], ticket: &Ticket, tally: &Tally, ended: &Ended) -> Result<(), Failure> {
        let mut outcomes = tally.outcomes();
        for (replica, outcome) in asked.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()) {
            match ended {
                Ended::Answered => {}
                Ended::TimedOut => {
                    self.distrust(replica, ticket.grant.handle);
                    *outcome = Some(Err(LinkError::TimedOut));
                }
                Ended::Silent(servers) if servers.contains(&replica.server) => *outcome = Some(Err(LinkError::Silent)),
                Ended::Silent(_) => {}
            }
        }
        let mut verdict = verdict(asked, &outcomes);
        if let Ended::Silent(servers) = ended {
            verdict = without(verdict, servers);
        }
        if let Err(failure) = &verdict {
            blame(asked, &outcomes, &ticket.grant, failure);
            let grant = &ticket.grant;
            tracing::info!(chunk = %grant.handle, version = %grant.version, epoch = %grant.epoch, ?failure, ?outcomes,
                "a write did not succeed at all replicas");
        }
        verdict
    }
}

fn header(ticket: &Ticket, frame: &Frame, session: SessionId, to: Incarnation, chain: &[Replica]) -> Vec<u8> {
    let grant = &ticket.grant;
    let hop = |replica: &Replica| Hop {
        server: replica.server,
        incarnation: replica.incarnation,
        address: replica.address.tcp,
    };
    Write {
        handle: grant.handle,
        version: grant.version,
        epoch: grant.epoch,
        incarnation: to,
        session,
        sequence: frame.sequence,
        serial: ticket.serial,
        truncate_generation: grant.truncate_generation,
        create: ticket.create,
        sync: frame.sync,
        extents: frame.batch.extents.clone(),
        chain: chain.iter().map(hop).collect(),
    }
    .encode()
}

/// What the outcomes mean together. A full disk is told to the user; a void lease is asked for anew;
/// otherwise whoever failed is a suspect.
fn verdict(asked: &[Replica], outcomes: &[Option<Outcome>]) -> Result<(), Failure> {
    let refused =
        |error| outcomes.iter().flatten().any(|outcome| matches!(outcome, Ok(ack) if ack.outcome == Err(error)));
    if refused(DataError::NoSpace) {
        return Err(Failure::NoSpace);
    }
    if refused(DataError::Epoch) || refused(DataError::Generation) {
        return Err(Failure::Fault(Fault::Stale));
    }
    let suspects: Vec<ServerId> =
        asked.iter().zip(outcomes).filter_map(|(replica, outcome)| suspect(replica, outcome)).collect();
    if !suspects.is_empty() {
        return Err(Failure::Fault(Fault::Broken(suspects)));
    }
    if refused(DataError::Busy) { Err(Failure::Busy) } else { Ok(()) }
}

/// The verdict if these members hang: nobody waits for the others any longer.
fn without(verdict: Result<(), Failure>, silent: &[ServerId]) -> Result<(), Failure> {
    let mut suspects = match verdict {
        Err(Failure::NoSpace | Failure::Fault(Fault::Stale)) => return verdict,
        Err(Failure::Fault(Fault::Broken(suspects))) => suspects,
        Ok(()) | Err(Failure::Busy) => Vec::new(),
    };
    suspects.extend(silent.iter().filter(|server| !suspects.contains(server)).copied().collect::<Vec<_>>());
    Err(Failure::Fault(Fault::Broken(suspects)))
}

/// Who is in the way of whoever waits for this.
fn blame(asked: &[Replica], outcomes: &[Option<Outcome>], grant: &ChunkGrant, failure: &Failure) {
    for (replica, outcome) in asked.iter().zip(outcomes) {
        match outcome {
            Some(Err(error)) => operation::blame(Obstacle::server(replica, *error)),
            Some(Ok(Ack { outcome: Err(error), culprit, .. })) => {
                let culprit = grant.replicas.iter().find(|member| member.server == *culprit).unwrap_or(replica);
                operation::blame(Obstacle::server(culprit, Cause::Refused(*error)));
            }
            Some(Ok(_)) | None => {}
        }
    }
    if let Failure::Fault(Fault::Broken(suspects)) = failure {
        let unasked = |member: &&Replica| !asked.contains(member) && suspects.contains(&member.server);
        let silent = grant.replicas.iter().filter(unasked);
        silent.for_each(|member| operation::blame(Obstacle::server(member, LinkError::Silent)));
    }
}

fn suspect(replica: &Replica, outcome: &Option<Outcome>) -> Option<ServerId> {
    match outcome {
        None => None,
        Some(Err(_)) => Some(replica.server),
        Some(Ok(ack)) => match ack.outcome {
            Ok(()) | Err(DataError::Busy) => None,
            Err(DataError::Chain) => Some(ack.culprit),
            Err(_) => Some(replica.server),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::chunk::ServerAddress;

    fn replica(server: u32) -> Replica {
        let address = ServerAddress { tcp: ([127, 0, 0, 1], 1).into(), unix: None, host: String::new() };
        Replica { server: ServerId::new(server), incarnation: Incarnation::new(1), address }
    }

    fn ack(outcome: Result<(), DataError>, culprit: u32) -> Option<Outcome> {
        let (culprit, incarnation) = (ServerId::new(culprit), Incarnation::new(1));
        Some(Ok(Ack { outcome, culprit, incarnation, serial: Serial::new(1), chunk_length: 0 }))
    }

    #[test]
    fn outcomes_add_up_to_one_verdict() {
        let broken = |servers: &[u32]| {
            Err(Failure::Fault(Fault::Broken(servers.iter().map(|server| ServerId::new(*server)).collect())))
        };
        let link = || Some(Err(LinkError::Closed));
        let asked = [replica(1), replica(2), replica(3)];
        let good = || ack(Ok(()), 0);
        let bad = |error| ack(Err(error), 9);
        let cases = [
            ([good(), good(), good()], Ok(())),
            ([good(), link(), None], broken(&[2])),
            ([link(), link(), good()], broken(&[1, 2])),
            ([good(), bad(DataError::Chain), good()], broken(&[9])),
            ([good(), bad(DataError::Incarnation), link()], broken(&[2, 3])),
            ([good(), bad(DataError::Epoch), link()], Err(Failure::Fault(Fault::Stale))),
            ([good(), bad(DataError::Generation), good()], Err(Failure::Fault(Fault::Stale))),
            ([link(), bad(DataError::NoSpace), bad(DataError::Epoch)], Err(Failure::NoSpace)),
            ([good(), bad(DataError::Busy), good()], Err(Failure::Busy)),
            ([good(), bad(DataError::Busy), link()], broken(&[3])),
        ];
        for (outcomes, expected) in cases {
            assert_eq!(verdict(&asked, &outcomes), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn who_hangs_is_a_suspect_wherever_it_stands() {
        let broken = |servers: &[u32]| {
            Err(Failure::Fault(Fault::Broken(servers.iter().map(|server| ServerId::new(*server)).collect())))
        };
        let cases = [
            (Ok(()), broken(&[2])),
            (Err(Failure::Busy), broken(&[2])),
            (broken(&[2]), broken(&[2])),
            (broken(&[3]), broken(&[3, 2])),
            (Err(Failure::NoSpace), Err(Failure::NoSpace)),
            (Err(Failure::Fault(Fault::Stale)), Err(Failure::Fault(Fault::Stale))),
        ];
        for (verdict, expected) in cases {
            assert_eq!(without(verdict.clone(), &[ServerId::new(2)]), expected, "{verdict:?}");
        }
    }
}
