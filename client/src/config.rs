//! What a client is told when it starts, and why it could not.

use gfs_proto::limits::{MASTER_ADDRESS_DEFAULT, OPERATION_TIMEOUT};
use std::time::Duration;
use thiserror::Error;

/// Settings of a [`crate::Client`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// Addresses of the masters, `host:port`, separated by commas.
    pub master: String,
    /// Who this is, for people who look at the list of clients: host and purpose.
    pub name: String,
    /// Bound on any one operation: after it the operation ends with an error.
    pub timeout: Duration,
    /// Memory for blocks that were read.
    pub cache_bytes: u64,
    /// Memory for bytes that were written and have not reached the chunkservers.
    pub dirty_bytes: u64,
    /// How far a sequential reader reads ahead.
    pub readahead_max: u32,
    /// Inodes whose attributes are remembered.
    pub attributes_max: usize,
    /// Names (present and absent) that are remembered.
    pub names_max: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            master: MASTER_ADDRESS_DEFAULT.to_owned(),
            name: "client".to_owned(),
            timeout: OPERATION_TIMEOUT,
            cache_bytes: 256 << 20,
            dirty_bytes: 128 << 20,
            readahead_max: 16 << 20,
            attributes_max: 100_000,
            names_max: 200_000,
        }
    }
}

impl ClientConfig {
    /// Refuses numbers that make no sense.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let at_least = |setting, value: u64, least: u64, range| {
            if value >= least { Ok(()) } else { Err(ConnectError::BadSetting { setting, value, range }) }
        };
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        at_least("timeout (milliseconds)", timeout_ms, 100, "100 and more")?;
        at_least("cache_bytes", self.cache_bytes, 1 << 20, "1 MiB and more")?;
        at_least("dirty_bytes", self.dirty_bytes, 1 << 20, "1 MiB and more")?;
        at_least("attributes_max", self.attributes_max as u64, 1, "1 and more")?;
        at_least("names_max", self.names_max as u64, 1, "1 and more")
    }
}

/// Why [`crate::Client::connect`] failed; its text tells a person what to do.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address is no address.
    #[error("{address:?} is not the address of a master: give HOST:PORT, for example {MASTER_ADDRESS_DEFAULT}")]
    BadAddress {
        /// As given.
        address: String,
    },
    /// A number in the configuration makes no sense.
    #[error("{setting} is {value}, which is outside {range}")]
    BadSetting {
        /// Name of the field.
        setting: &'static str,
        /// As given.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// Nobody answers.
    #[error(
        "no master answers at {address} ({cause}): is gfs-master running there? \
         GFS_MASTER or --master names another address"
    )]
    Unreachable {
        /// As given.
        address: String,
        /// What the last attempt said.
        cause: String,
    },
    /// It answered, and refused.
    #[error("the master at {address} refuses this client: {cause}")]
    Refused {
        /// As given.
        address: String,
        /// What it said.
        cause: String,
    },
}

impl ConnectError {
    /// True if the configuration is at fault (exit status 2), not the cluster.
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::BadAddress { .. } | Self::BadSetting { .. })
    }
}
