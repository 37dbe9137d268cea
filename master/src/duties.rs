//! What an operator wants of chunkservers: drained, under maintenance, removed; and which were stopped in order.
//! Logged, so that it outlives the master.

use crate::blocking::may_block;
use crate::master::{Master, now};
use crate::repair::Dependent;
use crate::servers::{Presence, ServerStatus};
use gfs_master_core::{Action, Duty};
use gfs_proto::FsError;
use gfs_proto::ids::ServerId;
use gfs_proto::time::Timestamp;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The longest maintenance: what takes longer is a removal.
pub const MAINTENANCE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Why the master does not do what an operator wants. The text is for the operator.
#[derive(Debug, Error)]
pub enum DutyError {
    /// No such server.
    #[error("there is no chunkserver {0}; `gfsctl chunkservers` shows those that there are")]
    Unknown(ServerId),
    /// It would register again at once.
    #[error("chunkserver {0} is running; stop it first, or it registers again as a new one")]
    Running(ServerId),
    /// Data would be lost.
    #[error(
        "chunkserver {server} has the last copy of {} chunks; drain it first (start it, `gfsctl drain {server} --wait`), \
        or lose them with --force", dependent.last_copies
    )]
    LastCopies {
        /// Which.
        server: ServerId,
        /// What depends on it.
        dependent: Dependent,
    },
    /// Too long.
    #[error("maintenance takes {} days at most; remove a chunkserver that stays away longer", MAINTENANCE_MAX.as_secs() / 86_400)]
    TooLong,
    /// It could not be logged or looked up.
    #[error("it was not done: {0}")]
    State(#[from] FsError),
}

impl Master {
    /// Has a server's copies moved to others, or stops that.
    pub async fn drain(&self, server: ServerId, draining: bool) -> Result<(), DutyError> {
        let duty = self.duty(server)?;
        self.set_duty(server, Duty { draining, ..duty }).await
    }

    /// Does not miss a server's copies for so long although it is away; none: the usual time again.
    pub async fn maintain(&self, server: ServerId, length: Option<Duration>) -> Result<(), DutyError> {
        if length.is_some_and(|length| length > MAINTENANCE_MAX) {
            return Err(DutyError::TooLong);
        }
        let duty = self.duty(server)?;
        let end =
            |length: Duration| Timestamp::from_nanos(now().as_nanos() + i128::from(length.as_secs()) * 1_000_000_000);
        self.set_duty(server, Duty { maintenance_until: length.map(end), ..duty }).await
    }

    /// Takes a server out of the cluster; what depended on it.
    pub async fn remove_server(&self, server: ServerId, force: bool) -> Result<Dependent, DutyError> {
        self.duty(server)?;
        if !matches!(
            self.servers.presence(server, Instant::now()),
            Presence::Down | Presence::Left | Presence::Expected
        ) {
            return Err(DutyError::Running(server));
        }
        let census = may_block(|| self.census())?;
        let dependent = census.dependents.get(&server).copied().unwrap_or_default();
        if dependent.last_copies > 0 && !force {
            return Err(DutyError::LastCopies { server, dependent });
        }
        self.commit_one(Action::RemoveServer { server }).await?;
        self.servers.forget(server);
        self.locations.drop_server(server);
        self.repair.look_everywhere();
        Ok(dependent)
    }

    /// How it stands with a server.
    pub fn server_status(&self, server: ServerId) -> Result<ServerStatus, DutyError> {
        let statuses = self.servers.statuses(Instant::now());
        statuses.into_iter().find(|status| status.server == server).ok_or(DutyError::Unknown(server))
    }

    /// Notes that a server was stopped in order then, or that it is back.
    pub async fn took_leave(&self, server: ServerId, left: Option<Timestamp>) -> Result<(), FsError> {
        let duty = match self.duty(server) {
            Ok(duty) if duty.left != left => duty,
            _ => return Ok(()), // nothing is new, or it was removed meanwhile
        };
        let duty = Duty { left, ..duty };
        self.commit_one(Action::SetDuty { server, duty }).await?;
        self.servers.set_duty(server, duty);
        Ok(())
    }

    fn duty(&self, server: ServerId) -> Result<Duty, DutyError> {
        self.server_status(server).map(|status| status.duty)
    }

    async fn set_duty(&self, server: ServerId, duty: Duty) -> Result<(), DutyError> {
        self.commit_one(Action::SetDuty { server, duty }).await?;
        self.servers.set_duty(server, duty);
        self.repair.look_everywhere();
        Ok(())
    }
}
