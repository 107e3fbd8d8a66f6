//! What is wanted of the kernel: networks, who is on them, which ports they have.
//!
//! Changing it is all or nothing, and talks to the kernel in two ways only: binding the ports that
//! are given out, and handing changes to the table.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vocab::{ContainerId, NetworkId};

use crate::error::AttachError;
use crate::ipam::{Addresses, Unavailable};
use crate::ports::{Held, Ports};
use crate::rules::{self, Change, Table};
use crate::{Address6, Attach, Bridge, Endpoint, Mac, links};

/// What is wanted of the kernel.
#[derive(Debug)]
pub(crate) struct State {
    networks: BTreeMap<NetworkId, Network>,
    /// Who is on which network.
    members: BTreeMap<(NetworkId, ContainerId), Member>,
    ports: Ports,
    table: Table,
}

#[derive(Debug)]
struct Network {
    bridge: Bridge,
    addresses: Addresses<Ipv4Addr>,
    addresses6: Option<Addresses<Ipv6Addr>>,
}

impl Network {
    /// Gives an endpoint's addresses back.
    fn release(&mut self, endpoint: &Endpoint) {
        self.addresses.release(endpoint.address);
        if let (Some(addresses), Some(own)) = (&mut self.addresses6, endpoint.ipv6) {
            addresses.release(own.address);
        }
    }
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    /// Whether the rules should have its ports: from the moment its link is there.
    published: bool,
    /// The sockets that keep its host ports.
    held: Vec<Held>,
}

impl State {
    /// No network yet.
    pub(crate) fn new(table: Table) -> Self {
        Self {
            networks: BTreeMap::new(),
            members: BTreeMap::new(),
            ports: Ports::default(),
            table,
        }
    }

