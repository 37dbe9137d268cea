//! Settings of the master: command line over file over defaults, validated once.
//!
//! Inside the program only [`Config`] is used. Every key of the file is also a flag of the same name;
//! keys that nobody knows are refused.

mod repair;

use crate::repair::RepairSettings;
use clap::Parser;
use gfs_proto::layout::ChunkSize;
use gfs_proto::{limits, units};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Cache of the metadata file when nothing else is said.
const CACHE_DEFAULT: &str = "64MiB";
/// Copies at a time at one chunkserver when nothing else is said.
const COPIES_DEFAULT: u32 = 4;
/// Where the data is kept when nothing else is said.
const DATA_DEFAULT: &str = "/var/lib/gfs/master";

/// The master of a GFS cluster: keeps the namespace, grants leases, watches the chunkservers.
#[derive(Parser, Debug, Default)]
#[command(name = "gfs-master", version)]
pub struct Args {
    /// Settings in TOML; each key is also a flag of the same name
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show the settings that result, as a file for --config, and end
    #[arg(long)]
    pub print_config: bool,
    /// The directory was restored from a backup: numbers given out since then will be recognised
    #[arg(long)]
    pub restored: bool,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the file may say, and the command line too. Nothing in it is checked yet.
#[derive(clap::Args, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Directory with metadata and operation log; an empty one is formatted [default: /var/lib/gfs/master]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen at [default: 127.0.0.1:9400]
    #[arg(long, value_name = "ADDRESS", env = limits::MASTER_ADDRESS_ENV)]
    pub listen: Option<String>,
    /// Chunk size of a new cluster, 64KiB to 256MiB, a power of two [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub chunk_size: Option<String>,
    /// Copies of each chunk in a new cluster, 1 to 9 [default: 3]
    #[arg(long, value_name = "COPIES")]
    pub goal: Option<u8>,
    /// Memory for caching the metadata file [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub cache: Option<String>,
    /// Listen on an address that others can reach although connections are not encrypted
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub insecure_network: Option<bool>,
    /// A chunkserver that was silent for this long gets no requests [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub suspect_after: Option<String>,
    /// A chunkserver that was silent for this long has lost its copies: others are made [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub lost_after: Option<String>,
    /// So long after a chunkserver was stopped in order its copies are not made elsewhere [default: 10min]
    #[arg(long, value_name = "TIME")]
    pub maintenance_window: Option<String>,
    /// So long replicas are kept that the master knows nothing of, see gfsctl chunks --orphaned [default: 7d]
    #[arg(long, value_name = "TIME")]
    pub quarantine_retention: Option<String>,
    /// Bytes per second that copies of chunks move in the whole cluster, or "unlimited" [default: unlimited]
    #[arg(long, value_name = "RATE")]
    pub repair_rate: Option<String>,
    /// Bytes per second that copies of chunks move from or to one chunkserver, or "unlimited" [default: 64MiB]
    #[arg(long, value_name = "RATE")]
    pub repair_rate_per_server: Option<String>,
    /// Copies that one chunkserver gives or takes at a time, 1 to 16 [default: 4]
    #[arg(long, value_name = "COUNT")]
    pub repair_copies: Option<u32>,
    /// Copies on stable storage that an fsync waits for, if goal and chunkservers are as many [default: 2]
    #[arg(long, value_name = "COPIES")]
    pub copies_min: Option<u8>,
    /// Move chunks if two chunkservers differ by more than this percentage of their room, or "off" [default: 10]
    #[arg(long, value_name = "PERCENT")]
    pub rebalance_threshold: Option<String>,
    /// Bytes per second that are moved for even filling [default: 16MiB]
    #[arg(long, value_name = "RATE")]
    pub rebalance_rate: Option<String>,
    /// What to log: error, warn, info, debug, trace, or a filter as of tracing [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Copies at a time at one chunkserver at most: so many it makes at once.
pub const COPIES_MAX: u32 = 16;

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory with metadata and operation log.
    pub data: PathBuf,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Asked for at format; an existing directory must agree with it.
    pub chunk_size: Option<ChunkSize>,
    /// Asked for at format; an existing directory must agree with it.
    pub goal: Option<u8>,
    /// Bytes of the metadata file's cache.
    pub cache_bytes: usize,
    /// Filter for tracing.
    pub log: String,
    /// The directory comes from a backup.
    pub restored: bool,
    /// Bounds on repair.
    pub repair: RepairSettings,
    /// Intervals; constants but for tests.
    pub timings: Timings,
}

