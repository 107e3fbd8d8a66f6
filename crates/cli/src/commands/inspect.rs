//! `inspect`, for everything that can be named, and for containers, images, volumes and networks
//! by themselves.
//!
//! Documents are shown as the daemon sent them, only laid out. Templates see them with the Go
//! types that Docker's documents have, so that `{{if .State.Health}}` is false rather than a
//! mistake where there is no health.

use api::Client;
use api::client::CallError;

use crate::command::{ANY, Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, switch, text};
use crate::format::indent;
use crate::output;
use crate::template::{MissingKey, Set, Template, Value, Zero};

const FORMAT: Flag = text("format", "Format: `json`, or a Go template").short('f');

/// `inspect`.
pub const INSPECT: Command = Command {
    names: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Show all that is known of containers, images, networks and volumes",
    flags: &[&[
        FORMAT,
        switch("size", "Show the sizes of containers").short('s'),
        text("type", "Only objects of this type"),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(any(invocation)) as Run,
};

/// `container inspect`.
pub const CONTAINER: Command = Command {
    names: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Show all that is known of containers",
    flags: &[&[FORMAT, switch("size", "Show their sizes").short('s')]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(some(invocation, &[Type::Container])) as Run,
};

/// `image inspect`.
pub const IMAGE: Command = Command {
    names: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Show all that is known of images",
    flags: &[&[
        FORMAT,
        text("platform", "Of which platform: `os[/arch[/variant]]`"),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(some(invocation, &[Type::Image])) as Run,
};

/// `volume inspect`.
pub const VOLUME: Command = Command {
    names: &["volume inspect"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Show all that is known of volumes",
    flags: &[&[FORMAT]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(some(invocation, &[Type::Volume])) as Run,
};

/// `network inspect`.
pub const NETWORK: Command = Command {
    names: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Show all that is known of networks",
    flags: &[&[
        FORMAT,
        switch("verbose", "Show more, for diagnosis").short('v'),
    ]],
    words: (1, ANY),
    stops: false,
    run: |invocation| Box::pin(some(invocation, &[Type::Network])) as Run,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Container,
    Image,
    Network,
    Volume,
}

const ALL: &[Type] = &[Type::Container, Type::Image, Type::Network, Type::Volume];

async fn any(invocation: Invocation) -> Result<u8> {
    let types: &[Type] = match invocation.typed.text("type") {
        "" => ALL,
        "container" => &[Type::Container],
        "image" => &[Type::Image],
        "network" => &[Type::Network],
        "volume" => &[Type::Volume],
        other @ ("config" | "node" | "plugin" | "secret" | "service" | "task") => {
            return Err(Failure::new(format!(
                "berth has no objects of type \"{other}\" yet"
            )));
        }
        other => {
            return Err(Failure::new(format!(
                "unknown type: \"{other}\": must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
            )));
        }
    };
    if invocation.typed.on("size") && !types.contains(&Type::Container) {
        output::error("WARNING: --size ignored for this type");
    }
    some(invocation, types).await
}

/// What docker ends with when a template cannot be read.
const BAD_TEMPLATE: u8 = 64;

/// How documents are shown.
enum Shown {
    Pretty,
    Json,
    Template(Box<Template>),
}

impl Shown {
    fn read(format: Option<&str>) -> Result<Self> {
        match format {
            None | Some("") => Ok(Self::Pretty),
            Some("json") => Ok(Self::Json),
            Some(text) => Template::parse("", text)
                .map(|template| Self::Template(Box::new(template)))
                .map_err(|error| {
                    let text = format!("template parsing error: {error}");
                    Failure::new(text).code(BAD_TEMPLATE)
                }),
        }
    }
}

async fn some(invocation: Invocation, types: &'static [Type]) -> Result<u8> {
    let typed = &invocation.typed;
    let shown = Shown::read(typed.get("format"))?;
    let client = invocation.session.client().await?;
    let mut documents: Vec<String> = Vec::new();
    let mut out = String::new();
    let mut failures = Vec::new();
    for name in &typed.words {
        match find(&client, name, types, &invocation).await {
            Ok((kind, json)) => match &shown {
                Shown::Pretty | Shown::Json => documents.push(json),
                Shown::Template(template) => match fill(template, kind, &json) {
                    Ok(text) => {
                        out.push_str(&text);
                        out.push('\n');
                    }
                    Err(failure) => failures.push(failure),
                },
            },
            Err(failure) => failures.push(failure),
        }
    }
    match shown {
        Shown::Pretty => {
            out = indent(&format!("[{}]", documents.join(",")));
            out.push('\n');
        }
        Shown::Json => out = format!("[{}]\n", documents.join(",")),
        // Docker ends even nothing with a line.
        Shown::Template(_) if out.is_empty() => out.push('\n'),
        Shown::Template(_) => {}
    }
    output::out(&out)?;
    for failure in &failures {
        output::error(failure);
    }
    Ok(u8::from(!failures.is_empty()))
}

async fn find(
    client: &Client,
    name: &str,
    types: &[Type],
    invocation: &Invocation,
) -> Result<(Type, String)> {
    for kind in types {
        let call = match kind {
            Type::Container => client
                .get(format!("/containers/{name}/json"))
                .flag("size", invocation.typed.on("size")),
            Type::Image => {
                let platform = match invocation.typed.get("platform") {
                    Some(platform) => Some(super::platform_json(platform)?),
                    None => None,
                };
                client
                    .get(format!("/images/{name}/json"))
                    .query_some("platform", platform)
            }
            Type::Network => client
                .get(format!("/networks/{name}"))
                .flag("verbose", invocation.typed.on("verbose")),
            Type::Volume => client.get(format!("/volumes/{name}")),
        };
        match call.bytes().await {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                return Ok((*kind, text));
            }
            // Where several types are tried, what is not there (or not done) is tried as the next.
            Err(CallError::Api { status, .. })
                if types.len() > 1 && matches!(status.as_u16(), 404 | 501) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure {
        status: Some(404),
        ..Failure::new(format!("Error: No such object: {name}"))
    })
}

fn fill(template: &Template, kind: Type, json: &str) -> Result<String> {
    let failed = |error: String| Failure::new(format!("template parsing error: {error}"));
    let value: Value = serde_json::from_str(json)
        .map_err(|error| Failure::new(format!("unable to read inspect data: {error}")))?;
    let value = known(kind, value);
    template
        .execute(&value, Set::Values, MissingKey::Error)
        .map_err(|error| failed(error.to_string()))
}

/// Adds what Docker's Go types know of members that JSON leaves out.
fn known(kind: Type, value: Value) -> Value {
    let value = value.know(match kind {
        Type::Container => CONTAINER_ZEROS,
        Type::Image => IMAGE_ZEROS,
        Type::Network => NETWORK_ZEROS,
        Type::Volume => VOLUME_ZEROS,
    });
    if kind == Type::Container {
        default_endpoint(value)
    } else {
        value
    }
}

/// Before API 1.52 the endpoint on the default bridge also stood at the top of the network
/// settings, and scripts read its address there.
fn default_endpoint(mut value: Value) -> Value {
    const TEXTS: [&str; 6] = [
        "IPAddress",
        "Gateway",
        "MacAddress",
        "EndpointID",
        "GlobalIPv6Address",
        "IPv6Gateway",
    ];
    const NUMBERS: [&str; 2] = ["IPPrefixLen", "GlobalIPv6PrefixLen"];
    let bridge = value.find("NetworkSettings.Networks.bridge").cloned();
    let Some(settings) = value.find_mut("NetworkSettings") else {
        return value;
    };
    for name in TEXTS.iter().chain(&NUMBERS) {
        if settings.find(name).is_none() {
            let empty = if NUMBERS.contains(name) {
                Value::Int(0)
            } else {
                Value::from("")
            };
            let found = bridge
                .as_ref()
                .and_then(|bridge| bridge.find(name))
                .cloned();
            settings.add_hidden(name, found.unwrap_or(empty));
        }
    }
    value
}

const CONTAINER_ZEROS: &[(&str, Zero)] = &[
    ("ExecIDs", Zero::List),
    ("SizeRw", Zero::Nil),
    ("SizeRootFs", Zero::Nil),
    ("State.Health", Zero::Nil),
    ("State.Error", Zero::Text),
    ("Config.AttachStdin", Zero::Bool),
    ("Config.ExposedPorts", Zero::Map),
    ("Config.Env", Zero::List),
    ("Config.Cmd", Zero::List),
    ("Config.Healthcheck", Zero::Nil),
    ("Config.ArgsEscaped", Zero::Bool),
    ("Config.Volumes", Zero::Map),
    ("Config.Entrypoint", Zero::List),
    ("Config.NetworkDisabled", Zero::Bool),
    ("Config.MacAddress", Zero::Text),
    ("Config.OnBuild", Zero::List),
    ("Config.Labels", Zero::Texts),
    ("Config.StopSignal", Zero::Text),
    ("Config.StopTimeout", Zero::Nil),
    ("Config.Shell", Zero::List),
    ("HostConfig.Binds", Zero::List),
    ("HostConfig.LogConfig.Config", Zero::Texts),
    ("HostConfig.PortBindings", Zero::Map),
    ("HostConfig.VolumesFrom", Zero::List),
    ("HostConfig.Annotations", Zero::Texts),
    ("HostConfig.CapAdd", Zero::List),
    ("HostConfig.CapDrop", Zero::List),
    ("HostConfig.Dns", Zero::List),
    ("HostConfig.DnsOptions", Zero::List),
    ("HostConfig.DnsSearch", Zero::List),
    ("HostConfig.ExtraHosts", Zero::List),
    ("HostConfig.GroupAdd", Zero::List),
    ("HostConfig.Links", Zero::List),
    ("HostConfig.SecurityOpt", Zero::List),
    ("HostConfig.StorageOpt", Zero::Texts),
    ("HostConfig.Tmpfs", Zero::Texts),
    ("HostConfig.Sysctls", Zero::Texts),
    ("HostConfig.BlkioWeightDevice", Zero::List),
    ("HostConfig.BlkioDeviceReadBps", Zero::List),
    ("HostConfig.BlkioDeviceWriteBps", Zero::List),
    ("HostConfig.BlkioDeviceReadIOps", Zero::List),
    ("HostConfig.BlkioDeviceWriteIOps", Zero::List),
    ("HostConfig.Devices", Zero::List),
    ("HostConfig.DeviceCgroupRules", Zero::List),
    ("HostConfig.DeviceRequests", Zero::List),
    ("HostConfig.MemorySwappiness", Zero::Nil),
    ("HostConfig.OomKillDisable", Zero::Nil),
    ("HostConfig.PidsLimit", Zero::Nil),
    ("HostConfig.Ulimits", Zero::List),
    ("HostConfig.Mounts", Zero::List),
    ("HostConfig.MaskedPaths", Zero::List),
    ("HostConfig.ReadonlyPaths", Zero::List),
    ("HostConfig.Init", Zero::Nil),
    ("Mounts.*.Name", Zero::Text),
    ("Mounts.*.Driver", Zero::Text),
    ("NetworkSettings.Ports", Zero::Map),
    ("NetworkSettings.Ports.*", Zero::List),
    ("NetworkSettings.Networks.*.IPAMConfig", Zero::Nil),
    ("NetworkSettings.Networks.*.Links", Zero::List),
    ("NetworkSettings.Networks.*.Aliases", Zero::List),
    ("NetworkSettings.Networks.*.DriverOpts", Zero::Texts),
    ("NetworkSettings.Networks.*.DNSNames", Zero::List),
];

const IMAGE_ZEROS: &[(&str, Zero)] = &[
    ("RepoTags", Zero::List),
    ("RepoDigests", Zero::List),
    ("Parent", Zero::Text),
    ("Comment", Zero::Text),
    ("Author", Zero::Text),
    ("DockerVersion", Zero::Text),
    ("Created", Zero::Text),
    ("Variant", Zero::Text),
    ("OsVersion", Zero::Text),
    ("Config", Zero::Nil),
    ("Config.User", Zero::Text),
    ("Config.WorkingDir", Zero::Text),
    ("Config.ExposedPorts", Zero::Map),
    ("Config.Env", Zero::List),
    ("Config.Cmd", Zero::List),
    ("Config.Entrypoint", Zero::List),
    ("Config.Healthcheck", Zero::Nil),
    ("Config.Volumes", Zero::Map),
    ("Config.OnBuild", Zero::List),
    ("Config.Labels", Zero::Texts),
    ("Config.StopSignal", Zero::Text),
    ("Config.Shell", Zero::List),
    ("RootFS.Layers", Zero::List),
];

const NETWORK_ZEROS: &[(&str, Zero)] = &[
    ("IPAM.Options", Zero::Texts),
    ("IPAM.Config", Zero::List),
    ("IPAM.Config.*.Gateway", Zero::Text),
    ("IPAM.Config.*.IPRange", Zero::Text),
    ("IPAM.Config.*.AuxiliaryAddresses", Zero::Map),
    ("Containers", Zero::Map),
    ("Options", Zero::Texts),
    ("Labels", Zero::Texts),
];

const VOLUME_ZEROS: &[(&str, Zero)] = &[
    ("Labels", Zero::Texts),
    ("Options", Zero::Texts),
    ("Status", Zero::Map),
    ("CreatedAt", Zero::Text),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, text: &str, wanted: Result<&str, &str>) {
        let template = Template::parse("", text).unwrap();
        let got = fill(&template, Type::Container, json).map_err(|failure| failure.message);
        assert_eq!(
            got,
            wanted.map(str::to_owned).map_err(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn templates_see_what_docker_lets_them_see() {
        let json = r#"{"State":{"Status":"running"},"Config":{"Labels":{"a":"b"},"Cmd":null},"HostConfig":{"Binds":null},
            "NetworkSettings":{"Ports":{"80/tcp":null},"Networks":{"bridge":{"IPAddress":"172.17.0.2","IPPrefixLen":16}}}}"#;
        check(json, "{{.State.Status}}", Ok("running"));
        check(json, "{{if .State.Health}}x{{else}}none{{end}}", Ok("none"));
        check(json, "{{.State.Health}}", Ok("<nil>"));
        check(
            json,
            "{{.State.Health.Status}}",
            Err(
                "template parsing error: template: :1:8: executing \"\" at <.State.Health.Status>: map has no entry for key \"Health\"",
            ),
        );
        check(
            json,
            "{{len .HostConfig.Binds}} {{.Config.Cmd}}",
            Ok("0 []"),
        );
        check(
            json,
            "{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.IPPrefixLen}}",
            Ok("172.17.0.2/16"),
        );
        check(
            json,
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            Ok("172.17.0.2"),
        );
        check(
            json,
            "{{range $p, $c := .NetworkSettings.Ports}}{{$p}}={{$c}}{{end}}",
            Ok("80/tcp=[]"),
        );
        check(
            json,
            "{{index .Config.Labels \"a\"}}{{index .Config.Labels \"z\"}}",
            Ok("b"),
        );
        check(
            json,
            "{{json .Config}}",
            Ok(r#"{"Labels":{"a":"b"},"Cmd":null}"#),
        );
        check(
            json,
            "{{.Foo}}",
            Err(
                "template parsing error: template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
            ),
        );
    }
}
