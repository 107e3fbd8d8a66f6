//! Registries that lie, break off, stall or talk nonsense.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use registry::{LayerState, Progress};
use testkit::image::{Compression, Image, sha256, tar};
use vocab::manifest::media_type;
use vocab::{Failure, Kind, Platform};

use crate::stub::{Answer, Asked, SCHEMA1, Shelf, Stub, unknown};
use crate::{Ask, Scratch, client, failed, pull, worked};

/// One layer that is long enough to be cut.
pub(crate) fn image() -> Image {
    let content: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
    let layer = (tar(&[("a", content.as_slice())]), Compression::Plain);
    Image::new(&[layer], &Platform::host())
}

/// An honest registry, but for the requests for its one layer: `fault` is told how many there were
/// before.
pub(crate) fn faulty(
    fault: impl Fn(usize, &Asked, Answer) -> Answer + Send + Sync + 'static,
) -> Stub {
    let image = image();
    let shelf = Shelf::new(&image);
    let layer = format!("/blobs/{}", image.layers[0].digest);
    let before = AtomicUsize::new(0);
    Stub::start(move |asked| {
        let honest = shelf.answer(asked);
        if asked.target.ends_with(&layer) {
            fault(before.fetch_add(1, Ordering::SeqCst), asked, honest)
        } else {
            honest
        }
    })
}

async fn check_pulled(registry: &Stub) -> Vec<Progress> {
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let (pulled, told) = worked(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image().id());
    told
}

async fn check_failed(registry: &Stub, kind: Kind, words: &[&str]) {
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let (error, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
    for words in words {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(error.kind(), kind, "{text}");
    scratch.check_no_debris();
}

/// The requests for the layer, by where their range began.
pub(crate) fn ranges(registry: &Stub) -> Vec<Option<usize>> {
    let layer = image().layers[0].digest.to_string();
    let asked = registry.asked();
    let asked = asked.iter().filter(|asked| asked.target.ends_with(&layer));
    asked.map(Asked::range).collect()
}

#[tokio::test]
async fn a_broken_connection_goes_on_where_it_broke() {
    let registry = faulty(|before, _, honest| match before {
        0 => honest.cut_after(100_000),
        1 => honest.cut_after(1),
        _ => honest,
    });
    check_pulled(&registry).await;
    assert_eq!(
        ranges(&registry),
        [None, Some(100_000), Some(100_001)],
        "the layer is asked for by range"
    );
}

#[tokio::test]
async fn a_server_without_ranges_sends_everything_again() {
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |before, _, honest| match before {
        0 => honest.cut_after(100_000),
        _ => Answer::new(200, whole.as_slice()),
    });
    check_pulled(&registry).await;
}

#[tokio::test]
async fn a_server_that_refuses_ranges_is_asked_without() {
    let registry = faulty(|before, asked, honest| match before {
        0 => honest.cut_after(100_000),
        _ if asked.range().is_some() => Answer::new(416, ""),
        _ => honest,
    });
    check_pulled(&registry).await;
    assert_eq!(ranges(&registry), [None, Some(100_000), None]);
}

#[tokio::test]
async fn a_server_may_send_more_than_the_range() {
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |before, asked, honest| match asked.range() {
        None => honest.cut_after(100_000),
        Some(from) => {
            assert!(before > 0);
            let (start, end) = (from - 500, whole.len() - 1);
            Answer::new(206, &whole[start..]).with(
                "Content-Range",
                format!("bytes {start}-{end}/{}", whole.len()),
            )
        }
    });
    check_pulled(&registry).await;
}

#[tokio::test]
async fn another_range_than_asked_for_is_not_taken() {
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |_, asked, honest| match asked.range() {
        None => honest.cut_after(100_000),
        Some(from) => Answer::new(206, &whole[from + 1..]).with(
            "Content-Range",
            format!("bytes {}-{}/{}", from + 1, whole.len() - 1, whole.len()),
        ),
    });
    check_failed(
        &registry,
        Kind::Internal,
        &["was asked for the bytes from 100000 on and sent others"],
    )
    .await;
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    for status in [500, 502, 503, 429] {
        let registry = faulty(move |before, _, honest| {
            if before < 3 {
                Answer::new(status, "")
            } else {
                honest
            }
        });
        let told = check_pulled(&registry).await;
        let retrying = Progress::Layer {
            id: image().layers[0].digest.short().to_owned(),
            state: LayerState::Retrying { seconds: 1 },
        };
        assert_eq!(told.iter().filter(|told| **told == retrying).count(), 3);
    }
}

