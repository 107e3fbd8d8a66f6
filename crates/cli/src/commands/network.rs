//! `network`: ls, create, rm, connect, disconnect, prune.

use std::collections::BTreeMap;

use api::types::{
    ConfigReference, Ipam, IpamConfig, Network, NetworkConnect, NetworkCreate, NetworkCreated,
    NetworkDisconnect, NetworksPruned,
};
use http::Method;

use super::{confirm, filters, listing_format, told};
use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{TABLE, Typed, UNASKED, filter, integer, many, many_of, on, switch, text};
use crate::format::{self, Listing, short, truth};
use crate::grammar::{networks::Attachment, pairs};
use crate::template::Value;
use crate::{human, output};

/// `network ls`.
pub const LS: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[&[
        filter().short('f'),
        TABLE,
        switch("no-trunc", "Do not cut ids"),
        switch("quiet", "Only ids").short('q'),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(list(invocation)) as Run,
};

/// `network create`.
pub const CREATE: Command = Command {
    names: &["network create"],
    usage: "[OPTIONS] NETWORK",
    about: "Make a network",
    flags: &[&[
        switch("attachable", "Let plain containers join"),
        many_of(
            "aux-address",
            "map",
            "Address the driver shall not give away",
        )
        .default("map[]"),
        text("config-from", "Take the settings of another network"),
        switch("config-only", "Only keep the settings"),
        text("driver", "Driver").short('d').default("\"bridge\""),
        many_of("gateway", "strings", "Gateway of the subnet"),
        switch("ingress", "Make it the routing mesh of the swarm"),
        switch("internal", "Without a way to the outside"),
        many_of(
            "ip-range",
            "strings",
            "Give away only addresses of this range",
        ),
        text("ipam-driver", "Driver that manages addresses").default("\"default\""),
        many_of("ipam-opt", "map", "Option of that driver").default("map[]"),
        on("ipv4", "With IPv4 addresses"),
        switch("ipv6", "With IPv6 addresses"),
        many("label", "Label it: `key=value`"),
        many_of("opt", "map", "Option of the driver")
            .short('o')
            .default("map[]"),
        text("scope", "Scope"),
        many_of("subnet", "strings", "Subnet: `10.0.0.0/24`"),
    ]],
    words: (1, 1),
    stops: false,
    run: |invocation| Box::pin(create(invocation)) as Run,
};

/// `network rm`.
pub const RM: Command = Command {
    names: &["network rm", "network remove"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Remove networks",
    flags: &[&[switch("force", "Missing networks are no mistake").short('f')]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(remove(invocation)) as Run,
};

/// `network connect`.
pub const CONNECT: Command = Command {
    names: &["network connect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Let a container join a network",
    flags: &[&[
        many_of("alias", "strings", "Further name on the network"),
        many_of("driver-opt", "strings", "Option of the driver"),
        integer(
            "gw-priority",
            "The highest of a container's networks is its way out",
        )
        .default("0"),
        text("ip", "IPv4 address"),
        text("ip6", "IPv6 address"),
        many("link", "Link to another container (legacy)"),
        many_of("link-local-ip", "strings", "Link-local address"),
    ]],
    words: (2, 2),
    stops: false,
    run: |invocation| Box::pin(connect(invocation)) as Run,
};

/// `network disconnect`.
pub const DISCONNECT: Command = Command {
    names: &["network disconnect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Take a container off a network",
    flags: &[&[switch("force", "Whatever the container does").short('f')]],
    words: (2, 2),
    stops: false,
    run: |invocation| Box::pin(disconnect(invocation)) as Run,
};

/// `network prune`.
pub const PRUNE: Command = Command {
    names: &["network prune"],
    usage: "[OPTIONS]",
    about: "Remove networks that no container uses",
    flags: &[&[filter(), UNASKED]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(prune(invocation)) as Run,
};

const LISTING: Listing<'_> = Listing {
    kind: "*network.networkContext",
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

async fn list(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let format = listing_format(&invocation, |config| config.networks_format);
    let client = invocation.session.client().await?;
    let mut networks: Vec<Network> = client
        .get("/networks")
        .filters(&filters(typed))
        .read()
        .await?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let whole = typed.on("no-trunc");
    let rows: Vec<Value> = networks
        .iter()
        .map(|network| {
            let labels = network.labels.clone().unwrap_or_default();
            Value::row(
                LISTING.kind,
                [
                    (
                        "ID",
                        Value::from(if whole {
                            &network.id
                        } else {
                            short(&network.id)
                        }),
                    ),
                    ("Name", Value::from(network.name.as_str())),
                    ("Driver", Value::from(network.driver.as_str())),
                    ("Scope", Value::from(network.scope.as_str())),
                    ("IPv4", truth(network.enable_ipv4.unwrap_or(true))),
                    ("IPv6", truth(network.enable_ipv6)),
                    ("Internal", truth(network.internal)),
                    ("Labels", Value::from(format::labels(&labels))),
                    ("Label", format::label(labels)),
                    ("CreatedAt", Value::from(human::moment_of(&network.created))),
                ],
            )
        })
        .collect();
    output::out(&format::render(
        &LISTING,
        format.as_deref(),
        typed.on("quiet").then_some("{{.ID}}"),
        "{{.ID}}\\t{{.Name}}\\t{{.Driver}}\\t{{.Scope}}",
        &rows,
    )?)?;
    Ok(0)
}

/// Values of a flag that may hold several, joined by commas.
fn split(typed: &Typed, name: &str) -> Vec<String> {
    typed
        .all(name)
        .flat_map(|value| value.split(','))
        .map(str::to_owned)
        .collect()
}

/// Whether `address` lies in `subnet` (`10.0.0.0/24`).
fn lies_in(subnet: &str, address: &str) -> bool {
    use std::net::IpAddr;
    let Some((base, bits)) = subnet.split_once('/') else {
        return false;
    };
    let address = address.split('/').next().unwrap_or_default();
    let (Ok(base), Ok(bits), Ok(address)) = (
        base.parse::<IpAddr>(),
        bits.parse::<u32>(),
        address.parse::<IpAddr>(),
    ) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Puts ranges, gateways and reserved addresses to the subnets that they lie in.
fn pools(typed: &Typed) -> Result<Option<Vec<IpamConfig>>> {
    let subnets = split(typed, "subnet");
    let ranges = split(typed, "ip-range");
    let gateways = split(typed, "gateway");
    let reserved: BTreeMap<String, String> = pairs::map(typed.all("aux-address"));
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err(Failure::new(
            "every ip-range or gateway must have a corresponding subnet",
        ));
    }
    let mut pools: Vec<IpamConfig> = subnets
        .iter()
        .map(|subnet| IpamConfig {
            subnet: subnet.clone(),
            ..IpamConfig::default()
        })
        .collect();
    for range in ranges {
        let pool = pools
            .iter_mut()
            .find(|pool| lies_in(&pool.subnet, &range))
            .ok_or_else(|| Failure::new(format!("no matching subnet for range {range}")))?;
        if !pool.ip_range.is_empty() {
            return Err(Failure::new(format!(
                "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                pool.ip_range, pool.subnet
            )));
        }
        pool.ip_range = range;
    }
    for gateway in gateways {
        let pool = pools
            .iter_mut()
            .find(|pool| lies_in(&pool.subnet, &gateway))
            .ok_or_else(|| Failure::new(format!("no matching subnet for gateway {gateway}")))?;
        if !pool.gateway.is_empty() {
            return Err(Failure::new(format!(
                "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                pool.gateway, pool.subnet
            )));
        }
        pool.gateway = gateway;
    }
    for (name, address) in reserved {
        let pool = pools
            .iter_mut()
            .find(|pool| lies_in(&pool.subnet, &address))
            .ok_or_else(|| Failure::new(format!("no matching subnet for aux-address {address}")))?;
        pool.auxiliary_addresses
            .get_or_insert_default()
            .insert(name, address);
    }
    Ok((!pools.is_empty()).then_some(pools))
}

async fn create(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let ipam = Ipam {
        driver: typed.get("ipam-driver").unwrap_or("default").to_owned(),
        options: Some(pairs::map(typed.all("ipam-opt"))),
        config: pools(typed)?,
    };
    let config_from = typed.text("config-from");
    let wanted = NetworkCreate {
        name: invocation.word(0).to_owned(),
        driver: typed.get("driver").unwrap_or("bridge").to_owned(),
        scope: typed.text("scope").to_owned(),
        enable_ipv4: typed.has("ipv4").then(|| typed.on("ipv4")),
        enable_ipv6: typed.has("ipv6").then(|| typed.on("ipv6")),
        ipam: Some(ipam),
        internal: typed.on("internal"),
        attachable: typed.on("attachable"),
        ingress: typed.on("ingress"),
        config_only: typed.on("config-only"),
        config_from: (!config_from.is_empty()).then(|| ConfigReference {
            network: config_from.to_owned(),
        }),
        options: Some(pairs::map(typed.all("opt"))),
        labels: Some(pairs::map(typed.all("label"))),
        ..NetworkCreate::default()
    };
    let client = invocation.session.client().await?;
    let created: NetworkCreated = client.post("/networks/create").json(&wanted).read().await?;
    if !created.warning.is_empty() {
        output::error(format!("WARNING: {}", created.warning));
    }
    output::line(created.id)?;
    Ok(0)
}

async fn remove(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let client = invocation.session.client().await?;
    let mut code = 0;
    for name in &typed.words {
        let removed = client
            .call(Method::DELETE, format!("/networks/{name}"))
            .done()
            .await;
        match removed {
            Err(error) if typed.on("force") && error.is_not_found() => {}
            removed => code |= told(name, removed)?,
        }
    }
    Ok(code)
}

async fn connect(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let attachment = Attachment {
        aliases: split(typed, "alias"),
        links: typed.list("link"),
        ipv4: typed.text("ip").to_owned(),
        ipv6: typed.text("ip6").to_owned(),
        link_local: split(typed, "link-local-ip"),
        driver_options: pairs::map(split(typed, "driver-opt").iter().map(String::as_str)),
        gateway_priority: typed.integer("gw-priority").unwrap_or(0),
        ..Attachment::default()
    };
    let wanted = NetworkConnect {
        container: invocation.word(1).to_owned(),
        endpoint_config: Some(attachment.settings()),
    };
    let client = invocation.session.client().await?;
    client
        .post(format!("/networks/{}/connect", invocation.word(0)))
        .json(&wanted)
        .done()
        .await?;
    Ok(0)
}

async fn disconnect(invocation: Invocation) -> Result<u8> {
    let wanted = NetworkDisconnect {
        container: invocation.word(1).to_owned(),
        force: invocation.typed.on("force"),
    };
    let client = invocation.session.client().await?;
    client
        .post(format!("/networks/{}/disconnect", invocation.word(0)))
        .json(&wanted)
        .done()
        .await?;
    Ok(0)
}

async fn prune(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let warning =
        "WARNING! This will remove all custom networks not used by at least one container.";
    if !typed.on("force") && !confirm(warning).await? {
        return Ok(0);
    }
    let client = invocation.session.client().await?;
    output::out(&prune_networks(&client, &filters(typed)).await?)?;
    Ok(0)
}

/// Prunes networks; what to print.
pub async fn prune_networks(client: &api::Client, filters: &api::Filters) -> Result<String> {
    let pruned: NetworksPruned = client
        .post("/networks/prune")
        .filters(filters)
        .read()
        .await?;
    let deleted = pruned.networks_deleted.unwrap_or_default();
    if deleted.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("Deleted Networks:\n{}\n\n", deleted.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Vec<IpamConfig>>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let typed = crate::flags::parse(&CREATE.flags.concat(), &words, true).unwrap();
        pools(&typed).map_err(|failure| failure.message)
    }

    #[test]
    fn addresses_go_to_their_subnets() {
        let pools = read("--subnet 10.1.0.0/16,fd00::/64 --gateway fd00::1 --gateway 10.1.0.1 --ip-range 10.1.2.0/24 --aux-address a=10.1.0.9 n")
            .unwrap()
            .unwrap();
        assert_eq!(
            (pools[0].gateway.as_str(), pools[0].ip_range.as_str()),
            ("10.1.0.1", "10.1.2.0/24")
        );
        assert_eq!(pools[1].gateway, "fd00::1");
        assert_eq!(
            pools[0].auxiliary_addresses.as_ref().unwrap()["a"],
            "10.1.0.9"
        );
        assert_eq!(read("n"), Ok(None));
    }

    #[test]
    fn addresses_without_a_subnet_are_refused() {
        assert_eq!(
            read("--gateway 10.0.0.1 n").unwrap_err(),
            "every ip-range or gateway must have a corresponding subnet"
        );
        assert_eq!(
            read("--subnet 10.0.0.0/24 --gateway 10.1.0.1 n").unwrap_err(),
            "no matching subnet for gateway 10.1.0.1"
        );
    }
}
