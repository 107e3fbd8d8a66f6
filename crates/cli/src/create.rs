//! The flags of `run` and `create`, and what they ask the API for.

use std::collections::BTreeMap;
use std::path::Path;

use api::types::CreateRequest;
use vocab::config::{
    ContainerConfig, DeviceRequest, EndpointSettings, Healthcheck, HostConfig, LogConfig,
    NetworkingConfig, Resources,
};

use crate::flags::{self, Flag, Kind, Typed, many, many_checked, many_of, on, switch, text};
use crate::grammar::{devices, limits, mounts, networks, pairs, ports};

/// Flags that `run` and `create` share.
pub const FLAGS: &[Flag] = &[
    many_checked(
        "add-host",
        "list",
        pairs::check_host,
        "Add a line to /etc/hosts: `host:address`, or `host:host-gateway`",
    ),
    many_of("annotation", "map", "Annotation for the OCI runtime").default("map[]"),
    many_checked(
        "attach",
        "list",
        limits::check_stream,
        "Attach to stdin, stdout or stderr",
    )
    .short('a'),
    many_checked(
        "blkio-weight-device",
        "list",
        devices::check_weight,
        "The same for one device: `/dev/sda:100`",
    )
    .default("[]"),
    many("cap-add", "Add a Linux capability"),
    many("cap-drop", "Take a Linux capability away"),
    text("cgroup-parent", "Cgroup that the container's is made in"),
    text("cgroupns", "Cgroup namespace: host or private"),
    text("cidfile", "Write the container's id to this file"),
    many(
        "device",
        "Give it a device of the host: `/dev/x[:/dev/y][:rwm]`, or a CDI name",
    ),
    many_checked(
        "device-cgroup-rule",
        "list",
        devices::check_rule,
        "Rule for devices: `c 1:3 rwm`",
    ),
    many_checked(
        "device-read-bps",
        "list",
        devices::check_bytes_rate,
        "Limit reading from a device: `/dev/sda:1mb` a second",
    )
    .default("[]"),
    many_checked(
        "device-read-iops",
        "list",
        devices::check_operations_rate,
        "Limit reads from a device a second",
    )
    .default("[]"),
    many_checked(
        "device-write-bps",
        "list",
        devices::check_bytes_rate,
        "Limit writing to a device",
    )
    .default("[]"),
    many_checked(
        "device-write-iops",
        "list",
        devices::check_operations_rate,
        "Limit writes to a device a second",
    )
    .default("[]"),
    many_checked("dns", "list", pairs::check_address, "DNS server"),
    many("dns-option", "Option for resolv.conf"),
    many("dns-opt", ""),
    many("dns-search", "Domain that names are searched in"),
    text("domainname", "NIS domain name"),
    text("entrypoint", "Run this in place of the image's entry point"),
    many_checked(
        "env",
        "list",
        pairs::check_variable,
        "Set a variable; `NAME` alone takes the caller's",
    )
    .short('e'),
    many("env-file", "Set the variables of a file"),
    many("expose", "Tell that a port or a range of ports is served"),
    many_checked(
        "gpus",
        "gpu-request",
        devices::check_gpus,
        "Give it GPUs: `all`, a number, or `driver=…,device=…`",
    ),
    many("group-add", "Supplementary group"),
    text("health-cmd", "Command that checks health"),
    flags::duration("health-interval", "Time between checks").default("0s"),
    flags::integer("health-retries", "Failures in a row that make it unhealthy"),
    flags::duration(
        "health-start-interval",
        "Time between checks while it starts",
    )
    .default("0s"),
    flags::duration(
        "health-start-period",
        "Time to start, in which failures do not count",
    )
    .default("0s"),
    flags::duration("health-timeout", "Longest time of one check").default("0s"),
    text("hostname", "Host name").short('h'),
    switch(
        "init",
        "Run a small init that reaps processes and forwards signals",
    ),
    switch("interactive", "Keep stdin open even if nobody is attached").short('i'),
    text("ip", "IPv4 address on its network"),
    text("ip6", "IPv6 address on its network"),
    text(
        "ipc",
        "IPC namespace: none, private, shareable, host or container:NAME",
    ),
    text("isolation", ""),
    flags::integer("cpu-count", ""),
    flags::integer("cpu-percent", ""),
    flags::bytes("io-maxbandwidth", ""),
    text("io-maxiops", ""),
    flags::bytes("kernel-memory", ""),
    many_checked("label", "list", pairs::check_label, "Label it: `key=value`").short('l'),
    many("label-file", "Labels of a file, one on each line"),
    many_checked(
        "link",
        "list",
        pairs::check_link,
        "Link to another container (legacy)",
    ),
    many("link-local-ip", "Link-local address"),
    text("log-driver", "How its output is logged"),
    many("log-opt", "Option of the log driver"),
    text("mac-address", "MAC address"),
    flags::integer("memory-swappiness", "How readily it is swapped, 0 to 100").default("-1"),
    many_checked(
        "mount",
        "mount",
        mounts::check,
        "Mount something: `type=bind,source=…,target=…`",
    ),
    text("name", "Name it"),
    many_checked(
        "network",
        "network",
        networks::check,
        "Network to join, or none, host, container:NAME",
    ),
    many_checked("net", "network", networks::check, ""),
    many("network-alias", "Further name on its network"),
    many("net-alias", ""),
    switch(
        "no-healthcheck",
        "Do not check health, whatever the image says",
    ),
    switch("oom-kill-disable", "Do not kill it when memory runs out"),
    flags::integer(
        "oom-score-adj",
        "How readily the host kills it when memory runs out, -1000 to 1000",
    ),
    text("pid", "PID namespace: host or container:NAME"),
    text("platform", "Platform of the image: `os[/arch[/variant]]`"),
    switch(
        "privileged",
        "All capabilities and devices, and no confinement",
    ),
    many("publish", "Publish a port: `[[ip:]host:]port[/tcp]`").short('p'),
    switch(
        "publish-all",
        "Publish every exposed port on a free port of the host",
    )
    .short('P'),
    text("pull", "When to pull the image: always, missing or never").default("\"missing\""),
    switch("quiet", "Do not show how the pull goes").short('q'),
    switch("read-only", "Make the root file system read-only"),
    text(
        "restart",
        "What to do when it exits: no, on-failure[:N], always, unless-stopped",
    )
    .default("\"no\""),
    switch("rm", "Remove it and its anonymous volumes when it exits"),
    text("runtime", "OCI runtime"),
    many(
        "security-opt",
        "Security option: seccomp=, apparmor=, label=, no-new-privileges, systempaths=unconfined",
    ),
    flags::bytes("shm-size", "Size of /dev/shm"),
    text("stop-signal", "Signal that asks it to stop"),
    flags::integer(
        "stop-timeout",
        "Seconds until it is killed when it does not stop",
    ),
    many("storage-opt", "Option of the storage driver"),
    many_checked(
        "sysctl",
        "map",
        pairs::check_sysctl,
        "Kernel parameter of its namespaces",
    )
    .default("map[]"),
    many("tmpfs", "Mount a tmpfs: `/path[:options]`"),
    switch("tty", "Give it a terminal").short('t'),
    many_checked(
        "ulimit",
        "ulimit",
        limits::check_ulimit,
        "Resource limit: `nofile=1024[:2048]`",
    )
    .default("[]"),
    switch(
        "use-api-socket",
        "Mount the daemon's socket and the registry credentials",
    ),
    text("user", "User: `name|uid[:group|gid]`").short('u'),
    text("userns", "User namespace: host"),
    text("uts", "UTS namespace: host"),
    many(
        "volume",
        "Mount a directory or a volume: `source:/path[:ro]`",
    )
    .short('v'),
    text("volume-driver", "Driver of its volumes"),
    many("volumes-from", "Mount what another container mounts").default(""),
    text("workdir", "Working directory").short('w'),
    on("disable-content-trust", ""),
    switch("help", ""),
];

