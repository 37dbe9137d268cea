//! Appends records to a file of its own, and syncs it at times; after an error it goes on with another file. The oldest
//! files are removed, so that small disks are not filled however long it runs.

use super::blocks::close;
use super::{Teller, await_mount};
use crate::data::Stream;
use crate::faults::history::{Op, Outcome, Records};
use anyhow::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Records of a file: then the next one is begun.
const RECORDS_MAX: u32 = 400;
/// Files that stay, of 600 KB each: with the other workloads well below what the smallest disks have.
const FILES_MAX: u32 = 40;
/// Bytes of a record at most; files cross several chunks of 64 KiB.
const LENGTH_MAX: u64 = 3000;
/// A record is at least its number.
const LENGTH_MIN: u64 = 8;

fn path(directory: &Path, file: u32) -> PathBuf {
    directory.join(format!("records-{file}"))
}

/// The record of this number in this file.
pub fn record(file: u32, number: u32) -> Vec<u8> {
    let mut stream = Stream::new(u64::from(file) << 32 | u64::from(number));
    let length = LENGTH_MIN + stream.number() % (LENGTH_MAX - LENGTH_MIN);
    stream.bytes(usize::try_from(length).unwrap_or_default())
}

/// Runs until the teller ends it.
pub fn run(directory: &Path, base: u32, seed: u64) -> Result<()> {
    let (teller, mut chance) = (Teller::new(), Stream::new(seed));
    for file in base.. {
        if teller.ended() {
            break;
        }
        await_mount(&teller, directory)?;
        append_to(&teller, directory, file, &mut chance);
        if let Some(oldest) = file.checked_sub(FILES_MAX).filter(|oldest| *oldest >= base) {
            teller.tell(Op::RemoveRecords { file: oldest }, || {
                fs::remove_file(path(directory, oldest)).map(|()| Outcome::Done)
            });
        }
    }
    Ok(())
}

/// Until it is full, or something fails.
fn append_to(teller: &Teller, directory: &Path, file: u32, chance: &mut Stream) {
    let Ok(mut open) = File::options().create_new(true).append(true).open(path(directory, file)) else {
        return; // nothing was written; the number is not used again
    };
    for number in 0..RECORDS_MAX {
        let bytes = record(file, number);
        let op = Op::Append { file, record: number };
        let mut good = teller.tell(op, || open.write_all(&bytes).map(|()| Outcome::Done));
        if good && chance.number() >> 61 == 0 {
            good = teller.tell(Op::SyncRecords { file }, || open.sync_data().map(|()| Outcome::Done));
        }
        if !good || teller.ended() {
            break;
        }
    }
    // an error here is one of an earlier append
    teller.tell(Op::SyncRecords { file }, || open.sync_all().map(|()| Outcome::Done));
    let _ = close(open); // the fsync before has said it
}

/// Reads every file once, up to the last that is there.
pub fn verify(teller: &Arc<Teller>, directory: &Path, base: u32) -> Result<()> {
    let mut last = None;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        last = last.max(name.strip_prefix("records-").and_then(|number| number.parse().ok()));
    }
    for file in last.map_or(base..base, |last: u32| base..last + 1) {
        teller
            .tell(Op::ReadRecords { file }, || Ok(Outcome::Records(compare(file, &fs::read(path(directory, file))?))));
    }
    Ok(())
}

/// How far a file is as it was written, and what is behind that.
fn compare(file: u32, bytes: &[u8]) -> Records {
    let mut found = Records { size: bytes.len() as u64, ..Records::default() };
    let mut at = 0;
    for number in 0.. {
        let wanted = record(file, number);
        let read = &bytes[at..bytes.len().min(at + wanted.len())];
        if read.is_empty() {
            break;
        }
        if *read == wanted && found.broken.is_empty() {
            found.whole += 1;
        } else if *read != wanted {
            found.broken.push((number, describe(&wanted, read)));
        }
        at += read.len();
    }
    found
}

/// Bytes that are neither the record's nor zero are wrong: a part of a file that was not flushed may be missing.
fn describe(wanted: &[u8], read: &[u8]) -> String {
    let wrong = read.iter().zip(wanted).filter(|(read, wanted)| read != wanted && **read != 0).count();
    let zeroes = read.iter().zip(wanted).filter(|(read, wanted)| read != wanted && **read == 0).count();
    match wrong {
        0 => format!("{zeroes} zeroes and {} bytes of {}", read.len(), wanted.len()),
        _ => format!("{wrong} wrong bytes, {} bytes of {}", read.len(), wanted.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_cut_zero_or_wrong_is_told_apart() {
        let whole: Vec<u8> = (0..4).flat_map(|number| record(9, number)).collect();
        assert_eq!(compare(9, &whole), Records { size: whole.len() as u64, whole: 4, broken: vec![] });
        assert_eq!(compare(9, &whole[..whole.len() - 1]).whole, 3);
        let mut holed = whole.clone();
        let second = record(9, 0).len();
        holed[second..second + record(9, 1).len()].fill(0);
        let found = compare(9, &holed);
        assert_eq!((found.whole, found.broken.len()), (1, 1), "{found:?}");
        assert!(found.broken[0].1.contains("zeroes and"), "{found:?}");
        holed[second] = !whole[second] | 1;
        assert!(compare(9, &holed).broken[0].1.contains("wrong"));
    }
}
