//! Images and other things that registries hold: what is read, and what is refused with its name.

use std::sync::Arc;

use serde_json::{Value, json};
use testkit::Registry;
use testkit::image::{Compression, Image, Layer, compress, sha256, sha512, tar};
use vocab::{Failure, Kind, Platform};

use crate::stub::{Answer, Stub};
use crate::{Ask, Scratch, client, failed, pull, worked};

/// A layer as eStargz has it: each file in gzip members of its own, a table of contents as the last
/// file, and a footer that says where that begins.
fn estargz() -> Layer {
    let whole = tar(&[
        ("a/", b""),
        ("a/one", &[7; 5000]),
        ("a/two", b"two"),
        ("stargz.index.json", br#"{"version":1,"entries":[]}"#),
    ]);
    let mut blob = Vec::new();
    let mut at = 0;
    let mut last = 0;
    // Headers and contents of the files, in turn.
    for end in [512, 1024, 1024 + 5120, whole.len()] {
        last = blob.len();
        blob.extend(compress(&whole[at..end], Compression::Gzip));
        at = end;
    }
    let extra = format!("SG\x16\0{last:016x}STARGZ");
    let footer = flate2::GzBuilder::new()
        .extra(extra.into_bytes())
        .write(Vec::new(), flate2::Compression::none());
    blob.extend(footer.finish().unwrap());
    Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: sha256(&blob),
        diff_id: sha256(&whole),
        blob,
    }
}

/// What was pulled goes to another registry as it came.
async fn check_round(registry: &Registry, name: &str) {
    let (scratch, client, other) = (Scratch::new(), client(), Registry::start());
    let from = format!("{}/{name}", registry.address());
    let (pulled, _) = worked(pull(&client, &scratch, &from, Ask::default()).await);
    let stored = scratch.store.find_image(&from).unwrap();
    let target = format!("{}/{name}", other.address()).parse().unwrap();
    let (sender, _told) = tokio::sync::mpsc::channel(64);
    let store = Arc::clone(&scratch.store);
    let pushed = client
        .push(store, stored, &target, false, None, sender)
        .await;
    assert_eq!(pushed.unwrap(), pulled.digest);
    let (repository, tag) = name.split_once(':').unwrap();
    assert_eq!(
        other.manifest(repository, tag),
        registry.manifest(repository, tag)
    );
}

#[tokio::test]
async fn layers_of_many_gzip_members_are_pulled_and_pushed_as_they_are() {
    let registry = Registry::start();
    let config = json!({ "Cmd": ["sh"] });
    let image = Image::with_config(vec![estargz()], &Platform::host(), &config);
    registry.push("app", "1", &image);
    check_round(&registry, "app:1").await;
}

