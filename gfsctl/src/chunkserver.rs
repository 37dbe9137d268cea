//! Chunkservers as people name them, and how it stands with one that is drained.

use crate::output::Page;
use gfs_proto::ids::ServerId;
use gfs_proto::wire::ChunkserverStatus;
use serde::Serialize;

/// `cs3`, as the tables show it, or `3`.
pub(crate) fn parse(text: &str) -> Result<ServerId, String> {
    let number = text.strip_prefix("cs").unwrap_or(text).parse().ok().filter(|number| *number > 0);
    number.map(ServerId::new).ok_or_else(|| format!("{text:?} names no chunkserver; use a name such as cs1"))
}

/// What an operator wants of a chunkserver, and how far it is.
#[derive(Serialize)]
pub(crate) struct Duty {
    pub(crate) server: u32,
    pub(crate) state: String,
    pub(crate) draining: bool,
    pub(crate) maintenance_ms: u64,
    /// Chunks that still depend on it.
    pub(crate) chunks_needed: u64,
    /// Of these, those that can be read nowhere else.
    pub(crate) last_copies: u64,
    /// Nothing depends on it: it may be stopped and removed.
    pub(crate) safe: bool,
}

impl From<ChunkserverStatus> for Duty {
    fn from(from: ChunkserverStatus) -> Self {
        Self {
            server: from.server,
            state: from.state,
            draining: from.draining,
            maintenance_ms: from.maintenance_ms,
            chunks_needed: from.chunks_needed,
            last_copies: from.last_copies,
            safe: from.draining && from.chunks_needed == 0,
        }
    }
}

impl Duty {
    pub(crate) fn drain_text(&self, page: &mut Page) {
        let server = ServerId::new(self.server);
        page.line(match (self.draining, self.safe) {
            (false, _) => format!("{server} is not being drained"),
            (true, true) => format!(
                "nothing depends on {server} any more: it is safe to stop it, and then `gfsctl remove {server}`"
            ),
            (true, false) => format!("{server} is being drained: {} chunks still depend on it", self.chunks_needed),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_they_are_shown() {
        assert_eq!(parse("cs12").map(ServerId::get), Ok(12));
        assert_eq!(parse(&ServerId::new(3).to_string()).map(ServerId::get), Ok(3));
        assert_eq!(parse("7").map(ServerId::get), Ok(7));
        for bad in ["", "cs", "cs0", "0", "-1", "s3", "cs4294967296"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn safe_is_only_what_was_drained() {
        for (draining, chunks_needed, safe) in [(false, 0, false), (true, 1, false), (true, 0, true)] {
            let status = ChunkserverStatus { draining, chunks_needed, ..ChunkserverStatus::default() };
            assert_eq!(Duty::from(status).safe, safe);
        }
    }
}
