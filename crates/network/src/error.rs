//! What can go wrong, one enum for each operation.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use vocab::{ContainerId, Failure, Kind, NetworkId};

use crate::Protocol;

/// [`crate::Networks::open`] failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel's netlink could not be reached.
    #[error("open a netlink socket")]
    Socket(#[source] io::Error),
}

impl Failure for OpenError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// [`crate::Networks::ensure_bridge`] or [`crate::Networks::remove_bridge`] failed.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The device or its address could not be made.
    #[error("{step} bridge `{device}`")]
    Link {
        /// What was being done.
        step: &'static str,
        /// The bridge device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is a device of that name, and it is not a bridge.
    #[error("link `{device}` exists and is not a bridge")]
    NotABridge {
        /// The device.
        device: String,
    },
    /// The gateway is not an address of the subnet.
    #[error("gateway {gateway} is not an address of subnet {subnet}")]
    Gateway {
        /// The subnet.
        subnet: Ipv4Net,
        /// The gateway.
        gateway: Ipv4Addr,
    },
    /// The device name is too long, or has characters that the kernel refuses.
    #[error("`{0}` is not a name for a network device: 1 to 15 bytes without `/` or blanks")]
    DeviceName(String),
    /// A kernel setting could not be switched on.
    #[error("write `{path}`")]
    Sysctl {
        /// The setting.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Containers are still on the network.
    #[error("network has active endpoints ({members})")]
    Active {
        /// How many.
        members: usize,
    },
    /// The packet filter refused the rules.
    #[error("load nftables rules of table `{table}`")]
    Rules {
        /// Our table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Failure for BridgeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Gateway { .. } | Self::DeviceName(_) => Kind::InvalidArgument,
            Self::NotABridge { .. } => Kind::Conflict,
            // Docker answers 403 here.
            Self::Active { .. } => Kind::Forbidden,
            Self::Link { .. } | Self::Sysctl { .. } | Self::Rules { .. } => Kind::Internal,
        }
    }
}

