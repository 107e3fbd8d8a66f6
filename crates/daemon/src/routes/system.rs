//! The daemon itself: ping, version, info, credentials, disk usage.

use std::collections::BTreeMap;

use api::types::{
    AuthConfig, AuthResponse, Commit, Component, DiskUsage, FirewallInfo, IndexInfo, Info,
    PlatformName, PluginsInfo, RegistryConfig, RuntimeInfo, SwarmInfo, SystemVersion, Usage,
};
use api::version::{NEWEST, OLDEST};
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};
use http::{HeaderValue, StatusCode};
use registry::Credentials;
use vocab::Platform;

use super::Outcome;
use crate::answer;
use crate::call::Call;
use crate::render;

/// The version that every part of berth carries.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET` and `HEAD /_ping`.
pub(crate) async fn ping(_call: Call) -> Outcome {
    let mut answer = answer::text(StatusCode::OK, "OK");
    let headers = answer.headers_mut();
    let no_cache = HeaderValue::from_static("no-cache, no-store, must-revalidate");
    headers.insert(CACHE_CONTROL, no_cache);
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // 1 is the classic builder, 2 BuildKit; clients choose theirs by it.
    let builder = HeaderName::from_static("builder-version");
    headers.insert(builder, HeaderValue::from_static("1"));
    let swarm = HeaderName::from_static("swarm");
    headers.insert(swarm, HeaderValue::from_static("inactive"));
    Ok(answer)
}

/// `GET /version`.
pub(crate) async fn version(_call: Call) -> Outcome {
    let kernel = tasks::blocking(|| std::fs::read_to_string("/proc/sys/kernel/osrelease")).await;
    let kernel = kernel.unwrap_or_default().trim().to_owned();
    let platform = Platform::host();
    let compiler = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
    let details = [
        ("ApiVersion", NEWEST.to_string()),
        ("Arch", platform.architecture.clone()),
        ("Experimental", "false".to_owned()),
        ("GoVersion", compiler.to_owned()),
        ("KernelVersion", kernel.clone()),
        ("MinAPIVersion", OLDEST.to_string()),
        ("Os", platform.os.clone()),
    ];
    Ok(answer::ok(&SystemVersion {
        platform: PlatformName {
            name: "berth".to_owned(),
        },
        components: vec![Component {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details: details.map(|(key, value)| (key.to_owned(), value)).into(),
        }],
        version: VERSION.to_owned(),
        api_version: NEWEST.to_string(),
        min_api_version: OLDEST.to_string(),
        git_commit: String::new(),
        go_version: compiler.to_owned(),
        os: platform.os,
        arch: platform.architecture,
        kernel_version: kernel,
        experimental: false,
        build_time: String::new(),
    }))
}

