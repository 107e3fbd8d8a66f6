//! Load, save and import.

use std::io::{self, Read, Write};

use store::{Driver, Import, Loaded, NewImage, Store};
use vocab::{Digest, Failure, Kind, Platform};

use crate::scratch::{Scratch, Tar, chain, digest, gzip, reference};

/// A reader that is what a socket is: it gives little at a time and cannot seek.
struct Socket<'a>(&'a [u8]);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(1 + self.0.len() % 4096);
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn load(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>, Box<store::LoadError>> {
    store
        .load(&mut Socket(archive), &mut |_| {})
        .map_err(Box::new)
}

fn layer() -> Vec<u8> {
    Tar::new().file("hello", b"world").bytes()
}

fn config(diff_ids: &[&Digest]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["x"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))
    .unwrap()
}

/// An archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    files
        .iter()
        .fold(Tar::new(), |tar, (path, data)| tar.file(path, data))
        .bytes()
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(bytes).hex())
}

#[test]
fn privileged_an_archive_of_docker_save_is_loaded() {
    let layer = layer();
    let config = config(&[&digest(&layer), &digest(&layer)]);
    let manifest =
        br#"[{"Config":"c.json","RepoTags":["app:1","other/app:2"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    // The order is that of old Docker, with its links between equal layers.
    let plain = Tar::new()
        .file("a/VERSION", b"1.0")
        .file("a/layer.tar", &layer)
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("c.json", &config)
        .file("manifest.json", manifest)
        .file("repositories", b"{}")
        .bytes();
    for bytes in [
        plain.clone(),
        gzip(&plain),
        zstd::stream::encode_all(&plain[..], 1).unwrap(),
    ] {
        let scratch = Scratch::new(Driver::Overlay);
        let loaded = load(&scratch, &bytes).unwrap();
        let names = vec![reference("app:1"), reference("other/app:2")];
        assert_eq!(
            loaded,
            [Loaded {
                id: digest(&config),
                names,
                labels: Default::default()
            }]
        );
        let lower = scratch.mounted(&digest(&config));
        assert_eq!(std::fs::read(lower[1].join("hello")).unwrap(), b"world");
        assert!(scratch.names("ingest").is_empty());
    }
}

#[test]
fn privileged_an_oci_layout_is_loaded_with_its_manifest() {
    let layer = gzip(&layer());
    let config = config(&[&digest(&self::layer())]);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&layer), "size": layer.len() }],
    })
    .to_string();
    let attestation = b"{\"not\": \"for us\"}";
    let nested = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [
            { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(attestation), "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } },
            { "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest.as_bytes()), "size": manifest.len(), "platform": Platform::host() },
        ],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(nested.as_bytes()), "size": nested.len(),
            "annotations": { "io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1" },
        }],
    })
    .to_string();
    let stranger =
        b"a blob that is no layer, and longer than what could be a document: ".repeat(20);
    let bytes = archive(&[
        ("index.json", index.as_bytes()),
        (&blob(attestation), attestation),
        (&blob(&stranger), &stranger),
        (&blob(nested.as_bytes()), nested.as_bytes()),
        (&blob(&layer), &layer),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(&config), &config),
        ("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}"),
    ]);
    let scratch = Scratch::new(Driver::Overlay);
    let loaded = load(&scratch, &bytes).unwrap();
    assert_eq!(
        loaded,
        [Loaded {
            id: digest(&config),
            names: vec![reference("app:1")],
            labels: Default::default()
        }]
    );
    let image = scratch.find_image("app:1").unwrap();
    assert_eq!(
        image.manifest.as_ref().unwrap().digest,
        digest(manifest.as_bytes())
    );
    assert_eq!(image.layers[0].digest, digest(&layer));
    assert_eq!(scratch.manifest(&image).unwrap().bytes, manifest.as_bytes());
    // A second time finds everything there.
    assert_eq!(load(&scratch, &bytes).unwrap(), loaded);
}

