//! How bytes are compressed, told by how they begin.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::limits::{BOMB_FLOOR_BYTES, BOMB_RATIO};

/// A way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// Bytes needed to tell.
    pub(crate) const MAGIC_BYTES: usize = 6;

    /// By the first bytes of a stream.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// Whether a manifest can say that a layer is compressed so.
    pub(crate) fn has_media_type(self) -> bool {
        !matches!(self, Self::Bzip2 | Self::Xz)
    }
}

/// The plain bytes of a stream that may be compressed. One that unpacks to far more than its own
/// size warrants ends in an error.
pub(crate) fn reader<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = [0; Compression::MAGIC_BYTES];
    let count = read_full(&mut stream, &mut head)?;
    let whole = io::Cursor::new(head[..count].to_vec()).chain(stream);
    let compression = Compression::of(&head[..count]);
    if compression == Compression::None {
        return Ok(Box::new(whole));
    }
    let taken = Rc::new(Cell::new(0));
    let whole = Counted {
        stream: whole,
        taken: Rc::clone(&taken),
    };
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::None => unreachable!("dealt with above"),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(whole)?),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(whole, true)),
    };
    Ok(Box::new(Bounded {
        plain,
        taken,
        passed: 0,
    }))
}

/// The stream as a layer may come: what no manifest has a name for (bzip2, xz) is decompressed; the
/// rest is left to whoever takes the layer in, who keeps it as it is.
pub(crate) fn layer_reader<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = [0; Compression::MAGIC_BYTES];
    let count = read_full(&mut stream, &mut head)?;
    let whole = io::Cursor::new(head[..count].to_vec()).chain(stream);
    match Compression::of(&head[..count]).has_media_type() {
        true => Ok(Box::new(whole)),
        false => reader(whole),
    }
}

/// Counts what is taken from a stream.
struct Counted<R> {
    stream: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

/// Fails when more comes out than what was taken in warrants.
struct Bounded<'a> {
    plain: Box<dyn Read + 'a>,
    taken: Rc<Cell<u64>>,
    passed: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.plain.read(buffer)?;
        self.passed += count as u64;
        let allowed = BOMB_FLOOR_BYTES.max(self.taken.get().saturating_mul(BOMB_RATIO));
        if self.passed > allowed {
            let text =
                format!("it unpacks to more than {allowed} bytes, refused as a decompression bomb");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(count)
    }
}

/// Reads until the buffer is full or the stream ends; answers how many bytes came.
pub(crate) fn read_full(mut from: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
