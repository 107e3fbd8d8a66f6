//! Forgetting UDP flows that lead to the wrong place.
//!
//! The rules see only the first packet of a flow; the kernel remembers where the rest goes. A TCP
//! client notices and connects anew, but a UDP client that keeps its port (WireGuard, syslog, a
//! resolver) would be sent to the old place for as long as it goes on sending. So when a port
//! comes, flows that went to the host are forgotten, and when it goes, those that went to the
//! container.
//!
//! The kernel lists flows only all together; that happens for containers with UDP ports alone.

use std::io;
use std::net::IpAddr;

use crate::{Endpoint, Protocol};
use netlink::{self, Batch, Family, Socket, find};

/// Of `linux/netfilter/nfnetlink_conntrack.h`.
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// A UDP flow that the kernel remembers.
#[derive(Debug)]
struct Flow {
    /// Where the first packet was sent.
    sent_to: (IpAddr, u16),
    /// Who answers.
    answered_by: (IpAddr, u16),
    /// How the kernel names the flow.
    tuple: Vec<u8>,
}

/// Forgets flows that went to the host's own ports, which now lead to the container. `local` are
/// the host's addresses.
pub(crate) fn forget_local(endpoint: &Endpoint, local: &[IpAddr]) -> io::Result<()> {
    forget(endpoint, |flow, _, host_port| {
        flow.sent_to.1 == host_port && local.contains(&flow.sent_to.0)
    })
}

/// Forgets flows that went to the container.
pub(crate) fn forget_container(endpoint: &Endpoint) -> io::Result<()> {
    forget(endpoint, |flow, container_port, _| {
        let (address, port) = flow.answered_by;
        port == container_port && endpoint.addresses().any(|own| own == address)
    })
}

fn forget(endpoint: &Endpoint, wrong: impl Fn(&Flow, u16, u16) -> bool) -> io::Result<()> {
    let ports = || {
        endpoint
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Udp)
    };
    if ports().next().is_none() {
        return Ok(());
    }
    let socket = Socket::open(Family::Netfilter)?;
    let flows = socket.dump(kind(IPCTNL_MSG_CT_GET), &header(libc::AF_UNSPEC), read)?;
    let mut batch = Batch::new();
    for flow in &flows {
        if ports().any(|port| wrong(flow, port.container_port, port.host_port)) {
            let family = match flow.sent_to.0 {
                IpAddr::V4(_) => libc::AF_INET,
                IpAddr::V6(_) => libc::AF_INET6,
            };
            let header = header(family);
            batch.message(kind(IPCTNL_MSG_CT_DELETE), 0, &header, |message| {
                message.bytes(CTA_TUPLE_ORIG | netlink::NESTED, &flow.tuple);
            });
        }
    }
    match socket.run(&batch) {
        // It ended by itself; the others of the batch are forgotten all the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn read(payload: &[u8]) -> Option<Flow> {
    let attributes = payload.get(header(libc::AF_UNSPEC).len()..)?;
    let tuple = find(attributes, CTA_TUPLE_ORIG)?;
    let answer = find(attributes, CTA_TUPLE_REPLY)?;
    let protocol = find(find(tuple, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)?;
    if protocol != [UDP] {
        return None;
    }
    Some(Flow {
        sent_to: end(tuple, [CTA_IP_V4_DST, CTA_IP_V6_DST], CTA_PROTO_DST_PORT)?,
        answered_by: end(answer, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], CTA_PROTO_SRC_PORT)?,
        tuple: tuple.to_vec(),
    })
}

/// One end of a tuple, whose address is one of two attributes.
fn end(tuple: &[u8], [ipv4, ipv6]: [u16; 2], port: u16) -> Option<(IpAddr, u16)> {
    let addresses = find(tuple, CTA_TUPLE_IP)?;
    let address = match find(addresses, ipv4) {
        Some(bytes) => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(find(addresses, ipv6)?).ok()?),
    };
    let port: [u8; 2] = find(find(tuple, CTA_TUPLE_PROTO)?, port)?.try_into().ok()?;
    Some((address, u16::from_be_bytes(port)))
}

fn kind(message: u16) -> u16 {
    u16::try_from(libc::NFNL_SUBSYS_CTNETLINK << 8).expect("0x100") | message
}

/// `struct nfgenmsg`.
fn header(family: libc::c_int) -> [u8; 4] {
    [u8::try_from(family).expect("below 256"), 0, 0, 0]
}
