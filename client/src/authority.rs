//! Locations and leases for the data plane, asked of the master through the session.

use crate::data::ChunkAuthority;
use crate::session::Session;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap};
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ClusterId, InodeId, ServerId, SessionId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::ops::{FlushedChunk, Op, OpResult};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// See the file's text. Rights were checked at the open, so it asks as root.
pub(crate) struct MasterAuthority {
    session: Arc<Session>,
    cluster: ClusterId,
    chunk_size: ChunkSize,
    told: Mutex<Told>,
}

/// Replicas that the master was told of as damaged: each once in a while, however often it is read.
#[derive(Default)]
struct Told(HashMap<(ChunkHandle, ServerId), Instant>);

impl Told {
    const AGAIN: Duration = Duration::from_secs(10);
    const MAX: usize = 256;

    /// False if it was told of lately, or too many others were.
    fn first_lately(&mut self, replica: (ChunkHandle, ServerId)) -> bool {
        self.0.retain(|_, at| at.elapsed() < Self::AGAIN);
        let first = self.0.len() < Self::MAX && !self.0.contains_key(&replica);
        if first {
            self.0.insert(replica, Instant::now());
        }
        first
    }
}

impl MasterAuthority {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        let identity = session.identity();
        Self { session, cluster: identity.cluster, chunk_size: identity.chunk_size, told: Mutex::default() }
    }

    async fn one(&self, op: Op) -> Result<OpResult, FsError> {
        let reply = self.session.call(&Caller::root(), vec![op]).await?;
        reply.results.into_iter().next().unwrap_or(Err(FsError::Protocol))
    }

    async fn granted(&self, op: Op) -> Result<ChunkGrant, FsError> {
        match self.one(op).await? {
            OpResult::Grant(grant) => Ok(grant),
            _ => Err(FsError::Protocol),
        }
    }
}

impl ChunkAuthority for MasterAuthority {
    fn locate(&self, inode: InodeId, first: ChunkIndex, count: u32) -> BoxFuture<'_, Result<ChunkMap, FsError>> {
        async move {
            match self.one(Op::ReadChunks { inode: inode.into(), first, count }).await? {
                OpResult::Chunks(map) => Ok(map),
                _ => Err(FsError::Protocol),
            }
        }
        .boxed()
    }

    fn grant(&self, inode: InodeId, index: ChunkIndex) -> BoxFuture<'_, Result<ChunkGrant, FsError>> {
        self.granted(Op::GrantChunk { inode: inode.into(), index }).boxed()
    }

    fn broken(&self, grant: &ChunkGrant, suspects: Vec<ServerId>) -> BoxFuture<'_, Result<ChunkGrant, FsError>> {
        self.granted(Op::BreakChunk {
            inode: grant.inode.into(),
            index: grant.index,
            handle: grant.handle,
            version: grant.version,
            epoch: grant.epoch,
            suspects,
        })
        .boxed()
    }

    fn await_copies(&self, chunks: Vec<FlushedChunk>) -> BoxFuture<'_, Result<(), FsError>> {
        async move { self.one(Op::AwaitCopies { chunks }).await.map(drop) }.boxed()
    }

    fn copies_min(&self) -> usize {
        self.session.identity().copies_min.into()
    }

    fn session(&self) -> SessionId {
        self.session.id()
    }

    fn cluster(&self) -> ClusterId {
        self.cluster
    }

    fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    fn corrupt(&self, location: &ChunkLocation, server: ServerId) {
        let (handle, version) = (location.handle, location.version);
        if !self.told.lock().first_lately((handle, server)) {
            return;
        }
        warn!(%handle, %version, %server, "a replica does not match its checksums; another one is read");
        let session = self.session.clone();
        tokio::spawn(async move {
            let report = Op::ReportDamage { handle, version, server };
            if let Err(error) = session.call(&Caller::root(), vec![report]).await {
                debug!(%handle, %server, %error, "the master was not told of a damaged replica");
            }
        });
    }
}
