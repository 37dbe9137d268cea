//! `gfsctl chunks`: chunks by health, and replicas that belong to none.

use crate::context::Context;
use crate::format;
use crate::output::{Align, Page, Report, Table};
use anyhow::bail;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use gfs_proto::time::Timestamp;
use gfs_proto::wire::{ChunkStatus, ChunksRequest, ChunkserversRequest, OrphanedReplica, OrphanedRequest, Time};
use serde::Serialize;

/// Rows asked for at once.
const PAGE: u32 = 500;

/// Show chunks and how they stand, or replicas that belong to none
#[derive(clap::Args, Debug)]
#[command(after_help = "A chunk is healthy (as many copies as its goal), missing (fewer, at least one), unavailable \
(none for the time being: a server that may have one is expected back), lost (none), damaged (blocks \
of it do not match their checksums in any copy) or unwritten (nothing was written into it yet).\n\n\
A replica is orphaned if the master knows of no chunk that it belongs to, or only of an older version: it was restored \
from a backup. It is kept for the time that the setting quarantine-retention of the master says (7d), never read, and \
then deleted.\n\n\
Examples:\n  gfsctl chunks --health lost         # which files have lost data\n  gfsctl chunks --server cs2          # what a chunkserver has or should have\n  gfsctl chunks --orphaned")]
pub(crate) struct Args {
    /// Only chunks that are so
    #[arg(long, value_name = "HEALTH", value_parser = ["healthy", "missing", "unavailable", "lost", "damaged", "unwritten"], conflicts_with = "orphaned")]
    health: Option<String>,
    /// Only what is, or should be, at this chunkserver: its number, as cs2 or 2
    #[arg(long, value_name = "SERVER", value_parser = number)]
    server: Option<u32>,
    /// Show the replicas that belong to no chunk
    #[arg(long)]
    orphaned: bool,
    /// Show at most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = at_least_one)]
    limit: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "use a number from 1 on".to_owned())
}

fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("cs").unwrap_or(text);
    digits.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a chunkserver is named as cs2 or 2".to_owned())
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    if let Some(server) = args.server {
        let reply = context.ask(async |mut admin| admin.chunkservers(ChunkserversRequest {}).await).await?;
        if !reply.servers.iter().any(|status| status.server == server) {
            let server = ServerId::new(server);
            bail!("there is no chunkserver {server}; `gfsctl chunkservers` shows those that there are");
        }
    }
    let (chunks, orphaned, more) = match args.orphaned {
        true => orphaned(context, &args).await.map(|(rows, more)| (None, Some(rows), more))?,
        false => chunks(context, &args).await.map(|(rows, more)| (Some(rows), None, more))?,
    };
    Ok(Listing { chunks, orphaned, more, health: args.health })
}

async fn chunks(context: &Context, args: &Args) -> anyhow::Result<(Vec<Chunk>, bool)> {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let request = ChunksRequest {
            health: args.health.clone().unwrap_or_default(),
            server: args.server.unwrap_or_default(),
            after,
            limit: PAGE.min(u32::try_from(args.limit - rows.len()).unwrap_or(PAGE)).max(1),
        };
        let reply = context.ask(async |mut admin| admin.chunks(request.clone()).await).await?;
        rows.extend(reply.chunks.into_iter().map(Chunk::from));
        after = reply.next;
        if after == 0 || rows.len() >= args.limit {
            return Ok((rows, after != 0));
        }
    }
}

async fn orphaned(context: &Context, args: &Args) -> anyhow::Result<(Vec<Orphaned>, bool)> {
    let (mut rows, mut after, mut after_server) = (Vec::new(), 0, 0);
    loop {
        let request = OrphanedRequest { server: args.server.unwrap_or_default(), after, after_server, limit: PAGE };
        let reply = context.ask(async |mut admin| admin.orphaned(request).await).await?;
        rows.extend(reply.replicas.into_iter().map(Orphaned::from));
        (after, after_server) = (reply.next, reply.next_server);
        if after == 0 || rows.len() >= args.limit {
            let more = after != 0 || rows.len() > args.limit;
            rows.truncate(args.limit);
            return Ok((rows, more));
        }
    }
}

#[derive(Serialize)]
struct Listing {
    /// Asked for.
    #[serde(skip)]
    health: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<Chunk>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphaned: Option<Vec<Orphaned>>,
    /// There may be more than were asked for.
    more: bool,
}

