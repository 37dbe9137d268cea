//! The layers under the state: merging changes nothing that can be seen, a restart loses nothing that was
//! logged, replay gives the same state.

use super::steps::{Step, Stepper, steps};
use super::{Fixture, database, genesis, name};
use crate::command::{Action, Command, Stamp};
use crate::outcome::Outcome;
use crate::store::{Store, StoreError};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{LogIndex, Term};
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

fn apply(store: &Store, index: usize, command: &Command) -> Outcome {
    store.apply(LogIndex::new(index as u64 + 1), Term::new(1), command).expect("memory does not fail")
}

/// A history that was applied without any merge.
struct History {
    log: Vec<Command>,
    outcomes: Vec<Outcome>,
    digest: u128,
}

impl History {
    fn of(steps: &[Step]) -> Self {
        let store = Store::format(database(), &genesis()).expect("an empty database");
        let mut stepper = Stepper::default();
        let mut log = stepper.preamble();
        let mut outcomes: Vec<_> = log.iter().enumerate().map(|(i, command)| apply(&store, i, command)).collect();
        for step in steps {
            let command = stepper.command(step);
            outcomes.push(apply(&store, log.len(), &command));
            stepper.learn(&outcomes[log.len()]);
            log.push(command);
        }
        Self { log, outcomes, digest: store.digest().expect("readable") }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_in_between_changes_nothing(steps in steps(60), merges in prop::collection::vec(0u8..5, 64)) {
        let history = History::of(&steps);
        let store = Store::format(database(), &genesis()).expect("an empty database");
        for (index, (command, merge)) in history.log.iter().zip(merges).enumerate() {
            prop_assert_eq!(&apply(&store, index, command), &history.outcomes[index]);
            if merge == 1 {
                store.freeze();
            }
            if merge == 2 {
                store.merge().expect("memory does not fail");
            }
        }
        prop_assert_eq!(store.digest().expect("readable"), history.digest);
        while store.freeze() || store.merge().expect("memory does not fail") != store.applied() {}
        prop_assert_eq!(store.delta_bytes(), 0);
        prop_assert_eq!(store.digest().expect("readable"), history.digest);
        prop_assert_eq!(store.check().expect("readable"), []);
    }

    #[test]
    fn replay_of_the_encoded_log_gives_the_same_state(steps in steps(40)) {
        let history = History::of(&steps);
        let store = Store::format(database(), &genesis()).expect("an empty database");
        for (index, command) in history.log.iter().enumerate() {
            apply(&store, index, &Command::decode(&command.encode()).expect("what was encoded"));
        }
        prop_assert_eq!(store.digest().expect("readable"), history.digest);
    }

    #[test]
    fn a_restart_replays_the_tail(steps in steps(40), freeze_at in 0usize..40) {
        let history = History::of(&steps);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("meta.redb");
        let store = Store::format(redb::Database::create(&file).expect("a new file"), &genesis()).expect("empty");
        for (index, command) in history.log.iter().enumerate() {
            apply(&store, index, command);
            if index == freeze_at {
                store.freeze();
                store.merge().expect("the disk works");
            }
        }
        drop(store);
        let store = Store::open(redb::Database::open(&file).expect("the file")).expect("it was formatted");
        let durable = store.applied().index.get() as usize;
        prop_assert_eq!(durable, if freeze_at < history.log.len() { freeze_at + 1 } else { 0 });
        for (index, command) in history.log.iter().enumerate().skip(durable) {
            apply(&store, index, command);
        }
        prop_assert_eq!(store.digest().expect("readable"), history.digest);
    }
}

#[test]
fn views_are_consistent_while_others_merge() {
    let mut fixture = Fixture::new();
    let dir = fixture.dir(super::ROOT, "d");
    std::thread::scope(|scope| {
        let store = &fixture.store;
        let reader = scope.spawn(move || {
            loop {
                let view = store.view();
                let page = view.read_dir(&Caller::root(), dir, Default::default(), u32::MAX, true).expect("readable");
                assert_eq!(page.entries.len() as u64, view.attr(dir).expect("it exists").size);
                if page.entries.len() == 200 {
                    return;
                }
            }
        });
        let merger = scope.spawn(move || {
            while store.view().attr(dir).expect("it exists").size < 200 {
                store.freeze();
                store.merge().expect("memory does not fail");
            }
        });
        for number in 0..200u64 {
            let make = super::make(dir, &number.to_string(), gfs_proto::ops::MakeKind::File, 0o644);
            let ops = vec![gfs_proto::ops::Op::Make(make).into()];
            let action = Action::Batch(super::batch(&Caller::root(), ops));
            let next = store.applied().index.next();
            let command = Command { stamp: Default::default(), action };
            store.apply(next, Term::new(1), &command).expect("memory does not fail");
        }
        reader.join().expect("the reader saw consistent states");
        merger.join().expect("merging works");
    });
}

#[test]
fn what_was_removed_stays_removed_in_every_layer() {
    for (freeze, merge) in [(false, false), (true, false), (true, true)] {
        let mut fixture = Fixture::new();
        let file = fixture.file_of("f", &[0], 5);
        fixture.store.freeze();
        fixture.store.merge().expect("memory does not fail");
        fixture.root(super::unlink(super::ROOT, "f", file, &[])).expect("root may");
        if freeze {
            assert!(fixture.store.freeze());
        }
        if merge {
            fixture.store.merge().expect("memory does not fail");
        }
        assert_eq!(fixture.lookup(super::ROOT, "f"), Err(gfs_proto::FsError::NotFound));
        assert_eq!(fixture.store.view().attr(file), Err(gfs_proto::FsError::Stale));
        assert_ne!(fixture.file(super::ROOT, "f"), file);
    }
}

#[test]
fn formatting_and_opening_know_what_they_find() {
    let store = Store::format(database(), &genesis()).expect("an empty database");
    assert_eq!(*store.genesis(), genesis());
    assert!(matches!(Store::open(database()), Err(StoreError::NotFormatted)));

    let foreign = database();
    let transaction = foreign.begin_write().expect("memory does not fail");
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("something");
    transaction.open_table(table).expect("memory").insert(1, 1).expect("memory");
    transaction.commit().expect("memory does not fail");
    assert!(matches!(Store::format(foreign, &genesis()), Err(StoreError::NotEmpty)));
}

#[test]
fn a_table_of_a_later_version_is_empty_at_first() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("meta.redb");
    drop(Store::format(redb::Database::create(&file).expect("a new file"), &genesis()).expect("empty"));
    let db = redb::Database::open(&file).expect("the file");
    let transaction = db.begin_write().expect("the disk works");
    assert!(transaction.delete_table(crate::state::table::Table::Unwritten.definition()).expect("the disk works"));
    transaction.commit().expect("the disk works");
    let store = Store::open(db).expect("sound");
    assert_eq!(store.view().unwritten(), Ok(vec![]));
    assert_eq!(store.check().expect("readable"), []);
}

