//! What can go wrong between berth and a registry, one enum for each operation.
//!
//! The texts are those that Docker's clients look for (specs/registry.md §2), because they are also
//! the plain truth: the engine's sentence first, then the registry's own words as the cause.

use std::fmt;
use std::time::Duration;

use http::{Method, StatusCode};
use vocab::digest::ParseDigestError;
use vocab::{Digest, Failure, Kind, Platform};

/// A request that a registry answered with "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the reply.
    pub status: StatusCode,
    /// The registry's code, such as `MANIFEST_UNKNOWN`, if it gave one.
    pub code: Option<String>,
    /// The registry's words, cleaned of control characters and cut to a line.
    pub message: String,
    /// How long it wants to be left alone, if it said so.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    /// As Docker prints it: `manifest unknown: manifest unknown`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{}", code.to_lowercase().replace('_', " "))?,
            None => write!(f, "unexpected status {}", self.status)?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    fn kind(&self) -> Kind {
        match (self.code.as_deref(), self.status.as_u16()) {
            (Some("UNAUTHORIZED"), _) | (_, 401) => Kind::Unauthorized,
            (Some("DENIED" | "NAME_UNKNOWN" | "MANIFEST_UNKNOWN"), _) | (_, 403 | 404) => {
                Kind::NotFound
            }
            (Some("TOOMANYREQUESTS"), _) | (_, 429 | 502..=504) => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }
}

