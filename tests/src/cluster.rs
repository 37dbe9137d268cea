//! A cluster of real processes: master, chunkservers, mounts.

use crate::daemon::Daemon;
use crate::mounts::{self, is_mounted};
use crate::network::Network;
use crate::ports::free_port;
use crate::power;
use crate::programs::program;
use crate::script::{Ran, Script};
use crate::wait::until;
use crate::wall_clock;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Bound on anything that is started.
const READY: Duration = Duration::from_secs(30);
/// A port can be lost to somebody who was faster.
const STARTS_MAX: usize = 5;

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub chunkservers: usize,
    /// Small, so that every path crosses chunk borders.
    pub chunk_size: &'static str,
    /// Copies.
    pub goal: u8,
    /// More flags of the master.
    pub master_flags: &'static [&'static str],
    /// More flags of every chunkserver.
    pub chunkserver_flags: &'static [&'static str],
    /// Racks of the first chunkservers; the others have none.
    pub racks: &'static [&'static str],
    /// Where the master keeps its data, if not in the cluster's directory.
    pub master_data: Option<PathBuf>,
    /// Every chunkserver believes that it runs on a machine of its own, by a boot id that is its own.
    pub machines: bool,
    /// Every process runs on a host of this network, which is called like it: `master`, `chunkserver-0`, `mount-0`.
    pub network: Option<Arc<Network>>,
    /// Every process has a wall clock of its own, for [`Cluster::step_clock`].
    pub clocks: bool,
    /// Bound on the whole test: then every request to a mount fails.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chunkservers: 3,
            chunk_size: "256KiB",
            goal: 3,
            master_flags: &[],
            chunkserver_flags: &["--reserve-mib", "16", "--watermark-mib", "16"],
            racks: &[],
            master_data: None,
            machines: false,
            network: None,
            clocks: false,
            deadline: Duration::from_secs(300),
        }
    }
}

/// Mount points, for whoever has to free those that wait for an answer.
pub(crate) type MountPoints = Arc<Mutex<Vec<PathBuf>>>;

/// See the head of this file.
pub struct Cluster {
    master: Daemon,
    chunkservers: Vec<Daemon>,
    mounts: Vec<(PathBuf, Daemon)>,
    points: MountPoints,
    address: String,
    options: Options,
    directory: Option<TempDir>,
}

