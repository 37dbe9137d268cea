//! The replicas of a chunkserver as its files have them (`docs/format.md`), to compare them with others'.
//! What is removed while this looks is not there.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// Replicas in a storage directory, by chunk and version, with a digest of what is in them.
pub fn replicas(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for subdirectory in fs::read_dir(directory.join("chunks"))? {
        for file in fs::read_dir(subdirectory?.path())? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(".d").to_owned();
            found.extend(read(&path)?.map(|image| (name, content(&image))));
        }
    }
    for pack in fs::read_dir(directory.join("packs"))? {
        found.extend(read(&pack?.path())?.iter().flat_map(|pack| packed(pack)));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some).with_context(|| path.display().to_string()),
    }
}

/// Replicas in a pack.
fn packed(pack: &[u8]) -> Vec<(String, String)> {
    const BLOCK: usize = 4096;
    const SLOT: usize = 32;
    let long = |at: usize| u64::from_le_bytes(pack[at..at + 8].try_into().expect("eight bytes"));
    let units = u32::from_le_bytes(pack[16..20].try_into().expect("four bytes")) as usize;
    let data = (BLOCK + units * SLOT).next_multiple_of(BLOCK);
    let slots = (0..units).map(|first| (first, BLOCK + first * SLOT));
    let records = slots.filter(|(_, at)| pack[*at..at + SLOT].iter().any(|byte| *byte != 0));
    let replica = |(first, at): (usize, usize)| {
        let image = &pack[data + first * BLOCK..][..usize::from(pack[at + 24]) * BLOCK];
        (format!("{:016x}.{}", long(at), long(at + 8)), content(image))
    };
    records.map(replica).collect()
}

/// Of the image of a replica: everything behind its header's first sector, which names the replica, without the
/// zeroes at the end, of which a pack may have more.
fn content(image: &[u8]) -> String {
    let end = image.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let digest = Sha256::digest(image.get(504..end).unwrap_or_default());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
