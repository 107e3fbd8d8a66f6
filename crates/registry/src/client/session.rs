//! Asking one place about one thing, and proving who asks.
//!
//! A proof is only sought when the registry asks for one: the first request goes out bare, its 401
//! says what is wanted (basic, or a token from the server it names), and what was found is shown
//! with every later request until the registry no longer takes it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LINK, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use store::limits::{CONFIG_BYTES, MANIFEST_BYTES};
use tokio::time::sleep;
use vocab::manifest::{Descriptor, media_type};
use vocab::{Algorithm, Digest};

use super::challenge::Challenge;
use super::hosts::Endpoint;
use super::retry::{Tries, is_unreachable};
use super::transport::{Body, Request, Response, Transport, clean, shown};
use super::{Config, Credentials, RequestError};

/// Bytes of a token server's reply; tokens have a few thousand.
const TOKEN_REPLY_BYTES: u64 = 1 << 20;
/// Bytes of a page of tags: a thousand of the longest take an eighth of a megabyte.
const TAGS_BYTES: u64 = 4 << 20;
/// Addresses of a foreign layer that are tried.
const FOREIGN_URLS: usize = 8;
/// What token servers are told we are; some know only Docker's.
const CLIENT_ID: &str = "docker";

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a session is for, which is what its token must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading one repository.
    Pull {
        /// Its path in the registry.
        repository: String,
    },
    /// Writing one repository.
    Push {
        /// Its path in the registry.
        repository: String,
    },
    /// Finding out whether the credentials are good.
    Login,
}

/// One place, one purpose, one user.
#[derive(Debug)]
pub(super) struct Session<'a> {
    transport: &'a Transport,
    config: &'a Config,
    endpoint: Endpoint,
    purpose: Purpose,
    credentials: Option<&'a Credentials>,
    proof: Mutex<Proof>,
}

/// What is shown to the registry at the moment.
#[derive(Debug, Default)]
struct Proof {
    header: Option<HeaderValue>,
    /// Counts the changes of `header`, so that one of several requests renews it.
    version: u32,
    /// What the token server issued for the user's client to keep.
    identity_token: Option<String>,
}

/// A manifest or index as it came.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The `Content-Type`, without parameters.
    pub(super) content_type: String,
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
}

/// Some of a repository's tags.
#[derive(Debug)]
pub(super) struct TagsPage {
    pub(super) tags: Vec<String>,
    /// Where the next page is, if there is one.
    pub(super) next: Option<String>,
}

