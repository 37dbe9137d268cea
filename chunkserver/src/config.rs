//! Settings: from the file given with `--config`, overridden by the environment and by flags, checked
//! once and turned into a [`Config`] that the rest of the program trusts.

use clap::{Args, Parser};
use gfs_proto::limits::{MASTER_ADDRESS_DEFAULT, MASTER_ADDRESS_ENV};
use gfs_proto::units;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Where a chunkserver listens when nothing else is said; the master tells everybody else.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:0";
/// Open connections. Each idle one costs about 10 KiB.
pub const CONNECTIONS_MAX_DEFAULT: usize = 4096;
/// Payload bytes held for requests that are not answered yet, over all connections.
pub const IN_FLIGHT_MIB_MAX_DEFAULT: u64 = 256;
/// Kept free on each storage directory's file system, so that deletes and repairs always work.
pub const RESERVE_MIB_DEFAULT: u64 = 256;
/// Every replica is read once in this time, to find damage.
pub const SCRUB_PERIOD_DAYS_DEFAULT: u32 = 14;
/// Below this much free room a directory takes no new chunks: what is open can still grow.
pub const WATERMARK_MIB_DEFAULT: u64 = 1024;

const MIB: u64 = 1 << 20;
/// One connection must be able to send the largest frame while others do the same.
const IN_FLIGHT_MIB_MIN: u64 = 16;

/// Command line of `gfs-chunkserver`.
#[derive(Parser, Debug)]
#[command(name = "gfs-chunkserver", version, about = "Keeps chunk replicas of a GFS cluster and moves their bytes")]
pub struct CommandLine {
    /// Settings in TOML; each key is also a flag of the same name, and flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show the settings that result, as a file for --config, and end
    #[arg(long)]
    pub print_config: bool,
    /// See [`Settings`].
    #[command(flatten)]
    pub settings: Settings,
}

/// Every setting, as file and flags give it. In the file, `directory` is a string or a list of them.
#[derive(Args, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// Storage directory; repeat for several. An empty one is formatted at first registration
    #[arg(long = "directory", value_name = "DIR")]
    #[serde(rename = "directory", deserialize_with = "one_or_several")]
    pub directories: Vec<PathBuf>,
    /// Address of the data port; port 0 lets the system choose [default: 127.0.0.1:0]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Address told to clients, if they cannot use the one listened on
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Option<String>,
    /// Unix socket for clients on this machine [default: data.sock in the first directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The master [default: 127.0.0.1:9400]
    #[arg(long, value_name = "HOST:PORT", env = MASTER_ADDRESS_ENV)]
    pub master: Option<String>,
    /// Label of this server's failure domain (rack, room, power feed)
    #[arg(long, value_name = "LABEL")]
    pub rack: Option<String>,
    /// Open connections at most [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<usize>,
    /// MiB of payload held at most for unanswered requests [default: 256]
    #[arg(long, value_name = "MIB")]
    pub in_flight_mib_max: Option<u64>,
    /// MiB kept free in each storage directory [default: 256]
    #[arg(long, value_name = "MIB")]
    pub reserve_mib: Option<u64>,
    /// MiB of free room below which a directory takes no new chunks [default: 1024]
    #[arg(long, value_name = "MIB")]
    pub watermark_mib: Option<u64>,
    /// Time in which every replica is read once and compared with its checksums, such as 14d or 12h; 0: only when
    /// somebody asks for it (gfsctl scrub) [default: 14d]
    #[arg(long, value_name = "DURATION")]
    pub scrub_period: Option<String>,
    /// Worker threads [default: the number of CPUs, at least 4]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,
    /// What to log: error, warn, info, debug, or per module [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Listen beyond this machine although nothing is encrypted or authenticated
    #[arg(long)]
    pub insecure_network: bool,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one, none twice.
    pub directories: Vec<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to tell others instead.
    pub advertise: Option<SocketAddr>,
    /// Unix socket.
    pub socket: PathBuf,
    /// `host:port` of the master.
    pub master: String,
    /// May be empty.
    pub rack: String,
    /// Open connections.
    pub connections_max: usize,
    /// Payload of unanswered requests.
    pub in_flight_bytes_max: u64,
    /// Kept free per directory.
    pub reserve_bytes: u64,
    /// See [`WATERMARK_MIB_DEFAULT`]; at least the reserve.
    pub watermark_bytes: u64,
    /// Every replica is read once in this time; zero: only when somebody asks.
    pub scrub_period: Duration,
    /// Worker threads.
    pub threads: usize,
    /// Filter of the log.
    pub log: String,
}

