//! `gfsctl leases`: which chunks are being written, and through whom.

use crate::context::Context;
use crate::output::{Align, Page, Report, Table};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId, SessionId};
use gfs_proto::wire::{LeaseStatus, LeasesRequest};
use serde::Serialize;

/// Show the chunk leases: chunk, file, version, primary, seconds left
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  watch gfsctl leases        # while something is copied")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> anyhow::Result<impl Report + use<>> {
    let reply = context.ask(async |mut admin| admin.leases(LeasesRequest {}).await).await?;
    Ok(Leases { leases: reply.leases.into_iter().map(Lease::from).collect() })
}

#[derive(Serialize)]
struct Leases {
    leases: Vec<Lease>,
}

#[derive(Serialize)]
struct Lease {
    chunk: String,
    inode: u64,
    path: String,
    index: u32,
    version: u64,
    epoch: String,
    primary: u32,
    primary_address: String,
    seconds_left: u64,
    session: Option<String>,
}

impl From<LeaseStatus> for Lease {
    fn from(from: LeaseStatus) -> Self {
        let epoch = from.epoch.unwrap_or_default();
        Self {
            chunk: ChunkHandle::new(from.handle).to_string(),
            inode: from.inode,
            path: from.path,
            index: from.index,
            version: from.version,
            epoch: format!("{}.{}", epoch.term, epoch.counter),
            primary: from.primary,
            primary_address: from.primary_address,
            seconds_left: from.seconds_left,
            session: (from.session != 0).then(|| SessionId::new(from.session).to_string()),
        }
    }
}

impl Report for Leases {
    fn human(&self, page: &mut Page) {
        if self.leases.is_empty() {
            page.line("no chunk is being written");
            return;
        }
        let mut table = Table::new(&[
            ("CHUNK", Align::Left),
            ("FILE", Align::Left),
            ("INDEX", Align::Right),
            ("VERSION", Align::Right),
            ("PRIMARY", Align::Left),
            ("SECONDS LEFT", Align::Right),
            ("WRITER", Align::Left),
        ]);
        for lease in &self.leases {
            table.row(vec![
                lease.chunk.clone(),
                if lease.path.is_empty() { format!("inode {}", lease.inode) } else { lease.path.clone() },
                lease.index.to_string(),
                ChunkVersion::new(lease.version).to_string(),
                format!("{} {}", ServerId::new(lease.primary), lease.primary_address),
                lease.seconds_left.to_string(),
                lease.session.as_ref().map_or_else(|| "several".to_owned(), |it| format!("session {it}")),
            ]);
        }
        page.table(&table);
    }
}
