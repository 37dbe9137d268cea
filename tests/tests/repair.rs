//! Copies are lost, made again, moved and removed; files stay readable and equal throughout.

use anyhow::{Result, ensure};
use gfs_tests::{Cluster, Options, Small, Stream, environment_is_fit, scenario, until};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bound on a repair.
const REPAIRED: Duration = Duration::from_secs(60);
/// Bytes of the files: several chunks, the last one not full.
const SIZES: [usize; 5] = [1 << 20, 300_000, 70_000, 4096, 1];

/// Four chunkservers with three copies, and a master that does not wait long.
fn options() -> Options {
    Options { chunkservers: 4, master_flags: &["--suspect-after", "2s", "--lost-after", "3s"], ..Options::default() }
}

/// Writes files through a mount that is ended then, so that nothing is leased and everything is durable.
fn write_files(cluster: &mut Cluster) -> Result<Vec<(PathBuf, String)>> {
    let mount = cluster.mount()?;
    let mut files = Vec::new();
    for (number, size) in SIZES.iter().cycle().take(15).enumerate() {
        let bytes = Stream::new(number as u64).bytes(*size);
        let path = mount.join(format!("file{number}"));
        fs::write(&path, &bytes)?;
        files.push((path, hex(&bytes)));
    }
    cluster.stop_mount(0)?;
    cluster.start_mount(0)?;
    Ok(files)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn all_equal(files: &[(PathBuf, String)]) -> Result<()> {
    for (path, wanted) in files {
        ensure!(hex(&fs::read(path)?) == *wanted, "{} has changed", path.display());
    }
    Ok(())
}

/// Waits until status shows this health and nothing is left to be done.
fn settled(cluster: &Cluster, health: &str) -> Result<()> {
    until(&format!("the cluster is {health}, and nothing waits for repair"), REPAIRED, || {
        let status = cluster.gfsctl_json(&["status"])?;
        let repair = &status["repair"];
        Ok(status["health"] == health && repair["queue"] == 0 && repair["surveyed"] == true)
    })
}

fn is(cluster: &Cluster, health: &str) -> Result<()> {
    until(&format!("the cluster is {health}"), REPAIRED, || Ok(cluster.gfsctl_json(&["status"])?["health"] == health))
}

/// Replicas of a chunkserver, by chunk and version, with what is in them.
fn replicas(cluster: &Cluster, number: usize) -> Result<BTreeMap<String, String>> {
    gfs_tests::replicas(&cluster.chunkserver_directory(number))
}

/// Every chunk has so many replicas on these chunkservers, of one version and all equal.
fn replicas_are_equal(cluster: &Cluster, servers: &[usize], copies: usize) -> Result<()> {
    let mut chunks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in servers {
        for (chunk, content) in replicas(cluster, *number)? {
            chunks.entry(chunk).or_default().push(content);
        }
    }
    ensure!(!chunks.is_empty(), "no chunk at all");
    for (chunk, contents) in &chunks {
        ensure!(contents.len() == copies, "{chunk} has {} replicas, not {copies}", contents.len());
        ensure!(contents.iter().all(|content| *content == contents[0]), "replicas of {chunk} differ");
    }
    Ok(())
}

#[test]
fn a_killed_chunkserver_is_made_up_for_and_its_surplus_removed_when_it_returns() {
    scenario(options(), |cluster| {
        let files = write_files(cluster)?;
        settled(cluster, "healthy")?;
        cluster.kill_chunkserver(1)?;
        is(cluster, "degraded")?;
        settled(cluster, "healthy")?;
        all_equal(&files)?;
        replicas_are_equal(cluster, &[0, 2, 3], 3)?;
        cluster.start_chunkserver(1)?;
        until("the surplus copies are gone", REPAIRED, || Ok(replicas_are_equal(cluster, &[0, 1, 2, 3], 3).is_ok()))?;
        settled(cluster, "healthy")?;
        all_equal(&files)?;
        cluster.restart_all()?;
        settled(cluster, "healthy")?;
        all_equal(&files)
    });
}

#[test]
fn a_clean_stop_starts_no_repair() {
    scenario(Options { chunkservers: 5, ..options() }, |cluster| {
        let files = write_files(cluster)?;
        settled(cluster, "healthy")?;
        cluster.stop_chunkserver(1)?;
        is(cluster, "degraded")?;
        // The killed one is lost later than the one that took leave would have been.
        cluster.kill_chunkserver(2)?;
        until("the killed one is missed", REPAIRED, || {
            Ok(cluster.gfsctl_json(&["status"])?["repair"]["copied"].as_u64() > Some(0))
        })?;
        settled(cluster, "degraded")?;
        cluster.start_chunkserver(1)?;
        settled(cluster, "healthy")?;
        all_equal(&files)
    });
}

#[test]
fn a_goal_is_raised_and_lowered() {
    scenario(options(), |cluster| {
        let files = write_files(cluster)?;
        settled(cluster, "healthy")?;
        for copies in [4, 2] {
            cluster.gfsctl(&["set-goal", "-r", &copies.to_string(), "/"])?;
            until("every chunk has as many copies", REPAIRED, || {
                Ok(replicas_are_equal(cluster, &[0, 1, 2, 3], copies).is_ok())
            })?;
            settled(cluster, "healthy")?;
            all_equal(&files)?;
        }
        Ok(())
    });
}

#[test]
fn a_chunkserver_is_drained_and_removed_while_files_stay_as_they_are() {
    scenario(options(), |cluster| {
        let files = write_files(cluster)?;
        settled(cluster, "healthy")?;
        let (drained, running) = (cluster.server_name(2)?, cluster.server_name(0)?);
        let unknown = cluster.gfsctl_attempt(&["drain", "cs99"])?;
        ensure!(unknown.status != 0 && unknown.err.contains("no chunkserver cs99"), "{}", unknown.err);
        let refused = cluster.gfsctl_attempt(&["remove", &running])?;
        ensure!(refused.status != 0 && refused.err.contains("stop it first"), "{}", refused.err);
        let said = cluster.gfsctl(&["drain", &drained, "--wait"])?;
        ensure!(said.contains("safe to stop"), "{said}");
        replicas_are_equal(cluster, &[0, 1, 3], 3)?;
        ensure!(replicas(cluster, 2)?.is_empty(), "it has copies still");
        // What is written now goes elsewhere.
        let more = write_more(cluster)?;
        cluster.stop_chunkserver(2)?;
        let said = cluster.gfsctl(&["remove", &drained])?;
        ensure!(said.contains("as many copies as are wanted") && !said.contains("made now"), "{said}");
        let nobody = cluster.gfsctl_attempt(&["chunks", "--server", &drained])?;
        nobody.refused(1, &["no chunkserver", &drained])?;
        settled(cluster, "healthy")?;
        all_equal(&files)?;
        all_equal(&more)?;
        let known = cluster.gfsctl_json(&["status"])?["chunkservers"]["known"].as_u64();
        ensure!(known == Some(3), "{known:?} chunkservers are known");
        Ok(())
    });
}

/// One file more, through the mount that there is.
fn write_more(cluster: &Cluster) -> Result<Vec<(PathBuf, String)>> {
    let (path, bytes) = (cluster.path("m0").join("more"), Stream::new(99).bytes(600_000));
    fs::write(&path, &bytes)?;
    Ok(vec![(path, hex(&bytes))])
}

#[test]
fn a_server_that_is_not_drained_any_more_gets_chunks_again() {
    scenario(Options { chunkservers: 3, goal: 2, ..options() }, |cluster| {
        let name = cluster.server_name(0)?;
        cluster.gfsctl(&["drain", &name])?;
        write_files(cluster)?;
        ensure!(replicas(cluster, 0)?.is_empty(), "a drained server got chunks");
        let said = cluster.gfsctl(&["drain", &name, "--cancel"])?;
        ensure!(said.contains("not being drained"), "{said}");
        let mount = cluster.path("m0");
        for number in 0..20 {
            fs::write(mount.join(format!("again{number}")), b"some bytes")?;
        }
        cluster.stop_mount(0)?;
        until("it has chunks", REPAIRED, || Ok(!replicas(cluster, 0)?.is_empty()))
    });
}

#[test]
fn no_two_copies_stay_in_one_rack_when_there_are_enough() {
    let racks: &'static [&'static str] = &["a", "a", "b", "c"];
    scenario(Options { chunkservers: 3, goal: 2, racks, ..options() }, |cluster| {
        let files = write_files(cluster)?;
        settled(cluster, "healthy")?;
        ensure!(shared(cluster)? == 0, "there are two racks for two copies");
        cluster.gfsctl(&["set-goal", "-r", "3", "/"])?;
        until("every chunk has three copies", REPAIRED, || Ok(replicas_are_equal(cluster, &[0, 1, 2], 3).is_ok()))?;
        ensure!(shared(cluster)? > 0, "three copies in two racks");
        // A third rack comes.
        cluster.add_chunkserver()?;
        until("no chunk has two copies in one rack", REPAIRED, || Ok(shared(cluster)? == 0))?;
        until("nor one too many", REPAIRED, || Ok(replicas_are_equal(cluster, &[0, 1, 2, 3], 3).is_ok()))?;
        settled(cluster, "healthy")?;
        all_equal(&files)
    });
}

