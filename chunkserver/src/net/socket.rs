//! One connected stream socket, TCP or Unix, read and written through a shared reference.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// Bytes that one `sendfile` call moves at most, so that a fast receiver does not keep the thread.
const SEND_FILE_MAX: usize = 1 << 20;
/// Descriptors that one call passes at most.
const DESCRIPTORS_MAX: usize = 2;

/// A connected stream socket. Reads and writes may run at the same time, but only one of each.
#[derive(Debug)]
pub enum Socket {
    /// Between machines.
    Tcp(TcpStream),
    /// On one machine.
    Unix(UnixStream),
}

impl Socket {
    /// A TCP connection; small frames leave at once.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        Ok(Self::Tcp(stream))
    }

    /// Connects to another server.
    pub async fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        Self::tcp(TcpStream::connect(address).await?)
    }

    /// Connects to a server on this machine.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(UnixStream::connect(path).await?))
    }

    /// Receives some bytes; 0 at the end of the stream.
    pub async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        self.run(Interest::READABLE, |fd| Ok(rustix::net::recv(fd, &mut *into, RecvFlags::empty())?.1)).await
    }

    /// Sends all of `parts`, with as few system calls as the socket's buffer allows. `more`: another
    /// send follows at once, do not make a packet of the rest.
    pub async fn send(&self, mut parts: &mut [IoSlice<'_>], more: bool) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL | if more { SendFlags::MORE } else { SendFlags::empty() };
        // empty parts would look like the end of the stream
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let sent = self
                .run(Interest::WRITABLE, |fd| {
                    rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), flags)
                })
                .await?;
            IoSlice::advance_slices(&mut parts, sent);
        }
        Ok(())
    }

    /// True if the other side can be passed descriptors.
    pub fn passes_descriptors(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// As [`Socket::send`], with descriptors, which arrive with the first byte.
    pub async fn send_descriptors(
        &self,
        mut parts: &mut [IoSlice<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "so many are passed at once");
        let sent = self
            .run(Interest::WRITABLE, |fd| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
                debug_assert!(fits, "there is room for that many");
                rustix::net::sendmsg(fd, parts, &mut control, SendFlags::NOSIGNAL)
            })
            .await?;
        IoSlice::advance_slices(&mut parts, sent);
        self.send(parts, false).await
    }

    /// Sends `length` bytes of a file from the page cache, without looking at them.
    pub async fn send_file(&self, file: BorrowedFd<'_>, mut offset: u64, length: usize) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let sent = self
                .run(Interest::WRITABLE, |fd| {
                    rustix::fs::sendfile(fd, file, Some(&mut offset), left.min(SEND_FILE_MAX))
                })
                .await?;
            if sent == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"));
            }
            left -= sent;
        }
        Ok(())
    }

    /// No more requests are read; answers still go out.
    pub fn stop_receiving(&self) {
        self.shut(Shutdown::Read);
    }

    /// Ends both directions; whoever reads or writes gets an error.
    pub fn close(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        // ENOTCONN: the other side was faster
        let _ = rustix::net::shutdown(self.as_fd(), how);
    }

    /// Tries at once, and again whenever the socket is ready.
    async fn run<T>(
        &self,
        interest: Interest,
        mut operation: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> io::Result<T> {
        let mut attempt = |fd: BorrowedFd<'_>| loop {
            match operation(fd) {
                Err(Errno::INTR) => {}
                result => return result.map_err(io::Error::from),
            }
        };
        match self {
            Self::Tcp(stream) => stream.async_io(interest, || attempt(stream.as_fd())).await,
            Self::Unix(stream) => stream.async_io(interest, || attempt(stream.as_fd())).await,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn parts_and_files_arrive_whole() {
        let (a, b) = UnixStream::pair().expect("pair");
        let (a, b) = (Socket::Unix(a), Socket::Unix(b));
        let mut file = tempfile::tempfile().expect("file");
        let body = vec![7u8; 3 << 20];
        file.write_all(&body).expect("written");
        let send = async {
            let mut parts = [IoSlice::new(b""), IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
            a.send(&mut parts, true).await.expect("sent");
            a.send_file(file.as_fd(), 0, body.len()).await.expect("sent");
            let error = a.send_file(file.as_fd(), body.len() as u64, 1).await.expect_err("beyond the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            a.close();
        };
        let receive = async {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                match b.receive(&mut buffer).await.expect("received") {
                    0 => return all,
                    got => all.extend_from_slice(&buffer[..got]),
                }
            }
        };
        let ((), all) = tokio::join!(send, receive);
        assert_eq!((&all[..4], all.len()), (&b"abcd"[..], 4 + body.len()));
    }
}
