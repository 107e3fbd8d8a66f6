//! Containers on a bridge.

use std::io::Read as _;
use std::net::TcpStream;

use std::sync::Arc;

use engine::Engine;
use engine::networks::{CreateNetwork, Subnet};
use vocab::config::{EndpointIpamConfig, EndpointSettings, PortBinding};
use vocab::{Failure as _, Kind};

use crate::place::{Place, eventually};

fn publish(port: &str) -> Option<std::collections::BTreeMap<String, Option<Vec<PortBinding>>>> {
    let binding = PortBinding {
        host_ip: "127.0.0.1".to_owned(),
        host_port: port.to_owned(),
    };
    Some([("80/tcp".to_owned(), Some(vec![binding]))].into())
}

const SERVE: [&str; 7] = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];

/// Starts `web`, which serves on a published port; it, and the port.
async fn serve(place: &Place) -> (engine::containers::Details, String) {
    place
        .create_as("web", &SERVE, |_, host| host.port_bindings = publish(""))
        .await;
    place.start("web").await;
    let details = place.engine().inspect("web", false).await.unwrap();
    let port = details.ports["80/tcp"].as_ref().unwrap()[0]
        .host_port
        .clone();
    (details, port)
}

fn served(port: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(format!("127.0.0.1:{port}")) else {
        return false;
    };
    let mut text = String::new();
    stream.read_to_string(&mut text).is_ok() && text == "served\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_published_port_answers_until_the_container_stops() {
    let place = Place::with_bridge("10.213.1.1/24").await;
    let engine = place.engine();
    let (details, port) = serve(&place).await;
    assert_eq!(details.networks["bridge"].ip_address, "10.213.1.2");
    eventually(async || served(&port)).await;
    let network = engine.inspect_network("bridge").await.unwrap();
    assert_eq!(network.containers.len(), 1);

    // The same port again is refused, and the refused container holds nothing.
    place
        .create_as("twin", &SERVE, |_, host| {
            host.port_bindings = publish(&port);
        })
        .await;
    let error = engine.start("twin").await.unwrap_err();
    let text = vocab::failure::chain(&error);
    assert!(text.contains("port is already allocated"), "{text}");
    engine.stop("web", None, Some(0)).await.unwrap();
    place.start("twin").await;
    eventually(async || served(&port)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_addresses_and_files_are_told_inside() {
    let place = Place::with_bridge("10.213.2.1/24").await;
    let script = "ip -4 addr show eth0 | grep -o 'inet [0-9./]*'; grep own /etc/hosts; \
                  cat /etc/hostname; grep -c . /etc/resolv.conf";
    place
        .create_as("own", &["sh", "-c", script], |config, host| {
            config.hostname = "own".to_owned();
            host.dns = Some(vec!["192.0.2.1".to_owned()]);
            host.dns_search = Some(vec![".".to_owned()]);
            host.extra_hosts = Some(vec!["gate:host-gateway".to_owned()]);
        })
        .await;
    assert_eq!(place.run("own").await.code, 0);
    let text = place.logged("own").await;
    assert!(
        text.starts_with("inet 10.213.2.2/24\n10.213.2.2\town\nown\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_networks_of_users_come_and_go() {
    let place = Place::with_bridge("10.213.3.1/24").await;
    let engine = place.engine();
    let wanted = CreateNetwork {
        name: "mine".to_owned(),
        subnets: vec![Subnet {
            subnet: "10.213.4.0/24".to_owned(),
            ..Default::default()
        }],
        ..CreateNetwork::default()
    };
    engine.create_network(wanted.clone()).await.unwrap();
    let twice = engine.create_network(wanted).await.unwrap_err();
    assert_eq!(twice.to_string(), "network with name mine already exists");
    place
        .create_as("on", &["sleep", "1000"], |_, host| {
            host.network_mode = "mine".to_owned();
        })
        .await;
    place.start("on").await;
    let details = engine.inspect("on", false).await.unwrap();
    assert_eq!(details.networks["mine"].ip_address, "10.213.4.2");
    let error = engine.remove_network("mine").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    place.remove("on").await;
    engine.remove_network("mine").await.unwrap();
    let gone = engine.inspect_network("mine").await.unwrap_err();
    assert_eq!(gone.to_string(), "network mine not found");
    let kept = engine.remove_network("bridge").await.unwrap_err();
    assert_eq!(kept.kind(), Kind::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_addresses_and_ports_outlive_the_engine() {
    let mut place = Place::with_bridge("10.213.5.1/24").await;
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    place
        .create_as("web", &serve, |_, host| host.port_bindings = publish(""))
        .await;
    place.start("web").await;
    let before = place.engine().inspect("web", false).await.unwrap();
    place.reopen().await;
    let after = place.engine().inspect("web", false).await.unwrap();
    assert_eq!(before.ports, after.ports);
    assert_eq!(before.networks, after.networks);
    place.create("next", &["sleep", "1000"]).await;
    place.start("next").await;
    let next = place.engine().inspect("next", false).await.unwrap();
    assert_ne!(
        next.networks["bridge"].ip_address,
        after.networks["bridge"].ip_address
    );
}

/// A network of a user with this subnet.
async fn create_network(engine: &Arc<Engine>, name: &str, subnet: &str, internal: bool) {
    let wanted = CreateNetwork {
        name: name.to_owned(),
        internal,
        subnets: vec![Subnet {
            subnet: subnet.to_owned(),
            ..Subnet::default()
        }],
        ..CreateNetwork::default()
    };
    engine.create_network(wanted).await.unwrap();
}

/// What `/proc/net` of a container's first process says.
async fn proc_net(engine: &Arc<Engine>, container: &str, file: &str) -> String {
    let pid = engine.inspect(container, false).await.unwrap().state.pid;
    std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap()
}

/// The link that the default route of a container goes through.
async fn way_out(engine: &Arc<Engine>, container: &str) -> Option<String> {
    let routes = proc_net(engine, container, "route").await;
    let mut lines = routes.lines().map(|line| line.split_whitespace());
    let default = lines.find(|words| words.clone().nth(1) == Some("00000000"));
    default?.next().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_running_container_joins_and_leaves_networks() {
    let mut place = Place::with_bridge("10.213.6.1/24").await;
    let engine = Arc::clone(place.engine());
    create_network(&engine, "mine", "10.213.7.0/24", false).await;
    create_network(&engine, "apart", "10.213.8.0/24", true).await;
    let (_, port) = serve(&place).await;
    eventually(async || served(&port)).await;

    let settings = EndpointSettings {
        aliases: Some(vec!["site".to_owned()]),
        mac_address: "02:42:00:00:00:09".to_owned(),
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: "10.213.7.9".to_owned(),
            ..EndpointIpamConfig::default()
        }),
        driver_opts: Some(
            [(
                "com.docker.network.endpoint.sysctls".to_owned(),
                "net.ipv4.conf.IFNAME.log_martians=1".to_owned(),
            )]
            .into(),
        ),
        gw_priority: 1,
        ..EndpointSettings::default()
    };
    engine
        .connect_network("apart", "web", EndpointSettings::default())
        .await
        .unwrap();
    assert_eq!(way_out(&engine, "web").await.as_deref(), Some("eth0"));
    engine
        .connect_network("mine", "web", settings.clone())
        .await
        .unwrap();
    let details = engine.inspect("web", false).await.unwrap();
    let mine = &details.networks["mine"];
    assert_eq!(
        (
            mine.ip_address.as_str(),
            mine.mac_address.as_str(),
            mine.gateway.as_str()
        ),
        ("10.213.7.9", "02:42:00:00:00:09", "10.213.7.1")
    );
    let names = mine.dns_names.clone().unwrap();
    assert_eq!(names[..2], ["web".to_owned(), "site".to_owned()]);
    assert!(details.networks["apart"].gateway.is_empty());
    // Default route and ports went to the network with the higher priority.
    assert_eq!(way_out(&engine, "web").await.as_deref(), Some("eth2"));
    assert!(served(&port));
    let hosts = place.dir.path().join("data/containers");
    let hosts = hosts.join(details.id.to_string()).join("hosts");
    let listed = || std::fs::read_to_string(&hosts).unwrap();
    assert!(listed().contains("10.213.7.9\t"), "{}", listed());

    let twice = engine
        .connect_network("mine", "web", settings)
        .await
        .unwrap_err();
    assert_eq!(
        twice.to_string(),
        "endpoint with name web already exists in network mine"
    );
    assert_eq!(twice.kind(), Kind::Forbidden);

    // What was joined is kept over a restart of the engine, and over one of the container.
    let before = engine.inspect("web", false).await.unwrap().networks;
    drop(engine);
    place.reopen().await;
    let engine = Arc::clone(place.engine());
    assert_eq!(engine.inspect("web", false).await.unwrap().networks, before);

    engine
        .disconnect_network("mine", "web", false)
        .await
        .unwrap();
    assert_eq!(way_out(&engine, "web").await.as_deref(), Some("eth0"));
    assert!(served(&port));
    assert!(!listed().contains("10.213.7.9"), "{}", listed());
    assert!(!proc_net(&engine, "web", "dev").await.contains("eth2"));
    let again = engine
        .disconnect_network("mine", "web", false)
        .await
        .unwrap_err();
    assert!(
        again
            .to_string()
            .ends_with("is not connected to network mine"),
        "{again}"
    );

    engine.restart("web", None, Some(0)).await.unwrap();
    let details = engine.inspect("web", false).await.unwrap();
    let names: Vec<&String> = details.networks.keys().collect();
    assert_eq!(names, ["apart", "bridge"]);
    assert!(
        details.networks["apart"]
            .ip_address
            .starts_with("10.213.8.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_that_does_not_run_joins_at_its_start() {
    let place = Place::with_bridge("10.213.9.1/24").await;
    let engine = place.engine();
    create_network(engine, "mine", "10.213.10.0/24", false).await;
    place.create("later", &["sleep", "1000"]).await;
    for _ in 0..2 {
        engine
            .connect_network("mine", "later", EndpointSettings::default())
            .await
            .unwrap();
    }
    engine
        .disconnect_network("bridge", "later", false)
        .await
        .unwrap();
    place.start("later").await;
    let details = engine.inspect("later", false).await.unwrap();
    assert_eq!(details.networks.len(), 1);
    assert_eq!(details.networks["mine"].ip_address, "10.213.10.2");
    let links = proc_net(engine, "later", "dev").await;
    assert!(links.contains("eth0") && !links.contains("eth1"), "{links}");
    let host = engine
        .connect_network("host", "later", EndpointSettings::default())
        .await;
    assert_eq!(host.unwrap_err().kind(), Kind::InvalidArgument);
    let none = engine
        .connect_network("none", "later", EndpointSettings::default())
        .await;
    assert_eq!(none.unwrap_err().kind(), Kind::InvalidArgument);
    let absent = engine
        .connect_network("nope", "later", EndpointSettings::default())
        .await;
    assert_eq!(absent.unwrap_err().to_string(), "network nope not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_several_networks_are_joined_at_creation() {
    let place = Place::with_bridge("10.213.11.1/24").await;
    let engine = place.engine();
    create_network(engine, "zone", "10.213.12.0/24", false).await;
    create_network(engine, "area", "10.213.13.0/24", false).await;
    let mut wanted = crate::place::wanted("both", &["sleep", "1000"], |_, host| {
        host.network_mode = "zone".to_owned();
    });
    let settings = |priority| {
        Some(EndpointSettings {
            aliases: Some(vec!["service".to_owned()]),
            gw_priority: priority,
            ..EndpointSettings::default()
        })
    };
    wanted.networking.endpoints_config = Some(
        [
            ("zone".to_owned(), settings(0)),
            ("area".to_owned(), settings(0)),
        ]
        .into(),
    );
    engine.create(wanted.clone()).await.unwrap();
    place.start("both").await;
    let details = engine.inspect("both", false).await.unwrap();
    assert!(
        details.networks["zone"]
            .ip_address
            .starts_with("10.213.12.")
    );
    assert!(
        details.networks["area"]
            .ip_address
            .starts_with("10.213.13.")
    );
    // Of equal priority the first by name is the way out; the network mode has the first link.
    assert_eq!(way_out(engine, "both").await.as_deref(), Some("eth1"));
}

/// A container that says what it finds under names until it has found each of them.
async fn finds(place: &Place, network: &str, script: &str) -> String {
    let name = format!("asks-{}", &vocab::ContainerId::random().to_string()[..6]);
    place
        .create_as(&name, &["sh", "-c", script], |_, host| {
            host.network_mode = network.to_owned();
        })
        .await;
    assert_eq!(
        place.run(&name).await.code,
        0,
        "{}",
        place.logged(&name).await
    );
    place.logged(&name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_containers_find_each_other_by_name() {
    let mut place = Place::with_bridge("10.213.14.1/24").await;
    let engine = Arc::clone(place.engine());
    create_network(&engine, "mine", "10.213.15.0/24", true).await;
    let mut wanted = crate::place::wanted("db", &["sleep", "1000"], |config, host| {
        config.hostname = "store".to_owned();
        host.network_mode = "mine".to_owned();
    });
    let settings = EndpointSettings {
        aliases: Some(vec!["database".to_owned()]),
        ..EndpointSettings::default()
    };
    wanted.networking.endpoints_config = Some([("mine".to_owned(), Some(settings))].into());
    let id = engine.create(wanted).await.unwrap().id;
    place.start("db").await;

    let short = id.short();
    let ask = format!(
        "cat /etc/resolv.conf; for n in db database DATABASE store {short} db.mine; do \
         nslookup -type=a $n | grep -A1 Name: | tail -1; done; nslookup 10.213.15.2 | grep name"
    );
    let told = finds(&place, "mine", &ask).await;
    assert!(told.starts_with("nameserver 127.0.0.11\n"), "{told}");
    assert!(told.contains("ndots:0"), "{told}");
    assert_eq!(told.matches("Address: 10.213.15.2").count(), 6, "{told}");
    assert!(told.contains("name = db.mine"), "{told}");
    // The resolver of the C library, by the file that names it.
    let pinged = finds(&place, "mine", "ping -c 1 -W 5 database | head -1").await;
    assert!(pinged.contains("10.213.15.2"), "{pinged}");
    // Nothing outside is asked from an internal network, and nobody is known elsewhere.
    let refused = finds(&place, "mine", "nslookup -type=a example.com; true").await;
    assert!(refused.contains("NXDOMAIN"), "{refused}");
    let other = finds(&place, "bridge", "cat /etc/resolv.conf").await;
    assert!(!other.contains("127.0.0.11"), "{other}");

    // A link is the name that one container has for another.
    let mut wanted =
        crate::place::wanted("linked", &["nslookup", "-type=a", "keeper"], |_, host| {
            host.network_mode = "mine".to_owned();
        });
    let settings = EndpointSettings {
        links: Some(vec!["db:keeper".to_owned()]),
        ..EndpointSettings::default()
    };
    wanted.networking.endpoints_config = Some([("mine".to_owned(), Some(settings))].into());
    engine.create(wanted).await.unwrap();
    assert_eq!(place.run("linked").await.code, 0);
    let told = place.logged("linked").await;
    assert!(told.contains("Address: 10.213.15.2"), "{told}");

    // A new name holds at once; after a restart of the engine all of it still does.
    engine.rename("db", "data").await.unwrap();
    let ask = "nslookup -type=a data | grep -A1 Name: | tail -1; nslookup -type=a db; true";
    let told = finds(&place, "mine", ask).await;
    assert!(
        told.contains("Address: 10.213.15.2") && told.contains("NXDOMAIN"),
        "{told}"
    );
    place
        .create_as(
            "long",
            &[
                "sh",
                "-c",
                "while ! nslookup -type=a after; do sleep 0.1; done",
            ],
            |_, host| {
                host.network_mode = "mine".to_owned();
            },
        )
        .await;
    place.start("long").await;
    drop(engine);
    place.reopen().await;
    let wait = place
        .engine()
        .wait("long", engine::containers::WaitCondition::NotRunning);
    let wait = wait.await.unwrap();
    place
        .create_as("after", &["sleep", "1000"], |_, host| {
            host.network_mode = "mine".to_owned();
        })
        .await;
    place.start("after").await;
    let code = tokio::time::timeout(crate::place::LONG, wait.outcome())
        .await
        .unwrap()
        .code;
    assert_eq!(code, 0);
    // One that leaves is forgotten.
    place.remove("data").await;
    let told = finds(&place, "mine", "nslookup -type=a database; true").await;
    assert!(told.contains("NXDOMAIN"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_finds_names_from_its_first_network_on() {
    let place = Place::with_bridge("10.213.16.1/24").await;
    let engine = place.engine();
    create_network(engine, "mine", "10.213.17.0/24", false).await;
    place
        .create_as("db", &["sleep", "1000"], |_, host| {
            host.network_mode = "mine".to_owned();
        })
        .await;
    place.start("db").await;
    let ask = "while ! nslookup -type=a db 127.0.0.11; do sleep 0.1; done; cat /etc/resolv.conf";
    place.create("late", &["sh", "-c", ask]).await;
    place.start("late").await;
    let wait = engine
        .wait("late", engine::containers::WaitCondition::NotRunning)
        .await
        .unwrap();
    engine
        .connect_network("mine", "late", EndpointSettings::default())
        .await
        .unwrap();
    let code = tokio::time::timeout(crate::place::LONG, wait.outcome())
        .await
        .unwrap()
        .code;
    assert_eq!(code, 0);
    let told = place.logged("late").await;
    assert!(told.contains("Address: 10.213.17.2"), "{told}");
    assert!(told.contains("nameserver 127.0.0.11"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_network_may_have_both_families() {
    let place = Place::with_bridge("10.213.18.1/24").await;
    let engine = place.engine();
    let wanted = CreateNetwork {
        name: "both".to_owned(),
        ipv6: true,
        subnets: vec![Subnet {
            subnet: "10.213.19.0/24".to_owned(),
            ..Subnet::default()
        }],
        ..CreateNetwork::default()
    };
    engine.create_network(wanted.clone()).await.unwrap();
    let network = engine.inspect_network("both").await.unwrap();
    let chosen = network.subnets[1].subnet.clone();
    assert!(
        network.ipv6 && chosen.starts_with("fd") && chosen.ends_with("/64"),
        "{chosen}"
    );
    // A range of our own cannot be given twice, nor one for a network without IPv6.
    let mut again = CreateNetwork {
        name: "again".to_owned(),
        subnets: vec![network.subnets[1].clone()],
        ..wanted
    };
    let refused = engine.create_network(again.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("overlaps"), "{refused}");
    again.ipv6 = false;
    again.subnets[0].subnet = "fd77::/64".to_owned();
    again.subnets[0].gateway.clear();
    assert_eq!(
        engine.create_network(again).await.unwrap_err().kind(),
        Kind::InvalidArgument
    );

    place
        .create_as("db", &["sleep", "1000"], |_, host| {
            host.network_mode = "both".to_owned();
        })
        .await;
    place.start("db").await;
    let details = engine.inspect("db", false).await.unwrap();
    let own = &details.networks["both"];
    assert_eq!(own.global_ipv6_prefix_len, 64);
    assert!(own.ipv6_gateway.ends_with("::1"), "{}", own.ipv6_gateway);
    let network = engine.inspect_network("both").await.unwrap();
    let member = &network.containers[&details.id];
    assert_eq!(
        member.ipv6_address,
        format!("{}/64", own.global_ipv6_address)
    );
    let script =
        "nslookup -type=aaaa db | grep -A1 Name: | tail -1; ping -6 -c 1 -W 5 db | head -1";
    let told = finds(&place, "both", script).await;
    let found = format!("Address: {}", own.global_ipv6_address);
    assert!(told.contains(&found), "{told}");
    assert!(told.contains("PING db"), "{told}");
}
