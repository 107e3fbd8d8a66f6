//! Which ports a container publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use network::{PortRange, Protocol, PublishRequest};
use vocab::config::{ContainerConfig, HostConfig, PortBinding};

use super::Port;
use super::launch::host_address;
use super::record::Joined;

/// Reads `80`, `80/tcp`.
pub(crate) fn parse(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = port
        .parse()
        .map_err(|_| format!("invalid port specification: \"{text}\""))?;
    let protocol = protocol
        .parse()
        .map_err(|_| format!("invalid protocol: {protocol}"))?;
    Ok((number, protocol))
}

/// What is to be published.
pub(crate) fn requests(
    config: &ContainerConfig,
    host: &HostConfig,
    default: Ipv4Addr,
) -> Result<Vec<PublishRequest>, String> {
    let mut requests = Vec::new();
    for (text, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = parse(text)?;
        let random = [PortBinding::default()];
        let bindings = match bindings {
            Some(bindings) if !bindings.is_empty() => bindings.as_slice(),
            _ => &random,
        };
        for binding in bindings {
            requests.push(PublishRequest {
                protocol,
                container_port,
                host_ip: host_address(&binding.host_ip, default)?,
                host_port: range(&binding.host_port)?,
            });
        }
    }
    if host.publish_all_ports {
        for text in config.exposed_ports.iter().flat_map(BTreeMap::keys) {
            let (container_port, protocol) = parse(text)?;
            let known = requests
                .iter()
                .any(|own| (own.container_port, own.protocol) == (container_port, protocol));
            if !known {
                requests.push(PublishRequest {
                    protocol,
                    container_port,
                    host_ip: host_address("", default)?,
                    host_port: None,
                });
            }
        }
    }
    Ok(requests)
}

fn range(text: &str) -> Result<Option<PortRange>, String> {
    let refused = || format!("invalid port specification: \"{text}\"");
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange {
        first: first.parse().map_err(|_| refused())?,
        last: last.parse().map_err(|_| refused())?,
    };
    if range.first == 0 || range.first > range.last {
        return Err(refused());
    }
    Ok(Some(range))
}

/// `port/protocol` → where it is published; `None` when it is only exposed.
pub(crate) fn published(
    config: &ContainerConfig,
    joined: &[Joined],
) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut ports: BTreeMap<String, Option<Vec<PortBinding>>> = config
        .exposed_ports
        .iter()
        .flat_map(BTreeMap::keys)
        .map(|port| (port.clone(), None))
        .collect();
    for port in joined
        .iter()
        .filter_map(|joined| joined.endpoint.as_ref())
        .flat_map(|e| &e.ports)
    {
        let key = format!("{}/{}", port.container_port, port.protocol);
        ports
            .entry(key)
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.to_string(),
            });
    }
    ports
}

/// The same as a list shows it.
pub(crate) fn list(config: &ContainerConfig, joined: &[Joined]) -> Vec<Port> {
    let mut ports = BTreeSet::new();
    for (text, bindings) in published(config, joined) {
        let Ok((container, protocol)) = parse(&text) else {
            continue;
        };
        let port = |host_ip: Option<String>, host: Option<u16>| Port {
            host_ip,
            container,
            host,
            protocol: protocol.to_string(),
        };
        match bindings {
            None => drop(ports.insert(port(None, None))),
            Some(bindings) => ports.extend(
                bindings
                    .into_iter()
                    .map(|binding| port(Some(binding.host_ip), binding.host_port.parse().ok())),
            ),
        }
    }
    ports.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_bindings_are_read() {
        let bind = |port: &str, ip: &str, host: &str| HostConfig {
            port_bindings: Some(BTreeMap::from([(
                port.to_owned(),
                Some(vec![PortBinding {
                    host_ip: ip.to_owned(),
                    host_port: host.to_owned(),
                }]),
            )])),
            ..HostConfig::default()
        };
        let read =
            |host: &HostConfig| requests(&ContainerConfig::default(), host, Ipv4Addr::UNSPECIFIED);
        let one = read(&bind("80/tcp", "", "8080")).unwrap().remove(0);
        assert_eq!((one.container_port, one.host_ip), (80, None));
        assert_eq!(one.host_port, Some(8080.into()));
        let many = read(&bind("53/udp", "127.0.0.1", "5000-5010"))
            .unwrap()
            .remove(0);
        assert_eq!(
            many.host_port,
            Some(PortRange {
                first: 5000,
                last: 5010
            })
        );
        for (port, ip, host) in [
            ("x", "", ""),
            ("80/nope", "", ""),
            ("80", "nope", ""),
            ("80", "", "70000"),
            ("80", "", "9-8"),
        ] {
            assert!(read(&bind(port, ip, host)).is_err(), "{port} {ip} {host}");
        }
    }
}
