//! The scope `own-containers`: what was made on this socket, and no way from there to the host.
//!
//! Whatever is made carries [`OWNER_LABEL`], which only requests can set: the engine takes it from
//! no image. What does not carry it is as if it were not there. Requests are read, judged by an
//! allow-list of members, and written anew from what was read; names of containers become ids.

use api::Filters;
use api::types::{
    CreateRequest, ExecConfig, NetworkConnect, NetworkCreate, NetworkDisconnect, UpdateRequest,
    VolumeCreate,
};
use std::collections::BTreeMap;

use serde_json::Value;
use vocab::Kind;
use vocab::config::{EndpointSettings, HostConfig, Mount, OWNER_LABEL};

use super::Scope;
use crate::answer::Refusal;
use crate::call::Call;

/// What anybody may ask.
const HARMLESS: [&str; 4] = [
    "GET /info",
    "GET /images/json",
    "GET /images/{name}/json",
    "GET /images/{name}/history",
];
/// Lists, and what goes through one: the label is added to the filters.
const FILTERED: [&str; 6] = [
    "GET /containers/json",
    "GET /volumes",
    "GET /networks",
    "GET /networks/",
    "GET /events",
    "POST /containers/prune",
];
/// What is done to one's own container.
const OF_CONTAINERS: [&str; 20] = [
    "GET /containers/{id}/json",
    "GET /containers/{id}/top",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/export",
    "GET /containers/{id}/stats",
    "POST /containers/{id}/resize",
    "POST /containers/{id}/start",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/restart",
    "POST /containers/{id}/kill",
    "POST /containers/{id}/rename",
    "POST /containers/{id}/pause",
    "POST /containers/{id}/unpause",
    "POST /containers/{id}/attach",
    "GET /containers/{id}/attach/ws",
    "POST /containers/{id}/wait",
    "DELETE /containers/{id}",
    "HEAD /containers/{id}/archive",
    "GET /containers/{id}/archive",
];
const PUT_ARCHIVE: &str = "PUT /containers/{id}/archive";
const UPDATE: &str = "POST /containers/{id}/update";
const CREATE: &str = "POST /containers/create";
const CREATE_EXEC: &str = "POST /containers/{id}/exec";
const OF_EXECS: [&str; 3] = [
    "POST /exec/{id}/start",
    "POST /exec/{id}/resize",
    "GET /exec/{id}/json",
];
const OF_VOLUMES: [&str; 2] = ["GET /volumes/{name}", "DELETE /volumes/{name}"];
const OF_NETWORKS: [&str; 2] = ["GET /networks/{id}", "DELETE /networks/{id}"];
const CREATE_VOLUME: &str = "POST /volumes/create";
const CREATE_NETWORK: &str = "POST /networks/create";
const CONNECT: &str = "POST /networks/{id}/connect";
const DISCONNECT: &str = "POST /networks/{id}/disconnect";
const PULL: &str = "POST /images/create";

/// Members of HostConfig that concern the container alone, whatever they say.
const OF_ITS_OWN: [&str; 31] = [
    "AutoRemove",
    "BlkioWeight",
    "CapDrop",
    "ConsoleSize",
    "ContainerIDFile",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Init",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "NanoCpus",
    "PidsLimit",
    "PortBindings",
    "PublishAllPorts",
    "ReadonlyRootfs",
    "RestartPolicy",
    "ShmSize",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Ulimits",
];
/// Those that are looked at one by one.
const LOOKED_AT: [&str; 9] = [
    "Binds",
    "CgroupnsMode",
    "IpcMode",
    "LogConfig",
    "Mounts",
    "NetworkMode",
    "PidMode",
    "SecurityOpt",
    "VolumesFrom",
];
/// Members whose empty list says something: that nothing is masked.
const EMPTY_COUNTS: [&str; 2] = ["MaskedPaths", "ReadonlyPaths"];
/// Log drivers that write on this host, under the daemon's own root.
const LOCAL_LOGS: [&str; 4] = ["", "json-file", "local", "none"];

