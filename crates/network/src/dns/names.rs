//! Who is called what on which network.

use std::collections::HashMap;
use std::net::IpAddr;

use vocab::{ContainerId, NetworkId};

use super::answer::Lookup;
use crate::Endpoint;

/// Names and addresses of everybody who is on a network now.
#[derive(Debug, Default)]
pub(crate) struct Names {
    zones: HashMap<NetworkId, Zone>,
    /// Each container's networks in the order it joined them.
    members: HashMap<ContainerId, Vec<Membership>>,
}

/// A container on a network, as it sees others there.
#[derive(Debug)]
struct Membership {
    network: NetworkId,
    /// Whether the network leads outside.
    leads_out: bool,
    /// Names that only this container uses, in small letters, and whose they are.
    links: HashMap<String, String>,
}

/// The names of one network.
#[derive(Debug, Default)]
struct Zone {
    /// The network's own name.
    name: String,
    /// In small letters; several containers may share a name.
    by_name: HashMap<String, Vec<(ContainerId, Vec<IpAddr>)>>,
    /// The first name of who has the address.
    by_address: HashMap<IpAddr, String>,
}

impl Names {
    /// A container is on a network.
    pub(crate) fn join(&mut self, network: &str, endpoint: &Endpoint) {
        let networks = self.members.entry(endpoint.container).or_default();
        networks.retain(|known| known.network != endpoint.network);
        let links = endpoint.links.iter();
        let small = |text: &String| text.to_ascii_lowercase();
        networks.push(Membership {
            network: endpoint.network,
            leads_out: endpoint.gateway.is_some(),
            links: links
                .map(|(own, theirs)| (small(own), small(theirs)))
                .collect(),
        });
        if endpoint.names.is_empty() {
            return;
        }
        let zone = self.zones.entry(endpoint.network).or_default();
        zone.name = network.to_ascii_lowercase();
        let addresses: Vec<IpAddr> = endpoint.addresses().collect();
        for name in &endpoint.names {
            let holders = zone.by_name.entry(name.to_ascii_lowercase()).or_default();
            holders.retain(|(container, _)| *container != endpoint.container);
            holders.push((endpoint.container, addresses.clone()));
        }
        for address in addresses {
            zone.by_address.insert(address, endpoint.names[0].clone());
        }
    }

    /// A container is not on a network any more.
    pub(crate) fn leave(&mut self, endpoint: &Endpoint) {
        if let Some(networks) = self.members.get_mut(&endpoint.container) {
            networks.retain(|known| known.network != endpoint.network);
            if networks.is_empty() {
                self.members.remove(&endpoint.container);
            }
        }
        let Some(zone) = self.zones.get_mut(&endpoint.network) else {
            return;
        };
        for address in endpoint.addresses() {
            zone.by_address.remove(&address);
        }
        zone.by_name.retain(|_, holders| {
            holders.retain(|(container, _)| *container != endpoint.container);
            !holders.is_empty()
        });
        if zone.by_name.is_empty() {
            self.zones.remove(&endpoint.network);
        }
    }

    /// What one container may ask.
    pub(crate) fn of(&self, container: ContainerId) -> impl Lookup + '_ {
        let networks = self.members.get(&container).map_or(&[][..], Vec::as_slice);
        Asker {
            networks,
            zones: &self.zones,
        }
    }
}

/// The names as one container sees them.
struct Asker<'a> {
    networks: &'a [Membership],
    zones: &'a HashMap<NetworkId, Zone>,
}

impl Asker<'_> {
    fn zones(&self) -> impl Iterator<Item = &Zone> {
        let networks = self.networks.iter();
        networks.filter_map(|known| self.zones.get(&known.network))
    }
}

