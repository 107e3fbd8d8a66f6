//! Networks: records of them, and the endpoints of containers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use vocab::config::EndpointSettings;
use vocab::{ContainerId, Failure, Kind, NetworkId};

use crate::containers::FindError;
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

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        pub enum $name {
            /// The network was not found.
            #[error(transparent)]
            Find(#[from] FindNetworkError),
            /// The container was not found.
            #[error(transparent)]
            Container(#[from] FindError),
        }

        impl Failure for $name {
            fn kind(&self) -> Kind {
                match self {
                    Self::Find(error) => error.kind(),
                    Self::Container(error) => error.kind(),
                }
            }
        }
    )* };
}

errors!(
    /// Why a network was not created.
    CreateNetworkError,
    /// Why a network was not removed.
    RemoveNetworkError,
    /// Why a container did not join or leave a network.
    ConnectError,
);

impl Engine {
    /// Networks; the predefined ones are `bridge`, `host` and `none`.
    pub async fn list_networks(&self, _filters: Filters) -> Result<Vec<Network>, FilterError> {
        todo!()
    }

    /// One network by id, name or prefix of an id.
    pub async fn inspect_network(&self, _typed: &str) -> Result<Network, FindNetworkError> {
        todo!()
    }

    /// Makes a network; answers with its id and a warning, which is empty.
    pub async fn create_network(
        &self,
        _wanted: CreateNetwork,
    ) -> Result<(NetworkId, String), CreateNetworkError> {
        todo!()
    }

    /// Removes a network that no container is on.
    pub async fn remove_network(&self, _typed: &str) -> Result<(), RemoveNetworkError> {
        todo!()
    }

    /// Lets a container join a network.
    pub async fn connect_network(
        &self,
        _typed: &str,
        _container: &str,
        _settings: EndpointSettings,
    ) -> Result<(), ConnectError> {
        todo!()
    }

    /// Lets a container leave a network.
    pub async fn disconnect_network(
        &self,
        _typed: &str,
        _container: &str,
        _force: bool,
    ) -> Result<(), ConnectError> {
        todo!()
    }

    /// Removes networks that no container is on; answers with their names.
    pub async fn prune_networks(&self, _filters: Filters) -> Result<Vec<String>, FilterError> {
        todo!()
    }
}