#[test]
fn a_newer_format_is_refused() {
    let backend = InMemoryBackend::new();
    let db = redb::Database::builder().create_with_backend(backend).expect("memory does not fail");
    let transaction = db.begin_write().expect("memory does not fail");
    {
        let mut meta = transaction.open_table(crate::state::table::META).expect("memory");
        meta.insert("format", &9u32.to_be_bytes()[..]).expect("memory");
    }
    transaction.commit().expect("memory does not fail");
    assert!(matches!(Store::open(db), Err(StoreError::Format { found: 9, known: 1 })));
}

#[test]
fn a_damaged_record_is_an_error_and_final() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("meta.redb");
    drop(Store::format(redb::Database::create(&file).expect("a new file"), &genesis()).expect("empty"));
    let db = redb::Database::open(&file).expect("the file");
    let transaction = db.begin_write().expect("the disk works");
    {
        let mut inodes = transaction.open_table(crate::state::table::Table::Inodes.definition()).expect("a table");
        inodes.insert(&1u64.to_be_bytes()[..], &b"\x01\x07"[..]).expect("the disk works");
    }
    transaction.commit().expect("the disk works");
    let store = Store::open(db).expect("its meta table is sound");
    let view = store.view();
    assert_eq!(view.lookup(&Caller::root(), super::ROOT, &name("a")), Err(gfs_proto::FsError::Io));
    assert!(matches!(view.fault(), Some(StoreError::Corrupt { table: "inodes", .. })));
    drop(view);
    let make = super::make(super::ROOT, "a", gfs_proto::ops::MakeKind::File, 0o644);
    let action = Action::Batch(super::batch(&Caller::root(), vec![gfs_proto::ops::Op::Make(make).into()]));
    let command = Command { stamp: Default::default(), action };
    let apply = |index| store.apply(LogIndex::new(index), Term::new(1), &command);
    assert!(matches!(apply(1), Err(StoreError::Corrupt { .. })));
    assert!(matches!(apply(2), Err(StoreError::Failed)));
}

#[test]
fn a_small_file_costs_little_on_disk() {
    const FILES: u64 = 10_000;
    let store = Store::format(database(), &genesis()).expect("an empty database");
    let empty = store.bytes_on_disk();
    for number in 0..FILES {
        let now = gfs_proto::time::Timestamp::from_nanos(i128::from(number) * 1_234_567 + (1_800_000_000 << 30));
        let make = gfs_proto::ops::Make {
            first_chunk: true,
            ..super::make(super::ROOT, &format!("file-{number:08}.txt"), gfs_proto::ops::MakeKind::File, 0o644)
        };
        let caller = Caller { uid: 1000, gid: 1000, groups: vec![1000] };
        let placement = super::servers(&[1, 2, 3]);
        let op = crate::StampedOp { placement, ..gfs_proto::ops::Op::Make(make).into() };
        let caller = if number == 0 { Caller::root() } else { caller };
        let mut ops = vec![op];
        if number == 0 {
            ops.insert(0, super::set_mode(super::ROOT, 0o777).into());
        }
        let command = Command { stamp: Stamp { now }, action: Action::Batch(super::batch(&caller, ops)) };
        assert!(apply(&store, number as usize, &command).results.iter().all(Result::is_ok));
        if number % 1000 == 999 {
            assert!(store.freeze());
            store.merge().expect("memory does not fail");
        }
    }
    let bytes = (store.bytes_on_disk() - empty) / FILES;
    assert!(bytes <= 400, "{bytes} bytes per file");
}