impl Cluster {
    /// Starts master and chunkservers in a new directory and waits until all are registered.
    pub fn start(options: Options) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("gfs-").tempdir_in("/tmp")?; // short: sockets live in it
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let (address, master) = start_master(directory.path(), &options)?;
        let mut cluster = Self {
            master,
            chunkservers: Vec::new(),
            mounts: Vec::new(),
            points: MountPoints::default(),
            address,
            directory: Some(directory),
            options,
        };
        if let Err(error) = cluster.start_chunkservers() {
            return Err(error.context(cluster.logs()));
        }
        Ok(cluster)
    }

    fn start_chunkservers(&mut self) -> Result<()> {
        for number in 0..self.options.chunkservers {
            let data = self.chunkserver_directory(number);
            if !data.exists() {
                fs::create_dir(&data)?;
            }
            let mut daemon = self.chunkserver(number)?;
            daemon.start()?;
            self.chunkservers.push(daemon);
        }
        self.wait_chunkservers(self.options.chunkservers)
    }

    fn chunkserver(&self, number: usize) -> Result<Daemon> {
        let name = format!("chunkserver-{number}");
        let mut arguments: Vec<String> = vec![
            "--directory".into(),
            self.chunkserver_directory(number).display().to_string(),
            "--listen".into(),
            self.options.listen(&name)?,
            "--socket".into(),
            self.path(&format!("s{number}.sock")).display().to_string(),
            "--master".into(),
            self.address.clone(),
        ];
        if let Some(rack) = self.options.racks.get(number) {
            arguments.extend(["--rack".into(), (*rack).to_owned()]);
        }
        arguments.extend(self.options.chunkserver_flags.iter().map(|flag| (*flag).to_owned()));
        let log = self.path(&format!("{name}.log"));
        arguments.extend(self.options.insecure());
        let mut daemon = Daemon::new(&name, program("gfs-chunkserver")?, arguments, log);
        let mut wrapper = self.options.enter(&name)?;
        if self.options.machines {
            wrapper.extend(power::machine(&self.boot_id(number))?);
        }
        daemon.wrap(wrapper);
        daemon.environment(self.options.clock(&name, self.directory())?);
        Ok(daemon)
    }

    /// From now on the wall clock of a process differs by so many seconds from the machine's; for clusters with
    /// `clocks`. It takes a second until the process sees it.
    pub fn step_clock(&self, name: &str, seconds: i64) -> Result<()> {
        wall_clock::step(&clock_file(self.directory(), name), seconds)
    }

    /// What a chunkserver with a machine of its own takes for that machine's boot id.
    fn boot_id(&self, number: usize) -> PathBuf {
        self.path(&format!("boot-{number}"))
    }

    /// Everything of this cluster is in here.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// A path in [`Cluster::directory`].
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory().join(below)
    }

    /// Where a chunkserver keeps its chunks. A test may mount something there before the start.
    pub fn chunkserver_directory(&self, number: usize) -> PathBuf {
        self.path(&format!("c{number}"))
    }

    /// Where the master keeps its data.
    pub fn master_directory(&self) -> PathBuf {
        self.options.master_data.clone().unwrap_or_else(|| self.path("master"))
    }

    /// Address of the master.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The mount points, for the watchdog.
    pub(crate) fn points(&self) -> MountPoints {
        Arc::clone(&self.points)
    }

    /// Mounts it once more; where.
    pub fn mount(&mut self) -> Result<PathBuf> {
        self.mount_with(&[])
    }

    /// [`Cluster::mount`] with more flags.
    pub fn mount_with(&mut self, flags: &[&str]) -> Result<PathBuf> {
        let number = self.mounts.len();
        let point = self.path(&format!("m{number}"));
        fs::create_dir(&point)?;
        let mut arguments = vec!["--foreground".into(), "--master".into(), self.address.clone()];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        arguments.push(point.display().to_string());
        let name = format!("mount-{number}");
        let log = self.path(&format!("{name}.log"));
        // SIGTERM: a mount whose daemon is killed stays
        let mut daemon = Daemon::new(&name, program("gfs-fuse")?, arguments, log).orphan_signal(Signal::TERM);
        daemon.wrap(self.options.enter(&name)?);
        daemon.environment(self.options.clock(&name, self.directory())?);
        self.points.lock().unwrap_or_else(PoisonError::into_inner).push(point.clone());
        self.mounts.push((point.clone(), daemon));
        self.start_mount(number)?;
        Ok(point)
    }

    /// Starts a mount that was ended.
    pub fn start_mount(&mut self, number: usize) -> Result<()> {
        let (point, daemon) = &mut self.mounts[number];
        daemon.start()?;
        let point = point.clone();
        daemon.wait_ready("mounts", READY, || Ok(mounts::answers(&point)))
    }

    /// SIGTERM to a mount: everything is written, nothing stays mounted.
    pub fn stop_mount(&mut self, number: usize) -> Result<()> {
        let (point, daemon) = &mut self.mounts[number];
        daemon.stop()?;
        ensure!(!is_mounted(point), "{} is still mounted", point.display());
        Ok(())
    }

    /// SIGKILL to a mount: the kernel keeps the mount, and whoever uses it gets errors.
    pub fn kill_mount(&mut self, number: usize) -> Result<()> {
        self.mounts[number].1.kill()
    }

    /// A mount that has nothing in memory yet, in place of one that was killed.
    pub fn replace_mount(&mut self, number: usize) -> Result<()> {
        self.kill_mount(number)?;
        mounts::detach(&self.mounts[number].0)?;
        self.start_mount(number)
    }

    /// SIGKILL.
    pub fn kill_master(&mut self) -> Result<()> {
        self.master.kill()
    }

    /// Starts the master again where it was, and waits until it answers.
    pub fn start_master(&mut self) -> Result<()> {
        self.master.start()?;
        let (address, network) = (self.address.clone(), self.options.network.clone());
        self.master.wait_ready("answers", READY, || answers(network.as_deref(), &address))
    }

    /// SIGKILL.
    pub fn kill_chunkserver(&mut self, number: usize) -> Result<()> {
        self.chunkservers[number].kill()
    }

    /// The machines of these chunkservers lose power, at the same time.
    pub fn cut_power(&mut self, numbers: &[usize]) -> Result<()> {
        numbers.iter().try_for_each(|number| self.kill_chunkserver(*number))?;
        numbers.iter().try_for_each(|number| power::cut(&self.chunkserver_directory(*number)))
    }

    /// The machine of a chunkserver that was killed starts again. For clusters with `machines`.
    pub fn restart_machine(&self, number: usize) -> Result<()> {
        power::boot(&self.boot_id(number))
    }

    /// Starts a chunkserver that was ended and does not wait for it.
    pub fn launch_chunkserver(&mut self, number: usize) -> Result<()> {
        self.chunkservers[number].start()
    }

    /// Chunkservers, running or not.
    pub fn chunkserver_count(&self) -> usize {
        self.chunkservers.len()
    }

    /// The master's process.
    pub fn master_process(&mut self) -> &mut Daemon {
        &mut self.master
    }

    /// The process of a chunkserver, to change how it is started.
    pub fn chunkserver_process_mut(&mut self, number: usize) -> &mut Daemon {
        &mut self.chunkservers[number]
    }

    /// SIGTERM, and a clean end.
    pub fn stop_chunkserver(&mut self, number: usize) -> Result<()> {
        self.chunkservers[number].stop()
    }

    /// Starts a chunkserver that was ended, with what it has; it registers again.
    pub fn start_chunkserver(&mut self, number: usize) -> Result<()> {
        self.chunkservers[number].start()?;
        self.wait_chunkservers(self.running())
    }

    /// One chunkserver more, with nothing.
    pub fn add_chunkserver(&mut self) -> Result<()> {
        let data = self.path(&format!("added-{}", self.chunkservers.len()));
        fs::create_dir(&data)?;
        self.add_chunkserver_at(&data)
    }

    /// The number that the master gave to a chunkserver.
    pub fn server_name(&self, number: usize) -> Result<String> {
        let data = self.chunkserver_directory(number).display().to_string();
        let servers = self.gfsctl_json(&["chunkservers"])?;
        let has =
            |server: &&Value| server["directories"].as_array().is_some_and(|all| all.iter().any(|d| d["path"] == data));
        let found = servers["chunkservers"].as_array().and_then(|all| all.iter().find(has));
        let id = found.and_then(|server| server["server"].as_u64()).with_context(|| format!("{data} in {servers}"))?;
        Ok(format!("cs{id}"))
    }

    /// One chunkserver more, with its chunks in `data`.
    pub fn add_chunkserver_at(&mut self, data: &Path) -> Result<()> {
        let number = self.chunkservers.len();
        std::os::unix::fs::symlink(data, self.chunkserver_directory(number))?;
        let mut daemon = self.chunkserver(number)?;
        daemon.start()?;
        self.chunkservers.push(daemon);
        self.wait_chunkservers(self.running())
    }

    /// SIGSTOP to the master: connections are taken, nothing is answered.
    pub fn pause_master(&self) -> Result<()> {
        self.master.pause()
    }

    /// SIGSTOP to a chunkserver, likewise.
    pub fn pause_chunkserver(&self, number: usize) -> Result<()> {
        self.chunkservers[number].pause()
    }

    /// SIGCONT to a chunkserver.
    pub fn resume_chunkserver(&self, number: usize) -> Result<()> {
        self.chunkservers[number].signal(Signal::CONT)
    }

    /// SIGCONT to the master.
    pub fn resume_master(&self) -> Result<()> {
        self.master.signal(Signal::CONT)
    }

    /// A mount must end by itself, and well.
    pub fn wait_mount_end(&mut self, number: usize) -> Result<()> {
        self.mounts[number].1.wait_end()
    }

    /// The process of a chunkserver, to signal it.
    pub fn chunkserver_process(&self, number: usize) -> &Daemon {
        &self.chunkservers[number]
    }

    fn running(&self) -> usize {
        self.chunkservers.iter().filter(|it| it.pid().is_some()).count()
    }

    /// Waits until so many chunkservers are up at the master.
    pub fn wait_chunkservers(&mut self, count: usize) -> Result<()> {
        let mut dead = None;
        until(&format!("{count} chunkservers are up"), READY, || {
            dead = self.check().err();
            Ok(dead.is_some() || self.gfsctl_json(&["status"])?["chunkservers"]["up"] == count)
        })?;
        dead.map_or(Ok(()), Err)
    }

    /// Stops mounts, chunkservers and master cleanly, in this order, and starts them again.
    pub fn restart_all(&mut self) -> Result<()> {
        self.stop()?;
        self.start_master()?;
        for number in 0..self.chunkservers.len() {
            self.chunkservers[number].start()?;
        }
        self.wait_chunkservers(self.chunkservers.len())?;
        (0..self.mounts.len()).try_for_each(|number| self.start_mount(number))
    }

    /// Stops everything that runs, cleanly: each process must end in time and with success.
    pub fn stop(&mut self) -> Result<()> {
        self.check()?;
        for number in 0..self.mounts.len() {
            if self.mounts[number].1.pid().is_some() {
                self.stop_mount(number)?;
            }
        }
        for daemon in &self.chunkservers {
            daemon.signal(Signal::TERM)?;
        }
        self.chunkservers.iter_mut().try_for_each(Daemon::wait_end)?;
        self.master.stop()
    }

    /// No process has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let mounts = self.mounts.iter_mut().map(|(_, daemon)| daemon);
        std::iter::once(&mut self.master).chain(&mut self.chunkservers).chain(mounts).try_for_each(Daemon::check)
    }

    /// `gfsctl` on this cluster; it must succeed.
    pub fn gfsctl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.gfsctl_script(arguments)?.run()?.out)
    }

    /// `gfsctl --json` on this cluster.
    pub fn gfsctl_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.gfsctl(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("gfsctl {arguments:?} gave {text:?}"))
    }

    /// `gfsctl` on this cluster, whatever comes of it.
    pub fn gfsctl_attempt(&self, arguments: &[&str]) -> Result<Ran> {
        self.gfsctl_script(arguments)?.attempt()
    }

    fn gfsctl_script(&self, arguments: &[&str]) -> Result<Script> {
        Ok(gfsctl(self.options.network.as_deref(), arguments)?.env("GFS_MASTER", &self.address))
    }

    /// The last lines of every process.
    pub fn logs(&self) -> String {
        const LINES: usize = 30;
        let mounts = self.mounts.iter().map(|(_, daemon)| daemon);
        let mut text = String::new();
        for daemon in std::iter::once(&self.master).chain(&self.chunkservers).chain(mounts) {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(text, "--- {} ({} lines)", daemon.name(), lines.len()); // a String takes everything
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                let _ = writeln!(text, "{line}"); // likewise
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stuck = false;
        for (point, daemon) in &mut self.mounts {
            // nothing is asked of the mount any more, so nothing here can hang
            let _ = daemon.kill();
            mounts::abort(point);
            stuck |= mounts::detach(point).is_err();
        }
        self.chunkservers.clear();
        let _ = self.master.kill();
        let keep = std::env::var_os("GFS_TEST_KEEP").is_some();
        if let Some(directory) = self.directory.take().filter(|_| keep || stuck) {
            let _ = directory.keep(); // for people to look at; what is still mounted must not be deleted
        }
    }
}

