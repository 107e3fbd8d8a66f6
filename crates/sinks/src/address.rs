//! What `proto://host:port` means.

/// The parts of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    /// Before `://`.
    pub(crate) scheme: &'a str,
    /// What follows, as far as the path.
    pub(crate) host: &'a str,
    /// From the first slash.
    pub(crate) path: &'a str,
}

/// Schemes that Docker takes for an address rather than for a host.
const SCHEMES: [&str; 5] = ["tcp", "tcp+tls", "udp", "unix", "unixgram"];

/// Takes an address apart; `None` for what has none of the known schemes.
pub(crate) fn split(text: &str) -> Option<Url<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    if !SCHEMES.contains(&scheme) {
        return None;
    }
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    Some(Url { scheme, host, path })
}

/// Host and port; an address of IPv6 stands in brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    (bracketed || !host.contains(':')).then_some((host, port))
}

/// With this port if there is none.
pub(crate) fn with_port(text: &str, port: u16) -> String {
    match host_and_port(text) {
        Some(_) => text.to_owned(),
        None => format!("{text}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let of = |text| split(text).map(|url| (url.scheme, url.host, url.path));
        assert_eq!(of("tcp://a:1"), Some(("tcp", "a:1", "")));
        assert_eq!(of("unix:///dev/log"), Some(("unix", "", "/dev/log")));
        assert_eq!(
            of("tcp+tls://[::1]:6514/x"),
            Some(("tcp+tls", "[::1]:6514", "/x"))
        );
        assert_eq!(of("http://a"), None);
        assert_eq!(of("a:1"), None);
        assert_eq!(with_port("[::1]", 514), "[::1]:514");
        assert_eq!(with_port("[::1]:9", 514), "[::1]:9");
        assert_eq!(with_port("a", 514), "a:514");
    }
}
