//! One pass over a layer's bytes: hashed as they came, decompressed, hashed again, unpacked.
//!
//! ```text
//! bytes ─▶ hash, count ─▶ blob file
//!       └▶ gzip | zstd | plain ─▶ hash, bound ─▶ Unpack (the driver)
//! ```

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use flate2::write::MultiGzDecoder;
use vocab::manifest::media_type;
use vocab::{Algorithm, Digest, Failure, Kind};
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use crate::MetadataError;
use crate::compression::Compression;
use crate::hash::Hasher;
use crate::incoming::Incoming;
use crate::lease::Lease;
use crate::limits::{BOMB_FLOOR_BYTES, BOMB_RATIO};
use crate::snapshots::Unpack;
use crate::store::{COPY_BYTES, Inner, Store};
use crate::tree::UnpackError;
use crate::windows::Width;

/// A layer that is in the store, whole. While a value of this type lives, the collector leaves the
/// layer alone, so an image being put together cannot lose one.
#[derive(Clone, Debug)]
pub struct Layer {
    diff_id: Digest,
    size_bytes: u64,
    blob: LayerBlob,
    _lease: Arc<Lease>,
}

/// A layer as it is distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the bytes as they came.
    pub digest: Digest,
    /// How many bytes came.
    pub size_bytes: u64,
    /// What its manifest calls it, or what berth would.
    pub media_type: String,
}

impl Layer {
    /// Digest of the uncompressed tar.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the files in it.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The form in which it is distributed.
    pub fn blob(&self) -> &LayerBlob {
        &self.blob
    }

    /// The same layer, called `media_type` in the manifest at hand.
    #[must_use]
    pub fn with_media_type(mut self, media_type: &str) -> Self {
        media_type.clone_into(&mut self.blob.media_type);
        self
    }
}

/// The caller holds the tables, so that the collector does not come between.
fn hold(inner: &Arc<Inner>, diff_id: &Digest) -> Arc<Lease> {
    Arc::new(Lease::new(inner, vec![diff_id.clone()]))
}

