//! Networks: records of them, and what they are for the kernel. Who is on them is in
//! [`crate::endpoints`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use network::{Bridge, BridgeError, Subnet6, SubnetError};
use serde::{Deserialize, Serialize};
use vocab::{ContainerId, Failure, Kind, NetworkId};

use crate::config;
use crate::containers::record::{Joined, nanos};
use crate::db::{Db, DbError, Durability};
use crate::events::{EventKind, has_label};
use crate::shared::Shared;
use crate::{Engine, FilterError, Filters};

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Whether containers get IPv6 addresses.
    pub ipv6: bool,
    /// Whether there is no way out.
    pub internal: bool,
    /// Whether plain containers may join (swarm only).
    pub attachable: bool,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Options of the address driver; `None` when none were given.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers on it that run.
    pub containers: BTreeMap<ContainerId, Member>,
}

/// A subnet of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// `172.17.0.0/16`.
    pub subnet: String,
    /// Part that containers get addresses from; empty is all.
    pub range: String,
    /// The host's address in it.
    pub gateway: String,
    /// Addresses kept for others, by name.
    pub reserved: BTreeMap<String, String>,
}

/// A container on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The container's name.
    pub name: String,
    /// The endpoint.
    pub endpoint_id: String,
    /// `02:42:…`.
    pub mac_address: String,
    /// With prefix.
    pub ipv4_address: String,
    /// With prefix, or empty.
    pub ipv6_address: String,
}

/// A network that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// `bridge`, or empty.
    pub driver: String,
    /// Whether there is no way out.
    pub internal: bool,
    /// Swarm only.
    pub attachable: bool,
    /// Whether containers get IPv6 addresses.
    pub ipv6: bool,
    /// Subnets; one is chosen when empty.
    pub subnets: Vec<Subnet>,
    /// Address driver; `default`, or empty.
    pub ipam_driver: String,
    /// Options of the address driver.
    pub ipam_options: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a network was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindNetworkError {
    /// None.
    #[error("network {0} not found")]
    NotFound(String),
    /// Several ids begin so.
    #[error("network {typed} is ambiguous ({matches} matches found based on ID prefix)")]
    Ambiguous {
        /// What was typed.
        typed: String,
        /// How many.
        matches: usize,
    },
}

impl Failure for FindNetworkError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Ambiguous { .. } => Kind::InvalidArgument,
        }
    }
}

/// Why the predefined networks are not there.
#[derive(Debug, thiserror::Error)]
pub enum OpenNetworksError {
    /// No subnet.
    #[error("choose a subnet for network {network}")]
    Subnet {
        /// Its name.
        network: String,
        /// Why.
        source: SubnetError,
    },
    /// A setting of the daemon.
    #[error("{0}")]
    Setting(String),
    /// The bridge.
    #[error("make the bridge of network {network}")]
    Bridge {
        /// Its name.
        network: String,
        /// Why.
        source: BridgeError,
    },
    /// The record.
    #[error("record network {network}")]
    Record {
        /// Its name.
        network: String,
        /// Why.
        source: DbError,
    },
}

/// Why a network was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateNetworkError {
    /// The name is taken.
    #[error("network with name {0} already exists")]
    Taken(String),
    /// The name is one of the predefined ones.
    #[error("operation is not permitted on predefined {0} network ")]
    Predefined(String),
    /// The name is not fine.
    #[error("invalid network name {0:?}: only \"[a-zA-Z0-9][a-zA-Z0-9_.-]*\" are allowed")]
    Name(String),
    /// Docker does it, berth does not.
    #[error("berth does not do {0} yet")]
    NotYet(String),
    /// A subnet or address cannot be read, or is taken.
    #[error("{0}")]
    Invalid(String),
    /// No subnet.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// The bridge.
    #[error("make the bridge of network {network}")]
    Bridge {
        /// Its name.
        network: String,
        /// Why.
        source: BridgeError,
    },
    /// The record.
    #[error("record network {network}")]
    Record {
        /// Its name.
        network: String,
        /// Why.
        source: DbError,
    },
}