impl Document {
    /// What would point at it.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(
        transport: &'a Transport,
        config: &'a Config,
        endpoint: Endpoint,
        purpose: Purpose,
        credentials: Option<&'a Credentials>,
    ) -> Self {
        let credentials = credentials.filter(|_| !endpoint.mirror);
        let header = credentials
            .map(|credentials| credentials.registry_token.as_str())
            .filter(|token| !token.is_empty())
            .and_then(bearer);
        Self {
            transport,
            config,
            endpoint,
            purpose,
            credentials,
            proof: Mutex::new(Proof {
                header,
                ..Proof::default()
            }),
        }
    }

    pub(super) fn tries(&self) -> Tries {
        Tries::new(self.config)
    }

    /// What the token server issued for the user's client to keep.
    pub(super) fn identity_token(&self) -> Option<String> {
        self.proof().identity_token.clone()
    }

    /// Asks `/v2/` whether we may.
    pub(super) async fn probe(&self) -> Result<(), RequestError> {
        let request = Request::new(Method::GET, &self.endpoint.address(""))?;
        self.send(request).await.map(drop)
    }

    /// The digest that a tag has, if the registry tells it without sending the manifest.
    pub(super) async fn find_digest(&self, tag: &str) -> Result<Option<Digest>, RequestError> {
        let response = self.send(self.manifest_request(Method::HEAD, tag)?).await?;
        content_digest(&response)
    }

    /// A page of the repository's tags: the first, or the one that the last answer pointed at. Says
    /// where the next one is.
    pub(super) async fn tags(&self, next: Option<&str>) -> Result<TagsPage, RequestError> {
        let mut request = self.request(Method::GET, "tags/list")?;
        if let Some(next) = next {
            let url = request.url.join(next).ok();
            // Another page is of the same registry: the proof is shown there.
            let url = url.filter(|url| url.origin() == request.url.origin());
            request.url = url.ok_or_else(|| RequestError::Redirect {
                url: shown(&request.url),
                to: clean(next, 200),
            })?;
        }
        let request = &request;
        self.tried(|| async move {
            let mut response = self.send(request.clone()).await?;
            let next = response.header(&LINK).and_then(next_link);
            let bytes = response.body(TAGS_BYTES).await?;
            let list: TagsList =
                serde_json::from_slice(&bytes).map_err(|source| RequestError::Json {
                    url: response.url.clone(),
                    source,
                })?;
            Ok(TagsPage {
                tags: list.tags.unwrap_or_default(),
                next,
            })
        })
        .await
    }

    /// The manifest or index of a tag or digest, verified against the digest if it is one, else
    /// against the one that the registry tells.
    pub(super) async fn manifest(
        &self,
        tag: &str,
        expected: Option<&Digest>,
    ) -> Result<Document, RequestError> {
        self.tried(|| self.try_manifest(tag, expected)).await
    }

    /// Asks once, and again as often as it is worth it.
    pub(super) async fn tried<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, RequestError> {
        let mut tries = self.tries();
        loop {
            let error = match ask().await {
                // Where nobody is, another place may be asked at once.
                Err(error) if !is_unreachable(&error) => error,
                outcome => return outcome,
            };
            match tries.pause_after(&error) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn try_manifest(
        &self,
        tag: &str,
        expected: Option<&Digest>,
    ) -> Result<Document, RequestError> {
        let mut response = self.send(self.manifest_request(Method::GET, tag)?).await?;
        let content_type = response.header(&CONTENT_TYPE).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default();
        let content_type = content_type.trim().to_ascii_lowercase();
        let told = content_digest(&response)?;
        let bytes = response.body(MANIFEST_BYTES).await?;
        let expected = expected.or(told.as_ref());
        let digest = verify(&response, &bytes, expected)?;
        Ok(Document {
            content_type,
            bytes,
            digest,
        })
    }

    /// The configuration that `descriptor` points at, whole and verified.
    pub(super) async fn config_blob(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RequestError> {
        self.tried(|| async {
            let mut response = self.blob(descriptor, 0, None).await?;
            let bytes = response.body(CONFIG_BYTES).await?;
            verify(&response, &bytes, Some(&descriptor.digest)).map(|_| bytes)
        })
        .await
    }

    /// The beginning of an answer with a blob's bytes from `start` on, up to `end` where one is
    /// given, if the server knows how (206), else with all of them (200).
    ///
    /// What may not be pushed anywhere is found where its descriptor says, if not here.
    pub(super) async fn blob(
        &self,
        descriptor: &Descriptor,
        start: u64,
        end: Option<u64>,
    ) -> Result<Response, RequestError> {
        let path = format!("blobs/{}", descriptor.digest);
        let mut request = self.request(Method::GET, &path)?;
        if start > 0 || end.is_some() {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            let range = HeaderValue::try_from(format!("bytes={start}-{last}"));
            request
                .headers
                .insert(RANGE, range.expect("digits are visible"));
        }
        let refused = match self.send(request.clone()).await {
            Err(refused @ RequestError::Refused(_)) if !descriptor.urls.is_empty() => refused,
            outcome => return outcome,
        };
        for url in descriptor.urls.iter().take(FOREIGN_URLS) {
            match self.foreign(&request, url).await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    tracing::debug!(url = clean(url, 200), %error, "the next address is asked");
                }
            }
        }
        Err(refused)
    }

    /// Asks somebody else, who is shown no proof.
    async fn foreign(&self, request: &Request, url: &str) -> Result<Response, RequestError> {
        let unusable = || RequestError::Redirect {
            url: shown(&request.url),
            to: clean(url, 200),
        };
        let url = Url::parse(url).map_err(|_| unusable())?;
        let plain = url.scheme() == "http" && self.transport.hosts.is_insecure(&url);
        let userinfo = !url.username().is_empty() || url.password().is_some();
        if userinfo || !(plain || url.scheme() == "https") {
            return Err(unusable());
        }
        let request = Request {
            url,
            ..request.clone()
        };
        let response = self.transport.send(&request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(RequestError::Refused(response.refusal().await)),
        }
    }

    fn manifest_request(&self, method: Method, tag: &str) -> Result<Request, RequestError> {
        let mut request = self.request(method, &format!("manifests/{tag}"))?;
        // Everything else too, so that what berth does not read can be named when it is refused.
        let wanted = [
            media_type::OCI_INDEX,
            media_type::OCI_MANIFEST,
            media_type::DOCKER_LIST,
            media_type::DOCKER_MANIFEST,
            "*/*",
        ];
        let wanted = HeaderValue::try_from(wanted.join(", "));
        request
            .headers
            .insert(ACCEPT, wanted.expect("media types are visible"));
        Ok(request)
    }

    fn repository(&self) -> &str {
        match &self.purpose {
            Purpose::Pull { repository } | Purpose::Push { repository } => repository,
            Purpose::Login => "",
        }
    }

    /// Sends a request with a proof. Every answer but a success is an error.
    pub(super) async fn send(&self, request: Request) -> Result<Response, RequestError> {
        let response = self.answer(&request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.refused(response, &request).await),
        }
    }

    /// Sends a request with the proof at hand; finds one and sends it again if it is not enough.
    pub(super) async fn answer(&self, request: &Request) -> Result<Response, RequestError> {
        let mut request = request.clone();
        // An upload may go to somewhere else, where we need not say who we are.
        let ours = self.endpoint.is_origin_of(&request.url);
        let mut renewed = false;
        loop {
            let version = {
                let proof = self.proof();
                request.authorization = proof.header.clone().filter(|_| ours);
                proof.version
            };
            let response = self.transport.send(&request).await?;
            let wanted = response.status() == StatusCode::UNAUTHORIZED && !response.elsewhere;
            if !wanted || renewed || !ours {
                return Ok(response);
            }
            if self.proof().version == version {
                let challenges = Challenge::all(response.headers());
                match self.prove(&request, &challenges).await? {
                    Some(header) => self.replace_proof(header),
                    None => return Ok(response),
                }
            }
            renewed = true;
        }
    }

    /// Where in this repository something is.
    pub(super) fn request(&self, method: Method, path: &str) -> Result<Request, RequestError> {
        let path = format!("{}/{path}", self.repository());
        let mut request = Request::new(method, &self.endpoint.address(&path))?;
        if let Some(namespace) = &self.endpoint.namespace {
            // What containerd tells mirrors that serve several registries, too.
            request.url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(request)
    }

    /// The address that an answer names, which is not less safe than the one that was asked.
    pub(super) fn location(&self, response: &Response) -> Result<Url, RequestError> {
        let nowhere = || RequestError::Location {
            url: response.url.clone(),
        };
        let text = response.header(&LOCATION).ok_or_else(nowhere)?;
        let base = Url::parse(&response.url).map_err(|_| nowhere())?;
        let url = base.join(text).map_err(|_| nowhere())?;
        let downgrade = url.scheme() == "http" && base.scheme() == "https";
        let userinfo = !url.username().is_empty() || url.password().is_some();
        if downgrade || userinfo || !matches!(url.scheme(), "http" | "https") {
            return Err(RequestError::Redirect {
                url: response.url.clone(),
                to: clean(&shown(&url), 200),
            });
        }
        Ok(url)
    }

    /// A reply to HEAD has no body to say why, so it is asked again.
    pub(super) async fn refused(&self, response: Response, request: &Request) -> RequestError {
        if request.method == Method::HEAD {
            let again = Request {
                method: Method::GET,
                ..request.clone()
            };
            if let Ok(again) = self.transport.send(&again).await
                && again.status() == response.status()
            {
                return RequestError::Refused(again.refusal().await);
            }
        }
        RequestError::Refused(response.refusal().await)
    }

    fn replace_proof(&self, header: HeaderValue) {
        let mut proof = self.proof();
        proof.header = Some(header);
        proof.version += 1;
    }

    fn proof(&self) -> std::sync::MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a challenge; `None` if what we would answer was refused already.
    async fn prove(
        &self,
        request: &Request,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, RequestError> {
        let of = |scheme: &str| challenges.iter().find(|known| known.scheme == scheme);
        // A token the user gave is all there is.
        if self
            .credentials
            .is_some_and(|given| !given.registry_token.is_empty())
        {
            return Ok(None);
        }
        if let Some((challenge, realm)) =
            of("bearer").and_then(|known| Some((known, known.parameter("realm")?)))
        {
            let token = self.token(request, challenge, realm).await;
            return token.map(Some).map_err(|source| match source {
                error @ (RequestError::TokenReply { .. } | RequestError::Realm { .. }) => error,
                source => RequestError::Token {
                    realm: clean(realm, 200),
                    source: Box::new(source),
                },
            });
        }
        if of("basic").is_some() {
            let header = self.basic().ok_or_else(|| RequestError::NoCredentials {
                method: request.method.clone(),
                url: shown(&request.url),
            })?;
            // Shown and not taken.
            return Ok(Some(header).filter(|header| request.authorization.as_ref() != Some(header)));
        }
        match challenges.first() {
            None => Ok(None),
            Some(other) => Err(RequestError::Challenge {
                method: request.method.clone(),
                url: shown(&request.url),
                challenge: clean(&other.scheme, 64),
            }),
        }
    }

    fn basic(&self) -> Option<HeaderValue> {
        let given = self
            .credentials
            .filter(|given| !given.username.is_empty())?;
        let pair = STANDARD.encode(format!("{}:{}", given.username, given.password));
        let mut header = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Gets a token from the server that the registry named.
    async fn token(
        &self,
        request: &Request,
        challenge: &Challenge,
        realm: &str,
    ) -> Result<HeaderValue, RequestError> {
        let request = self.token_request(request, challenge, realm)?;
        let realm = shown(&request.url);
        let mut response = self.transport.send(&request).await?;
        if !response.status().is_success() {
            return Err(RequestError::Refused(response.refusal().await));
        }
        let body = response.body(TOKEN_REPLY_BYTES).await?;
        let reply: TokenReply = serde_json::from_slice(&body).unwrap_or_default();
        let token = [reply.token, reply.access_token].into_iter().flatten();
        let header = token
            .filter(|token| !token.is_empty())
            .find_map(|token| bearer(&token));
        if let Some(issued) = reply.refresh_token.filter(|issued| !issued.is_empty()) {
            self.proof().identity_token = Some(issued);
        }
        header.ok_or(RequestError::TokenReply { realm })
    }

    fn token_request(
        &self,
        request: &Request,
        challenge: &Challenge,
        realm: &str,
    ) -> Result<Request, RequestError> {
        let unusable = || RequestError::Realm {
            url: shown(&request.url),
            realm: clean(realm, 200),
        };
        let mut url = Url::parse(realm).map_err(|_| unusable())?;
        // A registry that was reached over TLS does not get the password sent over plain HTTP.
        let plain = url.scheme() == "http";
        let fine = url.scheme() == "https"
            || plain && (request.url.scheme() == "http" || self.transport.hosts.is_insecure(&url));
        if !fine || !url.username().is_empty() || url.password().is_some() {
            return Err(unusable());
        }
        let service = challenge.parameter("service").unwrap_or_default();
        let scope = match (&self.purpose, challenge.parameter("scope")) {
            (_, Some(asked)) => asked.to_owned(),
            (Purpose::Pull { repository }, None) => format!("repository:{repository}:pull"),
            (Purpose::Push { repository }, None) => format!("repository:{repository}:pull,push"),
            (Purpose::Login, None) => String::new(),
        };
        let login = self.purpose == Purpose::Login;
        let identity = self
            .credentials
            .map(|given| given.identity_token.as_str())
            .filter(|token| !token.is_empty());
        if let Some(identity) = identity {
            let form = form(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("refresh_token", identity),
                ("scope", &scope),
                ("access_type", if login { "offline" } else { "" }),
            ]);
            return Ok(Request {
                method: Method::POST,
                url,
                headers: HeaderMap::new(),
                authorization: None,
                body: Body::Form(form),
            });
        }
        let authorization = self.basic();
        let user = self.credentials.filter(|_| authorization.is_some());
        let user = user.map_or("", |given| given.username.as_str());
        let mut query = vec![("service", service)];
        query.extend(scope.split(' ').map(|scope| ("scope", scope)));
        query.push(("account", user));
        if login {
            query.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
        }
        url.query_pairs_mut()
            .extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
        Ok(Request {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization,
            body: Body::Empty,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

/// The reply to `tags/list`; `null` where there are none.
#[derive(Deserialize)]
struct TagsList {
    tags: Option<Vec<String>>,
}

/// Where `<…>; rel="next"` points (RFC 8288).
fn next_link(header: &str) -> Option<String> {
    let (target, parameters) = header.trim().strip_prefix('<')?.split_once('>')?;
    let mut parameters = parameters.split(';').map(str::trim);
    parameters
        .any(|parameter| matches!(parameter, "rel=next" | "rel=\"next\""))
        .then(|| target.to_owned())
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// `application/x-www-form-urlencoded`, without the fields that are empty.
fn form(fields: &[(&str, &str)]) -> String {
    let mut url = Url::parse("form:").expect("it is an address");
    url.query_pairs_mut()
        .extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty()));
    url.query().unwrap_or_default().to_owned()
}

pub(super) fn content_digest(response: &Response) -> Result<Option<Digest>, RequestError> {
    let Some(text) = response.header(&CONTENT_DIGEST) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|source| RequestError::DigestHeader {
            url: response.url.clone(),
            source,
        })
}

/// The digest of some bytes by the algorithm of `like`.
pub(super) fn digest_of(bytes: &[u8], algorithm: Algorithm) -> Digest {
    let hash = match algorithm {
        Algorithm::Sha256 => digest(&SHA256, bytes),
        Algorithm::Sha512 => digest(&SHA512, bytes),
    };
    let name = algorithm.name();
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("{name}:{hex}")
        .parse()
        .expect("a hash prints as a digest")
}

/// The digest of what came, which is the one expected.
fn verify(
    response: &Response,
    bytes: &[u8],
    expected: Option<&Digest>,
) -> Result<Digest, RequestError> {
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let found = digest_of(bytes, algorithm);
    match expected {
        Some(expected) if *expected != found => Err(RequestError::Mismatch {
            url: response.url.clone(),
            expected: expected.clone(),
            found,
        }),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_and_has_no_empty_fields() {
        let encoded = form(&[("a", "x y&z"), ("b", ""), ("c", "repository:x/y:pull")]);
        assert_eq!(encoded, "a=x+y%26z&c=repository%3Ax%2Fy%3Apull");
    }

    #[test]
    fn a_page_says_where_the_next_one_is() {
        for (header, next) in [
            (
                "</v2/a/tags/list?last=b&n=2>; rel=\"next\"",
                Some("/v2/a/tags/list?last=b&n=2"),
            ),
            ("<x>;rel=next", Some("x")),
            ("<x>; title=\"a\"; rel=\"next\"", Some("x")),
            ("<x>; rel=\"prev\"", None),
            ("<x>", None),
            ("x; rel=\"next\"", None),
            ("", None),
        ] {
            assert_eq!(next_link(header).as_deref(), next, "{header}");
        }
    }

    #[test]
    fn digests_are_those_of_the_bytes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest_of(b"", Algorithm::Sha256).to_string(), empty);
        assert_eq!(digest_of(b"", Algorithm::Sha512).hex().len(), 128);
    }
}
