//! Networks to join: a name, or `name=…,alias=…,ip=…`.

use std::collections::BTreeMap;

use vocab::config::{EndpointIpamConfig, EndpointSettings};

use super::csv;

/// One `--network` value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Name, id or mode.
    pub target: String,
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Legacy links.
    pub links: Vec<String>,
    /// Wanted IPv4 address.
    pub ipv4: String,
    /// Wanted IPv6 address.
    pub ipv6: String,
    /// Link-local addresses.
    pub link_local: Vec<String>,
    /// Wanted MAC address.
    pub mac: String,
    /// Driver options.
    pub driver_options: BTreeMap<String, String>,
    /// The highest gives the default route.
    pub gateway_priority: i64,
}

/// Whether a text is a `--network` value.
pub fn check(spec: &str) -> Result<(), String> {
    attachment(spec).map(drop)
}

/// Reads one `--network` value.
pub fn attachment(spec: &str) -> Result<Attachment, String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    // Docker's pattern: `\w+=\w+(,\w+=\w+)*` anywhere in the text.
    let long = spec.split_once('=').is_some_and(|(key, value)| {
        key.chars().last().is_some_and(word) && value.chars().next().is_some_and(word)
    });
    let mut attachment = Attachment::default();
    if !long {
        spec.clone_into(&mut attachment.target);
        return Ok(attachment);
    }
    for field in csv::fields(spec)? {
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let key = key.trim().to_lowercase();
        let value = value.trim().to_lowercase();
        match key.as_str() {
            "name" => attachment.target = value,
            "alias" => attachment.aliases.push(value),
            "ip" => attachment.ipv4 = value,
            "ip6" => attachment.ipv6 = value,
            "mac-address" => {
                if !is_mac(&value) {
                    return Err("invalid mac address".to_owned());
                }
                attachment.mac = value;
            }
            "link-local-ip" => attachment.link_local.push(value),
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .ok_or("invalid key value pair format in driver options")?;
                attachment
                    .driver_options
                    .insert(key.trim().to_owned(), value.trim().to_owned());
            }
            "gw-priority" => {
                attachment.gateway_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): not a number"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if attachment.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(attachment)
}

/// Six pairs of hexadecimal digits, joined by `:` or `-`.
pub fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let pairs: Vec<&str> = text.split(separator).collect();
    pairs.len() == 6
        && pairs
            .iter()
            .all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a network mode names a network that somebody made.
pub fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "default" | "bridge" | "host" | "none" | "nat")
        && !mode.starts_with("container:")
}

impl Attachment {
    /// What the API wants to know.
    pub fn settings(&self) -> EndpointSettings {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let addressed =
            !self.ipv4.is_empty() || !self.ipv6.is_empty() || !self.link_local.is_empty();
        EndpointSettings {
            ipam_config: addressed.then(|| EndpointIpamConfig {
                ipv4_address: self.ipv4.clone(),
                ipv6_address: self.ipv6.clone(),
                link_local_ips: some(&self.link_local),
            }),
            links: some(&self.links),
            aliases: some(&self.aliases),
            mac_address: self.mac.clone(),
            driver_opts: (!self.driver_options.is_empty()).then(|| self.driver_options.clone()),
            gw_priority: self.gateway_priority,
            ..EndpointSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_understood() {
        assert_eq!(attachment("host").unwrap().target, "host");
        assert_eq!(attachment("container:x").unwrap().target, "container:x");
        let long = attachment(
            "name=Net,alias=a,alias=b,ip=10.0.0.2,ip6=fd00::2,mac-address=02:42:ac:11:00:02,driver-opt=k=v,gw-priority=3,link-local-ip=169.254.0.1",
        )
        .unwrap();
        assert_eq!(long.target, "net");
        assert_eq!(long.aliases, ["a", "b"]);
        assert_eq!(long.gateway_priority, 3);
        assert_eq!(long.driver_options["k"], "v");
        assert_eq!(long.settings().ipam_config.unwrap().ipv6_address, "fd00::2");
    }

    #[test]
    fn mistakes_are_told() {
        for (spec, wanted) in [
            ("foo=bar,x=y", "invalid field key foo"),
            ("alias=a", "network name/id is not specified"),
            ("name=a,mac-address=zz", "invalid mac address"),
            (
                "name=a,gw-priority=x",
                "invalid gw-priority (x): not a number",
            ),
            (
                "name=a,driver-opt=x",
                "invalid key value pair format in driver options",
            ),
        ] {
            assert_eq!(attachment(spec).unwrap_err(), wanted, "{spec}");
        }
    }

    #[test]
    fn modes_are_told_from_networks() {
        for mode in ["default", "bridge", "host", "none", "container:x"] {
            assert!(!is_user_defined(mode), "{mode}");
        }
        assert!(is_user_defined("backend"));
    }
}
