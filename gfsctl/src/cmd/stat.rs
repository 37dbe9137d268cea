//! `gfsctl stat`: an inode, and where its chunks are.

use crate::context::Context;
use crate::format::{self, bytes};
use crate::output::{Align, Page, Report, Table};
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::chunk::{ChunkLocation, ChunkMap, Replica};
use gfs_proto::ids::{ChunkVersion, ServerId};
use serde::Serialize;
use std::path::PathBuf;

/// Show a file: attributes, chunks, their versions, and where the copies are
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl stat /photos/sea.jpg")]
pub(crate) struct Args {
    /// Paths in the cluster
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let inodes = context.with_files(async |remote| {
        let mut shown = Vec::with_capacity(args.paths.len());
        for path in &args.paths {
            let entry = remote.resolve_no_follow(path).await?;
            let chunks = match entry.attr.kind {
                FileKind::File => remote.client().file_chunks(remote.caller(), entry.attr.inode).await?,
                _ => ChunkMap::default(),
            };
            shown.push(Inode::new(path.display().to_string(), &entry.attr, chunks));
        }
        Ok(shown)
    });
    Ok(Inodes { inodes: inodes.await? })
}

#[derive(Serialize)]
struct Inodes {
    inodes: Vec<Inode>,
}

#[derive(Serialize)]
struct Inode {
    path: String,
    inode: u64,
    kind: &'static str,
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    atime: String,
    mtime: String,
    ctime: String,
    goal: u8,
    chunks: Vec<Chunk>,
    #[serde(skip)]
    mode_text: String,
}

#[derive(Serialize)]
struct Chunk {
    index: u32,
    chunk: String,
    version: u64,
    being_written: bool,
    replicas: Vec<Copy>,
}

#[derive(Serialize)]
struct Copy {
    server: u32,
    address: String,
}

impl Inode {
    fn new(path: String, attr: &Attr, map: ChunkMap) -> Self {
        Self {
            path,
            inode: attr.inode.get(),
            kind: format::kind(attr.kind),
            mode: format!("{:04o}", attr.mode.get()),
            links: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            atime: format::time(attr.atime),
            mtime: format::time(attr.mtime),
            ctime: format::time(attr.ctime),
            goal: attr.goal,
            chunks: map.chunks.into_iter().map(Chunk::from).collect(),
            mode_text: format::mode(attr.kind, attr.mode),
        }
    }
}

impl From<ChunkLocation> for Chunk {
    fn from(from: ChunkLocation) -> Self {
        let copy = |replica: Replica| Copy { server: replica.server.get(), address: replica.address.tcp.to_string() };
        let mut replicas: Vec<Copy> = from.replicas.into_iter().map(copy).collect();
        replicas.sort_by_key(|copy| copy.server);
        Self {
            index: from.index.get(),
            chunk: from.handle.to_string(),
            version: from.version.get(),
            being_written: from.leased,
            replicas,
        }
    }
}

impl Report for Inodes {
    fn human(&self, page: &mut Page) {
        for (at, inode) in self.inodes.iter().enumerate() {
            if at > 0 {
                page.line("");
            }
            inode.human(page);
        }
    }
}

impl Inode {
    fn human(&self, page: &mut Page) {
        page.field("path", page.name(&self.path));
        page.field("inode", format!("{} ({}, {} links)", self.inode, self.kind, self.links));
        page.field("mode", format!("{} ({})", self.mode, self.mode_text));
        page.field("owner", format!("uid {}, gid {}", self.uid, self.gid));
        page.field("size", format!("{} bytes ({})", self.size, bytes(self.size)));
        page.field("accessed", format!("{} UTC", self.atime));
        page.field("modified", format!("{} UTC", self.mtime));
        page.field("changed", format!("{} UTC", self.ctime));
        page.field("goal", format!("{} copies", self.goal));
        if self.kind != format::kind(FileKind::File) {
            return;
        }
        page.field("chunks", self.chunks.len());
        if !self.chunks.is_empty() {
            page.line("");
            page.table(&self.chunk_table());
        }
    }

    fn chunk_table(&self) -> Table {
        let mut table = Table::new(&[
            ("INDEX", Align::Right),
            ("CHUNK", Align::Left),
            ("VERSION", Align::Right),
            ("COPIES", Align::Right),
            ("WHERE", Align::Left),
        ]);
        for chunk in &self.chunks {
            let copies: Vec<String> =
                chunk.replicas.iter().map(|it| format!("{} {}", ServerId::new(it.server), it.address)).collect();
            let mut place = if copies.is_empty() { "NOWHERE".to_owned() } else { copies.join(", ") };
            if chunk.being_written {
                place.push_str(" (being written)");
            }
            table.row(vec![
                chunk.index.to_string(),
                chunk.chunk.clone(),
                ChunkVersion::new(chunk.version).to_string(),
                format!("{}/{}", copies.len(), self.goal),
                place,
            ]);
        }
        table
    }
}
