//! Processes are killed while files are written and read: applications notice a pause, nothing is lost.

use anyhow::{Context, Result, ensure};
use gfs_tests::{Cluster, Left, Load, Options, Script, Stream, scenario, sh, sha256_of, until};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Bound on one step of a writer that has to wait for a fault to be dealt with.
const STEP: Duration = Duration::from_secs(60);

/// MiB of the file that is written during a fault; more with `GFS_TEST_FAULT_MIB`.
fn size_mib() -> Result<u64> {
    let default = 256;
    std::env::var("GFS_TEST_FAULT_MIB").map_or(Ok(default), |text| text.parse().context("GFS_TEST_FAULT_MIB"))
}

fn options() -> Options {
    Options { chunk_size: "4MiB", ..Options::default() }
}

/// A file beside the cluster, of bytes that do not compress; its SHA-256.
fn make_source(path: &Path, mib: u64) -> Result<String> {
    let mut file = File::create(path)?;
    let (mut stream, mut piece) = (Stream::new(mib), vec![0; MIB]);
    for _ in 0..mib {
        stream.fill(&mut piece);
        file.write_all(&piece)?;
    }
    sha256_of(path)
}

/// Copies a file into the cluster while `fault` does its worst after a quarter of it; every write must
/// succeed, and the copy must be whole, also for a mount that has never seen it.
fn copy_during(cluster: &mut Cluster, copy: &Path, fault: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<String> {
    let (source, mib) = (cluster.path("source"), size_mib()?);
    let wanted = make_source(&source, mib)?;
    let command = format!("dd if={} of={} bs=1M conv=fsync status=none", source.display(), copy.display());
    let mut dd = Script::shell(cluster.directory(), &format!("exec {command}")).start()?;
    let quarter = mib * MIB as u64 / 4;
    until("a quarter is written", STEP, || Ok(dd.has_ended()? || dd.written()? >= quarter))?;
    ensure!(!dd.has_ended()?, "the file is too small to be disturbed");
    fault(cluster)?;
    dd.end()?;
    ensure!(sha256_of(copy)? == wanted, "what is read differs from what was written");
    cluster.replace_mount(0)?;
    ensure!(sha256_of(copy)? == wanted, "what a new mount reads differs from what was written");
    Ok(wanted)
}

#[test]
fn a_chunkserver_is_killed_while_a_file_is_written() {
    scenario(options(), |cluster| {
        let file = cluster.mount()?.join("big");
        let wanted = copy_during(cluster, &file, |cluster| cluster.kill_chunkserver(1))?;
        // the one that comes back has old versions, which nobody may read
        cluster.start_chunkserver(1)?;
        cluster.kill_chunkserver(0)?;
        cluster.replace_mount(0)?;
        ensure!(sha256_of(&file)? == wanted, "an old copy was read");
        Ok(())
    });
}

#[test]
fn a_chunkserver_is_killed_and_comes_back_while_a_file_is_written() {
    scenario(options(), |cluster| {
        let file = cluster.mount()?.join("big");
        copy_during(cluster, &file, |cluster| {
            cluster.kill_chunkserver(2)?;
            cluster.start_chunkserver(2)
        })?;
        Ok(())
    });
}

#[test]
fn readers_go_on_when_a_chunkserver_is_killed() {
    scenario(options(), |cluster| {
        let mount = cluster.mount()?;
        let (file, mib) = (mount.join("big"), size_mib()? / 2);
        let source = cluster.path("source");
        let wanted = make_source(&source, mib)?;
        fs::copy(&source, &file)?;
        cluster.replace_mount(0)?;
        let mut reader = File::open(&file)?;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; MIB]);
        for at in 0..mib {
            if at == mib / 4 {
                cluster.kill_chunkserver(0)?;
            }
            reader.read_exact(&mut piece).with_context(|| format!("reading MiB {at}"))?;
            hasher.update(&piece);
        }
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(found == wanted, "what was read differs from what was written");
        Ok(())
    });
}

