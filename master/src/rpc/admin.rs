//! The Admin service: reports for people. They have no domain types; wire messages are filled here.

use crate::chunk_list::{AsideListing, Listed, Name, Wanted};
use crate::duties::DutyError;
use crate::fsck::Finding;
use crate::master::{Master, now};
use crate::repair::Dependent;
use crate::servers::{Presence, ServerStatus};
use gfs_master_core::UnclaimedCause;
use gfs_proto::FsError;
use gfs_proto::control::DirectorySpace;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, InodeId, ServerId};
use gfs_proto::time::Timestamp;
use gfs_proto::wire;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// See the module's text.
pub struct AdminService {
    master: Arc<Master>,
    address: SocketAddr,
    fsck: tokio::sync::Mutex<()>,
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
        Self { master, address, fsck: tokio::sync::Mutex::default() }
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
            replicas_damaged: master.locations.damaged().values().sum(),
            chunks_incurable: master.repair.incurable(),
            repair_mended: repair.mended,
        })
    }

    fn server_statuses(&self, statuses: &[ServerStatus]) -> Result<Vec<wire::ChunkserverStatus>, FsError> {
        let (locations, census) = (&self.master.locations, self.master.census()?);
        let (suspects, damaged) = (locations.suspects(), locations.damaged());
        let status = |status: &ServerStatus| {
            let count = |counts: &HashMap<ServerId, u64>| counts.get(&status.server).copied().unwrap_or_default();
            server_status(
                status,
                (count(&suspects), count(&damaged)),
                census.dependents.get(&status.server).copied().unwrap_or_default(),
            )
        };
        Ok(statuses.iter().map(status).collect())
    }

    /// How it stands with one server, after something was wanted of it.
    fn duty(&self, server: ServerId) -> Result<Response<wire::DutyReply>, Status> {
        let status = self.master.server_status(server).map_err(refused)?;
        let statuses = tokio::task::block_in_place(|| self.server_statuses(&[status])).map_err(failed)?;
        Ok(Response::new(wire::DutyReply { server: statuses.into_iter().next() }))
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

    fn chunks(&self, wanted: &Wanted) -> Result<wire::ChunksReply, FsError> {
        let listing = self.master.list_chunks(wanted)?;
        let chunks = listing.chunks.into_iter().map(|listed| self.chunk(listed)).collect();
        Ok(wire::ChunksReply { chunks, next: listing.next.map_or(0, |handle| handle.get()) })
    }

    fn chunk(&self, listed: Listed) -> wire::ChunkStatus {
        let Listed { handle, record, health, current } = listed;
        let path = self.master.store.view().path_of(record.inode).ok().flatten().unwrap_or_default();
        let numbers = |servers: &[ServerId]| servers.iter().map(|server| server.get()).collect();
        wire::ChunkStatus {
            handle: handle.get(),
            version: record.version.get(),
            inode: record.inode.get(),
            path: String::from_utf8_lossy(&path).into_owned(),
            index: record.index.get(),
            goal: record.goal.into(),
            health: health.text().to_owned(),
            entitled: numbers(&record.entitled),
            current: numbers(&current),
        }
    }

    fn orphaned(&self, request: &wire::OrphanedRequest) -> Result<wire::OrphanedReply, FsError> {
        let server = (request.server != 0).then_some(ServerId::new(request.server));
        let after =
            (request.after != 0).then(|| (ChunkHandle::new(request.after), ServerId::new(request.after_server)));
        let AsideListing { replicas, next } = self.master.list_quarantine(server, after, limit(request.limit))?;
        let replicas = replicas.iter().map(|aside| wire::OrphanedReplica {
            handle: aside.replica.handle.get(),
            server: aside.replica.server.get(),
            version: aside.replica.version.get(),
            length: aside.replica.length,
            since: Some(aside.since.into()),
            until: Some(self.master.ends(aside).into()),
            why: match aside.replica.cause {
                UnclaimedCause::NoChunk => "no chunk".to_owned(),
                UnclaimedCause::Ahead => "ahead".to_owned(),
            },
        });
        let (next, next_server) = next.map_or((0, 0), |(handle, server)| (handle.get(), server.get()));
        Ok(wire::OrphanedReply { replicas: replicas.collect(), next, next_server })
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

/// Rows of one page at most.
const PAGE_MAX: usize = 1000;

fn limit(asked: u32) -> usize {
    usize::try_from(asked).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
}

/// Which chunks are asked for.
fn wanted(request: &wire::ChunksRequest) -> Result<Wanted, ()> {
    let named = |text: &str| Name::ALL.into_iter().find(|name| name.text() == text).ok_or(());
    Ok(Wanted {
        health: if request.health.is_empty() { None } else { Some(named(&request.health)?) },
        server: (request.server != 0).then_some(ServerId::new(request.server)),
        after: (request.after != 0).then_some(ChunkHandle::new(request.after)),
        limit: limit(request.limit),
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn server_status(
    status: &ServerStatus,
    (suspect_replicas, damaged_replicas): (u64, u64),
    dependent: Dependent,
) -> wire::ChunkserverStatus {
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
        draining: status.duty.draining,
        maintenance_ms: status.duty.maintenance_until.map_or(0, millis_until),
        chunks_needed: dependent.chunks,
        last_copies: dependent.last_copies,
        slow_clients: status.slowness.clients,
        slow_latency_us: micros(status.slowness.latency),
        slow_median_us: micros(status.slowness.median),
        damaged_replicas,
        scrub: status.scrub.map(Into::into),
    }
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

fn millis_until(time: Timestamp) -> u64 {
    u64::try_from((time.as_nanos() - now().as_nanos()) / 1_000_000).unwrap_or(0)
}

fn refused(error: DutyError) -> Status {
    let code = match &error {
        DutyError::Unknown(_) => FsError::NotFound,
        DutyError::Running(_) | DutyError::LastCopies { .. } => FsError::Busy,
        DutyError::TooLong => FsError::InvalidArgument,
        DutyError::State(error) => *error,
    };
    code.into_status(error.to_string())
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
        let statuses = self.master.servers.statuses(Instant::now());
        let servers = tokio::task::block_in_place(|| self.server_statuses(&statuses)).map_err(failed)?;
        Ok(Response::new(wire::ChunkserversReply { servers }))
    }

    async fn chunks(&self, request: Request<wire::ChunksRequest>) -> Result<Response<wire::ChunksReply>, Status> {
        let request = request.into_inner();
        let wanted = wanted(&request).map_err(|()| {
            FsError::InvalidArgument.into_status("a chunk is healthy, missing, unavailable, lost, damaged or unwritten")
        })?;
        tokio::task::block_in_place(|| self.chunks(&wanted)).map(Response::new).map_err(failed)
    }

    async fn fsck(&self, request: Request<wire::FsckRequest>) -> Result<Response<wire::FsckReply>, Status> {
        let _one_at_a_time = self.fsck.lock().await;
        let found = self.master.fsck(request.into_inner().repair).await;
        let found = found.map_err(|error| FsError::Io.into_status(error.to_string()))?;
        let finding = |finding: Finding| wire::FsckFinding {
            property: finding.property.to_owned(),
            detail: finding.detail,
            repair: finding.repair,
        };
        Ok(Response::new(wire::FsckReply {
            findings: found.findings.into_iter().map(finding).collect(),
            total: found.total as u64,
            repaired: found.repaired as u64,
            chunks: found.chunks,
            orphaned: found.aside,
        }))
    }

    async fn orphaned(&self, request: Request<wire::OrphanedRequest>) -> Result<Response<wire::OrphanedReply>, Status> {
        let request = request.into_inner();
        tokio::task::block_in_place(|| self.orphaned(&request)).map(Response::new).map_err(failed)
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DutyReply>, Status> {
        let wire::DrainRequest { server, cancel } = request.into_inner();
        let server = ServerId::new(server);
        self.master.drain(server, !cancel).await.map_err(refused)?;
        self.duty(server)
    }

    async fn maintenance(
        &self,
        request: Request<wire::MaintenanceRequest>,
    ) -> Result<Response<wire::DutyReply>, Status> {
        let wire::MaintenanceRequest { server, duration_ms } = request.into_inner();
        let server = ServerId::new(server);
        let length = (duration_ms > 0).then(|| Duration::from_millis(duration_ms));
        self.master.maintain(server, length).await.map_err(refused)?;
        self.duty(server)
    }

    async fn remove_chunkserver(
        &self,
        request: Request<wire::RemoveChunkserverRequest>,
    ) -> Result<Response<wire::RemoveChunkserverReply>, Status> {
        let wire::RemoveChunkserverRequest { server, force } = request.into_inner();
        let dependent = self.master.remove_server(ServerId::new(server), force).await.map_err(refused)?;
        Ok(Response::new(wire::RemoveChunkserverReply {
            chunks_needed: dependent.chunks,
            last_copies: dependent.last_copies,
            chunks_fewer: dependent.fewer,
            chunks_single: dependent.single,
        }))
    }

    async fn scrub(&self, request: Request<wire::ScrubRequest>) -> Result<Response<wire::ScrubReply>, Status> {
        let server = Some(request.into_inner().server).filter(|server| *server > 0).map(ServerId::new);
        let started = self.master.begin_scrub(server).await;
        if started.is_empty() {
            return Err(FsError::NotFound.into_status("no such chunkserver is up"));
        }
        let started =
            started.into_iter().map(|(server, round)| wire::ScrubStarted { server: server.get(), round }).collect();
        Ok(Response::new(wire::ScrubReply { started }))
    }

    async fn replicas(&self, request: Request<wire::ReplicasRequest>) -> Result<Response<wire::ReplicasReply>, Status> {
        let wire::ReplicasRequest { inode, first, count } = request.into_inner();
        let count = count.min(gfs_proto::limits::CHUNKS_PER_REQUEST_MAX);
        let (inode, first) = (InodeId::new(inode), ChunkIndex::new(first));
        let chunks = tokio::task::block_in_place(|| super::replicas::of_file(&self.master, inode, first, count));
        Ok(Response::new(wire::ReplicasReply { chunks: chunks.map_err(failed)? }))
    }

    async fn leases(&self, _: Request<wire::LeasesRequest>) -> Result<Response<wire::LeasesReply>, Status> {
        let leases = tokio::task::block_in_place(|| self.leases());
        Ok(Response::new(wire::LeasesReply { leases }))
    }

    async fn clients(&self, _: Request<wire::ClientsRequest>) -> Result<Response<wire::ClientsReply>, Status> {
        Ok(Response::new(wire::ClientsReply { clients: self.clients() }))
    }
}
