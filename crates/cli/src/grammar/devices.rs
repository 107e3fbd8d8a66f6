//! Devices, GPUs, and rates of block devices.

use std::collections::BTreeMap;

use vocab::config::{DeviceMapping, DeviceRequest, ThrottleDevice, WeightDevice};

use super::csv;
use crate::flags::parse_integer;

/// What a `--device` value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A node of the host.
    Node(DeviceMapping),
    /// A name of the Container Device Interface: `vendor/class=device`.
    Cdi(String),
}

/// Reads `host[:container[:rwm]]` or a CDI name.
pub fn device(spec: &str) -> Result<Device, String> {
    if !spec.starts_with('/')
        && let Some((kind, name)) = spec.split_once('=')
        && let Some((vendor, class)) = kind.split_once('/')
        && !vendor.is_empty()
        && !class.is_empty()
        && !name.is_empty()
    {
        return Ok(Device::Cdi(spec.to_owned()));
    }
    let parts: Vec<&str> = spec.split(':').collect();
    let permissions = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b"rwm".contains(&b))
            && (1..text.len()).all(|at| !text[..at].contains(&text[at..=at]))
    };
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if permissions(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] => (
            *host,
            if container.is_empty() {
                *host
            } else {
                *container
            },
            *mode,
        ),
        _ => return Err(format!("invalid device specification: {spec}")),
    };
    if host.is_empty() {
        return Err(format!("invalid device specification: {spec}"));
    }
    if !host.starts_with('/') {
        return Err(format!("{host} is not an absolute path"));
    }
    if parts.len() == 3 && !permissions(mode) {
        return Err(format!("bad mode specified: {mode}"));
    }
    Ok(Device::Node(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: mode.to_owned(),
    }))
}

/// Whether a text is a rule of the device cgroup: `c 1:3 rwm`.
pub fn check_rule(rule: &str) -> Result<(), String> {
    let mut words = rule.split(' ');
    let number =
        |text: &str| text == "*" || !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let fine = matches!(words.next(), Some("a" | "b" | "c"))
        && words
            .next()
            .and_then(|numbers| numbers.split_once(':'))
            .is_some_and(|(major, minor)| number(major) && number(minor))
        && words.next().is_some_and(|mode| {
            (1..=3).contains(&mode.len()) && mode.bytes().all(|b| b"rwm".contains(&b))
        })
        && words.next().is_none();
    if fine {
        Ok(())
    } else {
        Err(format!("invalid device cgroup format '{rule}'"))
    }
}

/// Whether a text is a `--gpus` value.
pub fn check_gpus(spec: &str) -> Result<(), String> {
    gpus(spec).map(drop)
}

/// Reads one `--gpus` value.
pub fn gpus(spec: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    let mut counted = false;
    let mut seen = Vec::new();
    for field in csv::fields(spec)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => ("count".to_owned(), field.clone()),
        };
        if seen.contains(&key) {
            return Err(format!(
                "gpu request key '{key}' can be specified only once"
            ));
        }
        match key.as_str() {
            "driver" => request.driver = value,
            "count" => {
                counted = true;
                request.count = if value == "all" {
                    -1
                } else {
                    parse_integer(&value).map_err(|_| {
                        format!("invalid count ({value}): value must be either \"all\" or an integer: invalid syntax")
                    })?
                };
            }
            "device" => {
                request.device_ids = Some(value.split(',').map(str::to_owned).collect());
            }
            "capabilities" => {
                capabilities.extend(value.split(',').map(str::to_owned));
            }
            "options" => {
                let options: BTreeMap<String, String> = value
                    .split(',')
                    .map(|option| {
                        let (key, value) = option.split_once('=').unwrap_or((option, ""));
                        (key.to_owned(), value.to_owned())
                    })
                    .collect();
                request.options = Some(options);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        seen.push(key);
    }
    if !counted && request.device_ids.is_none() {
        request.count = 1;
    }
    request.options.get_or_insert_default();
    request.capabilities = Some(vec![capabilities]);
    Ok(request)
}

fn device_and_value(spec: &str) -> Result<(&str, &str), String> {
    let (path, value) = spec
        .split_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| format!("bad format: {spec}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {spec}"));
    }
    Ok((path, value))
}

/// Reads `path:bytes a second`.
pub fn bytes_rate(spec: &str) -> Result<ThrottleDevice, String> {
    let (path, value) = device_and_value(spec)?;
    let rate = crate::human::parse_size(value).map_err(|_| {
        format!("invalid rate for device: {spec}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb")
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate: rate.unsigned_abs(),
    })
}

