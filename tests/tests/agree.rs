//! A write that reached some of its replicas, and a writer that does not live to send it again: the replicas are made
//! equal all the same.

use anyhow::{Context, Result, ensure};
use gfs_tests::{Cluster, Options, Stream, scenario, until};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BLOCK: usize = 4096;
/// Where a replica's data begins in its file.
const HEADER: usize = 4096;
const SIZE: usize = 900_000;
/// At the members at once, not along the chain: all but the one that hangs apply it.
const OVERWRITTEN: usize = 60_000;
const AT: u64 = 300_000;
/// The session of a mount that was killed ends after 30 s; then the chunk is looked at.
const SETTLED: Duration = Duration::from_secs(90);

/// The only file of a replica at a chunkserver.
fn replica(cluster: &Cluster, number: usize) -> Result<PathBuf> {
    let chunks = cluster.chunkserver_directory(number).join("chunks");
    let mut found = Vec::new();
    for folder in fs::read_dir(&chunks).with_context(|| chunks.display().to_string())? {
        for file in fs::read_dir(folder?.path())? {
            found.push(file?.path());
        }
    }
    ensure!(found.len() == 1, "one replica, not {found:?}");
    found.pop().context("one")
}

fn data(path: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(path)?.get(HEADER..HEADER + SIZE).context("shorter than the file")?.to_vec())
}

fn differing_blocks(one: &[u8], other: &[u8]) -> usize {
    one.chunks(BLOCK).zip(other.chunks(BLOCK)).filter(|(a, b)| a != b).count()
}

#[test]
fn replicas_are_equal_though_a_chunkserver_and_the_writer_died_in_the_middle_of_a_write() {
    scenario(Options { chunk_size: "1MiB", ..Options::default() }, |cluster| {
        let file = cluster.mount()?.join("torn");
        let old = Stream::new(7).bytes(SIZE);
        fs::write(&file, &old)?;
        File::open(&file)?.sync_all()?;
        let mut new = old.clone();
        new[AT as usize..][..OVERWRITTEN].copy_from_slice(&Stream::new(8).bytes(OVERWRITTEN));
        // It has its grant, from all three, before one of them hangs.
        let open = OpenOptions::new().write(true).open(&file)?;
        open.write_all_at(&old[..BLOCK], 0)?;
        open.sync_data()?;
        cluster.pause_chunkserver(2)?;
        let written = new[AT as usize..][..OVERWRITTEN].to_vec();
        let writer = std::thread::spawn(move || open.write_all_at(&written, AT).and_then(|()| open.sync_data()));
        until("two replicas have the write", SETTLED, || {
            Ok([0, 1]
                .iter()
                .all(|number| replica(cluster, *number).and_then(|path| data(&path)).is_ok_and(|found| found == new)))
        })?;
        cluster.kill_mount(0)?;
        cluster.kill_chunkserver(2)?;
        ensure!(writer.join().is_ok_and(|ended| ended.is_err()), "the write was confirmed without the third");
        let torn = differing_blocks(&data(&replica(cluster, 2)?)?, &new);
        ensure!(torn > 0, "the third has it too: nothing was torn");

        cluster.start_chunkserver(2)?;
        until("the replicas are equal", SETTLED, || {
            let all = [0, 1, 2].map(|number| replica(cluster, number).and_then(|path| data(&path)));
            let [Ok(a), Ok(b), Ok(c)] = all else { return Ok(false) };
            Ok(differing_blocks(&a, &b) == 0 && differing_blocks(&b, &c) == 0)
        })?;
        cluster.replace_mount(0)?;
        ensure!(fs::read(&file)? == new, "forward, not back");
        Ok(())
    });
}
