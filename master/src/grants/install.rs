//! Agreement of a chunk's replicas on a new epoch, and on a new version if they are not exactly the
//! servers that the chunk record entitles (GFS paper, 3.1 and 4.5).
//!
//! ```text
//!   entitled and live --Install(epoch)--> all confirm, all entitled --Align where they differ (`align`)--> done
//!          |                                   | some did not, or could not be aligned
//!          '--- some missing, or raise asked --+--> Install(version + 1) until all of a round confirm
//!                 --> those left out are gone, or their right to answer reads has run out
//!                 --> RaiseVersion is logged --> done
//! ```
//! A crash before the log entry leaves replicas *ahead* of the record. They have the content of the
//! recorded version; whoever looks next raises above them.

use super::Generations;
use super::align::Installed;
use crate::master::Master;
use crate::servers::link::CommandError;
use crate::servers::locations::{Known, Located};
use crate::servers::{Fence, Presence, Silence};
use futures_util::future::join_all;
use gfs_master_core::{Action, FileChunk};
use gfs_proto::FsError;
use gfs_proto::chunk::{Numbering, Replica};
use gfs_proto::control::{ChunkCommand, CommandOutcome, Install, InstallReport, ReplicaState};
use gfs_proto::ids::{ChunkVersion, Epoch, Incarnation, ServerId};
use gfs_proto::mutant;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Between two attempts to connect to a server that is probably gone.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// What is to be agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// As logged.
    pub chunk: &'a FileChunk,
    /// Of the file.
    pub generations: Generations,
    /// Who will give the serial numbers.
    pub numbering: Numbering,
    /// Servers that failed a client: they take part only if nobody else has a replica.
    pub suspects: &'a [ServerId],
    /// A new version in any case.
    pub raise: bool,
}

/// What all members have confirmed.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// Version of all members, logged.
    pub version: ChunkVersion,
    /// Newest of the chunk.
    pub epoch: Epoch,
    /// The members.
    pub replicas: Vec<Replica>,
    /// What each knows of earlier writes.
    pub reports: Vec<InstallReport>,
    /// No replica exists: the first frame creates them.
    pub created: bool,
}

/// How it ended.
#[derive(Clone, Debug)]
pub enum Agreement {
    /// All members confirmed, and what is recorded says so.
    Reached(Agreed),
    /// The chunk record changed meanwhile: look again.
    Changed,
    /// Every server that could be asked says that it has no replica.
    Nowhere {
        /// Entitled servers that could not be asked: they may have one.
        away: Vec<Lost>,
    },
}

/// A server that takes part.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) replica: Replica,
    version: ChunkVersion,
}

impl Member {
    pub(super) fn away(&self) -> Lost {
        Lost::Away(self.replica.server, Some(self.replica.incarnation))
    }
}

/// A server that is entitled and does not take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// It could not be asked, or did not answer. The run that it was in; none if this master has not
    /// seen it yet. It may serve a replica.
    Away(ServerId, Option<Incarnation>),
    /// It has a replica that nobody may use.
    Unusable(ServerId),
    /// It says that it has none.
    Without(ServerId),
}

impl Lost {
    const fn is_away(&self) -> bool {
        matches!(self, Self::Away(..))
    }
}

/// Who takes part and who does not.
#[derive(Default)]
struct Survey {
    members: Vec<Member>,
    lost: Vec<Lost>,
    /// Those of the lost that failed a client and might take part all the same.
    suspects: Vec<Member>,
}

impl Survey {
    /// The suspects are left out, and fenced like servers that are away: whatever they answer here, a
    /// client has been failed by them, and would be again.
    fn leave_out(&mut self, suspects: &[ServerId]) {
        let failed = |member: &Member| suspects.contains(&member.replica.server);
        (self.suspects, self.members) = std::mem::take(&mut self.members).into_iter().partition(failed);
        self.lost.extend(self.suspects.iter().map(Member::away));
    }

    /// Nobody else has a replica: the suspects are asked after all. False if there are none.
    fn call_back(&mut self) -> bool {
        let suspects = std::mem::take(&mut self.suspects);
        self.lost.retain(|lost| suspects.iter().all(|member| member.away() != *lost));
        self.members = suspects;
        !self.members.is_empty()
    }
}

