//! Full disks: somebody writes until there is no room, everybody else goes on meanwhile, then what was written is removed.

use super::{Field, Strike};
use crate::data::Stream;
use crate::script::Script;
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Disks stay full for so long.
const FULL: Duration = Duration::from_secs(3);
/// After something was removed it can be written again within this (`docs/semantics.md`).
const FREED: Duration = Duration::from_secs(10);
/// What a chunkserver may have used of the room that it keeps free: marks, records, directories.
const USED_OF_RESERVE: u64 = 2 << 20;

/// All disks, by one large file.
pub(super) fn disks(field: &mut Field) -> Result<Strike> {
    let filler = field.mounts[2].join("filler");
    let said = write(&filler, 4096)?;
    field.promised(said.contains(NO_ROOM), || format!("a file system without room answers {said:?}"));
    let reserve = field.reserve_bytes;
    let free = field.disks.iter().map(|disk| disk.free()).collect::<Result<Vec<u64>>>()?;
    field.promised(free.iter().all(|free| *free + USED_OF_RESERVE >= reserve), || {
        format!("of the reserve of {reserve} bytes is left on the disks: {free:?}")
    });
    let full = free.iter().filter(|free| **free < 2 * reserve + (4 << 20)).count();
    field.promised(full > 0, || format!("no disk is full: {free:?}"));
    let _ = until("the time has passed", FULL, || Ok(false)); // an error by intent: the others write meanwhile
    remove(field, &filler)?;
    Ok(Strike { count: 1, loss: None })
}

/// Somebody else takes all that a chunkserver keeps free, too: what it writes then fails in the middle.
pub(super) fn one_disk(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    let disk = &field.disks[number];
    let foreign = disk.point().join("foreign");
    let mut file = File::create(&foreign)?;
    let piece = vec![0x5a; 4096];
    let full = loop {
        if let Err(error) = file.write_all(&piece) {
            break error;
        }
    };
    let _ = until("the time has passed", FULL, || Ok(false)); // an error by intent
    drop(file);
    std::fs::remove_file(&foreign)?;
    ensure!(full.kind() == ErrorKind::StorageFull, "{}: {full}", foreign.display());
    Ok(Strike { count: 1, loss: None })
}

fn remove(field: &mut Field, filler: &Path) -> Result<()> {
    let removed = command("rm", &[&filler.display().to_string()]).attempt()?;
    field.promised(removed.status == 0, || format!("removing on a full file system: {}", removed.err));
    let began = Instant::now();
    let again = field.mounts[2].join("again");
    let written = until("there is room again", FREED, || Ok(write(&again, 1)?.is_empty()));
    field.promised(written.is_ok(), || format!("{:?} after room was made there is none: {written:?}", began.elapsed()));
    let left = command("rm", &["-f", &again.display().to_string()]).attempt()?;
    left.status.eq(&0).then_some(()).with_context(|| left.err)
}

/// What people are told.
const NO_ROOM: &str = "No space left on device";

/// Writes so many MiB and flushes them; what is wrong, or nothing.
fn write(path: &Path, mib: u32) -> Result<String> {
    let (of, count) = (format!("of={}", path.display()), format!("count={mib}"));
    let ran = command("dd", &["if=/dev/zero", &of, "bs=1M", &count, "conv=fsync", "status=none"]).attempt()?;
    Ok(if ran.status == 0 { String::new() } else { format!("{}, status {}", ran.err.trim_end(), ran.status) })
}

fn command(name: &str, arguments: &[&str]) -> Script {
    Script::new(Path::new(name), arguments)
}