impl Failure for CreateNetworkError {
    fn kind(&self) -> Kind {
        match self {
            Self::Taken(_) => Kind::Conflict,
            Self::Predefined(_) => Kind::Forbidden,
            Self::Name(_) | Self::Invalid(_) => Kind::InvalidArgument,
            Self::NotYet(_) => Kind::NotImplemented,
            Self::Subnet(error) => error.kind(),
            Self::Bridge { source, .. } => source.kind(),
            Self::Record { .. } => Kind::Internal,
        }
    }
}

/// Why a network was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveNetworkError {
    /// The network was not found.
    #[error(transparent)]
    Find(#[from] FindNetworkError),
    /// It is one of the predefined ones.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Containers are on it.
    #[error("error while removing network: network {network} has active endpoints ({members})")]
    InUse {
        /// Its name.
        network: String,
        /// Who is.
        members: String,
    },
    /// The bridge.
    #[error("remove the bridge of network {network}")]
    Bridge {
        /// Its name.
        network: String,
        /// Why not.
        source: BridgeError,
    },
    /// The record.
    #[error("forget network {network}")]
    Record {
        /// Its name.
        network: String,
        /// Why not.
        source: DbError,
    },
}

impl Failure for RemoveNetworkError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Predefined(_) | Self::InUse { .. } => Kind::Forbidden,
            Self::Bridge { .. } | Self::Record { .. } => Kind::Internal,
        }
    }
}

/// What is kept of a network in `engine.db`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: NetworkId,
    pub(crate) name: String,
    #[serde(with = "nanos")]
    pub(crate) created: SystemTime,
    /// `bridge`, `host` or `null`.
    pub(crate) driver: String,
    /// Of `bridge`.
    pub(crate) bridge: Option<Bridge>,
    pub(crate) range: String,
    pub(crate) attachable: bool,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// All networks.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<NetworkId, Record>);

/// Networks that are always there.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

impl Records {
    /// Those that were kept.
    pub(crate) fn read(rows: Vec<(String, String, String)>) -> Result<Self, serde_json::Error> {
        let records = rows.into_iter().map(|(_, _, record)| {
            let record: Record = serde_json::from_str(&record)?;
            Ok((record.id, record))
        });
        Ok(Self(records.collect::<Result<_, serde_json::Error>>()?))
    }

    /// Networks that have a bridge on the host.
    pub(crate) fn with_bridges(&self) -> Vec<NetworkId> {
        let records = self.0.values();
        records
            .filter(|record| record.bridge.is_some())
            .map(|record| record.id)
            .collect()
    }

    /// By id, name, or a prefix of the id that only it has.
    pub(crate) fn find(&self, typed: &str) -> Result<&Record, FindNetworkError> {
        if let Some(record) = typed.parse().ok().and_then(|id: NetworkId| self.0.get(&id)) {
            return Ok(record);
        }
        if let Some(record) = self.0.values().find(|record| record.name == typed) {
            return Ok(record);
        }
        let mut matches = self
            .0
            .values()
            .filter(|record| !typed.is_empty() && record.id.to_string().starts_with(typed));
        match (matches.next(), matches.count()) {
            (Some(record), 0) => Ok(record),
            (Some(_), more) => Err(FindNetworkError::Ambiguous {
                typed: typed.to_owned(),
                matches: more + 1,
            }),
            (None, _) => Err(FindNetworkError::NotFound(typed.to_owned())),
        }
    }

    /// The gateway of the predefined bridge.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        let bridge = self.0.values().find(|record| record.name == "bridge")?;
        Some(bridge.bridge.as_ref()?.gateway)
    }

    fn subnets(&self) -> Vec<Ipv4Net> {
        self.0
            .values()
            .filter_map(|record| Some(record.bridge.as_ref()?.subnet))
            .collect()
    }

    fn subnets6(&self) -> Vec<Ipv6Net> {
        let bridges = self.0.values().filter_map(|record| record.bridge.as_ref());
        bridges
            .filter_map(|bridge| Some(bridge.ipv6?.subnet))
            .collect()
    }
}