/// `GET /info`.
pub(crate) async fn info(call: Call) -> Outcome {
    let found = call.engine().info().await;
    let settings = call.daemon.told.settings();
    let can = |limit: &str| found.limits.iter().any(|known| known == limit);
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let proxies = &settings.engine.registry.proxies;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let bridge_nf = (!call.speaks(50)).then_some(false);
    let (descriptors, threads) = tasks::blocking(|| {
        let entries = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
        (entries("/proc/self/fd"), entries("/proc/self/task"))
    })
    .await;
    Ok(answer::ok(&Info {
        id: found.id,
        containers: count(found.containers),
        containers_running: count(found.running),
        containers_paused: count(found.paused),
        containers_stopped: count(found.stopped),
        images: count(found.images),
        driver: found.storage_driver,
        driver_status: Some(
            found
                .storage_status
                .into_iter()
                .map(|(key, value)| [key, value])
                .collect(),
        ),
        plugins: PluginsInfo {
            volume: words(&["local"]),
            network: words(&["bridge", "host", "null"]),
            authorization: None,
            log: words(&engine::logs::drivers()),
        },
        memory_limit: can("memory"),
        swap_limit: can("swap"),
        cpu_cfs_period: can("cpu-cfs"),
        cpu_cfs_quota: can("cpu-cfs"),
        cpu_shares: can("cpu-shares"),
        cpu_set: can("cpuset"),
        pids_limit: can("pids"),
        ipv4_forwarding: found.ipv4_forwarding,
        bridge_nf_iptables: bridge_nf,
        bridge_nf_ip6tables: bridge_nf,
        debug: settings.log.level >= tracing::Level::DEBUG,
        n_fd: count(descriptors),
        oom_kill_disable: can("oom-kill"),
        n_goroutines: count(threads),
        system_time: vocab::time::rfc3339_nano(std::time::SystemTime::now()),
        logging_driver: found.log_driver,
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: found.cgroup_version,
        n_events_listener: 0,
        kernel_version: found.kernel,
        operating_system: found.operating_system,
        os_version: found.os_version,
        os_type: "linux".to_owned(),
        architecture: found.architecture,
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: Some(registries(&settings.engine.registry)),
        ncpu: count(found.cpus),
        mem_total: found.memory_bytes,
        generic_resources: None,
        docker_root_dir: found.root,
        http_proxy: proxy(proxies.http.as_ref(), "http_proxy"),
        https_proxy: proxy(proxies.https.as_ref(), "https_proxy"),
        no_proxy: proxy(proxies.none_for.as_ref(), "no_proxy"),
        name: found.name,
        labels: settings.engine.labels.clone(),
        experimental_build: false,
        server_version: VERSION.to_owned(),
        runtimes: BTreeMap::from([("berth".to_owned(), RuntimeInfo::default())]),
        default_runtime: "berth".to_owned(),
        swarm: SwarmInfo {
            local_node_state: "inactive".to_owned(),
            ..SwarmInfo::default()
        },
        live_restore_enabled: true,
        isolation: String::new(),
        init_binary: String::new(),
        containerd_commit: Commit::default(),
        runc_commit: Commit::default(),
        init_commit: Commit::default(),
        security_options: found.security_options,
        default_address_pools: Vec::new(),
        firewall_backend: call.speaks(49).then(|| FirewallInfo {
            driver: "nftables".to_owned(),
            info: Vec::new(),
        }),
        cdi_spec_dirs: found.cdi_directories,
        warnings: (!found.warnings.is_empty()).then_some(found.warnings),
    }))
}

/// A proxy as it was named, or as the environment does, without the secrets in it.
fn proxy(named: Option<&String>, variable: &str) -> String {
    let environment = || {
        let upper = std::env::var(variable.to_uppercase());
        upper.or_else(|_| std::env::var(variable)).ok()
    };
    let address = named.cloned().or_else(environment).unwrap_or_default();
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        _ => address,
    }
}

fn registries(config: &registry::Config) -> RegistryConfig {
    let official = IndexInfo {
        name: "docker.io".to_owned(),
        mirrors: config.mirrors.clone(),
        secure: true,
        official: true,
    };
    let mut known = BTreeMap::from([("docker.io".to_owned(), official)]);
    let mut cidrs = vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    for insecure in &config.insecure {
        if insecure.contains('/') {
            cidrs.push(insecure.clone());
        } else {
            let index = IndexInfo {
                name: insecure.clone(),
                ..IndexInfo::default()
            };
            known.insert(insecure.clone(), index);
        }
    }
    RegistryConfig {
        insecure_registry_cidrs: cidrs,
        index_configs: known,
        mirrors: (!config.mirrors.is_empty()).then(|| config.mirrors.clone()),
    }
}