#[tokio::test]
async fn manifests_and_configurations_are_asked_for_again_too() {
    let shelf = Shelf::new(&image());
    let before = AtomicUsize::new(0);
    let registry = Stub::start(move |asked| {
        if before.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            Answer::new(503, "")
        } else {
            shelf.answer(asked)
        }
    });
    check_pulled(&registry).await;
}

#[tokio::test]
async fn a_server_says_how_long_to_wait() {
    let began = Instant::now();
    let registry = faulty(|before, _, honest| match before {
        0 => Answer::new(429, "").with("Retry-After", "1"),
        _ => honest,
    });
    check_pulled(&registry).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn who_asks_for_an_hour_is_not_waited_for() {
    let registry = faulty(|_, _, _| {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        Answer::new(429, body).with("Retry-After", "3600")
    });
    check_failed(
        &registry,
        Kind::Unavailable,
        &["toomanyrequests: slow down"],
    )
    .await;
    assert_eq!(ranges(&registry).len(), 1);
}

#[tokio::test]
async fn tries_end_at_last() {
    let registry = faulty(|_, _, honest| honest.cut_after(0));
    check_failed(
        &registry,
        Kind::Unavailable,
        &[
            &format!("layer {}", image().layers[0].digest),
            "gave up after 5 tries",
        ],
    )
    .await;
    assert_eq!(ranges(&registry).len(), 5);
}

#[tokio::test]
async fn a_layer_that_ends_too_early_is_not_taken() {
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |_, asked, _| match asked.range() {
        None => Answer::new(200, &whole[..1000]),
        Some(_) => Answer::new(416, ""),
    });
    check_failed(&registry, Kind::Unavailable, &["sent 1000 of"]).await;
}

#[tokio::test]
async fn a_layer_that_does_not_end_is_not_taken() {
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |_, _, _| {
        let longer = [whole.as_slice(), b"more"].concat();
        Answer::new(200, longer).without_length()
    });
    check_failed(&registry, Kind::Internal, &["sends more than"]).await;
}

#[tokio::test]
async fn a_layer_of_other_bytes_is_not_taken() {
    let mut other = image().layers[0].blob.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let found = sha256(&other).to_string();
    let registry = faulty(move |_, _, _| Answer::new(200, other.as_slice()));
    let expected = image().layers[0].digest.to_string();
    check_failed(&registry, Kind::Internal, &[&expected, &found]).await;
    // Asking again would bring the same.
    assert_eq!(ranges(&registry).len(), 1);
}

#[tokio::test]
async fn one_bad_layer_ends_the_others() {
    let big = vec![5; 4 << 20];
    let image = Image::new(
        &[
            (tar(&[("bad", b"x")]), Compression::Gzip),
            (tar(&[("big", big.as_slice())]), Compression::Plain),
        ],
        &Platform::host(),
    );
    let shelf = Shelf::new(&image);
    let bad = image.layers[0].digest.to_string();
    let registry = Stub::start(move |asked| {
        if asked.target.ends_with(&bad) {
            Answer::new(404, "")
        } else {
            shelf.answer(asked)
        }
    });
    check_failed(
        &registry,
        Kind::NotFound,
        &[&format!("layer {}", image.layers[0].digest)],
    )
    .await;
}

#[tokio::test]
async fn a_manifest_of_other_bytes_is_not_taken() {
    let image = image();
    let shelf = Shelf::new(&image);
    let registry = Stub::start(move |asked| {
        if asked.target.contains("/manifests/") {
            Answer::new(200, "{}").with("Docker-Content-Digest", image.digest().to_string())
        } else {
            shelf.answer(asked)
        }
    });
    check_failed(&registry, Kind::Internal, &["its digest is sha256:44136fa"]).await;
}

#[tokio::test]
async fn a_configuration_of_other_bytes_is_not_taken() {
    let image = image();
    let shelf = Shelf::new(&image);
    let registry = Stub::start(move |asked| {
        if asked.target.ends_with(&image.id().to_string()) {
            Answer::new(200, "{}")
        } else {
            shelf.answer(asked)
        }
    });
    check_failed(&registry, Kind::Internal, &["sent something else than"]).await;
}

