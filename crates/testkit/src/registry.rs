//! Debian's `docker-registry` on a free loopback port, with a scratch root, gone with its value.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use tempfile::TempDir;
use vocab::Digest;

use crate::http::{self, Reply};
use crate::image::{self, Image};
use crate::tokens::{SERVICE, TokenServer};

/// Who may use a protected registry.
pub const USER: &str = "ann";
/// With which password.
pub const PASSWORD: &str = "secret";
/// Both as htpasswd wants them (bcrypt, cost 5).
const HTPASSWD: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The certificate of a registry that speaks TLS, which nobody trusts unless told to: its own
/// issuer, good for `127.0.0.1`, `::ffff:127.0.0.1` and `localhost`.
pub const CERTIFICATE: &str = include_str!("../fixtures/registry.crt");
/// The key to it. It protects nothing.
pub(crate) const KEY: &str = include_str!("../fixtures/registry.key");
/// A certificate by which a client is known, its own issuer; and the key to it.
pub const CLIENT_CERTIFICATE: &str = include_str!("../fixtures/client.crt");
/// The key to it. It protects nothing either.
pub const CLIENT_KEY: &str = include_str!("../fixtures/client.key");

/// How long it may take to come up on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    kind: Kind,
    /// Its storage, configuration and log.
    root: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Protected,
    Tls,
    Mutual,
    Tokens,
}

impl Registry {
    /// Starts one that anybody may use.
    pub fn start() -> Self {
        Self::run(Kind::Open, None)
    }

    /// Starts one that only [`USER`] may use.
    pub fn start_protected() -> Self {
        Self::run(Kind::Protected, None)
    }

    /// The same registry again, with all that was pushed to it, speaking TLS from now on (with
    /// [`CERTIFICATE`]) on another port.
    #[must_use]
    pub fn into_tls(mut self) -> Self {
        let root = std::mem::replace(&mut self.root, scratch());
        drop(self);
        Self::run(Kind::Tls, Some(root))
    }

    /// The same, and it speaks to those only who show [`CLIENT_CERTIFICATE`].
    #[must_use]
    pub fn into_mutual_tls(mut self) -> Self {
        let root = std::mem::replace(&mut self.root, scratch());
        drop(self);
        Self::run(Kind::Mutual, Some(root))
    }

    /// The same, and it believes the tokens of that server only.
    #[must_use]
    pub fn into_tokens(mut self, tokens: &TokenServer) -> Self {
        let root = std::mem::replace(&mut self.root, scratch());
        drop(self);
        fs::write(root.path().join("realm"), tokens.realm()).unwrap();
        Self::run(Kind::Tokens, Some(root))
    }

