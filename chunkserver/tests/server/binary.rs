//! The program itself: exit statuses, messages, signals; time and memory with many chunks.

use crate::harness::{CLUSTER, DEADLINE, Master, Server};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, Term};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfs-chunkserver"));
    command.args(arguments).env_remove("GFS_MASTER").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn started(master: &Master, directory: &Path) -> Child {
    let (store, socket) = (directory.join("store"), directory.join("data.sock"));
    let master = master.address.to_string();
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let arguments = ["--directory", &path(&store), "--socket", &path(&socket), "--master", &master, "--log", "warn"];
    program(&arguments).args(["--reserve-mib", "1", "--watermark-mib", "1"]).spawn().expect("started")
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
}

/// Waits for its end; after the deadline it is told to, and has status 0.
async fn ended_by_itself(child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    let mut end = tokio::task::spawn_blocking(|| child.wait_with_output());
    if let Ok(output) = tokio::time::timeout(DEADLINE, &mut end).await {
        return output.expect("waited").expect("ended");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    end.await.expect("waited").expect("ended")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_has_status_2_and_a_failure_1() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let file = file.to_str().expect("UTF-8");
    let store = directory.path().join("store");
    let store = store.to_str().expect("UTF-8");
    let foreign = directory.path().to_str().expect("UTF-8");
    let socket = directory.path().join("s");
    let socket = socket.to_str().expect("UTF-8");
    let table: [(&[&str], i32, &str); 6] = [
        (&[], 2, "--directory"),
        (&["--nonsense"], 2, "--nonsense"),
        (&["--directory", store, "--log", "=/="], 2, "log"),
        (&["--directory", store, "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
        (&["--directory", foreign, "--socket", socket], 1, "neither empty nor a storage directory"),
        (&["--directory", file, "--socket", socket], 1, file),
    ];
    for (arguments, status, words) in table {
        let output = program(arguments).output().expect("run");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let listen = taken.local_addr().expect("address").to_string();
    let output = program(&["--directory", store, "--listen", &listen]).output().expect("run");
    assert!(output.status.code() == Some(1) && said(&output).contains("in use"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_stops_it_cleanly() {
    let master = Master::start().await;
    let directory = tempfile::tempdir().expect("directory");
    let child = started(&master, directory.path());
    master.until("a full report", |heard| heard.reports.iter().any(|(_, report)| report.last).then_some(())).await;
    terminate(&child);
    let output = tokio::task::block_in_place(|| child.wait_with_output()).expect("ended");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    assert_eq!(master.heard(|heard| heard.left.len()), 1);
    assert!(!directory.path().join("data.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_master_of_another_cluster_it_fails_and_names_both() {
    let master = Master::start().await;
    let directory = tempfile::tempdir().expect("directory");
    let child = started(&master, directory.path());
    master.until("a heartbeat", |heard| heard.heartbeats.first().map(drop)).await;
    let (address, other) = (master.address, ClusterId::new([9; 16]));
    master.stop().await;
    let _other = Master::start_at(address, other, Term::new(1)).await;
    let output = ended_by_itself(child).await;
    let said = said(&output);
    let named = [&CLUSTER.to_string(), &other.to_string(), "--master"].iter().all(|words| said.contains(*words));
    assert!(output.status.code() == Some(1) && named, "{said}");
}

/// Resident bytes of a process.
fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
}

/// `cargo test --release -p gfs-chunkserver -- --ignored --nocapture hundred_thousand`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes 100,000 chunks, and measures: run by hand and by `just bench-start`"]
async fn a_hundred_thousand_chunks_register_in_two_seconds_and_64_mib() {
    const CHUNKS: usize = 100_000;
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let directory = Arc::clone(&server.directory);
    for n in 1..=CHUNKS {
        server.process.node().store.create(ChunkHandle::new(n as u64), ChunkVersion::new(1), 0).expect("made");
    }
    server.process.stop().await.expect("stopped");
    master.heard(|heard| heard.reports.clear());
    let start = Instant::now();
    let child = started(&master, directory.path());
    master.until("a full report", |heard| heard.reports.iter().any(|(_, report)| report.last).then_some(())).await;
    let (took, bytes) = (start.elapsed(), resident(&child));
    let rows = master.heard(|heard| heard.reports.iter().map(|(_, report)| report.present.len()).sum::<usize>());
    terminate(&child);
    let output = tokio::task::block_in_place(|| child.wait_with_output()).expect("ended");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(rows, CHUNKS);
    assert!(took < Duration::from_secs(2) && bytes < 64 << 20, "{took:?}, {} MiB", bytes >> 20);
    // shown with --nocapture
    let mut out = std::io::stdout();
    std::io::Write::write_all(&mut out, format!("{took:?}, {} MiB\n", bytes >> 20).as_bytes()).expect("written");
}
