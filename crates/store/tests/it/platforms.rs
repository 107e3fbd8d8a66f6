//! Images of several platforms under one name.

use store::{Driver, Image, Removed, Store};
use vocab::{Digest, Platform};

use crate::scratch::{Scratch, Tar, digest};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn platform(architecture: &str) -> Platform {
    Platform::linux(architecture)
}

/// The architecture of this host, and another.
fn architectures() -> [String; 2] {
    let own = Platform::host().architecture;
    let other = if own == "s390x" { "riscv64" } else { "s390x" };
    [own, other.to_owned()]
}

/// An OCI layout of one index that leads to an image for each architecture, and the index.
fn layout(architectures: &[String]) -> (Vec<u8>, Digest) {
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let mut members = Vec::new();
    for architecture in architectures {
        let layer = Tar::new()
            .file("architecture", architecture.as_bytes())
            .bytes();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        })
        .to_string()
        .into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(&layer), "size": layer.len(),
            }],
        })
        .to_string()
        .into_bytes();
        members.push(serde_json::json!({
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
        blobs.extend([layer, config, manifest]);
    }
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": members });
    let index = index.to_string().into_bytes();
    let outer = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": INDEX, "digest": digest(&index), "size": index.len(),
        "annotations": { "io.containerd.image.name": "docker.io/library/multi:1" },
    }]});
    let named = digest(&index);
    blobs.push(index);
    let mut tar = Tar::new();
    for blob in &blobs {
        tar = tar.file(&format!("blobs/sha256/{}", digest(blob).hex()), blob);
    }
    let tar = tar
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", outer.to_string().as_bytes());
    (tar.bytes(), named)
}

fn load(store: &Store, archive: &[u8]) {
    store.load(&mut &*archive, &mut |_| {}).unwrap();
}

fn architecture(image: &Image) -> &str {
    &image.config.architecture
}

#[test]
fn privileged_every_platform_of_an_index_is_kept_under_its_name() {
    let [own, other] = architectures();
    // Whichever comes last, the name means the one for this host.
    for order in [[own.clone(), other.clone()], [other.clone(), own.clone()]] {
        let mut scratch = Scratch::new(Driver::Overlay);
        load(&scratch, &layout(&order).0);
        scratch.reopen();
        assert_eq!(architecture(&scratch.find_image("multi:1").unwrap()), own);
        let listed = scratch.images().unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        for wanted in [&own, &other] {
            let found = scratch
                .find_image_for("multi:1", &platform(wanted))
                .unwrap();
            assert_eq!(architecture(&found), wanted);
            let lower = scratch.mounted(&found.id);
            let content = std::fs::read_to_string(lower[0].join("architecture")).unwrap();
            assert_eq!(content, *wanted);
        }
        let refused = scratch
            .find_image_for("multi:1", &platform("mips64le"))
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "image with reference multi:1 was found but its platform (linux/{own}) does not \
                 match the specified platform (linux/mips64le)"
            )
        );
    }
}

#[test]
fn privileged_all_platforms_go_with_the_last_name() {
    let scratch = Scratch::new(Driver::Overlay);
    load(&scratch, &layout(&architectures()).0);
    let removed = scratch.remove_image("multi:1", false, false, &|_| Vec::new());
    let deleted = removed.unwrap();
    let deleted = deleted
        .iter()
        .filter(|one| matches!(one, Removed::Deleted(_)));
    assert_eq!(deleted.count(), 4, "two images of a layer each");
    assert!(scratch.names("blobs/sha256").is_empty());
    assert!(scratch.names("layers/overlay").is_empty());
}

#[test]
fn privileged_all_platforms_are_saved_and_loaded_with_the_same_digests() {
    let first = Scratch::new(Driver::Overlay);
    let (archive, index) = layout(&architectures());
    load(&first, &archive);
    let mut saved = Vec::new();
    first.save(&["multi:1".to_owned()], &mut saved).unwrap();
    let second = Scratch::new(Driver::Overlay);
    load(&second, &saved);
    let mut names = (first.names("blobs/sha256"), second.names("blobs/sha256"));
    names.0.sort();
    names.1.sort();
    assert_eq!(names.0, names.1);
    assert!(
        names.1.contains(&index.hex().to_owned()),
        "the index itself"
    );
    for wanted in architectures() {
        let found = second
            .find_image_for("multi:1", &platform(&wanted))
            .unwrap();
        assert_eq!(architecture(&found), wanted);
    }
}
