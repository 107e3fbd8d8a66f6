//! Containers on networks: what may be asked, what is asked of the kernel, and what came of it.
//!
//! A container that shares a namespace has no endpoint. One with a namespace of its own has one on
//! each of its networks while it runs; one of them is the way out (see [`way_out`]): it gives the
//! default route, and its address is the one that published ports lead to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use network::files::Dns;
use network::{Attach, AttachError, Bridge, NamesError, Sysctl};
use vocab::config::EndpointSettings;
use vocab::{ContainerId, Failure, Kind, NetworkId};

use crate::Engine;
use crate::containers::FindError;
use crate::containers::launch;
use crate::containers::owner::Request;
use crate::containers::ports;
use crate::containers::record::{Joined, Record as Container};
use crate::db::DbError;
use crate::networks::{FindNetworkError, PREDEFINED, Record, Records};
use crate::shared::Shared;

/// Driver option of an endpoint: the name of its link inside the container.
const INTERFACE_OPTION: &str = "com.docker.network.endpoint.ifname";
/// Driver option of an endpoint: settings of its link, `net.ipv4.conf.IFNAME.forwarding=1,…`.
const SYSCTLS_OPTION: &str = "com.docker.network.endpoint.sysctls";
/// Bytes of a link's name that the kernel takes.
const INTERFACE_BYTES: usize = 15;

/// Why a container is not on its networks.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The network is not there any more.
    #[error(transparent)]
    Find(#[from] FindNetworkError),
    /// The container whose namespace is to be shared is not there.
    #[error(transparent)]
    Container(#[from] FindError),
    /// That container does not run.
    #[error("cannot join network namespace of a non running container: {0}")]
    NotRunning(String),
    /// A setting cannot be read.
    #[error("{0}")]
    Setting(String),
    /// The network refused it.
    #[error("failed to set up container networking: {network}")]
    Attach {
        /// The network's name.
        network: String,
        /// Why.
        source: AttachError,
    },
}

impl Failure for JoinError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Container(error) => error.kind(),
            Self::NotRunning(_) => Kind::Conflict,
            Self::Setting(_) => Kind::InvalidArgument,
            Self::Attach { source, .. } => source.kind(),
        }
    }
}

/// Why a container did not join or leave a network.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network was not found.
    #[error(transparent)]
    Find(#[from] FindNetworkError),
    /// The container was not found.
    #[error(transparent)]
    Container(#[from] FindError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
    /// The container goes.
    #[error(
        "Container {0} is marked for removal and cannot be connected or disconnected to the network"
    )]
    Removing(ContainerId),
    /// The settings cannot be.
    #[error("invalid endpoint settings:\n{0}")]
    Settings(String),
    /// Its namespace is somebody else's.
    #[error(
        "container sharing network namespace with another container or host cannot be connected \
         to any other network"
    )]
    SharedNamespace,
    /// The host's network cannot be joined later.
    #[error(
        "cannot connect container to host network - container must be created in host network mode"
    )]
    ToHost,
    /// The host's network cannot be left.
    #[error("container cannot be disconnected from host network or connected to host network")]
    FromHost,
    /// One of the networks is `none`.
    #[error(
        "container cannot be connected to multiple networks with one of the networks in private \
         (none) mode"
    )]
    WithNone,
    /// It is on that network.
    #[error("endpoint with name {container} already exists in network {network}")]
    Connected {
        /// The container's name.
        container: String,
        /// The network's name.
        network: String,
    },
    /// It is not on that network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container.
        container: ContainerId,
        /// The network's name.
        network: String,
    },
    /// The container's namespace cannot be reached.
    #[error("open the network namespace of container {}", container.short())]
    Namespace {
        /// The container.
        container: ContainerId,
        /// Why not.
        source: std::io::Error,
    },
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Names cannot be answered.
    #[error(transparent)]
    Names(NamesError),
    /// Leaving, or another endpoint's taking over, failed.
    #[error("container {} failed to leave network {network}", container.short())]
    Leave {
        /// The container.
        container: ContainerId,
        /// The network's name.
        network: String,
        /// Why.
        source: network::DetachError,
    },
    /// The record.
    #[error("record the container's networks")]
    Record(#[source] DbError),
}

impl Failure for ConnectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Container(error) => error.kind(),
            Self::Join(error) => error.kind(),
            Self::Settings(_)
            | Self::SharedNamespace
            | Self::ToHost
            | Self::FromHost
            | Self::WithNone => Kind::InvalidArgument,
            Self::Connected { .. } => Kind::Forbidden,
            Self::Closing => Kind::Unavailable,
            // Docker answers 500, which is no slip of the daemon's.
            Self::NotConnected { .. } => Kind::NotFound,
            // Docker answers 500 to these.
            Self::Removing(_)
            | Self::Namespace { .. }
            | Self::Leave { .. }
            | Self::Names(_)
            | Self::Record(_) => Kind::Internal,
        }
    }
}

