//! The texts of `/etc/resolv.conf` and `/etc/hosts` inside a container, as Docker writes them.
//!
//! A container's loopback is its own, so the host's loopback name servers mean nothing to it and
//! are left out; with none left, Google's public ones serve, as in Docker. What was asked for
//! explicitly is taken as it is.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Serve where the host has no name server that a container can reach.
const FALLBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
];

/// Address of systemd-resolved's stub, which forwards to the servers in [`RESOLVED`].
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

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

/// The host's resolver settings: `/etc/resolv.conf`, or what systemd-resolved really asks where
/// that names nothing but its stub. A host without the file has no settings.
pub fn host_resolv_conf() -> io::Result<String> {
    let text = match fs::read_to_string("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    if parse(&text).servers == [STUB] {
        return Ok(fs::read_to_string(RESOLVED).unwrap_or(text));
    }
    Ok(text)
}

/// A container's `resolv.conf`, made from the host's.
pub fn resolv_conf(host: &str, wanted: &Dns) -> String {
    let host = parse(host);
    let servers = match wanted.servers.is_empty() {
        false => wanted.servers.clone(),
        true => reachable(&host.servers),
    };
    let search = match wanted.search.is_empty() {
        false => &wanted.search,
        true => &host.search,
    };
    let search: Vec<&str> = search
        .iter()
        .map(String::as_str)
        .filter(|name| *name != ".")
        .collect();
    let options = match wanted.options.is_empty() {
        false => &wanted.options,
        true => &host.options,
    };

    let mut text = String::new();
    for server in servers {
        line(&mut text, format_args!("nameserver {server}"));
    }
    if !search.is_empty() {
        line(&mut text, format_args!("search {}", search.join(" ")));
    }
    if !options.is_empty() {
        line(&mut text, format_args!("options {}", options.join(" ")));
    }
    text
}

/// The `resolv.conf` of a container that asks `server` for names: search domains and options are
/// the same, and names without a dot are asked for as they are.
pub fn resolv_conf_for(server: IpAddr, host: &str, wanted: &Dns) -> String {
    let ndots = |options: &[String]| options.iter().any(|option| option.starts_with("ndots:"));
    let mut wanted = wanted.clone();
    wanted.servers = vec![server];
    if wanted.options.is_empty() {
        wanted.options = parse(host).options;
    }
    if !ndots(&wanted.options) {
        wanted.options.push("ndots:0".to_owned());
    }
    resolv_conf(host, &wanted)
}

/// Every name server of a `resolv.conf`, those on the host's loopback too.
pub(crate) fn name_servers(text: &str) -> Vec<IpAddr> {
    parse(text).servers
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
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        line(&mut text, format_args!("{address}\t{name}"));
    }
    for address in addresses {
        match domain {
            "" => line(&mut text, format_args!("{address}\t{hostname}")),
            _ => line(
                &mut text,
                format_args!("{address}\t{hostname}.{domain} {hostname}"),
            ),
        }
    }
    text
}

/// The settings of a `resolv.conf` (`resolv.conf(5)`): the last `search` or `domain` counts,
/// name servers and options add up.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // Scoped addresses (`fe80::1%eth0`) name a device that containers do not have.
            Some("nameserver") => {
                dns.servers.extend(
                    words
                        .next()
                        .and_then(|server| server.parse::<IpAddr>().ok()),
                );
            }
            Some("search" | "domain") => dns.search = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

/// The servers that a container without IPv6 reaches.
fn reachable(servers: &[IpAddr]) -> Vec<IpAddr> {
    let usable = servers
        .iter()
        .filter(|server| server.is_ipv4() && !server.is_loopback());
    let usable: Vec<IpAddr> = usable.copied().collect();
    match usable.is_empty() {
        true => FALLBACK.to_vec(),
        false => usable,
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, wanted: &Dns, expected: &str) {
        assert_eq!(resolv_conf(host, wanted), expected);
    }

    #[test]
    fn the_hosts_settings_are_taken_over() {
        check(
            "# made by hand\nnameserver 192.168.1.1\nnameserver 10.0.0.1\n; old\ndomain old.example\n\
             search a.example b.example\noptions ndots:2\noptions edns0\nsortlist 10.0.0.0\n",
            &Dns::default(),
            "nameserver 192.168.1.1\nnameserver 10.0.0.1\nsearch a.example b.example\n\
             options ndots:2 edns0\n",
        );
    }

    #[test]
    fn servers_that_a_container_cannot_reach_are_left_out() {
        check(
            "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n\
             nameserver 9.9.9.9\n",
            &Dns::default(),
            "nameserver 9.9.9.9\n",
        );
    }

    #[test]
    fn without_a_reachable_server_public_ones_serve() {
        for host in ["", "nameserver 127.0.0.1\n", "nameserver nonsense\n"] {
            check(
                host,
                &Dns::default(),
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
            );
        }
    }

    #[test]
    fn who_asks_the_daemon_for_names_asks_for_short_ones_as_they_are() {
        let server = IpAddr::from([127, 0, 0, 11]);
        let host = "nameserver 192.168.1.1\nsearch a.example\noptions edns0\n";
        assert_eq!(
            resolv_conf_for(server, host, &Dns::default()),
            "nameserver 127.0.0.11\nsearch a.example\noptions edns0 ndots:0\n"
        );
        let wanted = Dns {
            servers: vec![[9, 9, 9, 9].into()],
            options: vec!["ndots:2".to_owned()],
            ..Dns::default()
        };
        assert_eq!(
            resolv_conf_for(server, "", &wanted),
            "nameserver 127.0.0.11\noptions ndots:2\n"
        );
    }

    #[test]
    fn what_was_asked_for_is_taken_as_it_is() {
        let wanted = Dns {
            servers: vec![[127, 0, 0, 1].into()],
            search: vec!["c.example".to_owned()],
            options: vec!["timeout:1".to_owned()],
        };
        check(
            "nameserver 1.1.1.1\nsearch a.example\noptions ndots:2\n",
            &wanted,
            "nameserver 127.0.0.1\nsearch c.example\noptions timeout:1\n",
        );
    }

    #[test]
    fn a_dot_searches_nothing() {
        let wanted = Dns {
            search: vec![".".to_owned()],
            ..Dns::default()
        };
        check(
            "nameserver 1.1.1.1\nsearch a.example\n",
            &wanted,
            "nameserver 1.1.1.1\n",
        );
    }

    #[test]
    fn hosts_ends_with_the_containers_own_names() {
        let extra = [("db".to_owned(), IpAddr::from([10, 1, 2, 3]))];
        let text = hosts("web", "example.org", &[[172, 17, 0, 2].into()], &extra);
        let tail = "ff02::2\tip6-allrouters\n10.1.2.3\tdb\n172.17.0.2\tweb.example.org web\n";
        assert!(
            text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"),
            "{text}"
        );
        assert!(text.ends_with(tail), "{text}");
        assert!(hosts("web", "", &[[172, 17, 0, 2].into()], &[]).ends_with("\n172.17.0.2\tweb\n"));
    }
}
