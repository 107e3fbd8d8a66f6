//! Changes as netlink messages, one batch and so one transaction for all of them.
//!
//! Constants are those of `linux/netfilter/nf_tables.h`. Numbers travel in network byte order;
//! values that are compared in registers (`ct state`, address types) in the host's.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use super::plan::{Change, Element, Set};
use super::watch::Watch;
use crate::Protocol;
use netlink::{APPEND, Attributes, Batch, CREATE, Family, Socket};

/// Elements of one message: keeps the list's attribute far below 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// Our table, and the socket that changes it.
///
/// The socket stays open: closing one makes the kernel wait until what its transactions removed is
/// really freed, which takes an RCU grace period (10 ms).
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    socket: Socket,
}

impl Table {
    /// In the network namespace of the calling thread.
    pub(crate) fn open(name: String) -> io::Result<Self> {
        let socket = Socket::open(Family::Netfilter)?;
        Ok(Self { name, socket })
    }

    /// Hears what others do to the table, in the network namespace of the calling thread.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        Watch::open(self.name.clone(), self.socket.port()?)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Applies changes as one transaction: all of them, or none and an error.
    pub(crate) fn apply(&self, changes: &[Change]) -> io::Result<()> {
        match changes {
            [] => Ok(()),
            changes => self.socket.run(&encode(&self.name, changes)),
        }
    }
}

fn encode(table: &str, changes: &[Change]) -> Batch {
    let mut transaction = Transaction::begin(table);
    for change in changes {
        transaction.change(change);
    }
    transaction.end()
}

/// Messages about one table that the kernel applies all together or not at all.
pub(super) struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(table: &'a str) -> Self {
        let mut transaction = Self {
            batch: Batch::new(),
            table,
        };
        transaction.mark(libc::NFNL_MSG_BATCH_BEGIN);
        transaction
    }

    pub(super) fn end(mut self) -> Batch {
        self.mark(libc::NFNL_MSG_BATCH_END);
        self.batch
    }

    pub(super) fn add_table(&mut self) {
        self.message(libc::NFT_MSG_NEWTABLE, CREATE, |message| {
            message.u32_be(NFTA_TABLE_FLAGS, 0);
        });
    }

    pub(super) fn remove_table(&mut self) {
        self.message(libc::NFT_MSG_DELTABLE, 0, |_| {});
    }

    /// A chain that lets pass what its rules do not.
    pub(super) fn add_filter(&mut self, name: &'static str, point: libc::c_int, priority: i32) {
        let kind = "filter";
        let chain = Chain {
            name,
            hook: Some(Hook {
                kind,
                point,
                priority,
            }),
            rules: Vec::new,
        };
        self.message(libc::NFT_MSG_NEWCHAIN, CREATE, |message| {
            write_chain(message, &chain);
        });
    }

    pub(super) fn add_rule(&mut self, chain: &str, rule: &[Expression]) {
        self.message(libc::NFT_MSG_NEWRULE, CREATE | APPEND, |message| {
            message.text(NFTA_RULE_CHAIN, chain);
            message.nest(NFTA_RULE_EXPRESSIONS, |list| {
                for expression in rule {
                    list.nest(NFTA_LIST_ELEM, |item| expression.write(item));
                }
            });
        });
    }

    fn mark(&mut self, kind: libc::c_int) {
        let header = nfgenmsg(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES);
        self.batch
            .message(u16::try_from(kind).expect("16 or 17"), 0, &header, |_| {});
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AddTable => self.add_table(),
            Change::RemoveTable => self.remove_table(),
            Change::AssertRules => self.assert_rules(),
            Change::Add(set, elements) => {
                self.elements(libc::NFT_MSG_NEWSETELEM, CREATE, *set, elements);
            }
            Change::Remove(set, elements) => {
                self.elements(libc::NFT_MSG_DELSETELEM, 0, *set, elements);
            }
        }
    }

    fn assert_rules(&mut self) {
        for (id, set) in (1..).zip(Set::ALL) {
            self.message(libc::NFT_MSG_NEWSET, CREATE, |message| {
                write_set(message, set, id);
            });
        }
        for chain in &CHAINS {
            self.message(libc::NFT_MSG_NEWCHAIN, CREATE, |message| {
                write_chain(message, chain);
            });
            self.message(libc::NFT_MSG_DELRULE, 0, |message| {
                message.text(NFTA_RULE_CHAIN, chain.name);
            });
        }
        for chain in &CHAINS {
            for rule in (chain.rules)() {
                self.add_rule(chain.name, &rule);
            }
        }
    }

    fn elements(&mut self, kind: libc::c_int, flags: u16, set: Set, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(kind, flags, |message| {
                message.text(NFTA_SET_ELEM_LIST_SET, set.name());
                message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    for element in part {
                        list.nest(NFTA_LIST_ELEM, |item| element.write(item));
                    }
                });
            });
        }
    }

    /// A message about the table; its name is attribute 1 of every kind of message.
    fn message(
        &mut self,
        kind: libc::c_int,
        flags: u16,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let kind = u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | kind).expect("16 bits");
        let header = nfgenmsg(libc::NFPROTO_INET, 0);
        self.batch.message(kind, flags, &header, |message| {
            message.text(NFTA_TABLE_NAME, self.table);
            attributes(message);
        });
    }
}