/// Makes sure that the predefined networks are recorded and every bridge is there.
pub(crate) async fn open(
    records: &mut Records,
    db: &Db,
    links: &network::Networks,
    own: &network::Config,
    wanted: &config::Bridge,
) -> Result<(), OpenNetworksError> {
    let known = |records: &Records, name: &str| {
        records
            .0
            .values()
            .find(|record| record.name == name)
            .cloned()
    };
    for (name, driver) in [("host", "host"), ("none", "null")] {
        if known(records, name).is_none() {
            let record = plain(name, driver);
            keep(db, &record)
                .await
                .map_err(|source| OpenNetworksError::Record {
                    network: name.to_owned(),
                    source,
                })?;
            records.0.insert(record.id, record);
        }
    }
    let old = known(records, "bridge");
    if wanted.enabled {
        let record = predefined_bridge(records, old.clone(), links, own, wanted).await?;
        if old.as_ref() != Some(&record) {
            keep(db, &record)
                .await
                .map_err(|source| OpenNetworksError::Record {
                    network: record.name.clone(),
                    source,
                })?;
        }
        records.0.insert(record.id, record);
    } else if let Some(old) = old {
        records.0.remove(&old.id);
    }
    for record in records.0.values() {
        if let Some(bridge) = &record.bridge {
            links
                .ensure_bridge(bridge)
                .await
                .map_err(|source| OpenNetworksError::Bridge {
                    network: record.name.clone(),
                    source,
                })?;
        }
    }
    Ok(())
}

