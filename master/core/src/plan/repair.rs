//! What the copies of one chunk need, and the next step towards it (GFS paper, 4.3): another copy where
//! some are lost, on servers that are drained, or in one rack; one copy less where there are too many.
//!
//! Moving a copy is two steps: first there is one more, durable and recorded; then there are too many, and
//! the one that is best done without goes. So no step of repair ever leaves fewer copies than there were
//! unless the rest is as many as wanted, and a plan that is forgotten half-way is found again from the state.
//!
//! A damaged copy is mended where it is, from the others, which may be damaged elsewhere; it counts again then. If that
//! fails a copy is made elsewhere, and the damaged one is one too many.
//!
//! Where no copy is left that counts, a suspect one is adopted: after a power cut everywhere each of them has
//! every byte that was flushed, since a flush is acknowledged by all. Not while a server may come back that was
//! spared: its copy has all that was acknowledged.

use gfs_proto::ids::ServerId;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What can be expected of a server's copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It answers.
    Live,
    /// It does not, and is expected back with what it has: no target, no source, no cause for repair.
    Away,
    /// Its copies do not count any more.
    Lost,
}

/// A chunkserver as repair sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairServer {
    /// Failure domain; equal labels fail together. Empty: of its own.
    pub rack: String,
    /// See [`Standing`].
    pub standing: Standing,
    /// Its copies are to go elsewhere: they can be read and copied, and do not count.
    pub draining: bool,
    /// False at the watermark.
    pub accepts_chunks: bool,
    /// Room for chunks.
    pub bytes_free: u64,
    /// All of its room.
    pub bytes_total: u64,
}

impl RepairServer {
    /// Used room in 1/10,000: fine enough to compare, the same for large and small servers.
    pub(crate) fn used(&self) -> u64 {
        let used = u128::from(self.bytes_total.saturating_sub(self.bytes_free));
        u64::try_from(used * 10_000 / u128::from(self.bytes_total.max(1))).unwrap_or(10_000)
    }
}

/// All servers that are known. One that a chunk names and that is not here is lost.
pub type RepairView = BTreeMap<ServerId, RepairServer>;

/// Copies of a chunk: what is recorded, and what was reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkCopies {
    /// Copies wanted.
    pub goal: u8,
    /// Servers that the record entitles to the current version.
    pub entitled: Vec<ServerId>,
    /// Those of the entitled that have a usable replica of exactly the current version.
    pub current: Vec<ServerId>,
    /// Of these, those of a version above the recorded one: a raise was not logged. They have the same content, and
    /// cannot be read before it is.
    pub ahead: Vec<ServerId>,
    /// Of the current, those whose disk fails: they can be read, perhaps, and do not count.
    pub failing: Vec<ServerId>,
    /// Of the entitled, those whose replica is damaged, suspect ones too.
    pub damaged: Vec<ServerId>,
    /// What is damaged cannot be mended from the copies that there are: those count as they are, for want of better ones.
    pub incurable: bool,
    /// Those of the entitled that have a suspect replica of at least the current version.
    pub suspect: Vec<ServerId>,
    /// Not entitled, but there is something of the chunk on their disks.
    pub occupied: Vec<ServerId>,
    /// A client waits until so many copies can be read, whoever is expected back; 0: none does.
    pub awaited: u8,
    /// Bytes that a copy moves, as far as is known.
    pub bytes: u64,
    /// Steps that failed: other sources are tried, then other targets.
    pub failures: u32,
}

/// How it stands with a chunk, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// As many copies can be read as are wanted.
    Healthy,
    /// So many are missing; at least one can be read.
    Missing(u8),
    /// None can be read, and no server that may have one is expected back.
    Lost,
    /// None can be read now; a server that may have one is expected back, or a suspect one can be adopted.
    Unavailable,
}

