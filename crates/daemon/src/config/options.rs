//! Every option of dockerd as data: its flag, its key in `daemon.json`, what it takes, and what
//! becomes of it here.
//!
//! An option that has no effect yet is refused with a sentence, so that nobody believes in a
//! setting that is not there; one that merely repeats what berth does anyway is accepted.

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// One text.
    Text,
    /// `true` or `false`; alone it is true.
    Switch,
    /// A whole number.
    Number,
    /// A number with an optional unit; in the file a number or a text.
    Bytes,
    /// Texts; the flag is repeated.
    List,
    /// `key=value`; the flag is repeated, the file holds an object.
    Map,
    /// `name=soft[:hard]`; the file holds an object of objects.
    Ulimits,
    /// `base=…,size=…`; the file holds a list of objects.
    Pools,
    /// `pattern=address`; the file holds an object of texts or lists of texts.
    Mirrors,
    /// Anything; only so that it can be refused.
    Anything,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It does what it says.
    Works,
    /// Only this value, which is what berth does anyway; the sentence says why.
    Only(&'static str, &'static str),
    /// Refused, with a sentence.
    Refused(&'static str),
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Without dashes; empty when it is only in the file.
    pub(crate) flag: &'static str,
    /// One letter.
    pub(crate) short: Option<char>,
    /// In `daemon.json`; empty when it is only a flag.
    pub(crate) key: &'static str,
    /// What it takes.
    pub(crate) takes: Takes,
    /// What becomes of it.
    pub(crate) effect: Effect,
    /// For people.
    pub(crate) meaning: &'static str,
}

use Effect::{Only, Refused, Works};
use Takes::{Anything, Bytes, List, Map, Mirrors, Number, Pools, Switch, Text, Ulimits};

const fn option(
    flag: &'static str,
    key: &'static str,
    takes: Takes,
    effect: Effect,
    meaning: &'static str,
) -> Known {
    Known {
        flag,
        short: None,
        key,
        takes,
        effect,
        meaning,
    }
}

const fn short(short: char, mut known: Known) -> Known {
    known.short = Some(short);
    known
}

const SWARM: &str = "berth has no swarm mode yet";
const IPV6: &str = "berth has no IPv6 on the default bridge yet";
const PLUGINS: &str = "berth has no plugins yet";
const CONTAINERD: &str = "berth uses no containerd";
const RUNTIMES: &str = "berth runs containers itself; other OCI runtimes cannot be chosen yet";
const FIREWALL: &str = "berth writes its own nftables table, and nothing else";

