//! The life of one chunkserver's stream: registration, heartbeats, reports, answers to commands.
//!
//! Heartbeats are acknowledged by the task that reads the stream; reports, which may be large, are
//! worked off by a task of their own, so that an acknowledgement never waits for them. The first
//! acknowledgement comes after the full report: until then the server answers no reads, so that it
//! never serves a replica that went stale while it was away.

use super::link::{Link, OUTGOING_MAX};
use super::locations::{Known, Located};
use super::runs::RunError;
use crate::blocking::may_block;
use crate::master::Master;
use crate::quarantine;
use gfs_master_core::{Action, ChunkRecord, CoreResult, Unclaimed};
use gfs_proto::FsError;
use gfs_proto::control::{
    ChunkReport, FromChunkserver, Heartbeat, Register, Registered, ReplicaRow, ReplicaState, ToChunkserver,
};
use gfs_proto::ids::{ChunkHandle, ServerId};
use gfs_proto::mutant;
use gfs_proto::ops::Capabilities;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// Report pages that wait to be worked off.
const REPORTS_MAX: usize = 64;
/// Rows that are compared with the store under one view of it.
const ROWS_PER_VIEW: usize = 256;

/// Why a chunkserver is turned away. The text is for its log, and says what to do.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// It was formatted by another cluster.
    #[error(
        "the chunkserver's directories belong to cluster {theirs}, this master to {ours}; give the right master with \
        --master, or other directories"
    )]
    Cluster {
        /// Of the chunkserver.
        theirs: gfs_proto::ids::ClusterId,
        /// Of this master.
        ours: gfs_proto::ids::ClusterId,
    },
    /// It has seen a newer leader.
    #[error("this chunkserver has obeyed a master of term {theirs}, this one is of term {ours}")]
    Deposed {
        /// Highest seen by the chunkserver.
        theirs: gfs_proto::ids::Term,
        /// Of this master.
        ours: gfs_proto::ids::Term,
    },
    /// Its directory was set back.
    #[error(
        "this chunkserver has run since its directories were as they are: were they copied, or restored from a backup? \
        What they hold may be old; remove them and start with empty ones"
    )]
    OlderRun,
    /// Its directory was copied.
    #[error(
        "this chunkserver is connected from {0} already: were its directories copied? Start this one with empty ones"
    )]
    Elsewhere(SocketAddr),
    /// The registration could not be logged.
    #[error("the registration was not logged: {0}")]
    NotLogged(#[from] FsError),
}

impl From<RunError> for RegisterError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Older => Self::OlderRun,
            RunError::Elsewhere(address) => Self::Elsewhere(address),
        }
    }
}

/// A registered stream.
pub struct Attached {
    /// The server's number.
    pub server: ServerId,
    link: Arc<Link>,
    /// What is to be sent.
    pub outgoing: mpsc::Receiver<ToChunkserver>,
}

/// The reading half of a registered stream.
pub struct Reader {
    master: Arc<Master>,
    server: ServerId,
    link: Arc<Link>,
    reports: mpsc::Sender<ChunkReport>,
    /// A heartbeat that came before the full report was worked off.
    early: Arc<Mutex<Option<u64>>>,
    left: bool,
}

impl Master {
    /// Registers a chunkserver; an earlier stream of it ends.
    pub async fn register_server(&self, register: Register) -> Result<Attached, RegisterError> {
        self.check_register(&register)?;
        let server = match self.servers.known(register.uuid, &register.rack) {
            Some(server) => server,
            None => self.log_server(&register).await?,
        };
        self.took_leave(server, None).await?;
        self.servers.check_run(server, &register, Instant::now())?;
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        let link = Arc::new(Link::new(sender, self.term()));
        info!(%server, address = %register.address.tcp, incarnation = %register.incarnation, "chunkserver registered");
        self.locations.drop_server(server);
        self.servers.attach(server, register, link.clone(), Instant::now());
        let registered = ToChunkserver::Registered(self.registered(server));
        // The channel is new and empty.
        drop(link.send(registered).await);
        Ok(Attached { server, link, outgoing })
    }

