//! Which places hold the images of a domain, and which hosts may be spoken to without TLS.

use std::net::IpAddr;

use http::uri::Authority;
use reqwest::Url;
use vocab::reference::DEFAULT_DOMAIN;

use super::{Config, NewClientError};

/// Where the images of `docker.io` really are.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One place to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host, port, and the path that stands before `/v2/`, without a slash at the end.
    base: String,
    /// What stands before every repository, with a slash at the end.
    prefix: String,
    /// The domain that is meant, where one mirror serves several.
    pub(super) namespace: Option<String>,
    /// Whether it only repeats what another place says: it gets no credentials, and whatever
    /// goes wrong with it, the other place is asked.
    pub(super) mirror: bool,
}

impl Endpoint {
    /// The address of `path` beneath `/v2/`.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}/v2/{}{path}", self.base, self.prefix)
    }

    /// A place that is none's mirror.
    fn origin(base: String) -> Self {
        Self {
            base,
            prefix: String::new(),
            namespace: None,
            mirror: false,
        }
    }

    /// Whether `url` is of the same scheme, host and port.
    pub(super) fn is_origin_of(&self, url: &Url) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin())
    }
}

/// What the configuration says about hosts.
#[derive(Debug)]
pub(super) struct Hosts {
    insecure: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
    rules: Vec<Rule>,
}

/// Mirrors of everything whose name matches.
#[derive(Debug)]
struct Rule {
    /// Of domains, or, with a slash, of domains and paths; a star stands for anything.
    pattern: String,
    mirrors: Vec<Endpoint>,
}

impl Rule {
    fn suits(&self, domain: &str, path: &str) -> bool {
        match self.pattern.contains('/') {
            true => matches(&self.pattern, &format!("{domain}/{path}")),
            false => matches(&self.pattern, domain),
        }
    }
}

/// Whether `text` is `pattern` with something in place of each star.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.any(|at| matches(rest, &text[at..]))
}

impl Hosts {
    pub(super) fn new(config: &Config) -> Result<Self, NewClientError> {
        let mut hosts = Self {
            insecure: Vec::new(),
            networks: vec![
                (IpAddr::from([127, 0, 0, 0]), 8),
                (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
            ],
            rules: Vec::new(),
        };
        for entry in &config.insecure {
            hosts.add_insecure(entry)?;
        }
        for entry in &config.mirrors {
            hosts.add_mirror(DEFAULT_DOMAIN, mirror(entry)?);
        }
        for (pattern, entry) in &config.mirrors_of {
            if !is_pattern(pattern) {
                return Err(NewClientError::Mirror {
                    entry: format!("{pattern}={entry}"),
                    reason: "a domain, with stars or a path if you like, is wanted before it",
                });
            }
            let mut endpoint = mirror(entry)?;
            // Marked, and filled in for each name.
            endpoint.namespace = Some(String::new());
            hosts.add_mirror(pattern, endpoint);
        }
        // Who names more knows better.
        hosts
            .rules
            .sort_by_key(|rule| std::cmp::Reverse(rule.pattern.len()));
        Ok(hosts)
    }

    fn add_mirror(&mut self, pattern: &str, mirror: Endpoint) {
        match self.rules.iter_mut().find(|rule| rule.pattern == pattern) {
            Some(rule) => rule.mirrors.push(mirror),
            None => self.rules.push(Rule {
                pattern: pattern.to_owned(),
                mirrors: vec![mirror],
            }),
        }
    }

    /// The mirrors of one repository: those of the longest pattern that its name matches.
    pub(super) fn mirrors(&self, domain: &str, path: &str) -> Vec<Endpoint> {
        let rule = self.rules.iter().find(|rule| rule.suits(domain, path));
        let mirrors = rule.into_iter().flat_map(|rule| &rule.mirrors);
        mirrors
            .map(|mirror| Endpoint {
                namespace: mirror.namespace.as_ref().map(|_| domain.to_owned()),
                ..mirror.clone()
            })
            .collect()
    }

    fn add_insecure(&mut self, entry: &str) -> Result<(), NewClientError> {
        let wrong = || NewClientError::Insecure {
            entry: entry.to_owned(),
        };
        // dockerd takes an address with a scheme too, and warns.
        let host = entry
            .trim_start_matches("http://")
            .trim_start_matches("https://")
            .trim_end_matches('/');
        if let Some((address, bits)) = host.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits: u8 = bits.parse().map_err(|_| wrong())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            if bits > most {
                return Err(wrong());
            }
            self.networks.push((address, bits));
        } else {
            let authority: Authority = host.parse().map_err(|_| wrong())?;
            if authority.host().is_empty() || host.contains('@') {
                return Err(wrong());
            }
            self.insecure.push(host.to_ascii_lowercase());
        }
        Ok(())
    }

