//! The connection on which one server on this machine is asked for descriptors: one request at a time, so that a
//! descriptor is in step with the answer that it belongs to. It says that the server lives, too: its end is
//! seen at once, whoever looks. (A server closes it too if it is not asked for minutes; then what it lent is
//! asked for again.)

use super::board::Board;
use super::closer::{Closer, Deferred};
use super::loan::Loan;
use crate::data::connection::{Introduction, LinkError};
use gfs_proto::board::Slot;
use gfs_proto::chunk_file;
use gfs_proto::frame::{Ack, CAPABILITY_LENDS, DataError, Kind, Lend, Lent, PREFIX_LEN, Prefix};
use gfs_proto::ids::ServerId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors of one answer: a file and the board.
const DESCRIPTORS_MAX: usize = 2;
/// To look and not to wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Why nothing was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(in crate::data) enum LendError {
    /// No answer, or one that cannot be used: the connection is closed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server says no.
    #[error(transparent)]
    Refused(#[from] DataError),
    /// It was not asked.
    #[error("too many descriptors wait to be closed")]
    Behind,
}

/// See the module.
pub(super) struct Lender {
    server: ServerId,
    /// Descriptors of files may wait in it, too.
    socket: Deferred<UnixStream>,
    board: OnceLock<Board>,
    closer: Closer,
    /// Locked while an answer is awaited.
    exchange: tokio::sync::Mutex<Exchange>,
}

/// How far requests and answers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exchange {
    /// Each request has its answer.
    InStep,
    /// The answer to a request is due. Who finds it so asks no more: it was given up, and what comes next belongs to
    /// it.
    AnswerDue,
}

/// A frame with what came beside it.
struct Answer {
    prefix: Prefix,
    header: Vec<u8>,
    descriptors: VecDeque<Deferred<OwnedFd>>,
}

impl Lender {
    /// Connects and shakes hands.
    pub(super) async fn dial(
        server: ServerId,
        path: &str,
        us: &Introduction,
        closer: &Closer,
    ) -> Result<Arc<Self>, LinkError> {
        let socket = UnixStream::connect(path).await.map_err(|_| LinkError::Unreachable)?;
        let lender = Self {
            server,
            socket: Deferred::new(socket, closer.clone()),
            board: OnceLock::new(),
            closer: closer.clone(),
            exchange: tokio::sync::Mutex::new(Exchange::InStep),
        };
        lender.send(&us.hello()).await.map_err(|_| LinkError::Closed)?;
        let Answer { prefix, header, .. } = lender.receive().await.map_err(|_| LinkError::Closed)?;
        let welcome = us.welcome(server, &prefix, &header)?;
        if welcome.capabilities & CAPABILITY_LENDS == 0 {
            return Err(LinkError::Stranger);
        }
        Ok(Arc::new(lender))
    }

    pub(super) const fn server(&self) -> ServerId {
        self.server
    }

    /// Asks for the descriptor of a replica. The caller bounds the time; giving up makes the connection useless
    /// for asking, not for what was lent.
    pub(super) async fn ask(self: &Arc<Self>, lend: Lend) -> Result<Loan, LendError> {
        let mut exchange = self.exchange.lock().await;
        if *exchange == Exchange::AnswerDue {
            return Err(LinkError::Closed.into());
        }
        *exchange = Exchange::AnswerDue;
        let sent = now();
        self.send(&Prefix::encode(Kind::Lend, 0, &lend.encode(), 0, 0)).await.map_err(|_| LinkError::Closed)?;
        let answer = self.receive().await.map_err(|_| LinkError::Closed)?;
        let loan = self.loan(answer, lend, sent..=now());
        if !matches!(loan, Err(LendError::Link(_))) {
            *exchange = Exchange::InStep;
        }
        loan
    }

    /// What an answer gives that was made at a time in `exchanged`.
    fn loan(
        self: &Arc<Self>,
        mut answer: Answer,
        lend: Lend,
        exchanged: RangeInclusive<u64>,
    ) -> Result<Loan, LendError> {
        let header = &answer.header[..];
        let lent = match answer.prefix.kind {
            Kind::Ack => {
                let refusal = Ack::decode(header).ok().and_then(|ack| ack.outcome.err());
                return Err(refusal.map_or(LinkError::Protocol.into(), LendError::Refused));
            }
            Kind::Lent => Lent::decode(header).map_err(|_| LinkError::Protocol)?,
            _ => return Err(LinkError::Protocol.into()),
        };
        let file = answer.descriptors.pop_front().ok_or(LinkError::Protocol)?;
        if let Some(board) = answer.descriptors.pop_front().filter(|_| lent.with_board) {
            let board = Board::new(board.as_fd()).map_err(|error| {
                tracing::warn!(server = %self.server, %error, "the server's board cannot be used");
                LinkError::Protocol
            })?;
            self.board.get_or_init(|| board);
        }
        if !self.board.get().is_some_and(|board| board.has(lent.slot)) {
            return Err(LinkError::Protocol.into());
        }
        // a time outside of the exchange is that of another clock: the lease cannot be compared with ours
        if lent.format != chunk_file::FORMAT || !exchanged.contains(&lent.now) {
            return Err(DataError::NotLent.into());
        }
        Ok(Loan { lender: self.clone(), version: lend.version, file, slot: lent.slot, tenancy: lent.tenancy })
    }

    /// A slot of the board, which has come with the first loan.
    pub(super) fn slot(&self, number: u32) -> Slot {
        self.board.get().map_or_else(Slot::default, |board| board.slot(number))
    }

    /// The server may answer reads.
    pub(super) fn holds_lease(&self) -> bool {
        self.board.get().is_some_and(|board| now() < board.lease())
    }

    /// The server's process lives. One that died may have been replaced in the replica's chunk at once, whatever
    /// its lease was. Asked of the socket's state, not of what comes next on it: that may be an answer that nobody
    /// awaits any more.
    pub(super) fn is_connected(&self) -> bool {
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let socket = &mut [PollFd::new(&*self.socket, PollFlags::RDHUP)];
        retry_on_intr(|| poll(socket, Some(&AT_ONCE))).is_ok() && !socket[0].revents().intersects(ended)
    }

    async fn send(&self, mut frame: &[u8]) -> io::Result<()> {
        while !frame.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_write(frame) {
                Ok(sent) => frame = &frame[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn receive(&self) -> io::Result<Answer> {
        let mut descriptors = VecDeque::new();
        let mut raw = [0; PREFIX_LEN];
        self.fill(&mut raw, &mut descriptors).await?;
        let prefix = Prefix::decode(&raw).map_err(io::Error::other)?;
        let mut header = vec![0; prefix.header_len as usize];
        self.fill(&mut header, &mut descriptors).await?;
        prefix.check_header(&raw, &header).map_err(io::Error::other)?;
        // the payload of an acknowledgement says more to people
        let mut rest = vec![0; prefix.sums_len as usize + prefix.payload_len as usize];
        self.fill(&mut rest, &mut descriptors).await?;
        Ok(Answer { prefix, header, descriptors })
    }

    async fn fill(&self, into: &mut [u8], descriptors: &mut VecDeque<Deferred<OwnedFd>>) -> io::Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let got = self.socket.async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let parts = &mut [IoSliceMut::new(&mut into[filled..])];
                let got = recvmsg(&*self.socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights.map(|file| Deferred::new(file, self.closer.clone())));
                    }
                }
                Ok(got.bytes)
            });
            match got.await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => filled += got,
            }
        }
        Ok(())
    }
}

/// Nanoseconds on the clock that a board's lease is on: it goes on while the machine sleeps.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
