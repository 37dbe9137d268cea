//! `gfs-master`: settings, logging, signals. The master itself is [`gfs_master::node::Node`].

use anyhow::Context;
use clap::Parser;
use gfs_master::config::{Args, Config, Settings};
use gfs_master::node::Node;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit status for settings that cannot be used.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let settings = match args.merged() {
        Ok(settings) => settings,
        Err(error) => return complain(&error.into(), USAGE),
    };
    if args.print_config {
        return print(settings);
    }
    let config = match settings.validate(args.restored) {
        Ok(config) => config,
        Err(error) => return complain(&error.into(), USAGE),
    };
    let filter = match EnvFilter::builder().parse(&config.log) {
        Ok(filter) => filter,
        Err(error) => return complain(&anyhow::Error::from(error).context(format!("log = {:?}", config.log)), USAGE),
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime_threads())
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        let node = Node::start(config).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        node.stop().await;
        Ok(())
    })
}

/// Half of the processors: a request costs less than handing it to another thread, and on a small machine
/// the other half is needed by what shares it.
fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

fn print(settings: Settings) -> ExitCode {
    let text = match settings.to_file() {
        Ok(text) => text,
        Err(error) => return complain(&error.into(), 1),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.into(), 1),
    }
}

fn complain(error: &anyhow::Error, status: u8) -> ExitCode {
    // Nothing can be done if even this fails.
    drop(writeln!(std::io::stderr(), "gfs-master: {error:#}"));
    ExitCode::from(status)
}