/// Why the settings are of no use; the text tells what to change.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what is expected.
    #[error("the configuration file {} is not usable", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that makes no sense.
    #[error("setting {key}: {problem}")]
    Invalid {
        /// Which.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

fn invalid(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, problem: problem.into() }
}

/// What stands for `directory` in the file.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "directory is a string, or a list of strings")]
    enum Given {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Given::deserialize(from).map(|given| match given {
        Given::One(path) => vec![path],
        Given::Several(paths) => paths,
    })
}

impl CommandLine {
    /// File, environment, flags in one; nothing of it is checked yet.
    pub fn merged(self) -> Result<Settings, ConfigError> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        Ok(self.settings.over(file))
    }

    /// [`Self::merged`], checked.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        Config::new(self.merged()?)
    }
}

impl Settings {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) })
    }

    /// These where given, else those below.
    fn over(self, below: Self) -> Self {
        Self {
            directories: if self.directories.is_empty() { below.directories } else { self.directories },
            listen: self.listen.or(below.listen),
            advertise: self.advertise.or(below.advertise),
            socket: self.socket.or(below.socket),
            master: self.master.or(below.master),
            rack: self.rack.or(below.rack),
            connections_max: self.connections_max.or(below.connections_max),
            in_flight_mib_max: self.in_flight_mib_max.or(below.in_flight_mib_max),
            reserve_mib: self.reserve_mib.or(below.reserve_mib),
            watermark_mib: self.watermark_mib.or(below.watermark_mib),
            scrub_period: self.scrub_period.or(below.scrub_period),
            threads: self.threads.or(below.threads),
            log: self.log.or(below.log),
            insecure_network: self.insecure_network || below.insecure_network,
        }
    }
}

impl Config {
    /// The settings that lead to this, complete: what `--print-config` shows.
    #[must_use]
    pub fn as_settings(&self) -> Settings {
        Settings {
            directories: self.directories.clone(),
            listen: Some(self.listen.to_string()),
            advertise: self.advertise.map(|address| address.to_string()),
            socket: Some(self.socket.clone()),
            master: Some(self.master.clone()),
            rack: Some(self.rack.clone()),
            connections_max: Some(self.connections_max),
            in_flight_mib_max: Some(self.in_flight_bytes_max / MIB),
            reserve_mib: Some(self.reserve_bytes / MIB),
            watermark_mib: Some(self.watermark_bytes / MIB),
            scrub_period: Some(period_text(self.scrub_period)),
            threads: Some(self.threads),
            log: Some(self.log.clone()),
            insecure_network: !self.listen.ip().is_loopback(),
        }
    }

    /// Checks every setting.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        let directories = directories(settings.directories)?;
        let listen = address("listen", settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT))?;
        if !listen.ip().is_loopback() && !settings.insecure_network {
            let problem = format!(
                "{listen} can be reached from other machines, and nothing is encrypted yet; \
                 give --insecure-network if that network is yours, or listen on 127.0.0.1"
            );
            return Err(invalid("listen", problem));
        }
        let advertise = settings.advertise.as_deref().map(|text| address("advertise", text)).transpose()?;
        if advertise.is_none() && listen.ip().is_unspecified() {
            return Err(invalid(
                "advertise",
                format!("{listen} means every address; say which one clients are to use"),
            ));
        }
        let reserve_bytes = mib("reserve-mib", settings.reserve_mib, RESERVE_MIB_DEFAULT, 0)?;
        let socket = settings.socket.unwrap_or_else(|| directories[0].join("data.sock"));
        Ok(Self {
            listen,
            advertise,
            socket: socket_path(socket)?,
            master: master(settings.master.unwrap_or_else(|| MASTER_ADDRESS_DEFAULT.to_owned()))?,
            rack: rack(settings.rack.unwrap_or_default())?,
            connections_max: at_least("connections-max", settings.connections_max, CONNECTIONS_MAX_DEFAULT, 1)?,
            in_flight_bytes_max: mib(
                "in-flight-mib-max",
                settings.in_flight_mib_max,
                IN_FLIGHT_MIB_MAX_DEFAULT,
                IN_FLIGHT_MIB_MIN,
            )?,
            watermark_bytes: watermark(settings.watermark_mib, reserve_bytes)?,
            reserve_bytes,
            scrub_period: scrub_period(settings.scrub_period.as_deref())?,
            threads: at_least("threads", settings.threads, threads_default(), 1)?,
            log: settings.log.unwrap_or_else(|| "info".to_owned()),
            directories,
        })
    }
}

