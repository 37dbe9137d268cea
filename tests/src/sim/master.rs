//! The master's process: the real state machine, log, planners and tables, on disks in memory.

use super::check::CHUNK;
use super::dice::Dice;
use super::file::SimFile;
use super::net::{Endpoint, Net, Place};
use gfs_master::checkpoint;
use gfs_master::config::Timings;
use gfs_master::log::mem_disk::MemDisk;
use gfs_master::log::{AnyDisk, LogConfig, OnFailure, Position, ReplicatedLog};
use gfs_master::master::{Machine, Master, Parts};
use gfs_master::node::start_chores;
use gfs_master::reach::{Reach, Refusal};
use gfs_master::repair::RepairSettings;
use gfs_master_core::{Genesis, Store};
use gfs_proto::chunk::ServerAddress;
use gfs_proto::ids::{ClusterId, LogIndex, RestoreGeneration};
use gfs_proto::layout::ChunkSize;
use gfs_proto::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Data ports are numbered from here.
pub(super) const PORTS: u16 = 1000;
const CLUSTER: ClusterId = ClusterId::new([7; 16]);

/// A chunkserver that was away for longer has lost its copies.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(8);

/// Shorter than in use, in the same proportions: a world lasts for seconds.
pub(super) fn timings() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(100),
        read_lease: Duration::from_millis(400),
        suspect_after: Duration::from_millis(1000),
        lost_after: LOST_AFTER,
        maintenance: Duration::from_secs(10),
        quarantine: Duration::from_secs(3600),
        lease: Duration::from_secs(4),
        keep_alive: Duration::from_secs(1),
        expiry: Duration::from_secs(30),
        command: Duration::from_millis(600),
        copy: Duration::from_secs(3),
        repair_patience: Duration::from_secs(3),
        recall: Duration::from_secs(1),
        tick: Duration::from_millis(200),
        checkpoint: Duration::from_millis(700),
    }
}

/// What outlives the process.
pub(super) struct MasterDisks {
    log: MemDisk,
    file: SimFile,
}

/// A running master.
pub(super) struct MasterProcess {
    runtime: Runtime,
    master: Arc<Master>,
}

/// Asks the simulated network.
struct SimReach(Arc<Net>);

impl Reach for SimReach {
    fn refuses<'a>(&'a self, address: &'a ServerAddress) -> Refusal<'a> {
        let place = Place::Server((address.tcp.port() - PORTS) as u8);
        let refused = self.0.refuses(Place::Master, place);
        Box::pin(async move { refused })
    }
}

impl MasterDisks {
    pub(super) fn new() -> Self {
        Self { log: MemDisk::default(), file: SimFile::default() }
    }

    /// The machine stops at one of the next changes of its log.
    pub(super) fn stop_after(&self, changes: u64) {
        self.log.stop_after(Some(changes));
    }

    /// It does not stop.
    pub(super) fn stop_never(&self) {
        if !self.log.is_stopped() {
            self.log.stop_after(None);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.log.is_stopped()
    }

    fn store(&self) -> Result<Store, String> {
        let is_new = self.file.is_empty();
        let opened = redb::Database::builder().set_cache_size(1 << 20).create_with_backend(self.file.clone());
        let database = opened.map_err(|error| format!("the metadata file cannot be opened: {error}"))?;
        let genesis = Genesis {
            cluster: CLUSTER,
            chunk_size: ChunkSize::new(CHUNK).expect("within limits"),
            goal: 3,
            restore_generation: RestoreGeneration::new(0),
            created: Timestamp::from_nanos(0),
        };
        let store = if is_new { Store::format(database, &genesis) } else { Store::open(database) };
        store.map_err(|error| format!("the metadata cannot be read: {error}"))
    }

    /// A master on what there is. Its background work goes on in the runtime that this is called in.
    pub(super) fn open(&self, reach: Arc<dyn Reach>, timings: Timings) -> Result<Arc<Master>, String> {
        let store = Arc::new(self.store()?);
        let applied = store.applied();
        let config = LogConfig {
            segment_bytes: 64 << 10,
            // the only voter needs no clock, and what is queued is seen to by who proposes
            tick: Duration::from_secs(3600),
            ..LogConfig::single("log".into(), CLUSTER)
        };
        let position = Position { index: applied.index, term: applied.term };
        let disk = Arc::new(AnyDisk::new(self.log.clone()));
        let machine = Arc::new(Machine::new(store.clone()));
        let log = ReplicatedLog::open_on(disk, &config, position, machine, OnFailure::Refuse)
            .map_err(|error| format!("the master does not start: {error:?}"))?;
        let repair = RepairSettings::default();
        let parts = Parts { store, log, timings, repair, reach, file_bytes: Box::new(|| 0) };
        let master = Arc::new(Master::new(parts).map_err(|error| format!("the master does not start: {error}"))?);
        drop(start_chores(&master));
        tokio::spawn(checkpoints(master.clone(), self.log.clone()));
        if master.everybody_is_back() {
            master.reap_idle_orphans();
        }
        Ok(master)
    }

    /// Starts a process on what there is.
    pub(super) fn start(&self, net: &Arc<Net>) -> Result<MasterProcess, String> {
        let runtime = super::runtime();
        let master = {
            let _inside = runtime.enter();
            self.open(Arc::new(SimReach(net.clone())), timings())?
        };
        let log = self.log.clone();
        let is_dead = Box::new(move || log.is_stopped());
        net.start(Place::Master, Endpoint::Master(master.clone()), runtime.handle().clone(), is_dead);
        Ok(MasterProcess { runtime, master })
    }

    /// What the end of the process leaves, or that of the machine. To be called before the process's parts are
    /// dropped: a clean end would write.
    pub(super) fn left(&self, power: Option<&mut Dice>) -> Self {
        match power {
            None => Self { file: self.file.after_kill(), log: self.log.copy() },
            Some(dice) => {
                let log = self.log.power_loss(|| dice.chance(500));
                Self { file: self.file.after_power_loss(dice), log }
            }
        }
    }
}

/// In place of the thread that a real master has for them.
async fn checkpoints(master: Arc<Master>, log: MemDisk) {
    loop {
        tokio::time::sleep(master.timings.checkpoint).await;
        if log.is_stopped() {
            return;
        }
        checkpoint::step(&master);
    }
}

impl MasterProcess {
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Index and rows of the state.
    pub(super) fn state(&self) -> (LogIndex, u128) {
        let digest = self.master.store.digest_of_rows();
        (self.master.store.applied().index, digest.expect("memory does not fail"))
    }

    /// Ends; what is on the disks is what the end leaves: that of the process, or of the machine.
    pub(super) fn end(self, disks: &mut MasterDisks, power: Option<&mut Dice>) {
        *disks = disks.left(power);
        drop(self.master);
        self.runtime.shutdown_background();
    }
}
