//! Containers, a host and a LAN talk through real sockets and the real kernel.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod ipv6;
mod lab;
mod names;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use lab::{
    Container, HOST, LAN, Lab, PATIENCE, Server, UdpClient, bridge, bridge_netfilter, call,
    call_from, inside, ip, nft, on_a_host, seen_as, seen_as_udp, serve_udp, tcp, unreached,
    unreached_from, wanted,
};
use network::{AttachError, Config, Networks, PortRange, Protocol, PublishRequest};
use testkit::eventually;
use vocab::failure::{Failure, Kind, chain};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn privileged_containers_reach_each_other_and_their_gateway() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let one = lab.container(&[]).await;
        let other = lab.container(&[]).await;
        let _server = Server::in_container(&other, 80);
        let seen = seen_as(&one.netns, other.endpoint.address, 80);
        assert_eq!(seen, Some(one.endpoint.address.into()));

        let on_host = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7000)).unwrap();
        let gateway = one.endpoint.gateway.unwrap();
        inside(&one.netns, || {
            std::net::TcpStream::connect((gateway, 7000)).unwrap()
        });
        assert_eq!(
            on_host.accept().unwrap().1.ip(),
            IpAddr::from(one.endpoint.address)
        );
    });
}

#[test]
fn privileged_a_container_has_its_address_route_and_mac() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[]).await;
        let (links, addresses, routes) = inside(&container.netns, || {
            (ip("link show eth0"), ip("address show"), ip("route show"))
        });
        assert!(links.contains("link/ether 02:42:ac:11:00:02"), "{links}");
        assert!(links.contains("state UP"), "{links}");
        assert!(
            addresses.contains("inet 172.17.0.2/16 brd 172.17.255.255"),
            "{addresses}"
        );
        assert!(!addresses.contains("fe80:"), "{addresses}");
        assert!(
            routes.contains("default via 172.17.0.1 dev eth0"),
            "{routes}"
        );
    });
}

#[test]
fn privileged_a_container_reaches_the_outside_with_the_hosts_address() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[]).await;
        let _server = Server::start(&lab.lan, 80);
        assert_eq!(seen_as(&container.netns, LAN, 80), Some(HOST.into()));
    });
}

#[test]
fn privileged_a_published_port_is_reached_from_everywhere() {
    published_everywhere(false);
}

#[test]
fn privileged_a_published_port_is_reached_from_everywhere_with_bridge_netfilter() {
    published_everywhere(true);
}

fn published_everywhere(netfilter: bool) {
    on_a_host(async || {
        bridge_netfilter(netfilter);
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        let neighbour = lab.container(&[]).await;
        let other = bridge("br-other", "172.18.0.0/16");
        lab.networks.ensure_bridge(&other).await.unwrap();
        let stranger = lab.container_on(&other, &[]).await;
        let _server = Server::in_container(&container, 80);
        let gateway: IpAddr = lab.bridge.gateway.into();

        // From outside, the caller's own address is seen.
        assert_eq!(seen_as(&lab.lan, HOST, 8080), Some(LAN.into()));
        // From the host, by any of its addresses.
        assert_eq!(call(LOCALHOST, 8080).unwrap().seen_as, gateway);
        assert_eq!(call(HOST, 8080).unwrap().seen_as, IpAddr::from(HOST));
        assert_eq!(call(lab.bridge.gateway, 8080).unwrap().seen_as, gateway);
        // From a neighbour, from itself, and from another network.
        for (who, seen) in [
            (&neighbour, gateway),
            (&container, gateway),
            (&stranger, stranger.endpoint.address.into()),
        ] {
            for address in [HOST, lab.bridge.gateway] {
                assert_eq!(
                    seen_as(&who.netns, address, 8080),
                    Some(seen),
                    "by {address}"
                );
            }
        }
    });
}

#[test]
fn privileged_udp_is_published_too() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let request = PublishRequest {
            protocol: Protocol::Udp,
            ..tcp(None, 5353, 53)
        };
        let container = lab.container(&[request]).await;
        serve_udp(&container.netns, 53);
        assert_eq!(
            inside(&lab.lan, || seen_as_udp(HOST, 5353)),
            Some(LAN.into())
        );
        assert_eq!(
            seen_as_udp(LOCALHOST, 5353),
            Some(lab.bridge.gateway.into())
        );
    });
}

