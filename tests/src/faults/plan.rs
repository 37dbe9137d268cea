//! Which scenarios there are: data only.

use super::nemesis::{Disks, Fault};

/// One kind of trouble.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For `--only`, and its row in the table.
    pub name: &'static str,
    /// What a count of it counts.
    pub unit: &'static str,
    /// What happens, each as likely as the others.
    pub faults: &'static [Fault],
    /// Which of the two numbers of the command line says how often.
    pub amount: Amount,
    /// What the servers keep their data on.
    pub disks: Disks,
    /// Chunkservers; chunks have three copies.
    pub servers: usize,
    /// What else the processes do not share.
    pub apart: Apart,
}

/// What every process has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// A host in a network.
    pub network: bool,
    /// A wall clock.
    pub clocks: bool,
}

/// How often something is done in a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// A percentage of `--kills`.
    OfKills(u32),
    /// A percentage of `--cuts`.
    OfCuts(u32),
    /// So often, or one of `--share` of it.
    Times(u32),
    /// The same, and only if `--only` names the scenario: what it finds is open, and may end the whole run.
    WhenNamed(u32),
}

/// All of them.
pub const fn scenarios() -> &'static [Scenario] {
    use Fault::{
        CutChunkserver, CutChunkservers, CutMaster, CutServers, FailFlush, FailMasterFlush, FailRead, FillDisks,
        FillOneDisk, FlipLogBit, FlipReplicaBit, FlipTableBit, KillChunkserver, KillChunkserverAtFlush,
        KillChunkserverAtRename, KillChunkservers, KillDisk, KillMaster, KillMasterAtFlush, KillMasterDisk, KillMount,
        KillServers, PartForLong, PartFromMaster, PartFromMounts, PartFromPeer, PartMountFromMaster, PartOneWay,
        StepChunkserver, StepMaster, StepMount, StopChunkserver, StopMaster,
    };
    const KILLED: Scenario = Scenario {
        name: "kill-chunkservers",
        unit: "SIGKILLs",
        faults: &[KillChunkserver, KillChunkserver, KillChunkservers],
        amount: Amount::OfKills(50),
        disks: Disks::Shared,
        servers: 4,
        apart: Apart { network: false, clocks: false },
    };
    const CUT: Scenario = Scenario {
        name: "cut-chunkservers",
        unit: "power cuts",
        faults: &[CutChunkserver, CutChunkserver, CutChunkserver, CutChunkservers],
        amount: Amount::OfCuts(60),
        disks: Disks::Own,
        servers: 3,
        apart: Apart { network: false, clocks: false },
    };
    const PARTED: Scenario = Scenario {
        name: "part",
        unit: "partitions of 3 to 10 s",
        faults: &[PartFromMaster, PartFromPeer, PartFromMounts, PartMountFromMaster, PartOneWay],
        amount: Amount::Times(40),
        apart: Apart { network: true, clocks: false },
        ..KILLED
    };
    &[
        KILLED,
        Scenario { name: "kill-master", faults: &[KillMaster], amount: Amount::OfKills(25), ..KILLED },
        Scenario {
            name: "kill-any",
            faults: &[KillChunkserver, KillMaster, KillServers, KillMount],
            amount: Amount::OfKills(25),
            ..KILLED
        },
        Scenario {
            name: "kill-at-call",
            unit: "SIGKILLs at the N-th flush or rename",
            faults: &[KillChunkserverAtFlush, KillChunkserverAtRename, KillMasterAtFlush],
            amount: Amount::OfKills(5),
            ..KILLED
        },
        Scenario {
            name: "stop",
            unit: "SIGSTOPs of 3.5 s",
            faults: &[StopChunkserver, StopMaster],
            amount: Amount::OfKills(2),
            ..KILLED
        },
        CUT,
        Scenario { name: "cut-master", faults: &[CutMaster], amount: Amount::OfCuts(20), ..CUT },
        Scenario {
            name: "cut-any",
            faults: &[CutChunkserver, CutMaster, CutServers],
            amount: Amount::OfCuts(20),
            ..CUT
        },
        Scenario {
            name: "flip-replicas",
            unit: "flipped bits of replicas",
            faults: &[FlipReplicaBit],
            amount: Amount::Times(500),
            ..KILLED
        },
        Scenario {
            name: "flip-log",
            unit: "flipped bits of the operation log",
            faults: &[FlipLogBit],
            amount: Amount::Times(50),
            ..KILLED
        },
        Scenario {
            name: "flip-tables",
            unit: "flipped bits of the master's tables",
            faults: &[FlipTableBit],
            amount: Amount::WhenNamed(50),
            ..KILLED
        },
        Scenario {
            name: "full-disks",
            unit: "times that all disks are full",
            faults: &[FillDisks],
            amount: Amount::Times(20),
            disks: Disks::Small,
            ..CUT
        },
        Scenario {
            name: "filled-disk",
            unit: "times that one disk is full to the last byte",
            faults: &[FillOneDisk],
            amount: Amount::WhenNamed(20),
            disks: Disks::Small,
            ..CUT
        },
        PARTED,
        Scenario {
            name: "part-long",
            unit: "partitions of 63 s",
            faults: &[PartForLong],
            amount: Amount::Times(3),
            ..PARTED
        },
        Scenario {
            name: "eio",
            unit: "failed flushes and reads",
            faults: &[FailFlush, FailRead, FailMasterFlush],
            amount: Amount::Times(60),
            ..KILLED
        },
        Scenario {
            name: "dead-disks",
            unit: "disks that died under their servers",
            faults: &[KillDisk, KillDisk, KillMasterDisk],
            amount: Amount::Times(60),
            servers: 4,
            ..CUT
        },
        Scenario {
            name: "clock-steps",
            unit: "steps of wall clocks by up to 2 h",
            faults: &[StepMaster, StepChunkserver, StepMount],
            amount: Amount::Times(100),
            apart: Apart { network: false, clocks: true },
            ..KILLED
        },
    ]
}
