//! The client: one [`Client`] for the daemon's life, shared by all pulls.
//!
//! | module | holds |
//! |---|---|
//! | `pull` | a pull from name to image; resolving a name |
//! | `attached` | what an index leads to beside the image that is pulled |
//! | `push` | a push from image to name |
//! | `fetch` | bytes from anywhere |
//! | `form` | what travels in a push |
//! | `check` | a login |
//! | `layer` | one layer's bytes, over as many connections as it takes |
//! | `upload` | one blob's bytes the other way |
//! | `document` | what a manifest turns out to be |
//! | `session` | one place, one repository, one user: requests with their proof |
//! | `challenge` | the `WWW-Authenticate` header |
//! | `transport` | TLS, redirects, bounded bodies, refusals |
//! | `hosts` | mirrors, schemes, and who may do without TLS |
//! | `places` | which of them is asked now |
//! | `tags` | the tags of a repository |
//! | `retry` | what is worth another try |
//! | `strangers` | what fuzz targets reach |

mod attached;
mod challenge;
mod check;
mod credentials;
mod document;
mod error;
mod fetch;
mod form;
mod hosts;
mod layer;
mod places;
mod progress;
mod pull;
mod push;
mod retry;
mod session;
#[doc(hidden)]
pub mod strangers;
mod tags;
mod transport;
mod upload;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use store::{Image, Store};
use tokio::sync::{Semaphore, mpsc};
use vocab::manifest::Descriptor;
use vocab::{Digest, Platform, Reference};

pub use credentials::{Credentials, CredentialsError};
pub use error::{
    CheckError, LayerError, NewClientError, PullError, PushError, Refusal, RequestError,
    ResolveError,
};
pub use fetch::{FetchError, Fetched};
pub use progress::{LayerState, Progress};

use hosts::{Endpoint, Hosts};
use progress::Teller;
use pull::Pull;
use push::Push;
use session::{Purpose, Session};
use transport::Transport;

/// How a client behaves; every field has dockerd's default.
#[derive(Clone, Debug)]
pub struct Config {
    /// Hosts (`host`, `host:port`) and networks (`10.0.0.0/8`) that may be spoken to over plain
    /// HTTP and whose certificates are not verified. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// Base addresses of mirrors of docker.io, asked in this order before docker.io itself.
    pub mirrors: Vec<String>,
    /// Patterns of names (`*.example.com`, `docker.io/library/*`) and the base address of a mirror
    /// of what matches; those of the longest pattern are asked, in this order, before the registry
    /// itself. What follows `/v2/` in an address is put before every repository there.
    pub mirrors_of: Vec<(String, String)>,
    /// Proxies that are used instead of those that the environment names.
    pub proxies: Proxies,
    /// Layers in transfer at a time, over all pulls.
    pub max_concurrent_downloads: usize,
    /// The same the other way.
    pub max_concurrent_uploads: usize,
    /// What one request of an upload carries at most, where the registry takes a blob in pieces.
    pub chunk_bytes: u64,
    /// Tries of one layer before its pull or push fails.
    pub max_attempts: u32,
    /// Pause before the second try; it doubles from try to try.
    pub first_pause: Duration,
    /// How long a server may say nothing in the middle of an answer.
    pub silence: Duration,
    /// Directories with `<host[:port]>/*.crt`, `*.cert` and `*.key`; the first that knows the host
    /// is used.
    pub certs_dirs: Vec<PathBuf>,
    /// What to call ourselves: the `User-Agent` header.
    pub user_agent: String,
}

