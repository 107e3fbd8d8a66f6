//! The texts of `/etc/resolv.conf` and `/etc/hosts` inside a container.

use std::net::IpAddr;

/// What a container's owner asked for in place of the host's settings.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Name servers; empty takes the host's.
    pub servers: Vec<IpAddr>,
    /// Search domains; empty takes the host's, a single `.` is none.
    pub search: Vec<String>,
    /// Options such as `ndots:2`; empty takes the host's.
    pub options: Vec<String>,
}

/// A container's `resolv.conf`, made from the host's.
pub fn resolv_conf(host: &str, wanted: &Dns) -> String {
    let _ = (host, wanted);
    todo!()
}

/// A container's `hosts`: the loopback names, extra hosts, then its own addresses.
///
/// `extra` holds pairs of name and address as `--add-host` gives them.
pub fn hosts(
    hostname: &str,
    domain: &str,
    addresses: &[IpAddr],
    extra: &[(String, IpAddr)],
) -> String {
    let _ = (hostname, domain, addresses, extra);
    todo!()
}
