//! The networks of one daemon.

use std::os::fd::{BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;
use vocab::NetworkId;

use crate::error::{AttachError, BridgeError, DetachError, OpenError, SandboxError, SubnetError};
use crate::{Attach, Bridge, Endpoint};

/// How the networks of one daemon are set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Six digits that tell daemons on one host apart; empty for the default one.
    pub instance: String,
    /// Where subnets of new networks come from.
    pub pools: Vec<SubnetPool>,
    /// Whether to switch on `net.ipv4.ip_forward` (dockerd's `--ip-forward`).
    pub ip_forward: bool,
}

impl Config {
    /// Docker's pools, forwarding on.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            pools: Vec::new(),
            ip_forward: true,
        }
    }

    /// Device of the default network: `berth0`, or `br-<instance>`.
    pub fn bridge_device(&self) -> String {
        match self.instance.as_str() {
            "" => "berth0".to_owned(),
            instance => format!("br-{instance}"),
        }
    }

    /// Our nftables table: `berth`, or `berth-<instance>`.
    pub fn table(&self) -> String {
        match self.instance.as_str() {
            "" => "berth".to_owned(),
            instance => format!("berth-{instance}"),
        }
    }
}

/// A range that is cut into subnets of one size (daemon.json `default-address-pools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool {
    /// The range.
    pub base: Ipv4Net,
    /// Bits of each subnet.
    pub size: u8,
}

/// The networks of one daemon. Share it in an `Arc`.
#[derive(Debug)]
pub struct Networks {}

impl Networks {
    /// Starts with no network; [`Networks::ensure_bridge`] adds them.
    ///
    /// Sockets belong to the network namespace of the calling thread.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let _ = config;
        todo!()
    }

    /// A subnet of the pools that neither `taken` nor any route of the host overlaps.
    pub async fn choose_subnet(&self, taken: &[Ipv4Net]) -> Result<Ipv4Net, SubnetError> {
        let _ = taken;
        todo!()
    }

    /// Makes sure that the bridge device is there with its address, that packets are forwarded
    /// and that the rules know it. Doing it again changes nothing.
    pub async fn ensure_bridge(&self, bridge: &Bridge) -> Result<(), BridgeError> {
        let _ = bridge;
        todo!()
    }

    /// Removes the bridge device and its rules; unknown networks are removed already.
    pub async fn remove_bridge(&self, network: &NetworkId) -> Result<(), BridgeError> {
        let _ = network;
        todo!()
    }

    /// A new network namespace with `lo` up. It lives as long as the descriptor or a process in it.
    pub async fn open_sandbox(&self) -> Result<OwnedFd, SandboxError> {
        todo!()
    }

    /// Puts the container's namespace on a network; after a failure nothing of it is left.
    pub async fn attach(
        &self,
        netns: BorrowedFd<'_>,
        wanted: Attach,
    ) -> Result<Endpoint, AttachError> {
        let _ = (netns, wanted);
        todo!()
    }

    /// Takes the container off the network: link, address, ports. Doing it again changes nothing.
    pub async fn detach(&self, endpoint: &Endpoint) -> Result<(), DetachError> {
        let _ = endpoint;
        todo!()
    }

    /// After a restart of the daemon, once every bridge is ensured: takes up the endpoints that
    /// live containers have (addresses, held ports, rules) and removes what belongs to nobody.
    pub async fn restore(&self, endpoints: &[Endpoint]) -> Result<(), DetachError> {
        let _ = endpoints;
        todo!()
    }
}
