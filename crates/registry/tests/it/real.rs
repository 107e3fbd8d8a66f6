//! Against Debian's `docker-registry`.

use std::sync::Arc;

use registry::{Config, Credentials, LayerState, Progress};
use testkit::Registry;
use testkit::image::{Compression, Image, tar};
use testkit::registry::{CERTIFICATE, PASSWORD, USER};
use tokio::sync::mpsc;
use vocab::failure::chain;
use vocab::manifest::media_type;
use vocab::{Failure, Kind, Platform, Reference};

use crate::{Ask, Scratch, client, client_with, failed, pull, steps, worked};

/// Three layers, one for each way to travel.
fn image() -> Image {
    image_for("linux/amd64")
}

fn image_for(platform: &str) -> Image {
    let platform: Platform = platform.parse().unwrap();
    let content = vec![7; 300_000];
    Image::new(
        &[
            (
                tar(&[("a/", b""), ("a/gzip", platform.to_string().as_bytes())]),
                Compression::Gzip,
            ),
            (
                tar(&[("a/", b""), ("a/plain", content.as_slice())]),
                Compression::Plain,
            ),
            (tar(&[("a/", b""), ("a/zstd", b"z")]), Compression::Zstd),
        ],
        &platform,
    )
}

#[tokio::test]
async fn an_image_is_pulled_with_all_its_bytes_and_names() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let image = image();
    registry.push("some/app", "v1", &image);
    let name = format!("{}/some/app:v1", registry.address());
    let (pulled, told) = worked(pull(&client, &scratch, &name, Ask::default()).await);

    assert_eq!((&pulled.id, &pulled.digest), (&image.id(), &image.digest()));
    assert!(!pulled.up_to_date);
    let found = scratch.store.find_image(&name).unwrap();
    assert_eq!(found.raw_config, image.config);
    assert_eq!(found.names, [name.parse::<Reference>().unwrap()]);
    let by_digest = format!("{}/some/app@{}", registry.address(), image.digest());
    assert_eq!(found.digests, [by_digest.parse::<Reference>().unwrap()]);
    let manifest = found.manifest.unwrap();
    assert_eq!(
        (manifest.media_type.as_str(), manifest.digest),
        (media_type::OCI_MANIFEST, image.digest())
    );

    assert_eq!(
        told.first(),
        Some(&Progress::PullingFrom {
            repository: "some/app".to_owned(),
            tag: "v1".to_owned()
        })
    );
    assert_eq!(told.last(), Some(&Progress::Digest(image.digest())));
    for layer in &image.layers {
        assert_eq!(
            steps(&told, layer.digest.short()),
            [
                "Pulling fs layer",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete"
            ]
        );
    }
}

#[tokio::test]
async fn a_second_pull_asks_only_for_the_digest() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let image = image();
    registry.push("app", "latest", &image);
    let name = format!("{}/app", registry.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    let before = registry.log().len();
    let (pulled, told) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert!(pulled.up_to_date);
    assert_eq!(told.last(), Some(&Progress::Digest(image.digest())));
    let log = registry.log();
    assert!(!log[before..].contains("GET /v2/"), "{}", &log[before..]);
    assert!(log[before..].contains("HEAD /v2/app/manifests/latest"));
}

#[tokio::test]
async fn a_tag_that_moved_is_pulled_again_and_known_layers_are_not() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let first = image();
    registry.push("app", "latest", &first);
    let name = format!("{}/app", registry.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    let mut layers = first.layers.clone();
    layers.extend(
        Image::new(
            &[(tar(&[("new", b"n")]), Compression::Gzip)],
            &Platform::host(),
        )
        .layers,
    );
    let second = Image::with_config(layers, &Platform::host(), &serde_json::json!({}));
    registry.push("app", "latest", &second);
    let (pulled, told) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!((&pulled.id, pulled.up_to_date), (&second.id(), false));
    assert_eq!(scratch.store.find_image(&name).unwrap().id, second.id());
    for layer in &first.layers {
        assert_eq!(steps(&told, layer.digest.short()), ["Already exists"]);
    }
}

#[tokio::test]
async fn docker_types_and_digests_are_understood() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let layer = (tar(&[("a", b"b")]), Compression::Gzip);
    let image = Image::new(&[layer], &Platform::host()).docker();
    let digest = registry.push("app", "v1", &image);
    let name = format!("{}/app@{digest}", registry.address());
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!((pulled.id, pulled.digest), (image.id(), digest));
    let found = scratch.store.find_image(&name).unwrap();
    assert!(found.names.is_empty(), "{:?}", found.names);
}

