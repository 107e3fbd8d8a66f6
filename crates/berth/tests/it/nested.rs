//! Indexes that lead to more than images: indexes in them, artifacts, large attestations. What comes
//! with all of it leaves with all of it.

use std::process::Command;

use serde_json::{Value, json};
use testkit::image::{Compression, Image, sha256, tar};
use testkit::{Registry, tool};
use vocab::manifest::media_type;
use vocab::{Digest, Platform};

use crate::client::CLIENTS;
use crate::host::Host;

/// More than is held in memory of such things.
const LARGE_BYTES: usize = 9 << 20;

/// What a repository holds.
struct Made<'a> {
    registry: &'a Registry,
    /// Every manifest and index, with its bytes.
    documents: Vec<(Digest, Vec<u8>)>,
    blobs: Vec<(Digest, usize)>,
}

impl Made<'_> {
    fn document(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = sha256(&bytes);
        self.registry
            .push_manifest("from", &digest.to_string(), media_type, &bytes);
        let size = bytes.len();
        self.documents.push((digest.clone(), bytes));
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        });
        self.document(media_type::OCI_INDEX, &index)
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = self.registry.push_blob("from", bytes);
        self.blobs.push((digest.clone(), bytes.len()));
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Something of a type of its own.
    fn artifact(&mut self, config: &str, content: &[u8]) -> Value {
        let config = self.blob(config, b"{}");
        let content = self.blob("text/plain", content);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": [content],
        });
        self.document(media_type::OCI_MANIFEST, &manifest)
    }

    /// An image for this host.
    fn image(&mut self) -> Value {
        let files = tar(&[("greeting", b"hello")]);
        let image = Image::new(&[(files, Compression::Gzip)], &Platform::host());
        let digest = image.digest();
        self.registry.push("from", &digest.to_string(), &image);
        self.documents
            .push((digest.clone(), image.manifest.clone()));
        json!({
            "mediaType": image.media_type, "digest": digest, "size": image.manifest.len(),
            "platform": Platform::host(),
        })
    }

    /// An artifact of text, and an attestation of the image that is larger than a document may be.
    fn beside(&mut self, image: &Value) -> [Value; 2] {
        let text = "neither JSON nor a tar\n".repeat(500);
        let artifact = self.artifact("application/vnd.example.notes", text.as_bytes());
        let statement = json!({ "predicate": "x".repeat(LARGE_BYTES) }).to_string();
        let mut said = self.artifact(media_type::OCI_CONFIG, statement.as_bytes());
        said["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        said["annotations"] = json!({
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        });
        [artifact, said]
    }

    /// Tags the document that was made last; answers its digest.
    fn tag(&self, tag: &str) -> Digest {
        let (digest, bytes) = self.documents.last().unwrap();
        self.registry
            .push_manifest("from", tag, media_type::OCI_INDEX, bytes);
        digest.clone()
    }

    /// Everything is in another repository too.
    #[track_caller]
    fn check(&self, repository: &str) {
        for (digest, bytes) in &self.documents {
            let there = self.registry.manifest(repository, &digest.to_string());
            assert_eq!(there, *bytes, "{digest}");
        }
        for (digest, size) in &self.blobs {
            let at = format!("/v2/{repository}/blobs/{digest}");
            let reply = self.registry.request("GET", &at, None, b"");
            assert_eq!((reply.status, reply.body.len()), (200, *size), "{digest}");
            assert_eq!(sha256(&reply.body), *digest);
        }
    }
}

fn made(registry: &Registry) -> Made<'_> {
    Made {
        registry,
        documents: Vec::new(),
        blobs: Vec::new(),
    }
}

fn skopeo(args: &[&str]) {
    let output = Command::new(tool("skopeo"))
        .args([
            "--insecure-policy",
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
        ])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
}