#[test]
fn privileged_what_was_saved_is_loaded_again_byte_for_byte() {
    let first = Scratch::new(Driver::Overlay);
    let id = first.image(&[layer(), Tar::new().file("b", b"b").bytes()], "app:1");
    first.tag(&id, &reference("app:2")).unwrap();
    let other = first.image(&[layer()], "other");
    let save = |typed: &[&str]| {
        let typed: Vec<String> = typed.iter().map(|typed| (*typed).to_owned()).collect();
        let mut bytes = Vec::new();
        first.save(&typed, &mut bytes).map(|_| bytes)
    };
    let bytes = save(&["app", "other", id.hex()]).unwrap();
    assert_eq!(
        bytes,
        save(&["app", "other", id.hex()]).unwrap(),
        "the same twice"
    );

    let second = Scratch::new(Driver::Overlay);
    let loaded = load(&second, &bytes).unwrap();
    assert_eq!(
        loaded,
        [
            Loaded {
                id: id.clone(),
                names: vec![reference("app:1"), reference("app:2")],
                labels: Default::default()
            },
            Loaded {
                id: other,
                names: vec![reference("other")],
                labels: Default::default()
            },
        ]
    );
    let image = second.find_image("app:2").unwrap();
    let made = first.manifest(&first.find_image("app:2").unwrap()).unwrap();
    assert_eq!(image.manifest.as_ref().unwrap().digest, digest(&made.bytes));
    let again = {
        let mut bytes = Vec::new();
        let typed: Vec<String> = ["app", "other"].map(str::to_owned).to_vec();
        second.save(&typed, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(again, bytes);

    let error = save(&["app:1", "missing"]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "No such image: missing")
    );
    // By id only: no name goes along.
    let third = Scratch::new(Driver::Overlay);
    assert!(
        load(&third, &save(&[id.hex()]).unwrap()).unwrap()[0]
            .names
            .is_empty()
    );
}

#[test]
fn privileged_archives_that_are_none_are_refused_and_leave_nothing() {
    let layer = layer();
    let config = config(&[&digest(&layer)]);
    let wrong = self::config(&[&digest(b"other")]);
    let manifest = br#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#;
    let whole = archive(&[
        ("l.tar", &layer),
        ("c.json", &config),
        ("manifest.json", manifest),
    ]);
    let not_promised = archive(&[
        (&blob(b"something else"), &layer),
        ("c.json", &config),
        (
            "manifest.json",
            format!(
                r#"[{{"Config":"c.json","Layers":["{}"]}}]"#,
                blob(b"something else")
            )
            .as_bytes(),
        ),
    ]);
    for (bytes, expected) in [
        (
            layer.clone(),
            "invalid image archive: it has neither a manifest.json nor an index.json; a root tar is imported, not loaded",
        ),
        (vec![], "invalid image archive: it has neither"),
        (
            b"BZh91AY&SY".to_vec(),
            "read the image archive: decompression not finished",
        ),
        (vec![b'?'; 2048], "read the image archive: "),
        (whole[..700].to_vec(), "read the image archive: "),
        (
            archive(&[("c.json", &config), ("manifest.json", manifest)]),
            "invalid image archive: l.tar is missing",
        ),
        (
            archive(&[("l.tar", &layer), ("manifest.json", manifest)]),
            "invalid image archive: c.json is missing",
        ),
        (
            archive(&[("manifest.json", b"{\"no\": \"list\"}")]),
            "invalid image archive: manifest.json: invalid type: map",
        ),
        (
            archive(&[
                ("l.tar", &layer),
                ("c.json", &wrong),
                ("manifest.json", manifest),
            ]),
            "load image: the layers of image sha256:",
        ),
        (
            archive(&[
                ("l.tar", &[b'?'; 2048]),
                ("c.json", &config),
                ("manifest.json", manifest),
            ]),
            "load l.tar: layer from the stream is not a sound tar: ",
        ),
        (not_promised, "load blobs/sha256/"),
        (
            archive(&[
                ("l.tar", &layer),
                ("c.json", &vec![b'{'; 9 << 20]),
                ("manifest.json", manifest),
            ]),
            "invalid image archive: c.json is too large",
        ),
    ] {
        let scratch = Scratch::new(Driver::Overlay);
        let error = load(&scratch, &bytes).unwrap_err();
        assert!(
            chain(&*error).starts_with(expected),
            "{} for {expected}",
            chain(&*error)
        );
        assert_eq!(error.kind(), Kind::InvalidArgument, "{expected}");
        assert!(scratch.images().unwrap().is_empty());
        for below in ["ingest", "blobs/sha256", "layers/overlay"] {
            assert!(
                scratch.names(below).is_empty(),
                "{expected}: debris in {below}"
            );
        }
    }
}

#[test]
fn privileged_a_root_tar_is_imported_with_its_changes() {
    let scratch = Scratch::new(Driver::Overlay);
    let import = Import {
        message: String::new(),
        changes: vec!["CMD [\"/bin/sh\"]".to_owned(), "ENV A=b".to_owned()],
        platform: Platform::linux("amd64"),
    };
    for bytes in [layer(), gzip(&layer())] {
        let id = scratch
            .import(&mut Socket(&bytes), &import, Some(&reference("base")))
            .unwrap();
        let image = scratch.find_image("base").unwrap();
        assert_eq!(image.id, id);
        let run = image.config.config.as_ref().unwrap();
        assert_eq!(run.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(run.env.as_deref(), Some(&["A=b".to_owned()][..]));
        assert_eq!(image.config.history[0].comment, "Imported from -");
        assert_eq!(image.config.rootfs.diff_ids, [digest(&layer())]);
        assert_eq!(
            std::fs::read(scratch.mounted(&id)[0].join("hello")).unwrap(),
            b"world"
        );
    }
    let wrong = Import {
        changes: vec!["RUN x".to_owned()],
        ..import
    };
    let error = scratch
        .import(&mut Socket(&layer()), &wrong, None)
        .unwrap_err();
    assert_eq!(error.to_string(), "RUN is not a valid change command");
}

#[expect(clippy::disallowed_methods, reason = "the peer is a program")]
fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let mut command = std::process::Command::new(testkit::tool("skopeo"));
    let output = command
        .arg("--insecure-policy")
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {arguments:?}: {said}");
    output.stdout
}

/// What berth saves skopeo reads, as either kind; what skopeo writes berth loads.
#[test]
fn privileged_archives_go_to_skopeo_and_back() {
    let first = Scratch::new(Driver::Overlay);
    let layers = [layer(), Tar::new().file("b", b"b").bytes()].map(|tar| {
        let mut ingest = first.receive_layer(None, None, None).unwrap();
        ingest.receive(&gzip(&tar)).unwrap();
        ingest.commit().unwrap()
    });
    let config = crate::scratch::config(&layers);
    let names = vec![reference("app:1")];
    let image = NewImage {
        config,
        layers: layers.to_vec(),
        names,
        ..NewImage::default()
    };
    let id = first.put_image(image).unwrap();
    let at = |name: &str| first.path().join(name).display().to_string();
    let ours = at("ours.tar");
    let mut file = std::fs::File::create(&ours).unwrap();
    first.save(&["app:1".to_owned()], &mut file).unwrap();

    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{ours}:1")]);
    let manifest = first.manifest(&first.find_image("app:1").unwrap()).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&raw),
        String::from_utf8_lossy(&manifest.bytes)
    );

    let from_docker = format!("docker-archive:{ours}:app:1");
    let from_oci = format!("oci-archive:{ours}:1");
    // From one kind to the other skopeo rewrites the configuration, and with it the id.
    for (from, to) in [(&from_docker, "docker-archive"), (&from_oci, "oci-archive")] {
        let theirs = at(&format!("{to}.tar"));
        skopeo(&[
            "copy",
            from,
            &format!("{to}:{theirs}:docker.io/library/app:1"),
        ]);
        let second = Scratch::new(Driver::Overlay);
        let loaded = load(&second, &std::fs::read(&theirs).unwrap()).unwrap();
        assert_eq!(loaded[0].id, id, "{from} {to}");
        assert_eq!(loaded[0].names, [reference("app:1")], "{from} {to}");
        let lower = second.mounted(&id);
        assert_eq!(std::fs::read(lower[1].join("hello")).unwrap(), b"world");
    }
}

