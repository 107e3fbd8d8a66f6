//! Images of several platforms with what a builder says about them, as an index, an OCI layout, and
//! in a registry.

use serde_json::{Value, json};
use vocab::manifest::media_type;
use vocab::{Digest, Platform};

use crate::Registry;
use crate::image::{Image, Layer, sha256};

/// An index and everything that it leads to, as `docker buildx build` makes it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The index.
    pub index: Vec<u8>,
    /// The images, and after each its attestation, if it has one.
    pub members: Vec<Image>,
}

impl Built {
    /// These images, each with an attestation of its origin.
    pub fn attested(images: &[Image]) -> Self {
        let pairs = images.iter().map(|image| {
            let statement = json!({
                "_type": "https://in-toto.io/Statement/v0.1",
                "predicateType": "https://slsa.dev/provenance/v0.2",
                "subject": [{ "name": "_", "digest": { "sha256": image.digest().hex() } }],
                "predicate": { "buildType": "testkit" },
            });
            (image.clone(), attestation(&statement.to_string()))
        });
        let pairs: Vec<(Image, Image)> = pairs.collect();
        let mut entries: Vec<Value> = pairs
            .iter()
            .map(|(image, _)| entry(image, &json!(image.platform)))
            .collect();
        entries.extend(pairs.iter().map(|(image, said)| {
            let mut entry = entry(said, &json!({ "os": "unknown", "architecture": "unknown" }));
            entry["annotations"] = json!({
                "vnd.docker.reference.digest": image.digest(),
                "vnd.docker.reference.type": "attestation-manifest",
            });
            entry
        }));
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        });
        Self {
            index: serde_json::to_vec(&index).unwrap(),
            members: pairs.into_iter().flat_map(|(a, b)| [a, b]).collect(),
        }
    }

    /// The digest of the index.
    pub fn digest(&self) -> Digest {
        sha256(&self.index)
    }

    /// An OCI layout as a tar, with the index under a full name.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |bytes: &[u8]| {
            let path = format!("blobs/sha256/{}", sha256(bytes).hex());
            if files.iter().all(|(known, _)| *known != path) {
                files.push((path, bytes.to_vec()));
            }
        };
        for image in &self.members {
            for layer in &image.layers {
                add(&layer.blob);
            }
            add(&image.config);
            add(&image.manifest);
        }
        add(&self.index);
        let outer = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": media_type::OCI_INDEX,
            "digest": self.digest(),
            "size": self.index.len(),
            "annotations": { "io.containerd.image.name": name },
        }]});
        files.push(("index.json".to_owned(), serde_json::to_vec(&outer).unwrap()));
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        files.push(("oci-layout".to_owned(), layout.to_vec()));
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect();
        crate::image::tar(&files)
    }

    /// Puts it into a repository under a tag.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Digest {
        for member in &self.members {
            registry.push(repository, &member.digest().to_string(), member);
        }
        registry.push_manifest(repository, tag, media_type::OCI_INDEX, &self.index)
    }
}

fn entry(image: &Image, platform: &Value) -> Value {
    json!({
        "mediaType": image.media_type,
        "digest": image.digest(),
        "size": image.manifest.len(),
        "platform": platform,
    })
}

/// An attestation: an image in form only, whose layer is a statement.
fn attestation(statement: &str) -> Image {
    let layer = Layer {
        media_type: "application/vnd.in-toto+json".to_owned(),
        blob: statement.as_bytes().to_vec(),
        digest: sha256(statement.as_bytes()),
        diff_id: sha256(statement.as_bytes()),
    };
    let platform = Platform {
        os: "unknown".to_owned(),
        architecture: "unknown".to_owned(),
        ..Platform::linux("unknown")
    };
    let mut image = Image::with_config(vec![layer], &platform, &Value::Null);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["annotations"] = json!({
        "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2",
    });
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    image
}