    /// Whether plain HTTP and unverified certificates are accepted from the host of `url`.
    pub(super) fn is_insecure(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            let mut networks = self.networks.iter();
            if networks.any(|(network, bits)| contains(*network, *bits, address)) {
                return true;
            }
        }
        let port = url.port_or_known_default().unwrap_or_default();
        is_localhost(host)
            || self.insecure.iter().any(|listed| {
                listed == host || listed == bare || *listed == format!("{host}:{port}")
            })
    }

    /// The places where `domain` itself answers, best first.
    ///
    /// An insecure registry is asked over HTTPS first: it may have a certificate, only not one
    /// that can be verified.
    pub(super) fn origins(&self, domain: &str) -> Vec<Endpoint> {
        if domain == DEFAULT_DOMAIN {
            return vec![Endpoint::origin(format!("https://{DOCKER_HUB}"))];
        }
        let secure = format!("https://{domain}");
        let insecure = Url::parse(&secure).is_ok_and(|url| self.is_insecure(&url));
        let mut endpoints = vec![Endpoint::origin(secure)];
        if insecure {
            endpoints.push(Endpoint::origin(format!("http://{domain}")));
        }
        endpoints
    }
}

/// Whether a host is this one by name; RFC 6761 §6.3 reserves the names.
pub(super) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether an address never leaves this host, so that no proxy can help.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        is_localhost(host)
            || bare
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

