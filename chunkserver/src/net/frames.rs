//! Frames on a socket: received whole, lengths checked before anything is allocated; sent as few
//! pieces.

use super::buffer::{Budget, Payload, Share};
use super::socket::Socket;
use gfs_proto::frame::{FrameError, Kind, PREFIX_LEN, Prefix, SUMS_MAX};
use gfs_proto::limits::FRAME_HEADER_MAX;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// A frame that has begun must go on arriving.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Whoever asks must take the answers.
const SEND_MAX: Duration = Duration::from_secs(30);
/// Prefix, header and sums of the longest frame.
const STAGING_MAX: usize = PREFIX_LEN + FRAME_HEADER_MAX as usize + SUMS_MAX as usize;
/// What is received at once while nothing is known: a small write with its payload fits.
const STAGING: usize = 8 << 10;

/// Why no frame came.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The other side does not speak our protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection broke, or ended within a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Nothing came for too long.
    #[error("nothing was received for {0:?}")]
    Idle(Duration),
}

/// A frame as it came.
#[derive(Debug)]
pub struct RawFrame {
    /// Kind.
    pub kind: Kind,
    /// Repeated in the answer.
    pub request: u64,
    /// Its checksum matched.
    pub header: Vec<u8>,
    /// Checksums of the payload.
    pub sums: Vec<u8>,
    /// Payload.
    pub payload: Payload,
    /// Shares of the budgets; given back with the frame.
    pub shares: Vec<Share>,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct FrameReader {
    socket: Arc<Socket>,
    staging: Vec<u8>,
    start: usize,
    end: usize,
    budgets: Vec<Budget>,
    idle_max: Duration,
}

impl FrameReader {
    /// Every frame takes a share of each of `budgets` before its payload is received.
    pub fn new(socket: Arc<Socket>, budgets: Vec<Budget>, idle_max: Duration) -> Self {
        Self { socket, staging: vec![0; STAGING], start: 0, end: 0, budgets, idle_max }
    }

    /// The next frame; `None` where the connection ends between two.
    pub async fn next(&mut self) -> Result<Option<RawFrame>, ReceiveError> {
        if self.start == self.end {
            let idle_max = self.idle_max;
            match timeout(idle_max, self.receive_some()).await {
                Err(_) => return Err(ReceiveError::Idle(idle_max)),
                Ok(Ok(0)) => return Ok(None),
                Ok(result) => result?,
            };
        }
        self.rest().await.map(Some)
    }

    async fn rest(&mut self) -> Result<RawFrame, ReceiveError> {
        let raw: [u8; PREFIX_LEN] = self.need(PREFIX_LEN).await?.try_into().expect("as many as asked for");
        let prefix = Prefix::decode(&raw)?;
        let header = self.need(prefix.header_len as usize).await?.to_vec();
        prefix.check_header(&raw, &header)?;
        let sums = self.need(prefix.sums_len as usize).await?.to_vec();
        let mut shares = Vec::with_capacity(self.budgets.len());
        for budget in &self.budgets {
            shares.push(budget.take(prefix.payload_len as usize).await);
        }
        let payload = self.payload(prefix.payload_len as usize).await?;
        Ok(RawFrame { kind: prefix.kind, request: prefix.request, header, sums, payload, shares })
    }

    /// What was received beyond the sums is copied, the rest comes straight from the socket.
    async fn payload(&mut self, length: usize) -> Result<Payload, ReceiveError> {
        let mut payload = Payload::new(length);
        let mut filled = length.min(self.end - self.start);
        payload[..filled].copy_from_slice(&self.staging[self.start..self.start + filled]);
        self.start += filled;
        while filled < length {
            let got = unstalled(self.socket.receive(&mut payload[filled..])).await?;
            filled += got;
        }
        Ok(payload)
    }

    /// The next `length` bytes, received if they are not there yet.
    async fn need(&mut self, length: usize) -> Result<&[u8], ReceiveError> {
        assert!(length <= STAGING_MAX, "lengths were checked");
        while self.end - self.start < length {
            if self.start + length > self.staging.len() {
                self.make_room(length);
            }
            let (socket, room) = (&self.socket, &mut self.staging[self.end..]);
            self.end += unstalled(socket.receive(room)).await?;
        }
        self.start += length;
        Ok(&self.staging[self.start - length..self.start])
    }

    fn make_room(&mut self, length: usize) {
        self.staging.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if length > self.staging.len() {
            self.staging.resize(STAGING_MAX, 0);
        }
    }

    async fn receive_some(&mut self) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = self.socket.receive(&mut self.staging).await?;
        Ok(self.end)
    }
}