/// All of them, in the order of `dockerd --help`, then those that are only in the file.
pub(crate) const OPTIONS: &[Known] = &[
    option(
        "add-runtime",
        "runtimes",
        Anything,
        Refused(RUNTIMES),
        "Extra OCI runtime name=path",
    ),
    option(
        "allow-direct-routing",
        "allow-direct-routing",
        Switch,
        Only(
            "false",
            "berth does not filter what is routed to container addresses",
        ),
        "Let remote hosts reach container addresses of published ports",
    ),
    option(
        "authorization-plugin",
        "authorization-plugins",
        List,
        Refused(PLUGINS),
        "Authorization plugins",
    ),
    option(
        "bip",
        "bip",
        Text,
        Works,
        "IPv4 address of the default bridge, with prefix",
    ),
    option(
        "bip6",
        "bip6",
        Text,
        Refused(IPV6),
        "IPv6 address of the default bridge",
    ),
    short(
        'b',
        option(
            "bridge",
            "bridge",
            Text,
            Works,
            "Bridge device to use (none switches the network off)",
        ),
    ),
    option(
        "bridge-accept-fwmark",
        "bridge-accept-fwmark",
        Text,
        Refused(FIREWALL),
        "Firewall mark to accept",
    ),
    option(
        "cdi-spec-dir",
        "cdi-spec-dirs",
        List,
        Works,
        "CDI directories",
    ),
    option(
        "cgroup-parent",
        "cgroup-parent",
        Text,
        Works,
        "Parent cgroup of all containers",
    ),
    option("config-file", "", Text, Works, "Configuration file"),
    option(
        "containerd",
        "containerd",
        Text,
        Refused(CONTAINERD),
        "containerd socket",
    ),
    option(
        "containerd-namespace",
        "containerd-namespace",
        Text,
        Refused(CONTAINERD),
        "containerd namespace",
    ),
    option(
        "containerd-plugins-namespace",
        "containerd-plugin-namespace",
        Text,
        Refused(CONTAINERD),
        "containerd namespace of plugins",
    ),
    option(
        "cpu-rt-period",
        "cpu-rt-period",
        Number,
        Refused("berth has no real-time scheduling yet"),
        "Real-time period",
    ),
    option(
        "cpu-rt-runtime",
        "cpu-rt-runtime",
        Number,
        Refused("berth has no real-time scheduling yet"),
        "Real-time runtime",
    ),
    option(
        "cri-containerd",
        "cri-containerd",
        Switch,
        Only("false", CONTAINERD),
        "Run containerd with CRI",
    ),
    option("data-root", "data-root", Text, Works, "State directory"),
    short('D', option("debug", "debug", Switch, Works, "Log more")),
    option(
        "default-address-pool",
        "default-address-pools",
        Pools,
        Works,
        "Address pools, base=…,size=…",
    ),
    option(
        "default-cgroupns-mode",
        "default-cgroupns-mode",
        Text,
        Works,
        "Cgroup namespace of containers that choose none: private or host",
    ),
    option(
        "default-gateway",
        "default-gateway",
        Text,
        Refused("the bridge's own address is the gateway; say it with --bip"),
        "Gateway of the default bridge",
    ),
    option(
        "default-gateway-v6",
        "default-gateway-v6",
        Text,
        Refused(IPV6),
        "IPv6 gateway of the default bridge",
    ),
    option(
        "default-ipc-mode",
        "default-ipc-mode",
        Text,
        Works,
        "IPC of containers that choose none: private or shareable",
    ),
    option(
        "default-network-opt",
        "default-network-opts",
        Anything,
        Refused("berth has no default driver options yet"),
        "Default driver options",
    ),
    option(
        "default-runtime",
        "default-runtime",
        Text,
        Refused(RUNTIMES),
        "Runtime of containers that choose none",
    ),
    option(
        "default-shm-size",
        "default-shm-size",
        Bytes,
        Works,
        "Size of /dev/shm of containers that choose none",
    ),
    option(
        "default-ulimit",
        "default-ulimits",
        Ulimits,
        Works,
        "Limits of containers that choose none, name=soft[:hard]",
    ),
    option("dns", "dns", List, Works, "DNS servers"),
    option("dns-opt", "dns-opts", List, Works, "DNS options"),
    option(
        "dns-search",
        "dns-search",
        List,
        Works,
        "DNS search domains",
    ),
    option(
        "exec-opt",
        "exec-opts",
        List,
        Only(
            "native.cgroupdriver=cgroupfs",
            "berth writes the cgroup file system itself",
        ),
        "native.cgroupdriver=cgroupfs",
    ),
    option(
        "exec-root",
        "exec-root",
        Text,
        Works,
        "Directory of sockets and of the state of this boot",
    ),
    option(
        "experimental",
        "experimental",
        Switch,
        Only("false", "berth has no experimental features"),
        "Experimental features",
    ),
    option(
        "feature",
        "features",
        Anything,
        Refused("berth has no feature switches"),
        "Feature switch",
    ),
    option(
        "firewall-backend",
        "firewall-backend",
        Text,
        Only("nftables", FIREWALL),
        "nftables",
    ),
    option(
        "fixed-cidr",
        "fixed-cidr",
        Text,
        Works,
        "Part of the default bridge's subnet that containers get addresses from",
    ),
    option(
        "fixed-cidr-v6",
        "fixed-cidr-v6",
        Text,
        Refused(IPV6),
        "The same for IPv6",
    ),
    option(
        "docker-socket",
        "docker-socket",
        Switch,
        Works,
        "Listen on /var/run/docker.sock as well (berth's own)",
    ),
    short(
        'G',
        option("group", "group", Text, Works, "Group of the unix socket"),
    ),
    short(
        'H',
        option(
            "host",
            "hosts",
            List,
            Works,
            "Where to listen: unix:///path, tcp://address:port or fd:// (from systemd), each with \
             ?scope=read-only, events or own-containers for what may be asked there",
        ),
    ),
    option(
        "host-gateway-ip",
        "host-gateway-ips",
        List,
        Works,
        "What host-gateway means in extra hosts",
    ),
    option(
        "http-proxy",
        "",
        Text,
        Works,
        "Proxy for registries over plain HTTP, instead of $HTTP_PROXY",
    ),
    option(
        "https-proxy",
        "",
        Text,
        Works,
        "Proxy for registries over HTTPS, instead of $HTTPS_PROXY",
    ),
    option(
        "icc",
        "icc",
        Switch,
        Works,
        "Traffic between containers on the default bridge",
    ),
    option(
        "init",
        "init",
        Switch,
        Works,
        "An init as PID 1 in every container",
    ),
    option(
        "init-path",
        "init-path",
        Text,
        Refused("berth brings its own init"),
        "Init program",
    ),
    option(
        "ip",
        "ip",
        Text,
        Works,
        "Host address of published ports that name none",
    ),
    option(
        "ip-forward",
        "ip-forward",
        Switch,
        Only("true", "berth's networks need forwarding, and switch it on"),
        "Turn on forwarding",
    ),
    option(
        "ip-forward-no-drop",
        "ip-forward-no-drop",
        Switch,
        Only("true", FIREWALL),
        "Leave the FORWARD policy alone",
    ),
    option(
        "ip-masq",
        "ip-masq",
        Switch,
        Works,
        "Masquerade what leaves the default bridge",
    ),
    option(
        "ip6tables",
        "ip6tables",
        Switch,
        Refused(IPV6),
        "Manage ip6tables",
    ),
    option(
        "iptables",
        "iptables",
        Switch,
        Refused(FIREWALL),
        "Manage iptables",
    ),
    option(
        "ipv6",
        "ipv6",
        Switch,
        Only("false", IPV6),
        "IPv6 on the default bridge",
    ),
    option("label", "labels", List, Works, "Labels of the daemon"),
    option(
        "live-restore",
        "live-restore",
        Switch,
        Only("true", "containers of berth always survive the daemon"),
        "Containers survive the daemon",
    ),
    option(
        "log-driver",
        "log-driver",
        Text,
        Works,
        "Log driver of containers that choose none",
    ),
    option(
        "log-format",
        "log-format",
        Text,
        Works,
        "Form of the daemon's own log: text or json",
    ),
    short(
        'l',
        option(
            "log-level",
            "log-level",
            Text,
            Works,
            "Detail of the daemon's own log: debug, info, warn, error or fatal",
        ),
    ),
    option(
        "log-opt",
        "log-opts",
        Map,
        Works,
        "Log options of containers that choose no driver",
    ),
    option(
        "max-concurrent-downloads",
        "max-concurrent-downloads",
        Number,
        Works,
        "Layers in transfer at a time",
    ),
    option(
        "max-concurrent-uploads",
        "max-concurrent-uploads",
        Number,
        Works,
        "Layers in transfer at a time",
    ),
    option(
        "max-download-attempts",
        "max-download-attempts",
        Number,
        Works,
        "Tries of one layer",
    ),
    option(
        "metrics-addr",
        "metrics-addr",
        Text,
        Works,
        "Where to answer /metrics, /healthz and /readyz: address:port",
    ),
    option("mtu", "mtu", Number, Works, "MTU of the default bridge"),
    option(
        "network-control-plane-mtu",
        "network-control-plane-mtu",
        Number,
        Refused(SWARM),
        "Control-plane MTU",
    ),
    option(
        "no-new-privileges",
        "no-new-privileges",
        Switch,
        Works,
        "No new privileges in any container",
    ),
    option(
        "no-proxy",
        "",
        Text,
        Works,
        "Hosts that are reached without a proxy, instead of $NO_PROXY",
    ),
    option(
        "node-generic-resource",
        "node-generic-resources",
        List,
        Refused(SWARM),
        "User resources of the node",
    ),
    short(
        'p',
        option(
            "pidfile",
            "pidfile",
            Text,
            Works,
            "Where to write the process id",
        ),
    ),
    option(
        "raw-logs",
        "raw-logs",
        Switch,
        Works,
        "The daemon's own log without colours",
    ),
    option(
        "insecure-registry",
        "insecure-registries",
        List,
        Works,
        "Registry host or network that needs no TLS",
    ),
    option(
        "registry-mirror",
        "registry-mirrors",
        List,
        Works,
        "Mirror of docker.io",
    ),
    option(
        "mirror",
        "mirrors",
        Mirrors,
        Works,
        "Mirror of registries: pattern=address (berth's own; docs/registries.md)",
    ),
    option(
        "registry-certs",
        "registry-certs",
        Text,
        Works,
        "Certificates for registries, instead of /etc/berth/certs.d and /etc/docker/certs.d \
         (berth's own)",
    ),
    option(
        "rootless",
        "rootless",
        Switch,
        Only("false", "berth needs root"),
        "Rootless mode",
    ),
    option(
        "seccomp-profile",
        "seccomp-profile",
        Text,
        Works,
        "Profile of containers that choose none: a file, or builtin",
    ),
    option(
        "selinux-enabled",
        "selinux-enabled",
        Switch,
        Only("false", "berth sets no SELinux labels yet"),
        "SELinux",
    ),
    option(
        "shutdown-timeout",
        "shutdown-timeout",
        Number,
        Works,
        "Seconds that requests under way have at the end",
    ),
    short(
        's',
        option(
            "storage-driver",
            "storage-driver",
            Text,
            Works,
            "Storage driver",
        ),
    ),
    option(
        "storage-opt",
        "storage-opts",
        List,
        Refused("berth's storage drivers have no options yet"),
        "Storage options",
    ),
    option(
        "swarm-default-advertise-addr",
        "swarm-default-advertise-addr",
        Text,
        Refused(SWARM),
        "Address told to the swarm",
    ),
    option("tls", "tls", Switch, Works, "TLS on TCP sockets"),
    option(
        "tlscacert",
        "tlscacert",
        Text,
        Works,
        "Who issues certificates of clients",
    ),
    option("tlscert", "tlscert", Text, Works, "Certificate"),
    option("tlskey", "tlskey", Text, Works, "Its key"),
    option(
        "tlsverify",
        "tlsverify",
        Switch,
        Works,
        "TLS on TCP sockets, for clients with a certificate",
    ),
    option(
        "userland-proxy",
        "userland-proxy",
        Switch,
        Only("false", "published ports of berth need no proxy process"),
        "Userland proxy",
    ),
    option(
        "userland-proxy-path",
        "userland-proxy-path",
        Text,
        Refused("published ports of berth need no proxy process"),
        "Its program",
    ),
    option(
        "userns-remap",
        "userns-remap",
        Text,
        Refused("berth has no user namespace remapping yet"),
        "User namespace remapping",
    ),
    option(
        "validate",
        "",
        Switch,
        Works,
        "Check the configuration and exit",
    ),
    short(
        'v',
        option("version", "", Switch, Works, "Print the version and exit"),
    ),
    option(
        "",
        "builder",
        Anything,
        Refused("berth has no builder yet"),
        "Garbage collection of the build cache",
    ),
    option(
        "",
        "min-api-version",
        Text,
        Only("1.24", "berth serves every version from 1.24"),
        "Oldest API version",
    ),
    option(
        "",
        "proxies",
        Map,
        Works,
        "Object of http-proxy, https-proxy and no-proxy, as the flags of these names",
    ),
    // Berth's own.
    option(
        "image-gc",
        "image-gc",
        Switch,
        Works,
        "Berth's own: remove images that nobody uses when the disk is short (default true)",
    ),
    option(
        "image-gc-high",
        "image-gc-high",
        Number,
        Works,
        "Berth's own: begin when the disk of the data root is fuller than this, in percent (default 90)",
    ),
    option(
        "image-gc-low",
        "image-gc-low",
        Number,
        Works,
        "Berth's own: end when it is no fuller than this, in percent (default 80)",
    ),
    option(
        "image-gc-keep",
        "image-gc-keep",
        Number,
        Works,
        "Berth's own: keep what came or had a container within so many days (default 14)",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_option_is_there_twice() {
        let mut flags = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mut shorts = BTreeSet::new();
        for known in OPTIONS {
            assert!(
                known.flag.is_empty() || flags.insert(known.flag),
                "{}",
                known.flag
            );
            assert!(
                known.key.is_empty() || keys.insert(known.key),
                "{}",
                known.key
            );
            assert!(
                known.short.is_none_or(|short| shorts.insert(short)),
                "{}",
                known.flag
            );
        }
    }
}
