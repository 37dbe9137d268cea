//! Listening sockets: binding with errors a person can act on, accepting within the bound on
//! connections, stopping without dropping an answer.

use super::connection::{Accepted, Connection, serve};
use crate::net::buffer::Budget;
use crate::net::socket::Socket;
use crate::node::Node;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of the data server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections_max: usize,
    /// Payload bytes of unanswered requests.
    pub in_flight_bytes_max: u64,
}

/// Why the data server cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// The port is taken.
    #[error("port {address} is in use by another process; stop it or choose another with --listen (port 0: any)")]
    InUse {
        /// Which.
        address: SocketAddr,
    },
    /// The address is not ours, or the port is privileged.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket's path is taken.
    #[error("socket {path} is in use by another chunkserver; stop it or choose another path with --socket")]
    SocketInUse {
        /// Which.
        path: PathBuf,
    },
    /// The socket cannot be made there.
    #[error("cannot make the socket {path}: {source}; choose another path with --socket")]
    Unix {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Sockets that are bound; nobody is answered yet.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
}

/// Binds the data port.
pub async fn bind(address: SocketAddr) -> Result<Listeners, BindError> {
    match TcpListener::bind(address).await {
        Ok(tcp) => Ok(Listeners { tcp, unix: None }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::InUse { address }),
        Err(source) => Err(BindError::Tcp { address, source }),
    }
}

impl Listeners {
    /// The address in use, with the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Binds the socket for this machine too. What a killed server left there is replaced.
    pub async fn bind_unix(&mut self, path: &Path) -> Result<(), BindError> {
        let failed = |source| BindError::Unix { path: path.to_owned(), source };
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            if Socket::connect_unix(path).await.is_ok() {
                return Err(BindError::SocketInUse { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // like the port on the loopback address: whoever is on this machine may connect
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        self.unix = Some((listener, path.to_owned()));
        Ok(())
    }
}

/// A running data server.
pub struct DataServer {
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
    socket: Option<PathBuf>,
}

struct Shared {
    node: Arc<Node>,
    limits: Limits,
    budget: Budget,
    connections: Arc<Semaphore>,
    open: Mutex<Vec<Weak<Connection>>>,
}

impl DataServer {
    /// Begins to answer.
    pub fn start(node: Arc<Node>, listeners: Listeners, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            node,
            limits,
            budget: Budget::new(limits.in_flight_bytes_max),
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            open: Mutex::default(),
        });
        let mut accepting = vec![tokio::spawn(accept_tcp(Arc::clone(&shared), listeners.tcp))];
        let socket = listeners.unix.map(|(listener, path)| {
            accepting.push(tokio::spawn(accept_unix(Arc::clone(&shared), listener)));
            path
        });
        Self { shared, accepting, socket }
    }

    /// Accepts nothing more, answers what was asked, at most for `patience`; then closes what is left.
    pub async fn stop(mut self, patience: Duration) {
        self.close_listeners();
        let open: Vec<_> = self.shared.open.lock().iter().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|connection| connection.socket.stop_receiving());
        drop(open);
        let all = u32::try_from(self.shared.limits.connections_max).unwrap_or(u32::MAX);
        if timeout(patience, self.shared.connections.acquire_many(all)).await.is_err() {
            tracing::warn!("some requests were not answered within {patience:?}; their connections are closed");
        }
    }

    /// Closes all connections; who needs one opens another.
    pub fn close_connections(&self) {
        self.shared.open.lock().iter().filter_map(Weak::upgrade).for_each(|connection| connection.socket.close());
    }

    fn close_listeners(&mut self) {
        self.accepting.drain(..).for_each(|task| task.abort());
        if let Some(path) = self.socket.take() {
            let _ = std::fs::remove_file(path); // somebody may have tidied up
        }
    }
}

impl Drop for DataServer {
    /// Like the death of the process: connections end where they are.
    fn drop(&mut self) {
        self.close_listeners();
        self.close_connections();
    }
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match Socket::tcp(stream) {
                Ok(socket) => shared.accept(socket, from.to_string()),
                Err(error) => tracing::debug!(%from, %error, "a connection ended at once"),
            },
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => shared.accept(Socket::Unix(stream), "this machine".to_owned()),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection; trying again");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

impl Shared {
    fn accept(&self, socket: Socket, from: String) {
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            tracing::warn!(from, limit = self.limits.connections_max, "too many connections; this one is refused");
            return;
        };
        let accepted = Accepted { socket, from, permit, budget: self.budget.clone() };
        let connection = Arc::new(Connection::new(Arc::clone(&self.node), accepted));
        let mut open = self.open.lock();
        if open.len() == open.capacity() {
            open.retain(|connection| connection.strong_count() > 0);
        }
        open.push(Arc::downgrade(&connection));
        drop(open);
        tokio::spawn(serve(connection));
    }
}