/// Reads `path:operations a second`.
pub fn operations_rate(spec: &str) -> Result<ThrottleDevice, String> {
    let (path, value) = device_and_value(spec)?;
    let rate = value.parse().map_err(|_| {
        format!("invalid rate for device: {spec}. The correct format is <device-path>:<number>. Number must be a positive integer")
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate,
    })
}

/// Reads `path:weight`.
pub fn weight(spec: &str) -> Result<WeightDevice, String> {
    let (path, value) = device_and_value(spec)?;
    let weight = value
        .parse::<u16>()
        .ok()
        .filter(|weight| *weight == 0 || (10..=1000).contains(weight))
        .ok_or_else(|| format!("invalid weight for device: {spec}"))?;
    Ok(WeightDevice {
        path: path.to_owned(),
        weight,
    })
}

/// Whether a text is `path:bytes`.
pub fn check_bytes_rate(spec: &str) -> Result<(), String> {
    bytes_rate(spec).map(drop)
}

/// Whether a text is `path:operations`.
pub fn check_operations_rate(spec: &str) -> Result<(), String> {
    operations_rate(spec).map(drop)
}

/// Whether a text is `path:weight`.
pub fn check_weight(spec: &str) -> Result<(), String> {
    weight(spec).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(spec: &str) -> String {
        match device(spec) {
            Ok(Device::Node(node)) => format!(
                "{} {} {}",
                node.path_on_host, node.path_in_container, node.cgroup_permissions
            ),
            Ok(Device::Cdi(name)) => format!("cdi {name}"),
            Err(error) => error,
        }
    }

    #[test]
    fn devices_are_understood() {
        for (spec, wanted) in [
            ("/dev/fuse", "/dev/fuse /dev/fuse rwm"),
            ("/dev/a:/dev/b", "/dev/a /dev/b rwm"),
            ("/dev/a:rw", "/dev/a /dev/a rw"),
            ("/dev/a:/dev/b:r", "/dev/a /dev/b r"),
            ("vendor.com/class=x", "cdi vendor.com/class=x"),
            ("/dev/x:/dev/y:zz", "bad mode specified: zz"),
            ("a:b:c:d", "invalid device specification: a:b:c:d"),
            ("dev/a", "dev/a is not an absolute path"),
        ] {
            assert_eq!(node(spec), wanted, "{spec}");
        }
    }

    #[test]
    fn rules_are_checked() {
        for rule in ["c 1:3 rwm", "a *:* r", "b 8:* w"] {
            assert_eq!(check_rule(rule), Ok(()), "{rule}");
        }
        for rule in ["x", "c 1:3", "c 1 r", "c 1:3 x", "c 1:3 rwm x"] {
            assert!(check_rule(rule).is_err(), "{rule}");
        }
    }

    #[test]
    fn gpus_are_understood() {
        let all = gpus("all").unwrap();
        assert_eq!(
            (all.count, all.capabilities),
            (-1, Some(vec![vec!["gpu".to_owned()]]))
        );
        assert_eq!(gpus("2").unwrap().count, 2);
        let some = gpus("\"device=0,1\",driver=nvidia,\"capabilities=compute,utility\"").unwrap();
        assert_eq!(some.count, 0);
        assert_eq!(some.device_ids.unwrap(), ["0", "1"]);
        assert_eq!(some.capabilities.unwrap()[0], ["gpu", "compute", "utility"]);
        assert_eq!(gpus("driver=x").unwrap().count, 1);
        assert_eq!(
            gpus("x").unwrap_err(),
            "invalid count (x): value must be either \"all\" or an integer: invalid syntax"
        );
        assert_eq!(
            gpus("foo=1").unwrap_err(),
            "unexpected key 'foo' in 'foo=1'"
        );
        assert!(gpus("count=1,count=2").is_err());
    }

    #[test]
    fn rates_are_understood() {
        assert_eq!(bytes_rate("/dev/sda:1mb").unwrap().rate, 1 << 20);
        assert_eq!(operations_rate("/dev/sda:100").unwrap().rate, 100);
        assert_eq!(weight("/dev/sda:500").unwrap().weight, 500);
        assert_eq!(bytes_rate("x").unwrap_err(), "bad format: x");
        assert_eq!(
            bytes_rate("x:1").unwrap_err(),
            "bad format for device path: x:1"
        );
        assert_eq!(
            weight("/dev/x:5").unwrap_err(),
            "invalid weight for device: /dev/x:5"
        );
    }
}
