//! What a local cluster consists of: kept in `cluster.json`, so that it comes up again as it was.

use super::home::Home;
use super::ports;
use super::process::Process;
use crate::failure::usage;
use crate::remote::shown;
use anyhow::Context as _;
use gfs_proto::limits::CHUNK_SIZE_DEFAULT;
use gfs_proto::units;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Of `cluster.json`; another one is refused.
const FORMAT: u32 = 1;
/// Chunkservers when nobody said otherwise: as many as there are copies.
const CHUNKSERVERS_DEFAULT: usize = 3;
/// More make no sense on one machine.
const CHUNKSERVERS_MAX: usize = 64;
/// Port of [`gfs_proto::limits::MASTER_ADDRESS_DEFAULT`].
const MASTER_PORT_DEFAULT: u16 = 9400;

/// What the command line asks for; absent: as it was, or the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) mount: Option<PathBuf>,
    pub(crate) chunkservers: Option<usize>,
    /// It was found to be one.
    pub(crate) chunk_size: Option<String>,
    pub(crate) goal: Option<u8>,
    pub(crate) port: Option<u16>,
}

/// See the head of this file.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    format: u32,
    pub(crate) master: Master,
    pub(crate) chunkservers: Vec<Chunkserver>,
    /// As given when the master was formatted; the master knows the rest.
    pub(crate) chunk_size: Option<String>,
    pub(crate) goal: Option<u8>,
    /// Where it is to be mounted, if anywhere.
    pub(crate) mount: Option<PathBuf>,
}

/// The master.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Master {
    pub(crate) port: u16,
    /// Nobody asked for this port and nothing was started on it yet: another one will do too.
    pub(crate) port_is_free_choice: bool,
}

