//! `gfsctl cat`: files of the cluster to standard output.

use crate::context::Context;
use crate::output::{self, Report, Written};
use crate::remote::shown;
use anyhow::{Context as _, bail};
use gfs_client::OpenFlags;
use gfs_proto::attr::FileKind;
use gfs_proto::limits::FRAME_PAYLOAD_MAX;
use gfs_proto::ops::Access;
use std::path::PathBuf;

/// Write files to standard output
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl cat /notes.txt | less")]
pub(crate) struct Args {
    /// Paths in the cluster
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    context
        .with_files(async |remote| {
            for path in &args.paths {
                let entry = remote.resolve(path).await?;
                if entry.attr.kind != FileKind::File {
                    bail!("{} is a {}, not a file", shown(path), crate::format::kind(entry.attr.kind));
                }
                let opened = remote.open(entry.attr.inode, OpenFlags::new(Access::Read), path).await?;
                let mut offset = 0;
                loop {
                    let piece = remote.client().read(opened.handle, offset, FRAME_PAYLOAD_MAX).await;
                    let piece = piece.with_context(|| shown(path))?;
                    if piece.is_empty() {
                        break;
                    }
                    output::write_all(&piece)?;
                    offset += piece.len() as u64;
                }
                remote.client().release(opened.handle);
            }
            Ok(())
        })
        .await?;
    Ok(Written)
}
