//! Several clients make, rename, link, remove and look at the same few names.
//!
//! Names come in groups that never meet in one operation, so that each group can be judged alone.

use super::{Teller, await_mount, errno};
use crate::data::Stream;
use crate::faults::history::{Name, NameOp, Op, Outcome};
use anyhow::Result;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Groups of names.
pub const GROUPS: u32 = 12;
/// Names of a group.
pub const NAMES: u32 = 5;

/// Runs one client for each directory; all are the same one, by whatever way.
pub fn run(directories: &[PathBuf], seed: u64) -> Result<()> {
    let teller = Teller::new();
    let threads: Vec<_> = (0..)
        .zip(directories)
        .map(|(number, directory)| {
            let (teller, directory) = (Arc::clone(&teller), directory.clone());
            let chance = Stream::new(seed ^ number << 48);
            std::thread::spawn(move || client(&teller, &directory, chance))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the workload panicked"))??;
    }
    Ok(())
}

fn client(teller: &Teller, directory: &Path, mut chance: Stream) -> Result<()> {
    while !teller.ended() {
        await_mount(teller, directory)?;
        let op = draw(&mut chance);
        teller.tell(Op::Name(op), || act(directory, op));
    }
    Ok(())
}

fn draw(chance: &mut Stream) -> NameOp {
    let mut below = |bound: u32| u32::try_from(chance.number() >> 33).unwrap_or_default() % bound;
    let group = below(GROUPS);
    // the first name is only ever made: link(2) looks it up before it acts on what it found, so what came in between
    // would show, as it does on a local file system
    let source = Name { group, number: 0 };
    let (first, second) = (1 + below(NAMES - 1), 1 + below(NAMES - 1));
    let (first, second) = (Name { group, number: first }, Name { group, number: second });
    match below(100) {
        0..25 => NameOp::Create(first),
        25..33 => NameOp::Mkdir(first),
        33..48 => NameOp::Unlink(first),
        48..56 => NameOp::Rmdir(first),
        56..72 if first != second => NameOp::Rename(first, second),
        72..74 => NameOp::Create(source),
        74..82 => NameOp::Link(source, first),
        _ => NameOp::Stat(first),
    }
}

/// Looks once at every name.
pub fn verify(teller: &Teller, directory: &Path) {
    for name in (0..GROUPS).flat_map(|group| (0..NAMES).map(move |number| Name { group, number })) {
        let op = NameOp::Stat(name);
        teller.tell(Op::Name(op), || act(directory, op));
    }
}

fn act(directory: &Path, op: NameOp) -> io::Result<Outcome> {
    let path = |name: Name| directory.join(format!("g{}-n{}", name.group, name.number));
    match op {
        NameOp::Create(name) => node(&File::create_new(path(name))?.metadata().map_err(unknown)?),
        NameOp::Mkdir(name) => fs::create_dir(path(name)).map(|()| Outcome::Done),
        NameOp::Unlink(name) => fs::remove_file(path(name)).map(|()| Outcome::Done),
        NameOp::Rmdir(name) => fs::remove_dir(path(name)).map(|()| Outcome::Done),
        NameOp::Rename(from, to) => fs::rename(path(from), path(to)).map(|()| Outcome::Done),
        NameOp::Link(from, to) => fs::hard_link(path(from), path(to)).map(|()| Outcome::Done),
        NameOp::Stat(name) => node(&fs::symlink_metadata(path(name))?),
    }
}

fn node(found: &fs::Metadata) -> io::Result<Outcome> {
    Ok(Outcome::Node(found.ino(), found.is_dir()))
}

/// The name was made; what became of it cannot be said: EIO is an outcome that the checker takes for unknown.
fn unknown(error: io::Error) -> io::Error {
    if errno(&error) == super::ENOENT { io::Error::from_raw_os_error(5) } else { error }
}