/// A tar as bzip2 and as xz, which no manifest has a name for.
fn foreign(tar: &[u8]) -> [Vec<u8>; 2] {
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(tar).unwrap();
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(tar).unwrap();
    [bzip2.finish().unwrap(), xz.finish().unwrap()]
}

#[test]
fn privileged_bzip2_and_xz_are_read_wherever_they_stand() {
    let tar = Tar::new().file("a", b"hello").bytes();
    for layer in foreign(&tar) {
        let scratch = Scratch::new(Driver::Overlay);
        // As a root tree …
        let import = Import {
            message: String::new(),
            changes: Vec::new(),
            platform: Platform::host(),
        };
        let id = scratch.import(&mut &layer[..], &import, None).unwrap();
        let image = scratch.find_image_by_id(&id).unwrap().unwrap();
        assert_eq!(image.config.rootfs.diff_ids, [digest(&tar)]);
        // … as a layer of an archive that is compressed itself.
        let config = image.raw_config;
        let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#;
        let plain = archive(&[
            ("l.tar", &layer),
            ("c.json", &config),
            ("manifest.json", manifest),
        ]);
        for bytes in foreign(&plain) {
            let scratch = Scratch::new(Driver::Overlay);
            assert_eq!(load(&scratch, &bytes).unwrap()[0].id, id);
            let lower = scratch.mounted(&id);
            assert_eq!(std::fs::read(lower[0].join("a")).unwrap(), b"hello");
            // What is given out again is the plain tar.
            let image = scratch.find_image("a:1").unwrap();
            assert_eq!(image.layers[0].digest, digest(&tar));
        }
    }
}

