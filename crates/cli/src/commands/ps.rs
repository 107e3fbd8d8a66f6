//! `ps`: the list of containers.

use api::types::{ContainerSummary, Port};

use super::{filters, listing_format};
use crate::command::{Command, Invocation, Run};
use crate::failure::Result;
use crate::flags::{TABLE, filter, integer, switch};
use crate::format::{self, Listing, ellipsis, short};
use crate::template::{Value, print::quote};
use crate::{human, output};

/// `ps`.
pub const PS: Command = Command {
    names: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[&[
        switch("all", "Those that have stopped too").short('a'),
        filter().short('f'),
        TABLE,
        integer("last", "Only the last so many, in whatever state")
            .short('n')
            .default("-1"),
        switch("latest", "Only the last one, in whatever state").short('l'),
        switch("no-trunc", "Do not cut ids and texts"),
        switch("quiet", "Only ids").short('q'),
        switch("size", "Show sizes").short('s'),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(ps(invocation)) as Run,
};

pub const LISTING: Listing<'_> = Listing {
    kind: "*formatter.ContainerContext",
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("HealthStatus", "HEALTH STATUS"),
    ],
};

async fn ps(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let format = listing_format(&invocation, |config| config.ps_format);
    let format = match format {
        Some(_) if typed.on("quiet") && typed.has("format") => {
            output::error(
                "WARNING: Ignoring custom format, because both --format and --quiet are set.",
            );
            None
        }
        format => format,
    };
    let wants_size = typed.on("size")
        || format
            .as_deref()
            .is_some_and(|format| format.contains(".Size"));
    let last = if typed.on("latest") {
        1
    } else {
        typed.integer("last").unwrap_or(-1)
    };
    // Mistakes in the format are told before anybody is asked.
    render(
        typed.on("no-trunc"),
        typed.on("quiet"),
        typed.on("size"),
        format.as_deref(),
        &[],
    )?;
    let client = invocation.session.client().await?;
    let containers: Vec<ContainerSummary> = client
        .get("/containers/json")
        .flag("all", typed.on("all") || last > 0)
        .query_some("limit", (last > 0).then_some(last))
        .flag("size", wants_size)
        .filters(&filters(typed))
        .read()
        .await?;
    output::out(&render(
        typed.on("no-trunc"),
        typed.on("quiet"),
        typed.on("size"),
        format.as_deref(),
        &containers,
    )?)?;
    Ok(0)
}

fn render(
    whole: bool,
    quiet: bool,
    size: bool,
    format: Option<&str>,
    containers: &[ContainerSummary],
) -> Result<String> {
    let now = human::now();
    let rows: Vec<Value> = containers
        .iter()
        .map(|container| row(container, whole, now))
        .collect();
    let mut default =
        "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}".to_owned();
    if size {
        default.push_str("\\t{{.Size}}");
    }
    format::render(
        &LISTING,
        format,
        quiet.then_some("{{.ID}}"),
        &default,
        &rows,
    )
}

/// One container as a row.
pub fn row(container: &ContainerSummary, whole: bool, now: i64) -> Value {
    let cut = |text: &str, width: usize| {
        if whole {
            text.to_owned()
        } else {
            ellipsis(text, width)
        }
    };
    let id = if whole {
        &container.id
    } else {
        short(&container.id)
    };
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            let name = if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            };
            cut(name, 15)
        })
        .collect();
    let local = container
        .mounts
        .iter()
        .filter(|m| m.driver == "local")
        .count();
    let networks: Vec<&str> = container
        .network_settings
        .networks
        .keys()
        .map(String::as_str)
        .collect();
    let mut size = human::size(container.size_rw);
    if container.size_root_fs > 0 {
        size = format!("{size} (virtual {})", human::size(container.size_root_fs));
    }
    Value::row(
        LISTING.kind,
        [
            ("ID", Value::from(id)),
            ("Names", Value::from(names(container, whole))),
            ("Image", Value::from(image(container, whole))),
            ("Command", Value::from(quote(&cut(&container.command, 20)))),
            ("CreatedAt", Value::from(human::moment(container.created))),
            (
                "RunningFor",
                Value::from(human::ago(container.created, now)),
            ),
            ("Ports", Value::from(ports(&container.ports))),
            ("State", Value::from(container.state.as_str())),
            ("Status", Value::from(container.status.as_str())),
            ("Size", Value::from(size)),
            ("Labels", Value::from(format::labels(&container.labels))),
            ("Label", format::label(container.labels.clone())),
            ("Mounts", Value::from(mounts.join(","))),
            ("LocalVolumes", Value::from(local.to_string())),
            ("Networks", Value::from(networks.join(","))),
            ("Platform", Value::Nil),
            (
                "HealthStatus",
                Value::from(
                    container
                        .health
                        .as_ref()
                        .map_or("", |health| health.status.as_str()),
                ),
            ),
        ],
    )
}