fn plain(name: &str, driver: &str) -> Record {
    Record {
        id: NetworkId::random(),
        name: name.to_owned(),
        created: SystemTime::now(),
        driver: driver.to_owned(),
        bridge: None,
        range: String::new(),
        attachable: false,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

async fn predefined_bridge(
    records: &Records,
    old: Option<Record>,
    links: &network::Networks,
    own: &network::Config,
    wanted: &config::Bridge,
) -> Result<Record, OpenNetworksError> {
    let mut record = old.unwrap_or_else(|| plain("bridge", "bridge"));
    let (subnet, gateway) = match (&wanted.address, &record.bridge) {
        (Some(text), _) => {
            let net: Ipv4Net = text.parse().map_err(|_| {
                OpenNetworksError::Setting(format!("invalid bridge address (bip): {text}"))
            })?;
            (net.trunc(), net.addr())
        }
        (None, Some(bridge)) => (bridge.subnet, bridge.gateway),
        (None, None) => {
            let subnet = links
                .choose_subnet(&records.subnets())
                .await
                .map_err(|source| OpenNetworksError::Subnet {
                    network: record.name.clone(),
                    source,
                })?;
            (subnet, first_host(subnet))
        }
    };
    let device = wanted.device.clone().unwrap_or_else(|| own.bridge_device());
    if wanted.fixed_cidr.is_some() {
        return Err(OpenNetworksError::Setting(
            "berth does not do fixed-cidr yet".to_owned(),
        ));
    }
    record.options = BTreeMap::from([
        (
            "com.docker.network.bridge.default_bridge".to_owned(),
            "true".to_owned(),
        ),
        (
            "com.docker.network.bridge.enable_icc".to_owned(),
            wanted.icc.to_string(),
        ),
        (
            "com.docker.network.bridge.enable_ip_masquerade".to_owned(),
            wanted.masquerade.to_string(),
        ),
        (
            "com.docker.network.bridge.host_binding_ipv4".to_owned(),
            wanted.publish_address.to_string(),
        ),
        ("com.docker.network.bridge.name".to_owned(), device.clone()),
        (
            "com.docker.network.driver.mtu".to_owned(),
            wanted.mtu.unwrap_or(1500).to_string(),
        ),
    ]);
    record.bridge = Some(Bridge {
        id: record.id,
        name: record.name.clone(),
        device,
        subnet,
        gateway,
        mtu: wanted.mtu,
        internal: false,
        icc: wanted.icc,
        masquerade: wanted.masquerade,
        ipv6: None,
    });
    Ok(record)
}

/// The subnets that were asked for, one of each family at most.
#[derive(Debug, Default)]
struct Given {
    ipv4: Option<(Ipv4Net, Ipv4Addr)>,
    ipv6: Option<Subnet6>,
}

impl Given {
    fn read(
        subnets: &[Subnet],
        taken: &[Ipv4Net],
        taken6: &[Ipv6Net],
    ) -> Result<Self, CreateNetworkError> {
        use CreateNetworkError::{Invalid, NotYet};
        let mut given = Self::default();
        for wanted in subnets {
            if !wanted.range.is_empty() || !wanted.reserved.is_empty() {
                return Err(NotYet(
                    "address ranges and reserved addresses of a subnet".to_owned(),
                ));
            }
            if wanted.subnet.is_empty() {
                match wanted.gateway.is_empty() {
                    true => continue,
                    false => return Err(NotYet("a gateway without a subnet".to_owned())),
                }
            }
            let subnet: IpNet = wanted
                .subnet
                .parse()
                .map_err(|_| Invalid(format!("invalid subnet {}", wanted.subnet)))?;
            let no_gateway = |_| Invalid(format!("invalid gateway {}", wanted.gateway));
            let again = || NotYet("several subnets of one family on a network".to_owned());
            match subnet {
                IpNet::V4(subnet) => {
                    let subnet = subnet.trunc();
                    let overlaps =
                        |other: &&Ipv4Net| other.contains(&subnet) || subnet.contains(*other);
                    overlap(subnet, taken.iter().find(overlaps))?;
                    let gateway = match wanted.gateway.as_str() {
                        "" => first_host(subnet),
                        text => text.parse().map_err(no_gateway)?,
                    };
                    if given.ipv4.replace((subnet, gateway)).is_some() {
                        return Err(again());
                    }
                }
                IpNet::V6(subnet) => {
                    let subnet = subnet.trunc();
                    let overlaps =
                        |other: &&Ipv6Net| other.contains(&subnet) || subnet.contains(*other);
                    overlap(subnet, taken6.iter().find(overlaps))?;
                    let gateway: Ipv6Addr = match wanted.gateway.as_str() {
                        "" => first_host6(subnet),
                        text => text.parse().map_err(no_gateway)?,
                    };
                    if !subnet.contains(&gateway) {
                        return Err(Invalid(format!(
                            "gateway {gateway} is not an address of subnet {subnet}"
                        )));
                    }
                    if given.ipv6.replace(Subnet6 { subnet, gateway }).is_some() {
                        return Err(again());
                    }
                }
            }
        }
        Ok(given)
    }
}

fn overlap<N: std::fmt::Display>(subnet: N, other: Option<&N>) -> Result<(), CreateNetworkError> {
    match other {
        None => Ok(()),
        Some(other) => Err(CreateNetworkError::Invalid(format!(
            "invalid pool request: Pool overlaps with other one on this address space: {subnet} \
             and {other}"
        ))),
    }
}

/// The forty bits of this data root's own range of IPv6 (RFC 4193), from its random id.
fn own_range(id: &str) -> [u8; 5] {
    let digits = |at: usize| id.get(2 * at..2 * at + 2);
    std::array::from_fn(|at| {
        let byte = digits(at).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.unwrap_or_default()
    })
}

fn first_host6(subnet: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet.network().to_bits() | 1)
}

fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next().unwrap_or_else(|| subnet.addr())
}

async fn keep(db: &Db, record: &Record) -> Result<(), DbError> {
    let row = (
        record.id.to_string(),
        record.name.clone(),
        crate::containers::to_json(record),
    );
    db.write(Durability::Full, move |db| {
        db.execute("INSERT OR REPLACE INTO networks VALUES (?1, ?2, ?3)", row)
            .map(drop)
    })
    .await
}

