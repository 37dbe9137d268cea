//! Three members without threads or time: what the node and the log carry for the day on which
//! there are three masters.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, Message};

use super::super::config::MemberId;
use super::super::node::{Effects, Node};
use super::*;

#[derive(Default)]
struct Outside {
    applied: Vec<(u64, Vec<u8>)>,
    sent: Vec<Message>,
}

impl Effects for Outside {
    fn apply(&mut self, entry: Entry) {
        self.applied.push((entry.index, entry.data.to_vec()));
    }

    fn send(&mut self, messages: Vec<Message>) {
        self.sent.extend(messages);
    }
}

struct Member {
    node: Node<MemDisk>,
    disk: MemDisk,
    outside: Outside,
    config: LogConfig,
    cut_off: bool,
}

impl Member {
    fn start(id: u64, disk: MemDisk) -> Self {
        let voters = [1, 2, 3].map(MemberId::new).to_vec();
        let config = LogConfig { member: MemberId::new(id), voters, ..config() };
        let log = recovery::open(Arc::new(disk.clone()), &config, Position::default()).expect("opens");
        let node = Node::new(&config, log, Position::default());
        Self { node, disk, outside: Outside::default(), config, cut_off: false }
    }

    /// Loses power and starts again.
    fn restart(&mut self) {
        *self = Self::start(self.config.member.get(), self.disk.power_loss(|| false));
    }

    fn commands(&self) -> Vec<Vec<u8>> {
        self.outside.applied.iter().map(|(_, data)| data.clone()).filter(|data| !data.is_empty()).collect()
    }
}

struct Group(BTreeMap<u64, Member>);

impl Group {
    fn new() -> Self {
        Self([1, 2, 3].map(|id| (id, Member::start(id, MemDisk::default()))).into())
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.0.get_mut(&id).expect("there are three")
    }

    /// Delivers messages until there are none.
    fn settle(&mut self) {
        loop {
            let mut messages = Vec::new();
            for member in self.0.values_mut() {
                member.node.advance(&mut member.outside).expect("the disk works");
                let sent = std::mem::take(&mut member.outside.sent);
                messages.extend(sent.into_iter().filter(|_| !member.cut_off));
            }
            if messages.is_empty() {
                return;
            }
            for message in messages {
                if let Some(member) = self.0.get_mut(&message.to).filter(|member| !member.cut_off) {
                    member.node.step(message);
                }
            }
        }
    }

    /// Lets time pass until somebody who is not cut off leads.
    fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.0.values_mut().for_each(|member| member.node.tick());
            self.settle();
            let leads = |(&id, member): (&u64, &Member)| (!member.cut_off && member.node.is_leader()).then_some(id);
            if let Some(leader) = self.0.iter().find_map(leads) {
                return leader;
            }
        }
        panic!("nobody was elected");
    }

    fn propose(&mut self, leader: u64, number: usize) {
        self.member(leader).node.propose(vec![command(number, 40)]).expect("it leads");
        self.settle();
    }
}

#[test]
fn entries_of_a_leader_that_was_cut_off_are_replaced() {
    let mut group = Group::new();
    let old = group.elect();
    group.propose(old, 1);
    group.member(old).cut_off = true;
    group.propose(old, 666);
    let new = group.elect();
    assert_ne!(new, old);
    group.propose(new, 2);
    group.member(old).cut_off = false;
    for _ in 0..5 {
        group.0.values_mut().for_each(|member| member.node.tick());
        group.settle();
    }
    for id in [1, 2, 3] {
        assert_eq!(group.member(id).commands(), [command(1, 40), command(2, 40)], "master {id}");
        let disk = group.member(id).disk.power_loss(|| false);
        let config = group.member(id).config.clone();
        let log = recovery::open(Arc::new(disk), &config, Position::default()).expect("opens");
        let entries = log.entries(1, log.last_index().expect("known") + 1, None, GetEntriesContext::empty(false));
        let found: Vec<_> = entries.expect("readable").into_iter().map(|entry| entry.data.to_vec()).collect();
        assert!(!found.contains(&command(666, 40)), "master {id}");
    }
}

/// Interleaving 24: votes leave after they are durable, so a member that restarts gives no second one.
#[test]
fn a_vote_survives_a_power_loss() {
    let mut group = Group::new();
    let leader = group.elect();
    let term = group.member(leader).node.term();
    let mut votes = 0;
    for follower in [1, 2, 3].into_iter().filter(|&id| id != leader) {
        group.member(follower).restart();
        let state = group.member(follower).node.log().contents.hard_state.clone();
        votes += usize::from((state.term, state.vote) == (term, leader));
    }
    assert!(votes > 0, "a majority voted for the leader");
    group.propose(leader, 1);
    let again = group.elect();
    group.propose(again, 2);
    assert_eq!(group.member(3).commands(), [command(1, 40), command(2, 40)]);
}

#[test]
fn members_are_part_of_the_log() {
    let mut group = Group::new();
    let leader = group.elect();
    let mut step = ConfChangeSingle { node_id: 4, ..Default::default() };
    step.set_change_type(ConfChangeType::AddLearnerNode);
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(step);
    group.member(leader).node.propose_members(change).expect("it leads");
    group.settle();
    group.propose(leader, 1);
    for id in [1, 2, 3] {
        group.member(id).restart();
        let members = &group.member(id).node.log().contents.members.state;
        assert_eq!((members.voters.len(), members.learners.as_slice()), (3, [4].as_slice()), "master {id}");
    }
    let leader = group.elect();
    group.propose(leader, 2);
    assert_eq!(group.member(leader).commands(), [command(1, 40), command(2, 40)]);
}
