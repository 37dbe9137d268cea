//! [`FsError`] of a call as a whole, as a gRPC status: for calls whose reply has no field for an error.

use crate::error::FsError;
use tonic::{Code, Status};

/// Metadata key of the error's code: gRPC's own codes are too coarse to act on.
const ERROR_KEY: &str = "gfs-error";

impl FsError {
    /// The status of a refused call; `detail` says to people what was refused and why.
    pub fn into_status(self, detail: impl Into<String>) -> Status {
        let code = match self {
            Self::SessionExpired => Code::Unauthenticated,
            Self::NotLeader | Self::Unavailable => Code::Unavailable,
            Self::Protocol | Self::InvalidArgument => Code::InvalidArgument,
            _ => Code::FailedPrecondition,
        };
        let mut status = Status::new(code, detail);
        status.metadata_mut().insert(ERROR_KEY, self.code().into());
        status
    }

    /// The error of a refused call. `None`: the peer did not say one, so the call was not refused by
    /// the service but lost on its way.
    pub fn from_status(status: &Status) -> Option<Self> {
        let code = status.metadata().get(ERROR_KEY)?.to_str().ok()?.parse().ok()?;
        Some(Self::from_code(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_a_status() {
        for error in FsError::ALL {
            assert_eq!(FsError::from_status(&error.into_status("why")), Some(*error));
        }
        assert_eq!(FsError::from_status(&Status::unavailable("connection lost")), None);
    }
}
