//! Images.

use api::Version;
use api::types::{
    DriverData, FileExplained, HistoryItem, ImageDamage, ImageDeleted, ImageExplained,
    ImageInspect, ImageMetadata, ImageRootFs, ImageRuns, ImageSummary, ImageVerified,
    LayerExplained,
};
use engine::explain::{Explained, LayerBlob, NamedFile, Verified};
use engine::images::{HistoryEntry, Image, RemovedImage};

use super::{bytes, count, moment, seconds};

/// One line of `docker images`; what is shared is told where it was asked for (`system df`).
pub(crate) fn image_summary(image: Image, version: Version) -> ImageSummary {
    let speaks = |minor| version >= Version::new(1, minor);
    let size = bytes(image.size_bytes);
    let none = |names: Vec<String>, placeholder: &str| {
        if names.is_empty() && !speaks(43) {
            vec![placeholder.to_owned()]
        } else {
            names
        }
    };
    let unnamed = image.tags.is_empty() && image.digests.is_empty();
    let (tags, digests) = if unnamed {
        (
            none(image.tags, "<none>:<none>"),
            none(image.digests, "<none>@<none>"),
        )
    } else {
        (image.tags, image.digests)
    };
    ImageSummary {
        containers: if speaks(51) || image.shared_bytes.is_some() {
            count(image.containers)
        } else {
            -1
        },
        created: image.created.map_or(0, seconds),
        id: image.id.to_string(),
        labels: image.config.config.and_then(|config| config.labels),
        parent_id: String::new(),
        descriptor: None,
        manifests: None,
        repo_digests: digests,
        repo_tags: tags,
        shared_size: image.shared_bytes.map_or(-1, bytes),
        size,
        virtual_size: if speaks(44) { 0 } else { size },
    }
}

/// Everything about one image.
pub(crate) fn image_inspect(image: Image, driver: String, version: Version) -> ImageInspect {
    let speaks = |minor| version >= Version::new(1, minor);
    let size = bytes(image.size_bytes);
    let config = image.config;
    // From 1.52 on what is empty is left out.
    let text = |text: String| (!text.is_empty() || !speaks(52)).then_some(text);
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.tags,
        repo_digests: image.digests,
        parent: text(String::new()),
        comment: text(config.comment.clone()),
        created: config.created.clone(),
        container: (!speaks(45)).then(String::new),
        container_config: (!speaks(45)).then(Default::default),
        docker_version: text(config.docker_version.clone()),
        author: text(config.author.clone()),
        config: config.config.clone().map(|runs| {
            if speaks(52) {
                ImageRuns::New(Box::new(runs.into()))
            } else if speaks(50) {
                ImageRuns::whole(&runs.into())
            } else {
                ImageRuns::Old(Box::new(runs))
            }
        }),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size,
        virtual_size: if speaks(44) { 0 } else { size },
        graph_driver: (!speaks(52)).then_some(DriverData {
            data: None,
            name: driver,
        }),
        root_fs: ImageRootFs {
            kind: "layers".to_owned(),
            layers: config
                .rootfs
                .diff_ids
                .iter()
                .map(ToString::to_string)
                .collect(),
        },
        metadata: ImageMetadata {
            last_tag_time: moment(image.last_tagged),
        },
        descriptor: None,
        manifests: None,
        identity: None,
    }
}

/// One step in an image's history.
pub(crate) fn history_item(entry: HistoryEntry) -> HistoryItem {
    HistoryItem {
        comment: entry.comment,
        created: entry.created.map_or(0, seconds),
        created_by: entry.created_by,
        id: entry
            .id
            .map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
        size: bytes(entry.size_bytes),
        tags: (!entry.tags.is_empty()).then_some(entry.tags),
    }
}

/// One thing that a removal did.
pub(crate) fn image_removed(removed: RemovedImage) -> ImageDeleted {
    match removed {
        RemovedImage::Untagged(untagged) => ImageDeleted {
            untagged,
            ..ImageDeleted::default()
        },
        RemovedImage::Deleted(deleted) => ImageDeleted {
            deleted,
            ..ImageDeleted::default()
        },
    }
}