#[test]
fn privileged_a_udp_client_that_keeps_its_port_follows_the_container() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let request = PublishRequest {
            protocol: Protocol::Udp,
            ..tcp(None, 5353, 53)
        };
        let client = UdpClient::new(&lab.lan, (HOST, 5353));
        client.send();
        eventually(PATIENCE, || client.was_refused());
        let first = lab.container(std::slice::from_ref(&request)).await;
        serve_udp(&first.netns, 53);
        assert_eq!(client.ask(), Some(LAN.into()));

        lab.networks.detach(&first.endpoint).await.unwrap();
        let second = lab.container(&[request]).await;
        serve_udp(&second.netns, 53);
        assert_eq!(client.ask(), Some(LAN.into()));
    });
}

#[test]
fn privileged_a_port_published_on_one_address_is_not_on_others() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(Some(HOST), 8080, 80)]).await;
        let _server = Server::in_container(&container, 80);
        assert_eq!(seen_as(&lab.lan, HOST, 8080), Some(LAN.into()));
        assert!(unreached(LOCALHOST, 8080));
        assert!(unreached_from(&container.netns, lab.bridge.gateway, 8080));
    });
}

#[test]
fn privileged_a_port_published_on_localhost_stays_there() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(Some(LOCALHOST), 8080, 80)]).await;
        let neighbour = lab.container(&[]).await;
        let _server = Server::in_container(&container, 80);
        assert!(call(LOCALHOST, 8080).is_ok());
        assert!(unreached_from(&lab.lan, HOST, 8080));

        // Hosts and containers that send packets for 127.0.0.1 over the wire.
        let crafting = |lan: &std::os::fd::OwnedFd, gateway: Ipv4Addr| {
            inside(lan, || {
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                ip("route flush table local");
                ip(&format!(
                    "route replace 127.0.0.1/32 via {gateway} dev eth0"
                ));
            });
        };
        // A stranger keeps an address to be answered at.
        inside(&lab.lan, || ip("address add 10.9.0.3/24 dev eth0"));
        crafting(&lab.lan, HOST);
        inside(&lab.lan, || {
            ip(&format!("route add local {LAN} dev eth0 table local"))
        });
        crafting(&neighbour.netns, lab.bridge.gateway);
        let own = neighbour.endpoint.address;
        inside(&neighbour.netns, || {
            ip(&format!("route add local {own} dev eth0 table local"))
        });
        for crafty in [&lab.lan, &neighbour.netns] {
            assert!(unreached_from(crafty, LOCALHOST, 8080));
        }

        // The packets do arrive: without the rule they would get through.
        nft("flush chain inet berth martians");
        for crafty in [&lab.lan, &neighbour.netns] {
            assert!(seen_as(crafty, LOCALHOST, 8080).is_some());
        }
    });
}

#[test]
fn privileged_what_is_not_published_is_not_reached() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        let other = bridge("br-other", "172.18.0.0/16");
        lab.networks.ensure_bridge(&other).await.unwrap();
        let stranger = lab.container_on(&other, &[]).await;
        let _server = Server::in_container(&container, 80);
        // Even a host that knows the way does not get there, nor does another network.
        inside(&lab.lan, || {
            ip(&format!("route add 172.17.0.0/16 via {HOST}"))
        });
        assert!(unreached_from(&lab.lan, container.endpoint.address, 80));
        assert!(unreached_from(
            &stranger.netns,
            container.endpoint.address,
            80
        ));
        // The host itself does.
        assert!(call(container.endpoint.address, 80).is_ok());
    });
}

