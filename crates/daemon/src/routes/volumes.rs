//! Volumes.

use api::types::{VolumeCreate, VolumeList, VolumesPruned};
use engine::volumes::CreateVolume;
use http::StatusCode;

use super::Outcome;
use super::containers::prune_filters;
use crate::answer;
use crate::call::Call;
use crate::render;

/// Keys that the list's `filters` may have.
const LIST_FILTERS: &[&str] = &["dangling", "driver", "label", "name"];

/// Keys that a prune's `filters` may have.
const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

/// `GET /volumes`.
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters(LIST_FILTERS)?.into_map();
    let found = call.engine().list_volumes(filters).await?;
    Ok(answer::ok(&VolumeList {
        volumes: found.into_iter().map(render::volume).collect(),
        warnings: None,
    }))
}

/// `POST /volumes/create`.
pub(crate) async fn create(mut call: Call) -> Outcome {
    let request: VolumeCreate = call.json().await?;
    let wanted = CreateVolume {
        name: request.name,
        driver: request.driver,
        options: request.driver_opts.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    };
    let volume = call.engine().create_volume(wanted).await?;
    Ok(answer::json(StatusCode::CREATED, &render::volume(volume)))
}

/// `GET /volumes/{name}`.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let volume = call.engine().inspect_volume(call.name()).await?;
    Ok(answer::ok(&render::volume(volume)))
}

/// `DELETE /volumes/{name}`.
pub(crate) async fn remove(call: Call) -> Outcome {
    call.engine()
        .remove_volume(call.name(), call.query.flag("force"))
        .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `POST /volumes/prune`. Before 1.42 volumes with names went too.
pub(crate) async fn prune(call: Call) -> Outcome {
    let mut filters = prune_filters(&call, PRUNE_FILTERS)?;
    if !call.speaks(42) {
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
    }
    let pruned = call.engine().prune_volumes(filters).await?;
    Ok(answer::ok(&VolumesPruned {
        volumes_deleted: (!pruned.removed.is_empty()).then_some(pruned.removed),
        space_reclaimed: pruned.reclaimed_bytes,
    }))
}
