//! What a manifest turns out to be, and whether berth can run it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use store::limits::LAYERS;
use vocab::image::ImageConfig;
use vocab::manifest::{Descriptor, Index, Manifest, media_type};
use vocab::{Digest, Reference};

use super::PullError;
use super::session::Document;
use super::transport::clean;

/// A document that was understood.
#[derive(Clone, Debug)]
pub(super) enum Understood {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// The fields that tell the kinds apart.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Probe {
    schema_version: u32,
    media_type: String,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

impl Document {
    /// What the document calls itself, or what the registry calls it.
    pub(super) fn media_type(&self) -> String {
        let probe: Probe = serde_json::from_slice(&self.bytes).unwrap_or_default();
        if !probe.media_type.is_empty() {
            return probe.media_type;
        }
        if is_known(&self.content_type) {
            return self.content_type.clone();
        }
        match probe.manifests {
            Some(_) => media_type::OCI_INDEX.to_owned(),
            None => media_type::OCI_MANIFEST.to_owned(),
        }
    }

    /// Reads it. A document that could be read as two kinds is neither (CVE-2021-41190).
    pub(super) fn understand(&self, reference: &Reference) -> Result<Understood, PullError> {
        let malformed = |reason: String| PullError::Malformed {
            what: "manifest",
            digest: self.digest.clone(),
            reason,
        };
        let unreadable = |error: serde_json::Error| malformed(error.to_string());
        let probe: Probe = serde_json::from_slice(&self.bytes).map_err(unreadable)?;
        if self.content_type.starts_with(SCHEMA1_PREFIX) || probe.schema_version == 1 {
            return Err(PullError::Schema1 {
                reference: reference.familiar(),
            });
        }
        if probe.schema_version != 2 {
            return Err(malformed(format!(
                "its schema version is {}",
                probe.schema_version
            )));
        }
        let declared = probe.media_type.as_str();
        if is_known(declared) && is_known(&self.content_type) && declared != self.content_type {
            return Err(malformed(format!(
                "it calls itself `{declared}`, and the registry calls it `{}`",
                self.content_type
            )));
        }
        let media_type = self.media_type();
        if !is_known(&media_type) {
            return Err(PullError::Artifact {
                reference: reference.familiar(),
                media_type: clean(&media_type, 200),
            });
        }
        let single = probe.config.is_some() || probe.layers.is_some();
        if media_type::is_index(&media_type) {
            if single {
                return Err(malformed("it is an index and an image at once".to_owned()));
            }
            serde_json::from_slice(&self.bytes)
                .map(Understood::Index)
                .map_err(unreadable)
        } else {
            if probe.manifests.is_some() {
                return Err(malformed("it is an image and an index at once".to_owned()));
            }
            serde_json::from_slice(&self.bytes)
                .map(|manifest| Understood::Manifest(Box::new(manifest)))
                .map_err(unreadable)
        }
    }
}

const SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1+";

fn is_known(media_type: &str) -> bool {
    media_type::is_index(media_type)
        || matches!(
            media_type,
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST
        )
}

/// Whether a manifest is that of an image that can be unpacked.
pub(super) fn check_image(
    manifest: &Manifest,
    digest: &Digest,
    reference: &Reference,
) -> Result<(), PullError> {
    let config = manifest.config.media_type.as_str();
    if !manifest.is_image() {
        let declared = manifest.artifact_type.as_deref().unwrap_or(config);
        return Err(PullError::Artifact {
            reference: reference.familiar(),
            media_type: clean(declared, 200),
        });
    }
    if manifest.layers.len() > LAYERS {
        return Err(PullError::Malformed {
            what: "manifest",
            digest: digest.clone(),
            reason: format!("it has more than {LAYERS} layers"),
        });
    }
    match manifest.layers.iter().find(|layer| !is_layer(layer)) {
        None => Ok(()),
        Some(other) => Err(PullError::LayerType {
            digest: other.digest.clone(),
            media_type: clean(&other.media_type, 200),
        }),
    }
}

/// A tar, plain or compressed in a way that the store reads.
fn is_layer(layer: &Descriptor) -> bool {
    let oci = |prefix: &str| {
        layer
            .media_type
            .strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd"))
    };
    oci(media_type::OCI_LAYER)
        || oci("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || matches!(
            layer.media_type.as_str(),
            media_type::DOCKER_LAYER
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                | "application/octet-stream"
                | ""
        )
}

/// Reads a configuration; its layers must be as many as the manifest has.
pub(super) fn read_config(bytes: &[u8], manifest: &Manifest) -> Result<ImageConfig, PullError> {
    let malformed = |reason: String| PullError::Malformed {
        what: "image configuration",
        digest: manifest.config.digest.clone(),
        reason,
    };
    let config: ImageConfig =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let (named, there) = (config.rootfs.diff_ids.len(), manifest.layers.len());
    if named != there {
        return Err(malformed(format!(
            "it names {named} layers, and the manifest has {there}"
        )));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn understand(content_type: &str, json: &str) -> Result<Understood, String> {
        let json = json.replace("DIGEST", DIGEST).replace('\'', "\"");
        let document = Document {
            content_type: content_type.to_owned(),
            bytes: json.into_bytes(),
            digest: DIGEST.parse().unwrap(),
        };
        let understood = document.understand(&"x".parse().unwrap());
        understood.map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_refused(content_type: &str, json: &str, reason: &str) {
        let error = understand(content_type, json).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    const MANIFEST: &str = "{'schemaVersion':2,'config':{'digest':'DIGEST','size':1}}";
    const INDEX: &str = "{'schemaVersion':2,'manifests':[]}";

    #[test]
    fn a_document_is_what_it_says_or_what_the_registry_says() {
        use media_type::*;
        for content_type in [OCI_MANIFEST, DOCKER_MANIFEST, "", "application/json"] {
            let read = understand(content_type, MANIFEST);
            assert!(matches!(read, Ok(Understood::Manifest(_))), "{read:?}");
        }
        for content_type in [OCI_INDEX, DOCKER_LIST, "", "text/plain"] {
            let read = understand(content_type, INDEX);
            assert!(matches!(read, Ok(Understood::Index(_))), "{read:?}");
        }
    }

    #[test]
    fn a_document_of_two_kinds_is_neither() {
        use media_type::*;
        let both = "{'schemaVersion':2,'manifests':[],'config':{'digest':'DIGEST','size':1}}";
        check_refused(OCI_MANIFEST, both, "at once");
        check_refused(OCI_INDEX, both, "at once");
        check_refused(OCI_INDEX, MANIFEST, "at once");
        let declared = format!("{{'schemaVersion':2,'mediaType':'{OCI_INDEX}','manifests':[]}}");
        check_refused(OCI_MANIFEST, &declared, "the registry calls it");
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        check_refused(
            media_type::DOCKER_SCHEMA1,
            "{'schemaVersion':1,'fsLayers':[]}",
            "schema 1",
        );
        check_refused("", "{'schemaVersion':1}", "schema 1");
        check_refused("", "{'schemaVersion':3}", "schema version is 3");
        check_refused("", "{", "malformed");
        check_refused("", "[]", "malformed");
        check_refused(
            "",
            "{'schemaVersion':2,'mediaType':'application/vnd.oci.artifact.manifest.v1+json'}",
            "artifact of type",
        );
    }

    #[test]
    fn an_artifact_is_told_from_an_image() {
        let json = MANIFEST.replace("DIGEST", DIGEST).replace('\'', "\"");
        let mut manifest: Manifest = serde_json::from_str(&json).unwrap();
        let reference = "x".parse().unwrap();
        let digest = DIGEST.parse().unwrap();
        assert!(check_image(&manifest, &digest, &reference).is_ok());
        manifest.config.media_type = "application/vnd.cncf.helm.config.v1+json".to_owned();
        let error = check_image(&manifest, &digest, &reference).unwrap_err();
        assert!(error.to_string().contains("helm"), "{error}");
        manifest.config.media_type = media_type::OCI_CONFIG.to_owned();
        let mut layer = manifest.config.clone();
        layer.media_type = format!("{}+gzip+encrypted", media_type::OCI_LAYER);
        manifest.layers.push(layer);
        let error = check_image(&manifest, &digest, &reference).unwrap_err();
        assert!(error.to_string().contains("encrypted"), "{error}");
    }
}