#[tokio::test]
async fn a_layer_that_is_there_twice_is_fetched_once() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let layer = (tar(&[("a", b"b")]), Compression::Gzip);
    let image = Image::new(&[layer.clone(), layer], &Platform::host());
    registry.push("app", "latest", &image);
    let name = format!("{}/app", registry.address());
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    let found = scratch.store.find_image_by_id(&pulled.id).unwrap().unwrap();
    assert_eq!(found.layers.len(), 2);
    let log = registry.log();
    let asked = format!("GET /v2/app/blobs/{}", image.layers[0].digest);
    assert_eq!(log.matches(&asked).count(), 1, "{log}");
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform_that_is_wanted() {
    let (registry, client) = (Registry::start(), client());
    let (amd64, arm64) = (image_for("linux/amd64"), image_for("linux/arm64"));
    let digest = registry.push_index("app", "latest", &[&arm64, &amd64]);
    let name = format!("{}/app", registry.address());
    for (platform, image) in [("linux/amd64", &amd64), ("linux/arm64", &arm64)] {
        let scratch = Scratch::new();
        let ask = Ask {
            platform: Some(platform),
            ..Ask::default()
        };
        let (pulled, _) = worked(pull(&client, &scratch, &name, ask).await);
        assert_eq!((&pulled.id, &pulled.digest), (&image.id(), &digest));
    }
    let scratch = Scratch::new();
    let host = match std::env::consts::ARCH {
        "aarch64" => &arm64,
        _ => &amd64,
    };
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, host.id());

    let scratch = Scratch::new();
    let ask = Ask {
        platform: Some("linux/s390x"),
        ..Ask::default()
    };
    let (error, text) = failed(pull(&client, &scratch, &name, ask).await);
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        text,
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    scratch.check_no_debris();
}

#[tokio::test]
async fn the_one_image_there_is_may_be_of_another_platform() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    registry.push("app", "latest", &image_for("linux/s390x"));
    let name = format!("{}/app", registry.address());
    let ask = Ask {
        platform: Some("linux/amd64"),
        ..Ask::default()
    };
    let (error, text) = failed(pull(&client, &scratch, &name, ask).await);
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(text.contains("(linux/s390x) does not match the specified platform (linux/amd64)"));
    // Who asks for none in particular gets it, as from Docker.
    worked(pull(&client, &scratch, &name, Ask::default()).await);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_dockers_words() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    registry.push("app", "latest", &image());
    let address = registry.address();
    // This registry says the same of a repository that it has never heard of.
    for name in ["app:nope", "nobody:latest"] {
        let name = format!("{address}/{name}");
        let (error, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            text,
            format!("manifest for {name} not found: manifest unknown: manifest unknown")
        );
    }
    scratch.check_no_debris();
}

#[tokio::test]
async fn a_protected_registry_wants_the_right_password() {
    let (registry, scratch, client) = (Registry::start_protected(), Scratch::new(), client());
    let image = image();
    registry.push("app", "latest", &image);
    let address = registry.address();
    let name = format!("{address}/app");

    let (error, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(text.ends_with("no basic auth credentials"), "{text}");

    let wrong = Credentials::password(USER, "wrong");
    let ask = Ask {
        credentials: Some(&wrong),
        ..Ask::default()
    };
    let (error, text) = failed(pull(&client, &scratch, &name, ask).await);
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(text, "unauthorized: authentication required");
    scratch.check_no_debris();

    let right = Credentials::password(USER, PASSWORD);
    let ask = Ask {
        credentials: Some(&right),
        ..Ask::default()
    };
    let (pulled, _) = worked(pull(&client, &scratch, &name, ask).await);
    assert_eq!(pulled.id, image.id());

    assert_eq!(
        client.check(address, &right).await.unwrap().identity_token,
        None
    );
    let error = client.check(address, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(
        chain(&error),
        format!(
            "login attempt to http://{address}/v2/ failed with status: 401 Unauthorized: \
             unauthorized: authentication required"
        )
    );
}

#[tokio::test]
async fn a_name_is_resolved_without_its_layers() {
    let (registry, client) = (Registry::start(), client());
    let (amd64, arm64) = (image_for("linux/amd64"), image_for("linux/arm64"));
    let digest = registry.push_index("app", "all", &[&amd64, &arm64]);
    registry.push("app", "one", &arm64);
    let resolve = |tag: &str| {
        let reference: Reference = format!("{}/app:{tag}", registry.address()).parse().unwrap();
        let client = &client;
        async move { client.resolve(&reference, None).await.unwrap() }
    };
    let all = resolve("all").await;
    assert_eq!(all.descriptor.digest, digest);
    assert_eq!(all.descriptor.media_type, media_type::OCI_INDEX);
    assert_eq!(
        all.platforms,
        [Platform::linux("amd64"), Platform::linux("arm64")]
    );
    let one = resolve("one").await;
    assert_eq!(one.descriptor.digest, arm64.digest());
    assert_eq!(one.descriptor.size, arm64.manifest.len() as u64);
    assert_eq!(one.platforms, [Platform::linux("arm64")]);
}

#[tokio::test]
async fn a_pull_goes_on_when_nobody_listens() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let image = image();
    registry.push("app", "latest", &image);
    let reference = format!("{}/app", registry.address()).parse().unwrap();
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let store = Arc::clone(&scratch.store);
    let pulled = client.pull(store, &reference, None, None, sender).await;
    assert_eq!(pulled.unwrap().id, image.id());
}

#[tokio::test]
async fn what_skopeo_copied_in_is_pulled() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let layer = (testkit::image::busybox_tar(), Compression::Plain);
    let image = Image::new(&[layer], &Platform::host());
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("image.tar");
    std::fs::write(&archive, image.docker_archive(&["app:v1"])).unwrap();
    let name = format!("{}/app:v1", registry.address());
    #[expect(
        clippy::disallowed_methods,
        reason = "another tool's image is the point"
    )]
    let copied = std::process::Command::new(testkit::tool("skopeo"))
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    // It compresses the layer and leaves the configuration as it is.
    assert_eq!(pulled.id, image.id());
    assert_ne!(pulled.digest, image.digest());
}

