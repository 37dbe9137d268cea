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
    Ok(Removed {
        server: args.server.get(),
        chunks_needed: reply.chunks_needed,
        chunks_fewer: reply.chunks_fewer,
        chunks_single: reply.chunks_single,
        chunks_lost: reply.last_copies,
    })
}

#[derive(Serialize)]
struct Removed {
    server: u32,
    /// Chunks that it had, or may have had, a copy of.
    chunks_needed: u64,
    /// Of these, those with fewer copies now than are wanted.
    chunks_fewer: u64,
    /// Of these, those with one copy only.
    chunks_single: u64,
    /// Of those that it had, those that had no other.
    chunks_lost: u64,
}

impl Report for Removed {
    fn human(&self, page: &mut Page) {
        page.line(format!("{} is removed", ServerId::new(self.server)));
        match self.chunks_fewer {
            0 if self.chunks_lost == 0 => page.line("every chunk has as many copies as are wanted without it"),
            0 => {}
            fewer => page.line(format!("{fewer} chunks have fewer copies than are wanted: others are made now")),
        }
        if self.chunks_single > 0 {
            let single = self.chunks_single;
            page.line(format!(
                "WARNING: {single} chunks have ONE copy only until then; `gfsctl status` shows how far it is"
            ));
        }
        if self.chunks_lost > 0 {
            page.line(format!("{} chunks had no other copy: what is in them IS LOST", self.chunks_lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::as_text;

    #[test]
    fn only_what_is_true_is_said() {
        let removed = |chunks_fewer, chunks_single, chunks_lost| {
            as_text(&Removed { server: 2, chunks_needed: 9, chunks_fewer, chunks_single, chunks_lost })
        };
        let made_up = removed(0, 0, 0);
        assert!(made_up.contains("as many copies as are wanted") && !made_up.contains("made now"), "{made_up}");
        let single = removed(9, 5, 0);
        assert!(single.contains("9 chunks have fewer") && single.contains("5 chunks have ONE"), "{single}");
        let lost = removed(0, 0, 3);
        assert!(lost.contains("3 chunks had no other copy") && !lost.contains("as many copies"), "{lost}");
    }
}
