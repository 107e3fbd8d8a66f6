//! Content by digest: a blob is a file named by the hash of its bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vocab::{Algorithm, Digest, Failure, Kind};

use crate::durable;
use crate::files::Staged;
use crate::hash::Hasher;
use crate::incoming::{Complete, Incoming, Partials};
use crate::store::COPY_BYTES;

/// Why bytes did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The disk, or the file system.
    #[error("write blob {digest}")]
    Write {
        /// What was being written.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that were promised.
    #[error("blob {expected} has digest {actual}")]
    Digest {
        /// Promised.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("blob {digest} has {actual} bytes instead of {expected}")]
    Size {
        /// Which blob.
        digest: Digest,
        /// Promised.
        expected: u64,
        /// Found so far.
        actual: u64,
    },
}

impl Failure for IngestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } => Kind::Internal,
            Self::Digest { .. } | Self::Size { .. } => Kind::InvalidArgument,
        }
    }
}

/// The directories of the content store.
#[derive(Debug)]
pub(crate) struct Blobs {
    blobs: PathBuf,
    ingest: PathBuf,
    partials: Arc<Partials>,
}

impl Blobs {
    /// Makes the directories at `root` and deletes what was unfinished.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let blobs = root.join("blobs");
        let ingest = root.join("ingest");
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            fs::create_dir_all(blobs.join(algorithm.name()))?;
        }
        fs::create_dir_all(&ingest)?;
        for entry in fs::read_dir(&ingest)? {
            crate::files::remove(&entry?.path())?;
        }
        Ok(Self {
            blobs,
            ingest,
            partials: Arc::new(Partials::open(root)?),
        })
    }

    pub(crate) fn partials(&self) -> &Arc<Partials> {
        &self.partials
    }

    pub(crate) fn ingest_directory(&self) -> &Path {
        &self.ingest
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    pub(crate) fn find(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every blob that is there.
    pub(crate) fn list(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for entry in fs::read_dir(self.blobs.join(algorithm.name()))? {
                let name = entry?.file_name();
                let text = format!("{}:{}", algorithm.name(), name.to_string_lossy());
                if let Ok(digest) = text.parse() {
                    found.push(digest);
                }
            }
        }
        Ok(found)
    }

    /// Takes a blob away at once; dropping the answer frees its bytes. One that is not there is fine.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<Option<(Staged, u64)>> {
        let path = self.path(digest);
        let found = fs::metadata(&path)
            .and_then(|found| Ok((Staged::doomed(&self.ingest, &path)?, found.len())));
        match found {
            Ok(doomed) => Ok(Some(doomed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes blobs durable that were put into place.
    pub(crate) fn sync(&self, blobs: &[&Digest]) -> io::Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let paths: Vec<PathBuf> = blobs
                .iter()
                .filter(|blob| blob.algorithm() == algorithm)
                .map(|blob| self.path(blob))
                .collect();
            let paths = paths.iter().map(PathBuf::as_path);
            durable::sync_files(&self.blobs.join(algorithm.name()), paths)?;
        }
        Ok(())
    }

    /// Moves a verified file to its place. One that is there already has the same bytes.
    pub(crate) fn adopt(&self, whole: Complete, digest: &Digest) -> io::Result<()> {
        whole.keep(&self.path(digest))
    }

    /// Stores bytes at hand; they are not durable yet.
    pub(crate) fn put(self: &Arc<Self>, bytes: &[u8]) -> Result<Digest, IngestError> {
        let digest = Hasher::sha256(bytes);
        if matches!(self.find(&digest), Ok(Some(_))) {
            return Ok(digest);
        }
        let mut ingest = Ingest::begin(Arc::clone(self), &digest, Some(bytes.len() as u64))?;
        ingest.receive(bytes)?;
        ingest.adopt().map(|(_, digest)| digest)
    }
}

/// A blob on its way in. [`commit`](Self::commit) makes it visible; dropping it abandons it, or, if
/// it was [resumed](crate::Store::resume), leaves what has come for the next who wants it.
#[derive(Debug)]
pub struct Ingest {
    blobs: Arc<Blobs>,
    incoming: Incoming,
    expected: Digest,
    size: Option<u64>,
}

impl Ingest {
    pub(crate) fn begin(
        blobs: Arc<Blobs>,
        expected: &Digest,
        size: Option<u64>,
    ) -> Result<Self, IngestError> {
        let incoming = Incoming::begin(&blobs.ingest, expected.algorithm());
        let incoming = incoming.map_err(writing(expected))?;
        Ok(Self {
            blobs,
            incoming,
            expected: expected.clone(),
            size,
        })
    }

    pub(crate) fn resume(
        blobs: Arc<Blobs>,
        expected: &Digest,
        size: u64,
    ) -> Result<Self, IngestError> {
        let incoming = Incoming::resume(&blobs.partials, &blobs.ingest, expected, size);
        let mut incoming = incoming.map_err(writing(expected))?;
        let mut buffer = vec![0; COPY_BYTES];
        while incoming.reread(&mut buffer).map_err(writing(expected))? > 0 {}
        Ok(Self {
            blobs,
            incoming,
            expected: expected.clone(),
            size: Some(size),
        })
    }

    /// Bytes taken so far, by this one and those that it goes on from.
    pub fn received_bytes(&self) -> u64 {
        self.incoming.received()
    }

    /// Takes the next bytes.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        let actual = self.incoming.received() + bytes.len() as u64;
        if let Some(expected) = self.size
            && actual > expected
        {
            self.incoming.discard();
            return Err(IngestError::Size {
                digest: self.expected.clone(),
                expected,
                actual,
            });
        }
        self.incoming.append(bytes).map_err(|source| {
            self.incoming.discard();
            writing(&self.expected)(source)
        })
    }

    /// Deletes what has come.
    pub fn discard(mut self) {
        self.incoming.discard();
    }

    /// Verifies length and digest, and makes the blob visible and durable.
    pub fn commit(self) -> Result<Digest, IngestError> {
        let (blobs, digest) = self.adopt()?;
        blobs.sync(&[&digest]).map_err(writing(&digest))?;
        Ok(digest)
    }

    /// Verifies length and digest, and makes the blob visible.
    fn adopt(mut self) -> Result<(Arc<Blobs>, Digest), IngestError> {
        self.incoming.discard();
        let Self {
            blobs,
            incoming,
            expected,
            size,
        } = self;
        let received = incoming.received();
        if let Some(size) = size
            && received != size
        {
            return Err(IngestError::Size {
                digest: expected,
                expected: size,
                actual: received,
            });
        }
        let actual = incoming.digest();
        if actual != expected {
            return Err(IngestError::Digest { expected, actual });
        }
        let adopted = blobs.adopt(incoming.complete(), &expected);
        adopted.map_err(writing(&expected))?;
        Ok((blobs, expected))
    }
}

/// For `map_err`.
fn writing(digest: &Digest) -> impl FnOnce(io::Error) -> IngestError {
    let digest = digest.clone();
    move |source| IngestError::Write { digest, source }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.receive(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
