//! Load on the data port: small and large writes and reads against one chunkserver in a process of its
//! own, CPU seconds of both sides. `cargo run --release --example data_bench -- [DIRECTORY [LOAD]]`, LOAD being part of a
//! load's name.

use anyhow::{Context as _, Result, bail, ensure};
use gfs_chunkserver::clock::BootClock;
use gfs_chunkserver::config::{Config, Settings};
use gfs_chunkserver::net::dial::{DataConnection, Endpoint};
use gfs_chunkserver::net::frames::Outgoing;
use gfs_chunkserver::node::{Membership, Patience};
use gfs_chunkserver::run::{Chunkserver, Seams};
use gfs_chunkserver::store::ChunkStore;
use gfs_chunkserver::store::disk::Disk;
use gfs_proto::checksum::{block_sums, decode_sums, encode_sums, piece_sums};
use gfs_proto::frame::{Extent, Kind, Read, SyncChunk, Write};
use gfs_proto::ids::{
    ChunkHandle, ChunkVersion, ClusterId, Epoch, Incarnation, Sequence, Serial, ServerId, SessionId, Term,
    TruncateGeneration,
};
use gfs_proto::layout::ChunkSize;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId::new([1; 16]);
const CHUNK: u32 = 64 << 20;
const VERSION: ChunkVersion = ChunkVersion::new(1);
const DEADLINE: Duration = Duration::from_secs(60);
const DELETED_TOGETHER: usize = 512;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    if first.as_deref() == Some("--serve") {
        let directory = PathBuf::from(arguments.next().context("--serve DIRECTORY")?);
        return runtime.block_on(async { tokio::spawn(serve(directory)).await? });
    }
    let only = arguments.next().unwrap_or_default();
    let directory = match first {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir()?,
    };
    let mut child = Server::start(directory.path())?;
    let result = runtime.block_on(async { load(&mut child, &only).await });
    child.process.kill()?;
    child.process.wait()?;
    result
}

/// A server that is a member of a cluster without a master; its read lease never ends.
async fn serve(directory: PathBuf) -> Result<()> {
    let settings = Settings {
        directories: vec![directory.join("store")],
        socket: Some(directory.join("data.sock")),
        master: Some("127.0.0.1:1".to_owned()),
        reserve_mib: Some(16),
        watermark_mib: Some(64),
        ..Settings::default()
    };
    let seams = Seams { clock: Arc::new(BootClock), patience: Patience::default() };
    let server = Chunkserver::start(Config::new(settings)?, seams).await?;
    let node = server.node();
    let chunk_size = ChunkSize::new(CHUNK).context("chunk size")?;
    node.store.join(CLUSTER, chunk_size)?;
    node.joined(Membership { server: ServerId::new(1), cluster: CLUSTER, chunk_size });
    node.lease.acknowledged(Duration::ZERO, Duration::from_secs(1 << 32));
    writeln!(std::io::stdout(), "{}", server.address())?;
    for line in std::io::stdin().lines() {
        match line?.split_once(' ') {
            // reads are sent from the page cache once no lease is left
            None => drop(node.grants.expire(Duration::MAX)),
            Some((first, end)) => delete(&node.store, first.parse()?..end.parse()?)?,
        }
        writeln!(std::io::stdout(), "done")?;
    }
    Ok(())
}

/// Deletes chunks as a master has them deleted: many with one request.
fn delete<D: Disk>(store: &ChunkStore<D>, handles: Range<u64>) -> Result<()> {
    let chunks: Vec<_> = handles.map(|raw| SyncChunk { handle: ChunkHandle::new(raw), version: VERSION }).collect();
    for batch in chunks.chunks(DELETED_TOGETHER) {
        store.delete(batch).into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

struct Server {
    process: Child,
    says: BufReader<ChildStdout>,
    endpoints: [(&'static str, Endpoint); 2],
}

impl Server {
    fn start(directory: &Path) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(directory)
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut says = BufReader::new(process.stdout.take().context("its output")?);
        says.read_line(&mut line)?;
        let tcp = Endpoint::Tcp(line.trim().parse().context("its address")?);
        Ok(Self { process, says, endpoints: [("tcp", tcp), ("unix", Endpoint::Unix(directory.join("data.sock")))] })
    }

    fn end_leases(&mut self) -> Result<()> {
        self.command("")
    }

    fn delete(&mut self, handles: Range<u64>) -> Result<()> {
        self.command(&format!("{} {}", handles.start, handles.end))
    }

    /// Has the server do something, and waits until it is done.
    fn command(&mut self, line: &str) -> Result<()> {
        writeln!(self.process.stdin.as_mut().context("its input")?, "{line}")?;
        self.says.read_line(&mut String::new())?;
        Ok(())
    }

    /// User and system seconds of the server.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after = stat.rsplit_once(')').context("a name in brackets")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / 100.0) // USER_HZ is 100 on every Linux that we run on
    }
}

/// User and system seconds of this process.
fn own_cpu() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit_once(')').context("a name in brackets")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) as f64 / 100.0)
}

