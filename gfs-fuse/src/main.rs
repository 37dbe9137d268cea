//! `gfs-fuse`: mounts the file system. This file reads the command line, brings the mount up and takes
//! it down; what the mount does is in [`filesystem`] and behind it in the client library.

mod background;
mod call;
mod convert;
mod filesystem;
mod mount;
mod options;
mod reply;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use filesystem::GfsFilesystem;
use fuser::{Config, Session, SessionACL};
use gfs_client::{Client, ClientConfig, ConnectError};
use gfs_proto::limits::{MASTER_ADDRESS_DEFAULT, MASTER_ADDRESS_ENV};
use options::MountOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use tokio::runtime::Runtime;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// Threads that read requests from the kernel: one for each processor of a small machine; they never
/// wait for a server, so more would not help.
const SESSION_THREADS: usize = 2;

/// Threads of the client's runtime: half the processors. A second worker on a small machine takes work
/// over from the first at the price of a wake-up, which is more than the work.
fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// Mounts the file system.
///
/// Without --foreground it returns as soon as the mount works. SIGTERM, SIGINT or `umount` flush
/// everything and end it.
#[derive(Parser, Debug)]
#[command(name = "gfs-fuse", version, after_help = EXAMPLES)]
struct Arguments {
    /// Address of the master, HOST:PORT [default: what GFS_MASTER says, or 127.0.0.1:9400]
    #[arg(long, value_name = "ADDRESS")]
    master: Option<String>,

    /// Mount options, separated by commas: ro, noatime, nosuid, nodev, noexec, allow_other, timeout=SECONDS
    /// (bound on any operation, 60 if not given), cache=SIZE, dirty=SIZE, master=ADDRESS, fsname=NAME
    #[arg(short, value_name = "OPTIONS", allow_hyphen_values = true)]
    o: Vec<String>,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    /// Where a mount in the background writes its log
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or a filter such as gfs_client=debug
    #[arg(long, env = "GFS_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// [SOURCE] MOUNTPOINT; SOURCE, as in /etc/fstab, is the address of the master or any word
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    paths: Vec<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  gfs-fuse /mnt/gfs
  gfs-fuse --master 10.0.0.5:9400 -o ro,timeout=10 /mnt/gfs
  umount /mnt/gfs

In /etc/fstab, with gfs-fuse linked as /sbin/mount.fuse.gfs:
  10.0.0.5:9400  /mnt/gfs  fuse.gfs  _netdev,noatime  0  0";

/// Everything that was asked for, checked.
struct Plan {
    client: ClientConfig,
    options: MountOptions,
    mountpoint: PathBuf,
    source: String,
}

/// An error with the exit status that it deserves.
pub(crate) struct Failure {
    error: anyhow::Error,
    usage: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, usage: false }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(helper_arguments(std::env::args().collect()));
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("gfs-fuse: {:#}", failure.error));
            ExitCode::from(if failure.usage { 2 } else { 1 })
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the program speaks to its user")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// As `mount.fuse.gfs`, mount(8) calls with flags of its own: -s -n -v are of no meaning here, `-t TYPE`
/// is known.
fn helper_arguments(mut arguments: Vec<String>) -> Vec<String> {
    let is_helper = arguments.first().is_some_and(|program| program.rsplit('/').next() == Some("mount.fuse.gfs"));
    if is_helper {
        arguments.retain(|argument| !matches!(argument.as_str(), "-s" | "-n" | "-v" | "-sn" | "-sv"));
        if let Some(at) = arguments.iter().position(|argument| argument == "-t") {
            arguments.drain(at..(at + 2).min(arguments.len()));
        }
    }
    arguments
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plan = plan(arguments).map_err(|error| Failure { error, usage: true })?;
    let filter = log_filter(&arguments.log).map_err(|error| Failure { error, usage: true })?;
    if arguments.foreground || background::is_child() {
        if background::is_child() {
            told(background::leave_terminal().map_err(Failure::from))?;
        }
        start_logging(filter);
        return serve(plan);
    }
    // Wrong mountpoints are told before anything is started.
    if mount::clear_dead_mount(&plan.mountpoint)? {
        say(&format!("gfs-fuse: {}", died(&plan.mountpoint)));
    }
    mount::prepare_mountpoint(&plan.mountpoint)?;
    background::start(arguments.log_file.as_deref())
}

