//! What an install found, compared: are the members the same, and if not, whose bytes count (GFS paper, 3.1)?
//!
//! ```text
//!   all confirmed the epoch --digests and known writes equal?--> done, nothing more is asked
//!            '-- not: the member with the last write is the source --> Align at each other one that differs
//!                      --> all done: equal | some failed: left out, agreed on anew without them
//! ```
//! The grant goes to nobody before this is over. If the master stops in between the next one installs again, finds what
//! still differs, and finishes: nothing of it is remembered but in the replicas.
//!
//! Any member has every acknowledged write, because those that were not at all members were not acknowledged. So the
//! source only decides about writes whose writers have not heard: forward, where anybody knows.

use super::install::{Lost, Member, Wanted};
use crate::master::Master;
use crate::servers::link::CommandError;
use futures_util::future::join_all;
use gfs_master_core::plan::{Report, alignment};
use gfs_proto::FsError;
use gfs_proto::control::{Align, ChunkCommand, CommandOutcome, InstallReport};
use gfs_proto::ids::{ChunkVersion, Epoch, ServerId};
use gfs_proto::limits::OPERATION_TIMEOUT;
use std::time::Duration;
use tracing::{info, warn};

/// A writer waits for it.
const ALIGN_MAX: Duration = Duration::from_secs(OPERATION_TIMEOUT.as_secs() / 4);

/// Which epoch the members have installed, under which version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Installed {
    pub(super) version: ChunkVersion,
    pub(super) epoch: Epoch,
}

/// How a member that was to be aligned failed.
enum Failed {
    /// It says that it could not read from the source.
    Source,
    /// It did not answer, or could not write.
    Itself,
}

impl Master {
    /// Makes the members equal that confirmed an install. Those that could not be made so are returned: they may take no
    /// part in what follows.
    pub(super) async fn align(
        &self,
        wanted: &Wanted<'_>,
        installed: Installed,
        members: &[(Member, InstallReport)],
    ) -> Vec<Lost> {
        let reports: Vec<Report<'_>> = members.iter().map(|(member, report)| (member.replica.server, report)).collect();
        let Some(alignment) = alignment(&reports) else { return Vec::new() };
        let find = |server: ServerId| members.iter().find(|(member, _)| member.replica.server == server);
        let Some((source, report)) = find(alignment.source) else { unreachable!("the source is a member") };
        let doubts: usize = members.iter().map(|(_, report)| report.in_doubt.len()).sum();
        info!(chunk = %wanted.chunk.handle, source = %alignment.source, others = ?alignment.others, doubts,
            "replicas differ: a write did not reach all of them");
        let align = Align {
            handle: wanted.chunk.handle,
            version: installed.version,
            epoch: installed.epoch,
            source: source.replica.clone(),
            position: report.position,
            outcomes: report.outcomes.clone(),
        };
        let attempts = alignment.others.iter().map(|server| self.align_one(*server, &align));
        let failed: Vec<(ServerId, Failed)> = join_all(attempts).await.into_iter().flatten().collect();
        let is_source =
            failed.len() == alignment.others.len() && failed.iter().all(|(_, why)| matches!(why, Failed::Source));
        let out = |server: ServerId| find(server).map(|(member, _)| member.away());
        match is_source {
            true => out(alignment.source).into_iter().collect(),
            false => failed.iter().filter_map(|(server, _)| out(*server)).collect(),
        }
    }

    async fn align_one(&self, server: ServerId, align: &Align) -> Option<(ServerId, Failed)> {
        let bound = self.timings.copy.min(ALIGN_MAX);
        let outcome = self.servers.command_within(server, ChunkCommand::Align(align.clone()), bound).await;
        if matches!(outcome, Ok(CommandOutcome::Done)) {
            return None;
        }
        warn!(chunk = %align.handle, %server, source = %align.source.server, ?outcome, "a replica could not be aligned");
        let of_source = |error| matches!(error, FsError::NoReplica | FsError::Unavailable | FsError::Protocol);
        match outcome {
            Err(CommandError::Refused { error, .. }) if of_source(error) => Some((server, Failed::Source)),
            _ => Some((server, Failed::Itself)),
        }
    }
}
