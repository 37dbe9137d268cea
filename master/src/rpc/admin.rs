//! The Admin service: reports for people. They have no domain types; wire messages are filled here.

use crate::master::Master;
use crate::servers::{Presence, ServerStatus};
use gfs_proto::FsError;
use gfs_proto::control::DirectorySpace;
use gfs_proto::wire;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// See the module's text.
pub struct AdminService {
    master: Arc<Master>,
    address: SocketAddr,
}

fn failed(error: FsError) -> Status {
    error.into_status("the master's state could not be read")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl AdminService {
    /// Of a master that listens there.
    pub fn new(master: Arc<Master>, address: SocketAddr) -> Self {
        Self { master, address }
    }

    fn masters(&self) -> Vec<wire::MasterStatus> {
        let status = self.master.log.status();
        vec![wire::MasterStatus {
            address: self.address.to_string(),
            role: format!("{:?}", status.role).to_lowercase(),
            term: status.term.get(),
            applied_index: status.applied.get(),
            checkpoint_index: self.master.room.checkpoint().get(),
        }]
    }

    fn status(&self) -> Result<wire::StatusReply, FsError> {
        let (master, now) = (&self.master, Instant::now());
        let stats = master.store.view().stats();
        let genesis = master.store.genesis();
        let census = master.census()?;
        let repair = master.repair.status();
        let servers = master.servers.statuses(now);
        let (bytes_total, bytes_free) = master.servers.room(now);
        Ok(wire::StatusReply {
            cluster_id: genesis.cluster.as_bytes().to_vec().into(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            chunk_size: genesis.chunk_size.get(),
            goal_default: genesis.goal.into(),
            masters: self.masters(),
            inodes: stats.inodes(),
            files: stats.files,
            directories: stats.directories,
            chunks: stats.chunks,
            chunks_healthy: census.healthy,
            chunks_degraded: census.degraded(),
            chunks_missing: census.lost + census.unavailable,
            chunks_garbage: stats.garbage,
            bytes_total,
            bytes_free,
            chunkservers_up: count(servers.iter().filter(|s| s.presence == Presence::Up).count()),
            chunkservers_known: count(servers.len()),
            clients: count(master.sessions.len()),
            leases: count(master.leases.len()),
            bytes_metadata: master.metadata_bytes(),
            uptime_ms: millis(now.saturating_duration_since(master.started)),
            chunks_at_risk: census.at_risk,
            chunks_unavailable: census.unavailable,
            chunks_lacking: census.missing,
            repair_queue: repair.queued,
            repair_copies: repair.copying,
            repair_rate: repair.rate(now.saturating_duration_since(master.started)),
            repair_copied: repair.copied,
            repair_removed: repair.removed,
            repair_surveyed: repair.looked_everywhere,
        })
    }

    fn leases(&self) -> Vec<wire::LeaseStatus> {
        let now = Instant::now();
        let mut leases = self.master.leases.all();
        leases.retain(|lease| lease.expires > now);
        leases.sort_unstable_by_key(|lease| (lease.inode, lease.index));
        leases.iter().map(|lease| self.lease(lease, now)).collect()
    }

    fn lease(&self, lease: &crate::grants::leases::Lease, now: Instant) -> wire::LeaseStatus {
        let path = self.master.store.view().path_of(lease.inode).ok().flatten().unwrap_or_default();
        let primary = lease.members.first().map(|(server, _)| *server).unwrap_or_default();
        let session = match lease.sessions.as_slice() {
            [one] => one.get(),
            _ => 0,
        };
        wire::LeaseStatus {
            handle: lease.handle.get(),
            inode: lease.inode.get(),
            path: String::from_utf8_lossy(&path).into_owned(),
            index: lease.index.get(),
            version: lease.version.get(),
            primary: primary.get(),
            primary_address: self
                .master
                .servers
                .replica(primary)
                .map(|r| r.address.tcp.to_string())
                .unwrap_or_default(),
            seconds_left: lease.expires.saturating_duration_since(now).as_secs(),
            epoch: Some(lease.epoch.into()),
            session,
        }
    }

    fn clients(&self) -> Vec<wire::ClientStatus> {
        let now = Instant::now();
        let mut clients: Vec<_> = self
            .master
            .sessions
            .all()
            .iter()
            .map(|session| wire::ClientStatus {
                session: session.id.get(),
                name: session.name.clone(),
                address: session.address(),
                opens: count(self.master.opens.count(session.id)),
                idle_ms: millis(session.idle(now)),
                age_ms: millis(session.age(now)),
            })
            .collect();
        clients.sort_unstable_by(|a, b| (&a.name, a.session).cmp(&(&b.name, b.session)));
        clients
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn server_status(status: &ServerStatus, suspect_replicas: u64) -> wire::ChunkserverStatus {
    let registered = status.registered.as_deref();
    wire::ChunkserverStatus {
        server: status.server.get(),
        state: status.presence.name().to_owned(),
        tcp: registered.map(|r| r.address.tcp.to_string()).unwrap_or_default(),
        rack: status.rack.clone(),
        software: registered.map(|r| r.software.clone()).unwrap_or_default(),
        incarnation: registered.map_or(0, |r| r.incarnation.get()),
        chunks: status.space.iter().map(|directory| directory.chunks).sum(),
        space: Some(space(&status.space)),
        last_heartbeat_ms: status.silent.map_or(0, millis),
        server_uuid: status.uuid.as_bytes().to_vec().into(),
        suspect_replicas,
    }
}

fn space(directories: &[DirectorySpace]) -> wire::SpaceReport {
    wire::SpaceReport { directories: directories.iter().map(Into::into).collect() }
}

#[tonic::async_trait]
impl wire::admin_server::Admin for AdminService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        tokio::task::block_in_place(|| self.status()).map(Response::new).map_err(failed)
    }

    async fn chunkservers(
        &self,
        _: Request<wire::ChunkserversRequest>,
    ) -> Result<Response<wire::ChunkserversReply>, Status> {
        let suspects = tokio::task::block_in_place(|| self.master.locations.suspects());
        let statuses = self.master.servers.statuses(Instant::now());
        let suspects_of = |s: &ServerStatus| suspects.get(&s.server).copied().unwrap_or_default();
        let servers = statuses.iter().map(|s| server_status(s, suspects_of(s))).collect();
        Ok(Response::new(wire::ChunkserversReply { servers }))
    }

    async fn leases(&self, _: Request<wire::LeasesRequest>) -> Result<Response<wire::LeasesReply>, Status> {
        let leases = tokio::task::block_in_place(|| self.leases());
        Ok(Response::new(wire::LeasesReply { leases }))
    }

    async fn clients(&self, _: Request<wire::ClientsRequest>) -> Result<Response<wire::ClientsReply>, Status> {
        Ok(Response::new(wire::ClientsReply { clients: self.clients() }))
    }
}