/// Proxies, as the environment variables of the same names would say. Loopback is never reached
/// through one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached without, with commas between them.
    pub none_for: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            mirrors_of: Vec::new(),
            proxies: Proxies::default(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            chunk_bytes: 16 << 20,
            max_attempts: 5,
            first_pause: Duration::from_millis(500),
            silence: Duration::from_secs(60),
            certs_dirs: Vec::new(),
            user_agent: concat!("berth/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Speaks to registries. Cheap to clone; clones share connections and limits.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    transport: Transport,
    /// One for each layer in transfer.
    slots: Semaphore,
    /// The same the other way.
    upload_slots: Semaphore,
    /// Blobs in transfer, and into which store: who holds the lock brings it there.
    turns: Mutex<HashMap<(usize, Digest), Weak<Turns>>>,
    /// Which of its own places answered last, for domains that have several.
    answered: Mutex<HashMap<String, Endpoint>>,
}

/// Whose turn it is to transfer one blob.
type Turns = tokio::sync::Mutex<()>;

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

/// Domains whose last place is remembered; beyond that, all are forgotten.
const REMEMBERED: usize = 256;

impl Client {
    /// Checks the configuration; connects to nothing yet.
    pub fn new(config: Config) -> Result<Self, NewClientError> {
        let hosts = Hosts::new(&config)?;
        Ok(Self {
            inner: Arc::new(Inner {
                transport: Transport::new(&config, hosts)?,
                slots: Semaphore::new(config.max_concurrent_downloads.max(1)),
                upload_slots: Semaphore::new(config.max_concurrent_uploads.max(1)),
                turns: Mutex::default(),
                answered: Mutex::default(),
                config,
            }),
        })
    }

    /// Brings the image that `reference` names into `store` and gives it that name there.
    ///
    /// A name without tag and digest means `latest`; with a digest, the tag is not looked at and not
    /// given. Layers that are already there are not fetched. `progress` is told of every step;
    /// transfer counts are left out while its queue is full, other steps wait for room, and a
    /// receiver that is gone does not end the pull. Dropping the future ends it; what was received
    /// stays in the store, where the next pull goes on from it, until its garbage collector meets it.
    pub async fn pull(
        &self,
        store: Arc<Store>,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled, PullError> {
        let pull = Pull {
            client: self,
            store,
            reference: reference.clone().or_latest(),
            platform,
            credentials: credentials.filter(|given| !given.is_anonymous()),
            tell: Teller(progress),
        };
        pull.run().await
    }

    /// Sends `image` to the registry of `reference`, under the tag of that (`latest` if it has none);
    /// answers the digest of its manifest, by which the store knows the image from then on.
    ///
    /// An image that came with a manifest goes with the same, byte for byte. If it was found through
    /// an index and everything that leads to is here, all of it goes, unless it is to go `alone`; it
    /// also does if no other image of the index is here. What the registry has is not sent. For `progress`, the same holds as for a pull; dropping the future ends the push.
    pub async fn push(
        &self,
        store: Arc<Store>,
        image: Image,
        reference: &Reference,
        alone: bool,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Digest, PushError> {
        let push = Push {
            client: self,
            store,
            image,
            reference: &reference.clone().or_latest(),
            alone,
            credentials: credentials.filter(|given| !given.is_anonymous()),
            tell: Teller(progress),
        };
        push.run().await
    }

    /// Asks the registry what `reference` points at, without fetching the image.
    pub async fn resolve(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Resolved, ResolveError> {
        let credentials = credentials.filter(|given| !given.is_anonymous());
        pull::resolve(self, &reference.clone().or_latest(), credentials).await
    }

    /// The names that the registry knows in the repository of `reference`, one for each tag, sorted; tag
    /// and digest of `reference` itself are not looked at.
    pub async fn tags(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Reference>, ResolveError> {
        let credentials = credentials.filter(|given| !given.is_anonymous());
        tags::tags(self, reference, credentials).await
    }

    /// Asks whether `registry` (as typed to `docker login`: a host, or an address with scheme and
    /// path; empty means docker.io) accepts these credentials.
    pub async fn check(
        &self,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<Checked, CheckError> {
        check::check(self, registry, credentials).await
    }

    fn session<'a>(
        &'a self,
        endpoint: Endpoint,
        purpose: Purpose,
        credentials: Option<&'a Credentials>,
    ) -> Session<'a> {
        let Inner {
            transport, config, ..
        } = &*self.inner;
        Session::new(transport, config, endpoint, purpose, credentials)
    }

    fn slots(&self) -> &Semaphore {
        &self.inner.slots
    }

    fn chunk_bytes(&self) -> u64 {
        self.inner.config.chunk_bytes
    }

    fn upload_slots(&self) -> &Semaphore {
        &self.inner.upload_slots
    }

    /// The turns of all who want this blob in this store.
    fn turns(&self, store: &Arc<Store>, blob: &Digest) -> Arc<Turns> {
        let turns = self.inner.turns.lock();
        let mut turns = turns.unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let key = (Arc::as_ptr(store).addr(), blob.clone());
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// The places of a name, never none: its mirrors, then the registry itself.
    fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let (domain, path) = (reference.domain(), reference.path());
        let mut endpoints = self.inner.transport.hosts.mirrors(domain, path);
        endpoints.extend(self.origins(domain));
        endpoints
    }

    /// The places of a domain itself; the one that answered last time comes first.
    fn origins(&self, domain: &str) -> Vec<Endpoint> {
        let mut endpoints = self.inner.transport.hosts.origins(domain);
        if let Some(answered) = self.answered().get(domain) {
            endpoints.sort_by_key(|endpoint| endpoint != answered);
        }
        endpoints
    }

    /// Spares the next request to an insecure registry the wrong scheme.
    fn remember(&self, domain: &str, endpoint: &Endpoint) {
        if endpoint.mirror {
            return;
        }
        let mut answered = self.answered();
        if answered.len() >= REMEMBERED {
            answered.clear();
        }
        answered.insert(domain.to_owned(), endpoint.clone());
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Endpoint>> {
        let answered = self.inner.answered.lock();
        answered.unwrap_or_else(PoisonError::into_inner)
    }
}
