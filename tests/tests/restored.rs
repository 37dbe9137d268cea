//! A master that was set back to an older copy of its data: what was written since is not served, not deleted by itself,
//! listed, and gone after its time.

use anyhow::{Context, Result, ensure};
use gfs_tests::{Cluster, Daemon, Options, Script, Stream, program, scenario, sh, until};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const SIZE: usize = 200_000;

/// What is kept aside: chunk and number of the chunkserver.
fn orphaned(cluster: &Cluster) -> Result<Vec<(String, u64)>> {
    let listed = cluster.gfsctl_json(&["chunks", "--orphaned"])?;
    let rows = listed["orphaned"].as_array().context("a list")?;
    let row = |row: &serde_json::Value| Some((row["chunk"].as_str()?.to_owned(), row["server"].as_u64()?));
    rows.iter().map(row).collect::<Option<_>>().context("chunk and server")
}

/// Replicas of a chunk on all chunkservers.
fn replicas(cluster: &Cluster, chunk: &str) -> Result<usize> {
    let mut found = 0;
    for number in 0..3 {
        for folder in fs::read_dir(cluster.chunkserver_directory(number).join("chunks"))? {
            for file in fs::read_dir(folder?.path())? {
                found += usize::from(file?.file_name().to_string_lossy().starts_with(chunk));
            }
        }
    }
    Ok(found)
}

fn write(path: &Path, seed: u64) -> Result<()> {
    fs::write(path, Stream::new(seed).bytes(SIZE))?;
    Ok(File::open(path)?.sync_all()?)
}

/// Starts once with `--restored`, and stops.
fn begin_generation(cluster: &Cluster) -> Result<()> {
    let (data, address) = (cluster.path("master").display().to_string(), cluster.address().to_owned());
    let arguments = ["--data", &data, "--listen", &address, "--restored"].map(str::to_owned).to_vec();
    let mut master = Daemon::new("restored", program("gfs-master")?, arguments, cluster.path("restored.log"));
    master.start()?;
    let gfsctl = program("gfsctl")?;
    master.wait_ready("answers", SOON, || {
        Ok(Script::new(&gfsctl, &["--master", &address, "status"]).attempt()?.status == 0)
    })?;
    master.stop()
}

#[test]
fn chunks_of_a_lost_future_are_listed_and_kept_for_their_time() {
    let master_flags = &["--quarantine-retention", "15s"];
    scenario(Options { master_flags, ..Options::default() }, |cluster| {
        let mount = cluster.mount()?;
        write(&mount.join("old"), 1)?;
        cluster.kill_master()?;
        let (data, backup) = (cluster.path("master"), cluster.path("backup"));
        sh(Path::new("/"), &format!("cp -r {} {}", data.display(), backup.display()))?;
        cluster.start_master()?;
        cluster.wait_chunkservers(3)?;
        write(&mount.join("new"), 2)?;
        cluster.stop_mount(0)?;
        cluster.kill_master()?;
        sh(Path::new("/"), &format!("rm -r {0} && mv {1} {0}", data.display(), backup.display()))?;
        begin_generation(cluster)?;
        cluster.start_master()?;
        cluster.wait_chunkservers(3)?;

        until("the three replicas are listed", SOON, || Ok(orphaned(cluster)?.len() == 3))?;
        let listed = orphaned(cluster)?;
        let chunk = listed[0].0.clone();
        ensure!(listed.iter().all(|row| row.0 == chunk), "of one chunk: {listed:?}");
        ensure!(replicas(cluster, &chunk)? == 3, "they were deleted");
        cluster.start_mount(0)?;
        ensure!(!mount.join("new").exists(), "served");
        ensure!(fs::read(mount.join("old"))? == Stream::new(1).bytes(SIZE));
        write(&mount.join("after"), 3)?;
        let fsck = cluster.gfsctl_json(&["fsck"])?;
        ensure!(fsck["orphaned"] == 3, "{fsck}");

        until("they are deleted", SOON, || Ok(replicas(cluster, &chunk)? == 0))?;
        until("nothing is listed", SOON, || Ok(orphaned(cluster)?.is_empty()))?;
        ensure!(fs::read(mount.join("old"))? == Stream::new(1).bytes(SIZE));
        ensure!(fs::read(mount.join("after"))? == Stream::new(3).bytes(SIZE));
        Ok(())
    });
}
