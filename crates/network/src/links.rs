//! Links, addresses and routes by rtnetlink, in the namespace of the thread that opened [`Links`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::{Ipv4Net, Ipv6Net};
use rustix::io::Errno;

use crate::Mac;
use netlink::{self, Attributes, Batch, Family, Socket, attributes, find, text_of, word};

/// Bytes of a device name without its final zero.
pub(crate) const NAME_BYTES: usize = 15;

/// How names of ports begin; eleven random digits follow.
const PORT_PREFIX: &str = "veth";

/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_INFO_PEER: u16 = 1;
/// Of `linux/if_link.h`.
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_FLUSH: u16 = 23;
const IFLA_BRPORT_ISOLATED: u16 = 33;
/// Of `linux/if_bridge.h`.
const BR_STATE_DISABLED: u8 = 0;
/// Of the kernel's 255 bytes, whatever the characters.
const ALIAS_CHARS: usize = 60;
/// The interface is up.
const UP: u32 = libc::IFF_UP.cast_unsigned();

/// A netlink socket for links.
#[derive(Debug)]
pub(crate) struct Links(Socket);

/// A link as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, …; absent for hardware.
    pub(crate) kind: Option<String>,
    /// Index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// What people call it.
    pub(crate) alias: String,
}

/// A veth pair to make: one end a port of a bridge here, the other inside a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host_name: &'a str,
    /// Index of the bridge.
    pub(crate) bridge: u32,
    pub(crate) mtu: Option<u32>,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
}