fn directories(given: Vec<PathBuf>) -> Result<Vec<PathBuf>, ConfigError> {
    if given.is_empty() {
        return Err(invalid("directory", "no storage directory; give at least one with --directory DIR"));
    }
    let mut all = Vec::with_capacity(given.len());
    for path in given {
        let path = std::path::absolute(&path).map_err(|error| invalid("directory", error.to_string()))?;
        if all.contains(&path) {
            return Err(invalid("directory", format!("{} is given twice", path.display())));
        }
        all.push(path);
    }
    Ok(all)
}

fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| invalid(key, format!("{text:?} is not IP:PORT, such as 127.0.0.1:9410")))
}

/// `sun_path` of a Unix socket address has 108 bytes, with a NUL at the end.
fn socket_path(path: PathBuf) -> Result<PathBuf, ConfigError> {
    const SUN_PATH_MAX: usize = 107;
    let path = std::path::absolute(&path).map_err(|error| invalid("socket", error.to_string()))?;
    if path.as_os_str().len() > SUN_PATH_MAX {
        let problem = format!("{} is longer than the {SUN_PATH_MAX} bytes of a socket's path", path.display());
        return Err(invalid("socket", problem));
    }
    Ok(path)
}

fn master(text: String) -> Result<String, ConfigError> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let odd = |c: char| c.is_whitespace() || c == '/' || c == '@';
    if good && !text.contains(odd) { Ok(text) } else { Err(invalid("master", format!("{text:?} is not HOST:PORT"))) }
}

fn rack(label: String) -> Result<String, ConfigError> {
    const LABEL_MAX: usize = 255;
    if label.len() > LABEL_MAX || label.chars().any(char::is_control) {
        return Err(invalid("rack", format!("a label has at most {LABEL_MAX} bytes and no control characters")));
    }
    Ok(label)
}

fn at_least(key: &'static str, given: Option<usize>, default: usize, least: usize) -> Result<usize, ConfigError> {
    let value = given.unwrap_or(default);
    if value < least { Err(invalid(key, format!("{value} is less than {least}"))) } else { Ok(value) }
}

fn mib(key: &'static str, given: Option<u64>, default: u64, least: u64) -> Result<u64, ConfigError> {
    let value = given.unwrap_or(default);
    if value < least {
        return Err(invalid(key, format!("{value} is less than {least}")));
    }
    value.checked_mul(MIB).ok_or_else(|| invalid(key, format!("{value} MiB is more than there can be")))
}

/// A directory that takes new chunks must have room to write to them.
fn watermark(given: Option<u64>, reserve_bytes: u64) -> Result<u64, ConfigError> {
    let default = WATERMARK_MIB_DEFAULT.max(reserve_bytes / MIB);
    let bytes = mib("watermark-mib", given, default, 0)?;
    if bytes < reserve_bytes {
        return Err(invalid("watermark-mib", format!("{} is less than reserve-mib", bytes / MIB)));
    }
    Ok(bytes)
}

/// What [`scrub_period`] reads again.
fn period_text(period: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let millis = period.as_millis();
    let fits = UNITS.iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// Zero needs no unit.
fn scrub_period(text: Option<&str>) -> Result<Duration, ConfigError> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const YEARS_MAX: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
    let period = match text {
        None => Some(DAY * SCRUB_PERIOD_DAYS_DEFAULT),
        Some("0") => Some(Duration::ZERO),
        Some(text) => units::time(text).filter(|period| *period <= YEARS_MAX),
    };
    let text = text.unwrap_or_default();
    let bad =
        || invalid("scrub-period", format!("{text:?} is not possible; use {}, 10 years at most", units::TIME_UNITS));
    period.ok_or_else(bad)
}