/// [`crate::Networks::open_sandbox`] failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step of making the namespace.
    #[error("{step} for a network sandbox")]
    Step {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Failure for SandboxError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// [`crate::Networks::attach`] failed; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The network is not known: `ensure_bridge` comes first.
    #[error("network {} is not there", .0.short())]
    NoNetwork(NetworkId),
    /// The container is on this network already.
    #[error("container {} is on network {} already", container.short(), network.short())]
    Attached {
        /// The container.
        container: ContainerId,
        /// The network.
        network: NetworkId,
    },
    /// The wanted address is in use.
    #[error("Address already in use")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Who has it; `None` when it is the network's own (gateway, broadcast).
        owner: Option<ContainerId>,
    },
    /// The wanted address is not of this network.
    #[error("Invalid address {address}: It does not belong to any of this network's subnets")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The network's subnet.
        subnet: IpNet,
    },
    /// Every address is taken.
    #[error(
        "no available IPv{} addresses on this network's address pools: {network} ({subnet})",
        if matches!(subnet, IpNet::V4(_)) { 4 } else { 6 }
    )]
    AddressesExhausted {
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// Another container has the port.
    #[error("Bind for {host_ip}:{host_port} failed: port is already allocated")]
    PortAllocated {
        /// Host address.
        host_ip: IpAddr,
        /// Host port.
        host_port: u16,
        /// The container that has it.
        owner: ContainerId,
    },
    /// Some process of the host has the port.
    #[error("failed to bind host port {host_ip}:{host_port}/{protocol}: address already in use")]
    PortInUse {
        /// Host address.
        host_ip: IpAddr,
        /// Host port.
        host_port: u16,
        /// Transport.
        protocol: Protocol,
    },
    /// The port could not be bound, for example because the address is not one of the host's.
    #[error("failed to bind host port {host_ip}:{host_port}/{protocol}")]
    PortBind {
        /// Host address.
        host_ip: IpAddr,
        /// Host port.
        host_port: u16,
        /// Transport.
        protocol: Protocol,
        /// Why.
        source: io::Error,
    },
    /// No port of the asked range is free.
    #[error("Bind for {host_ip}:{first}-{last} failed: all ports are allocated")]
    PortsExhausted {
        /// Host address.
        host_ip: IpAddr,
        /// Lowest port asked for.
        first: u16,
        /// Highest port asked for.
        last: u16,
    },
    /// The kernel lets nothing from `::1` leave the host's loopback, nor an answer back in.
    #[error("a port cannot be published on ::1: the kernel does not forward it; use 127.0.0.1")]
    Loopback6,
    /// There is no IPv6 on the network, so that nothing can lead there from an IPv6 address.
    #[error("{what} needs a network with IPv6, which {network} is not")]
    NoIpv6 {
        /// What was asked for.
        what: String,
        /// The network's name.
        network: String,
    },
    /// A step of making the link failed.
    #[error("{step} `{interface}` for container {}", container.short())]
    Link {
        /// What was being done.
        step: &'static str,
        /// Name of the link inside the container.
        interface: String,
        /// The container.
        container: ContainerId,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The packet filter refused the ports.
    #[error("publish {ports} ports of container {}", container.short())]
    Rules {
        /// How many.
        ports: usize,
        /// The container.
        container: ContainerId,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Failure for AttachError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoNetwork(_) => Kind::NotFound,
            Self::AddressOutside { .. } | Self::NoIpv6 { .. } | Self::Loopback6 => {
                Kind::InvalidArgument
            }
            // Docker answers 403 for an endpoint that is there already.
            Self::Attached { .. } | Self::AddressInUse { .. } => Kind::Forbidden,
            // A start that cannot have its port answers 500 in Docker, and clients rely on it.
            Self::PortAllocated { .. }
            | Self::PortInUse { .. }
            | Self::PortBind { .. }
            | Self::PortsExhausted { .. }
            | Self::AddressesExhausted { .. }
            | Self::Link { .. }
            | Self::Rules { .. } => Kind::Internal,
        }
    }
}

/// [`crate::Networks::detach`] or [`crate::Networks::restore`] met failures; the rest was done.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The link could not be removed.
    #[error("remove link `{interface}`")]
    Link {
        /// The link on the host.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The packet filter refused the change.
    #[error("change nftables rules of table `{table}`")]
    Rules {
        /// Our table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// UDP flows to the container could not be forgotten.
    #[error("forget UDP flows to container {}", container.short())]
    Flows {
        /// The container.
        container: ContainerId,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Several of these; each with its causes.
    #[error("{}", .0.iter().map(|error| vocab::failure::chain(error)).collect::<Vec<_>>().join("; "))]
    Several(Vec<DetachError>),
}

impl DetachError {
    /// One result of many.
    pub(crate) fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        match errors.len() {
            0 | 1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several(errors)),
        }
    }
}

impl Failure for DetachError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// [`crate::Networks::hear`] failed.
#[derive(Debug, thiserror::Error)]
#[error("answer questions for names in container {}", container.short())]
pub struct NamesError {
    /// The container.
    pub container: ContainerId,
    /// The kernel's answer.
    pub source: io::Error,
}

impl Failure for NamesError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// [`crate::Networks::choose_subnet`] failed.
#[derive(Debug, thiserror::Error)]
pub enum SubnetError {
    /// The host's routes could not be read.
    #[error("list the host's routes")]
    Routes(#[source] io::Error),
    /// Every subnet of the pools is taken or routed elsewhere.
    #[error(
        "all predefined address pools have been fully subnetted: every subnet is in use by a \
         network or by a route of this host"
    )]
    Exhausted,
}

impl Failure for SubnetError {
    fn kind(&self) -> Kind {
        match self {
            Self::Routes(_) => Kind::Internal,
            Self::Exhausted => Kind::InvalidArgument,
        }
    }
}
