//! Batch: a client's operations in order, up to the first failure; each is all or nothing, those before
//! a failure stay. Exactly once: the results are kept under (session, sequence) until acknowledged.
//! Keeps `replies_belong_to_sessions`.

use super::rename::Place;
use super::{
    Request, link, make, open_truncate, remove_xattr, rename, rmdir, sessions, set_attr, set_goal, set_xattr, sizes,
    unlink,
};
use crate::command::{CoreBatch, SizeRecord, Stamp, StampedOp};
use crate::outcome::CoreResult;
use crate::queries;
use crate::record::{Body, decode_number, decode_results, encode_number, encode_results};
use crate::state::table::{Table, reply_key};
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::SetTime;
use gfs_proto::ids::{InodeId, Sequence};
use gfs_proto::mutant;
use gfs_proto::ops::{InodeRef, Op, Precondition};

type Results = Vec<Result<CoreResult, FsError>>;

/// Where the lowest sequence that may still come is kept, among the outcomes, which count from 1.
const FLOOR: Sequence = Sequence::new(0);

/// The results, and whether they are those of an earlier time.
pub(crate) fn apply(tx: &mut Tables<'_>, stamp: Stamp, batch: &CoreBatch) -> Result<(bool, Results), FsError> {
    if batch.session.get() == 0 {
        return Ok((false, run(tx, stamp, batch)));
    }
    if !tx.has_session(batch.session)? {
        return Ok((false, vec![Err(FsError::SessionExpired)]));
    }
    let key = reply_key(batch.session, batch.sequence);
    if batch.sequence != FLOOR
        && !mutant!(NoReplyCache)
        && let Some(results) = tx.rows().get(Table::Replies, &key, decode_results)?
    {
        return Ok((true, results));
    }
    let floor = tx.rows().get(Table::Replies, &reply_key(batch.session, FLOOR), decode_number)?;
    let acknowledged = floor.map_or(Sequence::new(1), Sequence::new);
    if batch.sequence < acknowledged {
        return Ok((false, vec![Err(FsError::Protocol)]));
    }
    let results = run(tx, stamp, batch);
    let floor_is_new = floor.is_none();
    forget(tx, batch, acknowledged, floor_is_new)?;
    tx.put_reply(batch.session, batch.sequence, encode_results(&results), true);
    Ok((false, results))
}

/// Drops outcomes that the client has got.
fn forget(tx: &mut Tables<'_>, batch: &CoreBatch, floor: Sequence, new: bool) -> Result<(), FsError> {
    let acknowledged = batch.acknowledged.min(batch.sequence);
    if acknowledged <= floor {
        return Ok(());
    }
    for sequence in sessions::outcomes(tx, batch.session, floor, acknowledged)? {
        tx.remove_reply(batch.session, sequence);
    }
    tx.put_reply(batch.session, FLOOR, encode_number(acknowledged.get()), new);
    Ok(())
}

fn run(tx: &mut Tables<'_>, stamp: Stamp, batch: &CoreBatch) -> Results {
    if let Some(precondition) = batch.precondition
        && let Err(error) = check(tx, precondition)
    {
        return vec![Err(error)];
    }
    let request = Request { caller: &batch.caller, now: stamp.now };
    let mut results = Results::with_capacity(batch.ops.len());
    for op in &batch.ops {
        tx.savepoint();
        let result = one(tx, request, op, &results);
        let failed = result.is_err();
        results.push(result);
        if failed {
            tx.rollback();
            break;
        }
    }
    tx.savepoint();
    results
}

fn check(tx: &Tables<'_>, precondition: Precondition) -> Result<(), FsError> {
    let dir = tx.find_inode(precondition.inode)?;
    match dir.map(|dir| dir.body) {
        Some(Body::Directory { version, .. }) if version == precondition.version => Ok(()),
        _ => Err(FsError::Precondition),
    }
}

