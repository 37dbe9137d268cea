//! `gfsctl scrub`: have chunkservers read all their replicas now.

use crate::chunkserver;
use crate::context::Context;
use crate::output::{Page, Report};
use crate::progress::Progress;
use anyhow::bail;
use gfs_proto::ids::ServerId;
use gfs_proto::wire::{ChunkserverStatus, ChunkserversRequest, ScrubProgress, ScrubRequest};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Read all replicas of a chunkserver, or of all of them, and compare them with their checksums
///
/// Every chunkserver does so by itself within its scrub period; this begins such a round now, at full speed. What is
/// damaged is mended from other copies as soon as it is found; `gfsctl status` shows what is not mended yet.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl scrub\n  gfsctl scrub cs3 --background")]
pub(crate) struct Args {
    /// As `gfsctl chunkservers` shows it; all that are up if none is named
    #[arg(value_name = "SERVER", value_parser = chunkserver::parse)]
    server: Option<ServerId>,
    /// Return when it has begun; `gfsctl chunkservers` shows how far it is
    #[arg(long)]
    background: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let before = look(context).await?;
    let request = ScrubRequest { server: args.server.map_or(0, ServerId::get) };
    let reply = context.ask(async |mut admin| admin.scrub(request).await).await?;
    let rounds: BTreeMap<u32, u64> = reply.started.iter().map(|started| (started.server, started.round)).collect();
    if !args.background {
        wait(context, &rounds).await?;
    }
    let after = look(context).await?;
    let servers = rounds.keys().map(|server| Scrubbed::of(*server, &before, &after)).collect();
    Ok(Scrubs { servers, finished: !args.background })
}

async fn look(context: &Context) -> anyhow::Result<BTreeMap<u32, ChunkserverStatus>> {
    let reply = context.ask(async |mut admin| admin.chunkservers(ChunkserversRequest {}).await).await?;
    Ok(reply.servers.into_iter().map(|status| (status.server, status)).collect())
}

/// Until every round, or a later one, is through.
async fn wait(context: &Context, rounds: &BTreeMap<u32, u64>) -> anyhow::Result<()> {
    let progress = Progress::new(0);
    let mut seen = 0;
    loop {
        let servers = look(context).await?;
        let (mut running, mut bytes) = (false, 0);
        for (server, round) in rounds {
            let status = servers.get(server).filter(|status| status.state == "up");
            let Some(scrub) = status.and_then(|status| status.scrub.as_ref()) else {
                bail!("{} went away before it was through", ServerId::new(*server));
            };
            running |= scrub.finished < *round;
            bytes += if scrub.round >= *round { scrub.bytes_done } else { 0 };
        }
        progress.advance(bytes.saturating_sub(seen));
        seen = seen.max(bytes);
        if !running {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Serialize)]
struct Scrubs {
    finished: bool,
    servers: Vec<Scrubbed>,
}

#[derive(Serialize)]
struct Scrubbed {
    server: u32,
    replicas: u64,
    bytes: u64,
    /// Found damaged since this command began, by whomever.
    damaged: u64,
    /// Not mended yet.
    damaged_left: u64,
}

impl Scrubbed {
    fn of(server: u32, before: &BTreeMap<u32, ChunkserverStatus>, after: &BTreeMap<u32, ChunkserverStatus>) -> Self {
        let scrub = |table: &BTreeMap<u32, ChunkserverStatus>| -> ScrubProgress {
            table.get(&server).and_then(|status| status.scrub).unwrap_or_default()
        };
        let now = scrub(after);
        Self {
            server,
            replicas: now.replicas_done,
            bytes: now.bytes_done,
            damaged: now.damaged.saturating_sub(scrub(before).damaged),
            damaged_left: after.get(&server).map_or(0, |status| status.damaged_replicas),
        }
    }
}

impl Report for Scrubs {
    fn human(&self, page: &mut Page) {
        for Scrubbed { server, replicas, bytes, damaged, damaged_left } in &self.servers {
            let server = ServerId::new(*server);
            if self.finished {
                let bytes = crate::format::bytes(*bytes);
                page.line(format!(
                    "{server}: {replicas} replicas, {bytes} read; {damaged} found damaged, {damaged_left} not mended yet"
                ));
            } else {
                page.line(format!("{server}: begun"));
            }
        }
    }
}
