//! Bytes of raft's membership: five lists of voters and learners, one of them a flag.
//!
//! `voters, learners, voters outgoing, learners next`, each as a 16-bit count and 64-bit numbers,
//! then one byte `auto leave`.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

use super::config::MemberId;

/// Members of any kind that a record may name.
const MEMBERS_MAX: usize = 64;

/// Membership of a new log.
pub(super) fn of_voters(voters: &[MemberId]) -> ConfState {
    ConfState { voters: voters.iter().map(|voter| voter.get()).collect(), ..Default::default() }
}

pub(super) fn encode(members: &ConfState) -> Vec<u8> {
    let mut bytes = Vec::new();
    for list in [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next] {
        assert!(list.len() <= MEMBERS_MAX, "no cluster has {MEMBERS_MAX} masters");
        bytes.extend_from_slice(&(list.len() as u16).to_le_bytes());
        list.iter().for_each(|member| bytes.extend_from_slice(&member.to_le_bytes()));
    }
    bytes.push(u8::from(members.auto_leave));
    bytes
}

pub(super) fn decode(mut bytes: &[u8]) -> Result<ConfState, &'static str> {
    let mut list = || -> Result<Vec<u64>, &'static str> {
        let (count, rest) = bytes.split_first_chunk().ok_or("a membership is cut off")?;
        let count = usize::from(u16::from_le_bytes(*count));
        if count > MEMBERS_MAX {
            return Err("a membership with too many members");
        }
        let (numbers, rest) = rest.split_at_checked(count * 8).ok_or("a membership is cut off")?;
        bytes = rest;
        Ok(numbers.chunks_exact(8).map(super::codec::long).collect())
    };
    let (voters, learners, voters_outgoing, learners_next) = (list()?, list()?, list()?, list()?);
    let auto_leave = match bytes {
        [0] => false,
        [1] => true,
        _ => return Err("a membership of another length"),
    };
    Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..Default::default() })
}

/// A change of members as raft logs it; rust-protobuf, which raft speaks, has the same bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct LoggedChange {
    #[prost(int32, tag = "1")]
    transition: i32,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<LoggedStep>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LoggedStep {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// Reads the data of an entry that changes the members.
pub(super) fn decode_change(data: &[u8]) -> Option<ConfChangeV2> {
    let logged = <LoggedChange as prost::Message>::decode(data).ok()?;
    let mut change = ConfChangeV2::default();
    change.set_transition(match logged.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        _ => return None,
    });
    for step in logged.changes {
        let kind = match step.kind {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return None,
        };
        change.mut_changes().push(raft_step(kind, step.member));
    }
    Some(change)
}

fn raft_step(kind: ConfChangeType, member: u64) -> ConfChangeSingle {
    let mut step = ConfChangeSingle { node_id: member, ..Default::default() };
    step.set_change_type(kind);
    step
}