#[derive(Serialize)]
struct Chunk {
    chunk: String,
    inode: u64,
    path: String,
    index: u32,
    version: u64,
    health: String,
    goal: u32,
    entitled: Vec<u32>,
    current: Vec<u32>,
}

impl From<ChunkStatus> for Chunk {
    fn from(from: ChunkStatus) -> Self {
        let (chunk, ChunkStatus { inode, path, index, version, health, goal, entitled, current, .. }) =
            (ChunkHandle::new(from.handle).to_string(), from);
        Self { chunk, inode, path, index, version, health, goal, entitled, current }
    }
}

#[derive(Serialize)]
struct Orphaned {
    chunk: String,
    server: u32,
    version: u64,
    bytes: u32,
    why: String,
    since_secs: i64,
    until_secs: i64,
}

impl From<OrphanedReplica> for Orphaned {
    fn from(from: OrphanedReplica) -> Self {
        let secs = |time: Option<Time>| time.unwrap_or_default().secs;
        Self {
            chunk: ChunkHandle::new(from.handle).to_string(),
            server: from.server,
            version: from.version,
            bytes: from.length,
            why: from.why,
            since_secs: secs(from.since),
            until_secs: secs(from.until),
        }
    }
}

impl Report for Listing {
    fn human(&self, page: &mut Page) {
        if let Some(chunks) = &self.chunks {
            show_chunks(chunks, self.health.as_deref(), page);
        }
        if let Some(orphaned) = &self.orphaned {
            show_orphaned(orphaned, page);
        }
        if self.more {
            page.line("there are more: see --limit");
        }
    }
}

fn show_chunks(chunks: &[Chunk], health: Option<&str>, page: &mut Page) {
    if chunks.is_empty() {
        return page.line(health.map_or("there is no chunk".to_owned(), |health| format!("no chunk is {health}")));
    }
    let mut table = Table::new(&[
        ("CHUNK", Align::Left),
        ("FILE", Align::Left),
        ("INDEX", Align::Right),
        ("VERSION", Align::Right),
        ("HEALTH", Align::Left),
        ("COPIES", Align::Right),
        ("AT", Align::Left),
    ]);
    for chunk in chunks {
        let names: Vec<String> = chunk.current.iter().map(|server| ServerId::new(*server).to_string()).collect();
        table.row(vec![
            chunk.chunk.clone(),
            if chunk.path.is_empty() { format!("inode {}", chunk.inode) } else { page.name(&chunk.path) },
            chunk.index.to_string(),
            ChunkVersion::new(chunk.version).to_string(),
            chunk.health.clone(),
            format!("{}/{}", chunk.current.len(), chunk.goal),
            names.join(" "),
        ]);
    }
    page.table(&table);
}

fn at(secs: i64) -> Timestamp {
    Timestamp::new(secs, 0).unwrap_or_default()
}

fn show_orphaned(orphaned: &[Orphaned], page: &mut Page) {
    if orphaned.is_empty() {
        return page.line("every replica belongs to a chunk");
    }
    let mut table = Table::new(&[
        ("CHUNK", Align::Left),
        ("AT", Align::Left),
        ("VERSION", Align::Right),
        ("SIZE", Align::Right),
        ("WHY", Align::Left),
        ("SINCE", Align::Left),
        ("DELETED", Align::Left),
    ]);
    for replica in orphaned {
        table.row(vec![
            replica.chunk.clone(),
            ServerId::new(replica.server).to_string(),
            ChunkVersion::new(replica.version).to_string(),
            format::bytes(u64::from(replica.bytes)),
            replica.why.clone(),
            format::time(at(replica.since_secs)),
            format::time(at(replica.until_secs)),
        ]);
    }
    page.table(&table);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::as_text;

    #[test]
    fn nothing_found_is_good_news_or_not() {
        let empty = |health: Option<&str>| Listing {
            health: health.map(str::to_owned),
            chunks: Some(vec![]),
            orphaned: None,
            more: false,
        };
        assert_eq!(as_text(&empty(Some("lost"))), "no chunk is lost\n");
        assert_eq!(as_text(&empty(None)), "there is no chunk\n");
        assert!(at_least_one("0").is_err() && at_least_one("7") == Ok(7));
    }
}
