//! Digests of streams.

use std::fmt;
use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use vocab::{Algorithm, Digest};

/// A digest being computed.
#[derive(Clone)]
pub(crate) struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, context }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let hex = hex::encode(self.context.finish());
        format!("{}:{hex}", self.algorithm.name())
            .parse()
            .expect("a hash prints as a digest of its own algorithm")
    }

    /// SHA-256 of bytes at hand.
    pub(crate) fn sha256(bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sha256 digest of some bytes, by which everything here is known.
pub fn digest(bytes: &[u8]) -> Digest {
    Hasher::sha256(bytes)
}