#[test]
fn privileged_an_internal_network_has_no_way_out_or_in() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let mut inner = bridge("br-inner", "172.18.0.0/16");
        inner.internal = true;
        lab.networks.ensure_bridge(&inner).await.unwrap();
        let one = lab.container_on(&inner, &[tcp(None, 8080, 80)]).await;
        let other = lab.container_on(&inner, &[]).await;
        let _server = Server::in_container(&one, 80);
        let _outside = Server::start(&lab.lan, 80);
        assert_eq!((one.endpoint.gateway, one.endpoint.ports.len()), (None, 0));
        let seen = seen_as(&other.netns, one.endpoint.address, 80);
        assert_eq!(seen, Some(other.endpoint.address.into()));
        assert!(unreached_from(&lab.lan, HOST, 8080));
        // Not even with a route of its own making.
        inside(&one.netns, || ip("route add default via 172.18.0.1"));
        assert!(unreached_from(&one.netns, LAN, 80));
    });
}

#[test]
fn privileged_without_inter_container_communication_only_published_ports_are_reached() {
    on_a_host(async || {
        bridge_netfilter(false);
        let lab = Lab::new().await;
        let mut apart = bridge("br-apart", "172.18.0.0/16");
        apart.icc = false;
        lab.networks.ensure_bridge(&apart).await.unwrap();
        let one = lab.container_on(&apart, &[tcp(None, 8080, 80)]).await;
        let other = lab.container_on(&apart, &[]).await;
        let _server = Server::in_container(&one, 80);
        let _outside = Server::start(&lab.lan, 80);
        assert!(unreached_from(&other.netns, one.endpoint.address, 80));
        // Nor by way of the gateway.
        let way = format!("route add {}/32 via 172.18.0.1", one.endpoint.address);
        inside(&other.netns, || ip(&way));
        assert!(unreached_from(&other.netns, one.endpoint.address, 80));
        assert!(seen_as(&other.netns, HOST, 8080).is_some());
        assert!(seen_as(&other.netns, LAN, 80).is_some());
    });
}

#[test]
fn privileged_a_port_in_use_is_refused_in_dockers_words() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let first = lab.container(&[tcp(None, 8080, 80)]).await;
        let on_host = TcpListener::bind((LOCALHOST, 9090)).unwrap();
        let attempt = async |request| {
            let error = lab
                .attach(&lab.bridge, &[tcp(None, 7070, 70), request])
                .await
                .err();
            let error = error.expect("the port is taken");
            assert_eq!(error.kind(), Kind::Internal);
            chain(&error)
        };
        assert_eq!(
            attempt(tcp(None, 8080, 80)).await,
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        );
        assert_eq!(
            attempt(tcp(Some(LOCALHOST), 8080, 80)).await,
            "Bind for 127.0.0.1:8080 failed: port is already allocated"
        );
        assert_eq!(
            attempt(tcp(None, 9090, 80)).await,
            "failed to bind host port 0.0.0.0:9090/tcp: address already in use"
        );
        assert!(
            attempt(tcp(Some(Ipv4Addr::new(192, 0, 2, 1)), 9090, 80))
                .await
                .contains("cannot assign requested address")
        );
        drop(on_host);
        lab.networks.detach(&first.endpoint).await.unwrap();
        // Nothing of the refused attempts is left in the way, nor links of theirs.
        let ports = [
            tcp(None, 7070, 70),
            tcp(None, 8080, 80),
            tcp(None, 9090, 90),
        ];
        let _last = lab.container(&ports).await;
        drop(first);
        eventually(PATIENCE, || ports_of("berth0") == 1);
    });
}

#[test]
fn privileged_a_published_port_is_held_against_processes() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        assert!(TcpListener::bind((LOCALHOST, 8080)).is_err());
        lab.networks.detach(&container.endpoint).await.unwrap();
        // Children that other tests fork may have a copy of the socket until they exec.
        eventually(PATIENCE, || TcpListener::bind((LOCALHOST, 8080)).is_ok());
    });
}

#[test]
fn privileged_closed_connections_of_a_process_are_not_in_the_way() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let listener = TcpListener::bind((LOCALHOST, 8080)).unwrap();
        let client = std::net::TcpStream::connect((LOCALHOST, 8080)).unwrap();
        // Who closes first keeps the address for a minute.
        drop(listener.accept().unwrap());
        drop((client, listener));
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        let _server = Server::in_container(&container, 80);
        assert!(call(LOCALHOST, 8080).is_ok());
        assert!(TcpListener::bind((LOCALHOST, 8080)).is_err());
    });
}