/// Every interval that the master acts by. Programs use the default; tests shorten it.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Told to chunkservers.
    pub heartbeat: Duration,
    /// Told to chunkservers; a server that was not heard of for this long serves no reads.
    pub read_lease: Duration,
    /// A chunkserver that was not heard of for this long gets no new chunks and no requests.
    pub suspect_after: Duration,
    /// A chunkserver that was not heard of for this long has lost its copies: others are made.
    pub lost_after: Duration,
    /// So long after a clean stop of a chunkserver its copies are not missed.
    pub maintenance: Duration,
    /// Life of a chunk lease.
    pub lease: Duration,
    /// Told to clients.
    pub keep_alive: Duration,
    /// A session that was not heard of for this long is ended.
    pub expiry: Duration,
    /// Bound on a command to a chunkserver that somebody waits for.
    pub command: Duration,
    /// Bound on a copy of a whole chunk from one chunkserver to another.
    pub copy: Duration,
    /// A chunk that is being written is copied only after this, and its writer is held up then.
    pub repair_patience: Duration,
    /// Bound on a client's answer to a recall.
    pub recall: Duration,
    /// A replica that nobody knows of is kept for this long.
    pub quarantine: Duration,
    /// Rhythm of everything lazy: sizes, expiry, garbage.
    pub tick: Duration,
    /// A checkpoint is made at least this often while anything changes.
    pub checkpoint: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: limits::HEARTBEAT,
            read_lease: limits::READ_LEASE,
            suspect_after: Duration::from_secs(5),
            lost_after: Duration::from_secs(30),
            maintenance: Duration::from_secs(600),
            lease: limits::LEASE,
            keep_alive: limits::SESSION_KEEP_ALIVE,
            expiry: limits::SESSION_EXPIRY,
            command: Duration::from_secs(2),
            copy: Duration::from_secs(60),
            repair_patience: Duration::from_secs(10),
            recall: Duration::from_secs(5),
            quarantine: Duration::from_secs(7 * 86_400),
            tick: Duration::from_secs(1),
            checkpoint: Duration::from_secs(5),
        }
    }
}

/// Why the settings cannot be used. The text names the setting and what to do.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has keys that nobody knows.
    #[error("the configuration file {} is not usable", path.display())]
    Parse {
        /// Of the file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A size is not one.
    #[error("{setting} = {value:?} is not a size; write a number of bytes or e.g. 64KiB, 1MiB, 2GiB")]
    Size {
        /// Its name.
        setting: &'static str,
        /// What was given.
        value: String,
    },
    /// Outside of what is possible.
    #[error("chunk-size = {0} is not possible; use a power of two from 64KiB to 256MiB")]
    ChunkSize(String),
    /// Outside of what is possible.
    #[error("goal = {0} is not possible; use 1 to {max} copies", max = limits::GOAL_MAX)]
    Goal(u8),
    /// Not an address.
    #[error("listen = {value:?} is not an address and port of this machine, such as {default}",
        default = limits::MASTER_ADDRESS_DEFAULT)]
    Listen {
        /// What was given.
        value: String,
        /// Why, if the resolver said.
        source: Option<std::io::Error>,
    },
    /// Not a time, or too short.
    #[error("{setting} = {value:?} is not possible; {advice}")]
    Time {
        /// Which.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What would be.
        advice: &'static str,
    },
    /// Outside of what is possible.
    #[error("repair-copies = {0} is not possible; use 1 to {COPIES_MAX} copies at a time")]
    Copies(u32),
    /// Outside of what is possible.
    #[error("copies-min = {0} is not possible; use 1 to {max} copies", max = limits::GOAL_MAX)]
    CopiesMin(u8),
    /// Not a percentage.
    #[error("rebalance-threshold = {0:?} is not possible; use 1 to 99, in percent of a chunkserver's room, or \"off\"")]
    Threshold(String),
    /// Others could reach an unprotected port.
    #[error(
        "listen = {0} can be reached from other machines, but connections are neither encrypted nor authenticated; \
         listen on a loopback address, or give --insecure-network if the network is trusted"
    )]
    Insecure(SocketAddr),
}

