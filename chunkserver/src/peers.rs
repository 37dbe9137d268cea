//! The servers that this one forwards to and copies from: one pooled connection to each run of each.

use crate::net::buffer::Payload;
use crate::net::dial::{Answer, CallError, DataConnection, Endpoint};
use crate::net::frames::Outgoing;
use crate::pulse::Pulses;
use gfs_proto::chunk::Replica;
use gfs_proto::frame::{Ack, DataError, Hop, Kind, Read, Sums, Write};
use gfs_proto::ids::{ClusterId, Incarnation, ServerId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a peer was of no help.
#[derive(Debug, Error)]
pub enum PeerError {
    /// No answer.
    #[error("{server} at {endpoint:?}: {source}")]
    Call {
        /// Which.
        server: ServerId,
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: CallError,
    },
    /// Not even a sign of life.
    #[error("{server} at {endpoint:?} hangs")]
    Hangs {
        /// Which.
        server: ServerId,
        /// Where.
        endpoint: Endpoint,
    },
    /// Somebody else listens there, or the server has restarted.
    #[error("{endpoint:?} is {found} in run {incarnation}, not {server} in the run that was expected")]
    Another {
        /// Who was expected.
        server: ServerId,
        /// Where.
        endpoint: Endpoint,
        /// Who is there.
        found: ServerId,
        /// In which run.
        incarnation: Incarnation,
    },
}

/// A server to talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its number.
    pub server: ServerId,
    /// Its run.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub endpoint: Endpoint,
}

impl Peer {
    /// As a frame names it.
    pub fn of_hop(hop: &Hop) -> Self {
        Self { server: hop.server, incarnation: hop.incarnation, endpoint: Endpoint::Tcp(hop.address) }
    }

    /// As the master names it; by its socket if it is on the machine with this boot id.
    pub fn of_replica(replica: &Replica, boot_id: &str) -> Self {
        let endpoint = match &replica.address.unix {
            Some(path) if replica.address.host == boot_id && !boot_id.is_empty() => Endpoint::Unix(PathBuf::from(path)),
            _ => Endpoint::Tcp(replica.address.tcp),
        };
        Self { server: replica.server, incarnation: replica.incarnation, endpoint }
    }
}

/// Another way to a peer than a connection: that of a simulated network.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a request to a peer; its answer, or none within the bound.
    fn carry<'a>(&'a self, peer: &'a Peer, request: Request, bound: Duration) -> Carried<'a>;
}

/// See [`Carrier::carry`].
pub type Carried<'a> = Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send + 'a>>;

/// A request as a [`Carrier`] takes it.
#[derive(Clone, Debug)]
pub enum Request {
    /// A write on its way down the chain.
    Write {
        /// The frame.
        write: Write,
        /// Its sums.
        sums: Arc<Vec<u8>>,
        /// Its bytes.
        payload: Arc<Payload>,
    },
    /// A read for a copy.
    Read(Read),
    /// A look at the sums of a whole chunk.
    Sums(Sums),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Peers {
    pulses: Pulses,
    connections: Mutex<HashMap<ServerId, Arc<DataConnection>>>,
    carrier: Option<Arc<dyn Carrier>>,
}

impl Peers {
    /// Peers that are reached by `carrier` alone.
    pub fn by(carrier: Arc<dyn Carrier>) -> Self {
        Self { carrier: Some(carrier), ..Self::default() }
    }

    /// A new connection to this run of a server, for all who ask from now on.
    async fn connect(&self, peer: &Peer, cluster: ClusterId) -> Result<Arc<DataConnection>, PeerError> {
        let opened = DataConnection::open(&peer.endpoint, cluster, "chunkserver").await;
        let connection = Arc::new(opened.map_err(|source| call_error(peer, source))?);
        if (connection.server, connection.incarnation) != (peer.server, peer.incarnation) {
            return Err(PeerError::Another {
                server: peer.server,
                endpoint: peer.endpoint.clone(),
                found: connection.server,
                incarnation: connection.incarnation,
            });
        }
        // of two that were opened at the same time both work; one is used from now on
        self.connections.lock().insert(peer.server, Arc::clone(&connection));
        Ok(connection)
    }

    fn open_connection(&self, peer: &Peer) -> Option<Arc<DataConnection>> {
        let mut connections = self.connections.lock();
        let connection = connections.get(&peer.server)?;
        if connection.incarnation == peer.incarnation && connection.is_open() {
            return Some(Arc::clone(connection));
        }
        connections.remove(&peer.server);
        None
    }

    /// Asks a peer and waits for its answer. The request may arrive twice: a connection that was idle
    /// may be closed by the other side just as it is used, and then a new one is tried.
    pub async fn call(
        &self,
        peer: &Peer,
        cluster: ClusterId,
        frame: Outgoing<'_>,
        deadline: Duration,
    ) -> Result<Answer, PeerError> {
        if let Some(connection) = self.open_connection(peer) {
            match self.call_on(&connection, peer, frame, deadline).await {
                Err(PeerError::Call { source: CallError::Io(_), .. }) => {}
                result => return result,
            }
        }
        let connection = self.connect(peer, cluster).await?;
        self.call_on(&connection, peer, frame, deadline).await
    }

