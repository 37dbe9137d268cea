//! One round of the log: a batch is proposed, made durable, applied, and its answers collected. Who
//! runs a round, and when, is `replicated`'s business.

use std::collections::VecDeque;
use std::sync::Arc;

use gfs_proto::ids::{LogIndex, Term};
use raft::eraftpb::{Entry, Message};
use tokio::sync::oneshot;

use super::config::{MemberId, Position};
use super::disk::Disk;
use super::error::{LogError, LogFault};
use super::node::{Effects, Node};

/// What the log drives. Called in log order, once per entry and run, by one thread at a time.
pub trait StateMachine: Send + Sync + 'static {
    /// What a proposer gets.
    type Output: Send + 'static;

    /// Applies an entry that is durable on a majority. Deterministic, no waiting. An empty payload
    /// is an entry of the log's own (a new leader's first, a change of members): only the position
    /// moves on.
    fn apply(&self, index: LogIndex, term: Term, payload: &[u8]) -> Self::Output;
}

/// Part of a master in the raft group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Stands for election.
    Candidate,
    /// Follows a leader, or waits for one.
    Follower,
    /// Stopped or failed.
    Stopped,
}

/// The log at a glance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStatus {
    /// What this master is.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<MemberId>,
    /// Current term.
    pub term: Term,
    /// First entry that is still in the log.
    pub first: LogIndex,
    /// Last entry.
    pub last: LogIndex,
    /// Last entry that is durable on a majority.
    pub committed: LogIndex,
    /// Last entry given to the state machine.
    pub applied: LogIndex,
    /// Segment files.
    pub segments: usize,
}

/// What a proposal ends with.
pub(super) type Answer<O> = Result<(LogIndex, O), LogError>;

/// What one thread at a time works on.
pub(super) struct Core<O, D: Disk> {
    pub(super) state: State<D>,
    /// Proposed, not yet applied; in log order.
    pub(super) waiting: VecDeque<Waiting<O>>,
}

/// What the log is capable of.
pub(super) enum State<D: Disk> {
    Running(Box<Node<D>>),
    Stopped,
    Failed(Arc<LogFault>),
}

/// Where an answer goes.
pub(super) type Reply<O> = oneshot::Sender<Answer<O>>;

/// A command and who waits for it.
pub(super) struct Proposal<O> {
    pub(super) payload: Vec<u8>,
    pub(super) reply: Reply<O>,
}

/// A proposal in raft's hands.
pub(super) struct Waiting<O> {
    at: Position,
    reply: Reply<O>,
}

/// Answers of a round, delivered after the node was released.
pub(super) struct Answers<O>(Vec<(Reply<O>, Answer<O>)>);

impl<O> Answers<O> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, reply: Reply<O>, answer: Answer<O>) {
        self.0.push((reply, answer));
    }

    fn refuse(mut self, batch: Vec<Proposal<O>>, error: &LogError) -> Self {
        batch.into_iter().for_each(|proposal| self.add(proposal.reply, Err(error.clone())));
        self
    }

    /// Wakes those who wait. Who went away needs no answer.
    pub(super) fn deliver(self) {
        self.0.into_iter().for_each(|(reply, answer)| drop(reply.send(answer)));
    }
}

/// Gives entries to the state machine and its outputs to whoever waits for them.
pub(super) struct Applier<'a, M: StateMachine> {
    pub(super) machine: &'a M,
    pub(super) waiting: &'a mut VecDeque<Waiting<M::Output>>,
    pub(super) answers: &'a mut Answers<M::Output>,
}

impl<M: StateMachine> Effects for Applier<'_, M> {
    fn apply(&mut self, entry: Entry) {
        let at = Position::new(entry.index, entry.term);
        let output = self.machine.apply(at.index, at.term, &entry.data);
        if let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.at.index == at.index) {
            // Another term's entry in its place: the proposal was replaced and will never be applied.
            let answer =
                if waiting.at == at { Ok((at.index, output)) } else { Err(LogError::NotLeader { leader: None }) };
            self.answers.add(waiting.reply, answer);
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        assert!(messages.is_empty(), "a sole voter has nobody to write to");
    }
}

