//! Addresses of a subnet, and subnets for networks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::SubnetPool;

/// Addresses of one family, as numbers.
pub(crate) trait Numbered: Copy {
    /// A subnet of them.
    type Net;
    /// Bits of an address.
    const BITS: u8;
    fn number(self) -> u128;
    fn of(number: u128) -> Self;
    /// The first address of a subnet and the bits that all of it share.
    fn start(subnet: &Self::Net) -> (Self, u8);
}

impl Numbered for Ipv4Addr {
    type Net = Ipv4Net;
    const BITS: u8 = 32;

    fn number(self) -> u128 {
        self.to_bits().into()
    }

    fn of(number: u128) -> Self {
        Self::from_bits(u32::try_from(number).expect("an offset is within its subnet"))
    }

    fn start(subnet: &Ipv4Net) -> (Self, u8) {
        (subnet.network(), subnet.prefix_len())
    }
}

impl Numbered for Ipv6Addr {
    type Net = Ipv6Net;
    const BITS: u8 = 128;

    fn number(self) -> u128 {
        self.to_bits()
    }

    fn of(number: u128) -> Self {
        Self::from_bits(number)
    }

    fn start(subnet: &Ipv6Net) -> (Self, u8) {
        (subnet.network(), subnet.prefix_len())
    }
}

/// Which addresses of a subnet are taken: a bitmap that is searched from where it last ended, so
/// that a freed address is the last to be used again and neighbours forget it first.
#[derive(Clone, Debug)]
pub(crate) struct Addresses<A> {
    start: A,
    /// How many offsets there are; the whole of a family is one short.
    size: u128,
    /// One bit for each address, 64 to a word; words without a bit need not be there.
    taken: BTreeMap<u128, u64>,
    /// Offset of the address given last.
    last: u128,
}

/// Why an address cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Taken,
    Outside,
}

impl<A: Numbered> Addresses<A> {
    /// All free but the gateway and, where there are such, the subnet's own two.
    pub(crate) fn new(subnet: &A::Net, gateway: A) -> Self {
        let (start, prefix) = A::start(subnet);
        let size = 1_u128
            .checked_shl(u32::from(A::BITS - prefix))
            .unwrap_or(u128::MAX);
        let mut addresses = Self {
            start,
            size,
            taken: BTreeMap::new(),
            last: 0,
        };
        if prefix < A::BITS - 1 {
            addresses.mark(0);
            addresses.mark(size - 1);
        }
        if let Some(offset) = addresses.offset(gateway) {
            addresses.mark(offset);
        }
        addresses
    }

    /// The next free address.
    pub(crate) fn take_any(&mut self) -> Option<A> {
        let after = (self.last + 1) % self.size;
        let offset = self
            .find_free(after, self.size)
            .or_else(|| self.find_free(0, after))?;
        self.mark(offset);
        self.last = offset;
        Some(A::of(self.start.number() + offset))
    }

    /// One certain address.
    pub(crate) fn take(&mut self, address: A) -> Result<(), Unavailable> {
        let offset = self.offset(address).ok_or(Unavailable::Outside)?;
        if self.is_taken(offset) {
            return Err(Unavailable::Taken);
        }
        self.mark(offset);
        Ok(())
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, address: A) {
        if let Some(offset) = self.offset(address)
            && let Some(word) = self.taken.get_mut(&(offset / 64))
        {
            *word &= !(1 << (offset % 64));
        }
    }

    fn offset(&self, address: A) -> Option<u128> {
        let offset = address.number().checked_sub(self.start.number())?;
        Some(offset).filter(|offset| *offset < self.size)
    }

    fn is_taken(&self, offset: u128) -> bool {
        self.word(offset) & (1 << (offset % 64)) != 0
    }

    fn mark(&mut self, offset: u128) {
        *self.taken.entry(offset / 64).or_default() |= 1 << (offset % 64);
    }

    fn word(&self, offset: u128) -> u64 {
        self.taken.get(&(offset / 64)).copied().unwrap_or_default()
    }

    fn find_free(&self, from: u128, to: u128) -> Option<u128> {
        let mut offset = from;
        while offset < to {
            let within = offset % 64;
            let free = u128::from((!self.word(offset) >> within).trailing_zeros());
            if free < 64 - within {
                return Some(offset + free).filter(|offset| *offset < to);
            }
            offset = offset.checked_add(64 - within)?;
        }
        None
    }
}

/// Docker's pools: `172.17/16` to `172.31/16`, then sixteen `/20` of `192.168/16`.
pub(crate) fn default_pools() -> Vec<SubnetPool> {
    let pool = |base: [u8; 4], bits, size| SubnetPool {
        base: Ipv4Net::new(base.into(), bits).expect("written here"),
        size,
    };
    vec![
        pool([172, 17, 0, 0], 16, 16),
        pool([172, 18, 0, 0], 16, 16),
        pool([172, 19, 0, 0], 16, 16),
        pool([172, 20, 0, 0], 14, 16),
        pool([172, 24, 0, 0], 14, 16),
        pool([172, 28, 0, 0], 14, 16),
        pool([192, 168, 0, 0], 16, 20),
    ]
}

/// The first subnet of the pools that overlaps nothing in use.
pub(crate) fn choose_subnet(pools: &[SubnetPool], in_use: &[Ipv4Net]) -> Option<Ipv4Net> {
    pools
        .iter()
        // A pool whose subnets would be larger than itself has none.
        .filter_map(|pool| pool.base.trunc().subnets(pool.size).ok())
        .flatten()
        .find(|subnet| !in_use.iter().any(|used| overlap(*subnet, *used)))
}