/// Flags for the limits of a container, which `update` can change too.
pub const LIMITS: &[Flag] = &[
    unsigned16(
        "blkio-weight",
        "Relative weight of block I/O, 10 to 1000, or 0 for none",
    )
    .default("0"),
    flags::integer("cpu-period", "CFS period in microseconds"),
    flags::integer("cpu-quota", "CFS quota in microseconds"),
    flags::integer("cpu-rt-period", "Real-time period in microseconds"),
    flags::integer("cpu-rt-runtime", "Real-time budget in microseconds"),
    flags::integer("cpu-shares", "Relative weight of CPU time").short('c'),
    flags::checked(
        "cpus",
        "decimal",
        limits::check_cpus,
        "How many CPUs it may use: `1.5`",
    ),
    text("cpuset-cpus", "CPUs it may run on: `0-3,5`"),
    text("cpuset-mems", "Memory nodes it may use: `0-1`"),
    flags::bytes("memory", "Limit of memory").short('m'),
    flags::bytes("memory-reservation", "Soft limit of memory"),
    flags::checked(
        "memory-swap",
        "bytes",
        limits::check_swap,
        "Limit of memory and swap together; -1 for none",
    ),
    flags::integer("pids-limit", "Limit of processes; -1 for none"),
];

const fn unsigned16(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind: Kind::Unsigned(16),
        help,
        default: "",
    }
}

