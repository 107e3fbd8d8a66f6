//! Bytes on their way in: written to a file, counted and hashed, in order.
//!
//! Where the digest is known beforehand, what has come is kept through whatever ends the process,
//! under a name made of that digest, and the next who wants the same bytes goes on from there:
//!
//! ```text
//! partial/<algorithm>-<hex>     the first bytes of a blob; its length says how many
//! ingest/<random>               bytes of unknown digest, or that somebody else is taking in already
//! ```
//!
//! Nothing is believed about a partial but its name: its bytes are hashed again when it is taken
//! up, and the digest judges the whole in the end. A partial is deleted when its bytes turn out to
//! be wrong, when a write fails (the disk may be full), and when nobody came back for
//! [`PARTIAL_KEEP`].

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use vocab::{Algorithm, Digest};

use crate::durable::WriteBehind;
use crate::files::{self, Staged};
use crate::hash::Hasher;

/// How long a partial waits to be taken up again.
const PARTIAL_KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The directory of partials.
#[derive(Debug)]
pub(crate) struct Partials {
    directory: PathBuf,
    /// Those that somebody is writing.
    held: Mutex<HashSet<Digest>>,
}

impl Partials {
    /// Makes the directory and deletes what waited too long, or is no partial.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let directory = root.join("partial");
        files::make_directory(&directory, 0o700)?;
        let partials = Self {
            directory,
            held: Mutex::default(),
        };
        partials.expire(PARTIAL_KEEP)?;
        Ok(partials)
    }

    /// Deletes what nobody holds and nobody wrote to for so long; answers the bytes that came free.
    pub(crate) fn expire(&self, keep: Duration) -> io::Result<u64> {
        let oldest = SystemTime::now().checked_sub(keep);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let digest = digest_of(&entry.file_name().to_string_lossy());
            if digest.as_ref().is_some_and(|digest| held.contains(digest)) {
                continue;
            }
            let found = entry.metadata()?;
            let is_fresh = found.modified().ok() > oldest;
            if digest.is_none() || !is_fresh || !found.is_file() {
                files::remove(&entry.path())?;
                freed += found.len();
            }
        }
        Ok(freed)
    }

    /// Takes up the partial of this digest, or begins it; `None` while somebody else holds it.
    fn claim(self: &Arc<Self>, digest: &Digest) -> io::Result<Option<(Claim, Staged, File)>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(digest.clone()) {
            return Ok(None);
        }
        drop(held);
        let claim = Claim {
            partials: Arc::clone(self),
            digest: digest.clone(),
        };
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        let (staged, file) = Staged::lasting(self.directory.join(name))?;
        Ok(Some((claim, staged, file)))
    }
}

fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The right to write one partial.
#[derive(Debug)]
struct Claim {
    partials: Arc<Partials>,
    digest: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let held = &self.partials.held;
        held.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.digest);
    }
}

/// A file being filled. Dropping it deletes it, unless it is a partial, which waits for the next.
#[derive(Debug)]
pub(crate) struct Incoming {
    // Before the claim: who takes the name next finds the file deleted, or complete.
    staged: Staged,
    file: File,
    hasher: Hasher,
    received: u64,
    behind: WriteBehind,
    _claim: Option<Claim>,
}

impl Incoming {
    /// Begins a file that ends with the process.
    pub(crate) fn begin(ingest: &Path, algorithm: Algorithm) -> io::Result<Self> {
        let (staged, file) = Staged::file(ingest)?;
        Ok(Self {
            staged,
            file,
            hasher: Hasher::new(algorithm),
            received: 0,
            behind: WriteBehind::default(),
            _claim: None,
        })
    }

    /// Goes on where the last one who took in these bytes ended; the caller has to
    /// [`reread`](Self::reread) what is there before it appends. More than `size` bytes cannot be
    /// right and are given up.
    pub(crate) fn resume(
        partials: &Arc<Partials>,
        ingest: &Path,
        digest: &Digest,
        size: u64,
    ) -> io::Result<Self> {
        let Some((claim, mut staged, file)) = partials.claim(digest)? else {
            return Self::begin(ingest, digest.algorithm());
        };
        if file.metadata()?.len() > size {
            staged.discard();
            drop(staged);
            drop(claim);
            return Self::resume(partials, ingest, digest, size);
        }
        Ok(Self {
            staged,
            file,
            hasher: Hasher::new(digest.algorithm()),
            received: 0,
            behind: WriteBehind::default(),
            _claim: Some(claim),
        })
    }

    /// Reads on in what was there when it was resumed, hashing it: nothing at the end.
    pub(crate) fn reread(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.received)?;
        self.hasher.update(&buffer[..count]);
        self.behind.passed(count);
        self.received += count as u64;
        Ok(count)
    }

    /// Bytes that have come.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.received += bytes.len() as u64;
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.behind.wrote(&self.file, bytes.len());
        Ok(())
    }

    /// Another handle on the same file, to read from.
    pub(crate) fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Dropping it deletes it from now on.
    pub(crate) fn discard(&mut self) {
        self.staged.discard();
    }

    /// The digest of all that came.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// All bytes are there; what is answered can be moved into place.
    pub(crate) fn complete(mut self) -> Complete {
        self.discard();
        self.behind.send_rest(&self.file);
        Complete {
            staged: self.staged,
            _claim: self._claim,
        }
    }
}

/// A file that is whole, and not in its place yet.
#[derive(Debug)]
pub(crate) struct Complete {
    staged: Staged,
    // Given up last, so that nobody takes up a file that is being moved.
    _claim: Option<Claim>,
}

impl Complete {
    /// Moves it where it belongs.
    pub(crate) fn keep(self, destination: &Path) -> io::Result<()> {
        self.staged.keep(destination)
    }
}
