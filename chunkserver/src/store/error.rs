//! Why a store as a whole does not work. What concerns one chunk is a
//! [`DataError`](gfs_proto::frame::DataError).

use std::path::PathBuf;

/// Why a store cannot be opened or changed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing to store in.
    #[error("no storage directory is configured")]
    NoDirectory,
    /// Settings that contradict each other.
    #[error("{0}")]
    Config(&'static str),
    /// Another process uses the directory.
    #[error("storage directory {path} is in use by another chunkserver{holder}; stop it or name another directory",
        path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// " (process N)" if known.
        holder: String,
    },
    /// Not a storage directory.
    #[error("{path} is neither empty nor a storage directory of a chunkserver (it contains {found:?}); \
        name an empty directory", path = path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Made by a later program.
    #[error("storage directory {path} has format {found}, this program knows formats up to {known}; \
        use a newer program", path = path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// The format file cannot be understood.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Directories of different servers or clusters.
    #[error("storage directory {path} belongs to {what} {found}, not to {expected}", path = path.display())]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// Which property: "server", "cluster" or "chunk size".
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A directory could not be flushed at a stop.
    #[error("storage directory {path} could not be flushed; its next start is one after a crash",
        path = path.display())]
    Unclean {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}
