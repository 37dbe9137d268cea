//! `gfsctl remove`: a chunkserver that does not come back.

use crate::chunkserver;
use crate::context::Context;
use crate::output::{Page, Report};
use gfs_proto::ids::ServerId;
use gfs_proto::wire::RemoveChunkserverRequest;
use serde::Serialize;

/// Take a chunkserver that was stopped out of the cluster for good
///
/// Refused if chunks have their last copy there. Drain it first; a chunkserver that is dead and was not drained
/// can be removed as soon as its chunks have copies elsewhere.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl remove cs3\n  gfsctl remove cs3 --force    # its last copies are lost for good"
)]
pub(crate) struct Args {
    /// As `gfsctl chunkservers` shows it
    #[arg(value_name = "SERVER", value_parser = chunkserver::parse)]
    server: ServerId,
    /// Even if chunks have their last copy there: what is in them is lost
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let request = RemoveChunkserverRequest { server: args.server.get(), force: args.force };
    let reply = context.ask(async |mut admin| admin.remove_chunkserver(request).await).await?;
    Ok(Removed { server: args.server.get(), chunks_needed: reply.chunks_needed, chunks_lost: reply.last_copies })
}

#[derive(Serialize)]
struct Removed {
    server: u32,
    /// Chunks that have a copy less now.
    chunks_needed: u64,
    /// Of these, those that had no other.
    chunks_lost: u64,
}

impl Report for Removed {
    fn human(&self, page: &mut Page) {
        page.line(format!("{} is removed", ServerId::new(self.server)));
        let fewer = self.chunks_needed - self.chunks_lost.min(self.chunks_needed);
        if fewer > 0 {
            page.line(format!("{fewer} chunks have a copy less: others are made now"));
        }
        if self.chunks_lost > 0 {
            page.line(format!("{} chunks had no other copy: what is in them IS LOST", self.chunks_lost));
        }
    }
}
