//! Networks of both families, and what of them is reached from where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use network::{AttachError, Bridge, Protocol, PublishRequest, Subnet6};

use crate::lab::{
    Container, HOST, LAN, Lab, Server, bridge, call, inside, ip, nft, on_a_host, seen_as,
    seen_as_udp, serve_udp, tcp, unreached_from, wanted,
};

/// The host's address on the LAN, and that of the other host there.
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

/// A lab whose LAN and whose second network have both families.
async fn lab() -> (Lab, Bridge) {
    let lab = Lab::new().await;
    ip(&format!("address add {HOST6}/64 dev lan0 nodad"));
    inside(&lab.lan, || {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
        ip(&format!("address add {LAN6}/64 dev eth0 nodad"));
    });
    let both = both("br-both", "172.18.0.0/16", "fd17::/64");
    lab.networks.ensure_bridge(&both).await.unwrap();
    (lab, both)
}

fn both(device: &str, subnet: &str, subnet6: &str) -> Bridge {
    let subnet6: ipnet::Ipv6Net = subnet6.parse().unwrap();
    Bridge {
        ipv6: Some(Subnet6 {
            subnet: subnet6,
            gateway: Ipv6Addr::from_bits(subnet6.network().to_bits() + 1),
        }),
        ..bridge(device, subnet)
    }
}

fn own(container: &Container) -> Ipv6Addr {
    container.endpoint.ipv6.unwrap().address
}

#[test]
fn privileged_a_container_has_addresses_and_routes_of_both_families() {
    on_a_host(async || {
        let (lab, both) = lab().await;
        let container = lab.container_on(&both, &[]).await;
        assert_eq!(own(&container).to_string(), "fd17::2");
        let (addresses, routes) = inside(&container.netns, || {
            (ip("-6 address show dev eth0"), ip("-6 route show"))
        });
        let mut lines = addresses.lines();
        let global = lines.find(|line| line.contains("inet6 fd17::2/64"));
        let usable = global.is_some_and(|line| !line.contains("tentative"));
        assert!(usable, "{addresses}");
        assert!(routes.contains("default via fd17::1 dev eth0"), "{routes}");
        // One of IPv4 alone has nothing of it.
        let plain = lab.container(&[]).await;
        assert_eq!(inside(&plain.netns, || ip("-6 address show dev eth0")), "");
        let mut wanted = wanted(&lab.bridge, &[]);
        wanted.address6 = Some("fd17::9".parse().unwrap());
        let netns = lab.networks.open_sandbox().await.unwrap();
        let refused = lab
            .networks
            .attach(std::os::fd::AsFd::as_fd(&netns), wanted)
            .await;
        assert!(
            matches!(refused, Err(AttachError::NoIpv6 { .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn privileged_a_port_is_published_on_both_families() {
    on_a_host(async || {
        let (lab, both) = lab().await;
        let container = lab.container_on(&both, &[tcp(None, 8080, 80)]).await;
        let neighbour = lab.container_on(&both, &[]).await;
        let hosts: Vec<String> = container
            .endpoint
            .ports
            .iter()
            .map(|port| port.host_ip.to_string())
            .collect();
        assert_eq!(hosts, ["0.0.0.0", "::"]);
        let _server = Server::in_container(&container, 80);
        let gateway = IpAddr::from(both.ipv6.unwrap().gateway);
        // From outside, the caller's own address is seen.
        assert_eq!(seen_as(&lab.lan, HOST6, 8080), Some(LAN6.into()));
        assert_eq!(seen_as(&lab.lan, HOST, 8080), Some(LAN.into()));
        // From the host by its addresses; `::1` refuses at once, so that callers of `localhost` turn
        // to `127.0.0.1`. From a neighbour and from itself.
        assert_eq!(call(HOST6, 8080).unwrap().seen_as, IpAddr::from(HOST6));
        let refused = call(Ipv6Addr::LOCALHOST, 8080).err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(call(Ipv4Addr::LOCALHOST, 8080).is_ok());
        for who in [&neighbour, &container] {
            assert_eq!(seen_as(&who.netns, HOST6, 8080), Some(gateway));
        }
        // Not published, not reached; outwards with the host's address.
        let way = format!("-6 route add fd17::/64 via {HOST6}");
        inside(&lab.lan, || ip(&way));
        assert!(unreached_from(&lab.lan, own(&container), 80));
        let _outside = Server::start(&lab.lan, 81);
        assert_eq!(seen_as(&container.netns, LAN6, 81), Some(HOST6.into()));
        lab.networks.detach(&container.endpoint).await.unwrap();
        assert!(unreached_from(&lab.lan, HOST6, 8080));
        assert!(!nft("list map inet berth published6").contains("8080"));
    });
}

#[test]
fn privileged_udp_and_single_addresses_of_ipv6_are_published() {
    on_a_host(async || {
        let (lab, both) = lab().await;
        let request = |host_ip: Ipv6Addr, host_port: u16| PublishRequest {
            protocol: Protocol::Udp,
            container_port: 53,
            host_ip: Some(host_ip.into()),
            host_port: Some(host_port.into()),
        };
        let container = lab.container_on(&both, &[request(HOST6, 5353)]).await;
        serve_udp(&container.netns, 53);
        let outside = inside(&lab.lan, || seen_as_udp(HOST6, 5353));
        assert_eq!(outside, Some(LAN6.into()));
        let local = lab
            .attach(&both, &[request(Ipv6Addr::LOCALHOST, 5354)])
            .await;
        assert!(matches!(local.err(), Some(AttachError::Loopback6)));
        // Only one of the host's addresses is that port's.
        assert!(nft("list map inet berth published6_at").contains("5353"));
        let twice = lab
            .attach(&both, &[request(HOST6, 5353)])
            .await
            .err()
            .unwrap();
        assert!(
            matches!(twice, AttachError::PortAllocated { .. }),
            "{twice}"
        );
    });
}

#[test]
fn privileged_networks_of_ipv6_do_not_reach_each_other() {
    on_a_host(async || {
        let (lab, one) = lab().await;
        let other = both("br-other", "172.19.0.0/16", "fd18::/64");
        let inner = Bridge {
            internal: true,
            ..both("br-inner", "172.20.0.0/16", "fd19::/64")
        };
        for bridge in [&other, &inner] {
            lab.networks.ensure_bridge(bridge).await.unwrap();
        }
        let here = lab.container_on(&one, &[]).await;
        let there = lab.container_on(&other, &[]).await;
        let hidden = lab.container_on(&inner, &[]).await;
        let fellow = lab.container_on(&inner, &[]).await;
        let _servers = [&here, &there, &hidden].map(|c| Server::in_container(c, 80));
        assert!(unreached_from(&here.netns, own(&there), 80));
        assert!(unreached_from(&here.netns, own(&hidden), 80));
        assert_eq!(
            seen_as(&fellow.netns, own(&hidden), 80),
            Some(own(&fellow).into())
        );
        let _outside = Server::start(&lab.lan, 81);
        assert!(unreached_from(&hidden.netns, LAN6, 81));
    });
}