/// Chunks with a copy on both of the first two chunkservers.
fn shared(cluster: &Cluster) -> Result<usize> {
    let other = replicas(cluster, 1)?;
    Ok(replicas(cluster, 0)?.keys().filter(|chunk| other.contains_key(*chunk)).count())
}

#[test]
fn a_new_server_is_filled_from_the_others() {
    if let Err(error) = environment_is_fit() {
        panic!("{error:#}");
    }
    let parent = tempfile::tempdir().expect("a directory");
    let small = Small::mount(parent.path(), 3).expect("file systems in memory");
    let options = Options {
        chunkservers: 0,
        goal: 2,
        chunkserver_flags: &["--reserve-mib", "1", "--watermark-mib", "1"],
        master_flags: &["--rebalance-threshold", "10", "--rebalance-rate", "8MiB"],
        ..options()
    };
    scenario(options, |cluster| {
        for point in &small.points()[..2] {
            cluster.add_chunkserver_at(point)?;
        }
        let mount = cluster.mount()?;
        let mut files = Vec::new();
        for number in 0..30 {
            let (path, bytes) = (mount.join(format!("file{number}")), Stream::new(number).bytes(1 << 20));
            fs::write(&path, &bytes)?;
            files.push((path, hex(&bytes)));
        }
        cluster.stop_mount(0)?;
        cluster.start_mount(0)?;
        settled(cluster, "healthy")?;
        cluster.add_chunkserver_at(&small.points()[2])?;
        // 60 MiB on three servers of 64: none differs from another by much more than a tenth.
        let counts = || -> Result<Vec<usize>> { (0..3).map(|number| Ok(replicas(cluster, number)?.len())).collect() };
        until("the servers are even", REPAIRED, || {
            Ok(counts()?.iter().all(|chunks| (14 * 4..27 * 4).contains(chunks)))
        })?;
        until("nothing is left over", REPAIRED, || Ok(replicas_are_equal(cluster, &[0, 1, 2], 2).is_ok()))?;
        settled(cluster, "healthy")?;
        all_equal(&files)
    });
}