/// Why a copy is made or removed, the least urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Servers are filled unevenly.
    Rebalance,
    /// Two copies are in one rack and another rack has none.
    Racks,
    /// More copies than wanted.
    Surplus,
    /// Copies are on servers that are drained.
    Drain,
    /// Fewer copies than wanted.
    Repair,
    /// No copy that can be read, and one that can be made so.
    Unreadable,
}

/// What is to be done with a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Need {
    /// Why.
    pub reason: Reason,
    /// Copies that are missing.
    pub missing: u8,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Make a copy.
    Copy {
        /// From this server's.
        source: ServerId,
        /// On this one.
        target: ServerId,
    },
    /// Remove this server's copy.
    Remove(ServerId),
    /// Make this server's suspect copy the one that counts, alone.
    Adopt(ServerId),
    /// Have the copies agree on a version, and log it: those that there are are ahead of the record.
    Raise,
    /// Mend this server's damaged copy from the others.
    Mend(ServerId),
}

/// How busy servers are with copies; full ones take part in no further one.
pub trait Load {
    /// Copies that it takes part in; `None`: as many as it may, or it has moved enough bytes for now.
    fn copies(&self, server: ServerId) -> Option<u32>;
}

/// Copies by what they are good for.
struct Survey<'a> {
    view: &'a RepairView,
    chunk: &'a ChunkCopies,
    /// Can be read.
    live: Vec<ServerId>,
    /// Of these, those that are to stay.
    staying: Vec<ServerId>,
    /// Of those that can be read, those to be mended.
    mendable: Vec<ServerId>,
    /// On servers that are expected back; no draining ones.
    away: usize,
    /// On draining servers that are expected back.
    away_draining: usize,
}

impl<'a> Survey<'a> {
    fn of(view: &'a RepairView, chunk: &'a ChunkCopies) -> Self {
        let standing = |server: &ServerId| view.get(server).map_or(Standing::Lost, |known| known.standing);
        let draining = |server: &ServerId| view.get(server).is_some_and(|known| known.draining);
        let entitled = || chunk.entitled.iter().copied();
        let live: Vec<_> = entitled().filter(|s| standing(s) == Standing::Live && chunk.current.contains(s)).collect();
        let failing = |server: &ServerId| chunk.failing.contains(server);
        let is_mendable = |server: &ServerId| chunk.damaged.contains(server) && !chunk.incurable && !failing(server);
        let mendable: Vec<_> = live.iter().copied().filter(is_mendable).collect();
        let leaves = |server: &ServerId| draining(server) || failing(server) || mendable.contains(server);
        let staying = live.iter().copied().filter(|server| !leaves(server)).collect();
        let (away_draining, away): (Vec<_>, Vec<_>) =
            entitled().filter(|server| standing(server) == Standing::Away).partition(draining);
        Self { view, chunk, live, staying, mendable, away: away.len(), away_draining: away_draining.len() }
    }

    fn goal(&self) -> usize {
        self.chunk.goal.into()
    }

    fn rack(&self, server: ServerId) -> &str {
        self.view.get(&server).map_or("", |known| &known.rack)
    }

    fn in_rack_of(&self, server: ServerId, others: &[ServerId]) -> usize {
        let rack = self.rack(server);
        others.iter().filter(|other| **other != server && !rack.is_empty() && self.rack(**other) == rack).count()
    }

    /// May get a copy: it answers, has room, and nothing of the chunk but what a copy replaces.
    fn may_take(&self, server: ServerId, known: &RepairServer) -> bool {
        known.standing == Standing::Live
            && !known.draining
            && known.accepts_chunks
            && known.bytes_free > self.chunk.bytes
            && !self.live.contains(&server)
            && !self.chunk.occupied.contains(&server)
    }

    /// Servers that may get a copy, the best first: a rack that has none, few copies at work, room.
    fn targets(&self, load: &impl Load) -> Vec<ServerId> {
        let free = self.view.iter().filter(|(server, known)| self.may_take(**server, known));
        let mut ranked: Vec<_> = free
            .filter_map(|(server, known)| {
                let copies = load.copies(*server)?;
                Some((self.in_rack_of(*server, &self.staying), copies, known.used(), *server))
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., server)| server).collect()
    }

