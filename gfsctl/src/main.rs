//! `gfsctl`: looks at a cluster, moves files in and out of it, and runs a local one.
//!
//! One file for each command under `cmd/`; `output` is the only place that prints; `local` runs the
//! real programs as separate processes and links none of them.
//! Exit status: 0 done, 1 failed, 2 the command line or a setting makes no sense, 130
//! interrupted.

mod chunkserver;
mod cli;
mod cmd;
mod compare;
mod context;
mod failure;
mod format;
mod interrupt;
mod local;
mod output;
mod progress;
mod remote;
mod transfer;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let status = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let status = runtime.block_on(run(cli));
            runtime.shutdown_background(); // a read from a terminal that nobody answers does not keep us
            status
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start threads")),
    };
    ExitCode::from(status.unwrap_or_else(|error| {
        output::complain(&error);
        failure::exit_status(&error)
    }))
}

async fn run(cli: cli::Cli) -> anyhow::Result<u8> {
    let context = context::Context::new(cli.master, cli.json);
    cli.command.run(&context).await
}