/// Reads `--network` and its older name.
fn networks_typed(typed: &Typed) -> Result<Vec<networks::Attachment>, String> {
    typed
        .all("network")
        .chain(typed.all("net"))
        .map(networks::attachment)
        .collect()
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

fn some_map(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

/// What the flags ask for. `here` is where relative paths begin.
pub fn request(
    typed: &Typed,
    image: &str,
    command: &[String],
    here: &Path,
) -> Result<CreateRequest, String> {
    refuse_what_only_windows_has(typed)?;
    if typed.on("use-api-socket") {
        return Err("berth does not do --use-api-socket yet: mount the socket with -v".to_owned());
    }
    let swappiness = typed.integer("memory-swappiness").unwrap_or(-1);
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        ));
    }
    let (binds, volumes) = mounts::volumes(typed.all("volume"), here)?;
    let mounts = typed
        .all("mount")
        .map(|spec| mounts::mount(spec, here))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut exposed, bindings) = ports::publish(typed.all("publish"))?;
    ports::expose(typed.all("expose"), &mut exposed)?;

    let mut env = Vec::new();
    for path in typed.all("env-file") {
        env.extend(pairs::file(path, true)?);
    }
    env.extend(typed.all("env").map(pairs::variable));
    let mut labels = Vec::new();
    for path in typed.all("label-file") {
        labels.extend(pairs::file(path, false)?);
    }
    labels.extend(typed.list("label"));

    check_modes(typed)?;
    let restart = limits::restart(typed.text("restart"))?;
    if typed.on("rm") && !matches!(restart.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let attached = Attached::read(typed)?;
    let interactive = typed.on("interactive");
    let config = ContainerConfig {
        hostname: typed.text("hostname").to_owned(),
        domainname: typed.text("domainname").to_owned(),
        user: typed.text("user").to_owned(),
        attach_stdin: attached.stdin,
        attach_stdout: attached.stdout,
        attach_stderr: attached.stderr,
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        tty: typed.on("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attached.stdin,
        env: some(env),
        cmd: some(command.to_vec()),
        healthcheck: healthcheck(typed)?,
        image: image.to_owned(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: typed.text("workdir").to_owned(),
        // An empty entry point takes the image's away.
        entrypoint: typed.get("entrypoint").map(|entry| vec![entry.to_owned()]),
        labels: some_map(pairs::map(labels.iter().map(String::as_str))),
        stop_signal: typed.text("stop-signal").to_owned(),
        stop_timeout: typed.integer("stop-timeout"),
        ..ContainerConfig::default()
    };
    let security = Security::read(typed)?;
    let networks = networks_typed(typed)?;
    let host_config = HostConfig {
        binds: some(binds),
        container_id_file: typed.text("cidfile").to_owned(),
        log_config: log_config(typed)?,
        network_mode: networks
            .first()
            .map_or_else(|| "default".to_owned(), |first| first.target.clone()),
        port_bindings: (!bindings.is_empty()).then_some(bindings),
        restart_policy: restart,
        auto_remove: typed.on("rm"),
        volume_driver: typed.text("volume-driver").to_owned(),
        volumes_from: some(typed.list("volumes-from")),
        console_size: [0, 0],
        annotations: some_map(pairs::map(typed.all("annotation"))),
        cap_add: some(typed.list("cap-add")),
        cap_drop: some(typed.list("cap-drop")),
        cgroupns_mode: typed.text("cgroupns").to_owned(),
        dns: Some(typed.all("dns").map(|a| a.trim().to_owned()).collect()),
        dns_options: Some(
            typed
                .all("dns-option")
                .chain(typed.all("dns-opt"))
                .map(str::to_owned)
                .collect(),
        ),
        dns_search: Some(typed.list("dns-search")),
        extra_hosts: some(
            typed
                .all("add-host")
                .map(pairs::host)
                .collect::<Result<_, _>>()?,
        ),
        group_add: some(typed.list("group-add")),
        ipc_mode: typed.text("ipc").to_owned(),
        links: some(typed.list("link")),
        oom_score_adj: i32::try_from(typed.integer("oom-score-adj").unwrap_or(0))
            .map_err(|_| "--oom-score-adj is out of range".to_owned())?,
        pid_mode: typed.text("pid").to_owned(),
        privileged: typed.on("privileged"),
        publish_all_ports: typed.on("publish-all"),
        readonly_rootfs: typed.on("read-only"),
        security_opt: some(security.options),
        storage_opt: storage_options(typed)?,
        tmpfs: tmpfs(typed),
        uts_mode: typed.text("uts").to_owned(),
        userns_mode: typed.text("userns").to_owned(),
        shm_size: typed.bytes("shm-size").unwrap_or(0),
        sysctls: some_map(pairs::map(typed.all("sysctl"))),
        runtime: typed.text("runtime").to_owned(),
        resources: resources(typed, swappiness)?,
        mounts: (!mounts.is_empty()).then_some(mounts),
        masked_paths: security.unconfined_paths.then(Vec::new),
        readonly_paths: security.unconfined_paths.then(Vec::new),
        init: typed.has("init").then(|| typed.on("init")),
        ..HostConfig::default()
    };
    Ok(CreateRequest {
        config,
        host_config,
        networking_config: networking(typed, networks)?,
    })
}

/// Flags that mean something only to Windows containers.
fn refuse_what_only_windows_has(typed: &Typed) -> Result<(), String> {
    for name in ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"] {
        if typed.has(name) {
            return Err(format!(
                "--{name} limits Windows containers only; here there are --cpus, --device-read-bps and --device-read-iops"
            ));
        }
    }
    match typed.text("isolation") {
        "" | "default" => Ok(()),
        other => Err(format!(
            "--isolation={other} is for Windows containers; on Linux only `default` is valid"
        )),
    }
}

fn check_modes(typed: &Typed) -> Result<(), String> {
    let pid = typed.text("pid");
    if !matches!(pid, "" | "host" | "private")
        && pid.strip_prefix("container:").is_none_or(str::is_empty)
    {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !matches!(typed.text("uts"), "" | "host" | "private") {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    if !matches!(typed.text("userns"), "" | "host" | "private") {
        return Err("--userns: invalid USER mode".to_owned());
    }
    if !matches!(typed.text("cgroupns"), "" | "host" | "private") {
        return Err("--cgroupns: invalid CGROUP mode".to_owned());
    }
    let mac = typed.text("mac-address");
    if !mac.is_empty() && !networks::is_mac(mac.trim()) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    Ok(())
}

/// Which streams the client attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Attached {
    /// As `-a`, `-i` and `-d` say.
    pub fn read(typed: &Typed) -> Result<Self, String> {
        let named = |name: &str| {
            typed
                .all("attach")
                .any(|given| given.eq_ignore_ascii_case(name))
        };
        if typed.on("detach") {
            if typed.has("attach") {
                return Err(
                    "conflicting options: cannot specify both --attach and --detach".to_owned(),
                );
            }
            return Ok(Self {
                stdin: false,
                stdout: false,
                stderr: false,
            });
        }
        if typed.has("attach") {
            return Ok(Self {
                stdin: named("stdin"),
                stdout: named("stdout"),
                stderr: named("stderr"),
            });
        }
        Ok(Self {
            stdin: typed.on("interactive"),
            stdout: true,
            stderr: true,
        })
    }
}

fn healthcheck(typed: &Typed) -> Result<Option<Healthcheck>, String> {
    const FLAGS: [&str; 6] = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
        "health-retries",
    ];
    let given = FLAGS.iter().any(|name| typed.has(name));
    if typed.on("no-healthcheck") {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(Healthcheck {
            test: Some(vec!["NONE".to_owned()]),
            ..Healthcheck::default()
        }));
    }
    if !given {
        return Ok(None);
    }
    let duration = |name: &str| {
        let value = typed.duration(name).unwrap_or(0);
        if value < 0 {
            Err(format!("--{name} cannot be negative"))
        } else {
            Ok(value)
        }
    };
    let retries = typed.integer("health-retries").unwrap_or(0);
    if retries < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    let command = typed.text("health-cmd");
    Ok(Some(Healthcheck {
        test: (!command.is_empty()).then(|| vec!["CMD-SHELL".to_owned(), command.to_owned()]),
        interval: duration("health-interval")?,
        timeout: duration("health-timeout")?,
        start_period: duration("health-start-period")?,
        start_interval: duration("health-start-interval")?,
        retries,
    }))
}

