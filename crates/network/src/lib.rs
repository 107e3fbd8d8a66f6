//! Links, addresses, rules and published ports: how containers reach each other and the world.
//!
//! Everything is a kernel object driven by netlink from inside the daemon; no program is run, no
//! helper process exists for a published port. What you will not find: containers (an
//! [`Endpoint`] only carries the id of its owner), names of networks, policy about who may join.
//!
//! | module | hides |
//! |---|---|
//! | [`Networks`] | the order of things: bridge, sandbox, attach, detach, restore |
//! | `state` | what is wanted: networks, who is on them, which ports they have |
//! | `sandbox` | network namespaces, made and entered on short-lived threads |
//! | `links` | bridge devices, veth pairs, addresses and routes (rtnetlink) |
//! | `ipam` | which address of a subnet is free, and which subnet the host does not use |
//! | `ports` | host ports, held by a bound socket so that nobody else takes them |
//! | `rules` | one nftables table: what it should hold (pure), and bringing it there |
//! | [`dns`] | names of containers, answered inside their namespaces |
//! | `flows` | UDP flows that the kernel must forget when a port comes or goes |
//! | [`files`] | the texts of `/etc/resolv.conf` and `/etc/hosts` |

pub mod dns;
mod endpoint;
mod error;
pub mod files;
mod flows;
mod ipam;
mod links;
mod networks;
mod ports;
mod rules;
mod sandbox;
mod state;
mod sysctl;

pub use endpoint::{
    Address6, Attach, Bridge, Endpoint, Mac, ParseMacError, ParseProtocolError, PortRange,
    Protocol, PublishRequest, PublishedPort, Subnet6, Sysctl,
};
pub use error::{
    AttachError, BridgeError, DetachError, NamesError, OpenError, SandboxError, SubnetError,
};
pub use networks::{Config, Networks, SubnetPool};
