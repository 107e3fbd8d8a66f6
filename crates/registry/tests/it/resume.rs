//! Transfers that are taken up again, shared, or made over several connections.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry::{Client, LayerState, Progress};
use testkit::image::{Compression, Image, tar};
use vocab::{Digest, Platform};

use crate::faults::{faulty, image, ranges};
use crate::stub::{Answer, Asked, Shelf, Stub};
use crate::{Ask, Scratch, client, failed, pull, worked};

/// Where half of [`image`]'s layer ends.
const HALF: usize = 700_000;

/// Pulls until half of the layer is on the disk, and gives up.
async fn pull_half(scratch: &Scratch) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (asked, arrived) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    // Half a layer comes, then nothing until the test lets go.
    let registry = faulty(move |before, _, honest| {
        if before == 0 {
            return honest.cut_after(HALF);
        }
        asked.send(()).unwrap();
        // Ends when the test drops its end.
        let _ = held.lock().unwrap().recv();
        Answer::new(404, "")
    });
    let reference = format!("{}/app", registry.address()).parse().unwrap();
    let (sender, _) = tokio::sync::mpsc::channel(1);
    let client = client();
    let pulling = client.pull(Arc::clone(&scratch.store), &reference, None, None, sender);
    tokio::select! {
        outcome = pulling => panic!("{outcome:?}"),
        () = tasks::blocking(move || arrived.recv().unwrap()) => {}
    }
    let digest = image().layers[0].digest.clone();
    testkit::eventually(Duration::from_secs(20), || {
        scratch.partial_bytes(&digest) == Some(HALF as u64)
    });
    drop(release);
}