#[tokio::test]
async fn a_manifest_that_is_too_big_is_not_read() {
    for told in [true, false] {
        let registry = Stub::start(move |_| {
            let answer = Answer::new(200, vec![b' '; (4 << 20) + 1]);
            if told {
                answer
            } else {
                answer.without_length()
            }
        });
        check_failed(
            &registry,
            Kind::Internal,
            &["sends more than 4194304 bytes"],
        )
        .await;
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_a_reason() {
    let digest = sha256(b"{}");
    let artifact = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"application/vnd.example+json",
            "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":2}},
            "layers":[]}}"#,
        media_type::OCI_MANIFEST
    );
    for (media_type, document, kind, words) in [
        (
            SCHEMA1,
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            Kind::NotImplemented,
            "schema 1",
        ),
        (
            media_type::OCI_MANIFEST,
            &artifact,
            Kind::NotImplemented,
            "is not an image: it is an artifact of type `application/vnd.example+json`",
        ),
        ("text/html", "<html>", Kind::Internal, "is malformed"),
        (
            media_type::OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[]}"#,
            Kind::NotFound,
            "no matching manifest for linux/",
        ),
    ] {
        let shelf = Shelf::of_document(media_type, document);
        let registry = Stub::start(move |asked| shelf.answer(asked));
        check_failed(&registry, kind, &[words]).await;
    }
}

#[tokio::test]
async fn a_registry_can_say_no_in_many_ways() {
    for (answer, kind, words) in [
        (
            Answer::new(404, "gone"),
            Kind::NotFound,
            "/app:latest not found: unexpected status 404 Not Found",
        ),
        (
            unknown("NAME_UNKNOWN"),
            Kind::NotFound,
            "/app not found: name unknown: name unknown",
        ),
        (
            Answer::new(403, ""),
            Kind::NotFound,
            "repository does not exist or may require 'docker login'",
        ),
        (
            Answer::new(418, ""),
            Kind::Internal,
            "unexpected status 418",
        ),
    ] {
        let registry = Stub::start(move |_| answer.clone());
        check_failed(&registry, kind, &[words]).await;
        // Nothing of this is worth another try.
        assert_eq!(registry.asked().len(), 1);
    }
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let (scratch, client) = (Scratch::new(), client());
    // The port of a service that has not been run for decades.
    let address = "127.0.0.1:1";
    let (error, text) =
        failed(pull(&client, &scratch, &format!("{address}/app"), Ask::default()).await);
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        text.starts_with(&format!("GET http://{address}/v2/app/manifests/latest: ")),
        "{text}"
    );
    assert!(text.contains("connection refused"), "{text}");
    scratch.check_no_debris();
}

#[tokio::test]
async fn tags_come_in_pages() {
    let registry = Stub::start(|asked| {
        let page = |tags: &str, next: Option<&str>| {
            let answer = Answer::new(200, format!(r#"{{"name":"app","tags":{tags}}}"#));
            match next {
                Some(next) => answer.with("Link", format!("<{next}>; rel=\"next\"")),
                None => answer,
            }
        };
        match asked.target.as_str() {
            "/v2/app/tags/list" => page(r#"["a","b"]"#, Some("/v2/app/tags/list?last=b&n=2")),
            "/v2/app/tags/list?last=b&n=2" => page(r#"["c","no tag"]"#, Some("list?last=c")),
            "/v2/app/tags/list?last=c" => page("null", None),
            other => panic!("{other}"),
        }
    });
    let name = format!("{}/app", registry.address());
    let tags = client().tags(&name.parse().unwrap(), None).await.unwrap();
    let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["a", "b", "c"].map(|tag| format!("{name}:{tag}")));
}

#[tokio::test]
async fn pages_of_tags_come_to_an_end_and_stay_with_their_registry() {
    for (link, words) in [
        (
            "</v2/app/tags/list>; rel=\"next\"",
            "the same page again and again",
        ),
        (
            "<http://127.0.0.1:1/v2/app/tags/list>; rel=\"next\"",
            "where berth does not follow",
        ),
    ] {
        let many = vec!["\"tag\""; 20_000].join(",");
        let body = format!("{{\"tags\":[{many}]}}");
        let registry = Stub::start(move |_| Answer::new(200, body.as_str()).with("Link", link));
        let name = format!("{}/app", registry.address()).parse().unwrap();
        let error = client().tags(&name, None).await.unwrap_err();
        let text = vocab::failure::chain(&error);
        assert!(text.contains(words), "{text}");
    }
}
