//! Replicas one by one: for tools that compare them.

use super::Client;
use crate::data::{ReplicaError, ReplicaPart, ReplicaRange};
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::chunk::Replica;
use gfs_proto::ids::ServerId;
use gfs_proto::ops::Op;

impl Client {
    /// Reads blocks of one replica, good or bad.
    pub async fn read_replica(&self, replica: &Replica, range: ReplicaRange) -> Result<ReplicaPart, ReplicaError> {
        self.plane.read_replica(replica, range).await
    }

    /// Tells the master that a replica does not match its checksums; its server will look at it.
    pub async fn report_damage(&self, range: ReplicaRange, server: ServerId) -> Result<(), FsError> {
        let report = Op::ReportDamage { handle: range.handle, version: range.version, server };
        let reply = self.session.call(&Caller::root(), vec![report]).await?;
        reply.results.into_iter().next().unwrap_or(Err(FsError::Protocol)).map(drop)
    }
}
