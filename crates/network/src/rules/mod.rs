//! One nftables table of our own: what it should hold, and bringing it there.
//!
//! `table.nft` beside this file is the table as `nft` would load it; a test compares what the
//! kernel has after both. All rules are fixed; networks and ports are elements of sets and maps,
//! so that publishing a port costs one element whatever their number.
//!
//! | module | hides |
//! |---|---|
//! | [`plan`] | which changes bring the table where it should be; pure |
//! | [`wire`] | a change as netlink messages |
//! | [`watch`] | whether others took something of the table away |
//! | [`redirect`] | another table, inside containers: it leads questions for names to the daemon |
//!
//! What the rules promise:
//! * A published port works from other hosts (their address is kept), from the host itself
//!   through any of its addresses and `127.0.0.1`, and from containers, including the publishing
//!   one. From its own network the caller's address becomes the gateway's, since the answer would
//!   otherwise take the short way over the bridge and not be recognised.
//! * A port published on `127.0.0.1` cannot be reached from elsewhere: a packet for or from
//!   `127/8` that comes in by any device but `lo` is dropped before it is looked at.
//! * What is not published cannot be reached from outside the network, not even by hosts that
//!   route its subnet here. Networks cannot reach each other except by published ports. Internal
//!   networks reach nothing and nothing reaches them.
//! * Other tables are left alone and keep their say: a packet that the host's own firewall drops
//!   in its forward chain stays dropped.

mod plan;
mod redirect;
mod watch;
mod wire;

pub(crate) use plan::{Change, join, leave, publish, remove_table, whole, withdraw};
pub(crate) use redirect::lead_names;
pub(crate) use watch::{Disturbance, Watch};
pub(crate) use wire::Table;
