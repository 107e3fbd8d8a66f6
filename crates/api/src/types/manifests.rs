//! What the names of an image point at.

use serde::{Deserialize, Serialize};
use vocab::Platform;
use vocab::manifest::Descriptor;

/// A manifest of an image, and what of it is here (API 1.47).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageManifestSummary {
    /// Its digest.
    #[serde(rename = "ID")]
    pub id: String,
    /// What points at it.
    pub descriptor: Descriptor,
    /// Whether everything that it names is here.
    pub available: bool,
    /// Bytes.
    pub size: ImageManifestSize,
    /// `image`, `attestation` or `unknown`.
    pub kind: String,
    /// Of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_data: Option<ImageManifestData>,
    /// Of an attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_data: Option<AttestationData>,
}

/// What of a manifest is here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageManifestSize {
    /// Everything.
    pub total: i64,
    /// As distributed.
    pub content: i64,
}

/// An image of one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageManifestData {
    /// What it is for.
    pub platform: Platform,
    /// Where it came from (API 1.53, if asked for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Ids of the containers made of it.
    pub containers: Vec<String>,
    /// Bytes.
    pub size: UnpackedSize,
}

/// What an image occupies for its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UnpackedSize {
    /// Of its files.
    pub unpacked: i64,
}

/// What an attestation is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttestationData {
    /// Digest of the image's manifest.
    #[serde(rename = "For")]
    pub image: String,
}

/// Where an image came from (API 1.53).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Identity {
    /// The repositories it was pulled from or pushed to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull: Vec<PullIdentity>,
}

/// A repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PullIdentity {
    /// With its domain.
    pub repository: String,
}

/// A statement about an image (API 1.55).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AttestationStatement {
    /// The blob it stands in.
    pub descriptor: Descriptor,
    /// Which kind of statement it is.
    pub predicate_type: String,
    /// The statement, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<serde_json::Value>,
}
