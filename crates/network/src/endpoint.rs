//! The values that cross this crate's border: what a network is, what a container asks of it, and
//! what it got.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use vocab::{ContainerId, NetworkId};

/// A bridge network: its device on the host and the subnet behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The network.
    pub id: NetworkId,
    /// Its name among users; only for messages.
    pub name: String,
    /// The bridge device, at most 15 bytes: see [`crate::Config::bridge_device`] and
    /// [`Bridge::device_of`].
    pub device: String,
    /// The addresses behind the bridge.
    pub subnet: Ipv4Net,
    /// The host's own address on the bridge, and the containers' default route.
    pub gateway: Ipv4Addr,
    /// Largest packet; `None` is the kernel's 1500.
    pub mtu: Option<u32>,
    /// No way out and no way in: containers reach only each other and the gateway.
    pub internal: bool,
    /// Whether containers on this bridge may talk to each other.
    pub icc: bool,
    /// Whether packets to the outside carry the host's address.
    pub masquerade: bool,
    /// The IPv6 side of it, where it has one.
    #[serde(default)]
    pub ipv6: Option<Subnet6>,
}

/// The IPv6 addresses behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6 {
    /// All of them.
    pub subnet: Ipv6Net,
    /// The host's own address on the bridge, and the containers' default route.
    pub gateway: Ipv6Addr,
}

impl Bridge {
    /// The device name of a user-defined network: `br-` and twelve digits of its id.
    pub fn device_of(id: &NetworkId) -> String {
        format!("br-{}", id.short())
    }
}

/// What a container asks of a bridge network.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The network, known from [`crate::Networks::ensure_bridge`].
    pub network: NetworkId,
    /// Who will own the endpoint.
    pub container: ContainerId,
    /// Name of the link inside the container, `eth0` for the first.
    pub interface: String,
    /// A wanted address; `None` takes the next free one.
    pub address: Option<Ipv4Addr>,
    /// A wanted IPv6 address; `None` takes the next free one where the network has such.
    pub address6: Option<Ipv6Addr>,
    /// A wanted hardware address; `None` derives it from the address.
    pub mac: Option<Mac>,
    /// Ports to publish on the host.
    pub ports: Vec<PublishRequest>,
    /// Whether the container's default route goes through this network.
    pub default_route: bool,
    /// Kernel settings of the link, written before it carries packets.
    pub sysctls: Vec<Sysctl>,
    /// What others on the network may call it; the first is what its address is called.
    pub names: Vec<String>,
    /// What it alone calls others on the network: its own name for one, and what that is called.
    pub links: Vec<(String, String)>,
}

/// A kernel setting inside a container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Below `/proc/sys`, with `/` between the words: device names may have dots.
    pub path: String,
    /// What is written.
    pub value: String,
}

/// One container port to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Transport.
    pub protocol: Protocol,
    /// The port the container listens on.
    pub container_port: u16,
    /// Host address to publish on: an unspecified one is every address of its family, `None` every
    /// address of the families that the container has.
    pub host_ip: Option<IpAddr>,
    /// Host port, or ports of which the first free one is taken; `None` takes a random one.
    pub host_port: Option<PortRange>,
}

/// Ports `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port, included.
    pub last: u16,
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

/// A container on a network: everything [`crate::Networks::detach`] and
/// [`crate::Networks::restore`] need. The owner stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network: NetworkId,
    /// Whose endpoint it is.
    pub container: ContainerId,
    /// Name of the link inside the container.
    pub interface: String,
    /// Name of its other end on the host, a port of the bridge.
    pub host_interface: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// The bridge's address; absent on internal networks, which have no way out.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 side, where the network has one.
    #[serde(default)]
    pub ipv6: Option<Address6>,
    /// The container's hardware address.
    pub mac: Mac,
    /// Published ports, in the order they were asked for.
    pub ports: Vec<PublishedPort>,
    /// What others on the network may call it; the first is what its address is called.
    #[serde(default)]
    pub names: Vec<String>,
    /// What it alone calls others on the network: its own name for one, and what that is called.
    #[serde(default)]
    pub links: Vec<(String, String)>,
}

/// A container's IPv6 address on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address6 {
    /// The address.
    pub address: Ipv6Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// The bridge's address; absent on internal networks.
    pub gateway: Option<Ipv6Addr>,
}

impl Endpoint {
    /// The container's addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = self.ipv6.map(|own| IpAddr::V6(own.address));
        std::iter::once(IpAddr::V4(self.address)).chain(ipv6)
    }

    /// The address of it that packets of this family reach.
    pub(crate) fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        let mut own = self.addresses();
        own.find(|own| own.is_ipv4() == other.is_ipv4())
    }

    /// What it is known by.
    pub(crate) fn key(&self) -> (NetworkId, ContainerId) {
        (self.network, self.container)
    }
}

/// A container port as it is reachable on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Transport.
    pub protocol: Protocol,
    /// The port the container listens on.
    pub container_port: u16,
    /// Host address; unspecified is every address of the host.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// Transports that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The text names no transport that has ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a protocol with ports: tcp, udp or sctp is wanted")]
pub struct ParseProtocolError(pub String);

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, ParseProtocolError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(ParseProtocolError(text.to_owned())),
        }
    }
}

/// A hardware address, printed as `02:42:ac:11:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of whoever has this network address: `02:42` (locally administered) and its
    /// four bytes, so that neighbours' caches stay right when an address changes hands.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// The text is not six pairs of hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: six pairs of hexadecimal digits are wanted")]
pub struct ParseMacError(pub String);

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let refused = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2);
            *byte = pair
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(refused)?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(refused()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, ParseMacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_prints_and_parses() {
        let mac = Mac::of(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!("02:42:AC:11:00:02".parse(), Ok(mac));
        assert_eq!("02-42-ac-11-00-02".parse(), Ok(mac));
        for text in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "0g:42:ac:11:00:02",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
