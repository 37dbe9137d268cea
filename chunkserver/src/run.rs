//! Puts a chunkserver together, starts it, stops it in order.
//!
//! ```text
//! start: bind the port, open the store (lock, new incarnation), bind the socket, answer, link, workers
//! stop:  loans are revoked, link says goodbye, nothing is accepted, what was asked is answered, everything is flushed and
//!        marked clean, the clean marker is written
//! ```

use crate::clock::{BootClock, Clock};
use crate::config::Config;
use crate::link::{self, LinkError, LinkSettings};
use crate::node::{Node, Patience, Store};
use crate::scrub::Scrubber;
use crate::server::{self, BindError, DataServer, Limits, may_block};
use crate::store::real::RealDisk;
use crate::store::{StoreConfig, StoreError};
use crate::workers::{self, Compactor, Flusher, PackMaker, Worker};
use gfs_proto::chunk::ServerAddress;
use gfs_proto::ids::{RunId, ServerUuid};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// For requests that are at work when the server is told to stop.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Chunk files kept open at most; as many again are left for connections.
const OPEN_FILES_MAX: usize = 16 << 10;
/// 8,000 of the smallest chunks: making a pack takes a flush, and one that a few are left in keeps a file open.
const PACK_BYTES: u64 = 64 << 20;
/// Chunk files kept open at least, whatever the limit of the process.
const OPEN_FILES_MIN: usize = 64;

/// Why a chunkserver does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// It cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its directories are of no use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine does not tell what is needed.
    #[error("{what}")]
    Machine {
        /// What was asked for.
        what: &'static str,
        /// Why it is not known.
        source: io::Error,
    },
}

/// What is not in the [`Config`] and only tests change.
#[derive(Clone)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Bounds on waiting.
    pub patience: Patience,
}

impl Default for Seams {
    fn default() -> Self {
        Self { clock: Arc::new(BootClock), patience: Patience::default() }
    }
}

/// A running chunkserver.
pub struct Chunkserver {
    node: Arc<Node>,
    address: SocketAddr,
    socket: PathBuf,
    data: DataServer,
    stop: watch::Sender<bool>,
    link: JoinHandle<()>,
    refusal: oneshot::Receiver<LinkError>,
    workers: Vec<JoinHandle<()>>,
}

impl Chunkserver {
    /// Starts; registers with the master as soon as there is one.
    pub async fn start(config: Config, seams: Seams) -> Result<Self, StartError> {
        let mut listeners = server::bind(config.listen).await?;
        let bound = listeners.address();
        let address = bound.map_err(|source| StartError::Machine { what: "the address of the data port", source })?;
        let boot_id = boot_id()?;
        let store = may_block(|| open_store(&config, boot_id.clone()))?;
        listeners.bind_unix(&config.socket).await?;
        let node = Arc::new(Node::new(store, seams.clock, boot_id.clone(), seams.patience));
        let limits =
            Limits { connections_max: config.connections_max, in_flight_bytes_max: config.in_flight_bytes_max };
        let data = DataServer::start(Arc::clone(&node), listeners, limits);
        let (stop, stopped) = watch::channel(false);
        let settings = LinkSettings {
            master: config.master,
            address: ServerAddress {
                tcp: config.advertise.unwrap_or(address),
                unix: config.socket.to_str().map(str::to_owned),
                host: boot_id,
            },
            rack: config.rack,
            run: RunId::new(u64::from_le_bytes(random()?)),
        };
        let (refused, refusal) = oneshot::channel();
        let link = link::run(Arc::clone(&node), settings, stopped.clone());
        let link = tokio::spawn(async {
            if let Err(error) = link.await {
                let _ = refused.send(error); // nobody asks any more
            }
        });
        let workers: [Arc<dyn Worker>; 4] = [
            Arc::new(Flusher(Arc::clone(&node))),
            Arc::new(Compactor(Arc::clone(&node))),
            Arc::new(PackMaker(Arc::clone(&node))),
            Arc::new(Scrubber::new(Arc::clone(&node), config.scrub_period)),
        ];
        let workers = workers.map(|worker| tokio::spawn(workers::run(worker, stopped.clone()))).into();
        tracing::info!(%address, socket = %config.socket.display(), incarnation = %node.incarnation, "listening");
        Ok(Self { node, address, socket: config.socket, data, stop, link, refusal, workers })
    }

    /// Address of the data port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Path of the socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// What its parts share.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Closes all data connections, as a network that forgets them would.
    pub fn close_connections(&self) {
        self.data.close_connections();
    }

    /// Waits until the master refuses this server for good, so that it is of no use any more; to be asked
    /// until it answers once.
    pub async fn refused(&mut self) -> LinkError {
        match (&mut self.refusal).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await, // the link ended because it was told to
        }
    }

    /// Stops cleanly: the next start need not look at any chunk.
    pub async fn stop(self) -> Result<(), StoreError> {
        // the master may take it for gone as soon as it says goodbye
        self.node.store.loans().close();
        self.stop.send_replace(true);
        join(self.link).await;
        self.data.stop(STOP_MAX).await;
        for worker in self.workers {
            join(worker).await;
        }
        may_block(|| self.node.store.stop())?;
        tracing::info!("stopped cleanly");
        Ok(())
    }

    /// Stops like a process that is killed: connections end, nothing is flushed, no marker is written.
    pub async fn kill(self) {
        let Self { node, data, link, workers, .. } = self;
        drop(data);
        for task in workers.into_iter().chain([link]) {
            task.abort();
            let _ = task.await; // cancelled, as it should be
        }
        // requests at work hold the node, and with it the directories' locks, until they notice
        while Arc::strong_count(&node) > 1 {
            tokio::task::yield_now().await;
        }
    }
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a task did not end as it should");
    }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| StartError::Machine { what: "random bytes", source: io::Error::other(error.to_string()) })?;
    Ok(bytes)
}

fn open_store(config: &Config, boot_id: String) -> Result<Store, StartError> {
    let store = StoreConfig {
        directories: config.directories.clone(),
        reserve_bytes: config.reserve_bytes,
        watermark_bytes: config.watermark_bytes,
        boot_id,
        uuid_if_new: ServerUuid::new(random()?),
        open_files_max: open_files_max(),
        pack_bytes: PACK_BYTES,
    };
    Ok(Store::open(store, RealDisk)?)
}

/// Raises the limit of the process as far as it may, and takes half of it.
fn open_files_max() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
    usize::try_from(files).unwrap_or(usize::MAX).clamp(OPEN_FILES_MIN, OPEN_FILES_MAX)
}

/// Tells machines apart, and one run of a machine from the next.
fn boot_id() -> Result<String, StartError> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|source| StartError::Machine { what: "the boot id of this machine", source })
}
