//! Those who do the damage. Each knows how to do one kind of it and how to undo it; none looks at what comes of it.
//!
//! A [`Strike`] says what was done: how many faults it counts as, and whether unflushed bytes may be lost by it.

mod clock;
mod cut;
mod eio;
mod field;
mod fill;
mod flip;
mod inject;
mod kill;
mod part;
mod stop;

pub use field::{Disks, Field};

use super::history::Moment;
use crate::data::Stream;
use anyhow::Result;

/// Something that is done to the cluster and, unless it is said, undone before it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to one chunkserver.
    KillChunkserver,
    /// SIGKILL to all chunkservers at once.
    KillChunkservers,
    /// SIGKILL to the master.
    KillMaster,
    /// SIGKILL to the master and all chunkservers at once.
    KillServers,
    /// SIGKILL to the mount that is written through.
    KillMount,
    /// Power cut of one chunkserver.
    CutChunkserver,
    /// Power cut of all chunkservers at once.
    CutChunkservers,
    /// Power cut of the master.
    CutMaster,
    /// Power cut of the master and all chunkservers at once.
    CutServers,
    /// SIGSTOP to one chunkserver, for longer than anybody waits for an answer.
    StopChunkserver,
    /// SIGSTOP to the master, likewise.
    StopMaster,
    /// SIGKILL to a chunkserver at its N-th flush.
    KillChunkserverAtFlush,
    /// SIGKILL to a chunkserver at its N-th rename.
    KillChunkserverAtRename,
    /// SIGKILL to the master at its N-th flush.
    KillMasterAtFlush,
    /// One bit of a replica of the first chunkserver, while it runs.
    FlipReplicaBit,
    /// One bit of the operation log, while the master is down.
    FlipLogBit,
    /// One bit of the master's tables, while it is down.
    FlipTableBit,
    /// All disks, until there is no room; later there is again.
    FillDisks,
    /// A chunkserver's disk, to the last byte, by somebody else; later there is room again.
    FillOneDisk,
    /// A chunkserver is cut off from the master, for seconds.
    PartFromMaster,
    /// A chunkserver from another one.
    PartFromPeer,
    /// A chunkserver from all mounts.
    PartFromMounts,
    /// The mount that is written through from the master.
    PartMountFromMaster,
    /// What one sends to another does not arrive, for seconds; the other way it does.
    PartOneWay,
    /// A chunkserver from master and peers, for longer than a lease.
    PartForLong,
    /// EIO from a flush of a chunkserver.
    FailFlush,
    /// EIO from a read of a chunkserver.
    FailRead,
    /// EIO from a flush of the master.
    FailMasterFlush,
    /// A chunkserver's file system takes nothing any more, while it runs.
    KillDisk,
    /// The master's, likewise.
    KillMasterDisk,
    /// The wall clock of the master is stepped.
    StepMaster,
    /// That of a chunkserver.
    StepChunkserver,
    /// That of the mount that is written through.
    StepMount,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Processes killed, or machines without power, or what else the fault counts.
    pub count: u32,
    /// What could be lost by it.
    pub loss: Option<Lost>,
}

/// Unflushed bytes could be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Since then.
    pub from: Moment,
    /// With the mount that had them.
    pub mount: bool,
}

/// Does it.
pub fn strike(field: &mut Field, fault: Fault, chance: &mut Stream) -> Result<Strike> {
    match fault {
        Fault::KillChunkserver => kill::chunkserver(field, chance),
        Fault::KillChunkservers => kill::chunkservers(field),
        Fault::KillMaster => kill::master(field),
        Fault::KillServers => kill::servers(field),
        Fault::KillMount => kill::mount(field),
        Fault::CutChunkserver => cut::chunkserver(field, chance),
        Fault::CutChunkservers => cut::chunkservers(field),
        Fault::CutMaster => cut::master(field),
        Fault::CutServers => cut::servers(field),
        Fault::StopChunkserver => stop::chunkserver(field, chance),
        Fault::StopMaster => stop::master(field),
        Fault::KillChunkserverAtFlush => inject::chunkserver(field, inject::FLUSHES, chance),
        Fault::KillChunkserverAtRename => inject::chunkserver(field, inject::RENAMES, chance),
        Fault::KillMasterAtFlush => inject::master(field, inject::FLUSHES, chance),
        Fault::FlipReplicaBit => flip::replica(field, chance),
        Fault::FlipLogBit => flip::log(field, chance),
        Fault::FlipTableBit => flip::table(field, chance),
        Fault::FillDisks => fill::disks(field),
        Fault::FillOneDisk => fill::one_disk(field, chance),
        Fault::PartFromMaster => part::chunkserver(field, part::From::Master, chance),
        Fault::PartFromPeer => part::chunkserver(field, part::From::Peer, chance),
        Fault::PartFromMounts => part::chunkserver(field, part::From::Mounts, chance),
        Fault::PartMountFromMaster => part::mount_from_master(field, chance),
        Fault::PartOneWay => part::one_way(field, chance),
        Fault::PartForLong => part::for_long(field, chance),
        Fault::FailFlush => eio::chunkserver(field, eio::FLUSHES, chance),
        Fault::FailRead => eio::chunkserver(field, eio::READS, chance),
        Fault::FailMasterFlush => eio::master(field, chance),
        Fault::KillDisk => eio::dead_disk(field, chance),
        Fault::KillMasterDisk => eio::master_dead_disk(field),
        Fault::StepMaster => clock::master(field, chance),
        Fault::StepChunkserver => clock::chunkserver(field, chance),
        Fault::StepMount => clock::mount(field, chance),
    }
}