    /// The bridges of all networks.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &Bridge> {
        self.networks.values().map(|network| &network.bridge)
    }

    /// The bridge of a network.
    pub(crate) fn find_bridge(&self, network: &NetworkId) -> Option<&Bridge> {
        self.networks.get(network).map(|network| &network.bridge)
    }

    /// Everybody on every network.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.members.values().map(|member| &member.endpoint)
    }

    /// Knows a network, and has the rules know it. Its addresses stay taken if it was known with
    /// the same subnet.
    pub(crate) fn join(&mut self, bridge: Bridge) -> io::Result<()> {
        let changes = rules::join(&bridge);
        let kept = self.networks.remove(&bridge.id);
        let kept = kept.filter(|network| {
            let known = &network.bridge;
            (known.subnet, known.gateway, known.ipv6)
                == (bridge.subnet, bridge.gateway, bridge.ipv6)
        });
        let network = match kept {
            Some(network) => Network { bridge, ..network },
            None => Network {
                addresses: Addresses::new(&bridge.subnet, bridge.gateway),
                addresses6: bridge
                    .ipv6
                    .map(|ipv6| Addresses::new(&ipv6.subnet, ipv6.gateway)),
                bridge,
            },
        };
        self.networks.insert(network.bridge.id, network);
        self.change(&changes)
    }

    /// Forgets a network, and has the rules forget it.
    pub(crate) fn leave(&mut self, network: &NetworkId) -> io::Result<()> {
        let Some(Network { bridge, .. }) = self.networks.remove(network) else {
            return Ok(());
        };
        match self.networks.is_empty() {
            true => self.change(&rules::remove_table()),
            false => self.change(&rules::leave(&bridge)),
        }
    }

    /// Takes address and ports for a container, or nothing.
    pub(crate) fn reserve(&mut self, wanted: &Attach) -> Result<(Endpoint, Bridge), AttachError> {
        let key = (wanted.network, wanted.container);
        if self.members.contains_key(&key) {
            return Err(AttachError::Attached {
                container: wanted.container,
                network: wanted.network,
            });
        }
        let address = self.take_address(wanted)?;
        let ipv6 = match self.take_address6(wanted) {
            Ok(ipv6) => ipv6,
            Err(error) => {
                if let Some(network) = self.networks.get_mut(&wanted.network) {
                    network.addresses.release(address);
                }
                return Err(error);
            }
        };
        let network = self.networks.get_mut(&wanted.network);
        let network = network.ok_or(AttachError::NoNetwork(wanted.network))?;
        let mut endpoint = Endpoint {
            network: wanted.network,
            container: wanted.container,
            interface: wanted.interface.clone(),
            host_interface: links::port_name(),
            address,
            prefix: network.bridge.subnet.prefix_len(),
            gateway: Some(network.bridge.gateway).filter(|_| !network.bridge.internal),
            ipv6,
            mac: wanted.mac.unwrap_or_else(|| Mac::of(address)),
            ports: Vec::new(),
            names: wanted.names.clone(),
            links: wanted.links.clone(),
        };
        let mut held = Vec::new();
        // An internal network has no way in: its ports are not published, as in Docker.
        let requests = wanted.ports.iter().filter(|_| !network.bridge.internal);
        for request in requests {
            let taken = match request.host_ip {
                Some(host_ip) if host_ip == IpAddr::V6(Ipv6Addr::LOCALHOST) => {
                    Err(AttachError::Loopback6)
                }
                Some(host_ip) if host_ip.is_ipv6() && ipv6.is_none() => Err(AttachError::NoIpv6 {
                    what: format!("publishing a port on {host_ip}"),
                    network: network.bridge.name.clone(),
                }),
                _ => self.ports.take(wanted.container, request, ipv6.is_some()),
            };
            match taken {
                Ok(taken) => {
                    for (port, socket) in taken {
                        endpoint.ports.push(port);
                        held.push(socket);
                    }
                }
                Err(error) => {
                    self.ports.release(wanted.container, &endpoint.ports);
                    network.release(&endpoint);
                    return Err(error);
                }
            }
        }
        let member = Member {
            endpoint: endpoint.clone(),
            published: false,
            held,
        };
        self.members.insert(key, member);
        Ok((endpoint, network.bridge.clone()))
    }

    fn take_address(&mut self, wanted: &Attach) -> Result<Ipv4Addr, AttachError> {
        let network = self.networks.get_mut(&wanted.network);
        let network = network.ok_or(AttachError::NoNetwork(wanted.network))?;
        let Some(address) = wanted.address else {
            return network
                .addresses
                .take_any()
                .ok_or_else(|| AttachError::AddressesExhausted {
                    network: network.bridge.name.clone(),
                    subnet: network.bridge.subnet.into(),
                });
        };
        match network.addresses.take(address) {
            Ok(()) => Ok(address),
            Err(Unavailable::Outside) => Err(AttachError::AddressOutside {
                address: address.into(),
                subnet: network.bridge.subnet.into(),
            }),
            Err(Unavailable::Taken) => Err(self.in_use(wanted.network, address.into())),
        }
    }

    fn take_address6(&mut self, wanted: &Attach) -> Result<Option<Address6>, AttachError> {
        let network = self.networks.get_mut(&wanted.network);
        let network = network.ok_or(AttachError::NoNetwork(wanted.network))?;
        let (Some(side), Some(addresses)) = (network.bridge.ipv6, &mut network.addresses6) else {
            return match wanted.address6 {
                None => Ok(None),
                Some(address) => Err(AttachError::NoIpv6 {
                    what: format!("the address {address}"),
                    network: network.bridge.name.clone(),
                }),
            };
        };
        let address = match wanted.address6 {
            None => addresses
                .take_any()
                .ok_or_else(|| AttachError::AddressesExhausted {
                    network: network.bridge.name.clone(),
                    subnet: side.subnet.into(),
                })?,
            Some(address) => match addresses.take(address) {
                Ok(()) => address,
                Err(Unavailable::Outside) => {
                    return Err(AttachError::AddressOutside {
                        address: address.into(),
                        subnet: side.subnet.into(),
                    });
                }
                Err(Unavailable::Taken) => {
                    return Err(self.in_use(wanted.network, address.into()));
                }
            },
        };
        Ok(Some(Address6 {
            address,
            prefix: side.subnet.prefix_len(),
            gateway: Some(side.gateway).filter(|_| !network.bridge.internal),
        }))
    }

    fn in_use(&self, network: NetworkId, address: IpAddr) -> AttachError {
        let mut members = self.members.values().map(|member| &member.endpoint);
        let owner = members.find(|endpoint| {
            endpoint.network == network && endpoint.addresses().any(|own| own == address)
        });
        AttachError::AddressInUse {
            address,
            owner: owner.map(|endpoint| endpoint.container),
        }
    }

    /// Has the rules lead the endpoint's ports to it.
    pub(crate) fn publish(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        if let Some(member) = self.find_member(endpoint) {
            member.published = true;
        }
        self.change(&rules::publish(endpoint))
    }

    /// Has the rules forget the endpoint's ports.
    pub(crate) fn withdraw(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        let member = self.find_member(endpoint);
        match member.is_some_and(|member| std::mem::take(&mut member.published)) {
            true => self.change(&rules::withdraw(endpoint)),
            false => Ok(()),
        }
    }

    /// Has the ports of one endpoint lead to another of the same container; answers with both as
    /// they are then.
    pub(crate) fn move_ports(
        &mut self,
        from: &Endpoint,
        to: &Endpoint,
    ) -> io::Result<(Endpoint, Endpoint)> {
        let moved = |endpoint: &Endpoint, ports| Endpoint {
            ports,
            ..endpoint.clone()
        };
        let (old, new) = (moved(from, Vec::new()), moved(to, from.ports.clone()));
        if self.find_member(from).is_none() || self.find_member(to).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Known first: where the table has to be made anew, it is made as it should be.
        let mut held = Vec::new();
        if let Some(member) = self.find_member(from) {
            held = std::mem::take(&mut member.held);
            member.endpoint = old.clone();
        }
        if let Some(member) = self.find_member(to) {
            member.held.extend(held);
            member.endpoint = new.clone();
        }
        self.change(&[rules::withdraw(from), rules::publish(&new)].concat())?;
        Ok((old, new))
    }

    /// Calls an endpoint something else.
    pub(crate) fn rename(&mut self, endpoint: &Endpoint) {
        if let Some(member) = self.find_member(endpoint) {
            member.endpoint.names.clone_from(&endpoint.names);
        }
    }

    /// Gives back the endpoint's address and ports.
    pub(crate) fn release(&mut self, endpoint: &Endpoint) {
        if self.find_member(endpoint).is_none() {
            return;
        }
        self.members.remove(&endpoint.key());
        self.ports.release(endpoint.container, &endpoint.ports);
        if let Some(network) = self.networks.get_mut(&endpoint.network) {
            network.release(endpoint);
        }
    }

    /// The member that has this very endpoint: not one that the same container got since, which
    /// has another link.
    fn find_member(&mut self, endpoint: &Endpoint) -> Option<&mut Member> {
        let member = self.members.get_mut(&endpoint.key())?;
        (member.endpoint.host_interface == endpoint.host_interface).then_some(member)
    }

    /// Knows an endpoint of an earlier life of the daemon.
    pub(crate) fn take_up(&mut self, endpoint: &Endpoint) {
        let Some(network) = self.networks.get_mut(&endpoint.network) else {
            tracing::warn!(
                container = endpoint.container.short(),
                network = endpoint.network.short(),
                "an endpoint of a network that is not there"
            );
            return;
        };
        if self.members.contains_key(&endpoint.key()) {
            return;
        }
        let taken = network.addresses.take(endpoint.address);
        let taken6 = match (&mut network.addresses6, endpoint.ipv6) {
            (Some(addresses), Some(own)) => addresses.take(own.address),
            _ => Ok(()),
        };
        if let Err(reason) = taken.and(taken6) {
            tracing::warn!(
                container = endpoint.container.short(), address = %endpoint.address, ?reason,
                "an endpoint's address is not free any more"
            );
        }
        let ports = endpoint.ports.iter();
        let held = ports
            .map(|port| self.ports.retake(endpoint.container, port))
            .collect();
        let member = Member {
            endpoint: endpoint.clone(),
            published: true,
            held,
        };
        self.members.insert(endpoint.key(), member);
    }

    /// Makes all of the table anew, in one transaction; without networks there is none.
    pub(crate) fn reassert(&self) -> io::Result<()> {
        if self.networks.is_empty() {
            return self.table.apply(&rules::remove_table());
        }
        let published = self.members.values().filter(|member| member.published);
        let endpoints = published.map(|member| &member.endpoint);
        self.table.apply(&rules::whole(self.bridges(), endpoints))
    }

    /// Applies changes; where the table is not as we left it, since somebody flushed it, all of it
    /// is made anew.
    fn change(&self, changes: &[Change]) -> io::Result<()> {
        self.table.apply(changes).or_else(|refused| {
            let table = self.table.name();
            tracing::warn!(
                table,
                "rules are not as berth left them, making them anew: {refused}"
            );
            self.reassert()
        })
    }
}