/// `struct nfgenmsg`: family, version 0, resource id.
fn nfgenmsg(family: libc::c_int, resource: libc::c_int) -> [u8; 4] {
    let [high, low] = u16::try_from(resource).expect("10").to_be_bytes();
    [u8::try_from(family).expect("below 256"), 0, high, low]
}

/// A type of a key or value: nft's number for it and its bytes.
#[derive(Clone, Copy)]
struct Type {
    id: u32,
    bytes: u32,
}

const IPV4_ADDR: Type = Type { id: 7, bytes: 4 };
const IPV6_ADDR: Type = Type { id: 8, bytes: 16 };
const INET_PROTO: Type = Type { id: 12, bytes: 1 };
const INET_SERVICE: Type = Type { id: 13, bytes: 2 };
const IFNAME: Type = Type { id: 41, bytes: 16 };

/// Several types in a row: six bits of the number for each, every part padded to a register.
fn concatenation(types: &[Type]) -> Type {
    let id = types.iter().fold(0, |id, part| id << 6 | part.id);
    let bytes = match types {
        [single] => single.bytes,
        several => several
            .iter()
            .map(|part| part.bytes.next_multiple_of(4))
            .sum(),
    };
    Type { id, bytes }
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::Internal => "internal",
            Self::Masqueraded => "masqueraded",
            Self::Talking => "talking",
            Self::Hairpin => "hairpin",
            Self::Published => "published",
            Self::PublishedAt => "published_at",
            Self::Hairpin6 => "hairpin6",
            Self::Published6 => "published6",
            Self::Published6At => "published6_at",
        }
    }

    /// The parts of a key.
    fn key(self) -> &'static [Type] {
        match self {
            Self::Bridges | Self::Internal | Self::Masqueraded => &[IFNAME],
            Self::Talking => &[IFNAME, IFNAME],
            Self::Hairpin => &[IPV4_ADDR, IFNAME],
            Self::Hairpin6 => &[IPV6_ADDR, IFNAME],
            Self::Published | Self::Published6 => &[INET_PROTO, INET_SERVICE],
            Self::Published6At => &[IPV6_ADDR, INET_PROTO, INET_SERVICE],
            Self::PublishedAt => &[IPV4_ADDR, INET_PROTO, INET_SERVICE],
        }
    }

    /// Whether a key is a range of addresses beside a name.
    fn has_ranges(self) -> bool {
        matches!(self, Self::Hairpin | Self::Hairpin6)
    }

    fn value(self) -> Option<Type> {
        match self {
            Self::Published | Self::PublishedAt => Some(concatenation(&[IPV4_ADDR, INET_SERVICE])),
            Self::Published6 | Self::Published6At => {
                Some(concatenation(&[IPV6_ADDR, INET_SERVICE]))
            }
            _ => None,
        }
    }
}

fn write_set(message: &mut Attributes<'_>, set: Set, id: u32) {
    let mut flags = 0;
    if set.value().is_some() {
        flags |= libc::NFT_SET_MAP.cast_unsigned();
    }
    if set.has_ranges() {
        flags |= libc::NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT;
    }
    let key = concatenation(set.key());
    message.text(NFTA_SET_NAME, set.name());
    message.u32_be(NFTA_SET_FLAGS, flags);
    message.u32_be(NFTA_SET_KEY_TYPE, key.id);
    message.u32_be(NFTA_SET_KEY_LEN, key.bytes);
    if let Some(value) = set.value() {
        message.u32_be(NFTA_SET_DATA_TYPE, value.id);
        message.u32_be(NFTA_SET_DATA_LEN, value.bytes);
    }
    message.u32_be(NFTA_SET_ID, id);
    if set.has_ranges() {
        message.nest(NFTA_SET_DESC, |description| {
            description.nest(NFTA_SET_DESC_CONCAT, |fields| {
                for part in set.key() {
                    fields.nest(NFTA_LIST_ELEM, |field| {
                        field.u32_be(NFTA_SET_FIELD_LEN, part.bytes);
                    });
                }
            });
        });
    }
    // For `nft list`: names are in the host's byte order, concatenations in none.
    let [number, length] = [UDATA_SET_KEYBYTEORDER, 4];
    let order: u32 = if key.id == IFNAME.id {
        UDATA_HOST_ENDIAN
    } else {
        0
    };
    let mut user_data = vec![number, length];
    user_data.extend_from_slice(&order.to_ne_bytes());
    message.bytes(NFTA_SET_USERDATA, &user_data);
}

