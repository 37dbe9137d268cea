//! `gfsctl get`: files of the cluster to local ones.

use crate::context::Context;
use crate::failure::usage;
use crate::format::{self, bytes};
use crate::interrupt::unless_interrupted;
use crate::output::{Page, Report};
use crate::progress::Progress;
use crate::remote::{Remote, shown};
use crate::transfer::{Copied, Partials, SharedProgress, download, partial_name, several, standard};
use anyhow::{Context as _, bail};
use gfs_proto::attr::{Attr, FileKind};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Copy files of the cluster to local ones
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl get /photos/sea.jpg .\n  gfsctl get -r /photos /tmp/photos\n  gfsctl get /base.sql - | psql base"
)]
pub(crate) struct Args {
    /// Directories with everything in them
    #[arg(long, short)]
    recursive: bool,
    /// Paths in the cluster
    #[arg(required = true, value_name = "PATH")]
    sources: Vec<PathBuf>,
    /// Local path: a name to give, a directory to copy into, or `-` for standard output
    #[arg(value_name = "LOCAL")]
    target: PathBuf,
}

type SharedPartials = Arc<Partials<PathBuf>>;

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let into_directory = args.target.is_dir();
    if args.sources.len() > 1 && !into_directory {
        return Err(usage(format!("{} is not a directory, so it cannot take several files", shown(&args.target))));
    }
    let copied = context.with_files(async |remote| {
        let progress: SharedProgress = Arc::new(Progress::new(0));
        let (mut copied, partials) = (Copied::default(), Arc::default());
        let run = Run { remote, progress: &progress, partials: &partials, recursive: args.recursive };
        let all = async {
            for source in &args.sources {
                let local = if into_directory { args.target.join(own_name(source)?) } else { args.target.clone() };
                run.one_source((source, &local), &mut copied).await?;
            }
            Ok(())
        };
        let outcome = unless_interrupted(all).await;
        for partial in partials.take() {
            let _ = fs::remove_file(&partial); // it may never have been made
        }
        outcome?;
        let (bytes, elapsed) = progress.finish();
        copied.bytes = bytes;
        copied.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Ok(copied)
    });
    Ok(Got { copied: copied.await?, to_stdout: is_stdout(&args.target), target: shown(&args.target) })
}

fn own_name(source: &Path) -> anyhow::Result<&OsStr> {
    let hint = || usage(format!("{} has no name of its own; name the local file", shown(source)));
    source.file_name().ok_or_else(hint)
}

/// One call of the command.
struct Run<'a> {
    remote: &'a Remote,
    progress: &'a SharedProgress,
    partials: &'a SharedPartials,
    recursive: bool,
}

impl Run<'_> {
    async fn one_source(&self, (source, local): (&Path, &Path), copied: &mut Copied) -> anyhow::Result<()> {
        let entry = self.remote.resolve(source).await?;
        match entry.attr.kind {
            FileKind::File => {
                copied.files += 1;
                one_file(self.remote, &entry.attr, (source, local), self.progress, self.partials).await
            }
            FileKind::Directory if self.recursive => self.tree(&entry.attr, (source, local), copied).await,
            FileKind::Directory => Err(usage(format!("{} is a directory; --recursive copies it", shown(source)))),
            other => bail!("{} is a {}, not a file", shown(source), format::kind(other)),
        }
    }

    /// Directory by directory, so that memory is bounded by the largest of them.
    async fn tree(&self, top: &Attr, (source, local): (&Path, &Path), copied: &mut Copied) -> anyhow::Result<()> {
        let (remote, progress, partials) = (self.remote, self.progress, self.partials);
        let mut open = vec![(top.clone(), source.to_owned(), local.to_owned())];
        while let Some((directory, source, local)) = open.pop() {
            make_directory(&local)?;
            let mut files = Vec::new();
            for item in remote.list(directory.inode, &source).await? {
                let name = OsStr::from_bytes(item.name.as_bytes());
                let (source, local) = (source.join(name), local.join(name));
                let attr = match item.entry {
                    Some(entry) => entry.attr,
                    None => remote.resolve_no_follow(&source).await?.attr,
                };
                match attr.kind {
                    FileKind::Directory => open.push((attr, source, local)),
                    FileKind::File => files.push((attr, source, local)),
                    FileKind::Symlink => {
                        link(remote, &attr, &source, &local).await?;
                        copied.links += 1;
                    }
                    other => bail!("{} is a {}, which is not copied", shown(&source), format::kind(other)),
                }
            }
            copied.directories += 1;
            copied.files += files.len() as u64;
            several(files, |(attr, source, local)| {
                let (remote, progress, partials) = (remote.clone(), Arc::clone(progress), Arc::clone(partials));
                async move { one_file(&remote, &attr, (&source, &local), &progress, &partials).await }
            })
            .await?;
            // last: without the right to write, nothing could have been put into it
            set_mode(&local, &directory)?;
        }
        Ok(())
    }
}