static NEXT_HANDLE: AtomicU64 = AtomicU64::new(1);

/// What one client does, over and over.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Write {
        sync: bool,
    },
    Create {
        sync: bool,
    },
    /// Of chunks that were made for it.
    Delete,
    Read {
        by_copy: bool,
    },
}

struct Load {
    name: &'static str,
    work: Work,
    size: u32,
    clients: usize,
    count: usize,
}

async fn load(server: &mut Server, only: &str) -> Result<()> {
    let (small, large) = (4096, 1 << 20);
    let loads = [
        Load { name: "write 4 KiB", work: Work::Write { sync: false }, size: small, clients: 1, count: 40_000 },
        Load { name: "write 4 KiB", work: Work::Write { sync: false }, size: small, clients: 16, count: 80_000 },
        Load { name: "write 4 KiB + sync", work: Work::Write { sync: true }, size: small, clients: 1, count: 4_000 },
        Load { name: "create + 4 KiB", work: Work::Create { sync: false }, size: small, clients: 1, count: 5_000 },
        Load { name: "delete 4 KiB", work: Work::Delete, size: small, clients: 1, count: 5_000 },
        Load { name: "create + 4 KiB", work: Work::Create { sync: false }, size: small, clients: 16, count: 10_000 },
        Load { name: "delete 4 KiB", work: Work::Delete, size: small, clients: 1, count: 10_000 },
        Load {
            name: "create + 4 KiB + sync",
            work: Work::Create { sync: true },
            size: small,
            clients: 1,
            count: 2_000,
        },
        Load {
            name: "create + 4 KiB + sync",
            work: Work::Create { sync: true },
            size: small,
            clients: 16,
            count: 4_000,
        },
        Load { name: "write 1 MiB", work: Work::Write { sync: false }, size: large, clients: 1, count: 1024 },
        Load { name: "write 1 MiB", work: Work::Write { sync: false }, size: large, clients: 4, count: 2048 },
        Load { name: "read 4 KiB", work: Work::Read { by_copy: false }, size: small, clients: 1, count: 40_000 },
        Load { name: "read 4 KiB", work: Work::Read { by_copy: false }, size: small, clients: 16, count: 160_000 },
        Load { name: "read 1 MiB", work: Work::Read { by_copy: false }, size: large, clients: 1, count: 4096 },
        Load { name: "read 1 MiB", work: Work::Read { by_copy: false }, size: large, clients: 4, count: 4096 },
        Load { name: "read 1 MiB by copy", work: Work::Read { by_copy: true }, size: large, clients: 4, count: 4096 },
    ];
    let mut out = std::io::stdout();
    writeln!(
        out,
        "load                   socket clients     ops/s   MiB/s   us/op  cpu s/GiB server client  cpu us/op server client"
    )?;
    for load in loads.into_iter().filter(|load| load.name.contains(only)) {
        for (name, endpoint) in server.endpoints.clone() {
            let report = run(server, &endpoint, &load).await?;
            writeln!(out, "{:<22} {name:<6} {:>7} {report}", load.name, load.clients)?;
        }
    }
    Ok(())
}