/// Where a container's network namespace comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// It is the host's.
    Host,
    /// It is its own, on these networks.
    Own(Vec<(Record, EndpointSettings)>),
    /// It is that of a container which runs.
    Container { id: ContainerId, pid: i32 },
}

/// Whether containers on a network find each other by name.
pub(crate) fn has_names(network: &str) -> bool {
    !PREDEFINED.contains(&network)
}

/// The names that a container answers to on a network of a user; the first is the one that its
/// address is translated back to.
pub(crate) fn names(record: &Container, name: &str, settings: &EndpointSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let aliases = settings.aliases.iter().flatten().map(String::as_str);
    let short = record.id.short();
    let all = std::iter::once(name)
        .chain(aliases)
        .chain([short.as_str(), record.config.hostname.as_str()]);
    for name in all {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// What a container alone calls others, from `container:alias` or `container`.
fn links(settings: &EndpointSettings) -> Vec<(String, String)> {
    let links = settings.links.iter().flatten();
    let links = links.map(|link| {
        let (theirs, own) = link.split_once(':').unwrap_or((link, link));
        (own.to_owned(), theirs.to_owned())
    });
    links.collect()
}

/// The network that is a container's way out: of those that have one, the one with the highest
/// priority, and of several of those the first by name (as in Docker).
pub(crate) fn way_out<'a>(
    networks: impl IntoIterator<Item = &'a (Record, EndpointSettings)>,
) -> Option<NetworkId> {
    let leads_out = |record: &Record| record.bridge.as_ref().is_some_and(|b| !b.internal);
    let candidates = networks.into_iter().filter(|(record, _)| leads_out(record));
    let best = candidates.min_by(|(one, its), (other, others)| {
        let by_priority = others.gw_priority.cmp(&its.gw_priority);
        by_priority.then_with(|| one.name.cmp(&other.name))
    });
    best.map(|(record, _)| record.id)
}

/// Refuses endpoint settings that cannot be, each with a sentence.
pub(crate) fn check_settings(network: &str, settings: &EndpointSettings) -> Result<(), String> {
    let mut refusals = Vec::new();
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let addressed = !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty();
    let aliased = settings.aliases.as_ref().is_some_and(|a| !a.is_empty());
    if !has_names(network) {
        if addressed {
            refusals.push(
                "user specified IP address is supported on user defined networks only".to_owned(),
            );
        }
        if aliased {
            refusals.push(
                "network-scoped alias is supported only for containers in user defined networks"
                    .to_owned(),
            );
        }
    }
    let unreadable = |text: &str, fine: bool| !text.is_empty() && !fine;
    let ipv4 = ipam.ipv4_address.parse::<Ipv4Addr>();
    if unreadable(&ipam.ipv4_address, ipv4.is_ok_and(|a| !a.is_unspecified())) {
        refusals.push(format!("invalid IPv4 address: {}", ipam.ipv4_address));
    }
    let ipv6 = ipam.ipv6_address.parse::<Ipv6Addr>();
    if unreadable(&ipam.ipv6_address, ipv6.is_ok_and(|a| !a.is_unspecified())) {
        refusals.push(format!("invalid IPv6 address: {}", ipam.ipv6_address));
    }
    if ipam.link_local_ips.is_some_and(|l| !l.is_empty()) {
        refusals.push("berth does not do link-local addresses yet".to_owned());
    }
    let linked = settings.links.as_ref().is_some_and(|l| !l.is_empty());
    if linked && !has_names(network) {
        refusals.push("berth does not do legacy links on the default bridge".to_owned());
    }
    if unreadable(
        &settings.mac_address,
        settings.mac_address.parse::<network::Mac>().is_ok(),
    ) {
        refusals.push(format!("invalid MAC address {}", settings.mac_address));
    }
    refusals.extend(sysctls(settings).err());
    for key in settings.driver_opts.iter().flat_map(BTreeMap::keys) {
        if ![INTERFACE_OPTION, SYSCTLS_OPTION].contains(&key.as_str()) {
            refusals.push(format!(
                "berth does not have the endpoint option {key}: {INTERFACE_OPTION} and \
                 {SYSCTLS_OPTION} are there"
            ));
        }
    }
    if let Some(name) = option(settings, INTERFACE_OPTION) {
        let plain = |b: u8| b.is_ascii_graphic() && !b"/:".contains(&b);
        let fits = (1..=INTERFACE_BYTES).contains(&name.len());
        if !fits || !name.bytes().all(plain) || [".", "..", "lo", "all", "default"].contains(&name)
        {
            refusals.push(format!("invalid interface name {name}"));
        }
    }
    match refusals.is_empty() {
        true => Ok(()),
        false => Err(refusals.join("\n")),
    }
}

fn option<'a>(settings: &'a EndpointSettings, key: &str) -> Option<&'a str> {
    let options = settings.driver_opts.as_ref()?;
    options.get(key).map(String::as_str)
}