fn log_config(typed: &Typed) -> Result<LogConfig, String> {
    let driver = typed.text("log-driver");
    if driver == "none" && typed.has("log-opt") {
        return Err("invalid logging opts for driver none".to_owned());
    }
    Ok(LogConfig {
        kind: driver.to_owned(),
        config: Some(pairs::map(typed.all("log-opt"))),
    })
}

fn storage_options(typed: &Typed) -> Result<Option<BTreeMap<String, String>>, String> {
    if typed.all("storage-opt").any(|pair| !pair.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    Ok(some_map(pairs::map(typed.all("storage-opt"))))
}

fn tmpfs(typed: &Typed) -> Option<BTreeMap<String, String>> {
    let mounts = typed.all("tmpfs").map(|spec| {
        let (path, options) = spec.split_once(':').unwrap_or((spec, ""));
        (path.to_owned(), options.to_owned())
    });
    some_map(mounts.collect())
}

struct Security {
    options: Vec<String>,
    unconfined_paths: bool,
}

impl Security {
    fn read(typed: &Typed) -> Result<Self, String> {
        let mut security = Self {
            options: Vec::new(),
            unconfined_paths: false,
        };
        for option in typed.all("security-opt") {
            if option == "systempaths=unconfined" {
                security.unconfined_paths = true;
                continue;
            }
            let pair = option.split_once('=').or_else(|| option.split_once(':'));
            match pair {
                None if option != "no-new-privileges" => {
                    return Err(format!("Invalid --security-opt: \"{option}\""));
                }
                Some(("seccomp", profile)) if !matches!(profile, "unconfined" | "builtin") => {
                    let text = std::fs::read(profile).map_err(|error| {
                        format!(
                            "opening seccomp profile ({profile}) failed: open {profile}: {}",
                            pairs::reason(&error)
                        )
                    })?;
                    let json: Box<serde_json::value::RawValue> = serde_json::from_slice(&text)
                        .map_err(|error| {
                            format!(
                                "compacting json for seccomp profile ({profile}) failed: {error}"
                            )
                        })?;
                    security
                        .options
                        .push(format!("seccomp={}", compact(json.get())));
                }
                _ => security.options.push(option.to_owned()),
            }
        }
        Ok(security)
    }
}

/// JSON without the space between its parts, members in their order.
fn compact(json: &str) -> String {
    let mut quoted = false;
    let mut escaped = false;
    json.chars()
        .filter(|c| {
            if quoted {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => quoted = false,
                    _ => {}
                }
                return true;
            }
            quoted = *c == '"';
            !c.is_ascii_whitespace()
        })
        .collect()
}