impl Shared {
    fn network(&self, record: &Record) -> Network {
        let mut containers = BTreeMap::new();
        for view in self.index().views() {
            for joined in &view.course.endpoints {
                if joined.network_id == record.id {
                    containers.insert(view.record.id, member(&view.name, joined));
                }
            }
        }
        Network {
            id: record.id,
            name: record.name.clone(),
            created: record.created,
            driver: record.driver.clone(),
            ipv6: record
                .bridge
                .as_ref()
                .is_some_and(|bridge| bridge.ipv6.is_some()),
            internal: record.bridge.as_ref().is_some_and(|bridge| bridge.internal),
            attachable: record.attachable,
            subnets: record
                .bridge
                .iter()
                .flat_map(|bridge| sides(record, bridge))
                .collect(),
            ipam_options: None,
            options: record.options.clone(),
            labels: record.labels.clone(),
            containers,
        }
    }
}

/// The subnets of a network, IPv4 first.
fn sides(record: &Record, bridge: &Bridge) -> impl Iterator<Item = Subnet> + use<> {
    let ipv4 = Subnet {
        subnet: bridge.subnet.to_string(),
        range: record.range.clone(),
        gateway: bridge.gateway.to_string(),
        reserved: BTreeMap::new(),
    };
    let ipv6 = bridge.ipv6.map(|side| Subnet {
        subnet: side.subnet.to_string(),
        gateway: side.gateway.to_string(),
        ..Subnet::default()
    });
    std::iter::once(ipv4).chain(ipv6)
}

fn member(name: &str, joined: &Joined) -> Member {
    let endpoint = joined.endpoint.as_ref();
    Member {
        name: name.to_owned(),
        endpoint_id: joined.endpoint_id.clone(),
        mac_address: endpoint.map(|e| e.mac.to_string()).unwrap_or_default(),
        ipv4_address: endpoint
            .map(|e| format!("{}/{}", e.address, e.prefix))
            .unwrap_or_default(),
        ipv6_address: endpoint
            .and_then(|e| e.ipv6)
            .map(|own| format!("{}/{}", own.address, own.prefix))
            .unwrap_or_default(),
    }
}

