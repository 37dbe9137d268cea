//! Protobuf messages on a plain byte stream, one after the other: how requests and replies travel
//! between a client and the master (`docs/format.md`, "Connections for requests"). Pure.
//!
//! ```text
//! client -> master   preface (8 bytes), then messages     master -> client   messages
//! message            length u32 little-endian, then so many bytes of protobuf
//! ```

use crate::limits::MESSAGE_BYTES_MAX;
use bytes::{Buf, BufMut, BytesMut};
use prost::{DecodeError, Message};
use thiserror::Error;

/// What a client sends first. Its first byte tells it from HTTP/2, which shares the port and begins
/// with `P`; the last but one is the version of this format.
pub const REQUESTS_PREFACE: [u8; 8] = *b"GFSreq1\n";

const LENGTH_BYTES: usize = 4;
/// Read at once; more is made room for when less than the minimum is left.
const ROOM: usize = 16 << 10;
const ROOM_MIN: usize = 4 << 10;

/// Why what came is no message.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Refused before anything is allocated.
    #[error("a message of {0} bytes, more than {MESSAGE_BYTES_MAX}")]
    TooLong(u32),
    /// Not what it should be.
    #[error("a message does not decode: {0}")]
    Decode(#[from] DecodeError),
}

/// Appends a message, or nothing if it is too long: the other side would end the connection.
pub fn encode(message: &impl Message, into: &mut BytesMut) -> Result<(), MessageError> {
    let length = message.encoded_len();
    if length > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong(u32::try_from(length).unwrap_or(u32::MAX)));
    }
    into.put_u32_le(length as u32);
    message.encode_raw(into);
    Ok(())
}

/// Makes room to read into, so that many small messages come with one read.
pub fn make_room(buffer: &mut BytesMut) {
    if buffer.capacity() - buffer.len() < ROOM_MIN {
        buffer.reserve(ROOM);
    }
}

/// Takes the first message off what has come; `None` if it is not all there yet.
pub fn decode<M: Message + Default>(from: &mut BytesMut) -> Result<Option<M>, MessageError> {
    let Some(length) = from.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length as usize > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong(length));
    }
    let end = LENGTH_BYTES + length as usize;
    if from.len() < end {
        from.reserve(end - from.len());
        return Ok(None);
    }
    let mut message = from.split_to(end).freeze();
    message.advance(LENGTH_BYTES);
    Ok(Some(M::decode(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Attach, ClientMessage, client_message::Kind};

    fn message(request: u64, bytes: usize) -> ClientMessage {
        let attach = Attach { session: 7, secret: vec![request as u8; bytes].into() };
        ClientMessage { request, kind: Some(Kind::Attach(attach)) }
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let sent: Vec<_> = [0, 1, 100, 5000].into_iter().zip(1..).map(|(bytes, n)| message(n, bytes)).collect();
        let mut stream = BytesMut::new();
        sent.iter().for_each(|message| encode(message, &mut stream).expect("short"));
        for piece in [1, 3, 4, 5, 64, stream.len()] {
            let (mut came, mut buffer) = (Vec::new(), BytesMut::new());
            for bytes in stream.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some(message) = decode::<ClientMessage>(&mut buffer).expect("a message") {
                    came.push(message);
                }
            }
            assert_eq!(came, sent, "in pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn absurd_lengths_and_garbage_are_refused() {
        let mut long = BytesMut::from(&(MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes()[..]);
        assert!(matches!(decode::<ClientMessage>(&mut long), Err(MessageError::TooLong(_))));
        let mut garbage = BytesMut::from(&[3, 0, 0, 0, 0xff, 0xff, 0xff][..]);
        assert!(matches!(decode::<ClientMessage>(&mut garbage), Err(MessageError::Decode(_))));
        let mut empty = BytesMut::from(&[0; 4][..]);
        assert_eq!(decode::<ClientMessage>(&mut empty).expect("a message"), Some(ClientMessage::default()));
    }

    #[test]
    fn a_message_that_is_too_long_leaves_nothing_behind() {
        let mut stream = BytesMut::new();
        encode(&message(1, 100), &mut stream).expect("short");
        let before = stream.clone();
        assert!(matches!(encode(&message(2, MESSAGE_BYTES_MAX), &mut stream), Err(MessageError::TooLong(_))));
        assert_eq!(stream, before);
    }

    #[test]
    fn the_preface_is_not_http() {
        assert_ne!(REQUESTS_PREFACE[0], b"PRI * HTTP/2.0"[0]);
    }
}
