//! Tests of the whole state machine, and the fixture that the tests beside the operations use.

mod layers;
mod model;
mod steps;

use crate::command::{Action, Command, CoreBatch, Openers, Stamp, StampedOp};
use crate::outcome::{CoreMade, CoreResult, Outcome};
use crate::store::{Genesis, Store};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, Mode, SetAttr};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ClusterId, InodeId, LogIndex, RestoreGeneration, Sequence, ServerId, SessionId, Term};
use gfs_proto::layout::ChunkSize;
use gfs_proto::name::Name;
use gfs_proto::ops::{Make, MakeKind, Op, OpenSpec};
use gfs_proto::time::Timestamp;

pub(crate) const ROOT: InodeId = InodeId::ROOT;
/// Chunks of the fixture's cluster.
pub(crate) const CHUNK: u64 = 64 << 10;

pub(crate) fn genesis() -> Genesis {
    Genesis {
        cluster: ClusterId::new([0xa5; 16]),
        chunk_size: ChunkSize::new(CHUNK as u32).expect("within limits"),
        goal: 3,
        restore_generation: RestoreGeneration::new(0),
        created: Timestamp::from_nanos(0),
    }
}

pub(crate) fn database() -> redb::Database {
    let memory = redb::backends::InMemoryBackend::new();
    redb::Database::builder().create_with_backend(memory).expect("memory does not fail")
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

pub(crate) fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Vec::new() }
}

pub(crate) fn servers(ids: &[u32]) -> Vec<ServerId> {
    ids.iter().map(|id| ServerId::new(*id)).collect()
}

pub(crate) fn make(parent: InodeId, text: &str, kind: MakeKind, mode: u32) -> Make {
    let (name, mode) = (name(text), Mode::new(mode));
    Make { parent: parent.into(), name, kind, mode, exclusive: true, open: None, first_chunk: false, ids: None }
}

