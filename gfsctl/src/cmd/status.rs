//! `gfsctl status`: the cluster at a glance.

use crate::context::Context;
use crate::format::{bytes, duration_ms};
use crate::output::{Page, Report};
use gfs_proto::ids::ClusterId;
use gfs_proto::wire::{MasterStatus, StatusReply, StatusRequest};
use serde::Serialize;

/// Show health, masters, space, chunks by their copies, repair, clients
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl status\n  gfsctl --master 10.0.0.1:9400 status --json")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> anyhow::Result<impl Report + use<>> {
    let reply = context.ask(async |mut admin| admin.status(StatusRequest {}).await).await?;
    Ok(Status::from(reply))
}

#[derive(Serialize)]
struct Status {
    health: &'static str,
    cluster: String,
    software: String,
    uptime_ms: u64,
    chunk_size: u32,
    goal_default: u32,
    masters: Vec<Master>,
    chunkservers: Counted,
    space: Space,
    namespace: Namespace,
    chunks: Chunks,
    repair: Repair,
    clients: u32,
    leases: u32,
}

#[derive(Serialize)]
struct Master {
    address: String,
    role: String,
    term: u64,
    applied_index: u64,
    checkpoint_index: u64,
}

#[derive(Serialize)]
struct Counted {
    up: u32,
    known: u32,
}

#[derive(Serialize)]
struct Space {
    bytes_total: u64,
    bytes_free: u64,
    bytes_metadata: u64,
}

#[derive(Serialize)]
struct Namespace {
    inodes: u64,
    files: u64,
    directories: u64,
}

#[derive(Serialize)]
struct Chunks {
    total: u64,
    healthy: u64,
    degraded: u64,
    missing: u64,
    /// Of the degraded.
    at_risk: u64,
    /// Of the missing.
    unavailable: u64,
    /// Of the degraded: how many lack one copy, two, …
    lacking: Vec<u64>,
    /// Replicas known not to match their checksums.
    damaged_replicas: u64,
    /// Chunks with blocks that no copy has as they should be.
    incurable: u64,
    garbage: u64,
}

#[derive(Serialize)]
struct Repair {
    queue: u64,
    copying: u32,
    bytes_per_second: u64,
    copied: u64,
    removed: u64,
    mended: u64,
    surveyed: bool,
}

impl From<MasterStatus> for Master {
    fn from(from: MasterStatus) -> Self {
        Self {
            address: from.address,
            role: from.role,
            term: from.term,
            applied_index: from.applied_index,
            checkpoint_index: from.checkpoint_index,
        }
    }
}

/// In one word: `critical` if something cannot be read, or nobody is there to write to; `degraded` if copies are missing;
/// `full` if there is no room to write.
fn health(reply: &StatusReply) -> &'static str {
    match reply {
        _ if reply.chunks_missing + reply.chunks_incurable > 0 || reply.chunkservers_up == 0 => "critical",
        _ if reply.chunks_degraded > 0 => "degraded",
        _ if reply.bytes_free == 0 => "full",
        _ => "healthy",
    }
}

impl From<StatusReply> for Status {
    fn from(from: StatusReply) -> Self {
        Self {
            health: health(&from),
            cluster: ClusterId::from_slice(&from.cluster_id).map(|id| id.to_string()).unwrap_or_default(),
            software: from.software,
            uptime_ms: from.uptime_ms,
            chunk_size: from.chunk_size,
            goal_default: from.goal_default,
            masters: from.masters.into_iter().map(Master::from).collect(),
            chunkservers: Counted { up: from.chunkservers_up, known: from.chunkservers_known },
            space: Space {
                bytes_total: from.bytes_total,
                bytes_free: from.bytes_free,
                bytes_metadata: from.bytes_metadata,
            },
            namespace: Namespace { inodes: from.inodes, files: from.files, directories: from.directories },
            chunks: Chunks {
                total: from.chunks,
                healthy: from.chunks_healthy,
                degraded: from.chunks_degraded,
                missing: from.chunks_missing,
                at_risk: from.chunks_at_risk,
                unavailable: from.chunks_unavailable,
                lacking: from.chunks_lacking,
                damaged_replicas: from.replicas_damaged,
                incurable: from.chunks_incurable,
                garbage: from.chunks_garbage,
            },
            repair: Repair {
                queue: from.repair_queue,
                copying: from.repair_copies,
                bytes_per_second: from.repair_rate,
                copied: from.repair_copied,
                removed: from.repair_removed,
                mended: from.repair_mended,
                surveyed: from.repair_surveyed,
            },
            clients: from.clients,
            leases: from.leases,
        }
    }
}