    async fn call_on(
        &self,
        connection: &Arc<DataConnection>,
        peer: &Peer,
        frame: Outgoing<'_>,
        deadline: Duration,
    ) -> Result<Answer, PeerError> {
        let answer = connection.call(frame, deadline).await;
        if answer.is_err() {
            self.forget(peer.server, connection);
        }
        answer.map_err(|source| call_error(peer, source))
    }

    fn forget(&self, server: ServerId, connection: &Arc<DataConnection>) {
        let mut connections = self.connections.lock();
        if connections.get(&server).is_some_and(|known| Arc::ptr_eq(known, connection)) {
            connections.remove(&server);
        }
    }

    /// Asks a peer for part of a replica that is being copied.
    pub async fn read(
        &self,
        peer: &Peer,
        cluster: ClusterId,
        read: Read,
        bound: Duration,
    ) -> Result<Answer, PeerError> {
        let header = read.encode();
        self.ask(peer, cluster, (Kind::Read, &header, Request::Read(read)), bound).await
    }

    /// Asks a peer for the sums of a whole chunk.
    pub async fn sums(
        &self,
        peer: &Peer,
        cluster: ClusterId,
        sums: Sums,
        bound: Duration,
    ) -> Result<Answer, PeerError> {
        let header = sums.encode();
        self.ask(peer, cluster, (Kind::Sums, &header, Request::Sums(sums)), bound).await
    }

    async fn ask(
        &self,
        peer: &Peer,
        cluster: ClusterId,
        (kind, header, request): (Kind, &[u8], Request),
        bound: Duration,
    ) -> Result<Answer, PeerError> {
        if let Some(carrier) = &self.carrier {
            return carrier.carry(peer, request, bound).await.map_err(|source| call_error(peer, source));
        }
        self.call(peer, cluster, Outgoing { kind, request: 0, header, sums: &[], payload: &[] }, bound).await
    }

    /// It hangs: nobody waits for its answers any longer.
    fn given_up(&self, peer: &Peer) -> PeerError {
        self.connections.lock().remove(&peer.server);
        PeerError::Hangs { server: peer.server, endpoint: peer.endpoint.clone() }
    }