impl Engine {
    /// Networks; the predefined ones are `bridge`, `host` and `none`.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<Network>, FilterError> {
        const KEYS: [&str; 8] = [
            "dangling",
            "driver",
            "id",
            "label",
            "name",
            "scope",
            "type",
            "attachable",
        ];
        if let Some(key) = filters.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(FilterError::Unknown(key.clone()));
        }
        for value in filters.get("type").into_iter().flatten() {
            if !matches!(value.as_str(), "builtin" | "custom") {
                return Err(FilterError::Value {
                    key: "type".to_owned(),
                    value: value.clone(),
                });
            }
        }
        let records: Vec<Record> = self.shared.networks().0.values().cloned().collect();
        Ok(records
            .iter()
            .map(|record| self.shared.network(record))
            .filter(|network| passes(network, &filters))
            .collect())
    }

    /// One network by id, name or prefix of an id.
    pub async fn inspect_network(&self, typed: &str) -> Result<Network, FindNetworkError> {
        let record = self.shared.networks().find(typed)?.clone();
        Ok(self.shared.network(&record))
    }

    /// Makes a network; answers with its id and a warning, which is empty.
    pub async fn create_network(
        &self,
        wanted: CreateNetwork,
    ) -> Result<(NetworkId, String), CreateNetworkError> {
        // Known before it is made, and one after the other, so that two of the same name or with
        // the same subnet cannot both be.
        let planning = self.shared.planning.lock().await;
        let record = self.plan_network(&wanted).await?;
        let id = record.id;
        {
            let mut records = self.shared.networks();
            if records.0.values().any(|other| other.name == record.name) {
                return Err(CreateNetworkError::Taken(record.name));
            }
            records.0.insert(id, record.clone());
        }
        drop(planning);
        let made = async {
            if let Some(bridge) = &record.bridge {
                self.shared
                    .links
                    .ensure_bridge(bridge)
                    .await
                    .map_err(|source| CreateNetworkError::Bridge {
                        network: record.name.clone(),
                        source,
                    })?;
            }
            keep(&self.shared.db, &record)
                .await
                .map_err(|source| CreateNetworkError::Record {
                    network: record.name.clone(),
                    source,
                })
        };
        if let Err(error) = made.await {
            self.shared.networks().0.remove(&id);
            if let Err(error) = self.shared.links.remove_bridge(&id).await {
                let error = vocab::failure::chain(&error);
                tracing::warn!(error, "remove the bridge of a network that was not made");
            }
            return Err(error);
        }
        self.announce_network("create", &record);
        Ok((id, String::new()))
    }

    async fn plan_network(&self, wanted: &CreateNetwork) -> Result<Record, CreateNetworkError> {
        use CreateNetworkError::{Invalid, Name, NotYet, Predefined, Taken};
        if wanted.name.is_empty() {
            return Err(Invalid("invalid name: name is empty".to_owned()));
        }
        if wanted.name == "default" || PREDEFINED.contains(&wanted.name.as_str()) {
            return Err(Predefined(wanted.name.clone()));
        }
        let fine = wanted.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && wanted
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let known = |record: &Record| record.name == wanted.name;
        if self.shared.networks().0.values().any(known) {
            return Err(Taken(wanted.name.clone()));
        }
        if !fine {
            return Err(Name(wanted.name.clone()));
        }
        if !matches!(wanted.driver.as_str(), "" | "bridge") {
            return Err(NotYet(format!("networks of driver {}", wanted.driver)));
        }
        if !matches!(wanted.ipam_driver.as_str(), "" | "default") || !wanted.ipam_options.is_empty()
        {
            return Err(NotYet(
                "address drivers other than default, and their options".to_owned(),
            ));
        }
        let taken = self.shared.networks().subnets();
        let taken6 = self.shared.networks().subnets6();
        let given = Given::read(&wanted.subnets, &taken, &taken6)?;
        if given.ipv6.is_some() && !wanted.ipv6 {
            return Err(Invalid(
                "a subnet of IPv6 was given for a network without IPv6: set EnableIPv6 (--ipv6)"
                    .to_owned(),
            ));
        }
        let links = &self.shared.links;
        let (subnet, gateway) = match given.ipv4 {
            Some(side) => side,
            None => {
                let subnet = links.choose_subnet(&taken).await?;
                (subnet, first_host(subnet))
            }
        };
        let ipv6 = match given.ipv6 {
            _ if !wanted.ipv6 => None,
            Some(side) => Some(side),
            None => {
                let range = own_range(&self.shared.id);
                let subnet = links.choose_subnet6(range, &taken6).await?;
                let gateway = first_host6(subnet);
                Some(Subnet6 { subnet, gateway })
            }
        };
        let mut record = plain(&wanted.name, "bridge");
        let option = |key: &str| wanted.options.get(&format!("com.docker.network.{key}"));
        for key in wanted.options.keys() {
            const KNOWN: [&str; 4] = [
                "com.docker.network.bridge.name",
                "com.docker.network.bridge.enable_icc",
                "com.docker.network.bridge.enable_ip_masquerade",
                "com.docker.network.driver.mtu",
            ];
            if !KNOWN.contains(&key.as_str()) {
                return Err(NotYet(format!("the network option {key}")));
            }
        }
        let flag = |key: &str| option(key).is_none_or(|value| value != "false" && value != "0");
        record.attachable = wanted.attachable;
        record.options = wanted.options.clone();
        record.labels = wanted.labels.clone();
        record.bridge = Some(Bridge {
            id: record.id,
            name: record.name.clone(),
            device: option("bridge.name")
                .cloned()
                .unwrap_or_else(|| Bridge::device_of(&record.id)),
            subnet,
            gateway,
            mtu: match option("driver.mtu") {
                Some(text) => Some(
                    text.parse()
                        .map_err(|_| Invalid(format!("invalid MTU {text}")))?,
                ),
                None => self.shared.config.bridge.mtu,
            },
            internal: wanted.internal,
            icc: flag("bridge.enable_icc"),
            masquerade: flag("bridge.enable_ip_masquerade"),
            ipv6,
        });
        Ok(record)
    }

    /// Removes a network that no container is on.
    pub async fn remove_network(&self, typed: &str) -> Result<(), RemoveNetworkError> {
        let record = self.shared.networks().find(typed)?.clone();
        if PREDEFINED.contains(&record.name.as_str()) {
            return Err(RemoveNetworkError::Predefined(record.name));
        }
        let network = self.shared.network(&record);
        if !network.containers.is_empty() {
            let members = network
                .containers
                .values()
                .map(|member| format!("name:{:?} id:{:?}", member.name, &member.endpoint_id[..12]))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(RemoveNetworkError::InUse {
                network: record.name,
                members,
            });
        }
        let name = || record.name.clone();
        self.shared
            .links
            .remove_bridge(&record.id)
            .await
            .map_err(|source| RemoveNetworkError::Bridge {
                network: name(),
                source,
            })?;
        let key = record.id.to_string();
        self.shared
            .db
            .write(Durability::Full, move |db| {
                db.execute("DELETE FROM networks WHERE id = ?1", [key])
                    .map(drop)
            })
            .await
            .map_err(|source| RemoveNetworkError::Record {
                network: name(),
                source,
            })?;
        self.shared.networks().0.remove(&record.id);
        self.announce_network("destroy", &record);
        Ok(())
    }

    /// Removes networks that no container is on; answers with their names.
    pub async fn prune_networks(&self, filters: Filters) -> Result<Vec<String>, FilterError> {
        let prune = crate::containers::Prune::new(&filters)?;
        let records: Vec<Record> = self.shared.networks().0.values().cloned().collect();
        let mut removed = Vec::new();
        for record in records {
            let predefined = PREDEFINED.contains(&record.name.as_str());
            let wanted = prune.takes(&record.labels, record.created);
            // One that is in use refuses, and stays.
            if !predefined && wanted && self.remove_network(&record.id.to_string()).await.is_ok() {
                removed.push(record.name);
            }
        }
        Ok(removed)
    }

    fn announce_network(&self, action: &str, record: &Record) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), record.name.clone()),
            ("type".to_owned(), record.driver.clone()),
        ]);
        self.shared.events.publish(
            EventKind::Network,
            action.to_owned(),
            record.id.to_string(),
            attributes,
        );
    }
}