/// A store with a root directory that everybody may write, and a log that counts by itself.
/// After every command all invariants hold, and the command survives the log.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    index: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let store = Store::format(database(), &genesis()).expect("an empty database");
        let mut fixture = Self { store, index: 0 };
        fixture.root(set_mode(ROOT, 0o777)).expect("root may");
        fixture
    }

    /// The time that the next command gets: seconds since 1970 = its log index.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::new(self.index as i64 + 1, 0).expect("a time")
    }

    pub(crate) fn apply(&mut self, action: Action) -> Outcome {
        let command = Command { stamp: Stamp { now: self.now() }, action };
        self.index += 1;
        let logged = Command::decode(&command.encode()).expect("what was encoded");
        assert_eq!(logged, command);
        let outcome = self.store.apply(LogIndex::new(self.index), Term::new(1), &logged).expect("memory does not fail");
        assert_eq!(self.store.check().expect("readable"), [], "after {command:?}");
        outcome
    }

    /// As [`Fixture::apply`], on a state that was damaged.
    pub(crate) fn apply_unchecked(&mut self, action: Action) -> Outcome {
        let command = Command { stamp: Stamp { now: self.now() }, action };
        self.index += 1;
        let logged = Command::decode(&command.encode()).expect("what was encoded");
        self.store.apply(LogIndex::new(self.index), Term::new(1), &logged).expect("memory does not fail")
    }

    /// Applies an action that has one result.
    pub(crate) fn one(&mut self, action: Action) -> Result<CoreResult, FsError> {
        let mut results = self.apply(action).results;
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    pub(crate) fn batch(&mut self, caller: &Caller, ops: Vec<StampedOp>) -> Vec<Result<CoreResult, FsError>> {
        self.apply(Action::Batch(batch(caller, ops))).results
    }

    /// One operation of `caller`. A refused one has changed nothing.
    pub(crate) fn run(&mut self, caller: &Caller, op: impl Into<StampedOp>) -> Result<CoreResult, FsError> {
        let before = self.contents();
        let mut results = self.batch(caller, vec![op.into()]);
        assert_eq!(results.len(), 1);
        let result = results.remove(0);
        if result.is_err() {
            assert_eq!(self.contents(), before, "a refused operation has an effect");
        }
        result
    }

    pub(crate) fn root(&mut self, op: impl Into<StampedOp>) -> Result<CoreResult, FsError> {
        self.run(&Caller::root(), op)
    }

    fn contents(&self) -> u128 {
        self.store.digest_of_rows().expect("readable")
    }

    pub(crate) fn make(&mut self, caller: &Caller, make: Make) -> Result<CoreMade, FsError> {
        self.run(caller, Op::Make(make)).map(|result| match result {
            CoreResult::Made(made) => made,
            other => panic!("{other:?} of a make"),
        })
    }

    pub(crate) fn file(&mut self, parent: InodeId, text: &str) -> InodeId {
        let made = self.make(&Caller::root(), make(parent, text, MakeKind::File, 0o644));
        made.expect("root may").attr.inode
    }

    pub(crate) fn dir(&mut self, parent: InodeId, text: &str) -> InodeId {
        let made = self.make(&Caller::root(), make(parent, text, MakeKind::Directory, 0o777));
        made.expect("root may").attr.inode
    }

    /// A file with chunks at these indices and that size.
    pub(crate) fn file_of(&mut self, text: &str, chunks: &[u32], size: u64) -> InodeId {
        let inode = self.file(ROOT, text);
        for index in chunks {
            let index = gfs_proto::ids::ChunkIndex::new(*index);
            self.one(Action::AllocateChunk { inode, index, placement: servers(&[1, 2, 3]) }).expect("a hole");
        }
        let truncate_generation = self.attr(inode).truncate_generation;
        let record = crate::SizeRecord { inode, size, mtime: None, atime: None, ctime: None, truncate_generation };
        self.one(Action::RecordSizes(vec![record])).expect("a file");
        inode
    }

    pub(crate) fn attr(&self, inode: InodeId) -> Attr {
        self.store.view().attr(inode).expect("it exists")
    }

    pub(crate) fn lookup(&self, parent: InodeId, text: &str) -> Result<Attr, FsError> {
        self.store.view().lookup(&Caller::root(), parent, &name(text))
    }

    /// Indices of the chunks that a file has.
    pub(crate) fn chunk_indices(&self, inode: InodeId) -> Vec<u32> {
        let chunks = self.store.view().chunks(inode, Default::default(), u32::MAX).expect("a file");
        chunks.chunks.iter().map(|chunk| chunk.index.get()).collect()
    }
}

pub(crate) fn batch(caller: &Caller, ops: Vec<StampedOp>) -> CoreBatch {
    CoreBatch {
        session: SessionId::new(0),
        sequence: Sequence::new(0),
        acknowledged: Sequence::new(0),
        caller: caller.clone(),
        precondition: None,
        ops,
    }
}

pub(crate) fn set_attr(inode: InodeId, changes: SetAttr) -> Op {
    Op::SetAttr { inode: inode.into(), changes }
}

pub(crate) fn set_mode(inode: InodeId, mode: u32) -> Op {
    set_attr(inode, SetAttr { mode: Some(Mode::new(mode)), ..SetAttr::default() })
}

pub(crate) fn set_size(inode: InodeId, size: u64) -> Op {
    set_attr(inode, SetAttr { size: Some(size), ..SetAttr::default() })
}

pub(crate) fn chown(inode: InodeId, uid: u32, gid: u32) -> Op {
    set_attr(inode, SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() })
}

/// An unlink whose leader found these sessions to have `inode` open.
pub(crate) fn unlink(parent: InodeId, text: &str, inode: InodeId, sessions: &[u64]) -> StampedOp {
    let sessions = sessions.iter().map(|id| SessionId::new(*id)).collect();
    let op = Op::Unlink { parent: parent.into(), name: name(text) };
    StampedOp { op, placement: Vec::new(), openers: Some(Openers { inode, sessions }) }
}

pub(crate) fn open_spec(access: gfs_proto::ops::Access, truncate: bool) -> OpenSpec {
    OpenSpec { open: gfs_proto::ids::OpenId::new(1), access, truncate }
}
