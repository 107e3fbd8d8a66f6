//! Addresses of a subnet, and subnets for networks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::SubnetPool;

/// Which addresses of a subnet are taken: a bitmap that is searched from where it last ended, so
/// that a freed address is the last to be used again and neighbours forget it first.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    subnet: Ipv4Net,
    /// One bit for each address, 64 to a word; words without a bit need not be there.
    taken: BTreeMap<u32, u64>,
    /// Offset of the address given last.
    last: u32,
}

/// Why an address cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Taken,
    Outside,
}

impl Addresses {
    /// All free but the gateway and, where there are such, the subnet's own two.
    pub(crate) fn new(subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        let mut addresses = Self {
            subnet: subnet.trunc(),
            taken: BTreeMap::new(),
            last: 0,
        };
        if subnet.prefix_len() < 31 {
            addresses.mark(0);
            addresses.mark(addresses.size() - 1);
        }
        if let Some(offset) = addresses.offset(gateway) {
            addresses.mark(offset);
        }
        addresses
    }

    /// The next free address.
    pub(crate) fn take_any(&mut self) -> Option<Ipv4Addr> {
        let size = self.size();
        let after = (self.last + 1) % size;
        let offset = self
            .find_free(after, size)
            .or_else(|| self.find_free(0, after))?;
        self.mark(offset);
        self.last = offset;
        Some(self.address(offset))
    }

    /// One certain address.
    pub(crate) fn take(&mut self, address: Ipv4Addr) -> Result<(), Unavailable> {
        let offset = self.offset(address).ok_or(Unavailable::Outside)?;
        if self.is_taken(offset) {
            return Err(Unavailable::Taken);
        }
        self.mark(offset);
        Ok(())
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address)
            && let Some(word) = self.taken.get_mut(&(offset / 64))
        {
            *word &= !(1 << (offset % 64));
        }
    }

    /// How many offsets there are; the whole of IPv4 is one short.
    fn size(&self) -> u32 {
        1_u32
            .checked_shl(32 - u32::from(self.subnet.prefix_len()))
            .unwrap_or(u32::MAX)
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.subnet
            .contains(&address)
            .then(|| address.to_bits() - self.subnet.network().to_bits())
            .filter(|offset| *offset < self.size())
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + offset)
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.word(offset) & (1 << (offset % 64)) != 0
    }

    fn mark(&mut self, offset: u32) {
        *self.taken.entry(offset / 64).or_default() |= 1 << (offset % 64);
    }

    fn word(&self, offset: u32) -> u64 {
        self.taken.get(&(offset / 64)).copied().unwrap_or_default()
    }

    fn find_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut offset = from;
        while offset < to {
            let free = (!self.word(offset) >> (offset % 64)).trailing_zeros();
            if free < 64 - offset % 64 {
                return Some(offset + free).filter(|offset| *offset < to);
            }
            offset = offset.checked_add(64 - offset % 64)?;
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

    fn addresses(subnet: &str) -> Addresses {
        let subnet = net(subnet);
        let gateway = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
        Addresses::new(subnet, gateway)
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
        let mut pair = Addresses::new(net("10.0.0.0/31"), [10, 0, 0, 0].into());
        assert_eq!(pair.take_any(), Some([10, 0, 0, 1].into()));
        assert_eq!(pair.take_any(), None);
        let mut single = Addresses::new(net("10.0.0.0/32"), [10, 0, 0, 0].into());
        assert_eq!(single.take_any(), None);
        let mut all = Addresses::new(net("0.0.0.0/1"), [0, 0, 0, 1].into());
        assert_eq!(all.take_any(), Some([0, 0, 0, 2].into()));
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
            let mut pool = Addresses::new(subnet, gateway);
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