impl<O: Send + 'static, D: Disk> Core<O, D> {
    /// Proposes a batch and does all that raft has to do. A fault, which is returned too, ends the
    /// log: what is in memory can then be ahead of the disk.
    pub(super) fn round<M>(&mut self, machine: &M, batch: Vec<Proposal<O>>) -> (Answers<O>, Option<Arc<LogFault>>)
    where
        M: StateMachine<Output = O>,
    {
        let (mut answers, waiting) = (Answers::new(), &mut self.waiting);
        let node = match &mut self.state {
            State::Running(node) => node,
            State::Stopped => return (answers.refuse(batch, &LogError::Stopped), None),
            State::Failed(fault) => return (answers.refuse(batch, &LogError::Failed(fault.clone())), None),
        };
        let fault = match propose(node, waiting, batch) {
            Ok(()) => None,
            Err(Refused { batch, error }) => {
                answers = answers.refuse(batch, &error);
                if let LogError::Failed(fault) = error { Some(fault) } else { None }
            }
        };
        let mut applier = Applier { machine, waiting, answers: &mut answers };
        let fault = fault.or_else(|| node.advance(&mut applier).err().map(Arc::new));
        let lost = match &fault {
            Some(fault) => Some(LogError::Failed(fault.clone())),
            None => (!node.is_leader()).then_some(LogError::OutcomeUnknown),
        };
        if let Some(error) = lost {
            waiting.drain(..).for_each(|waiting| answers.add(waiting.reply, Err(error.clone())));
        }
        if let Some(fault) = &fault {
            self.state = State::Failed(fault.clone());
        }
        (answers, fault)
    }
}

/// A batch of which nothing was logged, and why.
struct Refused<O> {
    batch: Vec<Proposal<O>>,
    error: LogError,
}

/// Hands a batch to raft, unless there is no room for it.
fn propose<O, D: Disk>(
    node: &mut Node<D>,
    waiting: &mut VecDeque<Waiting<O>>,
    batch: Vec<Proposal<O>>,
) -> Result<(), Refused<O>> {
    if batch.is_empty() {
        return Ok(());
    }
    let not_leader = LogError::NotLeader { leader: node.leader().map(MemberId::new) };
    if !node.is_leader() {
        return Err(Refused { batch, error: not_leader });
    }
    match node.log_mut().reserve(batch.iter().map(|proposal| proposal.payload.len())) {
        Ok(()) => {}
        Err(fault) if fault.is_no_space() => return Err(Refused { batch, error: LogError::NoSpace }),
        Err(fault) => return Err(Refused { batch, error: LogError::Failed(Arc::new(fault)) }),
    }
    let (payloads, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|each| (each.payload, each.reply)).unzip();
    let Some(first) = node.propose(payloads) else {
        let batch = replies.into_iter().map(|reply| Proposal { payload: Vec::new(), reply }).collect();
        return Err(Refused { batch, error: not_leader });
    };
    let at = |index| Position::new(index, first.term.get());
    waiting.extend(replies.into_iter().zip(first.index.get()..).map(|(reply, index)| Waiting { at: at(index), reply }));
    Ok(())
}

pub(super) fn status_of<D: Disk>(node: &Node<D>) -> LogStatus {
    let role = match (node.is_leader(), node.is_candidate()) {
        (true, _) => Role::Leader,
        (_, true) => Role::Candidate,
        _ => Role::Follower,
    };
    LogStatus {
        role,
        leader: node.leader().map(MemberId::new),
        term: Term::new(node.term()),
        first: node.log().contents.base.index.next(),
        last: LogIndex::new(node.last_index()),
        committed: LogIndex::new(node.committed()),
        applied: LogIndex::new(node.applied()),
        segments: node.log().segments.len(),
    }
}
