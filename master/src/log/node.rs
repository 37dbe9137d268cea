//! Raft on the segmented log: carries out what raft's `Ready` asks for, in the order that raft
//! demands. Knows nothing of proposers, threads or time.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Config, RawNode, StateRole};

use super::config::{LogConfig, Position};
use super::disk::Disk;
use super::error::{Damage, LogFault};
use super::members;
use super::raft_logger;
use super::store::{Members, SegmentedLog};

/// Bytes of entries handed over, or sent to a follower, at a time.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;
/// Ticks between a leader's heartbeats; elections take ten to twenty ticks.
const HEARTBEAT_TICKS: usize = 2;
/// See [`HEARTBEAT_TICKS`].
const ELECTION_TICKS: usize = 10;

/// What happens outside when raft makes progress.
pub(super) trait Effects {
    /// A committed and durable entry, each once and in order.
    fn apply(&mut self, entry: Entry);
    /// Messages for other members.
    fn send(&mut self, messages: Vec<Message>);
}

/// One member of the raft group.
pub(super) struct Node<D: Disk> {
    raw: RawNode<SegmentedLog<D>>,
}

impl<D: Disk> Node<D> {
    /// Starts as a follower behind the state's end.
    pub(super) fn new(config: &LogConfig, log: SegmentedLog<D>, applied: Position) -> Self {
        let settings = Config {
            id: config.member.get(),
            applied: applied.index.get(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: ENTRIES_BYTES_MAX,
            max_committed_size_per_ready: ENTRIES_BYTES_MAX,
            ..Config::default()
        };
        let raw = RawNode::new(&settings, log, &raft_logger::root());
        Self { raw: raw.expect("the settings are constants and recovery checked what raft reads") }
    }

    pub(super) fn log(&self) -> &SegmentedLog<D> {
        self.raw.store()
    }

    pub(super) fn log_mut(&mut self) -> &mut SegmentedLog<D> {
        self.raw.mut_store()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn is_candidate(&self) -> bool {
        matches!(self.raw.raft.state, StateRole::Candidate | StateRole::PreCandidate)
    }

    /// The leader that this member knows of.
    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|&id| id != raft::INVALID_ID)
    }

    pub(super) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(super) fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    pub(super) fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub(super) fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// Whether this member decides alone.
    pub(super) fn is_sole_voter(&self) -> bool {
        let members = &self.log().contents.members.state;
        members.voters == [self.raw.raft.id] && members.voters_outgoing.is_empty()
    }

    /// Stands for election now.
    pub(super) fn campaign(&mut self) {
        self.raw.campaign().expect("standing for election changes only raft's own state");
    }

    /// One step of raft's logical clock.
    pub(super) fn tick(&mut self) {
        self.raw.tick();
    }

    /// Takes a message of another member. Snapshots are not taken: there is no transfer of states yet.
    #[cfg_attr(not(test), expect(dead_code, reason = "called by the transport between masters, and by tests"))]
    pub(super) fn step(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            tracing::error!(from = message.from, "a snapshot was sent, which this version cannot take");
        } else if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft ignored a message");
        }
    }

    /// Proposes payloads; they get the indexes from the one returned on, in the current term.
    /// `None` if raft takes no proposals now. Nothing is durable before [`Node::advance`].
    pub(super) fn propose(&mut self, payloads: Vec<Vec<u8>>) -> Option<Position> {
        if !self.is_leader() {
            return None;
        }
        let first = Position::new(self.last_index() + 1, self.term());
        let entry = |payload: Vec<u8>| Entry { data: payload.into(), ..Entry::default() };
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(payloads.into_iter().map(entry).collect());
        self.raw.raft.step(message).ok().map(|()| first)
    }

    /// Proposes a change of members.
    #[cfg(test)]
    pub(super) fn propose_members(&mut self, change: raft::eraftpb::ConfChangeV2) -> raft::Result<()> {
        self.raw.propose_conf_change(Vec::new(), change)
    }

    /// Does everything that raft has ready: sends, makes durable, applies.
    pub(super) fn advance(&mut self, effects: &mut impl Effects) -> Result<(), LogFault> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            assert!(ready.snapshot().is_empty(), "`step` lets no snapshot in");
            // A leader's appends travel while its own disk works.
            effects.send(ready.take_messages());
            self.apply(ready.take_committed_entries(), effects)?;
            if ready.must_sync() {
                let (entries, state) = (ready.take_entries(), ready.hs().cloned());
                self.log_mut().append(entries, state)?;
            } else if let Some(state) = ready.hs() {
                let commit = state.commit;
                self.log_mut().set_commit(commit);
            }
            // Votes and answers leave only now that they are durable.
            effects.send(ready.take_persisted_messages());
            let mut light = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.log_mut().set_commit(commit);
            }
            effects.send(light.take_messages());
            self.apply(light.take_committed_entries(), effects)?;
            self.raw.advance_apply();
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>, effects: &mut impl Effects) -> Result<(), LogFault> {
        for mut entry in entries {
            if entry.get_entry_type() != EntryType::EntryNormal {
                self.change_members(&entry)?;
                entry.data.clear();
            }
            effects.apply(entry);
        }
        Ok(())
    }

    /// Members change when the entry is applied; on replay they have changed already.
    fn change_members(&mut self, entry: &Entry) -> Result<(), LogFault> {
        let at = Position::new(entry.index, entry.term);
        if at.index <= self.log().contents.members.at.index {
            return Ok(());
        }
        let damage = Damage::Contents("a change of members that cannot be read");
        let damaged = || LogFault::Damaged { segment: format!("with entry {at}"), offset: 0, damage };
        let change = members::decode_change(&entry.data).ok_or_else(damaged)?;
        let state = self.raw.apply_conf_change(&change).map_err(|_| damaged())?;
        self.log_mut().set_members(Members { at, state })
    }
}
