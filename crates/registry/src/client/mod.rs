//! The client: one [`Client`] for the daemon's life, shared by all pulls.

mod credentials;
mod error;
mod progress;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use store::Store;
use tokio::sync::mpsc;
use vocab::manifest::Descriptor;
use vocab::{Digest, Platform, Reference};

pub use credentials::{Credentials, CredentialsError};
pub use error::{
    CheckError, LayerError, NewClientError, PullError, Refusal, RequestError, ResolveError,
};
pub use progress::{LayerState, Progress};

/// How a client behaves; every field has dockerd's default.
#[derive(Clone, Debug)]
pub struct Config {
    /// Hosts (`host`, `host:port`) and networks (`10.0.0.0/8`) that may be spoken to over plain
    /// HTTP and whose certificates are not verified. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// Base addresses of mirrors of docker.io, asked in this order before docker.io itself.
    pub mirrors: Vec<String>,
    /// Layers in transfer at a time, over all pulls.
    pub max_concurrent_downloads: usize,
    /// Tries of one layer before its pull fails.
    pub max_attempts: u32,
    /// Pause before the second try; it doubles from try to try.
    pub first_pause: Duration,
    /// Directory with `<host[:port]>/*.crt`, `*.cert` and `*.key`; usually `/etc/docker/certs.d`.
    pub certs_dir: Option<PathBuf>,
    /// What to call ourselves: the `User-Agent` header.
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            max_concurrent_downloads: 3,
            max_attempts: 5,
            first_pause: Duration::from_millis(500),
            certs_dir: None,
            user_agent: concat!("berth/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Speaks to registries. Cheap to clone; clones share connections and limits.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image: the digest of its configuration.
    pub id: Digest,
    /// What the name points at in the registry: a manifest or an index.
    pub digest: Digest,
    /// Whether the name pointed at this very image before (`Image is up to date for …`).
    pub up_to_date: bool,
}

/// What a name points at (`GET /distribution/{name}/json`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Media type, digest and size of the manifest or index.
    pub descriptor: Descriptor,
    /// The platforms it is for.
    pub platforms: Vec<Platform>,
}

/// A login that a registry accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What the user's client is to store instead of the password, if the registry issued one.
    pub identity_token: Option<String>,
}

impl Client {
    /// Checks the configuration; connects to nothing yet.
    pub fn new(config: Config) -> Result<Self, NewClientError> {
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Brings the image that `reference` names into `store` and gives it that name there.
    ///
    /// A name without tag and digest means `latest`. Layers that are already there are not fetched.
    /// `progress` is told of every step; transfer counts are left out while its queue is full, and
    /// a receiver that is gone does not end the pull. Dropping the future ends it; what was
    /// received in whole stays in the store until its garbage collector meets it.
    pub async fn pull(
        &self,
        store: Arc<Store>,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled, PullError> {
        let _ = (store, reference, platform, credentials, progress);
        unimplemented!("pull")
    }

    /// Asks the registry what `reference` points at, without fetching the image.
    pub async fn resolve(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Resolved, ResolveError> {
        let _ = (reference, credentials);
        unimplemented!("resolve")
    }

    /// Asks whether `registry` (as typed to `docker login`: a host, or an address with scheme and
    /// path; empty means docker.io) accepts these credentials.
    pub async fn check(
        &self,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<Checked, CheckError> {
        let _ = (registry, credentials);
        unimplemented!("check")
    }
}