/// Within a frame an end of the stream is an error, and so is a pause.
async fn unstalled(receive: impl Future<Output = io::Result<usize>>) -> Result<usize, ReceiveError> {
    match timeout(STALL_MAX, receive).await {
        Err(_) => Err(ReceiveError::Idle(STALL_MAX)),
        Ok(Ok(0)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(result) => Ok(result?),
    }
}

/// A frame to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Kind.
    pub kind: Kind,
    /// Number of the request.
    pub request: u64,
    /// Encoded header.
    pub header: &'a [u8],
    /// Sums.
    pub sums: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

/// The sending half of a connection: frames leave whole, one after the other.
#[derive(Debug)]
pub struct FrameWriter {
    socket: Arc<Socket>,
    turn: Mutex<()>,
}

impl FrameWriter {
    /// For this socket.
    pub fn new(socket: Arc<Socket>) -> Self {
        Self { socket, turn: Mutex::new(()) }
    }

    /// Sends a frame with one system call, if the socket takes it. After an error the connection is closed.
    pub async fn send(&self, frame: &Outgoing<'_>) -> io::Result<()> {
        let head = Prefix::encode(frame.kind, frame.request, frame.header, frame.sums.len(), frame.payload.len());
        let mut parts = [IoSlice::new(&head), IoSlice::new(frame.sums), IoSlice::new(frame.payload)];
        self.whole(self.socket.send(&mut parts, false)).await
    }

    /// As [`FrameWriter::send`], with descriptors beside the first byte.
    pub async fn send_descriptors(&self, frame: &Outgoing<'_>, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let head = Prefix::encode(frame.kind, frame.request, frame.header, frame.sums.len(), frame.payload.len());
        let mut parts = [IoSlice::new(&head), IoSlice::new(frame.sums), IoSlice::new(frame.payload)];
        self.whole(self.socket.send_descriptors(&mut parts, descriptors)).await
    }

    /// As [`FrameWriter::send`], the payload being `length` bytes of a file.
    pub async fn send_file(
        &self,
        frame: &Outgoing<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> io::Result<()> {
        let head = Prefix::encode(frame.kind, frame.request, frame.header, frame.sums.len(), length);
        let mut parts = [IoSlice::new(&head), IoSlice::new(frame.sums)];
        self.whole(async {
            self.socket.send(&mut parts, length > 0).await?;
            self.socket.send_file(file, offset, length).await
        })
        .await
    }

    /// A frame that was sent in part ends the connection: nothing after it could be understood.
    async fn whole(&self, send: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let result = match timeout(SEND_MAX, send).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the other side takes no answers")),
        };
        if result.is_err() {
            self.socket.close();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    fn pair(budget: &Budget) -> (FrameWriter, FrameReader) {
        let (a, b) = UnixStream::pair().expect("pair");
        let reader = FrameReader::new(Arc::new(Socket::Unix(b)), vec![budget.clone()], Duration::from_secs(60));
        (FrameWriter::new(Arc::new(Socket::Unix(a))), reader)
    }

    #[tokio::test]
    async fn frames_of_all_sizes_arrive_as_they_were_sent() {
        let (writer, mut reader) = pair(&Budget::new(0));
        let sizes = [(0, 0, 0), (28, 4, 4096), (5, 12, 1 << 20), (16 << 10, 3072, 100), (80, 8, 8000), (0, 0, 0)];
        let send = async {
            for (n, (header, sums, payload)) in (0u64..).zip(sizes) {
                let (header, sums, payload) = (vec![1; header], vec![2; sums], vec![n as u8; payload]);
                let frame = Outgoing { kind: Kind::Ping, request: n, header: &header, sums: &sums, payload: &payload };
                writer.send(&frame).await.expect("sent");
            }
            drop(writer);
        };
        let receive = async {
            for (n, (header, sums, payload)) in (0u64..).zip(sizes) {
                let frame = reader.next().await.expect("received").expect("a frame");
                assert_eq!((frame.request, frame.header.len(), frame.sums.len()), (n, header, sums));
                assert_eq!(&*frame.payload, vec![n as u8; payload]);
            }
            assert!(reader.next().await.expect("end").is_none());
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn an_end_within_a_frame_and_other_protocols_are_errors() {
        for (sent, clean) in [(&b""[..], true), (b"GFSd\x08\x01", false), (&[b'G'; 200], false)] {
            let (writer, mut reader) = pair(&Budget::new(0));
            writer.socket.send(&mut [IoSlice::new(sent)], false).await.expect("sent");
            drop(writer);
            assert_eq!(matches!(reader.next().await, Ok(None)), clean, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_received_beyond_the_budget() {
        let budget = Budget::new(1 << 20);
        let (writer, mut reader) = pair(&budget);
        let held = budget.take(1 << 20).await;
        writer
            .send(&Outgoing { kind: Kind::Ping, request: 1, header: &[], sums: &[], payload: b"x" })
            .await
            .expect("sent");
        let mut next = Box::pin(reader.next());
        assert!(futures_util::FutureExt::now_or_never(&mut next).is_none());
        drop(held);
        assert_eq!(next.await.expect("received").expect("a frame").request, 1);
    }
}
