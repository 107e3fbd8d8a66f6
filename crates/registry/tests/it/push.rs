//! Pushes to a real registry, and through a proxy that spoils them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry::{Client, Config, Credentials, LayerState, Progress, PushError};
use testkit::image::{Compression, Image, tar};
use testkit::registry::{PASSWORD, USER};
use testkit::{Fault, FaultProxy, Registry};
use tokio::sync::mpsc;
use vocab::failure::chain;
use vocab::{Digest, Platform, Reference};

use crate::{Ask, Scratch, client, client_with, pull, worked};

/// Pushes and keeps what was told on the way.
async fn push(
    client: &Client,
    scratch: &Scratch,
    from: &str,
    to: &str,
    credentials: Option<&Credentials>,
) -> (Result<Digest, PushError>, Vec<Progress>) {
    let image = scratch.store.find_image(from).unwrap();
    let reference: Reference = to.parse().unwrap();
    let (sender, mut receiver) = mpsc::channel(4);
    let store = Arc::clone(&scratch.store);
    let pushing = client.push(store, image, &reference, false, credentials, sender);
    let listening = async {
        let mut told = Vec::new();
        while let Some(progress) = receiver.recv().await {
            told.push(progress);
        }
        told
    };
    tokio::join!(pushing, listening)
}

#[track_caller]
fn arrived(outcome: (Result<Digest, PushError>, Vec<Progress>)) -> (Digest, Vec<Progress>) {
    match outcome {
        (Ok(digest), told) => (digest, told),
        (Err(error), _) => panic!("{}", chain(&error)),
    }
}

#[track_caller]
fn refused(outcome: (Result<Digest, PushError>, Vec<Progress>)) -> String {
    chain(&outcome.0.unwrap_err())
}

/// The states of all layers, without counts.
fn states(told: &[Progress]) -> Vec<String> {
    let states = told.iter().filter_map(|told| match told {
        Progress::Layer { state, .. } => match state {
            LayerState::Pushing { .. } | LayerState::Waiting | LayerState::Preparing => None,
            state => Some(state.to_string()),
        },
        _ => None,
    });
    states.collect()
}

fn mixed() -> Image {
    let layer = |name: &str, compression| (tar(&[(name, name.as_bytes())]), compression);
    Image::new(
        &[
            layer("a", Compression::Gzip),
            layer("b", Compression::Zstd),
            layer("c", Compression::Plain),
        ],
        &Platform::host(),
    )
}

/// A store that holds `image` as if it had been made here: `docker load` of an archive.
fn loaded(image: &Image) -> Scratch {
    let scratch = Scratch::new();
    let archive = image.docker_archive(&["made:here"]);
    scratch
        .store
        .load(&mut archive.as_slice(), &mut |_| {})
        .unwrap();
    scratch
}

/// One plain layer that is worth several chunks, and does not get shorter as gzip.
fn long_image() -> Image {
    let mut state = 1u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        // Marsaglia's xorshift: what cannot be compressed.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(350_000)
    .flatten()
    .collect();
    Image::new(
        &[(tar(&[("long", &content)]), Compression::Plain)],
        &Platform::host(),
    )
}

#[tokio::test]
async fn a_pulled_image_keeps_its_digest_elsewhere() {
    let (from, to) = (Registry::start(), Registry::start());
    let (scratch, client) = (Scratch::new(), client());
    let image = mixed();
    let digest = from.push("app", "v1", &image);
    let source = format!("{}/app:v1", from.address());
    worked(pull(&client, &scratch, &source, Ask::default()).await);
    let target = format!("{}/other/name:v2", to.address());
    let (pushed, told) = arrived(push(&client, &scratch, &source, &target, None).await);
    assert_eq!(pushed, digest);
    assert_eq!(states(&told), ["Pushed"; 3]);
    let last = Progress::Pushed {
        tag: "v2".to_owned(),
        digest: digest.clone(),
        size_bytes: image.manifest.len() as u64,
    };
    assert_eq!(told.last(), Some(&last));
    assert_eq!(to.manifest("other/name", "v2"), image.manifest);
    // The store knows it by that name from now on.
    let known = scratch
        .store
        .find_image(&format!("{}/other/name@{digest}", to.address()));
    assert_eq!(known.unwrap().id, image.id());
    // And others can have it.
    let other = Scratch::new();
    let (pulled, _) = worked(pull(&client, &other, &target, Ask::default()).await);
    assert_eq!((pulled.id, pulled.digest), (image.id(), digest));
}

