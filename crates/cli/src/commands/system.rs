//! The daemon as a whole: version, info, events, system df, system prune.

use std::fmt::Write as _;

use api::types::{ContainersPruned, Event, Info, SystemVersion};

use super::logs::moment;
use super::{confirm, filters};
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::{ALL_IMAGES, Flag, UNASKED, filter, switch, text};
use crate::template::{MissingKey, Set, Template, Value};
use crate::{human, output};

const FORMAT: Flag = text("format", "Format: `json`, or a Go template").short('f');

/// `version`.
pub const VERSION: Command = Command {
    names: &["version"],
    usage: "[OPTIONS]",
    about: "Show the versions of the command line and of the daemon",
    flags: &[&[FORMAT]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(version(invocation)) as Run,
};

/// `info`.
pub const INFO: Command = Command {
    names: &["system info", "info"],
    usage: "[OPTIONS]",
    about: "Show facts about the daemon and its host",
    flags: &[&[FORMAT]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(info(invocation)) as Run,
};

/// `events`.
pub const EVENTS: Command = Command {
    names: &["system events", "events"],
    usage: "[OPTIONS]",
    about: "Show what happens, as it happens",
    flags: &[&[
        filter().short('f'),
        text("format", "Format: `json`, or a Go template"),
        text(
            "since",
            "Begin at a moment (2013-01-02T13:23:37Z) or so long ago (42m)",
        ),
        text("until", "End at a moment or after so long"),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(events(invocation)) as Run,
};

/// `system prune`.
pub const PRUNE: Command = Command {
    names: &["system prune"],
    usage: "[OPTIONS]",
    about: "Remove everything that is not used",
    flags: &[&[
        ALL_IMAGES,
        filter(),
        UNASKED,
        switch("volumes", "Anonymous volumes too"),
    ]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(prune(invocation)) as Run,
};

/// `container prune`.
pub const CONTAINER_PRUNE: Command = Command {
    names: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all containers that have stopped",
    flags: &[&[filter(), UNASKED]],
    words: (0, 0),
    stops: false,
    run: |invocation| Box::pin(container_prune(invocation)) as Run,
};

/// What one object is under `--format`: `json` or a template.
fn one(name: &str, format: &str, value: &Value) -> Result<String> {
    let text = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    let template = Template::parse(name, text)
        .map_err(|error| Failure::new(format!("template parsing error: {error}")).code(64))?;
    let mut out = template
        .execute(value, Set::Values, MissingKey::Error)
        .map_err(|error| Failure::new(error.to_string()))?;
    out.push('\n');
    Ok(out)
}

fn read_value(json: &[u8]) -> Result<Value> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(format!("understand the daemon's answer: {error}")))
}

/// What the command line says of itself.
fn client_facts(api: &str) -> serde_json::Value {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    serde_json::json!({
        "Platform": {"Name": ""},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api,
        "DefaultAPIVersion": api::version::NEWEST.to_string(),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "BuildTime": "",
        "Context": "default",
    })
}

async fn version(invocation: Invocation) -> Result<u8> {
    let format = invocation
        .typed
        .get("format")
        .filter(|format| !format.is_empty());
    let connected = invocation.session.client().await;
    let mut failure = None;
    let mut server = None;
    let mut api = api::version::NEWEST.to_string();
    match connected {
        Ok(client) => {
            api = client.version().to_string();
            server = Some(client.get("/version").bytes().await?);
        }
        Err(error) => failure = Some(error),
    }
    let facts = client_facts(&api);
    match format {
        Some(format) => {
            let mut client = Value::from(facts);
            client.add_hidden("APIVersion", Value::from(api.as_str()));
            let server = match &server {
                Some(server) => {
                    let mut value = read_value(server)?;
                    for (name, json) in [
                        ("APIVersion", "ApiVersion"),
                        ("MinAPIVersion", "MinAPIVersion"),
                    ] {
                        if value.find(name).is_none() {
                            let found =
                                value.find(json).cloned().unwrap_or_else(|| Value::from(""));
                            value.add_hidden(name, found);
                        }
                    }
                    value
                }
                None => Value::Nil,
            };
            let both = Value::row(
                "system.versionInfo",
                [("Client", client), ("Server", server)],
            );
            output::out(&one("version", format, &both)?)?;
        }
        None => {
            let mut text = format!(
                "Client:\n Version:           {}\n API version:       {api}\n OS/Arch:           linux/{}\n Context:           default\n",
                env!("CARGO_PKG_VERSION"),
                facts["Arch"].as_str().unwrap_or_default()
            );
            if let Some(server) = &server {
                let server: SystemVersion = vocab::config::read(server).map_err(|error| {
                    Failure::new(format!("understand the daemon's answer: {error}"))
                })?;
                text.push_str(&server_version(&server));
            }
            output::out(&text)?;
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

fn server_version(server: &SystemVersion) -> String {
    let mut out = String::new();
    let name = &server.platform.name;
    if name.is_empty() {
        out.push_str("\nServer:\n");
    } else {
        out.push_str(&format!("\nServer: {name}\n"));
    }
    let mut row = |key: &str, value: &str| {
        if !value.is_empty() {
            writeln!(out, "  {:<17} {value}", format!("{key}:"))
                .expect("writing to a string cannot fail");
        }
    };
    row("Engine", " ");
    row("Version", &server.version);
    row(
        "API version",
        &format!(
            "{} (minimum version {})",
            server.api_version, server.min_api_version
        ),
    );
    row("Go version", &server.go_version);
    row("Git commit", &server.git_commit);
    row("Built", &server.build_time);
    row("OS/Arch", &format!("{}/{}", server.os, server.arch));
    row("Kernel", &server.kernel_version);
    row(
        "Experimental",
        if server.experimental { "true" } else { "false" },
    );
    let mut out = out.replace("  Engine:            \n", " Engine:\n");
    for component in server.components.iter().filter(|c| c.name != "Engine") {
        let mut lines = format!(" {}:\n", component.name);
        writeln!(lines, "  {:<17} {}", "Version:", component.version)
            .expect("writing to a string cannot fail");
        for (key, value) in &component.details {
            writeln!(lines, "  {:<17} {value}", format!("{key}:"))
                .expect("writing to a string cannot fail");
        }
        out.push_str(&lines);
    }
    out
}

async fn info(invocation: Invocation) -> Result<u8> {
    let format = invocation
        .typed
        .get("format")
        .filter(|format| !format.is_empty());
    let version = env!("CARGO_PKG_VERSION");
    let head = format!(
        "Client:\n Version:    {version}\n Context:    default\n Debug Mode: false\n\nServer:\n"
    );
    let client = match invocation.session.client().await {
        Ok(client) => client,
        Err(failure) => {
            if format.is_none() {
                output::out(&head)?;
            }
            return Err(failure);
        }
    };
    let bytes = client.get("/info").bytes().await?;
    if let Some(format) = format {
        let mut value = read_value(&bytes)?;
        let client = serde_json::json!({
            "Debug": false, "Version": version, "DefaultAPIVersion": api::version::NEWEST.to_string(),
            "Os": "linux", "Arch": std::env::consts::ARCH, "Context": "default", "Plugins": [], "Warnings": null,
        });
        value.push("ClientInfo", Value::from(client));
        output::out(&one("", format, &value)?)?;
        return Ok(0);
    }
    let info: Info = vocab::config::read(&bytes)
        .map_err(|error| Failure::new(format!("understand the daemon's answer: {error}")))?;
    output::out(&format!("{head}{}", info_text(&info)))?;
    for warning in info.warnings.iter().flatten() {
        output::error(warning);
    }
    Ok(0)
}

fn info_text(info: &Info) -> String {
    let mut out = String::new();
    let mut row = |depth: usize, text: String| {
        writeln!(out, "{:depth$}{text}", "").expect("writing to a string cannot fail");
    };
    row(1, format!("Containers: {}", info.containers));
    row(2, format!("Running: {}", info.containers_running));
    row(2, format!("Paused: {}", info.containers_paused));
    row(2, format!("Stopped: {}", info.containers_stopped));
    row(1, format!("Images: {}", info.images));
    row(1, format!("Server Version: {}", info.server_version));
    row(1, format!("Storage Driver: {}", info.driver));
    for [key, value] in info.driver_status.iter().flatten() {
        row(2, format!("{key}: {value}"));
    }
    row(1, format!("Logging Driver: {}", info.logging_driver));
    row(1, format!("Cgroup Driver: {}", info.cgroup_driver));
    row(1, format!("Cgroup Version: {}", info.cgroup_version));
    row(1, "Plugins:".to_owned());
    row(2, format!("Volume: {}", info.plugins.volume.join(" ")));
    row(2, format!("Network: {}", info.plugins.network.join(" ")));
    row(2, format!("Log: {}", info.plugins.log.join(" ")));
    row(1, format!("Swarm: {}", info.swarm.local_node_state));
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    row(1, format!("Runtimes: {}", runtimes.join(" ")));
    row(1, format!("Default Runtime: {}", info.default_runtime));
    if !info.init_binary.is_empty() {
        row(1, format!("Init Binary: {}", info.init_binary));
    }
    if !info.security_options.is_empty() {
        row(1, "Security Options:".to_owned());
        for option in &info.security_options {
            for (index, part) in option.split(',').enumerate() {
                let (key, value) = part.split_once('=').unwrap_or(("", part));
                match (index, key) {
                    (0, "name" | "") => row(2, value.to_owned()),
                    (_, "profile") => row(3, format!("Profile: {value}")),
                    (_, key) => row(3, format!("{key}: {value}")),
                }
            }
        }
    }
    row(1, format!("Kernel Version: {}", info.kernel_version));
    row(1, format!("Operating System: {}", info.operating_system));
    row(1, format!("OSType: {}", info.os_type));
    row(1, format!("Architecture: {}", info.architecture));
    row(1, format!("CPUs: {}", info.ncpu));
    row(
        1,
        format!("Total Memory: {}", human::size_binary(info.mem_total)),
    );
    row(1, format!("Name: {}", info.name));
    row(1, format!("ID: {}", info.id));
    row(1, format!("Docker Root Dir: {}", info.docker_root_dir));
    row(1, format!("Debug Mode: {}", info.debug));
    for (name, value) in [
        ("HTTP Proxy", &info.http_proxy),
        ("HTTPS Proxy", &info.https_proxy),
        ("No Proxy", &info.no_proxy),
    ] {
        if !value.is_empty() {
            row(1, format!("{name}: {value}"));
        }
    }
    if !info.labels.is_empty() {
        row(1, "Labels:".to_owned());
        for label in &info.labels {
            row(2, label.clone());
        }
    }
    row(1, format!("Experimental: {}", info.experimental_build));
    if let Some(registry) = &info.registry_config {
        let insecure: Vec<&String> = registry
            .index_configs
            .iter()
            .filter(|(_, index)| !index.secure)
            .map(|(name, _)| name)
            .chain(&registry.insecure_registry_cidrs)
            .collect();
        if !insecure.is_empty() {
            row(1, "Insecure Registries:".to_owned());
            for name in insecure {
                row(2, name.clone());
            }
        }
        let mirrors = registry.mirrors.as_deref().unwrap_or_default();
        if !mirrors.is_empty() {
            row(1, "Registry Mirrors:".to_owned());
            for mirror in mirrors {
                row(2, mirror.clone());
            }
        }
    }
    row(
        1,
        format!("Live Restore Enabled: {}", info.live_restore_enabled),
    );
    if let Some(firewall) = &info.firewall_backend {
        row(1, format!("Firewall Backend: {}", firewall.driver));
    }
    out.push('\n');
    out
}

async fn events(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let since = moment(typed.get("since"))?;
    let until = moment(typed.get("until"))?;
    let template = match typed.get("format").filter(|format| !format.is_empty()) {
        None => None,
        Some(format) => {
            let text = if format == "json" {
                "{{json .}}"
            } else {
                format
            };
            let template = Template::parse("", text).map_err(|error| {
                Failure::new(format!(
                    "Error parsing format: template parsing error: {error}"
                ))
                .code(64)
            })?;
            Some(template)
        }
    };
    let client = invocation.session.client().await?;
    let mut answer = client
        .get("/events")
        .query_some("since", since)
        .query_some("until", until)
        .filters(&filters(typed))
        .send()
        .await?;
    // Whole lines, so that the daemon's own order of members is kept for templates.
    let mut pending: Vec<u8> = Vec::new();
    while let Some(piece) = answer.next().await {
        pending.extend_from_slice(&piece?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let text = match &template {
                None => {
                    let event: Event = vocab::config::read(&line)
                        .map_err(|error| Failure::new(format!("understand an event: {error}")))?;
                    event_line(&event)
                }
                Some(template) => {
                    let value = read_value(&line)?;
                    template
                        .execute(&value, Set::Values, MissingKey::NoValue)
                        .map_err(|error| Failure::new(error.to_string()))?
                }
            };
            output::line(text)?;
        }
    }
    Ok(0)
}

fn event_line(event: &Event) -> String {
    let nanoseconds = if event.time_nano == 0 {
        event.time.saturating_mul(1_000_000_000)
    } else {
        event.time_nano
    };
    let mut text = format!(
        "{} {} {} {}",
        human::moment_nine(nanoseconds),
        event.kind,
        event.action,
        event.actor.id
    );
    if !event.actor.attributes.is_empty() {
        let pairs: Vec<String> = event
            .actor
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        write!(text, " ({})", pairs.join(", ")).expect("writing to a string cannot fail");
    }
    text
}

async fn prune_containers(client: &api::Client, filters: &api::Filters) -> Result<(String, u64)> {
    let pruned: ContainersPruned = client
        .post("/containers/prune")
        .filters(filters)
        .read()
        .await?;
    let deleted = pruned.containers_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", deleted.join("\n"));
    }
    Ok((text, pruned.space_reclaimed))
}

async fn container_prune(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let warning = "WARNING! This will remove all stopped containers.";
    if !typed.on("force") && !confirm(warning).await? {
        return Ok(0);
    }
    let client = invocation.session.client().await?;
    let (text, reclaimed) = prune_containers(&client, &filters(typed)).await?;
    output::out(&text)?;
    output::line(format!(
        "Total reclaimed space: {}",
        human::size_four(reclaimed)
    ))?;
    Ok(0)
}

async fn prune(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let all = typed.on("all");
    let mut warning = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if typed.on("volumes") {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if all {
        "  - all images without at least one container associated to them\n  - all build cache\n"
    } else {
        "  - all dangling images\n  - unused build cache\n"
    });
    if !typed.on("force") && !confirm(&warning).await? {
        return Ok(0);
    }
    let client = invocation.session.client().await?;
    let filters = filters(typed);
    let (text, mut reclaimed) = prune_containers(&client, &filters).await?;
    output::out(&text)?;
    match super::network::prune_networks(&client, &filters).await {
        Ok(text) => output::out(&text)?,
        // A daemon without networks of the user's has none to prune.
        Err(failure) if failure.status == Some(501) => {}
        Err(failure) => return Err(failure),
    }
    if typed.on("volumes") {
        let (text, bytes) = super::volume::prune_volumes(&client, &filters).await?;
        output::out(&text)?;
        reclaimed += bytes;
    }
    let (text, bytes) = super::image::prune_images(&client, filters, all).await?;
    output::out(&text)?;
    reclaimed += bytes;
    output::line(format!(
        "Total reclaimed space: {}",
        human::size_four(reclaimed)
    ))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event: Event = serde_json::from_str(
            r#"{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"name":"web","image":"busybox"}},"timeNano":1700000000123456789}"#,
        )
        .unwrap();
        let line = event_line(&event);
        assert!(line.contains(":20.123456789"), "{line}");
        assert!(
            line.ends_with(" container start abc (image=busybox, name=web)"),
            "{line}"
        );
    }
}