/// What a port of a bridge may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    /// It does not talk to other ports that are isolated.
    pub(crate) isolated: bool,
    /// Frames may leave by the port they came from.
    pub(crate) hairpin: bool,
}

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(Family::Route)?))
    }

    /// Sets a link up.
    pub(crate) fn raise(&self, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, 0, &ifinfo(0, UP), |link| {
            link.text(libc::IFLA_IFNAME, name);
        });
        self.0.run(&batch)
    }

    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Link>> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETLINK, 0, &ifinfo(0, 0), |link| {
            link.text(libc::IFLA_IFNAME, name);
        });
        let mut found = None;
        match self
            .0
            .query(&batch, |_, payload| found = read_link(payload))
        {
            Ok(()) => Ok(found),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn list(&self) -> io::Result<Vec<Link>> {
        self.0.dump(libc::RTM_GETLINK, &ifinfo(0, 0), read_link)
    }

    /// Makes a bridge that is up. Its hardware address is given, because a bridge without one
    /// takes on its ports' and changes it whenever they come and go.
    pub(crate) fn create_bridge(&self, name: &str, mac: Mac, mtu: Option<u32>) -> io::Result<()> {
        let mut batch = Batch::new();
        let flags = netlink::CREATE | netlink::EXCLUSIVE;
        batch.message(libc::RTM_NEWLINK, flags, &ifinfo(0, UP), |link| {
            link.text(libc::IFLA_IFNAME, name);
            link.bytes(libc::IFLA_ADDRESS, &mac.0);
            if let Some(mtu) = mtu {
                link.u32(libc::IFLA_MTU, mtu);
            }
            link.nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "bridge");
            });
        });
        self.0.run(&batch)
    }

    /// Sets an existing bridge up, with its hardware address and alias.
    pub(crate) fn assert_bridge(
        &self,
        index: u32,
        mac: Mac,
        mtu: Option<u32>,
        alias: &str,
    ) -> io::Result<()> {
        let alias: String = alias.chars().take(ALIAS_CHARS).collect();
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, 0, &ifinfo(index, UP), |link| {
            link.bytes(libc::IFLA_ADDRESS, &mac.0);
            link.bytes(libc::IFLA_IFALIAS, alias.as_bytes());
            if let Some(mtu) = mtu {
                link.u32(libc::IFLA_MTU, mtu);
            }
        });
        self.0.run(&batch)
    }

    /// Makes a pair in one message: born in its places, the host's end on the bridge and up. Moving
    /// an end into a namespace later waits for an RCU grace period (18 ms instead of 0.5).
    pub(crate) fn create_pair(&self, pair: &Pair<'_>) -> io::Result<()> {
        let netns = pair.netns.as_raw_fd().cast_unsigned();
        let mut batch = Batch::new();
        let flags = netlink::CREATE | netlink::EXCLUSIVE;
        batch.message(libc::RTM_NEWLINK, flags, &ifinfo(0, UP), |link| {
            link.text(libc::IFLA_IFNAME, pair.host_name);
            link.u32(libc::IFLA_MASTER, pair.bridge);
            if let Some(mtu) = pair.mtu {
                link.u32(libc::IFLA_MTU, mtu);
            }
            link.nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "veth");
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    // Not up yet: an end cannot be raised before the other is there.
                    data.nest_with_header(VETH_INFO_PEER, &ifinfo(0, 0), |peer| {
                        peer.text(libc::IFLA_IFNAME, pair.name);
                        peer.bytes(libc::IFLA_ADDRESS, &pair.mac.0);
                        peer.u32(libc::IFLA_NET_NS_FD, netns);
                        if let Some(mtu) = pair.mtu {
                            peer.u32(libc::IFLA_MTU, mtu);
                        }
                    });
                });
            });
        });
        self.0.run(&batch)
    }

    /// Sets what a port of a bridge may do.
    pub(crate) fn set_port(&self, name: &str, port: Port) -> io::Result<()> {
        self.set_port_attributes(name, |info| {
            info.bytes(IFLA_BRPORT_ISOLATED, &[u8::from(port.isolated)]);
            info.bytes(IFLA_BRPORT_MODE, &[u8::from(port.hairpin)]);
        })
    }

    /// Cuts a port off, at once and without the waiting that removing it takes; the bridge forgets
    /// who was behind it. A port that is not there is cut off already.
    pub(crate) fn silence_port(&self, name: &str) -> io::Result<()> {
        let silenced = self.set_port_attributes(name, |info| {
            info.bytes(IFLA_BRPORT_STATE, &[BR_STATE_DISABLED]);
            info.bytes(IFLA_BRPORT_FLUSH, &[]);
        });
        match silenced {
            Err(error) if is_absent(&error) => Ok(()),
            done => done,
        }
    }

    fn set_port_attributes(
        &self,
        name: &str,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> io::Result<()> {
        let link = self.find(name)?.ok_or(Errno::NODEV)?;
        let mut header = ifinfo(link.index, 0);
        header[0] = u8::try_from(libc::AF_BRIDGE).expect("7");
        let mut batch = Batch::new();
        batch.message(libc::RTM_SETLINK, 0, &header, |link| {
            link.nest(libc::IFLA_PROTINFO, attributes);
        });
        self.0.run(&batch)
    }

    /// Makes sure that a link carries packets now. The kernel starts a link's queue in the
    /// background after the carrier came, and drops what is sent before; asking for the link's
    /// state makes it do that work first (Linux 6.5 and later).
    pub(crate) fn settle(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        Ok(())
    }

    /// Makes a link a port of a bridge.
    pub(crate) fn enslave(&self, index: u32, bridge: u32) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, 0, &ifinfo(index, UP), |link| {
            link.u32(libc::IFLA_MASTER, bridge);
        });
        self.0.run(&batch)
    }

    /// Removes a link; one that is not there is removed already.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_DELLINK, 0, &ifinfo(0, 0), |link| {
            link.text(libc::IFLA_IFNAME, name);
        });
        match self.0.run(&batch) {
            Err(error) if is_absent(&error) => Ok(()),
            done => done,
        }
    }

    /// Raises a link and gives it an address and, with a gateway, the default route.
    pub(crate) fn configure(
        &self,
        index: u32,
        address: Ipv4Net,
        gateway: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, 0, &ifinfo(index, UP), |_| {});
        let flags = netlink::CREATE | netlink::REPLACE;
        batch.message(
            libc::RTM_NEWADDR,
            flags,
            &ifaddr(address, index),
            |message| {
                message.bytes(libc::IFA_LOCAL, &address.addr().octets());
                message.bytes(libc::IFA_ADDRESS, &address.addr().octets());
                if address.prefix_len() < 31 {
                    message.bytes(libc::IFA_BROADCAST, &address.broadcast().octets());
                }
            },
        );
        if let Some(gateway) = gateway {
            route_by_default(&mut batch, index, gateway.into());
        }
        self.0.run(&batch)
    }

    /// Gives a link an IPv6 address and, with a gateway, the default route. The address is not
    /// looked for on the network first: that takes a second, and we know who has which.
    pub(crate) fn configure6(
        &self,
        index: u32,
        address: Ipv6Net,
        gateway: Option<Ipv6Addr>,
    ) -> io::Result<()> {
        let mut batch = Batch::new();
        let mut header = [0; 8];
        header[0] = u8::try_from(libc::AF_INET6).expect("10");
        header[1] = address.prefix_len();
        header[2] = u8::try_from(libc::IFA_F_NODAD).expect("2");
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let flags = netlink::CREATE | netlink::REPLACE;
        batch.message(libc::RTM_NEWADDR, flags, &header, |message| {
            message.bytes(libc::IFA_LOCAL, &address.addr().octets());
            message.bytes(libc::IFA_ADDRESS, &address.addr().octets());
        });
        if let Some(gateway) = gateway {
            route_by_default(&mut batch, index, gateway.into());
        }
        self.0.run(&batch)
    }

    /// Where the host's IPv6 routes of every table lead, default routes left out.
    pub(crate) fn routes6(&self) -> io::Result<Vec<Ipv6Net>> {
        let mut header = [0; 12];
        header[0] = u8::try_from(libc::AF_INET6).expect("10");
        self.0.dump(libc::RTM_GETROUTE, &header, |payload| {
            let prefix = payload.get(1).copied().filter(|prefix| *prefix > 0)?;
            let octets = find(payload.get(12..)?, libc::RTA_DST)?;
            let octets: [u8; 16] = octets.try_into().ok()?;
            Ipv6Net::new(octets.into(), prefix).ok()
        })
    }

    /// Has the default route go through a link, whatever it went through before.
    pub(crate) fn set_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut batch = Batch::new();
        route_by_default(&mut batch, index, gateway);
        self.0.run(&batch)
    }

    /// The host's IPv4 addresses, each with the index of its link.
    pub(crate) fn addresses(&self) -> io::Result<Vec<(u32, Ipv4Net)>> {
        let header = ifaddr(Ipv4Net::default(), 0);
        self.0.dump(libc::RTM_GETADDR, &header, |payload| {
            Some((word(payload, 4)?, read_address(payload)?))
        })
    }

    pub(crate) fn remove_address(&self, index: u32, address: Ipv4Net) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_DELADDR, 0, &ifaddr(address, index), |message| {
            message.bytes(libc::IFA_LOCAL, &address.addr().octets());
        });
        self.0.run(&batch)
    }

    /// Where the host's IPv4 routes of every table lead, default routes left out.
    pub(crate) fn routes(&self) -> io::Result<Vec<Ipv4Net>> {
        let mut header = [0; 12];
        header[0] = u8::try_from(libc::AF_INET).expect("2");
        self.0.dump(libc::RTM_GETROUTE, &header, read_route)
    }
}