impl Element {
    fn write(&self, item: &mut Attributes<'_>) {
        let mut key = Vec::with_capacity(32);
        let mut end = Vec::new();
        let mut value = Vec::new();
        match self {
            Self::Device(name) => key.extend_from_slice(&ifname(name)),
            Self::Through(name) => {
                key.extend_from_slice(&ifname(name));
                key.extend_from_slice(&ifname(name));
            }
            Self::Behind(subnet, name) => {
                key.extend_from_slice(&octets(subnet.network()));
                key.extend_from_slice(&ifname(name));
                end.extend_from_slice(&octets(subnet.broadcast()));
                end.extend_from_slice(&ifname(name));
            }
            Self::Port(port) => {
                if let Some(address) = port.host_ip {
                    key.extend_from_slice(&octets(address));
                }
                key.extend_from_slice(&[number(port.protocol), 0, 0, 0]);
                key.extend_from_slice(&service(port.host_port));
                value.extend_from_slice(&octets(port.address));
                value.extend_from_slice(&service(port.container_port));
            }
        }
        item.nest(NFTA_SET_ELEM_KEY, |data| data.bytes(NFTA_DATA_VALUE, &key));
        if !end.is_empty() {
            item.nest(NFTA_SET_ELEM_KEY_END, |data| {
                data.bytes(NFTA_DATA_VALUE, &end);
            });
        }
        if !value.is_empty() {
            item.nest(NFTA_SET_ELEM_DATA, |data| {
                data.bytes(NFTA_DATA_VALUE, &value);
            });
        }
    }
}

