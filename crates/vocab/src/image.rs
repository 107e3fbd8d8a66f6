//! The image configuration: what berth reads in it.
//!
//! The bytes are the image's id and are stored as they came; this type only looks into them.
//! (`oci-spec`'s own type would lose `Healthcheck`, `OnBuild`, `Shell` and unknown keys.)

use serde::{Deserialize, Serialize};

use crate::config::ContainerConfig;
use crate::{Digest, Platform};

/// An image configuration (image-spec config.md, with Docker's additions).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// CPU architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system in Go's words.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Comment of the last commit or import.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Docker version that built it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// How containers of it run.
    #[serde(default)]
    pub config: Option<ContainerConfig>,
    /// The layers by the digest of their uncompressed tar, lowest first.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How each layer came to be, oldest first.
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed tars, lowest first.
    #[serde(default, deserialize_with = "crate::config::null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// One step in an image's history.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step left no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// The platform that the image says it is for.
    pub fn platform(&self) -> Platform {
        let mut platform = Platform::linux(&self.architecture);
        if !self.os.is_empty() {
            platform.os.clone_from(&self.os);
        }
        platform.variant.clone_from(&self.variant);
        platform
    }
}
