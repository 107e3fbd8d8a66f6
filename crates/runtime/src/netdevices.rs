//! Network devices of the host that a container is given (`linux.netDevices`; config-linux.md
//! "Network Devices"): moved into its network namespace, perhaps under another name, with their
//! permanent addresses, and switched on.
//!
//! When the container ends, the kernel gives devices of hardware back and removes others. When its
//! creation fails, they are given back here.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink::{Batch, Family, Socket, attributes, find, word};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::CreateError;
use crate::oci;

/// `IFNAMSIZ` (linux/if.h) without the final zero.
const MAX_NAME_BYTES: usize = 15;

/// Attributes of links and addresses (linux/if_link.h, linux/if_addr.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Flags of addresses: given by somebody, for good; and not to be asked for on the link again.
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NODAD: u32 = 0x02;
/// `RT_SCOPE_UNIVERSE` (linux/rtnetlink.h).
const GLOBAL: u8 = 0;
/// `IFF_UP` (linux/if.h).
const UP: u32 = 1;
/// A device was to be named as one that is there.
const EXISTS: Errno = Errno::EXIST;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    name: String,
    /// Its name in the container. A `%d` becomes the first number that is free there.
    inside: String,
}

/// A device that was not handed over.
#[derive(Debug, thiserror::Error)]
#[error("hand over linux.netDevices[{name:?}]: {what}")]
pub struct NetDeviceError {
    name: String,
    what: String,
    #[source]
    source: io::Error,
}

/// Checks the devices; in the order of their names.
pub(crate) fn plan(linux: &oci::Linux, own_network: bool) -> Result<Vec<NetDevice>, CreateError> {
    let mut devices = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let at = format!("linux.netDevices[{name:?}]");
        let given = device.name().clone().filter(|inside| !inside.is_empty());
        let inside = given.unwrap_or_else(|| name.clone());
        check_name(name, false).map_err(|reason| CreateError::invalid(&at, reason))?;
        check_name(&inside, true)
            .map_err(|reason| CreateError::invalid(format!("{at}.name"), reason))?;
        if !own_network {
            let reason = "needs a network namespace of the container's own";
            return Err(CreateError::invalid(at, reason));
        }
        let name = name.clone();
        devices.push(NetDevice { name, inside });
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    for (i, device) in devices.iter().enumerate() {
        let twice = devices[..i]
            .iter()
            .any(|other| other.inside == device.inside);
        if twice && !device.inside.contains('%') {
            let at = format!("linux.netDevices[{:?}].name", device.name);
            let reason = format!("`{}` is the name of another device too", device.inside);
            return Err(CreateError::invalid(at, reason));
        }
    }
    Ok(devices)
}

/// As the kernel judges (`dev_valid_name`), and where `pattern` is allowed, `%d` once.
fn check_name(name: &str, pattern: bool) -> Result<(), String> {
    let bare = if pattern {
        name.replacen("%d", "", 1)
    } else {
        name.to_owned()
    };
    let wrong = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || bare.contains(wrong) {
        return Err(format!("`{name}` is not a device's name"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("`{name}` is longer than {MAX_NAME_BYTES} bytes"));
    }
    Ok(())
}

/// A namespace and a socket that speaks for it.
#[derive(Debug)]
struct Place {
    namespace: File,
    socket: Socket,
}

/// Devices that a container has got.
#[derive(Debug)]
pub(crate) struct Moved {
    here: Place,
    there: Place,
    /// Each with its number in the container, and whether it was switched on here.
    devices: Vec<(NetDevice, u32, bool)>,
}

/// Moves the devices into the network namespace of `pid`. If one fails, none is moved.
pub(crate) fn hand_over(devices: &[NetDevice], pid: i32) -> Result<Moved, NetDeviceError> {
    let first = devices.first().map_or("", |device| device.name.as_str());
    let mut moved = Moved::nothing(pid).map_err(|source| NetDeviceError {
        name: first.to_owned(),
        what: String::from("open the network namespaces"),
        source,
    })?;
    for device in devices {
        if let Err((what, source)) = moved.take(device) {
            moved.give_back();
            let name = device.name.clone();
            return Err(NetDeviceError { name, what, source });
        }
    }
    Ok(moved)
}

impl Moved {
    fn nothing(pid: i32) -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let here = Place {
            namespace: own,
            socket: Socket::open(Family::Route)?,
        };
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), network)?;
        let socket = Socket::open(Family::Route);
        move_into_link_name_space(here.namespace.as_fd(), network)
            .expect("a thread may return to its own network namespace");
        let there = Place {
            namespace,
            socket: socket?,
        };
        Ok(Self {
            here,
            there,
            devices: Vec::new(),
        })
    }

    fn take(&mut self, device: &NetDevice) -> Result<(), (String, io::Error)> {
        let link = self.here.find(&device.name);
        let link = link.map_err(|error| (String::from("find it"), error))?;
        let was_up = link.flags & UP != 0;
        let what = || format!("move it to `{}`", device.inside);
        if self.there.find(&device.inside).is_ok() {
            return Err((what(), EXISTS.into()));
        }
        let index = carry(&self.here, link.index, &self.there, &device.inside)
            .map_err(|error| (what(), error))?;
        self.devices.push((device.clone(), index, was_up));
        let up = self.there.switch_on(index);
        up.map_err(|error| (String::from("switch it on"), error))
    }

    /// After a failure that the caller hears about; what goes wrong here too is not told beside it.
    pub(crate) fn give_back(&mut self) {
        for (device, index, was_up) in self.devices.drain(..).rev() {
            if let Ok(index) = carry(&self.there, index, &self.here, &device.name)
                && was_up
            {
                let _ = self.here.switch_on(index);
            }
        }
    }
}

