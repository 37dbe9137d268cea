//! `gfsctl drain`: everything off a chunkserver.

use crate::chunkserver::{self, Duty};
use crate::context::Context;
use crate::output::{Page, Report, remark};
use anyhow::bail;
use gfs_proto::ids::ServerId;
use gfs_proto::wire::{ChunkserverStatus, ChunkserversRequest, DrainRequest, SpaceReport, StatusReply, StatusRequest};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two words to who waits.
const TELL: Duration = Duration::from_secs(5);

/// Move all chunks off a chunkserver, and say when it is safe to stop it
///
/// The chunkserver goes on serving what it has while copies are made on others, and gets nothing new. Say it
/// again to see how far it is. Chunks stay where they are if the other chunkservers have no room for them, or
/// are fewer than the copies wanted; --wait says every few seconds how far it is, and then why.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl drain cs3\n  gfsctl drain cs3 --wait && ssh host3 systemctl stop gfs-chunkserver\n  \
                  gfsctl drain cs3 --cancel"
)]
pub(crate) struct Args {
    /// As `gfsctl chunkservers` shows it
    #[arg(value_name = "SERVER", value_parser = chunkserver::parse)]
    server: ServerId,
    /// Return only when nothing depends on it any more
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Stop draining: it keeps what it has and gets new chunks again
    #[arg(long)]
    cancel: bool,
    /// Even if no other chunkserver takes new chunks: nothing can be written then
    #[arg(long, conflicts_with = "cancel")]
    force: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    if !args.cancel && !args.force {
        refuse_last(&servers(context).await?, args.server)?;
    }
    let request = DrainRequest { server: args.server.get(), cancel: args.cancel };
    let reply = context.ask(async |mut admin| admin.drain(request).await).await?;
    let mut duty = Duty::from(reply.server.unwrap_or_default());
    let mut told = Told::new(duty.chunks_needed);
    while args.wait && duty.draining && !duty.safe {
        tokio::time::sleep(LOOK).await;
        let servers = servers(context).await?;
        duty = of(&servers, args.server)?;
        if told.at.elapsed() >= TELL && !duty.safe {
            let status = context.ask(async |mut admin| admin.status(StatusRequest {}).await).await?;
            remark(&told.again(&duty, &servers, &status));
        }
    }
    Ok(Drained(duty))
}

/// Copies of chunks can be put there.
fn takes_chunks(status: &ChunkserverStatus) -> bool {
    let room = |space: &SpaceReport| space.directories.iter().any(|directory| directory.accepts_chunks);
    status.state == "up" && !status.draining && status.space.as_ref().is_some_and(room)
}

fn others(servers: &[ChunkserverStatus], server: ServerId) -> usize {
    servers.iter().filter(|status| status.server != server.get() && takes_chunks(status)).count()
}

/// Without a server that takes new chunks nothing can be written.
fn refuse_last(servers: &[ChunkserverStatus], server: ServerId) -> anyhow::Result<()> {
    let takes = servers.iter().any(|status| status.server == server.get() && takes_chunks(status));
    if takes && others(servers, server) == 0 {
        bail!(
            "no other chunkserver takes new chunks: with {server} drained nothing could be written any more; \
             add one first, or drain it nevertheless with --force"
        );
    }
    Ok(())
}

/// What was said last of one that is waited for.
struct Told {
    at: Instant,
    left: u64,
}

impl Told {
    fn new(left: u64) -> Self {
        Self { at: Instant::now(), left }
    }

    /// How far it is since then, and what is in the way if it is no further.
    fn again(&mut self, duty: &Duty, servers: &[ChunkserverStatus], status: &StatusReply) -> String {
        let (left, seconds) = (duty.chunks_needed, self.at.elapsed().as_secs_f64());
        let moved = self.left.saturating_sub(left);
        *self = Self::new(left);
        let server = ServerId::new(duty.server);
        if moved > 0 {
            let rate = moved as f64 / seconds.max(0.001);
            return format!("{server}: {left} chunks still depend on it, {rate:.1} chunks/s");
        }
        let (others, goal) = (others(servers, server), status.goal_default as usize);
        let why = match others {
            0 => {
                "no other chunkserver takes chunks (up, not draining, with room): add one, or give it up with --cancel"
                    .into()
            }
            _ if others < goal => format!(
                "only {others} other chunkservers take chunks, and {goal} copies are wanted: add one, lower the goal \
                 (`gfsctl set-goal`), or give it up with --cancel"
            ),
            _ if status.repair_copies > 0 => format!("{} copies are under way", status.repair_copies),
            _ => "none is under way; `gfsctl status` shows what else is repaired".into(),
        };
        format!("{server}: {left} chunks still depend on it, none moved: {why}")
    }
}

async fn servers(context: &Context) -> anyhow::Result<Vec<ChunkserverStatus>> {
    Ok(context.ask(async |mut admin| admin.chunkservers(ChunkserversRequest {}).await).await?.servers)
}

fn of(servers: &[ChunkserverStatus], server: ServerId) -> anyhow::Result<Duty> {
    let status = servers.iter().find(|status| status.server == server.get()).cloned();
    status.map(Duty::from).ok_or_else(|| anyhow::anyhow!("{server} was removed meanwhile"))
}

#[derive(Serialize)]
#[serde(transparent)]
struct Drained(Duty);

impl Report for Drained {
    fn human(&self, page: &mut Page) {
        self.0.drain_text(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::wire::DirectorySpace;

    fn server(server: u32, state: &str, draining: bool) -> ChunkserverStatus {
        let directories = vec![DirectorySpace { accepts_chunks: true, ..DirectorySpace::default() }];
        let space = Some(SpaceReport { directories });
        ChunkserverStatus {
            server,
            state: state.into(),
            draining,
            space,
            chunks_needed: 10,
            ..ChunkserverStatus::default()
        }
    }

    #[test]
    fn the_last_that_takes_chunks_is_not_drained() {
        let one = ServerId::new(1);
        let mut full = server(2, "up", false);
        full.space = Some(SpaceReport::default());
        for other in [server(2, "down", false), server(2, "up", true), full] {
            let error = refuse_last(&[server(1, "up", false), other], one).expect_err("the last");
            assert!(error.to_string().contains("--force"), "{error}");
        }
        refuse_last(&[server(1, "up", false), server(2, "up", false)], one).expect("another is there");
        refuse_last(&[server(1, "up", true)], one).expect("it was drained already");
        refuse_last(&[], one).expect("the master says that there is none");
    }

    #[test]
    fn who_waits_is_told_how_far_it_is_and_why_it_stands_still() {
        let servers = [server(1, "up", true), server(2, "up", false), server(3, "up", false)];
        let duty = Duty::from(servers[0].clone());
        let goal = |goal_default| StatusReply { goal_default, ..StatusReply::default() };
        let moving = Told::new(30).again(&duty, &servers, &goal(3));
        assert!(moving.contains("10 chunks") && moving.contains("chunks/s"), "{moving}");
        let stuck = Told::new(10).again(&duty, &servers, &goal(3));
        assert!(stuck.contains("only 2 other chunkservers") && stuck.contains("3 copies"), "{stuck}");
        let alone = Told::new(10).again(&duty, &servers[..1], &goal(3));
        assert!(alone.contains("no other chunkserver"), "{alone}");
        let busy = Told::new(10).again(&duty, &servers, &StatusReply { repair_copies: 4, ..goal(2) });
        assert!(busy.contains("4 copies are under way"), "{busy}");
    }
}
