//! Random histories: steps that name things by small numbers, turned into commands as a leader would.

use super::{name, servers};
use crate::command::{Action, Command, CoreBatch, Openers, SizeRecord, Stamp, StampedOp};
use crate::outcome::{CoreResult, Duty, Outcome, Unclaimed, UnclaimedCause};
use gfs_proto::attr::{Mode, SetAttr, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{
    ChunkHandle, ChunkIndex, ChunkVersion, InodeId, Sequence, ServerId, ServerUuid, SessionId, TruncateGeneration,
};
use gfs_proto::ops::{Access, InodeRef, Make, MakeKind, Op, RenameMode, XattrMode};
use gfs_proto::time::Timestamp;
use proptest::prelude::*;

/// Small numbers that [`Stepper`] gives a meaning; all combinations are valid commands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) what: u8,
    pub(super) who: u8,
    /// Two places: a directory and a name in it.
    pub(super) at: (u8, u8),
    pub(super) to: (u8, u8),
    pub(super) number: u32,
}

pub(super) fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let place = || (0u8..8, 0u8..5);
    let step = (0u8..28, 0u8..4, place(), place(), any::<u32>());
    let step = step.prop_map(|(what, who, at, to, number)| Step { what, who, at, to, number });
    prop::collection::vec(step, 1..max)
}

/// Turns steps into commands, remembering what there is.
pub(super) struct Stepper {
    /// Inodes that were made, the root first; some may be gone.
    inodes: Vec<InodeId>,
    dirs: Vec<InodeId>,
    handles: Vec<ChunkHandle>,
    sequence: u64,
    now: i64,
}

impl Default for Stepper {
    fn default() -> Self {
        let root = vec![InodeId::ROOT];
        Self { inodes: root.clone(), dirs: root, handles: vec![ChunkHandle::new(1)], sequence: 0, now: 0 }
    }
}

fn pick<T: Copy>(from: &[T], number: impl Into<u64>) -> T {
    from[(number.into() % from.len() as u64) as usize]
}

impl Stepper {
    /// What every history begins with: sessions to send from, a root directory that everybody may write.
    pub(super) fn preamble(&mut self) -> Vec<Command> {
        let session = |id| Action::OpenSession { session: SessionId::new(id), secret: [1; 16], name: "s".into() };
        let open_root = super::batch(&Caller::root(), vec![super::set_mode(InodeId::ROOT, 0o777).into()]);
        let actions = [session(1), session(2), session(3), Action::Batch(open_root)];
        actions.map(|action| Command { stamp: Stamp::default(), action }).into()
    }

    pub(super) fn command(&mut self, step: &Step) -> Command {
        self.now += 1;
        let now = Timestamp::new(self.now, self.now as u32).expect("a time");
        Command { stamp: Stamp { now }, action: self.action(step) }
    }

    /// Takes over what the command made.
    pub(super) fn learn(&mut self, outcome: &Outcome) {
        for result in outcome.results.iter().flatten() {
            let chunk = match result {
                CoreResult::Made(made) => {
                    self.inodes.push(made.attr.inode);
                    if made.attr.kind == gfs_proto::attr::FileKind::Directory {
                        self.dirs.push(made.attr.inode);
                    }
                    made.chunk.as_ref()
                }
                CoreResult::Allocated { chunk, .. } => Some(chunk),
                _ => None,
            };
            self.handles.extend(chunk.map(|chunk| chunk.handle));
        }
    }

    fn action(&mut self, step: &Step) -> Action {
        let inode = pick(&self.inodes, step.number);
        let handle = pick(&self.handles, step.number);
        let session = SessionId::new(u64::from(step.who));
        match step.what {
            0 => Action::OpenSession { session, secret: [1; 16], name: "s".into() },
            1 if step.number.is_multiple_of(4) => Action::EndSession { session },
            2 if step.number.is_multiple_of(5) => Action::RemoveServer { server: ServerId::new(step.who.into()) },
            2 if step.number.is_multiple_of(3) => {
                let until = Timestamp::from_nanos(step.number.into());
                let some = |given| (given == 1).then_some(until);
                let (maintenance_until, left) = (some(step.at.1), some(step.at.0));
                let duty = Duty { draining: step.at.0 == 1, maintenance_until, left };
                Action::SetDuty { server: ServerId::new(step.who.into()), duty }
            }
            2 => Action::RegisterServer { uuid: ServerUuid::new([step.who; 16]), rack: step.at.1.to_string() },
            3 | 4 => {
                let index = ChunkIndex::new(u32::from(step.at.1));
                Action::AllocateChunk { inode, index, placement: servers(&[1, 2, 3][..usize::from(step.who)]) }
            }
            5 if step.number.is_multiple_of(3) => {
                let version = ChunkVersion::new(u64::from(step.at.1));
                Action::Entitle { handle, version, from: servers(&[1, 2]), to: servers(&[2, 4]) }
            }
            5 => {
                let version = ChunkVersion::new(u64::from(step.at.1));
                Action::RaiseVersion { handle, version, entitled: servers(&[1, 2]), unwritten: step.who == 1 }
            }
            6 => Action::RecordSizes(vec![SizeRecord {
                inode,
                size: u64::from(step.at.1) * 40_000,
                mtime: Some(Timestamp::from_nanos(step.number.into())),
                atime: None,
                ctime: None,
                truncate_generation: TruncateGeneration::new(u64::from(step.at.0) / 2),
            }]),
            7 => Action::CutApplied { cuts: vec![(handle, TruncateGeneration::new(u64::from(step.at.1)))] },
            8 => Action::Collected { rows: (1..=3).map(|server| (handle, ServerId::new(server))).collect() },
            9 if step.number.is_multiple_of(2) => Action::Abandon { chunks: vec![(handle, ChunkVersion::new(1))] },
            9 if step.number.is_multiple_of(5) => {
                let server = ServerId::new(step.who.into());
                let cause = if step.at.0 < 4 { UnclaimedCause::NoChunk } else { UnclaimedCause::Ahead };
                let version = ChunkVersion::new(step.at.1.into());
                let replica = Unclaimed { handle, server, version, length: step.number, cause };
                match step.to.0 {
                    0..4 => Action::Quarantine { unclaimed: vec![replica] },
                    4 => Action::Release { rows: vec![(handle, server)] },
                    _ => Action::Discard { unclaimed: vec![replica] },
                }
            }
            9 if step.number.is_multiple_of(3) => Action::Written { handles: vec![handle], flushed: step.who == 1 },
            9 => Action::Reap { inodes: vec![inode] },
            _ => Action::Batch(self.batch(step)),
        }
    }

