//! `gfs-chunkserver`: settings, log, signals; everything else is in the library.

use anyhow::Context as _;
use clap::Parser;
use gfs_chunkserver::config::{CommandLine, Config};
use gfs_chunkserver::run::{Chunkserver, Seams};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Wrong usage or settings; 1 is any other failure.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let print_config = command_line.print_config;
    let config = match command_line.into_config() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error.into()),
    };
    if print_config {
        return print(&config);
    }
    if let Err(error) = start_log(&config) {
        return fail(USAGE, &error);
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn print(config: &Config) -> ExitCode {
    let printed = toml::to_string(&config.as_settings()).context("a setting cannot be written as TOML");
    let printed = printed
        .and_then(|text| std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output"));
    printed.map_or_else(|error| fail(1, &error), |()| ExitCode::SUCCESS)
}

fn fail(status: u8, error: &anyhow::Error) -> ExitCode {
    // nobody is left to tell if standard error is gone
    let _ = writeln!(std::io::stderr(), "gfs-chunkserver: {error:#}");
    ExitCode::from(status)
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).with_context(|| format!("setting log: {:?}", config.log))?;
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    log.with_target(false).init();
    Ok(())
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        // on a worker's thread: the main one may not make way for blocking work
        let mut server = tokio::spawn(Chunkserver::start(config, Seams::default())).await??;
        let ended = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            refusal = server.refused() => Err(refusal),
        };
        tracing::info!("stopping");
        tokio::spawn(server.stop()).await??;
        Ok(ended?)
    })
}