/// Answers to one round of installs.
struct Round {
    confirmed: Vec<(Member, InstallReport)>,
    lost: Vec<Lost>,
    /// Nobody has such a replica: every answer said so.
    nowhere: bool,
}

/// A round that all of its members confirmed.
struct Confirmed<'a> {
    target: ChunkVersion,
    epoch: Epoch,
    members: Vec<(Member, InstallReport)>,
    lost: &'a [Lost],
}

impl Master {
    /// Brings the replicas to one epoch. The caller holds the chunk's lock.
    pub async fn agree(&self, wanted: &Wanted<'_>) -> Result<Agreement, FsError> {
        let record = &wanted.chunk.record;
        self.repair.disturb(wanted.chunk.handle);
        let mut survey = self.survey(wanted).await;
        let ahead = survey.members.iter().any(|m| m.version > record.version);
        let mut raise = wanted.raise || ahead || !survey.lost.is_empty();
        loop {
            if survey.members.is_empty() && !survey.call_back() {
                return Err(FsError::NoReplica);
            }
            let top = survey.members.iter().map(|m| m.version).max().unwrap_or_default().max(record.version);
            let target = if raise && !mutant!(NoVersionBump) { top.next() } else { record.version };
            let epoch = self.leases.next_epoch(self.term());
            let mut round = self.round(wanted, &survey.members, target, epoch).await;
            if round.nowhere
                && survey.suspects.is_empty()
                && !survey.lost.iter().any(|lost| matches!(lost, Lost::Unusable(_)))
            {
                let away = survey.lost.into_iter().filter(Lost::is_away).collect();
                return Ok(Agreement::Nowhere { away });
            }
            if round.lost.is_empty() {
                self.even_out(wanted, &mut round, Installed { version: target, epoch }).await;
            }
            survey.lost.extend(&round.lost);
            let whole = round.lost.is_empty();
            if whole {
                let confirmed = Confirmed { target, epoch, members: round.confirmed, lost: &survey.lost };
                return self.conclude(wanted, confirmed).await;
            }
            raise = true;
            survey.members =
                round.confirmed.into_iter().map(|(member, _)| Member { version: target, ..member }).collect();
        }
    }

    /// Has all replicas of the recorded version that can be reached refuse frames of every lease so far, and be equal;
    /// those that confirmed and are. Changes neither version nor record. The caller
    /// holds the chunk's lock.
    pub async fn fence(&self, wanted: &Wanted<'_>) -> Vec<ServerId> {
        let (record, handle, now) = (&wanted.chunk.record, wanted.chunk.handle, Instant::now());
        let located = self.locations.of(handle);
        let rows = located
            .iter()
            .filter(|row| row.version == record.version && row.known.usable() && record.entitled.contains(&row.server));
        let members: Vec<Member> = rows
            .filter_map(|row| self.servers.replica_up(row.server, now))
            .map(|replica| Member { replica, version: record.version })
            .collect();
        let epoch = self.leases.next_epoch(self.term());
        let mut round = self.round(wanted, &members, record.version, epoch).await;
        self.even_out(wanted, &mut round, Installed { version: record.version, epoch }).await;
        for lost in round.lost {
            if let Lost::Without(server) = lost {
                self.locations.remove(handle, server);
            }
        }
        let confirmed: Vec<ServerId> = round.confirmed.iter().map(|(member, _)| member.replica.server).collect();
        // Who is away was not compared: while it is, the others remember what may be missing there, beyond a restart of
        // this master too.
        if record.entitled.iter().all(|server| confirmed.contains(server)) {
            let revoke = || ChunkCommand::Revoke { handle, epoch };
            confirmed.iter().for_each(|server| self.servers.hint(*server, revoke()));
        }
        confirmed
    }

    /// True if every entitled server that is up has reported a replica or says itself that it has none. A report
    /// may be on its way, or be made once more: not reported is not absent. A replica that is found refuses
    /// frames of every lease so far. The caller holds the chunk's lock.
    pub async fn is_nowhere_else(&self, wanted: &Wanted<'_>) -> bool {
        let (record, handle, now) = (&wanted.chunk.record, wanted.chunk.handle, Instant::now());
        let located = self.locations.of(handle);
        let silent = |server: &&ServerId| !located.iter().any(|row| row.server == **server);
        let asked: Vec<Member> = record
            .entitled
            .iter()
            .filter(silent)
            .filter_map(|server| self.servers.replica_up(*server, now))
            .map(|replica| Member { replica, version: record.version })
            .collect();
        let epoch = self.leases.next_epoch(self.term());
        self.round(wanted, &asked, record.version, epoch).await.nowhere
    }

