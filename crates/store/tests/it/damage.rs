//! Files that rot, tear or vanish: told, put aside, mended where the bytes are left.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use store::{Damage, Driver, Image, NewImage, Verified};

use crate::scratch::{Scratch, Tar, config, digest, gzip, noise, reference};

/// An image of one layer that came compressed, and the layer's bytes.
fn image(scratch: &Scratch) -> (Image, Vec<u8>) {
    let blob = gzip(&Tar::new().file("a", &noise(50_000)).bytes());
    let layer = scratch.layer(&blob).unwrap();
    let id = scratch
        .put_image(NewImage {
            config: config(std::slice::from_ref(&layer)),
            layers: vec![layer],
            names: vec![reference("rotten")],
            ..NewImage::default()
        })
        .unwrap();
    (scratch.find_image_by_id(&id).unwrap().unwrap(), blob)
}

fn blob_path(scratch: &Scratch, bytes: &[u8]) -> PathBuf {
    let name = format!("blobs/sha256/{}", digest(bytes).hex());
    scratch.root().join(name)
}

fn layer_path(scratch: &Scratch, image: &Image, suffix: &str) -> PathBuf {
    let hex = image.config.rootfs.diff_ids[0].hex();
    scratch.root().join(format!("layers/erofs/{hex}{suffix}"))
}

/// One bit of a file turns.
fn rot(path: &Path) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 600).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 600).unwrap();
}

fn readable(scratch: &Scratch, image: &Image) -> bool {
    let lower = scratch.mounted(&image.id);
    fs::read(lower[0].join("a")).unwrap() == noise(50_000)
}

#[test]
fn privileged_what_is_whole_is_read_to_the_last_byte() {
    let scratch = Scratch::new(Driver::Erofs);
    let (image, blob) = image(&scratch);
    let found = scratch.verify(&image).unwrap();
    let layers = ["", ".tar", ".index"].map(|suffix| match suffix {
        "" => blob.len() as u64 + image.raw_config.len() as u64,
        _ => fs::metadata(layer_path(&scratch, &image, suffix))
            .unwrap()
            .len(),
    });
    let bytes = layers.iter().sum();
    let damage = Vec::new();
    assert_eq!(found, Verified { bytes, damage });
}

#[test]
fn privileged_a_rotten_blob_is_put_aside_and_comes_again() {
    let mut scratch = Scratch::new(Driver::Erofs);
    let (image, blob) = image(&scratch);
    rot(&blob_path(&scratch, &blob));
    let damage = scratch.verify(&image).unwrap().damage;
    let [
        Damage {
            digest: damaged,
            mended: false,
            reason,
        },
    ] = damage.as_slice()
    else {
        panic!("{damage:?}");
    };
    assert_eq!(*damaged, digest(&blob));
    assert!(
        reason.ends_with("; it was moved to the quarantine"),
        "{reason}"
    );
    let aside = format!("sha256-{}", digest(&blob).hex());
    assert_eq!(scratch.names("quarantine"), [aside]);
    // The layer itself is whole, so containers run; the blob is fetched when it is wanted.
    assert!(readable(&scratch, &image));
    let diff_id = image.config.rootfs.diff_ids[0].clone();
    assert!(scratch.find_layer(&diff_id).unwrap().is_none());
    scratch.layer(&blob).unwrap();
    assert!(scratch.find_layer(&diff_id).unwrap().is_some());
    assert_eq!(scratch.verify(&image).unwrap().damage, []);
    scratch.reopen();
    assert_eq!(scratch.verify(&image).unwrap().damage, []);
}

#[test]
fn privileged_a_damaged_layer_is_made_again_from_its_blob() {
    for suffix in [".tar", ".index"] {
        let scratch = Scratch::new(Driver::Erofs);
        let (image, _) = image(&scratch);
        rot(&layer_path(&scratch, &image, suffix));
        let damage = scratch.verify(&image).unwrap().damage;
        assert!(
            matches!(&damage[..], [Damage { mended: true, .. }]),
            "{damage:?}"
        );
        assert_eq!(scratch.verify(&image).unwrap().damage, []);
        assert!(readable(&scratch, &image));
    }
}

#[test]
fn privileged_a_layer_of_which_nothing_is_left_is_forgotten_and_comes_again() {
    let scratch = Scratch::new(Driver::Overlay);
    let (image, blob) = image(&scratch);
    let diff_id = image.config.rootfs.diff_ids[0].clone();
    fs::remove_file(blob_path(&scratch, &blob)).unwrap();
    let directory = scratch.root().join("layers/overlay").join(diff_id.hex());
    fs::remove_dir_all(directory).unwrap();
    let damage = scratch.verify(&image).unwrap().damage;
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(scratch.find_layer(&diff_id).unwrap().is_none());
    scratch.layer(&blob).unwrap();
    assert_eq!(scratch.verify(&image).unwrap().damage, []);
    assert!(readable(&scratch, &image));
}

#[test]
fn privileged_a_torn_blob_does_not_stop_the_store() {
    let mut scratch = Scratch::new(Driver::Erofs);
    // A plain tar is the layer's own data too.
    let tar = Tar::new().file("a", &noise(50_000)).file("b", b"").bytes();
    let torn = scratch.image(std::slice::from_ref(&tar), "torn");
    let (whole, _) = image(&scratch);
    fs::File::options()
        .write(true)
        .open(blob_path(&scratch, &tar))
        .unwrap()
        .set_len(1000)
        .unwrap();
    scratch.reopen();
    assert_eq!(scratch.names("quarantine").len(), 1);
    assert!(readable(&scratch, &whole));
    // The image is still known, and whole once its layer has come again.
    let image = scratch.find_image_by_id(&torn).unwrap().unwrap();
    assert!(scratch.find_layer(&digest(&tar)).unwrap().is_none());
    scratch.layer(&tar).unwrap();
    assert!(readable(&scratch, &image));
}

#[test]
fn privileged_what_is_held_outlives_its_removal() {
    let scratch = Scratch::new(Driver::Erofs);
    let (image, blob) = image(&scratch);
    let lease = scratch.hold_image(&image).unwrap();
    let remove = || scratch.remove_image("rotten", false, false, &|_| Vec::new());
    remove().unwrap();
    scratch.collect().unwrap();
    assert!(scratch.find_blob(&digest(&blob)).unwrap().is_some());
    assert!(scratch.find_blob(&image.id).unwrap().is_some());
    assert!(layer_path(&scratch, &image, ".index").exists());
    drop(lease);
    // Any later removal takes it along.
    scratch.image(&[Tar::new().bytes()], "rotten");
    remove().unwrap();
    assert!(scratch.names("blobs/sha256").is_empty());
    assert!(scratch.names("layers/erofs").is_empty());
}