/// An address as registers hold it.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A device name as registers hold it.
fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// A port as registers hold it within a concatenation.
fn service(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

struct Chain {
    name: &'static str,
    hook: Option<Hook>,
    rules: fn() -> Vec<Vec<Expression>>,
}

struct Hook {
    kind: &'static str,
    point: libc::c_int,
    priority: i32,
}

/// Sends what is bound for a published port to where `set` says: the protocol and the port are
/// read into the registers `to`, which follow what the key begins with in [`REG_1`]; the set's
/// answer takes the key's place, the address first.
fn published(set: Set, family: libc::c_int, to: [u32; 2]) -> Vec<Expression> {
    let [protocol, port] = to;
    vec![
        Expression::Meta {
            key: libc::NFT_META_L4PROTO,
            to: protocol,
        },
        Expression::Payload {
            base: TRANSPORT,
            offset: 2,
            length: 2,
            to: port,
        },
        Expression::Map {
            set,
            register: REG_1,
        },
        Expression::DestinationNat {
            family,
            address: REG_1,
            port: if family == libc::NFPROTO_IPV6 {
                REG_2
            } else {
                REG32_01
            },
        },
    ]
}

/// In the order of `table.nft`: what is jumped to comes before what jumps.
const CHAINS: [Chain; 8] = [
    Chain {
        name: "publish",
        hook: None,
        rules: || {
            vec![
                // dnat ip to ip daddr . meta l4proto . th dport map @published_at
                concat(&[
                    is_ipv4(),
                    vec![Expression::Payload {
                        base: NETWORK,
                        offset: 16,
                        length: 4,
                        to: REG_1,
                    }],
                    published(Set::PublishedAt, libc::NFPROTO_IPV4, [REG32_01, REG32_02]),
                ]),
                // dnat ip to meta l4proto . th dport map @published
                published(Set::Published, libc::NFPROTO_IPV4, [REG_1, REG32_01]),
            ]
        },
    },
    Chain {
        name: "publish6",
        hook: None,
        rules: || {
            vec![
                // dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6_at
                concat(&[
                    is_ipv6(),
                    vec![Expression::Payload {
                        base: NETWORK,
                        offset: 24,
                        length: 16,
                        to: REG_1,
                    }],
                    published(Set::Published6At, libc::NFPROTO_IPV6, [REG_2, REG32_05]),
                ]),
                // dnat ip6 to meta l4proto . th dport map @published6
                published(Set::Published6, libc::NFPROTO_IPV6, [REG_1, REG32_01]),
            ]
        },
    },
    Chain {
        name: "inward",
        hook: None,
        rules: || {
            let established_or_related = 0b0110;
            vec![
                // ct state established,related accept
                concat(&[
                    connection(libc::NFT_CT_STATE, established_or_related),
                    vec![Expression::Accept],
                ]),
                // ct status dnat accept
                concat(&[is_rewritten(), vec![Expression::Accept]]),
                // drop
                vec![Expression::Drop],
            ]
        },
    },
    Chain {
        name: "martians",
        hook: Some(Hook {
            kind: "filter",
            point: libc::NF_INET_PRE_ROUTING,
            priority: -300,
        }),
        rules: || {
            vec![
                // iifname != "lo" ip daddr 127.0.0.0/8 drop
                concat(&[is_not_lo(), is_loopback(16), vec![Expression::Drop]]),
                // iifname != "lo" ip saddr 127.0.0.0/8 drop
                concat(&[is_not_lo(), is_loopback(12), vec![Expression::Drop]]),
            ]
        },
    },
    Chain {
        name: "prerouting",
        hook: Some(Hook {
            kind: "nat",
            point: libc::NF_INET_PRE_ROUTING,
            priority: -100,
        }),
        rules: to_published,
    },
    Chain {
        name: "output",
        hook: Some(Hook {
            kind: "nat",
            point: libc::NF_INET_LOCAL_OUT,
            priority: -100,
        }),
        rules: to_published,
    },
    Chain {
        name: "postrouting",
        hook: Some(Hook {
            kind: "nat",
            point: libc::NF_INET_POST_ROUTING,
            priority: 100,
        }),
        rules: || {
            vec![
                // ip saddr 127.0.0.0/8 oifname @bridges masquerade
                concat(&[
                    is_loopback(12),
                    device(libc::NFT_META_OIFNAME, Set::Bridges, false),
                    vec![Expression::Masquerade],
                ]),
                // ip saddr . oifname @hairpin ct status dnat masquerade
                concat(&[
                    is_ipv4(),
                    vec![
                        Expression::Payload {
                            base: NETWORK,
                            offset: 12,
                            length: 4,
                            to: REG_1,
                        },
                        Expression::Meta {
                            key: libc::NFT_META_OIFNAME,
                            to: REG32_01,
                        },
                        Expression::Member {
                            set: Set::Hairpin,
                            register: REG_1,
                            inverted: false,
                        },
                    ],
                    is_rewritten(),
                    vec![Expression::Masquerade],
                ]),
                // ip6 saddr . oifname @hairpin6 ct status dnat masquerade
                concat(&[
                    is_ipv6(),
                    vec![
                        Expression::Payload {
                            base: NETWORK,
                            offset: 8,
                            length: 16,
                            to: REG_1,
                        },
                        Expression::Meta {
                            key: libc::NFT_META_OIFNAME,
                            to: REG_2,
                        },
                        Expression::Member {
                            set: Set::Hairpin6,
                            register: REG_1,
                            inverted: false,
                        },
                    ],
                    is_rewritten(),
                    vec![Expression::Masquerade],
                ]),
                // iifname @masqueraded oifname != @bridges masquerade
                concat(&[
                    device(libc::NFT_META_IIFNAME, Set::Masqueraded, false),
                    device(libc::NFT_META_OIFNAME, Set::Bridges, true),
                    vec![Expression::Masquerade],
                ]),
            ]
        },
    },
    Chain {
        name: "forward",
        hook: Some(Hook {
            kind: "filter",
            point: libc::NF_INET_FORWARD,
            priority: 0,
        }),
        rules: || {
            vec![
                // iifname . oifname @talking accept
                concat(&[is_talking(), vec![Expression::Accept]]),
                // iifname @internal drop
                concat(&[
                    device(libc::NFT_META_IIFNAME, Set::Internal, false),
                    vec![Expression::Drop],
                ]),
                // oifname @internal drop
                concat(&[
                    device(libc::NFT_META_OIFNAME, Set::Internal, false),
                    vec![Expression::Drop],
                ]),
                // oifname @bridges jump inward
                concat(&[
                    device(libc::NFT_META_OIFNAME, Set::Bridges, false),
                    vec![Expression::Jump("inward")],
                ]),
            ]
        },
    },
];

/// `meta nfproto ipv4 fib daddr type local jump publish`, and the same for IPv6 but for `::1`: the
/// kernel takes no answer to that address from another device, so a caller must not be sent there.
/// It is refused instead, and turns to `127.0.0.1`.
fn to_published() -> Vec<Vec<Expression>> {
    let is_local = || {
        vec![
            Expression::DestinationType { to: REG_1 },
            Expression::Equal {
                register: REG_1,
                value: host(u32::from(libc::RTN_LOCAL)),
            },
        ]
    };
    let lead = |family, chain| concat(&[family, is_local(), vec![Expression::Jump(chain)]]);
    let ipv6 = concat(&[
        is_ipv6(),
        payload::network_is_not(24, &Ipv6Addr::LOCALHOST.octets()),
    ]);
    vec![lead(is_ipv4(), "publish"), lead(ipv6, "publish6")]
}

pub(super) fn is_ipv4() -> Vec<Expression> {
    is_family(libc::NFPROTO_IPV4)
}

fn is_ipv6() -> Vec<Expression> {
    is_family(libc::NFPROTO_IPV6)
}

fn is_family(family: libc::c_int) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: libc::NFT_META_NFPROTO,
            to: REG_1,
        },
        Expression::Equal {
            register: REG_1,
            value: vec![u8::try_from(family).expect("2 or 10")],
        },
    ]
}

/// `127.0.0.0/8` at a place in the IPv4 header.
fn is_loopback(offset: u32) -> Vec<Expression> {
    let first_byte = vec![
        Expression::Payload {
            base: NETWORK,
            offset,
            length: 1,
            to: REG_1,
        },
        Expression::Equal {
            register: REG_1,
            value: vec![127],
        },
    ];
    concat(&[is_ipv4(), first_byte])
}