impl Options {
    /// Where a process is to listen.
    fn listen(&self, name: &str) -> Result<String> {
        let port = free_port()?;
        match &self.network {
            Some(network) => Ok(format!("{}:{port}", network.address(name)?)),
            None => Ok(format!("127.0.0.1:{port}")),
        }
    }

    /// Flags of a server that others than this machine can reach.
    fn insecure(&self) -> Option<String> {
        self.network.as_ref().map(|_| "--insecure-network".to_owned())
    }

    /// A command that becomes a process on its host.
    fn enter(&self, name: &str) -> Result<Vec<String>> {
        self.network.as_ref().map_or(Ok(Vec::new()), |network| network.enter(name))
    }

    fn clock(&self, name: &str, directory: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
        if self.clocks { wall_clock::environment(&clock_file(directory, name)) } else { Ok(Vec::new()) }
    }
}

fn clock_file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.clock"))
}

/// `gfsctl`, where it reaches everybody.
fn gfsctl(network: Option<&Network>, arguments: &[&str]) -> Result<Script> {
    let program = program("gfsctl")?;
    let Some(network) = network else { return Ok(Script::new(&program, arguments)) };
    let enter = network.enter_hub()?;
    let (first, words) = enter.split_first().context("a command")?;
    let program = program.display().to_string();
    let words: Vec<&str> = words.iter().map(String::as_str).chain([program.as_str()]).collect();
    Ok(Script::new(Path::new(first), &[&words, arguments].concat()))
}