#[test]
fn privileged_indexes_in_indexes_and_artifacts_leave_as_they_came() {
    for client in CLIENTS {
        let (host, registry) = (Host::empty(), Registry::start());
        let mut made = made(&registry);
        let image = made.image();
        let [artifact, said] = made.beside(&image);
        let mut inner = made.index(&[image, said]);
        inner["platform"] = json!(Platform::host());
        let other = made.artifact("application/vnd.example.more", b"more");
        let others = made.index(&[other]);
        made.index(&[inner, artifact, others]);
        let digest = made.tag("1");

        let to = |repository: &str| format!("{}/{repository}:1", registry.address());
        let pulled = client.run(&host, &["pull", &to("from")]);
        let pulled = pulled.ok();
        assert!(!pulled.contains("left out"), "{pulled}");
        client.run(&host, &["tag", &to("from"), &to("pushed")]).ok();
        client.run(&host, &["push", "-q", &to("pushed")]).ok();
        made.check("pushed");
        assert_eq!(sha256(&registry.manifest("pushed", "1")), digest);

        let file = host.path().join("saved.tar").display().to_string();
        client
            .run(&host, &["save", "-o", &file, &to("pushed")])
            .ok();
        host.berth(&["rmi", "-f", &to("from"), &to("pushed")]).ok();
        host.berth(&["image", "prune", "-af"]).ok();
        client.run(&host, &["load", "-i", &file]).ok();
        client
            .run(&host, &["tag", &to("pushed"), &to("loaded")])
            .ok();
        client.run(&host, &["push", "-q", &to("loaded")]).ok();
        made.check("loaded");
        assert_eq!(sha256(&registry.manifest("loaded", "1")), digest);
        host.berth(&["rmi", "-f", &to("pushed"), &to("loaded")])
            .ok();
    }
}

#[test]
fn privileged_what_skopeo_copies_in_with_artifacts_it_copies_out_again() {
    let (host, registry) = (Host::empty(), Registry::start());
    let mut made = made(&registry);
    let image = made.image();
    let [artifact, said] = made.beside(&image);
    made.index(&[image, artifact, said]);
    let digest = made.tag("1");
    let to = |repository: &str| format!("{}/{repository}:1", registry.address());
    let file = |name: &str| host.path().join(name).display().to_string();
    let copied = format!("oci-archive:{}:{}", file("copied.tar"), to("copied"));
    let from = format!("docker://{}", to("from"));
    skopeo(&["--src-tls-verify=false", &from, &copied]);
    host.berth(&["load", "-i", &file("copied.tar")]).ok();
    host.berth(&["push", &to("copied")]).ok();
    made.check("copied");
    host.berth(&["save", "-o", &file("saved.tar"), &to("copied")])
        .ok();
    let saved = format!("oci-archive:{}", file("saved.tar"));
    let again = format!("docker://{}", to("again"));
    skopeo(&["--dest-tls-verify=false", &saved, &again]);
    made.check("again");
    assert_eq!(sha256(&registry.manifest("again", "1")), digest);
}

#[test]
fn privileged_what_is_too_much_beside_an_image_is_named() {
    let (host, registry) = (Host::empty(), Registry::start());
    let mut made = made(&registry);
    let image = made.image();
    let large = 300_u64 << 20;
    let config = made.blob("application/vnd.example.notes", b"{}");
    let digest = sha256(b"never sent");
    let layer = json!({ "mediaType": "text/plain", "digest": digest, "size": large });
    // A registry that checks what a manifest names would refuse it: it has to be somewhere else.
    let mut layer = layer;
    layer["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    layer["urls"] = json!(["http://127.0.0.1:1/"]);
    let artifact = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": config, "layers": [layer],
    });
    let artifact = made.document(media_type::OCI_MANIFEST, &artifact);
    let left_out = artifact["digest"].as_str().unwrap().to_owned();
    made.index(&[image, artifact]);
    made.tag("1");
    let name = format!("{}/from:1", registry.address());
    let pulled = host.berth(&["pull", &name]);
    let pulled = pulled.ok();
    let told = format!("{left_out} of the index was left out: with its ");
    assert!(pulled.contains(&told), "{pulled}");
}