/// One operation. `before` are the results of those before it.
fn one(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    stamped: &StampedOp,
    before: &[Result<CoreResult, FsError>],
) -> Result<CoreResult, FsError> {
    let inode_of = |reference: InodeRef| resolve(reference, before);
    let openers = stamped.openers.as_ref();
    match &stamped.op {
        Op::Make(op) => make::apply(tx, request, inode_of(op.parent)?, op, &stamped.placement).map(CoreResult::Made),
        Op::Link { inode, parent, name } => {
            link::apply(tx, request, inode_of(*inode)?, inode_of(*parent)?, name).map(CoreResult::Attr)
        }
        Op::Unlink { parent, name } => {
            unlink::apply(tx, request, inode_of(*parent)?, name, openers).map(CoreResult::Removed)
        }
        Op::Rmdir { parent, name } => rmdir::apply(tx, request, inode_of(*parent)?, name).map(CoreResult::Removed),
        Op::Rename { from_parent, from_name, to_parent, to_name, mode } => {
            let from = Place { parent: inode_of(*from_parent)?, name: from_name };
            let to = Place { parent: inode_of(*to_parent)?, name: to_name };
            rename::apply(tx, request, from, to, *mode, openers)
        }
        Op::SetAttr { inode, changes } => {
            set_attr::apply(tx, request, inode_of(*inode)?, changes).map(CoreResult::Attr)
        }
        Op::SetXattr { inode, name, value, mode } => {
            set_xattr::apply(tx, request, inode_of(*inode)?, name, value, *mode).map(|()| CoreResult::Done)
        }
        Op::RemoveXattr { inode, name } => {
            remove_xattr::apply(tx, request, inode_of(*inode)?, name).map(|()| CoreResult::Done)
        }
        Op::SetGoal { inode, goal } => {
            set_goal::apply(tx, request, inode_of(*inode)?, *goal).map(|()| CoreResult::Done)
        }
        Op::Open { inode, spec } => open_truncate::apply(tx, request, inode_of(*inode)?, *spec).map(CoreResult::Opened),
        Op::ReportSize { inode, size, mtime, atime, ctime, truncate_generation, durable: _ } => {
            let time = |set: &Option<SetTime>| set.map(|set| set_time(set, request));
            let record = SizeRecord {
                inode: inode_of(*inode)?,
                size: *size,
                mtime: time(mtime),
                atime: time(atime),
                ctime: *ctime,
                truncate_generation: *truncate_generation,
            };
            sizes::report(tx, request, openers, &record).map(CoreResult::Attr)
        }
        Op::Release { inode, .. } | Op::GrantChunk { inode, .. } | Op::BreakChunk { inode, .. } => {
            Ok(CoreResult::Deferred { inode: Some(inode_of(*inode)?) })
        }
        Op::ReturnChunks { .. } | Op::AwaitCopies { .. } | Op::ReportDamage { .. } => {
            Ok(CoreResult::Deferred { inode: None })
        }
        reading => queries::answer(tx, request.caller, reading, inode_of),
    }
}

fn set_time(set: SetTime, request: Request<'_>) -> gfs_proto::time::Timestamp {
    match set {
        SetTime::Now => request.now,
        SetTime::At(time) => time,
    }
}

