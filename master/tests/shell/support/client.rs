//! A client: one session, one connection for requests, one stream of callbacks.

use super::{connect, soon};
use bytes::BytesMut;
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::chunk::{ChunkGrant, ChunkMap};
use gfs_proto::ids::{ChunkIndex, InodeId, OpenId, Sequence, SessionId};
use gfs_proto::message::{self, REQUESTS_PREFACE};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, Batch, BatchReply, Made, Make, MakeKind, Op, OpResult, OpenSpec, Opened};
use gfs_proto::wire::session_client::SessionClient;
use gfs_proto::wire::{self, callback_answer, client_message, server_message};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<server_message::Kind>>>>;

/// See the module's text. Nothing keeps its session alive but what it asks.
pub(crate) struct Client {
    pub(crate) session: SessionId,
    secret: Vec<u8>,
    url: String,
    out: mpsc::UnboundedSender<wire::ClientMessage>,
    waiting: Waiting,
    requests: AtomicU64,
    sequences: AtomicU64,
    callbacks: tokio::sync::Mutex<Option<tonic::Streaming<wire::Callback>>>,
    answers: Mutex<Option<mpsc::UnboundedSender<wire::CallbackAnswer>>>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn hello(resume: Option<wire::Attach>, reclaim: Vec<wire::Reclaim>) -> wire::OpenSessionRequest {
    wire::OpenSessionRequest {
        protocol_version: gfs_proto::limits::PROTOCOL_VERSION,
        client_name: "test".to_owned(),
        resume,
        reclaim,
        ..wire::OpenSessionRequest::default()
    }
}

/// Sends what is asked and tells whoever waits of the answers, until either end has enough.
async fn exchange(mut stream: TcpStream, mut requests: UnboundedReceiver<wire::ClientMessage>, waiting: Waiting) {
    let (mut reader, mut writer) = stream.split();
    let send = async {
        let mut out = BytesMut::from(&REQUESTS_PREFACE[..]);
        while let Some(request) = requests.recv().await {
            message::encode(&request, &mut out).expect("short");
            if writer.write_all_buf(&mut out).await.is_err() {
                return;
            }
        }
    };
    let receive = async {
        let mut came = BytesMut::new();
        while reader.read_buf(&mut came).await.is_ok_and(|count| count > 0) {
            while let Some(message) = message::decode::<wire::ServerMessage>(&mut came).expect("a message") {
                let kind = message.kind.expect("a kind");
                if let Some(waiter) = waiting.lock().remove(&message.request) {
                    let _ = waiter.send(kind);
                }
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
    waiting.lock().clear();
}

impl Client {
    pub(crate) async fn start(url: &str) -> Self {
        Self::open(url, hello(None, Vec::new()), 1).await.expect("a session")
    }

    /// The same session again, on a new connection, with these files open.
    pub(crate) async fn resume(&self, url: &str, opens: &[(InodeId, u64, Access)]) -> Result<Self, tonic::Status> {
        let reclaim = opens.iter().map(|(inode, open, access)| wire::Reclaim {
            inode: inode.get(),
            open_id: *open,
            access: (*access).into(),
        });
        Self::open(url, hello(Some(self.attach()), reclaim.collect()), self.sequences.load(Ordering::SeqCst)).await
    }

    async fn open(url: &str, hello: wire::OpenSessionRequest, sequence: u64) -> Result<Self, tonic::Status> {
        let mut client = SessionClient::new(connect(url).await);
        let opened = client.open_session(hello).await?.into_inner();
        let (out, receiver) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        let stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
        tokio::spawn(exchange(stream, receiver, waiting.clone()));
        let this = Self {
            session: SessionId::new(opened.session),
            secret: opened.secret.to_vec(),
            url: url.to_owned(),
            out,
            waiting,
            requests: AtomicU64::new(1),
            sequences: AtomicU64::new(sequence),
            callbacks: tokio::sync::Mutex::new(None),
            answers: Mutex::new(None),
        };
        let attach = wire::Attach { session: opened.session, secret: opened.secret };
        let attached = this.send(client_message::Kind::Attach(attach)).await.expect("an answer");
        assert!(matches!(attached, server_message::Kind::Attached(_)), "{attached:?}");
        Ok(this)
    }

    /// What names the session on a connection.
    pub(crate) fn attach(&self) -> wire::Attach {
        wire::Attach { session: self.session.get(), secret: self.secret.clone().into() }
    }

    pub(crate) async fn listen(&self) {
        let mut client = SessionClient::new(connect(&self.url).await);
        let (answers, receiver) = mpsc::unbounded_channel();
        let attach = wire::CallbackAnswer { kind: Some(callback_answer::Kind::Attach(self.attach())) };
        answers.send(attach).expect("open");
        let stream = client.callbacks(UnboundedReceiverStream::new(receiver)).await.expect("attached");
        *self.callbacks.lock().await = Some(stream.into_inner());
        *self.answers.lock() = Some(answers);
    }

    /// The next callback; [`Client::listen`] first.
    pub(crate) async fn callback(&self) -> wire::Callback {
        let mut stream = self.callbacks.lock().await;
        let message = soon("a callback", stream.as_mut().expect("listening").message()).await;
        message.expect("the stream is open").expect("the stream is open")
    }

    pub(crate) fn done(&self, id: u64) {
        let answer = wire::CallbackAnswer { kind: Some(callback_answer::Kind::Done(id)) };
        self.answers.lock().as_ref().expect("listening").send(answer).expect("open");
    }

    pub(crate) async fn send(&self, kind: client_message::Kind) -> Option<server_message::Kind> {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(request, tell);
        self.out.send(wire::ClientMessage { request, kind: Some(kind) }).ok()?;
        soon("a reply", told).await.ok()
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequences.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) async fn batch(&self, sequence: Option<u64>, ops: Vec<Op>) -> Result<BatchReply, FsError> {
        self.batch_of(Caller::root(), sequence, ops).await
    }

    pub(crate) async fn batch_of(
        &self,
        caller: Caller,
        sequence: Option<u64>,
        ops: Vec<Op>,
    ) -> Result<BatchReply, FsError> {
        let batch = Batch {
            caller,
            sequence: sequence.map(Sequence::new),
            acknowledged: Sequence::new(1),
            client_time: None,
            precondition: None,
            ops,
        };
        match self.send(client_message::Kind::Batch((&batch).into())).await {
            Some(server_message::Kind::Reply(reply)) => Ok(reply.try_into().expect("a valid reply")),
            Some(server_message::Kind::Error(code)) => Err(FsError::from_code(code)),
            Some(other) => panic!("a reply was expected, not {other:?}"),
            None => Err(FsError::Unavailable),
        }
    }

    /// One operation, numbered if it changes state.
    pub(crate) async fn ask(&self, op: Op) -> Result<OpResult, FsError> {
        let sequence = op.is_mutation().then(|| self.next_sequence());
        let reply = self.batch(sequence, vec![op]).await?;
        reply.results.into_iter().next().expect("a result")
    }

    pub(crate) async fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        match self.ask(Op::GetAttr { inode: inode.into() }).await? {
            OpResult::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn lookup(&self, text: &str) -> Result<Attr, FsError> {
        match self.ask(Op::Lookup { parent: InodeId::ROOT.into(), name: name(text) }).await? {
            OpResult::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn make(text: &str, open: Option<u64>, first_chunk: bool) -> Op {
        let spec = |open| OpenSpec { open: OpenId::new(open), access: Access::ReadWrite, truncate: false };
        Op::Make(Make {
            parent: InodeId::ROOT.into(),
            name: name(text),
            kind: MakeKind::File,
            mode: Mode::new(0o644),
            exclusive: true,
            open: open.map(spec),
            first_chunk,
            ids: None,
        })
    }

    /// A new file, open for writing under that number, with its first chunk.
    pub(crate) async fn create(&self, text: &str, open: u64) -> Made {
        match self.ask(Self::make(text, Some(open), true)).await.expect("created") {
            OpResult::Made(made) => made,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn open_file(&self, inode: InodeId, open: u64, access: Access) -> Result<Opened, FsError> {
        let spec = OpenSpec { open: OpenId::new(open), access, truncate: false };
        match self.ask(Op::Open { inode: inode.into(), spec }).await? {
            OpResult::Opened(opened) => Ok(opened),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn release(&self, inode: InodeId, open: u64) {
        let released = self.ask(Op::Release { inode: inode.into(), open: OpenId::new(open) }).await;
        assert_eq!(released, Ok(OpResult::Done));
    }

    pub(crate) async fn unlink(&self, text: &str) -> Result<OpResult, FsError> {
        self.ask(Op::Unlink { parent: InodeId::ROOT.into(), name: name(text) }).await
    }

    pub(crate) async fn grant(&self, inode: InodeId, index: u32) -> Result<ChunkGrant, FsError> {
        match self.ask(Op::GrantChunk { inode: inode.into(), index: ChunkIndex::new(index) }).await? {
            OpResult::Grant(grant) => Ok(grant),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn chunks(&self, inode: InodeId) -> ChunkMap {
        let op = Op::ReadChunks { inode: inode.into(), first: ChunkIndex::new(0), count: 16 };
        match self.ask(op).await.expect("locations") {
            OpResult::Chunks(map) => map,
            other => panic!("{other:?}"),
        }
    }
}
