//! Image names: what users type, and what registries know.
//!
//! The grammar is that of the distribution project's `reference` package: a domain is there when
//! the first component has a dot or a colon, or is `localhost`; Docker Hub is `docker.io`, and a
//! single-word path on it stands under `library/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Characters in domain and path together (distribution: `NameTotalLengthMax`).
pub const NAME_LENGTH_MAX: usize = 255;
/// Characters in a tag.
pub const TAG_LENGTH_MAX: usize = 128;
/// Where a name without a domain lives.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag meant when none is typed.
pub const DEFAULT_TAG: &str = "latest";

/// A full image name: domain, path, and a tag or digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It has capital letters in the path.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It is longer than registries accept.
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// It is a bare id, which cannot be a name.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
}

impl Reference {
    /// The registry's host, with its port if any: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was named.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same, with `latest` where neither tag nor digest was named.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository under another tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository by content.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Domain and path: `docker.io/library/nginx`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The whole name as people write it: `nginx:latest`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }

    /// The repository as people write it: `nginx`, `localhost:5000/x`. Docker Hub is named where
    /// the rest alone would be read as something else (`docker.io/example.org/x`).
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let short = match self.path.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.path,
        };
        let mistaken = match short.split_once('/') {
            Some((first, _)) => looks_like_domain(first),
            None => looks_like_id(short),
        };
        if mistaken {
            return self.repository();
        }
        short.to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a name's first component is a registry.
fn looks_like_domain(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn looks_like_id(name: &str) -> bool {
    let digit = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 64 && name.bytes().all(digit)
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    /// Reads what a user typed; no tag is added (see [`Reference::or_latest`]).
    fn from_str(typed: &str) -> Result<Self, ParseReferenceError> {
        if looks_like_id(typed) {
            return Err(ParseReferenceError::LooksLikeId(typed.to_owned()));
        }
        let (rest, digest) = match typed.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse().map_err(|_| ParseReferenceError::Format)?),
            ),
            None => (typed, None),
        };
        let (domain, remainder) = match rest.split_once('/') {
            Some((first, rest)) if looks_like_domain(first) => (first, rest),
            _ => (DEFAULT_DOMAIN, rest),
        };
        let domain = if domain == "index.docker.io" {
            DEFAULT_DOMAIN
        } else {
            domain
        };
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseReferenceError::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) {
            return Err(ParseReferenceError::Format);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ParseReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return Err(ParseReferenceError::TooLong);
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = ParseReferenceError;

    fn try_from(text: String) -> Result<Self, ParseReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port_fine =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let host_fine = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    port_fine && host_fine
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= TAG_LENGTH_MAX
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_as_docker_understands_them() {
        let hex = "a".repeat(64);
        let by_digest = format!("x@sha256:{hex}");
        let printed = format!("docker.io/library/x@sha256:{hex}");
        for (typed, full) in [
            ("nginx", "docker.io/library/nginx"),
            ("nginx:1.2", "docker.io/library/nginx:1.2"),
            ("user/app", "docker.io/user/app"),
            ("docker.io/nginx", "docker.io/library/nginx"),
            ("index.docker.io/nginx", "docker.io/library/nginx"),
            ("localhost/x", "localhost/x"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
            ("[::1]:5000/a/b", "[::1]:5000/a/b"),
            ("example.com/a__b/c--d:T", "example.com/a__b/c--d:T"),
            (by_digest.as_str(), printed.as_str()),
        ] {
            assert_eq!(
                typed.parse::<Reference>().unwrap().to_string(),
                full,
                "{typed}"
            );
        }
    }

    #[test]
    fn people_read_the_familiar_form() {
        for typed in [
            "nginx:1.2",
            "user/app",
            "localhost:5000/x:y",
            "example.com/library/z",
        ] {
            assert_eq!(typed.parse::<Reference>().unwrap().familiar(), typed);
        }
    }

    #[test]
    fn the_familiar_form_is_never_another_image() {
        let id = format!("docker.io/library/{}", "a".repeat(64));
        for typed in ["docker.io/example.org/x", "docker.io/localhost/x", &id] {
            let name: Reference = typed.parse().unwrap();
            assert_eq!(name.familiar(), typed);
            assert_eq!(name.familiar().parse(), Ok(name));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let id = "a".repeat(64);
        let long = "a".repeat(300);
        for typed in [
            "",
            ":x",
            "a/",
            "/a",
            "a//b",
            "UPPER",
            "a:b:c",
            "a@sha256:x",
            "-a",
            "a_-b",
            "a..b",
            "a b",
            &id,
            &long,
        ] {
            assert!(typed.parse::<Reference>().is_err(), "{typed}");
        }
    }
}