/// All that is allowed in some form.
#[cfg(test)]
pub(super) fn every_operation() -> impl Iterator<Item = &'static &'static str> {
    const ALONE: [&str; 9] = [
        PUT_ARCHIVE,
        UPDATE,
        CREATE,
        CREATE_EXEC,
        CREATE_VOLUME,
        CREATE_NETWORK,
        CONNECT,
        DISCONNECT,
        PULL,
    ];
    let lists = [
        ALONE.as_slice(),
        &HARMLESS,
        &FILTERED,
        &OF_CONTAINERS,
        &OF_EXECS,
        &OF_VOLUMES,
        &OF_NETWORKS,
    ];
    lists.into_iter().flatten()
}

fn forbidden(path: &str, why: &str) -> Refusal {
    Refusal::new(
        Kind::Forbidden,
        format!("{path}: not on a socket of the scope own-containers: {why}"),
    )
}

/// Refuses what is not the owner's.
pub(super) async fn admit(owner: &str, asked: &str, call: &mut Call) -> Result<(), Refusal> {
    let own = Own(owner);
    match asked {
        _ if HARMLESS.contains(&asked) => Ok(()),
        _ if FILTERED.contains(&asked) => own.filter(call),
        _ if OF_CONTAINERS.contains(&asked) || asked == PUT_ARCHIVE => {
            own.container_in_path(call).await
        }
        _ if OF_EXECS.contains(&asked) => own.exec(call).await,
        _ if OF_VOLUMES.contains(&asked) => own.volume(call, call.name()).await,
        _ if OF_NETWORKS.contains(&asked) => own.network(call, call.name()).await,
        CREATE => own.create(call).await,
        UPDATE => own.update(call).await,
        CREATE_EXEC => {
            own.container_in_path(call).await?;
            let request: ExecConfig = call.json().await?;
            if request.privileged {
                return Err(forbidden("Privileged", "it leads to the host"));
            }
            call.rewrite(&request)
        }
        CREATE_VOLUME => own.create_volume(call).await,
        CREATE_NETWORK => own.create_network(call).await,
        CONNECT => {
            own.network(call, call.name()).await?;
            let mut request: NetworkConnect = call.json().await?;
            request.container = own.container(call, &request.container).await?;
            check_endpoint("EndpointConfig", request.endpoint_config.as_ref())?;
            call.rewrite(&request)
        }
        DISCONNECT => {
            own.network(call, call.name()).await?;
            let mut request: NetworkDisconnect = call.json().await?;
            request.container = own.container(call, &request.container).await?;
            call.rewrite(&request)
        }
        PULL if call.query.said("fromSrc").is_none() => Ok(()),
        _ => Err(Scope::OwnContainers(String::new()).refuse(asked)),
    }
}

/// What one owner has.
struct Own<'o>(&'o str);