#[tokio::test]
async fn layers_that_skopeo_makes_for_partial_pulls_are_pulled_and_pushed_as_they_are() {
    let registry = Registry::start();
    let files = tar(&[("a/", b""), ("a/one", &[7; 50_000]), ("a/two", b"two")]);
    let image = Image::new(&[(files, Compression::Gzip)], &Platform::host());
    registry.push("app", "1", &image);
    for format in ["zstd:chunked", "zstd"] {
        let repository = format.replace(':', "-");
        let name = |repository: &str| format!("docker://{}/{repository}:1", registry.address());
        #[expect(clippy::disallowed_methods, reason = "skopeo is a program")]
        let output = std::process::Command::new(testkit::tool("skopeo"))
            .args(["--insecure-policy", "copy", "-q", "--format", "oci"])
            .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--dest-compress-format", format])
            .arg("--dest-force-compress-format")
            .args([name("app"), name(&repository)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let manifest = registry.manifest(&repository, "1");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = &manifest["layers"][0];
        assert!(
            layer["mediaType"].as_str().unwrap().ends_with("+zstd"),
            "{layer}"
        );
        let chunked =
            layer["annotations"]["io.github.containers.zstd-chunked.manifest-position"].is_string();
        assert_eq!(chunked, format != "zstd", "{layer}");
        check_round(&registry, &format!("{repository}:1")).await;
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_its_type() {
    let registry = Registry::start();
    let content = registry.push_blob("app", b"{}");
    let descriptor =
        |media_type: &str| json!({ "mediaType": media_type, "digest": content, "size": 2 });
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    for (tag, config, artifact, told) in [
        (
            "chart",
            "application/vnd.cncf.helm.config.v1+json",
            None,
            "application/vnd.cncf.helm.config.v1+json",
        ),
        (
            "artifact",
            "application/vnd.oci.empty.v1+json",
            Some("application/vnd.example.sbom"),
            "application/vnd.example.sbom",
        ),
        (
            "module",
            "application/vnd.wasm.config.v0+json",
            None,
            "application/vnd.wasm.config.v0+json",
        ),
    ] {
        let mut document = json!({
            "schemaVersion": 2, "mediaType": manifest,
            "config": descriptor(config), "layers": [descriptor("application/octet-stream")],
        });
        if let Some(artifact) = artifact {
            document["artifactType"] = artifact.into();
        }
        let bytes = serde_json::to_vec(&document).unwrap();
        registry.push_manifest("app", tag, manifest, &bytes);
        let scratch = Scratch::new();
        let name = format!("{}/app:{tag}", registry.address());
        let (error, text) = failed(pull(&client(), &scratch, &name, Ask::default()).await);
        assert!(text.contains(&name) && text.contains(told), "{text}");
        assert_eq!(error.kind(), Kind::NotImplemented, "{text}");
        scratch.check_no_debris();
    }
}

/// No registry of today takes such a manifest, so nothing real can hand it out.
#[tokio::test]
async fn images_of_schema_1_are_refused_and_the_way_out_is_told() {
    let document = r#"{"schemaVersion":1,"name":"app","tag":"1","architecture":"amd64","fsLayers":[],"history":[]}"#;
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/json",
    ] {
        let registry = Stub::start(move |asked| {
            let body = if asked.target == "/v2/" {
                "{}"
            } else {
                document
            };
            Answer::new(200, body).with("Content-Type", media_type.to_owned())
        });
        let scratch = Scratch::new();
        let name = format!("{}/app:1", registry.address());
        let (_, text) = failed(pull(&client(), &scratch, &name, Ask::default()).await);
        assert!(
            text.contains("schema 1") && text.contains("push it again with a current tool"),
            "{text}"
        );
        scratch.check_no_debris();
    }
}

/// Debian's registry knows SHA-256 only, so what stands here is a stub's.
#[tokio::test]
async fn an_image_comes_by_sha512_throughout() {
    let layers = [(tar(&[("a", b"long")]), Compression::Gzip)];
    let image = Image::new(&layers, &Platform::host());
    let mut manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let blobs = [&image.config, &image.layers[0].blob];
    for blob in blobs {
        let (short, long) = (sha256(blob).to_string(), sha512(blob).to_string());
        manifest = manifest.replace(&short, &long);
    }
    let kept: Vec<(String, Vec<u8>)> = blobs
        .into_iter()
        .chain([&manifest.clone().into_bytes()])
        .map(|bytes| (sha512(bytes).to_string(), bytes.clone()))
        .collect();
    let media_type = image.media_type.clone();
    let whole = manifest.clone();
    let stub = Stub::start(move |asked| {
        let (_, last) = asked.target.rsplit_once('/').unwrap();
        match kept.iter().find(|(digest, _)| digest == last) {
            Some((_, bytes)) if asked.is_blob() => Answer::new(200, bytes.as_slice()),
            Some((digest, bytes)) => Answer::new(200, bytes.as_slice())
                .with("Content-Type", &media_type)
                .with("Docker-Content-Digest", digest),
            None if last == "spoilt" => Answer::new(200, whole.replace("long", "other"))
                .with("Content-Type", &media_type)
                .with("Docker-Content-Digest", sha512(b"").to_string()),
            None => crate::stub::unknown("MANIFEST_UNKNOWN"),
        }
    });
    let (scratch, client) = (Scratch::new(), client());
    let digest = sha512(manifest.as_bytes());
    let name = format!("{}/app@{digest}", stub.address());
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.digest, digest);
    let found = scratch.store.find_image(&name).unwrap();
    assert_eq!(
        found.config.rootfs.diff_ids,
        [image.layers[0].diff_id.clone()]
    );
    // What is not of its digest is none.
    let other = format!("{}/app@{}", stub.address(), sha512(b"nothing"));
    failed(pull(&client, &scratch, &other, Ask::default()).await);
    let spoilt = format!("{}/app:spoilt", stub.address());
    failed(pull(&client, &scratch, &spoilt, Ask::default()).await);
}
