//! Containers: made, listed, driven through their lives.

use api::types::{
    ContainersPruned, CreateRequest, CreateResponse, Top, UpdateRequest, UpdateResponse, WaitError,
    WaitResponse,
};
use engine::containers::{
    CreateContainer, LIST_FILTERS, ListOptions, RemoveOptions, Update, WaitCondition,
};
use futures_util::StreamExt;
use http::StatusCode;
use vocab::Platform;
use vocab::config::ContainerConfig;
use vocab::time::parse_duration;

use super::Outcome;
use crate::answer::{self, Refusal};
use crate::call::Call;
use crate::render;

/// Keys that a prune's `filters` may have.
pub(super) const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// `GET /containers/json`.
pub(crate) async fn list(call: Call) -> Outcome {
    let limit = call.query.number::<i64>("limit")?;
    let options = ListOptions {
        all: call.query.flag("all"),
        limit: limit
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| *limit > 0),
        size: call.query.flag("size"),
        filters: call.filters(LIST_FILTERS)?.into_map(),
    };
    let found = call.engine().list(options).await?;
    let list: Vec<_> = found
        .into_iter()
        .map(|one| render::container_summary(one, call.version))
        .collect();
    Ok(answer::ok(&list))
}

/// `POST /containers/create`.
pub(crate) async fn create(mut call: Call) -> Outcome {
    if !call.has_body() {
        return Err(Refusal::invalid(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    let mut request: CreateRequest = call.json().await?;
    if request.config == ContainerConfig::default() {
        return Err(Refusal::invalid(
            "config cannot be empty in order to create a container",
        ));
    }
    check_versions(&call, &mut request)?;
    let platform = match call.query.said("platform") {
        Some(text) if call.speaks(41) => Some(
            text.parse::<Platform>()
                .map_err(|error| Refusal::invalid(error.to_string()))?,
        ),
        _ => None,
    };
    let wanted = CreateContainer {
        name: call.query.said("name").map(str::to_owned),
        config: request.config,
        host: request.host_config,
        networking: request.networking_config,
        platform,
    };
    let created = call.engine().create(wanted).await?;
    let response = CreateResponse {
        id: created.id.to_string(),
        warnings: created.warnings,
    };
    Ok(answer::json(StatusCode::CREATED, &response))
}

/// What a member meant in the version that the client speaks.
fn check_versions(call: &Call, request: &mut CreateRequest) -> Result<(), Refusal> {
    let host = &mut request.host_config;
    if !call.speaks(40) {
        if host.ipc_mode.is_empty() {
            "shareable".clone_into(&mut host.ipc_mode);
        }
        for mount in host.mounts.iter_mut().flatten() {
            if let Some(bind) = &mut mount.bind_options {
                bind.non_recursive = false;
            }
        }
    }
    if !call.speaks(42) {
        host.console_size = [0, 0];
    }
    if !call.speaks(43) {
        host.annotations = None;
    }
    if !call.speaks(44)
        && let Some(check) = &mut request.config.healthcheck
    {
        check.start_interval = 0;
    }
    if call.speaks(52) && !request.config.mac_address.is_empty() {
        return Err(Refusal::invalid(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
        ));
    }
    let mounts = host.mounts.iter().flatten();
    for mount in mounts {
        let subpath = mount
            .volume_options
            .as_ref()
            .is_some_and(|volume| !volume.subpath.is_empty());
        if subpath && !call.speaks(45) {
            return Err(Refusal::invalid(
                "VolumeOptions.Subpath needs API v1.45 or newer",
            ));
        }
        if mount.kind == "image" && !call.speaks(48) {
            return Err(Refusal::invalid(
                "the \"image\" mount type needs API v1.48 or newer",
            ));
        }
    }
    let endpoints = request
        .networking_config
        .endpoints_config
        .as_ref()
        .map_or(0, |all| all.len());
    if endpoints > 1 && !call.speaks(44) {
        return Err(Refusal::invalid(
            "Container cannot be created with multiple network endpoints before API v1.44",
        ));
    }
    Ok(())
}

/// `GET /containers/{id}/json`.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let size = call.query.flag("size");
    let details = call.engine().inspect(call.name(), size).await?;
    Ok(answer::ok(&render::container_inspect(
        details,
        call.version,
    )))
}

/// `GET /containers/{id}/top`.
pub(crate) async fn top(call: Call) -> Outcome {
    let arguments = call.query.said("ps_args").unwrap_or("-ef");
    let top = call.engine().top(call.name(), arguments).await?;
    Ok(answer::ok(&Top {
        processes: top.processes,
        titles: top.titles,
    }))
}

/// `POST /containers/{id}/resize`.
pub(crate) async fn resize(call: Call) -> Outcome {
    let (rows, columns) = size(&call)?;
    call.engine().resize(call.name(), rows, columns).await?;
    Ok(answer::empty(StatusCode::OK))
}

/// The size of a terminal in the query; both members are required.
pub(super) fn size(call: &Call) -> Result<(u16, u16), Refusal> {
    let one = |key: &str, what: &str| {
        let text = call.query.get(key).unwrap_or_default();
        text.parse::<u16>().map_err(|error| {
            let why = vocab::failure::go_reason(&error);
            Refusal::invalid(format!("invalid resize {what} \"{text}\": {why}"))
        })
    };
    Ok((one("h", "height")?, one("w", "width")?))
}

/// `POST /containers/{id}/start`.
pub(crate) async fn start(call: Call) -> Outcome {
    if call.query.said("checkpoint").is_some() {
        return Err(Refusal::new(
            vocab::Kind::NotImplemented,
            "berth does not start containers from checkpoints yet",
        ));
    }
    call.engine().start(call.name()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// The signal and the seconds of a stop or restart.
fn grace(call: &Call) -> Result<(Option<&str>, Option<i64>), Refusal> {
    let signal = call.query.said("signal").filter(|_| call.speaks(42));
    Ok((signal, call.query.number("t")?))
}

/// `POST /containers/{id}/stop`.
pub(crate) async fn stop(call: Call) -> Outcome {
    let (signal, seconds) = grace(&call)?;
    call.engine().stop(call.name(), signal, seconds).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/restart`.
pub(crate) async fn restart(call: Call) -> Outcome {
    let (signal, seconds) = grace(&call)?;
    call.engine().restart(call.name(), signal, seconds).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/kill`.
pub(crate) async fn kill(call: Call) -> Outcome {
    call.engine()
        .kill(call.name(), call.query.said("signal"))
        .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/update`.
pub(crate) async fn update(mut call: Call) -> Outcome {
    let mut request: UpdateRequest = call.json().await?;
    if !call.speaks(40) {
        request.resources.pids_limit = None;
    }
    let policy = request.restart_policy;
    let update = Update {
        resources: request.resources,
        restart_policy: (!policy.name.is_empty()).then_some(policy),
    };
    let warnings = call.engine().update(call.name(), update).await?;
    Ok(answer::ok(&UpdateResponse {
        warnings: (!warnings.is_empty()).then_some(warnings),
    }))
}

/// `POST /containers/{id}/rename`.
pub(crate) async fn rename(call: Call) -> Outcome {
    let name = call.query.get("name").unwrap_or_default();
    call.engine().rename(call.name(), name).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/pause`.
pub(crate) async fn pause(call: Call) -> Outcome {
    call.engine().pause(call.name()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/unpause`.
pub(crate) async fn unpause(call: Call) -> Outcome {
    call.engine().unpause(call.name()).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/wait`. The headers go out as soon as the waiter is registered: `docker
/// run` starts the container only after it has seen them.
pub(crate) async fn wait(call: Call) -> Outcome {
    let condition = match call.query.said("condition").filter(|_| call.speaks(30)) {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Refusal::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waiter = call.engine().wait(call.name(), condition).await?;
    let says_nothing_of_failure = condition == WaitCondition::Removed && !call.speaks(34);
    let body = async move {
        let outcome = waiter.outcome().await;
        let mut bytes = Vec::new();
        if outcome.error.is_none() || !says_nothing_of_failure {
            let response = WaitResponse {
                status_code: i64::from(outcome.code),
                error: outcome.error.map(|message| WaitError { message }),
            };
            render::line(&mut bytes, &response);
        }
        Ok(bytes.into())
    };
    let body = futures_util::stream::once(body);
    if call.speaks(30) {
        let stopping = call.daemon.stopping.clone();
        return Ok(answer::stream(
            "application/json",
            body.take_until(stopping.cancelled_owned()),
        ));
    }
    // Before, the headers came with the body.
    let gathered: Vec<_> = body.collect().await;
    Ok(answer::stream(
        "application/json",
        futures_util::stream::iter(gathered),
    ))
}

/// `DELETE /containers/{id}`.
pub(crate) async fn remove(call: Call) -> Outcome {
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
        link: call.query.flag("link"),
    };
    call.engine().remove(call.name(), options).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /containers/prune`.
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = prune_filters(&call, PRUNE_FILTERS)?;
    let pruned = call.engine().prune_containers(filters).await?;
    Ok(answer::ok(&ContainersPruned {
        containers_deleted: (!pruned.removed.is_empty()).then_some(pruned.removed),
        space_reclaimed: pruned.reclaimed_bytes,
    }))
}

/// The filters of a prune, with durations in `until` turned into moments: `24h` is a day ago.
pub(super) fn prune_filters(call: &Call, known: &[&str]) -> Result<engine::Filters, Refusal> {
    let mut filters = call.filters(known)?.into_map();
    for until in filters.get_mut("until").into_iter().flatten() {
        if let Some(ago) = parse_duration(until) {
            let now = std::time::SystemTime::now();
            let then = now.checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
            let since = then
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            *until = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
        }
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("24h", Some(86400.0)),
            ("1h30m", Some(5400.0)),
            ("1.5s", Some(1.5)),
            ("10ms", Some(0.01)),
            ("1700000000", None),
            ("2023-11-14T22:13:20Z", None),
            ("h", None),
            ("1x", None),
            ("", None),
        ] {
            let read = parse_duration(text).map(|duration| duration.as_secs_f64());
            assert_eq!(read, seconds, "{text}");
        }
    }
}
