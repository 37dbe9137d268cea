//! `gfsctl fsck`: is everything as it should be, and if not, what can be done?

use crate::context::{Context, ask};
use crate::output::{Page, Report};
use gfs_proto::wire::{FsckFinding, FsckReply, FsckRequest};
use serde::Serialize;
use std::time::Duration;

/// Everything is looked at: that takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Look for what is wrong with metadata and copies; say, or with --repair do, what can be done about it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Nothing is changed without --repair, and the cluster goes on meanwhile. Copies of chunks are made and \
removed by the cluster itself: what is said of them is for information. The exit status is 1 if anything was found (with \
--repair: if anything is left).\n\n\
Examples:\n  gfsctl fsck\n  gfsctl fsck --repair\n  gfsctl fsck --json | jq '.findings[].detail'"
)]
pub(crate) struct Args {
    /// Put right what can be, each repair as a logged mutation, and look again
    #[arg(long)]
    repair: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let request = FsckRequest { repair: args.repair };
    let reply = ask(context.master(), PATIENCE, async |mut admin| admin.fsck(request).await).await?;
    let FsckReply { findings, total, repaired, chunks, orphaned } = reply;
    let findings = findings.into_iter().map(Finding::from).collect();
    Ok(Found { clean: total == 0, findings, total, repaired, chunks, orphaned })
}

#[derive(Serialize)]
struct Found {
    clean: bool,
    findings: Vec<Finding>,
    /// More than are listed, if there are very many of a kind.
    total: u64,
    repaired: u64,
    chunks: u64,
    orphaned: u64,
}

#[derive(Serialize)]
struct Finding {
    property: String,
    detail: String,
    repair: String,
}

impl From<FsckFinding> for Finding {
    fn from(FsckFinding { property, detail, repair }: FsckFinding) -> Self {
        Self { property, detail, repair }
    }
}

impl Report for Found {
    fn human(&self, page: &mut Page) {
        for finding in &self.findings {
            page.line(&finding.detail);
            if !finding.repair.is_empty() {
                page.line(format!("    repair: {}", finding.repair));
            }
        }
        if self.repaired > 0 {
            page.line(format!("{} repairs were made", self.repaired));
        }
        if self.orphaned > 0 {
            page.line(format!("{} replicas belong to no chunk: gfsctl chunks --orphaned", self.orphaned));
        }
        match self.total {
            0 => page.line(format!("clean: {} chunks", self.chunks)),
            total => page.line(format!("{total} findings, {} chunks", self.chunks)),
        }
    }

    fn exit_status(&self) -> u8 {
        u8::from(!self.clean)
    }
}