    fn run(kind: Kind, root: Option<TempDir>) -> Self {
        let root = root.unwrap_or_else(scratch);
        let place = root.path().display();
        let tls = match kind {
            Kind::Tls | Kind::Mutual => {
                fs::write(root.path().join("crt"), CERTIFICATE).unwrap();
                fs::write(root.path().join("key"), KEY).unwrap();
                fs::write(root.path().join("clients"), CLIENT_CERTIFICATE).unwrap();
                let clients = match kind {
                    Kind::Mutual => format!(", clientcas: ['{place}/clients']"),
                    _ => String::new(),
                };
                format!(", tls: {{certificate: '{place}/crt', key: '{place}/key'{clients}}}")
            }
            Kind::Open | Kind::Protected | Kind::Tokens => String::new(),
        };
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\n\
             http: {{addr: '127.0.0.1:0', secret: testkit{tls}}}\n\
             storage: {{filesystem: {{rootdirectory: '{place}/data'}}, delete: {{enabled: true}}}}\n\
             validation: {{manifests: {{urls: {{allow: ['.*']}}}}}}\n"
        );
        if kind == Kind::Protected {
            fs::write(root.path().join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: testkit, path: '{place}/htpasswd'}}}}\n"
            ));
        }
        if kind == Kind::Tokens {
            fs::write(root.path().join("crt"), CERTIFICATE).unwrap();
            let realm = fs::read_to_string(root.path().join("realm")).unwrap();
            config.push_str(&format!(
                "auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {SERVICE}, \
                 rootcertbundle: '{place}/crt'}}}}\n"
            ));
        }
        let config_path = root.path().join("config.yml");
        let log_path = root.path().join("log");
        fs::write(&config_path, config).unwrap();
        let log = fs::File::create(&log_path).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the registry is a program")]
        let child = Command::new(crate::tool("docker-registry"))
            .arg("serve")
            .arg(&config_path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // From here on the value ends the process, whatever happens.
        let mut registry = Self {
            child,
            address: String::new(),
            kind,
            root,
        };
        crate::eventually(START, || {
            let log = fs::read_to_string(&log_path).unwrap();
            assert!(
                registry.child.try_wait().unwrap().is_none(),
                "docker-registry ended: {log}"
            );
            let Some((_, rest)) = log.split_once("listening on ") else {
                return false;
            };
            let Some((address, _)) = rest.split_once(['"', ',']) else {
                return false;
            };
            address.clone_into(&mut registry.address);
            true
        });
        registry
    }

    /// `127.0.0.1:port`, which is also the domain of its images.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has logged: one line for each request, among others.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap()
    }

    /// Sends a request as [`USER`], if it is protected.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Reply {
        let proof = format!("{USER}:{PASSWORD}");
        let proof = base64::engine::general_purpose::STANDARD.encode(proof);
        let proof = format!("Basic {proof}");
        let mut headers = Vec::new();
        if self.kind == Kind::Protected {
            headers.push(("Authorization", proof.as_str()));
        }
        if let Some(content_type) = content_type {
            headers.push(("Content-Type", content_type));
        }
        http::request(&self.address, method, target, &headers, body)
    }

    /// Puts a blob into `repository`.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = image::sha256(bytes);
        let begun = self.request(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            None,
            b"",
        );
        assert_eq!(begun.status, 202, "{begun:?}");
        let location = begun.header("location").unwrap();
        let target = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap()..],
            None => location,
        };
        let joint = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{joint}digest={digest}");
        let done = self.request("PUT", &target, Some("application/octet-stream"), bytes);
        assert_eq!(done.status, 201, "{done:?}");
        digest
    }

    /// Puts a manifest or index into `repository` under a tag or its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let target = format!("/v2/{repository}/manifests/{tag}");
        let reply = self.request("PUT", &target, Some(media_type), bytes);
        assert_eq!(reply.status, 201, "{reply:?}");
        image::sha256(bytes)
    }

    /// The exact bytes of a manifest or index.
    pub fn manifest(&self, repository: &str, tag: &str) -> Vec<u8> {
        use vocab::manifest::media_type as types;
        let known = [
            types::OCI_MANIFEST,
            types::OCI_INDEX,
            types::DOCKER_MANIFEST,
            types::DOCKER_LIST,
        ];
        // Who does not say what they read is sent what nobody reads any more.
        let known = known.join(", ");
        let target = format!("/v2/{repository}/manifests/{tag}");
        let reply = http::request(&self.address, "GET", &target, &[("Accept", &known)], b"");
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// Puts an image into `repository` under a tag; answers the digest of its manifest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Digest {
        self.push_blob(repository, &image.config);
        for layer in &image.layers {
            self.push_blob(repository, &layer.blob);
        }
        self.push_manifest(repository, tag, &image.media_type, &image.manifest)
    }

    /// Puts images into `repository` and an index of them under a tag; answers the index's digest.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[&Image]) -> Digest {
        for image in images {
            self.push(repository, &image.digest().to_string(), image);
        }
        let index = image::index(images);
        let media_type = vocab::manifest::media_type::OCI_INDEX;
        self.push_manifest(repository, tag, media_type, &index)
    }
}

fn scratch() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("berth-registry-").tempdir().unwrap()
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that a clean end would save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Compression;
    use vocab::Platform;

    #[test]
    fn a_registry_gives_back_what_was_pushed() {
        let registry = Registry::start_protected();
        let tar = image::tar(&[("a/", b""), ("a/b", b"text")]);
        let pushed = Image::new(&[(tar, Compression::Gzip)], &Platform::host());
        assert_eq!(registry.push("some/where", "v1", &pushed), pushed.digest());
        let target = format!("/v2/some/where/blobs/{}", pushed.id());
        let reply = registry.request("GET", &target, None, b"");
        assert_eq!((reply.status, reply.body), (200, pushed.config));
        assert_eq!(
            http::request(registry.address(), "GET", "/v2/", &[], b"").status,
            401
        );
        assert!(registry.log().contains("/v2/some/where/manifests/v1"));
    }
}