#[test]
fn privileged_ports_are_chosen_from_a_range_or_at_random() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let range = PublishRequest {
            host_port: Some(PortRange {
                first: 8000,
                last: 8001,
            }),
            ..tcp(None, 0, 80)
        };
        let any = PublishRequest {
            host_port: None,
            ..tcp(None, 0, 80)
        };
        let one = lab.container(&[range.clone(), any.clone()]).await;
        let two = lab.container(&[range.clone(), any]).await;
        assert_eq!(one.endpoint.ports[0].host_port, 8000);
        assert_eq!(two.endpoint.ports[0].host_port, 8001);
        assert_ne!(
            one.endpoint.ports[1].host_port,
            two.endpoint.ports[1].host_port
        );
        let refused = lab.attach(&lab.bridge, &[range]).await.err().unwrap();
        assert!(matches!(
            refused,
            AttachError::PortsExhausted {
                first: 8000,
                last: 8001,
                ..
            }
        ));

        let _server = Server::in_container(&two, 80);
        for port in &two.endpoint.ports {
            assert_eq!(seen_as(&lab.lan, HOST, port.host_port), Some(LAN.into()));
        }
    });
}

#[test]
fn privileged_an_address_is_had_once() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let attach = async |address: [u8; 4]| {
            let netns = lab.networks.open_sandbox().await.unwrap();
            let mut wanted = wanted(&lab.bridge, &[]);
            wanted.address = Some(address.into());
            lab.networks.attach(netns.as_fd(), wanted).await
        };
        let endpoint = attach([172, 17, 5, 5]).await.unwrap();
        let taken = attach([172, 17, 5, 5]).await.unwrap_err();
        let AttachError::AddressInUse { owner, .. } = taken else {
            panic!("{taken}");
        };
        assert_eq!(owner, Some(endpoint.container));
        assert!(matches!(
            attach([172, 17, 0, 1]).await,
            Err(AttachError::AddressInUse { .. })
        ));
        assert!(matches!(
            attach([172, 18, 0, 9]).await,
            Err(AttachError::AddressOutside { .. })
        ));
    });
}

#[test]
fn privileged_five_hundred_ports_are_published_and_withdrawn() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let ports: Vec<_> = (20_000..20_500).map(|port| tcp(None, port, 80)).collect();
        let container = lab.container(&ports).await;
        let _server = Server::in_container(&container, 80);
        for port in [20_000, 20_499] {
            assert_eq!(seen_as(&lab.lan, HOST, port), Some(LAN.into()));
        }
        assert_eq!(elements("published"), 500);
        lab.networks.detach(&container.endpoint).await.unwrap();
        assert_eq!(elements("published"), 0);
    });
}

#[test]
fn privileged_detaching_and_removing_leaves_nothing() {
    on_a_host(async || {
        let before = (ip("-o link"), nft("list ruleset"));
        let networks = Networks::open(Config::new("c0ffee")).unwrap();
        let bridge = bridge("br-c0ffee", "172.17.0.0/16");
        networks.ensure_bridge(&bridge).await.unwrap();
        let netns = networks.open_sandbox().await.unwrap();
        let ports = [tcp(None, 8080, 80), tcp(Some(LOCALHOST), 8081, 80)];
        let endpoint = networks
            .attach(netns.as_fd(), wanted(&bridge, &ports))
            .await
            .unwrap();
        let refused = networks.remove_bridge(&bridge.id).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Forbidden, "{refused}");

        // Each step may be done again.
        for _ in 0..2 {
            networks.disconnect(&endpoint).await.unwrap();
            assert_eq!(ports_of("br-c0ffee"), 0);
        }
        for _ in 0..2 {
            networks.remove_bridge(&bridge.id).await.unwrap();
            assert_eq!((ip("-o link"), nft("list ruleset")), before);
        }
    });
}

