//! `gfsctl rm`: names away.

use crate::context::Context;
use crate::failure::usage;
use crate::output::{Page, Report};
use crate::remote::{Place, Remote, shown};
use crate::transfer::several;
use anyhow::Context as _;
use gfs_proto::FsError;
use gfs_proto::attr::FileKind;
use gfs_proto::ids::InodeId;
use serde::Serialize;
use std::path::PathBuf;

/// Remove files, and directories with --recursive
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl rm /notes.txt\n  gfsctl rm -r /photos")]
pub(crate) struct Args {
    /// Directories with everything in them
    #[arg(long, short)]
    recursive: bool,
    /// What is not there is no error
    #[arg(long, short)]
    force: bool,
    /// Paths in the cluster
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let removed = context.with_files(async |remote| {
        let mut removed = Removed::default();
        for path in &args.paths {
            let place = match remote.place(path).await {
                Err(error) if error.downcast_ref() == Some(&FsError::Busy) => {
                    return Err(usage(format!("{} is the root, which always exists", shown(path))));
                }
                Err(error) if args.force && error.downcast_ref() == Some(&FsError::NotFound) => continue,
                other => other?,
            };
            match remote.lookup(&place).await? {
                None if args.force => {}
                None => return Err(FsError::NotFound).with_context(|| shown(path)),
                Some(entry) if entry.attr.kind != FileKind::Directory => {
                    remote.unlink(&place).await?;
                    removed.files += 1;
                }
                Some(_) if !args.recursive => {
                    return Err(usage(format!("{} is a directory; --recursive removes it", shown(path))));
                }
                Some(entry) => tree(remote, entry.attr.inode, place, &mut removed).await?,
            }
        }
        Ok(removed)
    });
    removed.await
}

/// What is left to do with a directory.
enum Step {
    Empty(InodeId, Place),
    Remove(Place),
}

async fn tree(remote: &Remote, inode: InodeId, place: Place, removed: &mut Removed) -> anyhow::Result<()> {
    let mut steps = vec![Step::Empty(inode, place)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Remove(place) => {
                remote.remove_directory(&place).await?;
                removed.directories += 1;
            }
            Step::Empty(inode, place) => {
                let mut files = Vec::new();
                let path = place.path.clone();
                steps.push(Step::Remove(place));
                for item in remote.list(inode, &path).await? {
                    let place = Place::within(inode, item.name, &path);
                    match item.kind {
                        FileKind::Directory => steps.push(Step::Empty(item.inode, place)),
                        _ => files.push(place),
                    }
                }
                removed.files += files.len() as u64;
                several(files, |place| {
                    let remote = remote.clone();
                    async move { remote.unlink(&place).await }
                })
                .await?;
            }
        }
    }
    Ok(())
}

#[derive(Serialize, Default)]
struct Removed {
    files: u64,
    directories: u64,
}

impl Report for Removed {
    fn human(&self, _: &mut Page) {}
}
