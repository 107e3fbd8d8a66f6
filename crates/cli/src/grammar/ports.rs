//! Published and exposed ports.
//!
//! ```text
//! [[ip:][hostPort[-hostPort]:]containerPort[-containerPort][/tcp|udp|sctp]
//! target=80,published=8080,protocol=tcp,mode=ingress
//! ```
//!
//! Ranges of equal length pair up; a host range beside one container port leaves the choice to the
//! daemon.

use std::collections::BTreeMap;

use vocab::config::{Empty, PortBinding, Set};

use super::csv;

/// Ports of the container, each with where it is published.
pub type Bindings = BTreeMap<String, Option<Vec<PortBinding>>>;

/// Reads all `-p` values.
pub fn publish<'a>(specs: impl Iterator<Item = &'a str>) -> Result<(Set, Bindings), String> {
    let mut exposed = Set::new();
    let mut bindings = Bindings::new();
    for spec in specs {
        for (port, binding) in one(&short_form(spec)?)? {
            exposed.insert(port.clone(), Empty {});
            bindings
                .entry(port)
                .or_insert_with(|| Some(Vec::new()))
                .get_or_insert_default()
                .push(binding);
        }
    }
    Ok((exposed, bindings))
}

/// The long form as a short one.
fn short_form(spec: &str) -> Result<String, String> {
    if !spec.contains('=') {
        return Ok(spec.to_owned());
    }
    let (mut target, mut published, mut protocol) =
        (String::new(), String::new(), "tcp".to_owned());
    for field in csv::fields(spec)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field: {field}"))?;
        match key.to_lowercase().as_str() {
            "target" => target = value.to_owned(),
            "published" => published = value.to_owned(),
            "protocol" => protocol = value.to_owned(),
            "mode" if matches!(value, "ingress" | "host") => {}
            "mode" => return Err(format!("invalid publish mode value ({value})")),
            _ => return Err(format!("invalid field key: {key}")),
        }
    }
    if target.is_empty() {
        return Err("missing mandatory field 'target'".to_owned());
    }
    Ok(if published.is_empty() {
        format!("{target}/{protocol}")
    } else {
        format!("{published}:{target}/{protocol}")
    })
}

/// One value may publish many ports.
fn one(spec: &str) -> Result<Vec<(String, PortBinding)>, String> {
    let (rest, protocol) = match spec.split_once('/') {
        Some((rest, protocol)) if !protocol.is_empty() => (rest, protocol),
        Some((rest, _)) => (rest, "tcp"),
        None => (spec, "tcp"),
    };
    let mut parts = rest.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let address = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let (first, last) =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = if host.is_empty() {
        None
    } else {
        Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?)
    };
    if let Some((low, high)) = hosts
        && last - first != high - low
        && first != last
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    let lower = protocol.to_lowercase();
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    Ok((first..=last)
        .map(|port| {
            let host_port = match hosts {
                None => String::new(),
                Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
                Some((low, _)) => (low + (port - first)).to_string(),
            };
            let binding = PortBinding {
                host_ip: address.to_owned(),
                host_port,
            };
            (format!("{port}/{lower}"), binding)
        })
        .collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((low, high)) => {
            let (low, high) = (port(low)?, port(high)?);
            (low <= high).then_some((low, high))
        }
    }
}

/// Reads all `--expose` values into `exposed`.
pub fn expose<'a>(specs: impl Iterator<Item = &'a str>, exposed: &mut Set) -> Result<(), String> {
    for spec in specs {
        if spec.contains(':') {
            return Err(format!("invalid port format for --expose: {spec}"));
        }
        let (ports, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
        let (low, high) = match ports.split_once('-') {
            Some(pair) => pair,
            None => (ports, ports),
        };
        let number = |text: &str| {
            if text.is_empty() {
                return Err("empty string specified for ports".to_owned());
            }
            text.parse::<u16>().map_err(|error| {
                let why = vocab::failure::go_reason(&error);
                format!("strconv.ParseUint: parsing \"{text}\": {why}")
            })
        };
        let pair = number(low).and_then(|low| Ok((low, number(high)?)));
        let (low, high) = pair.map_err(|error| {
            format!("invalid range format for --expose: {spec}, error: {error}")
        })?;
        if low > high {
            return Err(format!(
                "invalid range format for --expose: {spec}, error: invalid range specified for port: {ports}"
            ));
        }
        for port in low..=high {
            exposed.insert(format!("{port}/{}", protocol.to_lowercase()), Empty {});
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> Result<String, String> {
        let (_, bindings) = publish(std::iter::once(spec))?;
        Ok(bindings
            .iter()
            .flat_map(|(port, hosts)| {
                hosts
                    .iter()
                    .flatten()
                    .map(move |host| format!("{}|{}->{port}", host.host_ip, host.host_port))
            })
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn every_form_is_understood() {
        for (spec, wanted) in [
            ("80", "|->80/tcp"),
            ("80/udp", "|->80/udp"),
            ("8080:80", "|8080->80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1|8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1|->80/tcp"),
            ("[::1]:8080:80", "::1|8080->80/tcp"),
            ("::1:8080:80", "::1|8080->80/tcp"),
            ("8080-8082:80", "|8080-8082->80/tcp"),
            ("8080-8081:80-81/TCP", "|8080->80/tcp |8081->81/tcp"),
            ("80-81", "|->80/tcp |->81/tcp"),
            ("target=80,published=8080,protocol=udp", "|8080->80/udp"),
            ("target=80,mode=host", "|->80/tcp"),
            ("0:80", "|0->80/tcp"),
        ] {
            assert_eq!(shown(spec).as_deref(), Ok(wanted), "{spec}");
        }
    }

    #[test]
    fn mistakes_are_told_as_docker_tells_them() {
        for (spec, wanted) in [
            ("abc", "invalid containerPort: abc"),
            ("", "no port specified: <empty>"),
            ("80:80:80:80", "invalid IP address: 80:80"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("a:80", "invalid hostPort: a"),
            ("99999:80", "invalid hostPort: 99999"),
            ("80/foo", "invalid proto: foo"),
            (
                "80-82:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 80-82",
            ),
            ("82-80:80", "invalid hostPort: 82-80"),
            ("published=80", "missing mandatory field 'target'"),
            ("target=80,x=1", "invalid field key: x"),
        ] {
            assert_eq!(shown(spec), Err(wanted.to_owned()), "{spec}");
        }
    }

    #[test]
    fn exposed_ports_are_ranges_too() {
        let mut exposed = Set::new();
        expose(["80", "90-91/udp"].into_iter(), &mut exposed).unwrap();
        assert_eq!(
            exposed.keys().collect::<Vec<_>>(),
            ["80/tcp", "90/udp", "91/udp"]
        );
        for (spec, wanted) in [
            ("80:80", "invalid port format for --expose: 80:80"),
            (
                "x",
                "invalid range format for --expose: x, error: strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(
                expose([spec].into_iter(), &mut exposed),
                Err(wanted.to_owned())
            );
        }
    }
}