#[test]
fn privileged_a_detached_container_is_cut_off_and_its_link_goes() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[]).await;
        let _server = Server::in_container(&container, 80);
        let address = container.endpoint.address;
        assert!(call(address, 80).is_ok());
        lab.networks.detach(&container.endpoint).await.unwrap();
        assert!(unreached(address, 80));

        // Whoever gets the address next, even at once, is the one who is reached.
        let netns = lab.networks.open_sandbox().await.unwrap();
        let mut wanted = wanted(&lab.bridge, &[]);
        wanted.address = Some(address);
        lab.networks.attach(netns.as_fd(), wanted).await.unwrap();
        let _other = Server::start(&netns, 8000);
        assert!(call(address, 8000).is_ok());

        // Said late, or twice, it takes nothing from the new one.
        lab.networks.detach(&container.endpoint).await.unwrap();
        assert!(call(address, 8000).is_ok());

        // The old link is removed although something holds its namespace open.
        while ports_of("berth0") > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn privileged_detaching_late_leaves_the_next_life_of_a_container_alone() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let wanted = wanted(&lab.bridge, &[tcp(None, 8080, 80)]);
        let attach = async || {
            let netns = lab.networks.open_sandbox().await.unwrap();
            let endpoint = lab
                .networks
                .attach(netns.as_fd(), wanted.clone())
                .await
                .unwrap();
            Container { netns, endpoint }
        };
        let first = attach().await;
        lab.networks.detach(&first.endpoint).await.unwrap();
        let second = attach().await;
        lab.networks.detach(&first.endpoint).await.unwrap();
        let _server = Server::in_container(&second, 80);
        assert!(call_from(&lab.lan, HOST, 8080).is_ok());
        assert!(TcpListener::bind((LOCALHOST, 8080)).is_err());
    });
}

#[test]
fn privileged_a_restarted_daemon_takes_up_what_lives_and_removes_the_rest() {
    on_a_host(async || {
        let Lab {
            networks,
            bridge,
            lan,
        } = Lab::new().await;
        let forgotten = lab::bridge("br-forgotten", "172.18.0.0/16");
        networks.ensure_bridge(&forgotten).await.unwrap();
        let lab = Lab {
            networks,
            bridge,
            lan,
        };
        let alive = lab.container(&[tcp(None, 8080, 80)]).await;
        let dead = lab.container(&[tcp(None, 8081, 80)]).await;
        let lost = lab.container_on(&forgotten, &[]).await;
        let _server = Server::in_container(&alive, 80);
        let mut open_before = call_from(&lab.lan, HOST, 8080).unwrap();

        // Killed: nothing is undone. Meanwhile somebody empties the host's rules.
        let Lab {
            networks,
            bridge,
            lan,
        } = lab;
        drop(networks);
        let networks = Networks::open(Config::new("")).unwrap();
        networks.ensure_bridge(&bridge).await.unwrap();
        assert!(
            call_from(&lan, HOST, 8080).is_ok(),
            "ports work before they are taken up"
        );
        networks
            .restore(std::slice::from_ref(&alive.endpoint))
            .await
            .unwrap();

        assert_eq!(open_before.line("still there?").unwrap(), "still there?");
        assert!(call_from(&lan, HOST, 8080).is_ok());
        assert!(TcpListener::bind((LOCALHOST, 8080)).is_err(), "held again");
        assert_eq!((elements("published"), ports_of("berth0")), (1, 1));
        let links = ip("-o link");
        for gone in [&dead.endpoint.host_interface, &lost.endpoint.host_interface] {
            assert!(!links.contains(gone.as_str()), "{links}");
        }
        assert!(!links.contains("br-forgotten"), "{links}");
        let lab = Lab {
            networks,
            bridge,
            lan,
        };
        assert_ne!(
            lab.container(&[]).await.endpoint.address,
            alive.endpoint.address
        );
        lab.networks.detach(&alive.endpoint).await.unwrap();
        assert_eq!(elements("published"), 0);
    });
}

