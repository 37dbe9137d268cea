//! What went wrong as an exit status: 2 if the command line is at fault, 130 if it was interrupted, else 1.

use crate::interrupt::{self, Interrupted};
use gfs_client::ConnectError;
use thiserror::Error;

/// The command line, or a file that it names, makes no sense; nothing was changed.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// [`Usage`] as the error of a command.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// See the head of this file.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    let at_fault = error
        .chain()
        .any(|cause| cause.is::<Usage>() || cause.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_usage));
    match error.chain().any(|cause| cause.is::<Interrupted>()) {
        true => interrupt::STATUS,
        false if at_fault => 2,
        false => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::FsError;

    #[test]
    fn only_the_command_line_gives_two() {
        let bad_address = ConnectError::BadAddress { address: "x".into() };
        let away = ConnectError::Unreachable { address: "127.0.0.1:1".into(), cause: "refused".into() };
        for (error, status) in [
            (usage("no such thing").context("up"), 2),
            (anyhow::Error::new(bad_address), 2),
            (anyhow::Error::new(away), 1),
            (anyhow::Error::new(Interrupted).context("/a"), 130),
            (anyhow::Error::new(FsError::NotFound).context("/a"), 1),
        ] {
            assert_eq!(exit_status(&error), status, "{error:#}");
        }
    }
}
