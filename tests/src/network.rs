//! A network of the cluster's own: every process has a network namespace, all of them are joined by one bridge, and
//! between any two of them packets can be dropped, both ways or one way.
//!
//! A namespace lives as long as a process in it, and each has one that sleeps and dies with this one: nothing of it
//! is left, whatever happens. Nobody outside has an address in it, so networks of several tests do not meet.

use crate::daemon::Daemon;
use crate::script::sh;
use crate::wait::until;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// Bound on a namespace.
const READY: Duration = Duration::from_secs(10);
/// The first three numbers of all addresses; the bridge is .1.
const NET: [u8; 3] = [10, 77, 0];
/// Host of the bridge, from which everybody can be reached.
const HUB: u8 = 1;

/// See the head of this file.
#[derive(Debug)]
pub struct Network {
    hub: Host,
    hosts: Mutex<BTreeMap<String, Host>>,
}

/// A namespace with one address.
#[derive(Debug)]
struct Host {
    number: u8,
    /// Keeps it alive.
    sleeper: Daemon,
}

/// Which packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// All between the two.
    Both,
    /// Those that the second sends to the first.
    ToFirst,
}

impl Host {
    fn start(number: u8) -> Result<Self> {
        let arguments = vec!["infinity".to_owned()];
        let mut sleeper = Daemon::new("network", "/usr/bin/sleep".into(), arguments, "/dev/null".into());
        sleeper.wrap(vec!["unshare".to_owned(), "--net".to_owned()]);
        sleeper.start()?;
        let host = Self { number, sleeper };
        let ours = fs::read_link("/proc/self/ns/net")?;
        until("the namespace is there", READY, || Ok(fs::read_link(host.file()?)? != ours))?;
        Ok(host)
    }

    fn pid(&self) -> Result<i32> {
        Ok(self.sleeper.pid().context("the namespace has no process")?.as_raw_nonzero().get())
    }

    fn file(&self) -> Result<String> {
        Ok(format!("/proc/{}/ns/net", self.pid()?))
    }

    const fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(NET[0], NET[1], NET[2], self.number)
    }

    /// A command that becomes another one in here.
    fn enter(&self) -> Result<Vec<String>> {
        Ok(vec!["nsenter".to_owned(), format!("--net={}", self.file()?)])
    }

    /// A script of the shell in here.
    fn run(&self, script: &str) -> Result<()> {
        sh(Path::new("/"), &format!("{} bash -euc '{script}'", self.enter()?.join(" "))).map(drop)
    }
}

impl Network {
    /// One without anybody in it.
    pub fn start() -> Result<Self> {
        let hub = Host::start(HUB)?;
        let address = hub.address();
        hub.run(&format!(
            "ip link set lo up; ip link add bridge type bridge; ip link set bridge up; ip addr add {address}/24 dev bridge"
        ))?;
        Ok(Self { hub, hosts: Mutex::default() })
    }

    /// The address of a host, which is made if it is not there.
    pub fn address(&self, name: &str) -> Result<Ipv4Addr> {
        self.with(name, |host| Ok(host.address()))
    }

    /// A command that becomes another one on a host, which is made if it is not there.
    pub fn enter(&self, name: &str) -> Result<Vec<String>> {
        self.with(name, Host::enter)
    }

    /// The same for one that only asks, and reaches all.
    pub fn enter_hub(&self) -> Result<Vec<String>> {
        self.hub.enter()
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&Host) -> Result<T>) -> Result<T> {
        let mut hosts = self.hosts.lock();
        if !hosts.contains_key(name) {
            let host = self.join(u8::try_from(hosts.len())? + HUB + 1)?;
            hosts.insert(name.to_owned(), host);
        }
        act(hosts.get(name).context("it was just made")?)
    }

    /// A new host.
    fn join(&self, number: u8) -> Result<Host> {
        let host = Host::start(number)?;
        let (pid, address) = (host.pid()?, host.address());
        self.hub.run(&format!(
            "ip link add v{number} type veth peer name eth0 netns {pid}; ip link set v{number} master bridge up"
        ))?;
        host.run(&format!("ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up"))?;
        host.run(
            "nft add table inet gfs; \
             nft add chain inet gfs in \\{ type filter hook input priority 0 \\; \\}; \
             nft add chain inet gfs out \\{ type filter hook output priority 0 \\; \\}",
        )?;
        Ok(host)
    }

    /// From now on packets between two hosts are dropped.
    pub fn cut(&self, first: &str, second: &str, drops: Drops) -> Result<()> {
        let other = self.address(second)?;
        let mut script = format!("nft add rule inet gfs in ip saddr {other} drop");
        if drops == Drops::Both {
            script += &format!("; nft add rule inet gfs out ip daddr {other} drop");
        }
        self.with(first, |host| host.run(&script))
    }

    /// Nothing is dropped any more.
    pub fn heal(&self) -> Result<()> {
        self.hosts.lock().values().try_for_each(|host| host.run("nft flush table inet gfs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::LinkNameSpaceType;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    /// Does something on a host, in a thread that stays there.
    fn on<T: Send>(network: &Network, name: &str, act: impl FnOnce() -> T + Send) -> T {
        let words = network.enter(name).expect("a host");
        let file = words[1].strip_prefix("--net=").expect("the file of the namespace");
        let file = std::fs::File::open(file).expect("a namespace");
        std::thread::scope(|scope| {
            let enter = || {
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root");
                act()
            };
            scope.spawn(enter).join().expect("no panic")
        })
    }

    /// A datagram from one to the other arrives.
    fn arrives(network: &Network, from: &str, to: &str) -> bool {
        let target = (network.address(to).expect("an address"), 4000);
        let listener = on(network, to, || UdpSocket::bind(target)).expect("a socket");
        listener.set_read_timeout(Some(Duration::from_millis(500))).expect("a bound");
        let sender = on(network, from, || UdpSocket::bind(("0.0.0.0", 0))).expect("a socket");
        // the first ones ask who has the address; what is dropped on its way out is an error
        let _ = (0..3).try_for_each(|_| sender.send_to(b"x", target).map(drop));
        listener.recv(&mut [0]).is_ok()
    }

    #[test]
    fn packets_are_dropped_between_two_hosts_until_that_is_over() {
        let network = Network::start().expect("a network");
        let both = || (arrives(&network, "a", "b"), arrives(&network, "b", "a"));
        assert_eq!(both(), (true, true));
        network.cut("a", "b", Drops::ToFirst).expect("cut");
        assert_eq!(both(), (true, false));
        assert!(arrives(&network, "c", "a"), "others are not cut off");
        network.cut("a", "b", Drops::Both).expect("cut");
        assert_eq!(both(), (false, false));
        network.heal().expect("healed");
        assert_eq!(both(), (true, true));
    }
}