fn mirror(entry: &str) -> Result<Endpoint, NewClientError> {
    let wrong = |reason| NewClientError::Mirror {
        entry: entry.to_owned(),
        reason,
    };
    let url = Url::parse(entry).map_err(|_| wrong("it is not an address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("an address with http:// or https:// is wanted"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must not have a query or fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must not have a user name or password"));
    }
    let whole = url.as_str().trim_end_matches('/');
    // What stands behind `/v2/` belongs to the names.
    let (base, prefix) = match whole.split_once("/v2/") {
        Some((base, prefix)) => (base, format!("{prefix}/")),
        None => (whole.strip_suffix("/v2").unwrap_or(whole), String::new()),
    };
    Ok(Endpoint {
        base: base.to_owned(),
        prefix,
        namespace: None,
        mirror: true,
    })
}

fn is_pattern(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"*.-_:/[]".contains(&b);
    !text.is_empty() && !text.starts_with('/') && !text.contains("//") && text.bytes().all(fine)
}

/// Whether the first `bits` of both addresses are the same.
fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let wide = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((network, width), (address, other_width)) = (wide(network), wide(address));
    width == other_width && (bits == 0 || (network ^ address) >> (128 - u32::from(bits)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(insecure: &[&str], mirrors: &[&str]) -> Hosts {
        Hosts::new(&Config {
            insecure: insecure.iter().map(|&text| text.to_owned()).collect(),
            mirrors: mirrors.iter().map(|&text| text.to_owned()).collect(),
            ..Config::default()
        })
        .unwrap()
    }

    #[test]
    fn only_loopback_and_what_is_listed_may_do_without_tls() {
        let hosts = hosts(
            &["reg.lan", "other.lan:5000", "10.1.0.0/16", "fd00::/8"],
            &[],
        );
        for (address, insecure) in [
            ("https://localhost:5000", true),
            ("https://127.3.2.1", true),
            ("https://[::1]:5000", true),
            ("https://reg.lan", true),
            ("https://reg.lan:444", true),
            ("https://other.lan:5000", true),
            ("https://other.lan:5001", false),
            ("https://10.1.255.255", true),
            ("https://10.2.0.0", false),
            ("https://[fd12::1]", true),
            ("https://[fe80::1]", false),
            ("https://example.com", false),
            ("https://127.0.0.1.example.com", false),
            ("https://localhost.example.com", false),
        ] {
            let url = Url::parse(address).unwrap();
            assert_eq!(hosts.is_insecure(&url), insecure, "{address}");
        }
    }

    fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|e| e.address("x")).collect()
    }

    #[test]
    fn each_domain_has_its_places() {
        let hosts = hosts(&[], &["https://mirror.lan/hub/"]);
        let mirrors = |domain| addresses(&hosts.mirrors(domain, "library/a"));
        let origins = |domain| addresses(&hosts.origins(domain));
        assert_eq!(mirrors("docker.io"), ["https://mirror.lan/hub/v2/x"]);
        assert_eq!(mirrors("example.com"), [""; 0]);
        assert_eq!(origins("docker.io"), ["https://registry-1.docker.io/v2/x"]);
        assert_eq!(origins("example.com"), ["https://example.com/v2/x"]);
        assert_eq!(
            origins("localhost:5000"),
            ["https://localhost:5000/v2/x", "http://localhost:5000/v2/x"]
        );
    }

    #[test]
    fn the_longest_pattern_says_where_to_look() {
        let rules = [
            ("*", "https://all.lan"),
            ("docker.io", "https://hub.lan/v2/"),
            ("*.example.com", "https://ex.lan"),
            ("*.example.com", "https://ex2.lan/sub"),
            ("docker.io/library/*", "https://harbor.lan/v2/official/"),
            ("reg.lan:5000", "http://127.0.0.1:5000"),
        ];
        let config = Config {
            mirrors_of: rules.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec(),
            ..Config::default()
        };
        let hosts = Hosts::new(&config).unwrap();
        for (domain, path, wanted) in [
            ("docker.io", "team/app", &["https://hub.lan/v2/x"][..]),
            (
                "docker.io",
                "library/nginx",
                &["https://harbor.lan/v2/official/x"],
            ),
            (
                "a.b.example.com",
                "x",
                &["https://ex.lan/v2/x", "https://ex2.lan/sub/v2/x"],
            ),
            ("example.com", "x", &["https://all.lan/v2/x"]),
            ("reg.lan:5000", "x", &["http://127.0.0.1:5000/v2/x"]),
            ("reg.lan", "x", &["https://all.lan/v2/x"]),
        ] {
            let found = hosts.mirrors(domain, path);
            assert_eq!(addresses(&found), wanted, "{domain}/{path}");
            assert!(found.iter().all(|e| e.namespace.as_deref() == Some(domain)));
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*.b", "a.b", true),
            ("*.b", "b", false),
            ("a/*/c", "a/b/b/c", true),
            ("a*a", "a", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        for entry in ["", "10.0.0.0/33", "10.0.0/8", "a b", "user@host"] {
            let config = Config {
                insecure: vec![entry.to_owned()],
                ..Config::default()
            };
            assert!(Hosts::new(&config).is_err(), "{entry}");
        }
        for entry in [
            "",
            "mirror",
            "ftp://x",
            "https://x?y",
            "https://u:p@x",
            "https://",
        ] {
            let config = Config {
                mirrors: vec![entry.to_owned()],
                ..Config::default()
            };
            assert!(Hosts::new(&config).is_err(), "{entry}");
            let config = Config {
                mirrors_of: vec![("*".to_owned(), entry.to_owned())],
                ..Config::default()
            };
            assert!(Hosts::new(&config).is_err(), "{entry}");
        }
        for pattern in ["", "A", "https://x", "/x", "a b"] {
            let config = Config {
                mirrors_of: vec![(pattern.to_owned(), "https://x".to_owned())],
                ..Config::default()
            };
            assert!(Hosts::new(&config).is_err(), "{pattern}");
        }
    }
}
