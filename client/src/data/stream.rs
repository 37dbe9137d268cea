//! Frames on a byte stream: one vectored write out, right-sized buffers in.
//!
//! Knows neither requests nor servers. Lengths were checked by [`Prefix::decode`] before anything is
//! allocated here.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gfs_proto::frame::{FrameError, PREFIX_LEN, Prefix};
use std::io::{self, IoSlice};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Read at once where a frame is expected: a 4 KiB answer with its header arrives in one system call.
const READ_BUFFER: usize = 8 << 10;
/// Slices of one vectored write; the kernel's limit is 1024.
const SLICES_MAX: usize = 64;

/// Why a stream is of no use any more.
#[derive(Debug, Error)]
pub(super) enum StreamError {
    /// Closed or failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Writes prefix and header, sums, payload; nothing is copied.
pub(super) async fn write_frame(
    stream: &mut (dyn AsyncWrite + Send + Unpin),
    head: &[u8],
    sums: &[u8],
    payload: &[Bytes],
) -> io::Result<()> {
    let mut rest = [head, sums].into_iter().chain(payload.iter().map(Bytes::as_ref)).filter(|part| !part.is_empty());
    loop {
        let mut slices: Vec<IoSlice<'_>> = rest.by_ref().take(SLICES_MAX).map(IoSlice::new).collect();
        if slices.is_empty() {
            return Ok(());
        }
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = stream.write_vectored(slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
        }
    }
}

/// Reads frames part by part.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(READ_BUFFER) }
    }

    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            self.buffer.reserve(READ_BUFFER.max(length - self.buffer.len()));
            let room = READ_BUFFER.max(length) - self.buffer.len();
            if self.stream.read_buf(&mut (&mut self.buffer).limit(room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The next frame's prefix and header, checked.
    pub(super) async fn head(&mut self) -> Result<(Prefix, Bytes), StreamError> {
        self.fill(PREFIX_LEN).await?;
        let raw: [u8; PREFIX_LEN] = self.buffer[..PREFIX_LEN].try_into().expect("as long as it was cut");
        let prefix = Prefix::decode(&raw)?;
        self.buffer.advance(PREFIX_LEN);
        let header = self.bytes(prefix.header_len as usize).await?;
        prefix.check_header(&raw, &header)?;
        Ok((prefix, header))
    }

    /// The next `length` bytes in a buffer of their own, so that keeping them keeps nothing else.
    pub(super) async fn bytes(&mut self, length: usize) -> io::Result<Bytes> {
        let mut out = BytesMut::with_capacity(length);
        let buffered = length.min(self.buffer.len());
        out.extend_from_slice(&self.buffer[..buffered]);
        self.buffer.advance(buffered);
        if out.len() < length && length - out.len() < READ_BUFFER {
            // a short rest comes with the next frame's head in one call
            let rest = length - out.len();
            self.fill(rest).await?;
            out.extend_from_slice(&self.buffer[..rest]);
            self.buffer.advance(rest);
        }
        while out.len() < length {
            let room = length - out.len();
            if self.stream.read_buf(&mut (&mut out).limit(room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(out.freeze())
    }

    /// Passes over `length` bytes.
    pub(super) async fn skip(&mut self, mut length: usize) -> io::Result<()> {
        while length > 0 {
            self.fill(1).await?;
            let step = length.min(self.buffer.len());
            self.buffer.advance(step);
            length -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::frame::Kind;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent_whatever_the_pieces() {
        let payloads: Vec<Vec<Bytes>> = vec![
            vec![],
            vec![Bytes::from(vec![1; 4096])],
            vec![Bytes::from(vec![2; 300_000]), Bytes::new(), Bytes::from(vec![3; 5])],
            (0..200).map(|i| Bytes::from(vec![i as u8; 77])).collect(),
            vec![Bytes::from(vec![4; 9000])],
        ];
        for pipe in [1, 100, 8192, 1 << 20] {
            let (mut near, far) = tokio::io::duplex(pipe);
            let sent = payloads.clone();
            let writer = tokio::spawn(async move {
                for (number, payload) in sent.iter().enumerate() {
                    let length = payload.iter().map(Bytes::len).sum();
                    let head = Prefix::encode(Kind::Write, number as u64, b"header", 8, length);
                    write_frame(&mut near, &head, &[9; 8], payload).await.expect("written");
                }
            });
            let mut reader = FrameReader::new(far);
            for (number, payload) in payloads.iter().enumerate() {
                let (prefix, header) = reader.head().await.expect("a head");
                assert_eq!((prefix.request, &header[..]), (number as u64, &b"header"[..]));
                reader.skip(prefix.sums_len as usize).await.expect("sums");
                let got = reader.bytes(prefix.payload_len as usize).await.expect("payload");
                assert_eq!(got, payload.concat(), "pipe of {pipe}");
            }
            writer.await.expect("no panic");
            assert!(reader.head().await.is_err(), "the end is an error");
        }
    }
}
