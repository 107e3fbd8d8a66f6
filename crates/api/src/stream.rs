//! The frames that carry stdout and stderr over one connection.
//!
//! ```text
//! [stream: 1 byte][0][0][0][length: 4 bytes, big-endian][payload]
//! ```
//!
//! Stream 1 is stdout, 2 is stderr, 3 is a failure of the daemon in text. Frames may have any
//! length; one of length zero says nothing; an incomplete header at the end is a clean end.
//! With a terminal there are no frames, only bytes.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// The most bytes that a frame may claim. Docker sends at most 32 KiB of attached output in a
/// frame and one line of a log; a peer that claims more than this speaks another protocol.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Media type of a connection without frames (and, before API 1.42, also with them).
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// Media type of a connection with frames.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// Which stream a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Never sent; kept because the number is taken.
    Stdin = 0,
    /// Standard output, and everything of a terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// The daemon reports a failure of its own.
    Failure = 3,
}

/// The header of a frame with `length` bytes of payload.
pub fn header(stream: Stream, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// What was read is not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte names no stream.
    #[error("{0} is not the number of a stream")]
    Stream(u8),
    /// The length is beyond any that Docker sends.
    #[error("a frame of {0} bytes is longer than any that is sent")]
    Length(usize),
}

/// Cuts bytes that arrive in any pieces into frames. Payload is passed on as it comes, so a long
/// frame is several items and nothing is gathered in memory.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    current: Option<(Stream, usize)>,
}

impl Decoder {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next payload, or `None` until more bytes are pushed.
    pub fn take(&mut self) -> Result<Option<(Stream, Bytes)>, FrameError> {
        loop {
            if let Some((stream, left)) = self.current {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                let taken = left.min(self.buffer.len());
                let payload = self.buffer.split_to(taken).freeze();
                self.current = (left > taken).then_some((stream, left - taken));
                return Ok(Some((stream, payload)));
            }
            if self.buffer.len() < HEADER_BYTES {
                return Ok(None);
            }
            let stream = match self.buffer[0] {
                0 => Stream::Stdin,
                1 => Stream::Stdout,
                2 => Stream::Stderr,
                3 => Stream::Failure,
                other => return Err(FrameError::Stream(other)),
            };
            self.buffer.advance(4);
            let length = self.buffer.get_u32() as usize;
            if length > MAX_FRAME_BYTES {
                return Err(FrameError::Length(length));
            }
            self.current = (length > 0).then_some((stream, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(stream: Stream, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(stream, u32::try_from(payload.len()).unwrap()).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_header_is_the_stream_and_a_big_endian_length() {
        assert_eq!(
            header(Stream::Stderr, 0x0102_0304),
            [2, 0, 0, 0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn empty_frames_say_nothing_and_strange_ones_are_refused() {
        let mut decoder = Decoder::new();
        decoder.push(&frame(Stream::Stdout, b""));
        decoder.push(&frame(Stream::Stderr, b"x"));
        assert_eq!(
            decoder.take(),
            Ok(Some((Stream::Stderr, Bytes::from_static(b"x"))))
        );
        assert_eq!(decoder.take(), Ok(None));
        decoder.push(b"HTTP/1.1 500");
        assert_eq!(decoder.take(), Err(FrameError::Stream(b'H')));
        let mut decoder = Decoder::new();
        decoder.push(&header(Stream::Stdout, u32::MAX));
        assert_eq!(decoder.take(), Err(FrameError::Length(u32::MAX as usize)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec((1u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 1usize..17,
        ) {
            let mut wire = Vec::new();
            let mut sent = [Vec::new(), Vec::new()];
            for (stream, payload) in &frames {
                let (stream, slot) = if *stream == 1 { (Stream::Stdout, 0) } else { (Stream::Stderr, 1) };
                wire.extend(frame(stream, payload));
                sent[slot].extend_from_slice(payload);
            }
            let mut got = [Vec::new(), Vec::new()];
            let mut decoder = Decoder::new();
            for piece in wire.chunks(cut) {
                decoder.push(piece);
                while let Some((stream, payload)) = decoder.take().unwrap() {
                    got[usize::from(stream == Stream::Stderr)].extend_from_slice(&payload);
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
