//! `gfsctl ls`: the names in a directory.

use crate::context::Context;
use crate::format;
use crate::output::{Align, Page, Report, Table};
use gfs_proto::attr::{Attr, FileKind};
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// List a directory, or show a file
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl ls -l /photos")]
pub(crate) struct Args {
    /// Mode, links, owner, group, size, time and goal too
    #[arg(long, short)]
    long: bool,
    /// Path in the cluster
    #[arg(default_value = "/")]
    path: PathBuf,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let entries = context.with_files(async |remote| {
        let entry = remote.resolve(&args.path).await?;
        if entry.attr.kind != FileKind::Directory {
            return Ok(vec![Row::new(args.path.as_os_str().as_bytes(), &entry.attr)]);
        }
        let items = remote.list(entry.attr.inode, &args.path).await?;
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            match &item.entry {
                Some(entry) => rows.push(Row::new(item.name.as_bytes(), &entry.attr)),
                None => {
                    let name = OsString::from(std::ffi::OsStr::from_bytes(item.name.as_bytes()));
                    let entry = remote.resolve_no_follow(&args.path.join(name)).await?;
                    rows.push(Row::new(item.name.as_bytes(), &entry.attr));
                }
            }
        }
        Ok(rows)
    });
    Ok(Listing { entries: entries.await?, path: shown(&args.path), long: args.long })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[derive(Serialize)]
struct Listing {
    path: String,
    entries: Vec<Row>,
    #[serde(skip)]
    long: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    inode: u64,
    kind: &'static str,
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    goal: u8,
    #[serde(skip)]
    mode_text: String,
}

impl Row {
    fn new(name: &[u8], attr: &Attr) -> Self {
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            inode: attr.inode.get(),
            kind: format::kind(attr.kind),
            mode: format!("{:04o}", attr.mode.get()),
            links: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            mtime: format::time(attr.mtime),
            goal: attr.goal,
            mode_text: format::mode(attr.kind, attr.mode),
        }
    }
}

impl Report for Listing {
    fn human(&self, page: &mut Page) {
        if !self.long {
            self.entries.iter().for_each(|row| page.line(page.name(&row.name)));
            return;
        }
        let mut table = Table::new(&[
            ("MODE", Align::Left),
            ("LINKS", Align::Right),
            ("UID", Align::Right),
            ("GID", Align::Right),
            ("SIZE", Align::Right),
            ("CHANGED (UTC)", Align::Left),
            ("GOAL", Align::Right),
            ("NAME", Align::Left),
        ]);
        for row in &self.entries {
            table.row(vec![
                row.mode_text.clone(),
                row.links.to_string(),
                row.uid.to_string(),
                row.gid.to_string(),
                row.size.to_string(),
                row.mtime.clone(),
                row.goal.to_string(),
                page.name(&row.name),
            ]);
        }
        page.table(&table);
    }
}
