//! Containers on a bridge.

use std::io::Read as _;
use std::net::TcpStream;

use engine::networks::CreateNetwork;
use vocab::config::PortBinding;
use vocab::{Failure as _, Kind};

use crate::place::{Place, eventually};

fn publish(port: &str) -> Option<std::collections::BTreeMap<String, Option<Vec<PortBinding>>>> {
    let binding = PortBinding {
        host_ip: "127.0.0.1".to_owned(),
        host_port: port.to_owned(),
    };
    Some([("80/tcp".to_owned(), Some(vec![binding]))].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_published_port_answers_until_the_container_stops() {
    let place = Place::with_bridge("10.213.1.1/24").await;
    let engine = place.engine();
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    place
        .create_as("web", &serve, |_, host| host.port_bindings = publish(""))
        .await;
    place.start("web").await;
    let details = engine.inspect("web", false).await.unwrap();
    let port = details.ports["80/tcp"].as_ref().unwrap()[0]
        .host_port
        .clone();
    assert_eq!(details.networks["bridge"].ip_address, "10.213.1.2");
    let answer = || {
        let mut text = String::new();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    eventually(async || answer().as_deref() == Some("served\n")).await;
    let network = engine.inspect_network("bridge").await.unwrap();
    assert_eq!(network.containers.len(), 1);

    // The same port again is refused, and the refused container holds nothing.
    place
        .create_as("twin", &serve, |_, host| {
            host.port_bindings = publish(&port);
        })
        .await;
    let error = engine.start("twin").await.unwrap_err();
    let text = vocab::failure::chain(&error);
    assert!(text.contains("port is already allocated"), "{text}");
    engine.stop("web", None, Some(0)).await.unwrap();
    place.start("twin").await;
    eventually(async || answer().as_deref() == Some("served\n")).await;
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
        subnets: vec![engine::networks::Subnet {
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