#[test]
fn what_was_synced_survives_the_death_of_its_mount() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let bytes = Stream::new(1).bytes(3 * MIB + 17);
        let file = File::create(mount.join("synced"))?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        let mut log = OpenOptions::new().create(true).append(true).open(mount.join("log"))?;
        for n in 0..100 {
            writeln!(log, "line {n}")?;
            log.sync_data()?;
        }
        cluster.kill_mount(0)?;
        drop((file, log));
        cluster.replace_mount(0)?;
        ensure!(fs::read(mount.join("synced"))? == bytes, "synced bytes are gone");
        ensure!(fs::read_to_string(mount.join("log"))?.lines().count() == 100, "synced lines are gone");
        Ok(())
    });
}

#[test]
fn what_was_synced_survives_the_death_of_everybody() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let bytes = Stream::new(2).bytes(MIB + 5);
        let file = File::create(mount.join("synced"))?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        cluster.kill_mount(0)?;
        drop(file);
        (0..3).try_for_each(|number| cluster.kill_chunkserver(number))?;
        cluster.kill_master()?;
        cluster.start_master()?;
        (0..3).try_for_each(|number| cluster.start_chunkserver(number))?;
        cluster.replace_mount(0)?;
        ensure!(fs::read(mount.join("synced"))? == bytes, "synced bytes are gone");
        Ok(())
    });
}

#[test]
fn what_was_synced_with_one_server_left_survives_that_server_too() {
    scenario(Options { chunkservers: 2, goal: 2, ..Options::default() }, |cluster| {
        let mount = cluster.mount()?;
        let bytes = Stream::new(3).bytes(MIB + 5);
        let file = File::create(mount.join("synced"))?;
        file.write_all_at(&Stream::new(4).bytes(bytes.len()), 0)?;
        file.sync_all()?;
        cluster.add_chunkserver()?;
        cluster.wait_chunkservers(3)?;
        cluster.kill_chunkserver(0)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        cluster.kill_mount(0)?;
        drop(file);
        // It was the only one that had the chunks when they were written.
        cluster.kill_chunkserver(1)?;
        cluster.replace_mount(0)?;
        ensure!(fs::read(mount.join("synced"))? == bytes, "synced bytes are gone");
        Ok(())
    });
}

#[test]
fn files_written_just_before_the_master_was_killed_have_their_size() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(&mount, "for n in $(seq 50); do seq $n >f$n; done")?;
        cluster.kill_master()?;
        cluster.start_master()?;
        sh(&mount, "for n in $(seq 50); do seq $n | cmp - f$n; done")?;
        cluster.restart_all()?;
        sh(&mount, "for n in $(seq 50); do seq $n | cmp - f$n; done")?;
        Ok(())
    });
}

#[test]
fn files_can_be_used_with_one_chunkserver_of_three_down() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        sh(&mount, "head -c 3000000 /dev/urandom >before; sha256sum before >sum")?;
        cluster.kill_chunkserver(0)?;
        sh(&mount, "sha256sum -c --quiet sum; cp before after; cmp before after; echo more >>before; sync before")?;
        sh(&mount, "sed s/before/after/ sum | sha256sum -c --quiet; test \"$(tail -c 5 before)\" = more")?;
        Ok(())
    });
}

#[test]
fn the_master_is_killed_and_comes_back_while_a_file_is_written() {
    scenario(options(), |cluster| {
        let file = cluster.mount()?.join("big");
        copy_during(cluster, &file, |cluster| {
            cluster.kill_master()?;
            cluster.start_master()
        })?;
        Ok(())
    });
}

#[test]
fn every_operation_that_returned_is_there_after_the_master_was_killed() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        let loads = (0..4).map(|number| Load::start(&mount.join(format!("w{number}")), number));
        let loads = loads.collect::<Result<Vec<Load>>>()?;
        let done = || loads.iter().map(Load::operations).sum::<u64>();
        for _ in 0..3 {
            let before = done();
            until("the loads go on", STEP, || Ok(done() >= before + 100))?;
            cluster.kill_master()?;
            cluster.start_master()?;
        }
        let before = done();
        until("the loads go on", STEP, || Ok(done() >= before + 100))?;
        let left = loads.into_iter().map(Load::end).collect::<Result<Vec<Left>>>()?;
        left.iter().try_for_each(Left::check)?;
        cluster.restart_all()?;
        left.iter().try_for_each(Left::check)
    });
}
