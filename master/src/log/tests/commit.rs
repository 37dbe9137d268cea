//! Group commit: order, one flush for many, no thread that waits for nothing; and the real disk.

use std::collections::BTreeMap;

use super::*;
use crate::log::{LogStatus, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_proposers_keep_their_order() {
    const PROPOSERS: usize = 32;
    const EACH: usize = 60;
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    let log = Arc::new(log);
    let proposer = |who: usize, log: Arc<TestLog>| async move {
        let mut last = 0;
        for number in 0..EACH {
            let payload = format!("{who} {number}").into_bytes();
            let (index, output) = log.propose(payload.clone()).await.expect("proposed");
            assert_eq!(output, payload, "each gets the answer to its own command");
            assert!(index.get() > last);
            last = index.get();
        }
    };
    let tasks: Vec<_> = (0..PROPOSERS).map(|who| tokio::spawn(proposer(who, log.clone()))).collect();
    for task in tasks {
        task.await.expect("no proposer failed");
    }
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for command in machine.commands() {
        let text = String::from_utf8(command).expect("text");
        let (who, number) = text.split_once(' ').expect("two numbers");
        let expected = next.entry(who.to_owned()).or_default();
        assert_eq!(number, expected.to_string(), "proposer {who}");
        *expected += 1;
    }
    assert!(next.len() == PROPOSERS && next.values().all(|&count| count == EACH));
    log.stop();
    assert_eq!(open(&disk).1.commands(), machine.commands());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_queues_during_a_flush_shares_the_next_one() {
    let disk = MemDisk::default();
    // One that holds it all, so that no flush is for a new segment.
    let config = LogConfig { segment_bytes: 1 << 20, ..config() };
    let (shared, machine) = (Arc::new(disk.clone()), Arc::new(Recorder::default()));
    let log = ReplicatedLog::open_on(shared, &config, Position::default(), machine, OnFailure::Refuse).expect("opens");
    let (log, before) = (Arc::new(log), disk.syncs_begun());
    disk.hold_syncs(true);
    let propose = |number: usize| {
        let log = log.clone();
        tokio::spawn(async move { log.propose(command(number, 40)).await.map(drop) })
    };
    let mut tasks = vec![propose(0)];
    eventually(|| disk.syncs_begun() > before).await;
    tasks.extend((1..=1500).map(propose));
    eventually(|| log.queued() == 1500).await;
    disk.hold_syncs(false);
    for task in tasks {
        task.await.expect("no panic").expect("proposed");
    }
    assert_eq!(disk.syncs_begun() - before, 3, "one for the first, two for the others, 1024 at most at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposer_that_goes_away_holds_nobody_up() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    let (log, begun) = (Arc::new(log), disk.syncs_begun());
    disk.hold_syncs(true);
    let first = {
        let log = log.clone();
        tokio::spawn(async move { log.propose(command(0, 40)).await.map(drop) })
    };
    eventually(|| disk.syncs_begun() > begun).await;
    let gone = {
        let log = log.clone();
        tokio::spawn(async move { log.propose(command(1, 40)).await.map(drop) })
    };
    eventually(|| log.queued() == 1).await;
    gone.abort();
    assert!(gone.await.expect_err("aborted").is_cancelled());
    disk.hold_syncs(false);
    first.await.expect("no panic").expect("proposed");
    log.propose(command(2, 40)).await.expect("proposed");
    assert_eq!(machine.commands(), [command(0, 40), command(1, 40), command(2, 40)]);
}

#[tokio::test]
async fn one_proposer_costs_one_flush() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    let before = disk.syncs_begun();
    for number in 0..10 {
        log.propose(command(number, 40)).await.expect("proposed");
    }
    assert_eq!(disk.syncs_begun() - before, 10);
}

#[tokio::test]
async fn a_leaders_first_act_is_an_entry_of_its_own() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    assert_eq!(machine.applied.lock().as_slice(), [(Position::new(1, 1), Vec::new())]);
    log.stop();
    assert_eq!(log.status().role, Role::Stopped);
    let (log, machine) = open(&disk);
    assert_eq!(machine.position(), Position::new(2, 2), "each run has its own term");
    let LogStatus { role, term, last, committed, applied, .. } = log.status();
    assert_eq!((role, term.get(), last.get(), committed.get(), applied.get()), (Role::Leader, 2, 2, 2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = LogConfig { directory: directory.path().join("log"), ..config() };
    let open = || {
        let machine = Arc::new(Recorder::default());
        ReplicatedLog::open(&config, Position::default(), machine.clone()).map(|log| (log, machine))
    };
    let (log, machine) = open().expect("made");
    for number in 0..50 {
        log.propose(command(number, 700)).await.expect("proposed");
    }
    let refusal = open().err().expect("locked").to_string();
    assert!(refusal.contains("cannot open the directory"), "{refusal}");
    drop(log);
    let (log, replayed) = open().expect("opens again");
    assert_eq!(replayed.commands(), machine.commands());
    assert!(log.status().segments > 2);
    log.checkpointed(log.status().applied);
    assert_eq!(std::fs::read_dir(&config.directory).expect("there").count(), log.status().segments);
}