fn resolve(reference: InodeRef, before: &[Result<CoreResult, FsError>]) -> Result<InodeId, FsError> {
    match reference {
        InodeRef::Id(inode) => Ok(inode),
        InodeRef::ResultOf(number) => {
            let result = before.get(usize::from(number)).and_then(|result| result.as_ref().ok());
            result.and_then(CoreResult::inode).ok_or(FsError::Protocol)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::outcome::Outcome;
    use crate::tests::{CHUNK, Fixture, ROOT, make, name, open_spec, servers, set_mode};
    use gfs_proto::attr::SetAttr;
    use gfs_proto::caller::Caller;
    use gfs_proto::ids::{DirCookie, OpenId, SessionId};
    use gfs_proto::ops::{Access, Make, MakeKind};

    const SESSION: SessionId = SessionId::new(7);

    fn open(fixture: &mut Fixture) {
        let action = Action::OpenSession { session: SESSION, secret: [1; 16], name: "n".into() };
        fixture.one(action.clone()).expect("a new id");
        assert_eq!(fixture.one(action), Err(FsError::Exists));
    }

    fn send(fixture: &mut Fixture, sequence: u64, acknowledged: u64, ops: Vec<StampedOp>) -> Outcome {
        let batch = CoreBatch {
            session: SESSION,
            sequence: Sequence::new(sequence),
            acknowledged: Sequence::new(acknowledged),
            ..crate::tests::batch(&Caller::root(), ops)
        };
        fixture.apply(Action::Batch(batch))
    }

    fn make_file(text: &str) -> StampedOp {
        Op::Make(make(ROOT, text, MakeKind::File, 0o644)).into()
    }

    #[test]
    fn a_retry_gets_the_first_answer() {
        let mut fixture = Fixture::new();
        open(&mut fixture);
        let first = send(&mut fixture, 1, 0, vec![make_file("a")]);
        assert!(!first.replayed && first.results[0].is_ok());
        let refused = send(&mut fixture, 2, 0, vec![make_file("a")]);
        assert_eq!(refused.results, [Err(FsError::Exists)]);
        for sequence in [1, 2] {
            let again = send(&mut fixture, sequence, 0, vec![make_file("a")]);
            assert!(again.replayed);
            assert_eq!(again.results, if sequence == 1 { first.results.clone() } else { refused.results.clone() });
        }
        assert_eq!(fixture.store.view().stats().files, 1);
    }

    #[test]
    fn acknowledged_outcomes_are_forgotten_and_never_applied_again() {
        let mut fixture = Fixture::new();
        open(&mut fixture);
        for sequence in 1..=20 {
            send(&mut fixture, sequence, sequence.saturating_sub(1), vec![make_file(&sequence.to_string())]);
        }
        let late = send(&mut fixture, 5, 0, vec![make_file("late")]);
        assert_eq!((late.replayed, late.results), (false, vec![Err(FsError::Protocol)]));
        assert_eq!(fixture.store.view().stats().files, 20);
        let rows = |f: &Fixture| Read::page(&f.store.view(), Table::Replies, &[], 99, |_, _| Some(())).map(|r| r.len());
        assert_eq!(rows(&fixture), Ok(3), "two outcomes and the floor");
        fixture.one(Action::EndSession { session: SESSION }).expect("it lives");
        assert_eq!(rows(&fixture), Ok(0));
        let expired = send(&mut fixture, 21, 20, vec![make_file("x")]);
        assert_eq!(expired.results, [Err(FsError::SessionExpired)]);
    }

    #[test]
    fn a_batch_stops_at_the_first_failure() {
        let mut fixture = Fixture::new();
        let ops = vec![make_file("a"), make_file("b"), make_file("a"), make_file("c")];
        let results = fixture.batch(&Caller::root(), ops);
        assert_eq!(
            results.iter().map(|r| r.as_ref().err().copied()).collect::<Vec<_>>(),
            [None, None, Some(FsError::Exists)]
        );
        assert_eq!(fixture.store.view().stats().files, 2);
    }

    #[test]
    fn operations_refer_to_earlier_results_and_read_their_effects() {
        let mut fixture = Fixture::new();
        let made = InodeRef::ResultOf(0);
        let inner = Make { parent: made, ..make(ROOT, "f", MakeKind::File, 0o644) };
        let file = InodeRef::ResultOf(1);
        let changes = SetAttr { size: Some(5), ..SetAttr::default() };
        let list = Op::ReadDir { inode: made, after: DirCookie::new(0), bytes_max: 4096, with_attributes: true };
        let results = fixture.batch(
            &Caller::root(),
            vec![
                Op::Make(make(ROOT, "d", MakeKind::Directory, 0o755)).into(),
                Op::Make(inner).into(),
                Op::SetAttr { inode: file, changes }.into(),
                list.into(),
                Op::Open { inode: file, spec: open_spec(Access::Write, true) }.into(),
                Op::Release { inode: file, open: OpenId::new(1) }.into(),
                Op::Lookup { parent: InodeRef::ResultOf(3), name: name("f") }.into(),
            ],
        );
        let inode = results[1].as_ref().ok().and_then(CoreResult::inode).expect("made");
        let Ok(CoreResult::Page(page)) = &results[3] else { panic!("{results:?}") };
        assert_eq!(page.entries[0].attr.as_ref().map(|attr| (attr.inode, attr.size)), Some((inode, 5)));
        assert!(matches!(&results[4], Ok(CoreResult::Opened(attr)) if attr.size == 0));
        assert_eq!(results[5], Ok(CoreResult::Deferred { inode: Some(inode) }));
        assert_eq!(results[6], Err(FsError::Protocol), "a page is no inode");
    }

    #[test]
    fn preconditions_guard_the_whole_batch() {
        let mut fixture = Fixture::new();
        let version = fixture.store.view().dir_version(ROOT).expect("the root");
        let guarded = |inode, version| CoreBatch {
            precondition: Some(Precondition { inode, version }),
            ..crate::tests::batch(&Caller::root(), vec![make_file("a")])
        };
        let refused = [Err(FsError::Precondition)];
        assert_eq!(fixture.apply(Action::Batch(guarded(ROOT, version + 1))).results, refused);
        assert_eq!(fixture.apply(Action::Batch(guarded(InodeId::new(99), 1))).results, refused);
        assert!(fixture.apply(Action::Batch(guarded(ROOT, version))).results[0].is_ok());
        assert_eq!(fixture.apply(Action::Batch(guarded(ROOT, version))).results, refused);
    }

    #[test]
    fn every_kind_of_result_is_kept() {
        let mut fixture = Fixture::new();
        open(&mut fixture);
        let file = fixture.file_of("f", &[0, 1], CHUNK + 5);
        fixture.root(crate::tests::set_size(file, CHUNK + 1)).expect("root may");
        fixture.make(&Caller::root(), make(ROOT, "l", MakeKind::Symlink(b"t".to_vec()), 0o777)).expect("root may");
        let link = fixture.lookup(ROOT, "l").expect("just made").inode;
        fixture.dir(ROOT, "d");
        let inode = InodeRef::Id(file);
        let parent = InodeRef::Id(ROOT);
        let attribute = b"user.a".to_vec();
        let mode = gfs_proto::ops::XattrMode::Either;
        let rename = gfs_proto::ops::RenameMode::Replace;
        let first = Make { first_chunk: true, ..make(ROOT, "g", MakeKind::File, 0o600) };
        let ops = vec![
            Op::StatFs.into(),
            StampedOp { placement: servers(&[1]), ..Op::Make(first).into() },
            Op::ReadChunks { inode, first: Default::default(), count: 9 }.into(),
            Op::SetXattr { inode, name: attribute.clone(), value: vec![0; 9], mode }.into(),
            Op::GetXattr { inode, name: attribute.clone() }.into(),
            Op::ListXattr { inode }.into(),
            Op::ReadLink { inode: link.into() }.into(),
            Op::ReadDir { inode: parent, after: DirCookie::new(0), bytes_max: 9999, with_attributes: true }.into(),
            Op::Open { inode, spec: open_spec(Access::Read, false) }.into(),
            Op::ReturnChunks { chunks: vec![] }.into(),
            set_mode(file, 0o600).into(),
            Op::Rename {
                from_parent: parent,
                from_name: name("g"),
                to_parent: parent,
                to_name: name("f"),
                mode: rename,
            }
            .into(),
            Op::Unlink { parent, name: name("f") }.into(),
            Op::Rmdir { parent, name: name("d") }.into(),
            Op::Unlink { parent, name: name("none") }.into(),
        ];
        let first = send(&mut fixture, 1, 0, ops.clone());
        assert_eq!(first.results.len(), ops.len(), "{:?}", first.results.last());
        let again = send(&mut fixture, 1, 0, ops);
        assert!(again.replayed);
        assert_eq!(again.results, first.results);
    }
}