/// Why one request did not bring what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The address is none.
    #[error("`{url}` is not an address of a registry")]
    Address {
        /// The address.
        url: String,
    },
    /// The TLS settings for the host cannot be used.
    #[error("set up TLS for {host}")]
    Tls {
        /// The host.
        host: String,
        /// What is wrong with them.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host did not answer.
    #[error("{method} {url}")]
    Send {
        /// What was asked.
        method: Method,
        /// Of whom, without the query.
        url: String,
        /// Why no answer came.
        source: reqwest::Error,
    },
    /// The host takes no more of what is sent, and says nothing.
    #[error("{method} {url}: the registry does not go on")]
    Stalled {
        /// What was asked.
        method: Method,
        /// Of whom, without the query.
        url: String,
    },
    /// The answer broke off.
    #[error("{method} {url}: read the answer")]
    Receive {
        /// What was asked.
        method: Method,
        /// Of whom, without the query.
        url: String,
        /// How it broke.
        source: reqwest::Error,
    },
    /// The registry sent us from place to place.
    #[error("GET {url}: redirected more than {limit} times")]
    Redirects {
        /// Where it began.
        url: String,
        /// How often is fine.
        limit: usize,
    },
    /// The registry sent us to somewhere that is no address, or that may not be used.
    #[error("GET {url}: redirected to `{to}`, where berth does not follow")]
    Redirect {
        /// Where it began.
        url: String,
        /// Where it points.
        to: String,
    },
    /// The registry wants a proof that nobody gave.
    #[error("{method} {url}: no basic auth credentials")]
    NoCredentials {
        /// What was asked.
        method: Method,
        /// Of whom.
        url: String,
    },
    /// The registry asks for a kind of proof that berth does not know.
    #[error("{method} {url}: the registry wants an unknown kind of authentication (`{challenge}`)")]
    Challenge {
        /// What was asked.
        method: Method,
        /// Of whom.
        url: String,
        /// Its words.
        challenge: String,
    },
    /// The token server did not give a token.
    #[error("get a token from {realm}")]
    Token {
        /// The token server.
        realm: String,
        /// Why not.
        source: Box<RequestError>,
    },
    /// The token server's reply is not one.
    #[error("the reply of the token server {realm} holds no token")]
    TokenReply {
        /// The token server.
        realm: String,
    },
    /// The token server that the registry names may not be used.
    #[error("{url}: the registry wants a token from `{realm}`, where berth sends no password")]
    Realm {
        /// What was asked.
        url: String,
        /// Its words.
        realm: String,
    },
    /// The registry said no.
    #[error(transparent)]
    Refused(Refusal),
    /// What came is bigger than anything of its kind.
    #[error("{url} sends more than {limit_bytes} bytes")]
    TooBig {
        /// Where it came from.
        url: String,
        /// How much is fine.
        limit_bytes: u64,
    },
    /// The answer ended before it was whole.
    #[error("{url} sent {found} of {expected} bytes")]
    Short {
        /// Where it came from.
        url: String,
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that came, over all connections.
        found: u64,
    },
    /// Asked for a part, the registry sent another.
    #[error("{url} was asked for the bytes from {wanted} on and sent others")]
    Range {
        /// Where it came from.
        url: String,
        /// Where it should have begun.
        wanted: u64,
    },
    /// What came is not what its name says.
    #[error("{url} sent something else than {expected}: its digest is {found}")]
    Mismatch {
        /// Where it came from.
        url: String,
        /// What was wanted.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// What came cannot be read.
    #[error("{url} sent something that cannot be read")]
    Json {
        /// Where it came from.
        url: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The registry does not come to an end.
    #[error("{url} lists more than {limit} tags, or the same page again and again")]
    Tags {
        /// Where they came from.
        url: String,
        /// How many are fine.
        limit: usize,
    },
    /// The registry does not say where the bytes of a blob are to go.
    #[error("{url}: the registry names no place for the upload")]
    Location {
        /// What was asked.
        url: String,
    },
    /// The registry names a digest that is none.
    #[error("{url}: the `Docker-Content-Digest` header cannot be used")]
    DigestHeader {
        /// Where it came from.
        url: String,
        /// What is wrong with it.
        source: ParseDigestError,
    },
}

impl Failure for RequestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Address { .. } => Kind::InvalidArgument,
            Self::Send { .. }
            | Self::Stalled { .. }
            | Self::Receive { .. }
            | Self::Short { .. } => Kind::Unavailable,
            Self::NoCredentials { .. } => Kind::Unauthorized,
            Self::Challenge { .. } => Kind::NotImplemented,
            Self::Token { source, .. } => source.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::Tls { .. }
            | Self::Redirects { .. }
            | Self::Redirect { .. }
            | Self::TokenReply { .. }
            | Self::Realm { .. }
            | Self::Range { .. }
            | Self::TooBig { .. }
            | Self::Mismatch { .. }
            | Self::Json { .. }
            | Self::Tags { .. }
            | Self::Location { .. }
            | Self::DigestHeader { .. } => Kind::Internal,
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewClientError {
    /// An entry of the insecure registries is neither a host nor a network.
    #[error("insecure registry {entry} is not valid: a host, host:port or CIDR is wanted")]
    Insecure {
        /// The entry.
        entry: String,
    },
    /// A proxy's address cannot be used.
    #[error("invalid proxy `{entry}`")]
    Proxy {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        source: reqwest::Error,
    },
    /// A mirror's address cannot be used.
    #[error("invalid mirror: `{entry}`: {reason}")]
    Mirror {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Failure for NewClientError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not show this repository to this user.
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login'"
    )]
    Denied {
        /// The repository as people write it.
        name: String,
        /// The registry's words.
        source: Refusal,
    },
    /// The repository has no such tag or digest.
    #[error("manifest for {reference} not found")]
    ManifestUnknown {
        /// The whole name as people write it.
        reference: String,
        /// The registry's words.
        source: Refusal,
    },
    /// The registry has no such repository.
    #[error("repository {name} not found")]
    NameUnknown {
        /// The repository as people write it.
        name: String,
        /// The registry's words.
        source: Refusal,
    },
    /// A request failed otherwise.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The name stands for images of other platforms.
    #[error("no matching manifest for {wanted} in the manifest list entries")]
    NoPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
    },
    /// The one image there is, is of another platform than was asked for.
    #[error(
        "image with reference {reference} was found but its platform ({found}) does not match \
         the specified platform ({wanted})"
    )]
    OtherPlatform {
        /// The whole name as people write it.
        reference: String,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What it is.
        found: Box<Platform>,
    },
    /// It is an image of the first kind, which nobody makes any more.
    #[error(
        "{reference} is a Docker image manifest of version 2, schema 1, which berth does not read: \
         push it again with a current tool"
    )]
    Schema1 {
        /// The whole name as people write it.
        reference: String,
    },
    /// It is something else than an image.
    #[error("{reference} is not an image: it is an artifact of type `{media_type}`")]
    Artifact {
        /// The whole name as people write it.
        reference: String,
        /// What it is.
        media_type: String,
    },
    /// A document does not hold what it must.
    #[error("{what} {digest} is malformed: {reason}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer did not come whole.
    #[error("layer {digest}")]
    Layer {
        /// Its blob.
        digest: Digest,
        /// What failed at last.
        source: Box<LayerError>,
    },
    /// A layer is of a kind that cannot be unpacked.
    #[error("layer {digest} is of type `{media_type}`, which berth does not read")]
    LayerType {
        /// Its blob.
        digest: Digest,
        /// What its manifest calls it.
        media_type: String,
    },
    /// It is for another operating system.
    #[error("image operating system \"{os}\" cannot be used on this platform")]
    OperatingSystem {
        /// The one it is for.
        os: String,
    },
    /// What is there already could not be read.
    #[error("look up {what} in the store")]
    LookUp {
        /// An image or a layer.
        what: String,
        /// Cause.
        source: store::MetadataError,
    },
    /// The store does not take the image.
    #[error(transparent)]
    Put(#[from] store::PutError),
}