pub(super) mod payload {
    //! Parts of rules about places in a packet.

    use super::{Expression, NETWORK, REG_1, TRANSPORT};

    /// Bytes at a place in the network header.
    pub(in super::super) fn network_is(offset: u32, value: &[u8]) -> Vec<Expression> {
        is(NETWORK, offset, value)
    }

    /// Other bytes at a place in the network header.
    pub(in super::super) fn network_is_not(offset: u32, value: &[u8]) -> Vec<Expression> {
        let mut part = is(NETWORK, offset, value);
        if let Some(Expression::Equal { register, value }) = part.pop() {
            part.push(Expression::Unequal { register, value });
        }
        part
    }

    /// The transport's number.
    pub(in super::super) fn transport_is(number: u8) -> Vec<Expression> {
        vec![
            Expression::Meta {
                key: libc::NFT_META_L4PROTO,
                to: REG_1,
            },
            Expression::Equal {
                register: REG_1,
                value: vec![number],
            },
        ]
    }

    /// The port at a place in the transport header.
    pub(in super::super) fn port_is(offset: u32, port: u16) -> Vec<Expression> {
        is(TRANSPORT, offset, &port.to_be_bytes())
    }

    /// Writes that port; the checksum, at its place, is put right where it is there already.
    pub(in super::super) fn set_port(offset: u32, port: u16, checksum: u32) -> Vec<Expression> {
        vec![
            Expression::Load {
                value: port.to_be_bytes().to_vec(),
                to: REG_1,
            },
            Expression::Store {
                base: TRANSPORT,
                offset,
                length: 2,
                from: REG_1,
                checksum,
            },
        ]
    }

    fn is(base: u32, offset: u32, value: &[u8]) -> Vec<Expression> {
        let length = u32::try_from(value.len()).expect("an address or a port");
        vec![
            Expression::Payload {
                base,
                offset,
                length,
                to: REG_1,
            },
            Expression::Equal {
                register: REG_1,
                value: value.to_vec(),
            },
        ]
    }
}

fn is_not_lo() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: libc::NFT_META_IIFNAME,
            to: REG_1,
        },
        Expression::Unequal {
            register: REG_1,
            value: ifname("lo").to_vec(),
        },
    ]
}

/// `iifname @set` and the like.
fn device(key: libc::c_int, set: Set, inverted: bool) -> Vec<Expression> {
    vec![
        Expression::Meta { key, to: REG_1 },
        Expression::Member {
            set,
            register: REG_1,
            inverted,
        },
    ]
}

/// `iifname . oifname @talking`
fn is_talking() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: libc::NFT_META_IIFNAME,
            to: REG_1,
        },
        Expression::Meta {
            key: libc::NFT_META_OIFNAME,
            to: REG_2,
        },
        Expression::Member {
            set: Set::Talking,
            register: REG_1,
            inverted: false,
        },
    ]
}

/// `ct status dnat`
fn is_rewritten() -> Vec<Expression> {
    let dnat = 1 << 5;
    connection(libc::NFT_CT_STATUS, dnat)
}

/// Some bits of a connection's state or status.
fn connection(key: libc::c_int, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Connection { key, to: REG_1 },
        Expression::Mask {
            register: REG_1,
            mask: host(bits),
        },
        Expression::Unequal {
            register: REG_1,
            value: host(0),
        },
    ]
}