fn died(mountpoint: &Path) -> String {
    let mountpoint = mountpoint.display();
    format!("{mountpoint} was the mount of a program that has died (killed, or out of memory?); it was unmounted")
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let options = MountOptions::parse(arguments.o.iter().map(String::as_str)).map_err(anyhow::Error::msg)?;
    let (source, mountpoint) = match arguments.paths.as_slice() {
        [mountpoint] => (None, mountpoint),
        [source, mountpoint] => (source.to_str(), mountpoint),
        _ => bail!("give a mountpoint"),
    };
    let from_source = source.filter(|source| source.contains(':')).map(str::to_owned);
    let master = options.master.clone().or(from_source).or_else(|| arguments.master.clone());
    // read here and not by clap, which takes an argument from the environment for one that is needed
    let master = master.or_else(|| std::env::var(MASTER_ADDRESS_ENV).ok());
    let master = master.unwrap_or_else(|| MASTER_ADDRESS_DEFAULT.to_owned());
    let mut client = ClientConfig {
        name: format!("{}:{}", host_name(), mountpoint.display()),
        master: master.clone(),
        ..ClientConfig::default()
    };
    client.timeout = options.timeout.unwrap_or(client.timeout);
    client.cache_bytes = options.cache_bytes.unwrap_or(client.cache_bytes);
    client.dirty_bytes = options.dirty_bytes.unwrap_or(client.dirty_bytes);
    let source = options.fsname.clone().unwrap_or(master);
    Ok(Plan { client, options, mountpoint: std::path::absolute(mountpoint)?, source })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What is not a filter is told before anything is started;
fn log_filter(text: &str) -> Result<EnvFilter> {
    // its text has its causes in it
    EnvFilter::try_new(text)
        .map_err(|why| anyhow!("--log {text:?} is no filter such as info or gfs_client=debug: {why}"))
}

fn start_logging(filter: EnvFilter) {
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// A failure in the background goes to the instance that waits in the foreground.
fn told<T>(result: Result<T, Failure>) -> Result<T, Failure> {
    result.inspect_err(|failure| {
        if background::is_child() {
            background::report(Err(failure));
        }
    })
}

/// Brings the mount up, waits for its end, takes it down.
fn serve(plan: Plan) -> Result<(), Failure> {
    let running = told(start(&plan))?;
    if background::is_child() {
        background::report(Ok(()));
    }
    info!(mountpoint = %running.mountpoint.display(), master = plan.client.master, "mounted");
    Ok(running.wait()?)
}

/// A mount that works.
struct Running {
    runtime: Runtime,
    client: Arc<Client>,
    mountpoint: PathBuf,
    events: mpsc::Receiver<Event>,
}

/// What ends a mount.
enum Event {
    /// SIGTERM or SIGINT.
    Signal(i32),
    /// The kernel's end: somebody has unmounted, or the device failed.
    SessionEnded(std::io::Result<()>),
}

fn start(plan: &Plan) -> Result<Running, Failure> {
    if mount::clear_dead_mount(&plan.mountpoint)? {
        warn!("{}", died(&plan.mountpoint));
    }
    let mountpoint = mount::prepare_mountpoint(&plan.mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime_threads())
        .enable_all()
        .thread_name("gfs-client")
        .build()
        .context("starting the runtime")?;
    let client = runtime
        .block_on(Client::connect(plan.client.clone()))
        .map_err(|error| Failure { usage: ConnectError::is_usage(&error), error: error.into() })?;
    let (sender, events) = mpsc::channel();
    listen_for_signals(sender.clone())?;
    if let Err(error) = start_session(plan, &mountpoint, (&client, &runtime), sender) {
        let _ = runtime.block_on(client.shutdown());
        return Err(error.into());
    }
    Ok(Running { runtime, client, mountpoint, events })
}

fn start_session(
    plan: &Plan,
    mountpoint: &Path,
    (client, runtime): (&Arc<Client>, &Runtime),
    sender: mpsc::Sender<Event>,
) -> Result<()> {
    let device = mount::mount(mountpoint, &plan.options, &plan.source)?;
    let filesystem = GfsFilesystem::new(client.clone(), runtime.handle().clone());
    let mut config = Config::default();
    config.n_threads = Some(SESSION_THREADS);
    config.clone_fd = true;
    // The kernel itself enforces who may enter (allow_other) and permissions (default_permissions).
    let session = Session::from_fd(filesystem, device, SessionACL::All, config)
        .inspect_err(|_| {
            let _ = mount::unmount(mountpoint);
        })
        .context("the kernel refused the FUSE session")?;
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            // Nobody listens any more if the mount is being taken down already.
            let _ = sender.send(Event::SessionEnded(session.run()));
        })
        .context("starting the session thread")?;
    mount::raise_read_ahead(mountpoint);
    Ok(())
}

fn listen_for_signals(sender: mpsc::Sender<Event>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
        .context("listening for signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().all(|signal| sender.send(Event::Signal(signal)).is_ok()))
        .context("starting the signal thread")?;
    Ok(())
}

impl Running {
    fn wait(self) -> Result<()> {
        match self.events.recv().context("all event sources are gone")? {
            Event::Signal(signal) => {
                info!(signal, "unmounting");
                mount::unmount(&self.mountpoint)?;
            }
            Event::SessionEnded(Ok(())) => info!("unmounted"),
            Event::SessionEnded(Err(cause)) => error!(%cause, "the FUSE session failed"),
        }
        // Everything that was written goes to the chunkservers before the process ends.
        self.runtime.block_on(self.client.shutdown()).context("some data could not be written")?;
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan> {
        let words = helper_arguments(line.split(' ').map(str::to_owned).collect());
        plan(&Arguments::try_parse_from(words)?)
    }

    #[test]
    fn the_ways_to_name_a_master() {
        for (line, master) in [
            ("gfs-fuse --master a:1 /m", "a:1"),
            ("gfs-fuse b:2 /m", "b:2"),
            ("gfs-fuse -o master=c:3 gfs /m", "c:3"),
            ("/sbin/mount.fuse.gfs d:4 /m -o rw,_netdev -n -t fuse.gfs", "d:4"),
        ] {
            let plan = parse(line).expect(line);
            assert_eq!((plan.client.master.as_str(), plan.mountpoint.as_path()), (master, Path::new("/m")), "{line}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(log_filter("info,gfs_client=debug").is_ok());
        let error = log_filter("bogus=foo=x").map(drop).expect_err("no filter");
        assert!(format!("{error:#}").contains("bogus=foo=x"), "{error:#}");
        for line in ["gfs-fuse", "gfs-fuse a b c", "gfs-fuse -o bogus /m", "gfs-fuse --colour /m"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
