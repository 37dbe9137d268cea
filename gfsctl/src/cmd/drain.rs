//! `gfsctl drain`: everything off a chunkserver.

use crate::chunkserver::{self, Duty};
use crate::context::Context;
use crate::output::{Page, Report};
use gfs_proto::ids::ServerId;
use gfs_proto::wire::{ChunkserversRequest, DrainRequest};
use serde::Serialize;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Move all chunks off a chunkserver, and say when it is safe to stop it
///
/// The chunkserver goes on serving what it has while copies are made on others, and gets nothing new. Say it
/// again to see how far it is. Chunks stay where they are if the other chunkservers have no room for them, or
/// are fewer than the copies wanted.
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
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let request = DrainRequest { server: args.server.get(), cancel: args.cancel };
    let reply = context.ask(async |mut admin| admin.drain(request).await).await?;
    let mut duty = Duty::from(reply.server.unwrap_or_default());
    while args.wait && duty.draining && !duty.safe {
        tokio::time::sleep(LOOK).await;
        duty = look(context, args.server).await?;
    }
    Ok(Drained(duty))
}

async fn look(context: &Context, server: ServerId) -> anyhow::Result<Duty> {
    let reply = context.ask(async |mut admin| admin.chunkservers(ChunkserversRequest {}).await).await?;
    let status = reply.servers.into_iter().find(|status| status.server == server.get());
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
