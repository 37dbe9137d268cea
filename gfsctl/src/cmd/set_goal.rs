//! `gfsctl set-goal`: how many copies.

use crate::context::Context;
use crate::output::{Page, Report};
use crate::remote::{Remote, shown};
use anyhow::Context as _;
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::limits::GOAL_MAX;
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Set how many copies are wanted of a file, or of what will be created in a directory
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl set-goal 2 /scratch       # of what will be created there\n  gfsctl set-goal -r 3 /photos"
)]
pub(crate) struct Args {
    /// Of everything in directories, too
    #[arg(long, short)]
    recursive: bool,
    /// Copies
    #[arg(value_parser = clap::value_parser!(u8).range(1..=i64::from(GOAL_MAX)))]
    goal: u8,
    /// Paths in the cluster
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let changed = context.with_files(async |remote| {
        let mut changed = 0;
        for path in &args.paths {
            let entry = remote.resolve(path).await?;
            changed += set(remote, entry.attr, path, &args).await?;
        }
        Ok(changed)
    });
    Ok(Changed { goal: args.goal, changed: changed.await? })
}

async fn set(remote: &Remote, top: Attr, path: &Path, args: &Args) -> anyhow::Result<u64> {
    let mut changed = 0;
    let mut open = vec![(top.inode, top.kind, path.to_owned())];
    while let Some((inode, kind, path)) = open.pop() {
        let done = remote.client().set_goal(remote.caller(), inode, args.goal).await;
        done.with_context(|| shown(&path))?;
        changed += 1;
        if kind != FileKind::Directory || !args.recursive {
            continue;
        }
        let items = remote.list(inode, &path).await?;
        let counts = |kind| matches!(kind, FileKind::File | FileKind::Directory);
        open.extend(
            items
                .into_iter()
                .filter(|item| counts(item.kind))
                .map(|item| (item.inode, item.kind, path.join(OsStr::from_bytes(item.name.as_bytes())))),
        );
    }
    Ok(changed)
}

#[derive(Serialize)]
struct Changed {
    goal: u8,
    changed: u64,
}

impl Report for Changed {
    fn human(&self, page: &mut Page) {
        let copies = if self.goal == 1 { "copy" } else { "copies" };
        page.line(format!("{} {copies} for {} files and directories", self.goal, self.changed));
    }
}
