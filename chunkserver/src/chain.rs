//! Order of the mutations of one chunk at one replica (GFS paper, 3.1): which frame may be applied
//! now, which was applied before, which has to wait, which is fenced off.
//!
//! Pure: no clock, no I/O, no waiting. Whoever drives it asks [`Order::admit`], applies, and reports
//! with [`Order::finish`]; an install is [`Order::begin_install`], the work on disk, then
//! [`Order::finish_install`]; where members differ it is followed by [`Order::begin_align`], the work on disk,
//! [`Order::finish_align`]. Invariants:
//! - at most one of {apply, install} runs at a time;
//! - serials are applied without a gap and once each, from 1 in each epoch;
//! - a write known by (session, sequence) is never applied twice, across epochs too, as long as it is
//!   within the window of [`OUTCOMES_MAX`] writes;
//! - nothing of an epoch below the highest one installed is ever applied again;
//! - of two replicas whose position ([`Before`]) is known, the one with the greater has all writes of the other.
//!
//! ```text
//!            install / CREATE            apply            finish(ok): next + 1
//!  (nothing) ----------------> idle ----------------> busy ---------------------> idle
//!                                ^  <--------------------' finish(refused): serial not consumed
//!                                |                       ' finish(failed): poisoned until an install
//!                                '---- install <- (any) ; revoke -> (nothing), fence kept
//! ```

use gfs_proto::chunk::Numbering;
use gfs_proto::control::{DoubtRange, Position, WriteOutcome};
use gfs_proto::frame::{DataError, Extent};
use gfs_proto::ids::{ChunkVersion, Epoch, Sequence, Serial, SessionId, TruncateGeneration};
use std::collections::VecDeque;

/// Outcomes remembered per chunk. A client has fewer frames in flight on one chunk, so whatever it
/// resends after a broken chain is found here.
pub const OUTCOMES_MAX: usize = 256;
/// Ranges in doubt remembered one by one; older ones are merged into one covering range.
pub const DOUBT_MAX: usize = 256;
/// Frames further ahead than this are refused at once: no client has so many in flight.
pub const AHEAD_MAX: u64 = 4096;

/// Names a write across retries. Session 0 (a tool) is never deduplicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteId {
    /// Who writes.
    pub session: SessionId,
    /// Its number for this write.
    pub sequence: Sequence,
}

/// What order and fencing need to know of a WRITE frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Version that the frame names.
    pub version: ChunkVersion,
    /// Epoch that the frame names.
    pub epoch: Epoch,
    /// Truncate generation that the frame names.
    pub generation: TruncateGeneration,
    /// Who wrote it.
    pub id: WriteId,
    /// `None`: this replica is asked to give it.
    pub serial: Option<Serial>,
}

/// A grant as this replica installed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Installed {
    /// Version of the replica.
    pub version: ChunkVersion,
    /// Fences every earlier one.
    pub epoch: Epoch,
    /// Of the file.
    pub generation: TruncateGeneration,
    /// Who gives the serial numbers.
    pub numbering: Numbering,
    /// True if this replica is the primary.
    pub primary: bool,
}

/// What to do with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Apply it now as this serial, then call [`Order::finish`]. The order is busy until then.
    Apply(Serial),
    /// It was applied before; its serial is consumed. Forward it and acknowledge it.
    Known(Serial),
    /// Not yet: ask again when something has finished.
    Wait,
    /// Never.
    Refused(DataError),
}

/// How an apply ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The bytes are there.
    Done,
    /// Refused before anything changed: the serial may come again.
    Refused,
    /// Something may have changed: nothing more is accepted under this epoch.
    Failed(DataError),
}

/// What keeps others out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Busy {
    Applying(Serial),
    Installing(Epoch),
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Order {
    installed: Option<Installed>,
    /// Highest epoch seen; stays when a grant is revoked.
    fence: Epoch,
    /// Replicas up to this version were deleted.
    buried: ChunkVersion,
    /// The epoch that `applied` counts in; stays when a grant is revoked.
    counted: Epoch,
    /// Serials applied in it.
    applied: u64,
    /// The last write that is in the replica. Installs do not move it: that an epoch is installed does not mean that
    /// the members ever agreed on what they have.
    last: Position,
    busy: Option<Busy>,
    poison: Option<DataError>,
    outcomes: VecDeque<Outcome>,
    doubt: Doubt,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    id: WriteId,
    epoch: Epoch,
    serial: Serial,
}

