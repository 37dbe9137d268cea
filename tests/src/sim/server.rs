//! A chunkserver's process: the real store, order of writes, grants, link and background work, on a disk in
//! memory and the simulated network.

use super::entropy;
use super::master::PORTS;
use super::net::{Endpoint, Lost, Net, Place, Serving};
use super::pipe::Pipe;
use gfs_chunkserver::clock::Clock;
use gfs_chunkserver::link::{self, LinkSettings};
use gfs_chunkserver::net::dial::{Answer, CallError};
use gfs_chunkserver::node::{Node, Patience};
use gfs_chunkserver::peers::{Carried, Carrier, Peer, Peers, Request};
use gfs_chunkserver::store::mem::{Fault, Loss, MemDisk};
use gfs_chunkserver::store::{ChunkStore, StoreConfig};
use gfs_chunkserver::workers::{self, Compactor, Flusher, PackMaker, Worker};
use gfs_master::servers::service::{Attached, Reader};
use gfs_proto::chunk::ServerAddress;
use gfs_proto::control::{ChunkCommand, FromChunkserver, Register, Registered, ToChunkserver};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, Incarnation, RunId, ServerUuid};
use gfs_proto::wire;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// For the answer to a registration.
const REGISTER_MAX: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(60);

/// A machine, whether its server runs or not.
pub(super) struct Machine {
    number: u8,
    disk: MemDisk,
    boots: u32,
}

/// A running chunkserver.
pub(super) struct ServerProcess {
    runtime: Runtime,
    node: Arc<Node<MemDisk>>,
    _stop: watch::Sender<bool>,
}

/// The clock of the world.
struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Duration {
        entropy::clock()
    }
}

/// Requests to peers go over the simulated network.
struct SimCarrier {
    net: Arc<Net>,
    place: Place,
}

pub(super) fn place_of(address: SocketAddr) -> Place {
    Place::Server((address.port() - PORTS) as u8)
}

fn address(number: u8) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORTS + u16::from(number)).into()
}

impl Carrier for SimCarrier {
    fn carry<'a>(&'a self, peer: &'a Peer, request: Request, bound: Duration) -> Carried<'a> {
        Box::pin(async move {
            let gfs_chunkserver::net::dial::Endpoint::Tcp(address) = peer.endpoint else {
                return Err(CallError::Io(io::ErrorKind::Unsupported.into()));
            };
            let incarnation = peer.incarnation;
            let serve = move |endpoint: Endpoint| -> Serving<Option<Answer>> {
                let request = request.clone();
                Box::pin(async move {
                    let Endpoint::Server(node) = endpoint else { return None };
                    // the greeting of a connection says who is there
                    if node.incarnation == incarnation { Some(node.handle(request).await) } else { None }
                })
            };
            match self.net.call((self.place, place_of(address)), bound, "forward", serve).await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) | Err(Lost::Refused) => Err(CallError::Io(io::ErrorKind::ConnectionReset.into())),
                Err(Lost::Silence) => Err(CallError::Deadline(bound)),
            }
        })
    }
}

impl Machine {
    pub(super) fn new(number: u8) -> Self {
        Self { number, disk: MemDisk::default(), boots: 1 }
    }

    pub(super) fn place(&self) -> Place {
        Place::Server(self.number)
    }

    /// The machine stops in the middle of one of the next operations of its disk.
    pub(super) fn stop_after(&self, operations: u64) {
        self.disk.fail(self.disk.operations() + operations, Fault::Crash);
    }

    /// How much its disk has done so far.
    pub(super) fn operations(&self) -> u64 {
        self.disk.operations()
    }

    /// It does not stop.
    pub(super) fn stop_never(&self) {
        self.disk.heal();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.disk.is_crashed()
    }

    fn boot_id(&self) -> String {
        format!("boot-{}-{}", self.number, self.boots)
    }

    /// A server on what there is. Its background work goes on in the runtime that this is called in.
    pub(super) fn open(
        &self,
        carrier: Arc<dyn Carrier>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Arc<Node<MemDisk>>, String> {
        let config = StoreConfig {
            directories: vec!["/chunks".into()],
            reserve_bytes: 1 << 20,
            watermark_bytes: 2 << 20,
            boot_id: self.boot_id(),
            uuid_if_new: ServerUuid::new([self.number + 1; 16]),
            open_files_max: 64,
            pack_bytes: if self.number.is_multiple_of(2) { 128 << 10 } else { 0 },
        };
        let opened = ChunkStore::open(config, self.disk.clone());
        let store = opened.map_err(|error| format!("chunkserver {} does not start: {error:?}", self.number))?;
        let patience =
            Patience { turn: Duration::from_millis(800), hop: Duration::from_millis(500), idle: Duration::MAX };
        let node = Node::new(store, Arc::new(SimClock), self.boot_id(), patience).with_peers(Peers::by(carrier));
        let node = Arc::new(node);
        let jobs: [Arc<dyn Worker>; 3] =
            [Arc::new(Flusher(node.clone())), Arc::new(Compactor(node.clone())), Arc::new(PackMaker(node.clone()))];
        jobs.into_iter().for_each(|job| drop(tokio::spawn(workers::run(job, stopped.clone()))));
        Ok(node)
    }

    /// What its link says of it.
    pub(super) fn settings(&self, master: String, tcp: SocketAddr, run: Incarnation) -> LinkSettings {
        let address = ServerAddress { tcp, unix: None, host: self.boot_id() };
        LinkSettings { master, address, rack: String::new(), run: RunId::new(run.get()) }
    }

    /// Starts a process on what there is.
    pub(super) fn start(&self, net: &Arc<Net>) -> Result<ServerProcess, String> {
        let runtime = super::runtime();
        let (stop, stopped) = watch::channel(false);
        let node = {
            let _inside = runtime.enter();
            let carrier = SimCarrier { net: net.clone(), place: self.place() };
            let node = self.open(Arc::new(carrier), &stopped)?;
            let settings = self.settings("master".to_owned(), address(self.number), node.incarnation);
            tokio::spawn(stay_linked(net.clone(), node.clone(), self.place(), settings));
            node
        };
        let disk = self.disk.clone();
        let is_dead = Box::new(move || disk.is_crashed());
        net.start(self.place(), Endpoint::Server(node.clone()), runtime.handle().clone(), is_dead);
        Ok(ServerProcess { runtime, node, _stop: stop })
    }

    /// The process or the machine has ended; `power`: seed of what is lost.
    pub(super) fn ended(&mut self, power: Option<u64>) {
        match power {
            None => self.disk.restart(Loss::Process),
            Some(seed) => {
                self.boots += 1;
                self.disk.restart(Loss::Power(seed | 1));
            }
        }
    }
}

impl ServerProcess {
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn node(&self) -> &Arc<Node<MemDisk>> {
        &self.node
    }

