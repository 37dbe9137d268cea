//! Which ports are free, and who listens.

use super::plan::loopback;
use anyhow::bail;
use std::fs;
use std::net::TcpListener;

/// Ports that are looked at, from the first on. All lie below those that outgoing connections get.
const TRIED_MAX: u16 = 2000;

/// The first port from `first` on that nobody listens at and that is not among `taken`.
pub(crate) fn free_from(first: u16, taken: &[u16]) -> anyhow::Result<u16> {
    match (first..first.saturating_add(TRIED_MAX)).find(|port| !taken.contains(port) && is_free(*port)) {
        Some(port) => Ok(port),
        None => bail!("no port from {first} to {} is free on 127.0.0.1", first.saturating_add(TRIED_MAX)),
    }
}

/// True if a server could listen there now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

/// True if that process itself listens at that port of 127.0.0.1: an answer from there could also be
/// somebody else's.
pub(crate) fn listens(pid: i32, port: u16) -> bool {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/tcp")) else { return false };
    let sockets: Vec<String> = listeners(&table, port).into_iter().map(|inode| format!("socket:[{inode}]")).collect();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
}

/// Socket inodes that listen at a port, from `/proc/net/tcp` (Documentation/networking/proc_net_tcp.rst).
fn listeners(table: &str, port: u16) -> Vec<&str> {
    const LISTEN: &str = "0A";
    const LOCAL_ADDRESS: usize = 1;
    const STATE: usize = 3;
    const INODE: usize = 9;
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.len() > INODE && fields[STATE] == LISTEN && fields[LOCAL_ADDRESS].ends_with(&suffix))
        .map(|fields| fields[INODE])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free_and_its_owner_is_known() {
        let listener = TcpListener::bind(loopback(0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let pid = i32::try_from(std::process::id()).expect("a pid");
        assert!(!is_free(port) && listens(pid, port));
        assert!(!listens(1, port) && !listens(pid, 1));
        drop(listener);
        assert!(!listens(pid, port));
    }

    #[test]
    fn taken_ports_are_passed_over() {
        let first = free_from(20_000, &[]).expect("one");
        assert!(free_from(first, &[first]).expect("another") > first);
    }
}