    /// Who has, or may have, a replica that may take part. Waits a little for servers that are just
    /// arriving.
    async fn survey(&self, wanted: &Wanted<'_>) -> Survey {
        let record = &wanted.chunk.record;
        let deadline = Instant::now() + self.timings.suspect_after;
        join_all(record.entitled.iter().map(|server| self.servers.arrival(*server, deadline))).await;
        let now = Instant::now();
        let located = self.locations.of(wanted.chunk.handle);
        let mut survey = Survey::default();
        for server in &record.entitled {
            let Some(replica) = self.servers.replica_up(*server, now) else {
                survey.lost.push(Lost::Away(*server, self.servers.incarnation(*server)));
                continue;
            };
            let usable = |l: &&Located| l.known.usable();
            let counts = |l: &&Located| l.server == *server && l.version >= record.version;
            let mut rows = located.iter().filter(counts).peekable();
            let version = match rows.peek() {
                Some(_) => rows.find(usable).map(|row| row.version),
                // Not reported is not absent: a first frame that was granted by the master before this
                // one makes a replica that is reported a moment later. The server has to be asked.
                None => Some(record.version),
            };
            match version {
                Some(version) => survey.members.push(Member { replica, version }),
                None => survey.lost.push(Lost::Unusable(*server)),
            }
        }
        survey.leave_out(wanted.suspects);
        survey
    }

    /// Makes those equal that confirmed; who cannot be made so is lost.
    async fn even_out(&self, wanted: &Wanted<'_>, round: &mut Round, installed: Installed) {
        let failed = self.align(wanted, installed, &round.confirmed).await;
        round.confirmed.retain(|(member, _)| !failed.contains(&member.away()));
        round.lost.extend(failed);
    }

    async fn round(&self, wanted: &Wanted<'_>, members: &[Member], target: ChunkVersion, epoch: Epoch) -> Round {
        let replicas: Vec<Replica> = members.iter().map(|m| m.replica.clone()).collect();
        let install = |member: &Member| Install {
            handle: wanted.chunk.handle,
            version: member.version,
            raise_to: (target > member.version).then_some(target),
            epoch,
            cut: wanted.chunk.cut.map(|cut| cut.length),
            truncate_generation: wanted.generations.truncate,
            numbering: wanted.numbering,
            members: replicas.clone(),
            lease: self.timings.lease,
        };
        let answers = join_all(members.iter().map(|member| {
            let command = ChunkCommand::Install(install(member));
            async move { (member.clone(), self.servers.command(member.replica.server, command).await) }
        }));
        let mut round = Round { confirmed: Vec::new(), lost: Vec::new(), nowhere: true };
        for (member, answer) in answers.await {
            match answer {
                Ok(CommandOutcome::Installed(report)) => {
                    round.nowhere = false;
                    round.confirmed.push((member, report));
                }
                Err(CommandError::Refused { error: FsError::NotFound, .. }) => {
                    round.lost.push(Lost::Without(member.replica.server));
                }
                other => {
                    warn!(chunk = %wanted.chunk.handle, server = %member.replica.server, ?other, "install failed");
                    round.nowhere = false;
                    round.lost.push(member.away());
                }
            }
        }
        round
    }

