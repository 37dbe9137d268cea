//! `gfsctl fsck` and `gfsctl chunks` on a cluster that is well and being used, and on one that has lost data.

use anyhow::{Context, ensure};
use gfs_tests::{Load, Options, Stream, scenario, until};
use std::fs;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// Longest operation while everything is looked at.
const HELD_UP_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_cluster_in_use_is_clean_and_is_not_held_up() {
    scenario(Options::default(), |cluster| {
        let mount = cluster.mount()?;
        for number in 0..300 {
            fs::create_dir_all(mount.join(format!("d{}", number % 10)))?;
            fs::write(mount.join(format!("d{}/f{number}", number % 10)), Stream::new(number).bytes(5000))?;
        }
        let load = Load::start(&mount.join("load"), 7)?;
        until("there is some load", SOON, || Ok(load.operations() > 20))?;
        let mut longest = Duration::ZERO;
        for round in 0..20 {
            let found = cluster.gfsctl_json(&["fsck"])?;
            ensure!(found["clean"] == true && found["findings"].as_array().is_some_and(Vec::is_empty), "{found}");
            let begun = Instant::now();
            fs::write(mount.join(format!("beside{round}")), "x")?;
            longest = longest.max(begun.elapsed());
        }
        ensure!(longest < HELD_UP_MAX, "a write took {longest:?}");
        let repaired = cluster.gfsctl(&["fsck", "--repair"])?;
        ensure!(repaired.contains("clean: "), "{repaired}");
        load.end()?.check()
    });
}

#[test]
fn what_has_lost_its_copies_is_named() {
    let master_flags = &["--lost-after", "6s"];
    scenario(Options { goal: 1, chunkservers: 2, master_flags, ..Options::default() }, |cluster| {
        let mount = cluster.mount()?;
        for number in 0..6 {
            fs::write(mount.join(format!("f{number}")), Stream::new(number).bytes(100_000))?;
        }
        let healthy = |cluster: &gfs_tests::Cluster, health: &str| -> anyhow::Result<usize> {
            let listed = cluster.gfsctl_json(&["chunks", "--health", health])?;
            Ok(listed["chunks"].as_array().context("a list")?.len())
        };
        until("all are healthy", SOON, || Ok(healthy(cluster, "healthy")? == 6))?;
        cluster.kill_chunkserver(1)?;
        until("some are lost", SOON, || Ok(healthy(cluster, "lost")? > 0))?;
        let lost = healthy(cluster, "lost")?;
        ensure!(healthy(cluster, "healthy")? + lost == 6);
        let ran = cluster.gfsctl_attempt(&["fsck"])?;
        ensure!(ran.status == 1, "{}", ran.out);
        ensure!(ran.out.matches("has no copy: chunk 0 of /f").count() == lost, "{}", ran.out);
        cluster.start_chunkserver(1)?;
        until("it is clean again", SOON, || Ok(cluster.gfsctl_attempt(&["fsck"])?.status == 0))
    });
}