    fn check_register(&self, register: &Register) -> Result<(), RegisterError> {
        let (ours, term) = (self.store.genesis().cluster, self.term());
        if let Some(theirs) = register.cluster.filter(|theirs| *theirs != ours) {
            return Err(RegisterError::Cluster { theirs, ours });
        }
        if register.highest_term > term {
            return Err(RegisterError::Deposed { theirs: register.highest_term, ours: term });
        }
        Ok(())
    }

    async fn log_server(&self, register: &Register) -> Result<ServerId, FsError> {
        let action = Action::RegisterServer { uuid: register.uuid, rack: register.rack.clone() };
        match self.commit_one(action).await? {
            CoreResult::Server(server) => Ok(server),
            _ => Err(FsError::Io),
        }
    }

    fn registered(&self, server: ServerId) -> Registered {
        Registered {
            server,
            cluster: self.store.genesis().cluster,
            term: self.term(),
            chunk_size: self.store.genesis().chunk_size,
            heartbeat: self.timings.heartbeat,
            read_lease: self.timings.read_lease,
            capabilities: Capabilities::default(),
        }
    }

    /// Replicas that a server has; those that are stale are returned, and those that are nobody's.
    fn present(&self, server: ServerId, rows: &[ReplicaRow], full: bool) -> (Vec<ChunkHandle>, Vec<Unclaimed>) {
        let (mut stale, mut unclaimed) = (Vec::new(), Vec::new());
        for rows in rows.chunks(ROWS_PER_VIEW) {
            let view = self.store.view();
            for row in rows {
                let known = Known::Reported(row.state);
                self.locations.set(row.handle, Located { server, version: row.version, known });
                let record = view.chunk(row.handle);
                // An older version than the recorded one says nothing: the chunk may have begun again since.
                if !matches!(&record, Ok(Some(record)) if row.version < record.version) {
                    match row.state {
                        ReplicaState::Dirty => self.unwritten.seen(row.handle),
                        _ => self.unwritten.flushed(row.handle),
                    }
                }
                if let Ok(record) = &record {
                    // what cannot be looked up now is reported again
                    unclaimed.extend(quarantine::unclaimed(&view, server, row, record.as_ref()).ok().flatten());
                }
                let Ok(Some(record)) = record else {
                    stale.extend(mutant!(DeleteUnknown).then_some(row.handle));
                    continue;
                };
                if is_discarded(&record, server, row) {
                    stale.push(row.handle);
                }
                if !full && wants_a_look(&record, server, row) {
                    self.repair.note(row.handle, false);
                }
                if full && row.state == ReplicaState::Dirty && record.entitled.contains(&server) {
                    self.uneven.note(row.handle);
                }
                if full {
                    self.compare_length(&view, &record, row);
                }
            }
        }
        (stale, unclaimed)
    }

    fn absent(&self, server: ServerId, rows: &[ReplicaRow]) {
        for row in rows {
            let newer = |l: &Located| l.server == server && l.version > row.version;
            if !self.locations.of(row.handle).iter().any(newer) {
                self.locations.remove(row.handle, server);
                self.repair.note(row.handle, false);
            }
        }
    }
}

/// To be deleted: of no more use, if there is another that can be read.
fn is_discarded(record: &ChunkRecord, server: ServerId, row: &ReplicaRow) -> bool {
    row.version <= record.version && !record.entitled.contains(&server)
}

/// A replica that nobody is entitled to, or that cannot be used.
fn wants_a_look(record: &ChunkRecord, server: ServerId, row: &ReplicaRow) -> bool {
    !record.entitled.contains(&server) || !matches!(row.state, ReplicaState::Clean | ReplicaState::Dirty)
}

