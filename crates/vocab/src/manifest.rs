//! Manifests, indexes and descriptors of both schemes: OCI (image-spec 1.1) and Docker v2.2.
//!
//! They are read, never written back: the digest of a document is that of its exact bytes, so the
//! bytes are kept and these types only look into them. Unknown fields are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// Media types that berth understands.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, a plain tar; `+gzip` and `+zstd` follow when compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker manifest, schema 1, signed: refused.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether this is an index of either scheme.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }
}

/// What old builders call an image's configuration.
const VAGUE_CONFIGS: [&str; 3] = ["", "application/octet-stream", "application/json"];

/// What points at a blob (image-spec descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is; may be empty in old documents.
    #[serde(default)]
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it may be had (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, on the entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// One image: its configuration and its layers, lowest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// May be absent in OCI manifests.
    #[serde(default)]
    pub media_type: String,
    /// The image configuration.
    pub config: Descriptor,
    /// Layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name, one for each platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// May be absent in OCI indexes.
    #[serde(default)]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Whether it is that of an image, by its configuration, rather than of an artifact.
    pub fn is_image(&self) -> bool {
        let config = self.config.media_type.as_str();
        matches!(config, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
            || VAGUE_CONFIGS.contains(&config)
    }
}

impl Descriptor {
    /// Whether an entry of an index says that it is for no platform, as attestations do.
    pub fn is_for_nothing(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "unknown")
    }
}

impl Index {
    /// The entry that suits `wanted` best; attestations (`unknown/unknown`) never do.
    pub fn find_best(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .filter_map(|entry| {
                let rank = entry.platform.as_ref()?.rank_on(wanted)?;
                Some((rank, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }
}