/// Files that were flushed just now and are still open for writing, so that their replicas are not clean.
fn write_and_sync(cluster: &mut Cluster) -> Result<Vec<(PathBuf, String)>> {
    let mount = cluster.mount()?;
    let mut files = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        let (path, bytes) = (mount.join(format!("synced{number}")), Stream::new(number as u64).bytes(size));
        let file = fs::File::create(&path)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        files.push((path, hex(&bytes)));
    }
    Ok(files)
}

/// Three chunkservers that are not lost while they are started again.
fn three() -> Options {
    Options { chunkservers: 3, master_flags: &["--suspect-after", "2s", "--lost-after", "20s"], ..options() }
}

fn adoptions(cluster: &Cluster) -> Result<usize> {
    let log = fs::read_to_string(cluster.path("master.log"))?;
    Ok(log.lines().filter(|line| line.contains("a suspect one was adopted")).count())
}

#[test]
fn what_was_synced_is_there_after_all_chunkservers_lost_power() {
    scenario(three(), |cluster| {
        let files = write_and_sync(cluster)?;
        cluster.cut_power(&[0, 1, 2])?;
        // Nothing is in its memory.
        cluster.replace_mount(0)?;
        cluster.start_chunkserver(0)?;
        cluster.start_chunkserver(1)?;
        let status = cluster.gfsctl_json(&["status"])?;
        ensure!(status["health"] == "critical" && status["chunks"]["unavailable"] != 0, "{status}");
        ensure!(adoptions(cluster)? == 0, "the third may have been spared");
        cluster.start_chunkserver(2)?;
        // Whoever asks waits until there is an answer.
        all_equal(&files)?;
        settled(cluster, "healthy")?;
        replicas_are_equal(cluster, &[0, 1, 2], 3)?;
        ensure!(adoptions(cluster)? > 0, "it was adopted");
        let path = &files[0].0;
        OpenOptions::new().write(true).open(path)?.write_all_at(b"goes on", 0)?;
        ensure!(fs::read(path)?.starts_with(b"goes on"), "what is written then is read");
        Ok(())
    });
}