impl Attached {
    /// Splits into the reading half and what is to be sent.
    pub fn split(self, master: Arc<Master>) -> (Reader, mpsc::Receiver<ToChunkserver>) {
        let (reports, pages) = mpsc::channel(REPORTS_MAX);
        let early = Arc::new(Mutex::new(None));
        let (server, link) = (self.server, self.link);
        tokio::spawn(work_off(master.clone(), server, link.clone(), pages, early.clone()));
        (Reader { master, server, link, reports, early, left: false }, self.outgoing)
    }
}

impl Reader {
    /// Takes one message.
    pub async fn take(&mut self, message: FromChunkserver) {
        match message {
            FromChunkserver::Heartbeat(heartbeat) => self.heartbeat(&heartbeat).await,
            FromChunkserver::Report(report) => drop(self.reports.send(report).await),
            FromChunkserver::Result(result) => self.link.answered(result),
            FromChunkserver::ChainBreak(broken) => {
                debug!(server = %self.server, chunk = %broken.handle, suspect = %broken.suspect, "a chain broke");
                self.master.leases.mark_broken(broken.handle, broken.epoch);
                self.master.uneven.note(broken.handle);
            }
            FromChunkserver::Leaving => {
                info!(server = %self.server, "chunkserver leaves");
                self.left = true;
                if let Err(error) = self.master.took_leave(self.server, Some(crate::master::now())).await {
                    warn!(server = %self.server, %error, "a restart of the master would take its absence for a failure");
                }
            }
            FromChunkserver::Register(_) => warn!(server = %self.server, "registered twice on one stream"),
        }
    }

    async fn heartbeat(&mut self, heartbeat: &Heartbeat) {
        let now = Instant::now();
        self.master.servers.heartbeat(self.server, heartbeat, now);
        if self.master.servers.may_acknowledge(self.server) {
            self.acknowledge(heartbeat.sent).await;
        } else {
            *self.early.lock() = Some(heartbeat.sent);
        }
        let expires = now + self.master.timings.lease;
        for held in &heartbeat.writing {
            self.master.leases.extend(held.handle, held.epoch, now, expires);
        }
    }

    async fn acknowledge(&self, sent: u64) {
        let term = self.link.term();
        drop(self.link.send(ToChunkserver::HeartbeatAck { sent, term }).await);
    }

    /// Returns when the stream is to end because a newer one took over or the master stops.
    pub async fn closed(&self) {
        tokio::select! {
            biased;
            () = self.link.closed() => {}
            () = self.master.stopping.passed() => {}
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.master.servers.detach(self.server, &self.link, self.left) && !self.left {
            warn!(server = %self.server, "connection to the chunkserver lost");
        }
    }
}

/// Works off reports in order until the stream has ended.
async fn work_off(
    master: Arc<Master>,
    server: ServerId,
    link: Arc<Link>,
    mut pages: mpsc::Receiver<ChunkReport>,
    early: Arc<Mutex<Option<u64>>>,
) {
    let (mut rows, mut within, mut stale) = (0, false, Vec::new());
    while let Some(report) = pages.recv().await {
        if report.full && !within {
            // A server may report in full again; what it does not name then is gone.
            (rows, stale) = (0, Vec::new());
            master.locations.drop_server(server);
        }
        within = report.full && !report.last;
        rows += report.present.len();
        let (of_page, unclaimed) = may_block(|| {
            let found = master.present(server, &report.present, report.full);
            master.absent(server, &report.removed);
            found
        });
        stale.extend(of_page);
        if let Err(error) = master.put_aside(unclaimed).await {
            warn!(%server, %error, "replicas that nobody knows are noted when they are reported again");
        }
        if within {
            continue;
        }
        if !master.discard_stale_at(server, std::mem::take(&mut stale)).await {
            link.close();
            return;
        }
        if report.full {
            master.repair.look_everywhere();
            info!(%server, replicas = rows, "chunkserver has reported in full");
            master.servers.reported(server, &link);
            let sent = early.lock().take();
            if let Some(sent) = sent.filter(|_| master.servers.may_acknowledge(server)) {
                drop(link.send(ToChunkserver::HeartbeatAck { sent, term: link.term() }).await);
            }
            master.garbage.look();
        }
    }
}