impl Args {
    /// File and flags together, flags first.
    pub fn merged(&self) -> Result<Settings, ConfigError> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(self.settings.clone().over(file))
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

impl Settings {
    fn over(self, below: Self) -> Self {
        Self {
            data: self.data.or(below.data),
            listen: self.listen.or(below.listen),
            chunk_size: self.chunk_size.or(below.chunk_size),
            goal: self.goal.or(below.goal),
            cache: self.cache.or(below.cache),
            insecure_network: self.insecure_network.or(below.insecure_network),
            suspect_after: self.suspect_after.or(below.suspect_after),
            lost_after: self.lost_after.or(below.lost_after),
            maintenance_window: self.maintenance_window.or(below.maintenance_window),
            quarantine_retention: self.quarantine_retention.or(below.quarantine_retention),
            repair_rate: self.repair_rate.or(below.repair_rate),
            repair_rate_per_server: self.repair_rate_per_server.or(below.repair_rate_per_server),
            repair_copies: self.repair_copies.or(below.repair_copies),
            copies_min: self.copies_min.or(below.copies_min),
            rebalance_threshold: self.rebalance_threshold.or(below.rebalance_threshold),
            rebalance_rate: self.rebalance_rate.or(below.rebalance_rate),
            log: self.log.or(below.log),
        }
    }

    /// All settings as a file for `--config`. Chunk size and goal, unless asked for, stand in it as a remark: with them
    /// as settings it could not be used for a directory that was formatted with others.
    pub fn to_file(self) -> Result<String, toml::ser::Error> {
        let filled = self.with_defaults();
        let mut text = toml::to_string(&filled)?;
        let of_new = "of a new cluster; an existing one keeps what it was made with";
        if filled.chunk_size.is_none() {
            let mib = limits::CHUNK_SIZE_DEFAULT >> 20;
            text.push_str(&format!("# chunk-size = \"{mib}MiB\"    {of_new}\n"));
        }
        if filled.goal.is_none() {
            text.push_str(&format!("# goal = {}    {of_new}\n", limits::GOAL_DEFAULT));
        }
        Ok(text)
    }

    /// With the defaults filled in; chunk size and goal stay open, an existing directory knows them.
    #[must_use]
    pub fn with_defaults(self) -> Self {
        self.over(Self {
            data: Some(DATA_DEFAULT.into()),
            listen: Some(limits::MASTER_ADDRESS_DEFAULT.into()),
            cache: Some(CACHE_DEFAULT.into()),
            insecure_network: Some(false),
            suspect_after: Some("5s".into()),
            lost_after: Some("30s".into()),
            maintenance_window: Some("10min".into()),
            quarantine_retention: Some("7d".into()),
            repair_rate: Some("unlimited".into()),
            repair_rate_per_server: Some("64MiB".into()),
            repair_copies: Some(COPIES_DEFAULT),
            copies_min: Some(RepairSettings::default().copies_min),
            rebalance_threshold: Some("10".into()),
            rebalance_rate: Some("16MiB".into()),
            log: Some("info".into()),
            ..Self::default()
        })
    }