#[tokio::test]
async fn an_image_made_here_goes_compressed_and_always_the_same() {
    let (one, two) = (Registry::start(), Registry::start());
    let client = client();
    let content = vec![b'x'; 1 << 20];
    let layer = (tar(&[("a", content.as_slice())]), Compression::Plain);
    let image = Image::new(&[layer], &Platform::host());
    let scratch = loaded(&image);
    let to_one = format!("{}/app:v1", one.address());
    let (digest, _) = arrived(push(&client, &scratch, "made:here", &to_one, None).await);
    let manifest: serde_json::Value = serde_json::from_slice(&one.manifest("app", "v1")).unwrap();
    assert_eq!(manifest["config"]["digest"], image.id().to_string());
    let layer = &manifest["layers"][0];
    assert_eq!(
        layer["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    assert!(layer["size"].as_u64().unwrap() < 100_000, "{layer}");
    // Elsewhere, and from another store that never saw the first push.
    let to_two = format!("{}/app:v1", two.address());
    let (again, _) = arrived(push(&client, &scratch, "made:here", &to_two, None).await);
    let other = format!("{}/app:v2", two.address());
    let (anew, told) = arrived(push(&client, &loaded(&image), "made:here", &other, None).await);
    assert_eq!([&again, &anew], [&digest, &digest]);
    assert_eq!(states(&told), ["Layer already exists"]);
    let (pulled, _) = worked(pull(&client, &Scratch::new(), &to_one, Ask::default()).await);
    assert_eq!(pulled.id, image.id());
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let registry = Registry::start();
    let (scratch, client) = (Scratch::new(), client());
    registry.push("app", "v1", &mixed());
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let name = format!("{}/app:v1", proxy.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    let again = format!("{}/app:v2", proxy.address());
    let (_, told) = arrived(push(&client, &scratch, &name, &again, None).await);
    assert_eq!(states(&told), ["Layer already exists"; 3]);
    assert_eq!(
        proxy.count(|asked| asked.method == "POST" || asked.is_upload()),
        0
    );
}

#[tokio::test]
async fn what_another_repository_has_is_taken_from_there() {
    let registry = Registry::start();
    let (scratch, client) = (Scratch::new(), client());
    registry.push("team/app", "v1", &mixed());
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let name = format!("{}/team/app:v1", proxy.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    let other = format!("{}/fork/app:v1", proxy.address());
    let (_, told) = arrived(push(&client, &scratch, &name, &other, None).await);
    assert_eq!(states(&told), ["Mounted from team/app"; 3]);
    // Only the configuration was sent.
    assert_eq!(proxy.count(testkit::proxy::Asked::is_upload), 1);
}

#[tokio::test]
async fn a_protected_registry_wants_to_know_who_pushes() {
    let registry = Registry::start_protected();
    let client = client();
    let image = mixed();
    let scratch = loaded(&image);
    let name = format!("{}/app:v1", registry.address());
    let outcome = push(&client, &scratch, "made:here", &name, None).await;
    assert_eq!(refused(outcome), "no basic auth credentials");
    let wrong = Credentials::password(USER, "wrong");
    let outcome = push(&client, &scratch, "made:here", &name, Some(&wrong)).await;
    assert_eq!(refused(outcome), "unauthorized: authentication required");
    let right = Credentials::password(USER, PASSWORD);
    arrived(push(&client, &scratch, "made:here", &name, Some(&right)).await);
}

#[tokio::test]
async fn a_long_layer_goes_in_chunks() {
    let registry = Registry::start();
    let client = chunking();
    let scratch = loaded(&long_image());
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let name = format!("{}/app:v1", proxy.address());
    arrived(push(&client, &scratch, "made:here", &name, None).await);
    assert_eq!(proxy.count(|asked| asked.method == "PATCH"), 3);
}

/// One that sends a megabyte at a time, and soon notices that nothing moves.
fn chunking() -> Client {
    client_with(Config {
        chunk_bytes: 1 << 20,
        silence: Duration::from_secs(1),
        ..Config::default()
    })
}

/// A registry that spoils the first requests of one method, in this order.
fn spoiling(registry: &Registry, method: &'static str, faults: Vec<Fault>) -> FaultProxy {
    let faults = Mutex::new(VecDeque::from(faults));
    FaultProxy::start(registry.address(), move |asked| {
        let is_blob = asked.target.contains("/blobs/");
        let mut faults = faults.lock().unwrap();
        let next = faults.pop_front_if(|_| is_blob && asked.method == method);
        next.unwrap_or(Fault::None)
    })
}

/// Pushes a long image through the faults, and finds it whole on the other side.
async fn check_survives(method: &'static str, faults: Vec<Fault>) -> FaultProxy {
    let image = long_image();
    let registry = Registry::start();
    let said = format!("{method} {faults:?}");
    let proxy = spoiling(&registry, method, faults);
    let client = chunking();
    let name = format!("{}/app:v1", proxy.address());
    let digest = match push(&client, &loaded(&image), "made:here", &name, None).await {
        (Ok(digest), _) => digest,
        (Err(error), _) => panic!("{said}: {}", chain(&error)),
    };
    let honest = format!("{}/app:v1", registry.address());
    let (pulled, _) = worked(pull(&client, &Scratch::new(), &honest, Ask::default()).await);
    assert_eq!((pulled.id, pulled.digest), (image.id(), digest), "{said}");
    proxy
}

fn posts(proxy: &FaultProxy) -> usize {
    proxy.count(|asked| asked.method == "POST")
}

#[tokio::test]
async fn a_refused_chunk_is_sent_again_and_no_other() {
    let trouble = vec![Fault::None, Fault::status(503), Fault::status(429)];
    let proxy = check_survives("PATCH", trouble).await;
    assert_eq!(proxy.count(|asked| asked.method == "PATCH"), 5);
    // One for the layer, one for the configuration.
    assert_eq!(posts(&proxy), 2);
}

#[tokio::test]
async fn an_upload_survives_broken_connections() {
    // This registry gives up an upload that broke in the middle of a chunk: it begins anew.
    let proxy = check_survives("PATCH", vec![Fault::None, Fault::CutRequest(500_000)]).await;
    assert_eq!(posts(&proxy), 3);
    check_survives("PATCH", vec![Fault::LoseAnswer]).await;
    check_survives("POST", vec![Fault::status(500), Fault::LoseAnswer]).await;
}

#[tokio::test]
async fn an_upload_survives_a_registry_that_stalls() {
    check_survives("PATCH", vec![Fault::StallRequest(500_000)]).await;
}

#[tokio::test]
async fn an_upload_that_suffered_on_its_way_is_sent_again() {
    check_survives("PATCH", vec![Fault::CorruptRequest(1000)]).await;
}

#[tokio::test]
async fn a_blob_whose_end_was_not_heard_of_is_found_there() {
    let proxy = check_survives("PUT", vec![Fault::LoseAnswer, Fault::LoseAnswer]).await;
    assert_eq!(posts(&proxy), 2);
}

#[tokio::test]
async fn a_registry_without_chunks_gets_everything_at_once() {
    for status in [404, 405, 416] {
        let proxy = check_survives("PATCH", vec![Fault::status(status)]).await;
        assert_eq!(proxy.count(|asked| asked.method == "PATCH"), 1);
    }
}

#[tokio::test]
async fn a_push_ends_at_last_and_says_why() {
    let registry = Registry::start();
    let scratch = loaded(&mixed());
    let busy = r#"{"errors":[{"code":"UNAVAILABLE","message":"come back later"}]}"#;
    let denied =
        r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    for (method, status, body, words) in [
        ("POST", 503, busy, ": unavailable: come back later"),
        (
            "PUT",
            500,
            "",
            ": unexpected status 500 Internal Server Error",
        ),
        (
            "POST",
            403,
            denied,
            "denied: requested access to the resource is denied",
        ),
        ("HEAD", 418, "", ": unexpected status 418 I'm a teapot"),
    ] {
        let proxy = FaultProxy::start(registry.address(), move |asked| {
            let fault = Fault::Answer {
                status,
                headers: Vec::new(),
                body: body.to_owned(),
            };
            match asked.method == method && asked.target.contains("/blobs/") {
                true => fault,
                false => Fault::None,
            }
        });
        let name = format!("{}/new/{}:v1", proxy.address(), method.to_lowercase());
        let text = refused(push(&client(), &scratch, "made:here", &name, None).await);
        assert!(text.ends_with(words), "{text}");
        // The tag is the last thing: there is none.
        assert_eq!(proxy.count(|asked| asked.target.contains("/manifests/")), 0);
    }
}

#[tokio::test]
async fn a_registry_that_calls_the_image_otherwise_is_not_believed() {
    let registry = Registry::start();
    let other = testkit::image::sha256(b"other").to_string();
    let header = other.clone();
    let proxy = FaultProxy::start(registry.address(), move |asked| {
        match asked.method == "PUT" && asked.target.contains("/manifests/") {
            true => Fault::Header("docker-content-digest", header.clone()),
            false => Fault::None,
        }
    });
    let name = format!("{}/app:v1", proxy.address());
    let text = refused(push(&client(), &loaded(&mixed()), "made:here", &name, None).await);
    assert!(
        text.contains(&format!("app:v1 as {other} instead of sha256:")),
        "{text}"
    );
}