fn host(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn concat(parts: &[Vec<Expression>]) -> Vec<Expression> {
    parts.concat()
}

fn write_chain(message: &mut Attributes<'_>, chain: &Chain) {
    message.text(NFTA_CHAIN_NAME, chain.name);
    if let Some(hook) = &chain.hook {
        message.text(NFTA_CHAIN_TYPE, hook.kind);
        message.u32_be(NFTA_CHAIN_POLICY, libc::NF_ACCEPT.cast_unsigned());
        message.nest(NFTA_CHAIN_HOOK, |nest| {
            nest.u32_be(NFTA_HOOK_HOOKNUM, hook.point.cast_unsigned());
            nest.u32_be(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
        });
    }
}

/// One instruction of a rule.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    Meta {
        key: libc::c_int,
        to: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        to: u32,
    },
    Connection {
        key: libc::c_int,
        to: u32,
    },
    /// `fib daddr type`
    DestinationType {
        to: u32,
    },
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    Equal {
        register: u32,
        value: Vec<u8>,
    },
    Unequal {
        register: u32,
        value: Vec<u8>,
    },
    Member {
        set: Set,
        register: u32,
        inverted: bool,
    },
    /// Replaces the key by its value; ends the rule where there is none.
    Map {
        set: Set,
        register: u32,
    },
    DestinationNat {
        family: libc::c_int,
        address: u32,
        port: u32,
    },
    Masquerade,
    Accept,
    Drop,
    Jump(&'static str),
    /// A constant into a register.
    Load {
        value: Vec<u8>,
        to: u32,
    },
    /// A register into the packet.
    Store {
        base: u32,
        offset: u32,
        length: u32,
        from: u32,
        checksum: u32,
    },
}

impl Expression {
    fn write(&self, item: &mut Attributes<'_>) {
        item.text(NFTA_EXPR_NAME, self.name());
        item.nest(NFTA_EXPR_DATA, |data| self.write_operands(data));
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } | Self::Store { .. } => "payload",
            Self::Connection { .. } => "ct",
            Self::DestinationType { .. } => "fib",
            Self::Mask { .. } => "bitwise",
            Self::Equal { .. } | Self::Unequal { .. } => "cmp",
            Self::Member { .. } | Self::Map { .. } => "lookup",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Accept | Self::Drop | Self::Jump(_) | Self::Load { .. } => "immediate",
        }
    }

    fn write_operands(&self, data: &mut Attributes<'_>) {
        match self {
            Self::Meta { key, to } | Self::Connection { key, to } => {
                data.u32_be(NFTA_META_DREG, *to);
                data.u32_be(NFTA_META_KEY, key.cast_unsigned());
            }
            Self::Payload {
                base,
                offset,
                length,
                to,
            } => {
                data.u32_be(NFTA_PAYLOAD_DREG, *to);
                data.u32_be(NFTA_PAYLOAD_BASE, *base);
                data.u32_be(NFTA_PAYLOAD_OFFSET, *offset);
                data.u32_be(NFTA_PAYLOAD_LEN, *length);
            }
            Self::DestinationType { to } => {
                data.u32_be(NFTA_FIB_DREG, *to);
                data.u32_be(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                data.u32_be(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            }
            Self::Mask { register, mask } => {
                let length = u32::try_from(mask.len()).expect("4");
                data.u32_be(NFTA_BITWISE_SREG, *register);
                data.u32_be(NFTA_BITWISE_DREG, *register);
                data.u32_be(NFTA_BITWISE_LEN, length);
                data.nest(NFTA_BITWISE_MASK, |nest| nest.bytes(NFTA_DATA_VALUE, mask));
                data.nest(NFTA_BITWISE_XOR, |nest| {
                    nest.bytes(NFTA_DATA_VALUE, &host(0));
                });
            }
            Self::Equal { register, value } => compare(data, libc::NFT_CMP_EQ, *register, value),
            Self::Unequal { register, value } => compare(data, libc::NFT_CMP_NEQ, *register, value),
            Self::Member {
                set,
                register,
                inverted,
            } => {
                data.text(NFTA_LOOKUP_SET, set.name());
                data.u32_be(NFTA_LOOKUP_SREG, *register);
                if *inverted {
                    data.u32_be(NFTA_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV.cast_unsigned());
                }
            }
            Self::Map { set, register } => {
                data.text(NFTA_LOOKUP_SET, set.name());
                data.u32_be(NFTA_LOOKUP_SREG, *register);
                data.u32_be(NFTA_LOOKUP_DREG, *register);
            }
            Self::DestinationNat {
                family,
                address,
                port,
            } => {
                data.u32_be(NFTA_NAT_TYPE, libc::NFT_NAT_DNAT.cast_unsigned());
                data.u32_be(NFTA_NAT_FAMILY, family.cast_unsigned());
                data.u32_be(NFTA_NAT_REG_ADDR_MIN, *address);
                data.u32_be(NFTA_NAT_REG_PROTO_MIN, *port);
            }
            Self::Masquerade => {}
            Self::Load { value, to } => {
                data.u32_be(NFTA_IMMEDIATE_DREG, *to);
                data.nest(NFTA_IMMEDIATE_DATA, |nest| {
                    nest.bytes(NFTA_DATA_VALUE, value);
                });
            }
            Self::Store {
                base,
                offset,
                length,
                from,
                checksum,
            } => {
                data.u32_be(NFTA_PAYLOAD_SREG, *from);
                data.u32_be(NFTA_PAYLOAD_BASE, *base);
                data.u32_be(NFTA_PAYLOAD_OFFSET, *offset);
                data.u32_be(NFTA_PAYLOAD_LEN, *length);
                data.u32_be(NFTA_PAYLOAD_CSUM_TYPE, NFT_PAYLOAD_CSUM_INET);
                data.u32_be(NFTA_PAYLOAD_CSUM_OFFSET, *checksum);
            }
            Self::Accept => verdict(data, libc::NF_ACCEPT, None),
            Self::Drop => verdict(data, libc::NF_DROP, None),
            Self::Jump(chain) => verdict(data, libc::NFT_JUMP, Some(chain)),
        }
    }
}

fn compare(data: &mut Attributes<'_>, operation: libc::c_int, register: u32, value: &[u8]) {
    data.u32_be(NFTA_CMP_SREG, register);
    data.u32_be(NFTA_CMP_OP, operation.cast_unsigned());
    data.nest(NFTA_CMP_DATA, |nest| nest.bytes(NFTA_DATA_VALUE, value));
}

fn verdict(data: &mut Attributes<'_>, code: libc::c_int, chain: Option<&str>) {
    data.u32_be(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT.cast_unsigned());
    data.nest(NFTA_IMMEDIATE_DATA, |value| {
        value.nest(NFTA_DATA_VERDICT, |nest| {
            nest.u32_be(NFTA_VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                nest.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    });
}

/// Registers: of 16 bytes, and of 4 bytes within the first of those.
const REG_1: u32 = libc::NFT_REG_1.cast_unsigned();
const REG_2: u32 = libc::NFT_REG_2.cast_unsigned();
const REG32_01: u32 = libc::NFT_REG32_01.cast_unsigned();
const REG32_02: u32 = libc::NFT_REG32_02.cast_unsigned();
const REG32_05: u32 = libc::NFT_REG32_05.cast_unsigned();
const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER.cast_unsigned();
const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER.cast_unsigned();
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;

const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFT_SET_CONCAT: u32 = 1 << 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
/// Of libnftnl: the byte order of a set's key, for listing it.
const UDATA_SET_KEYBYTEORDER: u8 = 0;
const UDATA_HOST_ENDIAN: u32 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// The same numbers for `meta` and `ct`.
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_PAYLOAD_SREG: u16 = 5;
const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
const NFT_PAYLOAD_CSUM_INET: u32 = 1;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use rustix::thread::UnshareFlags;
    use serde_json::Value;
    use vocab::{ContainerId, NetworkId};

    use super::*;
    use crate::rules::{Disturbance, publish, whole, withdraw};
    use crate::{Bridge, Endpoint, Mac, PublishedPort};

    const TEXT: &str = include_str!("table.nft");
    const NAMES: &str = include_str!("names.nft");

    fn table(name: &str) -> Table {
        Table::open(name.to_owned()).unwrap()
    }

    fn bridge(device: &str) -> Bridge {
        Bridge {
            id: NetworkId::random(),
            name: device.to_owned(),
            device: device.to_owned(),
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: [172, 17, 0, 1].into(),
            mtu: None,
            internal: false,
            icc: true,
            masquerade: true,
            ipv6: None,
        }
    }

    fn endpoint(ports: Vec<PublishedPort>) -> Endpoint {
        Endpoint {
            network: NetworkId::random(),
            container: ContainerId::random(),
            interface: "eth0".to_owned(),
            host_interface: "veth0123456789a".to_owned(),
            address: [172, 17, 0, 2].into(),
            prefix: 16,
            gateway: None,
            ipv6: None,
            mac: Mac::of([172, 17, 0, 2].into()),
            ports,
            names: Vec::new(),
            links: Vec::new(),
        }
    }

    fn port(protocol: Protocol, host_ip: [u8; 4], host_port: u16, inner: u16) -> PublishedPort {
        PublishedPort {
            protocol,
            container_port: inner,
            host_ip: host_ip.into(),
            host_port,
        }
    }

    /// Runs `work` in a network namespace of its own.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::namespace::unshare(UnshareFlags::NEWNET).expect("root rights are needed");
                work()
            });
            thread.join().unwrap()
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the real nft is the reference")]
    fn nft(arguments: &[&str]) -> Vec<u8> {
        let tools = std::env::var_os("BERTH_TOOLS");
        let tools = tools.map_or_else(
            || PathBuf::from("/var/cache/berth/tools/bin"),
            PathBuf::from,
        );
        let output = Command::new(tools.join("nft")).args(arguments).output();
        let output = output.expect("`nft` is among the test tools: `make test` installs them");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// The ruleset as nft reads it, without the numbers that the kernel gives out.
    fn listed() -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(map) => {
                    map.remove("handle");
                    map.values_mut().for_each(strip);
                }
                Value::Array(items) => items.iter_mut().for_each(strip),
                _ => {}
            }
        }
        let mut listed = serde_json::from_slice(&nft(&["-j", "list", "ruleset"])).unwrap();
        strip(&mut listed);
        listed
    }

    fn load(text: &str) -> Value {
        apart(|| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            nft(&["-f", file.path().to_str().unwrap()]);
            listed()
        })
    }

    #[test]
    fn privileged_the_table_is_the_one_in_the_text() {
        let ours = apart(|| {
            table("berth").apply(&whole([], [])).unwrap();
            listed()
        });
        assert_eq!(ours, load(TEXT));
    }

    #[test]
    fn privileged_the_table_inside_containers_is_the_one_in_the_text() {
        for again in [false, true] {
            let ours = apart(|| {
                if again {
                    crate::rules::lead_names(1, 2, true).unwrap();
                }
                crate::rules::lead_names(1053, 2053, !again).unwrap();
                listed()
            });
            assert_eq!(ours, load(NAMES));
        }
    }

    #[test]
    fn privileged_networks_and_ports_are_elements() {
        let outside = bridge("berth0");
        let inside = Bridge {
            subnet: "172.18.0.0/24".parse().unwrap(),
            internal: true,
            icc: false,
            ..bridge("br-0123456789ab")
        };
        let endpoint = endpoint(vec![
            port(Protocol::Tcp, [0, 0, 0, 0], 8080, 80),
            port(Protocol::Sctp, [127, 0, 0, 1], 3868, 3868),
            port(Protocol::Udp, [10, 0, 0, 1], 53, 5353),
        ]);
        let ours = apart(|| {
            table("berth-c0ffee")
                .apply(&whole([&outside, &inside], [&endpoint]))
                .unwrap();
            listed()
        });
        let elements = r#"
            table inet berth-c0ffee
            add element inet berth-c0ffee bridges { "berth0", "br-0123456789ab" }
            add element inet berth-c0ffee internal { "br-0123456789ab" }
            add element inet berth-c0ffee masqueraded { "berth0" }
            add element inet berth-c0ffee talking { "berth0" . "berth0" }
            add element inet berth-c0ffee hairpin { 172.17.0.0/16 . "berth0" }
            add element inet berth-c0ffee hairpin { 172.18.0.0/24 . "br-0123456789ab" }
            add element inet berth-c0ffee published { tcp . 8080 : 172.17.0.2 . 80 }
            add element inet berth-c0ffee published_at { 127.0.0.1 . sctp . 3868 : 172.17.0.2 . 3868 }
            add element inet berth-c0ffee published_at { 10.0.0.1 . udp . 53 : 172.17.0.2 . 5353 }
        "#;
        let text = TEXT.replace("table inet berth", "table inet berth-c0ffee");
        assert_eq!(sorted(ours), sorted(load(&format!("{text}{elements}"))));
    }

    /// Elements of a set have no order.
    fn sorted(mut ruleset: Value) -> Value {
        for object in ruleset["nftables"].as_array_mut().unwrap() {
            for kind in ["set", "map"] {
                if let Some(elements) = object[kind]["elem"].as_array_mut() {
                    elements.sort_by_key(Value::to_string);
                }
            }
        }
        ruleset
    }

    #[test]
    fn privileged_asserting_again_keeps_elements_and_adds_no_rule() {
        let endpoint = endpoint(vec![port(Protocol::Tcp, [0, 0, 0, 0], 8080, 80)]);
        apart(|| {
            table("berth")
                .apply(&whole([&bridge("berth0")], [&endpoint]))
                .unwrap();
            let before = listed();
            table("berth")
                .apply(&[Change::AddTable, Change::AssertRules])
                .unwrap();
            table("berth").apply(&publish(&endpoint)).unwrap();
            assert_eq!(listed(), before);
        });
    }

    #[test]
    fn privileged_own_changes_are_told_from_those_of_others() {
        let endpoint = endpoint(vec![port(Protocol::Tcp, [0, 0, 0, 0], 8080, 80)]);
        apart(|| {
            // As at the daemon's start: the watch comes before the first change.
            let table = table("berth");
            let watch = table.watch().unwrap();
            let bridge = bridge("berth0");
            for _ in 0..2 {
                table.apply(&whole([&bridge], [&endpoint])).unwrap();
                table.apply(&withdraw(&endpoint)).unwrap();
            }
            assert_eq!(watch.heard().unwrap(), Disturbance::None);
            nft(&["flush", "chain", "inet", "berth", "prerouting"]);
            assert_eq!(watch.heard().unwrap(), Disturbance::Removed);
        });
    }

    #[test]
    fn privileged_a_transaction_is_all_or_nothing() {
        let here = endpoint(vec![port(Protocol::Tcp, [0, 0, 0, 0], 8080, 80)]);
        let absent = endpoint(vec![port(Protocol::Tcp, [0, 0, 0, 0], 8081, 80)]);
        apart(|| {
            table("berth").apply(&whole([], [&here])).unwrap();
            let before = listed();
            let changes = [withdraw(&here), withdraw(&absent)].concat();
            let refused = table("berth").apply(&changes).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotFound, "{refused}");
            assert_eq!(listed(), before);
        });
    }

    #[test]
    fn privileged_ten_thousand_ports_are_one_transaction_of_few_messages() {
        let ports: Vec<_> = (10_000..20_000)
            .map(|host_port| port(Protocol::Tcp, [0, 0, 0, 0], host_port, 80))
            .collect();
        let endpoint = endpoint(ports);
        let batch = encode("berth", &publish(&endpoint));
        let elements = 10_000_u32.div_ceil(u32::try_from(ELEMENTS_PER_MESSAGE).unwrap());
        assert_eq!(batch.count(), elements + 2);
        apart(|| {
            table("berth").apply(&whole([], [])).unwrap();
            table("berth").apply(&publish(&endpoint)).unwrap();
            let listed = listed().to_string();
            assert_eq!(listed.matches("{\"concat\":[\"tcp\",").count(), 10_000);
            table("berth").apply(&withdraw(&endpoint)).unwrap();
        });
    }
}