/// The bytes go to a file beside the target, which takes its name when it is whole.
async fn one_file(
    remote: &Remote,
    attr: &Attr,
    (source, local): (&Path, &Path),
    progress: &Progress,
    partials: &Partials<PathBuf>,
) -> anyhow::Result<()> {
    if is_stdout(local) {
        return download(remote, attr.inode, source, &mut standard(std::io::stdout())?, progress).await;
    }
    // a device, a pipe, or a link to somewhere is written to, not replaced
    if fs::symlink_metadata(local).is_ok_and(|found| !found.is_file()) {
        let mut file = tokio::fs::OpenOptions::new().write(true).truncate(true).open(local).await;
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("{}: {error}", shown(local)))?;
        return download(remote, attr.inode, source, file, progress).await;
    }
    let partial = partial_path(local)?;
    partials.begun(partial.clone());
    into_partial(remote, attr, source, &partial, progress).await?;
    fs::rename(&partial, local).with_context(|| shown(local))?;
    partials.whole(&partial);
    Ok(())
}

async fn into_partial(
    remote: &Remote,
    attr: &Attr,
    source: &Path,
    partial: &Path,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut file = tokio::fs::File::create(partial).await.with_context(|| shown(partial))?;
    download(remote, attr.inode, source, &mut file, progress).await?;
    set_mode(partial, attr)
}

fn partial_path(local: &Path) -> anyhow::Result<PathBuf> {
    let name = local.file_name().ok_or_else(|| usage(format!("{} is not the name of a file", shown(local))))?;
    Ok(local.with_file_name(OsStr::from_bytes(&partial_name(name.as_bytes()))))
}

async fn link(remote: &Remote, attr: &Attr, source: &Path, local: &Path) -> anyhow::Result<()> {
    let target = remote.client().readlink(remote.caller(), attr.inode).await.with_context(|| shown(source))?;
    if fs::symlink_metadata(local).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(local).with_context(|| shown(local))?;
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(&target), local).with_context(|| shown(local))
}

fn make_directory(local: &Path) -> anyhow::Result<()> {
    match fs::create_dir(local) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && local.is_dir() => Ok(()),
        made => made.with_context(|| shown(local)),
    }
}

fn set_mode(local: &Path, attr: &Attr) -> anyhow::Result<()> {
    let mode = fs::Permissions::from_mode(u32::from(attr.mode.get()) & 0o777);
    fs::set_permissions(local, mode).with_context(|| shown(local))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

struct Got {
    target: String,
    copied: Copied,
    to_stdout: bool,
}

/// Standard output already has the file's bytes, so nothing may follow them.
impl Serialize for Got {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.to_stdout {
            return serializer.serialize_unit();
        }
        #[derive(Serialize)]
        struct Shown<'a> {
            target: &'a str,
            #[serde(flatten)]
            copied: Copied,
        }
        Shown { target: &self.target, copied: self.copied }.serialize(serializer)
    }
}

impl Report for Got {
    fn human(&self, page: &mut Page) {
        if self.copied.directories > 0 {
            page.line(format!(
                "{}: {} files, {} directories, {} symbolic links, {}",
                self.target,
                self.copied.files,
                self.copied.directories,
                self.copied.links,
                bytes(self.copied.bytes)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partial_file_stands_beside_the_target_under_a_possible_name() {
        let long = "x".repeat(255);
        for name in ["a", &long] {
            let partial = partial_path(&Path::new("/tmp").join(name)).expect("a name");
            assert_eq!(partial.parent(), Some(Path::new("/tmp")));
            assert!(partial.file_name().expect("a name").len() <= 255);
            assert_ne!(partial.file_name(), Some(OsStr::new(name)));
        }
        assert!(partial_path(Path::new("/")).is_err());
    }
}
