//! LEND: descriptors of replicas, and what the board says of them while the replicas change.

use crate::harness::{CHUNK, CLUSTER, DEADLINE, HANDLE, Master, Server, cluster, install, pattern, write};
use gfs_chunkserver::clock::ManualClock;
use gfs_proto::board::{self, Slot};
use gfs_proto::checksum::{block_sums, decode_sums};
use gfs_proto::chunk_file::{FORMAT, data_at, sum_spans};
use gfs_proto::control::{ChunkCommand, Install};
use gfs_proto::frame::{Ack, CAPABILITY_LENDS, DataError, Hop, Kind, Lend, Lent, PREFIX_LEN, Prefix, SyncChunk};
use gfs_proto::ids::{ChunkVersion, Incarnation, ServerId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire;
use prost::Message;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const VERSION: ChunkVersion = ChunkVersion::new(1);

/// A connection for LEND, and the board once it came.
struct Borrower {
    socket: UnixStream,
    board: Option<OwnedFd>,
    capabilities: u64,
}

/// A descriptor with its place on the board.
struct Borrowed {
    file: OwnedFd,
    lent: Lent,
}

fn frame(socket: &UnixStream) -> (Kind, Vec<u8>, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut prefix = [0; PREFIX_LEN];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut prefix)], &mut control, RecvFlags::CMSG_CLOEXEC);
    assert_eq!(got.expect("an answer").bytes, PREFIX_LEN);
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    let decoded = Prefix::decode(&prefix).expect("a prefix");
    let mut header = vec![0; decoded.header_len as usize];
    (&mut &*socket).read_exact(&mut header).expect("a header");
    (decoded.kind, header, descriptors)
}

impl Borrower {
    fn connect(server: &Server) -> Self {
        let socket = UnixStream::connect(server.process.socket()).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let hello = wire::Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: CLUSTER.as_bytes().to_vec().into(),
            session: 1,
            capabilities: 0,
            name: "test".to_owned(),
        };
        (&socket).write_all(&Prefix::encode(Kind::Hello, 0, &hello.encode_to_vec(), 0, 0)).expect("sent");
        let (kind, header, _) = frame(&socket);
        assert_eq!(kind, Kind::Welcome);
        let capabilities = wire::Welcome::decode(&header[..]).expect("a welcome").capabilities;
        Self { socket, board: None, capabilities }
    }

    fn lend(&mut self, version: ChunkVersion) -> Result<Borrowed, DataError> {
        let header = Lend { handle: HANDLE, version }.encode();
        (&self.socket).write_all(&Prefix::encode(Kind::Lend, 7, &header, 0, 0)).expect("sent");
        let (kind, header, descriptors) = frame(&self.socket);
        if kind == Kind::Ack {
            return Err(Ack::decode(&header).expect("an acknowledgement").outcome.expect_err("refused"));
        }
        assert_eq!(kind, Kind::Lent);
        let lent = Lent::decode(&header).expect("a loan");
        let mut descriptors = descriptors.into_iter();
        let file = descriptors.next().expect("the file");
        assert_eq!(lent.with_board, self.board.is_none(), "the board comes once");
        self.board = descriptors.next().or(self.board.take());
        Ok(Borrowed { file, lent })
    }

    fn word(&self, at: usize) -> u64 {
        let mut raw = [0; 8];
        rustix::io::pread(self.board.as_ref().expect("the board"), &mut raw[..], at as u64 * 8).expect("read");
        u64::from_le_bytes(raw)
    }

    fn slot(&self, loan: &Borrowed) -> Slot {
        Slot::decode(self.word(board::SLOTS_AT + loan.lent.slot as usize))
    }

    /// `None`: revoked. Otherwise whether it is settled.
    fn state(&self, loan: &Borrowed) -> Option<bool> {
        let slot = self.slot(loan);
        (slot.tenancy == loan.lent.tenancy).then(|| slot.is_settled())
    }
}

impl Borrowed {
    /// One block, whatever its sum is.
    fn block(&self, offset: u32) -> Vec<u8> {
        let mut data = vec![0; 4096];
        rustix::io::pread(&self.file, &mut data[..], data_at(offset)).expect("read");
        data
    }

    fn read(&self, offset: u32, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        rustix::io::pread(&self.file, &mut data[..], data_at(offset)).expect("read");
        let mut sums = Vec::new();
        let size = ChunkSize::new(CHUNK).expect("a chunk size");
        for span in sum_spans(size, offset / 4096, length.div_ceil(4096) as u32) {
            let mut part = vec![0; span.bytes()];
            rustix::io::pread(&self.file, &mut part[..], span.at).expect("read");
            sums.extend(part);
        }
        assert!(block_sums(&data).eq(decode_sums(&sums)), "data and sums are where the layout says");
        data
    }
}