impl Own<'_> {
    fn has(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        labels
            .and_then(|labels| labels.get(OWNER_LABEL))
            .is_some_and(|owner| owner == self.0)
    }

    /// Adds the label to the filters of a list.
    fn filter(&self, call: &mut Call) -> Result<(), Refusal> {
        let mut filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
        filters.add("label", format!("{OWNER_LABEL}={}", self.0));
        call.query.set("filters", filters.to_query());
        Ok(())
    }

    /// The full id of a container of the owner's.
    async fn container(&self, call: &Call, typed: &str) -> Result<String, Refusal> {
        let unknown = || {
            let name = typed.strip_prefix('/').unwrap_or(typed);
            Refusal::new(Kind::NotFound, format!("No such container: {name}"))
        };
        // What the daemon would say of others' containers is not for this client.
        let found = call
            .engine()
            .inspect(typed, false)
            .await
            .map_err(|_| unknown())?;
        if self.has(found.config.labels.as_ref()) {
            Ok(found.id.to_string())
        } else {
            Err(unknown())
        }
    }

    /// The same for the name in the path, which becomes the id: a name may be another's a moment
    /// later.
    async fn container_in_path(&self, call: &mut Call) -> Result<(), Refusal> {
        let id = self.container(call, call.name()).await?;
        call.names.first = id;
        Ok(())
    }

    async fn exec(&self, call: &Call) -> Result<(), Refusal> {
        let typed = call.name();
        let unknown = || Refusal::new(Kind::NotFound, format!("No such exec instance: {typed}"));
        let found = call
            .engine()
            .inspect_exec(typed)
            .await
            .map_err(|_| unknown())?;
        let container = found.container.to_string();
        self.container(call, &container)
            .await
            .map_err(|_| unknown())?;
        Ok(())
    }

    async fn volume(&self, call: &Call, name: &str) -> Result<(), Refusal> {
        match call.engine().inspect_volume(name).await {
            Ok(volume) if self.has(volume.labels.as_ref()) => Ok(()),
            _ => Err(Refusal::new(
                Kind::NotFound,
                format!("get {name}: no such volume"),
            )),
        }
    }

    async fn network(&self, call: &Call, name: &str) -> Result<(), Refusal> {
        match call.engine().inspect_network(name).await {
            Ok(network) if self.has(Some(&network.labels)) => Ok(()),
            _ => Err(Refusal::new(
                Kind::NotFound,
                format!("network {name} not found"),
            )),
        }
    }

    async fn create(&self, call: &mut Call) -> Result<(), Refusal> {
        let mut request: CreateRequest = call.json().await?;
        let labels = request.config.labels.get_or_insert_default();
        self.mark("Labels", labels)?;
        let host = &mut request.host_config;
        check_members(host)?;
        if !["", "private"].contains(&host.cgroupns_mode.as_str()) {
            return Err(forbidden(
                "HostConfig.CgroupnsMode",
                "only private is its own",
            ));
        }
        if !LOCAL_LOGS.contains(&host.log_config.kind.as_str()) {
            return Err(forbidden(
                "HostConfig.LogConfig.Type",
                "it speaks to others",
            ));
        }
        let options = host.security_opt.iter().flatten();
        for option in options {
            let plain = option.replace('=', ":");
            if !["no-new-privileges", "no-new-privileges:true"].contains(&plain.as_str()) {
                return Err(forbidden(
                    "HostConfig.SecurityOpt",
                    "only no-new-privileges is fine",
                ));
            }
        }
        self.join("HostConfig.PidMode", call, &mut host.pid_mode, &[""])
            .await?;
        let own_ipc = ["", "private", "shareable", "none"];
        self.join("HostConfig.IpcMode", call, &mut host.ipc_mode, &own_ipc)
            .await?;
        self.join_network(call, &mut host.network_mode).await?;
        for from in host.volumes_from.iter_mut().flatten() {
            let (name, mode) = from
                .split_once(':')
                .map_or((from.as_str(), None), |(n, m)| (n, Some(m)));
            let id = self.container(call, name).await?;
            *from = mode.map_or_else(|| id.clone(), |mode| format!("{id}:{mode}"));
        }
        for bind in host.binds.iter().flatten() {
            // A path alone is a volume without a name.
            if let Some((source, _)) = bind.split_once(':') {
                self.mountable("HostConfig.Binds", call, source).await?;
            }
        }
        for (at, mount) in host.mounts.iter().flatten().enumerate() {
            self.check_mount(&format!("HostConfig.Mounts[{at}]"), call, mount)
                .await?;
        }
        for (name, endpoint) in request.networking_config.endpoints_config.iter().flatten() {
            if !["default", "bridge", "none"].contains(&name.as_str()) {
                self.network(call, name).await?;
            }
            check_endpoint("NetworkingConfig.EndpointsConfig", endpoint.as_ref())?;
        }
        call.rewrite(&request)
    }

    /// Puts the owner's label on what is made.
    fn mark(&self, path: &str, labels: &mut BTreeMap<String, String>) -> Result<(), Refusal> {
        match labels.insert(OWNER_LABEL.to_owned(), self.0.to_owned()) {
            Some(other) if other != self.0 => Err(forbidden(path, "it names another owner")),
            _ => Ok(()),
        }
    }

    /// A namespace is its own or that of a container of the owner's.
    async fn join(
        &self,
        path: &str,
        call: &Call,
        mode: &mut String,
        fine: &[&str],
    ) -> Result<(), Refusal> {
        if let Some(name) = mode.strip_prefix("container:") {
            *mode = format!("container:{}", self.container(call, name).await?);
            return Ok(());
        }
        if fine.contains(&mode.as_str()) {
            return Ok(());
        }
        Err(forbidden(
            path,
            "it is not the container's own, nor that of one of yours",
        ))
    }

    async fn join_network(&self, call: &Call, mode: &mut String) -> Result<(), Refusal> {
        let predefined = ["", "default", "bridge", "none"];
        if mode == "host" || mode.starts_with("container:") || predefined.contains(&mode.as_str()) {
            return self
                .join("HostConfig.NetworkMode", call, mode, &predefined)
                .await;
        }
        self.network(call, mode).await
    }

    /// What is mounted by name is a volume of the owner's that is there already: one that is made
    /// by being named would be nobody's.
    async fn mountable(&self, path: &str, call: &Call, source: &str) -> Result<(), Refusal> {
        if source.is_empty() || source.starts_with(['/', '.', '~']) {
            return Err(forbidden(path, "a path of the host"));
        }
        self.volume(call, source).await.map_err(|_| {
            forbidden(
                path,
                &format!("`{source}` is no volume of yours; create it first"),
            )
        })
    }

    async fn check_mount(&self, path: &str, call: &Call, mount: &Mount) -> Result<(), Refusal> {
        match mount.kind.as_str() {
            "tmpfs" => Ok(()),
            "volume" => {
                let options = mount.volume_options.as_ref();
                if options.is_some_and(|options| {
                    options.driver_config.as_ref().is_some_and(|driver| {
                        driver
                            .options
                            .as_ref()
                            .is_some_and(|options| !options.is_empty())
                            || !["", "local"].contains(&driver.name.as_str())
                    })
                }) {
                    let path = format!("{path}.VolumeOptions.DriverConfig");
                    return Err(forbidden(
                        &path,
                        "a driver's options can name paths of the host",
                    ));
                }
                if mount.source.is_empty() {
                    return Ok(());
                }
                self.mountable(&format!("{path}.Source"), call, &mount.source)
                    .await
            }
            _ => Err(forbidden(
                &format!("{path}.Type"),
                "only volume and tmpfs are fine",
            )),
        }
    }

    async fn update(&self, call: &mut Call) -> Result<(), Refusal> {
        self.container_in_path(call).await?;
        let request: UpdateRequest = call.json().await?;
        let written = serde_json::to_value(&request).unwrap_or_default();
        let unset = serde_json::to_value(UpdateRequest::default()).unwrap_or_default();
        check_against("", &written, &unset, &OF_ITS_OWN)?;
        call.rewrite(&request)
    }

    async fn create_volume(&self, call: &mut Call) -> Result<(), Refusal> {
        let mut request: VolumeCreate = call.json().await?;
        if request
            .driver_opts
            .as_ref()
            .is_some_and(|options| !options.is_empty())
        {
            return Err(forbidden("DriverOpts", "they can name paths of the host"));
        }
        if !["", "local"].contains(&request.driver.as_str()) {
            return Err(forbidden("Driver", "only local is fine"));
        }
        // Creating what exists answers with it, whoever's it is.
        if !request.name.is_empty() && call.engine().inspect_volume(&request.name).await.is_ok() {
            self.volume(call, &request.name).await.map_err(|_| {
                let text = format!("a volume named {} is another's", request.name);
                Refusal::new(Kind::Conflict, text)
            })?;
        }
        self.mark("Labels", request.labels.get_or_insert_default())?;
        call.rewrite(&request)
    }

    async fn create_network(&self, call: &mut Call) -> Result<(), Refusal> {
        let mut request: NetworkCreate = call.json().await?;
        if !["", "default", "bridge"].contains(&request.driver.as_str()) {
            return Err(forbidden("Driver", "only bridge is fine"));
        }
        if request
            .options
            .as_ref()
            .is_some_and(|options| !options.is_empty())
        {
            return Err(forbidden("Options", "they can name links of the host"));
        }
        let ipam = serde_json::to_value(&request.ipam).unwrap_or_default();
        if ipam["Config"]
            .as_array()
            .is_some_and(|pools| !pools.is_empty())
        {
            return Err(forbidden(
                "IPAM.Config",
                "a range can take the host's own routes over",
            ));
        }
        self.mark("Labels", request.labels.get_or_insert_default())?;
        call.rewrite(&request)
    }
}

