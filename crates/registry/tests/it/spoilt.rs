//! Pulls from a real registry through a proxy that spoils them: each fault is survived, or told in
//! words, and leaves nothing behind.

use std::time::Duration;

use registry::{Client, Config};
use testkit::image::{Compression, Image, sha256, tar};
use testkit::proxy::Asked;
use testkit::{Fault, FaultProxy, Registry};
use vocab::{Digest, Failure, Kind, Platform};

use crate::{Ask, Scratch, client_with, failed, pull, worked};

/// One layer of some length, which no fault can hit without being seen.
fn image() -> Image {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let layer = (tar(&[("a", content.as_slice())]), Compression::Plain);
    Image::new(&[layer], &Platform::host())
}

/// One that soon notices that nothing comes.
fn impatient() -> Client {
    client_with(Config {
        silence: Duration::from_millis(300),
        ..Config::default()
    })
}

/// Which requests are spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Manifest,
    Config,
    Layer,
}

impl Where {
    const ALL: [Self; 3] = [Self::Manifest, Self::Config, Self::Layer];

    fn is(self, asked: &Asked) -> bool {
        match self {
            Self::Manifest => asked.target.contains("/manifests/"),
            Self::Config => asked.is_blob(&image().id()),
            Self::Layer => asked.is_blob(&image().layers[0].digest),
        }
    }
}

/// A registry whose first answers of one kind are spoilt so, or all of them.
fn spoiling(registry: &Registry, place: Where, times: usize, fault: Fault) -> FaultProxy {
    FaultProxy::start(registry.address(), move |asked| {
        match place.is(asked) && asked.before < times {
            true => fault.clone(),
            false => Fault::None,
        }
    })
}

fn pushed() -> Registry {
    let registry = Registry::start();
    registry.push("app", "latest", &image());
    registry
}

async fn check_survived(registry: &Registry, place: Where, fault: Fault) -> FaultProxy {
    let proxy = spoiling(registry, place, 1, fault.clone());
    let scratch = Scratch::new();
    let name = format!("{}/app", proxy.address());
    let (outcome, _) = pull(&impatient(), &scratch, &name, Ask::default()).await;
    match outcome {
        Ok(pulled) => assert_eq!(pulled.id, image().id()),
        Err(error) => panic!("{place:?} {fault:?}: {}", vocab::failure::chain(&error)),
    }
    assert_eq!(scratch.partial_bytes(&image().layers[0].digest), None);
    proxy
}

/// What is read, without the parts that are never the same.
async fn check_told(registry: &Registry, place: Where, fault: Fault, kind: Kind, text: &str) {
    let proxy = spoiling(registry, place, usize::MAX, fault.clone());
    let scratch = Scratch::new();
    let name = format!("{}/app", proxy.address());
    let (error, told) = failed(pull(&impatient(), &scratch, &name, Ask::default()).await);
    let told = told
        .replace(&proxy.address(), "REGISTRY")
        .replace(&image().digest().to_string(), "MANIFEST")
        .replace(&image().id().to_string(), "CONFIG")
        .replace(&image().layers[0].digest.to_string(), "LAYER");
    assert_eq!(told, text, "{place:?} {fault:?}");
    assert_eq!(error.kind(), kind, "{told}");
    scratch.check_no_debris();
}

#[tokio::test]
async fn what_passes_is_survived() {
    let registry = pushed();
    for place in Where::ALL {
        for fault in [
            Fault::CutAnswer(10),
            Fault::CutAnswer(0),
            Fault::LoseAnswer,
            Fault::StallAnswer(10),
            Fault::status(500),
            Fault::status(429),
            Fault::status(503),
        ] {
            check_survived(&registry, place, fault).await;
        }
    }
}

#[tokio::test]
async fn a_length_that_is_told_too_long_is_asked_for_again() {
    let registry = pushed();
    let fault = Fault::Header("content-length", "4000000".to_owned());
    for place in Where::ALL {
        check_survived(&registry, place, fault.clone()).await;
    }
}

