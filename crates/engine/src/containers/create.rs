//! A container is made: what was asked and what the image says become a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use store::Image;
use vocab::ContainerId;
use vocab::config::{ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig, OWNER_LABEL};

use super::record::{Course, MountKind, Mounted, Record};
use super::{CreateContainer, CreateError, Created, health, names, owner, ports};
use crate::db::Durability;
use crate::events::container as announce;
use crate::logs::driver;
use crate::shared::Shared;
use crate::spec::{CheckError, check, environment, mounts};

/// Tries to make up a name that nobody has.
const NAME_TRIES: u32 = 100;

/// Makes a container.
pub(crate) async fn create(
    shared: &Arc<Shared>,
    wanted: CreateContainer,
) -> Result<Created, CreateError> {
    let mut warnings = check::check(&wanted.config, &wanted.host).map_err(CreateError::Check)?;
    let image = {
        let (shared, typed) = (Arc::clone(shared), wanted.config.image.clone());
        let platform = wanted.platform.clone();
        tasks::blocking(move || {
            let store = &shared.store;
            match platform.map(|platform| store.find_image_for(&typed, &platform)) {
                // What is there instead is told by `suits`.
                None | Some(Err(store::FindError::Platform { .. })) => store.find_image(&typed),
                Some(found) => found,
            }
        })
        .await
    }
    .map_err(CreateError::Image)?;
    let name = wanted.name.clone();
    let record = plan(shared, wanted, &image)?;
    let id = record.id;
    let name = reserve(shared, name.as_deref(), id)?;
    match make(shared, record, &name, &mut warnings).await {
        Ok(()) => Ok(Created { id, warnings }),
        Err(error) => {
            shared.index().release(&name, id);
            Err(error)
        }
    }
}

/// What was asked, what the image says and the daemon's defaults, as one record.
fn plan(shared: &Shared, wanted: CreateContainer, image: &Image) -> Result<Record, CreateError> {
    let id = ContainerId::random();
    suits(image, &wanted)?;
    let inherited = inherited(shared, &wanted.host)?;
    let mut config = wanted.config;
    merge(&mut config, image.config.config.as_ref());
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    let mut words = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .flatten()
        .cloned();
    let path = words.next().ok_or(CreateError::NoCommand)?;
    let args = words.collect();
    let mut host = wanted.host;
    let mounts = mounts::plan(&config, &host, inherited).map_err(CreateError::Check)?;
    fill(shared, &mut host);
    let networks = networks(shared, &host, &config, wanted.networking)?;
    ports::requests(&config, &host, shared.config.bridge.publish_address)
        .map_err(|text| CreateError::Check(CheckError::Invalid(text)))?;
    if config.hostname.is_empty() && host.network_mode != "host" && host.uts_mode != "host" {
        config.hostname = id.short();
    }
    Ok(Record {
        id,
        created: SystemTime::now(),
        image: image.id.clone(),
        os: image.config.platform().os,
        path,
        args,
        config,
        host,
        networks,
        mounts,
    })
}

/// Takes the wanted name, or one made up.
fn reserve(shared: &Shared, wanted: Option<&str>, id: ContainerId) -> Result<String, CreateError> {
    let mut index = shared.index();
    if let Some(typed) = wanted.filter(|name| !name.is_empty()) {
        let name = typed.strip_prefix('/').unwrap_or(typed);
        if !names::is_fine(name) {
            return Err(CreateError::Name(typed.to_owned()));
        }
        return match index.reserve(name, id) {
            Ok(()) => Ok(name.to_owned()),
            Err(owner) => Err(CreateError::Taken {
                name: name.to_owned(),
                owner,
            }),
        };
    }
    for again in 0..NAME_TRIES {
        let name = names::random(again);
        if index.reserve(&name, id).is_ok() {
            return Ok(name);
        }
    }
    let name = id.short();
    match index.reserve(&name, id) {
        Ok(()) => Ok(name),
        Err(owner) => Err(CreateError::Taken { name, owner }),
    }
}

/// Takes out limits that cgroup version 2 does not have, and says so, as Docker does.
fn discard_v1_only(resources: &mut vocab::config::Resources, warnings: &mut Vec<String>) {
    let mut discarded = |name: &str| {
        warnings.push(format!("{name} has no effect on cgroup v2. Discarded."));
    };
    if resources.oom_kill_disable.take() == Some(true) {
        discarded("OomKillDisable");
    }
    if resources
        .memory_swappiness
        .take()
        .is_some_and(|swappiness| swappiness >= 0)
    {
        discarded("MemorySwappiness");
    }
}

