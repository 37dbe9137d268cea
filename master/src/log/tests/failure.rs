//! A failed flush, a full disk, a stopped log.

use std::os::unix::process::ExitStatusExt;

use super::super::store::FAILED_FLAG;
use super::*;
use crate::log::disk::Disk;

async fn acknowledged(log: &TestLog, count: usize) -> Vec<Vec<u8>> {
    for number in 0..count {
        log.propose(command(number, 700)).await.expect("proposed");
    }
    (0..count).map(|number| command(number, 700)).collect()
}

/// INTERLEAVINGS-style case: the page cache shows a record that the device never got.
#[tokio::test]
async fn after_a_failed_flush_only_the_device_is_believed() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    let commands = acknowledged(&log, 4).await;
    disk.fail_syncs(true);
    assert!(matches!(log.propose(command(9, 700)).await, Err(LogError::Failed(_))));
    disk.fail_syncs(false);
    assert!(matches!(log.propose(command(9, 700)).await, Err(LogError::Failed(_))), "and stays failed");
    log.stop();
    // The process starts again, the machine did not: the page cache is as it was.
    let (log, machine) = open(&disk);
    assert_eq!(machine.commands(), commands);
    log.propose(command(5, 700)).await.expect("proposed");
    log.stop();
    let expected = [&commands[..], &[command(5, 700)]].concat();
    assert_eq!(open(&disk.power_loss(|| false)).1.commands(), expected, "what the second run said holds");
}

#[tokio::test]
async fn the_flag_demands_reads_past_the_page_cache() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    let commands = acknowledged(&log, 2).await;
    log.stop();
    disk.forbid_uncached();
    assert_eq!(open(&disk).1.commands(), commands, "without the flag the page cache will do");
    disk.create(FAILED_FLAG, 1).expect("works");
    let fault = open_at(&disk, Position::default()).err();
    assert!(
        matches!(&fault, Some(LogError::Unusable(fault)) if matches!(**fault, LogFault::Uncached { .. })),
        "{fault:?}"
    );
}

#[tokio::test]
async fn the_flag_is_set_by_a_failure_and_cleared_by_a_good_start() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    // The flag's own flush fails as well: its name is there all the same.
    disk.fail_syncs(true);
    assert!(log.propose(command(0, 40)).await.is_err());
    log.stop();
    disk.fail_syncs(false);
    assert!(disk.list().expect("works").iter().any(|name| name == FAILED_FLAG));
    drop(open(&disk));
    assert!(!disk.list().expect("works").iter().any(|name| name == FAILED_FLAG));
}

const CHILD: &str = "GFS_TEST_LOG_ABORTS";

/// Runs itself again as a process whose log cannot flush.
#[test]
fn a_failed_flush_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let disk = MemDisk::default();
        let machine = Arc::new(Recorder::default());
        let log =
            ReplicatedLog::open_on(Arc::new(disk.clone()), &config(), Position::default(), machine, OnFailure::Abort);
        disk.fail_syncs(true);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _ = runtime.block_on(log.expect("opens").propose(command(0, 40)));
        // Not reached; a status of its own, so that the test can tell.
        std::process::exit(77);
    }
    let program = std::env::current_exe().expect("known");
    let test = "log::tests::failure::a_failed_flush_ends_the_process";
    let child = std::process::Command::new(program).args([test, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let status = child.expect("the child ran").status;
    assert_eq!(status.signal(), Some(6), "aborted: {status}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let disk = MemDisk::default();
    let (log, machine) = open(&disk);
    disk.fill(true);
    let mut accepted = Vec::new();
    let refusal = loop {
        let payload = command(accepted.len(), 700);
        match log.propose(payload.clone()).await {
            Ok(_) => accepted.push(payload),
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, LogError::NoSpace), "{refusal}");
    assert!(accepted.len() > 5);
    disk.fill(false);
    log.propose(command(99, 700)).await.expect("there is room again");
    accepted.push(command(99, 700));
    assert_eq!(machine.commands(), accepted);
    log.stop();
    assert_eq!(open(&disk).1.commands(), accepted);
}

#[tokio::test]
async fn absurd_sizes_and_a_stopped_log_are_refused() {
    let disk = MemDisk::default();
    let (log, _) = open(&disk);
    let huge = gfs_proto::limits::MESSAGE_BYTES_MAX + 1;
    assert!(matches!(log.propose(vec![1; huge]).await, Err(LogError::TooLarge { bytes, .. }) if bytes == huge));
    log.stop();
    log.stop();
    assert!(matches!(log.propose(vec![1]).await, Err(LogError::Stopped)));
}

#[test]
fn settings_out_of_range_are_named() {
    let good = config();
    let one = super::super::MemberId::new(1);
    for (bad, word) in [
        (LogConfig { segment_bytes: 4096, ..good.clone() }, "segment size"),
        (LogConfig { segment_bytes: 1 << 40, ..good.clone() }, "segment size"),
        (LogConfig { voters: vec![], ..good.clone() }, "not among"),
        (LogConfig { voters: vec![one, one], ..good.clone() }, "twice"),
        (LogConfig { member: super::super::MemberId::new(0), ..good.clone() }, "begin at 1"),
        (LogConfig { tick: std::time::Duration::ZERO, ..good.clone() }, "tick"),
    ] {
        let error = bad.check().expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
    good.check().expect("the default is fine");
}
