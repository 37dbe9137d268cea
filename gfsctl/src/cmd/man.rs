//! `gfsctl man`: manual pages, one for each command.

use crate::cli::Cli;
use crate::context::Context;
use crate::output::{Page, Report};
use crate::remote::shown;
use anyhow::Context as _;
use clap::CommandFactory;
use serde::Serialize;
use std::path::PathBuf;

/// Write manual pages into a directory
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// Local directory; made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) async fn run(_: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let directory = args.directory;
    std::fs::create_dir_all(&directory).with_context(|| shown(&directory))?;
    clap_mangen::generate_to(Cli::command(), &directory).with_context(|| shown(&directory))?;
    Ok(Pages { directory: shown(&directory) })
}

#[derive(Serialize)]
struct Pages {
    directory: String,
}

impl Report for Pages {
    fn human(&self, page: &mut Page) {
        page.line(format!("manual pages are in {0}: man {0}/gfsctl.1", self.directory));
    }
}
