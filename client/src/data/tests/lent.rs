//! Short-circuit reads: when the bytes of a lent file are believed, and when the server is asked.

use super::cluster::{Cluster, config};
use super::lending::Lending;
use super::{eventually, pattern};
use crate::data::connection::LinkError;
use crate::data::local::{LendError, Loan, Miss, Wait};
use crate::data::replicas::Blocks;
use crate::data::{DataPlane, InodeData, Tried};
use gfs_proto::chunk::ChunkLocation;
use gfs_proto::frame::{DataError, Lend};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion, ServerId};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;

const CHUNK: u32 = 8 << 20;
const HANDLE: ChunkHandle = ChunkHandle::new(1);

/// A file of one chunk, read by a client that does not write it; only the first server has a replica.
struct Scene {
    cluster: Arc<Cluster>,
    plane: Arc<DataPlane>,
    file: Arc<InodeData>,
    data: Vec<u8>,
    at: u64,
    _sockets: TempDir,
}

impl Scene {
    async fn new(lends: bool, local: bool) -> Self {
        let sockets = tempfile::tempdir().expect("a directory");
        let path = |id: u32| local.then(|| sockets.path().join(format!("{id}")).to_str().expect("UTF-8").to_owned());
        let cluster = Cluster::start_at(CHUNK, path).await;
        for server in &cluster.servers {
            *server.lending.lock() = lends.then(Lending::new);
        }
        let data = pattern(0, 5 << 20, 1);
        let writer = cluster.plane(config());
        let file = cluster.create(&writer);
        file.write(0, &data).await.expect("written");
        file.flush().await.expect("flushed");
        cluster.master.lock().chunks.get_mut(&ChunkIndex::new(0)).expect("a chunk").entitled.truncate(1);
        let plane = cluster.plane(config());
        let file = cluster.open(&plane, data.len() as u64, None, true);
        Self { cluster, plane, file, data, at: 0, _sockets: sockets }
    }

    /// Reads 4 KiB, half a megabyte from the last, past the cache, and checks them.
    async fn read(&mut self) {
        self.file.invalidate();
        self.at = (self.at + 520 * 1024) % (self.data.len() as u64 - 8192) / 4096 * 4096;
        let data = self.file.read(self.at, 4096).await.expect("read");
        assert!(data == self.data[self.at as usize..][..4096], "at {}", self.at);
    }

    fn reads(&self) -> usize {
        self.cluster.servers[0].seen.lock().reads.len()
    }

    fn lends(&self) -> usize {
        self.cluster.servers[0].seen.lock().lends
    }

    fn lending<T>(&self, act: impl FnOnce(&mut Lending) -> T) -> T {
        act(self.cluster.servers[0].lending.lock().as_mut().expect("it lends"))
    }

    fn location(&self, version: u64) -> ChunkLocation {
        ChunkLocation {
            index: ChunkIndex::new(0),
            handle: HANDLE,
            version: ChunkVersion::new(version),
            clip: None,
            leased: false,
            replicas: vec![self.cluster.servers[0].replica()],
        }
    }

    fn loan(&self) -> Option<Arc<Loan>> {
        self.plane.servers.local.loan(&self.location(1))
    }

    /// Asks a server for the chunk, apart from all reads.
    async fn ask(&self, server: usize) -> Result<Loan, LendError> {
        let lend = Lend { handle: HANDLE, version: ChunkVersion::new(1) };
        self.plane.servers.local.lenders.ask(lend, &self.cluster.servers[server].replica()).await
    }

    /// Reads twice, so that the chunk is asked for.
    async fn borrow(&mut self) {
        self.read().await;
        self.read().await;
        eventually("the loan", || self.loan().is_some()).await;
    }