/// Clients on one connection each, one request at a time.
async fn run(server: &mut Server, endpoint: &Endpoint, load: &Load) -> Result<String> {
    if load.work == Work::Delete {
        return run_delete(server, endpoint, load).await;
    }
    let mut clients = Vec::new();
    for _ in 0..load.clients {
        clients.push(Client::prepare(endpoint, load).await?);
    }
    if matches!(load.work, Work::Read { .. }) {
        server.end_leases()?;
    }
    let (theirs, ours, start) = (server.cpu()?, own_cpu()?, Instant::now());
    let each = load.count / load.clients;
    let mut tasks = tokio::task::JoinSet::new();
    for mut client in clients {
        let (work, size) = (load.work, load.size);
        tasks.spawn(async move {
            for n in 0..each {
                client.one(work, size, n).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (server.cpu()? - theirs, own_cpu()? - ours);
    Ok(report(load, each * load.clients, seconds, cpu))
}

/// Chunks are made, which does not count, and deleted.
async fn run_delete(server: &mut Server, endpoint: &Endpoint, load: &Load) -> Result<String> {
    let mut client = Client::prepare(endpoint, load).await?;
    let first = NEXT_HANDLE.load(Ordering::Relaxed);
    for n in 0..load.count {
        client.one(Work::Create { sync: false }, load.size, n).await?;
    }
    let (theirs, ours, start) = (server.cpu()?, own_cpu()?, Instant::now());
    server.delete(first..first + load.count as u64)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(report(load, load.count, seconds, (server.cpu()? - theirs, own_cpu()? - ours)))
}

fn report(load: &Load, count: usize, seconds: f64, (theirs, ours): (f64, f64)) -> String {
    let count = count as f64;
    let gib = count * f64::from(load.size) / f64::from(1 << 30);
    format!(
        "{:>9.0} {:>7.0} {:>7.1} {:>17.2} {:>6.2} {:>17.1} {:>6.1}",
        count / seconds,
        gib * 1024.0 / seconds,
        seconds / count * 1e6 * load.clients as f64,
        theirs / gib,
        ours / gib,
        theirs / count * 1e6,
        ours / count * 1e6,
    )
}

struct Client {
    connection: DataConnection,
    handle: ChunkHandle,
    serial: u64,
    data: Vec<u8>,
}

impl Client {
    /// With a chunk to read from, whose lease has ended, or one to write to.
    async fn prepare(endpoint: &Endpoint, load: &Load) -> Result<Self> {
        let connection = DataConnection::open(endpoint, CLUSTER, "bench").await?;
        let data = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let handle = ChunkHandle::new(NEXT_HANDLE.fetch_add(1, Ordering::Relaxed));
        let mut client = Self { connection, handle, serial: 0, data };
        if matches!(load.work, Work::Read { .. }) {
            for at in 0..16 {
                client.write(at << 20, 1 << 20, false).await?;
            }
        }
        Ok(client)
    }

    async fn one(&mut self, work: Work, size: u32, n: usize) -> Result<()> {
        // a stride that is no power of two visits every place of the first 16 MiB
        let offset = (n as u32).wrapping_mul(7919) % ((16 << 20) / size) * size;
        match work {
            Work::Write { sync } => self.write(offset, size, sync).await,
            Work::Create { sync } => {
                self.handle = ChunkHandle::new(NEXT_HANDLE.fetch_add(1, Ordering::Relaxed));
                self.serial = 0;
                self.write(0, size, sync).await
            }
            Work::Delete => bail!("chunks are not deleted through the data port"),
            Work::Read { by_copy } => self.read(offset, size, by_copy).await,
        }
    }

    async fn write(&mut self, offset: u32, size: u32, sync: bool) -> Result<()> {
        self.serial += 1;
        let write = Write {
            handle: self.handle,
            version: VERSION,
            epoch: Epoch { term: Term::new(1), counter: 1 },
            incarnation: self.connection.incarnation,
            session: SessionId::new(1),
            sequence: Sequence::new(self.serial),
            serial: Some(Serial::new(self.serial)),
            truncate_generation: TruncateGeneration::new(0),
            create: true,
            sync,
            extents: vec![Extent { offset, length: size }],
            chain: Vec::new(),
        };
        let payload = &self.data[..size as usize];
        let sums = encode_sums(piece_sums(offset, payload));
        let header = write.encode();
        let frame = Outgoing { kind: Kind::Write, request: 0, header: &header, sums: &sums, payload };
        let ack = self.connection.call(frame, DEADLINE).await?.ack()?;
        ensure!(ack.incarnation != Incarnation::default(), "an answer of nobody");
        Ok(ack.outcome?)
    }

    async fn read(&self, offset: u32, length: u32, by_copy: bool) -> Result<()> {
        let header = Read { handle: self.handle, version: VERSION, offset, length, by_copy }.encode();
        let frame = Outgoing { kind: Kind::Read, request: 0, header: &header, sums: &[], payload: &[] };
        let answer = self.connection.call(frame, DEADLINE).await?;
        ensure!(answer.kind == Kind::Data && answer.payload.len() == length as usize, "a short answer");
        ensure!(block_sums(&answer.payload).eq(decode_sums(&answer.sums)), "a checksum that does not match");
        Ok(())
    }
}