    /// All members confirmed `target`: makes it the recorded truth.
    async fn conclude(&self, wanted: &Wanted<'_>, confirmed: Confirmed<'_>) -> Result<Agreement, FsError> {
        let Confirmed { target, epoch, members, lost } = confirmed;
        let chunk = wanted.chunk;
        let entitled: Vec<ServerId> = members.iter().map(|(member, _)| member.replica.server).collect();
        if target > chunk.record.version {
            let silenced = self.fenced(lost).await;
            let version = target;
            let (handle, unwritten) = (chunk.handle, false);
            let raise = Action::RaiseVersion { handle, version, entitled: entitled.clone(), unwritten };
            let raised = self.commit_one(raise).await;
            drop(silenced);
            match raised {
                Err(FsError::StaleGrant | FsError::NotFound) => return Ok(Agreement::Changed),
                other => drop(other?),
            }
            info!(chunk = %chunk.handle, %version, members = ?entitled, ?lost, "version raised");
            self.repair.note(handle, !wanted.suspects.is_empty());
        }
        match target > chunk.record.version {
            true => self.unwritten.flushed(chunk.handle), // a raise flushes the name
            false => self.unwritten.seen(chunk.handle),
        }
        self.uneven.forget(chunk.handle);
        let before = self.locations.of(chunk.handle);
        let is_damaged = |server: &ServerId| before.iter().any(|row| row.server == *server && row.known.is_damaged());
        for server in &entitled {
            let state = if is_damaged(server) { ReplicaState::Damaged } else { ReplicaState::Dirty };
            let known = Known::Reported(state);
            self.locations.set(chunk.handle, Located { server: *server, version: target, known });
        }
        if let Some(cut) = chunk.cut {
            self.commit_one(Action::CutApplied { cuts: vec![(chunk.handle, cut.generation)] }).await?;
        }
        self.discard_stale(chunk.handle);
        let (members, reports): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let replicas = members.into_iter().map(|member| member.replica).collect();
        Ok(Agreement::Reached(Agreed { version: target, epoch, replicas, reports, created: false }))
    }

    /// A chunk that was never written begins again, on servers chosen anew and under a new version, so
    /// that a first frame that is late makes nothing that counts.
    pub async fn create_again(&self, wanted: &Wanted<'_>, away: &[Lost]) -> Result<Agreement, FsError> {
        let (chunk, record) = (wanted.chunk, &wanted.chunk.record);
        let entitled = self.choose_servers(record.goal, wanted.suspects).await?;
        let silenced = self.fenced(away).await;
        let version = record.version.next();
        let (handle, unwritten) = (chunk.handle, true);
        let raise = Action::RaiseVersion { handle, version, entitled: entitled.clone(), unwritten };
        let raised = self.commit_one(raise).await;
        drop(silenced);
        match raised {
            Err(FsError::StaleGrant | FsError::NotFound) => return Ok(Agreement::Changed),
            other => drop(other?),
        }
        if let Some(cut) = chunk.cut {
            self.commit_one(Action::CutApplied { cuts: vec![(chunk.handle, cut.generation)] }).await?;
        }
        self.unwritten.add(chunk.handle);
        self.locations.forget_assumed(chunk.handle);
        self.locations.assume(chunk.handle, version, &entitled);
        let epoch = self.leases.next_epoch(self.term());
        let replicas = entitled.iter().filter_map(|server| self.servers.replica(*server)).collect();
        Ok(Agreement::Reached(Agreed { version, epoch, replicas, reports: Vec::new(), created: true }))
    }

    /// Waits until none of these servers can answer reads of the old version any more. Whoever was
    /// silenced for that begins anew when the new version is logged: what is returned goes then.
    pub async fn fenced(&self, lost: &[Lost]) -> Vec<Silence<'_>> {
        let fences = join_all(lost.iter().filter_map(|lost| match lost {
            Lost::Away(server, incarnation) => Some(self.fence_one(*server, *incarnation)),
            Lost::Unusable(_) | Lost::Without(_) => None,
        }));
        fences.await.into_iter().flatten().collect()
    }

    async fn fence_one(&self, server: ServerId, incarnation: Option<Incarnation>) -> Option<Silence<'_>> {
        let Fence { until, replica, run, silence } = self.servers.fence(server, incarnation, Instant::now())?;
        loop {
            let now = Instant::now();
            // another run is silent from its beginning
            let back = run.is_some() && self.servers.incarnation(server) != run;
            if now >= until || back || self.servers.presence(server, now) == Presence::Left {
                return Some(silence);
            }
            // one that is connected here lives, whatever its port says
            if let Some(replica) = replica.as_ref().filter(|_| !self.servers.is_connected(server))
                && self.reach.refuses(&replica.address).await
            {
                return Some(silence);
            }
            tokio::time::sleep(PROBE_PAUSE.min(until - now)).await;
        }
    }
}