/// Why bytes did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The disk, or the file system.
    #[error("store layer {layer}")]
    Write {
        /// Which layer, as far as known.
        layer: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file in the layer.
    #[error("unpack layer {layer}: {what} `{path}`")]
    Unpack {
        /// Which layer.
        layer: String,
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes as they came have another digest.
    #[error("layer {expected} has digest {actual}")]
    Digest {
        /// Promised.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("layer {layer} has {actual} bytes instead of {expected}")]
    Size {
        /// Which layer.
        layer: String,
        /// Promised.
        expected: u64,
        /// Found so far.
        actual: u64,
    },
    /// The uncompressed bytes are not those that the image configuration names.
    #[error("layer {layer} unpacks to {actual}, but the image configuration says {expected}")]
    DiffId {
        /// The layer as distributed.
        layer: String,
        /// Named by the configuration.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// The compressed stream is damaged or ends too early.
    #[error("decompress layer {layer}")]
    Decompress {
        /// Which layer.
        layer: String,
        /// What the decoder said.
        source: io::Error,
    },
    /// It unpacks to far more than its own size warrants.
    #[error("layer {layer} unpacks to more than {limit} bytes, refused as a decompression bomb")]
    Bomb {
        /// Which layer.
        layer: String,
        /// The bound it crossed.
        limit: u64,
    },
    /// The tar in it cannot be a layer.
    #[error("layer {layer} is not a sound tar: {reason}")]
    Malformed {
        /// Which layer.
        layer: String,
        /// What is wrong, naming the entry.
        reason: String,
    },
    /// The tables.
    #[error("record layer {layer}")]
    Metadata {
        /// Which layer.
        layer: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for ReceiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } | Self::Unpack { .. } | Self::Metadata { .. } => Kind::Internal,
            _ => Kind::InvalidArgument,
        }
    }
}

/// A layer on its way in: compressed or plain bytes are given to it, in order.
/// [`commit`](Self::commit) makes it visible; dropping it abandons it, or, if it was
/// [resumed](Store::resume_layer), leaves what has come for the next who wants it.
#[derive(Debug)]
pub struct LayerIngest {
    inner: Arc<Inner>,
    expected: Expected,
    incoming: Incoming,
    decoder: Decoder,
    /// What a failed `write` could not say in full.
    failure: Option<ReceiveError>,
    failed: bool,
}

#[derive(Clone, Debug)]
struct Expected {
    blob: Option<Digest>,
    size: Option<u64>,
    diff_id: Option<Digest>,
}

impl Expected {
    /// How errors call the layer.
    fn name(&self) -> String {
        match (&self.blob, &self.diff_id) {
            (Some(digest), _) | (None, Some(digest)) => digest.to_string(),
            (None, None) => "from the stream".to_owned(),
        }
    }

    /// The disk failed.
    fn write(&self, source: io::Error) -> ReceiveError {
        ReceiveError::Write {
            layer: self.name(),
            source,
        }
    }
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Gzip,
    Zstd,
}

impl Form {
    fn of(head: &[u8]) -> Self {
        match Compression::of(head) {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
            // No manifest has a name for the others: who reads archives decompresses them first.
            _ => Self::Plain,
        }
    }

    fn media_type(self) -> String {
        match self {
            Self::Plain => media_type::OCI_LAYER.to_owned(),
            Self::Gzip => format!("{}+gzip", media_type::OCI_LAYER),
            Self::Zstd => format!("{}+zstd", media_type::OCI_LAYER),
        }
    }
}

enum Decoder {
    /// Fewer bytes came than it takes to tell.
    Undecided(Vec<u8>),
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd(Box<Zstd>),
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undecided(_) => "Undecided",
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

struct Zstd {
    raw: ZstdDecoder<'static>,
    width: Width,
    sink: Sink,
    buffer: Vec<u8>,
    /// Whether the last frame is complete.
    whole: bool,
}

/// The end of the pipeline.
struct Sink {
    unpack: Box<dyn Unpack>,
    /// `None` where the bytes are the same that were hashed as they came.
    hasher: Option<Hasher>,
    passed: u64,
    /// How many bytes may pass, as things stand.
    allowed: u64,
    failure: Option<SinkFailure>,
}

enum SinkFailure {
    Bomb(u64),
    Unpack(UnpackError),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.passed += bytes.len() as u64;
        let failure = if self.passed > self.allowed {
            SinkFailure::Bomb(self.allowed)
        } else {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
            match self.unpack.push(bytes) {
                Ok(()) => return Ok(bytes.len()),
                Err(error) => SinkFailure::Unpack(error),
            }
        };
        self.failure = Some(failure);
        Err(io::Error::other("the layer was refused"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Zstd {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(bytes);
        loop {
            let mut output = OutBuffer::around(&mut self.buffer[..]);
            let before = input.pos();
            self.width.pass(&bytes[before..])?;
            let hint = self.raw.run(&mut input, &mut output)?;
            let made = output.pos();
            let full = made == self.buffer.len();
            if input.pos() > before || made > 0 {
                self.whole = hint == 0;
                if self.whole {
                    self.width.ended();
                }
            }
            self.sink.write_all(&self.buffer[..made])?;
            if input.pos() == bytes.len() && !full {
                return Ok(());
            }
        }
    }
}

impl Store {
    /// The layer of this diff id, held against the collector, if it is there.
    pub fn find_layer(&self, diff_id: &Digest) -> Result<Option<Layer>, MetadataError> {
        let tables = self.tables();
        let Some((size_bytes, forms)) = tables.find_layer(diff_id)? else {
            return Ok(None);
        };
        let Some(blob) = forms.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(Layer {
            diff_id: diff_id.clone(),
            size_bytes,
            blob,
            _lease: hold(self.inner(), diff_id),
        }))
    }

    /// The layer that came as this blob, held against the collector, if it is there.
    pub fn find_layer_of_blob(&self, blob: &Digest) -> Result<Option<Layer>, MetadataError> {
        let tables = self.tables();
        let Some(diff_id) = tables.find_layer_of_blob(blob)? else {
            return Ok(None);
        };
        let Some((size_bytes, forms)) = tables.find_layer(&diff_id)? else {
            return Ok(None);
        };
        let Some(blob) = forms.into_iter().find(|form| form.digest == *blob) else {
            return Ok(None);
        };
        let _lease = hold(self.inner(), &diff_id);
        Ok(Some(Layer {
            diff_id,
            size_bytes,
            blob,
            _lease,
        }))
    }

    /// Begins a layer: its bytes as they come (gzip, zstd or plain, told by their magic), verified
    /// against what is given.
    pub fn receive_layer(
        &self,
        blob: Option<&Digest>,
        size: Option<u64>,
        diff_id: Option<&Digest>,
    ) -> Result<LayerIngest, ReceiveError> {
        let expected = Expected {
            blob: blob.cloned(),
            size,
            diff_id: diff_id.cloned(),
        };
        let algorithm = blob.map_or(Algorithm::Sha256, Digest::algorithm);
        match Incoming::begin(self.blobs().ingest_directory(), algorithm) {
            Ok(incoming) => Ok(self.layer_ingest(expected, incoming)),
            Err(source) => Err(expected.write(source)),
        }
    }

    /// Takes up a layer where the last one who received it ended, in this process or an earlier
    /// one: [`received_bytes`](LayerIngest::received_bytes) says how many bytes need not come
    /// again. While somebody else is receiving the same blob it begins at nothing, beside that one.
    ///
    /// The bytes that are there are hashed and unpacked again, which takes as long as that takes.
    /// If they turn out to be no layer, they are deleted and it begins at nothing.
    pub fn resume_layer(
        &self,
        blob: &Digest,
        size: u64,
        diff_id: Option<&Digest>,
    ) -> Result<LayerIngest, ReceiveError> {
        let expected = Expected {
            blob: Some(blob.clone()),
            size: Some(size),
            diff_id: diff_id.cloned(),
        };
        let begin = || {
            let blobs = self.blobs();
            Incoming::resume(blobs.partials(), blobs.ingest_directory(), blob, size)
                .map(|incoming| self.layer_ingest(expected.clone(), incoming))
                .map_err(|source| expected.write(source))
        };
        let mut ingest = begin()?;
        match ingest.reread() {
            Ok(()) => Ok(ingest),
            Err(error) if error.kind() == Kind::Internal => Err(error),
            Err(error) => {
                tracing::info!(%blob, %error, "what had come of the layer is given up");
                ingest.discard();
                begin()
            }
        }
    }

    fn layer_ingest(&self, expected: Expected, incoming: Incoming) -> LayerIngest {
        LayerIngest {
            inner: Arc::clone(self.inner()),
            expected,
            incoming,
            decoder: Decoder::Undecided(Vec::new()),
            failure: None,
            failed: false,
        }
    }
}

impl LayerIngest {
    /// Bytes taken so far, by this one and those that it goes on from.
    pub fn received_bytes(&self) -> u64 {
        self.incoming.received()
    }

    /// Deletes what has come.
    pub fn discard(mut self) {
        self.incoming.discard();
    }

    /// Takes the next bytes. After a failure, what has come is not kept.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let taken = self.take(bytes);
        if taken.is_err() {
            self.failed = true;
            self.incoming.discard();
        }
        taken
    }

    /// Unpacks what was there when it was resumed.
    fn reread(&mut self) -> Result<(), ReceiveError> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = self.incoming.reread(&mut buffer);
            match count.map_err(|source| self.expected.write(source))? {
                0 => return Ok(()),
                count => self.unpack(&buffer[..count])?,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let actual = self.incoming.received() + bytes.len() as u64;
        if let Some(expected) = self.expected.size
            && actual > expected
        {
            let layer = self.expected.name();
            return Err(ReceiveError::Size {
                layer,
                expected,
                actual,
            });
        }
        let written = self.incoming.append(bytes);
        written.map_err(|source| self.expected.write(source))?;
        self.unpack(bytes)
    }

    /// What follows once bytes are in the file: telling the form, decompressing, unpacking.
    fn unpack(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        if let Decoder::Undecided(head) = &mut self.decoder {
            if head.len() + bytes.len() < Compression::MAGIC_BYTES {
                head.extend_from_slice(bytes);
                return Ok(());
            }
            let earlier = std::mem::take(head);
            let mut magic = earlier.clone();
            magic.extend_from_slice(&bytes[..bytes.len().min(Compression::MAGIC_BYTES)]);
            self.decide(&magic)?;
            self.decode(&earlier)?;
        }
        self.decode(bytes)
    }

    fn decide(&mut self, head: &[u8]) -> Result<(), ReceiveError> {
        let form = Form::of(head);
        let write = |source| self.expected.write(source);
        let wanted = self
            .expected
            .diff_id
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let received_as = self
            .expected
            .blob
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let same = form == Form::Plain && wanted == received_as;
        let kept = same
            .then(|| self.incoming.reader())
            .transpose()
            .map_err(write)?;
        let sink = Sink {
            unpack: self.inner.layers.begin(kept).map_err(write)?,
            hasher: (!same).then(|| Hasher::new(wanted)),
            passed: 0,
            allowed: 0,
            failure: None,
        };
        self.decoder = match form {
            Form::Plain => Decoder::Plain(Box::new(sink)),
            Form::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Form::Zstd => Decoder::Zstd(Box::new(Zstd {
                raw: ZstdDecoder::new().map_err(write)?,
                width: Width::new(&self.inner.wide),
                sink,
                buffer: vec![0; 128 << 10],
                whole: true,
            })),
        };
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let allowed = BOMB_FLOOR_BYTES.max(self.incoming.received().saturating_mul(BOMB_RATIO));
        let (outcome, sink) = match &mut self.decoder {
            Decoder::Undecided(_) => return Ok(()),
            Decoder::Plain(sink) => {
                sink.allowed = u64::MAX;
                (sink.write_all(bytes), &mut **sink)
            }
            Decoder::Gzip(decoder) => {
                decoder.get_mut().allowed = allowed;
                (decoder.write_all(bytes), decoder.get_mut())
            }
            Decoder::Zstd(decoder) => {
                decoder.sink.allowed = allowed;
                (decoder.write_all(bytes), &mut decoder.sink)
            }
        };
        outcome.map_err(|source| refusal(&self.expected, source, sink.failure.take()))
    }

    /// Verifies everything and makes the layer visible; it is durable when an image of it is put in.
    /// What a failed `write` could only say in words is told here as what it is.
    pub fn commit(mut self) -> Result<Layer, ReceiveError> {
        // Whatever is wrong from here on, more bytes would not mend it.
        self.incoming.discard();
        let layer = self.expected.name();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.failed {
            // `receive` has told why.
            let reason = "it was refused before".to_owned();
            return Err(ReceiveError::Malformed { layer, reason });
        }
        let received = self.incoming.received();
        if let Some(expected) = self.expected.size
            && received != expected
        {
            return Err(ReceiveError::Size {
                layer,
                expected,
                actual: received,
            });
        }
        if let Decoder::Undecided(head) = &mut self.decoder {
            let head = std::mem::take(head);
            self.decide(&head)?;
            self.decode(&head)?;
        }
        let Self {
            inner,
            expected,
            incoming,
            decoder,
            ..
        } = self;
        // What came is judged before what it unpacks to: a damaged download is the likelier story.
        let digest = incoming.digest();
        if let Some(promised) = &expected.blob
            && *promised != digest
        {
            return Err(ReceiveError::Digest {
                expected: promised.clone(),
                actual: digest,
            });
        }
        let (form, sink) = finish(decoder, &expected)?;
        let diff_id = match sink.hasher {
            Some(hasher) => hasher.finish(),
            None => digest.clone(),
        };
        if let Some(promised) = &expected.diff_id
            && *promised != diff_id
        {
            return Err(ReceiveError::DiffId {
                layer,
                expected: promised.clone(),
                actual: diff_id,
            });
        }
        let unpacked = sink
            .unpack
            .finish()
            .map_err(|error| unsound(&expected, error))?;
        let write = |source| expected.write(source);
        let whole = incoming.complete();
        let blob = LayerBlob {
            digest,
            size_bytes: received,
            media_type: form.media_type(),
        };
        let size_bytes = unpacked.size_bytes;
        // From here on the collector must not come between.
        let mut tables = inner.tables();
        // One that is there has the same bytes, and may be part of a mount.
        let mut is_new = false;
        if inner.blobs.find(&blob.digest).map_err(write)?.is_none() {
            inner.blobs.adopt(whole, &blob.digest).map_err(write)?;
            is_new = true;
        }
        if !inner.layers.has(&diff_id) {
            inner.layers.keep(unpacked, &diff_id).map_err(write)?;
            is_new = true;
        }
        let epoch = is_new.then_some(inner.epoch.as_str());
        tables
            .put_layer(&diff_id, size_bytes, &blob, epoch)
            .map_err(|source| ReceiveError::Metadata {
                layer: layer.clone(),
                source,
            })?;
        let _lease = hold(&inner, &diff_id);
        Ok(Layer {
            diff_id,
            size_bytes,
            blob,
            _lease,
        })
    }
}

/// Ends decompression: a stream that stops in the middle is found here.
fn finish(decoder: Decoder, expected: &Expected) -> Result<(Form, Sink), ReceiveError> {
    let early = |source| ReceiveError::Decompress {
        layer: expected.name(),
        source,
    };
    match decoder {
        Decoder::Undecided(_) => unreachable!("decided before"),
        Decoder::Plain(sink) => Ok((Form::Plain, *sink)),
        Decoder::Gzip(mut decoder) => {
            if let Err(source) = decoder.try_finish() {
                let failure = decoder.get_mut().failure.take();
                return Err(refusal(expected, source, failure));
            }
            Ok((Form::Gzip, decoder.finish().map_err(early)?))
        }
        Decoder::Zstd(decoder) if decoder.whole => Ok((Form::Zstd, decoder.sink)),
        Decoder::Zstd(_) => Err(early(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn refusal(expected: &Expected, source: io::Error, failure: Option<SinkFailure>) -> ReceiveError {
    match failure {
        Some(SinkFailure::Bomb(limit)) => ReceiveError::Bomb {
            layer: expected.name(),
            limit,
        },
        Some(SinkFailure::Unpack(error)) => unsound(expected, error),
        None => ReceiveError::Decompress {
            layer: expected.name(),
            source,
        },
    }
}

fn unsound(expected: &Expected, error: UnpackError) -> ReceiveError {
    let layer = expected.name();
    match error {
        UnpackError::Malformed(reason) => ReceiveError::Malformed { layer, reason },
        UnpackError::Io { what, path, source } => ReceiveError::Unpack {
            layer,
            what,
            path,
            source,
        },
    }
}

impl Write for LayerIngest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.receive(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(failure) => {
                let said = io::Error::other(failure.to_string());
                self.failure.get_or_insert(failure);
                Err(said)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