/// More threads than CPUs: a thread that waits for the disk must not keep a CPU idle.
fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(4, |cpus| cpus.get().max(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        CommandLine::try_parse_from([&["gfs-chunkserver"], arguments].concat())
            .map_err(|error| error.to_string())?
            .into_config()
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn defaults_need_only_a_directory() {
        let config = parse(&["--directory", "/srv/a"]).expect("config");
        assert_eq!(config.listen, "127.0.0.1:0".parse().expect("address"));
        assert_eq!(config.socket, PathBuf::from("/srv/a/data.sock"));
        assert_eq!(config.in_flight_bytes_max, 256 * MIB);
        assert_eq!(config.scrub_period.as_secs(), 14 * 24 * 3600);
        for (text, seconds) in [("0", 0), ("90s", 90), ("30m", 1800), ("30min", 1800), ("12h", 43_200)] {
            let config = parse(&["--directory", "/srv/a", "--scrub-period", text]).expect("config");
            assert_eq!(config.scrub_period.as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("c.toml");
        let text = "directory = [\"/srv/a\", \"/srv/b\"]\nmaster = \"m:1\"\nrack = \"r1\"\nreserve-mib = 5\n";
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("path");
        let config = parse(&["--config", path, "--rack", "r2", "--master", "n:2"]).expect("config");
        assert_eq!((config.directories.len(), config.rack.as_str(), config.master.as_str()), (2, "r2", "n:2"));
        assert_eq!(config.reserve_bytes, 5 * MIB);
        std::fs::write(path, "directory = \"/srv/a\"\nrak = \"r1\"\n").expect("written");
        let error = parse(&["--config", path]).expect_err("unknown key");
        assert!(error.contains("rak") && error.contains("c.toml"), "{error}");
        assert_eq!(error.matches("unknown field").count(), 1, "said once: {error}");
        std::fs::write(path, "directory = \"/srv/a\"\n").expect("written");
        assert_eq!(parse(&["--config", path]).expect("one is no list").directories, [PathBuf::from("/srv/a")]);
        assert!(parse(&["--config", "/nowhere/c.toml"]).expect_err("missing").contains("/nowhere/c.toml"));
    }

    #[test]
    fn every_flag_is_a_key_of_the_file_and_what_is_printed_is_such_a_file() {
        use clap::CommandFactory as _;
        let every = ["--directory", "/srv/a", "--advertise", "127.0.0.1:7", "--scrub-period", "90m", "--rack", "r"];
        let settings = parse(&every).expect("config").as_settings();
        let printed = toml::to_string(&settings).expect("plain values");
        assert_eq!(toml::from_str::<Settings>(&printed).expect("own output"), settings);
        let table: toml::Table = toml::from_str(&printed).expect("own output");
        let command = CommandLine::command();
        let flags = command.get_arguments().filter_map(|flag| flag.get_long());
        for flag in flags.filter(|flag| !["config", "print-config"].contains(flag)) {
            assert!(table.contains_key(flag), "{flag} is no key: {printed}");
        }
        assert!(printed.contains("scrub-period = \"90m\""), "{printed}");
        assert_eq!(
            parse(&["--directory", "/a", "--scrub-period", "0"]).map(|c| period_text(c.scrub_period)),
            Ok("0ms".into())
        );
    }

    #[test]
    fn bad_values_are_named() {
        let long = format!("/{}", "x".repeat(120));
        let table: &[(&[&str], &str)] = &[
            (&[], "--directory"),
            (&["--directory", "/a", "--directory", "/a"], "twice"),
            (&["--directory", "/a", "--listen", "nonsense"], "listen"),
            (&["--directory", "/a", "--listen", "0.0.0.0:1"], "--insecure-network"),
            (&["--directory", "/a", "--listen", "0.0.0.0:1", "--insecure-network"], "advertise"),
            (&["--directory", "/a", "--master", "nocolon"], "master"),
            (&["--directory", "/a", "--master", "http://x:1"], "master"),
            (&["--directory", "/a", "--socket", &long], "socket"),
            (&["--directory", "/a", "--in-flight-mib-max", "1"], "in-flight-mib-max"),
            (&["--directory", "/a", "--reserve-mib", "99999999999999999"], "reserve-mib"),
            (&["--directory", "/a", "--watermark-mib", "7", "--reserve-mib", "8"], "watermark-mib"),
            (&["--directory", "/a", "--connections-max", "0"], "connections-max"),
            (&["--directory", "/a", "--scrub-period", "14"], "scrub-period"),
            (&["--directory", "/a", "--scrub-period", "2w"], "scrub-period"),
            (&["--directory", "/a", "--scrub-period", "5000d"], "scrub-period"),
            (&["--directory", "/a", "--rack", "a\nb"], "rack"),
        ];
        for (arguments, expected) in table {
            let error = parse(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