    /// Sends a write to the next server of its chain.
    pub async fn forward(&self, forward: Forward) -> Result<Ack, PeerError> {
        let answer = if let Some(carrier) = &self.carrier {
            let Forward { peer, write, sums, payload, deadline, .. } = &forward;
            let request = Request::Write { write: write.clone(), sums: Arc::clone(sums), payload: Arc::clone(payload) };
            carrier.carry(peer, request, *deadline).await.map_err(|source| call_error(peer, source))?
        } else {
            let header = forward.write.encode();
            let Forward { sums, payload, .. } = &forward;
            let frame = Outgoing { kind: Kind::Write, request: 0, header: &header, sums, payload };
            tokio::select! {
                biased;
                answer = self.call(&forward.peer, forward.cluster, frame, forward.deadline) => answer?,
                () = self.pulses.watch(&forward.peer, forward.cluster) => return Err(self.given_up(&forward.peer)),
            }
        };
        answer.ack().map_err(|error| call_error(&forward.peer, error.into()))
    }
}

fn call_error(peer: &Peer, source: CallError) -> PeerError {
    PeerError::Call { server: peer.server, endpoint: peer.endpoint.clone(), source }
}

/// A write on its way down the chain.
#[derive(Debug)]
pub struct Forward {
    /// To whom.
    pub peer: Peer,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// As the next server is to see it.
    pub write: Write,
    /// Sums as received.
    pub sums: Arc<Vec<u8>>,
    /// Payload as received.
    pub payload: Arc<Payload>,
    /// For the answer.
    pub deadline: Duration,
}

/// What the next server's answer means for ours: a full disk is passed on, everything else is a broken
/// chain. `Ok` if all further down have applied the write.
pub fn verdict(peer: &Peer, answer: Result<Ack, PeerError>) -> Result<(), (DataError, ServerId)> {
    match answer {
        Ok(Ack { outcome: Ok(()), .. }) => Ok(()),
        Ok(Ack { outcome: Err(error @ (DataError::NoSpace | DataError::Chain)), culprit, .. }) => Err((error, culprit)),
        Ok(Ack { outcome: Err(error), .. }) => {
            tracing::warn!(server = %peer.server, %error, "the next server of a chain refused a write");
            Err((DataError::Chain, peer.server))
        }
        Err(error) => {
            tracing::warn!(%error, "the next server of a chain failed");
            Err((DataError::Chain, peer.server))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frames::{FrameReader, FrameWriter, RawFrame};
    use crate::net::socket::Socket;
    use gfs_proto::ids::{ChunkHandle, ChunkVersion, Epoch, Sequence, Serial, SessionId, TruncateGeneration};
    use gfs_proto::limits::{ANSWER_LATE, PULSE};
    use gfs_proto::wire;
    use prost::Message;
    use tokio::net::TcpListener;

    const SECONDS: Duration = Duration::from_secs(20);
    const PING: Outgoing<'_> = Outgoing { kind: Kind::Ping, request: 0, header: &[], sums: &[], payload: &[] };

    /// Greets, answers so many requests, takes one more and closes the connection without a word.
    async fn serve(listener: &TcpListener, answers: usize) {
        let (stream, _) = listener.accept().await.expect("accepted");
        let socket = Arc::new(Socket::tcp(stream).expect("a socket"));
        let (writer, mut reader) =
            (FrameWriter::new(Arc::clone(&socket)), FrameReader::new(socket, Vec::new(), SECONDS));
        let welcome = wire::Welcome { server: 2, incarnation: 1, capabilities: 0, chunk_size: 1 << 20 };
        let mut answer = (Kind::Welcome, welcome.encode_to_vec());
        for _ in 0..=answers {
            let RawFrame { request, .. } = reader.next().await.expect("received").expect("a frame");
            let frame = Outgoing { kind: answer.0, request, header: &answer.1, sums: &[], payload: &[] };
            writer.send(&frame).await.expect("sent");
            answer = (Kind::Ack, Vec::new());
        }
        drop(reader.next().await);
    }

    #[tokio::test]
    async fn a_connection_that_ends_while_it_is_used_is_tried_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let peer =
            Peer { server: ServerId::new(2), incarnation: Incarnation::new(1), endpoint: Endpoint::Tcp(address) };
        let (peers, cluster) = (Peers::default(), ClusterId::default());
        let server = async {
            serve(&listener, 1).await;
            serve(&listener, 1).await;
        };
        let client = async move {
            let ping = async || peers.call(&peer, cluster, PING, SECONDS).await;
            assert_eq!(ping().await.expect("answered").kind, Kind::Ack);
            assert_eq!(ping().await.expect("answered by the second connection").kind, Kind::Ack);
            drop(peers); // ends the connection that the server still serves
        };
        tokio::join!(server, client);
    }

    /// Greets everybody, and answers pings if `alive`, nothing else.
    async fn greet_all(listener: TcpListener, alive: bool) {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            tokio::spawn(async move {
                let socket = Arc::new(Socket::tcp(stream).expect("a socket"));
                let (writer, mut reader) =
                    (FrameWriter::new(Arc::clone(&socket)), FrameReader::new(socket, Vec::new(), SECONDS));
                let welcome = wire::Welcome { server: 2, incarnation: 1, capabilities: 0, chunk_size: 1 << 20 };
                while let Ok(Some(RawFrame { kind, request, .. })) = reader.next().await {
                    let (kind, header) = match kind {
                        Kind::Hello => (Kind::Welcome, welcome.encode_to_vec()),
                        Kind::Ping if alive => (Kind::Ack, Vec::new()),
                        _ => continue,
                    };
                    writer
                        .send(&Outgoing { kind, request, header: &header, sums: &[], payload: &[] })
                        .await
                        .expect("sent");
                }
            });
        }
    }

    /// What comes of a write to a peer that never answers it.
    async fn forward_in_vain(alive: bool, deadline: Duration) -> PeerError {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let endpoint = Endpoint::Tcp(listener.local_addr().expect("address"));
        let serving = tokio::spawn(greet_all(listener, alive));
        let peer = Peer { server: ServerId::new(2), incarnation: Incarnation::new(1), endpoint };
        let write = Write {
            handle: ChunkHandle::new(1),
            version: ChunkVersion::new(1),
            epoch: Epoch::default(),
            incarnation: peer.incarnation,
            session: SessionId::new(1),
            sequence: Sequence::new(1),
            serial: Some(Serial::new(1)),
            truncate_generation: TruncateGeneration::default(),
            create: false,
            sync: false,
            extents: Vec::new(),
            chain: Vec::new(),
        };
        let (sums, payload) = (Arc::default(), Arc::new(Payload::new(0)));
        let forward = Forward { peer, cluster: ClusterId::default(), write, sums, payload, deadline };
        let outcome = Peers::default().forward(forward).await;
        serving.abort();
        outcome.expect_err("nobody has answered")
    }

    #[tokio::test]
    async fn a_peer_that_hangs_is_given_up_and_a_busy_one_is_waited_for() {
        let hung = forward_in_vain(false, SECONDS).await;
        assert!(matches!(hung, PeerError::Hangs { .. }), "{hung}");
        let patience = ANSWER_LATE * 2 + PULSE;
        let busy = forward_in_vain(true, patience).await;
        assert!(
            matches!(busy, PeerError::Call { source: CallError::Deadline(after), .. } if after == patience),
            "{busy}"
        );
    }
}