/// What an install reports of the time before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Before {
    /// The last write; zero if nothing is known.
    pub position: Position,
    /// See [`DoubtRange`].
    pub in_doubt: Vec<DoubtRange>,
    /// See [`WriteOutcome`].
    pub outcomes: Vec<WriteOutcome>,
}

/// Answer to [`Order::begin_install`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstallStart {
    /// Do the work on disk, then call [`Order::finish_install`] or [`Order::abandon_install`].
    Go,
    /// Something is being applied; ask again when it has finished.
    Wait,
    /// A newer grant or a newer generation is installed.
    Stale,
}

impl Order {
    /// The grant, if one is installed.
    pub fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }
    /// True while an apply or an install runs.
    pub fn is_busy(&self) -> bool {
        self.busy.is_some()
    }
    /// True if `ticket` would be applied at once.
    pub fn is_turn_of(&self, ticket: &Ticket) -> bool {
        self.busy.is_none() && ticket.serial.is_none_or(|serial| serial == self.next())
    }
    /// The next serial to be applied.
    pub fn next(&self) -> Serial {
        Serial::new(self.applied + 1)
    }

    /// Decides on a frame whose payload is complete.
    pub fn admit(&mut self, ticket: &Ticket) -> Admission {
        if self.busy == Some(Busy::Installing(ticket.epoch)) {
            return Admission::Wait;
        }
        if let Err(error) = self.check(ticket) {
            return Admission::Refused(error);
        }
        let known = self.find(ticket.id);
        let serial = match ticket.serial {
            None => match known {
                Some(outcome) if outcome.epoch == ticket.epoch => return Admission::Known(outcome.serial),
                _ => self.next(),
            },
            Some(serial) if serial < self.next() => {
                return match known {
                    Some(_) => Admission::Known(serial),
                    None => Admission::Refused(DataError::Protocol),
                };
            }
            Some(serial) => serial,
        };
        if serial.get() - self.next().get() > AHEAD_MAX {
            return Admission::Refused(DataError::SerialGap);
        }
        if serial > self.next() || self.busy.is_some() {
            return Admission::Wait;
        }
        if known.is_some() {
            self.consume(ticket.id, ticket.epoch, serial);
            return Admission::Known(serial);
        }
        self.busy = Some(Busy::Applying(serial));
        Admission::Apply(serial)
    }

    /// Fences: wrong version, epoch, generation; a poisoned epoch; a replica that is not the primary.
    fn check(&self, ticket: &Ticket) -> Result<(), DataError> {
        let Some(installed) = &self.installed else { return Err(DataError::Epoch) };
        if ticket.epoch != installed.epoch {
            return Err(DataError::Epoch);
        }
        if ticket.version != installed.version {
            return Err(DataError::Version);
        }
        if ticket.generation != installed.generation {
            return Err(DataError::Generation);
        }
        if let Some(Busy::Installing(_)) = self.busy {
            return Err(DataError::Epoch);
        }
        let gives = installed.primary && installed.numbering == Numbering::Primary;
        if ticket.serial.is_none() && !gives {
            return Err(DataError::Protocol);
        }
        self.poison.map_or(Ok(()), Err)
    }

    /// Ends the apply that [`Admission::Apply`] began.
    pub fn finish(&mut self, ticket: &Ticket, serial: Serial, how: Applied, extents: &[Extent]) {
        assert_eq!(self.busy, Some(Busy::Applying(serial)), "only what was admitted can finish");
        assert_eq!(serial, self.next(), "serials are applied without a gap");
        self.busy = None;
        match how {
            Applied::Done => {
                self.consume(ticket.id, ticket.epoch, serial);
                self.doubt.add(ticket.epoch, serial, extents);
            }
            Applied::Refused => {}
            Applied::Failed(error) => {
                self.poison = Some(error);
                self.doubt.add(ticket.epoch, serial, extents);
            }
        }
    }

    /// Everybody further down the chain has applied it too.
    pub fn settle(&mut self, epoch: Epoch, serial: Serial) {
        self.doubt.remove(epoch, serial);
    }

    /// Nothing more is accepted under this epoch: what goes on would leave the replicas different.
    pub fn poison(&mut self, epoch: Epoch, error: DataError) {
        if self.installed.is_some_and(|installed| installed.epoch == epoch) {
            self.poison.get_or_insert(error);
        }
    }

    /// First half of an install; frames of every other epoch are refused from now on.
    pub fn begin_install(&mut self, epoch: Epoch, generation: TruncateGeneration) -> InstallStart {
        let newer = self.installed.is_some_and(|installed| generation < installed.generation);
        if epoch < self.fence || newer {
            return InstallStart::Stale;
        }
        if self.busy.is_some() {
            return InstallStart::Wait;
        }
        self.busy = Some(Busy::Installing(epoch));
        InstallStart::Go
    }

    /// Second half: serials begin anew. The same epoch installed again changes nothing but the fields.
    pub fn finish_install(&mut self, installed: Installed) -> Before {
        assert_eq!(self.busy, Some(Busy::Installing(installed.epoch)), "an install that began");
        self.busy = None;
        let before = self.before();
        self.start(installed);
        before
    }

    /// There is no replica, or the disk failed, perhaps half way: no grant is valid until the next install
    /// or a first frame of a newer one.
    pub fn abandon_install(&mut self) {
        let Some(Busy::Installing(epoch)) = self.busy.take() else { unreachable!("an install that began") };
        self.fence = epoch;
        self.installed = None;
    }

    /// The replica is about to become as another member of this grant, which nobody has used yet. Half-way it is like
    /// none: what was known of its writes is forgotten. Ends as an install does that is abandoned, or with
    /// [`Order::finish_align`].
    pub fn begin_align(&mut self, version: ChunkVersion, epoch: Epoch) -> Result<(), DataError> {
        let installed = self.installed.filter(|installed| installed.epoch == epoch).ok_or(DataError::Epoch)?;
        if installed.version != version {
            return Err(DataError::Version);
        }
        if self.applied > 0 {
            return Err(DataError::Protocol);
        }
        if self.busy.is_some() {
            return Err(DataError::Busy);
        }
        self.busy = Some(Busy::Installing(epoch));
        self.last = Position::default();
        self.outcomes.clear();
        Ok(())
    }

    /// The replica has the bytes of the other member, and so its writes.
    pub fn finish_align(&mut self, position: Position, outcomes: &[WriteOutcome]) {
        let Some(Busy::Installing(_)) = self.busy.take() else { unreachable!("an alignment that began") };
        self.last = position;
        let kept = &outcomes[outcomes.len().saturating_sub(OUTCOMES_MAX)..];
        self.outcomes.extend(kept.iter().map(|outcome| Outcome {
            id: WriteId { session: outcome.session, sequence: outcome.sequence },
            epoch: position.epoch,
            serial: outcome.serial,
        }));
    }

    fn start(&mut self, installed: Installed) {
        if self.counted != installed.epoch {
            self.counted = installed.epoch;
            self.applied = 0;
            self.poison = None;
            self.doubt.new_epoch();
        }
        self.fence = installed.epoch;
        self.installed = Some(installed);
    }

    /// The first frame of a new chunk carries its grant. False if an epoch above it is known, or if its
    /// replica was deleted. Writes that are known from before went into a file that counts no more: they
    /// have to be applied again.
    pub fn create(&mut self, installed: Installed) -> bool {
        if installed.epoch <= self.fence || installed.version <= self.buried || self.busy.is_some() {
            return false;
        }
        *self = Self::default();
        self.start(installed);
        true
    }

    /// The lease has ended: nothing is accepted until the next install, nor the first frame of a grant that
    /// was never used here. False if the lease is another one's.
    pub fn revoke(&mut self, epoch: Epoch) -> bool {
        self.fence = self.fence.max(epoch);
        let ours = self.installed.is_some_and(|installed| installed.epoch == epoch);
        if ours {
            self.installed = None;
        }
        ours
    }

    /// The master wants no replica up to this version. A delete names no epoch, and a chunk that begins
    /// again does so under a higher version.
    pub fn bury(&mut self, version: ChunkVersion) {
        self.buried = self.buried.max(version);
        self.installed.take_if(|installed| installed.version <= version);
    }

    /// State before an install, for its report.
    fn before(&self) -> Before {
        let outcomes = self.outcomes.iter().map(|outcome| WriteOutcome {
            session: outcome.id.session,
            sequence: outcome.id.sequence,
            serial: outcome.serial,
        });
        Before { position: self.last, in_doubt: self.doubt.list(), outcomes: outcomes.collect() }
    }

    fn find(&self, id: WriteId) -> Option<Outcome> {
        if id.session.get() == 0 {
            return None;
        }
        self.outcomes.iter().rev().find(|outcome| outcome.id == id).copied()
    }

    /// The serial is used up by this write, now or in an earlier epoch.
    fn consume(&mut self, id: WriteId, epoch: Epoch, serial: Serial) {
        assert_eq!(serial, self.next(), "serials are consumed in order");
        self.applied = serial.get();
        self.last = Position { epoch, serial };
        self.doubt.agreed();
        if id.session.get() == 0 {
            return;
        }
        if let Some(at) = self.outcomes.iter().position(|outcome| outcome.id == id) {
            self.outcomes.remove(at);
        }
        if self.outcomes.len() == OUTCOMES_MAX {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(Outcome { id, epoch, serial });
    }
}