/// Bytes of a chunk that has a file of its own.
const LARGE: usize = 100_000;

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}

async fn filled() -> (Master, Server, Borrower) {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let data = pattern(CHUNK as usize, 1);
    for n in 0..4u32 {
        let part = &data[(n as usize) << 20..][..1 << 20];
        let ack = server.client().await.write(&write(&server, u64::from(n) + 1, n << 20, part.len()), part).await;
        assert_eq!(ack.outcome, Ok(()));
    }
    let borrower = Borrower::connect(&server);
    (master, server, borrower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_is_read_by_its_descriptor_and_cannot_be_written() {
    let (_master, server, mut borrower) = filled().await;
    assert_eq!(borrower.capabilities, CAPABILITY_LENDS);
    let loan = borrower.lend(VERSION).expect("lent");
    assert_eq!((loan.lent.format, borrower.state(&loan)), (FORMAT, Some(true)));
    for (offset, length) in [(0, 4096), (3 << 20, 1 << 20), (CHUNK - 8192, 8192)] {
        assert_eq!(loan.read(offset, length), pattern(CHUNK as usize, 1)[offset as usize..][..length]);
    }
    assert_eq!(rustix::io::pwrite(&loan.file, b"x", 0), Err(rustix::io::Errno::BADF));
    assert_eq!((borrower.word(board::MAGIC_AT), borrower.word(board::SHAPE_AT) as u32), (board::MAGIC, board::FORMAT));
    assert!(borrower.word(board::LEASE_AT) > loan.lent.now, "the lease is held");
    let again = borrower.lend(VERSION).expect("lent");
    assert_eq!((again.lent.slot, again.lent.tenancy), (loan.lent.slot, loan.lent.tenancy), "the same loan");
    let other = Borrower::connect(&server).lend(VERSION).expect("lent");
    assert!(other.lent.with_board && other.lent.slot == loan.lent.slot, "by another client too");
    assert_eq!(server.process.node().store.loans().count(), 1);
    assert_eq!(borrower.lend(ChunkVersion::new(2)).err(), Some(DataError::Version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_during_a_read_is_seen_by_the_second_look() {
    let (_master, server, mut borrower) = filled().await;
    let loan = borrower.lend(VERSION).expect("lent");
    let before = borrower.slot(&loan);
    let data = pattern(5000, 9);
    assert_eq!(server.client().await.write(&write(&server, 5, 100, 5000), &data).await.outcome, Ok(()));
    let after = borrower.slot(&loan);
    assert!(after != before && after.is_settled() && after.tenancy == before.tenancy, "{before:?} {after:?}");
    assert_eq!(loan.read(0, 8192)[100..5100], data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_in_flight_keeps_it_unsettled() {
    let (_master, server, mut borrower) = filled().await;
    let loan = borrower.lend(VERSION).expect("lent");
    // the next of the chain takes the frame and says nothing, until it is closed
    let next = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = next.local_addr().expect("bound");
    let mut frame = write(&server, 5, 0, 4096);
    frame.chain = vec![Hop { server: ServerId::new(9), incarnation: Incarnation::new(1), address }];
    let client = server.client().await;
    let data = pattern(4096, 9);
    let sent = tokio::spawn(async move { client.write(&frame, &data).await });
    let (held, _) = next.accept().await.expect("the frame goes on");
    until("the write is applied", || loan.block(0) == pattern(4096, 9)).await;
    assert_eq!(borrower.state(&loan), Some(false), "applied here, not known to be applied further down");
    assert_eq!(borrower.lend(VERSION).err(), Some(DataError::Busy));
    let mut other = write(&server, 6, 8192, 4096);
    other.chain = Vec::new();
    let ack = server.client().await.write(&other, &pattern(4096, 3)).await;
    assert_eq!((ack.outcome, borrower.state(&loan)), (Ok(()), Some(false)), "another write does not settle it");
    drop((held, next));
    assert!(sent.await.expect("answered").outcome.is_err());
    until("the write is not in flight any more", || borrower.state(&loan) == Some(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_version_and_a_deletion_revoke() {
    let (master, servers) = cluster().await;
    let server = &servers[0];
    let members: Vec<_> = servers.iter().map(|server| server.replica(&master)).collect();
    assert_eq!(server.client().await.write(&write(server, 1, 0, LARGE), &pattern(LARGE, 1)).await.outcome, Ok(()));
    let mut borrower = Borrower::connect(server);
    let first = borrower.lend(VERSION).expect("lent");
    let raised = ChunkVersion::new(2);
    let raise = Install { raise_to: Some(raised), ..install(2, &members) };
    master.install(server.id, raise).await.expect("installed");
    assert_eq!(borrower.state(&first), None);
    assert_eq!(borrower.lend(VERSION).err(), Some(DataError::Version));
    let second = borrower.lend(raised).expect("lent anew");
    assert_eq!((second.read(0, 4096), borrower.state(&second)), (pattern(LARGE, 1)[..4096].to_vec(), Some(true)));
    let chunks = vec![SyncChunk { handle: HANDLE, version: raised }];
    let delete = ChunkCommand::Delete { incarnation: server.incarnation(), chunks };
    master.command(server.id, delete).await.expect("deleted");
    assert_eq!((borrower.state(&second), server.process.node().store.loans().count()), (None, 0));
    assert_eq!(borrower.lend(raised).err(), Some(DataError::NoChunk));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chunk_in_a_pack_is_lent_when_it_has_got_a_file_of_its_own() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    assert_eq!(client.write(&write(&server, 1, 0, 4096), &pattern(4096, 1)).await.outcome, Ok(()));
    let mut borrower = Borrower::connect(&server);
    assert_eq!(borrower.lend(VERSION).err(), Some(DataError::Busy));
    assert_eq!(client.write(&write(&server, 2, 0, LARGE), &pattern(LARGE, 2)).await.outcome, Ok(()));
    let loan = borrower.lend(VERSION).expect("lent");
    assert_eq!(loan.read(0, 4096), pattern(LARGE, 2)[..4096]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_out_of_service_lends_nothing() {
    let (_master, server, mut borrower) = filled().await;
    let loan = borrower.lend(VERSION).expect("lent");
    let path = server.directory.path().join("store");
    server.process.node().store.fail_directory(Path::new(&path), "test");
    assert_eq!(borrower.state(&loan), None);
    assert_eq!(borrower.lend(VERSION).err(), Some(DataError::NotLent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_lease_on_the_board_is_the_servers() {
    let master = Master::start().await;
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1000));
    let directory = Arc::new(tempfile::tempdir().expect("directory"));
    let server = Server::start_in(&master, directory, Arc::clone(&clock) as _).await;
    assert_eq!(server.client().await.write(&write(&server, 1, 0, LARGE), &pattern(LARGE, 1)).await.outcome, Ok(()));
    let mut borrower = Borrower::connect(&server);
    let loan = borrower.lend(VERSION).expect("lent");
    let seconds = |count: u64| count * 1_000_000_000;
    assert_eq!((loan.lent.now, borrower.word(board::LEASE_AT)), (seconds(1000), seconds(1002)));
    master.heard(|heard| heard.deaf = true);
    clock.advance(Duration::from_secs(2));
    assert_eq!(borrower.word(board::LEASE_AT), seconds(1002), "nobody extends it");
    assert_eq!(borrower.lend(VERSION).err(), Some(DataError::NoReadLease));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_stops_revokes_everything_first() {
    let (master, server, mut borrower) = filled().await;
    let loan = borrower.lend(VERSION).expect("lent");
    let id = server.id;
    let stopping = tokio::spawn(server.process.stop());
    master.until("the goodbye", |heard| heard.left.contains(&id).then_some(())).await;
    assert_eq!((borrower.state(&loan), borrower.word(board::LEASE_AT)), (None, 0));
    stopping.await.expect("no panic").expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lent_over_tcp() {
    let (_master, server, _) = filled().await;
    let client = server.client().await;
    let header = Lend { handle: HANDLE, version: VERSION }.encode();
    let ack = client.call(Kind::Lend, &header, &[], &[]).await.ack().expect("an acknowledgement");
    assert_eq!(ack.outcome, Err(DataError::Protocol));
    let mut socket = TcpStream::connect(server.process.address()).expect("connected");
    let hello = wire::Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: CLUSTER.as_bytes().to_vec().into(),
        session: 1,
        capabilities: 0,
        name: "test".to_owned(),
    };
    socket.write_all(&Prefix::encode(Kind::Hello, 0, &hello.encode_to_vec(), 0, 0)).expect("sent");
    let mut prefix = [0; PREFIX_LEN];
    socket.read_exact(&mut prefix).expect("an answer");
    let mut header = vec![0; Prefix::decode(&prefix).expect("a prefix").header_len as usize];
    socket.read_exact(&mut header).expect("a header");
    assert_eq!(wire::Welcome::decode(&header[..]).expect("a welcome").capabilities, 0);
}