/// One of the chunkservers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chunkserver {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Every server listens here: nothing of a local cluster can be reached from elsewhere.
pub(crate) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Plan {
    /// What is written down, changed as wished; or a new one.
    pub(crate) fn load_or_new(home: &Home, wishes: &Wishes) -> anyhow::Result<Self> {
        let mut plan = if home.plan().exists() {
            let plan = Self::load(home)?;
            plan.check_fixed(wishes)?;
            plan.check_stopped(home, wishes)?;
            plan
        } else {
            Self::new(wishes)?
        };
        plan.add_chunkservers(wishes)?;
        if let Some(port) = wishes.port {
            plan.master = Master { port, port_is_free_choice: false };
        }
        if let Some(mount) = &wishes.mount {
            plan.mount = Some(std::path::absolute(mount).with_context(|| shown(mount))?);
        }
        Ok(plan)
    }

    fn new(wishes: &Wishes) -> anyhow::Result<Self> {
        let (port, port_is_free_choice) = match wishes.port {
            Some(port) => (port, false),
            None => (ports::free_from(MASTER_PORT_DEFAULT, &[])?, true),
        };
        Ok(Self {
            format: FORMAT,
            master: Master { port, port_is_free_choice },
            chunkservers: Vec::new(),
            chunk_size: wishes.chunk_size.clone(),
            goal: wishes.goal,
            mount: None,
        })
    }

    /// What was written down.
    pub(crate) fn load(home: &Home) -> anyhow::Result<Self> {
        let path = home.plan();
        let text = fs::read_to_string(&path).with_context(|| shown(&path))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let unreadable = |error| usage(format!("{} is not readable: {error}", shown(path)));
        let version: Version = serde_json::from_str(text).map_err(unreadable)?;
        if version.format != FORMAT {
            let text = format!(
                "{} has format {}, this gfsctl knows {FORMAT}: use the one that made it, or a newer one",
                shown(path),
                version.format
            );
            return Err(usage(text));
        }
        serde_json::from_str(text).map_err(unreadable)
    }

    /// Replaces what was written down, in one step.
    pub(crate) fn save(&self, home: &Home) -> anyhow::Result<()> {
        let (path, partial) = (home.plan(), home.path().join("run/cluster.json.new"));
        let text = serde_json::to_string_pretty(self).context("the plan is plain data")?;
        fs::write(&partial, text + "\n").with_context(|| shown(&partial))?;
        fs::rename(&partial, &path).with_context(|| shown(&path))
    }

    /// What was decided when the master was formatted cannot be wished away.
    fn check_fixed(&self, wishes: &Wishes) -> anyhow::Result<()> {
        let bytes = |size: &Option<String>| size.as_deref().map_or(Some(u64::from(CHUNK_SIZE_DEFAULT)), units::bytes);
        if wishes.chunk_size.is_some() && bytes(&wishes.chunk_size) != bytes(&self.chunk_size) {
            let is = self.chunk_size.as_deref().unwrap_or("64MiB");
            return Err(usage(format!("the chunk size of this cluster is {is}; it cannot be changed")));
        }
        if wishes.goal.is_some() && wishes.goal != self.goal {
            return Err(usage("the goal of this cluster is fixed; `gfsctl set-goal` changes that of a directory"));
        }
        Ok(())
    }

    /// All processes know the master by its port: it changes only while none runs.
    fn check_stopped(&self, home: &Home, wishes: &Wishes) -> anyhow::Result<()> {
        let runs = |name: &&str| Process::running(&home.pid(name)).is_some();
        match (wishes.port.filter(|port| *port != self.master.port), self.names().into_iter().find(runs)) {
            (Some(port), Some(name)) => Err(usage(format!(
                "this cluster has its master at {} and runs ({name}); stop it first (gfsctl local down {}), then give it \
                 port {port}",
                self.master_address(),
                shown(home.path())
            ))),
            _ => Ok(()),
        }
    }

    fn add_chunkservers(&mut self, wishes: &Wishes) -> anyhow::Result<()> {
        let have = self.chunkservers.len();
        let wanted = wishes.chunkservers.unwrap_or(if have == 0 { CHUNKSERVERS_DEFAULT } else { have });
        if wanted == 0 || wanted > CHUNKSERVERS_MAX {
            return Err(usage(format!("{wanted} chunkservers: choose 1 to {CHUNKSERVERS_MAX}")));
        }
        if wanted < have {
            return Err(usage(format!("this cluster has {have} chunkservers; none can be taken away here")));
        }
        for number in have + 1..=wanted {
            let port = self.other_port()?;
            self.chunkservers.push(Chunkserver { name: format!("chunkserver-{number}"), port });
        }
        Ok(())
    }

    /// A port that neither anybody else nor this cluster uses.
    pub(crate) fn other_port(&self) -> anyhow::Result<u16> {
        let ours: Vec<u16> = self.chunkservers.iter().map(|it| it.port).chain([self.master.port]).collect();
        ports::free_from(MASTER_PORT_DEFAULT + 1, &ours)
    }

    /// Where the master listens.
    pub(crate) fn master_address(&self) -> SocketAddr {
        loopback(self.master.port)
    }

    /// Names of the processes in the order in which they start.
    pub(crate) fn names(&self) -> Vec<&str> {
        let servers = self.chunkservers.iter().map(|it| it.name.as_str());
        let mount = self.mount.as_ref().map(|_| "mount");
        std::iter::once("master").chain(servers).chain(mount).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("directory");
        let home = Home::prepare(dir.path()).expect("empty");
        (dir, home)
    }

    #[test]
    fn what_was_decided_comes_back() {
        let (_dir, home) = home();
        let wishes = Wishes { chunk_size: Some("1MiB".into()), mount: Some("/mnt/x".into()), ..Wishes::default() };
        let plan = Plan::load_or_new(&home, &wishes).expect("new");
        plan.save(&home).expect("saved");
        assert_eq!(Plan::load_or_new(&home, &Wishes::default()).expect("loaded"), plan);
        assert_eq!(plan.names(), ["master", "chunkserver-1", "chunkserver-2", "chunkserver-3", "mount"]);
        let mut ports: Vec<_> = plan.chunkservers.iter().map(|it| it.port).chain([plan.master.port]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 4);
    }

    #[test]
    fn what_is_fixed_is_refused() {
        let (_dir, home) = home();
        Plan::load_or_new(&home, &Wishes::default()).expect("new").save(&home).expect("saved");
        for wishes in [
            Wishes { chunk_size: Some("1MiB".into()), ..Wishes::default() },
            Wishes { goal: Some(2), ..Wishes::default() },
            Wishes { chunkservers: Some(2), ..Wishes::default() },
            Wishes { chunkservers: Some(0), ..Wishes::default() },
        ] {
            let error = Plan::load_or_new(&home, &wishes).expect_err("fixed");
            assert_eq!(crate::failure::exit_status(&error), 2, "{wishes:?}: {error:#}");
        }
        for same in ["64MiB", "65536K"] {
            let wishes = Wishes { chunk_size: Some(same.into()), ..Wishes::default() };
            Plan::load_or_new(&home, &wishes).expect("it is that already");
        }
        let more = Plan::load_or_new(&home, &Wishes { chunkservers: Some(5), ..Wishes::default() });
        assert_eq!(more.expect("more are possible").chunkservers.len(), 5);
    }

    #[test]
    fn another_format_and_nonsense_are_refused() {
        let path = Path::new("/d/cluster.json");
        for (text, named) in [("{\"format\": 2, \"new\": true}", "format 2"), ("nonsense", "/d/cluster.json")] {
            let error = Plan::parse(text, path).expect_err("refused");
            assert_eq!(crate::failure::exit_status(&error), 2);
            assert!(format!("{error:#}").contains(named), "{error:#}");
        }
    }
}