/// The settings of the endpoint's link, `IFNAME` still standing for its name.
fn sysctls(settings: &EndpointSettings) -> Result<Vec<(String, String)>, String> {
    let given = option(settings, SYSCTLS_OPTION).unwrap_or_default();
    let each = given.split(',').filter(|text| !text.is_empty());
    each.map(|text| {
        let refused = || {
            format!(
                "unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as \
                 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(refused)?;
        let words: Vec<&str> = key.splitn(5, '.').collect();
        match words.as_slice() {
            // The command line turns everything into small letters.
            [
                "net",
                "ipv4" | "ipv6" | "mpls",
                table,
                "IFNAME" | "ifname",
                name,
            ] if [*table, *name].iter().all(|word| is_setting(word)) => {
                let path = format!("net/{}/{table}/IFNAME/{name}", words[1]);
                Ok((path, value.to_owned()))
            }
            _ => Err(refused()),
        }
    })
    .collect()
}

/// Whether a word names one file of `/proc/sys`.
fn is_setting(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !word.is_empty() && word.bytes().all(plain)
}

/// How an endpoint's link is called inside: as asked for, or the first `ethN` that is free.
pub(crate) fn interface(settings: &EndpointSettings, taken: &[Joined]) -> String {
    if let Some(name) = option(settings, INTERFACE_OPTION) {
        return name.to_owned();
    }
    let endpoints = || taken.iter().filter_map(|joined| joined.endpoint.as_ref());
    let names = (0..).map(|number| format!("eth{number}"));
    let mut free = names.filter(|name| !endpoints().any(|e| e.interface == *name));
    free.next().unwrap_or_default()
}

/// An endpoint that a container got.
pub(crate) fn joined(record: &Record, endpoint: Option<network::Endpoint>) -> Joined {
    Joined {
        network: record.name.clone(),
        network_id: record.id,
        endpoint_id: NetworkId::random().to_string(),
        endpoint,
    }
}

/// What a container asked of its networks, with what it got.
pub(crate) fn settings(
    record: &Container,
    name: &str,
    got: &[Joined],
    records: &Records,
) -> BTreeMap<String, EndpointSettings> {
    let wanted = record.networks.iter();
    wanted
        .map(|(network, settings)| {
            let mut settings = settings.clone();
            if has_names(network) {
                settings.dns_names = Some(names(record, name, &settings));
            }
            if let Ok(record) = records.find(network) {
                settings.network_id = record.id.to_string();
            }
            if let Some(joined) = got.iter().find(|joined| joined.network == *network) {
                settings.network_id = joined.network_id.to_string();
                settings.endpoint_id.clone_from(&joined.endpoint_id);
                if let Some(endpoint) = &joined.endpoint {
                    settings.gateway = endpoint
                        .gateway
                        .map(|gateway| gateway.to_string())
                        .unwrap_or_default();
                    settings.ip_address = endpoint.address.to_string();
                    settings.ip_prefix_len = endpoint.prefix;
                    settings.mac_address = endpoint.mac.to_string();
                    if let Some(own) = endpoint.ipv6 {
                        settings.global_ipv6_address = own.address.to_string();
                        settings.global_ipv6_prefix_len = own.prefix;
                        settings.ipv6_gateway = own
                            .gateway
                            .map(|gateway| gateway.to_string())
                            .unwrap_or_default();
                    }
                }
            }
            (network.clone(), settings)
        })
        .collect()
}

/// A container on its way onto one network.
pub(crate) struct Joining<'a> {
    pub(crate) record: &'a Container,
    pub(crate) name: &'a str,
    pub(crate) bridge: &'a Bridge,
    pub(crate) settings: &'a EndpointSettings,
    /// How its link is called inside.
    pub(crate) interface: String,
    /// Whether this network is its way out.
    pub(crate) way_out: bool,
    /// Whether its ports are published here.
    pub(crate) publish: bool,
}

impl Shared {
    /// Where this container's network namespace comes from.
    pub(crate) fn network_mode(&self, record: &Container) -> Result<Mode, JoinError> {
        let mode = record.host.network_mode.as_str();
        if let Some(typed) = mode.strip_prefix("container:") {
            let id = self.index().find(typed)?.id;
            return Ok(Mode::Container {
                id,
                pid: self.running_pid(typed)?,
            });
        }
        if mode == "host" {
            return Ok(Mode::Host);
        }
        let records = self.networks();
        let own = record
            .networks
            .iter()
            .map(|(name, settings)| Ok((records.find(name)?.clone(), settings.clone())));
        own.collect::<Result<_, JoinError>>().map(Mode::Own)
    }

    /// The first process of a container that must run.
    pub(crate) fn running_pid(&self, typed: &str) -> Result<i32, JoinError> {
        let view = self.index().find(typed)?.view();
        if view.course.phase.has_process() {
            Ok(view.course.pid)
        } else {
            Err(JoinError::NotRunning(typed.to_owned()))
        }
    }

    /// Puts a container on its networks. After a failure it is on none.
    pub(crate) async fn join(
        &self,
        record: &Container,
        name: &str,
        mode: &Mode,
        sandbox: Option<&OwnedFd>,
    ) -> Result<Vec<Joined>, JoinError> {
        let wanted = match mode {
            Mode::Container { .. } => return Ok(Vec::new()),
            Mode::Host => {
                let records = self.networks();
                let host = records.find("host")?;
                return Ok(vec![joined(host, None)]);
            }
            Mode::Own(wanted) => wanted,
        };
        let way_out = way_out(wanted);
        let mut done: Vec<Joined> = Vec::new();
        for (network, settings) in wanted {
            let endpoint = match (&network.bridge, sandbox) {
                (Some(bridge), Some(sandbox)) => {
                    let joining = Joining {
                        record,
                        name,
                        bridge,
                        settings,
                        interface: interface(settings, &done),
                        way_out: way_out == Some(network.id),
                        publish: way_out == Some(network.id),
                    };
                    match self.attach(joining, sandbox).await {
                        Ok(endpoint) => Some(endpoint),
                        Err(error) => {
                            self.leave_all(&done).await;
                            return Err(error);
                        }
                    }
                }
                _ => None,
            };
            done.push(joined(network, endpoint));
        }
        Ok(done)
    }

    async fn leave_all(&self, joined: &[Joined]) {
        for endpoint in joined.iter().filter_map(|joined| joined.endpoint.as_ref()) {
            if let Err(error) = self.links.detach(endpoint).await {
                let error = vocab::failure::chain(&error);
                tracing::warn!(error, "leave a network");
            }
        }
    }

    /// Puts a container on one network.
    pub(crate) async fn attach(
        &self,
        joining: Joining<'_>,
        sandbox: &OwnedFd,
    ) -> Result<network::Endpoint, JoinError> {
        let Joining {
            record,
            name,
            bridge,
            settings,
            interface,
            way_out,
            publish,
        } = joining;
        let ports = match publish {
            true => {
                let default = self.config.bridge.publish_address;
                let ports = ports::requests(&record.config, &record.host, default);
                ports.map_err(JoinError::Setting)?
            }
            false => Vec::new(),
        };
        let ipam = settings.ipam_config.as_ref();
        let address = ipam.and_then(|ipam| ipam.ipv4_address.parse().ok());
        let address6 = ipam.and_then(|ipam| ipam.ipv6_address.parse().ok());
        let names = match has_names(&bridge.name) {
            true => names(record, name, settings),
            false => Vec::new(),
        };
        let sysctls = sysctls(settings).map_err(JoinError::Setting)?;
        let sysctls = sysctls.into_iter().map(|(path, value)| Sysctl {
            path: path.replace("IFNAME", &interface),
            value,
        });
        let wanted = Attach {
            network: bridge.id,
            container: record.id,
            address,
            address6,
            mac: settings.mac_address.parse().ok(),
            ports,
            default_route: way_out,
            sysctls: sysctls.collect(),
            names,
            links: links(settings),
            interface,
        };
        self.links
            .attach(sandbox.as_fd(), wanted)
            .await
            .map_err(|source| JoinError::Attach {
                network: bridge.name.clone(),
                source,
            })
    }
}

/// How a container's questions for names go on.
pub(crate) fn asking(shared: &Shared, record: &Container) -> network::dns::Asking {
    let Dns {
        servers, options, ..
    } = launch::dns(shared, record);
    let mut ndots = options
        .iter()
        .filter_map(|option| option.strip_prefix("ndots:"));
    let qualified = ndots.next_back().is_some_and(|number| number != "0");
    network::dns::Asking { servers, qualified }
}

impl Mode {
    /// Whether the container finds others by name.
    pub(crate) fn has_names(&self) -> bool {
        match self {
            Self::Own(networks) => networks
                .iter()
                .any(|(record, _)| record.bridge.is_some() && has_names(&record.name)),
            Self::Host | Self::Container { .. } => false,
        }
    }
}

impl Engine {
    /// Lets a container join a network: at once if it runs, and at every start from now on.
    pub async fn connect_network(
        &self,
        typed: &str,
        container: &str,
        settings: EndpointSettings,
    ) -> Result<(), ConnectError> {
        let network = self.shared.networks().find(typed)?.clone();
        check_settings(&network.name, &settings).map_err(ConnectError::Settings)?;
        let asked = self
            .ask_owner(container, |answer| Request::Connect {
                network: Box::new(network),
                settings: Box::new(settings),
                answer,
            })
            .await?;
        asked.unwrap_or(Err(ConnectError::Closing))
    }

    /// Lets a container leave a network.
    pub async fn disconnect_network(
        &self,
        typed: &str,
        container: &str,
        force: bool,
    ) -> Result<(), ConnectError> {
        let network = self.shared.networks().find(typed)?.clone();
        // By force, who is gone has left: clients tidy up so.
        let asked = self
            .ask_owner(container, |answer| Request::Disconnect {
                network: Box::new(network),
                answer,
            })
            .await;
        match asked {
            Err(FindError::NotFound(_)) if force => Ok(()),
            asked => asked?.unwrap_or(Err(ConnectError::Closing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::tests::{bridged, internal};

    fn on(record: Record, priority: i64) -> (Record, EndpointSettings) {
        let settings = EndpointSettings {
            gw_priority: priority,
            ..EndpointSettings::default()
        };
        (record, settings)
    }

    #[track_caller]
    fn check(networks: &[(Record, EndpointSettings)], wanted: Option<&str>) {
        let chosen = way_out(networks);
        let name = networks
            .iter()
            .find(|(record, _)| Some(record.id) == chosen);
        assert_eq!(name.map(|(record, _)| record.name.as_str()), wanted);
    }

    #[test]
    fn the_way_out_is_chosen_by_priority_and_then_by_name() {
        check(&[], None);
        check(&[on(internal("a"), 9)], None);
        check(&[on(bridged("b"), 0), on(bridged("a"), 0)], Some("a"));
        check(&[on(bridged("b"), 1), on(bridged("a"), 0)], Some("b"));
        check(&[on(bridged("b"), 0), on(bridged("a"), -1)], Some("b"));
        check(&[on(internal("a"), 5), on(bridged("z"), 0)], Some("z"));
    }

    #[test]
    fn sysctls_of_an_endpoint_are_of_its_own_link() {
        let settings = |text: &str| EndpointSettings {
            driver_opts: Some([(SYSCTLS_OPTION.to_owned(), text.to_owned())].into()),
            ..EndpointSettings::default()
        };
        let read = sysctls(&settings("net.ipv4.conf.IFNAME.log_martians=1")).unwrap();
        let path = "net/ipv4/conf/IFNAME/log_martians".to_owned();
        assert_eq!(read, [(path, "1".to_owned())]);
        for text in [
            "net.ipv4.conf.eth0.log_martians=1",
            "net.core.conf.IFNAME.x=1",
            "kernel.a.b.IFNAME.c=1",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.ipv4.conf.IFNAME...=1",
            "net.ipv4.../..IFNAME.x=1",
        ] {
            let refused = check_settings("mine", &settings(text)).unwrap_err();
            assert!(refused.starts_with("unrecognised"), "{refused}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_dockers_words() {
        let settings = EndpointSettings {
            aliases: Some(vec!["db".to_owned()]),
            ..EndpointSettings::default()
        };
        let refused = check_settings("bridge", &settings).unwrap_err();
        assert_eq!(
            refused,
            "network-scoped alias is supported only for containers in user defined networks"
        );
        assert_eq!(check_settings("mine", &settings), Ok(()));
    }

    #[test]
    fn links_are_numbered_by_what_is_free() {
        let none = EndpointSettings::default();
        assert_eq!(interface(&none, &[]), "eth0");
        let named = EndpointSettings {
            driver_opts: Some([(INTERFACE_OPTION.to_owned(), "wan".to_owned())].into()),
            ..EndpointSettings::default()
        };
        assert_eq!(interface(&named, &[]), "wan");
    }
}
