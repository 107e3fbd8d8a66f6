//! Host ports: who has which, and the sockets that hold them.
//!
//! A published port is an element of an nftables map and needs no socket. It is bound all the
//! same, without listening, so that no process of the host takes it later and gets nothing, and
//! so that a port that a process has is refused now. TCP is bound without `SO_REUSEADDR`: with it,
//! any listener that also sets it (nearly all do) could take the port away.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol as Transport, SocketFlags, SocketType, ipproto, sockopt,
};
use vocab::ContainerId;

use crate::{AttachError, PortRange, Protocol, PublishRequest, PublishedPort};

/// Ports for protocols that the kernel cannot bind come from here (IANA's dynamic range).
const DYNAMIC: PortRange = PortRange {
    first: 49152,
    last: 65535,
};

/// How often another port is tried where one that the kernel chose is free for one family only.
const RANDOM_ATTEMPTS: u32 = 16;

/// Ports that containers have.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<(IpAddr, ContainerId)>>,
}

/// A port that is ours as long as this lives; `None` where the kernel lacks the protocol, so that
/// no process can have it either, and for a port that could not be bound again after a restart.
#[derive(Debug)]
pub(crate) struct Held(Option<OwnedFd>);

impl Ports {
    /// Takes a port for a container: with no host address asked for, the same one of each family
    /// that the container has.
    pub(crate) fn take(
        &mut self,
        owner: ContainerId,
        wanted: &PublishRequest,
        has_ipv6: bool,
    ) -> Result<Vec<(PublishedPort, Held)>, AttachError> {
        let ipv4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let ipv6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let taken = match wanted.host_ip {
            Some(address) => vec![self.take_one(address, wanted)?],
            None if has_ipv6 => self.take_both(ipv4, ipv6, wanted)?,
            None => vec![self.take_one(ipv4, wanted)?],
        };
        for (port, _) in &taken {
            let owners = self.taken.entry((port.protocol, port.host_port));
            owners.or_default().push((port.host_ip, owner));
        }
        Ok(taken)
    }

    fn take_one(
        &self,
        host_ip: IpAddr,
        wanted: &PublishRequest,
    ) -> Result<(PublishedPort, Held), AttachError> {
        let (host_port, held) = match wanted.host_port {
            None => self.take_random(wanted.protocol, host_ip)?,
            Some(range) => self.take_of(range, wanted.protocol, host_ip)?,
        };
        let port = PublishedPort {
            protocol: wanted.protocol,
            container_port: wanted.container_port,
            host_ip,
            host_port,
        };
        Ok((port, held))
    }

    /// One port on two addresses: what is free on the first may not be on the other.
    fn take_both(
        &self,
        first: IpAddr,
        second: IpAddr,
        wanted: &PublishRequest,
    ) -> Result<Vec<(PublishedPort, Held)>, AttachError> {
        let mut left = wanted.host_port;
        let mut attempts = RANDOM_ATTEMPTS;
        loop {
            let asked = PublishRequest {
                host_port: left,
                ..wanted.clone()
            };
            let one = self.take_one(first, &asked)?;
            let same = PublishRequest {
                host_port: Some(one.0.host_port.into()),
                ..wanted.clone()
            };
            let refused = match self.take_one(second, &same) {
                Ok(other) => return Ok(vec![one, other]),
                Err(refused) => refused,
            };
            match &mut left {
                Some(range) if one.0.host_port < range.last => range.first = one.0.host_port + 1,
                None if attempts > 0 => attempts -= 1,
                _ => return Err(refused),
            }
        }
    }

    /// Takes a port that a container had before the daemon was restarted. One that a process has
    /// taken meanwhile stays published: packets are rewritten before they reach any socket.
    pub(crate) fn retake(&mut self, owner: ContainerId, port: &PublishedPort) -> Held {
        let host_ip = port.host_ip;
        let owners = self
            .taken
            .entry((port.protocol, port.host_port))
            .or_default();
        owners.push((host_ip, owner));
        bind(port.protocol, host_ip, port.host_port).unwrap_or_else(|error| {
            tracing::warn!(
                container = owner.short(), %host_ip, port = port.host_port, protocol = %port.protocol,
                "a published port cannot be held any more: {error}"
            );
            Held(None)
        })
    }