    /// Puts a replica there that no master knows of.
    pub(super) fn plant(&self, handle: ChunkHandle) {
        if self.node.store.create(handle, ChunkVersion::new(1), 1).is_ok() {
            self.node.outbox.touched(handle);
        }
    }

    pub(super) fn end(self) {
        drop(self.node);
        self.runtime.shutdown_background();
    }
}

/// Registers again and again, and serves what was agreed on.
async fn stay_linked(net: Arc<Net>, node: Arc<Node<MemDisk>>, place: Place, settings: LinkSettings) {
    loop {
        if let Some((mut down, pipe)) = connect(&net, &node, place, &settings).await
            && let Some(ToChunkserver::Registered(registered)) = down.recv().await
            && link::join(&*node, &settings, &registered).is_ok()
        {
            serve(&net, &node, place, (registered, down, pipe)).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

type Down = mpsc::UnboundedReceiver<ToChunkserver>;

async fn connect(
    net: &Arc<Net>,
    node: &Arc<Node<MemDisk>>,
    place: Place,
    settings: &LinkSettings,
) -> Option<(Down, Arc<Pipe>)> {
    let FromChunkserver::Register(register) = link::register(node, settings) else { return None };
    let network = net.clone();
    let serve = move |endpoint: Endpoint| -> Serving<Option<(Down, Arc<Pipe>)>> {
        let (net, register) = (network.clone(), register.clone());
        Box::pin(accept(net, endpoint, place, register))
    };
    net.call((place, Place::Master), REGISTER_MAX, "register", serve).await.ok().flatten()
}

/// The master's side of a new stream.
async fn accept(net: Arc<Net>, endpoint: Endpoint, place: Place, register: Register) -> Option<(Down, Arc<Pipe>)> {
    let Endpoint::Master(master) = endpoint else { return None };
    let attached: Attached = master.register_server(register).await.ok()?;
    let server = attached.server;
    let (reader, outgoing) = attached.split(master.clone());
    let ((up, incoming), (down, messages)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let pipe = Arc::new(Pipe::new(up, down));
    net.open_pipe(place, pipe.clone());
    let (ended, end) = oneshot::channel();
    tokio::spawn(read(reader, incoming, ended, pipe.clone()));
    let weak = pipe.clone();
    tokio::spawn(async move {
        let mut outgoing = outgoing;
        let mut end = end;
        loop {
            let message = tokio::select! {
                biased;
                _ = &mut end => return,
                message = outgoing.recv() => message,
            };
            let Some(message) = message else { return weak.close() };
            if let ToChunkserver::Command { command: ChunkCommand::Delete { chunks, .. }, .. } = &message {
                net.checks.deleting(&master, server, chunks);
            }
            net.send_along(&weak, (Place::Master, place), move |pipe| pipe.down(message));
        }
    });
    Some((messages, pipe))
}

/// As the master's service does it.
async fn read(
    mut reader: Reader,
    mut incoming: mpsc::UnboundedReceiver<FromChunkserver>,
    _ended: oneshot::Sender<()>,
    pipe: Arc<Pipe>,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = incoming.recv() => message,
            () = reader.closed() => break,
        };
        let Some(message) = message else { break };
        reader.take(message).await;
    }
    drop(reader);
    pipe.close();
}

/// The server's side, until the stream ends.
async fn serve(
    net: &Arc<Net>,
    node: &Arc<Node<MemDisk>>,
    place: Place,
    (registered, down, pipe): (Registered, Down, Arc<Pipe>),
) {
    let (out, mut messages) = mpsc::channel::<wire::FromChunkserver>(64);
    let incoming = UnboundedReceiverStream::new(down).map(|message| Ok(wire::ToChunkserver::from(&message)));
    let sending = async {
        while let Some(message) = messages.recv().await {
            let message = FromChunkserver::try_from(message).expect("what this server encoded");
            net.send_along(&pipe, (place, Place::Master), move |pipe| pipe.up(message));
        }
    };
    tokio::select! {
        biased;
        _ = link::serve(node, &registered, out, incoming) => {}
        () = sending => {}
    }
    pipe.close();
}
