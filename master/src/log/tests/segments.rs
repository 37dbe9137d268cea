//! Life of segments: roll-over, checkpoints, the start-up checks against the state, reset, the bytes
//! of the first format.

use raft::eraftpb::{Entry, HardState};

use super::super::disk::Disk;
use super::super::segment;
use super::super::store::SegmentedLog;
use super::*;

async fn propose(log: &TestLog, numbers: std::ops::Range<usize>, bytes: usize) {
    for number in numbers {
        let (_, output) = log.propose(command(number, bytes)).await.expect("proposed");
        assert_eq!(output, command(number, bytes));
    }
}

fn commands(numbers: std::ops::Range<usize>, bytes: usize) -> Vec<Vec<u8>> {
    numbers.map(|number| command(number, bytes)).collect()
}

fn segment_files(disk: &MemDisk) -> usize {
    disk.list().expect("works").iter().filter(|name| segment::number(name).is_some()).count()
}

#[tokio::test]
async fn commands_roll_over_segments_and_come_back() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    propose(&log, 0..100, 600).await;
    assert!(log.status().segments > 5, "{:?}", log.status());
    log.stop();
    let (log, replayed) = open(&disk);
    assert_eq!(replayed.commands(), machine.commands());
    assert_eq!(log.status().applied, log.status().last);
}

#[tokio::test]
async fn a_command_larger_than_a_segment_gets_a_larger_one() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    propose(&log, 0..3, 100_000).await;
    log.stop();
    assert_eq!(open(&disk).1.commands(), commands(0..3, 100_000));
}

#[tokio::test]
async fn a_checkpoint_drops_segments_and_nothing_that_is_needed() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    propose(&log, 0..100, 600).await;
    let at = machine.applied.lock()[60].0;
    let before = log.status().segments;
    log.checkpointed(at.index);
    let status = log.status();
    assert!(status.segments < before && status.segments == segment_files(&disk), "{status:?}");
    assert!(status.first.get() > 1 && status.first.get() <= at.index.get() + 1, "{status:?}");
    propose(&log, 100..110, 600).await;
    log.stop();
    let (log, replayed) = open_at(&disk, at).expect("state and log fit");
    let expected = machine.commands().len() - replayed.commands().len();
    assert_eq!(replayed.commands(), machine.commands()[expected..]);
    assert_eq!(replayed.applied.lock()[0].0.index, at.index.next());
    // An older state lacks what was dropped.
    log.stop();
    let fault = open_at(&disk, Position::default()).err();
    assert!(matches!(&fault, Some(LogError::Unusable(fault)) if matches!(**fault, LogFault::Gap { .. })), "{fault:?}");
}

#[tokio::test]
async fn restarts_leave_no_empty_segments_behind() {
    let disk = MemDisk::default();
    for _ in 0..5 {
        let log = recovery::open(Arc::new(disk.clone()), &config(), Position::default()).expect("opens");
        assert_eq!((log.segments.len(), segment_files(&disk)), (1, 1));
    }
}

#[tokio::test]
async fn a_state_ahead_of_the_log_resets_it() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    propose(&log, 0..40, 600).await;
    log.stop();
    let ahead = Position::new(1000, 7);
    let (log, machine) = open_at(&disk, ahead).expect("reset");
    assert_eq!(machine.commands(), Vec::<Vec<u8>>::new(), "nothing old is applied to a newer state");
    assert_eq!(log.status().first.get(), 1001);
    assert_eq!(log.propose(command(1, 50)).await.expect("proposed").0.get(), 1002, "behind the leader's first");
    assert!(log.status().term > ahead.term);
    log.stop();
    assert_eq!(open_at(&disk, ahead).expect("again").1.commands(), [command(1, 50)]);
    assert!(open_at(&disk, Position::new(10, 1)).is_err(), "the old log is gone");
}

#[tokio::test]
async fn a_missing_log_is_made_only_for_a_restored_state() {
    let at = Position::new(50, 2);
    let fault = open_at(&MemDisk::default(), at).err();
    assert!(matches!(&fault, Some(LogError::Unusable(fault)) if matches!(**fault, LogFault::LogMissing { .. })));
    let restored = LogConfig { restored: true, ..config() };
    let disk = Arc::new(MemDisk::default());
    let log = ReplicatedLog::open_on(disk.clone(), &restored, at, Arc::new(Recorder::default()), OnFailure::Refuse);
    assert_eq!(log.expect("made").propose(command(0, 9)).await.expect("proposed").0.get(), 52);
    assert_eq!(open_at(&disk, at).expect("an ordinary start").1.commands(), [command(0, 9)]);
}