#[test]
fn what_one_chunkserver_was_spared_replaces_what_is_suspect_at_the_others() {
    scenario(three(), |cluster| {
        let files = write_and_sync(cluster)?;
        cluster.cut_power(&[0, 1])?;
        cluster.replace_mount(0)?;
        cluster.start_chunkserver(0)?;
        cluster.start_chunkserver(1)?;
        settled(cluster, "healthy")?;
        all_equal(&files)?;
        replicas_are_equal(cluster, &[0, 1, 2], 3)?;
        ensure!(cluster.gfsctl_json(&["status"])?["repair"]["copied"].as_u64() > Some(0), "nothing was suspect");
        ensure!(adoptions(cluster)? == 0, "there was a good one");
        Ok(())
    });
}

#[test]
fn files_that_are_written_all_the_time_are_repaired_too() {
    scenario(options(), |cluster| {
        let path = cluster.mount()?.join("busy");
        let mut truth = Stream::new(7).bytes(1 << 20);
        fs::write(&path, &truth)?;
        let file = OpenOptions::new().write(true).open(&path)?;
        cluster.kill_chunkserver(1)?;
        let deadline = Instant::now() + REPAIRED;
        for round in 0u64.. {
            let (at, bytes) = (round as usize * 7919 % (truth.len() - 5000), Stream::new(round).bytes(5000));
            file.write_all_at(&bytes, at as u64)?;
            file.sync_data()?;
            truth[at..at + bytes.len()].copy_from_slice(&bytes);
            // Status is asked now and then: it is the writing that is to go on.
            if round % 50 == 0 {
                let status = cluster.gfsctl_json(&["status"])?;
                let lost = status["chunkservers"]["up"] == 3 && status["repair"]["copied"].as_u64() > Some(0);
                if lost && status["health"] == "healthy" && status["repair"]["queue"] == 0 {
                    break;
                }
            }
            ensure!(Instant::now() < deadline, "what is being written is not repaired");
        }
        drop(file);
        ensure!(fs::read(&path)? == truth, "what is read differs from what was written");
        cluster.stop_mount(0)?;
        replicas_are_equal(cluster, &[0, 2, 3], 3)
    });
}
