//! Images that are here: listed, shown, named, removed.

use api::types::{CommitResponse, ImagesPruned};
use engine::export::Commit;
use engine::images::ListImages;
use http::StatusCode;
use registry::Credentials;
use serde::Serialize;
use vocab::config::ContainerConfig;
use vocab::manifest::Descriptor;
use vocab::{Platform, Reference};

use super::Outcome;
use super::containers::prune_filters;
use super::transfer::{platform, platforms};
use crate::answer::{self, Refusal};
use crate::call::Call;
use crate::render;

/// Keys that the list's `filters` may have.
const LIST_FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

/// Keys that a prune's `filters` may have.
const PRUNE_FILTERS: &[&str] = &["dangling", "label", "label!", "until"];

/// `GET /images/json`.
pub(crate) async fn list(call: Call) -> Outcome {
    let mut filters = call.filters(LIST_FILTERS)?;
    // The old spelling of the reference filter.
    if !call.speaks(25)
        && let Some(filter) = call.query.said("filter")
    {
        filters.add("reference", filter);
    }
    let options = ListImages {
        all: call.query.flag("all"),
        filters: filters.into_map(),
        shared: call.query.flag("shared-size"),
        targets: call.speaks(47),
    };
    let manifests = call.query.flag("manifests");
    let identity = call.query.flag("identity") && call.speaks(53);
    let found = call.engine().list_images(options).await?;
    let list: Vec<_> = found
        .into_iter()
        .map(|image| {
            let origin = identity.then(|| render::identity(&image)).flatten();
            let target = image.target.clone();
            let mut summary = render::image_summary(image, call.version);
            if let Some(target) = target {
                if manifests {
                    let all = render::manifests(&target, origin.as_ref());
                    // Who sees the parts expects their sum.
                    summary.size = all.iter().map(|one| one.size.total).sum();
                    summary.manifests = Some(all);
                }
                summary.descriptor = call.speaks(48).then_some(target.descriptor);
            }
            summary
        })
        .collect();
    Ok(answer::ok(&list))
}

/// `GET /images/{name}/json`.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let driver = call.daemon.storage_driver.clone();
    let platform = platform(&call)?.filter(|_| call.speaks(49));
    let manifests = call.query.flag("manifests") && call.speaks(48);
    if manifests && platform.is_some() {
        let both = "conflicting options: manifests and platform options cannot both be set";
        return Err(Refusal::invalid(both));
    }
    let image = call
        .engine()
        .inspect_image(call.name(), platform.as_ref())
        .await?;
    let origin = render::identity(&image).filter(|_| call.speaks(53));
    let id = image.id.to_string();
    let mut shown = render::image_inspect(image, driver, call.version);
    if call.speaks(48) {
        let target = call.engine().image_target(&id).await?;
        shown.manifests = manifests.then(|| render::manifests(&target, origin.as_ref()));
        shown.descriptor = Some(target.descriptor);
    }
    shown.identity = origin;
    Ok(answer::ok(&shown))
}

/// `GET /images/{name}/attestations`.
pub(crate) async fn attestations(call: Call) -> Outcome {
    let mut platforms = platforms(&call, "platform")?;
    if platforms.len() > 1 {
        return Err(Refusal::invalid("only one platform may be specified"));
    }
    let kinds = call.query.all("type").map(str::to_owned).collect();
    let found = call.engine().image_statements(
        call.name(),
        platforms.pop(),
        kinds,
        call.query.flag("statement"),
    );
    let list: Vec<_> = found.await?.into_iter().map(render::attestation).collect();
    Ok(answer::ok(&list))
}

/// `GET /images/{name}/history`.
pub(crate) async fn history(call: Call) -> Outcome {
    let platform = platform(&call)?.filter(|_| call.speaks(48));
    let entries = call
        .engine()
        .image_history(call.name(), platform.as_ref())
        .await?;
    let items: Vec<_> = entries.into_iter().map(render::history_item).collect();
    Ok(answer::ok(&items))
}

/// `POST /images/{name}/tag`.
pub(crate) async fn tag(call: Call) -> Outcome {
    let repository = call.query.get("repo").unwrap_or_default();
    let name = name_with_tag(repository, call.query.said("tag"))?.or_latest();
    call.engine().tag_image(call.name(), &name).await?;
    Ok(answer::empty(StatusCode::CREATED))
}