    fn source(&self, load: &impl Load) -> Option<ServerId> {
        let damaged = |server: &ServerId| self.chunk.damaged.contains(server);
        let ranked = |server: &ServerId| load.copies(*server).map(|copies| (damaged(server), copies, *server));
        let mut idle: Vec<_> = self.live.iter().filter_map(ranked).collect();
        idle.sort_unstable();
        another(&idle, self.chunk.failures).map(|(.., server)| *server)
    }

    /// The copy that is best done without, if the others are as many as wanted without any that is to go.
    fn victim(&self) -> Option<ServerId> {
        let enough = |server: &ServerId| self.staying.iter().filter(|other| *other != server).count() >= self.goal();
        self.live.iter().copied().filter(enough).max_by_key(|server| {
            let known = self.view.get(server);
            let leaves = !self.staying.contains(server);
            (leaves, self.in_rack_of(*server, &self.staying), known.map_or(0, RepairServer::used), Reverse(*server))
        })
    }

    /// Copies that can be read and have no fault.
    fn sound(&self) -> usize {
        let is_sound = |server: &&ServerId| !self.chunk.failing.contains(server) && !self.mendable.contains(server);
        self.live.iter().filter(is_sound).count()
    }

    /// The damaged copy that is mended next, if nothing better can be done; after failures another one.
    fn patient(&self) -> Option<ServerId> {
        another(&self.mendable, self.chunk.failures).copied()
    }

    /// Servers that may bring a copy are expected back.
    fn is_awaiting(&self) -> bool {
        self.away + self.away_draining > 0
    }

    /// There are copies, and none of the recorded version.
    fn is_ahead(&self) -> bool {
        !self.live.is_empty() && self.live.iter().all(|server| self.chunk.ahead.contains(server))
    }

    /// Servers whose suspect copy may be adopted, the best first: one that is not damaged, one that stays, then by number, so that every
    /// attempt means the same one. None while a copy counts, or while a server may bring one back.
    fn adoptable(&self) -> Vec<ServerId> {
        if !self.live.is_empty() || self.is_awaiting() {
            return Vec::new();
        }
        let answers = |server: &&ServerId| self.view.get(server).is_some_and(|known| known.standing == Standing::Live);
        let mut suspect: Vec<_> = self.chunk.suspect.iter().filter(answers).copied().collect();
        let draining = |server: &ServerId| self.view.get(server).is_some_and(|known| known.draining);
        suspect.sort_unstable_by_key(|server| (self.chunk.damaged.contains(server), draining(server), *server));
        suspect
    }

    /// Two copies share a rack, and a server in a rack without a copy may take one.
    fn shares_rack(&self) -> bool {
        let shared = self.staying.iter().any(|server| self.in_rack_of(*server, &self.staying) > 0);
        let mut free = self.view.iter().filter(|(server, known)| self.may_take(**server, known));
        shared && free.any(|(server, _)| self.in_rack_of(*server, &self.staying) == 0)
    }

    fn need(&self) -> Option<Need> {
        let (goal, need) = (self.goal(), |reason, missing| Some(Need { reason, missing }));
        let (sound, awaited) = (self.sound(), self.chunk.awaited.into());
        let all = sound + self.away + self.away_draining;
        if self.live.is_empty() {
            if self.adoptable().is_empty() { None } else { need(Reason::Unreadable, self.chunk.goal) }
        } else if self.is_ahead() {
            // Readers have them agreed on when they ask; without any there is time to do it with all of them, so that
            // none becomes stale.
            if self.is_awaiting() { None } else { need(Reason::Unreadable, self.chunk.goal) }
        } else if all < goal || sound < awaited || !self.mendable.is_empty() && self.victim().is_none() {
            let counted = if sound < awaited { sound } else { all };
            need(Reason::Repair, u8::try_from(goal.saturating_sub(counted)).unwrap_or(u8::MAX))
        } else if self.staying.len() + self.away < goal {
            need(Reason::Drain, 0)
        } else if self.victim().is_some() {
            need(Reason::Surplus, 0)
        } else if self.shares_rack() {
            need(Reason::Racks, 0)
        } else {
            None
        }
    }
}