#[tokio::test]
async fn a_state_with_another_history_is_refused() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    propose(&log, 0..4, 60).await;
    log.stop();
    let at = machine.position();
    let fault = open_at(&disk, Position::new(at.index.get(), at.term.get() + 1)).err();
    assert!(
        matches!(&fault, Some(LogError::Unusable(fault)) if matches!(**fault, LogFault::Diverged { .. })),
        "{fault:?}"
    );
}

/// More than is kept in memory, so that replay reads segments.
#[tokio::test]
async fn a_long_log_is_replayed_from_its_segments() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    propose(&log, 0..40, 300_000).await;
    log.stop();
    assert!(open(&disk).1.commands() == commands(0..40, 300_000));
}

fn append(log: &mut SegmentedLog<MemDisk>, term: u64, indexes: std::ops::Range<u64>) {
    let entry =
        |index| Entry { term, index, data: command((term * 100 + index) as usize, 40).into(), ..Default::default() };
    let state = HardState { term, vote: 1, ..Default::default() };
    log.append(indexes.map(entry).collect(), Some(state)).expect("the disk works");
}

/// A follower's log: a new leader's entries replace some that were never committed.
#[test]
fn replaced_entries_stay_replaced() {
    let disk = MemDisk::default();
    let mut log = recovery::open(Arc::new(disk.clone()), &config(), Position::default()).expect("opens");
    append(&mut log, 1, 1..6);
    append(&mut log, 2, 4..9);
    append(&mut log, 3, 8..10);
    let expected: Vec<_> = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6), (2, 7), (3, 8), (3, 9)]
        .map(|(term, index)| (index, command((term * 100 + index) as usize, 40)))
        .to_vec();
    let read = log.entries(1, 10, None, GetEntriesContext::empty(false)).expect("in memory");
    assert!(read.iter().map(|entry| (entry.index, entry.data.to_vec())).eq(expected.iter().cloned()));
    log.contents.recent.clear();
    let read = log.entries(1, 10, None, GetEntriesContext::empty(false)).expect("on disk");
    assert!(read.iter().map(|entry| (entry.index, entry.data.to_vec())).eq(expected.iter().cloned()));
    assert_eq!((1..10).map(|index| log.term(index).expect("known")).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2, 2, 3, 3]);
    assert_eq!(log.drop_through(4).len(), 1, "the first segment's last entry that counts is 3");
    assert_eq!((log.first_index().expect("known"), log.term(3).expect("the base's")), (4, 1));
    drop(log);
    let state =
        recovery::open(Arc::new(disk.clone()), &config(), Position::new(9, 3)).expect("opens").contents.hard_state;
    assert_eq!((state.term, state.vote, state.commit), (3, 1, 9));
    assert_eq!(recover(&disk).expect("opens"), expected);
}

/// Bytes that the first format had, so that a change of it cannot go unnoticed.
#[test]
fn the_first_format_is_what_it_was() {
    let disk = MemDisk::default();
    let mut log = recovery::open(Arc::new(disk.clone()), &config(), Position::default()).expect("opens");
    let entry = Entry { term: 2, index: 1, data: b"mkdir".to_vec().into(), ..Default::default() };
    log.append(vec![entry], Some(HardState { term: 2, vote: 1, ..Default::default() })).expect("the disk works");
    let bytes = disk.bytes("0000000000000001.log");
    let hex = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(0..72), HEADER);
    assert_eq!(hex(4096..4096 + FRAMES.len() / 2), FRAMES);
    assert!(bytes[4096 + FRAMES.len() / 2..].iter().all(|&byte| byte == 0));
}

/// Magic, format 1, 4096 bytes of header; cluster; member 1, segment 1, behind nothing.
const HEADER: &str = "4746534c4f470d0a0100000000100000\
                      03030303030303030303030303030303\
                      01000000000000000100000000000000000000000000000000000000000000000000000000000000";
/// A frame with a vote and the members (voter 1), then one with a vote (term 2, for 1) and an entry.
const FRAMES: &str = "474652318a986aad49000000020000000000000000000000\
                      080000001000000000000000000000000000000000000000\
                      0000000000000000\
                      110000001100000000000000000000000000000000000000\
                      0100010000000000000000000000000000\
                      00000000000000\
                      e5474653454e44e5\
                      47465231655b82e63d000000020000000000000000000000\
                      080000001000000002000000000000000000000000000000\
                      0100000000000000\
                      050000000100000002000000000000000100000000000000\
                      6d6b646972\
                      000000\
                      e5474653454e44e5";
