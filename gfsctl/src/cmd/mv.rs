//! `gfsctl mv`: other names and places.

use crate::context::Context;
use crate::failure::usage;
use crate::output::{Done, Report};
use crate::remote::shown;
use anyhow::Context as _;
use gfs_proto::attr::FileKind;
use gfs_proto::ops::RenameMode;
use std::path::PathBuf;

/// Rename or move files and directories
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl mv /a /b\n  gfsctl mv /a /b /directory/")]
pub(crate) struct Args {
    /// Fail rather than replace what has the new name
    #[arg(long, short)]
    no_replace: bool,
    /// Paths in the cluster
    #[arg(required = true, value_name = "PATH")]
    sources: Vec<PathBuf>,
    /// The new path, or a directory to move into
    #[arg(value_name = "TARGET")]
    target: PathBuf,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let mode = if args.no_replace { RenameMode::NoReplace } else { RenameMode::Replace };
    context
        .with_files(async |remote| {
            if args.sources.len() > 1 && remote.resolve(&args.target).await?.attr.kind != FileKind::Directory {
                let text = format!("{} is not a directory, so it cannot take several files", shown(&args.target));
                return Err(usage(text));
            }
            for source in &args.sources {
                let from = remote.place(source).await?;
                let to = remote.destination(&args.target, source).await?;
                let renamed = remote
                    .client()
                    .rename(remote.caller(), (from.parent, &from.name), (to.parent, &to.name), mode)
                    .await;
                renamed.with_context(|| format!("cannot move {} to {}", shown(source), shown(&to.path)))?;
            }
            Ok(())
        })
        .await?;
    Ok(Done::new())
}