    fn batch(&mut self, step: &Step) -> CoreBatch {
        // one in five is a retry of the last one
        self.sequence += u64::from(!step.number.is_multiple_of(5));
        let mut ops = vec![self.stamped(step)];
        if step.number.is_multiple_of(3) {
            let second = Step { what: step.what ^ 1, at: step.to, to: step.at, number: step.number / 3, ..*step };
            ops.push(self.stamped(&second));
        }
        let uid = u32::from(step.who.is_multiple_of(2)) * 7;
        CoreBatch {
            session: SessionId::new(u64::from(step.who)),
            sequence: Sequence::new(self.sequence.max(1)),
            acknowledged: Sequence::new(self.sequence.saturating_sub(3)),
            caller: Caller { uid, gid: uid, groups: vec![] },
            precondition: None,
            ops,
        }
    }

    fn stamped(&self, step: &Step) -> StampedOp {
        let placement = servers(&[3, 1][..usize::from(step.who) % 3]);
        let inode = pick(&self.inodes, step.number);
        let sessions = if step.who == 1 { vec![] } else { vec![SessionId::new(1), SessionId::new(2)] };
        let openers = (step.who < 3).then_some(Openers { inode, sessions });
        StampedOp { op: self.op(step), placement, openers }
    }

    pub(super) fn op(&self, step: &Step) -> Op {
        let parent: InodeRef = pick(&self.dirs, step.at.0).into();
        let to_parent: InodeRef = pick(&self.dirs, step.to.0).into();
        let (from_name, to_name) = (name(&format!("n{}", step.at.1)), name(&format!("n{}", step.to.1)));
        let inode: InodeRef = pick(&self.inodes, step.number >> 8).into();
        let mode = Mode::new(step.number & 0o7777 | 0o700);
        match step.what {
            10..=13 | 1 => {
                let kind = match step.number % 8 {
                    0..=3 => MakeKind::File,
                    4 | 5 => MakeKind::Directory,
                    6 => MakeKind::Symlink(b"target".to_vec()),
                    _ => MakeKind::Fifo,
                };
                let exclusive = step.number & 16 != 0;
                let first_chunk = step.number & 32 != 0 && matches!(kind, MakeKind::File);
                let (open, ids) = (None, None);
                Op::Make(Make { parent, name: from_name, kind, mode, exclusive, open, first_chunk, ids })
            }
            14 => Op::Link { inode, parent, name: from_name },
            15 | 16 => Op::Unlink { parent, name: from_name },
            17 => Op::Rmdir { parent, name: from_name },
            18..=20 => {
                let mode = pick(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange], step.number);
                Op::Rename { from_parent: parent, from_name, to_parent, to_name, mode }
            }
            21 => Op::SetAttr { inode, changes: self.changes(step, mode) },
            22 => {
                let size = Some(u64::from(step.at.1) * 40_000);
                Op::SetAttr { inode, changes: SetAttr { size, ..SetAttr::default() } }
            }
            23 => {
                let name = pick(&[&b"user.a"[..], b"trusted.b", b"system.posix_acl_access"], step.number).to_vec();
                Op::SetXattr { inode, name, value: vec![step.who], mode: XattrMode::Either }
            }
            24 => Op::RemoveXattr { inode, name: b"user.a".to_vec() },
            25 => Op::SetGoal { inode, goal: step.at.1 + 1 },
            26 => Op::Open { inode, spec: super::open_spec(Access::ReadWrite, step.who > 1) },
            _ => Op::Lookup { parent, name: from_name },
        }
    }

    fn changes(&self, step: &Step, mode: Mode) -> SetAttr {
        let bit = |n: u32| step.number >> (16 + n) & 1 != 0;
        let time = || SetTime::At(Timestamp::from_nanos(i128::from(step.number) - (1 << 31)));
        SetAttr {
            mode: bit(0).then_some(mode),
            uid: bit(1).then_some(u32::from(step.who)),
            gid: bit(2).then_some(u32::from(step.at.1)),
            atime: bit(3).then(time),
            mtime: bit(4).then_some(SetTime::Now),
            ..SetAttr::default()
        }
    }
}