/// The first `/64` of a daemon's own range (RFC 4193: `fd`, and forty bits that are as good as
/// random) that overlaps nothing in use.
pub(crate) fn choose_subnet6(range: [u8; 5], in_use: &[Ipv6Net]) -> Option<Ipv6Net> {
    let [a, b, c, d, e] = range.map(u16::from);
    let free = |subnet: &Ipv6Net| {
        let overlaps = |used: &Ipv6Net| used.contains(subnet) || subnet.contains(used);
        !in_use.iter().any(overlaps)
    };
    let subnets = (0..=u16::MAX).filter_map(|number| {
        let words = [0xfd00 | a, b << 8 | c, d << 8 | e, number, 0, 0, 0, 0];
        Ipv6Net::new(words.into(), 64).ok()
    });
    subnets.into_iter().find(free)
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn addresses(subnet: &str) -> Addresses<Ipv4Addr> {
        let subnet = net(subnet);
        let gateway = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
        Addresses::new(&subnet, gateway)
    }

    #[test]
    fn the_first_address_follows_the_gateway() {
        let mut pool = addresses("172.17.0.0/16");
        assert_eq!(pool.take_any(), Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(pool.take_any(), Some(Ipv4Addr::new(172, 17, 0, 3)));
    }

    #[test]
    fn a_freed_address_is_the_last_to_come_back() {
        let mut pool = addresses("10.0.0.0/29");
        let first = pool.take_any().unwrap();
        pool.release(first);
        let rest: Vec<_> = std::iter::from_fn(|| pool.take_any()).collect();
        let wanted: Vec<Ipv4Addr> = (3..7).chain([2]).map(|n| [10, 0, 0, n].into()).collect();
        assert_eq!(rest, wanted);
    }

    #[test]
    fn a_certain_address_is_had_once_and_only_within_the_subnet() {
        let mut pool = addresses("10.0.0.0/24");
        assert_eq!(pool.take([10, 0, 0, 9].into()), Ok(()));
        assert_eq!(pool.take([10, 0, 0, 9].into()), Err(Unavailable::Taken));
        for reserved in [0, 1, 255] {
            assert_eq!(
                pool.take([10, 0, 0, reserved].into()),
                Err(Unavailable::Taken)
            );
        }
        assert_eq!(pool.take([10, 0, 1, 9].into()), Err(Unavailable::Outside));
    }

    #[test]
    fn tiny_and_huge_subnets_work() {
        let mut pair = Addresses::<Ipv4Addr>::new(&net("10.0.0.0/31"), [10, 0, 0, 0].into());
        assert_eq!(pair.take_any(), Some([10, 0, 0, 1].into()));
        assert_eq!(pair.take_any(), None);
        let mut single = Addresses::<Ipv4Addr>::new(&net("10.0.0.0/32"), [10, 0, 0, 0].into());
        assert_eq!(single.take_any(), None);
        let mut all = Addresses::<Ipv4Addr>::new(&net("0.0.0.0/1"), [0, 0, 0, 1].into());
        assert_eq!(all.take_any(), Some([0, 0, 0, 2].into()));
    }

    #[test]
    fn subnets_and_addresses_of_ipv6_are_given_out_like_those_of_ipv4() {
        let range = [1, 2, 3, 4, 5];
        let first = choose_subnet6(range, &[]).unwrap();
        assert_eq!(first.to_string(), "fd01:203:405::/64");
        let next = choose_subnet6(range, &[first, "fd01:203:405:1::/64".parse().unwrap()]);
        assert_eq!(next.unwrap().to_string(), "fd01:203:405:2::/64");
        assert_eq!(choose_subnet6(range, &["fd00::/8".parse().unwrap()]), None);
        let gateway: Ipv6Addr = "fd01:203:405::1".parse().unwrap();
        let mut pool = Addresses::new(&first, gateway);
        let second: Ipv6Addr = "fd01:203:405::2".parse().unwrap();
        assert_eq!(pool.take_any(), Some(second));
        assert_eq!(pool.take(second), Err(Unavailable::Taken));
        assert_eq!(
            pool.take("fd01::2".parse().unwrap()),
            Err(Unavailable::Outside)
        );
        pool.release(second);
        assert_eq!(pool.take(second), Ok(()));
    }

    #[test]
    fn a_subnet_that_a_route_of_the_host_overlaps_is_passed_over() {
        let pools = default_pools();
        assert_eq!(choose_subnet(&pools, &[]), Some(net("172.17.0.0/16")));
        let vpn = [net("172.16.0.0/14"), net("172.20.3.0/24")];
        assert_eq!(choose_subnet(&pools, &vpn), Some(net("172.21.0.0/16")));
        assert_eq!(
            choose_subnet(&pools, &[net("172.16.0.0/12")]),
            Some(net("192.168.0.0/20"))
        );
        assert_eq!(choose_subnet(&pools, &[net("128.0.0.0/1")]), None);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(
            prefix in 26_u8..=31,
            steps in prop::collection::vec((any::<bool>(), 0_u8..64), 0..200),
        ) {
            let subnet = Ipv4Net::new([10, 0, 0, 0].into(), prefix).unwrap();
            let gateway = Ipv4Addr::new(10, 0, 0, 1);
            let usable: BTreeSet<Ipv4Addr> = subnet.hosts().filter(|host| *host != gateway).collect();
            let mut pool = Addresses::<Ipv4Addr>::new(&subnet, gateway);
            let mut model = BTreeSet::new();
            for (take, pick) in steps {
                if take {
                    match pool.take_any() {
                        Some(address) => {
                            prop_assert!(usable.contains(&address));
                            prop_assert!(model.insert(address));
                        }
                        None => prop_assert_eq!(&model, &usable),
                    }
                } else if let Some(address) = model.iter().nth(usize::from(pick)).copied() {
                    model.remove(&address);
                    pool.release(address);
                }
            }
        }
    }
}
