//! The rules inside a container's namespace that put port 53 before the daemon's sockets.
//!
//! `names.nft` beside this file is the table as `nft` would load it. They are stateless, so that a
//! container's packets are not tracked for their sake. What is asked is rewritten before anything
//! could track it and what is answered after that, so that whoever does track sees one connection.

use std::io;
use std::net::Ipv4Addr;

use netlink::{Family, Socket};

use super::wire::{Expression, Transaction, is_ipv4, payload};
use crate::dns::ADDRESS;

/// Name of the table; nobody else's rules are in a container's namespace, or they are its own.
const TABLE: &str = "berth";
/// Where names are asked for.
const PORT: u16 = 53;

/// A transport: its number, and where its checksum is.
struct Transport {
    number: u8,
    checksum: u32,
}

const UDP: Transport = Transport {
    number: 17,
    checksum: 6,
};
const TCP: Transport = Transport {
    number: 6,
    checksum: 16,
};

/// A packet's ports, by their place in its transport header.
const SOURCE: u32 = 0;
const DESTINATION: u32 = 2;
/// A packet's addresses, by their place in its IPv4 header.
const FROM: u32 = 12;
const TO: u32 = 16;

/// Leads port 53 of [`ADDRESS`] to these ports, in the namespace of the calling thread. `fresh`
/// says that there are no such rules yet: looking for them, to remove them, takes the kernel long.
pub(crate) fn lead_names(udp: u16, tcp: u16, fresh: bool) -> io::Result<()> {
    let mut transaction = Transaction::begin(TABLE);
    transaction.add_table();
    if !fresh {
        transaction.remove_table();
        transaction.add_table();
    }
    let chains = [("asked", -300), ("answered", 300)];
    for (name, priority) in chains {
        transaction.add_filter(name, libc::NF_INET_LOCAL_OUT, priority);
    }
    for (transport, port) in [(UDP, udp), (TCP, tcp)] {
        transaction.add_rule("asked", &rewrite(TO, DESTINATION, &transport, PORT, port));
        transaction.add_rule("answered", &rewrite(FROM, SOURCE, &transport, port, PORT));
    }
    Socket::open(Family::Netfilter)?.run(&transaction.end())
}

/// `ip daddr 127.0.0.11 udp dport 53 udp dport set 1053` and the like.
fn rewrite(
    address_at: u32,
    port_at: u32,
    transport: &Transport,
    port: u16,
    other: u16,
) -> Vec<Expression> {
    let address: Ipv4Addr = ADDRESS;
    let mut rule = is_ipv4();
    rule.extend(payload::network_is(address_at, &address.octets()));
    rule.extend(payload::transport_is(transport.number));
    rule.extend(payload::port_is(port_at, port));
    rule.extend(payload::set_port(port_at, other, transport.checksum));
    rule
}