fn check_endpoint(path: &str, endpoint: Option<&EndpointSettings>) -> Result<(), Refusal> {
    let Some(endpoint) = endpoint else {
        return Ok(());
    };
    let empty = endpoint.links.as_ref().is_none_or(Vec::is_empty)
        && endpoint
            .driver_opts
            .as_ref()
            .is_none_or(|options| options.is_empty());
    if empty {
        Ok(())
    } else {
        Err(forbidden(path, "links and driver options reach others"))
    }
}

/// Members of HostConfig that lead to the host or to others' containers must not be set; those
/// that nobody has looked at yet are among them.
fn check_members(host: &HostConfig) -> Result<(), Refusal> {
    let written = serde_json::to_value(host).unwrap_or_default();
    let unset = serde_json::to_value(HostConfig::default()).unwrap_or_default();
    let known: Vec<&str> = OF_ITS_OWN.iter().chain(&LOOKED_AT).copied().collect();
    check_against("HostConfig.", &written, &unset, &known)
}

fn check_against(
    path: &str,
    written: &Value,
    unset: &Value,
    known: &[&str],
) -> Result<(), Refusal> {
    for (member, value) in written.as_object().into_iter().flatten() {
        let says_nothing =
            value == &unset[member] || !EMPTY_COUNTS.contains(&member.as_str()) && is_empty(value);
        if !says_nothing && !known.contains(&member.as_str()) {
            return Err(forbidden(
                &format!("{path}{member}"),
                "it leads to the host or to others' containers",
            ));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Number(_) | Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a member must be set to for it to say something.
    fn something(unset: &Value, member: &str) -> Value {
        match (unset, member) {
            (Value::Bool(_), _) => Value::Bool(true),
            (Value::Number(_), _) => Value::from(1),
            (Value::String(_), _) => Value::from("host"),
            (_, "OomKillDisable") => Value::Bool(true),
            (_, "Devices") => serde_json::json!([{"PathOnHost": "/dev/sda"}]),
            (_, "DeviceRequests") => serde_json::json!([{"Count": -1}]),
            (_, "DeviceCgroupRules" | "CapAdd" | "Links") => serde_json::json!(["a"]),
            (_, "MaskedPaths" | "ReadonlyPaths") => serde_json::json!([]),
            _ => Value::Null,
        }
    }

    #[test]
    fn members_that_lead_to_the_host_are_refused_and_so_are_those_nobody_knows() {
        let unset = serde_json::to_value(HostConfig::default()).unwrap();
        let mut refused = Vec::new();
        for (member, value) in unset.as_object().unwrap() {
            let mut written = unset.clone();
            written[member] = something(value, member);
            let Ok(host) = serde_json::from_value::<HostConfig>(written) else {
                continue;
            };
            if check_members(&host).is_err() {
                refused.push(member.as_str());
            }
        }
        for member in [
            "Privileged",
            "CapAdd",
            "Devices",
            "DeviceCgroupRules",
            "DeviceRequests",
            "CgroupParent",
            "UTSMode",
            "UsernsMode",
            "Runtime",
            "OomScoreAdj",
            "OomKillDisable",
            "Links",
            "MaskedPaths",
            "ReadonlyPaths",
            "Cgroup",
        ] {
            assert!(refused.contains(&member), "{member} of {refused:?}");
        }
        for member in OF_ITS_OWN.iter().chain(&LOOKED_AT) {
            assert!(!refused.contains(member), "{member}");
        }
        assert!(check_members(&HostConfig::default()).is_ok());
        let written = serde_json::json!({"New": 1});
        assert!(check_against("", &written, &unset, &OF_ITS_OWN).is_err());
    }
}