/// A new name for the host's end of a link. Not made from ids: a container that is started again
/// gets its new link while the old one is on its way out.
pub(crate) fn port_name() -> String {
    let random = getrandom::u64().expect("the kernel's random source is always there");
    let mut name = format!("{PORT_PREFIX}{random:016x}");
    name.truncate(NAME_BYTES);
    name
}

/// Whether a name may be one of those.
pub(crate) fn is_port_name(name: &str) -> bool {
    let digits = name.strip_prefix(PORT_PREFIX);
    name.len() == NAME_BYTES
        && digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// `struct ifinfomsg`; flags that are set are also the ones to change.
fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct ifaddrmsg` of the universal scope.
fn ifaddr(address: Ipv4Net, index: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[0] = u8::try_from(libc::AF_INET).expect("2");
    header[1] = address.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn route_by_default(batch: &mut Batch, index: u32, gateway: IpAddr) {
    let flags = netlink::CREATE | netlink::REPLACE;
    let header = default_route(&gateway);
    batch.message(libc::RTM_NEWROUTE, flags, &header, |route| {
        match gateway {
            IpAddr::V4(gateway) => route.bytes(libc::RTA_GATEWAY, &gateway.octets()),
            IpAddr::V6(gateway) => route.bytes(libc::RTA_GATEWAY, &gateway.octets()),
        }
        route.u32(libc::RTA_OIF, index);
    });
}

/// `struct rtmsg` of a default route in the main table.
fn default_route(gateway: &IpAddr) -> [u8; 12] {
    let family = match gateway {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let mut header = [0; 12];
    header[0] = u8::try_from(family).expect("2 or 10");
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_BOOT;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_UNICAST;
    header
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let index = word(payload, 4)?;
    let mut link = Link {
        index,
        name: String::new(),
        kind: None,
        master: None,
        alias: String::new(),
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text_of(value),
            libc::IFLA_IFALIAS => link.alias = text_of(value),
            libc::IFLA_MASTER => link.master = word(value, 0),
            libc::IFLA_LINKINFO => link.kind = find(value, libc::IFLA_INFO_KIND).map(text_of),
            _ => {}
        }
    }
    Some(link)
}

fn read_address(payload: &[u8]) -> Option<Ipv4Net> {
    let octets = find(payload.get(8..)?, libc::IFA_LOCAL)?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Ipv4Net::new(octets.into(), *payload.get(1)?).ok()
}

fn read_route(payload: &[u8]) -> Option<Ipv4Net> {
    let prefix = *payload.get(1)?;
    // Routes to this host's own addresses and to broadcast lie within their subnet's route;
    // loopback and multicast are in no pool.
    if prefix == 0 {
        return None;
    }
    let octets = find(payload.get(12..)?, libc::RTA_DST)?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Ipv4Net::new(octets.into(), prefix).ok()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(netlink::errno(error), Some(Errno::NODEV | Errno::NXIO))
}