    /// Checks everything.
    pub fn validate(self, restored: bool) -> Result<Config, ConfigError> {
        let filled = self.with_defaults();
        let listen = address(filled.listen.as_deref().unwrap_or_default())?;
        if !listen.ip().is_loopback() && filled.insecure_network != Some(true) {
            return Err(ConfigError::Insecure(listen));
        }
        let (repair, timings) = (repair::settings(&filled)?, repair::timings(&filled)?);
        let cache = bytes("cache", filled.cache.as_deref().unwrap_or(CACHE_DEFAULT))?;
        Ok(Config {
            data: filled.data.unwrap_or_else(|| DATA_DEFAULT.into()),
            listen,
            chunk_size: filled.chunk_size.as_deref().map(chunk_size).transpose()?,
            goal: filled.goal.map(goal).transpose()?,
            cache_bytes: usize::try_from(cache).unwrap_or(usize::MAX),
            log: filled.log.unwrap_or_default(),
            restored,
            repair,
            timings,
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let failed = |source| ConfigError::Listen { value: text.to_owned(), source };
    text.to_socket_addrs().map_err(|e| failed(Some(e)))?.next().ok_or_else(|| failed(None))
}

fn chunk_size(text: &str) -> Result<ChunkSize, ConfigError> {
    let wanted = bytes("chunk-size", text)?;
    u32::try_from(wanted).ok().and_then(ChunkSize::new).ok_or_else(|| ConfigError::ChunkSize(text.to_owned()))
}

fn goal(copies: u8) -> Result<u8, ConfigError> {
    if (1..=limits::GOAL_MAX).contains(&copies) { Ok(copies) } else { Err(ConfigError::Goal(copies)) }
}

fn bytes(setting: &'static str, text: &str) -> Result<u64, ConfigError> {
    units::bytes(text).ok_or_else(|| ConfigError::Size { setting, value: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn from_file(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), text).expect("written");
        let path = file.path().to_str().expect("a plain path").to_owned();
        let line = ["gfs-master", "--config", &path].into_iter().chain(flags.iter().copied());
        let args = Args::parse_from(line);
        args.merged()?.validate(args.restored)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = from_file("goal = 2\nlisten = \"127.0.0.1:1\"\n", &["--goal", "1"]).expect("valid");
        assert_eq!((config.goal, config.listen.port()), (Some(1), 1));
        assert_eq!(config.cache_bytes, 64 << 20);
        assert_eq!(config.chunk_size, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (file, flags, named) in [
            ("gaol = 2", &[][..], "gaol"),
            ("goal = 10", &[], "goal = 10"),
            ("goal = 0", &[], "goal = 0"),
            ("chunk-size = \"65KiB\"", &[], "65KiB"),
            ("chunk-size = \"512MiB\"", &[], "512MiB"),
            ("chunk-size = \"99999999999999999999\"", &[], "chunk-size"),
            ("cache = \"much\"", &[], "much"),
            ("lost-after = \"3s\"", &[], "lost-after"),
            ("lost-after = \"soon\"", &[], "soon"),
            ("suspect-after = \"1s\"", &[], "suspect-after"),
            ("maintenance-window = \"5 years\"", &[], "5 years"),
            ("quarantine-retention = \"a week\"", &[], "quarantine-retention"),
            ("repair-rate = \"0\"", &[], "repair-rate"),
            ("repair-rate-per-server = \"fast\"", &[], "fast"),
            ("repair-copies = 17", &[], "repair-copies = 17"),
            ("copies-min = 0", &[], "copies-min = 0"),
            ("copies-min = 10", &[], "copies-min = 10"),
            ("rebalance-threshold = \"100\"", &[], "rebalance-threshold"),
            ("rebalance-rate = \"0\"", &[], "rebalance-rate"),
            ("", &["--listen", "nonsense"], "nonsense"),
            ("", &["--listen", "0.0.0.0:9400"], "--insecure-network"),
        ] {
            let error = from_file(file, flags).expect_err(file);
            let error = format!("{:#}", anyhow::Error::from(error));
            assert!(error.contains(named), "{error:?} does not name {named:?}");
            assert!(error.matches("unknown field").count() <= 1, "said once: {error}");
        }
    }

    #[test]
    fn an_open_network_must_be_asked_for() {
        assert!(from_file("", &["--listen", "0.0.0.0:9400", "--insecure-network"]).is_ok());
    }

    #[test]
    fn printed_settings_are_a_valid_file() {
        let printed = Settings::default().to_file().expect("plain values");
        let read: Settings = toml::from_str(&printed).expect("own output");
        assert_eq!(read, Settings::default().with_defaults());
        let asked = Settings { goal: Some(2), ..Settings::default() }.to_file().expect("plain values");
        assert!(asked.contains("\ngoal = 2\n") && !asked.contains("# goal"), "{asked}");
        for flag in Args::command().get_arguments().filter_map(|flag| flag.get_long()) {
            let known =
                ["config", "print-config", "restored"].contains(&flag) || printed.contains(&format!("{flag} = "));
            assert!(known, "{flag} is not printed: {printed}");
        }
    }
}