impl Report for Status {
    fn human(&self, page: &mut Page) {
        page.field("health", self.health);
        page.field("cluster", &self.cluster);
        page.field("software", format!("{}, up for {}", self.software, duration_ms(self.uptime_ms)));
        for master in &self.masters {
            page.field(
                "master",
                format!(
                    "{} ({}, term {}, log applied to {}, checkpoint at {})",
                    master.address, master.role, master.term, master.applied_index, master.checkpoint_index
                ),
            );
        }
        page.field("chunkservers", format!("{} up of {}", self.chunkservers.up, self.chunkservers.known));
        page.field("space", self.space_text());
        page.field("chunk size", bytes(self.chunk_size.into()));
        page.field("copies", format!("{} unless set otherwise", self.goal_default));
        let names = &self.namespace;
        page.field("files", format!("{} and {} directories", names.files, names.directories));
        page.field("metadata", bytes(self.space.bytes_metadata));
        page.field("chunks", self.chunks_text());
        page.field("repair", self.repair_text());
        page.field("clients", format!("{}, writing {} chunks", self.clients, self.leases));
    }
}

impl Status {
    fn space_text(&self) -> String {
        let Space { bytes_total, bytes_free, .. } = self.space;
        let copies = u64::from(self.goal_default.max(1));
        format!(
            "{} free of {}: room for {} in {copies} copies",
            bytes(bytes_free),
            bytes(bytes_total),
            bytes(bytes_free / copies)
        )
    }

    fn chunks_text(&self) -> String {
        let chunks = &self.chunks;
        let mut text = format!("{}, {} with all copies", chunks.total, chunks.healthy);
        for (count, what) in [
            (chunks.degraded, "with fewer copies than wanted"),
            (chunks.at_risk, "of these with one copy left"),
            (chunks.unavailable, "WITHOUT A SOUND COPY until a chunkserver is back or a suspect one is adopted"),
            (chunks.missing - chunks.unavailable.min(chunks.missing), "WITHOUT ANY COPY"),
            (chunks.damaged_replicas, "copies damaged"),
            (chunks.incurable, "WITH BLOCKS THAT ARE DAMAGED IN EVERY COPY"),
            (chunks.garbage, "waiting for deletion"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }

    fn repair_text(&self) -> String {
        let Repair { queue, copying, bytes_per_second, surveyed, .. } = self.repair;
        match (queue, surveyed) {
            (0, true) if self.chunks.degraded > 0 => "waits for chunkservers that are away, or for room".to_owned(),
            (0, true) => "nothing to do".to_owned(),
            (0, false) => "looking for what is to be done".to_owned(),
            _ => format!("{queue} chunks wait, {copying} being copied, {}/s", bytes(bytes_per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_news_is_shown_only_when_there_is_some() {
        let (up, room) = (3, 1 << 30);
        let reply = StatusReply {
            chunks: 5,
            chunks_healthy: 5,
            goal_default: 3,
            chunkservers_up: up,
            bytes_free: room,
            ..StatusReply::default()
        };
        assert_eq!(Status::from(reply.clone()).chunks_text(), "5, 5 with all copies");
        let bad = Status::from(StatusReply { chunks_healthy: 4, chunks_missing: 1, ..reply.clone() });
        assert_eq!(bad.chunks_text(), "5, 4 with all copies, 1 WITHOUT ANY COPY");
        let away =
            Status::from(StatusReply { chunks_healthy: 4, chunks_missing: 1, chunks_unavailable: 1, ..reply.clone() });
        assert_eq!(
            away.chunks_text(),
            "5, 4 with all copies, 1 WITHOUT A SOUND COPY until a chunkserver is back or a suspect one is adopted"
        );
        let fewer =
            Status::from(StatusReply { chunks_healthy: 4, chunks_degraded: 1, repair_queue: 1, ..reply.clone() });
        assert_eq!(fewer.repair_text(), "1 chunks wait, 0 being copied, 0 B/s");
        let damaged = StatusReply { replicas_damaged: 2, chunks_incurable: 1, ..reply.clone() };
        assert_eq!(health(&damaged), "critical");
        assert_eq!(
            Status::from(damaged).chunks_text(),
            "5, 5 with all copies, 2 copies damaged, 1 WITH BLOCKS THAT ARE DAMAGED IN EVERY COPY"
        );
        let full = Status::from(StatusReply { bytes_free: 0, ..reply.clone() });
        let alone = Status::from(StatusReply { chunkservers_up: 0, ..reply.clone() });
        let words = [Status::from(reply).health, fewer.health, bad.health, full.health, alone.health];
        assert_eq!(words, ["healthy", "degraded", "critical", "full", "critical"]);
    }

    #[test]
    fn no_goal_from_the_wire_divides_by_zero() {
        assert!(Status::from(StatusReply::default()).space_text().contains("1 copies"));
    }
}
