//! `gfsctl clients`: who has a session with the master.

use crate::context::Context;
use crate::format::duration_ms;
use crate::output::{Align, Page, Report, Table};
use gfs_proto::ids::SessionId;
use gfs_proto::wire::{ClientStatus, ClientsRequest};
use serde::Serialize;

/// Show the clients that have a session with the master
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl clients")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> anyhow::Result<impl Report + use<>> {
    let reply = context.ask(async |mut admin| admin.clients(ClientsRequest {}).await).await?;
    Ok(Clients { clients: reply.clients.into_iter().map(Client::from).collect() })
}

#[derive(Serialize)]
struct Clients {
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Client {
    session: String,
    name: String,
    address: String,
    open_files: u32,
    idle_ms: u64,
    age_ms: u64,
}

impl From<ClientStatus> for Client {
    fn from(from: ClientStatus) -> Self {
        Self {
            session: SessionId::new(from.session).to_string(),
            name: from.name,
            address: from.address,
            open_files: from.opens,
            idle_ms: from.idle_ms,
            age_ms: from.age_ms,
        }
    }
}

impl Report for Clients {
    fn human(&self, page: &mut Page) {
        if self.clients.is_empty() {
            page.line("no client is connected");
            return;
        }
        let mut table = Table::new(&[
            ("SESSION", Align::Left),
            ("NAME", Align::Left),
            ("ADDRESS", Align::Left),
            ("OPEN FILES", Align::Right),
            ("IDLE", Align::Right),
            ("AGE", Align::Right),
        ]);
        for client in &self.clients {
            table.row(vec![
                client.session.clone(),
                client.name.clone(),
                client.address.clone(),
                client.open_files.to_string(),
                duration_ms(client.idle_ms),
                duration_ms(client.age_ms),
            ]);
        }
        page.table(&table);
    }
}