impl Lookup for Asker<'_> {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let all = |holders: &Vec<(ContainerId, Vec<IpAddr>)>| {
            let addresses = holders.iter().flat_map(|(_, addresses)| addresses);
            addresses.copied().collect()
        };
        let linked = self.networks.iter().find_map(|known| {
            let theirs = known.links.get(name)?;
            self.zones.get(&known.network)?.by_name.get(theirs)
        });
        if let Some(holders) = linked {
            return Some(all(holders));
        }
        if let Some(holders) = self.zones().find_map(|zone| zone.by_name.get(name)) {
            return Some(all(holders));
        }
        // `name.network`, where both may have dots.
        let dots = name.match_indices('.').map(|(at, _)| at);
        let mut splits = dots.map(|at| (&name[..at], &name[at + 1..]));
        splits.find_map(|(name, network)| {
            let mut zones = self.zones().filter(|zone| zone.name == network);
            zones.find_map(|zone| zone.by_name.get(name)).map(all)
        })
    }

    fn name(&self, address: IpAddr) -> Option<String> {
        let mut zones = self.zones();
        zones.find_map(|zone| {
            let name = zone.by_address.get(&address)?;
            Some(format!("{name}.{}", zone.name))
        })
    }

    fn has_way_out(&self) -> bool {
        self.networks.iter().any(|known| known.leads_out)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::Mac;

    fn endpoint(network: NetworkId, last: u8, names: &[&str]) -> Endpoint {
        let address = Ipv4Addr::new(10, 0, 0, last);
        Endpoint {
            network,
            container: ContainerId::random(),
            interface: "eth0".to_owned(),
            host_interface: "veth0123456789a".to_owned(),
            address,
            prefix: 24,
            gateway: None,
            ipv6: None,
            mac: Mac::of(address),
            ports: Vec::new(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            links: Vec::new(),
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_name_is_known_on_the_networks_of_who_asks_and_nowhere_else() {
        let (one, other) = (NetworkId::random(), NetworkId::random());
        let mut names = Names::default();
        let web = endpoint(one, 2, &["Web", "site"]);
        let db = endpoint(one, 3, &["db", "store.main"]);
        let stranger = endpoint(other, 4, &["stranger"]);
        names.join("my.net", &web);
        names.join("my.net", &db);
        names.join("other", &stranger);
        let asked = names.of(web.container);
        assert_eq!(asked.addresses("db"), Some(vec![ip(3)]));
        assert_eq!(asked.addresses("web"), Some(vec![ip(2)]));
        assert_eq!(asked.addresses("store.main"), Some(vec![ip(3)]));
        assert_eq!(asked.addresses("store.main.my.net"), Some(vec![ip(3)]));
        assert_eq!(asked.addresses("db.other"), None);
        assert_eq!(asked.addresses("stranger"), None);
        assert_eq!(asked.name(ip(2)).as_deref(), Some("Web.my.net"));
        assert_eq!(asked.name(ip(4)), None);
        assert!(!asked.has_way_out());
        assert!(names.of(ContainerId::random()).addresses("db").is_none());
    }

    #[test]
    fn a_link_is_a_name_that_one_container_uses() {
        let network = NetworkId::random();
        let mut names = Names::default();
        let db = endpoint(network, 2, &["db-1"]);
        let mut web = endpoint(network, 3, &["web"]);
        web.links = vec![("Store".to_owned(), "DB-1".to_owned())];
        names.join("net", &web);
        assert_eq!(names.of(web.container).addresses("store"), None);
        names.join("net", &db);
        assert_eq!(
            names.of(web.container).addresses("store"),
            Some(vec![ip(2)])
        );
        assert_eq!(names.of(db.container).addresses("store"), None);
    }

    #[test]
    fn several_share_a_name_until_they_leave() {
        let network = NetworkId::random();
        let mut names = Names::default();
        let (one, two) = (
            endpoint(network, 2, &["a", "svc"]),
            endpoint(network, 3, &["b", "svc"]),
        );
        names.join("net", &one);
        names.join("net", &two);
        names.join("net", &two);
        assert_eq!(
            names.of(one.container).addresses("svc"),
            Some(vec![ip(2), ip(3)])
        );
        names.leave(&one);
        names.leave(&one);
        assert_eq!(names.of(two.container).addresses("svc"), Some(vec![ip(3)]));
        assert_eq!(names.of(two.container).addresses("a"), None);
        names.leave(&two);
        assert!(names.zones.is_empty() && names.members.is_empty());
    }
}
