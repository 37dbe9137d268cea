//! Rot: bits of replicas that change on the disk behind everybody's back. Knows where replicas are and what they
//! consist of (`docs/format.md`).

use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
const SLOT: usize = 32;
/// Fields of a header, behind which the sums are.
const FIELDS: usize = 512;

/// Where the bytes of one replica are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Its own file, or a pack.
    pub path: PathBuf,
    /// Where it begins there.
    pub at: usize,
    /// Bytes of the chunk.
    pub length: usize,
    /// Where its record is, if it is in a pack.
    pub record: Option<usize>,
    /// It was written and not yet marked clean.
    pub unclean: bool,
}

impl Image {
    /// Where a byte of the chunk is in the file.
    pub fn data(&self, offset: usize) -> usize {
        self.at + BLOCK + offset
    }

    /// Where the sum of a block is in the file; blocks of the first 3.5 MiB.
    pub fn sum(&self, block: usize) -> usize {
        self.at + FIELDS + 4 * block
    }

    /// Blocks that it has.
    pub fn blocks(&self) -> usize {
        self.length.div_ceil(BLOCK)
    }

    /// Everything in it that counts: header, sums, data.
    pub fn content(&self) -> Result<Vec<u8>> {
        let raw = fs::read(&self.path).with_context(|| self.path.display().to_string())?;
        let sums = self.sum(self.blocks());
        let (head, data) = (raw.get(self.at..sums), raw.get(self.data(0)..self.data(self.length)));
        Ok([head.context("no header")?, data.context("no data")?].concat())
    }
}

/// The replicas of a chunkserver, by handle.
pub fn images(cluster: &Cluster, number: usize) -> Result<BTreeMap<u64, Image>> {
    let directory = cluster.chunkserver_directory(number);
    let mut found = BTreeMap::new();
    for subdirectory in fs::read_dir(directory.join("chunks"))? {
        for file in fs::read_dir(subdirectory?.path())? {
            found.extend(alone(file?.path())?);
        }
    }
    for pack in fs::read_dir(directory.join("packs"))? {
        found.extend(packed(&pack?.path())?);
    }
    Ok(found)
}

/// What was removed since it was listed is none.
fn if_there<T>(outcome: std::io::Result<T>, path: &Path) -> Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some).with_context(|| path.display().to_string()),
    }
}

/// A replica with a file of its own; none if it was removed meanwhile, or has no header yet.
fn alone(path: PathBuf) -> Result<Option<(u64, Image)>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let handle = u64::from_str_radix(name.split('.').next().unwrap_or_default(), 16)?;
    let Some(file) = if_there(File::open(&path), &path)? else { return Ok(None) };
    let mut header = [0; FIELDS];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let unclean = name.ends_with(".d");
    Ok(Some((handle, Image { path, at: 0, length: length_in(&header), record: None, unclean })))
}

fn length_in(image: &[u8]) -> usize {
    u32::from_le_bytes(image[FIELDS - 8..FIELDS - 4].try_into().expect("four bytes")) as usize
}

/// Replicas in a pack; none if it was removed meanwhile, or has no header yet.
fn packed(path: &Path) -> Result<Vec<(u64, Image)>> {
    let raw = if_there(fs::read(path), path)?.unwrap_or_default();
    let Some(units) = raw.get(16..20) else { return Ok(Vec::new()) };
    let units = u32::from_le_bytes(units.try_into().expect("four bytes")) as usize;
    let data = (BLOCK + units * SLOT).next_multiple_of(BLOCK);
    let slots = (0..units).filter_map(|first| {
        let (record, at) = (BLOCK + first * SLOT, data + first * BLOCK);
        let (slot, header) = (raw.get(record..record + SLOT)?, raw.get(at..at + FIELDS)?);
        let handle = u64::from_le_bytes(slot[..8].try_into().expect("eight bytes"));
        let image = Image {
            path: path.to_owned(),
            at,
            length: length_in(header),
            record: Some(record),
            unclean: slot[25] == 1,
        };
        slot.iter().any(|byte| *byte != 0).then_some((handle, image))
    });
    Ok(slots.collect())
}

/// Changes one bit on the disk; the page cache forgets what it had of the file.
pub fn flip(path: &Path, byte: usize, bit: usize) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut raw = [0];
    file.read_exact_at(&mut raw, byte as u64)?;
    file.write_all_at(&[raw[0] ^ 1 << (bit % 8)], byte as u64)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    ensure!(bit < 8, "a byte has eight bits");
    Ok(())
}