#[tokio::test]
async fn a_certificate_on_loopback_need_not_be_valid() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    let image = image();
    registry.push("app", "latest", &image);
    let registry = registry.into_tls();
    let name = format!("{}/app", registry.address());
    let (pulled, _) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image.id());
}

#[tokio::test]
async fn elsewhere_a_certificate_must_be_valid_or_its_root_be_given() {
    let (registry, scratch) = (Registry::start(), Scratch::new());
    let image = image();
    registry.push("app", "latest", &image);
    let registry = registry.into_tls();
    // Reaches loopback, and is not what berth calls so.
    let (_, port) = registry.address().split_once(':').unwrap();
    let name = format!("[::ffff:127.0.0.1]:{port}/app");
    let certs = tempfile::tempdir().unwrap();
    let config = || Config {
        certs_dirs: vec![certs.path().to_owned()],
        ..Config::default()
    };
    let (error, text) = failed(pull(&client_with(config()), &scratch, &name, Ask::default()).await);
    assert!(
        text.contains("invalid peer certificate") || text.contains("No CA certificates"),
        "{text}"
    );
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Internal));

    let of_host = certs.path().join(format!("[::ffff:7f00:1]:{port}"));
    std::fs::create_dir(&of_host).unwrap();
    std::fs::write(of_host.join("ca.crt"), "nonsense").unwrap();
    let (_, text) = failed(pull(&client_with(config()), &scratch, &name, Ask::default()).await);
    assert!(text.contains("set up TLS for"), "{text}");

    std::fs::write(of_host.join("ca.crt"), CERTIFICATE).unwrap();
    let (pulled, _) = worked(pull(&client_with(config()), &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image.id());
}

#[tokio::test]
async fn layers_wait_for_their_turn() {
    let (registry, scratch) = (Registry::start(), Scratch::new());
    registry.push("app", "latest", &image());
    let client = client_with(Config {
        max_concurrent_downloads: 1,
        ..Config::default()
    });
    let name = format!("{}/app", registry.address());
    let (_, told) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    let waiting = told.iter().filter(
        |told| matches!(told, Progress::Layer { state, .. } if *state == LayerState::Waiting),
    );
    assert_eq!(waiting.count(), 2);
}

#[tokio::test]
async fn pulls_of_one_client_can_be_run_by_any_thread() {
    let (registry, scratch, client) = (Registry::start(), Scratch::new(), client());
    registry.push("app", "latest", &image());
    let reference: Reference = format!("{}/app", registry.address()).parse().unwrap();
    let group = tasks::Group::new();
    let (answer, pulled) = tokio::sync::oneshot::channel();
    let store = Arc::clone(&scratch.store);
    group.spawn_whole("pull", async move {
        let (sender, _) = mpsc::channel(1);
        let outcome = client.pull(store, &reference, None, None, sender).await;
        answer.send(outcome.is_ok()).unwrap();
    });
    assert!(pulled.await.unwrap());
    group.finish().await;
}
