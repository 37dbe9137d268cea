//! `gfsctl chunkservers`: who stores the chunks, and how full they are.

use crate::context::Context;
use crate::format::{bytes, duration_ms};
use crate::output::{Align, Page, Report, Table};
use gfs_proto::ids::{ServerId, ServerUuid};
use gfs_proto::wire::{ChunkserverStatus, ChunkserversRequest, DirectorySpace, ScrubProgress};
use serde::Serialize;

/// Show the chunkservers: state, space, chunks
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl chunkservers --directories")]
pub(crate) struct Args {
    /// Each storage directory on a line of its own
    #[arg(long, short)]
    directories: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let reply = context.ask(async |mut admin| admin.chunkservers(ChunkserversRequest {}).await).await?;
    let chunkservers = reply.servers.into_iter().map(Server::from).collect();
    Ok(Servers { chunkservers, by_directory: args.directories })
}

#[derive(Serialize)]
struct Servers {
    chunkservers: Vec<Server>,
    #[serde(skip)]
    by_directory: bool,
}

#[derive(Serialize)]
struct Server {
    server: u32,
    uuid: String,
    state: String,
    address: String,
    rack: String,
    software: String,
    incarnation: u64,
    chunks: u64,
    suspect_replicas: u64,
    damaged_replicas: u64,
    scrub: Scrub,
    draining: bool,
    maintenance_ms: u64,
    chunks_needed: u64,
    last_copies: u64,
    bytes_total: u64,
    bytes_free: u64,
    last_heartbeat_ms: u64,
    slow_clients: u32,
    slow_latency_us: u64,
    slow_median_us: u64,
    directories: Vec<Directory>,
}

/// How far it has read its replicas to find damage.
#[derive(Serialize)]
struct Scrub {
    round: u64,
    finished: u64,
    /// Seconds since 1970.
    began: i64,
    hurried: bool,
    replicas_total: u64,
    replicas_done: u64,
    bytes_done: u64,
    /// Since the chunkserver started.
    damaged: u64,
    mended: u64,
}

impl From<ScrubProgress> for Scrub {
    fn from(from: ScrubProgress) -> Self {
        Self {
            round: from.round,
            finished: from.finished,
            began: from.began.unwrap_or_default().secs,
            hurried: from.hurried,
            replicas_total: from.replicas_total,
            replicas_done: from.replicas_done,
            bytes_done: from.bytes_done,
            damaged: from.damaged,
            mended: from.mended,
        }
    }
}

impl Scrub {
    fn text(&self) -> String {
        match self.round {
            0 => "-".to_owned(),
            round if self.finished >= round => "through".to_owned(),
            _ => format!("{}%", self.replicas_done * 100 / self.replicas_total.max(1)),
        }
    }
}

#[derive(Serialize)]
struct Directory {
    path: String,
    bytes_total: u64,
    bytes_free: u64,
    chunks: u64,
    accepts_chunks: bool,
    error: String,
}

impl From<DirectorySpace> for Directory {
    fn from(from: DirectorySpace) -> Self {
        Self {
            path: from.path,
            bytes_total: from.bytes_total,
            bytes_free: from.bytes_free,
            chunks: from.chunks,
            accepts_chunks: from.accepts_chunks,
            error: from.error,
        }
    }
}

impl From<ChunkserverStatus> for Server {
    fn from(from: ChunkserverStatus) -> Self {
        let directories: Vec<Directory> =
            from.space.unwrap_or_default().directories.into_iter().map(Directory::from).collect();
        Self {
            server: from.server,
            uuid: ServerUuid::from_slice(&from.server_uuid).map(|id| id.to_string()).unwrap_or_default(),
            state: from.state,
            address: from.tcp,
            rack: from.rack,
            software: from.software,
            incarnation: from.incarnation,
            chunks: from.chunks,
            suspect_replicas: from.suspect_replicas,
            damaged_replicas: from.damaged_replicas,
            scrub: from.scrub.unwrap_or_default().into(),
            draining: from.draining,
            maintenance_ms: from.maintenance_ms,
            chunks_needed: from.chunks_needed,
            last_copies: from.last_copies,
            bytes_total: directories.iter().map(|d| d.bytes_total).sum(),
            bytes_free: directories.iter().map(|d| d.bytes_free).sum(),
            last_heartbeat_ms: from.last_heartbeat_ms,
            slow_clients: from.slow_clients,
            slow_latency_us: from.slow_latency_us,
            slow_median_us: from.slow_median_us,
            directories,
        }
    }
}

impl Server {
    /// What it does, and what is wanted of it.
    fn state_text(&self) -> String {
        let mut text = self.state.clone();
        if self.slow_clients > 0 {
            let times = self.slow_latency_us / self.slow_median_us.max(1);
            text.push_str(&format!(", slow ({times} times the others)"));
        }
        if self.draining {
            text.push_str(if self.chunks_needed == 0 { ", drained" } else { ", draining" });
        }
        if self.maintenance_ms > 0 {
            text.push_str(&format!(", maintenance for {}", duration_ms(self.maintenance_ms)));
        }
        text
    }
}

impl Report for Servers {
    fn human(&self, page: &mut Page) {
        if self.chunkservers.is_empty() {
            page.line("no chunkserver has ever registered");
            return;
        }
        page.table(&self.by_server());
        if self.by_directory {
            page.line("");
            page.table(&self.by_directory());
        }
        for server in &self.chunkservers {
            for directory in server.directories.iter().filter(|d| !d.error.is_empty()) {
                page.line(format!("{}: {}: {}", ServerId::new(server.server), directory.path, directory.error));
            }
        }
    }
}

impl Servers {
    fn by_server(&self) -> Table {
        let mut table = Table::new(&[
            ("SERVER", Align::Left),
            ("STATE", Align::Left),
            ("ADDRESS", Align::Left),
            ("RACK", Align::Left),
            ("CHUNKS", Align::Right),
            ("NEEDED", Align::Right),
            ("SUSPECT", Align::Right),
            ("DAMAGED", Align::Right),
            ("SCRUB", Align::Right),
            ("FREE", Align::Right),
            ("TOTAL", Align::Right),
            ("HEARD OF", Align::Right),
        ]);
        for server in &self.chunkservers {
            table.row(vec![
                ServerId::new(server.server).to_string(),
                server.state_text(),
                server.address.clone(),
                if server.rack.is_empty() { "-".into() } else { server.rack.clone() },
                server.chunks.to_string(),
                server.chunks_needed.to_string(),
                server.suspect_replicas.to_string(),
                server.damaged_replicas.to_string(),
                server.scrub.text(),
                bytes(server.bytes_free),
                bytes(server.bytes_total),
                format!("{} ago", duration_ms(server.last_heartbeat_ms)),
            ]);
        }
        table
    }

    fn by_directory(&self) -> Table {
        let mut table = Table::new(&[
            ("SERVER", Align::Left),
            ("DIRECTORY", Align::Left),
            ("CHUNKS", Align::Right),
            ("FREE", Align::Right),
            ("TOTAL", Align::Right),
            ("NEW CHUNKS", Align::Left),
        ]);
        for server in &self.chunkservers {
            for directory in &server.directories {
                table.row(vec![
                    ServerId::new(server.server).to_string(),
                    directory.path.clone(),
                    directory.chunks.to_string(),
                    bytes(directory.bytes_free),
                    bytes(directory.bytes_total),
                    if directory.accepts_chunks { "yes" } else { "no" }.to_owned(),
                ]);
            }
        }
        table
    }
}