#[test]
fn privileged_what_others_remove_comes_back() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        let _server = Server::in_container(&container, 80);

        // With the next change of rules.
        nft("flush ruleset");
        let other = lab.container(&[tcp(None, 8081, 80)]).await;
        assert!(call_from(&lab.lan, HOST, 8080).is_ok());
        nft("flush ruleset");
        lab.networks.detach(&other.endpoint).await.unwrap();
        assert_eq!(elements("published"), 1);

        // When asked to, the whole bridge.
        nft("flush ruleset");
        ip("link delete berth0");
        lab.networks.ensure_bridge(&lab.bridge).await.unwrap();
        lab.networks.restore(&[]).await.unwrap();
        assert!(call_from(&lab.lan, HOST, 8080).is_ok());
    });
}

#[test]
fn privileged_rules_that_others_remove_come_back_by_themselves() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[tcp(None, 8080, 80)]).await;
        let _server = Server::in_container(&container, 80);
        let there = || {
            let tables = nft("list tables");
            tables.contains("inet berth") && elements("published") == 1
        };
        for others_do in [
            "flush ruleset",
            "delete table inet berth",
            "flush chain inet berth prerouting",
            "flush map inet berth published",
        ] {
            let whole = nft("list table inet berth");
            nft(others_do);
            comes_true(async || there() && nft("list table inet berth") == whole).await;
            assert!(call_from(&lab.lan, HOST, 8080).is_ok(), "{others_do}");
        }
        // Other tables are nobody's business, and ours goes when we remove it.
        nft("add table inet other");
        nft("delete table inet other");
        lab.networks.detach(&container.endpoint).await.unwrap();
        lab.networks.remove_bridge(&lab.bridge.id).await.unwrap();
        assert!(!nft("list tables").contains("inet berth"));
    });
}

/// Waits until something holds, while the runtime goes on.
async fn comes_true(condition: impl AsyncFn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(std::time::Instant::now() < end, "did not come true");
        tokio::task::yield_now().await;
    }
}

#[test]
fn privileged_a_failed_attach_leaves_nothing() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let container = lab.container(&[]).await;
        // A second link of the same name cannot be made.
        let mut wanted = wanted(&lab.bridge, &[tcp(None, 8080, 80)]);
        wanted.interface = "eth0".to_owned();
        let refused = lab
            .networks
            .attach(container.netns.as_fd(), wanted)
            .await
            .unwrap_err();
        assert!(
            chain(&refused).contains("file exists"),
            "{}",
            chain(&refused)
        );
        assert_eq!((elements("published"), ports_of("berth0")), (0, 1));
        let next = lab.container(&[tcp(None, 8080, 80)]).await;
        assert_eq!(next.endpoint.ports.len(), 1);
    });
}

#[test]
fn privileged_a_subnet_that_the_host_routes_is_not_chosen() {
    on_a_host(async || {
        let lab = Lab::new().await;
        ip(&format!("route add 172.18.0.0/15 via {LAN}"));
        let taken = ["172.20.0.0/16".parse().unwrap()];
        let chosen = lab.networks.choose_subnet(&taken).await.unwrap();
        assert_eq!(chosen, "172.21.0.0/16".parse().unwrap());
    });
}

#[test]
fn privileged_forty_containers_come_and_go_at_once() {
    on_a_host(async || {
        let lab = Lab::new().await;
        let attaching = (0..40).map(|_| lab.container(&[]));
        let containers: Vec<Container> = futures_util::future::join_all(attaching).await;
        let mut addresses: Vec<_> = containers.iter().map(|c| c.endpoint.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!((addresses.len(), ports_of("berth0")), (40, 40));
        let detaching = containers.iter().map(|c| lab.networks.detach(&c.endpoint));
        for done in futures_util::future::join_all(detaching).await {
            done.unwrap();
        }
        drop(containers);
        eventually(PATIENCE, || ports_of("berth0") == 0);
    });
}

fn ports_of(bridge: &str) -> usize {
    ip(&format!("-o link show master {bridge}")).lines().count()
}

fn elements(set: &str) -> usize {
    nft(&format!("list map inet berth {set}"))
        .matches("tcp . ")
        .count()
}
