//! What the names of an image point at.

use api::types::{
    AttestationData, AttestationStatement, Identity, ImageManifestData, ImageManifestSize,
    ImageManifestSummary, PullIdentity, UnpackedSize,
};
use engine::images::Image;
use engine::manifests::{ImageManifest, ManifestKind, Statement, Target};

use super::bytes;

/// The manifests of an image; where it came from stands with each that is an image.
pub(crate) fn manifests(target: &Target, origin: Option<&Identity>) -> Vec<ImageManifestSummary> {
    let all = target.manifests.iter();
    all.map(|one| manifest(one, origin)).collect()
}

fn manifest(one: &ImageManifest, origin: Option<&Identity>) -> ImageManifestSummary {
    let mut summary = ImageManifestSummary {
        id: one.descriptor.digest.to_string(),
        descriptor: one.descriptor.clone(),
        available: one.available,
        size: ImageManifestSize {
            total: bytes(one.content_bytes),
            content: bytes(one.content_bytes),
        },
        kind: "unknown".to_owned(),
        image_data: None,
        attestation_data: None,
    };
    match &one.kind {
        ManifestKind::Image {
            platform,
            containers,
            unpacked_bytes,
        } => {
            "image".clone_into(&mut summary.kind);
            summary.size.total += bytes(*unpacked_bytes);
            summary.image_data = Some(ImageManifestData {
                platform: platform.clone(),
                identity: origin.cloned(),
                containers: containers.clone(),
                size: UnpackedSize {
                    unpacked: bytes(*unpacked_bytes),
                },
            });
        }
        ManifestKind::Attestation(image) => {
            "attestation".clone_into(&mut summary.kind);
            summary.attestation_data = Some(AttestationData {
                image: image.to_string(),
            });
        }
        ManifestKind::Unknown => {}
    }
    summary
}

/// Where an image came from or went to, if it did.
pub(crate) fn identity(image: &Image) -> Option<Identity> {
    let repositories = image.digests.iter().filter_map(|name| name.split_once('@'));
    let mut pull: Vec<PullIdentity> = repositories
        .filter_map(|(name, _)| name.parse::<vocab::Reference>().ok())
        .map(|name| PullIdentity {
            repository: name.repository(),
        })
        .collect();
    pull.dedup();
    (!pull.is_empty()).then_some(Identity { pull })
}

/// A statement about an image.
pub(crate) fn attestation(statement: Statement) -> AttestationStatement {
    AttestationStatement {
        descriptor: statement.descriptor,
        predicate_type: statement.predicate_type,
        statement: statement
            .statement
            .and_then(|bytes| serde_json::from_slice(&bytes).ok()),
    }
}
