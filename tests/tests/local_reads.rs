//! Short-circuit reads: a mount reads the files of chunkservers on its machine by itself, and still sees what
//! others write and survives what dies.

use anyhow::{Context, Result, ensure};
use gfs_tests::{Cluster, Options, Stream, scenario, until};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
/// Reads of one look at the servers.
const ROUND: usize = 32;
const STEP: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { chunk_size: "4MiB", ..Options::default() }
}

/// Past the kernel's cache: every read reaches the mount.
fn open_direct(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)?)
}

/// Memory that direct reads accept.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new() -> Self {
        let raw = vec![0; 2 * BLOCK];
        let at = raw.as_ptr().align_offset(BLOCK);
        Self(raw, at)
    }

    fn read(&mut self, file: &File, block: usize) -> Result<&[u8]> {
        let into = &mut self.0[self.1..self.1 + BLOCK];
        file.read_exact_at(into, (block * BLOCK) as u64).with_context(|| format!("reading block {block}"))?;
        Ok(into)
    }
}

/// Bytes that all chunkservers have read, from files above all.
fn read_by_servers(cluster: &Cluster, servers: usize) -> Result<u64> {
    let mut total = 0;
    for number in 0..servers {
        let Some(pid) = cluster.chunkserver_process(number).pid() else { continue };
        let io = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero()))?;
        let rchar = io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("rchar")?;
        total += rchar.parse::<u64>()?;
    }
    Ok(total)
}

/// Reads blocks, each of another place, until a round of them costs the servers nothing.
fn until_local(cluster: &Cluster, file: &File, bytes: &[u8]) -> Result<()> {
    let (mut buffer, mut block) = (Aligned::new(), 0);
    until("reads do not reach the servers", STEP, || {
        let before = read_by_servers(cluster, 3)?;
        for _ in 0..ROUND {
            block = (block + 67) % (bytes.len() / BLOCK);
            ensure!(buffer.read(file, block)? == &bytes[block * BLOCK..][..BLOCK], "block {block} has other bytes");
        }
        Ok(read_by_servers(cluster, 3)? - before < (ROUND * BLOCK / 4) as u64)
    })
}

#[test]
fn a_local_file_is_read_without_the_servers_and_shows_what_another_mount_writes() {
    scenario(options(), |cluster| {
        let (one, two) = (cluster.mount()?, cluster.mount()?);
        let mut bytes = Stream::new(1).bytes(16 * MIB);
        fs::write(two.join("file"), &bytes)?;
        let file = open_direct(&one.join("file"))?;
        until_local(cluster, &file, &bytes)?;
        let writer = OpenOptions::new().write(true).open(two.join("file"))?;
        let mut buffer = Aligned::new();
        for n in 0..50 {
            let block = (n * 1013) % (bytes.len() / BLOCK);
            bytes[block * BLOCK..][..BLOCK].fill(n as u8);
            writer.write_all_at(&bytes[block * BLOCK..][..BLOCK], (block * BLOCK) as u64)?;
            ensure!(buffer.read(&file, block)? == &bytes[block * BLOCK..][..BLOCK], "write {n} is not seen");
        }
        drop(writer);
        until_local(cluster, &file, &bytes)
    });
}

#[test]
fn local_reads_go_on_when_their_chunkserver_is_killed() {
    scenario(options(), |cluster| {
        let (one, two) = (cluster.mount()?, cluster.mount()?);
        let mut bytes = Stream::new(2).bytes(16 * MIB);
        fs::write(two.join("file"), &bytes)?;
        let file = open_direct(&one.join("file"))?;
        until_local(cluster, &file, &bytes)?;
        let writer = OpenOptions::new().write(true).open(two.join("file"))?;
        let mut buffer = Aligned::new();
        for victim in 0..2 {
            cluster.kill_chunkserver(victim)?;
            for n in 0..20 {
                let block = (n * 211 + victim) % (bytes.len() / BLOCK);
                bytes[block * BLOCK..][..BLOCK].fill((100 * victim + n) as u8);
                writer.write_all_at(&bytes[block * BLOCK..][..BLOCK], (block * BLOCK) as u64)?;
                ensure!(buffer.read(&file, block)? == &bytes[block * BLOCK..][..BLOCK], "write {n} is not seen");
            }
            until_local(cluster, &file, &bytes)?;
            cluster.start_chunkserver(victim)?;
        }
        Ok(())
    });
}