/// `POST /auth`.
pub(crate) async fn auth(mut call: Call) -> Outcome {
    let given: AuthConfig = call.json().await?;
    let mut credentials = Credentials::password(&given.username, &given.password);
    credentials.identity_token = given.identitytoken;
    credentials.registry_token = given.registrytoken;
    credentials.server_address.clone_from(&given.serveraddress);
    let checked = call
        .daemon
        .told
        .registry()
        .check(&given.serveraddress, &credentials)
        .await?;
    Ok(answer::ok(&AuthResponse {
        identity_token: checked.identity_token.unwrap_or_default(),
        status: "Login Succeeded".to_owned(),
    }))
}

/// `GET /system/df`.
pub(crate) async fn disk_usage(call: Call) -> Outcome {
    let wanted: Vec<String> = call.query.all("type").map(str::to_owned).collect();
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(unknown) = wanted.iter().find(|kind| !known.contains(&kind.as_str())) {
        return Err(answer::Refusal::invalid(format!(
            "unknown object type: {unknown}"
        )));
    }
    let wants =
        |kind: &str| !call.speaks(42) || wanted.is_empty() || wanted.iter().any(|w| w == kind);
    let verbose = call.query.flag("verbose");
    let used = call.engine().disk_usage().await;

    let places = used.places;
    let layers = render::bytes(used.images_bytes);
    let reclaimable = render::bytes(used.images_reclaimable_bytes);
    let images: Vec<_> = used
        .images
        .into_iter()
        .map(|image| render::image_summary(image, call.version))
        .collect();
    let containers: Vec<_> = used
        .containers
        .into_iter()
        .map(|one| render::container_summary(one, call.version))
        .collect();
    let volumes: Vec<_> = used
        .volumes
        .into_iter()
        .map(render::volume_with_usage)
        .collect();

    let usage = call.speaks(52).then(|| {
        let active_images = images.iter().filter(|image| image.containers > 0);
        let running = containers
            .iter()
            .filter(|one| one.state == "running" || one.state == "paused");
        let writable: i64 = containers.iter().map(|one| one.size_rw).sum();
        let running_bytes: i64 = running.clone().map(|one| one.size_rw).sum();
        let volume_use = |referred: bool| {
            let uses = volumes
                .iter()
                .filter_map(|volume| volume.usage_data.as_ref());
            uses.filter(move |usage| (usage.ref_count > 0) == referred)
                .map(|usage| usage.size)
        };
        (
            Usage {
                active_count: render::count(active_images.count()),
                items: if verbose { images.clone() } else { Vec::new() },
                reclaimable,
                total_count: render::count(images.len()),
                total_size: layers,
            },
            Usage {
                active_count: render::count(running.count()),
                items: if verbose {
                    containers.clone()
                } else {
                    Vec::new()
                },
                reclaimable: writable - running_bytes,
                total_count: render::count(containers.len()),
                total_size: writable,
            },
            Usage {
                active_count: render::count(volume_use(true).count()),
                items: if verbose { volumes.clone() } else { Vec::new() },
                reclaimable: volume_use(false).sum(),
                total_count: render::count(volumes.len()),
                total_size: volume_use(true).chain(volume_use(false)).sum(),
            },
        )
    });
    // From 1.52 on both layouts are told, unless the new one is asked for with its details.
    let old = !(call.speaks(52) && verbose);
    let mut answer = DiskUsage {
        data_root: call.query.flag("data-root").then(|| render::places(places)),
        ..DiskUsage::default()
    };
    if let Some((image_usage, container_usage, volume_usage)) = usage {
        answer.image_usage = wants("image").then_some(image_usage);
        answer.container_usage = wants("container").then_some(container_usage);
        answer.volume_usage = wants("volume").then_some(volume_usage);
        answer.build_cache_usage = wants("build-cache").then(Usage::default);
    }
    if old {
        answer.layers_size = wants("image").then_some(layers);
        answer.images = wants("image").then_some(images);
        answer.containers = wants("container").then_some(containers);
        answer.volumes = wants("volume").then_some(volumes);
        answer.build_cache = wants("build-cache").then(Vec::new);
    }
    Ok(answer::ok(&answer))
}