/// A repository and a tag, as clients send them apart.
pub(super) fn name_with_tag(repository: &str, tag: Option<&str>) -> Result<Reference, Refusal> {
    let name: Reference = repository.parse().map_err(unreadable)?;
    match tag {
        None => Ok(name),
        // A digest may stand where a tag does.
        Some(digest) if digest.contains(':') => {
            format!("{repository}@{digest}").parse().map_err(unreadable)
        }
        Some(tag) => name.with_tag(tag).map_err(unreadable),
    }
}

/// Docker's words for a name that is none.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unreadable(error: vocab::reference::ParseReferenceError) -> Refusal {
    Refusal::invalid(error.to_string())
}

/// `DELETE /images/{name}`.
pub(crate) async fn remove(call: Call) -> Outcome {
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    let platforms = match call.speaks(50) {
        true => platforms(&call, "platforms")?,
        false => Vec::new(),
    };
    let removed = call
        .engine()
        .remove_image_for(call.name(), &platforms, force, no_prune)
        .await?;
    let list: Vec<_> = removed.into_iter().map(render::image_removed).collect();
    Ok(answer::ok(&list))
}

/// `POST /images/prune`.
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = prune_filters(&call, PRUNE_FILTERS)?;
    let (removed, pruned) = call.engine().prune_images(filters).await?;
    let list: Vec<_> = removed.into_iter().map(render::image_removed).collect();
    Ok(answer::ok(&ImagesPruned {
        images_deleted: (!list.is_empty()).then_some(list),
        space_reclaimed: pruned.reclaimed_bytes,
    }))
}

/// `GET /images/{name}/explain`, berth's own.
pub(crate) async fn explain(call: Call) -> Outcome {
    let (image, blobs, explained) = call.engine().explain_image(call.name()).await?;
    Ok(answer::ok(&render::image_explained(
        image, blobs, explained,
    )))
}

/// `POST /images/{name}/verify`, berth's own.
pub(crate) async fn verify(call: Call) -> Outcome {
    let (image, verified) = call.engine().verify_image(call.name()).await?;
    Ok(answer::ok(&render::image_verified(&image, verified)))
}

/// `POST /commit`.
pub(crate) async fn commit(mut call: Call) -> Outcome {
    let config: Option<ContainerConfig> = match call.header("content-type") {
        Some(_) => call.json().await?,
        None => None,
    };
    let container = call.query.said("container").unwrap_or_default().to_owned();
    let name = match call.query.said("repo") {
        Some(repository) => Some(name_with_tag(repository, call.query.said("tag"))?.or_latest()),
        None => None,
    };
    let text = |key: &str| call.query.get(key).unwrap_or_default().to_owned();
    let wanted = Commit {
        name,
        author: text("author"),
        comment: text("comment"),
        pause: call.query.flag_or("pause", true),
        // Clients send one instruction each, or several as lines.
        changes: call
            .query
            .all("changes")
            .flat_map(str::lines)
            .filter(|change| !change.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        config,
    };
    let id = call.engine().commit(&container, wanted).await?;
    let id = id.to_string();
    Ok(answer::json(StatusCode::CREATED, &CommitResponse { id }))
}

/// What a name points at in its registry.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Distribution {
    descriptor: Descriptor,
    platforms: Vec<Platform>,
}

/// `GET /distribution/{name}/json`.
pub(crate) async fn distribution(call: Call) -> Outcome {
    let name = call
        .name()
        .parse::<Reference>()
        .map_err(unreadable)?
        .or_latest();
    let credentials = credentials(&call);
    let resolved = call
        .daemon
        .told
        .registry()
        .resolve(&name, credentials.as_ref())
        .await?;
    Ok(answer::ok(&Distribution {
        descriptor: resolved.descriptor,
        platforms: resolved.platforms,
    }))
}

/// What the client proves itself with. A broken header means anonymous, as in Docker.
pub(super) fn credentials(call: &Call) -> Option<Credentials> {
    let header = call.header("x-registry-auth")?;
    Credentials::from_header(header).unwrap_or_else(|error| {
        tracing::debug!(%error, "X-Registry-Auth cannot be read; the request goes on without it");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_and_tag_come_apart() {
        let name = |repository, tag| name_with_tag(repository, tag).map(|name| name.familiar());
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(name("a", None).unwrap(), "a");
        assert_eq!(name("h:1/a/b", Some("c")).unwrap(), "h:1/a/b:c");
        assert_eq!(name("a:old", Some("new")).unwrap(), "a:new");
        assert_eq!(name("a", Some(&digest)).unwrap(), format!("a@{digest}"));
        assert!(name("A", None).is_err());
        assert!(name("a", Some("b c")).is_err());
    }
}