    /// The server is asked, or it is not.
    async fn reads_by_request(&mut self, expected: bool, why: &str) {
        let before = self.reads();
        self.read().await;
        assert_eq!(self.reads() > before, expected, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_is_read_twice_is_read_from_its_file() {
    let mut scene = Scene::new(true, true).await;
    scene.read().await;
    let local = scene.plane.servers.local.clone();
    assert!(!local.is_asking(HANDLE), "one that is read once is not worth the question");
    scene.borrow().await;
    let reads = scene.reads();
    for _ in 0..20 {
        scene.read().await;
    }
    let tried = match scene.file.try_read(4_000_000, 9000) {
        Tried::Done(data) => Some(data),
        Tried::Cold(read) => read.wait(), // as the file system of the lent file has it
        Tried::Elsewhere => None,
    };
    assert!(tried.is_some_and(|data| data == scene.data[4_000_000..4_009_000]), "on this thread");
    let whole = scene.file.read(0, 4 << 20).await.expect("read");
    assert!(whole == scene.data[..4 << 20]);
    let end = scene.file.read(scene.data.len() as u64 - 100, 4096).await.expect("read");
    assert_eq!(end, scene.data[scene.data.len() - 100..]);
    assert_eq!((scene.reads(), scene.lends()), (reads, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_do_not_lend_are_not_asked() {
    for (lends, local) in [(false, true), (true, false)] {
        let mut scene = Scene::new(lends, local).await;
        for _ in 0..5 {
            scene.reads_by_request(true, "there is no other way").await;
        }
        assert_eq!(scene.lends(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_replica_changes_or_its_lease_is_lost_the_server_is_asked() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    scene.reads_by_request(false, "settled").await;
    scene.lending(|lending| lending.step(HANDLE));
    scene.reads_by_request(true, "a write has begun").await;
    scene.lending(|lending| lending.step(HANDLE));
    scene.reads_by_request(false, "it has settled").await;
    scene.lending(|lending| lending.set_lease(0));
    scene.reads_by_request(true, "the lease has run out").await;
    scene.lending(|lending| lending.set_lease(3600));
    scene.reads_by_request(false, "it is held again").await;
    assert_eq!(scene.lends(), 1, "the loan was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_it_is_read_is_not_believed() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let loan = scene.loan().expect("lent");
    let (size, blocks) = (scene.cluster.chunk_size, Blocks { offset: 0, length: 4096 });
    let during = |act: &dyn Fn()| {
        loan.read_with(size, blocks, |into, at| {
            let filled = loan.fill(into, at, Wait::IfCold);
            act();
            filled
        })
    };
    assert!(during(&|| {}).is_ok_and(|data| data == scene.data[..4096]));
    let written = during(&|| scene.lending(|lending| (lending.step(HANDLE), lending.step(HANDLE)).0));
    assert_eq!(written, Err(Miss::NotNow), "a whole write, data and sums read before and after it");
    assert_eq!(during(&|| scene.lending(|lending| lending.set_lease(0))), Err(Miss::NotNow));
    scene.lending(|lending| lending.set_lease(3600));
    assert_eq!(during(&|| scene.cluster.servers[0].revoke(HANDLE)), Err(Miss::Gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_loan_is_given_up_and_asked_for_again() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    scene.cluster.servers[0].revoke(HANDLE);
    scene.reads_by_request(true, "revoked").await;
    assert!(scene.loan().is_none());
    scene.borrow().await;
    scene.reads_by_request(false, "lent again").await;
    assert_eq!(scene.lends(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loan_of_another_version_or_of_a_replica_that_does_not_count_is_not_used() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let local = &scene.plane.servers.local;
    assert!(local.loan(&scene.location(1)).is_some());
    assert!(local.loan(&scene.location(2)).is_none(), "the master raised it");
    let replicas = vec![scene.cluster.servers[1].replica()];
    assert!(local.loan(&ChunkLocation { replicas, ..scene.location(1) }).is_none(), "the master left it out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_a_lent_file_is_for_the_server_to_judge() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    scene.lending(|lending| (0..5 << 20).step_by(4096).for_each(|at| lending.damage(HANDLE, at)));
    scene.reads_by_request(true, "the sums do not match").await;
    assert!(scene.cluster.reported.lock().is_empty(), "the server had the right bytes");
    assert!(scene.loan().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_the_server_has_too_is_reported() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let entitled = [2, 1].map(ServerId::new).to_vec();
    scene.cluster.master.lock().chunks.get_mut(&ChunkIndex::new(0)).expect("a chunk").entitled = entitled;
    let file = scene.cluster.open(&scene.plane, scene.data.len() as u64, None, true);
    scene.lending(|lending| lending.damage(HANDLE, 0));
    scene.cluster.servers[0].faults.lock().rotten = true;
    assert!(file.read(0, 4096).await.expect("read") == scene.data[..4096], "from the other replica");
    assert_eq!(*scene.cluster.reported.lock(), [ServerId::new(1)], "though it is not the first in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_is_found_on_the_thread_that_asks_is_reported() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let entitled = [2, 1].map(ServerId::new).to_vec();
    scene.cluster.master.lock().chunks.get_mut(&ChunkIndex::new(0)).expect("a chunk").entitled = entitled;
    let file = scene.cluster.open(&scene.plane, scene.data.len() as u64, None, true);
    assert!(file.read(1 << 20, 4096).await.expect("read") == scene.data[1 << 20..][..4096]);
    scene.lending(|lending| lending.damage(HANDLE, 0));
    scene.cluster.servers[0].faults.lock().rotten = true;
    match file.try_read(0, 4096) {
        Tried::Cold(read) => assert!(read.wait().is_none(), "the sums do not match"),
        Tried::Elsewhere => {}
        Tried::Done(_) => panic!("the sums do not match"),
    }
    assert!(scene.loan().is_none());
    assert!(file.read(0, 4096).await.expect("read") == scene.data[..4096], "from the other replica");
    assert_eq!(*scene.cluster.reported.lock(), [ServerId::new(1)], "though it is not the first in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_takes_its_loans_with_it() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let loan = scene.loan().expect("lent");
    let entitled = [1, 2].map(ServerId::new).to_vec();
    scene.cluster.master.lock().chunks.get_mut(&ChunkIndex::new(0)).expect("a chunk").entitled = entitled;
    scene.file.forget_grants();
    scene.cluster.servers[0].kill();
    eventually("the end of its connection", || !loan.is_good()).await;
    scene.lending(|lending| lending.set_lease(3600));
    let blocks = Blocks { offset: 0, length: 4096 };
    let read = loan.read_with(scene.cluster.chunk_size, blocks, |into, at| loan.fill(into, at, Wait::IfCold));
    assert_eq!(read, Err(Miss::Gone), "whatever its board says");
    for _ in 0..3 {
        scene.read().await;
    }
    assert!(!scene.cluster.servers[1].seen.lock().reads.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_believed_for_good_or_for_a_while() {
    let mut scene = Scene::new(true, true).await;
    scene.cluster.servers[0].faults.lock().refuse_lends.push_back(DataError::NotLent);
    let local = scene.plane.servers.local.clone();
    scene.read().await;
    scene.read().await;
    eventually("the refusal", || scene.lends() == 1 && !local.is_asking(HANDLE)).await;
    for _ in 0..10 {
        scene.reads_by_request(true, "not lent").await;
        assert!(!local.is_asking(HANDLE));
    }
    let mut scene = Scene::new(true, true).await;
    scene.cluster.servers[0].faults.lock().refuse_lends.push_back(DataError::Busy);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while scene.loan().is_none() {
        assert!(std::time::Instant::now() < deadline, "it is asked for again");
        scene.read().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.lends(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_on_another_clock_is_not_used() {
    let scene = Scene::new(true, true).await;
    // more than any answer takes, in both directions
    for ahead in [4_000_000_000, -4_000_000_000] {
        scene.lending(|lending| lending.ahead = ahead);
        let refused = Err(LendError::Refused(DataError::NotLent));
        assert_eq!(scene.ask(0).await.map(drop), refused, "its lease cannot be compared");
    }
    scene.lending(|lending| lending.ahead = 0);
    assert_eq!(scene.ask(0).await.map(drop), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_late_answer_a_server_is_asked_anew_and_its_end_is_seen() {
    let mut scene = Scene::new(true, true).await;
    scene.borrow().await;
    let loan = scene.loan().expect("lent");
    scene.cluster.servers[0].faults.lock().lends_held = true;
    assert_eq!(scene.ask(0).await.map(drop), Err(LendError::Link(LinkError::TimedOut)));
    scene.cluster.servers[0].release();
    eventually("the answer", || scene.lends() == 2).await;
    assert_eq!(scene.ask(0).await.map(drop), Ok(()), "on another connection");
    assert!(loan.is_good(), "the server lives");
    scene.cluster.servers[0].kill();
    eventually("the end of the connection on which an answer lies", || !loan.is_good()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_keeps_nobody_from_asking_another() {
    let scene = Scene::new(true, true).await;
    scene.cluster.servers[0].faults.lock().greetings_held = true;
    tokio::select! {
        biased;
        silent = scene.ask(0) => panic!("it does not answer: {:?}", silent.map(drop)),
        lent = scene.ask(1) => assert_eq!(lent.map(drop), Ok(())),
    }
    scene.cluster.servers[0].release();
}

#[test]
fn a_file_is_closed_by_a_thread_that_may_wait() {
    with_one_thread_that_may_wait(async {
        let mut scene = Scene::new(true, true).await;
        for by_reading in [true, false] {
            scene.borrow().await;
            let inode = scene.lending(|lending| lending.inode(HANDLE));
            let busy = Busy::new();
            scene.cluster.servers[0].revoke(HANDLE);
            if by_reading {
                scene.reads_by_request(true, "revoked").await;
            } else {
                scene.plane.servers.local.tidy();
            }
            assert!(scene.loan().is_none());
            assert!(is_open(inode), "all threads that may wait are busy");
            drop(busy);
            eventually("the file is closed", || !is_open(inode)).await;
        }
    });
}

#[test]
fn nothing_is_asked_for_while_many_files_wait_to_be_closed() {
    with_one_thread_that_may_wait(async {
        let scene = Scene::new(true, true).await;
        let busy = Busy::new();
        for _ in 0..32 {
            // a file and the board, each time
            drop(scene.ask(0).await.expect("lent"));
        }
        assert_eq!(scene.ask(0).await.map(drop), Err(LendError::Behind));
        drop(busy);
        let again = async { while scene.ask(0).await.map(drop) == Err(LendError::Behind) {} };
        tokio::time::timeout(Duration::from_secs(10), again).await.expect("they are closed");
    });
}

fn with_one_thread_that_may_wait(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

/// The one thread that may wait has something else to do until this is dropped.
struct Busy {
    _until: mpsc::Sender<()>,
}

impl Busy {
    /// Returns when the thread has come to it: what it was at may go on with what comes meanwhile.
    fn new() -> Self {
        let ((_until, wait), (begins, begun)) = (mpsc::channel(), mpsc::channel());
        tokio::task::spawn_blocking(move || begins.send(()).map(|()| wait.recv()));
        begun.recv().expect("it begins");
        Self { _until }
    }
}

/// By this process.
fn is_open(inode: u64) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("there is one").flatten();
    descriptors.filter_map(|descriptor| std::fs::metadata(descriptor.path()).ok()).any(|file| file.ino() == inode)
}
