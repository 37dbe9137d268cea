//! A master in this process, with chunkservers and clients made of nothing but their gRPC streams.
//!
//! Everything waits for conditions under [`DEADLINE`]; nothing sleeps for a fixed time to be safe.

mod client;
pub(crate) mod server;

pub(crate) use client::Client;
pub(crate) use server::{FakeServer, Manners};

use gfs_master::config::{Config, Settings, Timings};
use gfs_master::data_dir::DataDirError;
use gfs_master::node::{Node, StartError};
use gfs_proto::layout::ChunkSize;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bound on anything that a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Chunk size of the test clusters.
pub(crate) const CHUNK: u64 = 64 << 10;

/// A master on a directory of its own.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) timings: Timings,
    node: Option<Node>,
}

/// What tasks of the master panicked with, which nobody waits for.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has panics of other threads than those of tests noted; they are printed as ever.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            if std::thread::current().name().is_some_and(|name| name.starts_with("tokio-")) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
            }
        }));
    });
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(std::thread::panicking() || panics.is_empty(), "tasks of the master panicked: {panics:#?}");
    }
}

/// Short intervals, but long enough for a busy machine.
pub(crate) fn timings() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(50),
        read_lease: Duration::from_millis(300),
        suspect_after: Duration::from_secs(2),
        lost_after: Duration::from_secs(3600),
        maintenance: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        keep_alive: Duration::from_millis(200),
        expiry: Duration::from_secs(20),
        command: Duration::from_millis(500),
        copy: Duration::from_secs(5),
        repair_patience: Duration::from_secs(3600),
        recall: Duration::from_secs(5),
        quarantine: Duration::from_secs(3600),
        tick: Duration::from_millis(50),
        checkpoint: Duration::from_millis(200),
    }
}

fn config(directory: &Path, timings: Timings) -> Config {
    let settings = Settings {
        data: Some(directory.to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        cache: Some("4MiB".to_owned()),
        ..Settings::default()
    };
    let chunk_size = ChunkSize::new(CHUNK as u32);
    Config { chunk_size, timings, ..settings.validate(false).expect("valid settings") }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(timings()).await
    }

    pub(crate) async fn with(timings: Timings) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        note_panics();
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut cluster = Self { directory, timings, node: None };
        cluster.restart().await;
        cluster
    }

    /// Stops the master in order, if it runs, and starts it on the same directory.
    pub(crate) async fn restart(&mut self) {
        self.restart_as(false).await;
    }

    pub(crate) async fn restart_as(&mut self, restored: bool) {
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
        let config = Config { restored, ..config(self.directory.path(), self.timings) };
        let deadline = Instant::now() + DEADLINE;
        self.node = loop {
            match Node::start(&config).await {
                Ok(node) => break Some(node),
                // A task of the former one is still on its way out; a process would have taken it along.
                Err(StartError::DataDir(DataDirError::InUse(_))) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("the master starts: {error}"),
            }
        };
    }

    /// Starts a master on what a crash at this moment would have left. There must be nothing under way,
    /// and no checkpoint due.
    pub(crate) async fn crash(&mut self) {
        let copy = tempfile::tempdir().expect("temporary directory");
        copy_tree(self.directory.path(), copy.path());
        self.node.take().expect("running").stop().await;
        self.directory = copy;
        self.restart().await;
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("running")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.node().address())
    }

    /// Three chunkservers that behave, ready for use.
    pub(crate) async fn servers(&self) -> Vec<FakeServer> {
        let mut servers = Vec::new();
        for number in 1..=3 {
            servers.push(FakeServer::start(&self.url(), number).await);
        }
        self.all_up(3).await;
        servers
    }

    pub(crate) async fn all_up(&self, count: usize) {
        let up = || {
            let now = Instant::now();
            let statuses = self.node().master.servers.statuses(now);
            statuses.iter().filter(|s| s.presence == gfs_master::servers::Presence::Up).count()
        };
        until("all chunkservers are up", || up() == count).await;
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("known").is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_tree(&source, &target);
        } else {
            std::fs::copy(source, target).expect("copied");
        }
    }
}

/// A connection to the master.
pub(crate) async fn connect(url: &str) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).expect("a url");
    endpoint.tcp_nodelay(true).connect().await.expect("the master listens")
}

/// Registers as a chunkserver of that number, run and cluster; why the master refused, if it did.
pub(crate) async fn open_link(
    url: &str,
    number: u8,
    incarnation: u64,
    cluster: Option<gfs_proto::ids::ClusterId>,
) -> Result<(), tonic::Status> {
    server::open(url, server::register(number, incarnation, cluster)).await.map(drop)
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Bounds a wait for something that comes by itself.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