#[test]
fn privileged_an_archive_that_is_a_bomb_is_refused() {
    let layer = Tar::new().file("zeros", &vec![0; 65 << 20]).bytes();
    let plain = archive(&[("l.tar", &layer)]);
    for bytes in foreign(&plain).into_iter().chain([gzip(&plain)]) {
        let scratch = Scratch::new(Driver::Overlay);
        let error = load(&scratch, &bytes).unwrap_err();
        assert_eq!(
            chain(&*error),
            "read the image archive: it unpacks to more than 67108864 bytes, \
             refused as a decompression bomb"
        );
        assert!(scratch.names("ingest").is_empty());
    }
}

/// An OCI layout: an index of these documents, in which each may name the others.
fn layout(media_type: &str, root: &[u8], blobs: &[&[u8]]) -> Vec<u8> {
    let entry = serde_json::json!({
        "mediaType": media_type, "digest": digest(root), "size": root.len(),
    });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    let paths: Vec<String> = blobs.iter().map(|bytes| blob(bytes)).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("index.json", index.as_bytes())];
    files.extend(paths.iter().map(String::as_str).zip(blobs.iter().copied()));
    archive(&files)
}

#[test]
fn privileged_layouts_made_to_do_harm_are_refused_with_the_reason() {
    let layer = layer();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = |config: &[u8], more: &str| {
        serde_json::json!({
            "schemaVersion": 2, "mediaType": manifest_type, "annotations": { "x": more },
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(&layer), "size": layer.len(),
            }],
        })
        .to_string()
        .into_bytes()
    };
    // An index in an index in an index …
    let mut nested = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let mut indexes = vec![nested.clone()];
    for _ in 0..5 {
        nested = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{ "mediaType": index_type, "digest": digest(&nested), "size": nested.len() }],
        })
        .to_string()
        .into_bytes();
        indexes.push(nested.clone());
    }
    let indexes: Vec<&[u8]> = indexes.iter().map(Vec::as_slice).collect();
    // A configuration that names another layer, one layer too many, and one that is too large.
    let other = config(&[&digest(b"other")]);
    let two = config(&[&digest(&layer), &digest(&layer)]);
    let right = config(&[&digest(&layer)]);
    let large = manifest(&right, &"x".repeat(5 << 20));
    let of_other = manifest(&other, "");
    let of_two = manifest(&two, "");
    // A blob under another's name.
    let lie = manifest(&right, "");
    let mut lying = layout(manifest_type, &lie, &[&lie, &right, &layer]);
    let at = lying
        .windows(5)
        .position(|bytes| bytes == b"world")
        .unwrap();
    lying[at] = b'W';
    for (bytes, expected) in [
        (
            layout(index_type, &nested, &indexes),
            "invalid image archive: sha256:[..] is nested too deep",
        ),
        (
            layout(manifest_type, &of_other, &[&of_other, &other, &layer]),
            "load image: the layers of image sha256:[..] do not match its configuration: layer 0 is sha256:[..], and sha256:[..] is named",
        ),
        (
            layout(manifest_type, &of_two, &[&of_two, &two, &layer]),
            "load image: the layers of image sha256:[..] do not match its configuration: it names 2 layers, and there are 1",
        ),
        (
            layout(manifest_type, &large, &[&large, &right, &layer]),
            "load image: manifest of image sha256:[..] has [..] bytes, more than the 4194304 accepted",
        ),
        (
            lying,
            "load blobs/sha256/[..]: layer sha256:[..] has digest sha256:[..]",
        ),
    ] {
        let scratch = Scratch::new(Driver::Overlay);
        let error = load(&scratch, &bytes).unwrap_err();
        snapbox::assert_data_eq!(chain(&*error), expected);
        assert!(scratch.images().unwrap().is_empty());
        for below in ["ingest", "blobs/sha256", "layers/overlay"] {
            assert!(scratch.names(below).is_empty(), "debris in {below}");
        }
    }
}