fn passes(network: &Network, filters: &Filters) -> bool {
    filters.iter().all(|(key, values)| {
        let any = |test: &dyn Fn(&str) -> bool| {
            values.is_empty() || values.iter().any(|value| test(value))
        };
        match key.as_str() {
            "driver" => any(&|value| network.driver == value),
            "id" => any(&|value| network.id.to_string().starts_with(value)),
            "name" => any(&|value| network.name.contains(value)),
            "scope" => any(&|value| value == "local"),
            "type" => {
                any(&|value| PREDEFINED.contains(&network.name.as_str()) == (value == "builtin"))
            }
            "label" => values
                .iter()
                .all(|wanted| has_label(&network.labels, wanted)),
            "dangling" => any(&|value| {
                let unused =
                    network.containers.is_empty() && !PREDEFINED.contains(&network.name.as_str());
                unused == matches!(value, "true" | "1")
            }),
            _ => true,
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A network of a user with a way out.
    pub(crate) fn bridged(name: &str) -> Record {
        let mut record = plain(name, "bridge");
        record.bridge = Some(Bridge {
            id: record.id,
            name: name.to_owned(),
            device: Bridge::device_of(&record.id),
            subnet: Ipv4Net::new([10, 0, 0, 0].into(), 24).unwrap(),
            gateway: [10, 0, 0, 1].into(),
            mtu: None,
            internal: false,
            icc: true,
            masquerade: true,
            ipv6: None,
        });
        record
    }

    /// One without.
    pub(crate) fn internal(name: &str) -> Record {
        let mut record = bridged(name);
        if let Some(bridge) = &mut record.bridge {
            bridge.internal = true;
        }
        record
    }
}