    /// Gives a container's ports back.
    pub(crate) fn release(&mut self, owner: ContainerId, ports: &[PublishedPort]) {
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(owners) = self.taken.get_mut(&key) {
                owners.retain(|(address, who)| *who != owner || port.host_ip != *address);
                if owners.is_empty() {
                    self.taken.remove(&key);
                }
            }
        }
    }

    fn take_of(
        &self,
        range: PortRange,
        protocol: Protocol,
        host_ip: IpAddr,
    ) -> Result<(u16, Held), AttachError> {
        let mut refusal = AttachError::PortsExhausted {
            host_ip,
            first: range.first,
            last: range.last,
        };
        for host_port in range.first..=range.last {
            let refused = match self.owner(protocol, host_ip, host_port) {
                Some(owner) => AttachError::PortAllocated {
                    host_ip,
                    host_port,
                    owner,
                },
                None => match bind(protocol, host_ip, host_port) {
                    Ok(held) => return Ok((host_port, held)),
                    Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                        AttachError::PortInUse {
                            host_ip,
                            host_port,
                            protocol,
                        }
                    }
                    Err(source) => AttachError::PortBind {
                        host_ip,
                        host_port,
                        protocol,
                        source,
                    },
                },
            };
            // Who asked for one port is told about that port.
            if range.first == range.last {
                refusal = refused;
            }
        }
        Err(refusal)
    }

    /// The kernel chooses a port that no process has, and so none of ours.
    fn take_random(&self, protocol: Protocol, host_ip: IpAddr) -> Result<(u16, Held), AttachError> {
        let refused = |source| AttachError::PortBind {
            host_ip,
            host_port: 0,
            protocol,
            source,
        };
        match bind(protocol, host_ip, 0).map_err(refused)? {
            Held(None) => self.take_of(DYNAMIC, protocol, host_ip),
            Held(Some(socket)) => {
                let address = rustix::net::getsockname(&socket).map_err(io::Error::from);
                let address: SocketAddr = address
                    .and_then(|any| any.try_into().map_err(io::Error::from))
                    .map_err(refused)?;
                Ok((address.port(), Held(Some(socket))))
            }
        }
    }

    /// The container whose port stands in the way.
    fn owner(&self, protocol: Protocol, host_ip: IpAddr, port: u16) -> Option<ContainerId> {
        let owners = self.taken.get(&(protocol, port))?;
        let overlapping = owners.iter().find(|(taken, _)| {
            let every = taken.is_unspecified() || host_ip.is_unspecified();
            *taken == host_ip || every && taken.is_ipv4() == host_ip.is_ipv4()
        });
        overlapping.map(|(_, owner)| *owner)
    }
}

fn bind(protocol: Protocol, host_ip: IpAddr, port: u16) -> io::Result<Held> {
    match try_bind(protocol, host_ip, port) {
        // Connections that a process of the host closed within the last minute are in the way of
        // a plain bind, but of no listener.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => {
            Ok(Held(Some(listen_past_closed_connections(host_ip, port)?)))
        }
        Err(Errno::PROTONOSUPPORT) => Ok(Held(None)),
        bound => Ok(Held(Some(bound?))),
    }
}

fn try_bind(protocol: Protocol, host_ip: IpAddr, port: u16) -> rustix::io::Result<OwnedFd> {
    let socket = socket(protocol, host_ip)?;
    rustix::net::bind(&socket, &SocketAddr::new(host_ip, port))?;
    Ok(socket)
}

/// Fails with `EADDRINUSE` if and only if somebody has the port. A socket bound so would give way
/// to any listener, hence this one listens, with room for nobody.
fn listen_past_closed_connections(host_ip: IpAddr, port: u16) -> rustix::io::Result<OwnedFd> {
    let socket = socket(Protocol::Tcp, host_ip)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::new(host_ip, port))?;
    rustix::net::listen(&socket, 0)?;
    Ok(socket)
}

fn socket(protocol: Protocol, host_ip: IpAddr) -> rustix::io::Result<OwnedFd> {
    let (kind, transport): (SocketType, Transport) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC;
    let IpAddr::V6(_) = host_ip else {
        return rustix::net::socket_with(AddressFamily::INET, kind, flags, Some(transport));
    };
    let socket = rustix::net::socket_with(AddressFamily::INET6, kind, flags, Some(transport))?;
    // IPv4 is asked for by itself.
    sockopt::set_ipv6_v6only(&socket, true)?;
    Ok(socket)
}
