//! Transfers that break off and go on, in the same process and in the next.

use std::fs;
use std::time::{Duration, SystemTime};

use snapbox::{assert_data_eq, str};
use store::{Driver, LayerIngest};
use vocab::Digest;

use crate::scratch::{Scratch, Tar, chain, digest, gzip, noise};

/// The same layer in each form in which one comes.
fn forms() -> [Vec<u8>; 3] {
    let tar = Tar::new()
        .file("noise", &noise(300_000))
        .file("small", b"x")
        .bytes();
    let zstd = zstd::stream::encode_all(&tar[..], 3).unwrap();
    [gzip(&tar), zstd, tar]
}

fn resume(scratch: &Scratch, bytes: &[u8]) -> LayerIngest {
    let size = bytes.len() as u64;
    scratch.resume_layer(&digest(bytes), size, None).unwrap()
}

fn partial(scratch: &Scratch, digest: &Digest) -> std::path::PathBuf {
    let name = format!("partial/sha256-{}", digest.hex());
    scratch.root().join(name)
}

fn break_off_and_go_on(driver: Driver) {
    for bytes in forms() {
        let mut scratch = Scratch::new(driver);
        let third = bytes.len() / 3;
        let mut ingest = resume(&scratch, &bytes);
        ingest.receive(&bytes[..third]).unwrap();
        drop(ingest);
        // In the same process, …
        let mut ingest = resume(&scratch, &bytes);
        assert_eq!(ingest.received_bytes(), third as u64);
        ingest.receive(&bytes[third..2 * third]).unwrap();
        drop(ingest);
        assert!(scratch.names("blobs/sha256").is_empty());
        // … and in the next.
        scratch.reopen();
        let mut ingest = resume(&scratch, &bytes);
        assert_eq!(ingest.received_bytes(), 2 * third as u64);
        ingest.receive(&bytes[2 * third..]).unwrap();
        let layer = ingest.commit().unwrap();
        assert_eq!(layer.blob().digest, digest(&bytes));
        assert!(scratch.names("partial").is_empty());
        assert!(scratch.names("ingest").is_empty());
        let image = scratch.image_of(&[layer]);
        let lower = scratch.mounted(&image);
        assert_eq!(fs::read(lower[0].join("noise")).unwrap(), noise(300_000));
    }
}

#[test]
fn privileged_a_layer_goes_on_where_it_broke_off_with_overlay() {
    break_off_and_go_on(Driver::Overlay);
}

#[test]
fn privileged_a_layer_goes_on_where_it_broke_off_with_erofs() {
    break_off_and_go_on(Driver::Erofs);
}

#[test]
fn privileged_a_blob_goes_on_where_it_broke_off() {
    let mut scratch = Scratch::new(Driver::Overlay);
    let bytes = noise(10_000);
    let (digest, size) = (digest(&bytes), bytes.len() as u64);
    let mut ingest = scratch.resume(&digest, size).unwrap();
    ingest.receive(&bytes[..4000]).unwrap();
    drop(ingest);
    scratch.reopen();
    let mut ingest = scratch.resume(&digest, size).unwrap();
    assert_eq!(ingest.received_bytes(), 4000);
    ingest.receive(&bytes[4000..]).unwrap();
    assert_eq!(ingest.commit().unwrap(), digest);
    assert!(scratch.find_blob(&digest).unwrap().is_some());
    assert!(scratch.names("partial").is_empty());
}

#[test]
fn privileged_what_two_receive_at_once_comes_whole_twice() {
    let scratch = Scratch::new(Driver::Overlay);
    let [bytes, ..] = forms();
    let mut first = resume(&scratch, &bytes);
    first.receive(&bytes[..1000]).unwrap();
    let mut second = resume(&scratch, &bytes);
    assert_eq!(second.received_bytes(), 0);
    second.receive(&bytes).unwrap();
    second.commit().unwrap();
    first.receive(&bytes[1000..]).unwrap();
    first.commit().unwrap();
    assert_eq!(scratch.names("blobs/sha256").len(), 1);
    assert!(scratch.names("partial").is_empty() && scratch.names("ingest").is_empty());
}

#[test]
fn privileged_a_partial_that_is_no_layer_is_begun_anew() {
    let scratch = Scratch::new(Driver::Overlay);
    let [bytes, ..] = forms();
    let path = partial(&scratch, &digest(&bytes));
    // Told by its magic to be gzip, and damaged behind it; and more than it can be.
    for damaged in [b"\x1f\x8b garbage".to_vec(), vec![0; bytes.len() + 1]] {
        fs::write(&path, damaged).unwrap();
        let ingest = resume(&scratch, &bytes);
        assert_eq!(ingest.received_bytes(), 0);
    }
}

#[test]
fn privileged_a_partial_of_other_bytes_is_found_out_in_the_end_and_deleted() {
    let scratch = Scratch::new(Driver::Overlay);
    let [.., tar] = forms();
    let mut torn = tar.clone();
    torn[700] ^= 1;
    fs::write(partial(&scratch, &digest(&tar)), &torn[..1024]).unwrap();
    let mut ingest = resume(&scratch, &tar);
    assert_eq!(ingest.received_bytes(), 1024);
    ingest.receive(&tar[1024..]).unwrap();
    assert_data_eq!(
        chain(&ingest.commit().unwrap_err()),
        str!["layer sha256:[..] has digest sha256:[..]"]
    );
    assert!(scratch.names("partial").is_empty());
    assert_eq!(resume(&scratch, &tar).received_bytes(), 0);
}

#[test]
fn privileged_bytes_that_were_refused_are_not_kept() {
    let scratch = Scratch::new(Driver::Overlay);
    let bytes = b"\x1f\x8b no gzip".to_vec();
    let mut ingest = resume(&scratch, &bytes);
    ingest.receive(&bytes).unwrap_err();
    drop(ingest);
    assert!(scratch.names("partial").is_empty());
    let [bytes, ..] = forms();
    let mut ingest = resume(&scratch, &bytes);
    ingest.receive(&bytes[..100]).unwrap();
    ingest.discard();
    assert!(scratch.names("partial").is_empty());
}

#[test]
fn privileged_a_partial_that_waited_a_week_is_deleted() {
    let mut scratch = Scratch::new(Driver::Overlay);
    let bytes = noise(1000);
    let kept = digest(b"young");
    for (digest, days) in [(&kept, 6), (&digest(&bytes), 8)] {
        let file = fs::File::create(partial(&scratch, digest)).unwrap();
        let age = Duration::from_secs(days * 24 * 60 * 60);
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    fs::write(scratch.root().join("partial/debris"), b"").unwrap();
    scratch.reopen();
    assert_eq!(scratch.names("partial"), [format!("sha256-{}", kept.hex())]);
}
