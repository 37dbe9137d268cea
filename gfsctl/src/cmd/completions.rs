//! `gfsctl completions`: what a shell needs to complete our commands.

use crate::cli::Cli;
use crate::context::Context;
use crate::output::{self, Report, Written};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a shell's completions of this program
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl completions bash >/etc/bash_completion.d/gfsctl")]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

pub(crate) async fn run(_: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gfsctl", &mut script);
    output::write_all(&script)?;
    Ok(Written)
}