fn resources(typed: &Typed, swappiness: i64) -> Result<Resources, String> {
    let integer = |name: &str| typed.integer(name).unwrap_or(0);
    let rates = |name: &str, read: fn(&str) -> Result<vocab::config::ThrottleDevice, String>| {
        typed
            .all(name)
            .map(read)
            .collect::<Result<Vec<_>, _>>()
            .map(|rates| (!rates.is_empty()).then_some(rates))
    };
    let mut nodes = Vec::new();
    let mut cdi = Vec::new();
    for spec in typed.all("device") {
        match devices::device(spec)? {
            devices::Device::Node(node) => nodes.push(node),
            devices::Device::Cdi(name) => cdi.push(name),
        }
    }
    let mut requests = typed
        .all("gpus")
        .map(devices::gpus)
        .collect::<Result<Vec<_>, _>>()?;
    if !cdi.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(cdi),
            ..DeviceRequest::default()
        });
    }
    let weights = typed
        .all("blkio-weight-device")
        .map(devices::weight)
        .collect::<Result<Vec<_>, _>>()?;
    let ulimits = typed
        .all("ulimit")
        .map(limits::ulimit)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Resources {
        cpu_shares: integer("cpu-shares"),
        memory: typed.bytes("memory").unwrap_or(0),
        nano_cpus: typed.get("cpus").map_or(Ok(0), limits::cpus)?,
        cgroup_parent: typed.text("cgroup-parent").to_owned(),
        blkio_weight: u16::try_from(integer("blkio-weight")).unwrap_or(0),
        blkio_weight_device: (!weights.is_empty()).then_some(weights),
        blkio_device_read_bps: rates("device-read-bps", devices::bytes_rate)?,
        blkio_device_write_bps: rates("device-write-bps", devices::bytes_rate)?,
        blkio_device_read_iops: rates("device-read-iops", devices::operations_rate)?,
        blkio_device_write_iops: rates("device-write-iops", devices::operations_rate)?,
        cpu_period: integer("cpu-period"),
        cpu_quota: integer("cpu-quota"),
        cpu_realtime_period: integer("cpu-rt-period"),
        cpu_realtime_runtime: integer("cpu-rt-runtime"),
        cpuset_cpus: typed.text("cpuset-cpus").to_owned(),
        cpuset_mems: typed.text("cpuset-mems").to_owned(),
        devices: Some(nodes),
        device_cgroup_rules: some(typed.list("device-cgroup-rule")),
        device_requests: (!requests.is_empty()).then_some(requests),
        memory_reservation: typed.bytes("memory-reservation").unwrap_or(0),
        memory_swap: typed.get("memory-swap").map_or(Ok(0), limits::swap)?,
        memory_swappiness: Some(swappiness),
        oom_kill_disable: Some(typed.on("oom-kill-disable")),
        pids_limit: Some(integer("pids-limit")),
        ulimits: (!ulimits.is_empty()).then_some(ulimits),
        ..Resources::default()
    })
}