fn names(container: &ContainerSummary, whole: bool) -> String {
    let names: Vec<&str> = container
        .names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .collect();
    // Names of links have a slash; people want the container's own.
    let own = names.iter().find(|name| !name.contains('/'));
    match own {
        Some(own) if !whole => (*own).to_owned(),
        _ => names.join(","),
    }
}

fn image(container: &ContainerSummary, whole: bool) -> String {
    if container.image.is_empty() {
        return "<no image>".to_owned();
    }
    if whole {
        return container.image.clone();
    }
    let id = short(&container.image_id);
    if !id.is_empty() && id == short(&container.image) {
        return id.to_owned();
    }
    match container.image.split_once('@') {
        Some((name, _))
            if name
                .rsplit('/')
                .next()
                .is_some_and(|last| last.contains(':')) =>
        {
            name.to_owned()
        }
        _ => container.image.clone(),
    }
}

/// `0.0.0.0:8080->80/tcp, 90-92/tcp`: neighbours that are published alike are joined.
pub fn ports(ports: &[Port]) -> String {
    let mut ports: Vec<&Port> = ports.iter().collect();
    ports.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.protocol).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.protocol,
        ))
    });
    let host = |ip: &str| {
        if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        }
    };
    let show = |(ip, protocol, first, last): &(String, String, u16, u16)| {
        let range = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        if ip.is_empty() {
            format!("{range}/{protocol}")
        } else {
            format!("{}:{range}->{range}/{protocol}", host(ip))
        }
    };
    let mut groups: Vec<(String, String, u16, u16)> = Vec::new();
    let mut done = Vec::new();
    let mut mapped = Vec::new();
    for port in ports {
        let current = port.private_port;
        if !port.ip.is_empty() && port.public_port != current {
            mapped.push(format!(
                "{}:{}->{current}/{}",
                host(&port.ip),
                port.public_port,
                port.protocol
            ));
            continue;
        }
        match groups
            .iter_mut()
            .find(|group| group.0 == port.ip && group.1 == port.protocol)
        {
            Some(group) if current == group.3 => {}
            Some(group) if u32::from(current) == u32::from(group.3) + 1 => group.3 = current,
            Some(group) => {
                done.push(show(group));
                (group.2, group.3) = (current, current);
            }
            None => groups.push((port.ip.clone(), port.protocol.clone(), current, current)),
        }
    }
    done.extend(groups.iter().map(show));
    done.extend(mapped);
    done.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private: u16, public: u16) -> Port {
        Port {
            ip: ip.to_owned(),
            private_port: private,
            public_port: public,
            protocol: "tcp".to_owned(),
        }
    }

    #[test]
    fn ports_are_joined_as_docker_joins_them() {
        for (given, wanted) in [
            (vec![], ""),
            (vec![port("", 80, 0)], "80/tcp"),
            (
                vec![port("", 82, 0), port("", 80, 0), port("", 81, 0)],
                "80-82/tcp",
            ),
            (vec![port("", 80, 0), port("", 82, 0)], "80/tcp, 82/tcp"),
            (
                vec![port("0.0.0.0", 80, 8080), port("::", 80, 8080)],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                vec![port("0.0.0.0", 80, 80), port("0.0.0.0", 81, 81)],
                "0.0.0.0:80-81->80-81/tcp",
            ),
            (
                vec![port("0.0.0.0", 80, 8080), port("", 443, 0)],
                "443/tcp, 0.0.0.0:8080->80/tcp",
            ),
        ] {
            assert_eq!(ports(&given), wanted);
        }
    }

    #[test]
    fn a_row_reads_as_docker_shows_it() {
        let container = ContainerSummary {
            id: "0123456789abcdef".repeat(4),
            names: vec!["/web".to_owned(), "/db/link".to_owned()],
            image: "busybox:1@sha256:abc".to_owned(),
            image_id: "sha256:ffff".to_owned(),
            command: "sh -c 'while true; do sleep 1; done'".to_owned(),
            created: 1000,
            status: "Up 2 minutes".to_owned(),
            ..ContainerSummary::default()
        };
        let out = render(false, false, false, None, std::slice::from_ref(&container)).unwrap();
        let line = out.lines().nth(1).unwrap();
        assert!(
            line.starts_with("0123456789ab   busybox:1   \"sh -c 'while true; …\"   "),
            "{line}"
        );
        assert!(
            line.ends_with(" years ago   Up 2 minutes             web"),
            "{line}"
        );
        assert_eq!(
            render(false, true, false, None, std::slice::from_ref(&container)).unwrap(),
            "0123456789ab\n"
        );
        assert_eq!(
            render(true, true, false, None, std::slice::from_ref(&container))
                .unwrap()
                .len(),
            65
        );
        assert_eq!(
            render(
                false,
                false,
                false,
                Some("{{.Names}}: {{.State}}{{.Label \"x\"}}"),
                &[container]
            )
            .unwrap(),
            "web: \n"
        );
    }

    #[test]
    fn an_empty_list_has_a_header() {
        assert_eq!(
            render(false, false, false, None, &[]).unwrap(),
            "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
        );
    }
}