/// Volumes, writable layer, record, owner. After a failure nothing of it is left.
async fn make(
    shared: &Arc<Shared>,
    mut record: Record,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<(), CreateError> {
    if shared.layout == runtime::cgroup::Layout::V2 {
        discard_v1_only(&mut record.host.resources, warnings);
    }
    let mut made = Vec::new();
    if let Err(error) = make_parts(shared, &mut record, name, &mut made).await {
        undo(shared, &record, made).await;
        return Err(error);
    }
    let record = Arc::new(record);
    let course = Course::new();
    let (handle, ends) = owner::ends(&record, name, &course);
    shared.index().insert(handle);
    announce::happened(&shared.events, "create", &record, name, &[]);
    let owner = owner::Owner::new(
        Arc::clone(shared),
        record,
        name.to_owned(),
        course,
        ends,
        None,
    );
    shared
        .tasks
        .spawn_whole("container", owner.drive(owner::First::Nothing));
    Ok(())
}

/// The record and the writable layer are made at the same time: both wait for the disk. Of one
/// without the other a later engine knows that the creation was never acknowledged. Volumes are
/// made in between, so that it also knows what to remove.
async fn make_parts(
    shared: &Arc<Shared>,
    record: &mut Record,
    name: &str,
    made: &mut Vec<String>,
) -> Result<(), CreateError> {
    find_images(shared, record).await?;
    let mut fresh = Vec::new();
    let with_volumes = name_volumes(record);
    if with_volumes {
        insert(shared, record, name, Durability::Normal).await?;
        fresh = make_volumes(shared, record, made).await?;
        insert(shared, record, name, Durability::Full).await?;
    }
    let snapshots = {
        // The container's own comes last: with it, it is whole.
        let (store, mut wanted) = (Arc::clone(&shared.store), images(record));
        wanted.push((record.image.clone(), record.id));
        tasks::blocking(move || {
            let mut wanted = wanted.iter();
            wanted.try_for_each(|(image, holder)| store.create_snapshot(holder, image))
        })
    };
    let inserted = async {
        match with_volumes {
            true => Ok(()),
            false => insert(shared, record, name, Durability::Full).await,
        }
    };
    let (snapshots, inserted) = tokio::join!(snapshots, inserted);
    snapshots.map_err(CreateError::Snapshot)?;
    inserted?;
    if fresh.is_empty() {
        return Ok(());
    }
    let (shared, id) = (Arc::clone(shared), record.id);
    tasks::blocking(move || {
        let store = &shared.store;
        let mounts = store.mount_snapshot(&id).map_err(CreateError::Snapshot)?;
        shared
            .hold_volumes(&fresh, id)
            .map_err(CreateError::MountVolume)?;
        let copied = crate::volumes::copy_up(&mounts, &fresh).map_err(CreateError::CopyUp);
        shared.let_volumes_go(&fresh, id);
        store.release_snapshot(&id).map_err(CreateError::Snapshot)?;
        copied
    })
    .await
}

/// Gives volumes that nobody named their names; answers whether there are volumes at all.
fn name_volumes(record: &mut Record) -> bool {
    let is_volume = |mounted: &&mut Mounted| mounted.kind == MountKind::Volume;
    let mut any = false;
    for mounted in record.mounts.iter_mut().filter(is_volume) {
        any = true;
        if mounted.volume.is_empty() {
            mounted.volume = crate::volumes::random_name();
        }
    }
    any
}

/// The volumes of the container; answers with those that are to be filled.
async fn make_volumes(
    shared: &Shared,
    record: &mut Record,
    made: &mut Vec<String>,
) -> Result<Vec<Mounted>, CreateError> {
    let mut fresh = Vec::new();
    for mounted in &mut record.mounts {
        if mounted.kind == MountKind::Volume {
            let wanted = crate::volumes::Wanted {
                name: mounted.volume.clone(),
                anonymous: mounted.anonymous,
                driver: mounted.driver.clone(),
                options: mounted.driver_options.clone(),
                labels: mounted.labels.clone(),
            };
            let found = shared.volume_for(wanted).await;
            let (volume, new) = found.map_err(CreateError::Volume)?;
            if new {
                made.push(volume.name.clone());
            }
            mounted.source = volume.mountpoint.to_string_lossy().into_owned();
            mounted.volume = volume.name;
            mounted.driver = volume.driver;
            if !mounted.options.iter().any(|option| option == "nocopy") {
                fresh.push(mounted.clone());
            }
        }
    }
    Ok(fresh)
}

/// The images that are mounted into the container, each held by a name of its own.
async fn find_images(shared: &Arc<Shared>, record: &mut Record) -> Result<(), CreateError> {
    for mounted in &mut record.mounts {
        if mounted.kind != MountKind::Image {
            continue;
        }
        let image = match &mounted.image {
            Some((image, _)) => image.clone(),
            None => {
                let (shared, typed) = (Arc::clone(shared), mounted.source.clone());
                let found = tasks::blocking(move || shared.store.find_image(&typed)).await;
                found.map_err(CreateError::Image)?.id
            }
        };
        mounted.image = Some((image, ContainerId::random()));
    }
    Ok(())
}

/// Those images, and who holds them.
fn images(record: &Record) -> Vec<(vocab::Digest, ContainerId)> {
    let held = record.mounts.iter();
    held.filter_map(|mounted| mounted.image.clone()).collect()
}

/// Removes what there is of a container that was not made.
async fn undo(shared: &Arc<Shared>, record: &Record, volumes: Vec<String>) {
    let id = record.id;
    let removed = {
        let (shared, mounted) = (Arc::clone(shared), record.mounts.clone());
        tasks::blocking(move || super::remove::snapshots(&shared, id, &mounted)).await
    };
    if let Err(error) = removed {
        let error = vocab::failure::chain(&error);
        tracing::warn!(%id, error, "remove the layer of a container that was not made");
    }
    if let Err(error) = super::remove::forget(shared, id).await {
        let error = vocab::failure::chain(&error);
        tracing::warn!(%id, error, "forget a container that was not made");
    }
    for volume in volumes {
        shared.remove_unused_volume(&volume, id).await;
    }
}

/// Writes the container down, or what is new of it.
async fn insert(
    shared: &Shared,
    record: &Record,
    name: &str,
    durability: Durability,
) -> Result<(), CreateError> {
    let row = (
        record.id.to_string(),
        name.to_owned(),
        super::to_json(record),
        super::to_json(&Course::new()),
    );
    shared
        .db
        .write(durability, move |db| {
            db.prepare_cached("INSERT OR REPLACE INTO containers VALUES (?1, ?2, ?3, ?4)")?
                .execute(row)
                .map(drop)
        })
        .await
        .map_err(CreateError::Record)
}

fn suits(image: &Image, wanted: &CreateContainer) -> Result<(), CreateError> {
    let actual = image.config.platform();
    match &wanted.platform {
        Some(platform) if actual.rank_on(platform).is_none() => Err(CreateError::Platform {
            image: wanted.config.image.clone(),
            wanted: Box::new(platform.clone()),
            actual: Box::new(actual),
        }),
        _ => Ok(()),
    }
}

/// Mounts of the containers in `--volumes-from`.
fn inherited(shared: &Shared, host: &HostConfig) -> Result<Vec<Mounted>, CreateError> {
    let mut inherited = Vec::new();
    for text in host.volumes_from.iter().flatten() {
        let (typed, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if !matches!(mode, "rw" | "ro" | "z" | "Z") {
            return Err(CreateError::Check(CheckError::Invalid(format!(
                "invalid mode for volumes-from: {mode}"
            ))));
        }
        // No 404: clients take that for a missing image, and pull.
        let found = shared.index().find(typed);
        let found = found.map_err(|error| CheckError::Invalid(error.to_string()));
        let view = found.map_err(CreateError::Check)?.view();
        for mounted in &view.record.mounts {
            if mounted.kind != MountKind::Tmpfs {
                let mut mounted = mounted.clone();
                mounted.read_only |= mode == "ro";
                // The other container's volume has its name by now, and goes with that container.
                mounted.anonymous = false;
                // What it was filled with is for that one to say.
                if mounted.kind == MountKind::Volume {
                    mounted.options.push("nocopy".to_owned());
                }
                inherited.push(mounted);
            }
        }
    }
    Ok(inherited)
}

/// Takes from the image what the user left open (Docker's `merge`).
fn merge(config: &mut ContainerConfig, image: Option<&ContainerConfig>) {
    let Some(image) = image else {
        config.labels.get_or_insert_default();
        return;
    };
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if let Some(ports) = &image.exposed_ports {
        config
            .exposed_ports
            .get_or_insert_default()
            .extend(ports.iter().map(|(port, empty)| (port.clone(), *empty)));
    }
    if let Some(volumes) = &image.volumes {
        config
            .volumes
            .get_or_insert_default()
            .extend(volumes.iter().map(|(path, empty)| (path.clone(), *empty)));
    }
    let env = environment::merge(config.env.take(), image.env.as_deref().unwrap_or_default());
    config.env = Some(env);
    let labels = config.labels.get_or_insert_default();
    let of_image = image.labels.iter().flatten();
    for (key, value) in of_image.filter(|(key, _)| *key != OWNER_LABEL) {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    health::inherit(&mut config.healthcheck, image.healthcheck.as_ref());
}

/// Writes the daemon's defaults where the user left a choice, so that `inspect` shows them.
fn fill(shared: &Shared, host: &mut HostConfig) {
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode = if shared.config.bridge.enabled {
            "bridge".to_owned()
        } else {
            "none".to_owned()
        };
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode = shared
            .config
            .ipc_mode
            .clone()
            .unwrap_or_else(|| "private".to_owned());
    }
    if host.cgroupns_mode.is_empty() {
        let private = shared.layout == runtime::cgroup::Layout::V2 && !host.privileged;
        let default = if private { "private" } else { "host" };
        host.cgroupns_mode = shared
            .config
            .cgroupns_mode
            .clone()
            .unwrap_or_else(|| default.to_owned());
    }
    if host.shm_size == 0 {
        host.shm_size = i64::try_from(shared.config.shm_bytes).unwrap_or(i64::MAX);
    }
    driver::fill_in(&mut host.log_config, &shared.config.log);
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
    if host.runtime.is_empty() {
        "berth".clone_into(&mut host.runtime);
    }
    let resources = &mut host.resources;
    if resources.memory > 0 && resources.memory_swap == 0 {
        resources.memory_swap = resources.memory.saturating_mul(2);
    }
    if let Ok(security) = crate::spec::security::Security::of(host, false) {
        host.masked_paths = Some(security.masked_paths);
        host.readonly_paths = Some(security.readonly_paths);
    }
}

/// The networks to join, the one of the network mode first.
fn networks(
    shared: &Shared,
    host: &HostConfig,
    config: &ContainerConfig,
    wanted: NetworkingConfig,
) -> Result<Vec<(String, EndpointSettings)>, CreateError> {
    let mut endpoints: BTreeMap<String, EndpointSettings> = wanted
        .endpoints_config
        .unwrap_or_default()
        .into_iter()
        .map(|(name, settings)| (name, settings.unwrap_or_default()))
        .collect();
    let mode = host.network_mode.as_str();
    if let Some(typed) = mode.strip_prefix("container:") {
        shared.index().find(typed).map_err(CreateError::Find)?;
        if !endpoints.is_empty() || host.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) {
            return Err(CreateError::Check(CheckError::Invalid(
                "conflicting options: port publishing and the container type network mode"
                    .to_owned(),
            )));
        }
        if !config.hostname.is_empty() {
            return Err(CreateError::Check(CheckError::Invalid(
                "conflicting options: hostname and the network mode".to_owned(),
            )));
        }
        return Ok(Vec::new());
    }
    let records = shared.networks();
    let main = match records.find(mode) {
        Ok(main) => main,
        // Said at start, as Docker does: clients take a 404 here for a missing image, and pull.
        Err(crate::networks::FindNetworkError::NotFound(_)) => {
            let settings = endpoints.remove(mode).unwrap_or_default();
            return Ok(vec![(mode.to_owned(), settings)]);
        }
        Err(error) => return Err(CreateError::Network(error)),
    };
    let mut settings = endpoints
        .remove(mode)
        .or_else(|| endpoints.remove(&main.name))
        .or_else(|| endpoints.remove("default"))
        .unwrap_or_default();
    if settings.mac_address.is_empty() {
        settings.mac_address.clone_from(&config.mac_address);
    }
    let mut networks = vec![(main.name.clone(), settings)];
    for (typed, settings) in endpoints {
        let other = records.find(&typed).map_err(CreateError::Network)?;
        if main.driver != "bridge" || other.driver != "bridge" {
            return Err(CreateError::Check(CheckError::Invalid(
                "container cannot be connected to multiple networks with one of the networks in \
                 private (none) or host mode"
                    .to_owned(),
            )));
        }
        networks.push((other.name.clone(), settings));
    }
    for (name, settings) in &networks {
        crate::endpoints::check_settings(name, settings).map_err(|text| {
            let text = format!("invalid endpoint settings:\n{text}");
            CreateError::Check(CheckError::Invalid(text))
        })?;
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vocab::Platform;

    type Words<'a> = Option<&'a [&'a str]>;

    #[track_caller]
    fn check(user: (Words<'_>, Words<'_>), wanted: (Words<'_>, Words<'_>)) {
        let words = |words: Words<'_>| -> Option<Vec<String>> {
            Some(words?.iter().map(|&word| word.to_owned()).collect())
        };
        let config = |(entrypoint, cmd)| ContainerConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ContainerConfig::default()
        };
        let mut merged = config(user);
        let image = config((Some(&["e"]), Some(&["c"])));
        merge(&mut merged, Some(&image));
        assert_eq!(
            (merged.entrypoint, merged.cmd),
            (words(wanted.0), words(wanted.1))
        );
    }

    #[test]
    fn entry_point_and_command_are_merged_as_docker_does() {
        check((None, None), (Some(&["e"]), Some(&["c"])));
        check((None, Some(&["x"])), (Some(&["e"]), Some(&["x"])));
        check((Some(&["y"]), None), (Some(&["y"]), None));
        check((Some(&[""]), None), (Some(&[""]), None));
    }

    #[test]
    fn a_platform_is_compared_by_what_runs_on_it() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        let amd: Platform = "linux/amd64".parse().unwrap();
        assert!(arm.rank_on(&amd).is_none());
    }
}
