//! Bits of replicas change on the disk: no wrong byte is ever read, what is damaged is found by a read, a scrub or
//! `gfsctl verify`, and mended from the other copies.

use anyhow::{Result, ensure};
use gfs_tests::rot::{Image, flip, images};
use gfs_tests::{Cluster, Options, Stream, scenario, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Bound on finding and mending.
const MENDED: Duration = Duration::from_secs(60);
/// Bytes of the files: in packs, in files of their own, of several chunks, the last one not full.
const SIZES: [usize; 6] = [700_000, 300_001, 70_000, 50_000, 4096, 1];

/// Nothing is read but by readers, unless a test asks for it.
fn options() -> Options {
    const FLAGS: &[&str] = &["--reserve-mib", "16", "--watermark-mib", "16", "--scrub-period", "0"];
    Options { chunkserver_flags: FLAGS, ..Options::default() }
}

type Files = Vec<(PathBuf, Vec<u8>)>;

/// Writes files, and waits until all replicas are clean: what is on the disks then does not change by itself.
fn write_files(cluster: &mut Cluster, count: usize) -> Result<Files> {
    let mount = cluster.mount()?;
    let mut files = Files::new();
    for (number, size) in SIZES.iter().cycle().take(count).enumerate() {
        let bytes = Stream::new(number as u64).bytes(*size);
        let path = mount.join(format!("file{number}"));
        fs::write(&path, &bytes)?;
        files.push((path, bytes));
    }
    cluster.stop_mount(0)?;
    cluster.start_mount(0)?;
    until("every replica is clean", MENDED, || {
        let all = all_images(cluster)?;
        Ok(all.values().flatten().all(|(_, image)| !image.unclean))
    })?;
    Ok(files)
}

/// Images of all chunks: for each handle, chunkserver and image.
fn all_images(cluster: &Cluster) -> Result<BTreeMap<u64, Vec<(usize, Image)>>> {
    let mut all: BTreeMap<u64, Vec<(usize, Image)>> = BTreeMap::new();
    for number in 0..3 {
        for (handle, image) in images(cluster, number)? {
            all.entry(handle).or_default().push((number, image));
        }
    }
    Ok(all)
}

/// What every replica consists of.
type Contents = BTreeMap<(u64, usize), Vec<u8>>;

fn contents(cluster: &Cluster) -> Result<Contents> {
    let mut contents = Contents::new();
    for (handle, images) in all_images(cluster)? {
        for (number, image) in images {
            contents.insert((handle, number), image.content()?);
        }
    }
    Ok(contents)
}

/// Replicas that are not as they were.
fn changed(cluster: &Cluster, before: &Contents) -> Result<usize> {
    let now = contents(cluster)?;
    Ok(before.iter().filter(|(replica, content)| now.get(replica) != Some(content)).count())
}

fn heals(cluster: &Cluster, before: &Contents) -> Result<()> {
    until("every replica is what it was", MENDED, || Ok(changed(cluster, before)? == 0))?;
    until("no replica is called damaged any more", MENDED, || {
        let chunks = cluster.gfsctl_json(&["status"])?["chunks"].take();
        Ok(chunks["damaged_replicas"] == 0 && chunks["incurable"] == 0)
    })
}

/// Reads by a mount that has nothing in memory.
fn read_all(cluster: &mut Cluster, files: &Files) -> Result<()> {
    cluster.replace_mount(0)?;
    for (path, bytes) in files {
        ensure!(fs::read(path)? == *bytes, "{} has wrong bytes", path.display());
    }
    Ok(())
}

/// Of the chunkservers: replicas found damaged, and what was mended.
fn counts(cluster: &Cluster) -> Result<(u64, u64)> {
    let servers = cluster.gfsctl_json(&["chunkservers"])?;
    let all = servers["chunkservers"].as_array().cloned().unwrap_or_default();
    let sum = |key: &str| all.iter().map(|server| server["scrub"][key].as_u64().unwrap_or(0)).sum();
    Ok((sum("damaged"), sum("mended")))
}

fn flip_data(image: &Image, offset: usize) -> Result<()> {
    flip(&image.path, image.data(offset), offset % 8)
}

#[test]
fn readers_get_the_right_bytes_and_what_they_met_heals() {
    scenario(options(), |cluster| {
        let files = write_files(cluster, 12)?;
        let before = contents(cluster)?;
        // one and the same chunkserver: some of its replicas are read first, others never
        for images in all_images(cluster)?.values() {
            for (_, image) in images.iter().filter(|(number, _)| *number == 1) {
                flip_data(image, image.length / 2)?;
            }
        }
        let damaged = changed(cluster, &before)?;
        ensure!(damaged >= 12, "{damaged} are damaged");
        read_all(cluster, &files)?;
        until("something was found and nothing is left of it", MENDED, || {
            let left = cluster.gfsctl_json(&["status"])?["chunks"]["damaged_replicas"] == 0;
            let found = counts(cluster)?.0;
            Ok(left && found > 0 && changed(cluster, &before)? as u64 == damaged as u64 - found)
        })
    });
}

#[test]
fn replicas_with_different_damage_heal_each_other() {
    scenario(options(), |cluster| {
        let files = write_files(cluster, 12)?;
        let before = contents(cluster)?;
        for images in all_images(cluster)?.values() {
            for (number, image) in images.iter().filter(|(_, image)| image.blocks() > 2) {
                flip_data(image, 4096 * number + 17)?;
            }
        }
        read_all(cluster, &files)?;
        cluster.gfsctl(&["scrub"])?;
        heals(cluster, &before)?;
        read_all(cluster, &files)
    });
}

#[test]
fn one_scrub_finds_every_flipped_bit_wherever_it_is_and_all_are_mended() {
    let options = Options { deadline: Duration::from_secs(600), ..options() };
    scenario(options, |cluster| {
        let files = write_files(cluster, 150)?;
        let before = contents(cluster)?;
        let mut random = Stream::new(2026);
        let mut below = |bound: usize| (random.number() % bound as u64) as usize;
        let mut flips = [0; 5];
        for images in all_images(cluster)?.values() {
            let (_, image) = &images[below(images.len())];
            let kind = below(5);
            let byte = match (kind, image.record) {
                (0, _) => image.sum(below(image.blocks())) + below(4),
                (1, _) => image.at + below(512),
                (2, Some(record)) => record + below(32),
                _ => image.data(below(image.length)),
            };
            flips[kind] += 1;
            flip(&image.path, byte, below(8))?;
        }
        // headers of packs
        for number in 0..3 {
            let pack = images(cluster, number)?.into_values().find(|image| image.record.is_some());
            flip(&pack.expect("a packed replica").path, below(28), below(8))?;
        }
        let all = flips.iter().sum::<u64>() + 3;
        ensure!(all > 200 && flips.iter().all(|count| *count > 30), "{flips:?}");
        cluster.gfsctl(&["scrub"])?;
        let (found, _) = counts(cluster)?;
        ensure!(found == all, "{found} of {all} were found: {flips:?}");
        heals(cluster, &before)?;
        // records and headers of packs are believed at a start only
        cluster.restart_all()?;
        ensure!(contents(cluster)?.len() == before.len(), "replicas are lost");
        cluster.gfsctl(&["scrub"])?;
        ensure!(counts(cluster)?.0 == 0, "something was left");
        read_all(cluster, &files)
    });
}

#[test]
fn verify_names_what_is_damaged_and_then_it_heals() {
    scenario(options(), |cluster| {
        let files = write_files(cluster, 6)?;
        let before = contents(cluster)?;
        let whole = cluster.gfsctl_json(&["verify"])?;
        ensure!(whole["findings"] == 0 && whole["files"].as_array().map(Vec::len) == Some(6), "{whole}");
        for (file, (_, bytes)) in whole["files"].as_array().cloned().unwrap_or_default().iter().zip(&files) {
            ensure!(file["sha256"] == hex(bytes), "{file}");
        }
        let images = all_images(cluster)?;
        let (handle, of_chunk) = images.iter().find(|(_, images)| images[0].1.length > 200_000).expect("a large one");
        let (number, image) = &of_chunk[2];
        flip_data(image, 5 * 4096 + 1)?;
        let ran = cluster.gfsctl_attempt(&["--json", "verify", "/"])?;
        ensure!(ran.status == 1, "exit status {}", ran.status);
        let found: Value = serde_json::from_str(&ran.out)?;
        let name = cluster.server_name(*number)?;
        let findings: Vec<Value> = found["files"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|file| file["findings"].as_array().cloned().unwrap_or_default())
            .collect();
        ensure!(findings.len() == 1, "{findings:?}");
        let finding = &findings[0];
        let server = format!("cs{}", finding["server"]);
        let seen = (server, finding["handle"].as_str().map(str::to_owned), finding["offset"].as_u64());
        ensure!(seen == (name, Some(format!("{handle:016x}")), Some(5 * 4096)), "{finding}");
        ensure!(finding["what"] == "damaged", "{finding}");
        heals(cluster, &before)?;
        cluster.gfsctl(&["verify", "/file0"])?;
        Ok(())
    });
}

#[test]
fn with_one_chunkserver_dead_the_two_that_are_left_mend_each_other() {
    scenario(options(), |cluster| {
        let files = write_files(cluster, 12)?;
        let before = contents(cluster)?;
        cluster.kill_chunkserver(2)?;
        for images in all_images(cluster)?.values() {
            let (_, image) = &images[0];
            flip_data(image, image.length - 1)?;
            let (_, other) = &images[1];
            flip(&other.path, other.sum(0), 3)?;
        }
        let single = |image: &Image| image.blocks() == 1;
        // where both copies are damaged in the only block, nobody has it until the third is back
        let hopeless = all_images(cluster)?.values().filter(|images| single(&images[0].1)).count();
        until("the first two are asked", MENDED, || Ok(cluster.gfsctl_attempt(&["scrub", "cs1"])?.status == 0))?;
        cluster.gfsctl_attempt(&["scrub", &cluster.server_name(0)?])?;
        cluster.gfsctl_attempt(&["scrub", &cluster.server_name(1)?])?;
        until("what one of the two has is mended", MENDED, || Ok(changed(cluster, &before)? == 2 * hopeless))?;
        ensure!(hopeless > 0, "no small chunk");
        cluster.start_chunkserver(2)?;
        heals(cluster, &before)?;
        read_all(cluster, &files)
    });
}

fn hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