/// Moves a device with its addresses; returns its number there.
fn carry(from: &Place, index: u32, to: &Place, name: &str) -> io::Result<u32> {
    let addresses = from.addresses(index)?;
    let before: HashSet<u32> = to.indexes()?.into_iter().collect();
    let mut batch = Batch::new();
    batch.message(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0), |link| {
        let target = to.namespace.as_fd().as_raw_fd();
        link.bytes(IFLA_NET_NS_FD, &target.to_ne_bytes());
        link.text(IFLA_IFNAME, name);
    });
    from.socket.run(&batch)?;
    let index = to
        .indexes()?
        .into_iter()
        .find(|index| !before.contains(index));
    let index = index.ok_or(Errno::NODEV)?;
    to.add(index, &addresses)?;
    Ok(index)
}

/// What is said about a link.
#[derive(Debug)]
struct Link {
    index: u32,
    flags: u32,
}

/// An address, without the device it is on.
#[derive(Debug)]
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Place {
    fn find(&self, name: &str) -> io::Result<Link> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0), |link| {
            link.text(IFLA_IFNAME, name);
        });
        let mut found = None;
        self.socket.query(&batch, |_, payload| {
            found = read_link(payload);
        })?;
        found.ok_or_else(|| Errno::NODEV.into())
    }

    fn indexes(&self) -> io::Result<Vec<u32>> {
        let header = ifinfo(0, 0, 0);
        let index = |payload: &[u8]| read_link(payload).map(|link| link.index);
        self.socket.dump(libc::RTM_GETLINK, &header, index)
    }

    fn switch_on(&self, index: u32) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.message(libc::RTM_NEWLINK, 0, &ifinfo(index, UP, UP), |_| {});
        self.socket.run(&batch)
    }

    /// Those that are the device's for good and valid everywhere.
    fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let header = ifaddr(0, 0, 0, 0);
        self.socket.dump(libc::RTM_GETADDR, &header, |payload| {
            read_address(payload)
                .filter(|(on, _)| *on == index)
                .map(|(_, address)| address)
        })
    }

    fn add(&self, index: u32, addresses: &[Address]) -> io::Result<()> {
        let mut batch = Batch::new();
        for address in addresses {
            let header = ifaddr(address.family, address.prefix, GLOBAL, index);
            let flags = netlink::CREATE | netlink::EXCLUSIVE;
            batch.message(libc::RTM_NEWADDR, flags, &header, |message| {
                for (kind, payload) in &address.attributes {
                    message.bytes(*kind, payload);
                }
                message.u32(IFA_FLAGS, IFA_F_PERMANENT | IFA_F_NODAD);
            });
        }
        self.socket.run(&batch)
    }
}

/// `struct ifinfomsg` (linux/rtnetlink.h).
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg` (linux/if_addr.h).
fn ifaddr(family: u8, prefix: u8, scope: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix, 0, scope, a, b, c, d]
}

fn read_link(payload: &[u8]) -> Option<Link> {
    Some(Link {
        index: word(payload, 4)?,
        flags: word(payload, 8)?,
    })
}

fn read_address(payload: &[u8]) -> Option<(u32, Address)> {
    let [family, prefix, flags, scope] = *payload.first_chunk()?;
    let rest = payload.get(8..)?;
    let flags = find(rest, IFA_FLAGS)
        .and_then(|flags| word(flags, 0))
        .unwrap_or_else(|| flags.into());
    if scope != GLOBAL || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = attributes(rest)
        .filter(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(kind))
        .map(|(kind, payload)| (kind, payload.to_vec()));
    let address = Address {
        family,
        prefix,
        attributes: kept.collect(),
    };
    Some((word(payload, 4)?, address))
}
