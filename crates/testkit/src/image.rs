//! Layers, images and archives, built in memory, the same bytes every time.

use std::io::Write;
use std::process::Command;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use vocab::manifest::media_type;
use vocab::{Digest, Platform};

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As a plain tar.
    Plain,
    /// As gzip, what nearly every image uses.
    Gzip,
    /// As zstd.
    Zstd,
}

/// A layer as it travels.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What its manifest calls it.
    pub media_type: String,
    /// The bytes that travel.
    pub blob: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The digest of the tar inside.
    pub diff_id: Digest,
}

/// An image whose documents are OCI's.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// What the manifest is.
    pub media_type: String,
    /// What it is for.
    pub platform: Platform,
}

/// The digest of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    let digest = digest(&SHA256, bytes);
    Digest::sha256(digest.as_ref().try_into().unwrap())
}

/// The longer digest of some bytes.
pub fn sha512(bytes: &[u8]) -> Digest {
    let digest = digest(&SHA512, bytes);
    let digits: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha512:{digits}").parse().unwrap()
}

/// A tar with these files; a path that ends in `/` is a directory.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let directory = path.ends_with('/');
        let mut header = header(if directory {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The root of a small system: static busybox with all its names, `/etc/passwd`, `/tmp`, `/root`.
pub fn busybox_tar() -> Vec<u8> {
    let program = crate::tool("busybox");
    #[expect(clippy::disallowed_methods, reason = "it is asked for its names once")]
    let listed = Command::new(&program).arg("--list").output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("var/", 0o755),
    ] {
        let mut header = header(tar::EntryType::Directory);
        header.set_mode(mode);
        tar.append_data(&mut header, path, &[][..]).unwrap();
    }
    for (path, mode, content) in [
        ("bin/busybox", 0o755, std::fs::read(&program).unwrap()),
        (
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home:/bin/sh\n".to_vec(),
        ),
        ("etc/group", 0o644, b"root:x:0:\nann:x:1000:\n".to_vec()),
    ] {
        let mut header = header(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    for name in names.lines().filter(|name| *name != "busybox") {
        let mut header = header(tar::EntryType::Symlink);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image of busybox that runs `sh`.
pub fn busybox() -> Image {
    Image::new(&[(busybox_tar(), Compression::Gzip)], &Platform::host())
}

/// Compresses `tar` as it is to travel.
pub fn compress(tar: &[u8], how: Compression) -> Vec<u8> {
    match how {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// The smallest gzip that there is of these bytes.
pub fn gzip_best(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Layer {
    /// A tar, compressed as it is to travel.
    pub fn new(tar: &[u8], how: Compression) -> Self {
        let blob = compress(tar, how);
        Self {
            media_type: match how {
                Compression::Plain => media_type::OCI_LAYER.to_owned(),
                Compression::Gzip => format!("{}+gzip", media_type::OCI_LAYER),
                Compression::Zstd => format!("{}+zstd", media_type::OCI_LAYER),
            },
            digest: sha256(&blob),
            diff_id: sha256(tar),
            blob,
        }
    }
}

impl Image {
    /// An image of these tars, lowest first, that runs `sh`.
    pub fn new(layers: &[(Vec<u8>, Compression)], platform: &Platform) -> Self {
        let layers = layers
            .iter()
            .map(|(tar, how)| Layer::new(tar, *how))
            .collect();
        let config = json!({
            "Cmd": ["sh"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        });
        Self::with_config(layers, platform, &config)
    }

    /// An image of these layers whose containers run as `config` says (Docker's field names).
    pub fn with_config(layers: Vec<Layer>, platform: &Platform, config: &Value) -> Self {
        let mut document = json!({
            "created": "2026-01-02T03:04:05Z",
            "architecture": platform.architecture,
            "os": platform.os,
            "config": config,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
            "history": layers
                .iter()
                .map(|_| json!({"created": "2026-01-02T03:04:05Z", "created_by": "testkit"}))
                .collect::<Vec<_>>(),
        });
        if !platform.variant.is_empty() {
            document["variant"] = json!(platform.variant);
        }
        let config = serde_json::to_vec(&document).unwrap();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": media_type::OCI_CONFIG,
                "digest": sha256(&config),
                "size": config.len(),
            },
            "layers": layers
                .iter()
                .map(|layer| json!({
                    "mediaType": layer.media_type,
                    "digest": layer.digest,
                    "size": layer.blob.len(),
                }))
                .collect::<Vec<_>>(),
        });
        Self {
            manifest: serde_json::to_vec(&manifest).unwrap(),
            media_type: media_type::OCI_MANIFEST.to_owned(),
            platform: platform.clone(),
            config,
            layers,
        }
    }

    /// The same image in Docker's own types, as `docker push` makes it.
    #[must_use]
    pub fn docker(mut self) -> Self {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        manifest["mediaType"] = json!(media_type::DOCKER_MANIFEST);
        manifest["config"]["mediaType"] = json!(media_type::DOCKER_CONFIG);
        for (entry, layer) in manifest["layers"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .zip(&mut self.layers)
        {
            media_type::DOCKER_LAYER.clone_into(&mut layer.media_type);
            entry["mediaType"] = json!(layer.media_type);
        }
        self.manifest = serde_json::to_vec(&manifest).unwrap();
        media_type::DOCKER_MANIFEST.clone_into(&mut self.media_type);
        self
    }

    /// The image's id: the digest of its configuration.
    pub fn id(&self) -> Digest {
        sha256(&self.config)
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }

    /// As `docker save` writes it, under these names.
    pub fn docker_archive(&self, names: &[&str]) -> Vec<u8> {
        let config_name = format!("{}.json", self.id().hex());
        let mut layer_names = Vec::new();
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, content: &[u8]| {
            let mut header = header(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content).unwrap();
        };
        for layer in &self.layers {
            let name = format!("{}/layer.tar", layer.diff_id.hex());
            add(&name, &layer.blob);
            layer_names.push(name);
        }
        add(&config_name, &self.config);
        let manifest = json!([{ "Config": config_name, "RepoTags": names, "Layers": layer_names }]);
        add("manifest.json", &serde_json::to_vec(&manifest).unwrap());
        tar.into_inner().unwrap()
    }
}

/// An OCI index of these images.
pub fn index(images: &[&Image]) -> Vec<u8> {
    let entries: Vec<Value> = images
        .iter()
        .map(|image| {
            json!({
                "mediaType": image.media_type,
                "digest": image.digest(),
                "size": image.manifest.len(),
                "platform": image.platform,
            })
        })
        .collect();
    serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
    }))
    .unwrap()
}

fn header(kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_767_323_045);
    header
}