/// Why a layer did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The transfer failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The transfer failed, and so did every other try.
    #[error("gave up after {attempts} tries")]
    Attempts {
        /// How many.
        attempts: u32,
        /// How the last one failed.
        source: RequestError,
    },
    /// The store does not take it.
    #[error(transparent)]
    Receive(#[from] store::ReceiveError),
}

impl Failure for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Request(error) | Self::Attempts { source: error, .. } => error.kind(),
            Self::Receive(error) => not_the_callers(error.kind()),
        }
    }
}

impl Failure for PullError {
    fn kind(&self) -> Kind {
        match self {
            Self::Denied { .. }
            | Self::ManifestUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::NoPlatform { .. }
            | Self::OtherPlatform { .. } => Kind::NotFound,
            Self::Request(error) => error.kind(),
            Self::Schema1 { .. } | Self::Artifact { .. } | Self::LayerType { .. } => {
                Kind::NotImplemented
            }
            Self::OperatingSystem { .. } => Kind::InvalidArgument,
            Self::Malformed { .. } | Self::LookUp { .. } => Kind::Internal,
            Self::Layer { source, .. } => source.kind(),
            Self::Put(error) => not_the_callers(error.kind()),
        }
    }
}

/// What the store refuses was sent by a registry: whoever asked for the pull asked rightly.
fn not_the_callers(kind: Kind) -> Kind {
    match kind {
        Kind::InvalidArgument => Kind::Internal,
        kind => kind,
    }
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry wants to know who is asking.
    #[error("no basic auth credentials")]
    NoCredentials,
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A blob did not get there.
    #[error("push {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// What failed at last.
        source: RequestError,
    },
    /// A blob is not here any more, and the registry does not have it either.
    #[error(
        "{digest} of {reference} is not here in the form in which it was pulled: pull the image again"
    )]
    Missing {
        /// Which.
        digest: Digest,
        /// The image's name as people write it.
        reference: String,
    },
    /// The registry keeps the manifest under another digest.
    #[error("the registry took {reference} as {found} instead of {expected}")]
    Taken {
        /// The image's name as people write it.
        reference: String,
        /// What was sent.
        expected: Digest,
        /// What the registry says it is.
        found: Digest,
    },
    /// The index that led to the image cannot be read.
    #[error("read the index of {reference}")]
    Index {
        /// The image's name as people write it.
        reference: String,
        /// Cause.
        source: store::SaveError,
    },
    /// Of the images of an index some are here, but not all.
    #[error(
        "{reference} is for several platforms, of which only some are here ({here}): pull the others, \
         or push one with --platform"
    )]
    Incomplete {
        /// The image's name as people write it.
        reference: String,
        /// The platforms of those that are here.
        here: String,
    },
    /// The store could not be read.
    #[error("read {what}")]
    Read {
        /// What of it.
        what: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A layer was not compressed.
    #[error("compress a layer")]
    Compress(#[source] store::ReceiveError),
    /// The tables of the store.
    #[error("look up {what} in the store")]
    LookUp {
        /// An image or a layer.
        what: String,
        /// Cause.
        source: store::MetadataError,
    },
    /// That the registry has the image now was not put down.
    #[error(transparent)]
    Put(#[from] store::PutError),
}

impl Failure for PushError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoCredentials => Kind::Unauthorized,
            Self::Request(error) | Self::Blob { source: error, .. } => error.kind(),
            Self::Incomplete { .. } | Self::Missing { .. } => Kind::NotFound,
            Self::Index { source, .. } => source.kind(),
            Self::Taken { .. }
            | Self::Read { .. }
            | Self::Compress(_)
            | Self::LookUp { .. }
            | Self::Put(_) => Kind::Internal,
        }
    }
}

/// Why a name was not resolved; the same steps as a pull's first.
pub type ResolveError = PullError;

/// Why a login was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// What was typed names no registry.
    #[error("`{typed}` is not an address of a registry")]
    Address {
        /// What was typed.
        typed: String,
    },
    /// The registry does not want these credentials.
    #[error("login attempt to {url} failed with status: {status}")]
    Rejected {
        /// Where.
        url: String,
        /// How they were rejected.
        status: StatusCode,
        /// The registry's words.
        source: RequestError,
    },
    /// The registry could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Failure for CheckError {
    fn kind(&self) -> Kind {
        match self {
            Self::Address { .. } => Kind::InvalidArgument,
            Self::Rejected { .. } => Kind::Unauthorized,
            Self::Request(error) => error.kind(),
        }
    }
}