/// Ranges applied here and not known to be applied everywhere.
///
/// Those of the epoch before are kept until the first write of a new one: only then it is certain that
/// all members confirmed its install, and so that the report was used.
#[derive(Clone, Debug, Default)]
struct Doubt {
    ranges: VecDeque<Doubtful>,
    /// How many at the front are of earlier epochs.
    earlier: usize,
}

#[derive(Clone, Copy, Debug)]
struct Doubtful {
    /// Of the mutation; `None` for several merged ones, which only an install can settle.
    of: Option<Epoch>,
    range: DoubtRange,
}

impl Doubt {
    fn add(&mut self, epoch: Epoch, serial: Serial, extents: &[Extent]) {
        self.ranges.extend(extents.iter().map(|extent| Doubtful {
            of: Some(epoch),
            range: DoubtRange { offset: extent.offset, length: extent.length, serial },
        }));
        while self.ranges.len() > DOUBT_MAX {
            self.merge_oldest();
        }
    }

    /// Forgetting is not allowed, being vague is: one range over the two oldest.
    fn merge_oldest(&mut self) {
        let (Some(a), Some(b)) = (self.ranges.pop_front(), self.ranges.pop_front()) else { return };
        let (a, b) = (a.range, b.range);
        let offset = a.offset.min(b.offset);
        let end = (a.offset + a.length).max(b.offset + b.length);
        let range = DoubtRange { offset, length: end - offset, serial: b.serial };
        self.ranges.push_front(Doubtful { of: None, range });
        // one of two earlier ranges is gone; an earlier one merged with one of this epoch counts as of this one
        self.earlier = self.earlier.saturating_sub(1);
    }

    fn remove(&mut self, epoch: Epoch, serial: Serial) {
        let kept = |row: &Doubtful| !(row.of == Some(epoch) && row.range.serial == serial);
        self.earlier = self.ranges.iter().take(self.earlier).filter(|row| kept(row)).count();
        self.ranges.retain(kept);
    }

    fn new_epoch(&mut self) {
        self.earlier = self.ranges.len();
    }

    fn agreed(&mut self) {
        self.ranges.drain(..self.earlier);
        self.earlier = 0;
    }

    fn list(&self) -> Vec<DoubtRange> {
        self.ranges.iter().map(|row| row.range).collect()
    }
}

#[cfg(test)]
mod tests;