fn start_master(directory: &Path, options: &Options) -> Result<(String, Daemon)> {
    for attempt in 1.. {
        let address = options.listen("master")?;
        let data = options.master_data.clone().unwrap_or_else(|| directory.join("master")).display().to_string();
        let arguments: Vec<String> =
            ["--data", &data, "--listen", &address, "--chunk-size", options.chunk_size, "--goal"]
                .into_iter()
                .map(str::to_owned)
                .chain([options.goal.to_string()])
                .chain(options.master_flags.iter().map(|flag| (*flag).to_owned()))
                .chain(options.insecure())
                .collect();
        let log = directory.join("master.log");
        let mut master = Daemon::new("master", program("gfs-master")?, arguments, log);
        master.wrap(options.enter("master")?);
        master.environment(options.clock("master", directory)?);
        master.start()?;
        match master.wait_ready("answers", READY, || answers(options.network.as_deref(), &address)) {
            Ok(()) => return Ok((address, master)),
            Err(_) if attempt < STARTS_MAX && master.log().contains("in use") => {}
            Err(error) => return Err(error.context(master.log())),
        }
    }
    unreachable!("the last attempt returns")
}

fn answers(network: Option<&Network>, address: &str) -> Result<bool> {
    Ok(gfsctl(network, &["--master", address, "status"])?.attempt()?.status == 0)
}
