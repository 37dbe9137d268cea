//! Bits change on the disk, behind everybody's back.
//!
//! Replicas change at the first chunkserver only, so that no block is ever damaged in all its copies. The master must
//! refuse to start with what was changed, naming the file, or start with everything that it had acknowledged; what it
//! refuses is changed back.

use super::{Field, Strike};
use crate::data::Stream;
use crate::rot::{Image, flip, images};
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The server whose replicas change.
const VICTIM: usize = 0;
/// Bound on the first replica.
const SOON: Duration = Duration::from_secs(30);
/// Bound on the master's decision.
const DECIDED: Duration = Duration::from_secs(30);
/// Bytes of the fields of a header, of a pack's header before the number of its units, by which replicas are found
/// here, and of a record.
const HEADER: usize = 512;
const PACK_UNITS: usize = 16;
const RECORD: usize = 32;

/// One bit of one replica: its bytes, a checksum, its header, or what the pack says of it.
pub(super) fn replica(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let mut all: Vec<Image> = Vec::new();
    until("there is a replica", SOON, || {
        all = images(&field.cluster, VICTIM)?.into_values().filter(|image| image.length > 0).collect();
        Ok(!all.is_empty())
    })?;
    let image = &all[below(chance, all.len())];
    let (byte, bit) = (place(image, chance), below(chance, 8));
    // the replica, or its pack, may have been removed since it was listed; a length that was changed leads anywhere
    let there = fs::metadata(&image.path).is_ok_and(|found| (byte as u64) < found.len());
    let flipped = there.then(|| flip(&image.path, byte, bit));
    let count = match flipped {
        Some(Ok(())) => 1,
        Some(Err(error)) if image.path.exists() => return Err(error),
        _ => 0,
    };
    field.flipped += count;
    Ok(Strike { count, loss: None })
}

fn place(image: &Image, chance: &mut Stream) -> usize {
    match (below(chance, 8), image.record) {
        (0, _) => image.sum(below(chance, image.blocks())) + below(chance, 4),
        (1, _) => image.at + below(chance, HEADER),
        (2, Some(record)) => record + below(chance, RECORD),
        (3, Some(_)) => below(chance, PACK_UNITS),
        _ => image.data(below(chance, image.length)),
    }
}

/// One bit of a segment of the operation log, somewhere in what was written.
pub(super) fn log(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    field.cluster.kill_master()?;
    let mut segments: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(field.cluster.master_directory().join("log"))? {
        segments.push(entry?.path());
    }
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    ensure!(!segments.is_empty(), "there is no operation log");
    let segment = segments.swap_remove(below(chance, segments.len()));
    master(field, &segment, chance)
}

/// One bit of the file of tables.
pub(super) fn table(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    field.cluster.kill_master()?;
    let path = field.cluster.master_directory().join("metadata.redb");
    master(field, &path, chance)
}

/// The master, which is down, starts again with one bit of this file changed.
fn master(field: &mut Field, path: &Path, chance: &mut Stream) -> Result<Strike> {
    let raw = fs::read(path)?;
    let byte = written(&raw, chance).with_context(|| format!("{} has nothing in it", path.display()))?;
    let bit = below(chance, 8);
    flip(path, byte, bit)?;
    let said = field.cluster.master_process().log().len();
    if starts(field)? {
        field.note("started with it", 1);
    } else {
        let daemon = field.cluster.master_process();
        let log = daemon.log();
        daemon.kill()?; // it has ended; this forgets it
        let reason = &log[said..];
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        field.promised(reason.contains(&*name), || {
            format!("bit {bit} of byte {byte} of {name}: the master ended and did not name the file: {reason}")
        });
        field.note("refused", 1);
        flip(path, byte, bit)?;
        field.cluster.start_master()?;
    }
    Ok(Strike { count: 1, loss: None })
}

/// False if the master ends instead.
fn starts(field: &mut Field) -> Result<bool> {
    field.cluster.master_process().start()?;
    let mut ended = false;
    until("the master answers or ends", DECIDED, || {
        ended = field.cluster.master_process().ended()?.is_some();
        Ok(ended || field.cluster.gfsctl_attempt(&["status"])?.status == 0)
    })?;
    Ok(!ended)
}

/// A byte in a sector that is not empty.
fn written(raw: &[u8], chance: &mut Stream) -> Option<usize> {
    const SECTOR: usize = 512;
    let sectors = raw.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
    let sectors: Vec<(usize, usize)> = sectors.map(|(number, sector)| (number * SECTOR, sector.len())).collect();
    let (start, length) = *sectors.get(below(chance, sectors.len().max(1)))?;
    Some(start + below(chance, length))
}

fn below(chance: &mut Stream, bound: usize) -> usize {
    usize::try_from(chance.number() >> 33).unwrap_or_default() % bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_changes() {
        let mut raw = vec![0; 4096];
        let mut chance = Stream::new(1);
        assert_eq!(written(&raw, &mut chance), None);
        raw[1100] = 1;
        let places: Vec<usize> = (0..100).filter_map(|_| written(&raw, &mut chance)).collect();
        assert!(places.len() == 100 && places.iter().all(|at| (1024..1536).contains(at)), "{places:?}");
    }
}
