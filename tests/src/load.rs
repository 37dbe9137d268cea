//! A process that works on files of the mount, and what is known of it.

use crate::data::Stream;
use crate::programs::program;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A running `gfs-load`.
pub struct Load {
    directory: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
    operations: Arc<AtomicU64>,
    reader: Option<JoinHandle<Result<BTreeMap<String, Content>>>>,
}

/// Seed and length of what was written.
type Content = (u64, usize);

/// The files of a directory as a [`Load`] left them.
#[derive(Debug)]
pub struct Left {
    directory: PathBuf,
    files: BTreeMap<String, Content>,
}

impl Load {
    /// Starts it in a directory that it makes.
    pub fn start(directory: &Path, seed: u64) -> Result<Self> {
        let mut command = Command::new(program("gfs-load")?);
        command.arg(directory).arg(seed.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("gfs-load")?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("its output")?);
        let operations = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&operations);
        let reader = std::thread::spawn(move || {
            let mut files = BTreeMap::new();
            for line in BufReader::new(output).lines() {
                note(&mut files, &line?)?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(files)
        });
        Ok(Self { directory: directory.to_owned(), child, input, operations, reader: Some(reader) })
    }

    /// Operations that have returned.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Lets it finish the file that it works on; it must not have failed.
    pub fn end(mut self) -> Result<Left> {
        drop(self.input.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "gfs-load in {} ended with {status}", self.directory.display());
        let Some(Ok(files)) = self.reader.take().map(JoinHandle::join) else { bail!("its output was not read") };
        Ok(Left { directory: self.directory.clone(), files: files? })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait()); // it may have ended already
    }
}

fn note(files: &mut BTreeMap<String, Content>, line: &str) -> Result<()> {
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        ["kept", name, seed, length] => {
            files.insert((*name).to_owned(), (seed.parse()?, length.parse()?));
        }
        ["gone", name] => {
            files.remove(*name);
        }
        _ => bail!("gfs-load says {line:?}"),
    }
    Ok(())
}

impl Left {
    /// Exactly these files must be there, with these bytes.
    pub fn check(&self) -> Result<()> {
        let entries = fs::read_dir(&self.directory)?.map(|it| Ok(it?.file_name().to_string_lossy().into_owned()));
        let mut found = entries.collect::<Result<Vec<String>>>()?;
        found.sort();
        let missing: Vec<_> = self.files.keys().filter(|name| !found.contains(name)).collect();
        let beyond: Vec<_> = found.iter().filter(|name| !self.files.contains_key(*name)).collect();
        let directory = self.directory.display();
        ensure!(missing.is_empty() && beyond.is_empty(), "{directory}: {missing:?} are gone, {beyond:?} are back");
        for (name, (seed, length)) in &self.files {
            let read = fs::read(self.directory.join(name)).with_context(|| name.clone())?;
            ensure!(read.len() == *length, "{name} has {} bytes instead of {length}", read.len());
            let mut stream = Stream::new(*seed);
            stream.number(); // the length was drawn from it
            ensure!(read == stream.bytes(*length), "{name} has other bytes than were written");
        }
        Ok(())
    }
}
