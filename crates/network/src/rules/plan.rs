//! Which changes bring the table where it should be. Nothing here talks to the kernel.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Bridge, Endpoint, Protocol};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The table is there.
    AddTable,
    /// The table is not there.
    RemoveTable,
    /// Every set, map, chain and rule is there, and no other rule; elements stay.
    AssertRules,
    /// Elements are there.
    Add(Set, Vec<Element>),
    /// Elements, all of them present until now, are not there.
    Remove(Set, Vec<Element>),
}

/// The sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Every bridge of ours.
    Bridges,
    /// Bridges without a way out or in.
    Internal,
    /// Bridges whose packets leave with the host's address.
    Masqueraded,
    /// Bridges whose containers may talk to each other (matters where `br_netfilter` shows
    /// bridged packets to us).
    Talking,
    /// Every subnet and its bridge: for what goes back to where it came from.
    Hairpin,
    /// Ports published on every address of the host.
    Published,
    /// Ports published on one address.
    PublishedAt,
    /// The same three for IPv6.
    Hairpin6,
    Published6,
    Published6At,
}

impl Set {
    pub(crate) const ALL: [Self; 10] = [
        Self::Bridges,
        Self::Internal,
        Self::Masqueraded,
        Self::Talking,
        Self::Hairpin,
        Self::Published,
        Self::PublishedAt,
        Self::Hairpin6,
        Self::Published6,
        Self::Published6At,
    ];
}

/// What sets and maps hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// A device.
    Device(String),
    /// A device coming in and the same going out.
    Through(String),
    /// A subnet and the device it lies behind.
    Behind(IpNet, String),
    /// A port and where it leads.
    Port(Published),
}

/// A published port and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Absent: every address of the host, of the family of `address`.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) address: IpAddr,
    pub(crate) container_port: u16,
}

impl Published {
    /// Where it is looked for.
    fn set(&self) -> Set {
        match (self.host_ip.is_some(), self.address.is_ipv4()) {
            (false, true) => Set::Published,
            (true, true) => Set::PublishedAt,
            (false, false) => Set::Published6,
            (true, false) => Set::Published6At,
        }
    }
}

/// The whole table anew, in one transaction: whatever was there before, this is there after.
pub(crate) fn whole<'a>(
    bridges: impl IntoIterator<Item = &'a Bridge>,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> Vec<Change> {
    let mut changes = vec![
        Change::AddTable,
        Change::RemoveTable,
        Change::AddTable,
        Change::AssertRules,
    ];
    for bridge in bridges {
        changes.extend(memberships(bridge).map(|(set, element)| Change::Add(set, vec![element])));
    }
    let ports: Vec<_> = endpoints.into_iter().flat_map(published).collect();
    changes.extend(add(&ports));
    changes
}

/// A network comes; the rules are asserted with it.
pub(crate) fn join(bridge: &Bridge) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::AssertRules];
    changes.extend(memberships(bridge).map(|(set, element)| Change::Add(set, vec![element])));
    changes
}

/// A network goes.
pub(crate) fn leave(bridge: &Bridge) -> Vec<Change> {
    memberships(bridge)
        .map(|(set, element)| Change::Remove(set, vec![element]))
        .collect()
}

/// The last network goes.
pub(crate) fn remove_table() -> Vec<Change> {
    vec![Change::AddTable, Change::RemoveTable]
}

/// A container's ports come.
pub(crate) fn publish(endpoint: &Endpoint) -> Vec<Change> {
    add(&published(endpoint).collect::<Vec<_>>())
}

/// A container's ports go.
pub(crate) fn withdraw(endpoint: &Endpoint) -> Vec<Change> {
    let ports: Vec<_> = published(endpoint).collect();
    by_set(&ports)
        .map(|(set, elements)| Change::Remove(set, elements))
        .collect()
}

fn add(ports: &[Published]) -> Vec<Change> {
    by_set(ports)
        .map(|(set, elements)| Change::Add(set, elements))
        .collect()
}

fn by_set(ports: &[Published]) -> impl Iterator<Item = (Set, Vec<Element>)> {
    [
        Set::Published,
        Set::PublishedAt,
        Set::Published6,
        Set::Published6At,
    ]
    .into_iter()
    .filter_map(|set| {
        let of_set = ports.iter().filter(|port| port.set() == set);
        let elements: Vec<_> = of_set.copied().map(Element::Port).collect();
        (!elements.is_empty()).then_some((set, elements))
    })
}

fn published(endpoint: &Endpoint) -> impl Iterator<Item = Published> {
    endpoint.ports.iter().filter_map(|port| {
        Some(Published {
            host_ip: Some(port.host_ip).filter(|address| !address.is_unspecified()),
            protocol: port.protocol,
            host_port: port.host_port,
            address: endpoint.address_like(port.host_ip)?,
            container_port: port.container_port,
        })
    })
}

fn memberships(bridge: &Bridge) -> impl Iterator<Item = (Set, Element)> {
    let device = || Element::Device(bridge.device.clone());
    [
        (true, Set::Bridges, device()),
        (bridge.internal, Set::Internal, device()),
        (
            bridge.masquerade && !bridge.internal,
            Set::Masqueraded,
            device(),
        ),
        (
            bridge.icc,
            Set::Talking,
            Element::Through(bridge.device.clone()),
        ),
        (
            true,
            Set::Hairpin,
            Element::Behind(IpNet::V4(bridge.subnet.trunc()), bridge.device.clone()),
        ),
    ]
    .into_iter()
    .filter_map(|(member, set, element)| member.then_some((set, element)))
    .chain(bridge.ipv6.map(|ipv6| {
        let subnet = IpNet::V6(ipv6.subnet.trunc());
        (
            Set::Hairpin6,
            Element::Behind(subnet, bridge.device.clone()),
        )
    }))
}