/// Attempts to mend what is damaged between attempts to make a copy elsewhere.
const MENDS: u32 = 3;

/// The first, or after failures the others, one after the other.
fn another<T>(ranked: &[T], failures: u32) -> Option<&T> {
    ranked.get(failures as usize % ranked.len().max(1))
}

/// How many copies can be read, and whether more are to be expected.
pub fn health(view: &RepairView, chunk: &ChunkCopies) -> Health {
    let survey = Survey::of(view, chunk);
    let damaged = survey.live.iter().filter(|s| !chunk.failing.contains(s) && chunk.damaged.contains(s)).count();
    let failing = survey.live.iter().filter(|server| chunk.failing.contains(server)).count();
    match survey.goal().saturating_sub(survey.live.len() - failing - damaged) {
        _ if survey.live.is_empty() && survey.is_awaiting() => Health::Unavailable,
        _ if !survey.adoptable().is_empty() => Health::Unavailable,
        _ if survey.live.is_empty() => Health::Lost,
        0 => Health::Healthy,
        missing => Health::Missing(u8::try_from(missing).unwrap_or(u8::MAX)),
    }
}

/// What is to be done, if anything; [`Reason::Rebalance`] is no need of a chunk and never named here.
pub fn need(view: &RepairView, chunk: &ChunkCopies) -> Option<Need> {
    Survey::of(view, chunk).need()
}

/// Servers whose suspect copy may be adopted now, the best first.
pub fn adoptable(view: &RepairView, chunk: &ChunkCopies) -> Vec<ServerId> {
    Survey::of(view, chunk).adoptable()
}

/// The next step, if servers that are not too busy can make one.
pub fn next_step(view: &RepairView, chunk: &ChunkCopies, load: &impl Load) -> Option<Step> {
    let survey = Survey::of(view, chunk);
    let copy = |target: ServerId| survey.source(load).map(|source| Step::Copy { source, target });
    match survey.need()?.reason {
        // after that many failures a copy elsewhere is tried in between
        Reason::Repair if chunk.failures % (MENDS + 1) < MENDS && survey.patient().is_some() => {
            survey.patient().map(Step::Mend)
        }
        Reason::Repair | Reason::Drain => {
            let rounds = chunk.failures / u32::try_from(survey.live.len()).unwrap_or(1).max(1);
            copy(*another(&survey.targets(load), rounds)?)
        }
        Reason::Surplus => survey.victim().map(Step::Remove),
        Reason::Racks => {
            let other_rack = |server: &ServerId| survey.in_rack_of(*server, &survey.staying) == 0;
            copy(survey.targets(load).into_iter().find(other_rack)?)
        }
        Reason::Unreadable if survey.is_ahead() => Some(Step::Raise),
        Reason::Unreadable => another(&survey.adoptable(), chunk.failures).copied().map(Step::Adopt),
        Reason::Rebalance => None,
    }
}

/// True if a chunk with one copy more, on `target`, would then have its copy on `source` removed, and
/// nothing else is to be done with it before.
pub(crate) fn would_move(view: &RepairView, chunk: &ChunkCopies, source: ServerId, target: ServerId) -> bool {
    let survey = Survey::of(view, chunk);
    let free = view.get(&target).is_some_and(|known| survey.may_take(target, known));
    if survey.need().is_some() || !survey.live.contains(&source) || !free {
        return false;
    }
    let mut moved = chunk.clone();
    moved.entitled.push(target);
    moved.current.push(target);
    Survey::of(view, &moved).victim() == Some(source)
}

#[cfg(test)]
mod tests;
