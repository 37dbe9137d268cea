//! A cluster with everything that the nemeses need: its disks, its mounts, and which machines lost power.

use crate::cluster::{Cluster, Options};
use crate::faults::check::{Findings, Invariant};
use crate::faults::disk::{Disk, Format, Memory};
use crate::network::Network;
use crate::wait::until;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Bound on all copies being there again after the last fault.
const HEALED: Duration = Duration::from_secs(120);
/// Room of each disk.
const DISK_MIB: u64 = 256;
const SMALL_MIB: u64 = 64;
/// What a chunkserver on a small disk keeps free, in MiB, and from where on it takes no new chunks.
const RESERVE_MIB: u64 = 8;
const SMALL_FLAGS: &[&str] = &["--reserve-mib", "8", "--watermark-mib", "12"];

/// What the servers keep their data on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// The file system of the machine.
    Shared,
    /// One small file system for each server, the master's included; xfs for the last chunkserver, ext4 otherwise.
    Own,
    /// The same, so small that they can be filled; all ext4.
    Small,
}

impl Disks {
    const fn mib(self) -> u64 {
        match self {
            Self::Shared | Self::Own => DISK_MIB,
            Self::Small => SMALL_MIB,
        }
    }
}

/// The fields are dropped in this order: processes before disks, disks before the memory that they are in.
pub struct Field {
    /// The cluster.
    pub cluster: Cluster,
    /// Mount points. The first is written through, all are read through.
    pub mounts: Vec<PathBuf>,
    /// Of the chunkservers.
    pub(super) disks: Vec<Disk>,
    /// Of the master.
    pub(super) master_disk: Option<Disk>,
    /// Chunkservers whose machines lost power since all copies were there.
    pub(super) cut: BTreeSet<usize>,
    /// Bits of replicas that were changed and not looked for since.
    pub(super) flipped: u32,
    /// If every process is on a host of its own.
    pub(super) network: Option<Arc<Network>>,
    /// What every chunkserver keeps free on a small disk.
    pub(super) reserve_bytes: u64,
    answered: Findings,
    notes: BTreeMap<&'static str, u64>,
    copies: usize,
    _memory: Option<Memory>,
    _parent: TempDir,
}

impl Field {
    /// Starts it.
    pub fn start(options: Options, disks: Disks, mounts: usize) -> Result<Self> {
        let parent = tempfile::Builder::new().prefix("gfs-faults-").tempdir_in("/tmp")?; // short, as the cluster's
        let count = options.chunkservers;
        let copies = usize::from(options.goal).min(count);
        let (memory, own, master_disk) = match disks {
            Disks::Shared => (None, Vec::new(), None),
            Disks::Own | Disks::Small => {
                let memory = Memory::mount(parent.path().join("disks"))?;
                let own = make_disks(memory.point(), count, disks)?;
                let master = Disk::make(memory.point(), "master", Format::Ext4, DISK_MIB)?;
                (Some(memory), own, Some(master))
            }
        };
        let points: Vec<PathBuf> = own.iter().map(|disk| disk.point().join("data")).collect();
        let master_data = master_disk.as_ref().map(|disk| disk.point().join("data"));
        let machines = disks != Disks::Shared || options.network.is_some();
        let chunkserver_flags = if disks == Disks::Small { SMALL_FLAGS } else { options.chunkserver_flags };
        let network = options.network.clone();
        let own_count = if points.is_empty() { count } else { 0 };
        let mut cluster =
            Cluster::start(Options { chunkservers: own_count, master_data, machines, chunkserver_flags, ..options })?;
        for point in &points {
            std::fs::create_dir(point)?;
            cluster.add_chunkserver_at(point)?;
        }
        let mounts = (0..mounts).map(|_| cluster.mount()).collect::<Result<_>>()?;
        Ok(Self {
            cluster,
            mounts,
            disks: own,
            master_disk,
            cut: BTreeSet::new(),
            flipped: 0,
            network,
            reserve_bytes: RESERVE_MIB << 20,
            answered: Findings::default(),
            notes: BTreeMap::new(),
            copies,
            _memory: memory,
            _parent: parent,
        })
    }

    /// So often the servers did this.
    pub(super) fn note(&mut self, what: &'static str, count: u64) {
        *self.notes.entry(what).or_default() += count;
    }

    /// A fault has to be answered so.
    pub(super) fn promised(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.answered.looked(Invariant::Answered, 1);
        if !holds {
            self.answered.wrong(Invariant::Answered, what());
        }
    }

    /// How the faults were answered since this was asked for.
    pub fn take_answered(&mut self) -> Findings {
        std::mem::take(&mut self.answered)
    }

    /// What the servers did since this was asked for.
    pub fn take_notes(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.notes)
    }

    /// Bits of replicas that were changed since this was asked for.
    pub fn take_flipped(&mut self) -> u32 {
        std::mem::take(&mut self.flipped)
    }

    /// How many chunkservers there are, running or not.
    pub fn servers(&self) -> usize {
        self.cluster.chunkserver_count()
    }

    /// Storage directories.
    pub fn directories(&self) -> Vec<PathBuf> {
        (0..self.servers()).map(|number| self.cluster.chunkserver_directory(number)).collect()
    }

    /// True if unflushed bytes can be gone: so many machines lost power since all copies were there.
    pub(super) fn could_lose(&self) -> bool {
        self.cut.len() >= self.copies
    }

    /// Starts every chunkserver that was ended, without waiting.
    pub(super) fn launch(&mut self) -> Result<()> {
        for number in 0..self.servers() {
            if self.cluster.chunkserver_process(number).pid().is_none() {
                self.cluster.launch_chunkserver(number)?;
            }
        }
        Ok(())
    }

    /// Starts every chunkserver that was ended, and waits until all are up.
    pub fn start_all(&mut self) -> Result<()> {
        self.launch()?;
        self.cluster.wait_chunkservers(self.servers())
    }

    /// All copies of all chunks are there, and nothing is left to be done.
    pub fn is_healthy(&self) -> Result<bool> {
        let status = self.cluster.gfsctl_json(&["status"])?;
        let (repair, up) = (&status["repair"], &status["chunkservers"]["up"]);
        // one that has not registered yet may have copies that are not what the master thinks
        Ok(*up == self.servers() && status["health"] == "healthy" && repair["queue"] == 0 && repair["surveyed"] == true)
    }

    /// If all copies are there, a later power cut of one machine loses nothing that another does not have.
    pub fn note_health(&mut self) -> Result<()> {
        if !self.cut.is_empty() && self.is_healthy()? {
            self.cut.clear();
        }
        Ok(())
    }

    /// Waits until all copies of all chunks are there.
    pub fn heal(&mut self) -> Result<()> {
        until("all chunks have all copies", HEALED, || self.is_healthy())?;
        self.cut.clear();
        Ok(())
    }
}

fn make_disks(parent: &Path, count: usize, disks: Disks) -> Result<Vec<Disk>> {
    let xfs = |number| disks == Disks::Own && number + 1 == count;
    let format = |number| if xfs(number) { Format::Xfs } else { Format::Ext4 };
    (0..count).map(|number| Disk::make(parent, &format!("disk{number}"), format(number), disks.mib())).collect()
}