/// The endpoints to make. What is said apart from `--network` belongs to the first network.
fn networking(
    typed: &Typed,
    mut attachments: Vec<networks::Attachment>,
) -> Result<NetworkingConfig, String> {
    if attachments.is_empty() {
        attachments.push(networks::Attachment {
            target: "default".to_owned(),
            ..networks::Attachment::default()
        });
    }
    let user_defined = attachments
        .iter()
        .filter(|attachment| networks::is_user_defined(&attachment.target))
        .count();
    if user_defined > 0 && user_defined < attachments.len() {
        return Err("conflicting options: cannot attach both user-defined and non-user-defined network-modes".to_owned());
    }
    apply_loose_flags(typed, &mut attachments[0])?;
    let mut endpoints: BTreeMap<String, Option<EndpointSettings>> = BTreeMap::new();
    for attachment in &attachments {
        let settings = attachment.settings();
        if endpoints
            .insert(attachment.target.clone(), Some(settings))
            .is_some()
        {
            return Err(format!(
                "network \"{}\" is specified multiple times",
                attachment.target
            ));
        }
    }
    Ok(NetworkingConfig {
        endpoints_config: Some(endpoints),
    })
}

fn apply_loose_flags(typed: &Typed, first: &mut networks::Attachment) -> Result<(), String> {
    let aliases: Vec<String> = typed
        .all("network-alias")
        .chain(typed.all("net-alias"))
        .map(str::to_owned)
        .collect();
    let links = typed.list("link");
    let link_local = typed.list("link-local-ip");
    let conflict = |loose: &str, long: &str| {
        Err(format!(
            "conflicting options: cannot specify both --{loose} and per-network {long}"
        ))
    };
    if !first.aliases.is_empty() && !aliases.is_empty() {
        return conflict("network-alias", "alias");
    }
    if !first.links.is_empty() && !links.is_empty() {
        return conflict("link", "links");
    }
    if !first.ipv4.is_empty() && typed.has("ip") {
        return conflict("ip", "IPv4 address");
    }
    if !first.ipv6.is_empty() && typed.has("ip6") {
        return conflict("ip6", "IPv6 address");
    }
    if !first.link_local.is_empty() && !link_local.is_empty() {
        return conflict("link-local-ip", "link-local IP addresses");
    }
    if !first.mac.is_empty() && typed.has("mac-address") {
        return conflict("mac-address", "MAC address");
    }
    first.aliases.extend(aliases);
    // Links of the default bridge are part of the host configuration.
    if networks::is_user_defined(&first.target) {
        first.links.extend(links);
    }
    first.link_local.extend(link_local);
    if let Some(address) = typed.get("ip") {
        address.clone_into(&mut first.ipv4);
    }
    if let Some(address) = typed.get("ip6") {
        address.clone_into(&mut first.ipv6);
    }
    if let Some(mac) = typed.get("mac-address") {
        mac.trim().clone_into(&mut first.mac);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DETACH: &[Flag] = &[switch("detach", "").short('d')];

    fn read(line: &str) -> Result<Value, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let typed = flags::parse(&[FLAGS, LIMITS, DETACH].concat(), &words, false)?;
        let request = request(
            &typed,
            &typed.words[0],
            &typed.words[1..],
            Path::new("/here"),
        )?;
        Ok(serde_json::to_value(request).unwrap())
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "cases read better without ampersands"
    )]
    fn check(line: &str, path: &str, wanted: Value) {
        let request = read(line).unwrap();
        let pointer = format!("/{}", path.replace('.', "/"));
        assert_eq!(request.pointer(&pointer), Some(&wanted), "{line}: {path}");
    }

    #[test]
    fn flags_become_what_the_api_knows() {
        check("img a b", "Cmd", json!(["a", "b"]));
        check("img", "Cmd", Value::Null);
        check("-e A=b -e C=d=e img", "Env", json!(["A=b", "C=d=e"]));
        check(
            "-e BERTH_SURELY_UNSET img",
            "Env",
            json!(["BERTH_SURELY_UNSET"]),
        );
        check("--entrypoint= img", "Entrypoint", json!([""]));
        check("-u 1000:1000 img", "User", json!("1000:1000"));
        check("-h box img", "Hostname", json!("box"));
        check("-w /x img", "WorkingDir", json!("/x"));
        check("-l a=b --label c img", "Labels", json!({"a": "b", "c": ""}));
        check("-v /a:/b -v /c img", "HostConfig.Binds", json!(["/a:/b"]));
        check("-v /a:/b -v /c img", "Volumes", json!({"/c": {}}));
        check(
            "-p 8080:80 img",
            "HostConfig.PortBindings",
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        );
        check(
            "-p 8080:80 --expose 90 img",
            "ExposedPorts",
            json!({"80/tcp": {}, "90/tcp": {}}),
        );
        check("-m 64m img", "HostConfig.Memory", json!(64 << 20));
        check("--cpus 0.5 img", "HostConfig.NanoCpus", json!(500_000_000));
        check("--memory-swap -1 img", "HostConfig.MemorySwap", json!(-1));
        check("img", "HostConfig.MemorySwappiness", json!(-1));
        check("img", "HostConfig.PidsLimit", json!(0));
        check("img", "HostConfig.NetworkMode", json!("default"));
        check("--net host img", "HostConfig.NetworkMode", json!("host"));
        check(
            "--network name=n,alias=a --ip 1.2.3.4 img",
            "NetworkingConfig.EndpointsConfig.n.IPAMConfig.IPv4Address",
            json!("1.2.3.4"),
        );
        check(
            "--network n --network-alias x img",
            "NetworkingConfig.EndpointsConfig.n.Aliases",
            json!(["x"]),
        );
        check(
            "--restart on-failure:3 img",
            "HostConfig.RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 3}),
        );
        check("--rm img", "HostConfig.AutoRemove", json!(true));
        check(
            "--ulimit nofile=10:20 img",
            "HostConfig.Ulimits",
            json!([{"Name": "nofile", "Hard": 20, "Soft": 10}]),
        );
        check(
            "--device /dev/fuse img",
            "HostConfig.Devices",
            json!([{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}]),
        );
        check(
            "--health-cmd true --health-interval 5s img",
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64}),
        );
        check("--no-healthcheck img", "Healthcheck.Test", json!(["NONE"]));
        check(
            "--tmpfs /t:size=1m img",
            "HostConfig.Tmpfs",
            json!({"/t": "size=1m"}),
        );
        check("--init img", "HostConfig.Init", json!(true));
        check(
            "--security-opt systempaths=unconfined img",
            "HostConfig.MaskedPaths",
            json!([]),
        );
        check(
            "--security-opt no-new-privileges img",
            "HostConfig.SecurityOpt",
            json!(["no-new-privileges"]),
        );
        check("--stop-timeout 3 img", "StopTimeout", json!(3));
        check(
            "--gpus all img",
            "HostConfig.DeviceRequests",
            json!([{"Driver": "", "Count": -1, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {}}]),
        );
        check(
            "--add-host a:1.2.3.4 img",
            "HostConfig.ExtraHosts",
            json!(["a:1.2.3.4"]),
        );
        check(
            "--log-driver none img",
            "HostConfig.LogConfig",
            json!({"Type": "none", "Config": {}}),
        );
        check(
            "--dns 1.1.1.1 --dns-opt x img",
            "HostConfig.DnsOptions",
            json!(["x"]),
        );
    }

    #[test]
    fn attaching_follows_the_flags() {
        for (line, wanted) in [
            ("img", (false, true, true, false, false)),
            ("-i img", (true, true, true, true, true)),
            ("-it img", (true, true, true, true, true)),
            ("-d img", (false, false, false, false, false)),
            ("-di img", (false, false, false, true, false)),
            ("-a stdin img", (true, false, false, false, false)),
            ("-a STDOUT -a stderr img", (false, true, true, false, false)),
        ] {
            let request = read(line).unwrap();
            let on = |name: &str| request[name].as_bool().unwrap_or(false);
            let got = (
                on("AttachStdin"),
                on("AttachStdout"),
                on("AttachStderr"),
                on("OpenStdin"),
                on("StdinOnce"),
            );
            assert_eq!(got, wanted, "{line}");
        }
    }

    #[test]
    fn combinations_that_cannot_be_are_told_as_docker_tells_them() {
        for (line, wanted) in [
            (
                "--rm --restart always img",
                "conflicting options: cannot specify both --restart and --rm",
            ),
            (
                "-d -a stdout img",
                "conflicting options: cannot specify both --attach and --detach",
            ),
            ("--pid foo img", "--pid: invalid PID mode"),
            ("--uts foo img", "--uts: invalid UTS mode"),
            ("--userns foo img", "--userns: invalid USER mode"),
            ("--cgroupns foo img", "--cgroupns: invalid CGROUP mode"),
            ("--mac-address zz img", "zz is not a valid mac address"),
            (
                "--memory-swappiness 101 img",
                "invalid value: 101. Valid memory swappiness range is 0-100",
            ),
            (
                "--no-healthcheck --health-cmd x img",
                "--no-healthcheck conflicts with --health-* options",
            ),
            (
                "--health-retries=-1 img",
                "--health-retries cannot be negative",
            ),
            (
                "--log-driver none --log-opt a=b img",
                "invalid logging opts for driver none",
            ),
            ("--storage-opt x img", "invalid storage option"),
            ("--security-opt x img", "Invalid --security-opt: \"x\""),
            (
                "--security-opt seccomp=/none img",
                "opening seccomp profile (/none) failed: open /none: no such file or directory",
            ),
            (
                "--network a --network a img",
                "network \"a\" is specified multiple times",
            ),
            (
                "--network a --network host img",
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ),
            (
                "--network name=a,ip=1.2.3.4 --ip 1.2.3.5 img",
                "conflicting options: cannot specify both --ip and per-network IPv4 address",
            ),
            (
                "--isolation hyperv img",
                "--isolation=hyperv is for Windows containers; on Linux only `default` is valid",
            ),
            (
                "--env-file /none img",
                "open /none: no such file or directory",
            ),
            (
                "--link a:b:c img",
                "invalid argument \"a:b:c\" for \"--link\" flag: bad format for links: a:b:c",
            ),
        ] {
            assert_eq!(read(line), Err(wanted.to_owned()), "{line}");
        }
    }

    #[test]
    fn every_flag_of_docker_is_known() {
        let reference = include_str!("testdata/run-flags.txt");
        let missing: Vec<&str> = reference
            .lines()
            .filter(|name| {
                ![FLAGS, LIMITS, crate::commands::run::FLAGS]
                    .concat()
                    .iter()
                    .any(|flag| flag.name == *name)
            })
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn profiles_are_compacted_in_their_order() {
        assert_eq!(
            compact("{ \"b\": \"x y\\\" z\",\n \"a\" : [1, 2] }"),
            "{\"b\":\"x y\\\" z\",\"a\":[1,2]}"
        );
    }
}