#[tokio::test]
async fn a_stall_in_a_layer_costs_no_byte() {
    let registry = pushed();
    let proxy = check_survived(&registry, Where::Layer, Fault::StallAnswer(100_000)).await;
    let ranges: Vec<_> = proxy
        .asked()
        .into_iter()
        .filter(|asked| Where::Layer.is(asked))
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

/// The digest of the image's layer with one bit changed, or two blocks in each other's place.
fn spoilt_layer(at: usize, blocks: bool) -> Digest {
    let mut blob = image().layers[0].blob.clone();
    match blocks {
        true => {
            let (first, second) = blob[at..at + 2000].split_at_mut(1000);
            first.swap_with_slice(second);
        }
        false => blob[at] ^= 1,
    }
    sha256(&blob)
}

#[tokio::test]
async fn what_is_no_longer_the_same_is_told() {
    let registry = pushed();
    let layer = |fault, found: Digest| {
        let text = format!("layer LAYER: layer LAYER has digest {found}");
        (Where::Layer, fault, Kind::Internal, text)
    };
    let mut manifest = image().manifest.clone();
    manifest[30] ^= 1;
    let mut config = image().config.clone();
    config[30] ^= 1;
    let other = sha256(b"other");
    let honest = image().digest();
    for (place, fault, kind, text) in [
        layer(Fault::CorruptAnswer(5000), spoilt_layer(5000, false)),
        layer(Fault::ReorderAnswer(5000), spoilt_layer(5000, true)),
        (
            Where::Manifest,
            Fault::CorruptAnswer(30),
            Kind::Internal,
            format!(
                "http://REGISTRY/v2/app/manifests/latest sent something else than MANIFEST: \
                 its digest is {}",
                sha256(&manifest)
            ),
        ),
        (
            Where::Config,
            Fault::CorruptAnswer(30),
            Kind::Internal,
            format!(
                "http://REGISTRY/v2/app/blobs/CONFIG sent something else than CONFIG: \
                 its digest is {}",
                sha256(&config)
            ),
        ),
        (
            Where::Manifest,
            Fault::Header("docker-content-digest", other.to_string()),
            Kind::Internal,
            format!(
                "http://REGISTRY/v2/app/manifests/latest sent something else than {other}: \
                 its digest is {honest}"
            )
            .replace(&honest.to_string(), "MANIFEST"),
        ),
        (
            Where::Manifest,
            Fault::Header("docker-content-digest", "sha256:short".to_owned()),
            Kind::Internal,
            "http://REGISTRY/v2/app/manifests/latest: the `Docker-Content-Digest` header cannot be \
             used: invalid digest `sha256:short`: sha256 and 64, or sha512 and 128 lower-case hex \
             digits are wanted"
                .to_owned(),
        ),
    ] {
        check_told(&registry, place, fault, kind, &text).await;
    }
}

#[tokio::test]
async fn what_does_not_pass_is_told() {
    let registry = pushed();
    let blob = "http://REGISTRY/v2/app/blobs/LAYER";
    let size = image().layers[0].blob.len();
    for (fault, kind, text) in [
        (
            Fault::status(500),
            Kind::Internal,
            "gave up after 5 tries: unexpected status 500 Internal Server Error".to_owned(),
        ),
        (
            Fault::status(429),
            Kind::Unavailable,
            "gave up after 5 tries: toomanyrequests".to_owned(),
        ),
        (
            Fault::status(416),
            Kind::Internal,
            "unexpected status 416 Range Not Satisfiable".to_owned(),
        ),
        (
            Fault::Header("content-length", "1000".to_owned()),
            Kind::Unavailable,
            // Five times a thousand.
            format!("{blob} sent 5000 of {size} bytes"),
        ),
    ] {
        // A registry that never says more than a thousand bytes gets nowhere.
        let text = match fault {
            Fault::Header(..) => format!("layer LAYER: gave up after 5 tries: {text}"),
            _ => format!("layer LAYER: {text}"),
        };
        check_told(&registry, Where::Layer, fault, kind, &text).await;
    }
}

/// An image whose layer is not to be handed out by registries, but by `url`.
fn foreign(url: &str) -> (Image, Vec<u8>) {
    let image = image();
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let layer = &mut manifest["layers"][0];
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    layer["urls"] = serde_json::json!(["http://127.0.0.1:1/x", url]);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    (image, bytes)
}

#[tokio::test]
async fn a_foreign_layer_is_fetched_from_where_it_is_and_not_pushed() {
    let (owner, registry, other) = (Registry::start(), Registry::start(), Registry::start());
    let digest = &image().layers[0].digest;
    owner.push("owned", "latest", &image());
    let url = format!("http://{}/v2/owned/blobs/{digest}", owner.address());
    let (image, manifest) = foreign(&url);
    registry.push_blob("app", &image.config);
    registry.push_manifest("app", "latest", &image.media_type, &manifest);
    let scratch = Scratch::new();
    let name = format!("{}/app:latest", registry.address());
    let (pulled, _) = worked(pull(&impatient(), &scratch, &name, Ask::default()).await);
    assert_eq!(
        (pulled.id, pulled.digest.clone()),
        (image.id(), sha256(&manifest))
    );

    let stored = scratch.store.find_image(&name).unwrap();
    let target = format!("{}/app:latest", other.address()).parse().unwrap();
    let (sender, _told) = tokio::sync::mpsc::channel(64);
    let store = std::sync::Arc::clone(&scratch.store);
    let pushed = impatient()
        .push(store, stored, &target, false, None, sender)
        .await;
    assert_eq!(pushed.unwrap(), pulled.digest);
    let there = other.request("HEAD", &format!("/v2/app/blobs/{digest}"), None, b"");
    assert_eq!(there.status, 404);
}
