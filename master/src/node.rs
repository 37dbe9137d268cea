//! A running master: data directory, store, log, services and background work, wired together.
//!
//! Start: lock and open the directory, open the store, replay the log behind it, listen. Stop: end the
//! streams, log what is volatile, stop the log, make a last checkpoint.

use crate::checkpoint::{self, Checkpointer};
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, FormatOptions};
use crate::grants::{uneven, unwritten};
use crate::log::{LogConfig, LogError, Position, ReplicatedLog};
use crate::master::{Machine, Master, Parts, now};
use crate::reach::ByTcp;
use crate::{chores, garbage, quarantine, repair, rpc};
use gfs_master_core::{Action, Store, StoreError};
use gfs_proto::FsError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Streams get so long to end when the master stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a master does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The operation log.
    #[error("cannot open the operation log")]
    Log(#[from] LogError),
    /// The metadata.
    #[error("cannot read the metadata")]
    Store(#[from] StoreError),
    /// The state, after it was opened.
    #[error("cannot take over: {0}")]
    State(#[from] FsError),
    /// The address.
    #[error("cannot listen at {address}: {}", listen_problem(cause))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not; the text says it already.
        cause: io::Error,
    },
    /// A thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

fn listen_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use; stop what uses it or choose another with --listen".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose another with --listen".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "no permission for that port; choose one above 1023 with --listen".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A running master.
pub struct Node {
    /// Its state, for tests and for those who serve it in other ways.
    pub master: Arc<Master>,
    address: SocketAddr,
    checkpointer: Checkpointer,
    server: JoinHandle<()>,
    chores: Vec<JoinHandle<()>>,
    _directory: Arc<DataDir>,
}

impl Node {
    /// Starts a master; when this returns it answers at [`Node::address`].
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let options = FormatOptions {
            chunk_size: config.chunk_size,
            goal: config.goal,
            cache_bytes: config.cache_bytes,
            now: now(),
        };
        // The port first: a master that cannot serve must not format a directory.
        let listen = |cause| StartError::Listen { address: config.listen, cause };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (directory, store) = DataDir::open(&config.data, &options)?;
        let directory = Arc::new(directory);
        let master = Arc::new(assemble(config, directory.clone(), store)?);
        let checkpointer = Checkpointer::start(master.clone()).map_err(StartError::Thread)?;
        let server = tokio::spawn(rpc::serve(master.clone(), listener, address));
        let chores = start_chores(&master);
        if config.restored {
            master.commit_one(Action::Restored).await?;
            info!("the directory was restored: inodes and chunks get numbers of a new generation");
        }
        if master.everybody_is_back() {
            master.reap_idle_orphans();
        }
        info!(%address, cluster = %master.store.genesis().cluster, data = %config.data.display(), "master is ready");
        Ok(Self { master, address, checkpointer, server, chores, _directory: directory })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops in order; everything that was answered is in the metadata file afterwards.
    pub async fn stop(self) {
        info!("master stops");
        self.master.stopping.open();
        self.master.servers.close();
        let abort = self.server.abort_handle();
        if tokio::time::timeout(STOP_TIMEOUT, self.server).await.is_err() {
            warn!("connections did not end in time");
            abort.abort();
        }
        for chore in self.chores {
            // They end by themselves once `stopping` is open.
            drop(chore.await);
        }
        self.master.sizes.want_all();
        if let Err(cause) = self.master.log_sizes().await {
            warn!(%cause, "sizes of files that were being written are not recorded");
        }
        if let Err(cause) = self.master.log_written().await {
            warn!(%cause, "chunks stay marked as unwritten: the next master asks about them");
        }
        let master = self.master;
        let stopped = tokio::task::spawn_blocking(move || {
            self.checkpointer.stop();
            master.log.stop();
            checkpoint::make(&master.store)
        });
        match stopped.await {
            Ok(Ok(_)) => info!("master has stopped"),
            Ok(Err(cause)) => error!("the last checkpoint failed: {:#}", anyhow::Error::from(cause)),
            Err(panic) => error!(%panic, "stopping failed"),
        }
    }
}

/// Opens the log, which applies what the store lacks, and puts a master together.
fn assemble(config: &Config, directory: Arc<DataDir>, store: Store) -> Result<Master, StartError> {
    let store = Arc::new(store);
    let applied = store.applied();
    let log_config =
        LogConfig { restored: config.restored, ..LogConfig::single(directory.log(), store.genesis().cluster) };
    let position = Position { index: applied.index, term: applied.term };
    let log = ReplicatedLog::open(&log_config, position, Arc::new(Machine::new(store.clone())))?;
    let (timings, repair, reach) = (config.timings, config.repair, Arc::new(ByTcp));
    let file_bytes = Box::new(move || directory.metadata_bytes());
    Ok(Master::new(Parts { store, log, timings, repair, reach, file_bytes })?)
}

/// Starts what goes on in the background until the master stops.
pub fn start_chores(master: &Arc<Master>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(chores::run(master.clone())),
        tokio::spawn(garbage::collect(master.clone())),
        tokio::spawn(unwritten::settle_all(master.clone())),
        tokio::spawn(uneven::even_all(master.clone())),
        tokio::spawn(quarantine::run(master.clone())),
        tokio::spawn(repair::run(master.clone())),
    ]
}