async fn check_pulled(scratch: &Scratch, client: &Client, registry: &Stub) -> Vec<Progress> {
    let name = format!("{}/app", registry.address());
    let (pulled, told) = worked(pull(client, scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image().id());
    told
}

fn honest() -> Stub {
    faulty(|_, _, honest| honest)
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_taken_up_again() {
    let scratch = Scratch::new();
    pull_half(&scratch).await;
    scratch.check_no_debris();
    let registry = honest();
    check_pulled(&scratch, &client(), &registry).await;
    assert_eq!(ranges(&registry), [Some(HALF)]);
    assert_eq!(scratch.partial_bytes(&image().layers[0].digest), None);
}

#[tokio::test]
async fn a_pull_is_taken_up_by_the_next_daemon() {
    let scratch = Scratch::new();
    pull_half(&scratch).await;
    let scratch = scratch.reopened();
    let registry = honest();
    check_pulled(&scratch, &client(), &registry).await;
    assert_eq!(ranges(&registry), [Some(HALF)]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_what_is_there_again() {
    let scratch = Scratch::new();
    pull_half(&scratch).await;
    let whole = image().layers[0].blob.clone();
    let registry = faulty(move |_, _, _| Answer::new(200, whole.as_slice()));
    check_pulled(&scratch, &client(), &registry).await;
}

#[tokio::test]
async fn what_a_power_cut_spoilt_is_fetched_anew() {
    let scratch = Scratch::new();
    pull_half(&scratch).await;
    let scratch = scratch.reopened();
    let partial = scratch.partial(&image().layers[0].digest);
    let mut torn = fs::read(&partial).unwrap();
    // In the content of a file, so that only the digest can tell.
    torn[HALF - 4096..].fill(0);
    fs::write(&partial, torn).unwrap();
    let registry = honest();
    check_pulled(&scratch, &client(), &registry).await;
    assert_eq!(ranges(&registry), [Some(HALF), None]);
}

#[tokio::test]
async fn what_was_there_whole_is_not_asked_for() {
    let scratch = Scratch::new();
    let layer = image().layers[0].clone();
    // As a daemon that was killed just before the end leaves it.
    fs::write(scratch.partial(&layer.digest), &layer.blob).unwrap();
    let registry = honest();
    check_pulled(&scratch, &client(), &registry).await;
    assert_eq!(ranges(&registry), []);
}

#[tokio::test]
async fn a_layer_of_other_bytes_is_not_kept_for_the_next() {
    let scratch = Scratch::new();
    let mut other = image().layers[0].blob.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let registry = faulty(move |_, _, _| Answer::new(200, other.as_slice()));
    let name = format!("{}/app", registry.address());
    failed(pull(&client(), &scratch, &name, Ask::default()).await);
    assert_eq!(scratch.partial_bytes(&image().layers[0].digest), None);
    check_pulled(&scratch, &client(), &honest()).await;
}

#[tokio::test]
async fn a_blob_that_several_want_is_fetched_once() {
    let scratch = Scratch::new();
    let client = client();
    let registry = honest();
    let pulls = ["a", "b", "c"].map(|repository| {
        let name = format!("{}/{repository}", registry.address());
        let (client, scratch) = (client.clone(), &scratch);
        async move { worked(pull(&client, scratch, &name, Ask::default()).await) }
    });
    for (pulled, _) in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.id, image().id());
    }
    assert_eq!(ranges(&registry), [None]);
}

#[tokio::test]
async fn a_blob_is_fetched_by_another_when_the_first_gives_up() {
    let scratch = Scratch::new();
    let client = client();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (asked, arrived) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let registry = faulty(move |before, _, honest| match before {
        0 => honest.cut_after(HALF),
        1 => {
            asked.send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            Answer::new(404, "")
        }
        _ => honest,
    });
    let names = ["a", "b"].map(|repository| format!("{}/{repository}", registry.address()));
    let (sender, mut told) = tokio::sync::mpsc::channel(64);
    let second = names[1].parse().unwrap();
    let store = Arc::clone(&scratch.store);
    let mut second = Box::pin(client.pull(store, &second, None, None, sender));
    {
        let mut first = Box::pin(pull(&client, &scratch, &names[0], Ask::default()));
        tokio::select! {
            outcome = &mut first => panic!("{outcome:?}"),
            () = tasks::blocking(move || arrived.recv().unwrap()) => {}
        }
        let waits = async {
            let waiting = |told: Progress| match told {
                Progress::Layer { state, .. } => state == LayerState::Waiting,
                _ => false,
            };
            while !told.recv().await.is_some_and(waiting) {}
        };
        tokio::select! {
            outcome = &mut first => panic!("{outcome:?}"),
            outcome = &mut second => panic!("{outcome:?}"),
            () = waits => {}
        }
    }
    let pulled = second.await.unwrap();
    drop(release);
    assert_eq!(pulled.id, image().id());
    assert_eq!(ranges(&registry)[1..], [Some(HALF), Some(HALF)]);
}

/// An image whose layer is worth several connections.
fn long_image() -> Image {
    let content: Vec<u8> = (0..5_000_000u32).flat_map(u32::to_le_bytes).collect();
    let layer = (tar(&[("a", content.as_slice())]), Compression::Plain);
    Image::new(&[layer], &Platform::host())
}

/// A registry of [`long_image`], honest but for what `fault` makes of the answers for its layer.
fn long(
    image: &Image,
    fault: impl Fn(usize, &Asked, Answer) -> Answer + Send + Sync + 'static,
) -> Stub {
    let shelf = Shelf::new(image);
    let layer = image.layers[0].digest.to_string();
    let before = AtomicUsize::new(0);
    Stub::start(move |asked| {
        let honest = shelf.answer(asked);
        match asked.target.ends_with(&layer) {
            true => fault(before.fetch_add(1, Ordering::SeqCst), asked, honest),
            false => honest,
        }
    })
}

fn segments(registry: &Stub, layer: &Digest) -> Vec<Option<(usize, Option<usize>)>> {
    let layer = layer.to_string();
    let asked = registry.asked();
    let asked = asked.iter().filter(|asked| asked.target.ends_with(&layer));
    let mut asked: Vec<_> = asked.map(Asked::segment).collect();
    asked.sort_unstable();
    asked
}

async fn check_long(registry: &Stub, image: &Image) {
    let scratch = Scratch::new();
    let name = format!("{}/app", registry.address());
    let (pulled, _) = worked(pull(&client(), &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image.id());
}

#[tokio::test]
async fn a_long_layer_comes_in_segments() {
    let image = long_image();
    let registry = long(&image, |_, _, honest| honest);
    check_long(&registry, &image).await;
    let layer = &image.layers[0];
    let (segment, size) = (1 << 20, layer.blob.len());
    let wanted: Vec<_> = (0..size)
        .step_by(segment)
        .map(|start| Some((start, Some((start + segment).min(size) - 1))))
        .collect();
    assert_eq!(segments(&registry, &layer.digest), wanted);
}

#[tokio::test]
async fn segments_survive_broken_connections() {
    let image = long_image();
    // Each connection breaks in the middle, but the first and those for what is left of a segment.
    let registry = long(&image, |_, asked, honest| match asked.segment() {
        Some((from @ 1.., Some(last))) if last + 1 - from == 1 << 20 => honest.cut_after(500_000),
        _ => honest,
    });
    check_long(&registry, &image).await;
    let asked = segments(&registry, &image.layers[0].digest);
    let goes_on = asked.windows(2).filter(|pair| match pair {
        [Some((a, end_a)), Some((b, end_b))] => end_a == end_b && a + 500_000 == *b,
        _ => false,
    });
    assert!(goes_on.count() > 3, "{asked:?}");
}

#[tokio::test]
async fn a_server_that_does_not_serve_segments_sends_everything() {
    let image = long_image();
    let whole = image.layers[0].blob.clone();
    let registry = long(&image, move |_, _, _| Answer::new(200, whole.as_slice()));
    check_long(&registry, &image).await;
    assert_eq!(segments(&registry, &image.layers[0].digest).len(), 1);
    let registry = long(&image, |_, asked, honest| match asked.range() {
        Some(_) => Answer::new(416, ""),
        None => honest,
    });
    check_long(&registry, &image).await;
}

#[tokio::test]
async fn a_server_that_mixes_up_segments_is_asked_for_one_at_a_time() {
    let image = long_image();
    let whole = image.layers[0].blob.clone();
    let registry = long(&image, move |before, asked, honest| match asked.segment() {
        // Another place in the blob, and it says so.
        Some((from, Some(last))) if before > 1 => {
            let (from, last) = (from - 1, last - 1);
            Answer::new(206, &whole[from..=last]).with(
                "Content-Range",
                format!("bytes {from}-{last}/{}", whole.len()),
            )
        }
        _ => honest,
    });
    check_long(&registry, &image).await;
}

#[tokio::test]
async fn segments_of_other_bytes_are_not_taken() {
    let image = long_image();
    // The right place, as it says, and others' bytes.
    let whole: Vec<u8> = image.layers[0].blob.iter().map(|byte| !byte).collect();
    let registry = long(&image, move |before, asked, honest| match asked.segment() {
        Some((from, Some(last))) if before == 4 => Answer::new(206, &whole[from..=last]).with(
            "Content-Range",
            format!("bytes {from}-{last}/{}", whole.len()),
        ),
        _ => honest,
    });
    let scratch = Scratch::new();
    let name = format!("{}/app", registry.address());
    let (_, text) = failed(pull(&client(), &scratch, &name, Ask::default()).await);
    let digest = &image.layers[0].digest;
    assert!(
        text.contains(&format!("layer {digest} has digest sha256:")),
        "{text}"
    );
    scratch.check_no_debris();
    assert_eq!(scratch.partial_bytes(digest), None);
}