/// What is in an image.
pub(crate) fn image_explained(
    image: Image,
    blobs: Vec<LayerBlob>,
    explained: Explained,
) -> ImageExplained {
    let file = |file: NamedFile| FileExplained {
        path: file.path,
        size: bytes(file.size_bytes),
        layer: count(file.layer),
    };
    let files = |files: Vec<NamedFile>| files.into_iter().map(file).collect();
    let mut steps = image.config.history.iter().filter(|step| !step.empty_layer);
    let layers = image
        .config
        .rootfs
        .diff_ids
        .iter()
        .zip(blobs)
        .zip(explained.layers)
        .map(|((diff_id, blob), layer)| LayerExplained {
            diff_id: diff_id.to_string(),
            digest: blob.digest.to_string(),
            media_type: blob.media_type,
            distributed: bytes(blob.size_bytes),
            size: bytes(layer.size_bytes),
            files: bytes(layer.files),
            wasted: bytes(layer.wasted_bytes),
            hides: bytes(layer.hides_bytes),
            created_by: steps
                .next()
                .map(|step| step.created_by.clone())
                .unwrap_or_default(),
        })
        .collect();
    ImageExplained {
        id: image.id.to_string(),
        platform: image.config.platform().to_string(),
        repo_tags: image.tags,
        size: bytes(image.size_bytes),
        wasted: bytes(explained.wasted_bytes),
        duplicate: bytes(explained.duplicate_bytes),
        layers,
        largest: files(explained.largest),
        wasted_files: files(explained.wasted),
        duplicates: explained.duplicates.into_iter().map(files).collect(),
    }
}

/// Whether an image is whole.
pub(crate) fn image_verified(image: &Image, verified: Verified) -> ImageVerified {
    ImageVerified {
        id: image.id.to_string(),
        bytes: bytes(verified.bytes),
        damage: verified
            .damage
            .into_iter()
            .map(|damage| ImageDamage {
                digest: damage.digest.to_string(),
                reason: damage.reason,
                mended: damage.mended,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use vocab::Digest;
    use vocab::config::ContainerConfig;
    use vocab::image::ImageConfig;

    use super::*;

    fn image() -> Image {
        Image {
            id: Digest::sha256(&[0; 32]),
            config: ImageConfig {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
                config: Some(ContainerConfig {
                    cmd: Some(vec!["sh".to_owned()]),
                    ..ContainerConfig::default()
                }),
                ..ImageConfig::default()
            },
            config_json: Vec::new(),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: 7,
            shared_bytes: None,
            created: None,
            last_tagged: None,
            containers: 2,
            target: None,
        }
    }

    fn summary(minor: u16) -> Value {
        serde_json::to_value(image_summary(image(), Version::new(1, minor))).unwrap()
    }

    fn inspect(minor: u16) -> Value {
        let shown = image_inspect(image(), "overlay".to_owned(), Version::new(1, minor));
        serde_json::to_value(shown).unwrap()
    }

    #[test]
    fn an_image_without_a_name_is_shown_in_the_words_of_the_version() {
        assert_eq!(summary(42)["RepoTags"][0], "<none>:<none>");
        assert_eq!(summary(42)["RepoDigests"][0], "<none>@<none>");
        assert_eq!(summary(43)["RepoTags"], serde_json::json!([]));
    }

    #[test]
    fn counts_and_sizes_follow_the_version() {
        assert_eq!(summary(50)["Containers"], -1);
        assert_eq!(summary(51)["Containers"], 2);
        assert_eq!(summary(43)["VirtualSize"], 7);
        assert_eq!(summary(44).get("VirtualSize"), None);
        assert_eq!(summary(55)["Labels"], Value::Null);
    }

    #[test]
    fn inspect_loses_what_newer_versions_dropped() {
        assert_eq!(inspect(44)["Container"], "");
        assert_eq!(inspect(45).get("Container"), None);
        assert_eq!(inspect(49)["Config"]["Hostname"], "");
        assert_eq!(inspect(51)["Config"]["Entrypoint"], Value::Null);
        assert_eq!(inspect(51)["Config"]["WorkingDir"], "");
        assert_eq!(inspect(51)["Config"].get("Hostname"), None);
        assert_eq!(inspect(52)["Config"], serde_json::json!({"Cmd": ["sh"]}));
        assert_eq!(inspect(51)["Author"], "");
        assert_eq!(inspect(52).get("Author"), None);
        assert_eq!(inspect(52).get("GraphDriver"), None);
    }
}
